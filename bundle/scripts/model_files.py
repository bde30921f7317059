"""Weights files: reading them, and their description of the networks.

A weights file of this project is ``{"model": state_dict, "settings": {...}}``, where the settings are everything needed to rebuild
the network and feed it (names of encoder or backbone, image size, sequence length, …). A flat ``state_dict``, as released by the
method's authors, is read too. Files are mapped into memory: a description reads none of the numbers.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .checks import GET_WEIGHTS
from .errors import UserError
from .files import one_line
from .inferers import is_finite

TRAINED_ON_SYNTHETIC = "synthetic brains"
"""The setting ``trained_on`` of weights trained only on synthetic brains."""


class WeightsError(UserError):
    """A weights file that is missing, unreadable, or made for another network."""


@dataclass(frozen=True)
class ModelFile:
    """The description in a weights file, without its numbers."""

    settings: dict[str, Any]  # of the network; empty for a flat file
    shapes: dict[str, tuple[int, ...]]  # of the parameters, by name

    @property
    def is_classifier(self) -> bool:
        """Whether the weights are a classifier's, by the names of their parameters."""
        return any(name.startswith("clf_head.") for name in self.shapes)


def describe(file: str | Path) -> ModelFile:
    """The description in a weights file, without its numbers; an unchanged file is read once.

    Raises:
        WeightsError: as :func:`read_weights`, but for the numbers.
    """
    found = _described(*_version(file))
    return ModelFile(copy.deepcopy(found.settings), found.shapes)


def is_synthetic(file: str | Path) -> bool:
    """Whether weights were trained only on synthetic brains; False for a file that can't be read."""
    return known_settings(file).get("trained_on") == TRAINED_ON_SYNTHETIC


def known_settings(file: str | Path) -> dict[str, Any]:
    """The settings of a weights file; none of a file that can't be read."""
    try:
        return describe(file).settings
    except WeightsError:
        return {}


def read_weights(file: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state dict and the settings (empty for a flat file) of a weights file, read with ``weights_only=True``.

    Raises:
        WeightsError: when there is no such file, it is not a file of weights, or a weight is NaN or infinite.
    """
    state, settings = _read(Path(file))
    room = Path(file).stat().st_size
    for name, value in state.items():  # a few bytes may claim to be terabytes, as a view seen a thousand times
        if value.numel() * value.element_size() > room:
            raise WeightsError(
                f"{file}: parameter {name} of {tuple(value.shape)} is larger than the file of {room} bytes; the file is damaged: download "
                "or copy it again"
            )
    broken = [name for name, value in state.items() if not is_finite(value)]
    if broken:
        first = ", ".join(broken[:3]) + (", …" if len(broken) > 3 else "")
        raise WeightsError(
            f"{file}: {len(broken)} of {len(state)} parameters hold NaN or infinity ({first}), expected finite numbers: the training "
            "that wrote it diverged, or the file is damaged; use other weights, or train again with a smaller --learning_rate"
        )
    # copied, as a process that reads a mapped file while it is written over would be killed
    return {name: value.clone() for name, value in state.items()}, settings


def sha256(file: str | Path | None) -> str | None:
    """Checksum of a file's bytes, None without a file; a file that has not changed is read once."""
    return None if file is None else _digest(*_version(file))


def _version(file: str | Path) -> tuple[str, int, int]:
    """A file, and values that change with its content; 0 where there is no file."""
    try:
        found = os.stat(file)
    except OSError:
        return str(file), 0, 0
    return str(file), found.st_mtime_ns, found.st_size


@lru_cache
def _described(file: str, time: int, size: int) -> ModelFile:
    state, settings = _read(Path(file))
    return ModelFile(settings, {name: tuple(value.shape) for name, value in state.items()})


@lru_cache
def _digest(file: str, time: int, size: int) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """State dict and settings; the tensors stay in the file until they are used."""
    if path.is_dir():
        raise WeightsError(f"{path}: is a folder, expected a weights file; name the file in it")
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file; {GET_WEIGHTS}")
    _check_archive(path)
    try:
        # files of old versions of torch are no archives and can't be mapped
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        # torch's own message has many lines and advises to load the file unsafely
        raise WeightsError(
            f"{path}: not a weights file that can be read safely: {_unreadable(path, str(error))}"
        ) from None
    settings: dict[str, Any] = {}
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        settings, content = content.get("settings", {}), content["model"]
        if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
            raise WeightsError(
                f"{path}: its settings are {one_line(repr(settings))}, expected a mapping from names to values; write the file again"
            )
    if not isinstance(content, Mapping) or not all(map(_is_parameter, content.items())):
        raise WeightsError(
            f"{path}: holds no state dict; expected a mapping from parameter names to tensors, use another file"
        )
    return dict(content), dict(settings)


def _is_parameter(item: tuple[Any, Any]) -> bool:
    """Whether a name and a value are those of a parameter: a plain tensor of real numbers."""
    name, value = item
    plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized
    return isinstance(name, str) and plain and not value.is_complex()


def _check_archive(path: Path) -> None:
    """Refuse an archive that is larger than its file before memory is taken for it: torch.save does not compress."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # no archive, or a damaged one, which torch reports
    if size > path.stat().st_size:
        raise WeightsError(
            f"{path}: not a weights file that can be read safely: its {path.stat().st_size} bytes unpack to {size:,}, expected what "
            "torch.save writes, which is uncompressed; download or copy it again"
        )


def _unreadable(path: Path, said: str) -> str:
    """The fault of a file that torch can't load, from its message ``said``, and the remedy."""
    again = "download or copy it again"
    with open(path, "rb") as stream:
        head = stream.read(60)
    if not head:
        return f"it is empty (0 bytes); {again}"
    refused = re.search(r"GLOBAL (\S+)|(?:class|global|function) (\w[\w.]*\.\w+)", said)
    if refused:
        return (
            f"it holds {refused[1] or refused[2]}, which is not a tensor, and loading it could run code; if you trust its origin, "
            'save its tensors alone: torch.save({"model": state_dict, "settings": {...}}, FILE)'
        )
    size = path.stat().st_size
    if head.startswith(b"PK") and not zipfile.is_zipfile(path):
        return f"it is truncated: {size} bytes, and the end of the archive is missing; {again}"
    if head.startswith(b"PK"):
        return (
            "it is an archive, but not one of weights, or it is damaged; expected what torch.save writes (TorchScript can't be read); "
            + again
        )
    if head.isascii() and " ".join(head.decode("ascii").split()).isprintable():
        return f"it is text that begins with {head.decode('ascii').splitlines()[0]!r}; expected what torch.save writes; {again}"
    return f"its {size} bytes are damaged, or not what torch.save writes; {again}"
