"""Ensembles: one probability per patient from those of several members; and the regression of baselines that see no image.

Members are modalities, seeds, or both. Their probabilities are ``(patients, members)``, NaN where a patient lacks a member, after
a modality without a usable slice for example.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .scores import Labels, Values, checked, checked_folds

CLIP = 1e-6
"""Probabilities closer to 0 or 1 than this count as that close; their logits are finite then, 13.8 at most."""


def checked_members(probabilities: np.ndarray) -> np.ndarray:
    """The members' probabilities, float64 ``(patients, members)``.

    Raises:
        ValueError: when they have another shape, one is no probability, or a patient has no member.
    """
    chance = np.asarray(probabilities, dtype=np.float64)
    if chance.ndim != 2:
        raise ValueError(f"probabilities {chance.shape}: expected (patients, members)")
    wrong = np.argwhere((chance < 0) | (chance > 1))
    if len(wrong):
        patient, member = wrong[0]
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
    from scipy.special import expit, logit

    chance = np.clip(checked_members(probabilities), CLIP, 1 - CLIP)
    return expit(np.nanmean(logit(chance), axis=1))


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
    from scipy.stats import rankdata

    chance = checked_members(probabilities)
    ranks = rankdata(chance, axis=0, nan_policy="omit") - 0.5
    return np.nanmean(ranks / np.maximum((~np.isnan(chance)).sum(axis=0), 1), axis=1)


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
    from scipy.stats import rankdata

    values, parts = np.asarray(scores, dtype=np.float64), np.asarray(folds)
    if values.ndim != 1 or values.shape != parts.shape:
        raise ValueError(f"scores {values.shape} and folds {parts.shape}: expected one of each per patient")
    ranks = np.empty(len(values))
    for fold in np.unique(parts):
        own = parts == fold
        ranks[own] = (rankdata(values[own]) - 0.5) / own.sum()
    return ranks


def cross_fitted(labels: Labels, features: np.ndarray, folds: Sequence[int] | np.ndarray) -> np.ndarray:
    """Probabilities by logistic regression on standardised features, of each fold by that of the others' patients.

    No label of a fold, a patient's own among them, has a part in the fit that predicts the fold.

    Args:
        labels: 0 or 1 of each patient.
        features: ``(N, F)``, finite.
        folds: of each patient.

    Returns:
        Probabilities ``(N,)``.

    Raises:
        ValueError: for one fold alone, not as many of each, features that are not finite, or where the patients of the other
            folds have one label alone.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    truth, _ = checked(labels, np.zeros(len(features)))
    parts = checked_folds(folds, len(truth))
    for fold in np.unique(parts):
        others = np.unique(truth[parts != fold])
        if len(others) < 2:
            raise ValueError(
                f"fold {fold}: the patients of the other folds have labels {others.tolist()}, expected both 0 and 1; use more "
                "patients or fewer folds"
            )
    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8, max_iter=1000))
    predicted = cross_val_predict(model, features, truth, groups=parts, cv=LeaveOneGroupOut(), method="predict_proba")
    return predicted[:, 1]
