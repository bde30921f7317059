"""DICOM in: the headers of a series, and its volume."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from monai.config import PathLike
from monai.utils import ensure_tuple
from pydicom.uid import (
    JPEG2000TransferSyntaxes,
    RLELossless,
)

from .dicom_file import read_dicom
from .dicom_order import Frame, dicom_affine, in_slice_order, slice_grid, without_doubles
from .voi_lut import with_voi_lut
from .volume import LPS_TO_RAS, SeriesError, Volume, check_affine, check_size, files_of, finite_voxels, some

# Starts of JPEG images and their sides, for which decoders take memory whatever the DICOM header says.
JPEG_2000_SIZE = re.compile(rb"\xff\x4f\xff\x51.{4}(.{4})(.{4})", re.DOTALL)
JPEG_SIZE = re.compile(
    rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7].{3}(.{2})(.{2})", re.DOTALL
)  # rows, columns; JPEG-LS too


@dataclass(frozen=True, eq=False)
class DicomSlices:
    """
    Where the slices of :py:class:`SeriesReader`'s volume ``(X, Y, Z)`` come from: one entry per slice, along Z.

    Args:
        headers: the header of the file that holds the slice, without its pixels; None for a blank slice that stands in
            for a missing one.
        frames: index of the slice among the frames of its file, 0 in single-frame files and for blank slices.
        positions: ``(Z, 3)`` LPS positions in mm of the centres of the first pixels: from the headers, on the grid of
            the volume for blank slices; None where a header has none.
        orientation: ``(6,)`` directions in LPS along which column and row index grow (DICOM's ImageOrientationPatient);
            None where a header has none.
        spacing: distances in mm between rows and between columns; None where the header has none.
        affine: 4 x 4 affine of the volume, from voxel index to RAS position in mm.
    """

    headers: list[pydicom.Dataset | None]
    frames: list[int]
    positions: np.ndarray | None
    orientation: np.ndarray | None
    spacing: tuple[float, float] | None
    affine: np.ndarray


def dicom_slices(path: PathLike | Sequence[PathLike]) -> DicomSlices | None:
    """List a DICOM series' files in the order in which :py:class:`SeriesReader` puts their slices; no pixels are read.

    Args:
        path: the folder, the file, or the files, of a series that SeriesReader accepts.

    Returns:
        the headers and the geometry of each slice; None where the path holds no DICOM (NIfTI, pictures).
    """
    place, files = files_of([Path(name) for name in ensure_tuple(path)])
    read = {name: read_dicom(file, pixels=False) for name, file in files.items()}
    datasets = {name: dataset for name, dataset in read.items() if dataset is not None}
    if not datasets:
        return None
    frames, orientation, positions, _ = _in_order(place, datasets)
    if positions is not None:
        frames, _, positions, _ = without_doubles(place, frames, None, positions)
    grid, _ = slice_grid(frames, positions)
    affine, _ = dicom_affine(frames, orientation, positions, int(grid[-1]))
    check_affine(str(place), affine, "Export the series again, or leave it out.")
    headers: list[pydicom.Dataset | None] = [None] * (int(grid[-1]) + 1)
    indices = [0] * len(headers)
    located = orientation is not None and all(frame.position is not None for frame in frames)
    origins = ((LPS_TO_RAS @ affine)[:3, 2:] @ [np.arange(len(headers)), np.ones(len(headers))]).T
    for where, frame in zip(grid, frames, strict=True):
        headers[where], indices[where] = frame.dataset, frame.index
        if located:
            origins[where] = frame.position
    return DicomSlices(headers, indices, origins if located else None, orientation, frames[0].spacing, affine)


def assemble_dicom(path: Path, datasets: dict[str, pydicom.Dataset], voi_lut: bool = False) -> Volume:
    """The volume of a series, whose files ``datasets`` holds by name; ``voi_lut`` applies their windows.

    Raises:
        SeriesError: when they do not form one series, or a slice can't be decoded.
    """
    _check_pixel_data(path, datasets)
    frames, orientation, positions, warnings = _in_order(path, datasets)
    pixels, cleared = finite_voxels(str(path), _decode(path, frames))
    warnings += cleared
    shown_range = None
    if voi_lut:
        pixels, unshown, shown_range = with_voi_lut(path, frames, pixels)
        warnings += unshown
    if positions is not None:
        frames, pixels, positions, doubled = without_doubles(path, frames, pixels, positions)
        warnings += doubled
    grid, uneven = slice_grid(frames, positions)

    planes = np.stack(pixels)
    if frames[0].dataset.PhotometricInterpretation == "MONOCHROME1":
        planes = planes.max() + planes.min() - planes
    volume = np.full((int(grid[-1]) + 1, *planes.shape[1:]), planes.min(), dtype=np.float32)
    volume[grid] = planes
    files = [""] * len(volume)
    for place, frame in zip(grid, frames, strict=True):
        files[place] = frame.name
    affine, assumed = dicom_affine(frames, orientation, positions, int(grid[-1]))
    warnings += uneven + assumed
    check_affine(str(path), affine, "Export the series again, or leave it out.")
    facts = _facts(frames[0].dataset)
    return Volume(np.ascontiguousarray(volume.transpose(2, 1, 0)), affine, files, warnings, facts, shown_range)


def _in_order(
    path: Path, datasets: dict[str, pydicom.Dataset]
) -> tuple[list[Frame], np.ndarray | None, np.ndarray | None, list[str]]:
    """Take the slices of one series from its files' headers and sort them; also their orientation, positions (mm), and warnings."""
    _check_one_series(path, datasets)
    frames: list[Frame] = []
    for name, dataset in datasets.items():
        frames.extend(_frames(path, name, dataset))
    _check_same_shape(path, frames)
    check_size(str(path), (*frames[0].shape, len(frames)))
    orientation = frames[0].orientation
    warnings: list[str] = []
    if orientation is None or any(frame.orientation is None for frame in frames):
        orientation = None
        warnings.append(
            "no usable ImageOrientationPatient: taken as axial slices in standard position. Left and right, and the "
            "slice direction, can't be known from this series."
        )
    frames, positions, unplaced = in_slice_order(frames, orientation)
    return frames, orientation, positions, warnings + unplaced


def _facts(dataset: pydicom.Dataset) -> dict[str, str]:
    """The patient and the scanner of the series, as far as DICOM gives them."""

    def text(keyword: str) -> str:
        try:
            return str(dataset.get(keyword) or "").strip()
        except Exception:  # a value that can't be decoded counts as absent
            return ""

    field_strength = text("MagneticFieldStrength")
    maker = [text("Manufacturer"), text("ManufacturerModelName"), f"{field_strength} T" if field_strength else ""]
    return {"patient_id": text("PatientID"), "scanner": " ".join(filter(None, maker))}


def _check_pixel_data(path: Path, datasets: dict[str, pydicom.Dataset]) -> None:
    # First: pydicom may keep only the first elements of a truncated file.
    keywords = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    if names := [name for name, data in datasets.items() if not any(keyword in data for keyword in keywords)]:
        raise SeriesError(
            f"{path}: no pixel data in {some(names)}. Expected images: copy a truncated file again, and remove what is "
            "not an image."
        )


def _check_one_series(path: Path, datasets: dict[str, pydicom.Dataset]) -> None:
    def text(name: str, keyword: str) -> str:
        try:
            return str(datasets[name].get(keyword, "") or "")
        except Exception as error:
            raise _unusable(path, name, error) from error

    series = {name: text(name, "SeriesInstanceUID") for name in datasets}
    counts = Counter(series.values())
    if len(counts) == 1:
        return
    descriptions = {uid: text(name, "SeriesDescription") for name, uid in series.items()}
    found = "; ".join(
        f"{uid or 'no SeriesInstanceUID'} '{descriptions[uid]}' ({n} files)" for uid, n in counts.most_common()
    )
    raise SeriesError(
        f"{path}: found {len(counts)} series in one folder: {found}. Expected one. Move each series into a folder of "
        "its own and pass that folder."
    )


def _frames(path: Path, name: str, dataset: pydicom.Dataset) -> list[Frame]:
    """Read the needed attributes from one file's header."""
    try:
        photometric = dataset.PhotometricInterpretation
        if photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise SeriesError(
                f"{path}: {name} holds {photometric} pixels, expected grey values (MONOCHROME1 or MONOCHROME2). Pass "
                "the acquired series instead of a screenshot or colour map."
            )
        count = int(dataset.get("NumberOfFrames", 1) or 1)
        check_size(f"{path}: {name}", (int(dataset.Rows), int(dataset.Columns), count))
        if count > 1 and len(dataset.get("PerFrameFunctionalGroupsSequence", ())) != count:
            raise SeriesError(
                f"{path}: {name} holds {count} frames without a position for each "
                "(PerFrameFunctionalGroupsSequence). Pass the series as one file per slice, or as Enhanced MR."
            )
        return [_frame(name, dataset, index, count) for index in range(count)]
    except SeriesError:
        raise
    except Exception as error:
        raise _unusable(path, name, error) from error


def _unusable(path: Path, name: str, error: Exception) -> SeriesError:
    """The error for an attribute that can't be decoded, which pydicom does on access."""
    return SeriesError(
        f"{path}: {name} has an unusable header ({type(error).__name__}: {error}). Copy it again from its source, or remove it "
        "from the folder."
    )


def _frame(name: str, dataset: pydicom.Dataset, index: int, count: int) -> Frame:
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
    return Frame(
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


def _check_same_shape(path: Path, frames: list[Frame]) -> None:
    """All slices must lie on one grid: same size, orientation, pixel spacing and grey scale."""

    def differing(what: str, groups: dict[str, list[str]]) -> None:
        if len(groups) == 1:
            return
        found = "; ".join(f"{key}: {some(names)}" for key, names in sorted(groups.items(), key=lambda g: -len(g[1])))
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


def _decode(path: Path, frames: list[Frame]) -> list[np.ndarray]:
    """Decode each file once; (rows, columns) float32 after rescaling, in the order of ``frames``."""
    decoded: dict[int, np.ndarray] = {}
    pixels = []
    for frame in frames:
        key = id(frame.dataset)
        if key not in decoded:
            try:
                syntax = frame.dataset.file_meta.TransferSyntaxUID
                if syntax.is_compressed and syntax != RLELossless:
                    sizes = JPEG_2000_SIZE if syntax in JPEG2000TransferSyntaxes else JPEG_SIZE
                    for size in sizes.findall(frame.dataset.PixelData):
                        check_size(f"{path}: {frame.name}", [int.from_bytes(side, "big") for side in size])
                decoded[key] = frame.dataset.pixel_array.reshape(-1, *frame.shape)
            except SeriesError:
                raise
            except Exception as error:
                syntax = frame.dataset.file_meta.get("TransferSyntaxUID", "")
                reason = " ".join(str(error).split())  # pydicom's has a line for each of its plugins
                raise SeriesError(
                    f"{path}: the pixels of {frame.name} can't be decoded ({getattr(syntax, 'name', syntax)}; "
                    f"{reason}). The file is truncated or damaged, or its compression is not supported: copy it again, "
                    "or decompress it with `gdcmconv --raw`."
                ) from error
        plane = decoded[key][frame.index].astype(np.float32)
        if frame.slope != 1 or frame.intercept != 0:
            plane = plane * np.float32(frame.slope) + np.float32(frame.intercept)
        pixels.append(plane)
    return pixels
