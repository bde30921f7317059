"""Decisions by a threshold: sensitivity and specificity, the best threshold, and the net benefit of a model.

No library has thresholds chosen on other folds, or decision curves.
"""

from __future__ import annotations

import numpy as np

from .scores import NAN, Estimate, Labels, Values, checked, wilson_interval


def sensitivity_specificity(
    labels: Labels, probabilities: Values, threshold: float | np.ndarray
) -> tuple[Estimate, Estimate]:
    """Sensitivity and specificity of calling label 1 from a threshold on, with Wilson's intervals; NaN without patients of the label.

    The threshold is that of all patients, or of each ``(N,)``; patients whose threshold is NaN are left out.
    """
    truth, chance = checked(labels, probabilities)
    there = ~np.isnan(threshold)
    right = (chance >= threshold) == (truth == 1)
    one, other = (
        wilson_interval(int(right[chosen].sum()), int(chosen.sum()))
        for chosen in (there & (truth == label) for label in (1, 0))
    )
    return one, other


def youden_threshold(labels: Labels, probabilities: Values) -> float:
    """The threshold of the highest sensitivity plus specificity, midway between two probabilities; the lowest of several.

    It is the lowest probability where calling everybody is best, and NaN where a label is missing. A patient is called from the
    threshold on. On the patients it was chosen on, it flatters: see :func:`thresholds_of_other_folds`.

    Youden, Cancer 3 (1950) 32.
    """
    from sklearn.metrics import roc_curve

    truth, chance = checked(labels, probabilities)
    m, n = int((truth == 1).sum()), int((truth == 0).sum())
    if not m or not n:
        return NAN
    false, true, limits = (part[:0:-1] for part in roc_curve(truth, chance, drop_intermediate=False))
    # whole numbers, so that equally good thresholds do not differ by rounding
    best = int(np.argmax(np.rint(true * m) * n - np.rint(false * n) * m))
    if best == 0:
        return float(limits[0])
    below, above = float(limits[best - 1]), float(limits[best])
    middle = below + (above - below) / 2
    return middle if middle > below else above


def thresholds_of_other_folds(labels: np.ndarray, probabilities: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """For each patient :func:`youden_threshold` of the patients of the other folds ``(N,)``: none is chosen with its own label."""
    thresholds = np.full(len(labels), NAN)
    for fold in np.unique(folds):
        own = folds == fold
        thresholds[own] = youden_threshold(labels[~own], probabilities[~own])
    return thresholds


def decision_curve(labels: Labels, probabilities: Values, thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """Net benefit per patient of treating by the model, of treating all, and of treating none.

    The model treats from a threshold on: the probability at which benefit outweighs harm, from 0 to below 1.

    Returns:
        ``threshold``, ``model``, ``all`` and ``none`` ``(T,)``; model and all NaN without patients.

    Vickers and Elkin, Medical Decision Making 26 (2006) 565.
    """
    truth, chance = checked(labels, probabilities)
    total = len(truth) or NAN
    odds, called = thresholds / (1 - thresholds), chance >= thresholds[:, None]
    true, false = (called & (truth == 1)).sum(1) / total, (called & (truth == 0)).sum(1) / total
    everybody = (truth == 1).sum() / total - (truth == 0).sum() / total * odds
    return {"threshold": thresholds, "model": true - false * odds, "all": everybody, "none": np.zeros_like(thresholds)}
