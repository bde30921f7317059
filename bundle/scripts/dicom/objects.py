"""What the DICOM objects of this project have in common: source data, equipment, and writing.

They copy from the source what the standard requires: patient, study and frame of reference. Attributes missing in the source
stay empty. Deidentified objects carry no patient or study data except the UIDs that link them to the source, and the data list's
name of the patient.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.valuerep import DA, DS, TM

from custom_transforms import DicomSlices, SliceGeometry, dicom_slices

from ..environment import BUNDLE_ROOT
from ..errors import UserError
from ..files import RESEARCH_ONLY, written_whole
from ..logs import from_level

SERIES_NUMBER = 9000
"""Series number of a patient's report; the segmentations follow."""

# SNOMED CT's code, and that of DICOM's own context groups of brain lesions, CID 7168 and 7169
SEGMENTS = {
    "WT": ("Whole tumour (WT)", Code("108369006", "SCT", "Neoplasm")),
    "ET": ("Enhancing tumour (ET)", Code("C113842", "NCIt", "Enhancing Lesion")),
}
BRAIN = Code("12738006", "SCT", "Brain")
AI = Code("123110", "DCM", "Artificial Intelligence")

_LINKS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
# of the source image, besides its geometry: no patient data
_IMAGE = (
    *_LINKS, "FrameOfReferenceUID", "Modality", "Rows", "Columns", "NumberOfFrames", "SliceThickness",
    "ImagePositionPatient", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
# required in every object, though they may be empty
_TYPE_2 = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
    "ReferringPhysicianName",
)  # fmt: skip
# PS3.15's Basic Profile replaces times in objects that require them
_DUMMY_TIMES = {"ContentDate": "19000101", "ContentTime": "000000"}


class DicomError(UserError):
    """A series for which no DICOM object can be written; the message names it, what was found and the remedy."""


def require(dicom: bool = True, deidentify: bool = False) -> None:
    """Check, before anything is written, that the requested DICOM can be written.

    Raises:
        ImportError: when highdicom is not installed.
        ValueError: when a setting is neither True nor False.
    """
    for name, value in (("dicom", dicom), ("deidentify", deidentify)):
        if not isinstance(value, bool):  # the command line gives `true` as a string, which would always count as true
            raise ValueError(f"{name} is {value!r}, expected True or False")
    if dicom and find_spec("highdicom") is None:
        raise ImportError("DICOM is written with highdicom: pip install 'brats-mri-radiogenomics[dicom]'")


def read_headers(series_dir: str | Path) -> DicomSlices:
    """The headers of a series.

    Raises:
        DicomError: when it is not DICOM, or one of its files has no UIDs to refer to.
    """
    slices = dicom_slices(series_dir)
    if slices is None:
        raise DicomError(f"{series_dir}: no DICOM files that a SEG or SR could reference; pass a DICOM series")
    for header in slices.headers:
        if header is not None and (missing := [keyword for keyword in _LINKS if not header.get(keyword)]):
            raise DicomError(
                f"{series_dir}: a file has no {', '.join(missing)}, which a SEG or SR must reference; export the series again"
            )
    return slices


def check_place(series_dir: str | Path, slices: DicomSlices, geometry: SliceGeometry) -> None:
    """Raise DicomError unless the headers give the position of the slices in the patient, and it is that of the masks."""
    header = next(header for header in slices.headers if header is not None)
    found = {
        "ImageOrientationPatient": slices.orientation is not None,
        "ImagePositionPatient": slices.positions is not None,
        "PixelSpacing": slices.spacing is not None,
        "FrameOfReferenceUID": bool(header.get("FrameOfReferenceUID")),
    }
    if missing := [keyword for keyword, there in found.items() if not there]:
        raise DicomError(
            f"{series_dir}: no usable {', '.join(missing)}: a SEG must say where its voxels lie in the patient; export "
            "the series with its geometry"
        )
    shape = (int(header.Columns), int(header.Rows), len(slices.headers))
    if shape != geometry.shape or not np.allclose(slices.affine, geometry.affine, atol=1e-3):
        raise DicomError(
            f"{series_dir}: {shape} voxels at {slices.affine[:3, 3].round(3).tolist()}, expected {geometry.shape} at "
            f"{geometry.affine[:3, 3].round(3).tolist()}, as the masks have it; segment the series again"
        )


def references(slices: DicomSlices, patient: str, deidentify: bool) -> list[Dataset]:
    """The files of a series as a new object refers to them, in slice order: patient, study, UIDs and geometry.

    Every orientation and spacing is the volume's, because headers of one series differ in rounding; the slice distance is
    left to be measured.
    """
    files = {id(header): header for header in slices.headers if header is not None}
    return [_reference(header, slices, patient, deidentify) for header in files.values()]


