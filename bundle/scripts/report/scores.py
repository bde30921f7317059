"""Scores: the tables and figures of an evaluation or a cross-validation, and the few figures at the top of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.resampling import bootstrap_interval
from ..evaluation.scores import roc_auc
from ..files import RESEARCH_ONLY, write_json
from ..run_folder import failures_of
from .curves import draw_calibration, draw_decision, draw_roc
from .figures import draw_overlap, draw_strips
from .groups import Group, groups_of
from .run import Evaluation, Run
from .tables import Table, as_number, head, number, sentence, table_of_records, tables_of, with_interval
from .training import best_epoch
from .writer import Writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show_evaluation(part: Evaluation, writer: Writer, place: int) -> dict[str, Any]:
    """Tables and figures of an evaluation."""
    groups = groups_of(part.predictions)
    before = f"{part.name}_" if part.name else ""
    tables = [writer.table(table, before + table.name) for table in tables_of(part.metrics)]
    if (by_fold := fold_table(groups)) is not None:
        tables.append(writer.table(by_fold, before + by_fold.name))
    curves = part.metrics.get("curves") or {}
    if curves:
        write_json(curves, writer.folder / "tables" / f"{writer.name(before + 'curves')}.json")
    note = str(part.metrics.get("note") or "")
    title = sentence(head(part.name)) if part.name else "Scores"
    return {
        "id": f"scores-{place}",
        "title": "Cross-validation" if part.is_crossvalidation else title,
        "text": "" if note == RESEARCH_ONLY else note,
        "tables": tables,
        "figures": [
            writer.figure(figure, before + name, caption) for name, figure, caption in _figures(part, groups, curves)
        ],
    }


def _figures(part: Evaluation, groups: Sequence[Group], curves: Mapping[str, Any]) -> Iterator[tuple[str, Figure, str]]:
    """Name, figure and caption of each figure; curves that the evaluation wrote are preferred to those of the last group."""
    both = [group for group in groups if len(set(group.labels.tolist())) == 2]
    if both:
        last = both[-1]
        band = "The band is the pointwise 95 % interval of the thick curve."
        yield "roc", draw_roc(both, curves.get("roc")), f"{len(last.patients)} patients. {band}"
        yield "probability_by_label", draw_strips(both), "A point is a patient, a bar the median."
        below = "Below: patients by probability and label (label 0 blue, label 1 red)."
        yield "calibration", draw_calibration(last, curves.get("calibration")), below
        benefit = "Net benefit of acting on the model at a threshold."
        yield "decision_curve", draw_decision(last, curves.get("decision")), benefit
    if part.overlap:
        yield "dice", draw_overlap(part.overlap), "A point is a patient, a bar the median."


def fold_table(groups: Sequence[Group]) -> Table | None:
    """AUC by fold and modality; None without folds."""
    folds = sorted({fold for group in groups for fold in group.folds if fold}, key=lambda fold: (len(fold), fold))
    records = []
    for fold in folds:
        record: dict[str, Any] = {"fold": fold, "patients": 0}
        for group in groups:
            inside = np.array([found == fold for found in group.folds])
            area = roc_auc(group.labels[inside], group.probabilities[inside])
            record["patients"] = max(int(inside.sum()), record["patients"])
            record[group.name] = area if np.isfinite(area) else None
        records.append(record)
    note = "Of the patients who were held out in a fold, the mean over seeds."
    return table_of_records("AUC by fold", records, note) if records else None


def main_score(metrics: Mapping[str, Any]) -> tuple[str, str] | None:
    """The main AUC of an evaluation, with its interval: of the first ensemble, else of all modalities."""
    name, scores = next(iter(metrics.get("ensembles", {}).items()), ("all", metrics.get("all", {})))
    if scores.get("auc") is None:
        return None
    return head(name), with_interval(scores["auc"], scores.get("auc_delong", scores.get("auc_95")))


def tiles_of(run: Run) -> list[dict[str, str]]:
    """The few figures at the top of the report."""
    found = _of_prediction((run.prediction or {}).get("patients", []))
    for part in run.evaluations:
        found += _of_evaluation(part)
    for training in run.trainings[:4] if not found else ():
        epoch, by = best_epoch(training.history, training.score)
        best = training.history[by][training.history["epoch"] == epoch][0] if by else np.nan
        found.append((number(float(best)), f"{head(by)} in epoch {epoch}, {training.name}"))
    return [{"value": value, "name": name} for value, name in found]


def _of_prediction(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    if not rows:
        return []
    failed = (str(sum(bool(failures_of(row)) for row in rows)), "with failures or warnings")
    if len(rows) == 1:
        probability = with_interval(rows[0]["probability"], rows[0].get("agreement_interval"))
        return [("1", "patient predicted"), (probability, "probability of methylation"), failed]
    prior = sum(not row.get("used") for row in rows)
    without = (str(prior), "without a usable slice, given the cohort prior")
    return [(str(len(rows)), "patients predicted"), without, failed]


def _of_evaluation(part: Evaluation) -> list[tuple[str, str]]:
    found = []
    where = f", {head(part.name)}" if part.name else ""
    groups = groups_of(part.predictions)
    if (written := main_score(part.metrics)) is not None:
        found.append((written[1], f"AUC, {written[0]} (95 %){where}"))
    elif groups and len(set(groups[-1].labels.tolist())) == 2:
        of = (groups[-1].labels, groups[-1].probabilities)
        area = with_interval(roc_auc(*of), bootstrap_interval(*of))
        found.append((area, f"AUC of {len(groups[-1].patients)} patients (95 %, bootstrap){where}"))
    count = len({row["patient"] for row in part.overlap})
    for region in ("WT", "ET"):
        dice = np.array([as_number(row["dice"]) for row in part.overlap if row["region"] == region])
        if np.isfinite(dice).any():
            found.append((number(float(np.nanmean(dice))), f"{region} Dice, mean of {count} patients"))
    return found
