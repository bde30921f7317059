"""The out-of-fold predictions of a cross-validation as arrays over patients and members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .scores import NAN

Row = Mapping[str, Any]

COLUMNS = ("patient", "fold", "seed", "mri_type", "probability", "label")
"""What every row of out-of-fold predictions has."""


@dataclass(frozen=True)
class Cohort:
    """Out-of-fold predictions as arrays over patients ``P``, members ``M`` (modality and seed) and modalities.

    Attributes:
        patients: in order ``(P,)``.
        labels: 0 or 1 ``(P,)``.
        folds: ``(P,)``.
        members: modality and seed of each ``(M,)``.
        probabilities: ``(P, M)``, NaN where there is none.
        kept: slices that were used, by modality, mean over seeds ``(P,)``, 0 where none is named; empty when no row names any.
        volume: of the tumour in ml ``(P,)``, NaN where it is not known.
    """

    patients: list[str]
    labels: np.ndarray
    folds: np.ndarray
    members: list[tuple[str, str]]
    probabilities: np.ndarray
    kept: dict[str, np.ndarray]
    volume: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Cohort:
        """Arrange rows, see :func:`scripts.evaluation.summary.summarise`.

        Raises:
            ValueError: for no rows, a row twice, a patient with several labels or folds, a value that is no label or
                probability, or a negative volume.
        """
        if not rows:
            raise ValueError("no out-of-fold predictions: expected a row per patient, modality and seed")
        for row in rows:
            if missing := [name for name in COLUMNS if name not in row]:
                raise ValueError(f"row {dict(row)}: lacks {missing}, expected {COLUMNS}")
        patients = sorted({str(row["patient"]) for row in rows})
        members = sorted({(str(row["mri_type"]), str(row["seed"])) for row in rows})
        place = {patient: i for i, patient in enumerate(patients)}
        column = {member: j for j, member in enumerate(members)}
        labels = _one_each(rows, "label", place)
        folds = _one_each(rows, "fold", place)
        if wrong := [(patient, labels[i]) for patient, i in place.items() if labels[i] not in (0, 1)]:
            raise ValueError(f"patient {wrong[0][0]}: label {wrong[0][1]}, expected 0 or 1")
        probabilities, kept, volume = (np.full((len(patients), len(members)), NAN) for _ in range(3))
        seen = set()
        for row in rows:
            where = place[str(row["patient"])], column[str(row["mri_type"]), str(row["seed"])]
            who = f"patient {row['patient']}, {row['mri_type']}, seed {row['seed']}"
            if where in seen:
                raise ValueError(f"{who}: two rows; expected one, of the fold that the patient is held out in")
            seen.add(where)
            for name, table, top in (
                ("probability", probabilities, 1),
                ("kept", kept, np.inf),
                ("tumour_volume", volume, np.inf),
            ):
                value = _number(row.get(name))
                if not np.isnan(value) and not 0 <= value <= top:
                    raise ValueError(f"{who}: {name} {value}, expected 0 to {top}, or None where there is none")
                table[where] = value
        by_modality: dict[str, np.ndarray] = {}
        if not np.isnan(kept).all():
            for mri_type in sorted({name for name, _ in members}):
                chosen = [name == mri_type for name, _ in members]
                by_modality[mri_type] = np.nan_to_num(_mean_there(kept[:, chosen]))
        return cls(
            patients, np.array(labels, dtype=np.int64), np.array(folds), members, probabilities, by_modality,
            _mean_there(volume),
        )  # fmt: skip

    @property
    def mri_types(self) -> list[str]:
        """Modalities, sorted."""
        return sorted({mri_type for mri_type, _ in self.members})

    @property
    def seeds(self) -> list[str]:
        """Seeds, sorted."""
        return sorted({seed for _, seed in self.members})

    def mean_of(self, mri_type: str | None = None, seed: str | None = None) -> np.ndarray:
        """Mean probability of the members of a modality, a seed, or both ``(P,)``; NaN of patients who have none."""
        chosen = [mri_type in (None, one) and seed in (None, other) for one, other in self.members]
        return _mean_there(self.probabilities[:, chosen])


def _number(value: Any) -> float:
    return NAN if value is None or value == "" else float(value)


def _mean_there(table: np.ndarray) -> np.ndarray:
    there = ~np.isnan(table)
    counts = there.sum(axis=1)
    return np.where(counts > 0, np.where(there, table, 0.0).sum(axis=1) / np.maximum(counts, 1), NAN)


def _one_each(rows: Sequence[Row], name: str, place: Mapping[str, int]) -> list[int]:
    """What every row of a patient says of it, a whole number, in the patients' order."""
    found: list[int | None] = [None] * len(place)
    for row in rows:
        i, number = place[str(row["patient"])], _number(row[name])
        if number != np.rint(number):
            raise ValueError(f"patient {row['patient']}: {name} {row[name]!r}, expected a whole number")
        value = int(number)
        if found[i] not in (None, value):
            raise ValueError(
                f"patient {row['patient']}: {name} {found[i]} and {value}; expected the same in all rows, with the same folds for "
                "all modalities and seeds"
            )
        found[i] = value
    return [value for value in found if value is not None]


def subgroup_masks(rows: Sequence[Row], name: str, patients: Sequence[str]) -> dict[str, np.ndarray]:
    """Which patients have each value of a column, bool ``(P,)``; ``unknown`` are those without one."""
    values: dict[str, str] = {}
    if not any(name in row for row in rows):
        raise ValueError(f"subgroup {name!r}: no row has such a column, only {sorted(rows[0])}")
    for row in rows:
        if (value := row.get(name)) in (None, ""):
            continue
        if values.setdefault(str(row["patient"]), str(value)) != str(value):
            raise ValueError(
                f"patient {row['patient']}: {name} {values[str(row['patient'])]!r} and {str(value)!r}; expected one per patient"
            )
    column = np.array([values.get(patient, "unknown") for patient in patients])
    return {str(value): column == value for value in np.unique(column)}
