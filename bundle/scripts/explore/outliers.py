"""Series that stand out, each with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..studies.table import FAR_APART, FEW_SLICES

FEWEST = 8
"""Number of series of a modality needed to know what is usual."""
FAR_OFF = 5.0
"""Robust standard deviations (1.48 times the median distance to the median) from the median."""
RARE = 0.05
"""Share of the series of a modality that have a matrix or a plane, below which it is unusual."""
MANY_EMPTY = 0.5
BRAIN_ML = (800.0, 2000.0)
"""Of an adult's brain without the skull, with a margin."""


def outliers(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Series that can be read and stand out, ``{"patient", "mri_type", "reason", "found", "usual"}``, a row a reason."""
    readable = [row for row in rows if "error" not in row]
    found = []
    for mri_type in dict.fromkeys(row["mri_type"] for row in readable):
        group = [row for row in readable if row["mri_type"] == mri_type]
        found += [one for row in group for one in _by_itself(row)]
        if len(group) >= FEWEST:
            found += _rare(group, "matrix") + _rare(group, "plane") + _rare(group, "skull")
            for key, what in (
                ("slices", "number of slices"),
                ("slice_mm", "distance of slices (mm)"),
                ("pixel_mm", "size of pixels (mm)"),
            ):
                found += _far_off(group, key, what, 0.15)
            for kind in dict.fromkeys(row["format"] for row in group):  # conversion may have changed the scale
                found += _far_off([row for row in group if row["format"] == kind], "median", "median grey value", 0.25)
    return found


def _one(row: Mapping[str, Any], reason: str, found: Any, usual: Any) -> dict[str, Any]:
    return {
        "patient": row["patient"],
        "mri_type": row["mri_type"],
        "reason": reason,
        "found": found,
        "usual": usual,
    }


def _by_itself(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Values that are unusual by themselves."""
    found = []
    slices, distance = row.get("slices"), row.get("slice_mm")
    if slices is not None and slices < FEW_SLICES:
        found.append(_one(row, "few slices", slices, f"at least {FEW_SLICES}"))
    if distance is not None and distance > FAR_APART:
        found.append(_one(row, "slices far apart (mm)", distance, f"at most {FAR_APART:g}"))
    if slices and row.get("empty_slices", 0) > MANY_EMPTY * slices:
        found.append(_one(row, "empty slices", f"{row['empty_slices']} of {slices}", f"at most {MANY_EMPTY:.0%}"))
    volume = row.get("shown_ml")
    if row.get("skull") == "stripped" and volume and not BRAIN_ML[0] <= volume <= BRAIN_ML[1]:
        found.append(_one(row, "volume of the brain (ml)", round(volume), f"{BRAIN_ML[0]:.0f} to {BRAIN_ML[1]:.0f}"))
    return found


def _text(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _rare(group: Sequence[Mapping[str, Any]], key: str) -> list[dict[str, Any]]:
    known = [(row, _text(row[key])) for row in group if row.get(key)]
    counts = Counter(text for _, text in known)
    if not counts or counts.most_common(1)[0][1] < 0.5 * len(known):
        return []
    usual = counts.most_common(1)[0][0]
    return [
        _one(row, f"unusual {key}", text, f"{usual} ({counts[usual]} of {len(known)})")
        for row, text in known
        if counts[text] <= max(1, RARE * len(known))
    ]


def _far_off(group: Sequence[Mapping[str, Any]], key: str, what: str, least: float) -> list[dict[str, Any]]:
    """Rows whose value lies far from the others', on a scale of ratios; ``least`` is the smallest spread, as a share."""
    known = [(row, float(row[key])) for row in group if row.get(key)]
    if len(known) < FEWEST:
        return []
    ratios = np.log([value for _, value in known])
    middle = np.median(ratios)
    spread = max(1.48 * float(np.median(np.abs(ratios - middle))), np.log1p(least) / 2)
    return [
        _one(row, f"far-off {what}", round(value, 3), f"median {np.exp(middle):.3g}")
        for (row, value), ratio in zip(known, ratios, strict=True)
        if abs(ratio - middle) > FAR_OFF * spread
    ]
