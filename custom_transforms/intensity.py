"""Grey values: a background of 0, 8-bit scaling of a series or a volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import TransformBackends

from .each_key import EachKey

WHITE_PERCENTILE = 99.5
BACKGROUND_SHARE = 0.1

# Of the six: a head may touch two, and only the background fills more than half of four.
BACKGROUND_FACES = 4
# Voxels count as darker than the background by this share of the mean difference from it, and the brain as lying on both
# sides of it where so many of its voxels do: about half after z-scoring, below 0.1 % where resampling overshoots.
DARKER_BY = 0.1
DARKER_SHARE = 0.1
# Share of the range by which the darkest voxel of a raised brain lies above 0: more than 1 of 255 grey values.
RAISED_BY = 0.01


def background_to_zero(volume: np.ndarray, blank: Sequence[int] = ()) -> tuple[np.ndarray, str]:
    """Give a volume a background of 0, and a brain above it, if the background differs.

    The background is the value that more than half of the voxels of at least four of the six faces have. Where it is not 0, it
    is subtracted. If a large part of the rest is darker than it (after z-scoring, or with inverted grey values), the
    rest is raised above 0 as a whole, keeping its internal differences. A volume without such a value (noise), one whose
    background is 0 already, and the few voxels below 0 that resampling leaves, stay as they are.

    Args:
        volume: ``(X, Y, Z)``, finite.
        blank: slices along Z that stand in for missing ones.

    Returns:
        the volume, unchanged if nothing was done, and a sentence on what was done, or "".
    """
    background = _background(volume)
    lowest, highest = float(volume.min()), float(volume.max())
    if background is None or lowest == highest or (background == 0 and lowest >= 0):
        return volume, ""
    outside = volume == background
    inside = volume[~outside]
    darker = float(np.mean(inside < background - DARKER_BY * np.abs(inside - background).mean(dtype=np.float64)))
    if darker > DARKER_SHARE:
        outside[..., list(blank)] = True
        raised = volume - inside.min() + np.float32(RAISED_BY * (highest - lowest))
        raised[outside] = 0
        return raised, (
            f"{darker:.0%} of the brain is darker than the background of {background:g} (z-scored or inverted grey values?): "
            "the background was set to 0 and the brain raised above it."
        )
    if background == 0:
        return volume, ""
    return volume - np.float32(background), f"the background is {background:g}, expected 0: it was subtracted."


def _background(volume: np.ndarray) -> float | None:
    """The value of more than half of the voxels of most faces; None without one."""
    faces = [volume.take(end, axis) for axis in range(3) for end in (0, -1)]
    # A value of more than half of the voxels is their median.
    medians = [float(np.median(face)) for face in faces]
    held = Counter(value for value, face in zip(medians, faces, strict=True) if np.mean(face == value) > 0.5)
    value, count = held.most_common(1)[0] if held else (0.0, 0)
    return value if count >= BACKGROUND_FACES else None


def grey_window(values: NdarrayOrTensor) -> tuple[int, int]:
    """The grey values of an 8-bit series that represent black and white, apart from a few darker and brighter ones.

    Black is the background, which is not 0 where resampling left a few values below it: the most frequent value, if it is darker
    than the middle and a tenth of all have it, else 0. White is the 99.5th percentile of what is brighter than black.

    Args:
        values: 0…255, of any shape.

    Returns:
        black and white, black < white; 0 and 255 where nothing is brighter than black.
    """
    counts = torch.bincount(torch.as_tensor(values).detach().flatten().long(), minlength=256)
    most = int(counts.argmax())
    black = most if most < 128 and counts[most] >= BACKGROUND_SHARE * counts.sum() else 0
    brighter = counts[black + 1 :].cumsum(0)
    if not int(brighter[-1]):
        return 0, 255
    return black, black + 1 + int((brighter < WHITE_PERCENTILE / 100 * brighter[-1]).sum())


class ScaleToUint8(Transform):
    """Scale a whole array, minimum to 0 and maximum to 255, and truncate.

    As the T4E solution of the RSNA-MICCAI 2021 challenge scales a whole series. A constant array becomes 0, an empty one
    stays empty.
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]  # noqa: RUF012

    def __call__(self, image: NdarrayOrTensor) -> NdarrayOrTensor:
        """Scale an array of any shape and number type.

        Returns:
            uint8 of the same shape and type (array, tensor or MetaTensor).

        Raises:
            ValueError: when the array holds values that are not finite.
        """
        values = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
        if values.size and not np.isfinite(values).all():
            raise ValueError("the image holds values that are not finite (NaN or infinity); repair the file")
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        # float64, as in the published way: float32 would truncate some values one step too low; in blocks, because for whole
        # series it would take more memory than everything else
        span = (high - low) or 1.0
        scaled = np.empty_like(values, dtype=np.uint8, subok=False)
        blocks = np.nditer(
            [values, scaled],
            flags=["external_loop", "buffered", "zerosize_ok"],
            op_flags=[["readonly"], ["writeonly"]],
            op_dtypes=[np.float64, np.uint8],
            casting="unsafe",
            buffersize=1 << 16,
        )
        with blocks:
            for block, out in blocks:
                out[...] = (block - low) / span * 255.0
        if isinstance(image, MetaTensor):
            return MetaTensor(torch.from_numpy(scaled).to(image.device), meta=image.meta)
        return torch.from_numpy(scaled).to(image.device) if isinstance(image, torch.Tensor) else scaled


class ScaleToUint8d(EachKey):
    """Dictionary twin of :class:`ScaleToUint8`: each key is scaled separately."""

    backend = ScaleToUint8.backend

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, ScaleToUint8(), allow_missing_keys)


ScaleToUint8D = ScaleToUint8Dict = ScaleToUint8d
