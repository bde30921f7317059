"""What an entry of a data list may hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .files import is_path, one_line
from .modalities import MRI_TYPES
from .outputs import check_identifier
from .studies.folders import DataListError


def check_entry(entry: Any, section: str, file: str | Path) -> None:
    """Refuse an entry of a data list without a patient, or with an invalid value.

    Raises:
        DataListError: which names the file, the patient and the value.
    """
    if not isinstance(entry, dict) or "patient" not in entry:
        raise DataListError(
            f"{file}: an entry of {section!r} has no 'patient': {one_line(repr(entry))}; expected an object with it"
        )
    patient = entry["patient"]
    if not isinstance(patient, str) or not patient.strip():
        raise DataListError(
            f"{file}: an entry of {section!r} has the patient {one_line(repr(patient))}, expected non-empty text, "
            '"00012" for example; give the identifier in quotes, as the folder of the study is named'
        )
    check_identifier(patient, file)
    for key in (*MRI_TYPES, "seg"):
        value = entry.get(key, "")
        if not is_path(value) and not (isinstance(value, list) and value and all(map(is_path, value))):
            raise DataListError(
                f"{file}: {key} of patient {patient} is {one_line(repr(value))}; expected a path, or a list of the files of one series"
            )
    kinds: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "label": ("0 or 1", lambda value: type(value) is int and value in (0, 1)),
        "fold": ("a whole number", lambda value: type(value) is int),
        "group": ("text or a whole number", lambda value: type(value) in (int, str)),
    }
    for key, (expected, good) in kinds.items():
        if entry.get(key) is not None and not good(entry[key]):
            raise DataListError(
                f"{file}: {key} of patient {patient} is {one_line(repr(entry[key]))}; expected {expected}"
            )
