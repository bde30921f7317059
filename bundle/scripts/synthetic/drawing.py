"""Slices of synthetic brains with tumours, drawn at random far beyond what scanners make, to train a segmenter on.

After SynthSeg (Billot et al., Medical Image Analysis 86, 2023): who is trained on images of every look there might be need not
have seen the look of those that come. Brains are deformed maps of tissues, with folds, ventricles, lesions and vessels of their
own; a tumour is grown in most of them; each slice is given the contrast of a modality, or any, and the faults of an acquisition.
They are no patients: nothing measured on them tells how well real tumours are found.

A slice is computed where it is shown and nowhere else, from its number alone: neither the number of processes nor the order of the
slices changes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from monai.transforms import Transform

from custom_transforms.planes import PLANES

from ..datalists import MRI_TYPES
from ..files import written_whole
from .brains import BrainMap, RandomFields, SliceFields, average_brain, rotation, sample_block, soft_step

RANDOM = "random"
"""Modality of a slice whose tissues have any brightness."""
NOISE_STEP = 2.0  # mm, voxel of the noise that folds and vessels come from
SUB_SLICE = 2.0  # mm, at most between the planes that a thick slice is the mean of


@dataclass(frozen=True)
class Randomisation:
    """What is drawn, and from which range; ``configs/pretrain_segmentation.yaml`` has the numbers. Pairs are ranges, lengths in mm.

    Attributes:
        tumour_free_brains: share of brains without a tumour.
        anywhere: share of slices of the other brains that are cut anywhere, mostly beside the tumour.
        random_contrast: share of slices whose tissues have any brightness at all.
        planes: that slices are cut in, each as often as it stands here.
        core_radius: of a tumour without its oedema.
        oedema_reach: of oedema beyond the core, along white matter.
        second_tumour: share of tumours that have a second focus.
        push: mass effect at the tumour's border, as a share of the distance from its centre.
        midline_shift: displacement of the middle away from a tumour, at most.
        brain_scale: size of the brain against its map.
        deformation: standard deviation of where tissue lies.
        ventricle_scale: size of the ventricles against the map's.
        sulcus_width: width of the sulci.
        rotation: of the head against the slices, degrees, at most.
        brain_fill: share of the picture's side that the brain's longest side fills.
        off_centre: displacement of the picture's middle, as a share of its side, at most.
        squeezed: share of sagittal and coronal slices that are squeezed as whole BraTS slices become square.
        slice_thickness: of the acquisition.
        other_plane: share of slices that are cut across the slices of the acquisition, and so are blurred one way.
        blur: standard deviation within slices.
        sharpening: share of slices with the overshoot of a sharpening filter.
        motion: share of slices with ghosts of motion.
        bias: standard deviation of the logarithm of the bias field.
        noise: standard deviation of the noise, as a share of the white level.
        gamma: exponent of the whole slice.
        stripping: depth under the brain's surface at which skull-stripping cuts; negative leaves a rim.
        leftovers: share of slices in which skull-stripping left pieces of dura and bone.
        no_cerebellum: share of slices in which it took the low parts of the brain with it.
        background: share of slices whose background keeps its noise.
    """

    tumour_free_brains: float
    anywhere: float
    random_contrast: float
    planes: Sequence[str]
    core_radius: tuple[float, float]
    oedema_reach: tuple[float, float]
    second_tumour: float
    push: tuple[float, float]
    midline_shift: float
    brain_scale: tuple[float, float]
    deformation: tuple[float, float]
    ventricle_scale: tuple[float, float]
    sulcus_width: tuple[float, float]
    rotation: float
    brain_fill: tuple[float, float]
    off_centre: float
    squeezed: float
    slice_thickness: tuple[float, float]
    other_plane: float
    blur: tuple[float, float]
    sharpening: float
    motion: float
    bias: tuple[float, float]
    noise: tuple[float, float]
    gamma: tuple[float, float]
    stripping: tuple[float, float]
    leftovers: float
    no_cerebellum: float
    background: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name == "planes":
                if not value or set(value) - set(PLANES):
                    raise ValueError(f"planes is {value!r}, expected some of {', '.join(PLANES)}")
            elif name in ("midline_shift", "rotation", "off_centre"):
                if value < 0:
                    raise ValueError(f"{name} is {value!r}, expected 0 or more")
            elif isinstance(value, (int, float)):
                if not 0 <= value <= 1:
                    raise ValueError(f"{name} is {value!r}, expected a share, 0 to 1")
            elif len(value) != 2 or value[0] > value[1] or (value[0] < 0 and name != "stripping"):
                raise ValueError(f"{name} is {value!r}, expected [least, most]")


# Tissues by modality: brightness as a share of the white level (the 99.5th percentile of a brain), near what real gliomas show.
TISSUES = (
    "csf", "grey", "white", "oedema", "tumour", "necrosis", "enhancing", "cyst", "blood", "lesion", "vessel", "choroid", "dura", "bone",
)  # fmt: skip
LOOKS: dict[str, tuple[float, ...]] = {
    "FLAIR": (0.15, 0.59, 0.50, 0.95, 0.84, 0.60, 0.82, 0.30, 0.50, 0.88, 0.42, 0.62, 0.50, 0.40),
    "T1w": (0.18, 0.47, 0.82, 0.50, 0.34, 0.26, 0.42, 0.20, 0.85, 0.58, 0.65, 0.42, 0.70, 0.80),
    "T1wCE": (0.17, 0.44, 0.74, 0.45, 0.32, 0.23, 1.05, 0.20, 0.75, 0.54, 1.10, 0.95, 0.95, 0.80),
    "T2w": (0.82, 0.30, 0.20, 0.41, 0.48, 0.62, 0.42, 0.85, 0.20, 0.36, 0.14, 0.52, 0.22, 0.34),
}
# Standard deviation of the logarithm of each brightness from series to series.
SPREAD = (0.14, 0.07, 0.07, 0.13, 0.18, 0.28, 0.16, 0.25, 0.45, 0.15, 0.30, 0.25, 0.40, 0.40)
TEXTURE = {"FLAIR": -0.25, "T1w": 1.0, "T1wCE": 0.9, "T2w": -0.4}  # how far the map's own T1 texture shows
# The white level of a volume, which lies at 255, against that of LOOKS: least and most. A FLAIR volume has a lower one where little
# in it is as bright as a tumour.
WHITE_LEVELS = {"FLAIR": (0.85, 1.3), "T1w": (0.85, 1.1), "T1wCE": (0.8, 1.45), "T2w": (0.8, 1.1), RANDOM: (0.8, 1.1)}
WHITE_LEVEL_WITHOUT_TUMOUR = (0.68, 0.95)  # of FLAIR
LARGE = 14.0  # mm, radius of a tumour that decides the white level

# Middle and half axes of parts of the brain, mm from its middle, whose brightness is not just that of their share of grey and white.
PARTS = {"nuclei": ((0, 12, 0), (32, 32, 20)), "stem": ((0, -13, -40), (19, 21, 34))}

KINDS = {"ring": 0.36, "solid": 0.1, "patchy": 0.14, "not enhancing": 0.26, "cystic": 0.14}
"""How often which tumour is drawn."""


@dataclass(frozen=True)
class Tumour:
    """A focus of a tumour: a noisy ellipsoid, in mm of the brain's map.

    Attributes:
        kind: one of ``KINDS``.
        centre: (3,) from the middle of the brain.
        radius: of the core.
        ellipsoid: (3, 3), which makes the core a ball.
        reach: of the oedema.
        roughness: of the core's surface, as a share of the radius.
        rim: thickness of what enhances, as a share of the radius; of a cyst the wall's.
        wall: whether a cyst's wall enhances.
        nodule: (3,) middle of a cyst's nodule, from the centre.
        push: displacement of tissue outwards, as a share of the distance.
        shift: displacement of the middle, mm.
        bleeds: share of the core that is blood.
    """

    kind: str
    centre: np.ndarray
    radius: float
    ellipsoid: np.ndarray
    reach: float
    roughness: float
    rim: float
    wall: bool
    nodule: np.ndarray
    push: float
    shift: float
    bleeds: float


@dataclass(frozen=True)
class Brain:
    """What all slices of a brain have in common.

    Attributes:
        number: of the brain.
        brain_map: its tissues.
        matrix: (3, 3) from scanner to map.
        extent: (3,) half its extent in the scanner, mm.
        deformation: standard deviations of the coarse and the fine part, mm.
        ventricles: how much nearer to their middle what is sampled around the ventricles lies.
        sulci: width of the sulci, mm.
        gyri: their size against the average.
        fold_depth: how deep sulci are, mm.
        fold_turn: (3, 3) and fold_offset (3,): which part of the noise makes them.
        lesions: amount of white-matter hyperintensities, 0 for none, and reach of the caps of the ventricles, mm.
        vessels: radius of the vessels, mm.
        tumours: one or two, or none.
    """

    number: int
    brain_map: BrainMap
    matrix: np.ndarray
    extent: np.ndarray
    deformation: tuple[float, float]
    ventricles: float
    sulci: float
    gyri: float
    fold_depth: float
    fold_turn: np.ndarray
    fold_offset: np.ndarray
    lesions: tuple[float, float]
    vessels: float
    tumours: tuple[Tumour, ...]


def draw_brain(number: int, rng: np.random.Generator, brain_map: BrainMap, ranges: Randomisation) -> Brain:
    """Draw what a brain is like."""
    scale = rng.uniform(*ranges.brain_scale) * rng.uniform(0.96, 1.04, 3)
    turned = rotation(rng.normal(0, ranges.rotation / 2, 3).clip(-ranges.rotation, ranges.rotation))
    coarse = rng.uniform(*ranges.deformation)
    age = rng.random()  # widens ventricles and sulci together, and whitens the matter around them
    ventricles = _within(ranges.ventricle_scale, np.clip(0.5 * age + 0.5 * rng.random(), 0, 1))
    sulci = _within(ranges.sulcus_width, np.clip(0.6 * age + 0.4 * rng.random(), 0, 1))
    tumours: tuple[Tumour, ...] = ()
    if rng.random() >= ranges.tumour_free_brains:
        tumours = (draw_tumour(rng, brain_map, ranges),)
        if rng.random() < ranges.second_tumour:
            tumours += (draw_tumour(rng, brain_map, ranges, smaller=True),)
    return Brain(
        number=number,
        brain_map=brain_map,
        matrix=(turned / scale[:, None]).astype(np.float32),
        extent=np.abs(turned.T * scale) @ brain_map.extent * 0.97,
        deformation=(coarse, coarse * rng.uniform(0.15, 0.4)),
        ventricles=float(1 - 1 / ventricles),
        sulci=float(sulci),
        gyri=rng.uniform(0.85, 1.35),
        fold_depth=rng.uniform(12, 22),
        fold_turn=rotation(rng.uniform(0, 180, 3)).astype(np.float32),
        fold_offset=rng.uniform(-25, 25, 3).astype(np.float32),
        lesions=(max(rng.normal(0.1 + 0.5 * age, 0.35), 0.0), rng.uniform(0, 3) + 8 * age * rng.random() ** 2),
        vessels=rng.uniform(0.3, 1.1),
        tumours=tumours,
    )


def draw_tumour(rng: np.random.Generator, brain_map: BrainMap, ranges: Randomisation, smaller: bool = False) -> Tumour:
    """Draw a focus of a tumour."""
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    radius = math.exp(rng.uniform(*np.log(ranges.core_radius))) * (0.6 if smaller else 1)
    least, most = ranges.oedema_reach
    reach = math.exp(rng.uniform(math.log(max(least, 0.5)), math.log(max(most, 0.5))))
    if kind in ("not enhancing", "cystic"):
        reach = min(reach, 0.3 * most)
    deep = brain_map.sites[:, 3] >= min(0.7 * radius, 14)
    sites = brain_map.sites[deep] if deep.any() else brain_map.sites
    stretch = np.exp(rng.normal(0, 0.22, 3))
    direction = rng.normal(size=3)
    return Tumour(
        kind=kind,
        centre=sites[int(rng.random() * len(sites)), :3].astype(np.float32),
        radius=radius,
        ellipsoid=(rotation(rng.uniform(0, 180, 3)) * stretch[:, None] / np.cbrt(stretch.prod())).astype(np.float32),
        reach=reach,
        roughness=rng.uniform(0.08, 0.3),
        rim=math.exp(rng.uniform(math.log(0.12), math.log(0.6))),
        wall=rng.random() < 0.5,
        nodule=(direction / np.linalg.norm(direction) * radius * 0.8).astype(np.float32),
        push=rng.uniform(*ranges.push),
        shift=rng.uniform(0, ranges.midline_shift) * min(radius / 25, 1) * (rng.random() < 0.6),
        bleeds=max(rng.normal(-0.25, 0.25), 0.0),
    )


@dataclass(frozen=True)
class Cut:
    """Where a slice lies and what it shows, in scanner mm from the middle of the brain, RAS.

    Attributes:
        plane: of the slice.
        positions: (K,) of the planes that it is the mean of, along its normal.
        rows: (H,) of its rows: from front to back in axial slices, else from top to bottom.
        columns: (W,) of its columns: from the patient's right to left, of sagittal ones from front to back.
    """

    plane: str
    positions: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

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
def _noise() -> torch.Tensor:
    """(3, X, Y, Z): smooth noise of unit variance, from which folds and vessels are made; the same in every process."""
    axis = np.arange(-60, 60) * NOISE_STEP
    drawn = SliceFields(np.random.default_rng(67), [axis] * 3, 0)
    return torch.from_numpy(np.stack([drawn.draw(5), drawn.draw(9), drawn.draw(9)]).astype(np.float32))


def cut_tissues(brain: Brain, cut: Cut, seed: Sequence[int]) -> dict[str, np.ndarray]:
    """What a slice of a brain holds.

    Args:
        brain: from :func:`draw_brain`.
        cut: where it lies.
        seed: of the brain; its random fields come from it.

    Returns:
        float32 (H, W) each: the weights of ``TISSUES``, to be laid over each other in this order, ``texture``, ``mottle``, ``depth``
        (mm), ``low`` (mm above the tentorium), ``nuclei`` and ``stem`` (where ``PARTS`` are), ``shades`` (a smooth field), ``WT`` and ``ET``
        (share of the slice's thickness).
    """
    drawn = SliceFields(np.random.default_rng([*seed, 1]), cut.axes, AXES[cut.plane][0])
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
    grey, white, texture, depth, ventricle, from_ventricles, folds = brain.brain_map.sample(points)

    # an average of many brains shows its sulci as a haze: sharpen it, and fold the surface anew
    csf = np.clip(1 - grey - white, 0, 1)
    tissues = np.stack([csf, grey, white]) ** 2
    csf, grey, white = tissues / np.maximum(tissues.sum(0), 1e-6)
    inner_white = white  # without the folds of this brain
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

    # what is bright and no tumour
    mottle = drawn.draw(6)
    patches = drawn.draw(24)
    amount, caps = brain.lesions
    spots = np.clip(drawn.draw(6) + 0.6 * np.clip((14 - from_ventricles) / 14, 0, 1) - 2.7 + amount, 0, 1)
    rims = soft_step(caps * (1 + 0.4 * patches) - from_ventricles, 3) * (from_ventricles > 0.3) * (caps > 1)
    lesion = np.clip(spots * (amount > 0) + rims, 0, 1) * white
    near_vessel = np.hypot(first, second) * 2.6
    vessel = soft_step(brain.vessels - near_vessel, 0.7) * (csf + 0.15 * (depth < 30)) * (1 - ventricle)
    sinus = (
        soft_step(2.2 - np.abs(points[0]), 1.5)
        * soft_step(1.5 - depth, 1.5)
        * soft_step(depth + 5, 1)
        * (points[2] > 0)
    )
    vessel = np.clip(np.maximum(vessel, sinus), 0, 1)
    choroid = ventricle * np.clip(mottle - 0.7, 0, 1) * (np.abs(points[0]) > 3)
    dura = soft_step(-1.5 - depth, 1) * np.clip(0.5 + patches, 0, 1)
    bone = soft_step(-4 - depth, 1.5)

    layers = dict.fromkeys(TISSUES, np.float32(0)) | {
        "csf": csf, "grey": grey, "white": white, "lesion": lesion, "vessel": vessel, "choroid": choroid, "dura": dura, "bone": bone,
    }  # fmt: skip
    whole = enhancing = np.zeros_like(depth)
    inside = soft_step(depth - 1, 1.5) * (1 - 0.9 * ventricle)
    for tumour, offset, radius in shapes:
        parts = _tumour_parts(tumour, offset, radius, drawn, inner_white, ventricle, inside)
        whole = np.maximum(whole, np.maximum(parts["oedema"], parts["tumour"]))
        for name, part in parts.items():
            layers[name] = np.maximum(layers[name], part)
        enhancing = np.maximum(enhancing, parts["enhancing"] * (1 - parts["blood"]))
    # distractors neither cover the tumour nor look through it
    for name in ("lesion", "choroid"):
        layers[name] = layers[name] * (1 - whole)
    layers["vessel"] = vessel * (1 - 0.7 * whole)
    layers |= {"texture": texture * (1 - whole), "mottle": mottle, "depth": depth, "patches": patches}
    for name, (middle, axes) in PARTS.items():
        offset = points - np.array(middle, np.float32)[:, None, None, None]
        far = np.sqrt(((offset / np.array(axes, np.float32)[:, None, None, None]) ** 2).sum(0))
        layers[name] = soft_step(1 - far, 0.35)
    layers["shades"] = drawn.draw(45)
    layers |= {"low": points[2] + 0.3 * brain.brain_map.extent[2] - 0.12 * points[1], "WT": whole, "ET": enhancing}
    nothing = np.zeros(tuple(len(line) for line in (cut.rows, cut.columns)), np.float32)
    return {name: cut.mean(layer) if np.ndim(layer) else nothing for name, layer in layers.items()}


def _sampled_noise(brain: Brain, points: np.ndarray) -> np.ndarray:
    """Noise for folds, constant towards the middle of the brain so that sulci are sheets, and for vessels."""
    noise = _noise()
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
    surface, inner, spread, patchy = (
        drawn.draw(max(0.6 * tumour.radius, 6)),
        drawn.draw(8),
        drawn.draw(14),
        drawn.draw(6),
    )
    edge = tumour.radius * (1 + np.clip(tumour.roughness * surface, -0.5, 0.4))
    core = soft_step(edge - radius, 1.5) * inside
    reach = tumour.reach * (0.25 + 0.75 * white) * np.clip(0.9 + 0.4 * spread, 0.2, 1.6)
    oedema = soft_step(edge + reach - radius, 2.5) * inside * (1 - ventricle)
    none = np.zeros_like(core)
    parts = {"oedema": oedema, "tumour": core, "necrosis": none, "enhancing": none, "cyst": none}
    rim = edge * tumour.rim * np.clip(1 + 0.45 * inner, 0.3, 1.8)
    if tumour.kind == "ring":
        parts["enhancing"] = core
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


def _within(pair: Sequence[float], share: float) -> float:
    return pair[0] + share * (pair[1] - pair[0])


# ---------------------------------------------------------------------------------------------------------------------
# what the scanner makes of it


def draw_look(mri_type: str, rng: np.random.Generator) -> dict[str, float]:
    """Draw the brightness of each tissue in a series, as shares of the white level, and of ``texture``."""
    if mri_type == RANDOM:
        look = dict(zip(TISSUES, rng.uniform(0.05, 1, len(TISSUES)), strict=True))
        return look | {"texture": rng.uniform(-0.5, 1)}
    values = np.array(LOOKS[mri_type]) * np.exp(np.array(SPREAD) * rng.normal(size=len(TISSUES)))
    look = dict(zip(TISSUES, values, strict=True))
    # sequences differ most in how far they tell grey from white matter
    middle, contrast = (look["grey"] + look["white"]) / 2, rng.uniform(0.35, 1.25)
    for name in ("grey", "white"):
        look[name] = middle + contrast * (look[name] - middle)
    return look | {"texture": TEXTURE[mri_type] * contrast}


def paint(tissues: Mapping[str, np.ndarray], look: Mapping[str, float], rng: np.random.Generator) -> np.ndarray:
    """The slice (H, W) without faults, 1 at the white level."""
    solid = sum(look[name] * tissues[name] for name in ("grey", "white")) + look["texture"] * tissues["texture"]
    shade = 1 + rng.uniform(0, 0.06) * tissues["shades"]
    for name, (least, most) in (("nuclei", (-0.15, 0.15)), ("stem", (-0.12, 0.28))):
        shade = shade * (1 + rng.uniform(least, most) * tissues[name])
    image = look["csf"] * tissues["csf"] + solid * shade
    mottled = 1 + rng.uniform(0.02, 0.16) * tissues["mottle"]
    for name in TISSUES[3:]:
        weight = tissues[name] * (rng.uniform(0.6, 1) if name in ("oedema", "lesion") else 1)
        in_tumour = name in ("oedema", "tumour", "necrosis", "enhancing")
        image = image + weight * (look[name] * (mottled if in_tumour else 1) - image)
    return np.clip(image, 0, None).astype(np.float32)


def acquire(
    image: np.ndarray,
    pixel: tuple[float, float],
    blurred: tuple[float, float],
    ranges: Randomisation,
    rng: np.random.Generator,
) -> np.ndarray:
    """Blur, overshoot, ghosts, bias field, noise and gamma on a slice (H, W).

    Args:
        image: 1 at the white level.
        pixel: height and width of a pixel, mm.
        blurred: standard deviation of the blur along rows' and columns' order, mm.
        ranges: what is drawn.
        rng: where it comes from.
    """
    sigma = [side / step for side, step in zip(blurred, pixel, strict=True)]
    if max(sigma) > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigmaX=max(sigma[1], 1e-3), sigmaY=max(sigma[0], 1e-3))
    if rng.random() < ranges.sharpening:
        image = image + rng.uniform(0.2, 1.0) * (image - cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 1.5)))
    if rng.random() < ranges.motion:
        axis, share = int(rng.integers(2)), rng.uniform(0.03, 0.15)
        for shift in (1, -1):
            image = (1 - share) * image + share * np.roll(
                image, shift * int(rng.integers(3, image.shape[axis] // 3)), axis
            )
    rows, columns = (np.arange(n) * step - n * step / 2 for n, step in zip(image.shape, pixel, strict=True))
    bias = SliceFields(rng, [rows, columns, np.zeros(1)], 2).draw(rng.uniform(60, 120))[..., 0]
    image = image * np.exp(rng.uniform(*ranges.bias) * bias)
    level = math.exp(rng.uniform(*np.log(np.maximum(ranges.noise, 1e-4))))
    real, imaginary = level * rng.standard_normal((2, *image.shape), dtype=np.float32)
    smooth = rng.uniform(0, 1.2)
    if smooth > 0.4:  # images that were resampled have noise that neighbours share
        gain = 2 * math.sqrt(math.pi) * smooth
        real, imaginary = (cv2.GaussianBlur(part, (0, 0), smooth) * gain for part in (real, imaginary))
    image = np.hypot(image + real, imaginary)
    return image ** math.exp(rng.uniform(*np.log(ranges.gamma)))


def strip(tissues: Mapping[str, np.ndarray], ranges: Randomisation, rng: np.random.Generator) -> np.ndarray:
    """Where skull-stripping leaves something, (H, W) of bool."""
    cut = rng.uniform(*ranges.stripping) + rng.uniform(0, 0.8) * tissues["patches"]
    if rng.random() < ranges.leftovers:
        cut = np.where(tissues["patches"] * rng.choice([-1, 1]) > rng.uniform(0.6, 1.6), -rng.uniform(3, 9), cut)
    kept = tissues["depth"] > cut
    if rng.random() < ranges.no_cerebellum:
        rest = kept & (tissues["low"] + 6 * tissues["patches"] > rng.uniform(-25, 10))
        if rest.sum() > 0.2 * kept.sum():  # a slice that lies low stays as it is
            kept = rest
    return kept


def slice_items(count: int, slices_per_brain: int) -> list[dict[str, Any]]:
    """One item for each of the first slices, ``{"slice", "patient"}``."""
    return [{"slice": number, "patient": _patient(number // slices_per_brain)} for number in range(count)]


def _patient(number: int) -> str:
    return f"synthetic-{number}"


class DrawSlice(Transform):
    """Draw the slice of a number: what :class:`scripts.loading.LoadSlice` reads from prepared series.

    Args:
        ranges: what is drawn.
        image_size: side of the square picture.
        seed: of everything.
        slices_per_brain: so many slices with successive numbers are of the same brain.
        brain_maps: to draw brains from; that of the atlas by default.

    Raises:
        ImportError: nilearn, which carries the atlas, is not installed.
        ValueError: for sizes below 16, less than a slice of a brain, or no map.
    """

    def __init__(
        self,
        ranges: Randomisation,
        image_size: int = 224,
        seed: int = 67,
        slices_per_brain: int = 1,
        brain_maps: Sequence[BrainMap] | None = None,
    ) -> None:
        if image_size < 16 or slices_per_brain < 1:
            raise ValueError(
                f"image_size {image_size}, slices_per_brain {slices_per_brain}: expected at least 16 pixels and 1 slice"
            )
        self.image_size, self.seed, self.slices_per_brain = image_size, seed, slices_per_brain
        self.ranges = ranges
        self.brain_maps = (average_brain(),) if brain_maps is None else tuple(brain_maps)
        if not self.brain_maps:
            raise ValueError("brain_maps is empty; give at least one, or None for the atlas")
        _noise()  # made here, as the maps are, so that processes that are forked share its memory

    def brain(self, number: int) -> Brain:
        """The brain of a number."""
        rng = np.random.default_rng([self.seed, number])
        return draw_brain(number, rng, self.brain_maps[int(rng.integers(len(self.brain_maps)))], self.ranges)

    def __call__(self, item: int | Mapping[str, Any]) -> dict[str, Any]:
        """``image`` ``(1, H, W)`` in 0…255 and ``label`` ``(2, H, W)`` [WT, ET], both uint8; ``field_of_view`` ``(2,)``, height and
        width in mm; ``patient``, ``mri_type`` and ``plane``.

        Args:
            item: number of the slice, 0 or more; or ``{"slice": number}`` with a ``mri_type`` and a ``plane`` that are wished for.
        """
        wishes: Mapping[str, Any] = item if isinstance(item, Mapping) else {"slice": item}
        number, index = divmod(int(wishes["slice"]), self.slices_per_brain)
        brain = self.brain(number)
        rng = np.random.default_rng([self.seed, number, 2, index])
        mri_type = RANDOM if rng.random() < self.ranges.random_contrast else str(rng.choice(MRI_TYPES))
        plane = str(rng.choice(list(self.ranges.planes)))
        mri_type, plane = str(wishes.get("mri_type", mri_type)), str(wishes.get("plane", plane))
        image, masks, field = self._draw(brain, mri_type, plane, rng)
        return {
            "image": torch.from_numpy(image[None]),
            "label": torch.from_numpy(masks),
            "field_of_view": torch.tensor(field, dtype=torch.float32),
            "patient": _patient(number),
            "mri_type": mri_type,
            "plane": plane,
        }

    def _draw(
        self, brain: Brain, mri_type: str, plane: str, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
        ranges, size = self.ranges, self.image_size
        normal, across, along = AXES[plane]
        # the field of view, and the brain's place in it
        longest = 2 * max(brain.extent[across], brain.extent[along])
        height = width = longest / rng.uniform(*ranges.brain_fill)
        if plane != "axial" and rng.random() < ranges.squeezed:
            height = min(height, max(2 * brain.extent[2] * 1.08, 0.646 * width))  # 155 of 240 mm
        offsets = rng.uniform(-ranges.off_centre, ranges.off_centre, 2) * (height, width)
        pixel = (height / size, width / size)
        rows = offsets[0] + height / 2 - (np.arange(size) + 0.5) * pixel[0]
        columns = offsets[1] + width / 2 - (np.arange(size) + 0.5) * pixel[1]

        # the acquisition: thick slices blur along their normal, which may lie in the picture
        thickness = rng.uniform(*ranges.slice_thickness)
        blurred = np.full(2, rng.uniform(*ranges.blur))
        shown_thickness = thickness
        if rng.random() < ranges.other_plane:
            blurred[0 if plane != "axial" else int(rng.integers(2))] += thickness / math.sqrt(12)
            shown_thickness = 1.0
        planes = max(math.ceil(shown_thickness / SUB_SLICE), 1)
        depths = (np.arange(planes) + 0.5) / planes * shown_thickness - shown_thickness / 2
        cut = Cut(plane, self._position(brain, normal, rng) + depths, rows, columns)

        # only where the head is
        margin = 11
        inner = [
            np.flatnonzero(np.abs(line) < brain.extent[axis] + margin)
            for line, axis in ((rows, along), (columns, across))
        ]
        place = tuple(slice(int(line[0]), int(line[-1]) + 1) for line in inner)
        small = Cut(plane, cut.positions, rows[place[0]], columns[place[1]])
        parts = cut_tissues(brain, small, [self.seed, brain.number])
        image = np.zeros((size, size), np.float32)
        kept = np.zeros((size, size), bool)
        masks = np.zeros((2, size, size), np.uint8)
        look = draw_look(mri_type, rng)
        kept[place] = strip(parts, ranges, rng)
        image[place] = paint(parts, look, rng)
        image *= kept | (cv2.dilate(kept.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
        image = acquire(image, pixel, (blurred[0], blurred[1]), ranges, rng)
        if rng.random() >= ranges.background:
            image *= kept
        masks[:, place[0], place[1]] = np.stack([parts["WT"] > 0.5, parts["ET"] > 0.5])
        masks[1] &= masks[0]
        masks *= kept
        # the white level is that of the volume, most of which is not in this slice
        large = any(tumour.radius + 0.4 * tumour.reach > LARGE for tumour in brain.tumours)
        levels = WHITE_LEVELS[mri_type] if large or mri_type != "FLAIR" else WHITE_LEVEL_WITHOUT_TUMOUR
        return np.clip(image * (255 / rng.uniform(*levels)), 0, 255).astype(np.uint8), masks, (height, width)

    def _position(self, brain: Brain, normal: int, rng: np.random.Generator) -> float:
        """Where along its normal a slice is cut: through the tumour, or anywhere."""
        if brain.tumours and rng.random() >= self.ranges.anywhere:
            tumour = brain.tumours[int(rng.integers(len(brain.tumours)))]
            centre = np.linalg.solve(brain.matrix.astype(float), tumour.centre.astype(float))[normal]
            position = float(centre + rng.uniform(-0.9, 0.9) * (tumour.radius + 0.4 * tumour.reach))
            return float(np.clip(position, -0.82 * brain.extent[normal], 0.82 * brain.extent[normal]))
        return float(rng.uniform(-0.85, 0.85) * brain.extent[normal])


# ---------------------------------------------------------------------------------------------------------------------
# a picture of it


SHEET_TITLE = (
    "Synthetic brains, no patients. Whole tumour yellow, enhancing tumour red. Research use only, not for diagnosis."
)
SHEET_ROWS = (*MRI_TYPES, RANDOM, "as drawn")
SHEET_PLANES = ("axial", "axial", "axial", "axial", "coronal", "coronal", "sagittal", "sagittal")
OUTLINES = ((0, 255, 255), (0, 0, 255))  # BGR of WT and ET


def write_contact_sheet(draw: DrawSlice, file: str | Path, overwrite: bool = False) -> Path:
    """Write a picture of slices with the outlines of their tumours: a row a modality, a column a brain, then a row of any slices.

    Args:
        draw: what draws them; the slices are those of the first brains.
        file: PNG to write.
        overwrite: replace the file.

    Raises:
        FileExistsError: when the file is there and not to be replaced.
        ValueError: when its name does not end with .png.
    """
    path = Path(file)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the contact sheet is a PNG; name a file that ends with .png")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already; name another file, or replace it (--overwrite)")
    rows = []
    for row in SHEET_ROWS:
        tiles = []
        for column, plane in enumerate(SHEET_PLANES):
            item: dict[str, Any] = {"slice": column * draw.slices_per_brain}
            if row in MRI_TYPES or row == RANDOM:
                item |= {"mri_type": row, "plane": plane}
            else:
                item["slice"] += len(SHEET_PLANES) * draw.slices_per_brain
            drawn = draw(item)
            tiles.append(outlined(drawn["image"][0].numpy(), drawn["label"].numpy()))
        rows.append(np.hstack(tiles))
    sheet = np.vstack(rows)
    title = np.zeros((24, sheet.shape[1], 3), np.uint8)
    font, grey = cv2.FONT_HERSHEY_SIMPLEX, (210, 210, 210)
    size = min(0.5, 0.5 * sheet.shape[1] / (cv2.getTextSize(SHEET_TITLE, font, 0.5, 1)[0][0] + 16))
    cv2.putText(title, SHEET_TITLE, (6, 16), font, size, grey, 1, cv2.LINE_AA)
    for index, row in enumerate(SHEET_ROWS):
        cv2.putText(sheet, row, (4, index * draw.image_size + 14), font, 0.4, grey, 1, cv2.LINE_AA)
    with written_whole(path) as temporary:
        if not cv2.imwrite(str(temporary), np.vstack([title, sheet])):
            raise OSError(f"{path}: the picture could not be written; is the disk full?")
    return path


def outlined(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """A slice (H, W) uint8 with the outlines of its masks (2, H, W) uint8 [WT, ET], (H, W, 3) uint8, BGR."""
    tile = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    for mask, colour in zip(masks, OUTLINES, strict=True):
        contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(tile, contours, -1, colour, 1)
    return tile
