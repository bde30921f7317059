"""Ensembles: one score per patient from those of several members; and the regression of baselines without images.

Members are modalities, seeds, or both. Their probabilities are ``(patients, members)``, NaN where a patient lacks a member, after
a modality without a usable slice for example; every patient has one at least.
"""

from __future__ import annotations

import numpy as np

CLIP = 1e-6
"""Probabilities closer to 0 or 1 than this count as that close; their logits are finite then, 13.8 at most."""


def mean(probabilities: np.ndarray) -> np.ndarray:
    """Mean probability ``(patients,)`` of the members that a patient has."""
    return np.nanmean(probabilities, axis=1)


def logit_mean(probabilities: np.ndarray) -> np.ndarray:
    """Probability ``(patients,)`` of the mean logit of a patient's members: members that are certain count for more."""
    from scipy.special import expit, logit

    return expit(np.nanmean(logit(np.clip(probabilities, CLIP, 1 - CLIP)), axis=1))


def rank_mean(probabilities: np.ndarray) -> np.ndarray:
    """Mean rank ``(patients,)`` of a patient among those who have the member, over the members that it has.

    Only the members' orders count. The result is a score and no probability, and depends on who else is there: of ``n`` patients
    the lowest has ``0.5 / n``, the highest ``1 - 0.5 / n``.
    """
    from scipy.stats import rankdata

    ranks = rankdata(probabilities, axis=0, nan_policy="omit") - 0.5
    return np.nanmean(ranks / np.maximum((~np.isnan(probabilities)).sum(axis=0), 1), axis=1)


def ranks_within_folds(scores: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Rank of each patient within its fold ``(N,)``, so that only patients of one fold are compared by their scores as such.

    Cross-fitted scores are biased against their fold: one with many of label 1 leaves few in the others, whose fit then gives it
    low probabilities. Uninformative scores therefore have an AUC below 0.5 over all folds, above all where folds
    differ in their label shares; their ranks within folds have one of 0.5. Ranks are scaled as in :func:`rank_mean`.
    """
    from scipy.stats import rankdata

    ranks = np.empty(len(scores))
    for fold in np.unique(folds):
        own = folds == fold
        ranks[own] = (rankdata(scores[own]) - 0.5) / own.sum()
    return ranks


def cross_fitted(labels: np.ndarray, features: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Probabilities ``(N,)`` by logistic regression on standardised features ``(N, F)``, of each fold by that of the others' patients.

    No label of a fold, including a patient's own, enters the fit that predicts the fold.

    Raises:
        ValueError: where the patients of the other folds all have the same label.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    for fold in np.unique(folds):
        others = np.unique(labels[folds != fold])
        if len(others) < 2:
            raise ValueError(
                f"fold {fold}: the patients of the other folds have labels {others.tolist()}, expected both 0 and 1; use more "
                "patients or fewer folds"
            )
    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8, max_iter=1000))
    predicted = cross_val_predict(model, features, labels, groups=folds, cv=LeaveOneGroupOut(), method="predict_proba")
    return predicted[:, 1]
