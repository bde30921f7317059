"""From a folder of DICOM files, whatever they are called, to a data list: which studies and series there are, which series is which
modality by rules that a site can edit, and why the others were not chosen. Headers only; no pixels are read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import yaml
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
)

from ..datalists import MRI_TYPES
from ..errors import UserError
from ..files import folder_written_whole, write_json

logger = logging.getLogger(__name__)

DATALIST = "datalist.json"
STUDIES = "studies.json"
MR_IMAGES = (MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)
KEYWORDS = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "StudyDate",
    "SeriesDescription", "ProtocolName", "SeriesNumber", "ImageType", "ContrastBolusAgent", "AcquisitionDate", "AcquisitionTime",
    "AcquisitionDateTime", "SeriesDate", "SeriesTime", "Rows", "Columns", "NumberOfFrames", "ImageOrientationPatient", "QualityControlImage",
    "ImagePositionPatient", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
"""Of the headers, all that is read."""

_DICOM_SUFFIXES = ("", ".dcm", ".dicom", ".ima")
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")  # with which DICOM without a preamble begins
_SAME_DIRECTION = 5e-3  # between the cosines of slices of a series, as the reader has it
_SAME_POSITION = 0.01  # mm
_NO_AGENT = {"", "no", "none", "n", "0", "-", "nein", "without"}


class StudiesError(UserError):
    """A folder or rules that no study can be taken from."""


# ---------------------------------------------------------------------------------------------------------------------
# what is there


@dataclass(frozen=True)
class DicomSeries:
    """A series, as its headers tell.

    Attributes:
        uid: SeriesInstanceUID.
        patient: PatientID.
        study: StudyInstanceUID.
        study_date: StudyDate, ``YYYYMMDD`` or empty.
        description: SeriesDescription, ProtocolName where that is empty.
        number: SeriesNumber.
        files: one of each SOPInstanceUID, along the slice normal where headers tell.
        images: slices in these files.
        slices: different positions of them.
        spacing: mm between slices; None where positions do not tell.
        plane: axial, coronal or sagittal, whichever is nearest; empty where it is not known.
        image_type: values of ImageType.
        contrast_agent: ContrastBolusAgent.
        taken: when, ``YYYYMMDDHHMMSS…`` or empty.
        phantom: whether its headers say that it shows a phantom (QualityControlImage).
        trouble: why it can't be used, whatever it is called; empty where it can.
    """

    uid: str
    patient: str
    study: str
    study_date: str
    description: str
    number: int | None
    files: tuple[Path, ...]
    images: int
    slices: int
    spacing: float | None
    plane: str
    image_type: tuple[str, ...]
    contrast_agent: str
    taken: str
    phantom: bool = False
    trouble: str = ""


@dataclass(frozen=True)
class DicomStudy:
    """The series of a study of a patient, by number.

    Attributes:
        uid: StudyInstanceUID.
        patient: PatientID.
        date: StudyDate.
        series: all that are there.
    """

    uid: str
    patient: str
    date: str
    series: tuple[DicomSeries, ...]


@dataclass(frozen=True)
class _Slice:
    direction: np.ndarray | None
    position: np.ndarray | None


def read_studies(folder: str | Path) -> list[DicomStudy]:
    """The studies in a folder and the folders below it, by patient, date and identifier.

    Files may have any name and lie anywhere; what is not DICOM, hidden files and DICOMDIR are passed over, and copies of an image
    count once. Two patients with one StudyInstanceUID are two studies.

    Raises:
        StudiesError: when the folder is missing or holds no DICOM.
    """
    root = Path(folder)
    if not root.is_dir():
        raise StudiesError(f"{folder}: no such folder of DICOM studies")
    headers: dict[tuple[str, str, str], dict[str, tuple[Path, Dataset]]] = {}
    others = 0
    for path in _files(root):
        header = _read_header(path)
        if header is None:
            others += 1
            continue
        key = tuple(_text(header, name) for name in ("StudyInstanceUID", "PatientID", "SeriesInstanceUID"))
        if not key[0] or not key[2]:
            logger.warning("%s is passed over: it has no StudyInstanceUID or no SeriesInstanceUID", path)
            continue
        instance = _text(header, "SOPInstanceUID") or str(path)
        headers.setdefault(key, {}).setdefault(instance, (path, header))  # type: ignore[arg-type]
    if not headers:
        raise StudiesError(f"{folder}: none of its {others} files is DICOM; name the folder that holds the studies")
    if others:
        logger.info("%s: %d files are no DICOM images and are passed over", folder, others)
    studies: dict[tuple[str, str], list[DicomSeries]] = {}
    for (study, patient, _), files in headers.items():
        studies.setdefault((patient, study), []).append(_series(list(files.values())))
    found = [
        DicomStudy(uid, patient, min(one.study_date for one in series), tuple(sorted(series, key=_by_number)))
        for (patient, uid), series in studies.items()
    ]
    return sorted(found, key=lambda study: (study.patient, study.date, study.uid))


def _by_number(series: DicomSeries) -> tuple[float, str]:
    return (float("inf") if series.number is None else series.number, series.uid)


def _files(root: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _read_header(path: Path) -> Dataset | None:
    """What KEYWORDS name; None for files that are no DICOM or can't be read."""
    options: dict[str, Any] = {"stop_before_pixels": True, "specific_tags": list(KEYWORDS)}
    try:
        header = pydicom.dcmread(path, **options)
    except InvalidDicomError:
        with open(path, "rb") as stream:
            if path.suffix.lower() not in _DICOM_SUFFIXES or stream.read(2) not in _FIRST_GROUPS:
                return None
        try:  # old files lack the preamble
            header = pydicom.dcmread(path, force=True, **options)
        except Exception:
            return None
    except Exception as error:  # whatever a damaged file makes the parser raise
        logger.warning("%s is passed over: it can't be read as DICOM (%s)", path, error)
        return None
    if "SOPClassUID" not in header or header.SOPClassUID == MediaStorageDirectoryStorage:
        return None
    return header


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value).strip()


