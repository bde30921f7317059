"""Slices cut anew from labelled volumes while a network trains: at any angle, warped, mended, with the tumours of other patients.

A prepared slice is seen again in every epoch; a cut comes once. Each is one plane through a volume, so that turning the head costs
no more than reading it straight. Few labelled patients go further this way: a tumour is moved into another patient's brain
(after CarveMix, Zhang et al., NeuroImage 271, 2023), half a brain without tumour is mirrored to make a whole one, grey values are
bent, and the faults of an acquisition added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from monai.transforms import Transform
from scipy import ndimage

from .labelled_volumes import FAR, LabelledVolume
from .synthetic.brains import rotation

# directions in RAS towards which column, row and slice index grow, as DICOM shows each plane
AXES_OF_PLANE = {
    "axial": ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "coronal": ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "sagittal": ((0, -1, 0), (0, 0, -1), (1, 0, 0)),
}
FIELD_OF_VIEW = 200.0  # mm, what a network is shown of a slice of 240 mm that is enlarged by 1.2


@dataclass(frozen=True)
class Augmentation:
    """What is drawn, and from which range. Shares lie in 0 to 1, pairs are ranges, lengths are in mm, angles in degrees."""

    tumour: float  # share of slices cut through a tumour
    enhancing: float  # share of these cut through its enhancing part, where there is any
    donated: float  # share that gets another patient's tumour
    mended: float  # share of slices of brains whose tumour, where it is on one side, is covered with the mirrored other half
    planes: Sequence[str]  # each as often as it stands here
    mri_types: Sequence[str]  # likewise
    tilt: float  # standard deviation
    rotation: float  # within the plane, at most
    field: tuple[float, float]  # field of view, as a share of 200 mm
    aspect: float  # standard deviation of the logarithm of height over width
    squeezed: float  # share of sagittal and coronal slices stretched to a square, as whole BraTS slices are
    off_centre: float  # standard deviation of the displacement of the picture's middle
    warp: float  # standard deviation of the elastic displacement, at most
    thickness: tuple[float, float]  # of the slice
    bend: float  # standard deviation of the logarithm of the contrast within five bands of grey
    gamma: float  # standard deviation of the logarithm of the exponent
    white: tuple[float, float]  # factor of all grey values
    bias: float  # standard deviation of the logarithm of the bias field, at most
    noise: float  # its standard deviation as a share of white, at most
    blur: float  # its standard deviation in pixels, at most
    coarse: float  # share of slices whose rows or columns are those of a thicker acquisition
    inverted: float  # share of slices with inverted grey values
    flips: tuple[float, float]  # shares mirrored left to right, and top to bottom


class CutSlice(Transform):
    """Cut the slice of a number from labelled volumes: what :class:`scripts.loading.LoadSlice` reads from prepared series.

    Args:
        volumes: of :func:`load_volumes`.
        augmentation: what is drawn; None cuts straight slices as they are.
        image_size: side of the square picture.
        seed: of everything.
    """

    def __init__(
        self,
        volumes: Sequence[LabelledVolume],
        augmentation: Augmentation | None,
        image_size: int = 224,
        seed: int = 67,
    ) -> None:
        self.volumes, self.ranges, self.image_size, self.seed = list(volumes), augmentation, image_size, seed
        self._by_name = {volume.patient: volume for volume in volumes}

    def __call__(self, item: int | Mapping[str, Any]) -> dict[str, Any]:
        """``image`` ``(1, H, W)`` in 0…255 and ``label`` ``(2, H, W)`` [WT, ET], both uint8; ``field_of_view`` ``(2,)``, height and
        width in mm; ``patient``, ``mri_type`` and ``plane``.

        Args:
            item: number of the slice; or ``{"patient", "mri_type", "plane", "depth"}``, ``depth`` in mm from the volume's middle,
                which is cut as it is.
        """
        if isinstance(item, Mapping) and "depth" in item:
            volume = self._by_name[item["patient"]]
            points = _points(item["plane"], self.image_size, (FIELD_OF_VIEW,) * 2) + volume.centre
            points += np.array(AXES_OF_PLANE[item["plane"]][2]) * item["depth"]
            image = _sample(volume.images[item["mri_type"]], points[None])
            labels = _sample_labels(volume.labels, points)
            known = {key: item[key] for key in ("patient", "mri_type", "plane")}
            return _item(image, labels, known, (FIELD_OF_VIEW,) * 2)
        number = int(item["slice"] if isinstance(item, Mapping) else item)
        assert self.ranges is not None
        return self._draw(self.ranges, np.random.default_rng([self.seed, number]))

    def _draw(self, ranges: Augmentation, rng: np.random.Generator) -> dict[str, Any]:
        volume = self.volumes[int(rng.integers(len(self.volumes)))]
        mri_type = str(rng.choice([name for name in ranges.mri_types if name in volume.images]))
        plane = str(rng.choice(list(ranges.planes)))
        donor = None
        if rng.random() < ranges.donated:
            other = self.volumes[int(rng.integers(len(self.volumes)))]
            donor = other if other is not volume and mri_type in other.images and len(other.tumour) else None
        mirrored = bool(rng.random() < 0.5)
        mended = volume.one_sided != 0 and rng.random() < (0.5 if donor else ranges.mended)

        # the plane through the head
        width = FIELD_OF_VIEW * math.exp(rng.uniform(*np.log(ranges.field)))
        height = width * math.exp(rng.normal(0, ranges.aspect))
        if plane != "axial" and rng.random() < ranges.squeezed:
            height *= rng.uniform(0.65, 0.9)
        points = _points(plane, self.image_size, (height, width), rng.uniform(-1, 1) * ranges.rotation)
        points = points @ rotation(rng.normal(0, ranges.tilt, 3)).T
        points += rng.normal(0, ranges.off_centre, 3)
        knots = int(rng.integers(3, 8))
        warp = rng.normal(0, rng.uniform(0, ranges.warp), (knots, knots, 3)).astype(np.float32)
        points += cv2.resize(warp, (self.image_size, self.image_size), interpolation=cv2.INTER_CUBIC)
        normal = np.array(AXES_OF_PLANE[plane][2], float)
        target = _target(ranges, donor or volume, donor is not None and mirrored, rng)
        if target is None or (mended and donor is None):
            target = np.array([rng.uniform(-0.42, 0.42) * side for side in volume.labels.shape])
        middle = points[self.image_size // 2, self.image_size // 2]
        points += normal * float((target - middle) @ normal)
        thickness = rng.uniform(*ranges.thickness)
        count = max(math.ceil(thickness / 1.7), 1)
        offsets = ((np.arange(count) + 0.5) / count - 0.5) * thickness

        stack = points[None] + offsets[:, None, None, None] * normal
        image, labels = _cut(volume, mri_type, stack, points, mended, False)
        if donor is not None:
            image, labels = _transplant(image, labels, volume, donor, mri_type, stack, points, mirrored, rng)
        image = _acquire(ranges, image, rng)
        for axis, share in zip((1, 0), ranges.flips, strict=True):
            if rng.random() < share:
                image, labels = np.flip(image, axis), np.flip(labels, axis)
        known = {"patient": volume.patient, "mri_type": mri_type, "plane": plane}
        return _item(image, labels, known, (height, width))


def _item(image: np.ndarray, labels: np.ndarray, known: dict[str, Any], field: tuple[float, float]) -> dict[str, Any]:
    masks = np.stack([labels > 0, labels == 2]).astype(np.uint8)
    return {
        "image": torch.from_numpy(np.clip(image, 0, 255).astype(np.uint8)[None]),
        "label": torch.from_numpy(masks),
        "field_of_view": torch.tensor(field, dtype=torch.float32),
        **known,
    }


def _target(
    ranges: Augmentation, volume: LabelledVolume, mirrored: bool, rng: np.random.Generator
) -> np.ndarray | None:
    """A point that the plane goes through, from the middle of the volume; None for any."""
    if not len(volume.tumour) or rng.random() >= ranges.tumour:
        return None
    enhancing = len(volume.enhancing) and rng.random() < ranges.enhancing
    voxels = volume.enhancing if enhancing else volume.tumour
    if rng.random() < 0.5:  # anywhere between its ends, for thin ones are as many as thick ones
        low, high = voxels.min(0), voxels.max(0)
        point = low + rng.random(3) * (high - low)
    else:
        point = voxels[int(rng.integers(len(voxels)))].astype(float)
    point = point - volume.centre
    return point * [-1, 1, 1] if mirrored else point


def _cut(
    volume: LabelledVolume,
    mri_type: str,
    stack: np.ndarray,
    points: np.ndarray,
    mended: bool,
    mirrored: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Grey values and labels of a volume at points from its middle."""

    def placed(where: np.ndarray) -> np.ndarray:
        if mended:  # everything is on the side without tumour
            where = where.copy()
            where[..., 0] = -volume.one_sided * np.abs(where[..., 0])
        elif mirrored:
            where = where * [-1, 1, 1]
        return where + volume.centre

    return _sample(volume.images[mri_type], placed(stack)), _sample_labels(volume.labels, placed(points))


