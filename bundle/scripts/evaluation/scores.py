"""Scores of patients' predictions: labels 0 or 1, probabilities of label 1; intervals are of 95 %.

Where a figure is not defined, the AUC of patients who all have the same label for example, it is NaN. SciPy and scikit-learn are
imported where needed: a prediction imports this module but not them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

Values = Sequence[float] | np.ndarray
Labels = Sequence[int] | np.ndarray

NAN = float("nan")
LEVEL = 0.95
"""Of confidence, of all intervals."""
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


class Estimate(NamedTuple):
    """A figure with the bounds of its confidence interval."""

    value: float
    low: float
    high: float


class DeLongTest(NamedTuple):
    """Two AUCs of the same patients compared: ``difference`` of first and second with its interval, two-sided ``p`` of ``z``."""

    difference: float
    low: float
    high: float
    z: float
    p: float


class CalibrationBin(NamedTuple):
    """Patients of similar probability: their mean probability, and the share of label 1 among them with its interval."""

    patients: int
    probability: float
    observed: float
    low: float
    high: float


def checked(labels: Labels, values: Values) -> tuple[np.ndarray, np.ndarray]:
    """Labels ``(N,)`` int and values ``(N,)`` float64 of the same patients.

    Raises:
        ValueError: for different numbers of both, a label other than 0 and 1, or a value that is not finite.
    """
    truth, numbers = np.asarray(labels), np.asarray(values, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != numbers.shape:
        raise ValueError(f"labels {truth.shape} and values {numbers.shape}: expected one of each per patient")
    wrong = np.flatnonzero((truth != 0) & (truth != 1))
    if len(wrong):
        raise ValueError(f"label {truth[wrong[0]]} of patient number {wrong[0]}: expected 0 or 1")
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        raise ValueError(
            f"value {numbers[wrong[0]]} of patient number {wrong[0]}: expected a finite one; leave the patient out or give it a value"
        )
    return truth.astype(np.int64), numbers


def plain(value: Any) -> Any:
    """The value as JSON knows it: None for NaN and infinity, lists, keys that are text."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value


# Scores


def roc_auc(labels: Labels, probabilities: Values) -> float:
    """Area under the ROC curve; NaN where all labels are the same."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, probabilities)) if _have_both(labels) else NAN


def log_loss(labels: Labels, probabilities: Values) -> float:
    """Mean negative log-likelihood of the labels; finite, because probabilities are clipped to 1e-7 from 0 and 1."""
    from sklearn import metrics

    return float(metrics.log_loss(labels, np.clip(probabilities, 1e-7, 1 - 1e-7), labels=[0, 1]))


def average_precision(labels: Labels, scores: Values) -> float:
    """Area under the precision-recall curve, without interpolation; NaN without label 1. By chance it is the share of label 1."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores)) if 1 in np.asarray(labels) else NAN


def brier_score(labels: Labels, probabilities: Values) -> float:
    """Mean squared difference of probability and label (Brier 1950); 0.25 for 0.5 throughout."""
    from sklearn.metrics import brier_score_loss

    return float(brier_score_loss(labels, probabilities, pos_label=1))


def roc_curve(labels: Labels, scores: Values) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1); ties step together; NaN without both labels."""
    from sklearn import metrics

    if not _have_both(labels):
        return np.array([NAN]), np.array([NAN])
    false, true, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    return false, true


def _have_both(labels: Labels) -> bool:
    return len(np.unique(np.asarray(labels))) > 1


def wilson_interval(count: int, total: int) -> Estimate:
    """The share of a count with Wilson's score interval (JASA 22 (1927) 209); NaN of a total of 0."""
    from scipy.stats import binomtest

    if not total:
        return Estimate(NAN, NAN, NAN)
    low, high = binomtest(count, total).proportion_ci(LEVEL, method="wilson")
    return Estimate(count / total, float(low), float(high))


# AUC after DeLong: neither SciPy nor scikit-learn has it


