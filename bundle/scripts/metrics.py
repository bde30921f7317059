"""Metrics: overlap of tumour regions, and scores of patients; every figure is of patients, none of slices or sequences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from monai.metrics import compute_roc_auc

from . import distributed

REGIONS = ("WT", "ET")
"""Order of the regions in the channels of masks and predictions."""


class EngineMetric(Metric):
    """A metric of both what an engine was given and what it made of it: ``update((batch, output))``."""

    def iteration_completed(self, engine: Engine) -> None:
        """Update with the engine's batch and output."""
        self.update((engine.state.batch, engine.state.output))


class RegionOverlap(EngineMetric):
    """Dice or IoU of a region, over all slices of a patient, modality and plane together, then averaged.

    Groups without the region in truth and prediction do not count. The groups are those of all processes, which must ask for
    table and value together.

    Args:
        score: ``"dice"`` or ``"iou"``.
        region: ``"WT"``, ``"ET"``, or None for the mean of both.
    """

    def __init__(self, score: str = "dice", region: str | None = None) -> None:
        if score not in ("dice", "iou") or region not in (*REGIONS, None):
            raise ValueError(f"score {score!r} of region {region!r}: expected dice or iou of {REGIONS} or None")
        self.score, self.region = score, region
        super().__init__()

    def reset(self) -> None:
        """Forget everything."""
        self._sums: dict[tuple[str, str, str], np.ndarray] = defaultdict(lambda: np.zeros((2, 3)))

    def update(self, output: tuple[Mapping[str, Any], Mapping[str, Any]]) -> None:
        """Add a batch: logits ``pred`` and truth ``label`` ``(B, 2, H, W)``, ``patient``, ``mri_type``, ``plane`` of each."""
        batch, result = output
        pred, label = result["pred"] > 0, result["label"] > 0.5
        pixels = [(x.flatten(2).sum(2)) for x in (pred & label, pred, label)]
        sums = torch.stack(pixels, dim=-1).cpu().numpy()
        for group, values in zip(
            zip(batch["patient"], batch["mri_type"], batch["plane"], strict=True), sums, strict=True
        ):
            self._sums[group] += values

    def table(self) -> list[dict[str, Any]]:
        """One row per patient, modality, plane and region, ``{…, "dice", "iou"}``; None where neither has the region."""
        groups: dict[tuple[str, str, str], np.ndarray] = defaultdict(lambda: np.zeros((2, 3)))
        for part in distributed.gather(dict(self._sums)):
            for group, sums in part.items():
                groups[group] += sums
        rows = []
        for (patient, mri_type, plane), sums in sorted(groups.items()):
            for region, (both, pred, true) in zip(REGIONS, sums, strict=True):
                dice = 2 * both / (pred + true) if pred + true else None
                iou = both / (pred + true - both) if pred + true else None
                who = {"patient": patient, "mri_type": mri_type, "plane": plane, "region": region}
                rows.append({**who, "dice": dice, "iou": iou})
        return rows

    def compute(self) -> float:
        """Mean of the score over the groups."""
        values = [
            row[self.score]
            for row in self.table()
            if row[self.score] is not None and self.region in (row["region"], None)
        ]
        if not values:
            raise NotComputableError(f"no slice with {self.region or 'a tumour'} was evaluated")
        return float(np.mean(values))


class MeanLoss(EngineMetric):
    """Mean of a loss over the slices of a set, batch by batch: which slices share a batch may matter to the loss.

    Args:
        loss: ``loss(pred, label) -> scalar``.
    """

    def __init__(self, loss: torch.nn.Module) -> None:
        self.loss = loss
        super().__init__()

    def reset(self) -> None:
        """Forget everything."""
        self._sum, self._count = 0.0, 0

    def update(self, output: tuple[Mapping[str, Any], Mapping[str, Any]]) -> None:
        """Add a batch."""
        _, result = output
        count = len(result["pred"])
        self._sum += float(self.loss(result["pred"], result["label"])) * count
        self._count += count

    def compute(self) -> float:
        """The mean over the slices of all processes."""
        sums, counts = zip(*distributed.gather((self._sum, self._count)), strict=True)
        return sum(sums) / max(sum(counts), 1)


