"""Preparation for stage 1: labelled volumes to prepared slices of each plane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform

from custom_transforms import SampleSlices, SlicePlanes, TumorRatioFilter, grey_window

from .datalists import MRI_TYPES
from .outputs import SERIES_SUFFIX, inside
from .preparation import as_array, fingerprint, row_of
from .prepared import write_series


def segmentation_items(
    entries: Iterable[Mapping[str, Any]],
    prepared_dir: str | Path,
    configuration: Mapping[str, Any],
    mri_types: Sequence[str] = MRI_TYPES,
) -> list[dict[str, Any]]:
    """What to prepare for stage 1: one item per labelled volume, ``{"patient", "mri_type", "image", "seg", "output", …}``."""
    return [
        {
            "patient": entry["patient"],
            "mri_type": mri_type,
            "image": entry[mri_type],
            "seg": entry["seg"],
            "outputs": {
                plane: str(inside(prepared_dir, entry["patient"], f"{mri_type}_{plane}{SERIES_SUFFIX}"))
                for plane in configuration["planes"]
            },
            "fingerprint": fingerprint(configuration, entry[mri_type], entry["seg"]),
        }
        for entry in entries
        if "seg" in entry
        for mri_type in mri_types
        if mri_type in entry
    ]


class SavePlanes(Transform):
    """Cut a labelled volume into planes, keep and sample slices, and write a prepared series per plane.

    Expects ``image`` ``(1, X, Y, Z)`` uint8, a MetaTensor, and ``seg`` ``(2, X, Y, Z)`` [WT, ET] in RAS.
    """

    def __init__(self, planes: SlicePlanes, keep: TumorRatioFilter, sample: SampleSlices) -> None:
        self.planes, self.keep, self.sample = planes, keep, sample

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """One row per plane for the index.

        Raises:
            ValueError: when image and labels differ in shape.
        """
        shapes = [tuple(data[key].shape[1:]) for key in ("image", "seg")]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{data['patient']}/{data['mri_type']}: the image has {shapes[0]} voxels, its labels {shapes[1]}; expected labels on "
                "the image's own grid"
            )
        stacks = self.planes(torch.cat([torch.as_tensor(data["image"]), torch.as_tensor(data["seg"])]))
        spacings = self.planes.spacings(data["image"])
        known = {**data.get("identity", {}), "window": grey_window(data["image"]), "fingerprint": data["fingerprint"]}
        rows = {}
        for plane, stack in stacks.items():
            image, masks = as_array(stack[:, 0]), as_array(stack[:, 1:])
            slices = np.asarray(self.sample(np.flatnonzero(self.keep(image, masks[:, 0]))))
            row = {**row_of({**data, "plane": plane}), "slices": len(image), "kept": len(slices)}
            info = {**row, **known, "spacing": spacings[plane]}
            known.pop("looks", None)  # once is enough
            write_series(data["outputs"][plane], image[slices], np.arange(len(slices)), masks[slices] > 0, info)
            rows[plane] = row
        return {"patient": data["patient"], "mri_type": data["mri_type"], "error": "", "planes": rows}
