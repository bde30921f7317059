"""Whole series of labelled patients, segmented as a prediction does it, compared with their labels in 3D."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from .. import distributed
from ..masks import REGIONS, nested
from ..metrics import hausdorff_95, overlap
from ..preparation import series_of

VOLUME = "3D"
"""Stands for the plane in rows of whole volumes."""


def labelled_series(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One item per series of the patients who have labels, those of :func:`~scripts.preparation.series_of` with ``seg``."""
    return [{**item, "seg": entry["seg"]} for entry in entries if "seg" in entry for item in series_of(entry)]


class VolumeOverlap:
    """Ignite handler: scores of each series' masks, in the geometry of the series.

    Expects of the engine's batch ``patient``, ``mri_type``, the label ``seg`` ``(2, X, Y, Z)``, ``geometry``, ``n_slices``, the
    segmented ``slices`` ``(n,)`` and ``error``, and of its output ``pred`` ``(n, 2, H, W)``.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._failures: dict[str, str] = {}

    def attach(self, engine: Engine) -> None:
        """Score after every series."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Score a series, or note why it has no scores."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        name = f"{batch['patient']}/{batch['mri_type']}/{VOLUME}"
        if batch["error"]:
            self._failures[name] = batch["error"]
            return
        found = torch.as_tensor(output["pred"]).cpu().numpy()
        masks = np.zeros((batch["n_slices"], *found.shape[1:]), dtype=bool)
        masks[torch.as_tensor(batch["slices"]).cpu().numpy()] = nested(found)
        label = np.asarray(batch["seg"]) > 0.5
        pred = np.stack([batch["geometry"].to_volume(masks[:, region]) for region in range(len(REGIONS))])
        if pred.shape != label.shape:
            self._failures[name] = (
                f"the label has {label.shape[1:]} voxels, the series {pred.shape[1:]}; expected the same grid, resample one of them"
            )
            return
        who = {"patient": batch["patient"], "mri_type": batch["mri_type"], "plane": VOLUME}
        spacing = np.linalg.norm(batch["geometry"].affine[:3, :3], axis=0)
        for region, one, other in zip(REGIONS, pred, label, strict=True):
            self._rows.append({**who, "region": region, **volume_scores(one, other, spacing)})

    def table(self) -> list[dict[str, Any]]:
        """A row per patient, modality and region, sorted, of all processes, which must call this together.

        Columns as in :meth:`scripts.metrics.RegionOverlap.table`, but ``hd95_mm`` from :func:`volume_scores`.
        """
        rows = [row for part in distributed.gather(self._rows) for row in part]
        return sorted(rows, key=lambda row: (row["patient"], row["mri_type"], REGIONS.index(row["region"])))

    def failures(self) -> dict[str, str]:
        """Why series have no scores, by ``"<patient>/<mri_type>/3D"``, of all processes, which must call this together."""
        return {name: why for part in distributed.gather(self._failures) for name, why in sorted(part.items())}


def volume_scores(pred: np.ndarray, label: np.ndarray, spacing: np.ndarray) -> dict[str, float | None]:
    """Scores of a region's masks ``(X, Y, Z)`` bool, predicted and true; None where not defined.

    They are ``dice``, ``iou``, ``volume_error`` as a share of the true volume, and ``hd95_mm``, the larger of both 95th percentiles of
    distances from surface to surface (Hausdorff), where both have the region; ``spacing`` is mm between voxels along the axes.
    """
    both, found, true = (int(np.count_nonzero(part)) for part in (pred & label, pred, label))
    one, other = (torch.from_numpy(np.ascontiguousarray(part)) for part in (pred, label))
    return {**overlap(both, found, true), "hd95_mm": hausdorff_95(one, other, spacing) if found and true else None}
