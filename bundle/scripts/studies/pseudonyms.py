"""Patients under pseudonyms: nothing that a run writes or prints names them, and a key is written on request.

A pseudonym is made from the patient's name and the contents of the first image, so that an interrupted run finds it again, and nobody
without the images can try out names.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_csv, write_csv
from ..modalities import MRI_TYPES

logger = logging.getLogger(__name__)

CALLED = "called"
"""Of an entry of a deidentified run: the patient's name; only in memory."""
HIDDEN = "(hidden)"
UNUSABLE = "none of its series can be used; `radiogenomics studies` says why"
NOT_UNDERSTOOD = "some of its images were not recognised; `radiogenomics studies` names them"
_LOOKED_AT = 1 << 20  # bytes of an image
_KEPT_WORDS = {*MRI_TYPES, "seg"}


class KeyFileError(UserError):
    """A key file that can't be written to the requested place."""


def deidentified(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Entries under pseudonyms, without dates, descriptions and UIDs of their studies, sorted by pseudonym; paths stay.

    The original name is under :data:`CALLED`, from which :func:`hide` knows what else to hide.
    """
    given = list(entries)
    marks = [_mark(entry) for entry in given]
    everything = hashlib.sha256("".join(sorted(filter(None, marks))).encode() or os.urandom(32)).hexdigest()
    names = [_name(entry, mark or everything) for entry, mark in zip(given, marks, strict=True)]
    groups: dict[Any, list[str]] = {}
    for entry, name in zip(given, names, strict=True):
        groups.setdefault(entry.get("group"), []).append(name)
    found = [_entry(entry, name, min(groups[entry.get("group")])) for entry, name in zip(given, names, strict=True)]
    return sorted(found, key=lambda entry: entry["patient"])


def _entry(entry: Mapping[str, Any], name: str, first: str) -> dict[str, Any]:
    changed = {**entry, "patient": name, CALLED: entry["patient"]}
    if "group" in entry:
        changed["group"] = f"person_{first.removeprefix('study_')}"
    if "reason" in entry:
        changed["reason"] = UNUSABLE
    if "warnings" in entry:
        changed["warnings"] = [NOT_UNDERSTOOD]
    if "study" in entry:
        rows = [_row(row, entry) for row in entry["study"]["series"]]
        changed["study"] = {**entry["study"], "date": "", "uid": "", "description": "", "series": rows}
    return changed


def _row(row: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    texts = [
        str(one[name]) for one in entry["study"]["series"] for name in ("description", "uid", "taken") if one[name]
    ]
    reason = _without(str(row["reason"]), [*texts, *_names(entry["patient"], [row["files"]])])
    return {**row, "description": "", "uid": "", "taken": "", "reason": reason}


def _name(entry: Mapping[str, Any], mark: str) -> str:
    named = f"{entry['patient']}/{mark}".encode("utf-8", "surrogateescape")
    return f"study_{hashlib.sha256(named).hexdigest()[:12]}"


def _mark(entry: Mapping[str, Any]) -> str:
    """A checksum of a patient's first image; empty where none can be read."""
    places = [entry[name] for name in MRI_TYPES if name in entry]
    places += [row["files"] for row in entry.get("study", {}).get("series", ())]
    for place in places:
        for file in _files(place):
            try:
                with open(file, "rb") as stream:
                    start = stream.read(_LOOKED_AT)
            except OSError:
                continue
            if start:
                return hashlib.sha256(start).hexdigest()
    return ""


def _files(place: str | Sequence[str]) -> list[Path]:
    paths = [Path(place)] if isinstance(place, str) else [Path(file) for file in place]
    if len(paths) == 1 and paths[0].is_dir():
        return sorted(path for path in paths[0].iterdir() if path.is_file())
    return paths


# ---------------------------------------------------------------------------------------------------------------------
# texts


def hide(text: str, item: Mapping[str, Any]) -> str:
    """A text without the patient's name, and those of the folders and files of the series; unchanged where nothing is hidden.

    Args:
        text: a reason or warning.
        item: an entry, or an item made from one, with the paths of series under ``image``, ``study`` or their modalities.
    """
    if CALLED not in item:
        return text
    study = item.get("study")
    places = [item[name] for name in ("image", *MRI_TYPES) if isinstance(item.get(name), (str, list, tuple))]
    places += [study[name] for name in MRI_TYPES if name in study] if isinstance(study, Mapping) else []
    return _without(text, _names(item[CALLED], places))


def _names(patient: str, places: Iterable[str | Sequence[str]]) -> set[str]:
    found = {patient}
    for place in places:
        paths = [Path(place)] if isinstance(place, str) else [Path(file) for file in place]
        for path in {*paths, *_files(place)}:
            found |= {str(path), str(path.parent), path.stem, *path.parts}
    return found


def _without(text: str, names: Iterable[str]) -> str:
    listed = sorted({name for name in names if name.strip("/\\. ") and name not in _KEPT_WORDS}, key=len, reverse=True)
    for name in listed:
        text = re.sub(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", HIDDEN, text)
    return text


def name_of(entry: Mapping[str, Any]) -> dict[str, str]:
    """The original name, which an item from an entry of a deidentified run keeps for :func:`hide`."""
    return {CALLED: entry[CALLED]} if CALLED in entry else {}


@contextmanager
def quiet(hidden: bool = True) -> Iterator[None]:
    """Suppress warnings of study readers, which name files, where names are hidden."""
    earlier = logging.root.manager.disable
    if hidden:
        logging.disable(max(earlier, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(earlier)


# ---------------------------------------------------------------------------------------------------------------------
# the key


def write_key(
    entries: Sequence[Mapping[str, Any]], file: str | Path | None, output_dir: str | Path, overwrite: bool = False
) -> None:
    """Write which patient is which, ``pseudonym,patient``, into a CSV that only its owner may read; nothing without a ``file``.

    Args:
        entries: of the run.
        file: the CSV, which lies outside of the results; one with the same key may exist.
        output_dir: folder of the results.
        overwrite: replace another key.

    Raises:
        KeyFileError: when the run is not deidentified, the file would be inside the results, or another one exists.
    """
    from .. import distributed

    if file is None or not distributed.is_first():
        return
    path = Path(file).expanduser().resolve()
    if not all(CALLED in entry for entry in entries):
        raise KeyFileError(f"key_file {file}: no pseudonyms are given; add --deidentify, or omit it")
    if Path(output_dir).resolve() in path.parents:
        raise KeyFileError(f"key_file {path}: is inside the results in {output_dir}; name a file outside them")
    key = [{"pseudonym": entry["patient"], "patient": entry[CALLED]} for entry in entries]
    if path.exists() and not overwrite:
        if path.is_file() and read_csv(path) == key:
            return
        raise KeyFileError(
            f"key_file {path}: already exists, with another key; name another file, or replace it with --overwrite"
        )
    earlier = os.umask(0o077)
    try:
        write_csv(key, path)
    finally:
        os.umask(earlier)
    logger.info("%s: the key to %d pseudonyms; keep it apart from the results", path, len(key))
