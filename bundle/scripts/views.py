"""Which part of a slice a segmentation network is shown, and the way back from its answer to the slice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

SMALLEST_HEAD, LARGEST_PICTURE = 60, 600
"""mm: pictures that are smaller or larger have a pixel size that is wrong."""
ANTIALIASED = 1.3
"""How many pixels of a slice may become one without a filter before."""


def stretch(images: torch.Tensor, window: Sequence[int]) -> torch.Tensor:
    """Floating point images in 0…255 whose window from black to white becomes 0…255; what lies outside is black or white."""
    black, white = window
    return images if (black, white) == (0, 255) else ((images - black) * (255 / (white - black))).clamp(0, 255)


def view_of(
    slices: torch.Tensor,
    black: int,
    spacing: tuple[float, float] | None,
    size: int,
    zoom: float,
    field_of_view: float | None,
) -> ZoomedCentre | FieldOfView:
    """The view of a series: a field of view in mm about the middle of the brain, or else the enlarged centre.

    Args:
        slices: all of the series, ``(N, H, W)``.
        black: grey value of the background.
        spacing: of rows and of columns, mm; None where it is unknown.
        size: side of the network's input.
        zoom: how much larger than it slices are made where there is no field of view.
        field_of_view: mm; None, and pictures whose pixel size can't be a head's: ``zoom``.
    """
    sides = [length * distance for length, distance in zip(slices.shape[1:], spacing or (0, 0), strict=True)]
    if spacing is None or field_of_view is None or not all(SMALLEST_HEAD <= side <= LARGEST_PICTURE for side in sides):
        return ZoomedCentre(size, zoom)
    head = (slices > black).any(0)
    if not head.any():
        head = torch.ones_like(head)
    lines = [torch.nonzero(head.any(axis))[:, 0] for axis in (1, 0)]
    middle = [int(line[0] + line[-1] + 1) / 2 for line in lines]
    return FieldOfView(size, [field_of_view / distance for distance in spacing], middle)


class ZoomedCentre:
    """The centre of a slice made ``zoom`` times as large as the network's input: how the method shows slices to its segmenter."""

    def __init__(self, size: int, zoom: float) -> None:
        self.size, self.whole = size, int(size * zoom)
        self.before = (self.whole - size) // 2

    def show(self, slices: torch.Tensor, window: Sequence[int] = (0, 255)) -> torch.Tensor:
        """``(B, H, W)`` in 0…255 to ``(B, size, size)`` float32, with ``window`` from black to white."""
        images = stretch(slices[:, None].float(), window)
        images = F.interpolate(images, size=(self.whole, self.whole), mode="bilinear", align_corners=False)
        inside = slice(self.before, self.before + self.size)
        return images[:, 0, inside, inside]

    def back(self, found: torch.Tensor, shape: Sequence[int], as_masks: bool = False) -> torch.Tensor:
        """Probabilities ``(B, C, size, size)`` to ``(B, C, H, W)``, or to uint8 masks; 0 beside what was shown."""
        after = self.whole - self.size - self.before
        padded = F.pad(found, (self.before, after, self.before, after))
        whole = F.interpolate(padded, size=tuple(shape), mode="bilinear", align_corners=False)
        return (whole >= 0.5).to(torch.uint8) if as_masks else whole


class FieldOfView:
    """A field of so many pixels about the middle of the brain, made as large as the network's input.

    Args:
        size: side of the network's input.
        extent: pixels along rows' and columns' direction that are shown, to the next whole one.
        middle: of the field, in pixels from the first edge.
    """

    def __init__(self, size: int, extent: Sequence[float], middle: Sequence[float]) -> None:
        self.size = size
        self.extent = [max(round(length), 1) for length in extent]
        self.first = [round(at - length / 2) for at, length in zip(middle, self.extent, strict=True)]

    def _margins(self, shape: Sequence[int]) -> list[int]:
        """Pixels to add, or below 0 to cut off, in the order of :func:`torch.nn.functional.pad`."""
        (top, left), (height, width) = self.first, self.extent
        return [-left, left + width - shape[1], -top, top + height - shape[0]]

    def show(self, slices: torch.Tensor, window: Sequence[int] = (0, 255)) -> torch.Tensor:
        """``(B, H, W)`` in 0…255 to ``(B, size, size)`` float32 with ``window`` from black to white, black beside the slice."""
        field = stretch(F.pad(slices[:, None], self._margins(slices.shape[1:])).float(), window)
        shrinks = max(self.extent) > ANTIALIASED * self.size
        size = (self.size, self.size)
        return F.interpolate(field, size=size, mode="bilinear", align_corners=False, antialias=shrinks)[:, 0]

    def back(self, found: torch.Tensor, shape: Sequence[int], as_masks: bool = False) -> torch.Tensor:
        """Probabilities ``(B, C, size, size)`` to ``(B, C, H, W)``, or to uint8 masks; 0 beside what was shown."""
        field = F.interpolate(found, size=tuple(self.extent), mode="bilinear", align_corners=False)
        field = (field >= 0.5).to(torch.uint8) if as_masks else field
        return F.pad(field, [-margin for margin in self._margins(shape)])
