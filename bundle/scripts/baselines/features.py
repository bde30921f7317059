"""Measured features of a prepared series: size, shape, grey values and texture of tumour and brain.

Shapes are those of the masks of all slices, in mm; grey values and textures are of the slices that show enough tumour, in 0…255 as they were
prepared. What could not be measured is NaN.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform

from ..files import write_csv
from ..masks import nested
from ..prepared import PreparedSeries

logger = logging.getLogger(__name__)

REGIONS = ("tumour", "enhancing", "brain")
"""Of grey values; the brain is what is not tumour."""
_STATISTICS = ("mean", "sd", "p10", "median", "p90", "skewness", "kurtosis", "entropy")
_TEXTURES = ("contrast", "homogeneity", "energy", "correlation")
_SHAPES = (
    "tumour_ml", "enhancing_ml", "enhancing_share", "parts", "largest_part_share", "longest_axis_mm", "middle_axis_mm", "shortest_axis_mm",
    "compactness", "slices_with_tumour",
)  # fmt: skip
LEVELS = 32
"""Grey levels of the textures' co-occurrence matrices."""
NAMES: dict[str, tuple[str, ...]] = {
    "size": ("log_tumour_ml",),
    "forest": (
        *_SHAPES,
        *(f"{region}_{name}" for region in REGIONS for name in _STATISTICS),
        "tumour_over_brain",
        "enhancing_over_brain",
        *(f"{region}_{name}" for region in ("tumour", "brain") for name in _TEXTURES),
    ),
}
"""Names of the features by model, in input order."""