def _placements(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many with label 0 each patient with label 1 surpasses, and how many with label 1 surpass each with label 0.

    Ties count half, so all are whole or half numbers without rounding.
    """
    from scipy.stats import rankdata

    ranks, positive = rankdata(scores), labels == 1
    above = ranks[positive] - rankdata(scores[positive])
    below = rankdata(scores[~positive]) - ranks[~positive] + positive.sum()
    return above, below


def delong_interval(labels: Labels, scores: Values) -> Estimate:
    """ROC AUC with DeLong's interval, from midranks in O(N log N); scores are higher for label 1.

    The interval is symmetric on the scale of the AUC and clipped to 0 and 1. Around an AUC of exactly 0 or 1, where the variance
    vanishes, it has no width; for few patients and AUCs close to 1 it is too narrow. The AUC is NaN where a label is missing,
    bounds are NaN where it has only one patient.

    Raises:
        ValueError: see :func:`checked`.

    DeLong et al., Biometrics 44 (1988) 837; Sun and Xu, IEEE Signal Processing Letters 21 (2014) 1389.
    """
    above, below = _placements(*checked(labels, scores))
    area = _area(above, below)
    width = NormalDist().inv_cdf(TAILS[1]) * _standard_error(above, below)
    if np.isnan(width):
        return Estimate(area, NAN, NAN)
    return Estimate(area, max(area - width, 0.0), min(area + width, 1.0))


def delong_test(labels: Labels, first: Values, second: Values) -> DeLongTest:
    """Compare the ROC AUCs of two scores of the same patients (DeLong et al., Biometrics 44 (1988) 837).

    Scores that order the patients alike give a ``p`` of 1. Figures are NaN where a label has fewer than two patients, or AUCs
    that differ show no variance.

    Raises:
        ValueError: see :func:`checked`.
    """
    truth, one = checked(labels, first)
    _, other = checked(labels, second)
    above, below = (a - b for a, b in zip(_placements(truth, one), _placements(truth, other), strict=True))
    difference = _area(above, below)
    error = _standard_error(above, below)
    if np.isnan(error) or (not error and difference):
        return DeLongTest(difference, NAN, NAN, NAN, NAN)
    z = difference / error if error else 0.0
    width = NormalDist().inv_cdf(TAILS[1]) * error
    return DeLongTest(difference, difference - width, difference + width, z, 2 * NormalDist().cdf(-abs(z)))


def _area(above: np.ndarray, below: np.ndarray) -> float:
    """The AUC of placements, or the difference of AUCs of differences of placements, without rounding before the end."""
    pairs = len(above) * len(below)
    return float(above.sum() / pairs) if pairs else NAN


def _standard_error(above: np.ndarray, below: np.ndarray) -> float:
    m, n = len(above), len(below)
    if min(m, n) < 2:
        return NAN
    return float(np.sqrt(above.var(ddof=1) / n**2 / m + below.var(ddof=1) / m**2 / n))


# Calibration. scikit-learn's `calibration_curve` neither returns how many patients a bin has, which intervals need, nor keeps equal
# probabilities together in bins of equal mass.


def calibration_curve(
    labels: Labels, probabilities: Values, bins: int = 10, equal: str = "width"
) -> list[CalibrationBin]:
    """Mean probability and share of label 1, bin by bin; bins without patients are left out.

    ``equal`` bins have the same ``"width"``, dividing 0 to 1, or ``"mass"``, dividing the patients; equal probabilities stay together.

    Raises:
        ValueError: see :func:`checked`.
    """
    truth, chance = checked(labels, probabilities)
    found = []
    for members in _bins(chance, bins, equal):
        share = wilson_interval(int(truth[members].sum()), int(members.sum()))
        found.append(CalibrationBin(int(members.sum()), float(chance[members].mean()), *share))
    return found


def expected_calibration_error(labels: Labels, probabilities: Values, bins: int = 10, equal: str = "width") -> float:
    """Mean over patients of how far the mean probability of their bin is from its share of label 1; NaN without patients.

    It is above 0 for calibrated probabilities too, the more so the fewer patients a bin has, and a bootstrap only adds to that:
    compare it between predictions of the same patients. Bins are those of :func:`calibration_curve`.

    Naeini et al., AAAI (2015) 2901; with bins of equal mass, Nixon et al., CVPR Workshops (2019).
    """
    truth, chance = checked(labels, probabilities)
    gaps = [abs(float((chance[members] - truth[members]).sum())) for members in _bins(chance, bins, equal)]
    return sum(gaps) / len(truth) if len(truth) else NAN


class Recalibration(NamedTuple):
    """Logistic recalibration: 1 and 0 of calibrated probabilities, each with Wald's interval."""

    slope: Estimate
    intercept: Estimate


def recalibration(labels: Labels, probabilities: Values) -> Recalibration:
    """Calibration slope, and calibration in the large.

    The slope is that of a logistic regression of the labels on the probabilities' logits, below 1 of probabilities that are too
    extreme. The intercept is that of a regression whose slope is 1, below 0 of probabilities that are too high on average.
    Probabilities are clipped to 1e-6 from 0 and 1. Both are NaN where a label is missing, the slope also where all probabilities
    are the same or order the labels without an error.

    Raises:
        ValueError: see :func:`checked`.

    Cox, Biometrika 45 (1958) 562; Van Calster et al., BMC Medicine 17 (2019) 230.
    """
    from scipy.optimize import brentq
    from scipy.special import expit, logit
    from sklearn.linear_model import LogisticRegression

    truth, chance = checked(labels, probabilities)
    none = Estimate(NAN, NAN, NAN)
    if not _have_both(truth):
        return Recalibration(none, none)
    logits = logit(np.clip(chance, 1e-6, 1 - 1e-6))
    shift = float(brentq(lambda value: float((expit(logits + value) - truth).sum()), -50, 50))
    weights = expit(logits + shift) * (1 - expit(logits + shift))
    intercept = _with_error(shift, float(weights.sum() ** -0.5))
    above, below = logits[truth == 1], logits[truth == 0]
    if np.ptp(logits) < 1e-9 or above.min() >= below.max() or above.max() <= below.min():
        return Recalibration(none, intercept)
    scale = float(logits.std())
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, None] / scale, truth)
    fitted = fit.predict_proba(logits[:, None] / scale)[:, 1]
    design = np.stack([np.ones_like(logits), logits])
    errors = np.sqrt(np.diag(np.linalg.inv(design * (fitted * (1 - fitted)) @ design.T)))
    return Recalibration(_with_error(float(fit.coef_[0, 0]) / scale, float(errors[1])), intercept)


def _with_error(value: float, error: float) -> Estimate:
    width = NormalDist().inv_cdf(TAILS[1]) * error
    return Estimate(value, value - width, value + width)


def _bins(chance: np.ndarray, bins: int, equal: str) -> list[np.ndarray]:
    """Which patients are in each bin that has any: bool ``(N,)`` each."""
    if not len(chance):
        return []
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    if equal == "mass":
        edges = np.quantile(chance, edges, method="inverted_cdf")
    # a probability at an edge belongs to the bin below it
    index = np.searchsorted(edges, chance, side="left")
    return [index == number for number in np.unique(index)]
