"""The report of a run as web pages that need nothing but themselves: no server, no network, no other program.

What a folder holds is found by the files in it: ``history.csv`` of a training run, ``metrics.json`` of an evaluation or a
cross-validation, ``patients.json`` of a prediction. A folder that holds several of them (a demo's) gets one report of all.
Patients have pages in all but a training's and stage 1's.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import yaml

from .. import environment
from ..datalists import MRI_TYPES, select
from ..errors import UserError
from ..evaluation.resampling import bootstrap_interval
from ..evaluation.scores import roc_auc
from ..files import RESEARCH_ONLY, folder_written_whole, read_csv, write_json, written_whole
from ..run_folder import (
    CONFIG_FILE,
    PREDICTIONS_FILE,
    RunError,
    failures_of,
    is_crossvalidation,
    plain_settings,
    prepared_dir,
    prepared_places,
    read_config,
    read_object,
    read_patients,
)
from . import figures as figures
from .tables import (
    Cell,
    Table,
    cell,
    head,
    number,
    sentence,
    shown,
    table_of_records,
    tables_of,
    with_interval,
    write_table,
)

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

NOT_FINISHED = "Not finished: figures are of the patients who have been predicted so far."
PHANTOM = "Phantom data: synthetic, no biological meaning."
GENERATOR = "radiogenomics report"
PAGE = "report.html"
PARTS = (PAGE, "patients", "figures", "tables")
LOOKED_FOR = {
    "patients.json": "a prediction",
    "metrics.json": "an evaluation or a cross-validation",
    "history.csv": "a training run",
}
EMBEDDED_PATIENTS = 12  # up to so many patients are shown on the first page as well
PATIENT_BYTES = 2_600_000  # that the pictures on a patient's page may take
SEQUENCES = (35, 5)  # length and stride of a classifier whose own are not known
TEMPLATES = Path(__file__).resolve().parent / "templates"

_NOT_RUNS = {"prepared", "masks", "phantom", "explanations", *PARTS}
_INTERVALS = ("agreement_interval",)
_SEEDS_SHOWN = 5  # with a column each in the table of a patient's series
_BIN_KEYS = {
    "predicted": ("predicted", "mean_predicted", "mean_probability", "probability"),
    "observed": ("observed", "frequency", "fraction_positive", "fraction"),
    "low": ("low",),
    "high": ("high",),
}


class ReportError(UserError):
    """A folder of which no report can be made."""


# ---------------------------------------------------------------------------------------------------------------------
# what is there


@dataclass(frozen=True)
class Training:
    """A training run: its folder, configuration and the columns of its history."""

    name: str
    folder: Path
    config: dict[str, Any]
    history: dict[str, np.ndarray]


@dataclass(frozen=True)
class Evaluation:
    """Figures of an evaluation or a cross-validation, the tables they come from, and what is known of the patients, if so."""

    name: str
    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    predictions: list[dict[str, str]]
    overlap: list[dict[str, str]]
    patients: dict[str, Any] | None = None


@dataclass(frozen=True)
class Run:
    """All that a folder holds."""

    folder: Path
    config: dict[str, Any]
    predicted: Path
    prediction: dict[str, Any] | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)

    @property
    def shown(self) -> tuple[Path, dict[str, Any], Evaluation | None] | None:
        """Whose patients have pages: the folder, content of ``patients.json``, and the evaluation unless it is a prediction."""
        if self.prediction is not None:
            return self.predicted, self.prediction, None
        part = next((part for part in self.evaluations if part.predictions or part.overlap), None)
        return (part.folder, part.patients or {"patients": []}, part) if part else None

    @property
    def parts(self) -> list[Evaluation | Training]:
        """Evaluations and training runs."""
        return [*self.evaluations, *self.trainings]


def read_run(folder: str | Path) -> Run:
    """What lies in a run's folder.

    Raises:
        ReportError: when it is missing, holds nothing known, or a file in it can't be read.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise ReportError(f"{folder}: no such folder; name that of a training, an evaluation or a prediction")
    try:
        run = _read_run(root)
    except RunError as error:
        raise ReportError(str(error)) from error
    if run.prediction is None and not run.parts:
        looked = ", ".join(f"{name} ({what})" for name, what in LOOKED_FOR.items())
        raise ReportError(f"{folder}: holds no run; looked for {looked}")
    return run


def _read_run(root: Path) -> Run:
    evaluated = (root / PREDICTIONS_FILE).is_file()
    places = [place for place in (root, root / "prediction") if (place / "patients.json").is_file() and not evaluated]
    predicted = places[0] if places else root  # a demo's is in a folder of its own
    prediction = read_patients(predicted) if places else None
    places = [root, *sorted(path for path in root.iterdir() if path.is_dir() and path.name not in _NOT_RUNS)]
    if evaluated or (root / "overlap.csv").is_file():
        places = places[:1]  # evaluations below are its parts, folds for example
    evaluations = [found for place in places if (found := _read_evaluation(place, root)) is not None]
    trainings = [_read_training(file, root) for file in _histories(root)]
    return Run(root, read_config(root) or read_config(predicted), predicted, prediction, evaluations, trainings)


def _histories(root: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _NOT_RUNS and not name.startswith("."))
        if "history.csv" in names:
            yield Path(place) / "history.csv"


def _read_training(file: Path, root: Path) -> Training:
    rows = read_csv(file)
    try:
        history = {key: np.array([float(row[key] or "nan") for row in rows]) for key in rows[0]}
        history["epoch"]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{file}: no history of a training, or one without an epoch ({error!r})") from error
    name = file.parent.relative_to(root).as_posix()
    return Training(root.name if name == "." else name, file.parent, read_config(file.parent), history)


