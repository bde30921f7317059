"""How the two networks are applied: autocast by device, stacks of slices to masks, stacks of slices to sequences' logits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.inferers import Inferer
from torch import nn

from custom_transforms import ChunkSlices, grey_window

IMAGENET_MEAN = (123.675, 116.28, 103.53)
"""Mean of ImageNet's three channels, in 0…255."""
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Standard deviation of ImageNet's three channels, in 0…255."""
SCALINGS = ("minmax", "window")
"""What a segmentation network is shown of a series in 0…255: it as it is, or its :func:`grey_window` stretched to 0…255."""
FLIPS = ((), (-1,), (-2,), (-1, -2))
"""Axes that each view of a slice is mirrored along; training mirrors them alike."""


class NonFiniteError(ValueError):
    """A network that answers with NaN or infinity, from which no mask can be made."""


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a processor has matrix units for bfloat16: AMX, or tensor cores from Ampere on."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    # torch tells it only under a name with an underscore
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return device.type == "cpu" and has_amx is not None and bool(has_amx())


def autocast(device: torch.device | str, amp: bool | str) -> torch.autocast:
    """Mixed precision by device, which MONAI's engines know for CUDA alone: float16 on older GPUs, else bfloat16.

    Args:
        device: where the network runs.
        amp: True, False, or ``"auto"``: on every GPU, and on a CPU with matrix units for bfloat16; on other CPUs it gains
            nothing or loses.

    Raises:
        ValueError: for any other ``amp``.
    """
    if amp not in (True, False, "auto"):
        raise ValueError(f"amp is {amp!r}, expected True, False or auto")
    device = torch.device(device)
    fast = has_fast_bf16(device)
    dtype = torch.float16 if device.type == "cuda" and not fast else torch.bfloat16
    return torch.autocast(
        device.type, dtype=dtype, enabled=(fast or device.type == "cuda") if amp == "auto" else bool(amp)
    )


