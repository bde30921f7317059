"""Files written whole or not at all, so that an interruption leaves no partial file. Standard library only."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import platform
import re
import shutil
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import UserError

RESEARCH_ONLY = "Research use only. Not for diagnosis."
"""The note in every table, page and mask; in the header of a NIfTI file, ``descrip``, it distinguishes our masks from images."""

_GO_ON = "then start the same command again"
_IN_THE_WAY = {
    errno.ENOSPC: f"no space is left on its disk; free some, {_GO_ON}",
    getattr(errno, "EDQUOT", errno.ENOSPC): f"the disk quota is used up; free some space, {_GO_ON}",
    errno.EROFS: f"its disk is read-only; make it writable, {_GO_ON}, or name another folder",
    errno.EACCES: f"no permission to write; ask for it, {_GO_ON}, or name another folder",
    errno.EPERM: f"no permission to write; ask for it, {_GO_ON}, or name another folder",
}
# messages of libraries that keep no errno: HDF5; torch.save; numpy.save
_ERROR_NUMBER = re.compile(
    r"errno = (\d+)|\[Errno (\d+)\]|(PytorchStreamWriter failed writing|unexpected pos \d+ vs|\d+ requested and \d+ written)"
)


class WriteError(UserError):
    """A folder that can't be written to: its disk is full or read-only, or there is no permission. Not a fault of the data."""

    def __init__(self, message: str) -> None:
        # a loader hands on what its worker raised as the text of a traceback
        super().__init__(message.rstrip().rsplit(f"{type(self).__name__}: ", 1)[-1])


def write_error(error: BaseException, folder: str | Path, file: Path | None = None) -> WriteError | None:
    """The error that says why a folder can't be written to; None where ``error`` has another reason.

    Args:
        error: of writing something, or one that was raised from it.
        folder: that is named.
        file: that was written; without it, missing permission counts only for files in the folder, because reading is another matter.
    """
    one: BaseException | None = error
    seen: set[int] = set()
    while one is not None and id(one) not in seen:  # causes and contexts may be circular
        seen.add(id(one))
        if isinstance(one, WriteError):
            return one
        number = one.errno if isinstance(one, OSError) else None
        match = _ERROR_NUMBER.search(str(one)) if number is None and isinstance(one, (OSError, RuntimeError)) else None
        if match:
            number = errno.ENOSPC if match[3] else int(match[1] or match[2])
        named = getattr(one, "filename", None)
        named = Path(os.fsdecode(named)) if isinstance(named, (str, bytes, os.PathLike)) else None
        if number in (errno.EACCES, errno.EPERM) and not (file and named in (None, file)):
            number = number if named and Path(folder) in (named, *named.parents) else None
        if number in _IN_THE_WAY:
            return WriteError(f"{folder}: {_IN_THE_WAY[number]}")
        one = one.__cause__ or one.__context__
    return None


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A path to write to in place of ``path``, which the written file replaces at the end of the block; folders are made.

    It is a hidden file beside ``path`` that ends with its name, because some writers depend on the suffix, and holds this machine's name and
    the number of this process, because several may write the same file. When the block fails it is removed, and what was at ``path``
    stays; :func:`remove_leftovers` removes those of killed processes.

    Raises:
        WriteError: when the folder can't be written to.
    """
    target = Path(path)
    temporary = target.with_name(f".{platform.node()}.{os.getpid()}.{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:
        known = write_error(error, target.parent, temporary)
        if known is None or known is error:
            raise
        raise known from error
    finally:
        with contextlib.suppress(OSError):  # of a disk that is read-only now
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written_whole(path: str | Path) -> Iterator[Path]:
    """A new folder to write to in place of ``path``, which it replaces, with all that is in it, at the end of the block.

    When the block fails the new folder is removed, and what was at ``path`` stays.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, earlier = (
        target.with_name(f".{platform.node()}.{os.getpid()}.{part}.{target.name}") for part in ("new", "old")
    )
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        if target.exists():
            target.rename(earlier)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if earlier.exists() and not target.exists():
            earlier.rename(target)
        shutil.rmtree(earlier, ignore_errors=True)


