"""The table of studies: which patient has which modality from which series, why others were left out, possible problems."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, grouped
from ..files import FileError, escaped, read_json, write_csv, write_json
from ..modalities import MRI_TYPES
from ..waiting import within_limit
from .folders import paths_of
from .names import is_nifti

STUDIES_FILE = "studies.json"
COLUMNS = (
    "patient", "modality", "chosen", "number", "description", "plane", "slices", "spacing", "reason", "remark",
)  # fmt: skip
_OMITTED = ("files", "taken", "uid")
"""Keys of a series left out of tables: its files, its time of acquisition, and the link to its archive."""
FEW_SLICES = 16
"""Fewer slices leave a classifier little to see, and small tumours lie between them."""
FAR_APART = 6.0  # mm
_HEAD = re.compile(r"head|brain|skull|cranium|\bhnc?\b|kopf|schädel|whole ?body", re.IGNORECASE)
_FOLLOW_UP = re.compile(
    r"\bpost[- ]?op\b|post[- ]?operative|\bs/p\b|status post|follow[- ]?up|resect|recurren|postoperativ|verlauf|rezidiv",
    re.IGNORECASE,
)


def describe(entry: Mapping[str, Any], skull: bool = True) -> None:
    """Fill in what names do not say about the chosen series: plane, slices and spacing from headers, the skull from voxels.

    Args:
        entry: from :func:`~scripts.studies.folders.find_studies`.
        skull: read the voxels as well.
    """
    for row in entry["study"]["series"]:
        if not row["chosen"] or row["modality"] not in MRI_TYPES:
            continue
        try:
            if row["slices"] is None:
                row |= within_limit(paths_of(row["files"])[0], _from_headers, row["files"])
            row |= _from_voxels(row["files"]) if skull else {}
        except Exception as error:  # any fault of the file: the others continue
            row["remark"] = str(error)


def _from_voxels(files: str | Sequence[str]) -> dict[str, Any]:
    from ..reading import PatientReader

    _, meta = PatientReader().get_data(files)
    remark = _skull_remark() if meta["skull"] == "skull" else ""
    if meta["skull"] == "unclear":
        remark = "it is not clear whether it shows the skull"
    return {"skull": meta["skull"], "remark": remark}


def _skull_remark() -> str:
    from ..brain import method_for

    try:
        method_for("auto")
    except UserError:
        return (
            "it shows the skull, and no brain extractor is installed: pip install 'brats-mri-radiogenomics[brain]', or give "
            "your own masks (--brain FOLDER)"
        )
    return "it shows the skull, which predict and segment remove (--brain)"


def _from_headers(files: str | Sequence[str]) -> dict[str, Any]:
    paths = paths_of(files)
    if len(paths) == 1 and is_nifti(paths[0].name):
        from custom_transforms.nifti import open_nifti
        from custom_transforms.planes import PLANES

        _, shape, affine = open_nifti(paths[0])
        zooms = np.linalg.norm(affine[:3, :3], axis=0)
        across = int(np.argmax(zooms))
        axis = int(np.argmax(np.abs(affine[:3, across] / zooms[across])))
        flat = float(zooms[across]) > 1.05 * float(np.min(zooms))
        return {
            "plane": PLANES[axis] if flat else "3D",
            "slices": int(shape[across]),
            "spacing": round(float(zooms[across]), 3),
        }
    from .series import read_studies

    listed = sorted(path for path in paths[0].iterdir() if path.is_file()) if paths[0].is_dir() else paths
    studies, _ = read_studies(listed)
    series = [one for study in studies for one in study.series]
    if len(series) != 1:
        return {"slices": len(listed)} | ({"remark": f"{len(series)} series in one folder"} if series else {})
    (one,) = series
    facts = {"plane": one.plane, "slices": one.slices, "spacing": one.spacing and round(one.spacing, 3)}
    return facts | {"number": one.number, "about": one.description, "region": one.region}


def remarks(entry: Mapping[str, Any]) -> list[str]:
    """Possible problems of a study, by its headers."""
    study = entry["study"]
    chosen = {row["modality"]: row for row in study["series"] if row["chosen"] and row["modality"] in MRI_TYPES}
    remarks = [entry["reason"]] if "reason" in entry else []
    remarks += entry.get("warnings", [])
    lacking = [name for name in MRI_TYPES if name not in chosen]
    if lacking and "reason" not in entry:
        remarks.append(f"no {', '.join(lacking)}" + (": enhancing tumour is not marked" if "T1wCE" in lacking else ""))
    for name, row in chosen.items():
        if (row["slices"] and row["slices"] < FEW_SLICES) or (row["spacing"] or 0) > FAR_APART:
            remarks.append(
                f"{name}: {row['slices']} slices {row['spacing'] or '?'} mm apart; small tumours may lie between them"
            )
        if row.get("region") and not _HEAD.search(row["region"]):
            remarks.append(f"{name}: its header names the {row['region']}; expected a scan of the head")
    remarks += grouped({name: row["remark"] for name, row in chosen.items() if row.get("remark")})
    words = " ".join(
        [study.get("description", ""), *(row.get("about") or row["description"] for row in chosen.values())]
    )
    if match := _FOLLOW_UP.search(words):
        remarks.append(f"its headers say {match[0]!r}: after surgery the masks and the probability mean little")
    return remarks


def write_studies(entries: Iterable[Mapping[str, Any]], folder: str | Path) -> None:
    """Write ``studies.json`` and ``studies.csv``, without dates, times and UIDs; entries of a data list have no such facts and are left out."""
    known = [entry for entry in entries if "study" in entry]
    if not known:
        return
    content = [_facts(entry) for entry in known]
    write_json(content, Path(folder) / STUDIES_FILE)
    rows = [
        {**row, "patient": one["patient"], "remark": row.get("remark", "")} for one in content for row in one["series"]
    ]
    write_csv(rows or [dict.fromkeys(COLUMNS, "")], Path(folder) / "studies.csv", COLUMNS)


def _facts(entry: Mapping[str, Any]) -> dict[str, Any]:
    study = entry["study"]
    chosen = {row["modality"]: row for row in study["series"] if row["chosen"]}
    return {
        **{key: entry[key] for key in ("patient", "group") if key in entry},
        "phantom": study["phantom"],
        "chosen": {name: {"description": chosen[name]["description"]} for name in MRI_TYPES if name in chosen},
        "remarks": remarks(entry),
        "series": [{key: value for key, value in row.items() if key not in _OMITTED} for row in study["series"]],
    }


def read_studies_file(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The studies in ``studies.json`` of a folder by patient; none where there is no such file."""
    file = Path(folder) / STUDIES_FILE
    if not file.is_file():
        return {}
    again = "write it again with `radiogenomics studies` or the job that wrote it"
    content = read_json(file, again)
    if not isinstance(content, list) or not all(isinstance(one, dict) and "patient" in one for one in content):
        raise FileError(f"{file}: holds no list of patients; {again}")
    return {one["patient"]: one for one in content}


def as_text(entries: Sequence[Mapping[str, Any]]) -> str:
    """The table on a terminal: for each patient the series in use, then the others, then possible problems."""
    lines = []
    for entry in entries:
        study = entry["study"]
        lines.append(entry["patient"])
        rows = sorted(
            study["series"], key=lambda row: (not row["chosen"], str(row["modality"]), str(row["description"]))
        )
        table = [
            (
                row["modality"] if row["chosen"] else "-",
                f"{row['number'] if row['number'] is not None else ''}",
                row["description"],
                f"{row['slices'] or '?'} x {row['spacing'] or '?'} mm",
                row["plane"],
                row["reason"],
            )
            for row in rows
        ]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)] if table else []
        lines += ["  " + "  ".join(map(str.ljust, one, widths)).rstrip() for one in table]
        lines += [f"  ! {text}" for text in remarks(entry)]
    return "\n".join(map(escaped, lines))