class PatientProbabilities:
    """Sequences' probabilities, averaged per modality, then over modalities: a patient's probability.

    Args:
        prior: probability of a patient who has no sequence.
    """

    def __init__(self, prior: float = 0.5) -> None:
        self.prior = prior
        self.sequences: dict[str, dict[str, list[float]]] = defaultdict(dict)
        self.labels: dict[str, int] = {}

    def add(self, patient: str, mri_type: str, logits: torch.Tensor, label: float | None = None) -> None:
        """Add the logits ``(M, 1)`` of a series."""
        self.sequences[patient][mri_type] = torch.sigmoid(logits.float()).flatten().tolist()
        if label is not None:
            self.labels[patient] = int(label)

    def gathered(self) -> PatientProbabilities:
        """Those of all processes, which must call this together."""
        whole = PatientProbabilities(self.prior)
        for sequences, labels in distributed.gather((dict(self.sequences), self.labels)):
            for patient, values in sequences.items():
                whole.sequences[patient].update(values)
            whole.labels.update(labels)
        return whole

    def of_series(self, patient: str, mri_type: str) -> float | None:
        """Mean over a series' sequences; None without any."""
        values = self.sequences[patient].get(mri_type)
        return float(np.mean(values)) if values else None

    def of_patient(self, patient: str) -> float:
        """Mean over the modalities that have sequences; the prior without any."""
        # the last digit of a mean goes by the order, which that of computing must not decide
        names = sorted(self.sequences[patient])
        values = [value for name in names if (value := self.of_series(patient, name)) is not None]
        return float(np.mean(values)) if values else self.prior


class PatientScore(EngineMetric):
    """ROC AUC or log loss of the probabilities of patients, those of all processes.

    Args:
        score: ``"auc"`` or ``"log_loss"``.
        prior: see :class:`PatientProbabilities`.
    """

    def __init__(self, score: str = "auc", prior: float = 0.5) -> None:
        if score not in PATIENT_SCORES:
            raise ValueError(f"score {score!r}: expected one of {tuple(PATIENT_SCORES)}")
        self.score, self.prior = score, prior
        super().__init__()

    def reset(self) -> None:
        """Forget everything."""
        self.patients = PatientProbabilities(self.prior)

    def update(self, output: tuple[Mapping[str, Any], Mapping[str, Any]]) -> None:
        """Add a series: logits ``pred`` ``(M, 1)``, ``patient``, ``mri_type`` and ``label``."""
        batch, result = output
        self.patients.add(batch["patient"], batch["mri_type"], result["pred"].detach().cpu(), float(batch["label"]))

    def compute(self) -> float:
        """The score; NaN for an AUC of patients who all have the same label."""
        patients = self.patients.gathered()
        probabilities = [patients.of_patient(patient) for patient in patients.labels]
        return PATIENT_SCORES[self.score](list(patients.labels.values()), probabilities)


def roc_auc(labels: Sequence[int], probabilities: Sequence[float]) -> float:
    """Area under the ROC curve; NaN where all labels are the same."""
    if len(set(labels)) < 2:
        return float("nan")
    area: Any = compute_roc_auc(torch.tensor(probabilities, dtype=torch.float64), torch.tensor(labels))
    return float(area)


def log_loss(labels: Sequence[int], probabilities: Sequence[float]) -> float:
    """Mean negative log-likelihood of the labels."""
    chance = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-7, 1 - 1e-7)
    likelihoods: np.ndarray = np.where(np.asarray(labels) == 1, np.log(chance), np.log1p(-chance))
    return -float(likelihoods.mean())


PATIENT_SCORES = {"auc": roc_auc, "log_loss": log_loss}


def auc_interval(
    labels: Sequence[int], probabilities: Sequence[float], level: float = 0.95, resamples: int = 2000, seed: int = 67
) -> tuple[float, float]:
    """Percentile interval of the ROC AUC by a bootstrap over patients, stratified by label; NaN where all labels are the same.

    Args:
        labels: 0 or 1 of each patient.
        probabilities: of label 1.
        level: of confidence.
        resamples: bootstrap samples.
        seed: of the resampling.
    """
    truth, chance = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    positive, negative = chance[truth == 1], chance[truth == 0]
    if not len(positive) or not len(negative):
        return float("nan"), float("nan")
    # the AUC is the mean over pairs, so a resample of patients is a resample of rows and columns of the pairs' table
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(positive), size=(resamples, len(positive)))
    columns = rng.integers(len(negative), size=(resamples, len(negative)))
    areas = [wins[np.ix_(row, column)].mean() for row, column in zip(rows, columns, strict=True)]
    low, high = np.quantile(areas, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
