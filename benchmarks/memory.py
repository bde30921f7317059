"""Peak memory of a prediction by the number of patients: whether anything piles up."""

from __future__ import annotations

import shutil
from pathlib import Path

import segmentation_models_pytorch as smp
import torch

from scripts.networks import build_classifier
from scripts.weights import CLASSIFIER_SETTINGS, SEGMENTER_SETTINGS, save_weights

from . import process, report, study
from .predict import REFERENCE

PATIENTS = (2, 8)
SEGMENTER = {**SEGMENTER_SETTINGS, "encoder_name": "tu-test_efficientnet", "decoder_channels": [16, 8, 8, 4, 4]}
CLASSIFIER = {**CLASSIFIER_SETTINGS, "backbone": "test_efficientnet", "hidden_size": 8}


def main(cache: str | Path = study.CACHE) -> str:
    """Measure the peak memory of both ways with tiny networks, whose weights and activations do not hide the data.

    Args:
        cache: folder for studies and outputs.

    Returns:
        The section of the report.
    """
    folder = Path(cache) / "memory"
    files = tiny_weights(folder)
    rows = []
    for name in (REFERENCE, "ours"):
        row = {"": name}
        for patients in PATIENTS:
            output = folder / name
            shutil.rmtree(output, ignore_errors=True)
            options = ["--input", str(study.studies(patients, Path(cache))), f"--output={output}"]
            options += [f"--{key}={file}" for key, file in files.items()]
            run = process.run(name, [*options, "--min_tumor_ratio", "-1", "--max_contours", "100000"])
            row[f"{patients} patients"] = report.megabytes(run.peak)
        rows.append(row)
    return report.section(
        "Memory",
        "Peak memory of whole predictions with tiny networks on studies of four series of 155 slices of 240 x 240.",
        report.table(rows),
    )


def tiny_weights(folder: Path) -> dict[str, Path]:
    """Random weights of tiny networks that mark some part of most slices."""
    torch.manual_seed(1)
    segmenter = smp.UnetPlusPlus(
        SEGMENTER["encoder_name"], encoder_weights=None, decoder_channels=SEGMENTER["decoder_channels"], classes=2
    )
    classifier = build_classifier(CLASSIFIER)
    files = {"segmenter": folder / "segmentation.pt", "classifier": folder / "classifier.pt"}
    save_weights(segmenter, SEGMENTER, files["segmenter"])
    save_weights(classifier, CLASSIFIER, files["classifier"])
    return files
