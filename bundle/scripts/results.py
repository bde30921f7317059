"""The output of an evaluation: metrics and the tables behind them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import distributed
from .evaluation import summary
from .evaluation import tables as flat
from .evaluation.resampling import bootstrap_interval
from .evaluation.whole_series import VOLUME, VolumeOverlap
from .files import RESEARCH_ONLY, write_csv, write_json
from .masks import REGIONS
from .metrics import PATIENT_SCORES, RegionOverlap
from .patients import write_patients
from .run_folder import PREDICTIONS_FILE

logger = logging.getLogger(__name__)


@distributed.by_first
def write_evaluation(
    rows: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    mri_types: Sequence[str],
    weights: Mapping[str, Any],
    runtime: str | None = None,
) -> dict[str, Any]:
    """Write ``predictions.csv``, ``patients.json`` and, last, ``metrics.json`` of labelled patients and return the metrics.

    Args:
        rows: from :meth:`PatientResults.patient_rows`; those without a ``label`` are left out.
        output_dir: folder for the three.
        mri_types: the classified modalities.
        weights: the files, by modality.
        runtime: of the networks.
    """
    labelled = [row for row in rows if "label" in row]
    if not labelled:
        raise ValueError(
            "none of the patients has a label to compare with; give a data list with labels, or --labels FILE"
        )
    labels = [row["label"] for row in labelled]
    table = []
    for row in labelled:
        single = {name: row["series"].get(name, {}).get("probability") for name in mri_types}
        table.append({"patient": row["patient"], "label": row["label"], "all": row["probability"], **single})
    write_csv(table, Path(output_dir) / PREDICTIONS_FILE)
    write_patients(labelled, output_dir, weights, runtime)
    metrics: dict[str, Any] = {"note": RESEARCH_ONLY, "patients": len(labelled), "positive": sum(labels)}
    metrics["without_usable_slice"] = sum(not row["used"] for row in labelled)
    for name in ("all", *mri_types):
        there = [(row["label"], row[name]) for row in table if row[name] is not None]
        if not there:
            continue
        truth, chance = zip(*there, strict=True)
        scores: dict[str, Any] = {key: score(truth, chance) for key, score in PATIENT_SCORES.items()}
        scores["auc_95"] = list(bootstrap_interval(truth, chance))
        logger.info(
            "%s: AUC %.3f (95 %% interval %.3f to %.3f) on %d patients",
            name, scores["auc"], *scores["auc_95"], len(truth),
        )  # fmt: skip
        if len(set(truth)) < 2:  # JSON knows no NaN
            scores |= {"auc": None, "auc_95": None}
        metrics[name] = {"patients": len(truth), **scores}
    write_json(metrics, Path(output_dir) / "metrics.json")
    return metrics


def write_crossvalidation(
    rows: Sequence[Mapping[str, Any]],
    overlap: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``metrics.json`` of a cross-validation, and each of its tables as CSV and JSON in ``tables/``; returns the metrics.

    Args:
        rows: out-of-fold predictions, see :func:`scripts.evaluation.summary.summarise`; none where stage 2 was left out.
        overlap: rows of :meth:`RegionOverlap.table` with their ``fold``; none where stage 1 was left out.
        output_dir: folder of the run.
        facts: of the run, copied into the metrics.
    """
    metrics: dict[str, Any] = {"note": RESEARCH_ONLY, **facts}
    tables: dict[str, list[dict[str, Any]]] = {}
    if overlap:
        tables["overlap"] = [dict(row) for row in overlap]
        metrics["segmentation"] = _overlap_metrics(overlap)
        metrics["segmentation"]["fold"] = {
            str(fold): _mean_overlap([row for row in overlap if row["fold"] == fold and row["plane"] != VOLUME])
            for fold in sorted({row["fold"] for row in overlap})
        }
    if rows:
        subgroups = [name for name in ("scanner", "site") if len({row[name] for row in rows}) > 1]
        metrics["classification"] = summary.summarise(rows, subgroups=subgroups)
        tables |= flat.tables(metrics["classification"])
    for name, table in tables.items():
        write_csv(table, Path(output_dir) / "tables" / f"{name}.csv")
        write_json(table, Path(output_dir) / "tables" / f"{name}.json")
    write_json(metrics, Path(output_dir) / "metrics.json")
    return metrics


def write_overlap(
    metric: RegionOverlap, output_dir: str | Path, volumes: VolumeOverlap | None = None
) -> dict[str, Any]:
    """Write ``overlap.csv`` (a row per patient, modality, plane and region) and ``metrics.json`` (their means, and failures).

    Args:
        metric: after the evaluation.
        output_dir: folder for both.
        volumes: scores of whole series, where they were segmented too; their plane is ``3D``.
    """
    rows, failures = metric.table(), metric.failures()
    if volumes is not None:
        rows += volumes.table()
        columns = dict.fromkeys(key for row in rows for key in row)
        rows = [{key: row.get(key) for key in columns} for row in rows]
        failures |= volumes.failures()
    return _write_overlap(rows, output_dir, failures)


@distributed.by_first
def _write_overlap(
    rows: Sequence[Mapping[str, Any]], output_dir: str | Path, failures: Mapping[str, str]
) -> dict[str, Any]:
    write_csv(rows, Path(output_dir) / "overlap.csv")
    metrics = {"note": RESEARCH_ONLY, **_overlap_metrics(rows)}
    for name, reason in failures.items():
        logger.warning("%s: %s", name, reason)
    for name, scores in metrics.items():
        if isinstance(scores, dict):
            shown = (f"{key} {value:.3f}" for key, value in scores.items() if value is not None)
            logger.info("%s: %s", name, ", ".join(shown))
    if failures:
        metrics["failed"] = dict(failures)
    write_json(metrics, Path(output_dir) / "metrics.json")
    return metrics


def _overlap_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over all rows of slices, over those of each modality and each plane, and over those of whole volumes (``3D``)."""
    metrics: dict[str, Any] = {"patients": len({row["patient"] for row in rows})}
    slices = [row for row in rows if row["plane"] != VOLUME]
    metrics["all"] = _mean_overlap(slices)
    for group, among in (("mri_type", slices), ("plane", rows)):
        for name in sorted({row[group] for row in among}):
            metrics[name] = _mean_overlap([row for row in among if row[group] == name])
    return metrics


def _mean_overlap(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    scores = [name for name in rows[0] if name not in ("fold", "patient", "mri_type", "plane", "region")]
    for region in REGIONS:
        for score in scores:
            values = [row[score] for row in rows if row["region"] == region and row[score] is not None]
            means[f"{region}_{score}"] = float(np.mean(values)) if values else None
    return means
