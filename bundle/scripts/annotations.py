"""Training on volumes annotated one by one: each annotation is cut into slices once, as it arrives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset

from . import distributed
from .loading import slice_items
from .preparation import prepare
from .slice_preparation import segmentation_items

logger = logging.getLogger(__name__)

ANY_MODALITY = "any"
"""Modality of a volume without a named one."""


def annotated_items(
    volumes: Sequence[Mapping[str, str]], prepared_dir: str | Path, configuration: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Items for :func:`~scripts.preparation.prepare` of volumes, ``{"image", "label"}`` paths.

    Raises:
        ValueError: when two images have the same name, which distinguishes volumes.
    """
    entries: dict[str, dict[str, str]] = {}
    for volume in volumes:
        name = Path(volume["image"]).name.removesuffix(".gz").removesuffix(".nii")
        if name in entries:
            other = entries[name][ANY_MODALITY]
            raise ValueError(f"{other} and {volume['image']} have the same name; rename one of them")
        entries[name] = {"patient": name, ANY_MODALITY: volume["image"], "seg": volume["label"]}
    return segmentation_items(entries.values(), prepared_dir, configuration, [ANY_MODALITY])


class AnnotatedSlices(Dataset):
    """The slices of annotated volumes, ``{"image", "label"}`` paths, that show enough tumour, prepared here unless they were before.

    Args:
        data: volumes.
        transform: of a slice, an item of :func:`~scripts.loading.slice_items`.
        preparation: reads a volume and its label map, and saves their slices.
        prepared_dir: folder of the prepared slices.
        configuration: how they are made.
        otherwise: volumes used instead, with a warning, if those of ``data`` show no slice with enough tumour.
        share: each of several processes has the slices of its share of the volumes.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        transform: Callable[[Mapping[str, Any]], Any],
        preparation: Callable[[Mapping[str, Any]], dict[str, Any]],
        prepared_dir: str | Path,
        configuration: Mapping[str, Any],
        otherwise: Sequence[Mapping[str, str]] = (),
        share: bool = False,
    ) -> None:
        def slices(volumes: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
            if not volumes:
                return []
            items = annotated_items(volumes, prepared_dir, configuration)
            prepare(items, preparation, prepared_dir, configuration)
            return slice_items(items, prepared_dir, required=False)

        found = slices(data)
        if not found and otherwise:
            logger.warning("no held-out volume shows tumour: scores are of the training volumes")
            found = slices(otherwise)
        if not found:
            raise ValueError(
                f"none of {len(data)} annotated volumes has a slice with enough tumour to train on; submit a label with more "
                f"tumour. Reasons why volumes were left out are in {Path(prepared_dir) / 'index.json'}"
            )
        super().__init__(distributed.share(found, by="patient") if share else found, transform)