def remove_leftovers(folder: str | Path) -> None:
    """Remove partial files that killed processes of this machine left in or below a folder."""
    made_here = re.compile(rf"\.{re.escape(platform.node())}\.(\d{{1,9}})\..+")
    for place, _, names in os.walk(folder):
        for name in names:
            match = made_here.fullmatch(name)
            if match and is_dead(int(match[1])):
                with contextlib.suppress(OSError):
                    Path(place, name).unlink(missing_ok=True)


def is_dead(process: int) -> bool:
    """Whether no process of this machine has that number; False where this can't be tested safely."""
    try:
        if os.name == "posix":
            os.kill(process, 0)  # sends nothing; a PermissionError: another user's process
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


def is_path(value: Any) -> bool:
    """Whether a value is a text that a path may be."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeError:
        return False
    return True


class FileError(UserError):
    """A file without the expected content."""


def read_json(file: str | Path, remedy: str) -> Any:
    """The content of a JSON file.

    Args:
        file: the file, in UTF-8.
        remedy: the end of the message if it can't be read.

    Raises:
        FileError: when it can't be read, or is not JSON; that includes numbers of thousands of digits and lists nested by the thousand.
    """
    try:
        return json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{file}: not readable JSON ({one_line(error)}); {remedy}") from error


def read_note(file: str | Path) -> dict[str, Any]:
    """The object in a JSON file that a run keeps for itself; empty where there is none, or something else."""
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def one_line(text: object, most: int | None = 300) -> str:
    """A text, or the message of an error, on one line of at most so many letters, :func:`escaped`."""
    line = escaped(" ".join(str(text).split()))
    return line if most is None or len(line) <= most else f"{line[: most - 1]}…"


def write_json(content: Any, file: str | Path) -> None:
    """Write JSON, whole or not at all; folders are made."""
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# Text that a spreadsheet would run, as OWASP warns; negative numbers written as text are excepted.
_FORMULA = re.compile(r"(?!-(\d+\.?\d*(e[+-]?\d+)?|inf)$)'*[=+\-@\t\r]")


DEEPEST = 100
"""Deepest nesting of lists and mappings in a YAML file."""


def parse_yaml(text: str) -> Any:
    """Plain values written in YAML, by libyaml where PyYAML has it, which takes a seventh of the time.

    Raises:
        yaml.YAMLError: when the text is not YAML, holds more than plain values, or is nested by the hundred.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # safe, both of them
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:  # PyYAML before 6.0.4 lets the process die of it
            raise yaml.YAMLError(f"lists or mappings nested deeper than {DEEPEST}")
    return yaml.load(text, Loader=loader)


def is_formula(text: Any) -> bool:
    """Whether a spreadsheet would run a cell's text, ``=1+1`` or ``@name``, instead of showing it."""
    return isinstance(text, str) and not text.startswith("'") and _FORMULA.match(text) is not None


def escaped(text: str) -> str:
    """A text on one line, in which control characters and those that change the writing direction appear as ``\\n``, ``\\x1b``, ``\\u202e``."""
    return "".join(
        sign.encode("unicode_escape").decode() if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") else sign
        for sign in text
    )


def _shielded(cell: Any) -> Any:
    """A cell that a spreadsheet shows unchanged: an apostrophe before text it would run, and before such apostrophes."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _restored(cell: Any) -> Any:
    """The inverse of :func:`_shielded`."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell) else cell


def read_csv(file: str | Path) -> list[dict[str, str]]:
    """Rows of a CSV as given to :func:`write_csv`."""
    with open(file, newline="", encoding="utf-8-sig") as stream:
        return [{_restored(key): _restored(value) for key, value in row.items()} for row in csv.DictReader(stream)]


def write_csv(
    rows: Sequence[Mapping[str, Any]], file: str | Path, columns: Sequence[str] | None = None, verbatim: bool = False
) -> None:
    """Write rows as CSV, whole or not at all.

    Args:
        rows: values by column.
        file: file to write; folders are made.
        columns: those that are written, whatever else the rows hold; by default those of the first row, and a row with others is
            a ValueError.
        verbatim: for programs that compare texts: no apostrophe before texts that a spreadsheet would run (:func:`is_formula`).
    """
    names = list(columns or rows[0])
    shown = (lambda cell: cell) if verbatim else _shielded
    with written_whole(file) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=names, extrasaction="ignore" if columns else "raise")
        writer.writerow({name: shown(name) for name in names})
        writer.writerows({name: shown(value) for name, value in row.items()} for row in rows)
