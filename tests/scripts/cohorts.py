"""Prepared series, their index, and rows of patients, as several tests need them."""

from __future__ import annotations

import csv
import json

import numpy as np

from scripts.files import write_json
from scripts.prepared import write_series


def read_rows(file):
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def write_prepared(folder, patient, mri_type, masks, geometry, kept=0, **info):
    """One prepared series with its row in the index."""
    file = folder / patient / f"{mri_type}.h5"
    info = {
        "patient": patient, "mri_type": mri_type, "slices": len(masks), "foreground": len(masks), "kept": kept,
        "seconds": 1.5, "warnings": [], **info,
    }  # fmt: skip
    image = np.zeros((kept, *masks.shape[2:]), np.uint8)
    write_series(file, image, np.arange(kept), masks, info, geometry)
    add_row(folder, f"{patient}/{mri_type}", {"file": f"{patient}/{mri_type}.h5", **info})


def add_row(folder, name, row):
    index = folder / "index.json"
    content = json.loads(index.read_text()) if index.is_file() else {"configuration": {}, "series": {}}
    content["series"][name] = row
    write_json(content, index)


def add_error(folder, patient, mri_type, error):
    row = {"patient": patient, "mri_type": mri_type, "warnings": ["odd"], "error": error}
    add_row(folder, f"{patient}/{mri_type}", row)


def entry(patient, *mri_types, **rest):
    return {"patient": patient, **dict.fromkeys(mri_types, "somewhere"), **rest}


def volume_rows(patient, **volumes):
    return [
        {
            "patient": patient,
            "mri_type": name,
            "whole_tumour_ml": f"{value:.3f}",
            "file": f"masks/{patient}_{name}.nii.gz",
        }
        for name, value in volumes.items()
    ]
