"""Tissues of a slice through a synthetic brain: folds, ventricles, lesions, vessels, and tumours.

A slice is computed only on its own pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from custom_transforms.planes import PLANES

from .brains import RandomFields, SliceFields, sample_block, soft_step
from .randomisation import Brain, Tumour

NOISE_STEP = 2.0  # mm, voxel of the noise that folds and vessels come from
# To be laid over each other in this order
TISSUES = (
    "csf", "grey", "white", "oedema", "tumour", "necrosis", "enhancing", "cyst", "blood", "lesion", "vessel", "choroid", "dura", "bone",
)  # fmt: skip
# Middle and half axes of parts of the brain, mm from its middle, whose brightness does not follow from their shares of grey and white.
PARTS = {"nuclei": ((0, 12, 0), (32, 32, 20)), "stem": ((0, -13, -40), (19, 21, 34))}


@dataclass(frozen=True)
class Cut:
    """The position and extent of a slice, in scanner mm from the middle of the brain, RAS."""

    plane: str  # of the slice
    positions: np.ndarray  # (K,) of the planes that it is the mean of, along its normal
    rows: np.ndarray  # (H,) of its rows: from front to back in axial slices, else from top to bottom
    columns: np.ndarray  # (W,) of its columns: from the patient's right to left, of sagittal ones from front to back

    @property
    def axes(self) -> list[np.ndarray]:
        """Along x, y and z."""
        return {
            "axial": [self.columns, self.rows, self.positions],
            "coronal": [self.columns, self.positions, self.rows],
            "sagittal": [self.positions, self.columns, self.rows],
        }[self.plane]

    def mean(self, layer: np.ndarray) -> np.ndarray:
        """(X, Y, Z) to (H, W), the mean along the normal."""
        normal = AXES[self.plane][0]
        flat = layer.take(0, axis=normal) if len(self.positions) == 1 else layer.mean(axis=normal, dtype=np.float32)
        return flat.T


AXES = {plane: (axis, *(other for other in range(3) if other != axis)) for axis, plane in enumerate(PLANES)}
"""Of each plane: the axis of its normal, that along its columns' order, that along its rows' order."""


@lru_cache(maxsize=1)
def folding_noise() -> torch.Tensor:
    """(3, X, Y, Z): smooth noise of unit variance, from which folds and vessels are made; the same in every process."""
    axis = np.arange(-60, 60) * NOISE_STEP
    drawn = SliceFields(np.random.default_rng(67), [axis] * 3, 0)
    return torch.from_numpy(np.stack([drawn.draw(5), drawn.draw(9), drawn.draw(9)]).astype(np.float32))


def cut_tissues(brain: Brain, cut: Cut, seed: Sequence[int]) -> dict[str, np.ndarray]:
    """The content of a slice of a brain, float32 (H, W) each; the brain's random fields come from its ``seed``.

    Returns:
        The weights of ``TISSUES``, to be laid over each other in this order, ``texture``, ``mottle``, ``depth`` (mm), ``low`` (mm above the
        tentorium), ``nuclei`` and ``stem`` (where ``PARTS`` are), ``shades`` (a smooth field), ``WT`` and ``ET`` (share of the slice's
        thickness).
    """
    drawn = SliceFields(np.random.default_rng([*seed, 1]), cut.axes, AXES[cut.plane][0])
    points, shapes = _mapped(brain, cut, drawn)
    sampled = brain.brain_map.sample(points)
    _, _, texture, depth, ventricle, _, _ = sampled
    layers = dict.fromkeys(TISSUES, np.float32(0))
    folded, unfolded_white, near_vessel = _folded(brain, points, sampled)
    layers |= folded
    mottle, patches = drawn.draw(6), drawn.draw(24)
    layers |= _bright_without_tumour(brain, points, sampled, layers, near_vessel, mottle, patches, drawn)
    whole = enhancing = np.zeros_like(depth)
    inside = soft_step(depth - 1, 1.5) * (1 - 0.9 * ventricle)
    for tumour, offset, radius in shapes:
        parts = _tumour_parts(tumour, offset, radius, drawn, unfolded_white, ventricle, inside)
        whole = np.maximum(whole, np.maximum(parts["oedema"], parts["tumour"]))
        for name, part in parts.items():
            layers[name] = np.maximum(layers[name], part)
        enhancing = np.maximum(enhancing, parts["enhancing"] * (1 - parts["blood"]))
    # distractors neither cover the tumour nor look through it
    for name in ("lesion", "choroid"):
        layers[name] = layers[name] * (1 - whole)
    layers["vessel"] = layers["vessel"] * (1 - 0.7 * whole)
    layers |= {"texture": texture * (1 - whole), "mottle": mottle, "depth": depth, "patches": patches}
    for name, (middle, axes) in PARTS.items():
        offset = points - np.array(middle, np.float32)[:, None, None, None]
        far = np.sqrt(((offset / np.array(axes, np.float32)[:, None, None, None]) ** 2).sum(0))
        layers[name] = soft_step(1 - far, 0.35)
    layers["shades"] = drawn.draw(45)
    layers |= {"low": points[2] + 0.3 * brain.brain_map.extent[2] - 0.12 * points[1], "WT": whole, "ET": enhancing}
    nothing = np.zeros(tuple(len(line) for line in (cut.rows, cut.columns)), np.float32)
    return {name: cut.mean(layer) if np.ndim(layer) else nothing for name, layer in layers.items()}


_Shape = tuple[Tumour, np.ndarray, np.ndarray]
"""A tumour, the position of points relative to its centre, ``(3, X, Y, Z)``, and their distance from it in its ellipsoid's measure."""


