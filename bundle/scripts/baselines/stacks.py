"""Stacks of slices for the field's networks: prepared once from each series, and classified as a whole or slice by slice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.transforms import Transform
from torch import nn

from custom_transforms import ChunkSlices, SliceGeometry

from .. import memory
from ..inferers import autocast
from ..preparation import KeepFacts, as_array, row_of
from ..prepared import write_series


class KeepFactsAndFiles(KeepFacts):
    """:class:`~scripts.preparation.KeepFacts`, and the names of the files of the slices along Z, ``slice_files``."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``slice_files`` as well."""
        return {**super().__call__(data), "slice_files": list(data["image"].meta.get("slice_files", ()))}


class FilesOfSlices(Transform):
    """Put ``slice_files``, the names along Z, into the order of the slices of the stack described by ``geometry``."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with the name of each slice's file, none where the series has no such files."""
        names, geometry = data["slice_files"], data["geometry"]
        return {**data, "slice_files": [names[index] for index in places_along_z(geometry)] if names else []}


def places_along_z(geometry: SliceGeometry) -> list[int]:
    """The index along Z of each slice of a stack whose slices lie across Z; those of other planes have no file of their own."""
    depth = geometry.shape[2]
    along = np.broadcast_to(np.arange(depth), geometry.shape)
    return [int(one) for one in geometry.view(along)[:, 0, 0]]


class SaveStack(Transform):
    """Write the stack ``image`` ``(K, H, W)`` uint8 of an item as a prepared series without masks and without geometry."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with its ``summary``; of the image no pixel stays.

        Raises:
            ValueError: when there is no slice.
        """
        image = as_array(data["image"])
        image = image if image.dtype == np.uint8 else np.rint(image).astype(np.uint8)
        if not len(image):
            raise ValueError("no slice shows anything; expected at least one with values above 0")
        summary = {**row_of(data), "warnings": list(data["warnings"]), "slices": data["n_slices"]}
        summary |= {"foreground": len(image), "kept": len(image)}
        summary["seconds"] = round(time.time() - data["started"], 3)
        info = {**summary, **data.get("identity", {}), "fingerprint": data["fingerprint"]}
        masks = np.zeros((len(image), 2, *image.shape[1:]), dtype=bool)
        write_series(data["output"], image, np.arange(len(image)), masks, info)
        return {"patient": data["patient"], "mri_type": data["mri_type"], "summary": summary, "error": ""}


class Started(Transform):
    """Note when the work on an item began."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``started``."""
        return {**data, "started": time.time()}


class StackClassifier(Inferer):
    """Logits of a series: of its stack as a whole, or of its slices one by one, in batches.

    Args:
        chunks: the cut into samples; their length is the number of slices that the network takes.
        batch_size: samples in one forward pass.
        amp: see :func:`scripts.inferers.autocast`.
    """

    def __init__(self, chunks: ChunkSlices, batch_size: int = 8, amp: bool | str = "auto") -> None:
        super().__init__()
        self.chunks, self.batch_size, self.amp = chunks, batch_size, amp

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Logits ``(M, C)`` of the M samples of a stack ``(K, H, W)`` in 0…255, or of one set of features ``(1, F)``.

        C is the number of members. ``network`` takes samples ``(B, L, H, W)`` or features, and may be a ``ModuleList`` of members or
        a ``ModuleDict`` of either by modality; then ``mri_type`` says which.
        """
        chosen: Any = network[kwargs["mri_type"]] if isinstance(network, nn.ModuleDict) else network
        if not len(inputs):
            return torch.zeros((0, 1), device=inputs.device)
        samples = inputs if inputs.ndim == 2 else torch.as_tensor(self.chunks(inputs))
        members = list(chosen) if isinstance(chosen, nn.ModuleList) else [chosen]
        with autocast(inputs.device, self.amp):
            found = [
                torch.cat([member(batch).float() for batch in samples.split(self.batch_size)]) for member in members
            ]
        memory.release()
        return torch.cat(found, dim=1)
