"""The compute floor: seconds that the arithmetic alone would take at the speed of a large matrix product."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch.utils.flop_counter import FlopCounterMode

from scripts.networks import BiLSTMNFNet

SIDE = 4096  # of the matrices
REPEATS = 5


@dataclass
class Floor:
    """Floating-point operations per slice, and operations per second of a matrix product by number type."""

    segmented: int
    encoded: int
    rates: dict[str, float]

    @property
    def fastest(self) -> str:
        """The number type with the fastest matrix product."""
        return max(self.rates, key=lambda name: self.rates[name])

    def seconds(self, segmented: int, encoded: int) -> float:
        """Seconds for so many slices, each segmented or encoded once."""
        return (segmented * self.segmented + encoded * self.encoded) / self.rates[self.fastest]


def measure(segmenter: Mapping[str, Any], classifier: Mapping[str, Any]) -> Floor:
    """Count the operations of both networks, and measure matrix products on this machine, now.

    Args:
        segmenter: settings of its weights file.
        classifier: settings of its weights file.
    """
    with torch.device("meta"):  # counted, not computed
        unet = smp.UnetPlusPlus(
            segmenter["encoder_name"], encoder_weights=None, decoder_channels=segmenter["decoder_channels"], classes=2
        ).eval()
        encode = BiLSTMNFNet(classifier["backbone"]).eval().encode
    rates = {name: _rate(dtype) for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}
    return Floor(operations(unet, segmenter["image_size"]), operations(encode, classifier["image_size"]), rates)


def operations(network: Any, image_size: int) -> int:
    """Floating-point operations (two a multiplication with addition) of a network on one slice."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, image_size, image_size, device="meta"))
    return counter.get_total_flops()


def _rate(dtype: torch.dtype) -> float:
    """Operations per second of the fastest of a few products of square matrices."""
    first, second = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        first @ second
        seconds.append(time.perf_counter() - began)
    return 2 * SIDE**3 / min(seconds)