def _mapped(brain: Brain, cut: Cut, drawn: RandomFields) -> tuple[np.ndarray, list[_Shape]]:
    """Points ``(3, X, Y, Z)`` of the brain's map that a slice shows: turned, deformed, and pushed by the tumours."""
    grid = np.stack(np.meshgrid(*[axis.astype(np.float32) for axis in cut.axes], indexing="ij"))
    points = _turned(brain.matrix, grid)
    coarse, fine = brain.deformation
    for axis in range(3):
        points[axis] += np.float32(coarse) * drawn.draw(36) + np.float32(fine) * drawn.draw(12)
    if brain.ventricles:
        offset = points - np.array([0, -6, 4], np.float32)[:, None, None, None]
        near = np.exp(-((offset[0] / 34) ** 2 + (offset[1] / 55) ** 2 + (offset[2] / 30) ** 2))
        points -= np.float32(brain.ventricles) * near * offset
    shapes = []
    for tumour in brain.tumours:
        offset = points - tumour.centre[:, None, None, None]
        radius = np.sqrt((_turned(tumour.ellipsoid, offset) ** 2).sum(0))
        shapes.append((tumour, offset, radius))
    for tumour, offset, radius in shapes:
        points = points - np.float32(tumour.push) * offset * np.exp(-((radius / (1.6 * tumour.radius)) ** 2))
        points[0] += np.sign(tumour.centre[0]) * tumour.shift * np.exp(-((radius / 55) ** 2))
    return points, shapes


