"""A page for each predicted DICOM study: the chosen series, the results, and why other series were left out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import RESEARCH_ONLY
from ..masks import REGIONS, claimed, region_volumes
from ..modalities import ENHANCING_ON, MRI_TYPES
from ..outputs import inside
from ..preparation import read_index
from ..prepared import PreparedSeries
from .pages import jinja_environment, write_page
from .patient import failure_lines
from .tables import selection_table, table_of_records, with_interval
from .viewer import SheetError, largest_tumour, read_source

logger = logging.getLogger(__name__)

SUMMARY = "summary.html"
PHANTOM = "According to its headers a phantom, not a patient."


def write_summaries(
    prediction_dir: str | Path,
    entries: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    enhancing_on: Sequence[str] = ENHANCING_ON,
) -> dict[str, str]:
    """Write the page of every study: one self-contained HTML file.

    Args:
        prediction_dir: folder of the prediction.
        entries: of the data list that was predicted.
        output_dir: folder for ``<patient>/summary.html``.
        enhancing_on: modalities in which enhancing tumour is claimed.

    Returns:
        Files, relative to ``output_dir``, by patient.

    Raises:
        ImportError: when Jinja2 is not installed.
    """
    folder = Path(prediction_dir)
    jinja = jinja_environment()
    content = json.loads((folder / "patients.json").read_text(encoding="utf-8"))
    rows = {row["patient"]: row for row in content["patients"]}
    index = read_index(folder / "prepared")
    written = {}
    for entry in entries:
        patient = entry["patient"]
        found = _page(entry, rows.get(patient, {}), index, enhancing_on)
        common = {"title": f"Study {patient}", "subtitle": "", "phantom": PHANTOM if entry["study"]["phantom"] else ""}
        target = inside(output_dir, patient, SUMMARY)
        write_page(target, jinja.get_template(SUMMARY).render(**common, found=found))
        written[patient] = f"{patient}/{SUMMARY}"
    logger.info("%s: a summary of each of %d studies. %s", output_dir, len(written), RESEARCH_ONLY)
    return written


def _page(
    entry: Mapping[str, Any],
    row: Mapping[str, Any],
    index: Mapping[str, Mapping[str, Any]],
    enhancing_on: Sequence[str],
) -> dict[str, Any]:
    """The content of a study's page, for an entry of :func:`scripts.studies.folders.find_studies` with its ``row`` of ``patients.json``."""
    pictures, notes, records = [], [], []
    chosen = {one["modality"]: one["description"] for one in entry["study"]["series"] if one["chosen"]}
    for mri_type in MRI_TYPES:
        facts = row.get("series", {}).get(mri_type, {})
        record: dict[str, Any] = {"modality": mri_type, "series": chosen.get(mri_type)}
        file = index.get(f"{entry['patient']}/{mri_type}", {}).get("file")
        if file is not None and mri_type in entry:
            series = PreparedSeries(file)
            geometry = series.require_geometry()
            size = region_volumes(claimed(series.masks(), mri_type, enhancing_on), geometry.voxel_volume)
            record |= {f"{region} ml": round(size[region] / 1000, 3) if region in size else None for region in REGIONS}
            try:
                picture = largest_tumour(series, read_source(entry[mri_type], geometry))
                pictures += [{"mri_type": mri_type, **picture}] if picture else []
            except SheetError as error:
                notes.append(f"{mri_type}: no picture ({error}).")
        record |= {"slices": facts.get("slices"), "used": facts.get("kept"), "probability": facts.get("probability")}
        records.append({**record, "remark": facts.get("reason") or (None if facts else "no such series")})
    used = row.get("used", [])
    interval = row.get("agreement_interval")
    return {
        "probability": row["probability"] if used else None,
        "interval": interval,
        "shown": with_interval(row["probability"], interval) if used else "none",
        "used": used,
        "reason": row.get("reason"),
        "results": table_of_records("Results", records),
        "selection": selection_table(entry["study"]["series"]),
        "failures": failure_lines(row),
        "pictures": pictures,
        "notes": notes,
    }
