"""Seconds that functions and classes are busy, measured from outside: the code that is measured knows nothing of it.

A part's seconds are its own: what another timed part takes within it is counted there alone. They are summed over threads
and forked processes in shared memory, so that parts which run at the same time add up to more than the time on the clock.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any


class Timers:
    """Timed parts.

    Args:
        parts: functions and methods of each part, ``"package.module:Class.method"``.
        started: ``time.time()`` at which the process was asked for; the time from then to the first part is "start-up".

    Raises:
        AttributeError: when something named is not there: better no figure than one of something else.
    """

    def __init__(self, parts: Mapping[str, Sequence[str]], started: float) -> None:
        self.names = list(parts)
        self.started = started
        self._seconds = multiprocessing.get_context("fork").Array("d", len(self.names))
        self._first = multiprocessing.get_context("fork").Value("d", 0.0)
        self._local = threading.local()
        for index, targets in enumerate(parts.values()):
            for target in targets:
                self._wrap(index, target)

    def seconds(self) -> dict[str, float]:
        """Seconds by part, start-up first; parts that were never called are left out."""
        busy = {name: value for name, value in zip(self.names, self._seconds[:], strict=True) if value}
        return {"start-up": (self._first.value or time.time()) - self.started, **busy}

    def _wrap(self, index: int, target: str) -> None:
        owner, name = find(target)
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._enter()
            try:
                return function(*args, **kwargs)
            finally:
                self._leave(index)

        setattr(owner, name, timed)

    def _enter(self) -> None:
        if not self._first.value:
            with self._first.get_lock():
                self._first.value = self._first.value or time.time()
        if not hasattr(self._local, "running"):
            self._local.running = []
        self._local.running.append([time.perf_counter(), 0.0])

    def _leave(self, index: int) -> None:
        began, inner = self._local.running.pop()
        elapsed = time.perf_counter() - began
        if self._local.running:
            self._local.running[-1][1] += elapsed
        with self._seconds.get_lock():
            self._seconds[index] += elapsed - inner


def find(target: str) -> tuple[Any, str]:
    """The module or class that a target is in, and its name there.

    Raises:
        AttributeError: when it is not there.
    """
    module, _, path = target.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for attribute in outer:
        owner = getattr(owner, attribute)
    if not hasattr(owner, name):
        raise AttributeError(f"{target}: there is no {name}; update the timed names in benchmarks/child.py")
    return owner, name
