"""The out-of-fold predictions of a cross-validation as arrays over patients and members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .scores import NAN

Row = Mapping[str, Any]

COLUMNS = ("patient", "fold", "seed", "mri_type", "probability", "label")
"""Columns required in every row of out-of-fold predictions."""
_MOST = {"probability": 1.0, "kept": np.inf, "tumour_volume": np.inf}


@dataclass(frozen=True)
class Cohort:
    """Out-of-fold predictions as arrays over patients ``P`` and members ``M`` (modality and seed), both sorted."""

    patients: list[str]  # identifiers ``(P,)``
    labels: np.ndarray  # 0 or 1 ``(P,)``
    folds: np.ndarray  # ``(P,)``, two at least
    members: list[tuple[str, str]]  # modality and seed of each ``(M,)``
    # ``probability``, ``kept`` (slices that were used) and ``tumour_volume`` (ml), ``(P, M)``, NaN where unknown
    tables: dict[str, np.ndarray]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Cohort:
        """Arrange rows, see :func:`scripts.evaluation.summary.summarise`.

        Raises:
            ValueError: for no rows, duplicate rows, a patient with several labels or folds, a single fold, or an invalid
                label, probability, count or volume.
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
        labels, folds = _one_each(rows, "label", place), _one_each(rows, "fold", place)
        if wrong := [(patient, labels[i]) for patient, i in place.items() if labels[i] not in (0, 1)]:
            raise ValueError(f"patient {wrong[0][0]}: label {wrong[0][1]}, expected 0 or 1")
        if len(set(folds)) < 2:
            raise ValueError(
                f"folds {sorted(set(folds))}: expected at least two; each is evaluated with what was fitted on the others"
            )
        tables = {name: np.full((len(patients), len(members)), NAN) for name in _MOST}
        seen = set()
        for row in rows:
            where = place[str(row["patient"])], column[str(row["mri_type"]), str(row["seed"])]
            who = f"patient {row['patient']}, {row['mri_type']}, seed {row['seed']}"
            if where in seen:
                raise ValueError(f"{who}: two rows; expected one, from the fold in which the patient is held out")
            seen.add(where)
            for name, most in _MOST.items():
                value = _number(row.get(name))
                if not np.isnan(value) and not 0 <= value <= most:
                    raise ValueError(f"{who}: {name} {value}, expected 0 to {most}, or None where there is none")
                tables[name][where] = value
        return cls(patients, np.array(labels), np.array(folds), members, tables)

    @property
    def mri_types(self) -> list[str]:
        """Modalities, sorted."""
        return sorted({mri_type for mri_type, _ in self.members})

    @property
    def seeds(self) -> list[str]:
        """Seeds, sorted."""
        return sorted({seed for _, seed in self.members})

    def mean_of(self, mri_type: str | None = None, seed: str | None = None, table: str = "probability") -> np.ndarray:
        """Mean ``(P,)`` over the members of a modality, a seed, both, or all; NaN of patients who have none."""
        chosen = [mri_type in (None, one) and seed in (None, other) for one, other in self.members]
        values = self.tables[table][:, chosen]
        there = ~np.isnan(values)
        counts = there.sum(axis=1)
        return np.where(counts > 0, np.where(there, values, 0.0).sum(axis=1) / np.maximum(counts, 1), NAN)


def _number(value: Any) -> float:
    return NAN if value is None or value == "" else float(value)


def _one_each(rows: Sequence[Row], name: str, place: Mapping[str, int]) -> list[int]:
    """The whole number that all rows of a patient have in a column, in the patients' order."""
    found: dict[str, int] = {}
    for row in rows:
        patient, number = str(row["patient"]), _number(row[name])
        if number != np.rint(number):
            raise ValueError(f"patient {patient}: {name} {row[name]!r}, expected a whole number")
        if found.setdefault(patient, int(number)) != number:
            raise ValueError(
                f"patient {patient}: {name} {found[patient]} and {int(number)}; expected the same in all rows, with the same folds "
                "for all modalities and seeds"
            )
    return [found[patient] for patient in place]


def subgroup_masks(rows: Sequence[Row], name: str, patients: Sequence[str]) -> dict[str, np.ndarray]:
    """Which patients have each value of a column, bool ``(P,)``; ``unknown`` are those without one."""
    values: dict[str, str] = {}
    for row in rows:
        if (value := row.get(name)) in (None, ""):
            continue
        patient, value = str(row["patient"]), str(value)
        if values.setdefault(patient, value) != value:
            raise ValueError(f"patient {patient}: {name} {values[patient]!r} and {value!r}; expected one per patient")
    column = np.array([values.get(patient, "unknown") for patient in patients])
    return {str(value): column == value for value in np.unique(column)}
