"""The guard against leaks: no person may be both trained on and evaluated on, under whatever name.

A person is known by the identifier that the data list gives, by the ``group`` there, by the DICOM PatientID, by the pixels of each
series, so that a renamed copy is found as well, and by its appearance, so that a copy on another grid is.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..identifiers import lookup, person
from . import fingerprints

logger = logging.getLogger(__name__)

SHOWN = 20
"""Leaking pairs that an error names."""
PLACEHOLDER = 5
"""A PatientID shared by more patients than this is a placeholder from anonymisation."""
LOOKS = "looks of a series"
"""Evidence that is compared, not equal: ``<modality> <fingerprint>``, see :mod:`scripts.evaluation.fingerprints`."""
_INTEGERS = 1 << 16
_BLOCK = 1 << 20

Identities = Mapping[str, Mapping[str, set[str]]]
"""Identifying marks of each patient, by kind of evidence: identifier, group, DICOM PatientID, pixels and looks of a series."""


class LeakError(UserError):
    """The same person on both sides."""


def pixel_fingerprint(image: np.ndarray) -> str:
    """A checksum of how often each value occurs in a series, whatever the order and direction of its slices.

    A copy under another name, a NIfTI conversion that keeps the values, or a series turned or mirrored has the same one.
    """
    values, counts = _occurrences(np.asarray(image, dtype=np.float32).ravel(order="K"))
    digest = hashlib.sha256(values.tobytes())
    digest.update(counts.astype(np.int64).tobytes())
    return digest.hexdigest()[:32]


def _occurrences(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``np.unique(image, return_counts=True)``, many times faster where the values are integers, as scanners write them."""
    low, high = (float(image.min()), float(image.max())) if image.size else (0.0, 0.0)
    if low.is_integer() and high - low < _INTEGERS:
        counts = np.zeros(int(high - low) + 1, dtype=np.int64)
        for start in range(0, image.size, _BLOCK):
            block = image[start : start + _BLOCK]
            places = (block - np.float32(low)).astype(np.int64)
            if (places + low != block).any():  # a fraction, even one too small to show in the difference
                break
            counts += np.bincount(places, minlength=len(counts))
        else:
            there = np.flatnonzero(counts)
            return (there + low).astype(np.float32), counts[there]
    return np.unique(image, return_counts=True)


def anonymous(identifier: str) -> str:
    """A checksum in place of an identifier that must not be written into a file; empty for an empty one."""
    text = str(identifier).strip()
    return hashlib.sha256(text.encode()).hexdigest()[:32] if text else ""


def identities(
    entries: Iterable[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]] = ()
) -> dict[str, dict[str, set[str]]]:
    """The identifying marks of the patients of a data list, see :data:`Identities`.

    Args:
        entries: of the data list.
        rows: of the index of their prepared series, with ``pixels``, ``looks`` and ``person``.
    """
    found: dict[str, dict[str, set[str]]] = {}
    owners: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        marks = found.setdefault(entry["patient"], defaultdict(set))
        marks["identifier"].add(person(entry["patient"]))
        if entry.get("group") is not None:
            marks["group"].add(str(entry["group"]))
    for row in rows:
        if row["patient"] not in found:
            continue
        if row.get("pixels"):
            found[row["patient"]]["pixels of a series"].add(row["pixels"])
        if row.get("looks"):
            found[row["patient"]][LOOKS].add(f"{row['mri_type']} {row['looks']}")
        if row.get("person"):
            owners[row["person"]].add(row["patient"])
    for mark, patients in owners.items():
        if len(patients) > PLACEHOLDER:
            logger.warning("%d patients have the same DICOM PatientID: it is taken as a placeholder", len(patients))
            continue
        for patient in patients:
            found[patient]["DICOM PatientID"].add(mark)
    return found


def find_leaks(first: Identities, second: Identities) -> dict[tuple[str, str], list[str]]:
    """The evidence that a patient of the one side and one of the other are the same person, by the two, sorted."""
    owners: dict[tuple[str, str], list[str]] = defaultdict(list)
    for patient, evidence in second.items():
        for kind, marks in _equal(evidence):
            for mark in marks:
                owners[kind, mark].append(patient)
    shared: dict[tuple[str, str], set[str]] = defaultdict(set)
    for patient, evidence in first.items():
        for kind, marks in _equal(evidence):
            for mark in marks:
                for other in owners.get((kind, mark), ()):
                    shared[patient, other].add(kind)
    for pair, mri_type, alike in _alike(_looks(first), _looks(second)):
        shared[pair].add(f"looks the same in {mri_type}, similarity {alike:.2f}")
    return {pair: sorted(kinds) for pair, kinds in sorted(shared.items())}


def _equal(evidence: Mapping[str, set[str]]) -> list[tuple[str, set[str]]]:
    """The evidence of which equal marks are the same person."""
    return [(kind, marks) for kind, marks in evidence.items() if kind != LOOKS]


