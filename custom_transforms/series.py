"""Reading one MRI series into a volume with its geometry, and taking the volume apart into its acquired slices."""

from __future__ import annotations

import io
import logging
import math
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import cv2
import nibabel as nib
import numpy as np
import pydicom
import torch
from monai.config import KeysCollection, NdarrayOrTensor, PathLike
from monai.data import ImageReader, MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import MetaKeys, SpaceKeys, TransformBackends, ensure_tuple
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    MediaStorageDirectoryStorage,
)

from .intensity import background_to_zero, skull_sign
from .planes import DISPLAY_AXCODES, PLANES

__all__ = [
    "AcquisitionSlices",
    "AcquisitionSlicesD",
    "AcquisitionSlicesDict",
    "AcquisitionSlicesd",
    "DicomSlices",
    "SeriesError",
    "SeriesReader",
    "SliceGeometry",
    "dicom_slices",
]

logger = logging.getLogger(__name__)

NIFTI_SUFFIXES = (".nii", ".nii.gz")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")

# LPS -> RAS in homogeneous coordinates. As an affine it is also DICOM's default orientation: columns to the patient's
# left, rows to the back, slices to the head, 1 mm.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

SAME_POSITION_MM = 0.01
GAP_FACTOR = 1.5
# Slices further than this part of the spacing from a regular grid count as unevenly spaced.
UNEVEN_FRACTION = 0.25
THICK_SLICE_FACTOR = 1.05

# What a header may declare, before memory is taken for it. Eleven times a volume of BraTS, 380 slices of 512 x 512; reading so
# much takes about 1 GB.
MAX_SIDE = 4096
MAX_VOXELS = 100_000_000
MAX_NIFTI_BYTES = 4 * MAX_VOXELS  # nibabel takes three times as much to unpack them
# gzip packs at most 1032 bytes into one.
MAX_GZIP_RATIO = 1100
# Start of a JPEG 2000 image and its columns and rows, which decoders take memory for whatever the DICOM header says.
JPEG_2000_SIZE = re.compile(rb"\xff\x4f\xff\x51.{4}(.{4})(.{4})", re.DOTALL)


class SeriesError(ValueError):
    """An input series that can't be used; the message names the file, what was found and what to do."""


@dataclass(frozen=True)
class _Frame:
    """One slice of a series: what its header says, before its pixels are decoded."""

    name: str
    dataset: pydicom.Dataset
    index: int
    shape: tuple[int, int]
    orientation: np.ndarray | None
    position: np.ndarray | None
    spacing: tuple[float, float] | None
    thickness: float | None
    location: float | None
    instance: int | None
    number: int | None
    slope: float
    intercept: float


@dataclass
class _Volume:
    """Voxels ``(X, Y, Z)``, their RAS affine, the file of each slice ("" for a blank one), what was odd, and facts of DICOM."""

    array: np.ndarray
    affine: np.ndarray
    slice_files: list[str]
    warnings: list[str]
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def plane(self) -> str:
        """Of the files' slices; "" for NIfTI, which has none."""
        return PLANES[int(io_orientation(self.affine)[2, 0])] if self.slice_files else ""