class LoadFeatures(Transform):
    """Measure a prepared series: ``image`` ``(1, F)`` float32, the features of a model in the order of :data:`NAMES`.

    ``(0, F)`` where no slice shows enough tumour and the model needs one.
    """

    def __init__(self, model: str) -> None:
        self.model = model

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``image``."""
        found = measure(PreparedSeries(item["series"]), self.model)
        values = [] if found is None else [[found[name] for name in NAMES[self.model]]]
        return {**item, "image": torch.tensor(values, dtype=torch.float32).reshape(-1, len(NAMES[self.model]))}


def measure(series: PreparedSeries, model: str) -> dict[str, float] | None:
    """The features of a prepared series by name; None where it has no usable slice.

    Raises:
        PreparedError: for a series without geometry.
    """
    geometry = series.require_geometry()
    masks = nested(series.masks())
    if model == "size":
        return {"log_tumour_ml": math.log1p(float(masks[:, 0].sum()) * geometry.voxel_volume / 1000)}
    if not len(series):
        return None
    spacing = (geometry.slice_spacing, *geometry.pixel_spacing)
    kept = masks[series.slices]
    return {**shape_features(masks, spacing), **grey_features(series.images(), kept[:, 0], kept[:, 1])}


def shape_features(masks: np.ndarray, spacing: tuple[float, float, float]) -> dict[str, float]:
    """Volumes and shape of the tumour.

    Args:
        masks: ``(N, 2, H, W)`` bool, WT and ET inside it.
        spacing: mm between slices, rows and columns.
    """
    from scipy import ndimage

    tumour, voxel = masks[:, 0], math.prod(spacing) / 1000
    found = dict.fromkeys(_SHAPES, math.nan)
    count, enhancing = int(tumour.sum()), int(masks[:, 1].sum())
    found |= {"tumour_ml": count * voxel, "enhancing_ml": enhancing * voxel}
    found["slices_with_tumour"] = float(tumour.any(axis=(1, 2)).sum())
    if not count:
        return found
    labels, parts = ndimage.label(tumour, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    found |= {"enhancing_share": enhancing / count, "parts": float(parts), "largest_part_share": sizes.max() / count}
    places = np.argwhere(tumour) * spacing
    # axes of the ellipsoid with the same second moments
    spread = np.linalg.eigvalsh(np.cov(places.T)) if count > 1 else np.zeros(3)
    axes = 2 * np.sqrt(5 * np.clip(spread, 0, None))
    found |= dict(zip(("shortest_axis_mm", "middle_axis_mm", "longest_axis_mm"), axes, strict=True))
    # surface of the ball of this volume over that of the tumour's voxels, 1 for the most compact
    surface = sum(
        float(np.count_nonzero(np.diff(np.pad(tumour, 1).astype(np.int8), axis=axis)))
        * math.prod(spacing)
        / spacing[axis]
        for axis in range(3)
    )
    found["compactness"] = math.pi ** (1 / 3) * (6 * count * math.prod(spacing)) ** (2 / 3) / surface
    return {name: float(value) for name, value in found.items()}


def grey_features(images: np.ndarray, tumour: np.ndarray, enhancing: np.ndarray) -> dict[str, float]:
    """Grey values and textures.

    Args:
        images: ``(K, H, W)`` uint8, the background 0.
        tumour: ``(K, H, W)`` bool.
        enhancing: ``(K, H, W)`` bool.
    """
    brain = (images > 0) & ~tumour
    regions = dict(zip(REGIONS, (tumour, enhancing, brain), strict=True))
    found: dict[str, float] = {}
    for region, mask in regions.items():
        found |= {f"{region}_{name}": value for name, value in _statistics(images[mask]).items()}
    for region in ("tumour", "enhancing"):
        found[f"{region}_over_brain"] = found[f"{region}_mean"] / found["brain_mean"]
    for region in ("tumour", "brain"):
        found |= {f"{region}_{name}": value for name, value in _textures(images, regions[region]).items()}
    return {name: float(value) for name, value in found.items()}


def _statistics(values: np.ndarray) -> dict[str, float]:
    from scipy import stats

    if values.size < 2:
        return dict.fromkeys(_STATISTICS, math.nan)
    low, middle, high = np.percentile(values, (10, 50, 90))
    varies = bool((values != values[0]).any())
    moments = (stats.skew(values), stats.kurtosis(values)) if varies else (0.0, 0.0)
    entropy = stats.entropy(np.bincount(values, minlength=256), base=2)
    found = (values.mean(), values.std(), low, middle, high, *moments, entropy)
    return dict(zip(_STATISTICS, found, strict=True))


def _textures(images: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Haralick's textures of neighbours within a region, over all slices and four directions."""
    from skimage.feature import graycomatrix, graycoprops

    levels = images // (256 // LEVELS) + 1
    levels[~mask] = 0  # pairs with it are left out below
    angles = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
    total = np.zeros((LEVELS, LEVELS, 1, 1))
    for image in levels:
        if image.any():
            pairs = graycomatrix(image, [1], angles, levels=LEVELS + 1, symmetric=True)
            total += pairs[1:, 1:].sum(axis=3, keepdims=True)
    if not total.sum():
        return dict.fromkeys(_TEXTURES, math.nan)
    total /= total.sum()
    return {name: float(graycoprops(total, name)[0, 0]) for name in _TEXTURES}


def feature_table(items: Iterable[Mapping[str, Any]], model: str) -> list[dict[str, Any]]:
    """The features of prepared series, a row each: ``patient``, ``mri_type``, ``label`` where known, and those of :data:`NAMES`.

    Series without a usable slice are left out.
    """
    rows = []
    for item in items:
        found = measure(PreparedSeries(item["series"]), model)
        known = {key: item[key] for key in ("patient", "mri_type", "label") if key in item}
        if found is None:
            logger.info("%s/%s: no slice shows enough tumour", item["patient"], item["mri_type"])
        else:
            rows.append({**known, **{name: found[name] for name in NAMES[model]}})
    return rows


def write_features(rows: list[dict[str, Any]], file: str | Path) -> None:
    """Write a table of features as CSV; what could not be measured is empty."""
    write_csv([{key: None if value != value else value for key, value in row.items()} for row in rows], file)
