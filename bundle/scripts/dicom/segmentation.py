"""DICOM Segmentation (SEG): WT and ET of a series as overlapping binary segments, frame by frame on the slices of the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.sr.coding import Code

from custom_transforms import DicomSlices, SliceGeometry

from ..datalists import MRI_TYPES
from ..files import RESEARCH_ONLY
from ..masks import nested
from . import objects
from .objects import AI, BRAIN, SEGMENTS, SERIES_NUMBER, require

_CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")


def write_segmentation(
    series_dir: str | Path,
    masks: np.ndarray,
    path: str | Path,
    *,
    geometry: SliceGeometry,
    patient: str,
    mri_type: str,
    deidentify: bool = False,
) -> Path | None:
    """Write the DICOM SEG of one DICOM series, whole or not at all.

    Segment 1 is WT, segment 2 is ET, which is part of WT as in label maps; both are described where there are masks of both, and
    only frames that show them are written. Where no voxel is marked nothing is written, because DICOM has no SEG without
    frames, and a file at ``path`` is removed.

    Args:
        series_dir: the source: a folder of DICOM files, or one multi-frame file.
        masks: ``(N, 2, H, W)`` of 0 and 1, WT and ET of every slice, or ``(N, 1, H, W)``, WT alone, as
            :func:`~scripts.masks.claimed` gives them.
        path: file to write; folders are made.
        geometry: of the series that the masks were made on.
        patient: its name in the data list, the PatientID of deidentified objects.
        mri_type: modality, for the description.
        deidentify: leave out what identifies the patient.

    Returns:
        The file; None where no voxel is marked.

    Raises:
        ImportError: when highdicom is not installed.
        DicomError: when the series does not give its slice positions, or is not the one the masks were made on.
        SeriesError: when its files do not form one series.
    """
    require()
    from highdicom.seg import Segmentation

    path = Path(path)
    slices = objects.read_headers(series_dir)
    objects.check_place(series_dir, slices, geometry)
    if not masks.any():
        path.unlink(missing_ok=True)
        return None
    frames, positions = _frames(slices, geometry, masks)
    with objects.making(f"{series_dir}: no SEG can refer to this series"):
        made = Segmentation(
            objects.references(slices, patient, deidentify),
            frames,
            "BINARY",
            _describe(mri_type, frames.shape[-1]),
            plane_positions=positions,
            content_description=RESEARCH_ONLY,
            content_label="TUMOUR",
            **objects.of_new_object(SERIES_NUMBER + 1 + MRI_TYPES.index(mri_type), f"{mri_type}: tumour masks"),
        )
    return objects.finish(made, path, deidentify)


def _frames(slices: DicomSlices, geometry: SliceGeometry, masks: np.ndarray) -> tuple[np.ndarray, list[Any] | None]:
    """The masks ``(frames, rows, columns, segments)`` uint8 as the files lie, and their places where a file lacks one."""
    from highdicom import PlanePositionSequence

    # however the stack is oriented
    regions = np.moveaxis(nested(masks), 1, 0)
    frames = np.stack([np.asarray(geometry.to_volume(region)).T for region in regions], axis=-1).astype(np.uint8)
    places = objects.frame_order(slices)
    # a blank slice has no file; a mask on it is kept in place, at the cost of per-slice references
    blank = [place for place, header in enumerate(slices.headers) if header is None and frames[place].any()]
    if not blank:
        return frames[places], None
    places += blank
    where = np.asarray(slices.positions)
    return frames[places], [PlanePositionSequence("PATIENT", where[place]) for place in places]


def _describe(mri_type: str, count: int) -> list[Any]:
    """The descriptions of the first ``count`` segments."""
    import highdicom
    from highdicom.seg import SegmentDescription

    software = objects.software()
    algorithm = highdicom.AlgorithmIdentificationSequence(
        software["manufacturer_model_name"], family=AI, version=software["software_versions"]
    )
    return [
        SegmentDescription(
            number,
            label,
            _CATEGORY,
            kind,
            "AUTOMATIC",
            algorithm,
            tracking_uid=highdicom.UID(),
            tracking_id=f"{name} in {mri_type}",
            anatomic_regions=[BRAIN],
        )
        for number, (name, (label, kind)) in enumerate(list(SEGMENTS.items())[:count], 1)
    ]
