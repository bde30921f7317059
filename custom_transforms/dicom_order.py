"""The order of a DICOM series' slices in space, gaps in it, and its affine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from .volume import LPS_TO_RAS, SeriesError, some

SAME_POSITION_MM = 0.01
GAP_FACTOR = 1.5
# Slices farther than this share of the spacing from a regular grid count as unevenly spaced.
UNEVEN_FRACTION = 0.25


@dataclass(frozen=True)
class Frame:
    """One slice of a series: its header data, before its pixels are decoded."""

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


def in_slice_order(
    frames: list[Frame], orientation: np.ndarray | None
) -> tuple[list[Frame], np.ndarray | None, list[str]]:
    """Sort slices along the normal; also their positions in mm, None where the header has none, and warnings."""
    warnings: list[str] = []
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
        return ordered, None, warnings
    order = np.argsort(places, kind="stable")
    return [frames[place] for place in order], places[order], warnings


def _in_number_order(frames: list[Frame]) -> tuple[list[Frame], str]:
    for keyword, how in (("instance", "InstanceNumber"), ("number", "the number in the file name")):
        numbers = [getattr(frame, keyword) for frame in frames]
        if None not in numbers and len(set(numbers)) == len(numbers):
            return [frame for _, frame in sorted(zip(numbers, frames, strict=True), key=lambda pair: pair[0])], how
    return sorted(frames, key=lambda frame: frame.name), "file name"


def without_doubles(
    path: Path, frames: list[Frame], pixels: list[np.ndarray] | None, positions: np.ndarray
) -> tuple[list[Frame], list[np.ndarray], np.ndarray, list[str]]:
    """Keep the first slice at each position; without pixels (None) those at one position count as equal. Also gives warnings."""
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
                f"({positions[place]:.2f} mm along the slice normal) with different pixels. Expected one slice per "
                "position. Split the series (time points, echoes, two acquisitions) into folders and pass one."
            )
    warnings = [f"{len(dropped)} duplicate slices dropped: {some(dropped)}."] if dropped else []
    planes = [] if pixels is None else [pixels[place] for place in kept]
    return [frames[place] for place in kept], planes, positions[kept], warnings


def slice_grid(frames: list[Frame], positions: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
    """Give each slice its index in the volume; missing indices are the blank slices. Also gives warnings."""
    regular = np.arange(len(frames))
    if positions is None or len(frames) < 3:
        return regular, []
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
        where = some(
            f"{round(steps[place] / median) - 1} between {frames[place].name} ({positions[place]:.1f} mm) and "
            f"{frames[place + 1].name} ({positions[place + 1]:.1f} mm)"
            for place in np.flatnonzero(gaps)
        )
        text = f"{missing} slices missing: {where}. "
        spacing = (positions[-1] - positions[0]) / grid[-1]
        if deviation(grid) <= UNEVEN_FRACTION * spacing and missing <= len(frames):
            text += (
                "Blank slices stand in for them; all others keep their place in the patient within "
                f"{deviation(grid):.1f} mm."
            )
            return grid, [text]
        text += (
            f"They do not fit a regular grid: with the mean spacing of {mean:.2f} mm slices are up to "
            f"{deviation(regular):.1f} mm off their place in the patient."
        )
    elif deviation(regular) > UNEVEN_FRACTION * median:
        text = (
            f"unevenly spaced slices ({steps.min():.2f} to {steps.max():.2f} mm): with the mean spacing of {mean:.2f} "
            f"mm slices are up to {deviation(regular):.1f} mm off their place in the patient."
        )
    else:
        return regular, []
    return regular, [text]


def dicom_affine(
    frames: list[Frame], orientation: np.ndarray | None, positions: np.ndarray | None, last_index: int
) -> tuple[np.ndarray, list[str]]:
    """RAS affine of (column, row, slice) indices, and warnings; frames in slice order, the last one at ``last_index``."""
    warnings: list[str] = []
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
    return LPS_TO_RAS @ lps, warnings
