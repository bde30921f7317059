"""Free memory is returned to the system, so that a process that works on many series needs no more than for one."""

from __future__ import annotations

import contextlib
import ctypes


def release() -> None:
    """Return freed memory.

    glibc keeps what lies below memory still in use: a process that reads one series after another grew by some 15 MB
    with each. Other C libraries return it by themselves.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
