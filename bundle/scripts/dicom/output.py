"""DICOM out: after a prediction a Segmentation (SEG) for every DICOM series, and a Structured Report (SR) for every patient."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from custom_transforms import SeriesError, dicom_slices

from .. import distributed
from ..masks import claimed, region_volumes
from ..modalities import ENHANCING_ON, MRI_TYPES
from ..outputs import inside
from ..preparation import read_index
from ..prepared import PreparedSeries
from ..studies.pseudonyms import hide
from .objects import DicomError, require
from .report import write_report
from .segmentation import write_segmentation

__all__ = ["require", "write_dicom"]

logger = logging.getLogger(__name__)

REPORT_NAME = "report_sr.dcm"
NO_TUMOUR = "no tumour was found"
UNFIT = "the headers of the series do not allow one"


def write_dicom(
    prepared_dir: str | Path,
    rows: Iterable[Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    deidentify: bool = False,
    enhancing_on: Sequence[str] = ENHANCING_ON,
) -> dict[str, list[str]]:
    """Write the SEG of every prepared series whose source is DICOM, and an SR for every patient with such a series.

    Several processes must call this together; each writes those of its share. Objects that can't be written are left
    out, and the log says why.

    Args:
        prepared_dir: folder of prepared series with its index.
        rows: from :meth:`~scripts.patients.PatientResults.patient_rows`.
        entries: of the data list.
        output_dir: folder for ``<patient>/<mri_type>_seg.dcm`` and ``<patient>/report_sr.dcm``.
        deidentify: leave out what identifies the patients.
        enhancing_on: modalities in which enhancing tumour is claimed.

    Returns:
        Files written, relative to the folder, by patient; only patients with any.
    """
    index, row_of = read_index(prepared_dir), {row["patient"]: row for row in rows}
    written: dict[str, list[str]] = {}
    left_out: dict[str, str] = {}
    for entry in distributed.share(entries):
        patient = entry["patient"]
        folder = inside(output_dir, patient)
        files, reasons = _write_patient(entry, index, row_of[patient], folder, deidentify, enhancing_on)
        left_out |= {name: hide(reason, entry) for name, reason in reasons.items()}
        if files:
            written[patient] = [Path(os.path.relpath(file, output_dir)).as_posix() for file in files]
    parts = distributed.gather((written, left_out))
    for name, reason in sorted((name, reason) for _, part in parts for name, reason in part.items()):
        logger.warning("%s: no DICOM written: %s", name, reason)
    everything = {patient: files for part, _ in parts for patient, files in part.items()}
    result = {entry["patient"]: everything[entry["patient"]] for entry in entries if entry["patient"] in everything}
    logger.info("%s: %d DICOM files of %d patients", output_dir, sum(map(len, result.values())), len(result))
    return result


def _write_patient(
    entry: Mapping[str, Any],
    index: Mapping[str, Mapping[str, Any]],
    row: Mapping[str, Any],
    folder: Path,
    deidentify: bool,
    enhancing_on: Sequence[str],
) -> tuple[list[Path], dict[str, str]]:
    """Write the objects of one patient; returns the files, and by name the reasons for those left out."""
    study: dict[str, dict[str, Any]] = {}
    segmentations: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    for mri_type in MRI_TYPES:
        name = f"{entry['patient']}/{mri_type}"
        prepared = index.get(name, {}).get("file")
        if prepared is None:
            continue
        try:
            if dicom_slices(entry[mri_type]) is None:
                left_out[name] = f"{entry[mri_type]} is not DICOM"
                continue
        except SeriesError as error:  # changed since it was segmented
            left_out[name] = str(error)
            continue
        series = PreparedSeries(prepared)
        geometry = series.require_geometry()
        masks = claimed(series.masks(), mri_type, enhancing_on)
        volumes = region_volumes(masks, geometry.voxel_volume)
        study[mri_type] = {"source": entry[mri_type], **volumes, "reason": NO_TUMOUR}
        file = folder / f"{mri_type}_seg.dcm"
        facts = {"patient": entry["patient"], "mri_type": mri_type, "deidentify": deidentify}
        try:
            made = write_segmentation(entry[mri_type], masks, file, geometry=geometry, **facts)
        except (DicomError, SeriesError) as error:
            # the report has no room for paths, which may hold names
            left_out[name], study[mri_type]["reason"] = str(error), UNFIT
            continue
        if made is None:
            left_out[name] = NO_TUMOUR
        else:
            segmentations[mri_type] = made
    files = list(segmentations.values())
    if study:
        try:
            target = folder / REPORT_NAME
            files.append(
                write_report(study, target, patient_row=row, segmentations=segmentations, deidentify=deidentify)
            )
        except (DicomError, SeriesError) as error:
            left_out[f"{entry['patient']}/report"] = str(error)
    return files, left_out
