"""Statistics of patients' predictions: labels 0 or 1, probabilities of label 1. Needs NumPy alone.

Where a figure is not defined, the AUC of patients who all have the same label for example, it is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

Values = Sequence[float] | np.ndarray
Labels = Sequence[int] | np.ndarray
Statistic = Callable[[np.ndarray, np.ndarray], float]

NAN = float("nan")


class Estimate(NamedTuple):
    """A figure with the bounds of its interval of confidence."""

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
        ValueError: when there are not as many of both, a label is neither 0 nor 1, or a value is not finite.
    """
    truth, numbers = np.asarray(labels), np.asarray(values, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != numbers.shape:
        raise ValueError(f"labels {truth.shape} and values {numbers.shape}: expected one of each per patient")
    strange = np.flatnonzero((truth != 0) & (truth != 1))
    if len(strange):
        raise ValueError(f"label {truth[strange[0]]} of patient {strange[0]} in order: expected 0 or 1")
    strange = np.flatnonzero(~np.isfinite(numbers))
    if len(strange):
        raise ValueError(
            f"value {numbers[strange[0]]} of patient {strange[0]} in order: leave the patient out or give it a value"
        )
    return truth.astype(np.int64), numbers


def _checked_probabilities(labels: Labels, probabilities: Values) -> tuple[np.ndarray, np.ndarray]:
    truth, chance = checked(labels, probabilities)
    strange = np.flatnonzero((chance < 0) | (chance > 1))
    if len(strange):
        raise ValueError(f"{chance[strange[0]]} of patient {strange[0]} in order: expected a probability from 0 to 1")
    return truth, chance


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level {level} of confidence: expected more than 0 and less than 1, as 0.95")


# Scores


def midranks(values: Values) -> np.ndarray:
    """Ranks from 1 on; ties share the mean of theirs."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse.reshape(-1)]


def roc_auc(labels: Labels, probabilities: Values) -> float:
    """Area under the ROC curve; NaN where all labels are the same."""
    positive = np.asarray(labels) == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return NAN
    return float((midranks(probabilities)[positive].sum() - m * (m + 1) / 2) / (m * n))


def log_loss(labels: Labels, probabilities: Values) -> float:
    """Mean negative log-likelihood of the labels."""
    chance = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-7, 1 - 1e-7)
    likelihoods: np.ndarray = np.where(np.asarray(labels) == 1, np.log(chance), np.log1p(-chance))
    return -float(likelihoods.mean())


def average_precision(labels: Labels, scores: Values) -> float:
    """Area under the precision-recall curve as average precision, without interpolation; NaN without label 1.

    Its value by chance is the share of label 1.
    """
    truth = np.asarray(labels) == 1
    if not truth.any():
        return NAN
    called, hits = _called(truth, np.asarray(scores))
    return float((np.diff(hits, prepend=0) * hits / called).sum() / hits[-1])


def brier_score(labels: Labels, probabilities: Values) -> float:
    """Mean squared difference of probability and label (Brier 1950); 0.25 for 0.5 throughout."""
    return float(np.mean((np.asarray(probabilities, dtype=np.float64) - np.asarray(labels)) ** 2))


def _called(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Patients at or above each threshold, from the highest score to the lowest, and those among them with label 1."""
    values, inverse = np.unique(scores, return_inverse=True)
    inverse = inverse.reshape(-1)
    called = np.bincount(inverse, minlength=len(values))[::-1].cumsum()
    return called, np.bincount(inverse[truth], minlength=len(values))[::-1].cumsum()


def roc_curve(labels: Labels, scores: Values) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1); ties step together.

    The rate of a label that nobody has is 0.
    """
    truth = np.asarray(labels) == 1
    called, hits = _called(truth, np.asarray(scores))
    false = (called - hits) / max(int((~truth).sum()), 1)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], hits / max(int(truth.sum()), 1)])


# AUC after DeLong


def _placements(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many with label 0 each patient with label 1 surpasses, and how many with label 1 surpass each with label 0.

    Ties count half, so all are whole or half numbers without rounding.
    """
    ranks, positive = midranks(scores), labels == 1
    above = ranks[positive] - midranks(scores[positive])
    below = midranks(scores[~positive]) - ranks[~positive] + positive.sum()
    return above, below


