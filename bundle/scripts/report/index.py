"""The index of the patients on the first page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..modalities import MRI_TYPES
from ..run_folder import failures_of
from .groups import Group
from .tables import Cell, as_number, cell, head, with_interval


@dataclass(frozen=True)
class Index:
    """The index of the patients: heads, rows as the page shows them, and the same with full digits for CSV and JSON."""

    columns: list[str]
    rows: list[
        dict[str, Any]
    ]  # `cells`, `probability` ("" for none) and whether something `failed`, by which a reader filters
    records: list[dict[str, Any]]


def _index(
    records: Sequence[dict[str, Any]], main: str | None, failed: Sequence[bool], links: Mapping[str, str]
) -> Index:
    """The index of records; ``main`` is the key of the probability that a reader filters by."""
    rows = []
    for record, bad in zip(records, failed, strict=True):
        cells = [_cell(key, record, links) for key in record if key != "interval"]
        chance = None if main is None else record[main]
        rows.append({"cells": cells, "probability": "" if chance is None else chance, "failed": bad})
    columns = [head(key) for key in records[0] if key != "interval"] if records else []
    return Index(columns, rows, list(records))


def _cell(key: str, record: Mapping[str, Any], links: Mapping[str, str]) -> Cell:
    value = record[key]
    if key == "patient":
        return Cell(str(value), str(value), links.get(value))
    if key == "probability":
        return Cell(with_interval(value, record.get("interval")), value)
    if key in ("dice", "iou"):
        return cell(as_number(value))
    return cell(value or None) if key == "fold" else cell(value)


def prediction_index(rows: Sequence[Mapping[str, Any]], links: Mapping[str, str]) -> Index:
    """The index of a prediction, from the patients in ``patients.json`` and the links to their pages."""
    names = [name for name in MRI_TYPES if any(name in (row.get("series") or {}) for row in rows)]
    labelled = any(row.get("label") is not None for row in rows)
    records = []
    failures = [failures_of(row) for row in rows]
    for row, problems in zip(rows, failures, strict=True):
        series = row.get("series") or {}
        record = {"patient": row["patient"], "probability": row["probability"]}
        record |= {"interval": row["agreement_interval"]} if row.get("agreement_interval") else {}
        record |= {"label": row.get("label")} if labelled else {}
        record |= {name: series.get(name, {}).get("probability") for name in names}
        record["slices_used"] = sum(int(facts.get("kept") or 0) for facts in series.values())
        record["remark"] = row.get("reason") or "; ".join(f"{item['series']}: {item['text']}" for item in problems)
        records.append(record)
    return _index(records, "probability", list(map(bool, failures)), links)


def evaluation_index(groups: Sequence[Group], rows: Sequence[Mapping[str, Any]], links: Mapping[str, str]) -> Index:
    """The index of an evaluation.

    Args:
        groups: the models' probabilities, those of the main model last.
        rows: what is known of the patients; those without a probability from any model are listed with the prior.
        links: to the patients' pages, where they exist.
    """
    chances: dict[str, dict[str, float]] = {}
    known: dict[str, tuple[int, str]] = {}  # label and fold
    for group in groups:
        facts = zip(group.patients, group.labels, group.probabilities, group.folds, strict=True)
        for patient, label, value, fold in facts:
            chances.setdefault(patient, {})[group.name] = float(value)
            known[patient] = int(label), fold
    names = [group.name for group in reversed(groups)]
    for row in rows:
        if row["patient"] not in chances and row.get("label") is not None:
            chances[row["patient"]] = {names[0]: float(row["probability"])}
            known[row["patient"]] = int(row["label"]), "" if row.get("fold") is None else str(row["fold"])
    problems = {row["patient"] for row in rows if failures_of(row)}
    with_folds = any(fold for _, fold in known.values())
    records = []
    for patient, values in chances.items():
        label, fold = known[patient]
        record = {"patient": patient, "label": label, **({"fold": fold} if with_folds else {})}
        record |= {name: values.get(name) for name in names}
        main = values.get(names[0])
        records.append({**record, "absolute_error": None if main is None else abs(label - main)})
    failed = [record[names[0]] is None or record["patient"] in problems for record in records]
    return _index(records, names[0], failed, links)


def overlap_index(rows: Sequence[Mapping[str, str]]) -> Index:
    """The index of an evaluation of stage 1: the rows of its ``overlap.csv``."""
    return _index(list(map(dict, rows)), None, [not row["dice"] for row in rows], {})
