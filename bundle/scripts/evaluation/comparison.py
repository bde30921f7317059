"""Comparison of cross-validations of several models on the same patients and folds.

Pure computation, without files. A patient's probability by a model is the mean over its modalities and seeds, as in
:mod:`scripts.evaluation.summary`; patients without any have the prior 0.5 throughout.

AUCs are compared in pairs on the same patients after DeLong, every model with the best one and with the tumour's volume alone
(``size``), where that is among them. All these comparisons are one family for Holm's correction. DeLong's test takes the
predictions as given: how they would differ with other folds, or after another training, is not in its intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from ..errors import UserError, some
from . import ensembles, resampling, scores
from .cohort import Cohort, Row
from .scores import NAN, plain
from .summary import PRIOR

SIZE = "size"
"""The model that uses only the tumour's volume."""
COSTS = ("training_seconds", "seconds_per_patient", "gflop", "parameters", "peak_memory_mb")
CALIBRATION_BINS = 5
_NAMED = 3  # patients that a message names


class ComparisonError(UserError):
    """Runs that can't be compared."""


@dataclass(frozen=True)
class Finished:
    """A finished cross-validation."""

    name: str  # unique among the compared runs
    model: str
    rows: Sequence[Row]  # out-of-fold predictions, see :func:`scripts.evaluation.summary.summarise`
    costs: Mapping[str, float | None] = field(default_factory=dict)  # any of ``COSTS``


@dataclass(frozen=True)
class _Judged:
    """A run with its patients' probabilities, all ``(P,)``, NaN without one in ``known`` and the prior in ``predicted``."""

    run: Finished
    cohort: Cohort
    known: np.ndarray
    predicted: np.ndarray
    area: float


def compare(runs: Sequence[Finished], resamples: int = 2000, permutations: int = 10000) -> dict[str, Any]:
    """Figures of several cross-validations of the same patients, whatever their order, as JSON knows them.

    Args:
        runs: two or more, with different names.
        resamples: of each bootstrap.
        permutations: of labels.

    Returns:
        ``patients``, ``positive``, ``folds``, ``best`` and ``size`` (names, the latter None where there is none), ``comparisons``
        (their number), ``runs`` (one each, the highest AUC first: figures as in a summary, ``ece`` with 10 bins of equal mass, and
        ``against`` ``best`` and ``size``),
        ``predictions`` (``patient``, ``label``, ``fold`` and ``probabilities`` by run).

    Raises:
        ComparisonError: for fewer than two runs, the same name twice, patients, labels or folds that differ, or a missing label.
        ValueError: for rows that do not fit together.
    """
    if len(runs) < 2:
        raise ComparisonError(f"{len(runs)} run: expected two or more to compare")
    names = [run.name for run in runs]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ComparisonError(f"two runs are called {twice[0]}; expected different names")
    cohorts = {run.name: Cohort.of(run.rows) for run in runs}
    refuse_differences(cohorts)
    labels, folds = (getattr(cohorts[names[0]], part) for part in ("labels", "folds"))
    if len(np.unique(labels)) < 2:
        raise ComparisonError(f"all {len(labels)} patients have label {labels[0]}; expected both 0 and 1")
    judged = sorted((_judged(run, cohorts[run.name]) for run in runs), key=lambda one: (-one.area, one.run.name))
    references = {"best": judged[0]}
    if sizes := [one for one in judged if one.run.model == SIZE]:
        references["size"] = sizes[0]
    against, count = _comparisons(judged, references, labels, folds)
    found = {
        "patients": len(labels),
        "positive": int(labels.sum()),
        "folds": len(np.unique(folds)),
        "level": scores.LEVEL,
        "best": judged[0].run.name,
        "size": sizes[0].run.name if sizes else None,
        "comparisons": count,
        "runs": [
            {**_figures(one, resamples, permutations), "against": against[one.run.name]} for one in judged
        ],
        "predictions": [
            {
                "patient": patient,
                "label": int(labels[row]),
                "fold": int(folds[row]),
                "probabilities": {one.run.name: one.predicted[row] for one in judged},
            }
            for row, patient in enumerate(cohorts[names[0]].patients)
        ],
    }  # fmt: skip
    as_json: dict[str, Any] = plain(found)
    return as_json


