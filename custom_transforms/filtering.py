"""Choosing the slices of a stack: enough foreground, enough tumour, a plausible number of tumour contours."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends

# Grey values 0 and 1 of an image of 0…255 count as background.
BRAIN_THRESHOLD = 1


class ForegroundFilter(Transform):
    """
    Keep slices with more than a given fraction of foreground (pixels above 0).

    Source: T4E solution of the RSNA-MICCAI 2021 challenge, stage 2 (0.1).

    Args:
        min_foreground: fraction of the slice's pixels, 0…1; a slice with exactly this fraction is dropped.
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]  # noqa: RUF012

    def __init__(self, min_foreground: float = 0.1) -> None:
        self.min_foreground = min_foreground

    def __call__(self, image: NdarrayOrTensor) -> NdarrayOrTensor:
        """Which slices of an image ``(N, H, W)`` to keep: bool ``(N,)``, numpy for numpy and a plain tensor for tensors."""
        slices = _stack(image, "image")
        counts = np.array([np.count_nonzero(one > 0) for one in slices], dtype=np.int64)
        size = slices.shape[1] * slices.shape[2]
        return _choice(counts / max(size, 1) > self.min_foreground, image)


class TumorRatioFilter(Transform):
    """
    Keep slices in which the tumour exceeds a given share of the brain.

    Source: T4E solution of the RSNA-MICCAI 2021 challenge; stage 1 (0.01, ``image_area`` in its code, the brain in its
    README) and stage 2 (0.025, ``largest_contour``).

    Args:
        min_ratio: a slice with exactly this ratio is dropped. A negative one keeps **every** slice, including black
            ones and those without tumour.
        measure:
            - ``"largest_contour"``: area within the largest tumour contour / area within the largest brain contour (as
              OpenCV's ``contourArea`` measures polygons through pixel centres).
            - ``"brain_area"``: tumour pixels / brain pixels.
            - ``"image_area"``: tumour pixels / all pixels.

    Brain is what is above 1 in an image of 0…255. With a ``min_ratio`` of 0 or more, a slice without tumour is dropped, and
    for the measures relative to the brain also a slice without brain (area 0).
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012
    measures = ("largest_contour", "brain_area", "image_area")

    def __init__(self, min_ratio: float = 0.025, measure: str = "largest_contour") -> None:
        if measure not in self.measures:
            raise ValueError(f"measure must be one of {self.measures}, got {measure!r}.")
        self.min_ratio = min_ratio
        self.measure = measure

    def __call__(self, image: NdarrayOrTensor, mask: NdarrayOrTensor) -> NdarrayOrTensor:  # type: ignore[override]
        """Which slices to keep: bool ``(N,)``, of the image's type (a plain tensor for a MetaTensor).

        Args:
            image: ``(N, H, W)``, 0…255.
            mask: ``(N, H, W)``; set where above 0, for floats above 0.5.
        """
        slices, masks = _stack(image, "image"), _stack(mask, "mask")
        if slices.shape != masks.shape:
            raise ValueError(f"Expected image and mask of one shape (N, H, W), got {slices.shape} and {masks.shape}.")
        if self.min_ratio < 0:
            return _choice(np.ones(len(slices), dtype=bool), image)
        keep = [self._ratio(one, _is_set(tumor)) > self.min_ratio for one, tumor in zip(slices, masks, strict=True)]
        return _choice(np.array(keep, dtype=bool), image)

    def _ratio(self, image: np.ndarray, tumor: np.ndarray) -> float:
        # Most slices show no tumour: tracing their brains would take most of the time.
        if not tumor.any():
            return 0.0
        if self.measure == "image_area":
            return float(np.count_nonzero(tumor) / tumor.size)
        brain = image > BRAIN_THRESHOLD
        if self.measure == "brain_area":
            part, whole = float(np.count_nonzero(tumor)), float(np.count_nonzero(brain))
        else:
            part, whole = _largest_area(tumor), _largest_area(brain)
        return part / whole if whole > 0 else 0.0


class ContourCountFilter(Transform):
    """
    Keep slices with at least one tumour contour and at most a given number; contours of holes count.

    Source: T4E solution of the RSNA-MICCAI 2021 challenge, stage 2 (5).

    Args:
        max_contours: the largest number accepted.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012

    def __init__(self, max_contours: int = 5) -> None:
        self.max_contours = max_contours

    def __call__(self, mask: NdarrayOrTensor) -> NdarrayOrTensor:
        """Which slices of masks ``(N, H, W)``, set where above 0, for floats above 0.5, to keep: bool ``(N,)``, of the masks' type."""
        keep = [1 <= len(_contours(_is_set(one))) <= self.max_contours for one in _stack(mask, "mask")]
        return _choice(np.array(keep, dtype=bool), mask)


