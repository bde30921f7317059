"""Whole tumour (WT) and enhancing tumour (ET) in the masks of a series, its label map and every volume; masks as NIfTI.

WT is everything labelled, ET the enhancing part of it. The network may mark ET outside WT: such voxels belong to both, wherever a
mask is written, counted or shown. Only the classification gets the masks as the network made them, as in the method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from . import distributed
from .files import RESEARCH_ONLY, written_whole
from .modalities import ENHANCING_ON
from .outputs import inside
from .preparation import read_index
from .prepared import PreparedSeries

REGIONS = ("WT", "ET")
"""Order of the regions in the channels of masks and predictions."""


def nested(masks: np.ndarray) -> np.ndarray:
    """Masks ``(N, 2, H, W)``, or of WT alone ``(N, 1, H, W)``, with ET inside WT, bool."""
    return np.concatenate([masks.any(axis=1, keepdims=True), masks[:, 1:] > 0], axis=1)


def claimed(masks: np.ndarray, mri_type: str, enhancing_on: Sequence[str] = ENHANCING_ON) -> np.ndarray:
    """The :func:`nested` masks ``(N, 2, H, W)`` of a series as outputs show them, or ``(N, 1, H, W)``, WT alone.

    Without contrast agent enhancing tumour can't be distinguished from the rest: ET is claimed only in modalities of ``enhancing_on``.
    """
    return nested(masks)[:, : 2 if mri_type in enhancing_on else 1]


def label_map(masks: np.ndarray) -> np.ndarray:
    """WT and ET masks ``(N, 2, H, W)`` to labels ``(N, H, W)`` uint8: 1 tumour that does not enhance, 2 enhancing tumour.

    Of WT alone, ``(N, 1, H, W)``, 1 is all of the tumour.
    """
    # ET counts as tumour once as part of WT, and once as ET
    return nested(masks).sum(axis=1, dtype=np.uint8)


def region_volumes(masks: np.ndarray, voxel_volume: float) -> dict[str, float]:
    """Volumes in mm³ by region of :func:`nested` masks ``(N, 2, H, W)``, or of WT alone ``(N, 1, H, W)``."""
    counts = np.count_nonzero(nested(masks), axis=(0, 2, 3))
    return {region: float(count) * voxel_volume for region, count in zip(REGIONS, counts, strict=False)}


class RestoreLabelMap(Transform):
    """Masks of a series' slices to its label map, in the original axes and geometry of the series.

    Expects ``pred`` ``(n, 2, H, W)`` of the segmented slices ``slices`` ``(n,)``, ``n_slices``, ``geometry`` and ``source``;
    makes ``pred`` a MetaTensor ``(1, X, Y, Z)`` float32 of :func:`label_map`'s values.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with the label map as ``pred``."""
        found = torch.as_tensor(data["pred"]).cpu().numpy()
        labels = np.zeros((data["n_slices"], *found.shape[2:]), dtype=np.uint8)
        labels[torch.as_tensor(data["slices"]).cpu().numpy()] = label_map(found)
        volume = torch.from_numpy(data["geometry"].to_volume(labels).astype(np.float32))
        affine = torch.tensor(data["geometry"].affine, dtype=torch.float64)
        meta = {"filename_or_obj": data["source"], "original_affine": affine}
        return {**data, "pred": MetaTensor(volume[None], affine=affine, meta=meta)}


def save_label_map(labels: np.ndarray, affine: np.ndarray, path: str | Path) -> None:
    """Write a label map ``(X, Y, Z)`` with a 4×4 affine (RAS, mm) as NIfTI, whole or not at all."""
    image = nib.Nifti1Image(labels.astype(np.uint8), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header["descrip"] = RESEARCH_ONLY.encode()
    with written_whole(path) as temporary:
        nib.save(image, temporary)


def write_masks(
    prepared_dir: str | Path, output_dir: str | Path, enhancing_on: Sequence[str] = ENHANCING_ON
) -> dict[str, str]:
    """Write ``<patient>_<mri_type>.nii.gz``, the :func:`claimed` label map of every prepared series in its geometry as it was read.

    Each of several processes writes those of its share, and returns their file names by ``"<patient>/<mri_type>"``.
    """
    written = {}
    for name, row in distributed.share(list(read_index(prepared_dir).items())):
        if "file" not in row:
            continue
        target = inside(output_dir, f"{row['patient']}_{row['mri_type']}.nii.gz")
        # a resumed prediction has already written the masks of series that it does not prepare again
        if not target.is_file() or target.stat().st_mtime < Path(row["file"]).stat().st_mtime:
            series = PreparedSeries(row["file"])
            geometry = series.require_geometry()
            labels = label_map(claimed(series.masks(), row["mri_type"], enhancing_on))
            save_label_map(np.asarray(geometry.to_volume(labels)), geometry.affine, target)
        written[name] = target.name
    return written
