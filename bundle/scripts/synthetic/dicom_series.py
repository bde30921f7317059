"""Series of phantoms as DICOM files (MR Image Storage), marked as such."""

from __future__ import annotations

import math
import uuid
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset, validate_file_meta
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from .phantom import MRI_TYPES, PhantomSeries

HEADLINE = "PHANTOM COHORT - synthetic images, not patients"
NO_MEANING = "The MGMT label is a made-up signal without biological meaning."
_EMPTY = ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientBirthDate", "PatientSex")
"""Keywords required in every file, with or without a value (type 2)."""


def write_dicom_series(
    folder: Path, patient: str, mri_type: str, series: PhantomSeries, thickness: float, uid_name: str
) -> None:
    """Write ``Image-N.dcm``; the same ``uid_name`` makes the same UIDs."""

    def uid(name: str) -> UID:
        return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{uid_name}/{name}').int}")

    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ series.affine
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / steps
    peak = int(series.image.max())
    dataset = _phantom_headers()
    dataset.SeriesDescription = mri_type
    dataset.PatientName = f"PHANTOM^{patient}"
    dataset.PatientID = patient
    dataset.MRAcquisitionType = "3D" if math.isclose(steps[0], steps[2]) else "2D"
    dataset.SliceThickness = round(thickness, 6)
    dataset.SpacingBetweenSlices = round(float(steps[2]), 6)
    dataset.StudyInstanceUID = uid("study")
    dataset.SeriesInstanceUID = uid(mri_type)
    dataset.StudyID = patient
    dataset.SeriesNumber = list(MRI_TYPES).index(mri_type) + 1
    dataset.FrameOfReferenceUID = uid("frame")
    dataset.ImageOrientationPatient = [round(float(v), 6) for v in directions[:, :2].T.ravel()]
    dataset.Columns, dataset.Rows = series.image.shape[:2]
    dataset.PixelSpacing = [round(float(steps[1]), 6), round(float(steps[0]), 6)]
    dataset.WindowCenter = peak / 2
    dataset.WindowWidth = peak
    folder.mkdir(parents=True)
    for k, number in enumerate(file_numbers(mri_type, series.image.shape[2])):
        position = (lps @ [0, 0, k, 1])[:3]
        dataset.SOPInstanceUID = uid(f"{mri_type}/{number}")
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = [round(float(v), 6) for v in position]
        dataset.SliceLocation = round(float(position @ np.cross(directions[:, 0], directions[:, 1])), 6)
        dataset.PixelData = np.ascontiguousarray(series.image[:, :, k].T).tobytes()
        # The length of the meta information is recalculated where it is written; pydicom 2 and 3 agree on that.
        dataset.file_meta.FileMetaInformationGroupLength = 0
        validate_file_meta(dataset.file_meta, enforce_standard=True)
        dataset.save_as(folder / f"Image-{number}.dcm")


def _phantom_headers() -> FileDataset:
    """Attributes common to all files of all phantoms."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationVersionName = "PHANTOM"  # not pydicom's, so that its version doesn't change the files
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=False, is_little_endian=True)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    dataset.SOPClassUID = MRImageStorage
    for keyword in _EMPTY:
        setattr(dataset, keyword, "")
    dataset.Modality = "MR"
    dataset.BodyPartExamined = "BRAIN"  # not a paired organ, for which DICOM requires the side
    dataset.Manufacturer = "PHANTOM"
    dataset.StudyDescription = "PHANTOM (synthetic)"
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Synthetic image"
    dataset.ScanningSequence = "RM"
    dataset.SequenceVariant = "NONE"
    dataset.ScanOptions = ""
    dataset.RepetitionTime = None
    dataset.EchoTime = None
    dataset.EchoTrainLength = None
    dataset.PatientPosition = "HFS"
    dataset.PositionReferenceIndicator = ""
    dataset.ImageComments = f"{HEADLINE}. {NO_MEANING}"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 16
    dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.QualityControlImage = "YES"  # DICOM's word for "phantom"
    return dataset


def file_numbers(mri_type: str, count: int) -> list[int]:
    """File number of each slice along the normal: as in the challenge, not to be relied on for the order."""
    ascending = list(range(1, count + 1))
    if mri_type == "FLAIR":  # against the slice order
        return ascending[::-1]
    if mri_type == "T1wCE":  # does not start at 1
        return [number + 17 for number in ascending]
    if mri_type == "T2w":  # acquired interleaved: every other slice first
        return [k // 2 + 1 + (k % 2) * ((count + 1) // 2) for k in range(count)]
    return ascending
