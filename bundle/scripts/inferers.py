"""How the two networks are applied: autocast by device, stacks of slices to masks, stacks of slices to sequences' logits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import Inferer
from torch import nn

from custom_transforms import ChunkSlices, SliceGeometry, grey_window
from custom_transforms.planes import DISPLAY_AXCODES

from .checks import PLANES
from .errors import UserError
from .views import FieldOfView, ZoomedCentre, view_of

IMAGENET_MEAN = (123.675, 116.28, 103.53)
"""Mean of ImageNet's three channels, in 0…255."""
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Standard deviation of ImageNet's three channels, in 0…255."""
SCALINGS = ("minmax", "window")
"""What a segmentation network is shown of a series in 0…255: all of it, or its :func:`grey_window` stretched to 0…255."""
THICKEST = 2.0
"""mm between acquired slices up to which a series is segmented along three planes by itself."""
SUSPECTED = 0.1
"""Probability of tumour in one plane from which slices of the other planes are looked at."""
STEP, MARGIN = 2.0, 10.0
"""mm between the slices of the other planes that are looked at, and how far beyond those suspected."""
END_FOREGROUND = 0.02
"""Share of pixels above the background of the smallest slice of a brain that is segmented."""
FLIPS = ((), (-1,), (-2,), (-1, -2))
"""Axes that each view of a slice is mirrored along; training mirrors them alike."""


class NonFiniteError(UserError):
    """A network's answer with NaN or infinity."""


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a processor has matrix units for bfloat16: AMX, or tensor cores from Ampere on."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    # torch has it only under a name with an underscore
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return device.type == "cpu" and has_amx is not None and bool(has_amx())


def autocast(device: torch.device | str, amp: bool | str) -> torch.autocast:
    """Mixed precision by device, which MONAI's engines know for CUDA alone: float16 on older GPUs, else bfloat16.

    Args:
        device: where the network runs.
        amp: True, False, or ``"auto"``: on every GPU, and on a CPU with matrix units for bfloat16; others are no faster with it.
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


def segmented_foreground(min_foreground: float, settings: Mapping[str, Any]) -> float:
    """Share of pixels above the background that a slice must exceed to be segmented; ``min_foreground`` is that to be classified.

    Segmenters with a ``field_of_view`` in their settings see the small slices at the ends of a brain as well.
    """
    return min(min_foreground, END_FOREGROUND) if settings["field_of_view"] else min_foreground


def is_finite(values: torch.Tensor) -> bool:
    """Whether none of the values is NaN or infinite."""
    # the sum takes a tenth of the time, but may overflow by itself
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def not_finite(what: str) -> str:
    """Why a series has no result when the network called ``what`` failed."""
    return (
        f"the {what} answered with NaN or infinity, expected finite numbers; compute in float32 (--exact, or --amp False), or use "
        "other weights"
    )


class AutocastInferer(Inferer):
    """A forward pass in mixed precision (see :func:`autocast`) on the inputs' device; the prediction comes back as float32."""

    def __init__(self, amp: bool | str = "auto") -> None:
        super().__init__()
        self.amp = amp

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """``network(inputs)``."""
        with autocast(inputs.device, self.amp):
            return network(inputs, *args, **kwargs).float()


