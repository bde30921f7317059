"""Costs of a cross-validated model: parameters, operations, seconds and memory."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from custom_transforms import ChunkSlices

from .. import weights
from ..baselines.members import of_file
from ..baselines.networks import STACKED, build_baseline
from ..model_files import describe
from ..networks import build_classifier, build_segmenter
from ..run_folder import read_patients
from .plan import Plan


def costs(plan: Plan, seconds: Mapping[str, float], peak_memory_mb: float | None) -> dict[str, Any]:
    """Costs of stage 2 of a finished cross-validation.

    - ``parameters``: of all networks in a patient's prediction, including the segmenter.
    - ``gflop``: of a patient, 10⁹ floating-point operations of convolutions, matrix products and the LSTM, a multiplication and an
      addition counted as two; mean over the patients. Slices are counted as they were acquired, also where a segmenter looks along
      other planes too. None for weights that do not say how they were made.
    - ``seconds_per_patient``: from files to probability, as the run measured them; mean over the patients.
    - ``training_seconds``: of all folds, seeds and modalities together.
    - ``peak_memory_mb``: of the process.

    Args:
        plan: of the cross-validation.
        seconds: by title of a step.
        peak_memory_mb: see :func:`peak_memory`.
    """
    seed, fold = plan.seeds[0], plan.folds["classification"][0]
    files = {name: plan.classification_run(seed, fold) / name / f"model_{name}.pt" for name in plan.mri_types}
    shapes = [describe(file).shapes for file in files.values()]
    shapes += [describe(str(plan.segmenter)).shapes] if plan.masks else []
    trained = sum(value for title, value in seconds.items() if title.startswith("train ") and ", seed " in title)
    return {
        "parameters": sum(math.prod(shape) for one in shapes for name, shape in one.items() if _counts(name)),
        "gflop": _gflop(plan, files),
        "seconds_per_patient": _seconds_per_patient(plan),
        "training_seconds": round(trained, 1),
        "peak_memory_mb": peak_memory_mb,
    }


def _counts(name: str) -> bool:
    """Whether an entry of a state dict is a parameter, or a statistic as others count it with them; a count of batches is neither."""
    return not name.endswith("num_batches_tracked")


def peak_memory() -> float | None:
    """The most memory that this process has held so far, MB; None where the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(held / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)


def gflop(network: nn.Module, *shape: int) -> float:
    """10⁹ operations of a forward pass of one input of this shape; nothing is computed."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network.to("meta").eval()(torch.empty(shape, device="meta"))
    return counter.get_total_flops() / 1e9


def _gflop(plan: Plan, files: Mapping[str, Path]) -> float | None:
    rows = [row for row in plan.prepared_rows("classification") if row["mri_type"] in files and "kept" in row]
    patients = len({row["patient"] for row in rows})
    if not patients:
        return None
    total = 0.0
    if plan.masks:
        settings = weights.segmenter_settings(plan.segmenter)
        each = gflop(build_segmenter(settings), 1, 3, settings["image_size"], settings["image_size"])
        total += each * sum(row["foreground"] for row in rows)
    for mri_type, file in files.items():
        kept = [row["kept"] for row in rows if row["mri_type"] == mri_type]
        total += _classifier_gflop(plan, file, kept)
    return round(total / patients, 3)


def _classifier_gflop(plan: Plan, file: Path, kept: Sequence[int]) -> float:
    """Of all series of a modality, by their numbers of slices."""
    if plan.takes == "method":
        settings = weights.classifier_settings({"": file})
        network = build_classifier(settings)
        chunks = ChunkSlices(settings["sequence_length"], settings["stride"])
        sequences = sum(len(chunks.bounds(count)) for count in kept)
        # each weight takes part once in a time step
        step = 2 * sum(value.numel() for name, value in network.lstm.named_parameters() if "weight" in name) / 1e9
        head = 2 * network.clf_head.weight.numel() / 1e9
        slices = gflop(network.backbone, 1, 3, settings["image_size"], settings["image_size"]) * sum(kept)
        return slices + sequences * (settings["sequence_length"] * step + head)
    settings = of_file(file)
    if settings["model"] not in STACKED:
        return 0.0  # comparisons of a few dozen features
    size, length = settings["image_size"], settings["slices"]
    samples = sum(len(ChunkSlices(length, length).bounds(count)) for count in kept)
    return gflop(build_baseline(settings), 1, length, size, size) * samples


def _seconds_per_patient(plan: Plan) -> float | None:
    found = []
    for fold in plan.folds["classification"]:
        content = read_patients(plan.classification_run(plan.seeds[0], fold) / "evaluation") or {"patients": []}
        for row in content["patients"]:
            series = (row["series"].get(name, {}).get("seconds") for name in plan.mri_types)
            found.append(sum(value for value in series if value is not None))
    return round(float(np.mean(found)), 3) if found else None
