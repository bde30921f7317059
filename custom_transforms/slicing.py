"""Slices of a volume along its three planes, and sampling against near-duplicate neighbours."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends
from nibabel.orientations import aff2axcodes

from .planes import PLANES

AXIS_OF_PLANE = {plane: axis for axis, plane in enumerate(PLANES)}


class SlicePlanes(Transform):
    """
    Slice an RAS volume ``(C, X, Y, Z)`` along its axes: a dictionary of plane -> stack ``(N, C, H, W)``.

    Sagittal slices lie across X: ``(X, C, Y, Z)``; coronal ones across Y: ``(Y, C, X, Z)``; axial ones across Z:
    ``(Z, C, X, Y)``. Source: T4E solution of the RSNA-MICCAI 2021 challenge, stage 1.

    Args:
        planes: which planes, in this order.
        radiological: transpose each slice and flip both its axes, as DICOM slices are displayed (axial: rows from
            front to back, columns from the patient's right to left). The order of the slices stays that of the volume.
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]  # noqa: RUF012

    def __init__(self, planes: Sequence[str] = PLANES, radiological: bool = False) -> None:
        self.planes = (planes,) if isinstance(planes, str) else tuple(planes)
        self.radiological = radiological
        if not self.planes or set(self.planes) - set(AXIS_OF_PLANE):
            raise ValueError(f"planes must be some of {sorted(AXIS_OF_PLANE)}, got {self.planes}.")

    def __call__(self, volume: NdarrayOrTensor) -> dict[str, NdarrayOrTensor]:
        """
        Return the stacks; a MetaTensor gives plain tensors, as its affine is not that of a slice.

        Args:
            volume: ``(C, X, Y, Z)``. Arrays and tensors without an affine are taken as RAS.

        Raises:
            ValueError: for another shape, or a MetaTensor that is not in RAS orientation.
        """
        if volume.ndim != 4:
            raise ValueError(f"Expected a volume (C, X, Y, Z), got shape {tuple(volume.shape)}.")
        if isinstance(volume, MetaTensor):
            found = "".join(str(code) for code in aff2axcodes(np.asarray(volume.affine.cpu(), dtype=float)))
            if found != "RAS":
                raise ValueError(
                    f"Expected a volume in RAS orientation, got {found}. Apply Orientationd(keys, axcodes='RAS') first."
                )
            volume = volume.as_tensor()
        return {plane: self._stack(volume, AXIS_OF_PLANE[plane] + 1) for plane in self.planes}

    def spacings(self, volume: MetaTensor) -> dict[str, tuple[float, float]]:
        """
        Millimetres between the rows and between the columns of each plane's slices.

        Args:
            volume: ``(C, X, Y, Z)``, with its affine.
        """
        found = {}
        for plane in self.planes:
            sides = [float(side) for axis, side in enumerate(volume.pixdim) if axis != AXIS_OF_PLANE[plane]]
            found[plane] = (sides[1], sides[0]) if self.radiological else (sides[0], sides[1])
        return found

    def _stack(self, volume: NdarrayOrTensor, axis: int) -> NdarrayOrTensor:
        if isinstance(volume, torch.Tensor):
            stack = volume.movedim(axis, 0)
            return (stack.transpose(2, 3).flip(2, 3) if self.radiological else stack).contiguous()
        array = np.moveaxis(volume, axis, 0)
        return np.array(np.flip(array.swapaxes(2, 3), (2, 3)) if self.radiological else array, order="C")


class SlicePlanesd(MapTransform):
    """Dictionary form of :py:class:`SlicePlanes`, whose ``planes`` and ``radiological`` it has: each key becomes ``{key}_{plane}``.

    The volume itself is dropped, as the stacks hold the same numbers; copy it before (``CopyItemsd``) to keep it.
    """

    backend = SlicePlanes.backend

    def __init__(
        self,
        keys: KeysCollection,
        planes: Sequence[str] = PLANES,
        radiological: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.slicer = SlicePlanes(planes, radiological)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the volumes by their stacks."""
        d = dict(data)
        for key in self.key_iterator(d):
            for plane, stack in self.slicer(d.pop(key)).items():
                d[f"{key}_{plane}"] = stack
        return d


class SampleSlices(Transform):
    """
    Take every T-th slice of a stack, starting with the first, T = max(round(keep_rate * N), 1).

    Neighbouring slices are near-duplicates. As T grows with N, about 1 / ``keep_rate`` slices of a stack remain,
    however long it is. Source: T4E solution of the RSNA-MICCAI 2021 challenge, stage 1 (0.1).

    Args:
        keep_rate: step as a fraction of the stack's length, 0…1.
        step: T itself, whatever the stack's length; None uses ``keep_rate``.
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]  # noqa: RUF012

    def __init__(self, keep_rate: float = 0.1, step: int | None = None) -> None:
        if not 0 <= keep_rate <= 1:
            raise ValueError(f"keep_rate must be between 0 and 1, got {keep_rate}.")
        if step is not None and step < 1:
            raise ValueError(f"step must be at least 1, got {step}.")
        self.keep_rate, self.step = keep_rate, step

    def __call__(self, stack: NdarrayOrTensor) -> NdarrayOrTensor:
        """Return the sampled stack ``(M, ...)`` of a stack ``(N, ...)``; a MetaTensor gives a plain tensor."""
        plain = stack.as_tensor() if isinstance(stack, MetaTensor) else stack
        return plain[:: self.step or max(round(self.keep_rate * len(plain)), 1)]


class SampleSlicesd(MapTransform):
    """Dictionary form of :py:class:`SampleSlices`, whose ``keep_rate`` and ``step`` it has: the same slices of every key, stacks of one length."""

    backend = SampleSlices.backend

    def __init__(
        self,
        keys: KeysCollection,
        keep_rate: float = 0.1,
        step: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.sampler = SampleSlices(keep_rate, step)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the stacks by their samples."""
        d = dict(data)
        lengths = {key: len(d[key]) for key in self.key_iterator(d)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"Expected stacks of one length, got {lengths}. Sample stacks of other series separately.")
        for key in lengths:
            d[key] = self.sampler(d[key])
        return d


SlicePlanesD = SlicePlanesDict = SlicePlanesd
SampleSlicesD = SampleSlicesDict = SampleSlicesd
