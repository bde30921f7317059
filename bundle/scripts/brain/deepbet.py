"""deepbet's two networks: a brain's mask from one series, coarse or fine.

The networks are the TorchScript files in the wheel of ``deepbet`` (MIT licence, Fisch et al., Computers in Biology and Medicine
179, 2024, 10.1016/j.compbiomed.2024.108845), trained on T1w of healthy heads. Its Python package is not imported: it needs four more
packages, and works on files.
"""

from __future__ import annotations

import importlib.util
import warnings
from functools import lru_cache
from importlib import metadata

import numpy as np
import torch

from .grids import filled, largest_piece

COARSE = (128, 128, 128)  # voxels the whole volume is scaled to
FINE = (256, 256, 256)  # voxels the brain's box is scaled to
WINDOW = (0.005, 0.995)  # quantiles that stand for black and for white
MARGIN = 0.1  # of the brain's extent, on each side of its box
BOX_SHARE = 0.02  # share of a plane that the brain must fill to be in the box


def is_installed() -> bool:
    """Whether deepbet, whose wheel has the networks, is installed."""
    return importlib.util.find_spec("deepbet") is not None


@lru_cache(maxsize=2)
def _network(name: str) -> torch.jit.ScriptModule:
    file = metadata.distribution("deepbet").locate_file(f"data/models/{name}.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, but the wheel uses it
        network = torch.jit.load(str(file), map_location="cpu").eval()
        return torch.jit.optimize_for_inference(torch.jit.freeze(network))


def coarse_mask(volume: np.ndarray) -> np.ndarray:
    """Share of brain, float32 ``(X, Y, Z)``, of a canonical volume ``(X, Y, Z)``; half a second.

    Empty, all 0, where no brain was found.
    """
    small = _scaled(torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32)), COARSE)
    found = _run("bbox_model", small, *_window(small))
    found = torch.where(torch.from_numpy(largest_piece(found.numpy() > 0.5)), found, 0)
    return _interpolated(found, volume.shape).numpy()


def fine_mask(volume: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """The brain, bool ``(X, Y, Z)``, in one piece and without holes; three seconds on one thread.

    Args:
        volume: canonical, ``(X, Y, Z)``.
        coarse: its :func:`coarse_mask`.
    """
    image = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))
    box = _box(coarse > 0.5)
    mask = np.zeros(volume.shape, bool)
    if box is None:
        return mask
    black, white = _window(_scaled(image, COARSE))
    found = _run("model", _scaled(image[box], FINE), black, white)
    inside = torch.nn.functional.interpolate(found[None, None], image[box].shape, mode="nearest-exact")[0, 0]
    mask[box] = inside.numpy() > 0.5
    return filled(largest_piece(mask))


@torch.inference_mode()
def _run(name: str, image: torch.Tensor, black: torch.Tensor, white: torch.Tensor) -> torch.Tensor:
    """Share of brain of an image of the network's size."""
    image = ((image - black) / (white - black).clamp(min=1e-6)).clamp(0, 1)
    # mean and standard deviation of the grey images of ImageNet, as in its training
    image = 0.226 * (image - image.mean()) / image.std().clamp(min=1e-6) + 0.449
    return _network(name)(image[None, None])[0, 1]


def _scaled(image: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    return torch.nn.functional.interpolate(image[None, None], size, mode="nearest-exact")[0, 0]


def _interpolated(image: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    return torch.nn.functional.interpolate(image[None, None], tuple(size), mode="trilinear")[0, 0]


def _window(small: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    black, white = torch.quantile(small, torch.tensor(WINDOW, dtype=small.dtype))
    return black, white


def _box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The brain's box and a margin; None without a brain."""
    box = []
    for axis, n in enumerate(mask.shape):
        share = mask.mean(axis=tuple({0, 1, 2} - {axis}))
        places = np.flatnonzero(share > BOX_SHARE)
        if not len(places):
            return None
        first, last = places[0], places[-1] + 1
        margin = MARGIN * (last - first)
        box.append(slice(max(0, round(first - margin)), min(n, round(last + margin))))
    return tuple(box)