def _series(files: Sequence[tuple[Path, Dataset]]) -> DicomSeries:
    first = files[0][1]
    slices = [[_slice(header, frame) for frame in range(_frames(header))] for _, header in files]
    flat = [one for part in slices for one in part]
    directions = [one.direction for one in flat if one.direction is not None]
    normal = np.cross(directions[0][:3], directions[0][3:]) if directions else None
    places = [
        [float(one.position @ normal) if one.position is not None and normal is not None else None for one in part]
        for part in slices
    ]
    known = sorted(place for part in places for place in part if place is not None)
    distinct = [place for i, place in enumerate(known) if i == 0 or place - known[i - 1] > _SAME_POSITION]
    count = len(distinct) if len(known) == len(flat) else len(flat)
    order = sorted(range(len(files)), key=lambda i: (places[i][0] is None, places[i][0] or 0.0, str(files[i][0])))
    image_type = first.get("ImageType") or ()
    number = _text(first, "SeriesNumber")
    return DicomSeries(
        uid=_text(first, "SeriesInstanceUID"),
        patient=_text(first, "PatientID"),
        study=_text(first, "StudyInstanceUID"),
        study_date=_text(first, "StudyDate"),
        description=_text(first, "SeriesDescription") or _text(first, "ProtocolName"),
        number=int(number) if re.fullmatch(r"-?\d+", number) else None,
        files=tuple(files[i][0] for i in order),
        images=len(flat),
        slices=count,
        spacing=float(np.median(np.diff(distinct))) if count > 1 and len(known) == len(flat) else None,
        plane="" if normal is None else ("sagittal", "coronal", "axial")[int(np.abs(normal).argmax())],
        image_type=tuple([image_type] if isinstance(image_type, str) else map(str, image_type)),
        contrast_agent=_text(first, "ContrastBolusAgent"),
        taken=min(_taken(header) for _, header in files),
        phantom=_text(first, "QualityControlImage") in ("YES", "BOTH"),
        trouble=_trouble([header for _, header in files], directions, len(flat), count),
    )


