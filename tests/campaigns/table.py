"""A Markdown table of facts, as campaigns write it. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows as a Markdown table, numbers to the right.

    Args:
        rows: values by column; None, or a column that a row lacks, is an empty cell, a float has one digit after the point.
        columns: those that are shown, in their order; by default those of the first row.
    """
    names = list(columns or rows[0])

    def shown(value: Any) -> str:
        text = "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
        return " ".join(text.replace("|", "\\|").split())

    def is_number(name: str) -> bool:
        values = [row.get(name) for row in rows if row.get(name) is not None]
        return bool(values) and all(isinstance(value, (int, float)) for value in values)

    lines = [names, ["---:" if is_number(name) else "---" for name in names]]
    lines += [[shown(row.get(name)) for name in names] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
