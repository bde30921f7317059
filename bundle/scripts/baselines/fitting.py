"""Fit the models of measured features, the random forest and the tumour's size, with scikit-learn, and write them as weights files of numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import distributed
from ..errors import UserError
from ..files import write_csv
from ..loading import series_items
from ..weights import save_weights
from .features import NAMES, feature_table, write_features
from .networks import Forest, LogisticRegression

logger = logging.getLogger(__name__)


@distributed.by_first
def fit(
    entries: Sequence[Mapping[str, Any]],
    prepared_dir: str | Path,
    run_dir: str | Path,
    settings: Mapping[str, Any],
    seed: int = 67,
) -> Path:
    """Fit a model of features and write ``model_<mri_type>.pt``, ``features.csv`` and, of a forest, ``importances.csv``.

    Args:
        entries: labelled patients that train.
        prepared_dir: folder of their prepared series.
        run_dir: folder of the run.
        settings: ``model``, ``mri_type``; of a forest ``trees`` and ``min_leaf``.
        seed: of a forest.

    Returns:
        The weights file.

    Raises:
        UserError: when too few patients can be measured.
    """
    model, mri_type = settings["model"], settings["mri_type"]
    rows = feature_table(series_items(entries, prepared_dir, [mri_type]), model)
    labels = np.array([row["label"] for row in rows], dtype=int)
    if len(set(labels)) < 2:
        raise UserError(
            f"{prepared_dir}: {len(rows)} of {len(entries)} patients have a {mri_type} series that can be measured, with the labels "
            f"{sorted(set(labels.tolist()))}; expected both labels. See the reasons in its index.json"
        )
    values = np.array([[row[name] for name in NAMES[model]] for row in rows], dtype=np.float32)
    fill = np.array([np.median(known) if len(known := one[~np.isnan(one)]) else 0.0 for one in values.T])
    values = np.where(np.isnan(values), fill, values).astype(np.float32)
    known = {**settings, "features": list(NAMES[model]), "patients": len(rows)}
    network = (_forest if model == "forest" else _regression)(values, labels, known, seed)
    network.fill.copy_(torch.from_numpy(fill))
    write_features(rows, Path(run_dir) / "features.csv")
    if isinstance(network, Forest):
        ranked = sorted(zip(NAMES[model], network.importance.tolist(), strict=True), key=lambda one: -one[1])
        write_csv([{"feature": name, "importance": value} for name, value in ranked], Path(run_dir) / "importances.csv")
        logger.info("%s: the most important features are %s", mri_type, ", ".join(name for name, _ in ranked[:5]))
    file = Path(run_dir) / f"model_{mri_type}.pt"
    save_weights(network, known, file)
    logger.info("%s: %s fitted to %d patients", file, model, len(rows))
    return file


def _forest(values: np.ndarray, labels: np.ndarray, settings: dict[str, Any], seed: int) -> Forest:
    """scikit-learn's random forest as tensors; ``settings`` get the number of nodes."""
    from sklearn.ensemble import RandomForestClassifier

    fitted = RandomForestClassifier(
        n_estimators=settings["trees"], min_samples_leaf=settings["min_leaf"], random_state=seed
    ).fit(values, labels)
    trees = [one.tree_ for one in fitted.estimators_]
    settings["nodes"] = max(tree.node_count for tree in trees)
    network = Forest(len(trees), settings["nodes"], values.shape[1])
    for place, tree in enumerate(trees):
        count = tree.node_count
        network.feature[place, :count] = torch.from_numpy(np.maximum(tree.feature, 0))  # -2 of a leaf
        network.threshold[place, :count] = torch.from_numpy(tree.threshold)
        network.left[place, :count] = torch.from_numpy(tree.children_left)
        network.right[place, :count] = torch.from_numpy(tree.children_right)
        shares = tree.value[:, 0, :]
        network.chance[place, :count] = torch.from_numpy(shares[:, 1] / shares.sum(axis=1))
    network.importance.copy_(torch.from_numpy(fitted.feature_importances_))
    return network


def _regression(values: np.ndarray, labels: np.ndarray, settings: dict[str, Any], seed: int) -> LogisticRegression:
    """scikit-learn's logistic regression on standardised features, with the standardisation worked into its weights."""
    from sklearn.linear_model import LogisticRegression as Fitted
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(values.astype(np.float64))
    fitted = Fitted().fit(scaler.transform(values.astype(np.float64)), labels)
    network = LogisticRegression(values.shape[1])
    weights = fitted.coef_ / scaler.scale_
    with torch.no_grad():
        network.linear.weight.copy_(torch.from_numpy(weights))
        network.linear.bias.copy_(torch.from_numpy(fitted.intercept_ - weights @ scaler.mean_))
    return network
