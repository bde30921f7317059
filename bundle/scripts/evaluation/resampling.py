"""Intervals and p values by resampling patients, and how far the parts of one patient's probability agree.

The bootstrap is not SciPy's: strata may have a single patient here, and a resample is how often each patient is in it, so that all
of them are scored at once; scikit-learn's scores, one resample after the other, take a hundred times as long.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .scores import NAN, TAILS, Labels, Values, checked, roc_curve


def bootstrap_interval(
    labels: Labels, probabilities: Values, score: str = "auc", resamples: int = 2000, seed: int = 67
) -> tuple[float, float]:
    """Percentile interval of a score by a bootstrap over patients, stratified by label; NaN where it is not defined.

    ``score`` is ``"auc"``, ``"pr_auc"``, ``"brier"`` or ``"log_loss"``.

    Raises:
        ValueError: see :func:`~scripts.evaluation.scores.checked`.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    truth, chance = checked(labels, probabilities)
    if not len(truth) or (score == "auc" and len(np.unique(truth)) < 2) or (score == "pr_auc" and not truth.any()):
        return NAN, NAN
    values = _resampled(score, truth, chance, _counts(truth, resamples, seed))
    low, high = np.quantile(values, TAILS)
    return float(low), float(high)


def _counts(truth: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each patient is in each bootstrap sample, drawn within each label, float64 ``(resamples, N)``."""
    rng = np.random.default_rng(seed)
    rows = np.arange(resamples)[:, None] * len(truth)
    drawn = []
    for label in (1, 0):
        own = np.flatnonzero(truth == label)
        drawn.append(rows + own[rng.integers(max(len(own), 1), size=(resamples, len(own)))])
    chosen = np.concatenate(drawn, axis=1).ravel()
    return np.bincount(chosen, minlength=resamples * len(truth)).reshape(resamples, -1).astype(np.float64)


def _resampled(score: str, truth: np.ndarray, chance: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The score in each bootstrap sample ``(resamples,)``."""
    if score == "auc":
        # the AUC is the mean over pairs, so a resample of patients is a resample of rows and columns of the pairs' table
        positive = truth == 1
        one, other = chance[positive][:, None], chance[~positive]
        wins = (one > other) + 0.5 * (one == other)
        return ((counts[:, positive] @ wins) * counts[:, ~positive]).sum(1) / wins.size
    if score == "pr_auc":
        called, hits = _called(truth, chance, counts)
        return (np.diff(hits, prepend=0) * hits / np.maximum(called, 1)).sum(1) / truth.sum()
    if score == "brier":
        return counts @ (chance - truth) ** 2 / len(truth)
    chance = np.clip(chance, 1e-7, 1 - 1e-7)
    return counts @ -np.log(np.where(truth == 1, chance, 1 - chance)) / len(truth)


def _called(truth: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Patients of each sample at or above each threshold, from the highest down, and those with label 1 ``(resamples, T)``."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of those with the same score
    called, hits = (table[:, order].cumsum(axis=1)[:, last] for table in (counts, counts * truth))
    return called, hits


def roc_curve_band(
    labels: Labels, scores: Values, resamples: int = 2000, seed: int = 67, points: int = 101
) -> dict[str, np.ndarray]:
    """ROC curve at evenly spaced false positive rates, with a pointwise band by a bootstrap stratified by label.

    The band is of 95 % at each point; the whole curve is in it less often.

    Returns:
        ``fpr``, ``tpr``, ``low`` and ``high`` ``(points,)``; NaN but for ``fpr`` where a label is missing.

    Raises:
        ValueError: see :func:`~scripts.evaluation.scores.checked`.
    """
    truth, numbers = checked(labels, scores)
    grid = np.linspace(0, 1, points)
    if len(np.unique(truth)) < 2:
        none = np.full(points, NAN)
        return {"fpr": grid, "tpr": none, "low": none, "high": none}
    called, hits = _called(truth, numbers, _counts(truth, resamples, seed))
    rates = ((called - hits) / (truth == 0).sum(), hits / truth.sum())
    starts = np.zeros((resamples, 1))
    curves = np.stack([_at(grid, *curve) for curve in zip(*(np.hstack([starts, rate]) for rate in rates), strict=True)])
    low, high = np.quantile(curves, TAILS, axis=0)
    return {"fpr": grid, "tpr": _at(grid, *roc_curve(truth, numbers)), "low": low, "high": high}


def _at(grid: np.ndarray, false: np.ndarray, true: np.ndarray) -> np.ndarray:
    """True positive rates at the false ones of a grid: the highest where the curve rises, straight in between."""
    left = np.searchsorted(false, grid, side="right") - 1
    right = np.minimum(left + 1, len(false) - 1)
    run = false[right] - false[left]
    share = np.divide(grid - false[left], run, out=np.zeros_like(grid), where=run > 0)
    return true[left] + share * (true[right] - true[left])


def permutation_p_value(labels: Labels, scores: Values, permutations: int = 10000, seed: int = 67) -> float:
    """One-sided p value of the ROC AUC: the chance of one as high when labels have nothing to do with scores; NaN for one label.

    It is ``(1 + count) / (1 + permutations)``, with the count of permuted labels whose AUC is as high or higher; exact where so few
    patients have no more permutations than are asked for. Where labels are exchangeable, a value of at most ``a`` occurs with a
    probability of at most ``a``, whatever the ties.

    Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology 9 (2010) 39.
    """
    from scipy.stats import permutation_test, rankdata

    truth, numbers = checked(labels, scores)
    if len(np.unique(truth)) < 2:
        return NAN
    ranks = rankdata(numbers)

    def rank_sum(permuted: np.ndarray, axis: int) -> np.ndarray:  # the AUC grows with that of label 1
        return (permuted * ranks).sum(axis=axis)

    found = permutation_test(
        (truth,), rank_sum, permutation_type="pairings", alternative="greater", vectorized=True, batch=1000,
        n_resamples=permutations, rng=seed,
    )  # fmt: skip
    return float(found.pvalue)


def agreement_interval(modalities: Sequence[np.ndarray], seed: int = 67) -> tuple[float, float] | None:
    """How far the mean of a patient's probabilities scatters with modalities, sequences, and members of an ensemble.

    Percentiles of a bootstrap in stages: modalities, of which each has probabilities ``(sequences, members)``, are drawn with
    replacement, and sequences and members within each. It says how far they agree, not how often they are right; None for a
    single value.
    """
    tables = [values for values in modalities if values.size]
    if sum(values.size for values in tables) < 2:
        return None
    rng, resamples = np.random.default_rng(seed), 1000
    means = np.empty((len(tables), resamples))
    for mean, values in zip(means, tables, strict=True):
        rows, columns = (rng.integers(size, size=(resamples, size)) for size in values.shape)
        mean[:] = values[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))
    chosen = rng.integers(len(tables), size=(len(tables), resamples))
    low, high = np.quantile(means[chosen, np.arange(resamples)].mean(axis=0), TAILS)
    return float(low), float(high)
