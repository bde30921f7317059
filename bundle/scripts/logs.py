"""Log lines that stay lines: no name controls the terminal or begins a new line; loggers silenced for a while. Standard library only."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .files import escaped

OURS = ("scripts", "radiogenomics", "custom_transforms")
"""Loggers, with all below them, whose messages contain names from data."""


def keep_lines_whole() -> None:
    """From now on show control characters in the values of our loggers' messages as ``\\n``, ``\\x1b``, with any handlers."""
    earlier = logging.getLogRecordFactory()
    if getattr(earlier, "keeps_lines_whole", False):
        return

    def record_of(*args: Any, **more: Any) -> logging.LogRecord:
        record = earlier(*args, **more)
        if record.name.split(".", 1)[0] in OURS and isinstance(record.args, tuple):
            record.args = tuple(one if isinstance(one, (int, float)) else escaped(str(one)) for one in record.args)
        return record

    record_of.keeps_lines_whole = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record_of)


@contextmanager
def from_level(name: str, level: int) -> Iterator[None]:
    """Silence a logger below a level meanwhile."""
    logger = logging.getLogger(name)
    earlier = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(earlier)
