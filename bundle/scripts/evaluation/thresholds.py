"""Decisions by a threshold: sensitivity and specificity, the best threshold, and what treating by a model is worth.

No library has thresholds that are chosen on other folds, nor decision curves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .scores import NAN, Estimate, Labels, Values, checked, checked_folds, checked_probabilities, wilson_interval


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
    from sklearn.metrics import roc_curve

    truth, chance = checked(labels, probabilities)
    m, n = int((truth == 1).sum()), int((truth == 0).sum())
    if not m or not n:
        return NAN
    false, true, limits = (part[:0:-1] for part in roc_curve(truth, chance, drop_intermediate=False))
    # whole numbers, for equally good thresholds must not differ by rounding
    best = int(np.argmax(np.rint(true * m) * n - np.rint(false * n) * m))
    if best == 0:
        return float(limits[0])
    below, above = float(limits[best - 1]), float(limits[best])
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
    truth, chance = checked_probabilities(labels, probabilities)
    limits = np.asarray(thresholds, dtype=np.float64)
    wrong = limits[~((limits >= 0) & (limits < 1))]
    if len(wrong):
        raise ValueError(f"threshold {wrong[0]}: expected 0 or more and less than 1")
    total = len(truth) or NAN
    odds, called = limits / (1 - limits), chance >= limits[:, None]
    true, false = (called & (truth == 1)).sum(1) / total, (called & (truth == 0)).sum(1) / total
    everybody = (truth == 1).sum() / total - (truth == 0).sum() / total * odds
    return {"threshold": limits, "model": true - false * odds, "all": everybody, "none": np.zeros_like(limits)}