class SliceSegmenter(Inferer):
    """Whole-tumour and enhancing-tumour masks of a stack of slices.

    The method's way: every slice is resized to ``zoom`` times the network's input, its centre is segmented, the thresholded
    masks are padded back with background and resized to the slice's size, as in the T4E solution of the RSNA-MICCAI 2021
    challenge. Networks that were trained on a field of view in mm are shown that field about the middle of the brain instead,
    whatever the size of pixels, and where voxels are nearly cubes they are shown the series along three planes and averaged.

    Args:
        image_size: side of the network's square input.
        zoom: how much larger than the input a slice is made before its centre is cut out; 1 shows all of it.
        batch_size: slices in one forward pass.
        amp: see :func:`autocast`.
        coarse_step: mm; where more than 0, slices this far apart are segmented first, and those between two of them only
            if one of the two shows tumour.
        scaling: one of ``SCALINGS``, that which the network was trained with.
        field_of_view: mm that the side of the input stands for, of networks that were trained so. None, and series whose
            pixel size is unknown or can't be a head's: ``zoom``.
        planes: ``acquired``, ``three``, or ``auto``: three where slices are thin. Three need a field of view, and no
            ``coarse_step``.
    """

    def __init__(
        self,
        image_size: int = 224,
        zoom: float = 1.2,
        batch_size: int = 16,
        amp: bool | str = "auto",
        coarse_step: float = 0,
        scaling: str = "minmax",
        field_of_view: float | None = None,
        planes: str = "auto",
    ) -> None:
        super().__init__()
        for name, value, good, expected in (
            ("zoom", zoom, zoom >= 1, "1 or more"),
            ("scaling", scaling, scaling in SCALINGS, f"one of {', '.join(SCALINGS)}"),
            ("coarse_step", coarse_step, coarse_step >= 0, "0 (every slice is segmented) or a distance in mm"),
            ("field_of_view", field_of_view, field_of_view is None or field_of_view > 0, "a length in mm, or None"),
            ("planes", planes, planes in PLANES, f"one of {', '.join(PLANES)}"),
        ):
            if not good:
                raise ValueError(f"{name} is {value!r}, expected {expected}")
        self.image_size, self.zoom, self.batch_size, self.amp = image_size, zoom, batch_size, amp
        self.coarse_step, self.scaling, self.field_of_view, self.planes = coarse_step, scaling, field_of_view, planes

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Masks ``(..., 2, H, W)`` uint8 of 0 and 1 of slices ``(..., H, W)`` in 0…255, ``(N, H, W)`` for example.

        ``geometry``, the :class:`custom_transforms.SliceGeometry` of a stack ``(N, H, W)``, gives millimetres and other planes.

        Raises:
            NonFiniteError: when the network answers with NaN or infinity.
        """
        slices = inputs.flatten(0, -3)
        geometry: SliceGeometry | None = kwargs.get("geometry")
        if geometry is not None and self.crosses(geometry) and len(slices):
            volume = slices.permute(2, 1, 0)
            found = self.of_volume(volume, geometry.stack_affine, network).permute(3, 0, 2, 1)
            return (found >= 0.5).to(torch.uint8).contiguous()
        masks = inputs.new_zeros((len(slices), 2, *inputs.shape[-2:]), dtype=torch.uint8)
        window = self.window(slices)
        spacing = geometry.pixel_spacing if geometry else None
        view = view_of(slices, window[0], spacing, self.image_size, self.zoom, self.field_of_view)

        def segment(indices: Sequence[int]) -> None:
            for batch, found in self._segment(slices, indices, network, window, view, as_masks=True):
                masks[batch] = found

        step = max(int(self.coarse_step / (geometry.slice_spacing if geometry else torch.inf)), 1)
        coarse = sorted({*range(0, len(slices), step), *range(len(slices))[-1:]})
        segment(coarse)
        pairs = [(first, last) for first, last in itertools.pairwise(coarse) if masks[[first, last], 0].any()]
        segment([index for first, last in pairs for index in range(first + 1, last)])
        return masks.reshape(*inputs.shape[:-2], 2, *inputs.shape[-2:])

    def crosses(self, geometry: SliceGeometry) -> bool:
        """Whether a series is segmented along three planes: if that is wanted, learnt, and worth it."""
        return (
            self.planes != "acquired"
            and self.field_of_view is not None
            and not self.coarse_step
            and (self.planes == "three" or geometry.slice_spacing <= THICKEST)
        )

    def of_volume(
        self,
        volume: torch.Tensor,
        affine: np.ndarray,
        network: Callable[..., Any],
        planes: Sequence[str] = tuple(DISPLAY_AXCODES),
        zooms: Mapping[str, float] | None = None,
        min_foreground: float = END_FOREGROUND,
    ) -> torch.Tensor:
        """Probabilities ``(2, X, Y, Z)`` float32 of WT and ET: the mean over the slices that hold a voxel, 0 where none counts.

        All slices of the acquisition, or of the first plane where voxels are cubes, are segmented, and of the other planes those that
        cross what may be tumour in it, one every ``STEP`` mm.

        Args:
            volume: ``(X, Y, Z)`` in 0…255.
            affine: from voxel index to RAS, mm.
            network: gives logits.
            planes: that are cut.
            zooms: by plane, if not ``zoom``.
            min_foreground: share of pixels brighter than the background that a slice must exceed to count.

        Raises:
            NonFiniteError: when the network answers with NaN or infinity.
        """
        total = torch.zeros((2, *volume.shape), device=volume.device)
        votes = torch.zeros(volume.shape, device=volume.device)
        window = self.window(volume)
        x, y, z = volume.shape
        geometries = [SliceGeometry(affine, (x, y, z), plane) for plane in planes]
        geometries.sort(key=lambda one: round(one.slice_spacing), reverse=True)
        for number, geometry in enumerate(geometries):
            slices = torch.as_tensor(geometry.to_stack(volume))
            counts = (slices > window[0]).float().mean((1, 2)) > min_foreground
            step = max(int(STEP / geometry.slice_spacing), 1) if number else 1
            if number and (suspected := total[0] > SUSPECTED * votes).any():
                crossed = torch.as_tensor(geometry.to_stack(suspected)).any(2).any(1)
                reach = round(MARGIN / geometry.slice_spacing)
                counts &= F.max_pool1d(crossed[None].float(), 2 * reach + 1, 1, reach)[0] > 0
            starts = [start for start in range(0, len(slices) - step // 2, step) if counts[start : start + step].any()]
            chosen = [start + step // 2 for start in starts]
            zoom = (zooms or {}).get(geometry.plane, self.zoom)
            view = view_of(slices, window[0], geometry.pixel_spacing, self.image_size, zoom, self.field_of_view)
            axes, flips = geometry.moves()
            there, votes_there = total.permute(0, *(axis + 1 for axis in axes)), votes.permute(axes)
            for batch, found in self._segment(slices, chosen, network, window, view):
                turned = found.flip([axis + 1 for axis in flips if axis]).movedim(0, 1)
                for shift in range(1 - step, step):  # linear between slices that were looked at
                    share = 1 - abs(shift) / step
                    known = (batch + shift >= 0) & (batch + shift < len(slices))
                    near = batch[known] + shift
                    places = len(slices) - 1 - near if 0 in flips else near
                    there[:, places] += share * turned[:, known]
                    votes_there[places] += share
        return total / votes.clamp(min=1e-3)

    def window(self, series: torch.Tensor) -> tuple[int, int]:
        """The grey values of a series in 0…255 that the network is shown as black and as white."""
        return grey_window(series) if self.scaling == "window" else (0, 255)

    def _segment(
        self,
        slices: torch.Tensor,
        indices: Sequence[int],
        network: Callable[..., Any],
        window: tuple[int, int],
        view: ZoomedCentre | FieldOfView,
        as_masks: bool = False,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of indices with probabilities ``(B, 2, H, W)``, or uint8 masks, which the method makes before it resizes them."""
        for start in range(0, len(indices), self.batch_size):
            batch = torch.tensor(indices[start : start + self.batch_size], device=slices.device)
            shown = view.show(slices[batch], window)
            with autocast(slices.device, self.amp):
                logits = network(normalise(shown[:, None].expand(-1, 3, -1, -1))).float()
            if not is_finite(logits):
                raise NonFiniteError(not_finite("segmenter"))
            early = as_masks and self.field_of_view is None
            yield batch, view.back((logits > 0).float() if early else logits.sigmoid(), slices.shape[1:], as_masks)


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
            bounds = self.chunks.bounds(len(inputs))
            indices = torch.full((len(bounds), self.chunks.length), len(inputs))  # of the black slice
            for row, (start, stop) in zip(indices, bounds, strict=True):
                row[: stop - start] = torch.arange(start, stop)
            return classifier.classify(torch.cat(features)[indices.to(inputs.device)]).float()

    def resize(self, images: torch.Tensor) -> torch.Tensor:
        """Slices ``(B, 3, H, W)`` magnified about their centre, ``(B, 3, image_size, image_size)`` float32."""
        scale = torch.tensor([[1 / self.zoom, 0, 0], [0, 1 / self.zoom, 0]], device=images.device)
        shape = (len(images), images.shape[1], self.image_size, self.image_size)
        grid = F.affine_grid(scale.expand(len(images), 2, 3), list(shape), align_corners=False)
        return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def prepare_series_batch(
    batchdata: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor | None, tuple, dict[str, Any]]:
    """MONAI engines' ``prepare_batch`` for a series: its image, its label if any, and for the inferers modality and geometry."""
    image = batchdata["image"].to(device=device, non_blocking=non_blocking)
    label = batchdata.get("label")
    target = None if label is None else torch.as_tensor([[float(label)]], device=device)
    known = {key: batchdata[key] for key in ("mri_type", "geometry") if batchdata.get(key) is not None}
    return image, target, (), known
