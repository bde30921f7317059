"""From prepared series to training inputs: single slices, sequences of slices, whole series."""

from __future__ import annotations

import logging
import math
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import get_track_meta, set_track_meta
from monai.transforms import Compose, Transform

from custom_transforms import ChunkSlices, ConcatMaskChannels

from . import memory
from .inferers import SCALINGS
from .preparation import read_index
from .prepared import PreparedSeries
from .views import stretch

logger = logging.getLogger(__name__)


def slice_items(
    entries: Iterable[Mapping[str, Any]], prepared_dir: str | Path, required: bool = True
) -> list[dict[str, Any]]:
    """One item per prepared slice of the patients, ``{"series", "slice", "patient", "mri_type", "plane"}``.

    Raises:
        ValueError: when slices are required and none of the patients has a prepared one.
    """
    patients = {entry["patient"] for entry in entries}
    items = [
        {"series": row["file"], "slice": index, **{key: row[key] for key in ("patient", "mri_type", "plane")}}
        for row in read_index(prepared_dir).values()
        if row["patient"] in patients
        for index in range(row.get("kept", 0))
    ]
    if required:
        _require(items, len(patients), prepared_dir, "slice")
    return items


def sequence_items(
    entries: Iterable[Mapping[str, Any]], prepared_dir: str | Path, mri_type: str, chunks: ChunkSlices
) -> list[dict[str, Any]]:
    """One item per sequence of the patients' series of one modality, ``{"series", "start", "stop", "label", "patient"}``.

    Raises:
        ValueError: when none of the patients has a usable slice.
    """
    entries = list(entries)
    usable = [item for item in series_items(entries, prepared_dir, [mri_type]) if item["kept"]]
    items = [{**item, "start": start, "stop": stop} for item in usable for start, stop in chunks.bounds(item["kept"])]
    _require(items, len(entries), prepared_dir, f"{mri_type} sequence")
    logger.info("%s: %d sequences of %d patients", mri_type, len(items), len(usable))
    return items


def series_items(
    entries: Iterable[Mapping[str, Any]], prepared_dir: str | Path, mri_types: Iterable[str]
) -> list[dict[str, Any]]:
    """One item per prepared series of the patients, ``{"series", "patient", "mri_type", "kept"}`` and the label if known."""
    index = read_index(prepared_dir)
    items = []
    for entry in entries:
        known = {key: entry[key] for key in ("patient", "label") if key in entry}
        for mri_type in mri_types:
            row = index.get(f"{entry['patient']}/{mri_type}", {})
            if "file" in row:
                items.append({"series": row["file"], "mri_type": mri_type, "kept": row["kept"], **known})
    return items


def _require(items: list, patients: int, prepared_dir: str | Path, what: str) -> None:
    if not items:
        raise ValueError(
            f"{prepared_dir}: none of {patients} patients has a {what}; read the reasons in its index.json, or prepare with a "
            "smaller tumour ratio or more contours (--min_tumor_ratio, --max_contours)"
        )


class UntrackedCompose(Compose):
    """A ``Compose`` whose transforms pass plain tensors: none of them needs metadata, which cost more time than the work.

    MONAI has one switch per process, so it is off only while they run: other jobs in the process need metadata.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Compose``."""
        tracked = get_track_meta()
        set_track_meta(False)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            set_track_meta(tracked)


class _KeepsOpen(Transform):
    """Keeps prepared series open, because items come in any order."""

    most = 128

    def __init__(self) -> None:
        self._open: OrderedDict[str, PreparedSeries] = OrderedDict()
        self._process = os.getpid()

    def series(self, path: str) -> PreparedSeries:
        if self._process != os.getpid():  # files that another process opened can't be shared
            self._process, self._open = os.getpid(), OrderedDict()
        series = self._open.pop(path, None) or PreparedSeries(path, keep_open=True)
        self._open[path] = series
        if len(self._open) > self.most:
            self._open.popitem(last=False)
        return series

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files, which stay with their process."""
        return {**vars(self), "_open": OrderedDict()}


class LoadSlice(_KeepsOpen):
    """Read one prepared slice: ``image`` ``(1, H, W)`` and ``label`` ``(2, H, W)`` [WT, ET], both uint8.

    ``field_of_view`` ``(2,)`` float32 is the height and width of the slice in mm; NaN where its file does not record them.

    Args:
        scaling: one of ``scripts.inferers.SCALINGS``: the input scaling of the network.
    """

    def __init__(self, scaling: str = "minmax") -> None:
        super().__init__()
        if scaling not in SCALINGS:
            raise ValueError(f"scaling is {scaling!r}, expected one of {', '.join(SCALINGS)}")
        self.scaling = scaling

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``image`` in 0…255, ``label`` of 0 and 1, and ``field_of_view``."""
        series = self.series(item["series"])
        stored, masks = series.stacks(item["slice"], item["slice"] + 1)
        image = torch.from_numpy(stored)
        if self.scaling == "window":
            image = stretch(image.float(), series.info["window"]).to(torch.uint8)
        field = torch.tensor(series.size) * torch.tensor(series.info.get("spacing", (math.nan, math.nan)))
        return {**item, "image": image, "label": torch.from_numpy(masks[0]), "field_of_view": field}


class LoadSeries(Transform):
    """Read all kept slices of a prepared series as 3-channel images: ``image`` ``(K, 3, H, W)`` uint8.

    Args:
        masks: False gives the slices alone, ``(K, H, W)``.
    """

    def __init__(self, masks: bool = True) -> None:
        self.concat, self.masks = ConcatMaskChannels(), masks

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``image``."""
        memory.release()  # of the series before this one
        if not self.masks:
            return {**item, "image": torch.from_numpy(PreparedSeries(item["series"]).images())}
        image, masks = PreparedSeries(item["series"]).stacks()
        return {**item, "image": torch.from_numpy(self.concat(image, masks[:, 0], masks[:, 1]))}


class LoadSequence(_KeepsOpen):
    """Read one sequence of ``length`` 3-channel slices, black at its end where the series is too short.

    The time steps are in the channels, ``(length * 3, H, W)``, so that MONAI's random spatial transforms treat all slices of
    a sequence alike; :class:`SplitSequence` separates them.

    Args:
        length: slices in a sequence.
        masks: False gives the slices alone, ``(length, H, W)``.
    """

    def __init__(self, length: int, masks: bool = True) -> None:
        super().__init__()
        self.length, self.masks = length, masks

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``image`` uint8 and ``label`` ``(1,)`` float32."""
        image, masks = self.series(item["series"]).stacks(item["start"], item["stop"])
        label = torch.tensor([float(item["label"])])
        if not self.masks:
            stack = np.zeros((self.length, *image.shape[1:]), dtype=np.uint8)
            stack[: len(image)] = image
            return {**item, "image": torch.from_numpy(stack), "label": label}
        # what ConcatMaskChannels makes, in one pass over memory
        slices = np.empty((self.length, 3, *image.shape[1:]), dtype=np.uint8)
        slices[: len(image), 0] = image
        np.multiply(masks, 255, out=slices[: len(image), 1:])
        slices[len(image) :] = 0
        return {**item, "image": torch.from_numpy(slices).flatten(0, 1), "label": label}


class SplitSequence(Transform):
    """``image`` ``(length * 3, H, W)`` to ``(length, 3, H, W)``."""

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The item with its time steps in a dimension of their own."""
        image = torch.as_tensor(item["image"])
        return {**item, "image": image.reshape(-1, 3, *image.shape[1:])}
