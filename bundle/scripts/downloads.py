"""Downloads: over HTTPS only, whole or not at all, and tested before use; and the checksums of shipped files."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from .errors import UserError
from .files import parse_yaml
from .model_files import WeightsError, read_weights, sha256
from .outputs import inside

logger = logging.getLogger(__name__)

SHIPPED = {
    "segmentation.pt": "a9b883024a0eb8376f9f84396fb726ed58d6aa1060087e835a3cc6cfe3e61c9d",
    "calibration.npz": "39e02a0be3ddec2276e259479fe4003b79bff5d5aba5bd27d8808db1a4884909",
}
"""SHA-256 of the files in ``models`` of the bundle as it is published."""
LARGEST = 4 << 30
"""Bytes of a file that is fetched, at most."""
_BLOCK, _ATTEMPTS, _PATIENCE = 1 << 20, 5, 60  # bytes, tries, seconds


class DownloadError(UserError, OSError):
    """A file that can't be fetched, or has unexpected content."""


def shipped(models: str | Path) -> dict[str, str]:
    """For each shipped file whether it is present as published: ``as published``, ``another file`` or ``missing``."""
    found = {}
    for name, known in SHIPPED.items():
        file = Path(models) / name
        found[name] = "missing" if not file.is_file() else "as published" if sha256(file) == known else "another file"
    return found


def download_all(bundle: str | Path) -> list[Path]:
    """Fetch all missing files of ``large_files.yml``, and test each; returns the files.

    Raises:
        DownloadError: when one can't be fetched, differs from its checksum in the list, or is not a weights file.
    """
    listed = parse_yaml((Path(bundle) / "large_files.yml").read_text(encoding="utf-8"))["large_files"]
    return [_download(entry, inside(bundle, entry["path"])) for entry in listed]


def _download(entry: Mapping[str, Any], file: Path) -> Path:
    expected = entry.get("hash_val") or None
    if expected and entry.get("hash_type", "sha256") != "sha256":
        raise DownloadError(f"{entry['path']}: large_files.yml gives a checksum of another kind, expected sha256")
    if file.is_file():
        if expected and sha256(file) != expected:
            raise DownloadError(f"{file}: its SHA-256 differs from large_files.yml; remove it, and download again")
        logger.info("%s is there", file)
        return file
    if urlsplit(entry["url"]).netloc == "drive.google.com":
        from monai.apps import download_url

        download_url(entry["url"], filepath=file, hash_val=expected, hash_type="sha256")
    else:
        fetch(entry["url"], file, expected)
    try:
        read_weights(file)
    except WeightsError as error:
        file.unlink()
        raise DownloadError(f"{entry['url']}: the download is not a weights file, and was removed: {error}") from error
    note = "as large_files.yml says" if expected else "its authors published no checksum; note this one"
    logger.info("%s: SHA-256 %s (%s)", file, sha256(file), note)
    return file


def fetch(url: str, file: str | Path, expected: str | None = None, largest: int = LARGEST) -> Path:
    """Fetch one file, whole or not at all; an interrupted attempt is continued, if the file is still the same.

    Args:
        url: ``https://…``; plain HTTP of this machine itself.
        file: where it goes; folders are made.
        expected: SHA-256; None where it is not known.
        largest: bytes at most.

    Raises:
        DownloadError: for another kind of address, also after a redirect; when the connection breaks repeatedly, the file is too large,
            or its checksum differs.
    """
    _check(url, url)
    target = Path(file)
    part = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in reversed(range(_ATTEMPTS)):
        before = part.stat().st_size if part.is_file() else 0
        try:
            if _continue(url, part, largest):
                break
            error: Exception = OSError("the connection ended too early")
        except urllib.error.HTTPError as refused:
            raise DownloadError(
                f"{url}: the server answers {refused.code} ({refused.reason}); try again later"
            ) from None
        except (OSError, urllib.error.URLError) as broken:
            if isinstance(broken, DownloadError):
                _forget(part)
                raise
            error = broken
        if not left or (part.is_file() and part.stat().st_size) == before == 0:
            raise DownloadError(
                f"{url}: can't be fetched ({error}); the same command continues where it stopped"
            ) from error
    digest = sha256(part)
    if expected and digest != expected:
        _forget(part)
        raise DownloadError(
            f"{url}: found SHA-256 {digest}, expected {expected}: the file has changed; nothing was kept"
        )
    os.replace(part, target)
    _forget(part)
    return target


def _check(url: str, asked: str) -> None:
    """Refuse unencrypted transfers, except within this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    try:
        if parts.scheme == "http" and ipaddress.ip_address(parts.hostname or "").is_loopback:
            return
    except ValueError:
        pass
    way = "" if url == asked else f" leads to {url}, which"
    raise DownloadError(
        f"{asked}:{way} is not an https:// address, expected one, because others could alter the download"
    )


class _Checked(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check(newurl, req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _continue(url: str, part: Path, largest: int) -> bool:
    """Fetch the missing part of a file; returns whether it is complete."""
    known = _read_note(part)
    have = part.stat().st_size if known and part.is_file() else 0
    headers = {"User-Agent": "radiogenomics"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": known}
    try:
        answer = urllib.request.build_opener(_Checked).open(
            urllib.request.Request(url, headers=headers), timeout=_PATIENCE
        )
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the partial file is longer than the file
            _forget(part)
            return False
        raise
    with answer:
        if answer.status != 206 or not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if str(length).isdecimal() else None
        if total is not None and total > largest:
            raise DownloadError(f"{url}: has {total:,} bytes, expected at most {largest:,}; nothing was kept")
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        _note(part).write_text(json.dumps("" if mark.startswith("W/") else mark), encoding="utf-8")
        with open(part, "ab" if have else "wb") as stream:
            _copy(answer, stream, url, largest, have)
    return total is None or part.stat().st_size == total


def _copy(answer: Any, stream: IO[bytes], url: str, largest: int, have: int) -> None:
    while block := answer.read(_BLOCK):
        have += len(block)
        if have > largest:
            raise DownloadError(f"{url}: has more than {largest:,} bytes; nothing was kept")
        stream.write(block)


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path) -> str:
    try:
        found = json.loads(_note(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return found if isinstance(found, str) else ""


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)
