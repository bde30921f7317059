"""The slices about the largest one of a series: the input of the RSNA-MICCAI 2021 challenge's winner."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends

ORDERS = ("position", "files")
"""Order of the slices: by position, or by the numbers in the files' names."""


class CentralSlices(Transform):
    """
    Take the slices about the largest slice of a stack ``(N, H, W)``, each stretched to 0…255: ``(M, image_size, image_size)`` uint8, M ≤ ``slices``.

    The largest slice is the first with the largest bounding box of non-zero pixels; half of the slices lie before it, the others begin
    with it, cut off at the ends of the stack. Each slice is resized (OpenCV, bilinear), then its minimum
    is subtracted and it is divided by its maximum; a constant one is 0. Source: the winner of the RSNA-MICCAI 2021 challenge
    (rsna-resnet10), who keeps floating-point numbers where this rounds to 8 bits.

    Args:
        slices: maximum number of slices, even.
        image_size: side of the square slices, pixels.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012

    def __init__(self, slices: int = 64, image_size: int = 256) -> None:
        if slices < 2 or slices % 2:
            raise ValueError(f"slices must be an even number of at least 2, got {slices}.")
        self.slices, self.image_size = slices, image_size

    def __call__(self, stack: NdarrayOrTensor) -> np.ndarray:
        """
        Return the slices.

        Args:
            stack: ``(N, H, W)``, N at least 1.

        Raises:
            ValueError: for another shape, or a stack without slices.
        """
        array = np.asarray(stack.cpu() if isinstance(stack, torch.Tensor) else stack, dtype=np.float32)
        if array.ndim != 3 or not len(array):
            raise ValueError(f"Expected a stack of slices (N, H, W), got shape {array.shape}.")
        middle, half = largest_slice(array), self.slices // 2
        chosen = array[max(middle - half, 0) : middle + half]
        return np.stack([self._stretched(one) for one in chosen])

    def _stretched(self, image: np.ndarray) -> np.ndarray:
        resized = cv2.resize(image, (self.image_size, self.image_size), interpolation=cv2.INTER_LINEAR)
        resized -= resized.min()
        most = float(resized.max())
        return np.rint(resized * (255 / most) if most else resized).astype(np.uint8)


def largest_slice(stack: np.ndarray) -> int:
    """The index of the first slice of a stack ``(N, H, W)`` with the largest bounding box of non-zero pixels."""
    there = stack != 0
    heights, widths = (_extent(there.any(axis=axis)) for axis in (2, 1))
    return int(np.argmax(heights * widths))


def _extent(there: np.ndarray) -> np.ndarray:
    """Steps from the first to the last True of each row ``(N, L)``, as published; 0 of a row without any."""
    first, last = there.argmax(axis=1), there.shape[1] - 1 - there[:, ::-1].argmax(axis=1)
    return np.where(there.any(axis=1), last - first, 0)


class CentralSlicesd(MapTransform):
    """
    Dictionary form of :py:class:`CentralSlices`, whose ``slices`` and ``image_size`` it has.

    Args:
        keys: of stacks ``(N, H, W)``.
        order: ``position`` takes the slices as they come, as :py:class:`AcquisitionSlicesd` orders them; ``files`` in the order of
            the numbers in the names of their files, as published, which is not spatial.
        files_key: of the names of the slices' files ``(N,)``; with ``order="files"`` each slice needs one, a slice without (blank
            ones, NIfTI) leaves the order as it is.
    """

    backend = CentralSlices.backend

    def __init__(
        self,
        keys: KeysCollection,
        slices: int = 64,
        image_size: int = 256,
        order: str = "position",
        files_key: str = "slice_files",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}.")
        self.slicer, self.order, self.files_key = CentralSlices(slices, image_size), order, files_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the stacks by their central slices."""
        d = dict(data)
        for key in self.key_iterator(d):
            stack = d[key]
            if self.order == "files":
                stack = stack[file_order(d.get(self.files_key) or (), len(stack))]
            d[key] = self.slicer(stack)
        return d


def file_order(names: Sequence[str], count: int) -> list[int]:
    """Indices of slices in the order of the last numbers in their files' names; as they are where one has no number."""
    numbers = [re.findall(r"\d+", str(name)) for name in names]
    if len(numbers) != count or not all(numbers):
        return list(range(count))
    return sorted(range(count), key=lambda index: int(numbers[index][-1]))


CentralSlicesD = CentralSlicesDict = CentralSlicesd
