"""Tables of a report, made from nested figures as a ``metrics.json`` holds them: for people to read, and as CSV and JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_csv, write_json

NOTHING = "\N{EN DASH}"
HEADS = {
    "auc": "AUC",
    "pr_auc": "PR AUC",
    "roc_auc": "ROC AUC",
    "ece": "ECE",
    "mri_type": "modality",
    "mri_types": "modalities",
    "iou": "IoU",
    "hd95": "HD95",
    "brier": "Brier",
    "all": "all modalities",
    "lr": "learning rate",
    "ppv": "PPV",
    "npv": "NPV",
    "n": "n",
}
"""Heads of keys that plain words would not do justice to."""

INTERVALS = {
    "_95": "95 %",
    "_interval": "95 %",
    "_ci": "95 %",
    "_delong": "95 %, DeLong",
    "_bootstrap": "95 %, bootstrap",
    "_wilson": "95 %, Wilson",
}
"""Endings of the keys that hold the interval of the figure before the ending."""

_NAMES = ("WT", "ET", "FLAIR", "T1w", "T1wCE", "T2w")
_LISTED = 8  # values of a list that a cell shows
_WIDE = 8  # columns beyond which a single row is turned into a column


@dataclass(frozen=True)
class Cell:
    """What a cell shows and what it is sorted by; a link leads to another page."""

    text: str
    value: float | str | None = None
    link: str | None = None

    @property
    def numeric(self) -> bool:
        """Whether it is aligned as a number."""
        return isinstance(self.value, (int, float)) or self.text == NOTHING


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: over it.
        columns: heads.
        rows: cells, a list as long as ``columns`` each.
        records: the same rows with their full digits, for CSV and JSON.
        note: a sentence under the title.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    records: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""

    @property
    def name(self) -> str:
        """Of its files."""
        return re.sub(r"[^a-z0-9]+", "_", self.title.lower()).strip("_") or "table"


def head(key: Any) -> str:
    """A key as people write it: ``WT_dice`` as "WT Dice", ``pr_auc`` as "PR AUC"."""
    text = str(key)
    if text in _NAMES or not re.fullmatch(r"[A-Za-z0-9]+(_[A-Za-z0-9]+)*", text):
        return text
    if text.lower() in HEADS:
        return HEADS[text.lower()]
    words = [HEADS.get(word.lower(), word) if word not in _NAMES else word for word in text.split("_")]
    words = ["Dice" if word == "dice" else word for word in words]
    return " ".join(words)


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
    if not _is_interval(interval):
        return number(value)
    low, high = (float(end) for end in interval or () if end is not None)
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def shown(value: Any) -> str:
    """Any value of a metrics file in one cell."""
    if value is None:
        return NOTHING
    if isinstance(value, (bool, int, float)):
        return number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{head(key)}: {shown(inner)}" for key, inner in value.items())
    if _is_sequence(value):
        if len(value) == 2 and _is_interval(value) and not all(isinstance(end, int) for end in value):
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
    """A table of flat rows; a figure and its interval, ``auc`` and ``auc_95``, share a cell.

    Args:
        title: of the table.
        records: values by key; keys may differ from row to row.
        note: a sentence under the title.
    """
    rows = [dict(record) for record in records]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    interval_of: dict[str, tuple[str, str]] = {}  # of a figure: key of its first interval and what kind that is
    for key in keys:
        for ending, kind in INTERVALS.items():
            figure = key.removesuffix(ending)
            is_pair = any(_is_interval(row.get(key)) for row in rows)
            if figure != key and figure in keys and figure not in interval_of and is_pair:
                interval_of[figure] = (key, kind)
    within = {key for key, _ in interval_of.values()}
    columns = [key for key in keys if key not in within]

    def one(row: Mapping[str, Any], key: str) -> Cell:
        value = row.get(key)
        if key in interval_of and isinstance(value, (int, float)):
            return Cell(with_interval(value, row.get(interval_of[key][0])), float(value))
        return cell(value)

    heads = [
        f"{head(key)} ({interval_of[key][1]})" if key in interval_of else _column_head(key, keys) for key in columns
    ]
    cells = [[one(row, key) for key in columns] for row in rows]
    if len(rows) == 1 and len(columns) > _WIDE:
        cells, heads = [[Cell(text, text), found] for text, found in zip(heads, cells[0], strict=True)], ["", "value"]
    return Table(title, heads, cells, rows, note)


def tables_of(metrics: Mapping[str, Any], skip: Sequence[str] = ("note", "curves")) -> list[Table]:
    """The tables in a ``metrics.json``, whatever it holds.

    Figures directly in it become "Summary"; neighbouring groups with the same figures (one a modality, for example) the rows
    of one table; a dictionary of groups a table with its name; what lies deeper, tables of its own.

    Args:
        metrics: content of the file.
        skip: keys that are shown in another way.
    """
    return _tables("", {key: value for key, value in metrics.items() if key not in skip})


def _tables(title: str, content: Mapping[str, Any]) -> list[Table]:
    plain = {key: value for key, value in content.items() if _is_plain(value)}
    groups = {key: value for key, value in content.items() if not _is_plain(value)}
    found = []
    if plain:
        found.append(table_of_records(title or "Summary", [plain]))
    alike: dict[str, Mapping[str, Any]] = {}
    for key, value in groups.items():
        if isinstance(value, Mapping) and value and all(map(_is_plain, value.values())):
            # rows of one table are those that have a figure in common
            if alike and not set(next(iter(alike.values()))) & set(value):
                found.append(_grouped(title, alike))
                alike = {}
            alike[key] = value
            continue
        if alike:
            found.append(_grouped(title, alike))
            alike = {}
        name = f"{title}: {head(key)}" if title else sentence(head(key))
        if isinstance(value, Mapping):
            found += _tables(name, value)
        elif all(isinstance(item, Mapping) for item in value):
            found.append(table_of_records(name, [_flat(item) for item in value]))
    if alike:
        found.append(_grouped(title, alike))
    return found


def _grouped(title: str, groups: Mapping[str, Mapping[str, Any]]) -> Table:
    if len(groups) == 1:
        ((key, figures),) = groups.items()
        return table_of_records(f"{title}: {head(key)}" if title else sentence(head(key)), [figures])
    return table_of_records(title or "Scores", [{"of": head(key), **figures} for key, figures in groups.items()])


def _column_head(key: str, keys: Sequence[str]) -> str:
    if key == "of":
        return ""
    for ending, kind in INTERVALS.items():
        figure = key.removesuffix(ending)
        if figure != key and figure in keys:
            return f"{head(figure)}, {kind}"
    return head(key)


def sentence(text: str) -> str:
    """A text with a capital."""
    return text[:1].upper() + text[1:]


def _flat(content: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{before}_{key}" if before else str(key)
        flat.update(_flat(value, name) if isinstance(value, Mapping) else {name: value})
    return flat


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _is_interval(value: Any) -> bool:
    return (
        _is_sequence(value)
        and len(value) == 2
        and all(isinstance(end, (int, float)) and not isinstance(end, bool) and math.isfinite(end) for end in value)
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return False
    return not _is_sequence(value) or not any(isinstance(item, Mapping) for item in value)


def write_table(table: Table, folder: str | Path, name: str | None = None) -> None:
    """Write a table's records as ``<name>.csv`` and ``<name>.json``; intervals become two columns of the CSV."""
    stem = name or table.name
    write_json(_finite(table.records), Path(folder) / f"{stem}.json")
    rows = [_spread(record) for record in table.records]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if columns:
        write_csv(rows, Path(folder) / f"{stem}.csv", columns)


def _spread(record: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in record.items():
        if _is_interval(value):
            row |= {f"{key}_low": value[0], f"{key}_high": value[1]}
        elif _is_sequence(value):
            row[key] = "; ".join(map(str, value))
        else:
            row[key] = value
    return row


def _finite(value: Any) -> Any:
    """The same without NaN and infinity, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if _is_sequence(value):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
