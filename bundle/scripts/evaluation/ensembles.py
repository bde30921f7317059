"""Ensembles: one probability per patient from those of several members, and what is fitted to do so. Needs NumPy alone.

Members are modalities, seeds, or both. Their probabilities are ``(patients, members)``, NaN where a patient lacks a member, after
a modality without a usable slice for example. What is fitted here is fitted on predictions that each patient's members made
without having been trained on it, and is judged cross-fitted: each fold by what was fitted on the others. The members of the other
folds were trained on the fold's patients, though; only a cross-validation within each fold would be free of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from .scores import Labels, Values, checked, checked_folds, midranks

CLIP = 1e-6
"""Probabilities closer to 0 or 1 than this count as that close; their logits are finite then, 13.8 at most."""


def logit(probabilities: Values) -> np.ndarray:
    """Logits of probabilities, which are clipped to :data:`CLIP` from 0 and 1; NaN stays."""
    chance = np.clip(np.asarray(probabilities, dtype=np.float64), CLIP, 1 - CLIP)
    return np.log(chance) - np.log1p(-chance)


def expit(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits."""
    return np.exp(-np.logaddexp(0.0, -logits))


def checked_members(probabilities: np.ndarray) -> np.ndarray:
    """The members' probabilities, float64 ``(patients, members)``.

    Raises:
        ValueError: when they have another shape, one is no probability, or a patient has no member.
    """
    chance = np.asarray(probabilities, dtype=np.float64)
    if chance.ndim != 2:
        raise ValueError(f"probabilities {chance.shape}: expected (patients, members)")
    strange = np.argwhere((chance < 0) | (chance > 1))
    if len(strange):
        patient, member = strange[0]
        raise ValueError(
            f"{chance[patient, member]} of patient {patient} and member {member} in order: expected a probability from 0 to 1, "
            "or NaN where there is none"
        )
    lonely = np.flatnonzero(np.isnan(chance).all(axis=1))
    if len(lonely):
        raise ValueError(f"patient {lonely[0]} in order has no member: leave it out, and give it the prior afterwards")
    return chance


def mean(probabilities: np.ndarray) -> np.ndarray:
    """Mean of the members that a patient has.

    Args:
        probabilities: ``(patients, members)``, NaN where there is none.

    Returns:
        Probabilities ``(patients,)``.

    Raises:
        ValueError: see :func:`checked_members`.
    """
    return np.nanmean(checked_members(probabilities), axis=1)


def logit_mean(probabilities: np.ndarray) -> np.ndarray:
    """Probability of the mean logit of the members that a patient has: members that are sure count for more.

    Args:
        probabilities: ``(patients, members)``, NaN where there is none; clipped to :data:`CLIP` from 0 and 1.

    Returns:
        Probabilities ``(patients,)``.

    Raises:
        ValueError: see :func:`checked_members`.
    """
    return expit(np.nanmean(logit(checked_members(probabilities)), axis=1))


def rank_mean(probabilities: np.ndarray) -> np.ndarray:
    """Mean rank of a patient among those who have the member, over the members that it has.

    Only the members' orders count. The result is a score and no probability, and depends on who else is there.

    Args:
        probabilities: ``(patients, members)``, NaN where there is none.

    Returns:
        Scores ``(patients,)`` between 0 and 1: of ``n`` patients the lowest is ``0.5 / n``, the highest ``1 - 0.5 / n``.

    Raises:
        ValueError: see :func:`checked_members`.
    """
    chance = checked_members(probabilities)
    ranks = np.full(chance.shape, np.nan)
    for member, column in enumerate(chance.T):
        there = ~np.isnan(column)
        ranks[there, member] = (midranks(column[there]) - 0.5) / max(int(there.sum()), 1)
    return np.nanmean(ranks, axis=1)


def ranks_within_folds(scores: Values, folds: Sequence[int] | np.ndarray) -> np.ndarray:
    """Rank of each patient within its fold, so that only patients of one fold are compared by their scores as such.

    What is fitted cross-wise leans against its fold: one with many of label 1 leaves the others with few, whose fit then gives it
    low probabilities. Scores that mean nothing have an AUC below 0.5 over all folds for that reason, above all where folds differ
    in their share of labels; their ranks within folds have one of 0.5.

    Args:
        scores: of each patient ``(N,)``.
        folds: of each patient ``(N,)``.

    Returns:
        Scores ``(N,)`` between 0 and 1: of ``n`` patients of a fold the lowest is ``0.5 / n``, the highest ``1 - 0.5 / n``.

    Raises:
        ValueError: when there are not as many of each.
    """
    values, parts = np.asarray(scores, dtype=np.float64), np.asarray(folds)
    if values.ndim != 1 or values.shape != parts.shape:
        raise ValueError(f"scores {values.shape} and folds {parts.shape}: expected one of each per patient")
    ranks = np.empty(len(values))
    for fold in np.unique(parts):
        own = parts == fold
        ranks[own] = (midranks(values[own]) - 0.5) / own.sum()
    return ranks


