"""Folders of studies as several tests need them."""

from __future__ import annotations

import csv

MRI_TYPES = ("FLAIR", "T1w", "T1wCE", "T2w")
NAMES_2021 = {"FLAIR": "flair", "T1w": "t1", "T1wCE": "t1ce", "T2w": "t2"}
NAMES_2023 = {"FLAIR": "t2f", "T1w": "t1n", "T1wCE": "t1c", "T2w": "t2w"}


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def dicom_study(root, patient, mri_types=MRI_TYPES, suffix="dcm"):
    for mri_type in mri_types:
        touch(root / patient / mri_type / f"Image-1.{suffix}")


def nifti_study(root, patient, names=NAMES_2021, mark="_", seg=True, suffix="nii.gz"):
    for name in (*names.values(), *(["seg"] if seg else [])):
        touch(root / patient / f"{patient}{mark}{name}.{suffix}")


def names(entries):
    return [one["patient"] for one in entries]


def write_rows(file, rows, columns=("BraTS21ID", "MGMT_value")):
    """A CSV of labels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
    return file
