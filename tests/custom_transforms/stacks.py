"""Volumes and series as several tests need them."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    EnhancedMRImageStorage,
    ImplicitVRLittleEndian,
    generate_uid,
)
from scipy.spatial.transform import Rotation

from custom_transforms import (
    SeriesReader,
)

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
ROWS_UPWARDS = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
OBLIQUE = tuple((Rotation.from_euler("xyz", [20, -15, 35], degrees=True).as_matrix()[:, :2]).T.ravel().tolist())
ORIENTATIONS = {
    "axial": AXIAL,
    "coronal": CORONAL,
    "sagittal": SAGITTAL,
    "rows upwards": ROWS_UPWARDS,
    "oblique": OBLIQUE,
}


def planes(n: int, rows: int = 6, columns: int = 5) -> np.ndarray:
    return np.random.default_rng(67).integers(0, 1000, (n, rows, columns)).astype(np.uint16)


def read(path: Path) -> tuple[np.ndarray, dict]:
    reader = SeriesReader()
    return reader.get_data(reader.read(path))


def assert_same_as_itk(array: np.ndarray, affine: np.ndarray, folder: Path) -> None:
    """Voxels that ITK reads lie at the same place in the patient with the same value."""
    names = itk.GDCMSeriesFileNames.New()
    names.SetDirectory(str(folder))
    (uid,) = names.GetSeriesUIDs()
    image = itk.imread(list(names.GetFileNames(uid)), itk.F)
    values = itk.array_from_image(image)
    assert values.size == array.size
    direction = itk.array_from_matrix(image.GetDirection()) @ np.diag(list(image.GetSpacing()))
    # All voxels of a small image, every 101st or so of a real one.
    kji = np.stack(
        np.unravel_index(np.arange(0, values.size, 1 if values.size < 10_000 else 101), values.shape), axis=1
    )
    # ITK's own function for some of them: the matrix here must be what ITK means.
    for k, j, i in kji[:: len(kji) // 5]:
        index = [int(i), int(j), int(k)]
        np.testing.assert_allclose(
            list(image.TransformIndexToPhysicalPoint(index)), list(image.GetOrigin()) + direction @ index, atol=1e-4
        )
    points = kji[:, ::-1] @ direction.T + np.array(list(image.GetOrigin()))
    ras = np.c_[points * [-1, -1, 1], np.ones(len(points))]
    index = (ras @ np.linalg.inv(affine).T)[:, :3]
    np.testing.assert_allclose(index, np.rint(index), atol=0.02)
    found = array[tuple(np.rint(index).astype(int).T)]
    np.testing.assert_array_equal(found, values[tuple(kji.T)])


def brain(shape: tuple[int, int, int] = (24, 28, 20), seed: int = 5) -> np.ndarray:
    """An ellipsoid of noisy whole grey values from 1 up that reaches the last slice, 0 around it."""
    axes = [np.linspace(-1, 1, length) * reach for length, reach in zip(shape, (1.2, 1.2, 1.0), strict=True)]
    inside = sum(axis**2 for axis in np.ix_(*axes)) < 0.95
    values = np.random.default_rng(seed).normal(300, 80, shape).clip(1, 1000).round()
    return np.where(inside, values, 0).astype(np.float32)


def read_nifti(values: np.ndarray, folder: Path) -> tuple[np.ndarray, dict]:
    nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "volume.nii")
    return read(folder / "volume.nii")


def enhanced(stack: np.ndarray, order: np.ndarray, positions: np.ndarray) -> Dataset:
    def item(**attributes: Any) -> Dataset:
        dataset = Dataset()
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        return dataset

    def group(**attributes: Any) -> DicomSequence:
        return DicomSequence([item(**attributes)])

    dataset = item(
        SOPClassUID=EnhancedMRImageStorage,
        SOPInstanceUID=generate_uid(),
        SeriesInstanceUID=generate_uid(),
        Modality="MR",
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        NumberOfFrames=len(stack),
        Rows=stack.shape[1],
        Columns=stack.shape[2],
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=0,
        PixelData=stack[order].tobytes(),
        SharedFunctionalGroupsSequence=group(
            PlaneOrientationSequence=group(ImageOrientationPatient=list(SAGITTAL)),
            PixelMeasuresSequence=group(PixelSpacing=[0.5, 0.8], SliceThickness=2),
        ),
        PerFrameFunctionalGroupsSequence=DicomSequence(
            item(
                PlanePositionSequence=group(ImagePositionPatient=[float(-positions[place]), 5, 6]),
                PixelValueTransformationSequence=group(RescaleSlope=2, RescaleIntercept=int(place)),
            )
            for place in order
        ),
    )
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


@contextmanager
def little_memory():
    """See that no more than 20 MB are taken: numpy and Python report what they ask for, without touching it."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def png(width: int, height: int) -> bytes:
    """A black picture, row by row: a bomb when it is large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = b"".join([*(packer.compress(bytes(1 + width)) for _ in range(min(height, 100))), packer.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


SIGNED_PERMUTATIONS = [
    (order, signs)
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1))
]


def affine_of(order: tuple[int, ...], signs: tuple[int, ...], spacing: Any, angles: Any = (0, 0, 0)) -> np.ndarray:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = turn @ (np.eye(3)[:, list(order)] * signs * spacing)
    affine[:3, 3] = (3, -5, 7)
    return affine
