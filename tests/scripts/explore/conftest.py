"""Small studies to look at."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.custom_transforms.conftest import write_series  # noqa: F401
from tests.custom_transforms.stacks import brain

AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])
PATIENTS = ("00001", "00002", "00003")


@pytest.fixture
def studies(tmp_path):
    """Three patients with FLAIR, the first with T1wCE too, and labels 1, 0 and none."""
    folder = tmp_path / "STUDIES"
    for seed, patient in enumerate(PATIENTS):
        for name in ("flair", *(["t1ce"] if not seed else [])):
            write_nifti(brain(seed=seed + 10 * len(name)), folder / patient / f"{patient}_{name}.nii.gz")
    (tmp_path / "labels.csv").write_text("BraTS21ID,MGMT_value\n00001,1\n00002,0\n")
    return folder


def write_nifti(values: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path
