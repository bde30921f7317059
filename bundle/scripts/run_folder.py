"""The content of a finished run's folder: its configuration, its patients, and the place of its prepared series.

A prediction and an evaluation have a ``patients.json``. A cross-validation has one for each seed and fold; here they become one
row per patient, so that all three can be shown and explained alike. Needs neither torch nor MONAI.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .checks import is_plain
from .errors import UserError
from .evaluation.resampling import agreement_interval
from .files import FileError, one_line, parse_yaml, read_json
from .outputs import CONFIG_FILE

PATIENTS_FILE = "patients.json"
NOT_ASKED = "not asked for"
"""Reason for a series that was not requested."""
PREDICTIONS_FILE = "predictions.csv"
"""Beside the ``patients.json`` of an evaluation, not of a prediction."""


AGAIN = "run the job that wrote it again, into another folder or with --overwrite"
"""Remedy for a damaged file of a run."""


class RunError(UserError):
    """A file of a run that can't be read."""


# ---------------------------------------------------------------------------------------------------------------------
# files


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file; a :class:`RunError` if it can't be read or has other content."""
    try:
        content = read_json(file, AGAIN)
    except FileError as error:
        raise RunError(str(error)) from error
    if not isinstance(content, dict):
        raise RunError(f"{file}: expected an object, found {type(content).__name__}; {AGAIN}")
    return content


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration in a run's folder; empty where there is none, a :class:`RunError` where it can't be read."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        return {}
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RunError(f"{file}: can't be read as YAML ({one_line(error)}); {AGAIN}") from error
    return content if isinstance(content, dict) else {}


def plain_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration that are values, not expressions."""
    return {key: value for key, value in config.items() if is_plain(value) and value != []}


# ---------------------------------------------------------------------------------------------------------------------
# patients


def read_patients(folder: str | Path) -> dict[str, Any] | None:
    """The patients of a prediction, an evaluation or a cross-validation, finished or not.

    Patients of a cross-validation have the means over its seeds, in ``probability`` as in ``sequences``, and further ``fold``,
    ``seeds``, ``weights`` (a list by modality, in the order of the seeds: the models that did not see the patient) and, in each
    series, ``by_seed`` with ``probability`` and ``sequences`` by seed.

    Returns:
        Content of ``patients.json``: ``weights``, ``runtime`` and ``patients``; None where there is none.
    """
    root = Path(folder)
    if (root / PATIENTS_FILE).is_file():
        return _read_rows(root / PATIENTS_FILE)
    settings = plain_settings(read_config(root))
    rows: list[dict[str, Any]] = []
    runtimes: dict[str, None] = {}
    for fold, places in _evaluated_folds(root, settings).items():
        by_patient: dict[str, dict[int, dict[str, Any]]] = {}
        for seed, place in places.items():
            content = _read_rows(place / PATIENTS_FILE)
            runtimes |= {content["runtime"]: None} if content.get("runtime") else {}
            for row in content["patients"]:
                known = {**row, "weights": content.get("weights") or {}}
                by_patient.setdefault(str(row["patient"]), {})[seed] = known
        rows += [_over_seeds(fold, of_seeds, settings.get("mri_types")) for of_seeds in by_patient.values()]
    return {"weights": {}, "runtime": ", ".join(runtimes) or None, "patients": rows} if rows else None


def _read_rows(file: Path) -> dict[str, Any]:
    content = read_object(file)
    rows = content.get("patients")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "patient" in row for row in rows):
        raise RunError(f"{file}: holds no list of patients; predict or evaluate again")
    return content


def is_crossvalidation(folder: Path) -> bool:
    """Whether a folder holds stage 2 of a cross-validation, finished or not."""
    return any(folder.glob("classification/seed*/fold*"))


def _evaluated_folds(root: Path, settings: Mapping[str, Any]) -> dict[int, dict[int, Path]]:
    """Folders of the evaluations of a cross-validation by fold and seed, of those that its configuration asks for."""
    found: dict[int, dict[int, Path]] = {}
    for place in root.glob("classification/seed*/fold*/evaluation"):
        numbers = re.fullmatch(r"seed(-?\d+)/fold(-?\d+)", place.parent.relative_to(root / "classification").as_posix())
        if numbers and (place / PATIENTS_FILE).is_file():
            found.setdefault(int(numbers[2]), {})[int(numbers[1])] = place

    def asked(key: str, there: Sequence[int]) -> list[int]:
        named = settings.get(key)
        return [one for one in named if one in there] if isinstance(named, list) else sorted(there)

    folds = {fold: found[fold] for fold in asked("folds", list(found))}
    return {fold: {seed: places[seed] for seed in asked("seeds", list(places))} for fold, places in folds.items()}


def _over_seeds(fold: int, rows: Mapping[int, Mapping[str, Any]], mri_types: Sequence[str] | None) -> dict[str, Any]:
    """One row of a patient's rows by seed; modalities count alike, and so do the seeds of each."""
    first = next(iter(rows.values()))
    series = {
        mri_type: _series_over_seeds({seed: row["series"].get(mri_type) or {} for seed, row in rows.items()})
        for mri_type in first["series"]
        if mri_types is None or mri_type in mri_types
    }
    used = {mri_type: facts["probability"] for mri_type, facts in series.items() if facts["probability"] is not None}
    interval = first.get("agreement_interval") if len(rows) == 1 else _interval([series[name] for name in used])
    merged: dict[str, Any] = {
        "patient": first["patient"],
        "probability": float(np.mean(list(used.values()))) if used else first["probability"],
        "agreement_interval": interval,
        "used": list(used),
    }
    merged |= {key: first[key] for key in ("label", "reason") if key in first and (key != "reason" or not used)}
    files = {mri_type: [row["weights"].get(mri_type) for row in rows.values()] for mri_type in series}
    files = {mri_type: of_seeds for mri_type, of_seeds in files.items() if all(of_seeds)}
    return {**merged, "fold": fold, "seeds": list(rows), "weights": files, "series": series}


