"""Files that are written whole or not at all, so that an interruption leaves no half of one. Standard library only."""

from __future__ import annotations

import csv
import json
import os
import platform
import re
import shutil
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

RESEARCH_ONLY = "Research use only. Not for diagnosis."
"""What every table, page and mask says; in the header of a NIfTI file, ``descrip``, it tells our masks from images."""


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A path to write to in place of ``path``, which the written file replaces at the end of the block; folders are made.

    It is a hidden file beside ``path`` that ends with its name, as some writers go by the suffix, and holds this machine's name and
    the number of this process, as several may write the same file. When the block fails it is removed, and what was at ``path``
    stays; :func:`remove_leftovers` removes those of killed processes.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{platform.node()}.{os.getpid()}.{target.name}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
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
    """Remove what processes of this machine were writing in a folder, or below it, when they were killed."""
    made_here = re.compile(rf"\.{re.escape(platform.node())}\.(\d{{1,9}})\..+")
    for place, _, names in os.walk(folder):
        for name in names:
            match = made_here.fullmatch(name)
            if match and is_dead(int(match[1])):
                Path(place, name).unlink(missing_ok=True)


def is_dead(process: int) -> bool:
    """Whether no process of this machine has that number; False where there is no harmless way to ask."""
    try:
        if os.name == "posix":
            os.kill(process, 0)  # sends nothing; a PermissionError: it is somebody else's
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


class FileError(UserError):
    """A file that can't be read as what it should be."""


def read_json(file: str | Path, remedy: str) -> Any:
    """What a JSON file holds.

    Args:
        file: the file, in UTF-8.
        remedy: what to do where it can't be read, the end of the message.

    Raises:
        FileError: when it can't be read, or is no JSON: numbers of thousands of digits, or lists in lists by the thousand, among it.
    """
    try:
        return json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{file}: not JSON that can be read ({one_line(error)}); {remedy}") from error


def one_line(text: object, most: int = 300) -> str:
    """A text, or the message of an error, on one line of at most so many letters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def write_json(content: Any, file: str | Path) -> None:
    """Write JSON, whole or not at all; folders are made."""
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# Text that a spreadsheet would run, of which OWASP warns; a negative number that was written as text is none.
_FORMULA = re.compile(r"(?!-(\d+\.?\d*(e[+-]?\d+)?|inf)$)'*[=+\-@\t\r]")


def is_formula(text: Any) -> bool:
    """Whether a spreadsheet would run what a cell holds, ``=1+1`` or ``@name``, instead of showing it."""
    return isinstance(text, str) and not text.startswith("'") and _FORMULA.match(text) is not None


def printable(text: str) -> str:
    """A text of which a terminal shows every character: those that steer it, or turn the direction of writing, become ``\ufffd``."""
    return "".join("\ufffd" if unicodedata.category(sign) in ("Cc", "Cf", "Cs") else sign for sign in text)


def _shielded(cell: Any) -> Any:
    """A cell that a spreadsheet shows as it is: an apostrophe before what it would run, and before such apostrophes."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _restored(cell: Any) -> Any:
    """What :func:`_shielded` was given."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell) else cell


def read_csv(file: str | Path) -> list[dict[str, str]]:
    """Rows of a CSV as :func:`write_csv` was given them."""
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
