"""Evaluation of a cross-validation: out-of-fold predictions of all modalities and seeds to figures, controls and curves.

Computes, and neither reads nor writes files. What there is:

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
  compared with each on the same patients after DeLong, both by their ranks within folds: over all folds as they are, a
  baseline that means nothing comes out below 0.5 and the mean would seem better than it.
- ``subgroups``: AUC of the mean by value of each column.
- ``curves``: for plots.
- ``left_out``: baselines that could not be fitted, and why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from . import ensembles, resampling, scores, thresholds
from .cohort import Cohort, Row, subgroup_masks
from .scores import NAN

logger = logging.getLogger(__name__)

DECISION_THRESHOLDS = np.arange(1, 100) / 100
ENSEMBLES = {"mean": ensembles.mean, "rank_mean": ensembles.rank_mean, "logit_mean": ensembles.logit_mean}
SCORES_ALONE = ("rank_mean",)
"""Ensembles whose scores are no probabilities."""
Judged = dict[str, dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]
"""Labels, folds and predictions of patients, by kind (``ensembles``, ``mri_types``, ``seeds``) and name."""


def summarise(
    rows: Sequence[Row],
    subgroups: Sequence[str] = (),
    prior: float = 0.5,
    level: float = 0.95,
    resamples: int = 2000,
    permutations: int = 10000,
    seed: int = 67,
) -> dict[str, Any]:
    """Figures of a cross-validation, as JSON knows them: None where one is not defined; which, the head of this file says.

    Args:
        rows: one per patient, modality and seed, of the fold that the patient was held out in: ``patient``, ``fold``, ``seed``,
            ``mri_type``, ``probability`` (None without a usable slice), ``label``; optionally ``kept`` (slices used),
            ``tumour_volume`` (ml) and columns of subgroups.
        subgroups: columns to divide the patients by, as ``scanner`` or ``site``.
        prior: probability, and score, of patients without any prediction.
        level: of confidence.
        resamples: of each bootstrap.
        permutations: of labels.
        seed: of resampling and permutations.

    Raises:
        ValueError: for rows that do not fit together, fewer than two folds, or a prior or level that is none.
    """
    if not 0 <= prior <= 1:
        raise ValueError(f"prior is {prior}, expected a probability from 0 to 1")
    cohort = Cohort.of(rows)
    scores.checked_folds(cohort.folds, len(cohort.patients))
    groups = {name: subgroup_masks(rows, name, cohort.patients) for name in subgroups}
    sampling: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
    combined = _combine(cohort, prior)
    mean = combined["mean"]
    baselines, left_out = _baselines(cohort, mean, sampling)
    judged = _judged(cohort, combined)
    summary: dict[str, Any] = {
        "patients": len(cohort.patients),
        "positive": int(cohort.labels.sum()),
        "without_prediction": int(np.isnan(cohort.mean_of()).sum()),
        "folds": len(np.unique(cohort.folds)),
        "level": level,
        **{
            kind: {name: _figures(*one, name not in SCORES_ALONE, sampling) for name, one in named.items()}
            for kind, named in judged.items()
        },
        "controls": _controls(cohort, mean, permutations, seed),
        "baselines": baselines,
        "subgroups": {
            name: {value: _subgroup(cohort.labels[there], mean[there], sampling) for value, there in values.items()}
            for name, values in groups.items()
        },
        "curves": {
            name: _curves(labels, predicted, name not in SCORES_ALONE, sampling)
            for name, (labels, _, predicted) in (judged["ensembles"] | judged["mri_types"]).items()
        },
        "left_out": left_out,
    }
    for kind in judged:
        _log(kind, summary[kind])
    plain: dict[str, Any] = _plain(summary)
    return plain


def _combine(cohort: Cohort, prior: float) -> dict[str, np.ndarray]:
    """Scores of all patients by ensemble; of those without any prediction the prior."""
    there = ~np.isnan(cohort.mean_of())
    if not there.any():
        raise ValueError(f"none of {len(there)} patients has a probability; nothing can be evaluated")
    found = {}
    for name, combine in ENSEMBLES.items():
        found[name] = np.full(len(there), prior)
        found[name][there] = combine(cohort.probabilities[there])
    return found


def _judged(cohort: Cohort, combined: Mapping[str, np.ndarray]) -> Judged:
    """Labels, folds and predictions of the patients who have any, by kind and name."""
    found = {
        "ensembles": {name: (cohort.labels, cohort.folds, predicted) for name, predicted in combined.items()},
        "mri_types": {name: _predicted(cohort, mri_type=name) for name in cohort.mri_types},
        "seeds": {name: _predicted(cohort, seed=name) for name in cohort.seeds},
    }
    return {kind: {name: one for name, one in named.items() if len(one[0])} for kind, named in found.items()}


def _log(kind: str, named: Mapping[str, Any]) -> None:
    for name, found in named.items():
        area = (found["auc"]["value"], *found["auc"]["delong"])
        logger.info("%s %s: AUC %.3f (DeLong %.3f to %.3f) on %d patients", kind, name, *area, found["patients"])


def _predicted(cohort: Cohort, **members: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, folds and mean probabilities of the patients who have any of these members."""
    predicted = cohort.mean_of(**members)
    there = ~np.isnan(predicted)
    return cohort.labels[there], cohort.folds[there], predicted[there]