# What is fitted


class Fitted(Protocol):
    """Something fitted on patients that gives others a probability."""

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Probabilities ``(N,)`` of patients' inputs ``(N, …)``."""


class CrossFitted(NamedTuple):
    """Probabilities ``(N,)`` of each patient by the model of the other folds, and the model of all, for new patients."""

    probabilities: np.ndarray
    model: Any


def cross_fitted(
    fit: Callable[[np.ndarray, np.ndarray], Fitted],
    labels: Labels,
    inputs: np.ndarray,
    folds: Sequence[int] | np.ndarray,
) -> CrossFitted:
    """Fit for every fold on the patients of the others, and once on all.

    No label of a fold, a patient's own among them, has a part in the fit that predicts the fold.

    Args:
        fit: ``fit(labels, inputs) -> model``, as :meth:`Logistic.fit`, :meth:`Stacking.fit` and :meth:`Temperature.fit`.
        labels: 0 or 1 of each patient.
        inputs: of each patient ``(N, …)``.
        folds: of each patient.

    Raises:
        ValueError: for one fold alone, not as many of each, or where the fit fails, the patients of the other folds having one
            label alone for example.
    """
    truth, inputs = np.asarray(labels), np.asarray(inputs, dtype=np.float64)
    if truth.ndim != 1 or len(inputs) != len(truth):
        raise ValueError(f"labels {truth.shape} and inputs {inputs.shape}: expected one of each per patient")
    parts = checked_folds(folds, len(truth))
    probabilities = np.empty(len(truth))
    for fold in np.unique(parts):
        own = parts == fold
        try:
            model = fit(truth[~own], inputs[~own])
        except ValueError as error:
            raise ValueError(f"fitting for fold {fold} on the patients of the others: {error}") from error
        probabilities[own] = model.predict(inputs[own])
    return CrossFitted(probabilities, fit(truth, inputs))


@dataclass(frozen=True)
class Logistic:
    """Logistic regression on standardised features, with an L2 penalty.

    Attributes:
        centre: of each feature ``(F,)``.
        scale: standard deviation of each ``(F,)``; 1 for a feature that does not vary.
        weights: of the standardised features ``(F,)``.
        intercept: logit where each feature is at its centre.
    """

    centre: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: float

    @classmethod
    def fit(cls, labels: Labels, features: np.ndarray, strength: float = 1.0) -> Logistic:
        """Fit by Newton's method to the smallest ``loss + strength * |weights|² / 2``, the intercept free.

        Args:
            labels: 0 or 1 of each patient.
            features: ``(N, F)``, finite.
            strength: of the penalty; the reciprocal of scikit-learn's ``C``.

        Raises:
            ValueError: for features of another shape or not finite, labels that are all the same, or a strength of 0 or less.
        """
        inputs = np.asarray(features, dtype=np.float64)
        if inputs.ndim != 2 or not np.isfinite(inputs).all():
            raise ValueError(f"features {inputs.shape}: expected finite ones of (patients, features)")
        if not strength > 0:
            raise ValueError(
                f"strength {strength} of the penalty: expected more than 0, or weights may grow without end"
            )
        truth = _both_labels(labels, len(inputs))
        centre, scale = inputs.mean(axis=0), inputs.std(axis=0)
        # a feature that does not vary has a deviation of rounding alone
        scale = np.where(scale > 1e-12 * np.maximum(np.abs(centre), 1), scale, 1.0)
        design = np.column_stack([(inputs - centre) / scale, np.ones(len(inputs))])
        penalty = np.append(np.full(inputs.shape[1], strength), 0.0)

        def objective(weights: np.ndarray) -> float:
            logits = design @ weights
            return float(np.logaddexp(0, logits).sum() - truth @ logits + penalty @ weights**2 / 2)

        weights = np.zeros(design.shape[1])
        weights[-1] = logit([truth.mean()])[0]
        for _ in range(100):
            chance = expit(design @ weights)
            gradient = design.T @ (chance - truth) + penalty * weights
            if np.abs(gradient).max() < 1e-9 * len(truth):
                break
            curvature = (design.T * (chance * (1 - chance))) @ design + np.diag(penalty)
            step = np.linalg.solve(curvature, gradient)
            value, size = objective(weights), 1.0
            while size > 1e-6 and objective(weights - size * step) > value * (1 + 1e-12):
                size /= 2
            weights = weights - size * step
        return cls(centre, scale, weights[:-1], float(weights[-1]))

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Probabilities ``(N,)`` of features ``(N, F)``."""
        return expit(
            (np.asarray(features, dtype=np.float64) - self.centre) / self.scale @ self.weights + self.intercept
        )


@dataclass(frozen=True)
class Stacking:
    """Logistic regression on the members' logits (Wolpert, Neural Networks 5 (1992) 241).

    The logit of a member that a patient lacks is taken as 0, a probability of a half: without an opinion.

    Attributes:
        logistic: the regression.
    """

    logistic: Logistic

    @classmethod
    def fit(cls, labels: Labels, probabilities: np.ndarray, strength: float = 1.0) -> Stacking:
        """Fit on patients' out-of-fold predictions.

        Args:
            labels: 0 or 1 of each patient.
            probabilities: ``(patients, members)``, NaN where there is none.
            strength: of the penalty, see :meth:`Logistic.fit`.

        Raises:
            ValueError: see :func:`checked_members` and :meth:`Logistic.fit`.
        """
        return cls(Logistic.fit(labels, cls._features(probabilities), strength))

    def predict(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities ``(N,)`` of the members' ``(N, members)``."""
        return self.logistic.predict(self._features(probabilities))

    @staticmethod
    def _features(probabilities: np.ndarray) -> np.ndarray:
        return np.nan_to_num(logit(checked_members(probabilities)), nan=0.0)

    @property
    def weights(self) -> np.ndarray:
        """What a unit of each member's logit adds to the patient's ``(members,)``."""
        return self.logistic.weights / self.logistic.scale

    @property
    def intercept(self) -> float:
        """Logit of a patient whose members' logits are all 0."""
        return float(self.logistic.intercept - self.weights @ self.logistic.centre)


