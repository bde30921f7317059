"""Explanations of the series of a finished run, into its folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import reason
from ..files import RESEARCH_ONLY, remove_leftovers, write_json
from ..modalities import MRI_TYPES
from ..outputs import inside
from ..preparation import read_index
from ..prepared import PreparedError, PreparedSeries
from ..run_folder import (
    PATIENTS_FILE,
    chance_of,
    classifier_of,
    prepared_dir,
    prepared_places,
    read_patients,
    zoom_of,
)
from .explanation import Classifier, Explanation, explain

logger = logging.getLogger(__name__)

PREDICTION_TOLERANCE = 0.05
"""Tolerated difference of probabilities between a prediction and its explanation, due to a runtime's arithmetic."""


class _Asked(NamedTuple):
    """A series that is to be explained; its weights and its probability may be unknown."""

    name: str
    weights: str | None
    predicted: float | None
    reason: str


def explain_run(
    run_dir: str | Path,
    classifiers: Mapping[str, str | Path | None] | None = None,
    patients: Sequence[str] | None = None,
    mri_types: Sequence[str] | None = None,
    limit: int | None = None,
    batch_size: int = 35,
    device: torch.device | str = "cpu",
) -> dict[str, dict[str, Any]]:
    """Explain the series of a finished prediction, evaluation or cross-validation, into its folder ``explanations``.

    A patient of a cross-validation is explained with the models of the fold that held the patient out, those of the first seed.
    A series already explained with the same weights is skipped; one that can't be explained is reported, and the others
    continue.

    Args:
        run_dir: folder of the run, with ``patients.json`` in it or in the evaluations of its folds.
        classifiers: weights files by modality (``weights.find_classifiers``); None: those that the run used, of several the first.
        patients: those to explain; None: all.
        mri_types: modalities to explain; None: all that have weights.
        limit: at most so many series, the first in the order of the patients, done before or not; None: all.
        batch_size: slices, or sequences, in one pass.
        device: where the networks run.

    Returns:
        Rows by ``"<patient>/<mri_type>"``, also in ``explanations/index.json``: ``{"file", "probability", "maps_change",
        "predicted"}``, the last as in ``patients.json``; ``{"reason"}`` of a series without a prediction; or ``{"error"}``.

    Raises:
        FileNotFoundError: when the run is not finished.
        PreparedError: when its prepared series are gone.
        ValueError: for a patient that is not in it, or a modality without weights.
        WeightsError: when weights can't be read.
    """
    folder, output = Path(run_dir), Path(run_dir) / "explanations"
    asked = _asked(folder, classifiers, patients, mri_types)[:limit]
    prepared = prepared_dir(folder) or prepared_places(folder)[-1]
    index, zoom = read_index(prepared), zoom_of(folder) or _zoom(prepared)
    results: dict[str, dict[str, Any]] = {one.name: {"reason": one.reason} for one in asked}
    by_weights = _by_weights(asked)
    remove_leftovers(output)
    for weights_file, series in by_weights.items():
        classifier = Classifier(weights_file, device)
        for one in series:
            try:
                if "file" not in index.get(one.name, {}):
                    raise PreparedError(f"{prepared}: no {one.name}; prepare it again")
                results[one.name] = _explained(one, index[one.name]["file"], classifier, zoom, batch_size, output)
            except Exception as error:
                logger.warning("%s: %s", one.name, error)
                results[one.name] = {"error": reason(error)}
    write_json({"note": RESEARCH_ONLY, "series": results}, output / "index.json")
    failed = sum("error" in row for row in results.values())
    logger.info("%s: %d series, %d failed. %s", output, len(results), failed, RESEARCH_ONLY)
    return results


def _asked(
    folder: Path,
    classifiers: Mapping[str, str | Path | None] | None,
    patients: Sequence[str] | None,
    mri_types: Sequence[str] | None,
) -> list[_Asked]:
    """The series requested from :func:`explain_run`, in the order of the patients."""
    content = _patients(folder)

    def file_of(row: Mapping[str, Any], mri_type: str) -> str | None:
        """In a cross-validation it depends on the fold."""
        file = classifier_of(content, row, mri_type) if classifiers is None else classifiers.get(mri_type)
        return None if file is None else str(file)

    unknown = sorted(set(patients or ()) - {row["patient"] for row in content["patients"]})
    if unknown:
        raise ValueError(f"{folder}: no patient {', '.join(unknown)} in this run; name some of its patients")
    there = [name for name in MRI_TYPES if any(file_of(row, name) for row in content["patients"])]
    wanted = list(mri_types or there)
    without = [mri_type for mri_type in wanted if mri_type not in there]
    if without or not wanted:
        raise ValueError(f"mri_types {wanted}: no classifier weights for {', '.join(without) or 'any modality'}")
    found = []
    for row in content["patients"]:
        for mri_type in wanted:
            if mri_type in row["series"] and (patients is None or row["patient"] in patients):
                facts = row["series"][mri_type]
                reason = facts.get("reason", "it was not classified")
                found.append(_Asked(f"{row['patient']}/{mri_type}", file_of(row, mri_type), chance_of(facts), reason))
    return found


def _by_weights(asked: Sequence[_Asked]) -> dict[str, list[_Asked]]:
    """The series that were classified by the file of their weights, each of which can be read."""
    found: dict[str, list[_Asked]] = {}
    for one in asked:
        if one.weights is not None and one.predicted is not None:
            found.setdefault(one.weights, []).append(one)
    # before anything is computed; each is read again in its turn, so that one network is in memory at a time
    for weights_file in found:
        Classifier(weights_file, "cpu")
    return found


def _explained(
    one: _Asked, file: str | Path, classifier: Classifier, zoom: float, batch_size: int, output: Path
) -> dict[str, Any]:
    """Explain a series unless that is done; the row of its explanation."""
    series = PreparedSeries(file)
    target = inside(output, f"{series.info['patient']}_{series.info['mri_type']}.json")
    explanation = None
    with suppress(ValueError):  # none, half of one, or another program's
        explanation = Explanation.load(target)
    if explanation is None or explanation.made_with["fingerprint"] != classifier.made_with(series, zoom)["fingerprint"]:
        explanation = explain(file, classifier, zoom, batch_size)
        explanation.save(output)
    probability = explanation.probability
    if one.predicted is not None and abs(one.predicted - probability) > PREDICTION_TOLERANCE:
        logger.warning(
            "%s: probability %.3f here, but %.3f in the prediction; was it made with %s?",
            one.name, probability, one.predicted, one.weights,
        )  # fmt: skip
    return {
        "file": target.name,
        "probability": probability,
        "maps_change": explanation.randomisation["maps_change"],
        "predicted": one.predicted,
    }


def _patients(folder: Path) -> dict[str, Any]:
    content = read_patients(folder)
    if content is None:
        raise FileNotFoundError(
            f"{folder / PATIENTS_FILE}: no such file; name the folder of a finished prediction (`radiogenomics predict`), an "
            "evaluation of stage 2, or a cross-validation that has evaluated a fold"
        )
    return content


def _zoom(prepared_dir: Path) -> float:
    """The zoom of a prediction whose configuration is gone; it is the same for both stages."""
    configuration = json.loads((prepared_dir / "index.json").read_text(encoding="utf-8"))["configuration"]
    if "zoom" not in configuration:
        raise PreparedError(
            f"{prepared_dir / 'index.json'}: no zoom in its configuration, expected a number; predict again with this version"
        )
    return float(configuration["zoom"])
