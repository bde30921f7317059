"""Metrics: overlap of tumour regions, and scores of patients; every figure is per patient, none per slice or sequence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from monai.metrics import compute_hausdorff_distance, compute_roc_auc

from . import distributed
from .evaluation.resampling import agreement_interval
from .evaluation.scores import NAN, log_loss
from .inferers import not_finite
from .masks import REGIONS


class EngineMetric(Metric):
    """A metric of an engine's batch and output: ``update((batch, output))``."""

    def iteration_completed(self, engine: Engine) -> None:
        """Update with the engine's batch and output."""
        self.update((engine.state.batch, engine.state.output))


class RegionOverlap(EngineMetric):
    """Dice or IoU of a region, over all slices of a patient, modality and plane together, then averaged.

    Groups without the region in truth and prediction do not count; one with a non-finite prediction has failed. The groups
    are those of all processes, which must ask for table and value together.

    Args:
        score: ``"dice"`` or ``"iou"``.
        region: ``"WT"``, ``"ET"``, or None for the mean of both.
        distances: add distances between outlines to the table, which need SciPy and more time than everything else here.
    """

    def __init__(self, score: str = "dice", region: str | None = None, distances: bool = False) -> None:
        if score not in ("dice", "iou") or region not in (*REGIONS, None):
            raise ValueError(f"score {score!r} of region {region!r}: expected dice or iou of {REGIONS} or None")
        if distances and find_spec("scipy") is None:
            raise ImportError("distances between outlines need SciPy: pip install '.[train]', or --distances False")
        self.score, self.region, self.distances = score, region, distances
        super().__init__()

    def reset(self) -> None:
        """Forget everything."""
        # by group, a row per region: pixels of both, prediction and truth, the sum of distances, the slices that have one
        self._sums: dict[tuple[str, str, str], np.ndarray] = defaultdict(_no_sums)

    def update(self, output: tuple[Mapping[str, Any], Mapping[str, Any]]) -> None:
        """Add a batch: logits ``pred`` and truth ``label`` ``(B, 2, H, W)``, ``patient``, ``mri_type``, ``plane`` of each, and for
        distances ``field_of_view`` ``(B, 2)``, height and width in mm.
        """
        batch, result = output
        pred, label = result["pred"] > 0, result["label"] > 0.5
        pixels = [x.flatten(2).sum(2) for x in (pred & label, pred, label)]
        sums = np.zeros((len(pred), len(REGIONS), 5))
        sums[..., :3] = torch.stack(pixels, dim=-1).cpu().numpy()
        if self.distances:
            spacing = batch["field_of_view"].cpu().numpy() / pred.shape[2:]
            shown = (sums[..., 1] > 0) & (sums[..., 2] > 0) & np.isfinite(spacing).all(axis=1)[:, None]
            for i, j in np.argwhere(shown):
                sums[i, j, 3:] = hausdorff_95(pred[i, j], label[i, j], spacing[i]), 1
        sums[~result["pred"].isfinite().flatten(1).all(1).cpu().numpy()] = NAN
        for *group, values in zip(batch["patient"], batch["mri_type"], batch["plane"], sums, strict=True):
            self._sums[tuple(group)] += values

    def table(self) -> list[dict[str, Any]]:
        """One row per patient, modality, plane and region, ``{…, "dice", "iou", "volume_error"}``; None where not defined or failed.

        - ``dice``, ``iou``: not defined where neither truth nor prediction has the region.
        - ``volume_error``: surplus pixels of the prediction as a share of the truth's; 0 is right, -1 finds none.
          Not defined where the truth lacks the region.
        - ``slice_hd95_mm``, if distances were asked for: the larger of both 95th percentiles of distances from outline to outline
          (Hausdorff) within a slice, mean of the slices of known size where truth and prediction have the region. Those where one
          of them lacks it do not count, so read it beside the Dice.
        """
        rows = []
        for (patient, mri_type, plane), sums in self._groups().items():
            for region, (both, pred, true, distance, slices) in zip(REGIONS, np.nan_to_num(sums), strict=True):
                row: dict[str, Any] = {"patient": patient, "mri_type": mri_type, "plane": plane, "region": region}
                row |= overlap(both, pred, true)
                if self.distances:
                    row["slice_hd95_mm"] = distance / slices if slices else None
                rows.append(row)
        return rows

    def failures(self) -> dict[str, str]:
        """Reasons of the groups with a prediction that is not finite, by ``"<patient>/<mri_type>/<plane>"``."""
        return {
            "/".join(group): not_finite("segmenter") for group, sums in self._groups().items() if np.isnan(sums).any()
        }

    def _groups(self) -> dict[tuple[str, str, str], np.ndarray]:
        """Sums by group, those of all processes, in order."""
        groups: dict[tuple[str, str, str], np.ndarray] = defaultdict(_no_sums)
        for part in distributed.gather(dict(self._sums)):
            for group, sums in part.items():
                groups[group] += sums
        return dict(sorted(groups.items()))

    def compute(self) -> float:
        """Mean of the score over the groups; NaN where one has failed."""
        if self.failures():
            return NAN
        values = [
            row[self.score]
            for row in self.table()
            if row[self.score] is not None and self.region in (row["region"], None)
        ]
        if not values:
            raise NotComputableError(f"no slice with {self.region or 'a tumour'} was evaluated")
        return float(np.mean(values))


