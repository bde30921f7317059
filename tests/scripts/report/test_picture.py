"""The picture of a run, drawn from a few small files."""

import cv2
import nibabel as nib
import numpy as np
import pytest
import yaml

from scripts.files import write_csv, write_json
from scripts.report import picture
from scripts.report.viewer import ET_COLOUR, WT_COLOUR, SheetError

MRI_TYPES = {"FLAIR": "flair", "T1wCE": "t1ce"}
LABELS = {"00001": 0, "00002": 1, "00003": 1, "00004": 0}
SHAPE = (48, 40, 6)
AFFINE = np.diag([-3.0, -3.0, 5.0, 1.0])  # as DICOM: columns to the left, rows to the back


def save(volume, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, AFFINE), file)


def labels(shift=0):
    volume = np.zeros(SHAPE, np.uint8)
    volume[12 + shift : 28 + shift, 10:24, 2:5] = 1
    volume[16 + shift : 22 + shift, 14:20, 3] = 2
    return volume


@pytest.fixture
def run(tmp_path):
    """A run of both stages whose masks lie a voxel beside the true ones."""
    brain = np.zeros(SHAPE, np.float32)
    brain[4:44, 4:36] = np.random.default_rng(0).uniform(50, 200, (40, 32, 6))
    folder = tmp_path / "run"
    for patient in LABELS:
        for mri_type, name in MRI_TYPES.items():
            save(brain, tmp_path / "studies" / patient / f"{patient}_{name}.nii.gz")
            save(labels(), tmp_path / "true" / f"{patient}_{mri_type}.nii.gz")
            save(labels(shift=1), folder / "prediction" / "masks" / f"{patient}_{mri_type}.nii.gz")
    rows = [{"patient": patient, "probability": 0.5, "used": [], "series": {}} for patient in LABELS]
    write_json({"patients": rows}, folder / "prediction" / "patients.json")
    config = yaml.safe_dump({"dataset_dir": str(tmp_path / "studies")})
    (folder / "prediction" / "resolved_config.yaml").write_text(config)
    columns = {"segmentation": {"WT_dice": 0.7, "ET_dice": 0.5}, **{name: {"log_loss": 0.6} for name in MRI_TYPES}}
    for name, scores in columns.items():
        history = [{"epoch": epoch, "train_loss": 1 / epoch, **scores} for epoch in (1, 2, 3)]
        write_csv(history, folder / "runs" / name / "history.csv")
    chances = zip(LABELS.items(), (0.2, 0.7, 0.6, 0.65), strict=True)
    table = [{"patient": one, "label": label, "all": p, "FLAIR": p, "T1wCE": p} for (one, label), p in chances]
    write_csv(table, folder / "evaluation" / "predictions.csv")
    write_json({"patients": 4}, folder / "evaluation" / "metrics.json")
    return folder


@pytest.mark.slow
def test_picture_shows_masks_and_curves(run, tmp_path):
    picture.write_picture(run, tmp_path / "true", tmp_path / "out" / "overview.png")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["overview.png"]
    found = cv2.imread(str(tmp_path / "out" / "overview.png"))
    assert all(part.std() > 5 for part in np.array_split(found, 8))
    for colour in (WT_COLOUR, ET_COLOUR):
        assert (np.abs(found.astype(int) - colour[::-1]).max(-1) < 8).sum() > 100


def test_what_is_missing_is_named(run, tmp_path):
    (tmp_path / "true" / "00002_T1wCE.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match="00002_T1wCE"):
        picture.write_picture(run, tmp_path / "true", tmp_path / "overview.png")
    save(np.arange(2400.0).reshape(20, 20, 6), tmp_path / "studies" / "00002" / "00002_flair.nii.gz")
    with pytest.raises(SheetError, match="is not the series"):
        picture.write_picture(run, tmp_path / "true", tmp_path / "overview.png")
    assert not (tmp_path / "overview.png").exists()