def delong_interval(labels: Labels, scores: Values, level: float = 0.95) -> Estimate:
    """ROC AUC with DeLong's interval, found by midranks in O(N log N).

    The interval is the classic one, symmetric on the scale of the AUC and clipped to 0 and 1. Around an AUC of exactly 0 or 1,
    where the variance vanishes, it has no width; it is short of its level for few patients and AUCs close to 1.

    Args:
        labels: 0 or 1 of each patient.
        scores: the higher, the rather label 1.
        level: of confidence.

    Returns:
        AUC and interval; NaN where a label is missing, and bounds of NaN where it has but one patient.

    Raises:
        ValueError: for other labels, scores that are not finite, or a level out of 0 to 1.

    DeLong et al., Biometrics 44 (1988) 837; Sun and Xu, IEEE Signal Processing Letters 21 (2014) 1389.
    """
    _check_level(level)
    truth, numbers = checked(labels, scores)
    area = roc_auc(truth, numbers)
    error = _standard_error(*_placements(truth, numbers))
    width = NormalDist().inv_cdf((1 + level) / 2) * error
    if np.isnan(width):
        return Estimate(area, NAN, NAN)
    return Estimate(area, max(area - width, 0.0), min(area + width, 1.0))


def delong_test(labels: Labels, first: Values, second: Values, level: float = 0.95) -> DeLongTest:
    """Compare the ROC AUCs of two scores of the same patients.

    Args:
        labels: 0 or 1 of each patient.
        first: scores of the patients.
        second: other scores of the same patients.
        level: of confidence, for the interval of the difference.

    Returns:
        The test, ``p`` two-sided. Scores that order the patients alike give a ``p`` of 1; figures that are not defined, because
        a label has fewer than two patients or the differing AUCs show no variance, are NaN.

    Raises:
        ValueError: for other labels, scores that are not finite, not as many of each, or a level out of 0 to 1.

    DeLong et al., Biometrics 44 (1988) 837.
    """
    _check_level(level)
    truth, one = checked(labels, first)
    _, other = checked(labels, second)
    above, below = (a - b for a, b in zip(_placements(truth, one), _placements(truth, other), strict=True))
    difference = roc_auc(truth, one) - roc_auc(truth, other)
    error = _standard_error(above, below)
    if np.isnan(error) or (not error and difference):
        return DeLongTest(difference, NAN, NAN, NAN, NAN)
    z = difference / error if error else 0.0
    width = NormalDist().inv_cdf((1 + level) / 2) * error
    return DeLongTest(difference, difference - width, difference + width, z, 2 * NormalDist().cdf(-abs(z)))


def _standard_error(above: np.ndarray, below: np.ndarray) -> float:
    m, n = len(above), len(below)
    if min(m, n) < 2:
        return NAN
    return float(np.sqrt(above.var(ddof=1) / n**2 / m + below.var(ddof=1) / m**2 / n))


# Resampling


def _resamples(truth: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap samples within each label: positions among those with label 1 ``(resamples, m)``, and 0 ``(resamples, n)``."""
    if resamples < 1:
        raise ValueError(f"resamples {resamples}: expected one at least, 2000 for an interval of 95 %")
    rng = np.random.default_rng(seed)
    counts = (int((truth == 1).sum()), int((truth == 0).sum()))
    one, other = (rng.integers(max(count, 1), size=(resamples, count)) for count in counts)
    return one, other


def bootstrap_interval(
    labels: Labels,
    probabilities: Values,
    statistic: Statistic = roc_auc,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 67,
) -> tuple[float, float]:
    """Percentile interval of a statistic by a bootstrap over patients, stratified by label; NaN where it is not defined.

    Args:
        labels: 0 or 1 of each patient.
        probabilities: of label 1.
        statistic: ``statistic(labels, probabilities) -> value``; that of :func:`roc_auc` takes a short way.
        level: of confidence.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ValueError: for other labels, probabilities that are not finite, a level out of 0 to 1, or no resamples.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    _check_level(level)
    truth, chance = checked(labels, probabilities)
    rows, columns = _resamples(truth, resamples, seed)
    positive, negative = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)
    if not len(truth) or (statistic is roc_auc and not (len(positive) and len(negative))):
        return NAN, NAN
    if statistic is roc_auc:
        # the AUC is the mean over pairs, so a resample of patients is a resample of rows and columns of the pairs' table
        one, other = chance[positive][:, None], chance[negative]
        wins = (one > other) + 0.5 * (one == other)
        weights = (_counts(rows, len(positive)), _counts(columns, len(negative)))
        values = ((weights[0] @ wins) * weights[1]).sum(1) / wins.size
    else:
        samples = np.concatenate([positive[rows], negative[columns]], axis=1)
        values = np.array([statistic(truth[sample], chance[sample]) for sample in samples])
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _counts(samples: np.ndarray, size: int) -> np.ndarray:
    """How often each of ``size`` positions is in each sample, float64 ``(resamples, size)``."""
    shifted = samples + size * np.arange(len(samples))[:, None]
    return np.bincount(shifted.ravel(), minlength=size * len(samples)).reshape(len(samples), size).astype(np.float64)