def _series_over_seeds(each: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    first = next(iter(each.values()))
    by_seed = {
        str(seed): {"probability": facts["probability"], "sequences": facts["sequences"]}
        for seed, facts in each.items()
        if facts.get("probability") is not None
    }
    sequences = [facts["sequences"] for facts in by_seed.values()]
    alike = len({len(values) for values in sequences}) == 1
    chances = [facts["probability"] for facts in by_seed.values()]
    # preparing is in the seconds of every seed
    facts = {key: value for key, value in first.items() if key != "seconds" or len(each) == 1}
    return {
        **facts,
        "probability": float(np.mean(chances)) if chances else None,
        "sequences": np.mean(sequences, axis=0).tolist() if alike else [],
        "by_seed": by_seed,
    }


def _interval(series: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Of modalities, sequences and seeds, as a prediction by several models has it."""
    if not all(facts["sequences"] for facts in series):
        return None
    tables = [np.transpose([one["sequences"] for one in facts["by_seed"].values()]) for facts in series]
    interval = agreement_interval(tables)
    return None if interval is None else list(interval)


def classifier_of(content: Mapping[str, Any], row: Mapping[str, Any], mri_type: str) -> str | None:
    """The weights file, of several the first, that gave a series of a ``row`` of :func:`read_patients`' content its probability."""
    files = (row.get("weights") or content.get("weights") or {}).get(mri_type)
    if isinstance(files, list):
        files = files[0] if files else None
    return None if files is None else str(files)


def chance_of(facts: Mapping[str, Any]) -> float | None:
    """The probability of a series by :func:`classifier_of`, where known; of several members, their mean."""
    by_seed = facts.get("by_seed")
    return next(iter(by_seed.values()))["probability"] if by_seed else facts.get("probability")


# ---------------------------------------------------------------------------------------------------------------------
# their sources


def prepared_places(folder: Path) -> list[Path]:
    """Possible places of a run's prepared series: the folder in its configuration, or its own."""
    named = plain_settings(read_config(folder)).get("prepared_dir")
    places = [*([Path(named)] if isinstance(named, str) else []), folder / "prepared"]
    return [place / "classification" for place in places] if is_crossvalidation(folder) else places


def prepared_dir(folder: Path) -> Path | None:
    """The first of :func:`prepared_places` with prepared series; None without any."""
    return next((place for place in prepared_places(folder) if (place / "index.json").is_file()), None)


def zoom_of(folder: Path) -> float | None:
    """The zoom with which a run classified; None where no configuration has it."""
    places = [folder, *sorted(folder.glob("classification/seed*/fold*/evaluation"))]
    values = (read_config(place).get("zoom") for place in places)
    return next((float(value) for value in values if isinstance(value, (int, float))), None)


def failures_of(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Reasons and warnings of a patient and the series, one per row: ``patient``, ``series``, ``kind``, ``text``."""
    series = {"": {"reason": row.get("reason")}, **(row.get("series") or {})}
    found = []
    for name, facts in series.items():
        reason = facts.get("reason")
        if reason and (reason != NOT_ASKED or not name):
            found.append((name, "failure", reason))
        found += [(name, "warning", warning) for warning in facts.get("warnings") or []]
    found += [("", "warning", warning) for warning in row.get("warnings") or []]
    return [{"patient": row["patient"], "series": name, "kind": kind, "text": str(text)} for name, kind, text in found]
