"""8-bit volumes of one size for 3-D networks and other programs: an NPZ per series, a TFRecord per patient, and tables."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Transform

from .. import distributed
from ..errors import UserError
from ..files import RESEARCH_ONLY, read_note, write_csv, write_json, written_whole
from ..modalities import MRI_TYPES
from ..outputs import inside
from ..preparation import SeriesDataset, as_array, fingerprint, one_by_one, series_of
from .tfrecord import write_tfrecord

logger = logging.getLogger(__name__)

FORMATS = ("npz", "tfrecord")
COLUMNS = (
    "patient", "modality", "label", "npz", "tfrecord", "slices", "empty_slices", "plane", "row_spacing", "column_spacing",
    "slice_spacing", "warnings", "reason",
)  # fmt: skip
DONE = "done"
"""Folder of a note for each patient that is done, which lets an interrupted job continue."""


def check_formats(formats: Sequence[str]) -> list[str]:
    """The formats that are asked for, each once.

    Raises:
        UserError: for one that is unknown, or none.
    """
    names = [formats] if isinstance(formats, str) else list(dict.fromkeys(formats))
    if not names or set(names) - set(FORMATS):
        raise UserError(f"format {','.join(map(str, names)) or 'of nothing'}: expected some of {','.join(FORMATS)}")
    return names


def series_items(
    entries: Iterable[Mapping[str, Any]], configuration: Mapping[str, Any], mri_types: Sequence[str] = MRI_TYPES
) -> list[dict[str, Any]]:
    """Those of :func:`~scripts.preparation.series_of` with ``label`` (None if unknown) and ``fingerprint``."""
    return [
        {**item, "label": label, "fingerprint": fingerprint({**configuration, "label": label}, item["image"])}
        for entry in entries
        for label in [entry.get("label")]
        for item in series_of(entry, mri_types)
    ]


class SliceFacts(Transform):
    """Count the slices of ``image`` ``(N, H, W)``, and those without a value above 0, before these are left out."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``n_slices`` and ``empty_slices``."""
        image = as_array(data["image"])
        return {**data, "n_slices": len(image), "empty_slices": int((~(image > 0).any((1, 2))).sum())}


