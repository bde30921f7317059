"""The three-channel slices of the classifier: image, whole tumour, enhancing tumour."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor


class ConcatMaskChannels(Transform):
    """
    Put image and masks into the channels of each slice: ``(N, 3, H, W)`` uint8 [image, WT * 255, ET * 255].

    Source: T4E solution of the RSNA-MICCAI 2021 challenge, stage 2.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __call__(  # type: ignore[override]
        self, image: NdarrayOrTensor, wt: NdarrayOrTensor, et: NdarrayOrTensor
    ) -> NdarrayOrTensor:
        """
        Return the slices, of the image's type (a plain tensor for a MetaTensor).

        Args:
            image: ``(N, H, W)``, whole numbers 0…255 of any dtype.
            wt: whole-tumour masks ``(N, H, W)``; set where above 0, for floats above 0.5.
            et: enhancing-tumour masks ``(N, H, W)``, likewise.

        Raises:
            ValueError: for wrong or different shapes, or an image of other values.
        """
        shapes = tuple(image.shape), tuple(wt.shape), tuple(et.shape)
        if len(shapes[0]) != 3 or len(set(shapes)) > 1:
            raise ValueError(
                f"Expected image, WT and ET slices of one shape (N, H, W), got {shapes[0]}, {shapes[1]} and "
                f"{shapes[2]}."
            )
        slices = convert_to_tensor(image, track_meta=False)
        channels = torch.empty((shapes[0][0], 3, *shapes[0][1:]), dtype=torch.uint8, device=slices.device)
        channels[:, 0] = _as_uint8(slices)
        for channel, mask in ((1, wt), (2, et)):
            values = convert_to_tensor(mask, track_meta=False, device=slices.device)
            channels[:, channel] = (values > (0.5 if values.is_floating_point() else 0)).to(torch.uint8) * 255
        return channels if isinstance(image, torch.Tensor) else convert_to_dst_type(channels, image, torch.uint8)[0]


def _as_uint8(image: torch.Tensor) -> torch.Tensor:
    if image.dtype == torch.uint8 or image.numel() == 0:
        return image.to(torch.uint8)
    low, high = float(image.min()), float(image.max())
    whole = not image.is_floating_point() or bool((image == image.round()).all())
    if not (low >= 0 and high <= 255 and whole):
        raise ValueError(
            f"Expected an image of whole numbers 0…255, got {image.dtype} values from {low:g} to {high:g}. Scale the "
            "series to 0…255 and round it to uint8 first."
        )
    return image.to(torch.uint8)


class ConcatMaskChannelsd(MapTransform):
    """
    Dictionary form of :py:class:`ConcatMaskChannels`.

    Args:
        image_key: image slices ``(N, H, W)``, 0…255.
        wt_key: whole-tumour masks ``(N, H, W)``.
        et_key: enhancing-tumour masks ``(N, H, W)``.
        output_key: where the slices ``(N, 3, H, W)`` go; the other keys stay, unless it is one of them.
    """

    backend = ConcatMaskChannels.backend

    def __init__(
        self, image_key: str = "image", wt_key: str = "wt", et_key: str = "et", output_key: str = "image"
    ) -> None:
        super().__init__((image_key, wt_key, et_key))
        self.output_key = output_key
        self.concat = ConcatMaskChannels()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the three-channel slices."""
        d = dict(data)
        d[self.output_key] = self.concat(*(d[key] for key in self.key_iterator(d)))
        return d


ConcatMaskChannelsD = ConcatMaskChannelsDict = ConcatMaskChannelsd
