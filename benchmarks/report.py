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


FEATURES = {
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
}
"""Flags of a processor that decide how fast networks are on it."""


def machine() -> str:
    """What the figures were measured on."""
    import torch

    name, flags = platform.processor() or platform.machine(), set()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            lines = dict(line.partition(":")[::2] for line in stream)
        known = {key.strip(): value.strip() for key, value in lines.items()}
        name, flags = known.get("model name", name), set(known.get("flags", "").split())
    except OSError:
        pass
    features = (
        ", ".join(feature for flag, feature in FEATURES.items() if flag in flags)
        or "no vector extensions that are known"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{name} ({features}), {os.cpu_count()} cores, {memory:.0f} GB memory; {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}, PyTorch {torch.__version__} on the CPU with {torch.get_num_threads()} threads."
    )
