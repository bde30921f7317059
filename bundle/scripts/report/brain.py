"""Figure of the extracted brain in series that showed the skull."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from custom_transforms import SliceGeometry

from .figures import new_figure, styled
from .viewer import SheetError, read_source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = (0.2, 0.35, 0.5, 0.65, 0.8)
"""Slices that are shown, as shares of the way through the brain."""
OUTLINE = "#ffd23f"


def draw_brain(sources: Mapping[str, Any], masks: Mapping[str, Path]) -> Figure | None:
    """Slices of each series with the outline of its brain; None if none can be shown.

    Args:
        sources: paths of the series by modality.
        masks: files of the brain's masks by modality.
    """
    rows = {}
    for mri_type, file in masks.items():
        image: Any = nib.load(file)  # type: ignore[attr-defined]
        geometry = SliceGeometry.from_affine(image.affine, image.shape)
        try:
            slices = read_source(sources[mri_type], geometry)
        except (KeyError, SheetError):
            continue
        rows[mri_type] = geometry, slices, np.asarray(geometry.to_stack(np.asarray(image.dataobj))) > 0
    return _drawn(rows) if rows else None


@styled
def _drawn(rows: Mapping[str, tuple[SliceGeometry, np.ndarray, np.ndarray]]) -> Figure:
    figure, axes = new_figure(2 * len(SHOWN), 2.2 * len(rows), len(SHOWN), len(rows))
    for (mri_type, (geometry, slices, mask)), line in zip(rows.items(), axes, strict=True):
        there = np.flatnonzero(mask.any((1, 2)))
        height, width = geometry.pixel_spacing * np.array(mask.shape[1:])
        step = max(1, round(1 / geometry.pixel_spacing[0]))
        for share, ax in zip(SHOWN, line, strict=True):
            index = there[round(share * (len(there) - 1))]
            where: dict[str, Any] = {"extent": (0, width, 0, height)}
            ax.imshow(slices[index, ::step, ::step], cmap="gray", **where)
            ax.contour(mask[index], levels=[0.5], colors=[OUTLINE], linewidths=1, origin="upper", **where)
            ax.set(xticks=[], yticks=[], facecolor="black")
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(mri_type)
    return figure
