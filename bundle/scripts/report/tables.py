"""Tables of a report, made from nested figures as a ``metrics.json`` holds them: for people to read, and as CSV and JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from ..evaluation.scores import plain
from ..files import write_csv, write_json

NOTHING = "\N{EN DASH}"
HEADS = {
    "auc": "AUC",
    "pr_auc": "PR AUC",
    "ece": "ECE",
    "mri_type": "modality",
    "mri_types": "modalities",
    "iou": "IoU",
    "hd95": "HD95",
    "brier": "Brier",
    "dice": "Dice",
    "all": "all modalities",
    "lr": "learning rate",
}
"""Headings of keys that need special wording."""

INTERVALS = {
    "_95": "95 %",
    "_delong": "95 %, DeLong",
    "_bootstrap": "95 %, bootstrap",
    "_wilson": "95 %, Wilson",
}
"""Endings of the keys that hold the interval of the figure before the ending."""

_LISTED = 8  # values of a list that a cell shows
_WIDE = 8  # columns beyond which a single row is transposed into a column


@dataclass(frozen=True)
class Cell:
    """The text of a cell and its sort value; a link leads to another page."""

    text: str
    value: float | str | None = None
    link: str | None = None

    @property
    def numeric(self) -> bool:
        """Whether it is aligned like a number."""
        return isinstance(self.value, (int, float)) or self.text == NOTHING


@dataclass(frozen=True)
class Table:
    """A table."""

    title: str  # heading
    columns: list[str]  # heads
    rows: list[list[Cell]]  # cells, a list as long as ``columns`` each
    records: list[dict[str, Any]] = field(default_factory=list)  # the same rows with full digits, for CSV and JSON
    note: str = ""  # a sentence under the title

    @property
    def name(self) -> str:
        """Of its files."""
        return re.sub(r"[^a-z0-9]+", "_", self.title.lower()).strip("_") or "table"


def head(key: Any) -> str:
    """A key in readable form: ``WT_dice`` as "WT Dice", ``pr_auc`` as "PR AUC"."""
    text = str(key)
    if not re.fullmatch(r"[A-Za-z0-9]+(_[A-Za-z0-9]+)*", text):
        return text
    return HEADS.get(text.lower()) or " ".join(HEADS.get(word.lower(), word) for word in text.split("_"))


def as_number(text: Any) -> float:
    """A number in a CSV file; NaN where there is none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def number(value: float) -> str:
    """A number with three decimals, a whole one as it is, a tiny one with three digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:d}"
    if not math.isfinite(value):
        return NOTHING
    if value and abs(value) < 5e-4:
        return f"{value:.2e}"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.0f}"


def with_interval(value: float | None, interval: Sequence[float | None] | None) -> str:
    """``0.81 (0.72 to 0.90)``; without a known interval the number alone."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})" if _is_interval(interval) else number(value)


def shown(value: Any) -> str:
    """Any value of a metrics file in one cell."""
    if value is None:
        return NOTHING
    if isinstance(value, (bool, int, float)):
        return number(value)
    if _is_sequence(value):
        if _is_interval(value) and not all(isinstance(end, int) for end in value):
            return f"{value[0]:.2f} to {value[1]:.2f}"
        listed = ", ".join(shown(item) for item in value[:_LISTED])
        return f"{listed} and {len(value) - _LISTED} more" if len(value) > _LISTED else listed or NOTHING
    return str(value)


def cell(value: Any) -> Cell:
    """A cell that shows and sorts by a value, an interval by its lower end."""
    if isinstance(value, (int, float)):
        return Cell(shown(value), float(value) if math.isfinite(value) else None)
    if _is_interval(value):
        return Cell(shown(value), float(value[0]))
    return Cell(shown(value), None if value is None else shown(value).lower())


