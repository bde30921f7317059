"""A patient with a skull: synthetic, and the real one."""

import nibabel as nib
import numpy as np
import pytest

from custom_transforms import SeriesReader
from scripts.studies.series import read_studies
from scripts.synthetic.phantom import make_patient
from tests.scripts.brain.heads import Head

NAMES = {"MRHR FLAIR AX": "FLAIR", "T1 AX": "T1w", "MRHR T1 AX POST GAD": "T1wCE", "MRHR T2 AX": "T2w"}


@pytest.fixture(scope="session")
def patient():
    pytest.importorskip("nilearn")
    return make_patient(1, 1, spacing=2.0, shape=(120, 130, 96))


@pytest.fixture(scope="session")
def real_head(real_data, tmp_path_factory):
    """The series of a hospital's export, read as DICOM, and HD-BET's masks."""
    folder = real_data / "raw" / "06692"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    ((study,), _) = read_studies(sorted((folder / "export").iterdir()))
    head = Head({}, {})
    for one in study.series:
        mri_type = NAMES[one.description]
        place = tmp_path_factory.mktemp(mri_type)
        for index, file in enumerate(one.files):
            (place / f"{index}.dcm").symlink_to(file)
        volume, meta = SeriesReader().get_data(place)
        mask = nib.load(folder / "brain_masks" / f"{mri_type}.nii.gz")
        turn = nib.orientations.ornt_transform(
            nib.io_orientation(mask.affine), nib.io_orientation(meta["affine"])
        )  # fmt: skip
        head.series[mri_type] = volume, meta["affine"]
        head.masks[mri_type] = nib.orientations.apply_orientation(np.asarray(mask.dataobj), turn) > 0
    return head
