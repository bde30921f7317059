"""The phantom cohort: synthetic patients as files, in the layouts of both challenge tasks (METHOD section "The challenge").

- ``task1/BraTS2021_N/``: volumes with tumour labels. Patients are numbered from 0; the Task-2 training patients follow, then the
  test patients.
- ``task2/{train,test}/N/{FLAIR,T1w,T1wCE,T2w}/Image-*.dcm``, ``train_labels.csv``, ``sample_submission.csv`` and
  ``test_labels.csv`` (the truth). Labels are half 0, half 1 within training and within test.
- ``task2_masks/N_FLAIR.nii.gz`` and so on: 1 tumour that does not enhance, 2 enhancing, on the grid of the DICOM series.
- ``task2_jpg/`` on request, and ``README.txt``.
"""

from __future__ import annotations

import csv
import gzip
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
from tqdm import tqdm

from custom_transforms.planes import DISPLAY_AXCODES

from ..files import is_dead
from .dicom_series import HEADLINE, NO_MEANING, file_numbers, write_dicom_series
from .phantom import (
    MRI_TYPES,
    PhantomPatient,
    PhantomSeries,
    check_signal,
    check_thickness,
    grid,
    make_patient,
    make_series,
)

__all__ = ["balanced_labels", "write_cohort"]

FOLDERS = ("task1", "task2", "task2_masks", "task2_jpg")
README = "README.txt"


def write_cohort(
    output: str | Path,
    segmentation_patients: int = 8,
    classification_patients: int = 16,
    test_patients: int = 8,
    overlap: int = 0,
    signal: float = 1.0,
    seed: int = 67,
    spacing: float = 2.0,
    shape: Sequence[int] | None = None,
    slice_thickness: float | None = None,
    planes: Mapping[str, str] | None = None,
    jpg: bool = False,
    overwrite: bool = False,
) -> dict[str, str | int]:
    """Write a synthetic cohort, see the head of this file; the same arguments give the same bytes.

    The folders appear when all are complete; partial files of a killed run are removed.

    Args:
        output: folder; made if missing.
        segmentation_patients: number of Task-1 patients.
        classification_patients: number of labelled Task-2 patients.
        test_patients: number of Task-2 test patients.
        overlap: number of last Task-1 patients who are the first Task-2 patients, under the same numbers.
        signal: strength of the made-up label in the image, 0 (none) to 1 (plain to see).
        seed: seed of everything.
        spacing: voxel side in mm.
        shape: voxels per axis; None means 240 x 240 x 155 mm.
        slice_thickness: mm, of the Task-2 series; None means `spacing`.
        planes: modality -> axial, coronal or sagittal, for Task 2; axial where not named.
        jpg: write the JPG rendering of Task 2 as well.
        overwrite: replace the phantom cohort that is in `output`. Other data are never replaced.

    Returns:
        Paths (`output`, `task1`, `task2`, `masks`, `train_labels`, `test_labels`, `sample_submission`, with `jpg` also
        `jpg`) and numbers of patients (`segmentation_patients`, `classification_patients`, `test_patients`).

    Raises:
        ValueError: for an argument out of range.
        FileExistsError: when `output` holds a cohort already, or something that is not a phantom.
        ImportError: when nilearn is not installed.
    """
    counts = {
        "segmentation_patients": segmentation_patients,
        "classification_patients": classification_patients,
        "test_patients": test_patients,
    }
    drawn = {"overlap": overlap, "signal": float(signal), "seed": seed, "spacing": float(spacing)}
    settings: dict[str, Any] = {
        **counts,
        **drawn,
        "shape": list(grid(spacing, shape)[0]),
        "slice_thickness": float(spacing if slice_thickness is None else slice_thickness),
        "planes": {**dict.fromkeys(MRI_TYPES, "axial"), **(planes or {})},
        "jpg": jpg,
    }
    _check(counts, settings)
    return {**_write_staged(Path(output).resolve(), settings, overwrite), **counts}


