"""Commands that lead to weights: datalist, prepare, train, pretrain."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import checks
from ..baselines import models
from ..datalists import MRI_TYPES
from .running import BASELINE, bundle_module, known_stage, modalities, run_command


def datalist(
    input: str | Path,
    output: str | Path,
    labels: str | Path | None = None,
    folds: int = 5,
    seed: int = 67,
    overwrite: bool = False,
    rules: str | Path | None = None,
) -> Path:
    """Write the data list (JSON) of a folder: the challenge's Task 1 or Task 2 in any of its layouts, or any studies.

    Args:
        input: the folder.
        output: the JSON file.
        labels: CSV with BraTS21ID,MGMT_value; train_labels.csv in the folder by default, where there is one.
        folds: number of folds.
        seed: seed of the assignment to folds.
        overwrite: replace an existing file.
        rules: YAML file of rules for sorting DICOM series; by default configs/modality_rules.yaml, which explains them.
    """
    for name, value, least in (("folds", folds, 2), ("seed", seed, 0)):
        checks.number(least, whole=True)(name, value)
    checks.output_file("output", output)
    listed = bundle_module("datalists").build_datalist(str(input), str(output), labels, folds, seed, overwrite, rules)
    counts = ", ".join(f"{len(listed[section])} in {section}" for section in ("training", "test"))
    logging.getLogger(__name__).info("%s: %s", output, counts)
    return Path(output)


def prepare(
    stage: str,
    prepared: str | Path,
    datalist: str | Path | None = None,
    input: str | Path | None = None,
    segmenter: str | Path | None = None,
    mri_types: str | Sequence[str] | None = None,
    device: str | None = None,
    model: str | None = None,
    **overrides: Any,
) -> Path:
    """Prepare the slices of a stage; series already prepared with the same settings cost nothing.

    Args:
        stage: segmentation, classification, or baseline: the input of one of the field's other models.
        prepared: folder for the prepared series.
        datalist: data list.
        input: folder of studies; with a data list, the folder that its paths are relative to.
        segmenter: segmentation weights (classification only).
        mri_types: modalities, FLAIR,T1wCE for example (not segmentation); all, or those of the model, by default.
        device: cpu, cuda, …; a GPU by default where there is one (classification only).
        model: cnn3d, resnet10, efficientnet2d, efficientnet3d, forest, size or t4e (baseline only).
        overrides: further settings of configs/prepare_<stage>.yaml; --image_size and --slices of a baseline, for example.
    """
    options = locals()
    del options["stage"]
    if known_stage(stage, model) == BASELINE:
        options["mri_types"] = models.mri_types_of(str(model), modalities(mri_types))
    job = models.preparation_of(str(model)) if stage == BASELINE else f"prepare_{stage}"
    if job != f"prepare_{BASELINE}":
        del options["model"]
    run_command(job, options)
    return Path(prepared)


def train(
    stage: str,
    datalist: str | Path,
    prepared: str | Path,
    output: str | Path,
    mri_types: str | Sequence[str] | None = None,
    fold: int | None = None,
    init: str | None = None,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    model: str | None = None,
    **overrides: Any,
) -> Path:
    """Train a stage: one segmenter, or one classifier for each modality in a folder of its own.

    Args:
        stage: segmentation, classification, or baseline: one of the field's other models.
        datalist: data list.
        prepared: folder of the prepared series.
        output: folder of the run; classifiers go to <output>/<mri_type>.
        mri_types: modalities to train a classifier for; all, or those of the model, by default.
        fold: the fold to hold out (0).
        init: imagenet (the default; none for baselines), none (random), a weights file, or for segmentation synthetic: the bundle's, trained on synthetic brains.
        device: cpu, cuda, …; a GPU by default where there is one.
        resume: continue an interrupted run.
        overwrite: replace an earlier run.
        model: cnn3d, resnet10, efficientnet2d, efficientnet3d, forest, size or t4e (baseline only).
        overrides: further settings of configs/train_<stage>.yaml, --max_epochs 20 for example.
    """
    options = locals()
    del options["stage"], options["mri_types"]
    asked, job, run = modalities(mri_types), f"train_{known_stage(stage, model)}", None
    if stage == BASELINE:
        asked = models.mri_types_of(str(model), asked)
        job, run = models.training_of(str(model))
    if job != f"train_{BASELINE}":
        del options["model"]
    if job == "train_segmentation":
        run_command(job, options)
    else:
        for name in asked or MRI_TYPES:
            run_command(job, {**options, "output": Path(output) / name, "mri_type": name}, run)
    return Path(output)


def pretrain(
    output: str | Path,
    init: str | None = None,
    label_maps: str | Path | None = None,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **overrides: Any,
) -> Path:
    """Train a segmenter on slices generated during training: of synthetic brains, or cut afresh from labelled volumes (--datalist).

    `radiogenomics phantom --preview FILE.png` shows slices of synthetic brains; without a data list, scores are for such brains,
    not for real tumours. The weights serve as a segmenter, and as start weights for `train segmentation --init`.

    Args:
        output: folder of the run; its weights are segmentation.pt.
        init: imagenet, none (random), or a weights file.
        label_maps: folder of brain segmentations in NIfTI to draw brains from; the atlas in nilearn by default.
        device: cpu, cuda, …; a GPU by default where there is one.
        resume: continue an interrupted run.
        overwrite: replace an earlier run.
        overrides: further settings of configs/pretrain_segmentation.yaml, --image_size 128 for example.
    """
    run_command("pretrain_segmentation", locals())
    return Path(output)