def table_of_records(title: str, records: Iterable[Mapping[str, Any]], note: str = "") -> Table:
    """A table of flat rows, whose keys may differ; a figure and its first interval, ``auc`` and ``auc_95``, share a cell."""
    rows = [dict(record) for record in records]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    interval_of: dict[str, tuple[str, str]] = {}  # of a figure: key of its first interval and its kind
    heads = {key: "" if key == "of" else head(key) for key in keys}
    for key in keys:
        for ending, kind in INTERVALS.items():
            figure = key.removesuffix(ending)
            if figure == key or figure not in keys:
                continue
            heads[key] = f"{head(figure)}, {kind}"
            if figure not in interval_of and any(_is_interval(row.get(key)) for row in rows):
                interval_of[figure] = key, kind
                heads[figure] = f"{head(figure)} ({kind})"
    within = {key for key, _ in interval_of.values()}
    columns = [key for key in keys if key not in within]

    def one(row: Mapping[str, Any], key: str) -> Cell:
        value = row.get(key)
        if key in interval_of and isinstance(value, (int, float)):
            return Cell(with_interval(value, row.get(interval_of[key][0])), float(value))
        return cell(value)

    shown_heads = [heads[key] for key in columns]
    cells = [[one(row, key) for key in columns] for row in rows]
    if len(rows) == 1 and len(columns) > _WIDE:
        cells = [[Cell(text, text), found] for text, found in zip(shown_heads, cells[0], strict=True)]
        shown_heads = ["", "value"]
    return Table(title, shown_heads, cells, rows, note)


def tables_of(metrics: Mapping[str, Any]) -> list[Table]:
    """The tables in a ``metrics.json``, of any kind; its ``note`` and ``curves`` are shown in other ways.

    Figures directly in it become "Summary"; neighbouring groups with the same figures (one per modality, for example) the rows
    of one table; a dictionary of groups a table with its name; deeper levels, their own tables.
    """
    return _tables("", {key: value for key, value in metrics.items() if key not in ("note", "curves")})


def _tables(title: str, content: Mapping[str, Any]) -> list[Table]:
    plain = {key: value for key, value in content.items() if not isinstance(value, Mapping)}
    found = [table_of_records(title or "Summary", [plain])] if plain else []
    alike: dict[str, Mapping[str, Any]] = {}

    def finish() -> None:
        if len(alike) == 1:
            ((key, figures),) = alike.items()
            found.append(table_of_records(_below(title, key), [figures]))
        elif alike:
            records = [{"of": head(key), **figures} for key, figures in alike.items()]
            found.append(table_of_records(title or "Scores", records))
        alike.clear()

    for key, value in content.items():
        if key in plain:
            continue
        flat = value and not any(isinstance(inner, Mapping) for inner in value.values())
        # rows of one table are those that have a figure in common
        if not flat or (alike and not set(next(iter(alike.values()))) & set(value)):
            finish()
        if flat:
            alike[key] = value
        else:
            found += _tables(_below(title, key), value)
    finish()
    return found


def _below(title: str, key: str) -> str:
    return f"{title}: {head(key)}" if title else sentence(head(key))


def sentence(text: str) -> str:
    """A text with a capital."""
    return text[:1].upper() + text[1:]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_interval(value: Any) -> TypeGuard[Sequence[float]]:
    return (
        _is_sequence(value)
        and len(value) == 2
        and all(isinstance(end, (int, float)) and not isinstance(end, bool) and math.isfinite(end) for end in value)
    )


def write_table(table: Table, folder: Path, name: str) -> list[str]:
    """Write a table's records as ``<name>.csv`` (where it has any columns) and ``<name>.json``; the endings written.

    Intervals become two columns of the CSV.
    """
    write_json(plain(table.records), folder / f"{name}.json")
    rows = [_spread(record) for record in table.records]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return ["json"]
    write_csv(rows, folder / f"{name}.csv", columns)
    return ["csv", "json"]


def _spread(record: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in record.items():
        if _is_interval(value):
            row |= {f"{key}_low": value[0], f"{key}_high": value[1]}
        else:
            row[key] = "; ".join(map(str, value)) if _is_sequence(value) else value
    return row


def selection_table(series: Sequence[Mapping[str, Any]]) -> Table:
    """The series of a study, chosen or not, and why."""
    same = ("number", "description", "plane", "slices")
    records = [
        {
            **{key: one[key] for key in same},
            "mm apart": one["spacing"],
            "chosen": one["modality"] if one["chosen"] else None,
            "why": one["reason"],
        }
        for one in series
    ]
    return table_of_records("Series of the study", records)
