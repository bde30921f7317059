"""The content of a run's folder: a training run, an evaluation, a cross-validation, a prediction, or several of them.

It is recognised by its files: ``history.csv`` of a training run, ``metrics.json`` of an evaluation or a cross-validation,
``patients.json`` of a prediction.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_csv
from ..modalities import MRI_TYPES
from ..run_folder import (
    PREDICTIONS_FILE,
    RunError,
    is_crossvalidation,
    plain_settings,
    read_config,
    read_object,
    read_patients,
)
from .writer import PARTS

NOT_FINISHED = "Not finished: figures are of the patients who have been predicted so far."
LOOKED_FOR = {
    "patients.json": "a prediction",
    "metrics.json": "an evaluation or a cross-validation",
    "history.csv": "a training run",
}
_NOT_RUNS = {"prepared", "masks", "phantom", "explanations", *PARTS}


@dataclass(frozen=True)
class Training:
    """A training run: its folder, configuration and the columns of its history."""

    name: str
    folder: Path
    config: dict[str, Any]
    history: dict[str, np.ndarray]

    @property
    def score(self) -> str:
        """The score that chose the best epoch, with a leading "-" where less is better; "" where no configuration names it."""
        return str(self.config.get("score") or "")


@dataclass(frozen=True)
class Evaluation:
    """Figures of an evaluation or a cross-validation, the tables they come from, and the known facts of the patients."""

    name: str
    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    predictions: list[dict[str, str]]
    overlap: list[dict[str, str]]
    patients: dict[str, Any] | None = None

    @property
    def is_crossvalidation(self) -> bool:
        """Whether its patients were held out in several folds."""
        return "ensembles" in self.metrics or is_crossvalidation(self.folder)


@dataclass(frozen=True)
class Run:
    """The content of a folder."""

    folder: Path
    config: dict[str, Any]
    predicted: Path
    prediction: dict[str, Any] | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)

    @property
    def shown(self) -> tuple[Path, dict[str, Any], Evaluation | None] | None:
        """The source of patients' pages: the folder, content of ``patients.json``, and the evaluation unless it is a prediction."""
        if self.prediction is not None:
            return self.predicted, self.prediction, None
        part = next((part for part in self.evaluations if part.predictions or part.overlap), None)
        return (part.folder, part.patients or {"patients": []}, part) if part else None

    @property
    def parts(self) -> list[Evaluation | Training]:
        """Evaluations and training runs."""
        return [*self.evaluations, *self.trainings]

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """All its configurations, by the name of their folder."""
        found = {"": self.config, **{part.name: part.config for part in self.parts}}
        return {name: config for name, config in found.items() if config and (not name or config != self.config)}

    @property
    def title(self) -> str:
        """The kind of run."""
        if (self.folder / "demo_state.json").is_file():
            return "Demo"
        if self.prediction is not None:
            return "Prediction"
        if self.evaluations:
            return "Cross-validation" if any(part.is_crossvalidation for part in self.evaluations) else "Evaluation"
        return "Training"


def read_run(folder: str | Path) -> Run:
    """The content of a run's folder.

    Raises:
        RunError: when it is missing, holds nothing known, or a file in it can't be read.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise RunError(f"{folder}: no such folder; name that of a training, an evaluation or a prediction")
    evaluated = (root / PREDICTIONS_FILE).is_file()
    # a demo's prediction is in a folder of its own
    places = [place for place in (root, root / "prediction") if (place / "patients.json").is_file() and not evaluated]
    predicted = places[0] if places else root
    prediction = read_patients(predicted) if places else None
    places = [root]
    # else evaluations below are its parts, folds for example
    if not evaluated and not (root / "overlap.csv").is_file():
        places += sorted(path for path in root.iterdir() if path.is_dir() and path.name not in _NOT_RUNS)
    evaluations = [found for place in places if (found := _read_evaluation(place, root)) is not None]
    trainings = []
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _NOT_RUNS and not name.startswith("."))
        if "history.csv" in names:
            trainings.append(_read_training(Path(place) / "history.csv", root))
    if prediction is None and not evaluations and not trainings:
        looked = ", ".join(f"{name} ({what})" for name, what in LOOKED_FOR.items())
        raise RunError(f"{folder}: no run found; looked for {looked}")
    return Run(root, read_config(root) or read_config(predicted), predicted, prediction, evaluations, trainings)


def _read_training(file: Path, root: Path) -> Training:
    rows = read_csv(file)
    try:
        history = {key: np.array([float(row[key] or "nan") for row in rows]) for key in rows[0]}
        history["epoch"]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{file}: {error!r} in the history of a training, expected a column epoch and numbers; train again"
        ) from error
    name = file.parent.relative_to(root).as_posix()
    return Training(root.name if name == "." else name, file.parent, read_config(file.parent), history)


def _read_evaluation(folder: Path, root: Path) -> Evaluation | None:
    """The evaluation in a folder, or the cross-validation so far; None where there is none."""
    tables = [
        read_csv(folder / name) if (folder / name).is_file() else [] for name in (PREDICTIONS_FILE, "overlap.csv")
    ]
    predictions, overlap = tables
    finished = (folder / "metrics.json").is_file()
    patients = read_patients(folder) if predictions or is_crossvalidation(folder) else None
    if not finished and patients is None:
        return None
    name = "" if folder == root else folder.relative_to(root).as_posix()
    metrics = flattened(read_object(folder / "metrics.json")) if finished else {"note": NOT_FINISHED}
    if patients is not None and not predictions:
        predictions = _as_predictions(patients["patients"])
    return Evaluation(name, folder, read_config(folder), metrics, predictions, overlap, patients)


def _as_predictions(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The rows that ``predictions.csv`` will have, before it exists."""
    found = []
    for row in rows:
        chances = {name: (row["series"].get(name) or {}).get("probability") for name in MRI_TYPES}
        values = {"patient": row["patient"], "label": row.get("label"), "fold": row.get("fold"), **chances}
        values["all"] = row["probability"]
        found.append({key: "" if value is None else str(value) for key, value in values.items()})
    return found