def overlap(both: float, pred: float, true: float) -> dict[str, float | None]:
    """``dice``, ``iou`` and ``volume_error`` of so many pixels of both masks, the prediction and the truth; None where not defined."""
    return {
        "dice": 2 * both / (pred + true) if pred + true else None,
        "iou": both / (pred + true - both) if pred + true else None,
        "volume_error": (pred - true) / true if true else None,
    }


def hausdorff_95(pred: torch.Tensor, label: torch.Tensor, spacing: np.ndarray) -> float:
    """The larger of both 95th percentiles of distances (mm) from surface to surface of masks that show something."""
    masks = pred[None, None], label[None, None]
    return float(compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=spacing.tolist()))


def _no_sums() -> np.ndarray:
    return np.zeros((len(REGIONS), 5))


class PatientProbabilities:
    """Sequences' probabilities, averaged per modality, then over modalities: a patient's probability; the prior without any."""

    def __init__(self, prior: float = 0.5) -> None:
        self.prior = prior
        self.sequences: dict[str, dict[str, list[float]]] = defaultdict(dict)
        self.views: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
        self.labels: dict[str, int] = {}

    def add(self, patient: str, mri_type: str, logits: torch.Tensor, label: float | None = None) -> None:
        """Add the logits ``(M, C)`` of a series: of a sequence by one network, or by several members or views, which are averaged."""
        chances = torch.sigmoid(logits.float())
        self.sequences[patient][mri_type] = (chances[:, 0] if chances.shape[1] == 1 else chances.mean(dim=1)).tolist()
        self.views[patient][mri_type] = chances.numpy()
        if label is not None:
            self.labels[patient] = int(label)

    def gathered(self) -> PatientProbabilities:
        """Those of all processes, which must call this together."""
        whole = PatientProbabilities(self.prior)
        for sequences, views, labels in distributed.gather((dict(self.sequences), dict(self.views), self.labels)):
            for patient, values in sequences.items():
                whole.sequences[patient].update(values)
                whole.views[patient].update(views[patient])
            whole.labels.update(labels)
        return whole

    def of_series(self, patient: str, mri_type: str) -> float | None:
        """Mean over a series' sequences; None without any."""
        values = self.sequences[patient].get(mri_type)
        return float(np.mean(values)) if values else None

    def of_patient(self, patient: str) -> float:
        """Mean over the modalities that have sequences; the prior without any."""
        # the last digit of a mean depends on the order, which must not be that of computing
        names = sorted(self.sequences[patient])
        values = [value for name in names if (value := self.of_series(patient, name)) is not None]
        return float(np.mean(values)) if values else self.prior

    def agreement_interval(self, patient: str) -> tuple[float, float] | None:
        """How far a patient's probability scatters with modalities, sequences, members and views; None with one value alone.

        It says how far they agree, not how often they are right; see
        :func:`scripts.evaluation.resampling.agreement_interval`.
        """
        return agreement_interval([values for _, values in sorted(self.views[patient].items())])


class PatientScore(EngineMetric):
    """ROC AUC (``auc``) or log loss (``log_loss``) of the probabilities of patients, those of all processes."""

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
        """The score; NaN for an AUC of patients who all have the same label, and where a probability is NaN."""
        patients = self.patients.gathered()
        probabilities = [patients.of_patient(patient) for patient in patients.labels]
        if np.isnan(probabilities).any():
            return NAN
        return PATIENT_SCORES[self.score](list(patients.labels.values()), probabilities)


def _auc(labels: Sequence[int], probabilities: Sequence[float]) -> float:
    """ROC AUC; NaN where all labels are the same."""
    if len(set(labels)) < 2:
        return NAN
    area = compute_roc_auc(torch.tensor(probabilities, dtype=torch.float64), torch.tensor(labels))
    return float(np.asarray(area))


PATIENT_SCORES = {"auc": _auc, "log_loss": log_loss}
