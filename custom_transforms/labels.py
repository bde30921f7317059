"""Tumour labels, from BraTS of any year or this project, as the two masks of the method: whole tumour (WT) and enhancing tumour (ET)."""

from __future__ import annotations

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor

from .each_key import EachKey
from .volume import some


class BratsLabelsToWTET(Transform):
    """
    Turn a BraTS label volume into the masks ``(2, X, Y, Z)`` [WT, ET].

    Labels: 1 necrotic core, 2 oedema, and enhancing tumour as 4 (BraTS 2021 and before) or 3 (BraTS 2023 and later).
    WT is everything labelled, ET the enhancing tumour. Source: T4E solution of the RSNA-MICCAI 2021 challenge, stage 1.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __call__(self, label: NdarrayOrTensor) -> NdarrayOrTensor:
        """
        Return uint8 masks ``(2, X, Y, Z)`` of 0 and 1, of the input's type.

        Args:
            label: ``(1, X, Y, Z)`` or ``(X, Y, Z)``, integers (as a float type too).

        Raises:
            ValueError: for another shape, a value that is not a BraTS label, or 3 and 4 in one volume.
        """
        volume = _one_volume(label)
        masks = {value: volume == value for value in (1, 2, 3, 4)}
        tumour = masks[1] | masks[2] | masks[3] | masks[4]
        if not bool((tumour | (volume == 0)).all()):
            raise ValueError(
                f"Expected the labels 0, 1, 2 and 4 (BraTS 2021) or 3 (BraTS 2023), found {_values(volume)}. Pass the "
                "unchanged segmentation file; resample it, where needed, with nearest neighbours."
            )
        if bool(masks[3].any()) and bool(masks[4].any()):
            raise ValueError(
                f"Found 3 and 4 in one label volume ({_values(volume)}), expected one of them as enhancing tumour. "
                "Relabel the file by the convention of one year."
            )
        both = torch.stack([tumour, masks[3] | masks[4]]).to(torch.uint8)
        return convert_to_dst_type(both, dst=label, dtype=torch.uint8)[0]


class LabelMapToWTET(Transform):
    """
    Turn a label map of this project into the masks ``(2, X, Y, Z)`` [WT, ET].

    Labels: 1 tumour that does not enhance, 2 enhancing tumour, as segmentation writes them. WT is both, ET is 2.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __call__(self, label: NdarrayOrTensor) -> NdarrayOrTensor:
        """
        Return uint8 masks ``(2, X, Y, Z)`` of 0 and 1, of the input's type.

        Args:
            label: ``(1, X, Y, Z)`` or ``(X, Y, Z)``, integers (as a float type too).

        Raises:
            ValueError: for another shape, or a value other than 0, 1 and 2.
        """
        volume = _one_volume(label)
        enhancing = volume == 2
        tumour = enhancing | (volume == 1)
        if not bool((tumour | (volume == 0)).all()):
            raise ValueError(
                f"Expected the labels 0, 1 (tumour that does not enhance) and 2 (enhancing tumour), found {_values(volume)}. "
                "Draw only in these two segments, and keep their order."
            )
        return convert_to_dst_type(torch.stack([tumour, enhancing]).to(torch.uint8), dst=label, dtype=torch.uint8)[0]


def _one_volume(label: NdarrayOrTensor) -> torch.Tensor:
    """``(X, Y, Z)`` of a label volume with or without a channel."""
    volume = convert_to_tensor(label, track_meta=False)
    if volume.ndim == 4 and volume.shape[0] == 1:
        volume = volume[0]
    if volume.ndim != 3:
        raise ValueError(f"Expected one label volume (1, X, Y, Z) or (X, Y, Z), got shape {tuple(label.shape)}.")
    return volume


def _values(volume: torch.Tensor) -> str:
    return some((f"{value:g}" for value in torch.unique(volume).tolist()), 10)


class BratsLabelsToWTETd(EachKey):
    """Dictionary form of :py:class:`BratsLabelsToWTET`; each key is replaced by its masks ``(2, X, Y, Z)``."""

    backend = BratsLabelsToWTET.backend

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, BratsLabelsToWTET(), allow_missing_keys)


class LabelMapToWTETd(EachKey):
    """Dictionary form of :py:class:`LabelMapToWTET`; each key is replaced by its masks ``(2, X, Y, Z)``."""

    backend = LabelMapToWTET.backend

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, LabelMapToWTET(), allow_missing_keys)


BratsLabelsToWTETD = BratsLabelsToWTETDict = BratsLabelsToWTETd
LabelMapToWTETD = LabelMapToWTETDict = LabelMapToWTETd
