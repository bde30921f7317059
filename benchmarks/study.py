"""What the benchmarks are run on: a phantom study like a challenge patient's, and the real one where there is one."""

from __future__ import annotations

import os
from pathlib import Path

from scripts.synthetic.cohort import write_cohort
from scripts.synthetic.phantom import MRI_TYPES

CACHE = Path(__file__).with_name(".cache")
"""Where studies and weights are kept from run to run."""


def cohort(cache: Path = CACHE) -> Path:
    """The phantom cohort at the challenge's size: 240 x 240 x 155 voxels of 1 mm, in ``task1`` and ``task2``.

    Two patients are NIfTI volumes with labels; the first of them is the study. The classifier is trained on the four others,
    DICOM series with masks.
    """
    folder = cache / "cohort"
    if not folder.is_dir():
        write_cohort(folder, segmentation_patients=2, classification_patients=4, test_patients=0, spacing=1.0)
    return folder


def training_cohort(cache: Path = CACHE) -> Path:
    """Other phantoms, at 2 mm and with labels, for the segmentation: so many that places are not learned by heart."""
    folder = cache / "training_cohort"
    if not folder.is_dir():
        write_cohort(folder, segmentation_patients=20, classification_patients=0, test_patients=0, seed=68, spacing=2.0)
    return folder


def studies(patients: int = 1, cache: Path = CACHE) -> Path:
    """Folder with so many studies of four series of 155 slices; all of them are the same images under different names."""
    source = cohort(cache) / "task1" / "BraTS2021_00000"
    folder = cache / f"studies-{patients}"
    for number in range(patients):
        patient = f"BraTS2021_{number:05d}"
        (folder / patient).mkdir(parents=True, exist_ok=True)
        for name in MRI_TYPES.values():
            link = folder / patient / f"{patient}_{name}.nii.gz"
            if not link.exists():
                link.symlink_to((source / f"{source.name}_{name}.nii.gz").resolve())
    return folder


def real() -> Path | None:
    """The DICOM study below ``$RADIOGENOMICS_REAL_DATA``; None where that is not set."""
    named = os.environ.get("RADIOGENOMICS_REAL_DATA")
    return Path(named) / "task2" / "train" if named else None
