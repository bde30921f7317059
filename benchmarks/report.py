"""Markdown tables of what was measured, and the machine that it was measured on."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; columns are all their keys, in order of appearance, numbers at the right."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[str(row.get(column, "-")) for column in columns] for row in rows]
    aligned = [":--", *["--:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [columns, aligned, *cells])


def section(title: str, *paragraphs: str) -> str:
    """A titled part of the report."""
    return "\n\n".join([f"## {title}", *paragraphs]) + "\n"


def spread(values: Sequence[float], unit: str = "s") -> str:
    """Median, with the smallest and the largest where there are several."""
    middle = f"{statistics.median(values):.1f} {unit}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1f} to {max(values):.1f})"


def megabytes(count: float) -> str:
    """Bytes as MB (10⁶ bytes)."""
    return f"{count / 1e6:,.1f} MB" if count < 1e8 else f"{count / 1e6:,.0f} MB"


def machine() -> str:
    """What the figures were measured on."""
    import torch

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            name = next(line.partition(":")[2].strip() for line in stream if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{name}, {os.cpu_count()} cores, {memory:.0f} GB memory; {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}, PyTorch {torch.__version__} on the CPU with {torch.get_num_threads()} threads."
    )