class SeriesReader(ImageReader):
    """
    Read **one** series as a float32 volume ``(X, Y, Z)`` with its RAS affine, for
    ``LoadImaged(keys, reader=SeriesReader(), ensure_channel_first=True)``.

    What is read:

    - a folder of DICOM files with any names (hidden files, a DICOMDIR and files that are not DICOM are passed over), or
      a single DICOM file, multi-frame Enhanced MR included. Axes: columns, rows, slices; slices ascend along the slice
      normal (row direction x column direction), whatever the files are called. Values are rescaled per file
      (RescaleSlope, RescaleIntercept); MONOCHROME1 is inverted within the series' own range (largest + smallest -
      value), before the background is looked at.
    - a NIfTI file (``.nii``, ``.nii.gz``): nibabel's axes and affine. Trailing axes of length 1 are dropped.
    - a folder of pictures (``Image-1.jpg``, PNG as well; the JPG rendering of the RSNA-MICCAI 2021 challenge): ordered
      by the last number in the name. Pictures carry no geometry: they are taken as axial DICOM slices of 1 mm in
      standard position (affine ``diag(-1, -1, 1, 1)``), so that slices come out again as the pictures show them.

    Slice order of DICOM: ImagePositionPatient along the normal; else SliceLocation; else InstanceNumber; else the last
    number in the file name; else the file name. Everything below the first gives a warning and an affine that is only
    as good as the header. The distance between slices is measured (first to last position), not taken from
    SliceThickness.

    What is repaired, with a warning (in ``meta["warnings"]`` and in the log):

    - Two slices at one position with equal pixels: the second is dropped.
    - Missing slices (a gap above 1.5 x the median spacing): where the remaining slices fit a regular grid (each within
      a quarter of the spacing, at most half of the grid missing), blank slices of the series' lowest value are put in
      the gaps. Thus every acquired slice, and a mask drawn on it, stays where it is in the patient. Otherwise the
      volume gets the mean spacing, and the warning says by how many mm slices are off.
    - NaN and infinite values of a NIfTI file become 0.
    - A background of another value than 0 becomes 0, and the brain of a z-scored volume is raised above it: see
      :py:func:`~custom_transforms.intensity.background_to_zero`.

    A series that looks as if it had its skull is read as it is, with a warning.

    Metadata: ``affine``, ``original_affine``, ``space`` (RAS), ``spatial_shape``, ``original_channel_dim`` (NaN: none),
    ``filename_or_obj``, ``warnings`` (list of str), ``slice_files`` (file name per slice along Z, "" for a blank one;
    empty for NIfTI), ``plane`` (that of the files; empty for NIfTI), ``patient_id`` and ``scanner`` (DICOM's PatientID, and its maker, model and field strength; empty
    where the series does not tell).

    Everything else raises :py:class:`SeriesError`: a missing path, an empty folder, several series, different sizes,
    orientations or pixel spacings (localizers), different pixels at one position, no pixel data, unreadable or
    truncated files, colour, a NIfTI file with several volumes, the same value everywhere, and (before memory is taken
    for it) more than 4096 voxels a side, 100 million in all, or than the file can hold. It is raised by ``get_data``, not by ``read``:
    ``LoadImage`` hands a file whose ``read`` failed to MONAI's other readers, which would accept, for one, the first of
    several series.

    Args:
        labels: read a label map, whose values stay as they are and may all be 0.
    """

    def __init__(self, labels: bool = False) -> None:
        super().__init__()
        self.labels = labels

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Tell whether ``filename`` is one folder, NIfTI file or DICOM file (by suffix, or without any)."""
        names = ensure_tuple(filename)
        if len(names) != 1:
            return False
        path = Path(names[0])
        return path.is_dir() or path.suffix == "" or path.name.lower().endswith(NIFTI_SUFFIXES + DICOM_SUFFIXES)

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Path | list[Path]:
        """Return the path(s) as they are; ``get_data`` does the reading (the class says why)."""
        paths = [Path(name).expanduser() for name in ensure_tuple(data)]
        return paths[0] if len(paths) == 1 else paths

    def get_data(self, img: PathLike | Sequence[PathLike]) -> tuple[np.ndarray, dict]:
        """
        Read the series.

        Args:
            img: what ``read`` returned: the path of the series.

        Returns:
            the volume ``(X, Y, Z)``, float32, and its metadata.

        Raises:
            SeriesError: when the series can't be used.
        """
        paths = [Path(name) for name in ensure_tuple(img)]
        if len(paths) != 1:
            raise SeriesError(
                f"Found {len(paths)} paths ({_some(str(path) for path in paths)}), expected the path of one series. "
                "Pass the folder that holds the series, or one file."
            )
        path = paths[0]
        volume = _read_volume(path)
        if not self.labels:
            _as_brain(path, volume)
        for text in volume.warnings:
            logger.warning("%s: %s", path, text)
        meta = {
            MetaKeys.AFFINE: volume.affine,
            MetaKeys.ORIGINAL_AFFINE: volume.affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.asarray(volume.array.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
            "filename_or_obj": str(path),
            "warnings": volume.warnings,
            "slice_files": volume.slice_files,
            "plane": volume.plane,
            "patient_id": volume.facts.get("patient_id", ""),
            "scanner": volume.facts.get("scanner", ""),
        }
        return volume.array, {str(key): value for key, value in meta.items()}


def _some(names: Any, limit: int = 4) -> str:
    """Join names for a message, and say how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _check_size(where: str, shape: Sequence[int]) -> None:
    """Refuse what no series of a brain has, and no memory should be taken for."""
    if max(shape) > MAX_SIDE or math.prod(shape) > MAX_VOXELS:
        raise SeriesError(
            f"{where}: the header declares {' x '.join(map(str, shape))} voxels, expected at most {MAX_SIDE} a side and "
            f"{MAX_VOXELS:,} in a series. The header is damaged, or this is no series of one brain: export it again."
        )


def _as_brain(path: Path, volume: _Volume) -> None:
    """See that there is something on the images, give them a background of 0, and look for a skull."""
    array = volume.array
    if array.min() == array.max():
        raise SeriesError(
            f"{path}: all {array.size} voxels have the value {array.flat[0]:g}, expected images of a brain. Export the "
            "series again, or leave it out."
        )
    blank = [index for index, name in enumerate(volume.slice_files) if not name]
    volume.array, done = background_to_zero(array, blank)
    geometry = SliceGeometry.from_affine(volume.affine, volume.array.shape, volume.plane or None)
    skull = skull_sign(geometry.view(volume.array), geometry.pixel_spacing)
    if done:
        volume.warnings.append(done)
    if skull:
        volume.warnings.append(
            f"looks as if it had its skull: {skull}; expected a skull-stripped series. Extract the brain first (with HD-BET or "
            "SynthStrip, for example)."
        )


def _read_volume(path: Path) -> _Volume:
    if not path.exists():
        raise SeriesError(f"{path}: no such file or folder. Check the path of the series in the data list.")
    if path.is_dir():
        return _read_folder(path)
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return _read_nifti(path)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        raise SeriesError(f"{path}: found one picture, expected a series. Pass the folder that holds its pictures.")
    dataset = _read_dicom(path)
    if dataset is None:
        raise SeriesError(
            f"{path}: found neither DICOM nor NIfTI, expected a DICOM file, a NIfTI file (.nii, .nii.gz), or a folder "
            "of DICOM files or pictures. Convert the series to one of them."
        )
    return _assemble_dicom(path, {path.name: dataset})


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _read_folder(folder: Path) -> _Volume:
    entries = _entries(folder)
    files = [entry for entry in entries if entry.is_file()]
    datasets = {file.name: dataset for file in files if (dataset := _read_dicom(file)) is not None}
    if datasets:
        return _assemble_dicom(folder, datasets)
    pictures = [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES]
    if pictures:
        return _read_pictures(folder, pictures)
    found = f"found {len(files)} files" + (f" ({_some(file.name for file in files)})" if files else "")
    remedy = "Check that the series was copied or unpacked completely."
    if nifti := [file.name for file in files if file.name.lower().endswith(NIFTI_SUFFIXES)]:
        remedy = f"Pass the path of the NIfTI file itself ({_some(nifti)})."
    elif folders := [entry.name for entry in entries if entry.is_dir()]:
        found += f" and {len(folders)} folders ({_some(folders)})"
        remedy = "Pass the folder of one series."
    raise SeriesError(f"{folder}: {found}, expected the DICOM files or pictures of one series. {remedy}")


