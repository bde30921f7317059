"""Commands that test whether a result holds: evaluate, crossvalidate, compare, explain, card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import checks
from ..baselines import models
from .running import BASELINE, bundle_module, known_stage, modalities, require_run, run_command


def evaluate(
    stage: str,
    datalist: str | Path,
    prepared: str | Path,
    output: str | Path,
    segmenter: str | Path | None = None,
    classifier: str | Path | None = None,
    mri_types: str | Sequence[str] | None = None,
    fold: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    model: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Evaluate a stage on held-out patients and write metrics.json and its tables.

    Args:
        stage: segmentation, classification, or baseline: one of the field's other models.
        datalist: data list.
        prepared: folder of the prepared series.
        output: folder for the results.
        segmenter: segmentation weights (segmentation only).
        classifier: classifier weights or their folder (not segmentation).
        mri_types: modalities (not segmentation).
        fold: the fold to evaluate (0).
        device: cpu, cuda, …; a GPU by default where there is one.
        overwrite: replace earlier results.
        model: cnn3d, resnet10, efficientnet2d, efficientnet3d, forest, size or t4e (baseline only).
        overrides: further settings of configs/evaluate_<stage>.yaml.
    """
    options = locals()
    del options["stage"]
    job = f"evaluate_{known_stage(stage, model)}"
    if stage == BASELINE:
        job = models.evaluation_of(str(model))
    if job != f"evaluate_{BASELINE}":
        del options["model"]
    run_command(job, options)
    return _metrics(output)


def crossvalidate(
    output: str | Path,
    datalist: str | Path | None = None,
    segmentation_datalist: str | Path | None = None,
    segmenter: str | Path | None = None,
    prepared: str | Path | None = None,
    stages: str | Sequence[str] = ("classification",),
    folds: int | Sequence[int] | None = None,
    selection: str | None = None,
    seeds: int | Sequence[int] = (67,),
    mri_types: str | Sequence[str] | None = None,
    device: str | None = None,
    overwrite: bool = False,
    model: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Cross-validate a stage or both: train on all folds but one and predict that one, in turn, then evaluate all predictions.

    Refuses to train if a person is on both sides of a split. Writes predictions.csv (every patient, out of fold),
    metrics.json and tables/. An interrupted run continues when it is started again.

    Args:
        output: folder of the run.
        datalist: data list of Task 2.
        segmentation_datalist: data list of Task 1, for stage 1.
        segmenter: segmentation weights for stage 2; those of stage 1's first fold where it is cross-validated too.
        prepared: folder of prepared series; one in output by default.
        stages: classification, segmentation, or segmentation,classification.
        folds: folds to hold out in turn, 0,1,2 for example; all by default.
        selection: inner (the epoch whose weights are kept is chosen on a further fold; the default) or outer (on the held-out fold, as
            the method does, which flatters the figures).
        seeds: seeds of the trainings of stage 2, 67,68 for example.
        mri_types: modalities to train classifiers for; all, or those of the model, by default.
        device: cpu, cuda, …; a GPU by default where there is one.
        overwrite: replace an earlier run in output.
        model: t4e (this bundle's method, the default), or instead for stage 2 cnn3d, resnet10, efficientnet2d, efficientnet3d, forest
            or size.
        overrides: further settings of configs/crossvalidate.yaml, --train_classification '{max_epochs: 20}' for example.
    """
    options = locals()
    if model is not None:
        options["mri_types"] = models.mri_types_of(model, modalities(mri_types))
    options["stages"] = stages.split(",") if isinstance(stages, str) else list(stages)
    options["folds"] = None if folds is None else _numbers("folds", folds)
    options["seeds"] = _numbers("seeds", seeds)
    run_command("crossvalidate", options)
    return _metrics(output)


def _metrics(output: str | Path) -> dict[str, Any]:
    return json.loads((Path(output) / "metrics.json").read_text(encoding="utf-8"))


def _numbers(name: str, values: int | Sequence[int]) -> list[int]:
    numbers = [values] if isinstance(values, int) else list(values)
    if not numbers or not all(isinstance(one, int) and not isinstance(one, bool) for one in numbers):
        raise ValueError(f"--{name} {values!r}: expected whole numbers, 0,1,2 for example")
    return numbers


def compare(*runs: str | Path, output: str | Path, overwrite: bool = False) -> Path:
    """Compare finished cross-validations of several models on the same patients and folds: one table, one page.

    Writes compare.html, figures/ (PNG, SVG) and tables/ (CSV, JSON). Refuses runs that differ in a patient, a label or a fold.

    Args:
        runs: folders of cross-validations, two or more: runs/cv runs/cv_cnn3d runs/cv_size
        output: folder for the comparison.
        overwrite: replace an earlier comparison.

    Returns:
        The page; open it in a browser.
    """
    if len(runs) < 2:
        raise ValueError(
            f"compare: {len(runs)} run given, expected two or more; give their folders, separated by spaces"
        )
    for run in runs:
        checks.folder("folder of a run")("run", run)
    checks.output("output", output)
    checks.flag("overwrite", overwrite)
    return bundle_module("report.compare").write_comparison([str(run) for run in runs], str(output), overwrite)


def explain(
    run: str | Path,
    patients: str | Sequence[str] | None = None,
    mri_types: str | Sequence[str] | None = None,
    limit: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Show what the classifiers of a run looked at: Grad-CAM, occlusion, and the check that maps depend on the weights.

    Writes explanations/ into the folder of the run; `radiogenomics report` shows it. Series already explained are skipped. Patients of a
    cross-validation are explained with the models that did not see them, those of the first seed.

    Args:
        run: folder of a prediction, an evaluation of stage 2, or a cross-validation.
        patients: patients to explain, 00001,00002 for example; all by default.
        mri_types: modalities to explain; all that were classified by default.
        limit: largest number of series.
        device: cpu, cuda, …
    """
    names = [patients] if isinstance(patients, (str, int)) else patients
    asked = None if names is None else [name for one in names for name in str(one).split(",")]
    classified = modalities(mri_types)
    require_run(run)
    if limit is not None:
        checks.number(1, whole=True)("limit", limit)
    checks.device("device", device)
    explain_run = bundle_module("explain.run").explain_run
    return explain_run(Path(run), None, asked, classified, limit, device=device)


def card(run: str | Path, output: str | Path | None = None, overwrite: bool = False) -> Path:
    """Write the model card with the figures of a cross-validation or an evaluation in it.

    Args:
        run: folder of the run.
        output: file to write; MODEL_CARD.md in the folder by default.
        overwrite: replace the file.
    """
    require_run(run, output)
    return bundle_module("report.card").fill(run, output, overwrite)
