"""Evaluation of a cross-validation: out-of-fold predictions of all modalities and seeds to figures, controls and curves.

Pure computation, without files. Contents:

- ``ensembles``: all patients by the mean over modalities and seeds (``mean``), over ranks (``rank_mean``) or logits
  (``logit_mean``).
- ``mri_types`` (mean over seeds) and ``seeds`` (mean over modalities): patients who have a prediction.

  Of each: ``auc`` with DeLong's interval, that of a bootstrap, and the AUC within each fold; ``pr_auc``, ``brier`` and
  ``log_loss`` with an interval by bootstrap; ``ece`` with 10 bins of equal width and of equal mass, without one, for
  resampling adds to it; ``sensitivity`` and ``specificity`` with Wilson's intervals, each patient called at the best threshold
  (Youden) of the other folds. Ranks are no probabilities and have no ``brier``, ``log_loss`` and ``ece``.
- ``controls``: ``permutation`` of labels against the mean (the networks are not trained again), and the spread of the AUC over
  ``seeds``.
- ``baselines``: ``tumour_volume`` alone and ``slices`` per modality alone, by cross-fitted logistic regression; the mean is
  compared with each on the same patients after DeLong, both by their ranks within folds: over all folds as they are, an
  uninformative baseline falls below 0.5 and the mean would seem better than it.
- ``subgroups``: AUC of the mean by value of each column.
- ``curves``: for plots.
- ``left_out``: baselines that could not be fitted, and why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import ensembles, resampling, scores, thresholds
from .cohort import Cohort, Row, subgroup_masks
from .scores import NAN, plain

logger = logging.getLogger(__name__)

PRIOR = 0.5
"""Probability, and score, of patients without any prediction."""
DECISION_THRESHOLDS = np.arange(1, 100) / 100
ENSEMBLES = {"mean": ensembles.mean, "rank_mean": ensembles.rank_mean, "logit_mean": ensembles.logit_mean}
SCORES_ALONE = ("rank_mean",)
"""Ensembles whose scores are no probabilities."""
Judged = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Labels, folds and predictions of patients."""


def summarise(
    rows: Sequence[Row], subgroups: Sequence[str] = (), resamples: int = 2000, permutations: int = 10000
) -> dict[str, Any]:
    """Figures of a cross-validation, as JSON knows them (None where one is not defined); the head of this file lists them.

    Args:
        rows: one per patient, modality and seed, of the fold that the patient was held out in: ``patient``, ``fold``, ``seed``,
            ``mri_type``, ``probability`` (None without a usable slice), ``label``; optionally ``kept`` (slices used),
            ``tumour_volume`` (ml) and columns of subgroups.
        subgroups: columns to divide the patients by, as ``scanner`` or ``site``.
        resamples: of each bootstrap.
        permutations: of labels.

    Raises:
        ValueError: for rows that do not fit together, a single fold, or no probability at all.
    """
    cohort = Cohort.of(rows)
    groups = {name: subgroup_masks(rows, name, cohort.patients) for name in subgroups}
    judged = _judged(cohort)
    mean = judged["ensembles"]["mean"][2]
    baselines, left_out = _baselines(cohort, mean, resamples)
    summary: dict[str, Any] = {
        "patients": len(cohort.patients),
        "positive": int(cohort.labels.sum()),
        "without_prediction": int(np.isnan(cohort.mean_of()).sum()),
        "folds": len(np.unique(cohort.folds)),
        "level": scores.LEVEL,
        **{
            kind: {name: _figures(*one, name not in SCORES_ALONE, resamples) for name, one in named.items()}
            for kind, named in judged.items()
        },
        "controls": {
            "permutation": {
                "permutations": permutations,
                "p": resampling.permutation_p_value(cohort.labels, mean, permutations),
            },
            "seeds": {name or "all": _spread(cohort, name) for name in (None, *cohort.mri_types)},
        },
        "baselines": baselines,
        "subgroups": {
            name: {value: _subgroup(cohort.labels[there], mean[there], resamples) for value, there in values.items()}
            for name, values in groups.items()
        },
        "curves": {
            name: _curves(labels, predicted, name not in SCORES_ALONE, resamples)
            for name, (labels, _, predicted) in (judged["ensembles"] | judged["mri_types"]).items()
        },
        "left_out": left_out,
    }
    for kind in judged:
        for name, found in summary[kind].items():
            area = (found["auc"]["value"], *found["auc"]["delong"])
            logger.info("%s %s: AUC %.3f (DeLong %.3f to %.3f) on %d patients", kind, name, *area, found["patients"])
    as_json: dict[str, Any] = plain(summary)
    return as_json


