"""Labelled patients in memory, as :mod:`scripts.cuts` cuts slices from them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImage, Orientation
from scipy import ndimage

from custom_transforms import BratsLabelsToWTET, ScaleToUint8, grey_window

from .datalists import MRI_TYPES, load_datalist, split_fold
from .reading import PatientReader

logger = logging.getLogger(__name__)

FAR = 30
"""mm, up to which the distance from a tumour is known."""


def split(datalist: str | Path | None, dataset_dir: str | Path | None, fold: int) -> tuple[list, list]:
    """Training and held-out patients of a fold; nobody without a data list."""
    return split_fold(load_datalist(datalist, dataset_dir), fold) if datalist else ([], [])


@dataclass(frozen=True)
class LabelledVolume:
    """A patient's co-registered series and labels in RAS, voxels of 1 mm, without the empty space around the head."""

    patient: str
    images: dict[str, np.ndarray]  # grey window of each modality, 0…255, (X, Y, Z) uint8
    labels: np.ndarray  # 0, 1 tumour that does not enhance, 2 enhancing tumour, (X, Y, Z) uint8
    distance: np.ndarray  # from the tumour, mm, 0 in it, FAR at most, (X, Y, Z) uint8
    centre: np.ndarray  # index of the middle of the uncropped volume
    tumour: np.ndarray  # indices of up to 20,000 of its voxels, (N, 3)
    enhancing: np.ndarray  # likewise
    levels: dict[str, np.ndarray]  # 25th, 50th and 75th percentile of each modality's brain without tumour
    one_sided: int  # -1 or 1 where no tumour reaches beyond the middle to the left or to the right, else 0


def load_volumes(entries: Sequence[Mapping[str, Any]], seed: int = 67) -> list[LabelledVolume]:
    """Read the labelled patients of a data list, about 15 MB each; those without labels are passed over.

    Raises:
        ValueError: when none has labels, a patient's series differ in shape, or voxels are not of 1 mm.
    """
    labelled = [entry for entry in entries if "seg" in entry]
    if not labelled:
        raise ValueError(f"none of {len(entries)} patients has labels (seg) to cut slices from")
    volumes = [_load(entry, np.random.default_rng([seed, i])) for i, entry in enumerate(labelled)]
    logger.info("%d labelled patients read", len(volumes))
    return volumes


def _load(entry: Mapping[str, Any], rng: np.random.Generator) -> LabelledVolume:
    read, read_labels = (
        Compose([LoadImage(reader=reader, ensure_channel_first=True), Orientation("RAS", labels=None)])
        for reader in (PatientReader(), PatientReader(labels=True))
    )
    labels = read_labels(entry["seg"])
    spacing = np.abs(np.linalg.norm(np.asarray(labels.affine)[:3, :3], axis=0))
    if not np.allclose(spacing, 1, atol=0.05):
        raise ValueError(
            f"{entry['seg']}: voxels of {spacing.round(2)} mm, expected 1 mm as BraTS has them; resample the study"
        )
    whole, enhancing = np.asarray(BratsLabelsToWTET()(labels)) > 0
    images: dict[str, np.ndarray] = {}
    for mri_type in MRI_TYPES:
        if mri_type not in entry:
            continue
        image = read(entry[mri_type])
        if image.shape != labels.shape:
            raise ValueError(
                f"{entry[mri_type]}: {tuple(image.shape[1:])} voxels, but its labels have {tuple(labels.shape[1:])}; expected both on "
                "one grid"
            )
        images[mri_type] = _windowed(image)
    head = np.any([image > 0 for image in images.values()], axis=0) | whole
    box = tuple(
        slice(max(int(line[0]) - 2, 0), int(line[-1]) + 3)
        for line in (np.flatnonzero(head.any(tuple({0, 1, 2} - {axis}))) for axis in range(3))
    )
    centre = (np.array(head.shape) - 1) / 2 - [part.start for part in box]
    whole, enhancing = whole[box], enhancing[box] & whole[box]
    images = {name: np.ascontiguousarray(image[box]) for name, image in images.items()}
    levels = {name: np.percentile(image[(image > 0) & ~whole], (25, 50, 75)) for name, image in images.items()}
    distance = np.minimum(ndimage.distance_transform_edt(~whole), FAR) if whole.any() else np.full(whole.shape, FAR)
    beyond = [int(whole[: max(int(centre[0]) - 1, 0)].sum()), int(whole[int(centre[0]) + 2 :].sum())]
    one_sided = 0 if min(beyond) > 0.002 * sum(beyond) else (-1, 1)[int(beyond[1] > beyond[0])]
    return LabelledVolume(
        str(entry["patient"]),
        images,
        (whole.astype(np.uint8) + enhancing),
        distance.astype(np.uint8),
        centre,
        _some_of(np.argwhere(whole), rng),
        _some_of(np.argwhere(enhancing), rng),
        levels,
        one_sided,
    )


def _windowed(image: MetaTensor) -> np.ndarray:
    """The input of a network with scaling ``window`` for a series, without loss from prior scaling to 256 steps."""
    values = image.numpy()[0]
    scaled = np.asarray(ScaleToUint8()(values))
    black, white = grey_window(scaled)
    low, high = float(values.min()), float(values.max())
    span = (high - low) / 255
    return np.clip(((values - low) / span - black) * (255 / (white - black)), 0, 255).astype(np.uint8)


def _some_of(indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    most = 20_000
    chosen = indices if len(indices) <= most else indices[rng.choice(len(indices), most, replace=False)]
    return chosen.astype(np.int16)
