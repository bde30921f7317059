"""The page of `explore`: counts, and missing, similar or unusual series, with figures and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.fingerprints import SAME
from ..modalities import MRI_TYPES
from ..report.pages import PHANTOM, jinja_environment, write_page
from ..report.tables import Table, table_of_records
from ..report.writer import Writer
from . import figures, findings
from .outliers import outliers

PAGE = "explore.html"
_HIDDEN = ("affine", "shape", "looks", "checksum")
_ALL_OF = "All series"
_SHOWN = 200
"""Rows of a table on the page; its files have all."""
_COUNTS = {
    "matrix": "Matrix (columns x rows)",
    "plane": "Plane",
    "thickness_mm": "Slice thickness (mm)",
    "field_strength": "Field strength (T)",
    "scanner": "Scanner",
    "transfer_syntax": "Transfer syntax",
    "format": "Format",
    "skull": "Skull",
}
_VALUES = {
    "slices": ("Slices of a series", "slices"),
    "slice_mm": ("Distance of slices", "mm"),
    "pixel_mm": ("Size of pixels", "mm"),
    "empty_slices": ("Empty slices of a series", "slices"),
    "median": ("Median grey value of what is shown", "scanner's units"),
}


def write_page_of(
    entries: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    pixels: bool = True,
    title: str = "",
    phantom: bool = False,
) -> Path:
    """Write ``explore.html``, ``figures/`` and ``tables/``; the page last.

    Args:
        entries: the patients.
        rows: the facts of their series, ``patient``, ``mri_type`` and those of :func:`~scripts.explore.facts.facts_of`, or ``error``.
        folder: for all of it.
        pixels: whether the pixels were read.
        title: name of the data.
        phantom: whether they are synthetic.

    Raises:
        ImportError: when Jinja2 or matplotlib is not installed.
    """
    jinja = jinja_environment()
    writer = Writer(folder)
    errors = [{key: row[key] for key in ("patient", "mri_type", "error")} for row in rows if "error" in row]
    found: dict[str, list[dict[str, Any]]] = {
        "missing": findings.missing(entries),
        "doubled": findings.doubled(entries),
        "errors": errors,
        "alike": findings.alike(entries, rows),
        "agreement": findings.agreement(rows),
        "balance": findings.balance(entries, rows),
        "outliers": outliers(rows),
    }
    sections = [
        _counts(entries, rows, found, writer),
        _acquisition(rows, writer),
        *([_pixels(rows, writer)] if pixels else []),
        _labels(found["balance"], writer),
        _copies(found["alike"], pixels, writer),
        _space(found["agreement"], writer),
        _odd(found["outliers"], pixels, writer),
        _all(rows, writer),
    ]
    content = jinja.get_template("explore.html").render(
        title=f"Data: {title}" if title else "Data",
        subtitle="" if pixels else "Headers alone were read (--pixels False): questions of pixels are left out.",
        phantom=PHANTOM if phantom else "",
        base="",
        tiles=_tiles(entries, rows, found, pixels),
        sections=sections,
    )
    write_page(folder / PAGE, content)
    return folder / PAGE


def _tiles(
    entries: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], found: Mapping[str, list], pixels: bool
) -> list[dict[str, str]]:
    labelled = sum(entry.get("label") is not None for entry in entries)
    apart = sum(row["agree"] == "no" for row in found["agreement"])
    tiles = [
        (len(entries), "patients"),
        (len(rows), "series in use"),
        (labelled, "patients with a label"),
        (len(found["missing"]), "patients without all four modalities"),
        (len(found["errors"]), "series that can't be read"),
        *([(len({_pair(row) for row in found["alike"]}), "pairs of patients that look the same")] if pixels else []),
        (apart, "patients whose series don't overlap"),
        (len({(row["patient"], row["mri_type"]) for row in found["outliers"]}), "series that stand out"),
    ]
    return [{"value": str(value), "name": name} for value, name in tiles]


def _pair(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["patient"], row["other_patient"]


def _table(title: str, records: Sequence[Mapping[str, Any]], writer: Writer, note: str = "") -> dict[str, Any]:
    """A table of which the page shows the first rows; its files have all."""
    table = table_of_records(title, records[:_SHOWN], note)
    if len(records) > _SHOWN:
        note = f"{note} The first {_SHOWN} of {len(records)} rows; the files have all.".strip()
    return writer.table(Table(table.title, table.columns, table.rows, list(map(dict, records)), note))


def _section(name: str, title: str, text: str = "", **parts: list) -> dict[str, Any]:
    return {"id": name, "title": title, "text": text, "figures": [], "tables": [], **parts}


def _counts(
    entries: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], found: Mapping[str, list], writer: Writer
) -> dict[str, Any]:
    images = Counter(sum(name in entry for name in MRI_TYPES) for entry in entries)
    records = []
    for name in MRI_TYPES:
        group = [row for row in rows if row["mri_type"] == name]
        slices = sorted(row["slices"] for row in group if row.get("slices"))
        records.append(
            {
                "modality": name,
                "patients": len(group),
                "missing": len(entries) - len(group),
                "can't be read": sum("error" in row for row in group),
                "images": sum(slices),
                "slices, median": slices[len(slices) // 2] if slices else None,
                "least": slices[0] if slices else None,
                "most": slices[-1] if slices else None,
            }
        )
    tables = [_table("Series by modality", records, writer, "An image is a slice.")]
    for key, title, note in (
        ("missing", "Missing series", ""),
        ("doubled", "Duplicate series", "Further series of a modality, not used."),
        ("errors", "Series that can't be read", ""),
    ):
        if found[key]:
            tables.append(_table(title, found[key], writer, note))
    drawn = [writer.figure(figures.draw_images_per_patient(images), "modalities")]
    return _section(
        "series", "Patients and series", figures=[*drawn, *_values(rows, ("slices",), writer)], tables=tables
    )


def _values(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], writer: Writer) -> list[dict[str, Any]]:
    """A figure for each key in which series differ."""
    numbers = {key: {row[key] for row in rows if isinstance(row.get(key), (int, float))} for key in keys}
    there = [key for key in keys if len(numbers[key]) > 1]
    return [writer.figure(figures.draw_values(rows, key, *_VALUES[key]), key) for key in there]


def _counted(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], writer: Writer) -> tuple[list, list]:
    """A figure and a table for each key that any series has."""
    drawn, tables = [], []
    for key in keys:
        if not any(row.get(key) for row in rows):
            continue
        counts = findings.counted(rows, key)
        tables.append(_table(_COUNTS[key], counts, writer))
        if len(counts) > 1:
            shown = {row[key]: row for row in counts}
            drawn.append(writer.figure(figures.draw_counts(shown, _COUNTS[key], "series"), f"counts_{key}"))
    return drawn, tables


def _acquisition(rows: Sequence[Mapping[str, Any]], writer: Writer) -> dict[str, Any]:
    drawn, tables = _counted(rows, [key for key in _COUNTS if key != "skull"], writer)
    text = "From headers; NIfTI gives the grid only. 3D: slices no farther apart than pixels."
    values = _values(rows, ("slice_mm", "pixel_mm"), writer)
    return _section("acquisition", "Acquisition", text, figures=[*values, *drawn], tables=tables)


def _pixels(rows: Sequence[Mapping[str, Any]], writer: Writer) -> dict[str, Any]:
    drawn, tables = _counted(rows, ("skull",), writer)
    empty = [
        {
            "patient": row["patient"],
            "mri_type": row["mri_type"],
            "empty_slices": row["empty_slices"],
            "slices": row["slices"],
            "share": round(row["empty_slices"] / row["slices"], 3),
        }
        for row in rows
        if row.get("empty_slices")
    ]
    empty.sort(key=lambda row: -row["share"])
    if empty:
        tables.append(_table("Empty slices", empty, writer, "Slices that show nothing but background."))
    warned = [
        {"patient": row["patient"], "mri_type": row["mri_type"], "warning": text}
        for row in rows
        for text in row.get("warnings", [])
    ]
    if warned:
        tables.append(_table("Warnings of the reader", warned, writer))
    values = _values(rows, ("empty_slices", "median"), writer)
    return _section("pixels", "What the images show", figures=[*values, *drawn], tables=tables)


def _labels(balance: list, writer: Writer) -> dict[str, Any]:
    if not balance:
        return _section(
            "labels", "Labels", "No labels: give them with --labels FILE, or a data list with --datalist FILE."
        )
    text = (
        "MGMT 1: methylated. A label that goes with the scanner or the plane lets a classifier learn these instead of the "
        "tumour; small groups differ by chance."
    )
    drawn = [writer.figure(figures.draw_balance(balance), "labels")]
    return _section("labels", "Labels", text, figures=drawn, tables=[_table("Balance of labels", balance, writer)])


def _copies(alike: list, pixels: bool, writer: Writer) -> dict[str, Any]:
    title = "Patients that look the same"
    if not pixels:
        return _section("copies", title, "Left out: needs pixels.")
    text = (
        f"Series of one modality, of patients with different names, with equal pixels or a similarity of {SAME} or more: probably "
        "copies of one person, who must not be both trained on and evaluated on."
    )
    if not alike:
        return _section("copies", title, f"{text} None was found.")
    return _section("copies", title, text, tables=[_table("Near-duplicate series", alike, writer)])


def _space(agreement: list, writer: Writer) -> dict[str, Any]:
    text = (
        f"How much of the smaller of two series of a patient lies within the other in scanner coordinates. Below "
        f"{findings.LEAST_OVERLAP:.0%} they show different places, or one was moved or converted without its position."
    )
    if not agreement:
        return _section("space", "Agreement in space", f"{text} No patient has two series with a position.")
    apart = [row for row in agreement if row["agree"] == "no"]
    summary = f"{text} {len(apart)} of {len(agreement)} patients are below."
    return _section(
        "space", "Agreement in space", summary, tables=[_table("Overlap of a patient's series", agreement, writer)]
    )


def _odd(odd: list, pixels: bool, writer: Writer) -> dict[str, Any]:
    text = "Compared with the series of the same modality, from 8 of them on; to be looked at, not to be thrown away."
    text += "" if pixels else " Of headers alone."
    if not odd:
        return _section("outliers", "Series that stand out", f"{text} None was found.")
    return _section("outliers", "Series that stand out", text, tables=[_table("Outliers", odd, writer)])


def _all(rows: Sequence[Mapping[str, Any]], writer: Writer) -> dict[str, Any]:
    def flat(value: Any) -> Any:
        return (
            " x ".join(map(str, value)) if isinstance(value, list) and all(isinstance(v, int) for v in value) else value
        )

    join: Callable[[Any], Any] = lambda value: "; ".join(value) if isinstance(value, list) else value  # noqa: E731
    records = [{key: join(flat(value)) for key, value in row.items() if key not in _HIDDEN} for row in rows]
    columns = list(dict.fromkeys(key for record in records for key in record))
    records = [{key: record.get(key) for key in columns} for record in records]
    return _section("all", _ALL_OF, tables=[_table("Facts of all series", records, writer)])