def _reference(header: Dataset, slices: DicomSlices, patient: str, deidentify: bool) -> Dataset:
    reference = Dataset()
    for element in header:  # decoded one by one, because bytes would be reread in another character set
        if element.keyword in _IMAGE or not deidentify:
            reference.add(element)
    for keyword in _TYPE_2:
        if keyword not in reference:
            setattr(reference, keyword, "")
    if deidentify:
        reference.PatientID = patient
    elif reference.PatientSex not in ("M", "F", "O"):
        reference.PatientSex = ""
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(reference[keyword].value or "")
        except ValueError:  # unreadable dates count as missing
            setattr(reference, keyword, "")

    plane, pixel = Dataset(), Dataset()
    if slices.orientation is not None:
        plane.ImageOrientationPatient = [_number(value) for value in slices.orientation]
    if slices.spacing is not None:
        pixel.PixelSpacing = [_number(value) for value in slices.spacing]
    pixel.SliceThickness = _number(_thickness(header) or float(np.linalg.norm(slices.affine[:3, 2])))
    if "PerFrameFunctionalGroupsSequence" not in header:
        reference.update(plane)
        reference.update(pixel)
        if "SpacingBetweenSlices" in reference:
            del reference.SpacingBetweenSlices
        return reference
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [pixel]
    reference.SharedFunctionalGroupsSequence = [shared]
    reference.PerFrameFunctionalGroupsSequence = []
    for place in frame_order(slices):
        group, position = Dataset(), Dataset()
        if slices.positions is not None:
            position.ImagePositionPatient = [_number(value) for value in slices.positions[place]]
        group.PlanePositionSequence = [position]
        reference.PerFrameFunctionalGroupsSequence.append(group)
    return reference


def frame_order(slices: DicomSlices) -> list[int]:
    """The acquired slices in the order of the frames in their file; that of the slices where each has a file of its own."""
    acquired = [place for place, header in enumerate(slices.headers) if header is not None]
    return sorted(acquired, key=lambda place: slices.frames[place])


def _thickness(header: Dataset) -> float | None:
    """SliceThickness in mm, which Enhanced MR keeps in functional groups; None where the header says none."""
    groups = [
        *header.get("SharedFunctionalGroupsSequence", ()),
        *header.get("PerFrameFunctionalGroupsSequence", ())[:1],
    ]
    places = [header, *(item for group in groups for item in group.get("PixelMeasuresSequence", ()))]
    return next((float(item.SliceThickness) for item in places if item.get("SliceThickness")), None)


def _number(value: float) -> Any:
    """A decimal string of 16 characters at most."""
    return DS(float(value), auto_format=True)


def software() -> dict[str, Any]:
    """The equipment attributes of the objects: this bundle and its version."""
    metadata = json.loads((BUNDLE_ROOT / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return {
        "manufacturer": metadata["authors"],
        "manufacturer_model_name": metadata["name"],
        "software_versions": metadata["version"],
        "device_serial_number": "none",
    }


def of_new_object(series_number: int, description: str) -> dict[str, Any]:
    """highdicom's arguments for every new object, the only one in its series."""
    from highdicom import UID

    return {
        "series_instance_uid": UID(),
        "series_number": series_number,
        "series_description": f"{description}. {RESEARCH_ONLY}",
        "sop_instance_uid": UID(),
        "instance_number": 1,
        "content_qualification": "RESEARCH",
        "specific_character_set": "ISO_IR 192",
        **software(),
    }


@contextmanager
def making(failure: str) -> Iterator[None]:
    """Turn highdicom's errors into DicomError; silence its logs, and its warnings about the source's names."""
    try:
        with from_level("highdicom", logging.WARNING), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*unlikely to represent the intended person name")
            yield
    except (ValueError, AttributeError, KeyError) as error:
        raise DicomError(
            f"{failure} ({type(error).__name__}: {error}); export it as MR images, one file a slice or one multi-frame file"
        ) from error


def finish(made: Dataset, path: Path, deidentify: bool) -> Path:
    """Write an object, whole or not at all; if deidentified, without times and marked as such."""
    if deidentify:
        from highdicom.sr import CodedConcept

        def forget(dataset: Dataset, element: pydicom.DataElement) -> None:
            if element.VR in ("DA", "TM", "DT"):
                element.value = _DUMMY_TIMES.get(element.keyword, "")

        made.walk(forget)
        made.PatientIdentityRemoved = "YES"
        made.LongitudinalTemporalInformationModified = "REMOVED"
        made.DeidentificationMethod = "Patient, study, equipment, times of source not copied; UIDs kept"
        made.DeidentificationMethodCodeSequence = [
            CodedConcept("113100", "DCM", "Basic Application Confidentiality Profile"),
            CodedConcept("113110", "DCM", "Retain UIDs Option"),
        ]
    with written_whole(path) as temporary:
        made.save_as(temporary, enforce_file_format=True)
    return path
