"""From a folder of DICOM files, whatever they are called, to a data list of the chosen series, and what became of the others."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..datalists import MRI_TYPES
from ..files import folder_written_whole, write_json
from .rules import Decision, Rules, choose
from .series import DicomSeries, DicomStudy, StudiesError, read_studies

logger = logging.getLogger(__name__)

DATALIST = "datalist.json"
STUDIES = "studies.json"


def select_studies(
    folder: str | Path, rules: Rules, output: str | Path, deidentify: bool = False
) -> tuple[Path, list[dict[str, Any]]]:
    """Choose the series of all studies in a folder and lay them out for a prediction.

    Writes, all or nothing, ``<item>/<modality>/`` with the files of each chosen series (links, or copies where links can't be made),
    ``datalist.json`` with an entry for each study, and ``studies.json``, which tells about every series. An item is a study: it is
    called ``<PatientID>_<StudyDate>``.

    Args:
        folder: of DICOM files.
        rules: from :func:`~scripts.studies.rules.read_rules`.
        output: folder to write; missing or empty.
        deidentify: call studies ``study_<checksum>``, and name no dates. The files of the series stay as they are.

    Returns:
        The data list, and what ``studies.json`` holds: ``{"patient", "study", "date", "phantom", "chosen", "series"}`` for each study, those
        without a usable series included.

    Raises:
        StudiesError: when no study has a usable series.
        FileExistsError: when ``output`` holds anything.
    """
    target = Path(output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{output} is there and not empty; name another folder for the chosen series")
    studies = read_studies(folder)
    decisions = [choose(study, rules) for study in studies]
    facts = [
        _study_facts(name, study, made)
        for name, study, made in zip(item_names(studies, deidentify), studies, decisions, strict=True)
    ]
    if deidentify:
        facts = [{**one, "date": "", "series": [{**row, "taken": ""} for row in one["series"]]} for one in facts]
    for one in facts:
        told = ", ".join(f"{mri_type} {found['description']!r}" for mri_type, found in one["chosen"].items())
        if told:
            logger.info("%s: %s", one["patient"], told)
        else:
            logger.warning("%s has no usable series: %s", one["patient"], _reasons([one]))
    if not any(one["chosen"] for one in facts):
        raise StudiesError(
            f"{folder}: {_counted(len(facts), 'study', 'studies')}, none with a usable series: {_reasons(facts)}. "
            f"Change {rules.source or 'the rules'} if one of them is FLAIR, T1w, T1wCE or T2w"
        )
    entries = []
    with folder_written_whole(target) as staging:
        for one, made in zip(facts, decisions, strict=True):
            places = {decision.mri_type: decision.series for decision in made if decision.chosen and decision.mri_type}
            entry = {"patient": one["patient"]}
            for mri_type in MRI_TYPES:
                if mri_type in places:
                    entry[mri_type] = f"{one['patient']}/{mri_type}"
                    _lay_out(places[mri_type], staging / one["patient"] / mri_type)
            if places:
                entries.append(entry)
        write_json(facts, staging / STUDIES)
        write_json({"training": [], "validation": [], "test": entries}, staging / DATALIST)
    return target / DATALIST, facts


def item_names(studies: Sequence[DicomStudy], deidentify: bool = False) -> list[str]:
    """Names of the studies that are safe as names of files, no two alike: ``<PatientID>_<StudyDate>``, or ``study_<checksum>``."""

    def checksum(study: DicomStudy) -> str:
        return hashlib.sha256(f"{study.uid}/{study.patient}".encode()).hexdigest()[:8]

    wishes = []
    for study in studies:
        if deidentify:
            wishes.append(f"study_{checksum(study)}")
            continue
        parts = [re.sub(r"[^A-Za-z0-9.-]+", "_", part).strip("._-")[:64] for part in (study.patient, study.date)]
        wishes.append("_".join(filter(None, parts)) if parts[0] else f"study_{checksum(study)}")
    counts = Counter(wish.lower() for wish in wishes)  # some file systems do not tell A from a
    return [
        f"{wish}_{checksum(study)}" if counts[wish.lower()] > 1 else wish
        for wish, study in zip(wishes, studies, strict=True)
    ]


def _study_facts(name: str, study: DicomStudy, decisions: Iterable[Decision]) -> dict[str, Any]:
    rows = [
        {
            "number": decision.series.number,
            "description": decision.series.description,
            "plane": decision.series.plane,
            "slices": decision.series.slices,
            "spacing": decision.series.spacing and round(decision.series.spacing, 3),
            "taken": decision.series.taken,
            "uid": decision.series.uid,
            "modality": decision.mri_type,
            "chosen": decision.chosen,
            "reason": decision.reason,
        }
        for decision in decisions
    ]
    chosen = {row["modality"]: {"description": row["description"], "uid": row["uid"]} for row in rows if row["chosen"]}
    return {
        "patient": name,
        "study": study.uid,
        "date": study.date,
        "phantom": any(series.phantom for series in study.series),
        "chosen": {mri_type: chosen[mri_type] for mri_type in MRI_TYPES if mri_type in chosen},
        "series": rows,
    }


def _reasons(facts: Sequence[Mapping[str, Any]], most: int = 8) -> str:
    told = [
        f"series {row['number']} '{row['description']}' ({row['slices']} slices): {row['reason']}"
        for one in facts
        for row in one["series"]
    ]
    return "; ".join(told[:most]) + (f"; and {len(told) - most} more" if len(told) > most else "")


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _lay_out(series: DicomSeries, folder: Path) -> None:
    """Links to the files of a series, in slice order; the names tell series apart, as resumed predictions need it."""
    folder.mkdir(parents=True)
    mark = hashlib.sha256(series.uid.encode()).hexdigest()[:8]
    for place, file in enumerate(series.files, 1):
        target = folder / f"{mark}-{place:04d}.dcm"
        try:
            target.symlink_to(file.resolve())
        except OSError:  # Windows without the right to make links
            shutil.copy2(file, target)


def write_selection(facts: Sequence[Mapping[str, Any]], folder: str | Path) -> Path:
    """Write ``studies.json`` of :func:`select_studies` into another folder as well, and return the file."""
    write_json(list(facts), Path(folder) / STUDIES)
    return Path(folder) / STUDIES


def read_selection(datalist: str | Path) -> list[dict[str, Any]]:
    """What ``studies.json`` beside a data list of :func:`select_studies` holds.

    Raises:
        StudiesError: when there is none.
    """
    file = Path(datalist).parent / STUDIES
    if not file.is_file():
        raise StudiesError(f"{file}: no such file; make the data list from DICOM studies first")
    facts: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return facts