# --- DICOM ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DicomSlices:
    """
    Where the slices of :py:class:`SeriesReader`'s volume ``(X, Y, Z)`` come from: one entry a slice, along Z.

    Args:
        headers: the header of the file that holds the slice, without its pixels; None for a blank slice that stands in
            for a missing one.
        frames: index of the slice among the frames of its file, 0 in single-frame files and for blank slices.
        positions: ``(Z, 3)`` LPS positions in mm of the centres of the first pixels: what the headers say, on the grid
            of the volume for blank slices; None where a header says none.
        orientation: ``(6,)`` directions in LPS along which column and row index grow (DICOM's ImageOrientationPatient);
            None where a header says none.
        spacing: distances in mm between rows and between columns; None where the header says none.
        affine: 4 x 4 affine of the volume, from voxel index to RAS position in mm.
    """

    headers: list[pydicom.Dataset | None]
    frames: list[int]
    positions: np.ndarray | None
    orientation: np.ndarray | None
    spacing: tuple[float, float] | None
    affine: np.ndarray


def dicom_slices(path: PathLike) -> DicomSlices | None:
    """
    List a DICOM series' files in the order in which :py:class:`SeriesReader` puts their slices; no pixels are read.

    Args:
        path: the folder or the file, of a series that SeriesReader accepts.

    Returns:
        the headers and what they say of each slice; None where the path holds no DICOM (NIfTI, pictures).

    Raises:
        SeriesError: when the headers do not make one series.
    """
    place = Path(path)
    files = [entry for entry in _entries(place) if entry.is_file()] if place.is_dir() else [place]
    datasets = {file.name: dataset for file in files if (dataset := _read_dicom(file, pixels=False)) is not None}
    if not datasets:
        return None
    frames, orientation, positions = _in_order(place, datasets, [])
    if positions is not None:
        frames, _, positions = _without_doubles(place, frames, None, positions, [])
    grid = _slice_grid(frames, positions, [])
    affine = _dicom_affine(frames, orientation, positions, int(grid[-1]), [])
    headers: list[pydicom.Dataset | None] = [None] * (int(grid[-1]) + 1)
    indices = [0] * len(headers)
    located = orientation is not None and all(frame.position is not None for frame in frames)
    origins = ((LPS_TO_RAS @ affine)[:3, 2:] @ [np.arange(len(headers)), np.ones(len(headers))]).T
    for where, frame in zip(grid, frames, strict=True):
        headers[where], indices[where] = frame.dataset, frame.index
        if located:
            origins[where] = frame.position
    return DicomSlices(headers, indices, origins if located else None, orientation, frames[0].spacing, affine)


def _read_dicom(path: Path, pixels: bool = True) -> pydicom.Dataset | None:
    """Read one file; None where it is no DICOM file and its name does not claim that it is."""
    suffix = path.suffix.lower()
    dataset: pydicom.Dataset
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
    except InvalidDicomError:
        if suffix != "" and suffix not in DICOM_SUFFIXES:
            return None
        # Old files lack the 128-byte preamble that tells DICOM from anything else.
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
        except Exception:
            dataset = pydicom.Dataset()
        if "SOPClassUID" not in dataset or "Rows" not in dataset:
            if suffix == "":
                return None
            raise SeriesError(
                f"{path}: not a readable DICOM file ({path.stat().st_size} bytes). Copy it again from its source, or "
                "remove it from the folder."
            ) from None
        if "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
            dataset.file_meta = FileMetaDataset()
            is_explicit = getattr(dataset, "original_encoding", (True, True))[0] is False
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if is_explicit else ImplicitVRLittleEndian
    except Exception as error:
        raise SeriesError(
            f"{path}: unreadable or truncated DICOM file ({error}). Copy it again from its source, or remove it from "
            "the folder."
        ) from error
    is_directory = dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage
    return None if is_directory else dataset


def _assemble_dicom(path: Path, datasets: dict[str, pydicom.Dataset]) -> _Volume:
    _check_pixel_data(path, datasets)
    warnings: list[str] = []
    frames, orientation, positions = _in_order(path, datasets, warnings)
    pixels = _decode(path, frames)
    if positions is not None:
        frames, pixels, positions = _without_doubles(path, frames, pixels, positions, warnings)
    grid = _slice_grid(frames, positions, warnings)

    planes = np.stack(pixels)
    if frames[0].dataset.PhotometricInterpretation == "MONOCHROME1":
        planes = planes.max() + planes.min() - planes
    volume = np.full((int(grid[-1]) + 1, *planes.shape[1:]), planes.min(), dtype=np.float32)
    volume[grid] = planes
    files = [""] * len(volume)
    for place, frame in zip(grid, frames, strict=True):
        files[place] = frame.name
    affine = _dicom_affine(frames, orientation, positions, int(grid[-1]), warnings)
    return _Volume(np.ascontiguousarray(volume.transpose(2, 1, 0)), affine, files, warnings, _facts(frames[0].dataset))


def _in_order(
    path: Path, datasets: dict[str, pydicom.Dataset], warnings: list[str]
) -> tuple[list[_Frame], np.ndarray | None, np.ndarray | None]:
    """Take the slices of one series from its files' headers and sort them; also their orientation and positions (mm)."""
    _check_one_series(path, datasets)
    frames: list[_Frame] = []
    for name, dataset in datasets.items():
        frames.extend(_frames(path, name, dataset))
    _check_same_shape(path, frames)
    _check_size(str(path), (*frames[0].shape, len(frames)))
    orientation = frames[0].orientation
    if orientation is None or any(frame.orientation is None for frame in frames):
        orientation = None
        warnings.append(
            "no usable ImageOrientationPatient: taken as axial slices in standard position. Left and right, and the "
            "slice direction, can't be known from this series."
        )
    frames, positions = _in_slice_order(frames, orientation, warnings)
    return frames, orientation, positions


def _facts(dataset: pydicom.Dataset) -> dict[str, str]:
    """Whose series it is and what it was made with, as far as DICOM tells."""

    def text(keyword: str) -> str:
        return str(dataset.get(keyword) or "").strip()

    field_strength = text("MagneticFieldStrength")
    maker = [text("Manufacturer"), text("ManufacturerModelName"), f"{field_strength} T" if field_strength else ""]
    return {"patient_id": text("PatientID"), "scanner": " ".join(filter(None, maker))}


