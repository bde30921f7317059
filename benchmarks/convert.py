"""Converting networks for OpenVINO, which happens once per weights file: ``python -m benchmarks.convert SEGMENTER CLASSIFIER PRECISION``."""

from __future__ import annotations

import torch

from scripts import weights
from scripts.networks import build_classifier, build_segmenter
from scripts.runtimes import Runtime


def main(segmenter: str, classifier: str, precision: str = "auto") -> None:
    """Convert both networks into the cache that prediction uses.

    Args:
        segmenter: segmentation weights.
        classifier: classifier weights.
        precision: of :class:`scripts.runtimes.Runtime`.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    runtime = Runtime(device, precision=precision)
    for settings, network, file in (_segmenter(segmenter), _classifier(classifier)):
        runtime.accelerate(weights.load_weights(network, file).to(device), settings["image_size"])


def _segmenter(file: str) -> tuple[dict, torch.nn.Module, str]:
    settings = weights.segmenter_settings(file)
    return settings, build_segmenter(settings), file


def _classifier(file: str) -> tuple[dict, torch.nn.Module, str]:
    settings = weights.classifier_settings({"all": file})
    network = build_classifier(settings)
    return settings, network, file


if __name__ == "__main__":
    import fire

    fire.Fire(main)
