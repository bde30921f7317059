"""Whole jobs on real glioma MRI: what is read, where masks lie, that nothing breaks, and that the shipped weights find a tumour."""

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
import segmentation_models_pytorch as smp
import torch

import radiogenomics
from custom_transforms import SeriesReader
from scripts.networks import BiLSTMNFNet, build_classifier
from scripts.prepared import PreparedSeries
from scripts.weights import read_weights, save_weights
from tests.networks import finds_everything

MRI_TYPES = ("FLAIR", "T1w", "T1wCE", "T2w")
SEGMENTER = {"encoder_name": "tu-test_efficientnet", "decoder_channels": [16, 8, 8, 4, 4], "image_size": 64}
CLASSIFIER = {
    "backbone": "test_efficientnet", "image_size": 64, "sequence_length": 35, "stride": 5, "hidden_size": 8,
}  # fmt: skip
NAMES = {
    "task1": dict(zip(MRI_TYPES, ("flair", "t1", "t1ce", "t2"), strict=True)),
    "brats2023": dict(zip(MRI_TYPES, ("t2f", "t1n", "t1c", "t2w"), strict=True)),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A segmenter that marks the whole of what it sees, and a random classifier."""
    folder = tmp_path_factory.mktemp("weights")
    save_weights(finds_everything(SEGMENTER), SEGMENTER, folder / "segmentation.pt")
    save_weights(build_classifier(CLASSIFIER), CLASSIFIER, folder / "classifier.pt")
    return {"segmenter": str(folder / "segmentation.pt"), "classifier": str(folder / "classifier.pt")}


def predict(studies, output, **settings):
    """All four modalities, with the method's own numbers unless said otherwise."""
    radiogenomics.run_config("inference", dataset_dir=str(studies), output_dir=str(output), num_workers=0, **settings)
    (row,) = json.loads((output / "patients.json").read_text())["patients"]
    with open(output / "submission.csv", newline="") as stream:
        (submitted,) = csv.DictReader(stream)
    assert submitted["BraTS21ID"] == row["patient"]
    assert float(submitted["MGMT_value"]) == pytest.approx(row["probability"], abs=1e-6)
    return row


def check_series(row, mri_types=MRI_TYPES):
    assert sorted(row["used"]) == sorted(mri_types)
    for mri_type in mri_types:
        series = row["series"][mri_type]
        assert series["slices"] > series["foreground"] >= series["kept"] > 5
        assert len(series["sequences"]) == max(-(-(series["kept"] - 35) // 5) + 1, 1)
        assert 0 < series["probability"] < 1


@pytest.mark.parametrize("layout", ["task1", "brats2023"])
def test_prediction_of_nifti(real_data, weights, layout, tmp_path):
    row = predict(real_data / layout, tmp_path / "out", **weights)
    check_series(row)
    for mri_type, kind in NAMES[layout].items():
        (source,) = (real_data / layout).glob(f"*/*[_-]{kind}.nii.gz")
        image = nib.load(source)
        mask = nib.load(tmp_path / "out" / "masks" / f"{row['patient']}_{mri_type}.nii.gz")
        assert mask.shape == image.shape
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)
        assert nib.aff2axcodes(mask.affine) == nib.aff2axcodes(image.affine)
        # this segmenter marks the centre of the slices with brain, so most of the brain and no slice without
        labels, brain = np.asarray(mask.dataobj) > 0, np.asarray(image.dataobj) > 0
        assert labels[brain].mean() > 0.8
        assert not labels[:, :, ~brain.any((0, 1))].any()


def test_prediction_of_dicom(real_data, weights, tmp_path):
    row = predict(real_data / "task2" / "train", tmp_path / "out", **weights)
    check_series(row)
    for mri_type in MRI_TYPES:
        folder = real_data / "task2" / "train" / row["patient"] / mri_type
        headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in folder.iterdir()]
        mask = nib.load(tmp_path / "out" / "masks" / f"{row['patient']}_{mri_type}.nii.gz")
        first = headers[0]
        assert sorted(mask.shape) == sorted((int(first.Columns), int(first.Rows), len(headers)))
        volume, meta = SeriesReader().get_data(folder)
        np.testing.assert_allclose(mask.affine, meta["affine"], atol=1e-3)
        # the corner of every file, where DICOM says that it lies, is the corner of a slice of the mask
        corners = nib.affines.apply_affine(mask.affine, [[0, 0, k] for k in range(mask.shape[2])])
        positions = np.array([header.ImagePositionPatient for header in headers], dtype=float) * [-1, -1, 1]
        distances = np.linalg.norm(positions[:, None] - corners[None], axis=2)
        assert distances.min(axis=1).max() < 0.05
        assert len(set(distances.argmin(axis=1))) == len(headers)
        labels = np.asarray(mask.dataobj) > 0
        assert labels[volume > 0.1 * volume.max()].mean() > 0.8
        series = PreparedSeries(tmp_path / "out" / "prepared" / row["patient"] / f"{mri_type}.h5")
        assert series.n_slices == len(headers)


def test_nifti_and_dicom_of_one_patient_are_cut_alike(real_data, weights, tmp_path):
    """The same FLAIR from both tasks shows the same way up: stage 2 must not see one of them mirrored."""
    predict(real_data / "task1", tmp_path / "nifti", **weights, mri_types=["FLAIR"])
    predict(real_data / "task2" / "train", tmp_path / "dicom", **weights, mri_types=["FLAIR"])
    shapes = []
    for kind in ("nifti", "dicom"):
        (file,) = (tmp_path / kind / "prepared").rglob("FLAIR.h5")
        images = torch.from_numpy(PreparedSeries(file).images())[None].float()
        profile = torch.nn.functional.adaptive_avg_pool3d(images, (8, 16, 16))[0].numpy()
        shapes.append(profile)

    def likeness(first, second):
        return np.corrcoef(first.ravel(), second.ravel())[0, 1]

    straight = likeness(*shapes)
    assert straight > 0.8
    for axes in ((0,), (1,), (2,), (1, 2)):
        assert likeness(shapes[0], np.flip(shapes[1], axes)) < straight
    assert likeness(shapes[0], shapes[1].swapaxes(1, 2)) < straight


def test_training_on_a_real_case(real_data, tmp_path):
    """Two steps; the held-out case is the same one under another name, for there is no second with labels."""
    (case,) = (real_data / "task1").iterdir()
    paths = {
        "FLAIR": str(case / f"{case.name}_flair.nii.gz"),
        "seg": str(case / f"{case.name}_seg.nii.gz"),
    }
    (tmp_path / "task1.json").write_text(
        json.dumps(
            {
                "training": [{"patient": case.name, **paths}],
                "validation": [{"patient": "BraTS2021_99999", **paths}],
            }
        )
    )
    prepared = radiogenomics.prepare(
        "segmentation", tmp_path / "prepared", datalist=tmp_path / "task1.json", num_workers=0
    )
    seg = np.asarray(nib.load(paths["seg"]).dataobj)
    for axis, plane in enumerate(("sagittal", "coronal", "axial")):
        series = PreparedSeries(prepared / case.name / f"FLAIR_{plane}.h5")
        share = (seg > 0).mean(axis=tuple({0, 1, 2} - {axis}))
        kept = int((share > 0.01).sum())
        assert len(series) == len(range(0, kept, max(round(0.1 * kept), 1))) > 5
        image, masks = series.stacks()
        assert masks[:, 0].any((1, 2)).all()
        assert masks[:, 0].sum() == pytest.approx((image[masks[:, 0] > 0] > 0).sum(), rel=0.05)  # tumour lies in brain
    settings = {**SEGMENTER, "init": "none", "num_workers": 0, "batch_size": 16, "warmup_epochs": 0}
    radiogenomics.train(
        "segmentation",
        tmp_path / "task1.json",
        prepared,
        tmp_path / "run",
        max_epochs=1,
        learning_rate=0.01,
        **settings,
    )
    trained, _ = read_weights(tmp_path / "run" / "segmentation.pt")
    start = finds_everything(SEGMENTER).state_dict()
    assert all(torch.isfinite(value).all() for value in trained.values())
    assert trained.keys() == start.keys()
    with open(tmp_path / "run" / "history.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert 0 < float(row["train_loss"]) <= 1
    assert 0 <= float(row["WT_dice"]) <= 1


def test_full_size_networks(real_data, tmp_path):
    """DenseNet121 and ECA-NFNet-L0 at 224 pixels on a few slices, with weights in the flat form of the released ones."""
    series = real_data / "task2" / "train" / "07294" / "T1w"
    files = sorted(
        series.iterdir(), key=lambda file: float(pydicom.dcmread(file, stop_before_pixels=True).ImagePositionPatient[2])
    )
    middle = len(files) // 2
    (tmp_path / "studies" / "07294" / "T1w").mkdir(parents=True)
    for file in files[middle - 2 : middle + 2]:
        shutil.copy(file, tmp_path / "studies" / "07294" / "T1w")
    torch.manual_seed(0)
    segmenter = smp.UnetPlusPlus("densenet121", encoder_weights=None, classes=2)
    torch.save(segmenter.state_dict(), tmp_path / "segmentation.pth")
    torch.save(BiLSTMNFNet().state_dict(), tmp_path / "classifier.pth")
    row = predict(
        tmp_path / "studies",
        tmp_path / "out",
        segmenter=str(tmp_path / "segmentation.pth"),
        classifier=str(tmp_path / "classifier.pth"),
        mri_types=["T1w"],
        min_tumor_ratio=-1,
        max_contours=10**6,
    )
    assert row["used"] == ["T1w"]
    assert row["series"]["T1w"]["slices"] == 4
    assert len(row["series"]["T1w"]["sequences"]) == 1
    assert nib.load(tmp_path / "out" / "masks" / "07294_T1w.nii.gz").shape == (512, 512, 4)


def dice(found, true):
    return 2 * np.count_nonzero(found & true) / (np.count_nonzero(found) + np.count_nonzero(true))


@pytest.mark.parametrize("turned", [False, True])
def test_shipped_weights_find_a_real_tumour(real_data, tmp_path, turned):
    """With no option set, however the file lies in space; the consensus label of 07294 is no expert's, and nobody trained on it."""
    case = real_data / "task1" / "BraTS2021_07294"
    study = tmp_path / "in" / case.name
    study.mkdir(parents=True)
    image, label = (nib.load(next(case.glob(f"*_{name}.nii.gz"))) for name in ("flair", "seg"))
    if turned:
        other = nib.orientations.axcodes2ornt(("I", "A", "R"))
        image, label = image.as_reoriented(other), label.as_reoriented(other)
    nib.save(image, study / f"{case.name}_flair.nii.gz")
    radiogenomics.segment(tmp_path / "in", tmp_path / "out", num_workers=0)
    found = nib.load(tmp_path / "out" / "masks" / f"{case.name}_FLAIR.nii.gz")
    np.testing.assert_allclose(found.affine, label.affine, atol=1e-3)
    assert dice(np.asarray(found.dataobj) > 0, np.asarray(label.dataobj) > 0) > 0.8
