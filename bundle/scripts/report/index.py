"""The index of the patients, which the first page has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..modalities import MRI_TYPES
from ..run_folder import failures_of
from .figures import named
from .groups import Group
from .tables import Cell, as_number, cell, head, with_interval


@dataclass(frozen=True)
class Index:
    """The index of the patients."""

    columns: list[str]  # heads
    # ``cells``, ``probability`` ("" for none) and whether something ``failed``, by which a reader filters
    rows: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)  # the same with full digits, for CSV and JSON

    def add(self, cells: list[Cell], record: dict[str, Any], probability: float | None, failed: bool) -> None:
        """Add a row."""
        self.rows.append({"cells": cells, "probability": "" if probability is None else probability, "failed": failed})
        self.records.append(record)


def prediction_index(rows: Sequence[Mapping[str, Any]], links: Mapping[str, str]) -> Index:
    """The index of a prediction, from the patients in ``patients.json`` and the links to their pages."""
    names = [name for name in MRI_TYPES if any(name in (row.get("series") or {}) for row in rows)]
    labelled = any(row.get("label") is not None for row in rows)
    index = Index(["patient", "probability", *(["label"] if labelled else []), *names, "slices used", "remark"])
    for row in rows:
        series = row.get("series") or {}
        failures = failures_of(row)
        remark = str(row.get("reason") or "") or "; ".join(f"{item['series']}: {item['text']}" for item in failures)
        kept = sum(int(facts.get("kept") or 0) for facts in series.values())
        chances = [series.get(name, {}).get("probability") for name in names]
        interval = row.get("agreement_interval")
        cells = [
            Cell(str(row["patient"]), str(row["patient"]), links.get(row["patient"])),
            Cell(with_interval(row["probability"], interval), row["probability"]),
            *([cell(row.get("label"))] if labelled else []),
            *map(cell, chances),
            cell(kept),
            Cell(remark, remark.lower() or None),
        ]
        record = {"patient": row["patient"], "probability": row["probability"]}
        record |= {"interval": interval} if interval else {}
        record |= {"label": row.get("label")} if labelled else {}
        record |= {**dict(zip(names, chances, strict=True)), "slices_used": kept, "remark": remark}
        index.add(cells, record, row["probability"], bool(failures))
    return index


def evaluation_index(groups: Sequence[Group], rows: Sequence[Mapping[str, Any]], links: Mapping[str, str]) -> Index:
    """The index of an evaluation.

    Args:
        groups: the models' probabilities, those of the main model last.
        rows: what is known of the patients; those to whom no model gave a probability are listed with the prior.
        links: to the patients' pages, of those who have one.
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
    index = Index(["patient", "label", *(["fold"] if with_folds else []), *map(named, names), "absolute error"])
    for patient, values in chances.items():
        main, (label, fold) = values.get(names[0]), known[patient]
        wrong = None if main is None else abs(label - main)
        cells = [
            Cell(patient, patient, links.get(patient)),
            cell(label),
            *([cell(fold or None)] if with_folds else []),
            *(cell(values.get(name)) for name in names),
            cell(wrong),
        ]
        record = {"patient": patient, "label": label, **({"fold": fold} if with_folds else {})}
        record |= {**{name: values.get(name) for name in names}, "absolute_error": wrong}
        index.add(cells, record, main, main is None or patient in problems)
    return index


def overlap_index(rows: Sequence[Mapping[str, str]]) -> Index:
    """The index of an evaluation of stage 1: the rows of its ``overlap.csv``."""
    index = Index([head(key) for key in rows[0]])
    for row in rows:
        values = {key: as_number(text) if key in ("dice", "iou") else text for key, text in row.items()}
        index.add(list(map(cell, values.values())), dict(row), None, not row["dice"])
    return index