@dataclass(frozen=True)
class Temperature:
    """Probabilities made less sure, or surer, by dividing their logits; their order stays (Guo et al., ICML 2017).

    Attributes:
        value: the divisor; above 1 for predictions that were too sure.
    """

    value: float

    LIMIT = 100.0
    """Temperatures are from ``1 / LIMIT`` to ``LIMIT``: the best one of predictions that mean nothing, or the opposite, is infinite."""

    @classmethod
    def fit(cls, labels: Labels, probabilities: Values) -> Temperature:
        """Find the temperature of the smallest log loss, which is unique: the loss is convex in its reciprocal.

        Args:
            labels: 0 or 1 of each patient.
            probabilities: of label 1 ``(N,)``; clipped to :data:`CLIP` from 0 and 1.

        Raises:
            ValueError: for other labels, all labels the same, or probabilities that are not finite.
        """
        truth, chance = checked(labels, probabilities)
        _both_labels(truth, len(chance))
        logits = logit(chance)
        low, high = 1 / cls.LIMIT, cls.LIMIT
        # the slope of the loss by the reciprocal grows with it; halves of the interval are taken by ratio
        for _ in range(60):
            middle = float(np.sqrt(low * high))
            if ((expit(middle * logits) - truth) * logits).sum() > 0:
                high = middle
            else:
                low = middle
        return cls(1 / float(np.sqrt(low * high)))

    def predict(self, probabilities: Values) -> np.ndarray:
        """Probabilities ``(N,)`` at this temperature."""
        return expit(logit(probabilities) / self.value)


def _both_labels(labels: Labels, patients: int) -> np.ndarray:
    truth, _ = checked(labels, np.zeros(patients))
    if len(np.unique(truth)) < 2:
        raise ValueError(
            f"{patients} patients with labels {np.unique(truth).tolist()}: expected both 0 and 1; use more patients or fewer folds"
        )
    return truth


def stacked(
    labels: Labels, probabilities: np.ndarray, folds: Sequence[int] | np.ndarray, strength: float = 1.0
) -> CrossFitted:
    """Members combined by :class:`Stacking`, cross-fitted.

    Args:
        labels: 0 or 1 of each patient.
        probabilities: out-of-fold ones ``(patients, members)``, NaN where there is none.
        folds: of each patient.
        strength: of the penalty, see :meth:`Logistic.fit`.

    Raises:
        ValueError: see :func:`cross_fitted` and :func:`checked_members`.
    """
    members = checked_members(probabilities)
    return cross_fitted(lambda truth, part: Stacking.fit(truth, part, strength), labels, members, folds)


def calibrated(labels: Labels, probabilities: Values, folds: Sequence[int] | np.ndarray) -> CrossFitted:
    """Probabilities calibrated by :class:`Temperature`, cross-fitted.

    Args:
        labels: 0 or 1 of each patient.
        probabilities: out-of-fold ones ``(patients,)``.
        folds: of each patient.

    Raises:
        ValueError: see :func:`cross_fitted` and :meth:`Temperature.fit`.
    """
    return cross_fitted(Temperature.fit, labels, np.asarray(probabilities), folds)
