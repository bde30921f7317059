"""Training steps at full size: eager float32, as released, beside ours, one after the other in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import segmentation_models_pytorch as smp
import torch
from monai.losses import DiceLoss
from torch import nn

from scripts.inferers import AutocastInferer
from scripts.networks import BiLSTMNFNet, build_classifier
from scripts.runtimes import for_training
from scripts.weights import CLASSIFIER_SETTINGS, SEGMENTER_SETTINGS

from . import report

SLICES = 16
SEQUENCES = 2


def main(repeats: int = 3) -> str:
    """Measure a step of each stage.

    Args:
        repeats: rounds after a first one that does not count; in every round each way runs once.

    Returns:
        The section of the report.
    """
    rows = []
    for stage, (network, batch, loss) in {
        f"stage 1, {SLICES} slices": _segmentation(),
        f"stage 2, {SEQUENCES} sequences of {CLASSIFIER_SETTINGS['sequence_length']}": _classification(),
    }.items():
        ways: dict[str, Callable[[], float]] = {}
        for name, runtime, frozen in (
            ("released", "eager", False),
            ("ours", "torch", False),
            ("frozen", "torch", True),
        ):
            if frozen and not isinstance(network(), BiLSTMNFNet):
                continue
            ways[name] = _step(for_training(network(), "cpu", runtime), *batch, loss, runtime, frozen)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(repeats + 1):
            for name, step in ways.items():
                taken = step()
                if number:
                    seconds[name].append(taken)
        base = statistics.median(seconds["released"])
        for name, taken_by in seconds.items():
            what = "ours, backbone frozen as in the warm-up" if name == "frozen" else name
            row = {"": f"{stage}: {what}", "a step": report.spread(taken_by)}
            rows.append({**row, "times as fast": f"{base / statistics.median(taken_by):.2f}"})
    return report.section(
        "Training",
        "Forward pass, backward pass and optimizer step at full size on random images, networks with random weights. Released: "
        "float32, eager. Ours: what the training configurations do on this machine. Medians of "
        f"{repeats} (smallest to largest).",
        report.table(rows),
    )


def _segmentation() -> tuple[Callable[[], nn.Module], tuple[torch.Tensor, torch.Tensor], nn.Module]:
    size = SEGMENTER_SETTINGS["image_size"]
    generator = torch.Generator().manual_seed(67)
    images = torch.randn(SLICES, 3, size, size, generator=generator)
    masks = (torch.rand(SLICES, 2, size, size, generator=generator) > 0.9).float()

    def network() -> nn.Module:
        torch.manual_seed(67)
        return smp.UnetPlusPlus(SEGMENTER_SETTINGS["encoder_name"], encoder_weights=None, classes=2)

    return network, (images, masks), DiceLoss(sigmoid=True, batch=True)


def _classification() -> tuple[Callable[[], nn.Module], tuple[torch.Tensor, torch.Tensor], nn.Module]:
    length, size = CLASSIFIER_SETTINGS["sequence_length"], CLASSIFIER_SETTINGS["image_size"]
    generator = torch.Generator().manual_seed(67)
    images = torch.randn(SEQUENCES, length, 3, size, size, generator=generator)
    labels = torch.arange(SEQUENCES)[:, None] % 2.0

    def network() -> nn.Module:
        torch.manual_seed(67)
        return build_classifier(CLASSIFIER_SETTINGS)

    return network, (images, labels), nn.BCEWithLogitsLoss()


def _step(
    network: Any, images: torch.Tensor, target: torch.Tensor, loss: nn.Module, runtime: str, frozen: bool
) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)
    inferer = AutocastInferer(False if runtime == "eager" else "auto")
    network.train()
    if frozen:
        network.backbone.requires_grad_(False)

    def step() -> float:
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=runtime != "eager")
        loss(inferer(images, network), target).backward()
        optimizer.step()
        return time.perf_counter() - began

    return step