def _frames(header: Dataset) -> int:
    value = _text(header, "NumberOfFrames")
    return int(value) if value.isdigit() and int(value) > 0 else 1


def _slice(header: Dataset, frame: int) -> _Slice:
    """Where a frame lies: Enhanced MR says so in functional groups, other images at the top."""

    def vector(group: str, keyword: str, length: int) -> np.ndarray | None:
        groups = list((header.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1])
        groups += list((header.get("SharedFunctionalGroupsSequence") or [])[:1])
        items = [item for one in groups for item in (one.get(group) or [])[:1]]
        for place in (*items, header):
            value = place.get(keyword)
            if value is not None and len(value) == length:
                return np.array([float(part) for part in value])
        return None

    try:
        return _Slice(
            vector("PlaneOrientationSequence", "ImageOrientationPatient", 6),
            vector("PlanePositionSequence", "ImagePositionPatient", 3),
        )
    except (TypeError, ValueError):  # values that are no numbers: the reader of the pixels says what is wrong
        return _Slice(None, None)


def _taken(header: Dataset) -> str:
    whole = _text(header, "AcquisitionDateTime")
    for day, time in (("AcquisitionDate", "AcquisitionTime"), ("SeriesDate", "SeriesTime")):
        whole = whole or (_text(header, day) and _text(header, day) + _text(header, time))
    return whole or _text(header, "StudyDate")


def _trouble(headers: Sequence[Dataset], directions: Sequence[np.ndarray], images: int, positions: int) -> str:
    kinds = {str(header.SOPClassUID) for header in headers} - set(MR_IMAGES)
    if kinds:
        return f"no MR images but {', '.join(sorted(UID(kind).name for kind in kinds))}"
    sizes = Counter((header.get("Columns"), header.get("Rows")) for header in headers)
    if len(sizes) > 1:
        return "slices of different sizes: " + ", ".join(f"{width} x {height}" for width, height in sizes)
    if any(not np.allclose(one, directions[0], rtol=0, atol=_SAME_DIRECTION) for one in directions):
        return "slices in different directions"
    if images > positions:
        return f"{images} images at {positions} positions: several volumes"
    return ""


# ---------------------------------------------------------------------------------------------------------------------
# rules


PREFERENCES = {
    "description": "its description stands earlier in the rules",
    "original": "it is an original image",
    "slices": "more slices",
    "thin": "thinner slices",
    "newest": "newer",
    "oldest": "older",
}
"""By what one of several series of a modality may be preferred, and how that is said."""


@dataclass(frozen=True)
class Rules:
    """Which series is which modality.

    Attributes:
        modalities: expressions by modality; the first modality with one that fits counts.
        exclude: expressions for descriptions that are none, looked at first.
        image_types: values of ImageType that exclude a series.
        contrast_unless: description of a T1w series that is no T1wCE, whatever its header says; None asks no header.
        min_slices: that a series must have.
        prefer: keys of :data:`PREFERENCES`, in order.
        source: file that they come from.
    """

    modalities: dict[str, tuple[re.Pattern[str], ...]]
    exclude: tuple[re.Pattern[str], ...] = ()
    image_types: frozenset[str] = frozenset()
    contrast_unless: re.Pattern[str] | None = None
    min_slices: int = 1
    prefer: tuple[str, ...] = ("slices", "newest")
    source: str = ""


_RULE_KEYS = (
    "words", "exclude", "exclude_image_types", "modalities", "contrast_by_header_unless", "min_slices", "prefer",
)  # fmt: skip


