"""A series in memory, from any format, and the limits of plausible brain series."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation

from .planes import PLANES

# LPS -> RAS in homogeneous coordinates. As an affine it is also DICOM's default orientation: columns to the patient's
# left, rows to the back, slices to the head, 1 mm.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Limits on what a header may declare, before memory is taken. Eleven times a volume of BraTS, 380 slices of 512 x 512; reading
# that much takes about 1 GB.
MAX_SIDE = 4096
MAX_VOXELS = 100_000_000
# mm; a voxel of an image of a person, and how far from the scanner's centre it may lie, are well within them.
SHORTEST_SIDE, LONGEST_SIDE, FARTHEST = 1e-3, 1e3, 1e6
FLATTEST = 1e-3  # volume of a voxel relative to a box with its sides
LARGEST_VALUE = 1e30  # float32 ends at 3e38; computations with larger values overflow


class SeriesError(ValueError):
    """An input series that can't be used; the message names the file, what was found and the remedy."""


@dataclass
class Volume:
    """Voxels ``(X, Y, Z)``, their RAS affine, the file of each slice ("" for a blank one), warnings, facts from DICOM, and the values of black and white."""

    array: np.ndarray
    affine: np.ndarray
    slice_files: list[str]
    warnings: list[str]
    facts: dict[str, str] = field(default_factory=dict)
    shown_range: tuple[float, float] | None = None

    @property
    def plane(self) -> str:
        """Of the files' slices; "" for NIfTI, which has none."""
        return PLANES[int(io_orientation(self.affine)[2, 0])] if self.slice_files else ""


def some(names: Any, limit: int = 4) -> str:
    """Join names for a message, and say how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def check_size(where: str, shape: Sequence[int]) -> None:
    """Refuse sizes that no brain series has, before memory is taken."""
    if max(shape) > MAX_SIDE or math.prod(shape) > MAX_VOXELS:
        raise SeriesError(
            f"{where}: the header declares {' x '.join(map(str, shape))} voxels, expected at most {MAX_SIDE} per side and "
            f"{MAX_VOXELS:,} in a series. The header is damaged, or this is not a series of one brain: export it again."
        )


def check_affine(where: str, affine: np.ndarray, remedy: str) -> None:
    """Refuse an impossible geometry: NaN, sides of no length or of kilometres, flat voxels."""
    sides = np.linalg.norm(affine[:3, :3], axis=0) if np.isfinite(affine).all() else np.zeros(3)
    box = float(np.prod(sides))
    usable = (
        sides.min() >= SHORTEST_SIDE
        and sides.max() <= LONGEST_SIDE
        and abs(np.linalg.det(affine[:3, :3])) >= FLATTEST * box
        and np.abs(affine[:3, 3]).max() <= FARTHEST
    )
    if not usable:
        raise SeriesError(
            f"{where}: unusable affine {affine.tolist()}, expected voxels of {SHORTEST_SIDE:g} to {LONGEST_SIDE:g} mm in three directions, "
            f"at most {FARTHEST:g} mm from the scanner's centre. {remedy}"
        )


def finite_voxels(where: str, arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[str]]:
    """Arrays with 0 in place of NaN, infinity and extreme values, and the warning.

    Raises:
        SeriesError: when nothing else is in them.
    """
    # NaN is neither, and finding the extremes takes no memory
    if all(array.size and array.min() >= -LARGEST_VALUE and array.max() <= LARGEST_VALUE for array in arrays):
        return list(arrays), []
    bad = [~(np.abs(array) <= LARGEST_VALUE) for array in arrays]
    count = sum(int(one.sum()) for one in bad)
    if count == sum(array.size for array in arrays):
        raise SeriesError(
            f"{where}: all voxels are NaN, infinite, or beyond ±{LARGEST_VALUE:g}. Export the series again."
        )
    cleared = [np.where(wrong, np.float32(0), array) for wrong, array in zip(bad, arrays, strict=True)]
    return cleared, [f"{count} NaN or infinite voxels set to 0."]


def files_of(paths: Path | Sequence[Path]) -> tuple[Path, dict[str, Path]]:
    """The location of a series, and the files that may belong to it by their names.

    Args:
        paths: a folder, a file, or the files of a series that shares its folder with others.

    Raises:
        SeriesError: when one is missing.
    """
    listed = [paths] if isinstance(paths, Path) else list(paths)
    for path in listed:
        if not path.exists():
            raise SeriesError(f"{path}: no such file or folder. Check the path of the series in the data list.")
    if len(listed) == 1:
        (place,) = listed
        files = [entry for entry in entries_of(place) if entry.is_file()] if place.is_dir() else listed
        return place, {file.name: file for file in files}
    place = Path(os.path.commonpath(listed))
    return place, {file.relative_to(place).as_posix(): file for file in listed}


def entries_of(folder: Path) -> list[Path]:
    """The content of a folder, without hidden files."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
