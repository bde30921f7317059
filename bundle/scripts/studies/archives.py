"""Studies in a zip file: unpacked into the system's temporary folder while the process runs."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..errors import UserError

MAX_MEMBERS = 3_000_000
"""Files in a zip file; the challenge's whole Task 2 has 400 000."""
MAX_RATIO = 1100
"""Largest expansion of a member; deflate packs at most 1032 bytes into one."""

LARGEST_MEMBER = 1_000_000_000
"""Bytes of an unpacked file: more than any reader accepts."""


class ArchiveError(UserError):
    """A zip file that can't be unpacked."""


def unpacked(source: str | Path) -> Path:
    """The folder of studies: ``source`` itself, or what a zip file holds.

    Raises:
        ArchiveError: when the zip file is damaged or encrypted, a member would leave the folder, or the disk has no room for it.
    """
    path = Path(source).resolve()
    if not path.is_file() or not zipfile.is_zipfile(path):
        return path
    facts = path.stat()
    return _unpack(path, facts.st_size, facts.st_mtime_ns)


@functools.cache
def _unpack(path: Path, size: int, changed: int) -> Path:
    home = Path(tempfile.mkdtemp(prefix="radiogenomics-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    folder = home / path.stem
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check(path, members, shutil.disk_usage(home).free, size)
            for member in members:
                file = Path(archive.extract(member, folder))
                # a resumed prediction identifies files by their times
                stamp = time.mktime((*member.date_time, 0, 0, -1))
                os.utime(file, (stamp, stamp))
    except Exception as error:  # of zipfile and of what decompresses: zlib, bz2 and lzma have errors of their own
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(
            f"{path}: can't be unpacked ({error}). Copy it again, or unpack it and name the folder"
        ) from error
    return folder


def _has_drive(parts: Sequence[str]) -> bool:
    return any(len(part) == 2 and part[0].isalpha() and part[1] == ":" for part in parts)


def _check(path: Path, members: list[zipfile.ZipInfo], free: int, size: int) -> None:
    if len(members) > MAX_MEMBERS:
        raise ArchiveError(
            f"{path}: has {len(members):,} members, expected at most {MAX_MEMBERS:,}; unpack it yourself"
        )
    if sum(member.compress_size for member in members) > size:
        raise ArchiveError(f"{path}: its members overlap, or one declares more bytes than the file has; make it again")
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        if (
            not parts
            or ".." in parts
            or member.filename.startswith(("/", "\\"))
            or ":" in parts[0]
            or _has_drive(parts)
        ):
            raise ArchiveError(
                f"{path}: its member {member.filename!r} would be written outside its folder; unpack it yourself"
            )
        if member.file_size > MAX_RATIO * member.compress_size + 1000:
            raise ArchiveError(
                f"{path}: its member {member.filename!r} declares {member.file_size:,} bytes, more than it can hold"
            )
        if member.file_size > LARGEST_MEMBER:
            raise ArchiveError(
                f"{path}: its member {member.filename!r} declares {member.file_size:,} bytes, expected at most {LARGEST_MEMBER:,}, as no "
                "series of one brain is larger; remove it from the zip file"
            )
    total = sum(member.file_size for member in members)
    if total > 0.9 * free:
        raise ArchiveError(
            f"{path}: unpacked it takes {total / 1e9:.1f} GB, but the folder for temporary files has {free / 1e9:.1f} GB left; "
            "set TMPDIR to a larger one"
        )
