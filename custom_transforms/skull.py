"""Whether a series shows the skull, from its voxels alone.

Seen from outside, a head has a bright scalp, dark bone and then the brain; an extracted brain has none of these. Air is noise
from a scanner, and one value from a skull-stripping program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from .geometry import SliceGeometry
from .intensity import background_to_zero

PIXEL = 2.0  # mm between the sampled pixels
SLICE_DISTANCE = 4.0  # mm between the sampled slices
WINDOW = (1, 99)  # percentiles used as black and white
DARK = 0.1  # of the white level: darker voxels may be air
SAME = 1e-3  # of the white level: values that differ by less are equal
SECTORS = 12  # patches of the surface in a slice
RIM = 36.0  # mm of depth under the surface
LAYER_DEPTHS = (2.0, 18.0)  # mm under the surface, range of the bone
UNDER_LAYER = 18.0  # mm under the bone, range in which the brain must appear
LAYER_CONTRAST = 2.0  # how much brighter scalp and brain are than the bone between them
LARGE_SLICE = 0.5  # of the largest slice: smaller ones are at the crown or the neck
FEWEST_PATCHES = 24
LEAST_AIR = 0.02  # of the voxels: with less air around it no surface shows

# Share of surface patches with bone under them: at most 0.08 on 118 stripped series, at least 0.48 on heads, 0.38
# on halves of them.
LAYERED_SKULL = 0.3
LAYERED_STRIPPED = 0.2
# Share of the air that is not background: at most 0.001 on stripped series, at least 0.79 where
# the air is as acquired.
NOISE_SKULL = 0.25
NOISE_STRIPPED = 0.05
LARGEST_BRAIN = 235.0  # cm², largest slice of it; brains have 155 to 205, heads 250 and more


@dataclass(frozen=True)
class SkullFinding:
    """What a series shows around the brain.

    Attributes:
        verdict: "skull", "stripped", or "unclear".
        layered: share (0…1) of the surface under which a dark layer (bone) lies between two that are twice as bright.
        air_noise: share (0…1) of the air that has another value than the background.
        area: largest slice of what is shown, cm².
        reason: the deciding figures, as part of a sentence.
        seen: whether enough surface shows to decide at all; "unclear" where it does not.
    """

    verdict: Literal["skull", "stripped", "unclear"]
    layered: float
    air_noise: float
    area: float
    reason: str
    seen: bool = True

    def __bool__(self) -> bool:
        raise TypeError("a SkullFinding has three outcomes: ask for its verdict")


def has_skull(volume: np.ndarray, affine: np.ndarray) -> SkullFinding:
    """Look for the skull around the brain.

    Any modality, and any uniform background. The head may be cut off by the borders of the volume, on any side.

    Args:
        volume: ``(X, Y, Z)``, finite grey values, whatever their scale.
        affine: 4 x 4, voxel index to RAS position in mm.

    Returns:
        the finding; "unclear" where too little of a surface shows or the signs contradict each other, which callers treat as an
        error that ``--brain`` decides.
    """
    geometry = SliceGeometry.from_affine(affine, volume.shape)
    steps = [max(1, round(PIXEL / side)) for side in geometry.pixel_spacing]
    step = max(1, round(SLICE_DISTANCE / geometry.slice_spacing))
    pixel = tuple(side * n for side, n in zip(geometry.pixel_spacing, steps, strict=True))
    stack = np.ascontiguousarray(geometry.view(volume)[::step, :: steps[0], :: steps[1]], dtype=np.float32)
    stack, _ = background_to_zero(stack)
    if np.ptp(np.percentile(stack, WINDOW)) <= 0:
        return SkullFinding("unclear", 0.0, 0.0, 0.0, "almost all of it has one value", False)
    stack = _scaled(stack)
    heads = np.stack([_silhouette(one) for one in stack])
    areas = heads.sum((1, 2)) * (pixel[0] * pixel[1] / 100)
    noise, air = _air(stack, heads)
    layered, patches = _layered(stack, heads, areas, float(np.sqrt(pixel[0] * pixel[1])))
    return _verdict(layered, patches, noise, air, float(areas.max()))


def _verdict(layered: float, patches: int, noise: float, air: float, area: float) -> SkullFinding:
    reason = (
        f"under {layered:.0%} of its surface lies a dark layer between bright ones, {noise:.0%} of the air is noise, "
        f"its largest slice has {area:.0f} cm²"
    )
    if air < LEAST_AIR or patches < FEWEST_PATCHES:
        return SkullFinding(
            "unclear", layered, noise, area, "it shows too little of the surface of a head or brain", False
        )
    if layered >= LAYERED_SKULL or noise >= NOISE_SKULL:
        return SkullFinding("skull", layered, noise, area, reason)
    if layered <= LAYERED_STRIPPED and noise <= NOISE_STRIPPED and area <= LARGEST_BRAIN:
        return SkullFinding("stripped", layered, noise, area, reason)
    return SkullFinding("unclear", layered, noise, area, reason)


def shown(volume: np.ndarray) -> np.ndarray:
    """The object in each slice ``(X, Y)`` of a volume ``(X, Y, Z)``, its largest part without holes, bool; empty for a constant volume."""
    if np.ptp(np.percentile(volume, WINDOW)) <= 0:
        return np.zeros(volume.shape, bool)
    scaled = _scaled(np.asarray(volume, np.float32))
    return np.stack([_silhouette(np.ascontiguousarray(scaled[:, :, z])) for z in range(volume.shape[2])], -1) > 0


def _scaled(stack: np.ndarray) -> np.ndarray:
    """Grey values with the background, the most frequent of the dark ones, at 0, and 1 from there to white."""
    lowest, white = np.percentile(stack, WINDOW)
    levels, counts = np.unique(stack[stack <= lowest + DARK * (white - lowest)], return_counts=True)
    return np.asarray((stack - levels[counts.argmax()]) / (white - lowest))


def _silhouette(one: np.ndarray) -> np.ndarray:
    """The object in a slice ``(H, W)``, its largest part without holes, uint8."""
    bright = cv2.medianBlur((one > DARK).astype(np.uint8), 3)
    bright = cv2.morphologyEx(bright, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    contours = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    largest = sorted(contours, key=cv2.contourArea)[-1:]
    return cv2.drawContours(np.zeros_like(bright), largest, -1, 1, cv2.FILLED)


def _air(stack: np.ndarray, heads: np.ndarray) -> tuple[float, float]:
    """Share of the air that is not the background (0), and the air's share of all voxels; a pixel's distance is kept."""
    near = np.stack([cv2.dilate(head, np.ones((3, 3), np.uint8)) for head in heads])
    air = stack[(near == 0) & (stack <= DARK)]
    return float(np.mean(np.abs(air) > SAME)) if air.size else 0.0, air.size / stack.size


def _layered(stack: np.ndarray, heads: np.ndarray, areas: np.ndarray, pixel: float) -> tuple[float, int]:
    """Share of the patches of the surface under which bone lies, and how many patches there are.

    A patch is a 30° sector of a slice about the middle of the head; its profile is the median grey value by depth.
    """
    shell = max(PIXEL, pixel)
    shells = int(RIM / shell)
    keys, values = [], []
    large = np.flatnonzero((areas >= LARGE_SLICE * areas.max()) & (areas > 0))
    for place, index in enumerate(large):
        head = heads[index]
        # the head continues beyond the image border
        padded = np.pad(head, 1, mode="edge")
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1] * (pixel / shell)
        rows, columns = np.nonzero(head)
        angle = np.arctan2(rows - rows.mean(), columns - columns.mean())
        sector = ((angle / (2 * np.pi) + 0.5) * SECTORS).astype(int) % SECTORS
        level = np.minimum(depth[rows, columns], shells).astype(int)  # infinite without a visible surface
        near = level < shells
        keys.append(((place * SECTORS + sector) * shells + level)[near])
        values.append(stack[index][rows, columns][near])
    if not keys:
        return 0.0, 0
    profiles = _medians(np.concatenate(keys), np.concatenate(values), len(large) * SECTORS * shells)
    profiles = profiles.reshape(-1, shells)
    profiles = profiles[np.isfinite(profiles[:, : int(LAYER_DEPTHS[1] / shell)]).sum(1) > 2]
    if not len(profiles):
        return 0.0, 0
    return float(np.mean(_dips(profiles, shell) >= LAYER_CONTRAST)), len(profiles)


def _medians(keys: np.ndarray, values: np.ndarray, size: int, fewest: int = 3) -> np.ndarray:
    """``(size,)`` medians of the values by key; NaN for keys of fewer than three values."""
    order = np.lexsort((values, keys))
    found, first, counts = np.unique(keys[order], return_index=True, return_counts=True)
    medians = np.full(size, np.nan)
    enough = counts >= fewest
    medians[found[enough]] = values[order][(first + counts // 2)[enough]]
    return medians


def _dips(profiles: np.ndarray, shell: float) -> np.ndarray:
    """Brightness of both sides of the darkest layer relative to it, for profiles by depth; 1 without a layer."""
    dips = np.ones(len(profiles))
    known = np.where(np.isfinite(profiles), profiles, -np.inf)
    reach = int(UNDER_LAYER / shell)
    for index in range(max(1, int(LAYER_DEPTHS[0] / shell)), int(LAYER_DEPTHS[1] / shell)):
        outside = known[:, :index].max(1)
        inside = known[:, index + 1 : index + 1 + reach].max(1)
        rim = np.minimum(outside, inside) / np.maximum(profiles[:, index], 0.02)
        dips = np.fmax(dips, rim)
    return dips
