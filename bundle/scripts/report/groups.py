"""Patients' probabilities by one model each, from the rows of a ``predictions.csv``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .tables import as_number


@dataclass(frozen=True)
class Group:
    """Probabilities of patients by one model, a modality's or the mean of all."""

    name: str  # modality, or "all"
    patients: list[str]  # identifiers
    labels: np.ndarray  # ``(P,)`` 0 or 1
    probabilities: np.ndarray  # ``(P,)`` of label 1, the mean over seeds
    folds: list[str]  # ``(P,)`` in which a patient was held out, "" where unknown


def groups_of(rows: Sequence[Mapping[str, str]]) -> list[Group]:
    """The models' probabilities in the rows of a ``predictions.csv``, the mean of all modalities last.

    An evaluation has a row per patient with a column per modality, a cross-validation a row per patient, modality, fold and
    seed with the columns ``probability`` and ``mri_type``.
    """
    values: dict[str, dict[str, list[float]]] = {}
    labels: dict[str, int] = {}
    folds: dict[str, str] = {}
    for row in rows:
        if not row.get("label"):
            continue
        patient = row["patient"]
        labels[patient], folds[patient] = int(float(row["label"])), row.get("fold") or ""
        if "probability" in row:
            chances = {row["mri_type"]: row["probability"]}
        else:
            chances = {key: value for key, value in row.items() if key not in ("patient", "label", "fold")}
        for name, text in chances.items():
            if np.isfinite(value := as_number(text)):
                values.setdefault(name, {}).setdefault(patient, []).append(value)
    means = {name: {patient: float(np.mean(found)) for patient, found in of.items()} for name, of in values.items()}
    if means:
        of_all = means.pop("all", None)
        if of_all is None:  # modalities that a patient has count alike
            each = {patient: [of[patient] for of in means.values() if patient in of] for patient in labels}
            of_all = {patient: float(np.mean(found)) for patient, found in each.items() if found}
        means["all"] = of_all
    groups = []
    for name, of in means.items():
        patients = [patient for patient in labels if patient in of]
        truth = np.array([labels[patient] for patient in patients], dtype=int)
        chance = np.array([of[patient] for patient in patients], dtype=float)
        groups.append(Group(name, patients, truth, chance, [folds[patient] for patient in patients]))
    return groups