def _judged(cohort: Cohort) -> dict[str, dict[str, Judged]]:
    """All patients by ensemble, and those who have a prediction by modality and by seed."""
    there = ~np.isnan(cohort.mean_of())
    if not there.any():
        raise ValueError(f"none of {len(there)} patients has a probability; nothing can be evaluated")
    found: dict[str, dict[str, Judged]] = {"ensembles": {}, "mri_types": {}, "seeds": {}}
    for name, combine in ENSEMBLES.items():
        predicted = np.full(len(there), PRIOR)
        predicted[there] = combine(cohort.tables["probability"][there])
        found["ensembles"][name] = cohort.labels, cohort.folds, predicted
    parts = {
        "mri_types": {name: cohort.mean_of(mri_type=name) for name in cohort.mri_types},
        "seeds": {name: cohort.mean_of(seed=name) for name in cohort.seeds},
    }
    for kind, named in parts.items():
        for name, predicted in named.items():
            own = ~np.isnan(predicted)
            if own.any():
                found[kind][name] = cohort.labels[own], cohort.folds[own], predicted[own]
    return found


def _figures(
    labels: np.ndarray, folds: np.ndarray, predicted: np.ndarray, probability: bool, resamples: int
) -> dict[str, Any]:
    area = _area_by_fold(labels, folds, predicted, resamples)
    found: dict[str, Any] = {"patients": len(labels), "positive": int(labels.sum()), "auc": area}
    measures: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"pr_auc": scores.average_precision}
    if probability:
        measures |= {"brier": scores.brier_score, "log_loss": scores.log_loss}
    for name, measure in measures.items():
        interval = resampling.bootstrap_interval(labels, predicted, name, resamples)
        found[name] = {"value": measure(labels, predicted), "bootstrap": interval}
    if probability:
        found["ece"] = {
            equal: scores.expected_calibration_error(labels, predicted, equal=equal) for equal in ("width", "mass")
        }
    limits = thresholds.thresholds_of_other_folds(labels, predicted, folds)
    rates = thresholds.sensitivity_specificity(labels, predicted, limits)
    for name, rate in zip(("sensitivity", "specificity"), rates, strict=True):
        found[name] = {"value": rate.value, "wilson": [rate.low, rate.high]}
    return found


def _area(labels: np.ndarray, predicted: np.ndarray, resamples: int) -> dict[str, Any]:
    area, *delong = scores.delong_interval(labels, predicted)
    bootstrap = resampling.bootstrap_interval(labels, predicted, resamples=resamples)
    return {"value": area, "delong": delong, "bootstrap": bootstrap}


def _area_by_fold(labels: np.ndarray, folds: np.ndarray, predicted: np.ndarray, resamples: int) -> dict[str, Any]:
    within = {str(fold): scores.roc_auc(labels[folds == fold], predicted[folds == fold]) for fold in np.unique(folds)}
    return {**_area(labels, predicted, resamples), "folds": within}


def _spread(cohort: Cohort, mri_type: str | None) -> dict[str, Any]:
    """AUC by seed, of all modalities or one, and how far it spreads."""
    values = {}
    for seed in cohort.seeds:
        predicted = cohort.mean_of(mri_type, seed)
        there = ~np.isnan(predicted)
        values[seed] = scores.roc_auc(cohort.labels[there], predicted[there])
    areas = np.array([value for value in values.values() if not np.isnan(value)])
    return {
        "auc": values,
        "mean": areas.mean() if len(areas) else NAN,
        "min": areas.min() if len(areas) else NAN,
        "max": areas.max() if len(areas) else NAN,
        "sd": areas.std(ddof=1) if len(areas) > 1 else NAN,
    }


def _baselines(cohort: Cohort, model: np.ndarray, resamples: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Figures of each baseline, and why the others could not be fitted."""
    features = {"tumour_volume": np.log1p(cohort.mean_of(table="tumour_volume"))[:, None]}  # 0 ml without tumour
    if not np.isnan(cohort.tables["kept"]).all():
        slices = [cohort.mean_of(name, table="kept") for name in cohort.mri_types]
        features["slices"] = np.nan_to_num(np.stack(slices, axis=1))
    found, left_out = {}, {}
    for name, values in features.items():
        there = ~np.isnan(values).any(axis=1)
        if not there.any():
            continue
        labels, folds = cohort.labels[there], cohort.folds[there]
        try:
            fitted = ensembles.cross_fitted(labels, values[there], folds)
        except ValueError as error:
            left_out[name] = str(error)
            continue
        predicted, other = (ensembles.ranks_within_folds(part, folds) for part in (fitted, model[there]))
        found[name] = {
            "patients": len(labels),
            "positive": int(labels.sum()),
            "auc": _area_by_fold(labels, folds, predicted, resamples),
            "model_auc": scores.roc_auc(labels, other),
            "model_against_it": scores.delong_test(labels, other, predicted)._asdict(),
        }
    return found, left_out


def _subgroup(labels: np.ndarray, predicted: np.ndarray, resamples: int) -> dict[str, Any]:
    area = _area(labels, predicted, resamples) if len(np.unique(labels)) > 1 else None
    return {"patients": len(labels), "positive": int(labels.sum()), "auc": area}


def _curves(labels: np.ndarray, predicted: np.ndarray, probability: bool, resamples: int) -> dict[str, Any]:
    curves: dict[str, Any] = {"roc": resampling.roc_curve_band(labels, predicted, resamples)}
    if probability:
        curves["calibration"] = [part._asdict() for part in scores.calibration_curve(labels, predicted)]
        curves["decision"] = thresholds.decision_curve(labels, predicted, DECISION_THRESHOLDS)
    return curves
