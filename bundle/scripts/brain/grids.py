"""Volumes on their grids in the scanner: orientation, masks moved from one grid to another, and the pieces of a mask.

Every mask and image here is ``(X, Y, Z)`` with a 4 x 4 affine from voxel index to RAS position in mm.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

_RAS = np.array([[0, 1], [1, 1], [2, 1]])
SLAB = 4_000_000  # voxels resampled at a time, because coordinates take much memory


def canonical(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The volume with axes as close as possible to right, anterior and superior, and its affine.

    Results on it do not depend on the stored orientation.
    """
    turn = io_orientation(affine)
    turned = np.ascontiguousarray(apply_orientation(volume, turn))
    return turned, np.asarray(affine @ inv_ornt_aff(turn, volume.shape))


def steady(affine: np.ndarray) -> np.ndarray:
    """An affine rounded so that DICOM and NIfTI headers of a series agree; at most 0.03 mm are lost."""
    rounded = np.round(affine, 4)
    rounded[:3, 3] = np.round(affine[:3, 3], 2)
    return rounded


def as_stored(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A canonical volume back in the original axes, those of the affine given to :func:`canonical`."""
    return np.ascontiguousarray(apply_orientation(volume, ornt_transform(_RAS, io_orientation(affine))))


def millilitres(mask: np.ndarray, affine: np.ndarray) -> float:
    """Volume of a mask."""
    return float(np.count_nonzero(mask) * abs(np.linalg.det(affine[:3, :3])) / 1000)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice coefficient of two masks; 1 for two empty ones."""
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero((first > 0) & (second > 0)) / total if total else 1.0


def centre(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Middle of a mask's voxels ``(3,)``, RAS mm."""
    places = [np.arange(n) for n in mask.shape]
    total = np.count_nonzero(mask)
    counts = [np.count_nonzero(mask, axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    index = np.array([place @ count / total for place, count in zip(places, counts, strict=True)])
    return np.asarray(affine[:3, :3] @ index + affine[:3, 3])


def carried(
    values: np.ndarray,
    affine: np.ndarray,
    shape: Sequence[int],
    to_affine: np.ndarray,
    transform: np.ndarray | None = None,
) -> np.ndarray:
    """Values of one grid on another, float32 ``shape``; trilinear between voxels, NaN where the first grid does not reach.

    The first grid extends half a voxel beyond its outermost voxel centres.

    Args:
        values: ``(X, Y, Z)``.
        affine: of ``values``.
        shape: of the grid to fill.
        to_affine: of the grid to fill.
        transform: 4 x 4, RAS mm on the grid to fill to RAS mm of ``values``; None for the identity.
    """
    to_index = np.linalg.inv(affine) @ (np.eye(4) if transform is None else transform) @ to_affine
    source = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None, None]
    size = np.array(values.shape)
    out = np.empty(tuple(shape), np.float32)
    rows, columns = np.arange(shape[1])[:, None], np.arange(shape[2])[None]
    step = max(1, SLAB // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        slabs = np.arange(start, min(start + step, shape[0]))[:, None, None]
        index = [
            to_index[a, 0] * slabs + to_index[a, 1] * rows + to_index[a, 2] * columns + to_index[a, 3] for a in range(3)
        ]
        inside = np.logical_and.reduce([(i >= -0.5) & (i <= n - 0.5) for i, n in zip(index, size, strict=True)])
        # grid_sample wants -1 ... 1 between the borders of the outermost voxels, and the last axis first
        grid = np.stack([(2 * index[a] + 1) / size[a] - 1 for a in (2, 1, 0)], axis=-1).astype(np.float32)
        sampled = torch.nn.functional.grid_sample(
            source, torch.from_numpy(grid)[None], padding_mode="border", align_corners=False
        )
        out[start : start + step] = np.where(inside, sampled[0, 0].numpy(), np.nan)
    return out


def same_grid(shape: Sequence[int], affine: np.ndarray, other_shape: Sequence[int], other_affine: np.ndarray) -> bool:
    """Whether two grids are the same: equal shapes, and corners within a tenth of a voxel."""
    if tuple(shape) != tuple(other_shape):
        return False
    corners = np.array([[x, y, z, 1] for x in (0, shape[0]) for y in (0, shape[1]) for z in (0, shape[2])])
    apart = np.abs((affine - other_affine)[:3] @ corners.T).max()
    return bool(apart < 0.1 * np.linalg.norm(affine[:3, :3], axis=0).min())


def pieces(mask: np.ndarray) -> np.ndarray:
    """Number of the piece ``(X, Y, Z)`` that each voxel of a mask belongs to, 0 outside; voxels touch by their faces."""
    labels = np.zeros(mask.shape, np.int32)
    count = 0
    parents = [0]

    def root(label: int) -> int:
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    for index, plane in enumerate(mask):
        found, numbers = cv2.connectedComponents(np.ascontiguousarray(plane, np.uint8), connectivity=4)
        labels[index] = np.where(numbers > 0, numbers + count, 0)
        parents += range(count + 1, count + found)
        count += found - 1
        if index:
            both = (labels[index] > 0) & (labels[index - 1] > 0)
            pairs = np.unique(labels[index][both].astype(np.int64) << 32 | labels[index - 1][both])
            for pair in pairs.tolist():
                parents[root(pair >> 32)] = root(pair & 0xFFFFFFFF)
    return np.array([root(label) for label in range(count + 1)], np.int32)[labels]


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """The largest piece of a mask, bool; an empty mask stays so."""
    found = pieces(mask)
    counts = np.bincount(found.ravel())
    counts[0] = 0
    return np.asarray((found == counts.argmax()) & (counts.max() > 0))


def filled(mask: np.ndarray) -> np.ndarray:
    """A mask, bool, with its holes filled."""
    outside = pieces(np.pad(mask == 0, 1, constant_values=True))
    return np.asarray(outside != outside[0, 0, 0])[1:-1, 1:-1, 1:-1]