def refuse_differences(cohorts: Mapping[str, Cohort]) -> None:
    """Refuse cohorts that differ in their patients, or a patient's label or fold.

    Raises:
        ComparisonError: naming both runs, the patients, and the remedy.
    """
    for (one, first), (other, second) in combinations(cohorts.items(), 2):
        facts: list[dict[str, tuple[int, int]]] = [
            {who: (int(label), int(fold)) for who, label, fold in zip(of.patients, of.labels, of.folds, strict=True)}
            for of in (first, second)
        ]
        found = [
            f"{_patients([who for who in mine if who not in its])} only in {name}"
            for name, mine, its in ((one, facts[0], facts[1]), (other, facts[1], facts[0]))
            if mine.keys() - its.keys()
        ]
        shared = [who for who in facts[0] if who in facts[1]]
        for place, what in enumerate(("label", "fold")):
            unlike = [who for who in shared if facts[0][who][place] != facts[1][who][place]]
            values = [
                f"{who} ({what} {facts[0][who][place]} and {facts[1][who][place]})" for who in unlike[:_NAMED]
            ]  # fmt: skip
            if unlike:
                more = f" and {len(unlike) - _NAMED} more" if len(unlike) > _NAMED else ""
                found.append(f"another {what} of {', '.join(values)}{more}")
        if found:
            raise ComparisonError(
                f"{one} and {other} do not have the same patients and folds: {'; '.join(found)}. Models are compared only on the "
                "same ones; cross-validate both with the same data list, --folds and excluded_patients"
            )


def _patients(names: Sequence[str]) -> str:
    return f"patient{'s' if len(names) > 1 else ''} {some(names, _NAMED)}"


def holm(p_values: Sequence[float]) -> np.ndarray:
    """P values of a family of tests, adjusted so that the chance of any false finding stays below the level chosen.

    The smallest of ``m`` is multiplied by ``m``, the next by ``m - 1``, …, none becomes smaller than the one before, or larger
    than 1. NaN stays, and does not belong to the family.

    Holm, Scandinavian Journal of Statistics 6 (1979) 65.
    """
    values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(values.shape, NAN)
    order = [place for place in np.argsort(values, kind="stable") if not np.isnan(values[place])]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return adjusted


def _judged(run: Finished, cohort: Cohort) -> _Judged:
    known = cohort.mean_of()
    there = ~np.isnan(known)
    if not there.any():
        raise ComparisonError(f"{run.name}: none of {len(there)} patients has a probability; nothing can be compared")
    predicted = np.full(len(there), PRIOR)
    predicted[there] = ensembles.mean(cohort.tables["probability"][there])
    return _Judged(run, cohort, known, predicted, scores.roc_auc(cohort.labels, predicted))


def _figures(one: _Judged, resamples: int, permutations: int) -> dict[str, Any]:
    labels, folds, predicted = one.cohort.labels, one.cohort.folds, one.predicted
    area, *delong = scores.delong_interval(labels, predicted)
    recalibrated = scores.recalibration(labels, predicted)
    bins = scores.calibration_curve(labels, predicted, CALIBRATION_BINS, equal="mass")
    false, true = scores.roc_curve(labels, predicted)
    return {
        "name": one.run.name,
        "model": one.run.model,
        "without_prediction": int(np.isnan(one.known).sum()),
        "mri_types": one.cohort.mri_types,
        "seeds": _seeds(one.cohort),
        "auc": {
            "value": area,
            "delong": delong,
            "within_folds": scores.roc_auc(labels, ensembles.ranks_within_folds(predicted, folds)),
        },
        "pr_auc": {
            "value": scores.average_precision(labels, predicted),
            "bootstrap": resampling.bootstrap_interval(labels, predicted, "pr_auc", resamples),
        },
        "brier": {
            "value": scores.brier_score(labels, predicted),
            "bootstrap": resampling.bootstrap_interval(labels, predicted, "brier", resamples),
        },
        "ece": scores.expected_calibration_error(labels, predicted, equal="mass"),
        "calibration_slope": _with_interval(recalibrated.slope),
        "calibration_intercept": _with_interval(recalibrated.intercept),
        "permutation_p": resampling.permutation_p_value(labels, predicted, permutations),
        "costs": {name: one.run.costs.get(name) for name in COSTS},
        "curves": {"roc": {"fpr": false, "tpr": true}, "calibration": [part._asdict() for part in bins]},
    }