def normalise(images: torch.Tensor) -> torch.Tensor:
    """ImageNet normalisation of ``(N, 3, H, W)`` images in 0…255, as float32."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(3, 1, 1)
    return (images.float() - mean) / std


def stretch(images: torch.Tensor, window: Sequence[int]) -> torch.Tensor:
    """Floating point images in 0…255 whose window from black to white becomes 0…255; what lies outside is black or white."""
    black, white = window
    return images if (black, white) == (0, 255) else ((images - black) * (255 / (white - black))).clamp(0, 255)


def is_finite(values: torch.Tensor) -> bool:
    """Whether none of the values is NaN or infinite."""
    # a sum of one is neither; it takes a tenth of the time of looking at each value, but may overflow by itself
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def not_finite(what: str) -> str:
    """Why a series has no result, where the ``what`` of it gave numbers that are none."""
    return (
        f"the {what} answered with NaN or infinity, expected finite numbers; compute in float32 (--exact, or --amp False), or use "
        "other weights"
    )


class AutocastInferer(Inferer):
    """A forward pass in mixed precision on whatever device the inputs are; the prediction comes back as float32.

    Args:
        amp: True, False or ``"auto"`` (see :func:`autocast`).
    """

    def __init__(self, amp: bool | str = "auto") -> None:
        super().__init__()
        self.amp = amp

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """``network(inputs)``."""
        with autocast(inputs.device, self.amp):
            return network(inputs, *args, **kwargs).float()


class SliceSegmenter(Inferer):
    """Whole-tumour and enhancing-tumour masks of a stack of slices.

    Every slice is resized to ``zoom`` times the network's input, its centre is segmented, the thresholded masks are padded
    back with background and resized to the slice's size, as in the T4E solution of the RSNA-MICCAI 2021 challenge.

    Args:
        image_size: side of the network's square input.
        zoom: how much larger than the input a slice is made before its centre is cut out; 1 shows all of it.
        batch_size: slices in one forward pass.
        amp: see :func:`autocast`.
        coarse_step: mm; where more than 0, slices this far apart are segmented first, and those between two of them only
            if one of the two shows tumour; the others have none.
        scaling: one of ``SCALINGS``, that which the network was trained with.
    """

    def __init__(
        self,
        image_size: int = 224,
        zoom: float = 1.2,
        batch_size: int = 16,
        amp: bool | str = "auto",
        coarse_step: float = 0,
        scaling: str = "minmax",
    ) -> None:
        super().__init__()
        if zoom < 1:
            raise ValueError(f"zoom is {zoom}, expected 1 or more")
        if scaling not in SCALINGS:
            raise ValueError(f"scaling is {scaling!r}, expected one of {', '.join(SCALINGS)}")
        if coarse_step < 0:
            raise ValueError(f"coarse_step is {coarse_step}, expected 0 (every slice is segmented) or a distance in mm")
        self.image_size, self.zoom, self.batch_size, self.amp = image_size, zoom, batch_size, amp
        self.coarse_step, self.scaling = coarse_step, scaling

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Masks ``(..., 2, H, W)`` uint8 of 0 and 1 of slices ``(..., H, W)`` in 0…255, ``(N, H, W)`` for example.

        ``slice_distance`` among the keyword arguments tells how far apart the slices are, in mm (``coarse_step``).

        Raises:
            NonFiniteError: when the network answers with NaN or infinity.
        """
        slices = inputs.flatten(0, -3)
        masks = inputs.new_zeros((len(slices), 2, *inputs.shape[-2:]), dtype=torch.uint8)
        step = max(int(self.coarse_step / kwargs.get("slice_distance", torch.inf)), 1)
        coarse = sorted({*range(0, len(slices), step), *range(len(slices))[-1:]})
        window = self.window(slices)
        self._segment(slices, coarse, network, masks, window)
        between = [
            index
            for first, last in itertools.pairwise(coarse)
            if last > first + 1 and masks[[first, last], 0].any()
            for index in range(first + 1, last)
        ]
        self._segment(slices, between, network, masks, window)
        return masks.reshape(*inputs.shape[:-2], 2, *inputs.shape[-2:])

    def probabilities(
        self, slices: torch.Tensor, network: Callable[..., Any], window: tuple[int, int] | None = None
    ) -> torch.Tensor:
        """Probabilities ``(N, 2, H, W)`` float32 of WT and ET; 0 outside what the network is shown.

        Args:
            slices: ``(N, H, W)`` in 0…255.
            network: gives logits.
            window: of the series, where these are not all of its slices.

        Raises:
            NonFiniteError: when the network answers with NaN or infinity.
        """
        found = slices.new_zeros((len(slices), 2, *slices.shape[-2:]), dtype=torch.float32)
        self._segment(slices, range(len(slices)), network, found, window or self.window(slices))
        return found

    def window(self, series: torch.Tensor) -> tuple[int, int]:
        """The grey values of a series in 0…255 that the network is shown as black and as white."""
        return grey_window(series) if self.scaling == "window" else (0, 255)

    def zoomed(self, zoom: float) -> SliceSegmenter:
        """The same with another zoom."""
        return SliceSegmenter(self.image_size, zoom, self.batch_size, self.amp, self.coarse_step, self.scaling)

    def _segment(
        self,
        slices: torch.Tensor,
        indices: Sequence[int],
        network: Callable[..., Any],
        found: torch.Tensor,
        window: tuple[int, int],
    ) -> None:
        """Write the masks, or probabilities where ``found`` has fractions, of some of the slices."""
        before, after = self._border()
        for start in range(0, len(indices), self.batch_size):
            batch = torch.tensor(indices[start : start + self.batch_size], device=slices.device)
            centre = self.centre(stretch(slices[batch].float(), window))
            with autocast(slices.device, self.amp):
                logits = network(normalise(centre[:, None].expand(-1, 3, -1, -1))).float()
            if not is_finite(logits):
                raise NonFiniteError(not_finite("segmenter"))
            parts = logits.sigmoid() if found.is_floating_point() else (logits > 0).float()
            parts = F.pad(parts, (before, after, before, after))
            resized = F.interpolate(parts, size=slices.shape[1:], mode="bilinear", align_corners=False)
            found[batch] = resized if found.is_floating_point() else (resized >= 0.5).to(found.dtype)

    def centre(self, slices: torch.Tensor) -> torch.Tensor:
        """What the network is shown of slices ``(B, H, W)``: ``(B, image_size, image_size)``."""
        before, after = self._border()
        whole = before + self.image_size + after
        images = F.interpolate(slices[:, None], size=(whole, whole), mode="bilinear", align_corners=False)
        return images[:, 0, before : before + self.image_size, before : before + self.image_size]

    def _border(self) -> tuple[int, int]:
        """Pixels of the enlarged slice before and after its centre."""
        whole = int(self.image_size * self.zoom)
        before = (whole - self.image_size) // 2
        return before, whole - self.image_size - before