def _looks(side: Identities) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((patient, mark) for patient, evidence in side.items() for mark in evidence.get(LOOKS, ())))


@functools.lru_cache(maxsize=32)  # the models of a fold have the same patients
def _alike(
    first: tuple[tuple[str, str], ...], second: tuple[tuple[str, str], ...]
) -> list[tuple[tuple[str, str], str, float]]:
    """The pairs of patients who have a series that looks the same, its modality and the similarity."""
    sides: list[dict[str, list[tuple[str, str]]]] = []
    for side in (first, second):
        sides.append(defaultdict(list))
        for patient, mark in side:
            mri_type, looks = mark.split(" ", 1)
            sides[-1][mri_type].append((patient, looks))
    found = []
    for mri_type in sorted(sides[0].keys() & sides[1].keys()):
        mine, theirs = (side[mri_type] for side in sides)
        similar = fingerprints.similarity([looks for _, looks in mine], [looks for _, looks in theirs])
        for one, other in np.argwhere(similar >= fingerprints.SAME):
            found.append(((mine[one][0], theirs[other][0]), mri_type, float(similar[one, other])))
    return found


def refuse_leaks(first: Identities, second: Identities, sides: Sequence[str], remedy: str) -> int:
    """Raise where a person is on both sides, ``sides`` being their names in the message; the number of patients compared.

    Raises:
        LeakError: naming the pairs, the evidence, and the ``remedy``.
    """
    leaks = [
        f"{one if one == other else f'{one} and {other}'} ({', '.join(evidence)})"
        for (one, other), evidence in find_leaks(first, second).items()
    ]
    if leaks:
        more = f" and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else ""
        raise LeakError(
            f"{len(leaks)} {'leak' if len(leaks) == 1 else 'leaks'} between {sides[0]} and {sides[1]}: "
            f"{'; '.join(leaks[:SHOWN])}{more}. {remedy}"
        )
    return len(first) + len(second)


# ---------------------------------------------------------------------------------------------------------------------
# the patients that weights were trained on, as their file lists them


def trained_on(
    patients: Iterable[Mapping[str, Any]], start: Mapping[str, Any], otherwise: str | None = None
) -> list[str] | str | None:
    """The patients weights were trained on, for their file: these, and those of the start weights.

    Args:
        patients: entries of the data list that train.
        start: settings of the weights that the training begins with.
        otherwise: the file's entry where there are none.
    """
    names = [*_listed(start), *(str(entry["patient"]) for entry in patients)]
    return list(dict.fromkeys(names)) or otherwise


def _listed(settings: Mapping[str, Any]) -> list[str]:
    listed = settings.get("trained_on")
    return [str(name) for name in listed] if isinstance(listed, (list, tuple)) else []


def trained(patients: Iterable[str], settings: Mapping[str, Any]) -> dict[str, str]:
    """The patients that weights were trained on, ``{patient: name in the weights file}``.

    A number is the same person in all of the challenge's names, as throughout this guard.
    """
    known = lookup({name: name for name in _listed(settings)})
    found = {patient: known(patient) for patient in patients}
    return {patient: name for patient, name in found.items() if name is not None}


def refuse_trained(
    patients: Iterable[str], settings: Mapping[str, Any], file: str | Path, namesakes: bool = False
) -> None:
    """Raise if held-out patients trained the weights in a file with these settings.

    With ``namesakes`` they are different persons with the same names, such as phantoms; then this is only logged.

    Raises:
        LeakError: naming the patients.
    """
    found = trained(patients, settings)
    if not found:
        return
    names = ", ".join(_shown(found))
    if namesakes:
        logger.warning(
            "%s: trained on patients with the names of %s; treated as different persons (--namesakes)", file, names
        )
        return
    raise LeakError(
        f"{file}: was trained on {len(found)} of the patients that it is to be evaluated on: {names}. Leave them out of the data list; or, "
        "if they are different persons with the same names, add --namesakes True"
    )


def name_trained(
    patients: Iterable[str],
    settings: Mapping[str, Any],
    file: str | Path,
    namesakes: bool = False,
    hidden: bool = False,
) -> list[str]:
    """The patients that the segmenter was trained on, unless ``namesakes`` (see :func:`refuse_trained`).

    The log names them, unless names are ``hidden``, because their masks are better than other patients'.
    """
    found = {} if namesakes else trained(patients, settings)
    if found:
        logger.warning(
            "%s: was trained on %d of these patients: %s. Their masks are better than those of new patients: leave them out of "
            "figures that should hold for new patients; or, if they are different persons with the same names, add --namesakes True",
            file,
            len(found),
            "names are left out (--deidentify)" if hidden else ", ".join(_shown(found)),
        )
    return sorted(found)


def _shown(found: Mapping[str, str]) -> list[str]:
    names = [mine if mine == theirs else f"{mine} ({theirs} there)" for mine, theirs in sorted(found.items())]
    return names[:SHOWN] + ([f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else [])