def _write_staged(output: Path, settings: Mapping[str, Any], overwrite: bool) -> dict[str, str]:
    """Write the cohort into a hidden folder and move it into place; its paths."""
    _check_output(output, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(output)
    staging = Path(tempfile.mkdtemp(prefix=f".phantom-{platform.node()}-{os.getpid()}-", dir=output))
    try:
        _write_all(staging, settings)
        _check_output(output, overwrite)
        # The README, which marks a phantom for later runs, comes first; the rest are instant renames.
        (staging / README).replace(output / README)
        for folder in FOLDERS:
            if (output / folder).exists():
                (output / folder).replace(staging / f"old_{folder}")
            if (staging / folder).exists():
                (staging / folder).replace(output / folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    tables = ("train_labels", "test_labels", "sample_submission")
    paths = {"output": output, "task1": output / "task1", "task2": output / "task2", "masks": output / "task2_masks"}
    paths |= {name: output / "task2" / f"{name}.csv" for name in tables}
    paths |= {"jpg": output / "task2_jpg"} if settings["jpg"] else {}
    return {name: str(path) for name, path in paths.items()}


def _check(counts: Mapping[str, int], settings: Mapping[str, Any]) -> None:
    """Refuse settings that are out of range."""
    if min(counts.values()) < 0 or sum(counts.values()) == 0:
        raise ValueError(f"numbers of patients {dict(counts)}: expected none below 0, and at least one above")
    most = min(counts["segmentation_patients"], counts["classification_patients"])
    if not 0 <= settings["overlap"] <= most:
        raise ValueError(
            f"overlap {settings['overlap']}: expected 0 to {most}, the number of Task-1 or labelled Task-2 patients"
        )
    planes = settings["planes"]
    if set(planes) != set(MRI_TYPES) or not set(planes.values()) <= set(DISPLAY_AXCODES):
        raise ValueError(f"planes {planes}: expected {', '.join(MRI_TYPES)}, and {', '.join(DISPLAY_AXCODES)} for each")
    check_signal(settings["signal"])
    check_thickness(settings["slice_thickness"], settings["spacing"])


def _write_all(staging: Path, settings: Mapping[str, Any]) -> None:
    """Write the patients, their labels and the README."""
    first_labelled = settings["segmentation_patients"] - settings["overlap"]
    first_test = first_labelled + settings["classification_patients"]
    train, test = range(first_labelled, first_test), range(first_test, first_test + settings["test_patients"])
    labels: dict[int, int] = {}
    for place, numbers in enumerate((train, test, range(first_labelled)), 1):
        labels |= zip(numbers, balanced_labels(len(numbers), [settings["seed"], 0, place]), strict=True)
    for folder in FOLDERS if settings["jpg"] else FOLDERS[:-1]:
        (staging / folder).mkdir()
    for number in tqdm(sorted(labels), desc="phantom patients", unit="patient"):
        drawn = (settings[name] for name in ("signal", "seed", "spacing", "shape"))
        patient = make_patient(number, labels[number], *drawn)
        if number < settings["segmentation_patients"]:
            _write_task1(staging / "task1", patient)
        if number >= train.start:
            _write_task2(staging, patient, "test" if number in test else "train", settings)
    _write_csv(staging / "task2" / "train_labels.csv", {f"{n:05d}": labels[n] for n in train})
    _write_csv(staging / "task2" / "test_labels.csv", {f"{n:05d}": labels[n] for n in test})
    _write_csv(staging / "task2" / "sample_submission.csv", {f"{n:05d}": 0.5 for n in test})
    (staging / README).write_text(_readme(settings), encoding="utf-8")


def balanced_labels(count: int, seed: Sequence[int]) -> list[int]:
    """Shuffled labels, half of them 1 (an odd one out is 0)."""
    labels = np.arange(count) % 2
    return [int(label) for label in np.random.default_rng(list(seed)).permutation(labels)]


def _check_output(output: Path, overwrite: bool) -> None:
    """Refuse to replace a phantom unless asked, and anything else in any case."""
    present = [name for name in (*FOLDERS, README) if (output / name).exists()]
    if not present:
        return
    readme = output / README
    is_phantom = readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith(HEADLINE)
    if not is_phantom:
        raise FileExistsError(
            f"{output} holds {', '.join(present)} but no {README} of a phantom cohort: these may be real data and are not "
            "replaced; name another output folder"
        )
    if not overwrite:
        raise FileExistsError(
            f"{output} already holds a phantom cohort ({', '.join(present)}); name another output folder, or replace it with "
            "overwrite=True (--overwrite True)"
        )


def _remove_leftovers(output: Path) -> None:
    """Remove the hidden partial folders that killed runs of this machine left in `output`."""
    made_here = re.compile(rf"\.phantom-{re.escape(platform.node())}-(\d{{1,9}})-\w+")
    for folder in output.iterdir():
        match = made_here.fullmatch(folder.name)
        if match and is_dead(int(match[1])):
            shutil.rmtree(folder, ignore_errors=True)


def _readme(settings: Mapping[str, object]) -> str:
    lines = "\n".join(f"  {name}: {value}" for name, value in settings.items())
    return f"""{HEADLINE}

{NO_MEANING}
It changes the look of the tumour (thickness of the enhancing rim; brightness of necrosis, rim and oedema in all
modalities) by an amount that was chosen: the setting `signal`, 0 = not at all, 1 = plain to see. A figure measured on
this cohort shows that software works; it says nothing about real MRI or real MGMT status. Never for diagnosis.

How it was made: the MNI152 average brain (ICBM 2009a nonlinear symmetric, as carried by nilearn), deformed at random
per patient, given a contrast per modality, vessels, a tumour (necrotic core, enhancing rim, oedema along white matter),
a bias field and Rician noise. Everything follows from the settings, so that they make the same files again:

{lines}

  task1/        BraTS 2021 form; labels 1 necrotic core, 2 oedema, 4 enhancing tumour
  task2/        DICOM series and labels; test_labels.csv is the truth of the test patients
  task2_masks/  true masks of the Task-2 series: 1 tumour that does not enhance, 2 enhancing tumour
  task2_jpg/    8-bit rendering of task2, if it was asked for
"""


def _write_task1(folder: Path, patient: PhantomPatient) -> None:
    name = f"BraTS2021_{patient.number:05d}"
    (folder / name).mkdir()
    for mri_type, file_name in MRI_TYPES.items():
        volume = np.rint(patient.volumes[mri_type]).astype(np.int16)
        _write_nifti(folder / name / f"{name}_{file_name}.nii.gz", volume, patient.affine)
    _write_nifti(folder / name / f"{name}_seg.nii.gz", patient.seg, patient.affine)


def _write_task2(staging: Path, patient: PhantomPatient, split: str, settings: Mapping[str, Any]) -> None:
    name, thickness = f"{patient.number:05d}", settings["slice_thickness"]
    uid_name = f"phantom/{settings}/{patient.number}"
    for mri_type, plane in settings["planes"].items():
        series = make_series(patient.volumes[mri_type], patient.seg, patient.affine, plane, thickness)
        where = Path(split, name, mri_type)
        write_dicom_series(staging / "task2" / where, name, mri_type, series, thickness, uid_name)
        _write_nifti(staging / "task2_masks" / f"{name}_{mri_type}.nii.gz", series.mask, series.affine)
        if settings["jpg"]:
            _write_jpg_series(staging / "task2_jpg" / where, mri_type, series)


def _write_csv(path: Path, rows: Mapping[str, int | float]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["BraTS21ID", "MGMT_value"])
        writer.writerows(rows.items())


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header["descrip"] = b"PHANTOM: synthetic, not a patient"
    image.header.set_xyzt_units("mm")
    # Without a time stamp in the archive the same voxels give the same file.
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=2, mtime=0))


def _write_jpg_series(folder: Path, mri_type: str, series: PhantomSeries) -> None:
    """Write `Image-N.jpg`, 8 bit, the series' minimum ... maximum at 0 ... 255."""
    folder.mkdir(parents=True)
    low, high = int(series.image.min()), int(series.image.max())
    grey = np.rint((series.image.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8)
    for k, number in enumerate(file_numbers(mri_type, grey.shape[2])):
        path = folder / f"Image-{number}.jpg"
        if not cv2.imwrite(str(path), np.ascontiguousarray(grey[:, :, k].T), [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise OSError(f"{path}: OpenCV could not write the picture; is the disk full?")
