"""What a right answer is: finite, whole, of the patient who was asked for; or one sentence that says what to do."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

REMEDY = re.compile(
    r"\b(expected|copy|remove|export|pass|name|give|use|repair|split|save|choose|check|see|keep|make|fetch|train|convert|rename|move|unpack|"
    r"install|add|change|correct|leave|needed|replace|ask|say|did you mean|finish|write|download|start|set|decompress|predict|prepare|read|select|omit|given with)\b",
    re.IGNORECASE,
)
BARE = re.compile(r"^\w*(Error|error|Exception): ")
"""An error that nobody wrote for people, as the reason of a series."""


def check_message(text: str, names: Sequence[str]) -> Iterator[str]:
    """What a message of the command line lacks."""
    lines = [line for line in text.strip().splitlines() if not line.startswith("(RADIOGENOMICS_DEBUG=1")]
    if len(lines) != 1:
        yield f"message of {len(lines)} lines"
    message = " ".join(lines)
    if not any(name in message for name in names) and not re.search(r"--\w+", message):
        yield "message names no file"
    if len(message) > 3000:
        yield "message of more than 3000 letters"
    if not REMEDY.search(message):
        yield "message without remedy"


def check_tree(folder: Path) -> Iterator[str]:
    """What is wrong with files that were written, whatever they are of."""
    for file in sorted(folder.rglob("*")) if folder.exists() else []:
        if file.name.startswith("."):
            yield f"left over: {file.name}"
        elif file.is_file():
            try:
                yield from (f"{file.name}: {what}" for what in _check_file(file))
            except Exception as error:
                yield f"{file.name} can't be read: {type(error).__name__}: {error}"


def _check_file(file: Path) -> Iterator[str]:
    if file.suffix == ".json":
        if _strict(file) is None:
            yield "null"
    elif file.suffix == ".csv":
        with open(file, newline="", encoding="utf-8-sig") as stream:
            for row in csv.reader(stream):
                yield from (f"cell {cell}" for cell in row if cell.strip().lower() in ("nan", "inf", "-inf"))
    elif file.name.endswith(".nii.gz"):
        import nibabel

        if not set(np.unique(np.asarray(nibabel.load(file).dataobj)).tolist()) <= {0, 1, 2}:
            yield "other values than 0, 1, 2"
    elif file.suffix == ".npz":
        with np.load(file) as content:
            yield from (
                f"{key} is not finite"
                for key in content
                if content[key].dtype.kind == "f" and not np.isfinite(content[key]).all()
            )
    elif file.suffix in (".png", ".gif"):
        from PIL import Image

        with Image.open(file) as picture:
            picture.load()
    elif file.suffix == ".dcm":
        import pydicom

        pydicom.dcmread(file)


def _strict(file: Path) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)


def rows_of(file: Path, *keys: str) -> dict[tuple[str, ...], dict[str, str]]:
    """Rows of a CSV by some of their cells, without what differs from run to run."""
    with open(file, newline="", encoding="utf-8-sig") as stream:
        return {tuple(row[key] for key in keys): row for row in csv.DictReader(stream)}


# ---------------------------------------------------------------------------------------------------------------------
# by command


def check_predict(out: Path, sound: Path, asked: Sequence[str] | None, studies: Path | None) -> Iterator[str]:
    """A prediction for the patients who were asked for."""
    rows = list(rows_of(out / "submission.csv", "BraTS21ID").values())
    if asked and [row["BraTS21ID"] for row in rows] != list(asked):
        yield f"rows of {[row['BraTS21ID'] for row in rows]}"
    yield from ("no probability" for row in rows if not 0 <= float(row["MGMT_value"]) <= 1)
    patients = {row["patient"]: row for row in _strict(out / "patients.json")["patients"]}
    known = {row["patient"]: row for row in _strict(sound / "patients.json")["patients"]}
    if _without_seconds(patients.get("P-SOUND")) != _without_seconds(known["P-SOUND"]):
        yield "the neighbour's row changed"
    for name, row in patients.items():
        yield from (f"no row of {one}" for one in asked or () if one not in patients)
        if row["probability"] is None or not math.isfinite(row["probability"]):
            yield "no probability"
        yield from _check_series(out, name, row["series"])
    yield from check_masks(out, sound, studies)


def _without_seconds(row: Mapping[str, Any] | None) -> Any:
    if row is None:
        return None
    return {**row, "series": {key: {**value, "seconds": 0} for key, value in row["series"].items()}}


def _check_series(out: Path, patient: str, series: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for mri_type, facts in series.items():
        reason, mask = facts.get("reason") or "", (out / "masks" / f"{patient}_{mri_type}.nii.gz").is_file()
        if BARE.match(reason):
            yield f"bare reason: {reason[:200]}"
        if not reason and not mask:
            yield f"{patient}/{mri_type}: neither mask nor reason"


def check_masks(out: Path, sound: Path, studies: Path | None) -> Iterator[str]:
    """Masks that lie as their series in a folder of studies do; that of the neighbour as ever."""
    import nibabel

    from custom_transforms import SeriesReader
    from scripts.studies.folders import find_studies

    entries = {} if studies is None else {entry["patient"]: entry for entry in find_studies(studies)}
    for file in sorted((out / "masks").glob("*.nii.gz")):
        mask = nibabel.load(file)
        patient, _, mri_type = file.name.removesuffix(".nii.gz").rpartition("_")
        if patient == "P-SOUND":
            known = nibabel.load(sound / "masks" / file.name)
            if not np.array_equal(mask.dataobj, known.dataobj) or not np.array_equal(mask.affine, known.affine):
                yield "the neighbour's mask changed"
            continue
        if not entries:
            continue
        if patient not in entries:
            yield f"mask of {patient}, whom nobody knows"
            continue
        array, meta = SeriesReader().get_data(entries[patient][mri_type])
        if mask.shape != array.shape:
            yield f"mask of {mask.shape} for a series of {array.shape}"
        far = np.abs(mask.affine - meta["affine"]).max()
        if not far <= 1e-3 * max(1.0, np.abs(meta["affine"]).max()):
            yield f"mask's affine is off by {far:g}"
    if not (out / "masks" / "P-SOUND_FLAIR.nii.gz").is_file():
        yield "no mask of the neighbour"


def check_rows(out: Path, sound: Path, name: str, key: str, both: bool) -> Iterator[str]:
    """A table whose row of the neighbour is as ever, and has one of the broken patient."""
    rows, known = rows_of(out / name, "patient", key), rows_of(sound / name, "patient", key)
    columns = (
        ("plane", "slices", "spacing", "whole_tumour_ml", "empty_slices", "row_spacing", "slice_spacing", "reason")
        if both
        else ("slices",)
    )
    mine = {one: {name: rows.get(one, {}).get(name) for name in columns} for one in known}
    if mine != {one: {name: row.get(name) for name in columns} for one, row in known.items()}:
        yield f"{name}: the neighbour's rows changed"
    if both and ("P-BROKEN" not in {one[0] for one in rows}):
        yield f"{name}: no row of the broken patient"
    for row in rows.values():
        if BARE.match(row.get("reason") or ""):
            yield f"bare reason: {row['reason'][:200]}"
