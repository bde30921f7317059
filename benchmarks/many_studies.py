"""What measured figures imply for many studies: prints the derived tables of ``bundle/docs/speed.md``, which has the formulae."""

from __future__ import annotations

import math
from collections.abc import Sequence

from . import report

STUDIES = (1_000, 100_000, 10_000_000)
SHARD = 10_000  # studies in a job
NIGHT = 8 * 3600  # seconds


def prediction(
    studies: int,
    seconds: float,
    read: float,
    written: float,
    tables: float = 0,
    files: float = 8,
    start: float = 0,
    decode: float = 0,
    efficiency: float = 1,
) -> dict[str, str]:
    """The row of so many studies; arguments as those of :func:`derived`."""
    jobs = math.ceil(studies / SHARD)
    busy = (studies * seconds + jobs * start) / efficiency
    return {
        "studies": f"{studies:,}",
        "jobs": f"{jobs:,}",
        "machine hours": f"{busy / 3600:,.1f}",
        "machines for a night": f"{math.ceil(busy / NIGHT):,}",
        "read": _bytes(studies * read),
        "written": _bytes(studies * (written + tables)),
        "storage, a second": _bytes(studies * (read + written + tables) / NIGHT),
        "cores that only decode": f"{studies * decode / NIGHT:,.1f}",
        "files": f"{studies * files:,.0f}",
        "tables, were it one job": _bytes(studies * tables),
    }


def epoch(
    stage: str, studies: int, seconds: float, items: float, size: float, *, efficiency: float = 1
) -> dict[str, str]:
    """The row of an epoch.

    Args:
        stage: its name.
        studies: that train.
        seconds: of one machine for an item, a slice or a sequence: a step's over its batch.
        items: of a study.
        size: bytes of an item.
        efficiency: of several processes.
    """
    busy = studies * items * seconds / efficiency
    return {
        "an epoch": f"{stage}, {studies:,} studies",
        "machine hours": f"{busy / 3600:,.1f}",
        "machines for a night": f"{math.ceil(busy / NIGHT):,}",
        "read": _bytes(studies * items * size),
    }


def derived(
    seconds: float,
    read: float,
    written: float,
    tables: float = 0,
    files: float = 8,
    start: float = 0,
    decode: float = 0,
    efficiency: float = 1,
    stage1: Sequence[float] | None = None,
    stage2: Sequence[float] | None = None,
    training_efficiency: float = 1,
) -> str:
    """Print the derived tables of ``bundle/docs/speed.md``.

    Args:
        seconds: of one machine for a further study.
        read: bytes of a study that are read.
        written: bytes of prepared series and masks of a study.
        tables: bytes of the tables for a study.
        files: that are written for a study.
        start: seconds until the work of a job begins.
        decode: seconds of one thread to read and decode a study.
        efficiency: of several processes that predict.
        stage1: seconds a slice, slices a study, bytes a slice.
        stage2: seconds a sequence, sequences a study and modality, bytes a sequence.
        training_efficiency: of several processes that train.

    Returns:
        Markdown.
    """
    figures = (seconds, read, written, tables, files, start, decode, efficiency)
    epochs = [
        epoch(stage, studies, *values, efficiency=training_efficiency)
        for stage, values in (("stage 1", stage1), ("stage 2, a modality", stage2))
        if values is not None
        for studies in STUDIES
    ]
    rows = [prediction(studies, *figures) for studies in STUDIES]
    return "\n\n".join(report.table(shown) for shown in (rows, epochs) if shown)


def _bytes(count: float) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e6:,.1f} MB"


if __name__ == "__main__":
    import fire

    fire.Fire(derived)
