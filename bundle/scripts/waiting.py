"""A time limit for reading files that do not respond, as on a stalled network share. Standard library only."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from .errors import UserError

T = TypeVar("T")

READ_TIMEOUT = 900
"""Seconds, unless others are asked for."""
_SETTING = "RADIOGENOMICS_READ_TIMEOUT"  # loader processes have it too, however they are started


class StalledError(UserError):
    """A series whose files do not respond."""


def limit_reading(seconds: float) -> float:
    """Set how long reading a series, or a header, may take in this process and those it starts; 0: no limit.

    Raises:
        ValueError: for a negative or invalid number.
    """
    if not 0 <= float(seconds) < math.inf:
        raise ValueError(f"--read_timeout {seconds}: expected seconds, or 0 for no limit")
    os.environ[_SETTING] = str(float(seconds))
    _stalled.clear()
    return float(seconds)


def reading_limit() -> float:
    """The limit in seconds; 0: none, the default until a job sets one."""
    try:
        return max(float(os.environ.get(_SETTING) or 0), 0.0)
    except ValueError:
        return 0.0


def within_limit(path: str | Path, read: Callable[..., T], *args: Any) -> T:
    """The result or error of ``read(*args)``, within the limit.

    It runs in its own thread, which is abandoned after the limit: nothing else can be done about a system call that does not return.
    Nothing else of the series of an abandoned thread is read.

    Args:
        path: file or folder that is read; a file belongs to its folder, unless it is NIfTI.
        read: a function.
        args: of the function.

    Raises:
        StalledError: after the limit.
    """
    seconds = reading_limit()
    if not seconds:
        return read(*args)
    series = Path(path)
    if not series.name.lower().endswith((".nii", ".nii.gz")) and series.suffix:
        series = series.parent
    message = (
        f"{path}: no answer within {seconds:g} s, the read timeout; check that the disk or network share responds, and start again, "
        "or allow more time (--read_timeout SECONDS, 0 for no limit)"
    )
    if series in _stalled:
        raise StalledError(message)
    reader: _Reader | None = getattr(_mine, "reader", None)
    if reader is None or reader.process != os.getpid():  # threads do not survive a fork
        reader = _mine.reader = _Reader()
    try:
        value, error = reader.ask(read, args, seconds)
    except Empty:
        _mine.reader = None
        _stalled.add(series)
        raise StalledError(message) from None
    if error is not None:
        raise error
    return value


class _Reader:
    """A thread that does one task after another."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._asked: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="reader").start()  # does not keep the process alive

    def ask(self, read: Callable[..., Any], args: tuple[Any, ...], seconds: float) -> tuple[Any, BaseException | None]:
        self._asked.put((read, args))
        return self._answers.get(timeout=seconds)

    def _work(self) -> None:
        while True:
            read, args = self._asked.get()
            answer: tuple[Any, BaseException | None]
            try:
                answer = read(*args), None
            except BaseException as error:
                answer = None, error
            self._answers.put(answer)
            del answer, read, args  # do not keep a volume until the next one


_mine = threading.local()
_stalled: set[Path] = set()