def _check_pixel_data(path: Path, datasets: dict[str, pydicom.Dataset]) -> None:
    # Before anything else: of a truncated file pydicom may keep no more than the first elements.
    keywords = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    if names := [name for name, data in datasets.items() if not any(keyword in data for keyword in keywords)]:
        raise SeriesError(
            f"{path}: no pixel data in {_some(names)}. Expected images: copy a truncated file again, and remove what is "
            "no image."
        )


def _check_one_series(path: Path, datasets: dict[str, pydicom.Dataset]) -> None:
    counts = Counter(str(dataset.get("SeriesInstanceUID", "") or "") for dataset in datasets.values())
    if len(counts) == 1:
        return
    descriptions = {
        str(dataset.get("SeriesInstanceUID", "") or ""): str(dataset.get("SeriesDescription", "") or "")
        for dataset in datasets.values()
    }
    found = "; ".join(
        f"{uid or 'no SeriesInstanceUID'} '{descriptions[uid]}' ({n} files)" for uid, n in counts.most_common()
    )
    raise SeriesError(
        f"{path}: found {len(counts)} series in one folder: {found}. Expected one. Move each series into a folder of "
        "its own and pass that folder."
    )


def _frames(path: Path, name: str, dataset: pydicom.Dataset) -> list[_Frame]:
    """Take what is needed from one file's header."""
    try:
        photometric = dataset.PhotometricInterpretation
        if photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise SeriesError(
                f"{path}: {name} holds {photometric} pixels, expected grey values (MONOCHROME1 or MONOCHROME2). Pass "
                "the acquired series instead of a screenshot or colour map."
            )
        count = int(dataset.get("NumberOfFrames", 1) or 1)
        _check_size(f"{path}: {name}", (int(dataset.Rows), int(dataset.Columns), count))
        if count > 1 and len(dataset.get("PerFrameFunctionalGroupsSequence", ())) != count:
            raise SeriesError(
                f"{path}: {name} holds {count} frames without a position for each "
                "(PerFrameFunctionalGroupsSequence). Pass the series as one file per slice, or as Enhanced MR."
            )
        return [_frame(name, dataset, index, count) for index in range(count)]
    except SeriesError:
        raise
    except Exception as error:
        raise SeriesError(
            f"{path}: {name} has an unusable header ({type(error).__name__}: {error}). Copy it again from its source, "
            "or remove it from the folder."
        ) from error


def _frame(name: str, dataset: pydicom.Dataset, index: int, count: int) -> _Frame:
    def value(group: str, keyword: str) -> Any:
        """Look a value up for this frame: Enhanced MR keeps it in functional groups, the others at the top."""
        sources = []
        if "PerFrameFunctionalGroupsSequence" in dataset:
            sources.append(dataset.PerFrameFunctionalGroupsSequence[index])
        if "SharedFunctionalGroupsSequence" in dataset:
            sources.extend(dataset.SharedFunctionalGroupsSequence[:1])
        for source in sources:
            for item in source.get(group, ())[:1]:
                if (found := item.get(keyword)) is not None:
                    return found
        return dataset.get(keyword)

    def vector(group: str, keyword: str, length: int) -> np.ndarray | None:
        found = value(group, keyword)
        if found is None or not isinstance(found, Sequence) or len(found) != length:
            return None
        array = np.array([float(item) for item in found])
        return array if np.isfinite(array).all() else None

    def number(group: str, keyword: str) -> float | None:
        found = value(group, keyword)
        if found is None or str(found).strip() == "" or not math.isfinite(float(found)):
            return None
        return float(found)

    orientation = vector("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    if orientation is not None:
        row, column = orientation[:3], orientation[3:]
        if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=0.01):
            orientation = None
    spacing = vector("PixelMeasuresSequence", "PixelSpacing", 2)
    thickness = number("PixelMeasuresSequence", "SpacingBetweenSlices")
    if not thickness:
        thickness = number("PixelMeasuresSequence", "SliceThickness")
    slope = number("PixelValueTransformationSequence", "RescaleSlope")
    intercept = number("PixelValueTransformationSequence", "RescaleIntercept")
    numbers = re.findall(r"\d+", Path(name).stem)
    instance = number("", "InstanceNumber")
    return _Frame(
        name=name if count == 1 else f"{name}[{index}]",
        dataset=dataset,
        index=index,
        shape=(int(dataset.Rows), int(dataset.Columns)),
        orientation=orientation,
        position=vector("PlanePositionSequence", "ImagePositionPatient", 3),
        spacing=None if spacing is None or (spacing <= 0).any() else (float(spacing[0]), float(spacing[1])),
        thickness=abs(thickness) if thickness else None,
        location=number("", "SliceLocation") if count == 1 else None,
        instance=None if instance is None or count > 1 else int(instance),
        number=index if count > 1 else int(numbers[-1]) if numbers else None,
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
    )


