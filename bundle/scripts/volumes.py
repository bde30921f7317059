"""Tumour volumes of all series: ``volumes.csv``, and remarks on series that disagree."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import distributed
from .files import RESEARCH_ONLY, write_csv
from .listing import show_patients, volumes_by_patient
from .masks import claimed, region_volumes
from .modalities import ENHANCING_ON
from .outputs import remove_unfinished
from .preparation import read_index
from .prepared import PreparedSeries

logger = logging.getLogger(__name__)

VOLUME_COLUMNS = (
    "patient", "mri_type", "whole_tumour_ml", "not_enhancing_ml", "enhancing_ml", "file", "reason", "remark",
)  # fmt: skip
DISAGREEMENT = (2.0, 5.0)
"""Factor, and ml, by which a patient's largest and smallest volume must differ to be remarked upon."""


def in_millilitres(volumes: Mapping[str, float]) -> dict[str, str]:
    """Columns of ``volumes.csv``, text in ml, of :func:`~scripts.masks.region_volumes`; without ET, only the whole tumour."""
    parts = {"whole_tumour_ml": volumes["WT"]}
    if "ET" in volumes:
        parts |= {"not_enhancing_ml": volumes["WT"] - volumes["ET"], "enhancing_ml": volumes["ET"]}
    return {name: f"{value / 1000:.3f}" for name, value in parts.items()}


def series_volumes(prepared_dir: str | Path, enhancing_on: Sequence[str] = ENHANCING_ON) -> list[dict[str, Any]]:
    """Rows for :func:`write_volumes`: the volumes in the label maps of all prepared series, or why they have none.

    Several processes must call this together; each reads its share, and all get all rows.
    """
    rows = []
    for row in distributed.share(list(read_index(prepared_dir).values())):
        facts = {"patient": row["patient"], "mri_type": row["mri_type"]}
        if "file" not in row:
            rows.append({**facts, "reason": row["error"]})
            continue
        series = PreparedSeries(row["file"])
        masks = claimed(series.masks(), row["mri_type"], enhancing_on)
        volumes = region_volumes(masks, series.require_geometry().voxel_volume)
        rows.append({**facts, **in_millilitres(volumes), "file": f"masks/{row['patient']}_{row['mri_type']}.nii.gz"})
    return [row for part in distributed.gather(rows) for row in part]


def remarks_on(volumes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Remarks on patients whose series disagree on the volume of the tumour, which are logged too."""
    remarks = {}
    factor, difference = DISAGREEMENT
    for patient, found in volumes_by_patient(volumes).items():
        low, high = min(found.values()), max(found.values())
        if high > factor * low and high - low > difference:
            listed = ", ".join(f"{mri_type} {value:.1f} ml" for mri_type, value in sorted(found.items()))
            remarks[patient] = f"the series disagree on the volume of the tumour: {listed}; look at the masks"
            logger.warning("patient %s: %s", patient, remarks[patient])
    return remarks


def write_volumes(
    rows: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    entries: Sequence[Mapping[str, Any]] = (),
    finished: str | Path | None = None,
) -> Path:
    """Write ``volumes.csv`` and show it; no requested patient is left out. Several processes must call this together.

    Args:
        rows: with ``patient``, ``mri_type``, ``file`` and :func:`in_millilitres`, or with a ``reason`` for having none.
        output_dir: folder of the results.
        entries: requested patients.
        finished: folder for resuming an interrupted run; its part in ``output_dir`` is removed.
    """
    known = {(row["patient"], row["mri_type"]): row for part in distributed.gather(list(rows)) for row in part}
    there = {patient for patient, _ in known}
    for entry in entries:
        if entry["patient"] not in there:
            reason = entry.get("reason", "no series")
            known[entry["patient"], ""] = {"patient": entry["patient"], "mri_type": "", "reason": reason}
            logger.warning("patient %s: %s", entry["patient"], reason)
    file = Path(output_dir) / "volumes.csv"
    if distributed.is_first():
        volumes = [known[key] for key in sorted(known)]
        remarks = remarks_on(volumes)
        table = [{**row, "remark": remarks.get(row["patient"])} if "file" in row else row for row in volumes]
        write_csv(table, file, VOLUME_COLUMNS)
        found = sum("file" in row for row in known.values())
        logger.info("%d masks, %d series without one. %s", found, len(known) - found, RESEARCH_ONLY)
        people: dict[str, dict[str, Any]] = {}
        for row in volumes:
            person = people.setdefault(row["patient"], {"patient": row["patient"], "used": [], "series": {}})
            person["series"][row["mri_type"]] = {"reason": row.get("reason")}
            person["used"] += [row["mri_type"]] if "file" in row else []
            person["warnings"] = [remarks[row["patient"]]] if row["patient"] in remarks else []
        show_patients(list(people.values()), volumes, file.name)
        if finished is not None:
            remove_unfinished(finished, output_dir)
    return file
