"""Identities of patients: one person under the names of several data sets and visits. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

Value = TypeVar("Value")

_VISIT = re.compile(r"(?P<person>sub-[A-Za-z0-9]+|UPENN-GBM-\d+|UCSF-PDGM-\d+)_(?:ses-[A-Za-z0-9]+|\d\d|FU\d+d)")
_IDENTIFIER = re.compile(r"(?:BraTS2021_|BraTS-GLI-)?(?P<number>\d{1,5})(?:-(?P<visit>\d{3}))?")


def patient_number(patient: str) -> int | None:
    """The number by which Task 1 and Task 2 name the same person: 12 for ``BraTS2021_00012``, ``BraTS-GLI-00012-000``, ``00012``.

    None for identifiers of another form.
    """
    match = _IDENTIFIER.fullmatch(str(patient))
    return int(match["number"]) if match else None


def person(patient: str) -> str:
    """The common part of all identifiers of a person: ``12`` for ``00012`` and ``BraTS2021_00012``, ``sub-01`` for ``sub-01_ses-2``.

    Visits are known by their names in BraTS, BIDS, UPENN-GBM (``UPENN-GBM-00012_21``) and UCSF-PDGM (``…_FU003d``); other identifiers are
    their own.
    """
    number = patient_number(patient)
    if number is not None:
        return str(number)
    visit = _VISIT.fullmatch(patient)
    return visit["person"] if visit else patient


def visit_of(patient: str) -> str | None:
    """The visit that an identifier of BraTS names, ``001`` in ``BraTS-GLI-00012-001``."""
    match = _IDENTIFIER.fullmatch(patient)
    return match["visit"] if match else None


def lookup(values: Mapping[str, Value]) -> Callable[[str], Value | None]:
    """A function that finds the value of a patient: by the exact identifier, else by another one of the same person.

    Args:
        values: by patient; of several identifiers of a person the last counts for any other.

    Returns:
        From an identifier to the value, None where the person has none.
    """
    by_person = {person(patient): value for patient, value in values.items()}
    return lambda patient: values.get(patient, by_person.get(person(patient)))
