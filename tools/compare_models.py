"""Cross-validate the method and the field's other models on one phantom cohort, with a weak made-up signal or none, and compare them.

    python tools/compare_models.py OUTPUT --signal 0.2

Images, networks and trainings are smaller than the published ones (``SETTINGS``), so that two CPU cores need about an hour: the result
shows that all models go through the same folds, guard and scores, and nothing about MGMT. An interrupted run continues.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import radiogenomics
from radiogenomics.scripts.demo import SETTINGS as DEMO

PATIENTS = 66
COHORT = {
    "segmentation_patients": 1,
    "classification_patients": PATIENTS,
    "test_patients": 1,
    "spacing": 3.0,
    "shape": [68, 68, 52],
    "slice_thickness": 4.0,
    "seed": 2021,
}
NAMESAKES = {"namesakes": True}  # phantoms have names like those of the patients that the segmenter was trained on
SETTINGS: dict[str, dict[str, Any]] = {
    "size": {},
    "forest": {},
    "efficientnet2d": {
        "prepare_baseline": {"image_size": 48, "step": 8},
        "train_baseline": {"learning_rate": 0.001, "max_epochs": 12},
    },
    "t4e": {
        "train_classification": DEMO["train_classification"],
        "evaluate_classification": {"zoom": 1.0},
    },
    "cnn3d": {
        "prepare_baseline": {"image_size": 32},
        "train_baseline": {"learning_rate": 0.001, "max_epochs": 8},
    },
    "resnet10": {
        "prepare_baseline": {"image_size": 32, "slices": 16},
        "train_baseline": {"max_epochs": 4},
    },
    "efficientnet3d": {
        "prepare_baseline": {"image_size": 32, "slices": 32},
        "train_baseline": {"learning_rate": 0.001, "max_epochs": 5},
    },
}
"""Values that differ from the configurations' own, by model, the quickest first."""


def run(output: Path, signal: float) -> list[Path]:
    """Cross-validate all models on a phantom cohort with a signal of this strength; returns the folders of the runs."""
    cohort, datalist = output / "phantom", output / "task2.json"
    if not datalist.is_file():
        radiogenomics.phantom(cohort, signal=signal, overwrite=cohort.is_dir(), **COHORT)
        radiogenomics.datalist(cohort / "task2", datalist)
    segmenter = Path(radiogenomics.__file__).parent / "models" / "segmentation.pt"
    runs = []
    for model, settings in SETTINGS.items():
        runs.append(output / "runs" / model)
        if (runs[-1] / "metrics.json").is_file():
            continue
        masks: dict[str, Any] = {}
        if model in ("size", "forest", "t4e"):  # which share their masks
            masks = {"segmenter": segmenter, "prepared": output / "prepared" / "masks"}
            masks["prepare_classification"] = {**NAMESAKES, "zoom": 1.0}
        mri_type = "T1wCE" if model == "resnet10" else "FLAIR"
        options = {"datalist": datalist, "model": model, "mri_types": [mri_type], "num_workers": 0, **masks, **settings}
        # in a process of its own, whose memory is measured
        process = multiprocessing.get_context("spawn").Process(target=_crossvalidate, args=(runs[-1], options))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{model}: its process ended with {process.exitcode}")
    return runs


def _crossvalidate(output: Path, options: dict[str, Any]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    radiogenomics.crossvalidate(output, **options)


def main() -> None:
    """Read the command line, run, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--signal", type=float, default=0.2, help="strength of the made-up signal, 0 (none) to 1")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    runs = run(options.output.resolve(), options.signal)
    radiogenomics.compare(*runs, output=options.output / "comparison", overwrite=True)


if __name__ == "__main__":
    main()