class SequenceClassifier(Inferer):
    """Logits of all sequences of a series; each slice passes the backbone once, however many sequences it is in.

    A sequence that is too short is padded with black slices, whose features are computed once too, so that the result is
    that of running every padded sequence through the whole network.

    Args:
        chunks: the cut into sequences.
        image_size: side of the network's square input.
        zoom: magnification about the centre, as at test time in the T4E solution of the RSNA-MICCAI 2021 challenge.
        batch_size: slices in one forward pass of the backbone.
        amp: see :func:`autocast`.
        flips: test-time augmentation: mirrored slices, in each direction and in both, are classified as well.
    """

    def __init__(
        self,
        chunks: ChunkSlices,
        image_size: int = 224,
        zoom: float = 1.2,
        batch_size: int = 35,
        amp: bool | str = "auto",
        flips: bool = False,
    ) -> None:
        super().__init__()
        self.chunks, self.image_size, self.zoom, self.batch_size, self.amp = chunks, image_size, zoom, batch_size, amp
        self.flips = flips

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Logits ``(M, C)`` of the M sequences of slices ``(K, 3, H, W)`` in 0…255; ``(0, 1)`` where there is no slice.

        C is 1, or as many as members and views together. ``network`` is a ``BiLSTMNFNet``, a ``ModuleList`` of members, or a
        ``ModuleDict`` of either by modality; then ``mri_type`` says which.
        """
        chosen: Any = network[kwargs["mri_type"]] if isinstance(network, nn.ModuleDict) else network
        if not len(inputs):
            return torch.zeros((0, 1), device=inputs.device)
        members = list(chosen) if isinstance(chosen, nn.ModuleList) else [chosen]
        views = [inputs.flip(axes) if axes else inputs for axes in (FLIPS if self.flips else FLIPS[:1])]
        return torch.cat([self._logits(view, member) for member in members for view in views], dim=1)

    def _logits(self, inputs: torch.Tensor, classifier: Any) -> torch.Tensor:
        """``(M, 1)`` of one classifier."""
        with autocast(inputs.device, self.amp):
            batches = inputs.split(self.batch_size)
            features = [classifier.encode(normalise(self.resize(batch))) for batch in batches]
            black = inputs.new_zeros((1, 3, self.image_size, self.image_size))
            features.append(classifier.encode(normalise(black)))
            indices = torch.tensor([self._padded(*bound, len(inputs)) for bound in self.chunks.bounds(len(inputs))])
            return classifier.classify(torch.cat(features)[indices.to(inputs.device)]).float()

    def resize(self, images: torch.Tensor) -> torch.Tensor:
        """Slices ``(B, 3, H, W)`` magnified about their centre, ``(B, 3, image_size, image_size)`` float32."""
        scale = torch.tensor([[1 / self.zoom, 0, 0], [0, 1 / self.zoom, 0]], device=images.device)
        shape = (len(images), images.shape[1], self.image_size, self.image_size)
        grid = F.affine_grid(scale.expand(len(images), 2, 3), list(shape), align_corners=False)
        return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def _padded(self, start: int, stop: int, black: int) -> list[int]:
        indices = list(range(start, stop))
        return indices + [black] * (self.chunks.length - len(indices))


def prepare_series_batch(
    batchdata: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor | None, tuple, dict[str, Any]]:
    """MONAI engines' ``prepare_batch`` for a series: its image, its label if any, and what the inferers are told of it.

    They are told its modality, and how far apart its slices are where the series has a geometry.
    """
    image = batchdata["image"].to(device=device, non_blocking=non_blocking)
    label = batchdata.get("label")
    target = None if label is None else torch.as_tensor([[float(label)]], device=device)
    known = {key: batchdata[key] for key in ("mri_type",) if key in batchdata}
    if batchdata.get("geometry") is not None:
        known["slice_distance"] = batchdata["geometry"].slice_spacing
    return image, target, (), known