def agreement_interval(
    modalities: Sequence[np.ndarray], level: float = 0.95, resamples: int = 1000, seed: int = 67
) -> tuple[float, float] | None:
    """How far the mean of a patient's probabilities scatters with modalities, sequences, and members of an ensemble.

    Percentiles of a bootstrap in stages: modalities are drawn with replacement, and sequences and members within each. It tells
    how far they agree, not how often they are right.

    Args:
        modalities: probabilities ``(sequences, members)`` of each.
        level: of the interval.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        Low and high; None with one value alone.

    Raises:
        ValueError: for a level out of 0 to 1.
    """
    _check_level(level)
    tables = [values for values in modalities if values.size]
    if sum(values.size for values in tables) < 2:
        return None
    rng = np.random.default_rng(seed)
    means = np.empty((len(tables), resamples))
    for mean, values in zip(means, tables, strict=True):
        rows, columns = (rng.integers(size, size=(resamples, size)) for size in values.shape)
        mean[:] = values[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))
    chosen = rng.integers(len(tables), size=(len(tables), resamples))
    low, high = np.quantile(means[chosen, np.arange(resamples)].mean(axis=0), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def permutation_p_value(labels: Labels, scores: Values, permutations: int = 10000, seed: int = 67) -> float:
    """One-sided p value of the ROC AUC: the chance of one as high when labels have nothing to do with scores.

    ``(1 + count) / (1 + permutations)``, with the count of permuted labels whose AUC is as high or higher. Where labels are
    exchangeable a value of at most ``a`` is met with a chance of at most ``a``, whatever the ties, and of just ``a`` for the
    possible values without ties between AUCs.

    Args:
        labels: 0 or 1 of each patient.
        scores: the higher, the rather label 1.
        permutations: number of them.
        seed: of the permutations.

    Returns:
        The p value; NaN where all labels are the same.

    Raises:
        ValueError: for other labels, scores that are not finite, or no permutations.

    Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology 9 (2010) 39.
    """
    if permutations < 1:
        raise ValueError(f"permutations {permutations}: expected one at least")
    truth, numbers = checked(labels, scores)
    if len(np.unique(truth)) < 2:
        return NAN
    # the AUC grows with the sum of ranks of label 1; twice a midrank is a whole number, so that equal sums are equal
    ranks = np.rint(2 * midranks(numbers)).astype(np.int64)
    observed = int(ranks[truth == 1].sum())
    rng = np.random.default_rng(seed)
    count = sum(int(ranks[rng.permutation(truth) == 1].sum()) >= observed for _ in range(permutations))
    return (1 + count) / (1 + permutations)


def roc_curve_band(
    labels: Labels,
    scores: Values,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 67,
    points: int = 101,
) -> dict[str, np.ndarray]:
    """ROC curve at evenly spaced false positive rates, with a pointwise band by a bootstrap stratified by label.

    Args:
        labels: 0 or 1 of each patient.
        scores: the higher, the rather label 1.
        level: of confidence at each point; the whole curve is in the band less often.
        resamples: bootstrap samples.
        seed: of the resampling.
        points: of the grid from 0 to 1.

    Returns:
        ``fpr``, ``tpr``, ``low`` and ``high`` ``(points,)``; NaN but for ``fpr`` where a label is missing.

    Raises:
        ValueError: for other labels, scores that are not finite, a level out of 0 to 1, no resamples, or fewer than two points.
    """
    _check_level(level)
    if points < 2:
        raise ValueError(f"points {points} of the grid: expected two at least")
    truth, numbers = checked(labels, scores)
    grid = np.linspace(0, 1, points)
    rows, columns = _resamples(truth, resamples, seed)
    positive, negative = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)
    if not len(positive) or not len(negative):
        none = np.full(points, NAN)
        return {"fpr": grid, "tpr": none, "low": none, "high": none}
    samples = np.concatenate([positive[rows], negative[columns]], axis=1)
    curves = np.stack([_at(grid, *roc_curve(truth[sample], numbers[sample])) for sample in samples])
    low, high = np.quantile(curves, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {"fpr": grid, "tpr": _at(grid, *roc_curve(truth, numbers)), "low": low, "high": high}


def _at(grid: np.ndarray, false: np.ndarray, true: np.ndarray) -> np.ndarray:
    """True positive rates at the false ones of a grid: the highest where the curve rises, straight in between."""
    left = np.searchsorted(false, grid, side="right") - 1
    right = np.minimum(left + 1, len(false) - 1)
    run = false[right] - false[left]
    share = np.divide(grid - false[left], run, out=np.zeros_like(grid), where=run > 0)
    return true[left] + share * (true[right] - true[left])


# Calibration


def calibration_curve(
    labels: Labels, probabilities: Values, bins: int = 10, equal: str = "width", level: float = 0.95
) -> list[CalibrationBin]:
    """Probabilities and what came true, bin by bin; bins without patients are left out.

    Args:
        labels: 0 or 1 of each patient.
        probabilities: of label 1.
        bins: number of them.
        equal: ``"width"``: bins divide 0 to 1 evenly; ``"mass"``: they divide the patients evenly, but equal probabilities stay
            together.
        level: of confidence of Wilson's interval of each bin.

    Raises:
        ValueError: for other labels, values that are no probabilities, no bins, another ``equal``, or a level out of 0 to 1.
    """
    truth, chance = _checked_probabilities(labels, probabilities)
    found = []
    for members in _bins(chance, bins, equal):
        share = wilson_interval(int(truth[members].sum()), int(members.sum()), level)
        found.append(CalibrationBin(int(members.sum()), float(chance[members].mean()), *share))
    return found


def expected_calibration_error(labels: Labels, probabilities: Values, bins: int = 10, equal: str = "width") -> float:
    """Mean over patients of how far the mean probability of their bin is from its share of label 1.

    It is above 0 for calibrated probabilities too, the more so the fewer patients a bin has, and a bootstrap only adds to
    that: compare it between predictions of the same patients.

    Args:
        labels: 0 or 1 of each patient.
        probabilities: of label 1.
        bins: number of them.
        equal: ``"width"`` or ``"mass"``, see :func:`calibration_curve`.

    Returns:
        The error, from 0 to 1; NaN without patients.

    Raises:
        ValueError: for other labels, values that are no probabilities, no bins, or another ``equal``.

    Naeini et al., AAAI (2015) 2901; with bins of equal mass, Nixon et al., CVPR Workshops (2019).
    """
    truth, chance = _checked_probabilities(labels, probabilities)
    gaps = [abs(float((chance[members] - truth[members]).sum())) for members in _bins(chance, bins, equal)]
    return sum(gaps) / len(truth) if len(truth) else NAN


def _bins(chance: np.ndarray, bins: int, equal: str) -> list[np.ndarray]:
    """Which patients are in each bin that has any: bool ``(N,)`` each."""
    if bins < 1:
        raise ValueError(f"bins {bins}: expected one at least")
    if equal not in ("width", "mass"):
        raise ValueError(f"bins of equal {equal!r}: expected 'width' or 'mass'")
    if not len(chance):
        return []
    if equal == "width":
        edges = np.linspace(0, 1, bins + 1)[1:-1]
    else:
        edges = np.quantile(chance, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf")
    # a probability at an edge belongs to the bin below it
    index = np.searchsorted(edges, chance, side="left")
    return [index == number for number in np.unique(index)]


# Decisions


def wilson_interval(count: int, total: int, level: float = 0.95) -> Estimate:
    """A share with Wilson's score interval; NaN of none.

    Args:
        count: how many have it.
        total: of how many.
        level: of confidence.

    Raises:
        ValueError: when the count is out of 0 to the total, or the level out of 0 to 1.

    Wilson, Journal of the American Statistical Association 22 (1927) 209.
    """
    _check_level(level)
    if not 0 <= count <= total:
        raise ValueError(f"{count} of {total}: expected a count from 0 to the total")
    if not total:
        return Estimate(NAN, NAN, NAN)
    z2, share = NormalDist().inv_cdf((1 + level) / 2) ** 2, count / total
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    width = np.sqrt(z2 * (share * (1 - share) / total + z2 / (4 * total**2))) / (1 + z2 / total)
    # exact at the ends, where rounding would leave the value out of its interval
    low = 0.0 if count == 0 else float(middle - width)
    high = 1.0 if count == total else float(middle + width)
    return Estimate(share, low, high)


def sensitivity_specificity(
    labels: Labels, probabilities: Values, threshold: float | np.ndarray, level: float = 0.95
) -> tuple[Estimate, Estimate]:
    """Sensitivity and specificity of calling label 1 from a threshold on, with Wilson's intervals.

    Args:
        labels: 0 or 1 of each patient.
        probabilities: of label 1.
        threshold: of all patients, or of each ``(N,)``; those whose threshold is NaN are left out.
        level: of confidence.

    Returns:
        Both; NaN without patients of the label.

    Raises:
        ValueError: for other labels, probabilities that are not finite, other shapes, or a level out of 0 to 1.
    """
    truth, chance = checked(labels, probabilities)
    limits = np.asarray(threshold, dtype=np.float64)
    if limits.shape not in ((), truth.shape):
        raise ValueError(f"thresholds {limits.shape} of {len(truth)} patients: expected one, or one of each patient")
    limits = np.broadcast_to(limits, truth.shape)
    there = ~np.isnan(limits)
    right = (chance >= limits) == (truth == 1)
    one, other = (
        wilson_interval(int(right[chosen].sum()), int(chosen.sum()), level)
        for chosen in (there & (truth == label) for label in (1, 0))
    )
    return one, other


def youden_threshold(labels: Labels, probabilities: Values) -> float:
    """The threshold of the highest sensitivity plus specificity, midway between two probabilities; the lowest of several.

    It is the lowest probability where calling everybody is best. On the patients it was chosen on, it flatters: see
    :func:`thresholds_of_other_folds`.

    Args:
        labels: 0 or 1 of each patient.
        probabilities: of label 1; a patient is called from the threshold on.

    Returns:
        The threshold; NaN where a label is missing.

    Raises:
        ValueError: for other labels, or probabilities that are not finite.

    Youden, Cancer 3 (1950) 32.
    """
    truth, chance = checked(labels, probabilities)
    m, n = int((truth == 1).sum()), int((truth == 0).sum())
    if not m or not n:
        return NAN
    called, hits = _called(truth == 1, chance)
    # whole numbers, for equally good thresholds must not differ by rounding
    gain = (hits * n - (called - hits) * m)[::-1]
    values = np.unique(chance)
    best = int(np.argmax(gain))
    if best == 0:
        return float(values[0])
    below, above = float(values[best - 1]), float(values[best])
    middle = below + (above - below) / 2
    return middle if middle > below else above


def thresholds_of_other_folds(labels: Labels, probabilities: Values, folds: Sequence[int] | np.ndarray) -> np.ndarray:
    """For each patient :func:`youden_threshold` of the patients of the other folds: none is chosen with its own label.

    Args:
        labels: 0 or 1 of each patient.
        probabilities: of label 1, each out of its fold.
        folds: of each patient.

    Returns:
        Thresholds ``(N,)``; NaN where a label is missing among the patients of the other folds.

    Raises:
        ValueError: for other labels, probabilities that are not finite, not as many folds, or one fold alone.
    """
    truth, chance = checked(labels, probabilities)
    parts = checked_folds(folds, len(truth))
    thresholds = np.full(len(truth), NAN)
    for fold in np.unique(parts):
        own = parts == fold
        thresholds[own] = youden_threshold(truth[~own], chance[~own])
    return thresholds


def checked_folds(folds: Sequence[int] | np.ndarray, patients: int) -> np.ndarray:
    """The folds as an array ``(N,)``.

    Raises:
        ValueError: when there are not as many as patients, or there is one fold alone.
    """
    parts = np.asarray(folds)
    if parts.shape != (patients,):
        raise ValueError(f"folds {parts.shape} of {patients} patients: expected one of each patient")
    if len(np.unique(parts)) < 2:
        raise ValueError(f"folds {np.unique(parts).tolist()}: expected two at least, for each is judged by the others")
    return parts


def decision_curve(labels: Labels, probabilities: Values, thresholds: Values) -> dict[str, np.ndarray]:
    """Net benefit per patient of treating by the model, of treating all, and of treating none.

    Args:
        labels: 0 or 1 of each patient.
        probabilities: of label 1; the model treats from the threshold on.
        thresholds: probabilities at which treating is worth its harm, from 0 to below 1.

    Returns:
        ``threshold``, ``model``, ``all`` and ``none`` ``(T,)``; model and all NaN without patients.

    Raises:
        ValueError: for other labels, values that are no probabilities, or a threshold below 0 or of 1 and more.

    Vickers and Elkin, Medical Decision Making 26 (2006) 565.
    """
    truth, chance = _checked_probabilities(labels, probabilities)
    limits = np.asarray(thresholds, dtype=np.float64)
    strange = limits[~((limits >= 0) & (limits < 1))]
    if len(strange):
        raise ValueError(f"threshold {strange[0]}: expected 0 or more and less than 1")
    total = len(truth) or NAN
    odds, called = limits / (1 - limits), chance >= limits[:, None]
    true, false = (called & (truth == 1)).sum(1) / total, (called & (truth == 0)).sum(1) / total
    everybody = (truth == 1).sum() / total - (truth == 0).sum() / total * odds
    return {"threshold": limits, "model": true - false * odds, "all": everybody, "none": np.zeros_like(limits)}