def flattened(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a cross-validation with each figure beside its intervals, ``{"auc", "auc_delong", …}``; others unchanged."""
    summary = metrics.get("classification")
    if summary is None:
        return dict(metrics)
    found = {key: value for key, value in metrics.items() if key not in ("classification", "segmentation", "seconds")}
    found |= {key: summary[key] for key in ("patients", "positive", "without_prediction", "folds")}
    if "leakage" in metrics:
        seen = ", ".join(metrics["leakage"].get("segmenter_trained_on", []))
        found["leakage"] = {
            "leaks": metrics["leakage"]["leaks"],
            "splits_compared": len(metrics["leakage"]["compared"]),
            "segmenter was trained on": seen or "none of them, as far as is known",
        }
    for kind in ("ensembles", "mri_types", "seeds"):
        found[kind] = {name: _with_intervals(one) for name, one in summary[kind].items()}
    permutation, spreads = summary["controls"]["permutation"], summary["controls"]["seeds"]
    found["controls"] = {"labels permuted": permutation["permutations"], "p value of the AUC": permutation["p"]}
    found["spread over seeds"] = {
        name: {key: spread[key] for key in ("mean", "min", "max", "sd")} for name, spread in spreads.items()
    }
    found["baselines without an image"] = {
        name: {
            **_with_intervals({"auc": one["auc"], "patients": one["patients"]}),
            "model_auc": one["model_auc"],
            "model_better_by": one["model_against_it"]["difference"],
            "p": one["model_against_it"]["p"],
        }
        for name, one in summary["baselines"].items()
    }
    found["subgroups"] = {
        f"{column} {value}": _with_intervals({"patients": one["patients"], "auc": one["auc"]})
        for column, values in summary["subgroups"].items()
        for value, one in values.items()
    }
    found |= {"left_out": summary["left_out"], "curves": summary["curves"]["mean"]}
    found["segmentation"] = metrics.get("segmentation")
    return {key: value for key, value in found.items() if value not in ({}, None)}


def _with_intervals(scores: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in scores.items():
        if not isinstance(value, Mapping):
            found[name] = value
        elif "value" in value:
            found[name] = value["value"]
            found |= {f"{name}_{way}": value[way] for way in ("delong", "bootstrap", "wilson") if way in value}
        else:
            found |= {f"{name}_{key}": inner for key, inner in value.items()}
    return found


def is_phantom(run: Run) -> bool:
    """Whether the data of a run are a phantom cohort, or the run is a demo."""
    return (run.folder / "demo_state.json").is_file() or any(map(made_of_phantoms, run.configs.values()))


def made_of_phantoms(config: Mapping[str, Any]) -> bool:
    """Whether the data of a configuration are a phantom cohort, which has a marker file beside its tasks."""
    settings = plain_settings(config)
    places = [Path(settings["dataset_dir"])] if isinstance(settings.get("dataset_dir"), str) else []
    for file in (settings.get(key) for key in ("datalist", "segmentation_datalist")):
        if isinstance(file, str) and Path(file).is_file():
            places.append(Path(file).parent / str(read_object(Path(file)).get("dataset_dir", ".")))
    readmes = [above / "README.txt" for place in places for above in (place, *list(place.parents)[:3])]
    return any(
        readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith("PHANTOM COHORT")
        for readme in readmes
    )
