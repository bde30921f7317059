"""Commands end within seconds, with one line, on Ctrl-C or SIGTERM (of a scheduler or a container). Standard library only."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

PATIENCE = 4.0
"""Seconds for a command to clean up; then it ends at once, as if killed."""

_GO_ON = {
    **dict.fromkeys(("predict", "segment", "explore", "prepare", "crossvalidate", "volumes", "explain"), ""),
    **dict.fromkeys(("train", "pretrain"), " with --resume"),
}


class Interruption:
    """Waits for signals; see :func:`awaited`.

    Args:
        command: its name, which decides how to continue.
    """

    def __init__(self, command: str = "") -> None:
        how = f"; the same command{_GO_ON[command]} continues where it stopped" if command in _GO_ON else ""
        self.line, self.number = f"interrupted{how}", 0
        self._said = self._over = False
        self._before: dict[int, Any] = {}
        self._shown: Any = None

    @property
    def status(self) -> int:
        """The exit status, as in shells: 128 plus the signal's number."""
        return 128 + (self.number or signal.SIGINT)

    def say(self) -> None:
        """Report once that the command was interrupted; only the first of several processes does."""
        if not self._said and int(os.environ.get("RANK") or 0) == 0:
            self._said = True
            with suppress(OSError, ValueError):
                sys.stdout.flush()  # earlier output comes first
                print(line_break() + self.line, file=sys.stderr, flush=True)

    def install(self) -> None:
        """Take over the signals, in the main thread."""
        self._shown, sys.unraisablehook = sys.unraisablehook, self._show_ignored
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._arrived)
        if os.name == "posix":
            os.register_at_fork(after_in_child=self._restore)  # forked processes keep the default behaviour
            reading, self._writing = os.pipe()
            os.set_blocking(self._writing, False)
            # a signal handler waits until the interrupted code returns to Python; this thread does not
            signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reading,), daemon=True).start()

    def uninstall(self) -> None:
        """Restore what was taken over."""
        self._over = True
        if sys.unraisablehook == self._show_ignored:
            sys.unraisablehook = self._shown
        self._restore()

    def _restore(self) -> None:
        """Restore the signals."""
        if self._before and threading.current_thread() is threading.main_thread():
            if os.name == "posix":
                signal.set_wakeup_fd(-1)
                os.close(self._writing)  # which ends the thread
            for number, handler in self._before.items():
                signal.signal(number, handler)
        self._before = {}

    def _show_ignored(self, what: Any) -> None:
        """Show errors that Python ignores, as in ``__del__``, but for an interruption and what follows it: the process ends anyway."""
        if not self.number and not issubclass(what.exc_type, KeyboardInterrupt):
            self._shown(what)

    def _arrived(self, number: int, _: FrameType | None) -> None:
        if self._over:
            return  # the work is done
        if self.number:
            self._leave()  # asked again
        self.number = number
        raise KeyboardInterrupt

    def _watch(self, reading: int) -> None:
        while (arrived := os.read(reading, 1)) and arrived[0] not in (signal.SIGINT, signal.SIGTERM):
            pass
        if not arrived:  # given back
            os.close(reading)
            return
        time.sleep(PATIENCE)
        self.number = self.number or arrived[0]
        self._leave()

    def _leave(self) -> None:
        self.say()
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(self.status)


def line_break() -> str:
    """The prefix of a last line: a line break where a progress bar is unfinished."""
    return "\n" if getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ()) else ""


@contextmanager
def awaited(command: str = "") -> Iterator[None]:
    """Raise a KeyboardInterrupt in the block when the process is asked to end, and make sure that it ends.

    What the block raises from then on, whatever it is, is the interruption's consequence.

    Raises:
        SystemExit: with the status of the signal, once the interruption was reported.
    """
    interruption = Interruption(command)
    try:
        if threading.current_thread() is threading.main_thread():
            interruption.install()
        yield
    except BaseException as error:
        if not interruption.number and not isinstance(error, KeyboardInterrupt):
            raise
        interruption.say()
        raise SystemExit(interruption.status) from None
    finally:
        if not interruption.number:
            interruption.uninstall()
