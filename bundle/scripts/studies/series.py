"""DICOM studies and their series, from headers; no pixels are read."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
)

from custom_transforms.dicom_file import open_dicom
from custom_transforms.planes import PLANES
from custom_transforms.volume import FARTHEST, MAX_SIDE

from ..errors import UserError
from ..waiting import within_limit

logger = logging.getLogger(__name__)

MR_IMAGES = (MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)
KEYWORDS = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "StudyDate",
    "SeriesDescription", "ProtocolName", "SeriesNumber", "ImageType", "ContrastBolusAgent", "AcquisitionDate", "AcquisitionTime",
    "AcquisitionDateTime", "SeriesDate", "SeriesTime", "Rows", "Columns", "NumberOfFrames", "ImageOrientationPatient", "QualityControlImage",
    "ImagePositionPatient", "BodyPartExamined", "StudyDescription", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
"""Of the headers, all that is read."""
_DICOM_SUFFIXES = ("", ".dcm", ".dicom", ".ima")
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")  # the start of DICOM without a preamble
_SAME_DIRECTION = 5e-3  # between the direction cosines of slices of a series, as in the reader
_SAME_POSITION = 0.01  # mm


class StudiesError(UserError):
    """Rules that can't be used."""


@dataclass(frozen=True)
class DicomSeries:
    """A series, as its headers describe it.

    Attributes:
        uid: SeriesInstanceUID.
        patient: PatientID.
        study: StudyInstanceUID.
        study_date: StudyDate, ``YYYYMMDD`` or empty.
        description: SeriesDescription, ProtocolName where that is empty.
        number: SeriesNumber.
        files: one per SOPInstanceUID, along the slice normal where headers give it.
        images: slices in these files.
        slices: number of different positions.
        spacing: mm between slices; None where positions do not give it.
        plane: axial, coronal or sagittal, whichever is nearest; empty where it is not known.
        image_type: values of ImageType.
        contrast_agent: ContrastBolusAgent.
        taken: acquisition time, ``YYYYMMDDHHMMSS…`` or empty.
        phantom: whether its headers declare a phantom (QualityControlImage).
        region: BodyPartExamined.
        trouble: why it can't be used, whatever its description; empty where it can.
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
    region: str = ""


@dataclass(frozen=True)
class DicomStudy:
    """The series of a study of a patient, by number.

    Attributes:
        uid: StudyInstanceUID.
        patient: PatientID.
        date: StudyDate.
        series: all of them.
        description: StudyDescription.
    """

    uid: str
    patient: str
    date: str
    series: tuple[DicomSeries, ...]
    description: str = ""


@dataclass(frozen=True)
class _Slice:
    direction: np.ndarray | None
    position: np.ndarray | None


def read_studies(files: Iterable[Path]) -> tuple[list[DicomStudy], list[Path]]:
    """The studies that files belong to, by patient, date and identifier; and the files that are not DICOM images or can't be read.

    Copies of an image count once. Two patients with one StudyInstanceUID are two studies.
    """
    headers: dict[tuple[str, str, str], dict[str, tuple[Path, Dataset]]] = {}
    others = []
    for path in files:
        header = _read_header(path)
        key = (
            tuple(_text(header, name) for name in ("StudyInstanceUID", "PatientID", "SeriesInstanceUID"))
            if header
            else ("",) * 3
        )
        if header is None or not key[0] or not key[2]:
            if header is not None:
                logger.warning("%s is passed over: it has no StudyInstanceUID or no SeriesInstanceUID", path)
            others.append(path)
            continue
        instance = _text(header, "SOPInstanceUID") or str(path)
        headers.setdefault(key, {}).setdefault(instance, (path, header))  # type: ignore[arg-type]
    studies: dict[tuple[str, str], list[DicomSeries]] = {}
    descriptions: dict[tuple[str, str], str] = {}
    for (study, patient, _), listed in headers.items():
        studies.setdefault((patient, study), []).append(_series(list(listed.values())))
        descriptions.setdefault((patient, study), _text(next(iter(listed.values()))[1], "StudyDescription"))
    found = [
        DicomStudy(
            uid,
            patient,
            min(one.study_date for one in series),
            tuple(sorted(series, key=by_number)),
            descriptions[patient, uid],
        )
        for (patient, uid), series in studies.items()
    ]
    return sorted(found, key=lambda study: (study.patient, study.date, study.uid)), others


def by_number(series: DicomSeries) -> tuple[float, str]:
    """Sort key of series: their number, or last without one; then the UID."""
    return (float("inf") if series.number is None else series.number, series.uid)


def _read_header(path: Path) -> Dataset | None:
    """The attributes in KEYWORDS; None for files that are not DICOM or can't be read."""
    options: dict[str, Any] = {"stop_before_pixels": True, "specific_tags": list(KEYWORDS)}
    try:
        header = within_limit(path, partial(open_dicom, path, **options))
    except InvalidDicomError:
        with open(path, "rb") as stream:
            if path.suffix.lower() not in _DICOM_SUFFIXES or stream.read(2) not in _FIRST_GROUPS:
                return None
        try:  # old files lack the preamble
            header = open_dicom(path, force=True, **options)
        except Exception:
            return None
    except Exception as error:  # anything that the parser raises for a damaged file
        logger.warning("%s is passed over: it can't be read as DICOM (%s)", path, error)
        return None
    for tag in list(header.keys()):
        try:
            header[tag]  # pydicom decodes a value on access
        except Exception:  # as if missing; the reader of the pixels reports the error
            del header[tag]
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
    image_type = first.get("ImageType") or MultiValue(str, [])
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
        plane="" if normal is None else PLANES[int(np.abs(normal).argmax())],
        image_type=tuple(map(str, image_type if isinstance(image_type, MultiValue) else [image_type])),
        contrast_agent=_text(first, "ContrastBolusAgent"),
        taken=min(_taken(header) for _, header in files),
        phantom=_text(first, "QualityControlImage") in ("YES", "BOTH"),
        region=_text(first, "BodyPartExamined"),
        trouble=_trouble([header for _, header in files], directions, len(flat), count),
    )