def _folded(
    brain: Brain, points: np.ndarray, sampled: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Fluid, grey and white matter with sulci of the brain's own; white matter without them; the distance from vessels, mm."""
    grey, white, _, depth, ventricle, _, folds = sampled
    # an average of many brains shows its sulci as a haze: sharpen it, and refold the surface
    csf = np.clip(1 - grey - white, 0, 1)
    tissues = np.stack([csf, grey, white]) ** 2
    csf, grey, white = tissues / np.maximum(tissues.sum(0), 1e-6)
    unfolded_white = white
    fold, first, second = _sampled_noise(brain, points)
    ratio = 2.6 * brain.gyri  # mm from a zero of the noise, about, for each unit of its value
    to_sulcus = np.abs(fold) * ratio
    width = 0.5 * brain.sulci * np.clip((brain.fold_depth - depth) / brain.fold_depth * 1.6, 0, 1)
    sulcus = soft_step(width - to_sulcus, 0.8) * folds * (depth < brain.fold_depth)
    ribbon = soft_step(width + 2.4 - to_sulcus, 1.2) * folds * soft_step(brain.fold_depth + 2 - depth, 3)
    csf *= 1 - 0.5 * folds * (1 - ventricle)
    grey = 1 - csf - white
    moved = 0.75 * white * ribbon
    grey, white = grey + moved, white - moved
    csf, grey, white = csf + sulcus * (1 - csf), grey * (1 - sulcus), white * (1 - sulcus)
    outside = soft_step(-depth, 1.0)
    csf, grey, white = csf + outside * (1 - csf), grey * (1 - outside), white * (1 - outside)
    return {"csf": csf, "grey": grey, "white": white}, unfolded_white, np.hypot(first, second) * 2.6


def _bright_without_tumour(
    brain: Brain,
    points: np.ndarray,
    sampled: np.ndarray,
    layers: Mapping[str, np.ndarray],
    near_vessel: np.ndarray,
    mottle: np.ndarray,
    patches: np.ndarray,
    drawn: RandomFields,
) -> dict[str, np.ndarray]:
    """Bright structures other than tumour: white-matter lesions, vessels, choroid plexus, dura and bone."""
    _, _, _, depth, ventricle, from_ventricles, _ = sampled
    amount, caps = brain.lesions
    spots = np.clip(drawn.draw(6) + 0.6 * np.clip((14 - from_ventricles) / 14, 0, 1) - 2.7 + amount, 0, 1)
    rims = soft_step(caps * (1 + 0.4 * patches) - from_ventricles, 3) * (from_ventricles > 0.3) * (caps > 1)
    vessel = soft_step(brain.vessels - near_vessel, 0.7) * (layers["csf"] + 0.15 * (depth < 30)) * (1 - ventricle)
    sinus = (
        soft_step(2.2 - np.abs(points[0]), 1.5)
        * soft_step(1.5 - depth, 1.5)
        * soft_step(depth + 5, 1)
        * (points[2] > 0)
    )
    return {
        "lesion": np.clip(spots * (amount > 0) + rims, 0, 1) * layers["white"],
        "vessel": np.clip(np.maximum(vessel, sinus), 0, 1),
        "choroid": ventricle * np.clip(mottle - 0.7, 0, 1) * (np.abs(points[0]) > 3),
        "dura": soft_step(-1.5 - depth, 1) * np.clip(0.5 + patches, 0, 1),
        "bone": soft_step(-4 - depth, 1.5),
    }


def _sampled_noise(brain: Brain, points: np.ndarray) -> np.ndarray:
    """Noise for folds, constant towards the middle of the brain so that sulci are sheets, and for vessels."""
    noise = folding_noise()
    centred = points - np.array([0, -8, -6], np.float32)[:, None, None, None]
    distance = np.sqrt((centred**2).sum(0)) + 1
    q = _turned(brain.fold_turn, centred * (0.3 + 42 / distance)) / np.float32(brain.gyri)
    index = np.clip(q + brain.fold_offset[:, None, None, None], -118, 116) / NOISE_STEP + 60
    fold = sample_block(noise[:1], index)
    index = np.clip(_turned(brain.fold_turn, centred), -118, 116) / NOISE_STEP + 60
    return np.concatenate([fold, sample_block(noise[1:], index)])


def _tumour_parts(
    tumour: Tumour,
    offset: np.ndarray,
    radius: np.ndarray,
    drawn: RandomFields,
    white: np.ndarray,
    ventricle: np.ndarray,
    inside: np.ndarray,
) -> dict[str, np.ndarray]:
    """Weights of a tumour's tissues; its oedema goes along white matter, and as far as the cortex where it is strong."""
    surface, inner, spread, patchy = map(drawn.draw, (max(0.6 * tumour.radius, 6), 8, 14, 6))
    edge = tumour.radius * (1 + np.clip(tumour.roughness * surface, -0.5, 0.4))
    core = soft_step(edge - radius, 1.5) * inside
    reach = tumour.reach * (0.25 + 0.75 * white) * np.clip(0.9 + 0.4 * spread, 0.2, 1.6)
    oedema = soft_step(edge + reach - radius, 2.5) * inside * (1 - ventricle)
    none = np.zeros_like(core)
    parts = {"oedema": oedema, "tumour": core, "necrosis": none, "enhancing": none, "cyst": none}
    rim = edge * tumour.rim * np.clip(1 + 0.45 * inner, 0.3, 1.8)
    if tumour.kind == "ring":
        parts["necrosis"] = soft_step(edge - np.maximum(rim, 1.2) - radius, 1.5) * core
        parts["enhancing"] = core * (1 - parts["necrosis"])
    elif tumour.kind == "solid":
        parts["enhancing"] = core * soft_step(patchy + 2.0, 1)
    elif tumour.kind == "patchy":
        parts["enhancing"] = core * soft_step(inner + 0.5 * patchy - 0.3, 0.6)
    elif tumour.kind == "cystic":
        parts["cyst"] = soft_step(edge - np.maximum(0.6 * rim, 1.5) - radius, 1) * core
        if tumour.wall:
            to_nodule = np.sqrt(((offset - tumour.nodule[:, None, None, None]) ** 2).sum(0))
            nodule = soft_step(0.4 * tumour.radius - to_nodule, 1.2) * core
            parts["cyst"] = parts["cyst"] * (1 - nodule)
            parts["enhancing"] = core * (1 - parts["cyst"])
    parts["blood"] = core * soft_step(patchy + inner - 2.6 + 2 * tumour.bleeds, 0.5) if tumour.bleeds else none
    return parts


def _turned(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (3, ...) times a matrix (3, 3); einsum starts no threads."""
    return np.einsum("ij,j...->i...", matrix, points)
