"""How a series' probability changes when a region, or a slice, is hidden from its classifier."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from custom_transforms.filtering import BRAIN_THRESHOLD

from .series import EncodedSeries

BLANKED = ("ET", "WT without ET", "brain without WT", "masks")
"""The regions that :func:`occlusion_by_region` blanks, one at a time."""


def occlusion_by_region(series: EncodedSeries) -> dict[str, float]:
    """Change of the series' probability when a region is blanked in all slices.

    The idea is that of MONAI's ``OcclusionSensitivity`` (Zeiler and Fergus 2014, arXiv:1311.2901), with anatomical regions for
    its sliding window. Blanked means that the image, channel 0, has the mean grey value of the slice's brain (pixels above 1,
    tumour included) in all of the region, while the masks stay; of ``"masks"``, that both mask channels are black, while the
    image stays. Regions differ in size, and so do their changes for this alone.

    Returns:
        For each of :data:`BLANKED` the probability without the region less that of the whole series, -1…1: below 0 where the
        region favoured methylation, and 0 where no slice has it.
    """
    intact = series.logits.sigmoid().mean()
    changes = {}
    for region, blanked in _blanked(series.slices):
        changed = (blanked != series.slices).flatten(1).any(1).nonzero()[:, 0]
        if not len(changed):
            changes[region] = 0.0
            continue
        features = series.features.clone()
        for batch in changed.split(series.inferer.batch_size):  # slices without the region keep their features
            features[batch + 1] = series.features_of(blanked[batch])
        changes[region] = float(series.logits_of(features, series.steps).sigmoid().mean() - intact)
    return changes


def _blanked(slices: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The slices without each of :data:`BLANKED`, one after another, because they are large."""
    image, whole, enhancing = slices[:, 0], slices[:, 1] > 0, slices[:, 2] > 0
    brain = image > BRAIN_THRESHOLD
    grey = (image.float() * brain).sum((1, 2)) / brain.sum((1, 2)).clamp(min=1)
    filling = grey.round().to(slices.dtype)[:, None, None].expand_as(image)
    regions = (enhancing, whole & ~enhancing, brain & ~whole & ~enhancing)
    for region, area in zip(BLANKED[:3], regions, strict=True):
        without = slices.clone()
        without[:, 0] = torch.where(area, filling, image)
        yield region, without
    without = slices.clone()
    without[:, 1:] = 0
    yield BLANKED[3], without


def occlusion_by_slice(series: EncodedSeries) -> np.ndarray:
    """Change of the series' probability when one slice is black in all its sequences, ``(K,)`` float32.

    It is the probability without the slice less that of the whole series: below 0 where the slice favoured methylation.
    """
    intact = series.logits.sigmoid()
    changes = []
    for index in range(1, len(series.features)):
        inside = (series.steps == index).any(1)
        steps = series.steps[inside]
        without = series.logits_of(series.features, steps.masked_fill(steps == index, 0)).sigmoid()
        changes.append((without - intact[inside]).sum() / len(intact))
    return torch.stack(changes).float().cpu().numpy()
