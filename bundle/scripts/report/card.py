"""The model card with the figures of a run in it, intervals and controls included, so that none is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..environment import BUNDLE_ROOT
from ..files import written_whole

TEMPLATE = BUNDLE_ROOT / "docs" / "README.md"
START, END = "<!-- figures of a run -->", "<!-- end of the figures -->"
"""Between these the card says what was measured."""
ENSEMBLES = {
    "mean": "mean of modalities and seeds",
    "rank_mean": "mean of ranks",
    "logit_mean": "mean of logits",
}

SELECTED = {
    "inner": "The held-out fold decided nothing: epochs were chosen on a further fold, which did not train.",
    "outer": "**Epochs were chosen on the held-out fold itself, which flatters these figures.**",
}


def fill(run: str | Path, output: str | Path | None = None, overwrite: bool = False) -> Path:
    """Write the card of the models of a run.

    Args:
        run: folder of a cross-validation or of an evaluation, with its ``metrics.json``.
        output: file to write; ``MODEL_CARD.md`` in the folder by default.
        overwrite: replace the file.

    Returns:
        The file.

    Raises:
        FileNotFoundError: when the folder holds no metrics.
        FileExistsError: when the file is there.
        ValueError: when the metrics are of no evaluation.
    """
    folder = Path(run)
    target = Path(output) if output else folder / "MODEL_CARD.md"
    metrics_file = folder / "metrics.json"
    if not metrics_file.is_file():
        raise FileNotFoundError(
            f"{metrics_file}: no such file; name the folder of a cross-validation or of an evaluation that is finished"
        )
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; give another name (--output) or --overwrite")
    metrics = json.loads(metrics_file.read_text(encoding="utf-8"))
    config_file = folder / "resolved_config.yaml"
    config = yaml.safe_load(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    template = TEMPLATE.read_text(encoding="utf-8")
    before, rest = template.split(START)
    figures = "\n\n".join(sections(metrics, config))
    with written_whole(target) as temporary:
        temporary.write_text(f"{before}{START}\n\n{figures}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
    return target


def sections(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """What the card says of a run, in Markdown.

    Args:
        metrics: content of its ``metrics.json``.
        config: its resolved configuration.

    Raises:
        ValueError: when the metrics are of no evaluation.
    """
    job = config.get("job")
    found = [_what_ran(config)]
    if "selection" in metrics:
        found.append(SELECTED[metrics["selection"]])
    if "classification" in metrics:
        found += _crossvalidated(metrics["classification"])
    elif job == "evaluate_classification":
        found += _evaluated(metrics)
    overlap = metrics.get("segmentation", metrics if job == "evaluate_segmentation" else None)
    if overlap is not None:
        found += _segmented(overlap)
    if (
        not any(key in metrics for key in ("classification", "segmentation"))
        and overlap is None
        and job != "evaluate_classification"
    ):
        raise ValueError(
            f"the metrics of {job or 'this folder'} hold no evaluation; expected a cross-validation's or evaluation's"
        )
    if "leakage" in metrics:
        count = len(metrics["leakage"]["compared"])
        found.append(
            f"No person was on both sides of any of {count} splits, by identifier, DICOM PatientID and pixels of every series."
        )
        seen = metrics["leakage"].get("segmenter_trained_on")
        if seen:
            found.append(f"The segmenter was trained on {len(seen)} of these patients: {', '.join(seen)}.")
    return found


def _what_ran(config: Mapping[str, Any]) -> str:
    lists = [config.get(key) for key in ("datalist", "segmentation_datalist")]
    names = [f"`{Path(name).name}`" for name in lists if name]
    phantom = any(_is_phantom(name) for name in lists if name)
    told = f"Measured by `{config.get('job', 'a job that left no configuration')}`"
    told += f" on {' and '.join(names)}." if names else "."
    if phantom:
        told += (
            " **The data are a phantom: synthetic, with a made-up label. These figures say nothing about patients.**"
        )
    return told + " Intervals are of 95 %."


def _is_phantom(datalist: str) -> bool:
    """Whether a data list is of a phantom cohort, which says so in a file beside its tasks."""
    file = Path(datalist)
    if not file.is_file():
        return False
    root = Path(json.loads(file.read_text(encoding="utf-8")).get("dataset_dir", file.parent))
    readme = root.parent / "README.txt"
    return readme.is_file() and "phantom" in readme.read_text(encoding="utf-8", errors="replace").lower()


def _crossvalidated(summary: Mapping[str, Any]) -> list[str]:
    rows = []
    for kind, names in (("ensembles", ENSEMBLES), ("mri_types", {}), ("seeds", {})):
        for name, figures in summary[kind].items():
            shown = names.get(name, name if kind == "mri_types" else f"seed {name}")
            rows.append([shown, str(figures["patients"]), *_scores(figures)])
    head = ["", "patients", "ROC AUC (DeLong)", "PR AUC", "Brier", "log loss", "ECE", "sensitivity", "specificity"]
    found = [
        f"Classification, out of fold: {summary['patients']} patients, {summary['positive']} of them methylated, "
        f"{summary['folds']} folds. {summary['without_prediction']} had no usable slice and count with the prior. Thresholds of "
        "sensitivity and specificity were chosen on the other folds.",
        _table(head, rows),
        _controls(summary),
    ]
    if summary["baselines"]:
        lines = [
            [name.replace("_", " "), _area(one["auc"]), _difference(one["model_against_it"])]
            for name, one in summary["baselines"].items()
        ]
        found += [
            "What a model that sees no image reaches, fitted on the other folds:",
            _table(["baseline", "ROC AUC (DeLong)", "the mean against it (paired DeLong)"], lines),
        ]
    if summary["subgroups"]:
        lines = [
            [f"{column}: {value}", str(one["patients"]), _area(one["auc"]) if one["auc"] else "one label only"]
            for column, values in summary["subgroups"].items()
            for value, one in values.items()
        ]
        found += ["Subgroups:", _table(["", "patients", "ROC AUC (DeLong)"], lines)]
    if summary["left_out"]:
        found.append("Left out: " + "; ".join(f"{name} ({why})" for name, why in summary["left_out"].items()) + ".")
    return found


def _controls(summary: Mapping[str, Any]) -> str:
    controls = summary["controls"]
    permutation, seeds = controls["permutation"], controls["seeds"]["all"]
    told = f"Permuted labels: p = {_number(permutation['p'], 4)} ({permutation['permutations']} permutations). "
    if len(seeds["auc"]) > 1:
        return told + (
            f"Over {len(seeds['auc'])} seeds the AUC lies between {_number(seeds['min'])} and {_number(seeds['max'])} "
            f"(standard deviation {_number(seeds['sd'])})."
        )
    return told + "One seed: its spread is not known."


def _scores(figures: Mapping[str, Any]) -> list[str]:
    ece = figures.get("ece", {}).get("width")
    return [
        _area(figures["auc"]),
        *(_interval(figures.get(name), "bootstrap") for name in ("pr_auc", "brier", "log_loss")),
        _number(ece),
        *(_interval(figures.get(name), "wilson") for name in ("sensitivity", "specificity")),
    ]


def _evaluated(metrics: Mapping[str, Any]) -> list[str]:
    names = [name for name, one in metrics.items() if isinstance(one, Mapping) and "auc" in one]
    rows = []
    for name in names:
        one = metrics[name]
        area = {"value": one["auc"], "bootstrap": one["auc_95"] or [None, None]}
        rows.append([name, str(one["patients"]), _interval(area, "bootstrap"), _number(one["log_loss"])])
    return [
        f"Classification of {metrics['patients']} patients, {metrics['positive']} of them methylated; "
        f"{metrics['without_usable_slice']} had no usable slice and count with the prior.",
        _table(["", "patients", "ROC AUC (bootstrap)", "log loss"], rows),
    ]


def _segmented(metrics: Mapping[str, Any]) -> list[str]:
    groups = {name: one for name, one in metrics.items() if isinstance(one, Mapping) and name != "fold"}
    groups |= {f"fold {name}": one for name, one in metrics.get("fold", {}).items()}
    columns = list(dict.fromkeys(column for one in groups.values() for column in one))
    rows = [[name, *(_number(one.get(column)) for column in columns)] for name, one in groups.items()]
    return [
        f"Segmentation of {metrics['patients']} held-out patients, over the training slices of a patient, modality and plane, which "
        "all show tumour; distances in pixels of the network's input, volume errors as a fraction:",
        _table(["", *(column.replace("_", " ") for column in columns)], rows),
    ]


def _area(area: Mapping[str, Any]) -> str:
    return _interval(area, "delong")


def _difference(test: Mapping[str, Any]) -> str:
    if test.get("difference") is None:
        return "-"
    p = "p < 0.001" if test["p"] is not None and test["p"] < 0.001 else f"p = {_number(test['p'])}"
    return f"{test['difference']:+.3f} ({_number(test['low'])} to {_number(test['high'])}), {p}"


def _interval(figure: Mapping[str, Any] | None, way: str) -> str:
    if not figure or figure["value"] is None:
        return "-"
    low, high = figure[way]
    return _number(figure["value"]) + ("" if low is None else f" ({_number(low)} to {_number(high)})")


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
