"""A perceptual fingerprint of a series: its coarse appearance, independent of grid, orientation, pose and grey values.

The brain is put upright (its long axis, then the mirror symmetry of its outline), averaged in cells of 8 mm, ranked, and high-pass
filtered; the result is divided by its local contrast. Copies of one series then agree, brains of different patients
do not. Only series of the same modality can be compared, both with or both without the skull.
"""

from __future__ import annotations

import base64
import itertools
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

try:
    from scipy import ndimage
except ImportError:  # installed where patients are compared; prediction needs neither
    ndimage = None

CELL = 8.0
"""Side of a cell in mm."""
GRID = (18, 22, 18)
"""Cells from left to right, from back to front, from foot to head."""
SAME = 0.78
"""Similarity from which two series count as copies. Of 26 real patients 0.71 at most between two, 0.84 at least between copies (docs/evaluate.md)."""
LEAST_SHARED = 0.6
"""Of the cells of the smaller brain, those that both must show to be compared."""
_SMALL = 4.0  # mm, of the voxels that all is computed on
_DETAIL = 1.0  # cells; what varies more slowly is left out
_LEVELS = 7  # of the values that are kept, on either side of 0
_SPREAD = 2.5  # local contrasts at the highest level
_OUTSIDE = 15
_WITHIN = 0.9  # of a cell, at least so much is brain
_DARKEST, _NOISE = (
    0.02,
    0.1,
)  # of the white level: the least of a brain that was cut out, and of one in the noise of air
_AIR_IS_ZERO = 0.2  # of the voxels: so many zeros are a background that was cut out
_ROLLS = np.deg2rad(np.arange(-24, 25, 3))
_TOP = np.deg2rad(13)  # on either side of the best roll
_SHIFTS = tuple(
    itertools.product((-1, 0, 1), repeat=2)
)  # cells front to back and foot to head; cut-off copies need them
_TILTS = (-10, -5, 5, 10)  # degrees to one side; the outline of some brains leaves that open


def fingerprint(volume: np.ndarray, affine: np.ndarray) -> str:
    """The fingerprint of a series, about 2 kB of text; "" where nothing of a brain's size is visible, or SciPy is not installed.

    Args:
        volume: ``(X, Y, Z)`` grey values with a background of 0, whatever their scale.
        affine: 4 x 4, voxel index to RAS position in mm.
    """
    if ndimage is None:
        return ""
    small, place = _shrunk(np.asarray(volume), np.asarray(affine, dtype=np.float64))
    brain = _brain(small)
    if brain.sum() * abs(np.linalg.det(place[:3, :3])) < 1e5:  # mm³
        return ""
    centre, axes = _pose(brain, place)
    values, weights = _cells(small, brain, place, centre, axes)
    inside = weights > _WITHIN
    if inside.sum() < 50:
        return ""
    return _packed(_details(values / np.maximum(weights, 1e-3), inside), inside)


def similarity(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """How alike series look, ``(len(first), len(second))`` from -1 to 1; 0 for those that can't be compared.

    Args:
        first: fingerprints of series of one modality.
        second: others of the same modality.
    """
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)), dtype=np.float32)
    values, inside = _unpacked(first)
    others, shown = _unpacked(second)
    best = np.full((len(first), len(second)), -1.0, dtype=np.float32)
    size = np.minimum.outer(inside.sum((1, 2, 3)), shown.sum((1, 2, 3)))
    flat, mask = (array.reshape(len(first), -1) for array in (values, inside))
    for moved, seen in _placed(others, shown):
        shared = mask @ seen.T
        norm = np.sqrt((flat**2 @ seen.T) * (mask @ (moved**2).T))
        found = np.where(shared >= LEAST_SHARED * size, flat @ moved.T / np.maximum(norm, 1e-6), 0)
        best = np.maximum(best, found)
    return np.where(size > 0, best, 0).astype(np.float32)


