"""The final table of patients that a command prints."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .files import one_line
from .run_folder import failures_of

SHOWN_PATIENTS = 20
"""Rows of the table at most."""


def volumes_by_patient(volumes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Volumes of the whole tumour in ml by patient and modality."""
    found: dict[str, dict[str, float]] = {}
    for row in volumes:
        if "whole_tumour_ml" in row:
            found.setdefault(row["patient"], {})[row["mri_type"]] = float(row["whole_tumour_ml"])
    return found


def show_patients(rows: Sequence[Mapping[str, Any]], volumes: Sequence[Mapping[str, Any]], file: str) -> None:
    """Print the first patients of a result as a table.

    Args:
        rows: as :meth:`PatientResults.patient_rows` gives them; without ``probability`` where none was predicted.
        volumes: from :func:`series_volumes`; that of FLAIR is shown, or else of the first series.
        file: the one with all patients.
    """
    predicted = any("probability" in row for row in rows)
    lines = [["patient", *(["probability"] if predicted else []), "modalities", "tumour, ml", "remarks"]]
    of_patient = volumes_by_patient(volumes)
    for row in rows[:SHOWN_PATIENTS]:
        found = of_patient.get(row["patient"], {})
        volume = found.get("FLAIR", next(iter(found.values()), None))
        failures = failures_of(row)
        if row.get("reason"):  # which names those of the series
            failures = [one for one in failures if one["kind"] == "warning" or not one["series"]]
        remarks = [one["text"] for one in failures]
        more = f" and {len(remarks) - 1} more" if len(remarks) > 1 else ""
        lines.append(
            [
                _shortened(row["patient"], 24, end=10),
                *([f"{row['probability']:11.3f}"] if predicted else []),
                "+".join(row["used"]) or "none",
                "" if volume is None else f"{volume:10.1f}",
                _shortened(remarks[0], 80) + more if remarks else "",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    if len(rows) > SHOWN_PATIENTS:
        text += f"\nand {len(rows) - SHOWN_PATIENTS} more patients: {file}"
    encoding = sys.stdout.encoding or "utf-8"  # a terminal may lack the letters of a name
    print(text.encode(encoding, "replace").decode(encoding))


def _shortened(text: str, width: int, end: int = 0) -> str:
    """A text on one line; if it is too wide, its beginning and ``end`` letters of its end."""
    line = one_line(text, None)
    return line if len(line) <= width else f"{line[: width - 1 - end]}…{line[len(line) - end :]}"
