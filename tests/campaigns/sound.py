"""What a campaign starts from: sound series in every form, and tiny networks' weights."""

from __future__ import annotations

import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

SHAPE = (32, 28, 10)
"""Columns, rows, slices."""
STEPS = (5.0, 6.0, 8.0)
"""mm."""
SEGMENTER = {"encoder_name": "tu-test_efficientnet", "decoder_channels": [16, 8, 8, 4, 4], "image_size": 32}
CLASSIFIER = {"backbone": "test_efficientnet", "image_size": 32, "sequence_length": 6, "stride": 3, "hidden_size": 4}


def brain(seed: int) -> np.ndarray:
    """A brain of this seed without its skull, ``(X, Y, Z)`` int16."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij"))
    waves = sum(np.sin(rng.uniform(2, 6) * places[axis] + rng.uniform(0, 6)) for axis in range(3))
    volume = np.where(np.linalg.norm(places, axis=0) < 0.85, 500 + 120 * waves, 0)
    where = rng.uniform(-0.4, 0.4, 3).reshape(3, 1, 1, 1)
    volume[np.linalg.norm(places - where, axis=0) < 0.25] = 1100
    return np.rint(volume).astype(np.int16)


def dicom(seed: int, patient: str, mri_type: str = "FLAIR") -> list[Dataset]:
    """The slices of a series, along the normal."""
    volume, root = brain(seed), f"1.2.826.0.1.3680043.8.498.{seed + 1}"
    slices = []
    for place in range(SHAPE[2]):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = MRImageStorage
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = f"{root}.3.{place + 1}"
        one.SpecificCharacterSet, one.PatientName, one.PatientID = "ISO_IR 100", f"{patient}^X", patient
        one.StudyDate, one.StudyTime, one.Modality = "20200102", "101112", "MR"
        one.StudyInstanceUID, one.SeriesInstanceUID = f"{root}.1", f"{root}.2"
        one.SeriesDescription, one.SeriesNumber, one.InstanceNumber = f"{mri_type} AX", 3, place + 1
        one.Manufacturer, one.MagneticFieldStrength, one.ImageType = "MAKER", "3", ["ORIGINAL", "PRIMARY"]
        one.ImageOrientationPatient, one.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, place * STEPS[2]]
        one.PixelSpacing, one.SliceThickness, one.SpacingBetweenSlices = [STEPS[1], STEPS[0]], STEPS[2], STEPS[2]
        one.Rows, one.Columns = SHAPE[1], SHAPE[0]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.RescaleSlope, one.RescaleIntercept, one.WindowCenter, one.WindowWidth = 1, 0, 500, 1000
        one.add_new("PixelData", "OW", np.ascontiguousarray(volume[:, :, place].T.astype("<u2")).tobytes())
        slices.append(one)
    return slices


def enhanced(seed: int, patient: str) -> Dataset:
    """The same series as one Enhanced MR file."""
    slices = dicom(seed, patient)
    one = slices[0]
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    one.NumberOfFrames = len(slices)
    one.PixelData = b"".join(part.PixelData for part in slices)
    groups = []
    for part in slices:
        group, place = Dataset(), Dataset()
        place.ImagePositionPatient = part.ImagePositionPatient
        group.PlanePositionSequence = [place]
        groups.append(group)
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = one.ImageOrientationPatient
    measures.PixelSpacing, measures.SpacingBetweenSlices = one.PixelSpacing, one.SpacingBetweenSlices
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    del one.ImagePositionPatient, one.ImageOrientationPatient, one.PixelSpacing
    one.PerFrameFunctionalGroupsSequence, one.SharedFunctionalGroupsSequence = groups, [shared]
    return one


def save_dicom(slices: list[Dataset], folder: Path) -> list[Path]:
    """Write a series, ``Image-1.dcm`` first."""
    folder.mkdir(parents=True)
    files = []
    for number, one in enumerate(slices, 1):
        files.append(folder / f"Image-{number}.dcm")
        one.save_as(files[-1], enforce_file_format=True)
    return files


def nifti(seed: int) -> bytes:
    """A NIfTI file's bytes, unpacked."""
    import nibabel

    return bytes(nibabel.Nifti1Image(brain(seed), np.diag([-STEPS[0], -STEPS[1], STEPS[2], 1])).to_bytes())


def weights(folder: Path) -> tuple[Path, Path]:
    """Weights of a tiny segmenter and a tiny classifier, whose answers depend on the image."""
    import torch

    from scripts.networks import build_classifier, build_segmenter
    from scripts.weights import SEGMENTER_SETTINGS, save_weights

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    files = folder / "segmentation.pt", folder / "model_FLAIR.pt"
    save_weights(build_segmenter({**SEGMENTER_SETTINGS, **SEGMENTER}), SEGMENTER, files[0])
    save_weights(build_classifier(CLASSIFIER), CLASSIFIER, files[1])
    return files


GIGABYTES = 180
"""Blocks of 16 MB: 3 GB."""


@lru_cache
def zeros(blocks: int = GIGABYTES) -> bytes:
    """Zeros, 16 MB a block, as a raw deflated stream that more may follow."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)) * blocks


@lru_cache
def _checksum(blocks: int) -> int:
    found, block = 0, bytes(1 << 24)
    for _ in range(blocks):
        found = zlib.crc32(block, found)
    return found


def add_zeros(archive: zipfile.ZipFile, name: str, blocks: int = GIGABYTES, declared: int | None = None) -> None:
    """Add a member of packed zeros to an archive that is being written, which may say it has another size."""
    member = zipfile.ZipInfo(name)
    stream = zeros(blocks) + b"\x03\x00"
    member.compress_type, member.CRC, member.compress_size = zipfile.ZIP_DEFLATED, _checksum(blocks), len(stream)
    member.file_size = declared or blocks << 24
    member.header_offset = archive.fp.tell()
    archive.fp.write(member.FileHeader(zip64=False) + stream)
    archive.filelist.append(member)
    archive.NameToInfo[name] = member
    archive.start_dir = archive.fp.tell()
