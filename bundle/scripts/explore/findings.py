"""What the facts of all series show together: counts, missing, duplicate or similar series, balance of labels, agreement in space."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np

from ..evaluation import fingerprints
from ..identifiers import person
from ..modalities import MRI_TYPES

LEAST_OVERLAP = 0.5
"""Of the smaller of two series of a patient, that the other shows too; with less they hardly share a field of view."""


def missing(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Patients without all four modalities, ``{"patient", "missing", "reason"}``."""
    rows = []
    for entry in entries:
        lacking = [name for name in MRI_TYPES if name not in entry]
        if lacking:
            remarks = [entry["reason"]] if "reason" in entry else list(entry.get("warnings", []))
            rows.append({"patient": entry["patient"], "missing": ", ".join(lacking), "reason": "; ".join(remarks)})
    return rows


def doubled(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Series of a modality beside the one in use, and why they are not used."""
    return [
        {
            "patient": entry["patient"],
            "mri_type": row["modality"],
            "series": " ".join(filter(None, (str(row["number"] or ""), str(row["description"])))),
            "slices": row["slices"],
            "reason": row["reason"],
        }
        for entry in entries
        for row in entry.get("study", {}).get("series", [])
        if row["modality"] in MRI_TYPES and (not row["chosen"] or row["modality"] not in entry)
    ]


def counted(rows: Iterable[Mapping[str, Any]], key: str) -> list[dict[str, Any]]:
    """Number of series of each modality by value."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if "error" not in row:
            value = row.get(key)
            shown = " x ".join(map(str, value)) if isinstance(value, list) else str(value or "not known")
            found[shown][row["mri_type"]] += 1
    ranked = sorted(found.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    return [
        {key: value, **{name: counts.get(name, 0) for name in MRI_TYPES}, "all": sum(counts.values())}
        for value, counts in ranked
    ]


def balance(entries: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Patients by label: all, by the plane of each modality, by scanner and by field strength; none without labels."""
    labels = {entry["patient"]: int(entry["label"]) for entry in entries if entry.get("label") is not None}
    if not labels:
        return []
    groups: dict[tuple[str, str], set[str]] = {("all", ""): set(labels)}
    for row in rows:
        if row["patient"] in labels and "error" not in row:
            for by, value in (
                (f"plane of {row['mri_type']}", row.get("plane")),
                ("scanner", row.get("scanner")),
                ("field strength", row.get("field_strength") and f"{row['field_strength']:g} T"),
            ):
                if value:
                    groups.setdefault((by, value), set()).add(row["patient"])
    found = []
    for (by, value), patients in sorted(groups.items(), key=lambda one: (one[0][0] != "all", one[0])):
        methylated = sum(labels[patient] for patient in patients)
        found.append(
            {
                "by": by,
                "value": value,
                "patients": len(patients),
                "label_0": len(patients) - methylated,
                "label_1": methylated,
                "share_of_1": round(methylated / len(patients), 3),
            }
        )
    return found


def alike(entries: Iterable[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Pairs of different persons whose series have the same pixels or look the same, most similar first.

    Visits of one person may look the same and are left out.
    """
    who = {one["patient"]: person(str(one.get("group", one["patient"]))) for one in entries}
    found = []
    for mri_type in MRI_TYPES:
        group = [row for row in rows if row["mri_type"] == mri_type and row.get("checksum")]
        similar = fingerprints.similarity(*[[row.get("looks", "") for row in group]] * 2)
        marks = np.array([row["checksum"] for row in group])
        pairs = (similar >= fingerprints.SAME) | (marks[:, None] == marks[None, :]) if len(group) else similar
        for one, other in np.argwhere(np.triu(pairs, 1)):
            first, second = group[one], group[other]
            if who[first["patient"]] != who[second["patient"]]:
                same = first["checksum"] == second["checksum"]
                found.append(
                    {
                        "patient": first["patient"],
                        "other_patient": second["patient"],
                        "mri_type": mri_type,
                        "evidence": "same pixels" if same else "looks the same",
                        "similarity": 1.0 if same else round(float(similar[one, other]), 3),
                    }
                )
    return sorted(found, key=lambda row: -row["similarity"])


def agreement(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each patient with several series the pair with the least overlap in scanner coordinates, least first.

    ``overlap`` is the part of the smaller volume that lies in the other one.
    """
    of_patient: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row.get("affine") and row.get("shape"):
            of_patient[row["patient"]].append(row)
    found = []
    for patient, series in of_patient.items():
        pairs = [(overlap(one, other), one, other) for one, other in combinations(series, 2)]
        if pairs:
            least, one, other = min(pairs, key=lambda pair: pair[0])
            found.append(
                {
                    "patient": patient,
                    "series": len(series),
                    "overlap_least": f"{one['mri_type']} and {other['mri_type']}",
                    "overlap": round(least, 3),
                    "agree": "yes" if least >= LEAST_OVERLAP else "no",
                }
            )
    return sorted(found, key=lambda row: (row["overlap"], row["patient"]))


def overlap(first: Mapping[str, Any], second: Mapping[str, Any], points: int = 12) -> float:
    """The part (0…1) of the smaller of two volumes, each with ``affine`` and ``shape``, that lies within the other."""
    small, large = sorted(
        (first, second), key=lambda one: abs(np.linalg.det(np.array(one["affine"])[:3, :3])) * np.prod(one["shape"])
    )
    steps = [(np.arange(points) + 0.5) / points * n - 0.5 for n in small["shape"]]
    inside = np.array([*product(*steps)])
    homogeneous = np.hstack([inside, np.ones((len(inside), 1))])
    there = (homogeneous @ (np.linalg.inv(np.array(large["affine"])) @ np.array(small["affine"])).T)[:, :3]
    return float(np.all((there >= -0.5) & (there <= np.array(large["shape"]) - 0.5), axis=1).mean())