class SaveVolume(Transform):
    """Write the volume of an item, ``image`` ``(slices, rows, columns)`` uint8, as ``<patient>_<mri_type>.npz``.

    Arrays: ``volume`` ``(rows, columns, slices)`` uint8; ``patient``, ``modality``, ``fingerprint``, texts; ``spacing``, mm between the rows,
    columns and slices of the series, before it was scaled; ``label``, 0 or 1, where it is known.

    Args:
        output_dir: folder.
        formats: nothing is written unless npz is among them.
    """

    def __init__(self, output_dir: str | Path, formats: Sequence[str] = FORMATS) -> None:
        self.output_dir, self.formats = output_dir, check_formats(formats)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``volume``, an array, and ``spacing`` in place of the image."""
        geometry = data["geometry"]
        volume = np.ascontiguousarray(np.moveaxis(as_array(data["image"]), 0, -1))
        spacing = [float(side) for side in (*geometry.pixel_spacing, geometry.slice_spacing)]
        item = {**data, "volume": volume, "spacing": spacing}
        if "npz" in self.formats:
            arrays: dict[str, Any] = {"volume": volume, "spacing": np.array(spacing, np.float32)}
            arrays |= {"patient": data["patient"], "modality": data["mri_type"], "fingerprint": data["fingerprint"]}
            if data["label"] is not None:
                arrays["label"] = np.int64(data["label"])
            with written_whole(npz_of(self.output_dir, data)) as temporary, open(temporary, "wb") as stream:
                np.savez_compressed(stream, **arrays)
        return {key: value for key, value in item.items() if key != "image"}


def npz_of(output_dir: str | Path, item: Mapping[str, Any]) -> Path:
    """The NPZ file of a series."""
    return inside(output_dir, f"{item['patient']}_{item['mri_type']}.npz")


def tfrecord_of(output_dir: str | Path, patient: str) -> Path:
    """The TFRecord file of a patient."""
    return inside(output_dir, f"{patient}.tfrecord")


def write_all(
    items: Sequence[Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]],
    transform: Callable[[Mapping[str, Any]], dict[str, Any]],
    output_dir: str | Path,
    configuration: Mapping[str, Any],
    formats: Sequence[str] = FORMATS,
    num_workers: int = 0,
) -> list[dict[str, Any]]:
    """Write the volumes that are not there yet, each process those of its patients, and the tables; return the rows.

    A series that can't be used has a row with the reason, and is tried again next time; so has a patient without series.

    Args:
        items: from :func:`series_items`.
        entries: all requested patients.
        transform: reads, scales and saves an item.
        output_dir: folder.
        configuration: what the volumes are made with.
        formats: npz, tfrecord, or both.
        num_workers: processes that read ahead.
    """
    writer = _Writer(output_dir, check_formats(formats))
    todo = writer.pending(distributed.share(items, by="patient"))
    for item in one_by_one(SeriesDataset(todo, transform), "volumes", num_workers):
        writer.add(item)
    rows = [row for part in distributed.gather(writer.rows) for row in part]
    _write_tables(rows, entries, Path(output_dir), dict(configuration))
    return rows


class _Writer:
    """Collects the series of a patient, which come one after the other, and writes its record and note with the last."""

    def __init__(self, output_dir: str | Path, formats: list[str]) -> None:
        self.output_dir, self.formats = Path(output_dir), formats
        self.rows: list[dict[str, Any]] = []
        self._items: dict[str, list[Mapping[str, Any]]] = {}
        self._left: dict[str, set[str]] = {}
        self._found: dict[tuple[str, str], Mapping[str, Any]] = {}

    def pending(self, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The series to be computed: of patients that are not done, those without a file of the same fingerprint."""
        for item in items:
            self._items.setdefault(item["patient"], []).append(item)
        todo: list[dict[str, Any]] = []
        for patient, series in self._items.items():
            rows = self._done(patient, series)
            if rows is not None:
                self.rows += rows
                continue
            again = [item for item in series if not self._is_written(item)]
            self._left[patient] = {item["mri_type"] for item in again}
            todo += [dict(item) for item in again]
            if not again:
                self._finish(patient)
        logger.info("%d series: %d to make", len(items), len(todo))
        return todo

    def add(self, item: Mapping[str, Any]) -> None:
        """Take a series that was computed, or failed."""
        patient, mri_type = item["patient"], item["mri_type"]
        self._found[patient, mri_type] = item
        if item["error"]:
            logger.warning("%s/%s: %s", patient, mri_type, item["error"])
            npz_of(self.output_dir, item).unlink(missing_ok=True)  # of an earlier state of the series
        self._left[patient].remove(mri_type)
        if not self._left[patient]:
            self._finish(patient)

    def _note(self, patient: str) -> Path:
        return inside(self.output_dir, DONE, f"{patient}.json")

    def _read_note(self, patient: str) -> dict[str, dict[str, Any]]:
        """What is known of a patient's series by fingerprint."""
        return read_note(self._note(patient))

    def _done(self, patient: str, series: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
        """The rows of a patient all of whose series are written in all formats, else None."""
        known = self._read_note(patient)
        rows = [known.get(item["fingerprint"]) for item in series]
        if any(row is None or row["reason"] for row in rows) or len(known) != len(series):
            return None
        files = [row[name] for row in rows if row for name in self.formats]
        there = all(name and (self.output_dir / name).is_file() for name in files)
        return [row for row in rows if row] if there else None

    def _is_written(self, item: Mapping[str, Any]) -> bool:
        """Whether the NPZ file of a series exists, with a note or its own fingerprint."""
        known = self._read_note(item["patient"]).get(item["fingerprint"])
        stored = self._stored(item)
        if "npz" not in self.formats or stored is None or known is None or known["reason"]:
            return False
        self._found[item["patient"], item["mri_type"]] = {**item, **stored, "row": known}
        return True

    def _stored(self, item: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            with np.load(npz_of(self.output_dir, item), allow_pickle=False) as content:
                if str(content["fingerprint"]) != item["fingerprint"]:
                    return None
                return {"volume": content["volume"], "spacing": content["spacing"].tolist(), "error": ""}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def _finish(self, patient: str) -> None:
        found = [self._found.pop((patient, item["mri_type"])) for item in self._items[patient]]
        usable = [item for item in found if not item["error"]]
        record = tfrecord_of(self.output_dir, patient)
        if "tfrecord" in self.formats and usable:
            write_tfrecord(map(_features, usable), record)
        elif "tfrecord" in self.formats:
            record.unlink(missing_ok=True)
        rows = {item["fingerprint"]: self._row(item) for item in found}
        write_json(rows, self._note(patient))
        self.rows += rows.values()

    def _row(self, item: Mapping[str, Any]) -> dict[str, Any]:
        good = not item["error"]
        files = {
            "npz": npz_of(self.output_dir, item).name,
            "tfrecord": tfrecord_of(self.output_dir, item["patient"]).name,
        }
        row = {"patient": item["patient"], "modality": item["mri_type"], "label": item["label"]}
        row |= {name: file if good and name in self.formats else "" for name, file in files.items()}
        if "row" in item:
            return {**item["row"], **row}
        spacing = [round(side, 4) for side in item["spacing"]] if good else [None] * 3
        row |= {"slices": item["n_slices"] if good else None, "empty_slices": item["empty_slices"] if good else None}
        row |= {"plane": item["geometry"].plane if good else ""}
        row |= dict(zip(("row_spacing", "column_spacing", "slice_spacing"), spacing, strict=True))
        return {**row, "warnings": list(item["warnings"]), "reason": item["error"]}


def _features(item: Mapping[str, Any]) -> dict[str, Any]:
    """Of the Example of a series."""
    volume = np.ascontiguousarray(item["volume"], np.uint8)
    label = {} if item["label"] is None else {"label": [int(item["label"])]}
    return {
        "volume": volume.tobytes(),
        "shape": [int(side) for side in volume.shape],
        "patient": item["patient"],
        "modality": item["mri_type"],
        "spacing": [float(side) for side in item["spacing"]],
        **label,
    }


@distributed.by_first
def _write_tables(
    rows: Sequence[Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]],
    output_dir: Path,
    configuration: Mapping[str, Any],
) -> None:
    """``volumes.csv`` and ``volumes.json``: a row for each series, and for each patient without one."""
    listed = {row["patient"] for row in rows}
    empty = dict.fromkeys(COLUMNS)
    table = [{**empty, **row} for row in rows]
    for entry in entries:
        if entry["patient"] not in listed:
            why = entry.get("reason", "none of the series that were asked for")
            table.append(
                {**empty, "patient": entry["patient"], "label": entry.get("label"), "warnings": [], "reason": why}
            )
    table.sort(key=lambda row: (row["patient"], str(row["modality"])))
    flat = [
        {
            name: "; ".join(value) if isinstance(value, list) else "" if value is None else value
            for name, value in row.items()
        }
        for row in table
    ]
    write_csv(flat, output_dir / "volumes.csv", COLUMNS)
    write_json({"use": RESEARCH_ONLY, "configuration": configuration, "series": table}, output_dir / "volumes.json")
    made = sum(not row["reason"] for row in table)
    logger.info("%s: %d volumes, %d without one", output_dir, made, len(table) - made)
