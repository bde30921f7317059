"""Fixtures that whole jobs share."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import radiogenomics
from scripts import cli
from scripts.weights import save_weights
from tests.integration.jobs import KEEP_ALL, command, train_classifiers
from tests.networks import SEGMENTER, finds_everything


def pytest_collection_modifyitems(items):
    """Whole jobs take seconds: `make quick` leaves them out."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def write_segmenter():
    """A function that writes weights of a segmenter that finds a tumour wherever it looks, and returns their file."""

    def write(settings, folder):
        file = folder / "segmentation.pt"
        save_weights(finds_everything(settings), settings, file)
        return file

    return write


@pytest.fixture(scope="session")
def federated_sites(tmp_path_factory, write_segmenter):
    """Folder of two sites, ``north`` with four patients and ``south`` with two, each with its own data list and prepared series.

    Both labels are in both folds of north; ``data/task2/test`` has a patient of neither.
    """
    folder = tmp_path_factory.mktemp("sites")
    cli.phantom(folder / "data", segmentation_patients=0, classification_patients=6, test_patients=1, spacing=7.0)
    settings = {"encoder_name": "tu-test_efficientnet", "decoder_channels": [16, 8, 8, 4, 4], "image_size": 32}
    segmenter = write_segmenter(settings, folder)
    cli.datalist(folder / "data" / "task2", folder / "task2.json", folds=2)
    everybody = json.loads((folder / "task2.json").read_text())
    one, other = ([entry for entry in everybody["training"] if entry["label"] == label] for label in (0, 1))
    for name, patients in {"north": [one[0], other[0], one[1], other[1]], "south": [one[2], other[2]]}.items():
        mine = [{**entry, "fold": number * 2 // len(patients)} for number, entry in enumerate(patients)]
        (folder / name).mkdir()
        (folder / name / "task2.json").write_text(json.dumps({**everybody, "training": mine, "test": []}))
        cli.prepare(
            "classification", folder / name / "prepared", datalist=folder / name / "task2.json", segmenter=segmenter,
            mri_types="FLAIR", min_tumor_ratio=-1, num_workers=0, amp=False,
        )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    """Phantom in both layouts with its data lists; one patient is in both tasks."""
    folder = tmp_path_factory.mktemp("cohort")
    radiogenomics.phantom(
        folder / "data", segmentation_patients=5, classification_patients=4, test_patients=1, overlap=1, spacing=5.0,
        planes={"T1w": "coronal", "T2w": "sagittal", "FLAIR": "axial", "T1wCE": "axial"},
    )  # fmt: skip
    for task in ("task1", "task2"):
        radiogenomics.datalist(folder / "data" / task, folder / f"{task}.json", folds=2)
    return folder


@pytest.fixture(scope="session")
def prepared_slices(cohort):
    return radiogenomics.prepare("segmentation", cohort / "slices", datalist=cohort / "task1.json", num_workers=0)


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory, write_segmenter):
    """Weights of a segmenter that finds a tumour wherever it looks, so that slices pass without a long training."""
    return write_segmenter(SEGMENTER, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def prepared_series(cohort, segmenter):
    return radiogenomics.prepare(
        "classification", cohort / "series", datalist=cohort / "task2.json", segmenter=segmenter, **KEEP_ALL
    )


@pytest.fixture(scope="session")
def classifiers(cohort, prepared_series):
    return train_classifiers(cohort, cohort / "classifiers")


@pytest.fixture(scope="session")
def hospital(cohort):
    """Studies as they come: a good one, one broken series, one without any brain, one whose folder is empty."""
    folder = cohort / "hospital"
    test = cohort / "data" / "task2" / "test"
    (good,) = [path.name for path in test.iterdir()]
    shutil.copytree(test / good, folder / good)
    shutil.copytree(test / good / "FLAIR", folder / "00901" / "FLAIR")
    for file in (folder / "00901" / "FLAIR").iterdir():
        file.write_bytes(file.read_bytes()[:200])
    shutil.copytree(test / good / "FLAIR", folder / "00902" / "FLAIR")
    shutil.copytree(test / good / "T2w", folder / "00902" / "T2w")
    for file in (folder / "00902" / "FLAIR").iterdir():
        file.write_bytes(b"no DICOM")
    (folder / "00903" / "FLAIR").mkdir(parents=True)
    blank = folder / "BraTS2021_00904"
    blank.mkdir()
    nearly = np.zeros((12, 12, 10), np.float32)
    nearly[6, 6, 5] = 1
    nib.save(nib.Nifti1Image(nearly, np.eye(4)), blank / "BraTS2021_00904_flair.nii.gz")
    return folder, good


@pytest.fixture(scope="session")
def prediction(cohort, hospital, segmenter, classifiers):
    """By the bundle's command."""
    sample = cohort / "sample.csv"
    names = ["904", "00902", hospital[1], "00901", "00903", "00777"]
    sample.write_text("BraTS21ID,MGMT_value\n" + "".join(f"{name},0.5\n" for name in names))
    command(
        "inference", "inference", cohort / "elsewhere",
        dataset_dir=hospital[0], output_dir=cohort / "prediction", segmenter=segmenter, classifier=classifiers,
        sample_submission=sample, prior=0.45, **KEEP_ALL,
    )  # fmt: skip
    return cohort / "prediction", names