def read_rules(file: str | Path) -> Rules:
    """Rules from a YAML file; the one of ``apps/monaideploy`` says what may stand in it.

    Raises:
        StudiesError: when the file is missing, or something in it is unknown or no regular expression.
    """
    if not Path(file).is_file():
        raise StudiesError(f"{file}: no such file of rules")
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise StudiesError(f"{file}: not YAML ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("modalities"), dict):
        raise StudiesError(f"{file}: expected rules with `modalities:`, a list of expressions for each modality")
    for key in content:
        if key not in _RULE_KEYS:
            raise StudiesError(f"{file}: {key!r} is unknown; expected {', '.join(_RULE_KEYS)}")
    for name in content["modalities"]:
        if name not in MRI_TYPES:
            raise StudiesError(f"{file}: modality {name!r} is unknown; expected {', '.join(MRI_TYPES)}")
    words = content.get("words") or {}

    def expression(text: Any, where: str) -> re.Pattern[str]:
        def word(match: re.Match[str]) -> str:
            if match[1] not in words:
                raise StudiesError(
                    f"{file}: {where}: {{{match[1]}}} stands for no expression of `words`: {', '.join(words)}"
                )
            return f"(?:{words[match[1]]})"

        try:
            return re.compile(re.sub(r"\{([a-z]\w*)\}", word, str(text)), re.IGNORECASE)
        except re.error as error:
            raise StudiesError(f"{file}: {where}: {text!r} is no regular expression ({error})") from error

    def listed(value: Any, where: str) -> list[Any]:
        if value is None or isinstance(value, list):
            return value or []
        raise StudiesError(f"{file}: {where}: expected a list, found {value!r}")

    prefer = listed(content.get("prefer", ["slices", "newest"]), "prefer")
    if unknown := [name for name in prefer if name not in PREFERENCES]:
        raise StudiesError(f"{file}: prefer: {unknown[0]!r} is unknown; expected some of {', '.join(PREFERENCES)}")
    min_slices = content.get("min_slices", 1)
    if not isinstance(min_slices, int) or isinstance(min_slices, bool) or min_slices < 1:
        raise StudiesError(f"{file}: min_slices is {min_slices!r}, expected a whole number from 1")
    unless = content.get("contrast_by_header_unless")
    return Rules(
        modalities={
            name: tuple(expression(text, f"modalities: {name}") for text in listed(texts, f"modalities: {name}"))
            for name, texts in content["modalities"].items()
        },
        exclude=tuple(expression(text, "exclude") for text in listed(content.get("exclude"), "exclude")),
        image_types=frozenset(
            str(value).upper() for value in listed(content.get("exclude_image_types"), "exclude_image_types")
        ),
        contrast_unless=None if unless is None else expression(unless, "contrast_by_header_unless"),
        min_slices=min_slices,
        prefer=tuple(prefer),
        source=str(file),
    )


def plain(description: str) -> str:
    """A description as rules see it: ``_``, ``-``, ``.``, ``,``, ``/``, ``:`` and brackets are blanks, runs of them one."""
    return re.sub(r"[\s_\-.,/:()\[\]]+", " ", description).strip()


# ---------------------------------------------------------------------------------------------------------------------
# choice


@dataclass(frozen=True)
class Decision:
    """What became of a series.

    Attributes:
        series: the series.
        mri_type: what it is by the rules; None where it is none.
        chosen: whether it stands for its modality.
        reason: why, or why not.
    """

    series: DicomSeries
    mri_type: str | None
    chosen: bool
    reason: str


def choose(study: DicomStudy, rules: Rules) -> list[Decision]:
    """Decide on each series of a study, in their order; at most one is chosen for a modality."""
    decisions: dict[str, Decision] = {}
    candidates: dict[str, list[tuple[int, DicomSeries]]] = {}
    ways: dict[str, str] = {}
    for series in study.series:
        mri_type, rank, reason = _identify(series, rules)
        if mri_type is None:
            decisions[series.uid] = Decision(series, None, False, reason)
        else:
            candidates.setdefault(mri_type, []).append((rank, series))
            ways[series.uid] = reason
    if rules.contrast_unless is not None and "T1wCE" not in candidates:
        moved = [(rank, one) for rank, one in candidates.get("T1w", []) if _with_agent(one, rules.contrast_unless)]
        for rank, one in moved:
            candidates["T1w"].remove((rank, one))
            candidates.setdefault("T1wCE", []).append((rank, one))
            ways[one.uid] = f"T1w by its description, and its header names the contrast agent {one.contrast_agent!r}"
    for mri_type, series_of_type in candidates.items():
        ordered = sorted(series_of_type, key=lambda pair: _preference(pair, rules.prefer))
        best = ordered[0]
        for pair in ordered:
            if pair is best:
                reason = ways[best[1].uid]
                if len(ordered) > 1:
                    reason += f"; preferred to {len(ordered) - 1} other series: {_difference(best, ordered[1], rules)}"
            else:
                reason = f"series {_called(best[1])} was preferred: {_difference(best, pair, rules)}"
            decisions[pair[1].uid] = Decision(pair[1], mri_type, pair is best, reason)
    return [decisions[series.uid] for series in study.series]


def _identify(series: DicomSeries, rules: Rules) -> tuple[str | None, int, str]:
    """Modality, place of the expression that fits, and the reason."""
    if series.trouble:
        return None, 0, series.trouble
    text = plain(series.description)
    for expression in rules.exclude:
        if expression.fullmatch(text):
            return None, 0, f"its description is excluded by {expression.pattern}"
    if found := [value for value in series.image_type if value.upper() in rules.image_types]:
        return None, 0, f"its ImageType is {found[0]}, which is excluded"
    for mri_type, expressions in rules.modalities.items():
        for rank, expression in enumerate(expressions):
            if expression.fullmatch(text):
                if series.slices < rules.min_slices:
                    return None, 0, f"{mri_type}, but {series.slices} slices; {rules.min_slices} are needed"
                return mri_type, rank, f"{mri_type} by its description"
    return None, 0, "no rule fits its description" if text else "it has no description"


def _with_agent(series: DicomSeries, unless: re.Pattern[str]) -> bool:
    return series.contrast_agent.lower() not in _NO_AGENT and not unless.fullmatch(plain(series.description))


def _criterion(name: str, rank: int, series: DicomSeries) -> Any:
    """What of two series is smaller for the better one."""
    if name == "description":
        return rank
    if name == "original":
        return series.image_type[:1] != ("ORIGINAL",)
    if name == "slices":
        return -series.slices
    if name == "thin":
        return float("inf") if series.spacing is None else round(series.spacing, 2)
    # digits of the time are turned round for the newest; a series without a time comes last in both
    digits = re.sub(r"\D", "", series.taken)[:14].ljust(14, "0")
    return (not series.taken, -int(digits) if name == "newest" else int(digits))


def _preference(candidate: tuple[int, DicomSeries], prefer: Sequence[str]) -> tuple[Any, ...]:
    return (*(_criterion(name, *candidate) for name in prefer), *_by_number(candidate[1]))


def _difference(best: tuple[int, DicomSeries], other: tuple[int, DicomSeries], rules: Rules) -> str:
    for name in rules.prefer:
        if _criterion(name, *best) != _criterion(name, *other):
            counts = f", {best[1].slices} and {other[1].slices}" if name == "slices" else ""
            return PREFERENCES[name] + counts
    return "lower series number, all else being equal"


def _called(series: DicomSeries) -> str:
    return f"{series.number} '{series.description}'" if series.number is not None else f"'{series.description}'"


# ---------------------------------------------------------------------------------------------------------------------
# data list


def select_studies(
    folder: str | Path, rules: Rules, output: str | Path, deidentify: bool = False
) -> tuple[Path, list[dict[str, Any]]]:
    """Choose the series of all studies in a folder and lay them out for a prediction.

    Writes, all or nothing, ``<item>/<modality>/`` with the files of each chosen series (links, or copies where links can't be made),
    ``datalist.json`` with an entry for each study, and ``studies.json``, which tells about every series. An item is a study: it is
    called ``<PatientID>_<StudyDate>``.

    Args:
        folder: of DICOM files.
        rules: from :func:`read_rules`.
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
