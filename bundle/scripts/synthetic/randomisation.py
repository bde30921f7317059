"""Properties of a synthetic brain and its tumours, randomised far beyond real patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from custom_transforms.planes import PLANES

from .brains import BrainMap, between, rotation

KINDS = {"ring": 0.36, "solid": 0.1, "patchy": 0.14, "not enhancing": 0.26, "cystic": 0.14}
"""Frequency of each kind of tumour."""


@dataclass(frozen=True)
class Randomisation:
    """The ranges of all random properties: ``configs/pretrain_segmentation.yaml`` has the numbers and their meaning.

    Pairs are ranges, lengths in mm; numbers are shares, 0 to 1, but for the largest ``midline_shift``, ``rotation`` (degrees) and
    ``off_centre`` (share of the picture's side). ``planes`` are those that slices are cut in, each as often as it is listed.
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


@dataclass(frozen=True)
class Tumour:
    """A focus of a tumour: a noisy ellipsoid, in mm of the brain's map."""

    kind: str  # one of ``KINDS``
    centre: np.ndarray  # (3,) from the middle of the brain
    radius: float  # of the core
    ellipsoid: np.ndarray  # (3, 3), which makes the core a ball
    reach: float  # of the oedema
    roughness: float  # of the core's surface, as a share of the radius
    rim: float  # thickness of what enhances, as a share of the radius; of a cyst the wall's
    wall: bool  # whether a cyst's wall enhances
    nodule: np.ndarray  # (3,) middle of a cyst's nodule, from the centre
    push: float  # displacement of tissue outwards, as a share of the distance
    shift: float  # displacement of the middle, mm
    bleeds: float  # share of the core that is blood


@dataclass(frozen=True)
class Brain:
    """Common properties of all slices of a brain."""

    number: int  # of the brain
    brain_map: BrainMap  # its tissues
    matrix: np.ndarray  # (3, 3) from scanner to map
    extent: np.ndarray  # (3,) half its extent in the scanner, mm
    deformation: tuple[float, float]  # standard deviations of the coarse and the fine part, mm
    ventricles: float  # how much nearer to their middle the surroundings of the ventricles are sampled
    sulci: float  # width of the sulci, mm
    gyri: float  # their size against the average
    fold_depth: float  # how deep sulci are, mm
    fold_turn: np.ndarray  # (3, 3), which part of the noise makes them
    fold_offset: np.ndarray  # (3,), likewise
    # amount of white-matter hyperintensities, 0 for none, and reach of the caps of the ventricles, mm
    lesions: tuple[float, float]
    vessels: float  # radius of the vessels, mm
    tumours: tuple[Tumour, ...]  # one or two, or none


def draw_brain(number: int, rng: np.random.Generator, brain_map: BrainMap, ranges: Randomisation) -> Brain:
    """Draw the properties of a brain."""
    scale = rng.uniform(*ranges.brain_scale) * rng.uniform(0.96, 1.04, 3)
    turned = rotation(rng.normal(0, ranges.rotation / 2, 3).clip(-ranges.rotation, ranges.rotation))
    coarse = rng.uniform(*ranges.deformation)
    age = rng.random()  # widens ventricles and sulci together, and whitens the matter around them
    ventricles = between(ranges.ventricle_scale, np.clip(0.5 * age + 0.5 * rng.random(), 0, 1))
    sulci = between(ranges.sulcus_width, np.clip(0.6 * age + 0.4 * rng.random(), 0, 1))
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