def _stack(values: NdarrayOrTensor, what: str) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.ndim != 3:
        raise ValueError(f"Expected {what} slices (N, H, W), got shape {array.shape}.")
    return array


def _choice(keep: np.ndarray, like: NdarrayOrTensor) -> NdarrayOrTensor:
    return torch.from_numpy(keep).to(like.device) if isinstance(like, torch.Tensor) else keep


def _is_set(mask: np.ndarray) -> np.ndarray:
    return mask > (0.5 if mask.dtype.kind == "f" else 0)


def _contours(region: np.ndarray) -> Sequence[np.ndarray]:
    return cv2.findContours(region.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)[0]


def _largest_area(region: np.ndarray) -> float:
    """Area of the largest contour, 0 without one."""
    return max((float(cv2.contourArea(contour)) for contour in _contours(region)), default=0.0)


class _FilterSlicesd(MapTransform):
    """Apply the choice of a filter to every stack ``(N, ...)`` named in ``keys``; a MetaTensor becomes a plain tensor.

    Raises:
        ValueError: when a stack's number of slices differs from that of the deciding ones.
    """

    def _apply(self, data: Mapping[Hashable, Any], keep: NdarrayOrTensor) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            stack = d[key]
            if len(stack) != len(keep):
                raise ValueError(
                    f"'{key}' has {len(stack)} slices, the filter chose among {len(keep)}. Expected stacks of one "
                    "length: filter everything that belongs to these slices in one step."
                )
            if isinstance(stack, torch.Tensor):
                plain = stack.as_tensor() if isinstance(stack, MetaTensor) else stack
                d[key] = plain[torch.as_tensor(keep, device=plain.device)]
            else:
                d[key] = np.asarray(stack)[keep.cpu().numpy() if isinstance(keep, torch.Tensor) else keep]
        return d


class ForegroundFilterd(_FilterSlicesd):
    """Dictionary form of :py:class:`ForegroundFilter`, whose ``min_foreground`` it has.

    Args:
        keys: stacks ``(N, ...)`` to reduce to the kept slices.
        image_key: the stack ``(N, H, W)`` that decides; it is reduced itself only when named in ``keys``.
    """

    backend = ForegroundFilter.backend

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        min_foreground: float = 0.1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.filter = ForegroundFilter(min_foreground)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Reduce the stacks to the kept slices."""
        return self._apply(data, self.filter(data[self.image_key]))


class TumorRatioFilterd(_FilterSlicesd):
    """Dictionary form of :py:class:`TumorRatioFilter`, whose ``min_ratio`` and ``measure`` it has.

    Args:
        keys: stacks ``(N, ...)`` to reduce to the kept slices.
        image_key: image slices ``(N, H, W)``, 0…255.
        mask_key: tumour masks ``(N, H, W)``.
    """

    backend = TumorRatioFilter.backend

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        mask_key: str = "wt",
        min_ratio: float = 0.025,
        measure: str = "largest_contour",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.mask_key = mask_key
        self.filter = TumorRatioFilter(min_ratio, measure)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Reduce the stacks to the kept slices."""
        return self._apply(data, self.filter(data[self.image_key], data[self.mask_key]))


class ContourCountFilterd(_FilterSlicesd):
    """Dictionary form of :py:class:`ContourCountFilter`, whose ``max_contours`` it has.

    Args:
        keys: stacks ``(N, ...)`` to reduce to the kept slices.
        mask_key: tumour masks ``(N, H, W)``.
    """

    backend = ContourCountFilter.backend

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "wt",
        max_contours: int = 5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.filter = ContourCountFilter(max_contours)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Reduce the stacks to the kept slices."""
        return self._apply(data, self.filter(data[self.mask_key]))


ForegroundFilterD = ForegroundFilterDict = ForegroundFilterd
TumorRatioFilterD = TumorRatioFilterDict = TumorRatioFilterd
ContourCountFilterD = ContourCountFilterDict = ContourCountFilterd
