"""The overview: what it computes, and a picture drawn from a few small files."""

from __future__ import annotations

import csv
import sys

import cv2
import nibabel as nib
import numpy as np
import pytest

from scripts.report import overview

MRI_TYPES = ("FLAIR", "T1wCE")
PATIENTS = {"00001": 0, "00002": 1, "00003": 1, "00004": 0}
SHAPE = (24, 20, 6)
AFFINE = np.diag([-3.0, -3.0, 5.0, 1.0])  # as DICOM: columns to the left, rows to the back


def write_table(file, columns):
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def write_nifti(file, volume):
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, AFFINE), file)


def label_volume(shift=0):
    labels = np.zeros(SHAPE, np.uint8)
    labels[6 + shift : 14 + shift, 5:12, 2:5] = 1
    labels[8 + shift : 11 + shift, 7:10, 3] = 2
    return labels


@pytest.fixture
def run(tmp_path):
    """Arguments of draw_overview for a made-up run."""
    rng = np.random.default_rng(0)
    brain = np.zeros(SHAPE, np.float32)
    brain[2:22, 2:18] = rng.uniform(50, 200, (20, 16, 6))
    for patient in PATIENTS:
        for mri_type in MRI_TYPES:
            name = {"FLAIR": "flair", "T1wCE": "t1ce"}[mri_type]
            write_nifti(tmp_path / "studies" / patient / f"{patient}_{name}.nii.gz", brain)
            write_nifti(tmp_path / "true" / f"{patient}_{mri_type}.nii.gz", label_volume())
            write_nifti(tmp_path / "masks" / f"{patient}_{mri_type}.nii.gz", label_volume(shift=1))
    epochs = [1, 2, 3]
    losses = {"epoch": epochs, "train_loss": [0.9, 0.6, 0.4]}
    dice = {"WT_dice": [0.1, 0.5, 0.7], "ET_dice": [0.0, 0.3, 0.5]}
    write_table(tmp_path / "runs" / "segmentation" / "history.csv", {**losses, **dice})
    for mri_type in MRI_TYPES:
        write_table(tmp_path / "runs" / mri_type / "history.csv", {**losses, "log_loss": [0.7, 0.6, 0.5]})
    chance = {"all": [0.2, 0.7, 0.6, 0.65], "FLAIR": [0.1, 0.8, "", 0.7], "T1wCE": [0.3, 0.6, 0.6, 0.6]}
    write_table(tmp_path / "predictions.csv", {"patient": PATIENTS, "label": PATIENTS.values(), **chance})
    return {
        "output": tmp_path / "pictures" / "overview.png",
        "studies": tmp_path / "studies",
        "true_masks": tmp_path / "true",
        "predicted_masks": tmp_path / "masks",
        "segmentation_run": tmp_path / "runs" / "segmentation",
        "classification_runs": {mri_type: tmp_path / "runs" / mri_type for mri_type in MRI_TYPES},
        "predictions": tmp_path / "predictions.csv",
    }


def test_picture_is_written_readable_and_not_blank(run):
    overview.draw_overview(**run)
    assert [path.name for path in run["output"].parent.iterdir()] == ["overview.png"]
    picture = cv2.imread(str(run["output"]))
    height, width = picture.shape[:2]
    assert width == overview.WIDTH * overview.DPI
    assert height > width / 2
    for part in np.array_split(picture, 8):
        assert part.std() > 5
    for colour in (overview.WT_COLOUR, overview.ET_COLOUR):
        bgr = [int(colour[at : at + 2], 16) for at in (5, 3, 1)]
        assert (np.abs(picture.astype(int) - bgr).max(-1) < 8).sum() > 100


def test_one_modality_and_one_patient(run):
    run["classification_runs"].pop("T1wCE")
    overview.draw_overview(**run, patients=1)
    assert cv2.imread(str(run["output"])) is not None


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("predictions.csv", "predictions.csv"),
        ("runs/segmentation/history.csv", "history.csv"),
        ("true/00002_T1wCE.nii.gz", "00002_T1wCE"),
        ("masks/00001_FLAIR.nii.gz", "00001_FLAIR"),
    ],
)
def test_missing_file_is_named(run, tmp_path, missing, named):
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=named):
        overview.draw_overview(**run)
    assert not run["output"].exists()


def test_missing_series_is_named(run, tmp_path):
    (tmp_path / "studies" / "00002" / "00002_t1ce.nii.gz").unlink()
    with pytest.raises(ValueError, match="no T1wCE series of patient 00002"):
        overview.draw_overview(**run)


def test_without_matplotlib_the_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"brats-mri-radiogenomics\[demo\]"):
        overview.draw_overview(**run)


def test_panel_is_the_slice_with_most_tumour():
    image = np.ones((4, 30, 30))
    truth = np.zeros((4, 30, 30), np.uint8)
    truth[1, 10:12, 10:12] = 2
    truth[2, 10:20, 10:20] = 1
    panel = overview.choose_panel("FLAIR", image, truth, np.roll(truth, 5, axis=1))
    assert panel.truth.sum() == 100
    assert panel.slice_dice == pytest.approx(2 * 50 / (100 + 100))
    assert panel.series_dice == pytest.approx(2 * 50 / (104 + 104))
    assert np.isnan(overview.whole_tumour_dice(truth[0], truth[0]))


def test_panels_become_as_large_as_the_largest():
    def panel(height, width):
        image = np.ones((1, height, width))
        return overview.choose_panel("FLAIR", image, image.astype(np.uint8), image.astype(np.uint8))

    small, large = overview.same_size([panel(20, 35), panel(30, 25)])
    assert small.image.shape == small.truth.shape == large.prediction.shape == (30, 35)
    assert small.image.sum() == 20 * 35


def test_panel_of_masks_of_another_series_is_refused():
    image = np.ones((4, 30, 30))
    with pytest.raises(ValueError, match="same series"):
        overview.choose_panel("FLAIR", image, np.zeros((4, 30, 30)), np.zeros((4, 30, 29)))


def test_label_map_is_turned_like_its_image(run, tmp_path):
    labels = overview.read_label_map(tmp_path / "true" / "00001_FLAIR.nii.gz")
    image, aspect = overview.read_series(tmp_path / "studies" / "00001" / "00001_flair.nii.gz")
    assert labels.shape == image.shape == (6, 20, 24)
    assert aspect == 1
    assert np.array_equal(labels[3], label_volume()[:, :, 3].T)


def test_patients_are_of_either_label_in_turn():
    chosen = overview.Predictions(list("abcde"), np.array([0, 0, 0, 1, 0]), {})
    assert overview.choose_patients(chosen, 4) == [3, 0, 1, 2]


def test_roc_steps_and_its_area_is_the_auc():
    labels, chance = np.array([0, 0, 1, 1, 1, 0]), np.array([0.1, 0.5, 0.5, 0.9, 0.4, 0.2])
    false, true = overview.roc_curve(labels, chance)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    area = float(((true[1:] + true[:-1]) / 2 * np.diff(false)).sum())
    assert area == pytest.approx(overview.roc_auc(labels, chance))