def _with_interval(estimate: scores.Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "wald": [estimate.low, estimate.high]}


def _seeds(cohort: Cohort) -> dict[str, Any]:
    """AUC by seed, of the mean over modalities, and how far it spreads; patients without a prediction have the prior."""
    by_seed = {}
    for seed in cohort.seeds:
        known = cohort.mean_of(seed=seed)
        by_seed[seed] = scores.roc_auc(cohort.labels, np.where(np.isnan(known), PRIOR, known))
    areas, several = np.array(list(by_seed.values())), len(by_seed) > 1
    return {
        "auc": by_seed,
        "sd": areas.std(ddof=1) if several else NAN,
        "min": areas.min() if several else NAN,
        "max": areas.max() if several else NAN,
    }


def _comparisons(
    judged: Sequence[_Judged], references: Mapping[str, _Judged], labels: np.ndarray, folds: np.ndarray
) -> tuple[dict[str, dict[str, Any]], int]:
    """Of each run, by reference: its AUC less that of the reference; and how many comparisons there are.

    ``within_folds`` compares ranks within folds: scores that were fitted to the other folds lean against their own, and over all
    folds as they are come out too low (:func:`scripts.evaluation.ensembles.ranks_within_folds`).
    """
    by_name = {one.run.name: one.predicted for one in judged}
    ranks = {name: ensembles.ranks_within_folds(predicted, folds) for name, predicted in by_name.items()}
    wanted = [(one.run.name, other.run.name) for other in references.values() for one in judged if one is not other]
    pairs = list(dict.fromkeys((min(pair), max(pair)) for pair in wanted))  # the best and the smallest model meet once
    adjusted = []
    for values in (by_name, ranks):
        tests = [scores.delong_test(labels, values[one], values[other]) for one, other in pairs]
        adjusted.append(dict(zip(pairs, holm([test.p for test in tests]), strict=True)))

    def difference(name: str, other: str) -> dict[str, Any] | None:
        if name == other:
            return None
        pair = min(name, other), max(name, other)
        found, within = (scores.delong_test(labels, values[name], values[other]) for values in (by_name, ranks))
        return {
            **found._asdict(),
            "p_holm": adjusted[0][pair],
            "within_folds": {**within._asdict(), "p_holm": adjusted[1][pair]},
        }

    against = {name: {kind: difference(name, other.run.name) for kind, other in references.items()} for name in by_name}
    return against, sum(not np.isnan(p) for p in adjusted[0].values())


def records(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs of a comparison as rows of one flat table with all their figures."""
    rows = []
    for run in found["runs"]:
        row = {"run": run["name"], "model": run["model"], "patients": found["patients"], "positive": found["positive"]}
        row |= {"without_prediction": run["without_prediction"], "folds": found["folds"]}
        row |= {"seeds": len(run["seeds"]["auc"]), "mri_types": " ".join(run["mri_types"])}
        for name, way in (("auc", "delong"), ("pr_auc", "bootstrap"), ("brier", "bootstrap")):
            row |= {name: run[name]["value"], **_bounds(f"{name}_{way}", run[name][way])}
        row |= {"auc_within_folds": run["auc"]["within_folds"], "ece": run["ece"]}
        for name in ("calibration_slope", "calibration_intercept"):
            row |= {name: run[name]["value"], **_bounds(f"{name}_wald", run[name]["wald"])}
        row["permutation_p"] = run["permutation_p"]
        row |= {f"auc_of_seeds_{name}": run["seeds"][name] for name in ("sd", "min", "max")}
        for kind, other in run["against"].items():
            row |= _against(f"against_{kind}", other)
        rows.append(row | run["costs"])
    return rows


def _against(name: str, test: Mapping[str, Any] | None) -> dict[str, float | None]:
    test = test or {"within_folds": {}}
    row = {f"{name}_{key}": test.get(key) for key in ("difference", "low", "high", "p", "p_holm")}
    return row | {f"{name}_within_folds_{key}": test["within_folds"].get(key) for key in ("difference", "p", "p_holm")}


def _bounds(name: str, bounds: Sequence[float | None]) -> dict[str, float | None]:
    return {f"{name}_low": bounds[0], f"{name}_high": bounds[1]}