def _shrunk(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of blocks of about 4 mm, and their affine."""
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    steps = np.minimum(np.maximum(1, np.round(_SMALL / sides)).astype(int), volume.shape)
    counts = np.array(volume.shape) // steps
    small = volume[tuple(slice(0, n * step) for n, step in zip(counts, steps, strict=True))]
    for axis in range(3):
        if steps[axis] > 1:
            shape = (*small.shape[:axis], counts[axis], steps[axis], *small.shape[axis + 1 :])
            small = small.reshape(shape).sum(axis + 1, dtype=np.float32)
    place = affine.copy()
    place[:3, 3] += affine[:3, :3] @ ((steps - 1) / 2)
    place[:3, :3] *= steps
    return np.asarray(small, dtype=np.float32) / np.float32(np.prod(steps)), place


def _brain(small: np.ndarray) -> np.ndarray:
    """The largest piece of what is not background."""
    nowhere = np.zeros(small.shape, dtype=bool)
    shown = small[small > 0]
    if not shown.size:
        return nowhere
    least = _DARKEST if np.mean(small == 0) > _AIR_IS_ZERO else _NOISE
    pieces, count = ndimage.label(small > least * np.percentile(shown, 98))
    if not count:
        return nowhere
    return np.asarray(ndimage.binary_fill_holes(pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])))


def _pose(brain: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre of a brain (mm, RAS), and its axes to the right, to the front and up, as columns.

    The longest axis is stable; the two others are nearly equal in some heads, so the symmetry of the outline decides there.
    """
    points = np.argwhere(brain) @ place[:3, :3].T + place[:3, 3]
    centre = points.mean(0)
    points -= centre
    _, vectors = np.linalg.eigh(np.cov(points.T))
    front = vectors[:, np.abs(vectors[1]).argmax()]
    front = front * np.sign(front[1])
    right = np.array([1.0, 0.0, 0.0]) - front[0] * front
    right /= np.linalg.norm(right)
    up = np.cross(right, front)
    turned = points @ np.stack([right, front, up], axis=1)
    scores = np.array([_mirrored(turned, angle) for angle in _ROLLS])
    near = np.abs(_ROLLS - _ROLLS[scores.argmax()]) < _TOP
    bend, slope, _ = np.polyfit(_ROLLS[near], scores[near], 2)
    angle = np.clip(-slope / (2 * bend), _ROLLS[0], _ROLLS[-1]) if bend < 0 else 0.0
    cos, sin = np.cos(angle), np.sin(angle)
    return centre, np.stack([cos * right + sin * up, front, cos * up - sin * right], axis=1)


def _mirrored(points: np.ndarray, angle: float) -> float:
    """How well an outline, rotated by an angle, agrees with its mirror image in the frontal view."""
    x = points[:, 0] * np.cos(angle) + points[:, 2] * np.sin(angle)
    z = points[:, 2] * np.cos(angle) - points[:, 0] * np.sin(angle)
    places = [np.clip((one / (CELL / 2) + 24).astype(int), 0, 47) for one in (x, z)]
    seen = np.bincount(places[0] * 48 + places[1], minlength=48 * 48).reshape(48, 48).astype(np.float32)
    seen = ndimage.gaussian_filter(seen, 2.0)
    return float((seen * seen[::-1]).sum() / (seen**2).sum())


def _cells(
    small: np.ndarray, brain: np.ndarray, place: np.ndarray, centre: np.ndarray, axes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Grey values of the brain times its share, and its share, of every cell."""
    sides = np.linalg.norm(place[:3, :3], axis=0)
    blur = np.sqrt(np.maximum((0.42 * CELL) ** 2 - (0.3 * sides) ** 2, 0)) / sides
    steps = [(np.arange(n) - (n - 1) / 2) * CELL for n in GRID]
    points = axes @ np.stack(np.meshgrid(*steps, indexing="ij")).reshape(3, -1) + centre[:, None]
    back = np.linalg.inv(place)
    where = back[:3, :3] @ points + back[:3, 3:]
    share = brain.astype(np.float32)
    sampled = [
        ndimage.map_coordinates(ndimage.gaussian_filter(array, blur, truncate=2.5), where, order=1).reshape(GRID)
        for array in (small * share, share)
    ]
    return sampled[0], sampled[1]


def _details(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Ranks of the grey values without what varies slowly, in local contrasts."""
    ranks = np.zeros(GRID, dtype=np.float32)
    ranks[inside] = np.argsort(np.argsort(values[inside])) / inside.sum()
    share = inside.astype(np.float32)
    near = np.maximum(ndimage.gaussian_filter(share, _DETAIL), 1e-3)
    rest = (ranks - ndimage.gaussian_filter(ranks, _DETAIL) / near) * share
    contrast = np.sqrt(ndimage.gaussian_filter(rest**2, _DETAIL) / near)
    return np.asarray(rest / (contrast + 0.15 * contrast[inside].mean() + 1e-6))


def _packed(details: np.ndarray, inside: np.ndarray) -> str:
    """Four bits a cell, compressed, as text."""
    levels = np.clip(np.round(details * (_LEVELS / _SPREAD)), -_LEVELS, _LEVELS).astype(int) + _LEVELS
    cells = np.where(inside, levels, _OUTSIDE).astype(np.uint8).ravel()
    return base64.b85encode(zlib.compress((cells[::2] << 4 | cells[1::2]).tobytes(), 9)).decode()


def _unpacked(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Details and where they are known, ``(n, *GRID)`` float32 each; nowhere for texts that are no fingerprints."""
    values, inside = (np.zeros((len(texts), *GRID), dtype=np.float32) for _ in range(2))
    for place, text in enumerate(texts):
        try:
            packed = np.frombuffer(zlib.decompress(base64.b85decode(text)), dtype=np.uint8)
        except (ValueError, zlib.error):
            continue
        cells = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)
        if cells.size != np.prod(GRID):
            continue
        known = cells.reshape(GRID) != _OUTSIDE
        inside[place] = known
        values[place] = np.where(known, cells.reshape(GRID).astype(np.float32) - _LEVELS, 0)
    return values, inside


def _placed(values: np.ndarray, inside: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Details and where they are known, ``(n, cells)``, moved and tilted as copies may be against each other."""
    flat = (len(values), -1)
    for back, up in _SHIFTS:
        yield _shifted(values, back, up).reshape(flat), _shifted(inside, back, up).reshape(flat)
    for angle in _TILTS:
        tilted, seen = (ndimage.rotate(one, angle, axes=(1, 3), reshape=False, order=1) for one in (values, inside))
        known = (seen > 0.5).astype(np.float32)
        yield (tilted * known).reshape(flat), known.reshape(flat)


def _shifted(stacks: np.ndarray, back: int, up: int) -> np.ndarray:
    """Stacks ``(n, *GRID)`` moved by so many cells, with 0 where nothing was."""
    padded = np.pad(stacks, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return padded[:, :, 1 - back : 1 - back + GRID[1], 1 - up : 1 - up + GRID[2]]