def _check_same_shape(path: Path, frames: list[_Frame]) -> None:
    """All slices must lie on one grid: same size, orientation, pixel spacing and grey scale."""

    def differing(what: str, groups: dict[str, list[str]]) -> None:
        if len(groups) == 1:
            return
        found = "; ".join(f"{key}: {_some(names)}" for key, names in sorted(groups.items(), key=lambda g: -len(g[1])))
        raise SeriesError(
            f"{path}: found slices of different {what}: {found}. Expected one {what} in a series. Remove the files "
            "that do not belong to it (often localizers)."
        )

    def key_of(values: np.ndarray, seen: list[tuple[np.ndarray, str]], tolerance: float) -> str:
        """Headers round differently from file to file: values within the tolerance are the same."""
        for known, key in seen:
            if np.allclose(known, values, rtol=0, atol=tolerance):
                return key
        seen.append((values, " x ".join(f"{value:g}" for value in values)))
        return seen[-1][1]

    sizes: dict[str, list[str]] = {}
    scales: dict[str, list[str]] = {}
    orientations: dict[str, list[str]] = {}
    spacings: dict[str, list[str]] = {}
    seen_orientations: list[tuple[np.ndarray, str]] = []
    seen_spacings: list[tuple[np.ndarray, str]] = []
    for frame in frames:
        sizes.setdefault(f"{frame.shape[0]} rows x {frame.shape[1]} columns", []).append(frame.name)
        scales.setdefault(str(frame.dataset.PhotometricInterpretation), []).append(frame.name)
        if frame.orientation is not None:
            orientations.setdefault(key_of(frame.orientation, seen_orientations, 5e-3), []).append(frame.name)
        if frame.spacing is not None:
            spacings.setdefault(key_of(np.array(frame.spacing), seen_spacings, 1e-3), []).append(frame.name)
    differing("size", sizes)
    if orientations:
        differing("orientation", orientations)
    if spacings:
        differing("pixel spacing", spacings)
    differing("photometric interpretation", scales)


def _in_slice_order(
    frames: list[_Frame], orientation: np.ndarray | None, warnings: list[str]
) -> tuple[list[_Frame], np.ndarray | None]:
    """Sort slices along the normal; positions in mm, or None where the header has none."""
    if orientation is not None and all(frame.position is not None for frame in frames):
        normal = np.cross(orientation[:3], orientation[3:])
        places = np.array([frame.position @ normal for frame in frames])
    elif all(frame.location is not None for frame in frames) and len({frame.location for frame in frames}) > 1:
        places = np.array([frame.location for frame in frames], dtype=float)
        warnings.append("no usable ImagePositionPatient: slices ordered by SliceLocation, the origin is unknown.")
    else:
        ordered, how = _in_number_order(frames)
        if len(frames) > 1:
            warnings.append(
                f"no slice positions in the header: slices ordered by {how}. Their direction, and masks made on them, "
                "can't be trusted beyond this series."
            )
        return ordered, None
    order = np.argsort(places, kind="stable")
    return [frames[place] for place in order], places[order]


def _in_number_order(frames: list[_Frame]) -> tuple[list[_Frame], str]:
    for keyword, how in (("instance", "InstanceNumber"), ("number", "the number in the file name")):
        numbers = [getattr(frame, keyword) for frame in frames]
        if None not in numbers and len(set(numbers)) == len(numbers):
            return [frame for _, frame in sorted(zip(numbers, frames, strict=True), key=lambda pair: pair[0])], how
    return sorted(frames, key=lambda frame: frame.name), "file name"


def _decode(path: Path, frames: list[_Frame]) -> list[np.ndarray]:
    """Decode each file once; (rows, columns) float32 after rescaling, in the order of ``frames``."""
    decoded: dict[int, np.ndarray] = {}
    pixels = []
    for frame in frames:
        key = id(frame.dataset)
        if key not in decoded:
            try:
                if frame.dataset.file_meta.TransferSyntaxUID in JPEG2000TransferSyntaxes:
                    for size in JPEG_2000_SIZE.findall(frame.dataset.PixelData):
                        _check_size(f"{path}: {frame.name}", [int.from_bytes(side, "big") for side in size])
                decoded[key] = frame.dataset.pixel_array.reshape(-1, *frame.shape)
            except SeriesError:
                raise
            except Exception as error:
                syntax = frame.dataset.file_meta.get("TransferSyntaxUID", "")
                raise SeriesError(
                    f"{path}: the pixels of {frame.name} can't be decoded ({getattr(syntax, 'name', syntax)}; "
                    f"{error}). The file is truncated or damaged, or its compression is not supported: copy it again, "
                    "or decompress it with `gdcmconv --raw`."
                ) from error
        plane = decoded[key][frame.index].astype(np.float32)
        if frame.slope != 1 or frame.intercept != 0:
            plane = plane * np.float32(frame.slope) + np.float32(frame.intercept)
        pixels.append(plane)
    return pixels


def _without_doubles(
    path: Path, frames: list[_Frame], pixels: list[np.ndarray] | None, positions: np.ndarray, warnings: list[str]
) -> tuple[list[_Frame], list[np.ndarray], np.ndarray]:
    """Keep the first slice at each position; without pixels (None) those at one position count as equal."""
    kept = [0]
    dropped = []
    for place in range(1, len(frames)):
        last = kept[-1]
        if positions[place] - positions[last] > SAME_POSITION_MM:
            kept.append(place)
        elif pixels is None or np.array_equal(pixels[place], pixels[last]):
            dropped.append(f"{frames[place].name} (as {frames[last].name})")
        else:
            raise SeriesError(
                f"{path}: {frames[last].name} and {frames[place].name} lie at the same position "
                f"({positions[place]:.2f} mm along the slice normal) with different pixels. Expected one slice a "
                "position. Split the series (time points, echoes, two acquisitions) into folders and pass one."
            )
    if dropped:
        warnings.append(f"{len(dropped)} doubled slices dropped: {_some(dropped)}.")
    planes = [] if pixels is None else [pixels[place] for place in kept]
    return [frames[place] for place in kept], planes, positions[kept]


