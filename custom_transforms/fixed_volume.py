"""A series as an 8-bit volume of one size, whatever its number of slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import Transform
from monai.utils import TransformBackends

from .each_key import EachKey
from .volume import SeriesError, check_size

WHITE = 255
MAX_ORDER = 5  # of SciPy's splines


class FixedVolume(Transform):
    """
    Scale an ordered stack of slices ``(N, H, W)`` to an 8-bit volume of a fixed size, for 3-D networks and other programs.

    1. Slices without a value above 0 are left out.
    2. Each of the others is divided by its own maximum, times 255, and truncated (uint8). Slices thereby lose their
       relative brightness. Values below 0 become 0.
    3. The slices, stacked in order, are zoomed to ``size`` with splines (``scipy.ndimage.zoom``), as if equally spaced:
       the volume loses its spacing, and the left-out slices their place.

    Splines of order 2 and more overshoot beside edges. The zoom is computed in floating point, rounded, and limited to 0…255:
    nothing wraps around. SciPy does the same for a uint8 array.

    The recipe is from a participant of the RSNA-MICCAI 2021 challenge.

    Args:
        size: ``(rows, columns, slices)`` of the volume, each at least 1.
        order: of the spline, 0 (nearest voxel) to 5.

    Raises:
        ValueError: for a size of other than three whole numbers from 1 up, or an order outside of 0…5.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012

    def __init__(self, size: Sequence[int] = (128, 128, 32), order: int = 3) -> None:
        self.size = tuple(int(side) for side in size)
        if len(self.size) != 3 or min(self.size) < 1 or self.size != tuple(size):
            raise ValueError(f"size must be three whole numbers (rows, columns, slices) from 1 up, got {tuple(size)}.")
        check_size("size", self.size)
        if order not in range(MAX_ORDER + 1):
            raise ValueError(f"order must be a whole number from 0 to {MAX_ORDER}, got {order}.")
        self.order = int(order)

    def __call__(self, stack: NdarrayOrTensor) -> NdarrayOrTensor:
        """
        Scale a stack.

        Args:
            stack: ``(N, H, W)`` of finite grey values, slices in order, as
                :py:class:`~custom_transforms.AcquisitionSlices` gives them.

        Returns:
            ``(slices, rows, columns)`` uint8, (32, 128, 128) by default; an array for an array, a plain tensor for a
            tensor.

        Raises:
            ImportError: SciPy is not installed.
            SeriesError: no slice has a value above 0.
            ValueError: for another shape, or values that are not finite.
        """
        values = stack.detach().cpu().numpy() if isinstance(stack, torch.Tensor) else np.asarray(stack)
        if values.ndim != 3:
            raise ValueError(f"Expected a stack (N, H, W), got shape {tuple(values.shape)}.")
        if not np.isfinite(values).all():
            raise ValueError("the stack holds values that are not finite (NaN or infinity); repair the file")
        planes = [_as_uint8(plane) for plane in values if (plane > 0).any()]
        if not planes:
            raise SeriesError(
                f"none of the {len(values)} slices has a value above 0, expected images of a brain. Export the series again, or "
                "leave it out."
            )
        volume = _zoomed(np.stack(planes), (self.size[2], *self.size[:2]), self.order)
        return torch.as_tensor(volume) if isinstance(stack, torch.Tensor) else volume


class FixedVolumed(EachKey):
    """Dictionary form of :py:class:`FixedVolume`, whose ``size`` and ``order`` it has: each key becomes a volume of its own."""

    backend = FixedVolume.backend

    def __init__(
        self,
        keys: KeysCollection,
        size: Sequence[int] = (128, 128, 32),
        order: int = 3,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, FixedVolume(size, order), allow_missing_keys)


def _as_uint8(plane: np.ndarray) -> np.ndarray:
    """A slice divided by its own maximum."""
    scaled = plane.astype(np.float64) / float(plane.max()) * WHITE
    return np.clip(scaled, 0, WHITE).astype(np.uint8)


def _zoomed(stack: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    """A uint8 stack zoomed to another shape."""
    try:
        from scipy import ndimage
    except ImportError as error:
        raise ImportError("Volumes of a fixed size are zoomed with SciPy: pip install '.[train]'") from error
    # as scipy.ndimage.zoom chooses the size of its output: round(length * zoom)
    zoom = [side / length for side, length in zip(shape, stack.shape, strict=True)]
    zoomed = ndimage.zoom(stack.astype(np.float64), zoom, order=order)
    return np.clip(np.floor(zoomed + 0.5), 0, WHITE).astype(np.uint8)


FixedVolumeD = FixedVolumeDict = FixedVolumed
