"""Small DICOM series written by pydicom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def make_slice(
    pixels: np.ndarray,
    *,
    series_uid: str,
    orientation: tuple[float, ...] | None = AXIAL,
    position: Any = (0.0, 0.0, 0.0),
    spacing: tuple[float, float] | None = (1.0, 1.0),
    instance: int | None = 1,
    **attributes: Any,
) -> Dataset:
    """One MR slice; ``None`` leaves an element out, ``attributes`` are set by DICOM keyword."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    dataset.SeriesInstanceUID = series_uid
    dataset.Modality = "MR"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1 if pixels.dtype == np.int16 else 0
    dataset.PixelData = pixels.tobytes()
    if orientation is not None:
        dataset.ImageOrientationPatient = [f"{value:.10g}" for value in orientation]
    if position is not None:
        dataset.ImagePositionPatient = [f"{value:.10g}" for value in position]
    if spacing is not None:
        dataset.PixelSpacing = list(spacing)
    if instance is not None:
        dataset.InstanceNumber = instance
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


SeriesWriter = Callable[..., list[Dataset]]


@pytest.fixture
def write_series(tmp_path: Path) -> SeriesWriter:
    """Write slices ``(N, rows, columns)`` along the normal into ``tmp_path / folder`` and return their datasets."""

    def write(
        planes: np.ndarray,
        folder: str = "series",
        *,
        distances: Any = None,
        step: float = 2.5,
        orientation: tuple[float, ...] = AXIAL,
        origin: tuple[float, float, float] = (-10.0, -20.0, 30.0),
        names: Any = None,
        change: Callable[[int, Dataset], None] | None = None,
        **attributes: Any,
    ) -> list[Dataset]:
        uid = generate_uid()
        normal = np.cross(orientation[:3], orientation[3:])
        distances = np.arange(len(planes)) * step if distances is None else distances
        names = [f"Image-{index + 1}.dcm" for index in range(len(planes))] if names is None else names
        datasets = []
        for index, (plane, distance, name) in enumerate(zip(planes, distances, names, strict=True)):
            dataset = make_slice(
                plane,
                series_uid=uid,
                orientation=orientation,
                position=np.asarray(origin) + normal * distance,
                instance=index + 1,
                **attributes,
            )
            if change is not None:
                change(index, dataset)
            datasets.append(dataset)
            save(dataset, tmp_path / folder / name)
        return datasets

    return write