def _slice_grid(frames: list[_Frame], positions: np.ndarray | None, warnings: list[str]) -> np.ndarray:
    """Give each slice its index in the volume; indices left out are the blank slices."""
    regular = np.arange(len(frames))
    if positions is None or len(frames) < 3:
        return regular
    steps = np.diff(positions)
    median = float(np.median(steps))
    gaps = steps > GAP_FACTOR * median
    grid = np.concatenate([[0], np.cumsum(np.where(gaps, np.rint(steps / median), 1))]).astype(int)

    def deviation(index: np.ndarray) -> float:
        spacing = (positions[-1] - positions[0]) / index[-1]
        return float(np.abs(positions - positions[0] - index * spacing).max())

    mean = float(steps.mean())
    if gaps.any():
        missing = int(grid[-1]) + 1 - len(frames)
        where = _some(
            f"{round(steps[place] / median) - 1} between {frames[place].name} ({positions[place]:.1f} mm) and "
            f"{frames[place + 1].name} ({positions[place + 1]:.1f} mm)"
            for place in np.flatnonzero(gaps)
        )
        text = f"{missing} slices missing: {where}. "
        spacing = (positions[-1] - positions[0]) / grid[-1]
        if deviation(grid) <= UNEVEN_FRACTION * spacing and missing <= len(frames):
            warnings.append(
                text + "Blank slices stand in for them; all others keep their place in the patient within "
                f"{deviation(grid):.1f} mm."
            )
            return grid
        warnings.append(
            text + f"They do not fit a regular grid: with the mean spacing of {mean:.2f} mm slices are up to "
            f"{deviation(regular):.1f} mm off their place in the patient."
        )
    elif deviation(regular) > UNEVEN_FRACTION * median:
        warnings.append(
            f"unevenly spaced slices ({steps.min():.2f} to {steps.max():.2f} mm): with the mean spacing of {mean:.2f} "
            f"mm slices are up to {deviation(regular):.1f} mm off their place in the patient."
        )
    return regular


def _dicom_affine(
    frames: list[_Frame],
    orientation: np.ndarray | None,
    positions: np.ndarray | None,
    last_index: int,
    warnings: list[str],
) -> np.ndarray:
    """RAS affine of (column, row, slice) indices; frames in slice order, the last one at ``last_index``."""
    first, last = frames[0], frames[-1]
    row, column = (np.eye(3)[0], np.eye(3)[1]) if orientation is None else (orientation[:3], orientation[3:])
    normal = np.cross(row, column)
    if first.spacing is None:
        warnings.append("no PixelSpacing: 1 mm assumed.")
    between_rows, between_columns = first.spacing or (1.0, 1.0)
    origin = reach = np.zeros(3)
    if orientation is not None and first.position is not None and last.position is not None:
        origin = first.position
        reach = last.position - first.position
    elif positions is not None:
        origin = normal * positions[0]
        reach = normal * (positions[-1] - positions[0])

    if last_index > 0 and positions is not None:
        # The whole vector, not its part along the normal: a tilted stack stays tilted.
        step = reach / last_index
    else:
        if first.thickness is None:
            warnings.append("no SpacingBetweenSlices or SliceThickness: 1 mm assumed.")
        step = normal * (first.thickness or 1.0)
    lps = np.eye(4)
    lps[:3] = np.stack([row * between_columns, column * between_rows, step, origin], axis=1)
    return LPS_TO_RAS @ lps


# --- NIfTI and pictures -----------------------------------------------------------------------------------------------


