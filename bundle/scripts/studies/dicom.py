"""DICOM files of any name as studies: the series that rules choose, and why not the others."""

from __future__ import annotations

import datetime
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..outputs import is_reserved
from .rules import Decision, choose, read_rules
from .series import DicomSeries, DicomStudy, read_studies


def read_exported(
    root: Path, files: Sequence[Path], rules: str | Path
) -> tuple[dict[str, dict[str, Any]], dict[str, str], list[Path]]:
    """Sort DICOM files into studies and choose their series.

    Args:
        root: folder of all files.
        files: candidates for DICOM.
        rules: file of rules.

    Returns:
        ``study`` of :func:`~scripts.studies.folders.find_studies` by the patient's name; the persons with several studies by
        these names; and the files that are not DICOM images.

    Raises:
        StudiesError: when the rules can't be read.
    """
    sorted_by = read_rules(rules)
    studies, unreadable = read_studies(files)
    in_folder = Counter(path.parent for path in files)
    names = item_names(studies, root)
    found = {}
    for name, study in zip(names, studies, strict=True):
        rows = [_row(decision, in_folder) for decision in choose(study, sorted_by)]
        phantom = any(series.phantom for series in study.series)
        found[name] = {
            "date": study.date,
            "description": study.description,
            "uid": study.uid,
            "phantom": phantom,
            "series": rows,
        }
    counts = Counter(study.patient for study in studies)
    persons = {
        name: study.patient
        for name, study in zip(names, studies, strict=True)
        if study.patient and counts[study.patient] > 1
    }
    return found, persons, unreadable


def item_names(studies: Sequence[DicomStudy], root: Path) -> list[str]:
    """Unique names of the studies that are safe as file names.

    They are the PatientID, with the days since the first study where a patient has several, ``P-1_day062``; without a PatientID the
    folder below ``root`` that all files lie in; else ``study_<checksum>``. Dates are in none of them.
    """
    per_patient = Counter(study.patient for study in studies)
    marks = [_checksum(f"{study.uid}/{study.patient}") for study in studies]
    wishes = []
    for study, mark in zip(studies, marks, strict=True):
        parts = [_safe(study.patient), _day(study, studies) if per_patient[study.patient] > 1 else ""]
        if not parts[0]:
            parts = [_safe(_folder_of(study, root)), ""]
        wishes.append(f"study_{mark}" if not parts[0] else "_".join(filter(None, parts)))
    counts = Counter(wish.lower() for wish in wishes)  # some file systems do not distinguish A from a
    return [f"{wish}_{mark}" if counts[wish.lower()] > 1 else wish for wish, mark in zip(wishes, marks, strict=True)]


def _day(study: DicomStudy, studies: Sequence[DicomStudy]) -> str:
    """How many days after a patient's first study another one was made; empty where its date is unknown."""
    days = [_days(other.date) for other in studies if other.patient == study.patient]
    mine = _days(study.date)
    return "" if mine is None else f"day{mine - min(day for day in days if day is not None):03d}"


def _days(date: str) -> int | None:
    try:
        return datetime.datetime.strptime(date, "%Y%m%d").toordinal()
    except ValueError:
        return None


def _folder_of(study: DicomStudy, root: Path) -> str:
    """The folder in ``root`` with all files of a study; empty where there is none."""
    place = Path(os.path.commonpath([file.parent for series in study.series for file in series.files]))
    parts = place.relative_to(root).parts
    return parts[0] if parts else ""


def _safe(text: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("._-")[:64]
    return f"patient_{safe}" if is_reserved(safe) else safe


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _row(decision: Decision, in_folder: Counter[Path]) -> dict[str, Any]:
    series = decision.series
    return {
        "number": series.number,
        "description": series.description,
        "plane": series.plane,
        "slices": series.slices,
        "spacing": series.spacing and round(series.spacing, 3),
        "region": series.region,
        "taken": series.taken,
        "uid": series.uid,
        "modality": decision.mri_type,
        "chosen": decision.chosen,
        "reason": decision.reason,
        "files": _files(series, in_folder),
    }


def _files(series: DicomSeries, in_folder: Counter[Path]) -> str | list[str]:
    """The folder of a series that has its own; else its files."""
    places: Iterable[Path] = {file.parent for file in series.files}
    (place, *others) = places
    return str(place) if not others and in_folder[place] == len(series.files) else list(map(str, series.files))
