"""CSV tables of the challenge: labels, and a sample submission."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from .files import one_line
from .identifiers import person, visit_of
from .studies.folders import DataListError


def read_labels(file: str | Path) -> dict[str, int]:
    """MGMT values by patient from a CSV with the columns ``BraTS21ID,MGMT_value``.

    Raises:
        DataListError: when a column is missing, a value is neither 0 nor 1, or two rows name the same patient. Visits of a
            person may have their own labels.
    """
    labels: dict[str, int] = {}
    named: dict[tuple[str, str | None], str] = {}
    for row in _read_csv(file, ("BraTS21ID", "MGMT_value")):
        patient = row["BraTS21ID"]
        if row["MGMT_value"] not in ("0", "1"):
            raise DataListError(
                f"{file}: MGMT_value of {one_line(patient)} is {one_line(repr(row['MGMT_value']))}, expected 0 or 1"
            )
        who = (person(patient), visit_of(patient))
        if who in named:
            raise DataListError(
                f"{file}: {one_line(named[who])} and {one_line(patient)} are the same patient; keep one of them"
            )
        named[who] = patient
        labels[patient] = int(row["MGMT_value"])
    return labels


def read_asked(sample_submission: str | Path | None, deidentify: bool = False) -> list[str] | None:
    """The patients of a sample submission, in its order and style; None without one.

    Raises:
        DataListError: when it can't be read, or nobody is to be named.
    """
    if sample_submission is None:
        return None
    if deidentify:
        raise DataListError(
            "a sample submission names patients, which --deidentify replaces by pseudonyms; omit one of the two"
        )
    return [row["BraTS21ID"] for row in _read_csv(sample_submission, ("BraTS21ID",))]


def _read_csv(file: str | Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not Path(file).is_file():
        raise DataListError(f"{file}: no such file")
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream, restval=""))
    except (csv.Error, ValueError) as error:
        raise DataListError(f"{file}: not a readable table ({one_line(error)}); save it as CSV in UTF-8") from error
    missing = [column for column in columns if rows and column not in rows[0]]
    if missing or not rows:
        raise DataListError(
            f"{file}: expected rows with the columns {','.join(columns)}; missing: {missing or 'all rows'}"
        )
    return rows