def _transplant(
    image: np.ndarray,
    labels: np.ndarray,
    volume: LabelledVolume,
    donor: LabelledVolume,
    mri_type: str,
    stack: np.ndarray,
    points: np.ndarray,
    mirrored: bool,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """The slice with the donor's tumour in it, its grey values fitted to those of the brain that it comes to."""
    there = points * [-1, 1, 1] if mirrored else points
    given, given_labels = _cut(donor, mri_type, stack, points, False, mirrored)
    distance = ndimage.map_coordinates(
        donor.distance,
        np.moveaxis(there + donor.centre, -1, 0),
        order=1,
        mode="constant",
        cval=FAR,
        output=np.float32,
    )
    inside = (image > 0) & (given > 0)
    mine, theirs = volume.levels[mri_type], donor.levels[mri_type]
    slope = np.clip((mine[2] - mine[0]) / max(theirs[2] - theirs[0], 1), 0.4, 2.5)
    fitted = np.clip((given - theirs[1]) * slope + mine[1], 0, 255)
    margin, softness = rng.uniform(0, 6), rng.uniform(0.7, 2.5)
    share = inside / (1 + np.exp(np.clip((distance - margin) / softness, -30, 30)))
    taken = inside & (distance <= margin + softness)
    return image + share * (fitted - image), np.where(taken, np.where(given_labels > 0, given_labels, labels), labels)


def _acquire(ranges: Augmentation, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another contrast, and the faults of an acquisition; the background stays 0 but for blur and noise.

    Not by MONAI's transforms, which take longer for a slice at 224, measured on one core: RandGaussianSmooth 2.7 ms (58 times as
    long), RandGaussianSharpen 5.4 (75 times), RandBiasField 1.4 (25 times), RandRicianNoise 2.4 (2.1 times), RandAdjustContrast
    0.2 (3.4 times); all of a slice takes about 14 ms.
    """
    head = image > 1
    values = np.clip(image, 0, 255) / 255
    if rng.random() < 0.7:
        steps = np.exp(rng.normal(0, ranges.bend, 5))
        bent = np.concatenate([[0.0], np.cumsum(steps / steps.sum())])
        values = np.interp(values, np.linspace(0, 1, 6), bent)
    values = values ** math.exp(rng.normal(0, ranges.gamma))
    if rng.random() < ranges.inverted:
        values = np.where(head, values.max() * 1.05 - values, 0)
    if rng.random() < 0.6:
        knots = int(rng.integers(2, 5))
        field = rng.normal(0, rng.uniform(0, ranges.bias), (knots, knots)).astype(np.float32)
        values = values * np.exp(cv2.resize(field, values.shape[::-1], interpolation=cv2.INTER_CUBIC))
    values = (values * rng.uniform(*ranges.white)).astype(np.float32)
    side = len(image)
    if rng.random() < 0.4:
        width = rng.uniform(0, ranges.blur) * side / 160
        values = cv2.GaussianBlur(values, (0, 0), max(width, 0.05))
    if rng.random() < ranges.coarse:
        factors = np.where(rng.random(2) < (0.7, 0.5), rng.uniform(1, (5.0, 2.5)), 1)
        if plane_turned := rng.random() < 0.5:
            factors = factors[::-1]
        small = (max(int(side / factors[1]), 8), max(int(side / factors[0]), 8))
        way = cv2.INTER_LINEAR if rng.random() < 0.7 or plane_turned else cv2.INTER_NEAREST
        values = cv2.resize(cv2.resize(values, small, interpolation=cv2.INTER_AREA), (side, side), interpolation=way)
    if rng.random() < 0.15:
        values = values + rng.uniform(0.2, 1.2) * (values - cv2.GaussianBlur(values, (0, 0), 1.0))
    if rng.random() < 0.5:
        spread = rng.uniform(0, ranges.noise)
        noise = rng.standard_normal((2, side, side), dtype=np.float32) * spread
        noisy = np.hypot(values + noise[0], noise[1])  # Rician
        values = noisy if rng.random() < 0.1 else np.where(head, noisy, values)
    return values * 255


def _points(plane: str, size: int, field: tuple[float, float], degrees: float = 0) -> np.ndarray:
    """Points ``(size, size, 3)`` in mm, RAS, of a turned plane's pixels, from its middle."""
    line = (np.arange(size) + 0.5) / size - 0.5
    rows, columns = np.meshgrid(line * field[0], line * field[1], indexing="ij")
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    columns, rows = c * columns - s * rows, s * columns + c * rows
    across, along, _ = np.array(AXES_OF_PLANE[plane], float)
    return columns[..., None] * across + rows[..., None] * along


def _sample(image: np.ndarray, stack: np.ndarray) -> np.ndarray:
    """Mean over a stack of planes of points, linear between voxels."""
    values = ndimage.map_coordinates(
        image, np.moveaxis(stack, -1, 0), order=1, mode="constant", cval=0, output=np.float32, prefilter=False
    )
    return values.mean(0)


def _sample_labels(labels: np.ndarray, points: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(
        labels, np.moveaxis(points, -1, 0), order=0, mode="constant", cval=0, prefilter=False
    )


class DrawMixed(Transform):
    """Slices of two sources in a chosen proportion, by their numbers alone.

    Args:
        cut: of labelled volumes; None: all are synthetic.
        synthetic: of synthetic brains; None: all are cut.
        synthetic_share: share of synthetic slices where there are both, 0 to 1.
        seed: of the choice.
    """

    def __init__(
        self, cut: Transform | None, synthetic: Transform | None, synthetic_share: float = 0.5, seed: int = 67
    ) -> None:
        if (cut is None and synthetic is None) or not 0 <= synthetic_share <= 1:
            raise ValueError(
                f"synthetic_share is {synthetic_share}, sources are {cut} and {synthetic}: expected a share from 0 to 1, and at "
                "least one source"
            )
        self.cut, self.synthetic, self.synthetic_share, self.seed = cut, synthetic, synthetic_share, seed

    def __call__(self, item: int) -> dict[str, Any]:
        """The slice of a number, as either source gives it."""
        rng = np.random.default_rng([self.seed, int(item), 3])
        if self.cut is None or (self.synthetic is not None and rng.random() < self.synthetic_share):
            assert self.synthetic is not None
            return self.synthetic(item)
        return self.cut(item)


def cut_items(volumes: Sequence[LabelledVolume], step: float = 8) -> list[dict[str, Any]]:
    """Straight slices through all tumours, and beside them, for a validation: every modality and plane, every so many mm."""
    items = []
    for volume in volumes:
        for plane, (_, _, normal) in AXES_OF_PLANE.items():
            axis = int(np.flatnonzero(normal)[0])
            side, middle = volume.labels.shape[axis], float(volume.centre[axis])
            for mri_type in volume.images:
                for index in np.arange(step, side - step / 2, step):
                    depth = float(index) - middle
                    items.append({"patient": volume.patient, "mri_type": mri_type, "plane": plane, "depth": depth})
    return items