def _figures(
    labels: np.ndarray, folds: np.ndarray, predicted: np.ndarray, probability: bool, sampling: Mapping[str, Any]
) -> dict[str, Any]:
    level = sampling["level"]
    area = _area_by_fold(labels, folds, predicted, sampling)
    found: dict[str, Any] = {"patients": len(labels), "positive": int(labels.sum()), "auc": area}
    measures: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"pr_auc": scores.average_precision}
    if probability:
        measures |= {"brier": scores.brier_score, "log_loss": scores.log_loss}
    for name, measure in measures.items():
        interval = resampling.bootstrap_interval(labels, predicted, name, **sampling)
        found[name] = {"value": measure(labels, predicted), "bootstrap": interval}
    if probability:
        found["ece"] = {
            equal: scores.expected_calibration_error(labels, predicted, equal=equal) for equal in ("width", "mass")
        }
    # patients of one fold alone have no others to choose a threshold on
    limits = np.full(len(labels), NAN)
    if len(np.unique(folds)) > 1:
        limits = thresholds.thresholds_of_other_folds(labels, predicted, folds)
    rates = thresholds.sensitivity_specificity(labels, predicted, limits, level)
    for name, rate in zip(("sensitivity", "specificity"), rates, strict=True):
        found[name] = {"value": rate.value, "wilson": [rate.low, rate.high]}
    return found


def _area(labels: np.ndarray, predicted: np.ndarray, sampling: Mapping[str, Any]) -> dict[str, Any]:
    area, *delong = scores.delong_interval(labels, predicted, sampling["level"])
    bootstrap = resampling.bootstrap_interval(labels, predicted, **sampling)
    return {"value": area, "delong": delong, "bootstrap": bootstrap}


def _area_by_fold(
    labels: np.ndarray, folds: np.ndarray, predicted: np.ndarray, sampling: Mapping[str, Any]
) -> dict[str, Any]:
    within = {str(fold): scores.roc_auc(labels[folds == fold], predicted[folds == fold]) for fold in np.unique(folds)}
    return {**_area(labels, predicted, sampling), "folds": within}


def _controls(cohort: Cohort, mean: np.ndarray, permutations: int, seed: int) -> dict[str, Any]:
    p = resampling.permutation_p_value(cohort.labels, mean, permutations, seed)
    return {
        "permutation": {"permutations": permutations, "p": p},
        "seeds": {name or "all": _spread(cohort, name) for name in (None, *cohort.mri_types)},
    }


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


def _baselines(cohort: Cohort, model: np.ndarray, sampling: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Figures of each baseline, and why the others could not be fitted."""
    features: dict[str, np.ndarray] = {}
    if not np.isnan(cohort.volume).all():
        features["tumour_volume"] = np.log1p(cohort.volume)[:, None]  # patients without tumour have 0 ml
    if cohort.kept:
        features["slices"] = np.stack(list(cohort.kept.values()), axis=1)
    found, left_out = {}, {}
    for name, values in features.items():
        there = ~np.isnan(values).any(axis=1)
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
            "auc": _area_by_fold(labels, folds, predicted, sampling),
            "model_auc": scores.roc_auc(labels, other),
            "model_against_it": scores.delong_test(labels, other, predicted, sampling["level"])._asdict(),
        }
    return found, left_out


def _subgroup(labels: np.ndarray, predicted: np.ndarray, sampling: Mapping[str, Any]) -> dict[str, Any]:
    both = len(np.unique(labels)) > 1
    area = _area(labels, predicted, sampling) if both else None
    return {"patients": len(labels), "positive": int(labels.sum()), "auc": area}


def _curves(
    labels: np.ndarray, predicted: np.ndarray, probability: bool, sampling: Mapping[str, Any]
) -> dict[str, Any]:
    curves: dict[str, Any] = {"roc": resampling.roc_curve_band(labels, predicted, **sampling)}
    if probability:
        bins = scores.calibration_curve(labels, predicted, level=sampling["level"])
        curves["calibration"] = [part._asdict() for part in bins]
        curves["decision"] = thresholds.decision_curve(labels, predicted, DECISION_THRESHOLDS)
    return curves


def _plain(value: Any) -> Any:
    """The value as JSON knows it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value
