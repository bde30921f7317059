"""What a cross-validation predicted for the patients that each fold held out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from ..datalists import load_datalist
from ..files import read_csv
from ..masks import region_volumes
from ..prepared import PreparedSeries
from ..run_folder import PREDICTIONS_FILE
from . import cohort
from .plan import Plan

COLUMNS = (*cohort.COLUMNS, "kept", "tumour_volume", "scanner", "site")
"""Of the out-of-fold predictions. ``kept``: slices that were classified; ``tumour_volume``: ml, as stage 1 segments it."""


def predictions(plan: Plan) -> list[dict[str, Any]]:
    """One row per held-out patient, fold, seed and modality, with the columns ``COLUMNS``."""
    facts = {(row["patient"], row["mri_type"]): row for row in plan.prepared_rows("classification")}
    lists = load_datalist(plan.datalist, plan.dataset_dir)  # type: ignore[arg-type]
    sites = {entry["patient"]: entry.get("site", "") for part in lists.values() for entry in part}
    volumes = {who: _tumour_volume(row) for who, row in facts.items()}
    scanners: dict[str, set[str]] = defaultdict(set)
    for (patient, _), row in facts.items():
        scanners[patient].add(row.get("scanner", ""))
    rows = []
    for seed in plan.seeds:
        for fold in plan.folds["classification"]:
            file = plan.classification_run(seed, fold) / "evaluation" / PREDICTIONS_FILE
            for row in read_csv(file):
                for mri_type in plan.mri_types:
                    series = facts.get((row["patient"], mri_type), {})
                    rows.append(
                        {
                            "patient": row["patient"],
                            "fold": fold,
                            "seed": seed,
                            "mri_type": mri_type,
                            "probability": _number(row.get(mri_type)),
                            "label": int(row["label"]),
                            "kept": series.get("kept", 0),
                            "tumour_volume": volumes.get((row["patient"], mri_type)),
                            "scanner": " and ".join(sorted(scanners[row["patient"]])),
                            "site": sites.get(row["patient"], ""),
                        }
                    )
    return rows


def overlap(plan: Plan) -> list[dict[str, Any]]:
    """The rows of every fold's ``overlap.csv``, with their fold."""
    names = ("patient", "mri_type", "plane", "region")
    return [
        {"fold": fold, **{key: value if key in names else _number(value) for key, value in row.items()}}
        for fold in plan.folds["segmentation"]
        for row in read_csv(plan.segmentation_run(fold) / "evaluation" / "overlap.csv")
    ]


def _tumour_volume(row: Mapping[str, Any]) -> float | None:
    """Whole-tumour volume of a prepared series in ml, None without one."""
    series = PreparedSeries(row["file"]) if "file" in row else None
    if series is None or series.geometry is None:
        return None
    return region_volumes(series.masks(), series.geometry.voxel_volume)["WT"] / 1000


def _number(text: str | None) -> float | None:
    return float(text) if text else None