def _read_nifti(path: Path) -> _Volume:
    try:
        image: Any = nib.load(path)
        shape = image.shape
        if image.get_data_dtype().kind not in "iuf":
            raise SeriesError(
                f"{path}: found {image.get_data_dtype()} voxels, expected grey values (integer or float)."
            )
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) == 2:
            shape = (*shape, 1)
        if len(shape) != 3 or min(shape) < 1:
            raise SeriesError(
                f"{path}: found a NIfTI file of shape {tuple(image.shape)}, expected one volume (X, Y, Z). Split it into one "
                "file a volume and pass one of them."
            )
        _check_size(str(path), shape)
        _check_nifti_file(path, image.dataobj.offset + math.prod(shape) * image.get_data_dtype().itemsize)
        array = np.asanyarray(image.dataobj, dtype=np.float32).reshape(shape)
    except SeriesError:
        raise
    except Exception as error:
        raise SeriesError(
            f"{path}: unreadable or truncated NIfTI file ({type(error).__name__}: {error}). Copy it again from its "
            "source."
        ) from error
    affine = np.array(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise SeriesError(f"{path}: unusable affine {affine.tolist()}. Repair the file's sform or qform.")
    warnings = []
    if int(image.header.get("sform_code", 1)) == 0 and int(image.header.get("qform_code", 1)) == 0:
        warnings.append("neither sform nor qform is set: orientation and position in the patient are unknown.")
    finite = np.isfinite(array)
    if not finite.all():
        if not finite.any():
            raise SeriesError(f"{path}: all voxels are NaN or infinite. Export the series again.")
        warnings.append(f"{int((~finite).sum())} NaN or infinite voxels set to 0.")
        array = np.where(finite, array, np.float32(0))
    return _Volume(np.ascontiguousarray(array), affine, [], warnings)


def _check_nifti_file(path: Path, declared: int) -> None:
    """The bytes that the header declares must fit into the file; nibabel takes the memory before it reads."""
    if declared > MAX_NIFTI_BYTES:
        raise SeriesError(
            f"{path}: the header declares {declared:,} bytes, expected at most {MAX_NIFTI_BYTES:,}. Save it as integers or float32 "
            "where it holds wider numbers; else the header is damaged."
        )
    size = path.stat().st_size
    room = size * MAX_GZIP_RATIO if path.suffix.lower() == ".gz" else size
    if declared > room:
        packed = f", which unpacks to {room} at most" if room > size else ""
        raise SeriesError(
            f"{path}: unreadable or truncated NIfTI file: found {size} bytes{packed}, expected {declared} from its header. Copy "
            "it again from its source."
        )


def _read_pictures(folder: Path, files: list[Path]) -> _Volume:
    numbered: dict[int, Path] = {}
    for file in files:
        numbers = re.findall(r"\d+", file.stem)
        if not numbers:
            raise SeriesError(
                f"{folder}: {file.name} has no number, expected names like Image-1.jpg. Rename or remove it."
            )
        number = int(numbers[-1])
        if number in numbered:
            raise SeriesError(
                f"{folder}: {numbered[number].name} and {file.name} have the same number, expected one picture a "
                "slice. Remove one of them."
            )
        numbered[number] = file
    pictures: list[np.ndarray] = []
    ordered = [numbered[number] for number in sorted(numbered)]
    for file in ordered:
        picture = _read_picture(folder, file)
        if pictures and picture.shape != pictures[0].shape:
            raise SeriesError(
                f"{folder}: {ordered[0].name} has {pictures[0].shape} rows and columns, {file.name} has "
                f"{picture.shape}. Expected one size in a series. Remove the pictures that do not belong to it."
            )
        if not pictures:
            _check_size(str(folder), (*picture.shape, len(ordered)))
        pictures.append(picture)
    volume = np.stack(pictures).astype(np.float32).transpose(2, 1, 0)
    warning = "pictures carry no geometry: taken as axial slices of 1 mm in standard position, ordered by their number."
    return _Volume(np.ascontiguousarray(volume), LPS_TO_RAS.copy(), [file.name for file in ordered], [warning])


def _read_picture(folder: Path, file: Path) -> np.ndarray:
    """Grey values (rows, columns) of a picture."""
    data = file.read_bytes()
    picture = None
    try:
        with Image.open(io.BytesIO(data)) as header:  # OpenCV has no way to ask for the size alone
            _check_size(f"{folder}: {file.name}", header.size)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    except Image.DecompressionBombError as error:
        raise SeriesError(f"{folder}: {file.name} is no slice of a brain ({error}). Remove it.") from error
    except (OSError, cv2.error):
        pass
    if picture is None:
        raise SeriesError(f"{folder}: {file.name} is no readable picture. Copy it again, or remove it.")
    return picture


# --- slices -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SliceGeometry:
    """
    How a volume ``(X, Y, Z)`` and its stack of slices ``(N, H, W)`` belong together.

    The stack shows slices as radiologists see them: axial rows run from front to back, columns from the patient's right
    to left, slices from foot to head; coronal rows from head to foot, columns right to left, slices front to back;
    sagittal rows from head to foot, columns front to back, slices left to right. Oblique volumes take the nearest
    directions; nothing is resampled.

    Args:
        affine: 4 x 4 affine from voxel index to RAS position in mm, of the volume as read. Kept as a read-only copy.
        shape: ``(X, Y, Z)`` of the volume as read.
        plane: "axial", "coronal" or "sagittal".

    Raises:
        ValueError: for an affine that is not an invertible 4 x 4 matrix, a shape of other than three lengths, or an
            unknown plane.
    """

    affine: np.ndarray
    shape: tuple[int, int, int]
    plane: str

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
            raise ValueError(f"affine must be an invertible 4 x 4 matrix, got {affine.tolist()}.")
        affine.setflags(write=False)
        shape = tuple(int(length) for length in self.shape)
        if len(shape) != 3:
            raise ValueError(f"shape must be (X, Y, Z) of one volume without channel, got {shape}.")
        if self.plane not in DISPLAY_AXCODES:
            raise ValueError(f"plane must be one of {sorted(DISPLAY_AXCODES)}, got {self.plane!r}.")
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", shape)

    @classmethod
    def from_affine(cls, affine: Any, shape: Sequence[int], plane: str | None = None) -> SliceGeometry:
        """
        Choose the plane in which the volume was acquired.

        Args:
            affine: 4 x 4 RAS affine of the volume.
            shape: ``(X, Y, Z)``.
            plane: the plane to take; None: slices lie across the axis whose voxels are longer than those of both other
                axes by more than 5 %, and the nearest anatomical plane gives the name. Without such an axis: axial.
        """
        matrix = np.array(affine, dtype=np.float64)
        if plane is None:
            spacing = np.linalg.norm(matrix[:3, :3], axis=0)
            thick = int(spacing.argmax())
            if spacing[thick] > THICK_SLICE_FACTOR * np.delete(spacing, thick).max():
                plane = PLANES[int(io_orientation(matrix)[thick, 0])]
            else:
                plane = "axial"
        return cls(matrix, cast(tuple[int, int, int], tuple(shape)), plane)

    @property
    def _orientation(self) -> np.ndarray:
        """Volume axis -> (axis of (column, row, slice), flip)."""
        return ornt_transform(io_orientation(self.affine), axcodes2ornt(DISPLAY_AXCODES[self.plane]))

    def moves(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Volume axes in the order (slice, row, column), and the stack axes to flip then: how ``to_stack`` turns a volume."""
        orientation = self._orientation
        source = [int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in (2, 1, 0)]
        return tuple(source), tuple(place for place, axis in enumerate(source) if orientation[axis, 1] < 0)

    @property
    def stack_shape(self) -> tuple[int, int, int]:
        """``(N, H, W)``."""
        n, h, w = (self.shape[axis] for axis in self.moves()[0])
        return n, h, w

    @property
    def stack_affine(self) -> np.ndarray:
        """4 x 4 affine from (column, row, slice) index of the stack to RAS position in mm."""
        return np.asarray(self.affine @ inv_ornt_aff(self._orientation, self.shape))

    @property
    def pixel_spacing(self) -> tuple[float, float]:
        """Distance in mm between rows and between columns, in this order (as DICOM's PixelSpacing)."""
        column, row = np.linalg.norm(self.stack_affine[:3, :2], axis=0)
        return float(row), float(column)

    @property
    def voxel_volume(self) -> float:
        """Of a voxel, in mm³."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))

    @property
    def _normal(self) -> np.ndarray:
        affine = self.stack_affine
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        normal = normal / np.linalg.norm(normal)
        return normal if normal @ affine[:3, 2] > 0 else -normal

    @property
    def slice_spacing(self) -> float:
        """Distance in mm between neighbouring slices, along their normal."""
        return float(self._normal @ self.stack_affine[:3, 2])

    @property
    def positions(self) -> np.ndarray:
        """``(N,)`` positions in mm of the slices along their normal, ascending."""
        affine = self.stack_affine
        return self._normal @ affine[:3, 3] + self.slice_spacing * np.arange(self.stack_shape[0])

    def to_stack(self, volume: NdarrayOrTensor) -> NdarrayOrTensor:
        """
        Take a volume ``(X, Y, Z)`` apart into slices ``(N, H, W)``; a MetaTensor gives a plain tensor.

        Raises:
            ValueError: when the volume's shape is not this geometry's.
        """
        if tuple(volume.shape) != self.shape:
            raise ValueError(f"Expected a volume of shape {self.shape}, got {tuple(volume.shape)}.")
        if isinstance(volume, torch.Tensor):
            source, flips = self.moves()
            return _plain(volume).permute(source).flip(flips).contiguous()
        return np.array(self.view(volume), order="C")

    def view(self, volume: np.ndarray) -> np.ndarray:
        """The slices ``(N, H, W)`` of an array ``(X, Y, Z)`` of this geometry's shape, without a copy."""
        source, flips = self.moves()
        return np.flip(np.transpose(volume, source), flips)

    def to_volume(self, stack: NdarrayOrTensor) -> NdarrayOrTensor:
        """
        Put slices ``(N, H, W)`` back into the volume ``(X, Y, Z)``; the exact inverse of ``to_stack``.

        Raises:
            ValueError: when the stack's shape is not this geometry's.
        """
        if tuple(stack.shape) != self.stack_shape:
            raise ValueError(f"Expected a stack (N, H, W) of shape {self.stack_shape}, got {tuple(stack.shape)}.")
        source, flips = self.moves()
        target = tuple(int(axis) for axis in np.argsort(source))
        if isinstance(stack, torch.Tensor):
            return _plain(stack).flip(flips).permute(target).contiguous()
        return np.array(np.transpose(np.flip(stack, flips), target), order="C")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings, fit for JSON and HDF5 attributes."""
        return {"affine": self.affine.tolist(), "shape": list(self.shape), "plane": self.plane}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SliceGeometry:
        """Make it again from ``to_dict``'s values, lists or arrays."""
        x, y, z = (int(length) for length in values["shape"])
        return cls(np.asarray(values["affine"], dtype=np.float64), (x, y, z), str(values["plane"]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SliceGeometry):
            return NotImplemented
        return (
            self.shape == other.shape and self.plane == other.plane and bool(np.array_equal(self.affine, other.affine))
        )

    def __hash__(self) -> int:
        # + 0.0: -0.0 equals 0.0 and must hash alike.
        return hash(((self.affine + 0.0).tobytes(), self.shape, self.plane))


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


class AcquisitionSlices(Transform):
    """
    Take a single-channel volume ``(1, X, Y, Z)`` apart into its acquired slices ``(N, H, W)`` and their geometry.

    Args:
        plane: "axial", "coronal" or "sagittal"; None takes the plane of the files that :py:class:`SeriesReader` read,
            so that every file is a slice, and for NIfTI, which does not tell, the plane of the thick slices, axial for
            (near-)isotropic volumes: see :py:meth:`SliceGeometry.from_affine`.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __init__(self, plane: str | None = None) -> None:
        if plane is not None and plane not in DISPLAY_AXCODES:
            raise ValueError(f"plane must be None or one of {sorted(DISPLAY_AXCODES)}, got {plane!r}.")
        self.plane = plane

    def __call__(self, volume: MetaTensor) -> tuple[torch.Tensor, SliceGeometry]:
        """
        Return the stack ``(N, H, W)`` as a plain tensor of the volume's dtype, and its geometry.

        Raises:
            TypeError: when the volume is no MetaTensor: without an affine its planes are unknown.
            ValueError: when its shape is not ``(1, X, Y, Z)``.
        """
        if not isinstance(volume, MetaTensor):
            raise TypeError(
                f"Expected a MetaTensor with an affine, got {type(volume).__name__}. Load the volume with "
                "LoadImage(reader=SeriesReader(), ensure_channel_first=True)."
            )
        if volume.ndim != 4 or volume.shape[0] != 1:
            raise ValueError(
                f"Expected one volume with channel (1, X, Y, Z), got {tuple(volume.shape)}. Load one series a key, "
                "with ensure_channel_first=True."
            )
        affine = torch.as_tensor(volume.affine, dtype=torch.float64).cpu().numpy()
        plane = self.plane or volume.meta.get("plane") or None
        geometry = SliceGeometry.from_affine(affine, tuple(volume.shape[1:]), plane)
        stack = geometry.to_stack(volume.as_tensor()[0])
        return torch.as_tensor(stack), geometry


class AcquisitionSlicesd(MapTransform):
    """
    Dictionary form of :py:class:`AcquisitionSlices`; all keys share one geometry.

    Args:
        keys: volumes ``(1, X, Y, Z)`` of one shape and affine; each is replaced by its stack ``(N, H, W)``.
        geometry_key: where the :py:class:`SliceGeometry` goes.
        plane: see :py:class:`AcquisitionSlices`.
        allow_missing_keys: pass over keys that are not there.

    Raises:
        ValueError: when the volumes differ in shape or affine.
    """

    backend = AcquisitionSlices.backend

    def __init__(
        self,
        keys: KeysCollection,
        geometry_key: str = "geometry",
        plane: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.geometry_key = geometry_key
        self.slices = AcquisitionSlices(plane)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the volumes by stacks and add the geometry."""
        d = dict(data)
        geometry: SliceGeometry | None = None
        first: Hashable = None
        for key in self.key_iterator(d):
            d[key], found = self.slices(d[key])
            if geometry is None:
                geometry, first = found, key
            elif found.shape != geometry.shape or not np.allclose(found.affine, geometry.affine, atol=1e-3):
                raise ValueError(
                    f"'{first}' and '{key}' are different volumes: shape {geometry.shape} and {found.shape}, affine "
                    f"{geometry.affine.tolist()} and {found.affine.tolist()}. Resample one to the other first "
                    "(ResampleToMatchd), or give each an AcquisitionSlicesd with a geometry_key of its own."
                )
        if geometry is not None:
            d[self.geometry_key] = geometry
        return d


AcquisitionSlicesD = AcquisitionSlicesDict = AcquisitionSlicesd