def _read_evaluation(folder: Path, root: Path) -> Evaluation | None:
    """The evaluation in a folder, or the cross-validation, as far as it has got; None where there is none."""

    def rows(name: str) -> list[dict[str, str]]:
        return read_csv(folder / name) if (folder / name).is_file() else []

    finished = (folder / "metrics.json").is_file()
    predictions = rows(PREDICTIONS_FILE)
    patients = read_patients(folder) if predictions or is_crossvalidation(folder) else None
    if not finished and patients is None:
        return None
    name = "" if folder == root else folder.relative_to(root).as_posix()
    metrics = flattened(read_object(folder / "metrics.json")) if finished else {"note": NOT_FINISHED}
    if patients is not None and not predictions:
        predictions = _as_predictions(patients["patients"])
    return Evaluation(name, folder, read_config(folder), metrics, predictions, rows("overlap.csv"), patients)


def _as_predictions(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What a ``predictions.csv`` would say of patients, before there is one."""
    found = []
    for row in rows:
        chances = {name: (row["series"].get(name) or {}).get("probability") for name in MRI_TYPES}
        values = {"patient": row["patient"], "label": row.get("label"), "fold": row.get("fold"), **chances}
        values["all"] = row["probability"]
        found.append({key: "" if value is None else str(value) for key, value in values.items()})
    return found


def flattened(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a cross-validation with each figure beside its intervals, ``{"auc", "auc_delong", …}``; others as they are."""
    summary = metrics.get("classification")
    if not isinstance(summary, Mapping) or "ensembles" not in summary:
        return dict(metrics)
    controls = summary["controls"]
    found = {key: value for key, value in metrics.items() if key not in ("classification", "segmentation", "seconds")}
    found |= {key: summary[key] for key in ("patients", "positive", "without_prediction", "folds")}
    if "leakage" in metrics:
        found["leakage"] = {
            "leaks": metrics["leakage"]["leaks"],
            "splits_compared": len(metrics["leakage"]["compared"]),
            "segmenter was trained on": ", ".join(metrics["leakage"].get("segmenter_trained_on", []))
            or "none of them, as far as is known",
        }
    for kind in ("ensembles", "mri_types", "seeds"):
        found[kind] = {name: _with_intervals(one) for name, one in summary[kind].items()}
    found["controls"] = {
        "labels permuted": controls["permutation"]["permutations"],
        "p value of the AUC": controls["permutation"]["p"],
    }
    found["spread over seeds"] = {
        name: {key: spread[key] for key in ("mean", "min", "max", "sd")} for name, spread in controls["seeds"].items()
    }
    found["baselines without an image"] = {
        name: {
            **_with_intervals({"auc": one["auc"], "patients": one["patients"]}),
            "model_auc": one["model_auc"],
            "model_better_by": one["model_against_it"].get("difference"),
            "p": one["model_against_it"].get("p"),
        }
        for name, one in summary["baselines"].items()
    }
    found["subgroups"] = {
        f"{column} {value}": _with_intervals({"patients": one["patients"], "auc": one["auc"]})
        for column, values in summary["subgroups"].items()
        for value, one in values.items()
    }
    found["left_out"] = summary["left_out"]
    found["curves"] = dict(summary["curves"].get("mean", {}))
    if "segmentation" in metrics:
        found["segmentation"] = metrics["segmentation"]
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
    """Whether a run says that its data is a phantom, or its data lies in a phantom cohort."""
    notes = [part.metrics.get("note") for part in run.evaluations] + [(run.prediction or {}).get("note")]
    if any("phantom" in str(note).lower() for note in notes) or (run.folder / "demo_state.json").is_file():
        return True
    for config in _configs(run).values():
        for place in _data_folders(config):
            for above in (place, *list(place.parents)[:3]):
                readme = above / "README.txt"
                if readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith(
                    "PHANTOM COHORT"
                ):
                    return True
    return False


def _data_folders(config: Mapping[str, Any]) -> Iterator[Path]:
    settings = plain_settings(config)
    if isinstance(settings.get("dataset_dir"), str):
        yield Path(settings["dataset_dir"])
    file = settings.get("datalist")
    if isinstance(file, str) and Path(file).is_file():
        try:
            yield Path(file).parent / str(read_object(Path(file)).get("dataset_dir", "."))
        except RunError:
            return


def _configs(run: Run) -> dict[str, dict[str, Any]]:
    """All configurations of a run, by the name of the folder they lie in."""
    found = {"": run.config, **{part.name: part.config for part in run.parts}}
    return {name: config for name, config in found.items() if config and (not name or config != run.config)}


def run_facts(run: Run) -> list[tuple[str, str]]:
    """What ran on what, when, and in what, as a person reads it."""
    configs = list(_configs(run).values())
    settings = [plain_settings(config) for config in configs]

    def all_of(key: str) -> str:
        return ", ".join(dict.fromkeys(shown(values[key]) for values in settings if values.get(key) is not None))

    facts = {"job": all_of("job"), "folder": str(run.folder), "studies": all_of("dataset_dir")}
    files = dict.fromkeys(values["datalist"] for values in settings if isinstance(values.get("datalist"), str))
    checksums = {name: one for config in configs for name, one in (config.get("datalists_sha256") or {}).items()}
    facts["data list"] = "\n".join(_fingerprint(file, checksums.get(file)) for file in files)
    content = run.shown[1] if run.shown else {}
    weights = content.get("weights") or {}
    facts["weights"] = "\n".join(f"{name}: {shown(file)}" for name, file in weights.items())
    seeds = {shown(part.metrics["seeds"]) for part in run.evaluations if _is_listed(part.metrics.get("seeds"))}
    facts["seeds"] = ", ".join(sorted(seeds)) or all_of("seeds") or all_of("seed")
    devices = [str(config["device"]) for config in configs if "device" in config]
    facts["device"] = ", ".join(dict.fromkeys("found by itself" if "$" in name else name for name in devices))
    facts["runtime"] = str(content.get("runtime") or all_of("runtime"))
    series = [facts for row in content.get("patients", []) for facts in (row.get("series") or {}).values()]
    seconds = sum(float(facts.get("seconds") or 0) for facts in series)
    facts["computing time"] = f"{datetime.timedelta(seconds=round(seconds))} in {len(series)} series" if seconds else ""
    times = [path.stat().st_mtime for path in _outputs(run)]
    if times:
        first, last = (
            datetime.datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M") for at in (min(times), max(times))
        )
        facts["files written"] = first if first == last else f"{first} to {last}"
    return [(name, value) for name, value in facts.items() if value]


def _is_listed(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and not isinstance(value[0], (dict, list))


def _outputs(run: Run) -> Iterator[Path]:
    for folder in dict.fromkeys([run.folder, *(part.folder for part in run.parts)]):
        for name in (CONFIG_FILE, *LOOKED_FOR):
            if (folder / name).is_file():
                yield folder / name


def _fingerprint(datalist: str, sha256: str | None = None) -> str:
    file = Path(datalist)
    if not file.is_file():
        return f"{file} (not there any more)"
    data = file.read_bytes()
    try:
        content = json.loads(data)
        counts = {name: len(content[name]) for name in ("training", "validation", "test") if content.get(name)}
    except (ValueError, TypeError, AttributeError):
        counts = {}
    listed = "".join(f", {count} in {name}" for name, count in counts.items())
    now = hashlib.sha256(data).hexdigest()
    changed = " when it ran; the file has changed since" if sha256 not in (None, now) else ""
    return f"{file}{listed}\nsha256 {sha256 or now}{changed}"


def run_versions(run: Run) -> tuple[str, list[tuple[str, str]]]:
    """Versions that the run wrote down; else those that are installed where the report is made, and which of both they are."""
    written = run.config.get("versions")
    if isinstance(written, Mapping):
        return "As the run wrote them down.", [(str(name), shown(value)) for name, value in written.items()]
    note = "Of the environment in which this report was made; the run itself wrote none down."
    return note, list(environment.versions().items())


# ---------------------------------------------------------------------------------------------------------------------
# what is shown


class Writer:
    """Writes figures, tables and pages into a report's folder and knows the links to them.

    Args:
        folder: for the files.
        prefix: of links from the first page to files in it.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix
        self.taken: set[str] = set()

    def name(self, wish: str) -> str:
        """A file name, safe and not yet taken, whatever is wished for."""
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", wish).strip("._")[:100] or "unnamed"
        if safe.lower() in self.taken:  # some file systems do not tell A from a
            safe = f"{safe}_{hashlib.sha256(wish.encode()).hexdigest()[:8]}"
        while safe.lower() in self.taken:
            safe += "_"
        self.taken.add(safe.lower())
        return safe

    def table(self, table: Table, name: str | None = None, up: str = "") -> dict[str, Any]:
        """A table and the links to its files."""
        stem = self.name(name or table.name)
        write_table(table, self.folder / "tables", stem)
        endings = [ending for ending in ("csv", "json") if (self.folder / "tables" / f"{stem}.{ending}").is_file()]
        links = [(ending.upper(), f"{up or self.prefix}tables/{quote(stem)}.{ending}") for ending in endings]
        return {"table": table, "files": links}

    def figure(self, figure: Figure, name: str, caption: str = "", up: str = "") -> dict[str, Any]:
        """A figure and the links to its files."""
        from markupsafe import Markup

        stem = self.name(name)
        svg = figures.save_figure(figure, self.folder / "figures", stem)
        links = [(ending.upper(), f"{up or self.prefix}figures/{quote(stem)}.{ending}") for ending in ("png", "svg")]
        return {"svg": Markup(svg), "caption": caption, "files": links}  # matplotlib has escaped what is in it


def show_training(run: Training, writer: Writer) -> dict[str, Any]:
    """A training run's learning curves."""
    score = run.config.get("score")
    score = score if isinstance(score, str) else None
    figure = figures.draw_history(run.history, score)
    epoch, by = figures.best_epoch(run.history, score)
    caption = f"The weights of epoch {epoch} were kept, the best by {head(by)} of held-out patients." if by else ""
    writer.table(table_of_records("History", _history_records(run.history)), f"history_{run.name}")
    return {"title": run.name, "figure": writer.figure(figure, f"learning_curves_{run.name}", caption)}


def _history_records(history: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    count = len(history["epoch"])
    return [
        {**{key: float(history[key][row]) for key in history}, "epoch": int(history["epoch"][row])}
        for row in range(count)
    ]


def training_table(runs: Sequence[Training]) -> Table:
    """One row a training run: its best epoch and the figures in it."""
    records = []
    for run in runs:
        score = run.config.get("score")
        epoch, by = figures.best_epoch(run.history, score if isinstance(score, str) else None)
        row = int(np.flatnonzero(run.history["epoch"] == epoch)[0])
        scores = {key: float(values[row]) for key, values in run.history.items() if key not in ("epoch", "lr")}
        records.append(
            {"run": run.name, "epochs": len(run.history["epoch"]), "best_epoch": epoch, "chosen_by": head(by), **scores}
        )
    return table_of_records("Training runs", records, "Figures in the epoch whose weights were kept.")


def show_evaluation(part: Evaluation, writer: Writer, place: int) -> dict[str, Any]:
    """Tables and figures of an evaluation."""
    groups = figures.groups_of(part.predictions)
    before = f"{part.name}_" if part.name else ""
    tables = [writer.table(table, before + table.name) for table in tables_of(part.metrics)]
    if (by_fold := fold_table(groups)) is not None:
        tables.append(writer.table(by_fold, before + by_fold.name))
    curves = part.metrics.get("curves") or {}
    if curves:
        write_json(curves, writer.folder / "tables" / f"{writer.name(before + 'curves')}.json")
    drawn = []
    both = [group for group in groups if len(set(group.labels.tolist())) == 2]
    if both:
        last = both[-1]
        count = len(last.patients)
        band = "The band is the pointwise 95 % interval of the thick curve."
        drawn = [
            (figures.draw_roc(both, _curve(curves, "roc", "fpr")), "roc", f"{count} patients. {band}"),
            (figures.draw_strips(both), "probability_by_label", "A point is a patient, a bar the median."),
            (
                figures.draw_calibration(last, _bins(curves)),
                "calibration",
                "Below: patients by probability and label (label 0 blue, label 1 red).",
            ),
            (
                figures.draw_decision(last, _curve(curves, "decision", "threshold")),
                "decision_curve",
                "Net benefit of acting on the model at a threshold.",
            ),
        ]
    if part.overlap:
        drawn.append((figures.draw_overlap(part.overlap), "dice", "A point is a patient, a bar the median."))
    note = str(part.metrics.get("note") or "")
    return {
        "id": f"scores-{place}",
        "title": "Cross-validation"
        if _is_cross_validation(part)
        else sentence(head(part.name))
        if part.name
        else "Scores",
        "text": "" if note in (RESEARCH_ONLY, "") else note,
        "tables": tables,
        "figures": [writer.figure(figure, before + name, caption) for figure, name, caption in drawn],
    }


def _is_cross_validation(part: Evaluation) -> bool:
    told = "ensembles" in part.metrics or "folds" in part.metrics or is_crossvalidation(part.folder)
    return told or len({row.get("fold") for row in part.predictions}) > 1


def _curve(curves: Any, name: str, key: str) -> dict[str, np.ndarray] | None:
    """A curve's columns, directly under its name or under the first of several models'; None where they are not understood."""
    found = curves.get(name) if isinstance(curves, Mapping) else None
    if isinstance(found, Mapping) and key not in found:
        found = found.get("all") or next((part for part in found.values() if isinstance(part, Mapping)), None)
    if not isinstance(found, Mapping) or key not in found:
        return None
    try:
        columns = {name: np.asarray(values, dtype=float) for name, values in found.items() if isinstance(values, list)}
    except (TypeError, ValueError):
        return None
    return columns if key in columns and len({values.shape for values in columns.values()}) == 1 else None


def _bins(curves: Any) -> list[dict[str, float]] | None:
    """The bins of a calibration that was computed elsewhere; None where there are none that are understood."""
    found = curves.get("calibration") if isinstance(curves, Mapping) else None
    if isinstance(found, Mapping):
        found = found.get("bins", found)
    if isinstance(found, Mapping):  # columns instead of rows
        lists = {key: value for key, value in found.items() if isinstance(value, list)}
        found = [dict(zip(lists, row, strict=False)) for row in zip(*lists.values(), strict=False)]
    if not isinstance(found, list):
        return None
    rows = [
        {name: row[key] for name, keys in _BIN_KEYS.items() for key in keys if key in row}
        for row in found
        if isinstance(row, Mapping)
    ]
    whole = [
        row
        for row in rows
        if isinstance(row.get("predicted"), float | int) and isinstance(row.get("observed"), float | int)
    ]
    return whole or None


def fold_table(groups: Sequence[figures.Group]) -> Table | None:
    """AUC by fold and modality; None without folds."""
    folds = sorted({fold for group in groups for fold in group.folds if fold}, key=lambda fold: (len(fold), fold))
    if not folds:
        return None
    records = []
    for fold in folds:
        record: dict[str, Any] = {"fold": fold}
        for group in groups:
            inside = np.array([found == fold for found in group.folds])
            area = roc_auc(group.labels[inside], group.probabilities[inside])
            record["patients"] = max(int(inside.sum()), record.get("patients", 0))
            record[group.name] = area if np.isfinite(area) else None
        records.append(record)
    return table_of_records("AUC by fold", records, "Of the patients who were held out in a fold, the mean over seeds.")


@dataclass(frozen=True)
class Sources:
    """Where the pictures of a run's patients lie.

    Attributes:
        prepared: ``file`` of every prepared series by ``"<patient>/<mri_type>"``.
        studies: paths of the series by modality, by patient.
        explanations: folder of heat maps.
        missing: why there are no prepared series or no studies, "" where there are.
    """

    prepared: dict[str, Path]
    studies: dict[str, dict[str, str]]
    explanations: Path
    missing: str = ""


def find_sources(folder: Path) -> Sources:
    """The prepared series, studies and heat maps of a run's patients, as far as they are still there."""
    settings = plain_settings(read_config(folder))
    prepared, place = {}, prepared_dir(folder)
    missing = f"No pictures: no prepared series at {' or '.join(map(str, prepared_places(folder)))}."
    if place is not None:
        rows = read_object(place / "index.json").get("series", {})
        prepared = {name: place / row["file"] for name, row in rows.items() if "file" in row}
        missing = ""
    studies: dict[str, dict[str, str]] = {}
    try:
        entries = select(settings.get("dataset_dir"), settings.get("datalist"), settings.get("section"))
        studies = {entry["patient"]: {key: entry[key] for key in MRI_TYPES if key in entry} for entry in entries}
    except (ValueError, OSError) as error:
        logger.info("the studies are not found any more, kept slices are shown alone: %s", error)
    return Sources(prepared, studies, folder / "explanations", missing)


def patient_interval(row: Mapping[str, Any]) -> list[float] | None:
    """The interval of a patient's probability, where the prediction gives one."""
    for key in _INTERVALS:
        found = row.get(key)
        if isinstance(found, Mapping):
            found = [found.get("low"), found.get("high")]
        if isinstance(found, list) and len(found) == 2 and all(isinstance(end, (int, float)) for end in found):
            return [float(end) for end in found]
    return None


def series_table(row: Mapping[str, Any]) -> Table:
    """The series of a patient."""
    records = []
    seeds = row.get("seeds") or []
    for mri_type, facts in (row.get("series") or {}).items():
        of_seeds = facts.get("by_seed") or {}
        by_seed = {f"seed {seed}": (of_seeds.get(str(seed)) or {}).get("probability") for seed in seeds[:_SEEDS_SHOWN]}
        records.append(
            {
                "modality": mri_type,
                "probability": facts.get("probability"),
                **(by_seed if len(seeds) > 1 else {}),
                "slices": facts.get("slices"),
                "used": facts.get("kept"),
                "sequences": len(facts.get("sequences") or []),
                "seconds": facts.get("seconds"),
                "remark": facts.get("reason"),
            }
        )
    empty = {key for key in ("seconds", "remark") if not any(record[key] for record in records)}
    records = [{key: value for key, value in record.items() if key not in empty} for record in records]
    return table_of_records("Series", records)


def explanation_table(patient: str, mri_types: Iterable[str], folder: Path, of: str = "") -> Table | None:
    """How a patient's probabilities change without a part of what was shown, where it was explained; ``of`` which models."""
    records, statements = [], []
    for mri_type in mri_types:
        file = folder / f"{patient}_{mri_type}.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            statements.append(f"{mri_type}: {found['randomisation']['statement']}")
            regions = {
                region.replace(" without ", " outside "): change for region, change in found["by_region"].items()
            }
            changes = {f"without {region}": change for region, change in regions.items()}
            with np.load(file.with_suffix(".npz")) as arrays:
                by_slice = arrays["by_slice"]
                most = int(np.abs(by_slice).argmax())
                changes |= {
                    "slice that matters most": int(arrays["slices"][most]),
                    "without that slice": float(by_slice[most]),
                }
            records.append({"modality": mri_type, **changes})
        except (OSError, ValueError, KeyError):  # not explained, or half of it is gone
            continue
    if not records:
        return None
    note = (
        f"Change of the series' probability{of} when a part is blanked: below 0, the part spoke for methylation. "
        f"Shuffled weights: {' '.join(statements)}"
    )
    return table_of_records("What the classifiers looked at", records, note)


def show_patient(
    row: Mapping[str, Any], name: str, sources: Sources | None, weights: Mapping[str, Any], writer: Writer, up: str
) -> dict[str, Any]:
    """All that a patient's page shows.

    Args:
        row: of the patient in ``patients.json``.
        name: of the patient's files.
        sources: of pictures; None for none.
        weights: files of the classifiers by modality, unless the row has its own.
        writer: of figures and tables.
        up: of links from the page to the report's folder.
    """
    interval = patient_interval(row)
    probability = float(row["probability"])
    failures = failures_of(row)
    sequences = {
        mri_type: [float(value) for value in facts.get("sequences") or []]
        for mri_type, facts in (row.get("series") or {}).items()
    }
    seeds = row.get("seeds") or []
    figure = None
    if any(sequences.values()):
        drawn = figures.draw_sequences(_drawn_sequences(row, sequences), probability, interval)
        mean = "a modality by the models of a seed" if len(seeds) > 1 else "a modality"
        caption = f"A point is a sequence of slices, a diamond the mean of {mean}, the line the patient."
        figure = writer.figure(drawn, f"sequences_{name}", caption, up)
    views, notes = patient_views(row, sources, row.get("weights") or weights, sequences) if sources else ([], [])
    if views and len(seeds) > 1:
        notes.append(f"Sequences under the pictures: means over the seeds {', '.join(map(str, seeds))}.")
    of = f" by the models of seed {seeds[0]}" if len(seeds) > 1 else ""
    changes = explanation_table(row["patient"], sequences, sources.explanations, of) if sources else None
    explanation = writer.table(changes, f"explanation_{name}", up) if changes else None
    return {
        "name": row["patient"],
        "probability": min(max(probability, 0.0), 1.0),
        "interval": interval,
        "shown": with_interval(probability, interval),
        "explained": _told(row),
        "failures": [f"{item['series']}: {item['text']}" if item["series"] else item["text"] for item in failures],
        **writer.table(series_table(row), f"series_{name}", up),
        "figure": figure,
        "explanation": explanation,
        "views": views,
        "has_heat": any(view["heat_sheet"] for view in views),
        "notes": notes,
    }


def _told(row: Mapping[str, Any]) -> str:
    """What a patient's probability is the mean of, and what is known beside it."""
    used, seeds = [str(mri_type) for mri_type in row.get("used") or []], row.get("seeds") or []
    over = f" over seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""
    told = [f"Mean of {', '.join(used)}{over}." if used else "No usable series: the cohort prior."]
    if row.get("fold") is not None:
        told.append(f"Held out in fold {row['fold']}: the models did not see this patient.")
    if row.get("label") is not None:
        told.append(f"Known label: {row['label']}.")
    return " ".join(told)


def _drawn_sequences(
    row: Mapping[str, Any], sequences: Mapping[str, Sequence[float]]
) -> dict[tuple[str, str], Sequence[float]]:
    """Sequences by modality and what else tells them apart: the seed, where there are several."""
    if len(row.get("seeds") or []) < 2:
        return {(mri_type, ""): values for mri_type, values in sequences.items()}
    return {
        (mri_type, f"seed {seed}"): [float(value) for value in of_seed["sequences"]]
        for mri_type, facts in row["series"].items()
        for seed, of_seed in facts["by_seed"].items()
    }


def patient_views(
    row: Mapping[str, Any],
    sources: Sources,
    weights: Mapping[str, Any],
    sequences: Mapping[str, Sequence[float]],
) -> tuple[list[dict[str, Any]], list[str]]:
    """What the viewer shows of a patient's series, and what it could not be given."""
    from ..prepared import PreparedError, PreparedSeries
    from .viewer import SheetError, read_heat, read_source, series_sheets

    patient = row["patient"]
    files = {
        name: sources.prepared[f"{patient}/{name}"]
        for name in row.get("series") or {}
        if f"{patient}/{name}" in sources.prepared
    }
    views: list[dict[str, Any]] = []
    notes = [sources.missing] if sources.missing else []
    for mri_type, file in files.items():
        try:
            series = PreparedSeries(file)
        except PreparedError as error:
            notes.append(f"{mri_type}: {error}")
            continue
        full = heat = None
        source = sources.studies.get(patient, {}).get(mri_type)
        try:
            if source is None or series.geometry is None:
                raise SheetError("the study is not there any more")
            full = read_source(source, series.geometry)
        except SheetError as error:
            notes.append(f"{mri_type}: only the slices that were used are shown, for {error}.")
        explanation = sources.explanations / f"{patient}_{mri_type}.npz"
        if explanation.is_file():
            try:
                heat = read_heat(explanation, series)
            except SheetError as error:
                notes.append(f"{mri_type}: no heat map, for {error}.")
        values = list(sequences.get(mri_type, []))
        spans = sequence_spans(series.slices.tolist(), len(values), chunk_settings(weights.get(mri_type)))
        marked = [{"slices": span, "probability": value} for span, value in zip(spans, values, strict=False)]
        view = series_sheets(series, full, heat, marked, PATIENT_BYTES // max(len(files), 1))
        if view is None:
            notes.append(f"{mri_type}: no slice to show.")
            continue
        chance = f"p {np.mean(values):.3f}" if values else "not used"
        views.append(
            {
                **view,
                "mri_type": mri_type,
                "classified": bool(values),
                "caption": f"{mri_type}, {view['plane'] or 'slices'}, {chance}",
            }
        )
    return views, notes


def chunk_settings(weights: Any) -> list[tuple[int, int]]:
    """Length and stride of a classifier's sequences: those of the run its weights lie in, then the usual ones."""
    found = []
    weights = weights[0] if isinstance(weights, list) and weights else weights
    if isinstance(weights, str) and Path(weights).is_file():
        config = read_config(Path(weights).parent)
        numbers = (config.get("sequence_length"), config.get("stride"))
        if all(isinstance(value, int) and value > 0 for value in numbers):
            found.append((int(numbers[0]), int(numbers[1])))  # type: ignore[arg-type]
    return [*found, SEQUENCES]


def sequence_spans(kept: Sequence[int], count: int, settings: Sequence[tuple[int, int]]) -> list[list[int]]:
    """First and last slice of each of ``count`` sequences of the kept slices; nothing where no setting gives that many."""
    for length, stride in settings:
        chunks = max(-(-(len(kept) - length) // stride) + 1, 1) if len(kept) else 0
        if chunks == count:
            starts = range(0, chunks * stride, stride)
            return [[int(kept[start]), int(kept[min(start + length, len(kept)) - 1])] for start in starts]
    return []


def prediction_index(
    rows: Sequence[Mapping[str, Any]], links: Mapping[str, str]
) -> tuple[list[str], list[dict[str, Any]], Table]:
    """Heads and rows of the patients' index of a prediction, and the same as a table for its files."""
    names = [name for name in MRI_TYPES if any(name in (row.get("series") or {}) for row in rows)]
    labelled = any(row.get("label") is not None for row in rows)
    columns = ["patient", "probability", *(["label"] if labelled else []), *names, "slices used", "remark"]
    found, records = [], []
    for row in rows:
        series = row.get("series") or {}
        failures = failures_of(row)
        remark = str(row.get("reason") or "") or "; ".join(f"{item['series']}: {item['text']}" for item in failures)
        kept = sum(int(facts.get("kept") or 0) for facts in series.values())
        chances = [series.get(name, {}).get("probability") for name in names]
        interval = patient_interval(row)
        cells = [
            Cell(str(row["patient"]), str(row["patient"]), links.get(row["patient"])),
            Cell(with_interval(row["probability"], interval), row["probability"]),
            *([cell(row.get("label"))] if labelled else []),
            *map(cell, chances),
            cell(kept),
            Cell(remark, remark.lower() or None),
        ]
        found.append({"cells": cells, "probability": row["probability"], "failed": bool(failures)})
        record = {"patient": row["patient"], "probability": row["probability"]}
        record |= {"interval": interval} if interval else {}
        record |= {"label": row.get("label")} if labelled else {}
        records.append({**record, **dict(zip(names, chances, strict=True)), "slices_used": kept, "remark": remark})
    return columns, found, Table("Patients", [], [], records)


def evaluation_index(
    groups: Sequence[figures.Group], rows: Sequence[Mapping[str, Any]] = (), links: Mapping[str, str] | None = None
) -> tuple[list[str], list[dict[str, Any]], Table]:
    """Heads and rows of the patients' index of an evaluation, and the same as a table for its files.

    Args:
        groups: the models' probabilities.
        rows: what is known of the patients; those whom no model gave a probability are listed with the prior.
        links: to the patients' pages, as far as they have one.
    """
    chances: dict[str, dict[str, float]] = {}
    labels: dict[str, int] = {}
    folds: dict[str, str] = {}
    for group in groups:
        for patient, label, value, fold in zip(
            group.patients, group.labels, group.probabilities, group.folds, strict=True
        ):
            chances.setdefault(patient, {})[group.name] = float(value)
            labels[patient], folds[patient] = int(label), fold
    names = [group.name for group in reversed(groups)]
    for row in rows:
        if row["patient"] not in chances and row.get("label") is not None and names:
            chances[row["patient"]] = {names[0]: float(row["probability"])}
            labels[row["patient"]] = int(row["label"])
            folds[row["patient"]] = "" if row.get("fold") is None else str(row["fold"])
    problems = {row["patient"]: failures_of(row) for row in rows}
    with_folds = any(folds.values())
    columns = [
        "patient",
        "label",
        *(["fold"] if with_folds else []),
        *(figures.named(name) for name in names),
        "absolute error",
    ]
    found, records = [], []
    for patient, values in chances.items():
        main = values.get(names[0])
        wrong = None if main is None else abs(labels[patient] - main)
        held_out = [cell(folds[patient] or None)] if with_folds else []
        cells = [
            Cell(patient, patient, (links or {}).get(patient)),
            cell(labels[patient]),
            *held_out,
            *(cell(values.get(name)) for name in names),
            cell(wrong),
        ]
        failed = main is None or bool(problems.get(patient))
        found.append({"cells": cells, "probability": "" if main is None else main, "failed": failed})
        record = {"patient": patient, "label": labels[patient], **({"fold": folds[patient]} if with_folds else {})}
        records.append({**record, **{name: values.get(name) for name in names}, "absolute_error": wrong})
    return columns, found, Table("Patients", [], [], records)


def overlap_index(rows: Sequence[Mapping[str, str]]) -> tuple[list[str], list[dict[str, Any]], Table]:
    """Heads and rows of the index of a segmentation's evaluation: one row a patient, modality, plane and region."""
    columns = list(rows[0])
    found = []
    for row in rows:
        values = {key: _number(row[key]) if key in ("dice", "iou") else row[key] for key in columns}
        failed = values.get("dice") is None
        found.append({"cells": [cell(values[key]) for key in columns], "probability": "", "failed": failed})
    return [head(key) for key in columns], found, Table("Patients", [], [], [dict(row) for row in rows])


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def main_score(metrics: Mapping[str, Any]) -> tuple[str, str] | None:
    """The AUC that an evaluation is about, with its interval: of the first ensemble, else of all modalities."""
    ensembles = metrics.get("ensembles")
    candidates = list(ensembles.items()) if isinstance(ensembles, Mapping) else []
    for name, scores in [*candidates, ("all", metrics.get("all"))]:
        if isinstance(scores, Mapping) and isinstance(scores.get("auc"), (int, float)):
            interval = next((scores[key] for key in ("auc_delong", "auc_95", "auc_bootstrap") if key in scores), None)
            return head(name), with_interval(float(scores["auc"]), interval)
    return None


def tiles_of(run: Run) -> list[dict[str, str]]:
    """The few figures at the top of the report."""
    tiles = []
    rows = (run.prediction or {}).get("patients", [])
    if rows:
        prior = sum(not row.get("used") for row in rows)
        failed = sum(bool(failures_of(row)) for row in rows)
        tiles.append({"value": str(len(rows)), "name": "patient predicted" if len(rows) == 1 else "patients predicted"})
        if len(rows) == 1:
            tiles.append(
                {
                    "value": with_interval(rows[0]["probability"], patient_interval(rows[0])),
                    "name": "probability of methylation",
                }
            )
        else:
            tiles.append({"value": str(prior), "name": "with the cohort prior, for want of a usable slice"})
        tiles.append({"value": str(failed), "name": "with failures or warnings"})
    for part in run.evaluations:
        groups = figures.groups_of(part.predictions)
        best = groups[-1] if groups else None
        written = main_score(part.metrics)
        where = f", {head(part.name)}" if part.name else ""
        if written is not None:
            tiles.append({"value": written[1], "name": f"AUC, {written[0]} (95 %){where}"})
        elif best is not None and len(set(best.labels.tolist())) == 2:
            area = roc_auc(best.labels, best.probabilities)
            text = f"AUC of {len(best.patients)} patients (95 %, bootstrap){where}"
            interval = bootstrap_interval(best.labels, best.probabilities)
            tiles.append({"value": with_interval(area, interval), "name": text})
        for region in ("WT", "ET"):
            dice = [
                value
                for row in part.overlap
                if row.get("region") == region and (value := _number(row["dice"])) is not None
            ]
            if dice:
                tiles.append(
                    {
                        "value": number(float(np.mean(dice))),
                        "name": f"{region} Dice, mean of {len({row['patient'] for row in part.overlap})} patients",
                    }
                )
    if run.trainings and not tiles:
        for training in run.trainings[:4]:
            epoch, by = figures.best_epoch(training.history, training.config.get("score"))
            best_value = float(training.history[by][training.history["epoch"] == epoch][0]) if by else float("nan")
            tiles.append({"value": number(best_value), "name": f"{head(by)} in epoch {epoch}, {training.name}"})
    return tiles


# ---------------------------------------------------------------------------------------------------------------------
# pages


def write_report(
    run: str | Path, output: str | Path | None = None, overwrite: bool = False, images: bool = True
) -> Path:
    """Write the report of a run: a page, a page for each patient of stage 2, figures and tables; all of it or nothing.

    Args:
        run: folder of a training run, an evaluation, a cross-validation or a prediction.
        output: folder for ``report.html``, ``patients/``, ``figures/`` and ``tables/``, or an ``.html`` file, beside which
            ``<name>_files/`` holds the rest; ``<run>/report`` by default.
        overwrite: replace an earlier report; anything else is never replaced.
        images: show the patients' slices.

    Returns:
        The first page.

    Raises:
        ReportError: when there is nothing to report.
        FileExistsError: when a report is there and is not to be replaced, or something else is.
        ImportError: when Jinja2 or matplotlib is not installed.
    """
    found = read_run(run)
    target = Path(output).expanduser().resolve() if output is not None else found.folder / "report"
    is_page = target.suffix.lower() in (".html", ".htm")
    page = target if is_page else target / PAGE
    folder = target.with_name(f"{target.stem}_files") if is_page else target
    _may_be_written(page, folder, overwrite)
    jinja = jinja_environment()
    with folder_written_whole(folder) as staging:
        first = page if is_page else staging / PAGE
        prefix = f"{quote(folder.name)}/" if is_page else ""
        back = f"../../{quote(page.name)}" if is_page else f"../{PAGE}"
        content = _render(found, jinja, Writer(staging, prefix), back, images)
        if not is_page:
            _write_page(first, content)
    if is_page:
        _write_page(first, content)
    logger.info("%s: open it in a browser. %s", page, RESEARCH_ONLY)
    return page


def _may_be_written(page: Path, folder: Path, overwrite: bool) -> None:
    if not isinstance(overwrite, bool):
        raise ValueError(f"overwrite is {overwrite!r}, expected True or False")
    inside = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if not page.exists() and not inside and (not folder.exists() or folder.is_dir()):
        return
    is_report = not page.exists() or (page.is_file() and f'content="{GENERATOR}"' in _beginning(page))
    if not is_report or (folder.exists() and not folder.is_dir()) or not set(inside) <= set(PARTS):
        raise FileExistsError(
            f"{page if page.exists() else folder} is there and is no report; name another place (--output)"
        )
    if not overwrite:
        raise FileExistsError(
            f"{page.parent if inside else page} holds a report; replace it (--overwrite) or name another place (--output)"
        )


def _beginning(page: Path) -> str:
    with open(page, encoding="utf-8", errors="replace") as stream:
        return stream.read(2000)


def _write_page(file: Path, content: str) -> None:
    with written_whole(file) as temporary:
        temporary.write_text(content, encoding="utf-8")


def jinja_environment() -> Environment:
    """The templates of all pages, with what every page says.

    Raises:
        ImportError: when Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise ImportError("Reports are written with Jinja2: pip install 'brats-mri-radiogenomics[report]'") from error
    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.globals |= {
        "style": Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        "script": Markup((TEMPLATES / "script.js").read_text(encoding="utf-8")),
        "generator": GENERATOR,
        "research_only": RESEARCH_ONLY,
        "version": environment.installed("brats-mri-radiogenomics") or "",  # none in an unzipped bundle
        "written": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
    }
    return jinja


def _render(run: Run, jinja: Environment, writer: Writer, back: str, images: bool) -> str:
    """The first page; patients' pages, figures and tables are written on the way."""
    phantom = PHANTOM if is_phantom(run) else ""
    title = f"{_title(run)}: {run.folder.name}"
    evaluations = [show_evaluation(part, writer, place) for place, part in enumerate(run.evaluations)]
    training = [show_training(part, writer) for part in run.trainings]
    runs = [writer.table(training_table(run.trainings))] if run.trainings else []
    pages = _patient_pages(run, jinja, writer, back, images, {"report_title": title, "phantom": phantom})
    note, versions = run_versions(run)
    settings = {name: plain_settings(config) for name, config in _configs(run).items()}
    sections = [(part["id"], part["title"]) for part in evaluations]
    for link, name, there in (
        ("patients", "Patients", pages["index"]),
        ("failures", "Failures", pages["failures"]),
        ("training", "Training", training),
    ):
        sections += [(link, name)] if there else []
    return jinja.get_template("report.html").render(
        title=title,
        subtitle=str(run.folder),
        phantom=phantom,
        tiles=tiles_of(run),
        sections=[*sections, ("how", "How it ran")],
        evaluations=evaluations,
        **pages,
        training=training,
        runs=runs,
        facts=run_facts(run),
        versions_note=note,
        versions=versions,
        settings=writer.table(settings_table(settings)) if settings else None,
        configs=[
            (
                f"{CONFIG_FILE}{f' of {name}' if name else ''}",
                yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
            )
            for name, config in _configs(run).items()
        ],
    )


def _patient_pages(
    run: Run, jinja: Environment, writer: Writer, back: str, images: bool, common: Mapping[str, str]
) -> dict[str, Any]:
    """Write the patients' pages; what the first page shows of the patients.

    Returns:
        ``index``, ``prediction_figures``, ``patients`` (those on the first page), ``failures`` and ``patients_note``.
    """
    found: dict[str, Any] = {
        "index": None, "prediction_figures": [], "patients": [], "failures": None, "patients_note": "",
    }  # fmt: skip
    if run.shown is None:
        return found
    folder, content, part = run.shown
    rows = content["patients"]
    names = {row["patient"]: writer.name(str(row["patient"])) for row in rows}
    links = {patient: f"{writer.prefix}patients/{quote(name)}.html" for patient, name in names.items()}
    made = None
    if part is None:
        made = prediction_index(rows, links)
    elif groups := figures.groups_of(part.predictions):
        made = evaluation_index(groups, rows, links)
        without = len(made[1]) - len(links)
        if without > 0:
            found["patients_note"] = (
                f"Patients without a page: {without}. Their evaluation wrote no patients.json, as earlier versions did not; evaluate "
                "again with this version to get one."
            )
    elif part.overlap:
        made = overlap_index(part.overlap)
    if made is not None:
        columns, lines, table = made
        found["index"] = {"columns": columns, "rows": lines, "files": writer.table(table)["files"]}
    if part is None and len(rows) > 1:
        drawn = figures.draw_probabilities([row["probability"] for row in rows], [not row.get("used") for row in rows])
        found["prediction_figures"].append(writer.figure(drawn, "patients_by_probability"))
    sources = find_sources(folder) if images and rows else None
    page = jinja.get_template("patient.html")
    for place, row in enumerate(rows):
        name = names[row["patient"]]
        shown_patient = show_patient(row, name, sources, content.get("weights") or {}, writer, "../")
        text = page.render(title=f"Patient {row['patient']}", subtitle="", back=back, found=shown_patient, **common)
        _write_page(writer.folder / "patients" / f"{name}.html", text)
        if len(rows) <= EMBEDDED_PATIENTS:
            embedded = {**_from_first_page(shown_patient, writer.prefix), "link": links[row["patient"]]}
            found["patients"].append(embedded)
        elif (place + 1) % 50 == 0:
            logger.info("%d of %d patients", place + 1, len(rows))
    problems = [item for row in rows for item in failures_of(row)]
    if problems:
        listed = table_of_records("Patients and series", problems)
        cells = [
            [Cell(line[0].text, line[0].value, links[item["patient"]]), *line[1:]]
            for line, item in zip(listed.rows, problems, strict=True)
        ]
        found["failures"] = writer.table(Table(listed.title, listed.columns, cells, problems), "failures")
    return found


def _from_first_page(found: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What a patient's page shows, with links as they are from the first page."""

    def moved(links: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(name, prefix + link.removeprefix("../")) for name, link in links]

    inner = {
        key: found[key] and {**found[key], "files": moved(found[key]["files"])} for key in ("figure", "explanation")
    }
    return {**found, "files": moved(found["files"]), **inner}


def settings_table(settings: Mapping[str, Mapping[str, Any]]) -> Table:
    """Settings of one or several configurations, a column each."""
    keys = dict.fromkeys(key for values in settings.values() for key in values if key not in ("job", "imports"))
    records = [
        {"setting": key, **{name or "value": values.get(key) for name, values in settings.items()}} for key in keys
    ]
    rows = [
        [
            Cell(shown(value) if not isinstance(value, float) else repr(value), None if value is None else str(value))
            for value in record.values()
        ]
        for record in records
    ]
    return Table(
        "Settings",
        list(records[0]) if records else [],
        rows,
        records,
        "Values as they were resolved; expressions stand in the configuration below.",
    )


def _title(run: Run) -> str:
    if (run.folder / "demo_state.json").is_file():
        return "Demo"
    if run.prediction is not None:
        return "Prediction"
    if run.evaluations:
        return "Cross-validation" if any(map(_is_cross_validation, run.evaluations)) else "Evaluation"
    return "Training"