def _frames(header: Dataset) -> int:
    """Frames that a header declares, as far as a file can hold them."""
    value = _text(header, "NumberOfFrames")
    return min(int(value), MAX_SIDE + 1) if re.fullmatch(r"[0-9]{1,12}", value) and int(value) > 0 else 1


def _slice(header: Dataset, frame: int) -> _Slice:
    """The position of a frame: in functional groups of Enhanced MR, at the top level of other images."""

    def vector(group: str, keyword: str, length: int) -> np.ndarray | None:
        groups = list((header.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1])
        groups += list((header.get("SharedFunctionalGroupsSequence") or [])[:1])
        items = [item for one in groups for item in (one.get(group) or [])[:1]]
        for place in (*items, header):
            value = place.get(keyword)
            if value is not None and len(value) == length:
                array = np.array([float(part) for part in value])
                return array if bool((np.abs(array) <= FARTHEST).all()) else None  # NaN is not
        return None

    try:
        return _Slice(
            vector("PlaneOrientationSequence", "ImageOrientationPatient", 6),
            vector("PlanePositionSequence", "ImagePositionPatient", 3),
        )
    except Exception:  # values that are not numbers, or can't be decoded: the reader of the pixels reports the error
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
    if frames := [_text(header, "NumberOfFrames") for header in headers if _frames(header) > MAX_SIDE]:
        return f"a file declares {frames[0]} frames, expected at most {MAX_SIDE}: its header is damaged"
    sizes = Counter((_text(header, "Columns"), _text(header, "Rows")) for header in headers)
    if len(sizes) > 1:
        return "slices of different sizes: " + ", ".join(f"{width} x {height}" for width, height in sizes)
    if any(not np.allclose(one, directions[0], rtol=0, atol=_SAME_DIRECTION) for one in directions):
        return "slices in different directions"
    if images > positions:
        return f"{images} images at {positions} positions: several volumes"
    return ""
