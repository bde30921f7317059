"""Heads for tests: a skull around a phantom's brain, and a patient's series with their skull."""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pytest

from custom_transforms import SeriesReader
from scripts.studies.series import read_studies

NAMES = {"MRHR FLAIR AX": "FLAIR", "T1 AX": "T1w", "MRHR T1 AX POST GAD": "T1wCE", "MRHR T2 AX": "T2w"}


@dataclass
class Head:
    """Volumes and affines by modality, and the brain's masks on their grids."""

    series: dict
    masks: dict


def with_skull(brain, spacing=2.0, fat=1.0, noise=0.0, seed=0):
    """A phantom's volume with fluid, bone and scalp around its brain, and the noise of air."""
    from scipy import ndimage

    white = np.percentile(brain[brain > 0], 99)
    far = ndimage.distance_transform_edt(brain == 0) * spacing
    rng = np.random.default_rng(seed)
    head = brain.copy()
    for inner, outer, level in ((0, 2, 0.25), (2, 8, 0.05), (8, 14, fat)):  # mm, mm, share of the white level
        head[(far > inner) & (far <= outer)] = level * white
    level = noise * white
    return np.hypot(head + level * rng.standard_normal(head.shape), level * rng.standard_normal(head.shape)).astype(
        "f4"
    )


def read_real_head(real_data):
    """The series of a hospital's export, read as DICOM, and HD-BET's masks; skips without it."""
    folder = real_data / "raw" / "06692"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    (study,), _ = read_studies(sorted((folder / "export").iterdir()))
    head = Head({}, {})
    for one in study.series:
        mri_type = NAMES[one.description]
        volume, meta = SeriesReader().get_data(one.files)
        mask = nib.load(folder / "brain_masks" / f"{mri_type}.nii.gz")
        turn = nib.orientations.ornt_transform(nib.io_orientation(mask.affine), nib.io_orientation(meta["affine"]))
        head.series[mri_type] = volume, meta["affine"]
        head.masks[mri_type] = nib.orientations.apply_orientation(np.asarray(mask.dataobj), turn) > 0
    return head
