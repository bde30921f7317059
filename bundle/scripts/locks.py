"""One run at a time in an output folder: a lock of the operating system, released as soon as its process is gone.

Beside the lock lies a note that names its holder. Both are hidden, and removed when the run ends; those of a killed process by the
next run. Processes that a run starts itself (loader workers, ranks of ``torchrun``) never take the lock. Needs no torch.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import escaped, is_dead, read_note, write_json

logger = logging.getLogger(__name__)

LOCK = ".radiogenomics.lock"
NOTE = ".radiogenomics.lock.note"
FILES = (LOCK, NOTE)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class FolderInUseError(UserError):
    """An output folder that another run is writing into."""


@dataclass
class _Held:
    process: int
    unlock: Callable[[], None]
    made: bool  # the folder, which is removed again if nothing was written into it


_held: dict[Path, _Held] = {}


def acquire(folder: str | Path) -> None:
    """Create an output folder and hold its lock until :func:`release` or the end of the process; repeated calls are free.

    Where the file system has no locks only the note shows another run.

    Raises:
        FolderInUseError: at once, when another process has it.
        OSError: when nothing can be written there.
    """
    place = Path(os.path.realpath(folder))
    if place in _held and _held[place].process == os.getpid():
        return
    made = not place.is_dir()
    place.mkdir(parents=True, exist_ok=True)
    try:
        unlock = _lock(place / LOCK)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            unlock = _without_locks(place)
        elif error.errno in _TAKEN and not isinstance(error, PermissionError):
            raise FolderInUseError(_in_use(place, read_note(place / NOTE))) from None
        else:
            raise
    _held[place] = _Held(os.getpid(), unlock, made)
    write_json(_note(), place / NOTE)


def release(folder: str | Path) -> None:
    """Release the lock of a folder, if this process has it; a folder created for it is removed if empty."""
    place = Path(os.path.realpath(folder))
    held = _held.get(place)
    if held is None or held.process != os.getpid():
        return
    del _held[place]
    with contextlib.suppress(OSError):
        (place / NOTE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        held.unlock()
    if held.made:
        with contextlib.suppress(OSError):
            place.rmdir()


@contextlib.contextmanager
def released_after() -> Iterator[None]:
    """Release at the end of the block the locks taken in it."""
    before = set(_held)
    try:
        yield
    finally:
        for place in set(_held) - before:
            release(place)


@atexit.register
def _release_all() -> None:
    for place in list(_held):
        release(place)


def remove_leftovers(folder: str | Path) -> None:
    """Remove locks and notes of killed processes below a folder."""
    for place, _, names in os.walk(folder):
        if set(FILES) & set(names) and Path(os.path.realpath(place)) not in _held:
            with contextlib.suppress(OSError, UserError):
                acquire(place)
                release(place)


# ---------------------------------------------------------------------------------------------------------------------
# the lock


def _lock(file: Path) -> Callable[[], None]:
    """Lock a file without waiting; return a function that unlocks and removes it. An OSError says what is in the way."""
    if os.name != "posix":
        return _windows_lock(file)
    import fcntl

    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            # of the process, unlike flock: forked processes don't keep it when it dies
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _TAKEN:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(file)) from None
            raise
        if _is_at(descriptor, file):  # else its holder removed it between the two lines
            break
        os.close(descriptor)
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, 0o666)  # otherwise nobody else of a group could continue after its owner was killed

    def unlock() -> None:
        if _is_at(descriptor, file):
            file.unlink()
        os.close(descriptor)

    return unlock


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _windows_lock(file: Path) -> Callable[[], None]:
    from filelock import FileLock, Timeout

    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(file)) from None

    def unlock() -> None:
        lock.release()
        file.unlink(missing_ok=True)

    return unlock


def _without_locks(place: Path) -> Callable[[], None]:
    """Rely on the note; one left by another machine only causes a warning, as nobody can tell whether its process still runs."""
    (place / LOCK).unlink(missing_ok=True)
    other = read_note(place / NOTE)
    process = other.get("process")
    if other.get("host") == platform.node() and isinstance(process, int) and not is_dead(process):
        raise FolderInUseError(_in_use(place, other))
    who = f"; the last run there was {_who(other)}" if other else ""
    logger.warning(
        "%s: this file system has no locks; make sure that no other run writes into the folder%s", place, who
    )
    return lambda: None


# ---------------------------------------------------------------------------------------------------------------------
# the note


def _note() -> dict[str, Any]:
    command = escaped(shlex.join([Path(sys.argv[0] or "python").name, *sys.argv[1:]]))
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return {"process": os.getpid(), "host": platform.node(), "command": command[:300], "since": since}


def _who(note: Mapping[str, Any]) -> str:
    known = {name: escaped(str(note.get(name, "unknown")))[:300] for name in ("process", "host", "command", "since")}
    return f"process {known['process']} on {known['host']}, since {known['since']}: {known['command']}"


def _in_use(place: Path, note: Mapping[str, Any]) -> str:
    who = _who(note) if note else "a process that has just started"
    return f"{place}: another run is writing into this folder ({who}); wait until it has ended, or name another folder"
