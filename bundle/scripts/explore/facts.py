"""The facts of one series: from its headers, and on request from its pixels. No volume is kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from custom_transforms import SliceGeometry
from custom_transforms.dicom import dicom_slices
from custom_transforms.nifti import open_nifti
from custom_transforms.pictures import PICTURE_SUFFIXES

from .. import logs, memory
from ..evaluation import fingerprints, leakage
from ..reading import PatientReader
from ..studies.folders import paths_of
from ..studies.names import is_nifti
from ..waiting import StalledError, within_limit

LEAST_SHOWN = 0.005
"""Of a slice's pixels, above 0: one with fewer is empty."""
_LEAST_GREY = 0.02  # of the white level; below it lies noise in the air


def facts_of(files: str | Sequence[str], pixels: bool = True) -> dict[str, Any]:
    """The facts of a series, all of them JSON.

    Args:
        files: the file, the folder, or the files of a DICOM series.
        pixels: read the pixels as well.

    Returns:
        ``format``, ``matrix`` (columns, rows), ``slices``, ``pixel_mm``, ``slice_mm`` (distance of slices), ``thickness_mm``, ``plane``,
        ``field_strength`` (T), ``scanner``, ``transfer_syntax``, ``shape``, ``affine``; with pixels ``empty_slices``, ``skull``,
        ``shown_ml``, ``median`` and ``white`` (grey values of what is shown, its 50th and 99th percentile), ``checksum``,
        ``looks`` and ``warnings``.

    Raises:
        SeriesError: when it can't be read.
    """
    facts = within_limit(paths_of(files)[0], _from_headers, files)
    if not pixels:
        return facts
    array, meta = PatientReader().get_data(files)
    try:
        # pictures carry no geometry; its default must not be counted
        located = facts["format"] != "pictures"
        facts |= _of_grid(meta["affine"], array.shape, located)
        return facts | _from_pixels(array, np.asarray(meta["affine"]), meta)
    finally:
        del array
        memory.release()


def _from_headers(files: str | Sequence[str]) -> dict[str, Any]:
    paths = paths_of(files)
    if len(paths) == 1 and is_nifti(paths[0].name):
        return _of_nifti(paths[0])
    listed = [one for one in paths[0].iterdir() if one.is_file()] if paths[0].is_dir() else paths
    if listed and all(one.suffix.lower() in PICTURE_SUFFIXES for one in listed):
        return {"format": "pictures", "files": len(listed), "slices": len(listed)}
    return {"format": "DICOM", "files": len(listed), **_of_dicom(files)}


def _of_nifti(path: Path) -> dict[str, Any]:
    _, shape, affine = open_nifti(path)
    return {"format": "NIfTI", "files": 1, **_of_grid(affine, shape)}


def _of_dicom(files: str | Sequence[str]) -> dict[str, Any]:
    found = dicom_slices(files)
    if found is None:
        return {}
    header = next(one for one in found.headers if one is not None)
    shape = (int(header.Columns), int(header.Rows), len(found.headers))

    def text(keyword: str) -> str:
        return str(header.get(keyword) or "").strip()

    def number(keyword: str) -> float | None:
        try:
            return round(float(header.get(keyword)), 3)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None

    syntax = getattr(header.file_meta, "TransferSyntaxUID", None)
    return {
        **_of_grid(found.affine, shape, found.orientation is not None),
        "thickness_mm": number("SliceThickness"),
        "field_strength": number("MagneticFieldStrength"),
        "scanner": " ".join(filter(None, (text("Manufacturer"), text("ManufacturerModelName")))),
        "transfer_syntax": "" if syntax is None else str(syntax.name),
    }


def _of_grid(affine: Any, shape: Sequence[int], located: bool = True) -> dict[str, Any]:
    geometry = SliceGeometry.from_affine(affine, shape)
    slices, rows, columns = geometry.stack_shape
    sides = [round(float(side), 3) for side in (*geometry.pixel_spacing, geometry.slice_spacing)]
    flat = sides[2] > 1.05 * max(sides[:2])
    counts = {"matrix": [columns, rows], "slices": slices}
    if not located:
        return counts
    return {
        **counts,
        "pixel_mm": sides[0],
        "slice_mm": sides[2],
        "plane": geometry.plane if flat else "3D",
        "shape": [int(n) for n in shape],
        "affine": np.asarray(affine, dtype=float).round(5).tolist(),
    }


def _from_pixels(array: np.ndarray, affine: np.ndarray, meta: Mapping[str, Any]) -> dict[str, Any]:
    geometry = SliceGeometry.from_affine(affine, array.shape)
    stack = geometry.view(array)
    some = array[::2, ::2, ::2]
    inside = some[some > 0]
    white = float(np.percentile(inside, 99)) if inside.size else 0.0
    shown = np.array([float(np.mean(one > _LEAST_GREY * white)) for one in stack])
    inside = inside[inside > _LEAST_GREY * white]
    return {
        "empty_slices": int((shown < LEAST_SHOWN).sum()),
        "skull": meta["skull"],
        "shown_ml": round(float(shown.mean()) * array.size * geometry.voxel_volume / 1000, 1),
        "median": round(float(np.median(inside)), 3) if inside.size else 0.0,
        "white": round(white, 3),
        "checksum": leakage.pixel_fingerprint(array),
        "looks": fingerprints.fingerprint(array, affine),
        "warnings": list(meta["warnings"]),
    }


class ReadFacts:
    """The facts of items by index, for a loader: ``{…item, "facts" | "error"}``; a faulty series does not stop the others."""

    def __init__(self, items: Sequence[Mapping[str, Any]], pixels: bool) -> None:
        self.items, self.pixels = items, pixels

    def __len__(self) -> int:
        """Number of items."""
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One of them with its facts, or the reason for their absence."""
        item = dict(self.items[index])
        try:
            with logs.from_level("custom_transforms", logging.ERROR):  # warnings are among the facts
                return {**item, "facts": facts_of(item["files"], self.pixels)}
        except StalledError as error:
            return {**item, "fingerprint": "", "error": str(error)}  # it may respond next time
        except Exception as error:
            return {**item, "error": str(error) or type(error).__name__}
