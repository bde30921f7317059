"""Prediction of studies that are as they come, on a tiny phantom cohort and with tiny networks."""

import json
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch

pytest.importorskip("nilearn", reason="the phantom cohort needs the extra [phantom]")

import radiogenomics
from custom_transforms import SeriesReader
from scripts import datalists, inferers
from scripts.dicom import output
from scripts.prepared import PreparedSeries
from tests.integration.jobs import (
    TRAINED,
    Killed,
    affine_and_shape,
    foreign_lines,
    kill_after,
    killed,
    overflowing,
    patients,
    predict,
    read_rows,
    refused,
    times,
)


def test_nobody_vanishes_from_the_submission(hospital, prediction):
    folder, names = prediction
    rows = read_rows(folder / "submission.csv")
    assert [row["BraTS21ID"] for row in rows] == names
    values = {row["BraTS21ID"]: float(row["MGMT_value"]) for row in rows}
    assert 0 < values[hospital[1]] < 1
    assert all(values[name] == 0.45 for name in names if name != hospital[1])


def test_whoever_has_no_probability_has_a_reason(hospital, prediction):
    rows = patients(prediction[0])
    assert "Image-" in rows["00901"]["reason"]
    assert "00903" in rows["00903"]["reason"]
    assert "no slice shows enough tumour" in rows["BraTS2021_00904"]["reason"]
    assert "no study of this patient" in rows["00777"]["reason"]
    assert rows["00902"]["series"]["T2w"]["kept"] > 0
    assert "no classifier weights" in rows["00902"]["series"]["T2w"]["reason"]


def test_details_of_a_patient(hospital, prediction):
    row = patients(prediction[0])[hospital[1]]
    assert sorted(row["used"]) == sorted(TRAINED)
    chances = []
    for mri_type in TRAINED:
        series = row["series"][mri_type]
        assert series["slices"] >= series["foreground"] >= series["kept"] > 0
        assert series["seconds"] > 0
        assert series["probability"] == pytest.approx(np.mean(series["sequences"]))
        assert len(series["sequences"]) == max(-(-(series["kept"] - 6) // 3) + 1, 1)
        chances.append(series["probability"])
    assert row["probability"] == pytest.approx(np.mean(chances))
    weights = json.loads((prediction[0] / "patients.json").read_text())["weights"]
    assert weights["FLAIR"].endswith("model_FLAIR.pt")
    assert weights["T2w"] is None


def test_masks_lie_where_the_dicom_series_lie(hospital, prediction):
    folder, good = hospital
    for mri_type in datalists.MRI_TYPES:
        volume, meta = SeriesReader().get_data(folder / good / mri_type)
        affine, shape = affine_and_shape(prediction[0] / "masks" / f"{good}_{mri_type}.nii.gz")
        np.testing.assert_allclose(affine, meta["affine"], atol=1e-3)
        assert shape == volume.shape
    expected = {f"{good}_{mri_type}.nii.gz" for mri_type in datalists.MRI_TYPES}
    expected |= {"00902_T2w.nii.gz", "BraTS2021_00904_FLAIR.nii.gz"}
    assert {path.name for path in (prediction[0] / "masks").iterdir()} == expected


def test_masks_are_those_of_the_prepared_series(hospital, prediction):
    """This segmenter marks the zoomed centre of every slice with brain, and nothing else."""
    good = hospital[1]
    labels = np.asarray(nib.load(prediction[0] / "masks" / f"{good}_FLAIR.nii.gz").dataobj)
    series = PreparedSeries(prediction[0] / "prepared" / good / "FLAIR.h5")
    stack = series.geometry.to_stack(labels)
    np.testing.assert_array_equal(stack, series.masks()[:, 0])
    marked = stack.reshape(len(stack), -1).mean(1)
    assert set(np.flatnonzero(marked)) >= set(series.slices)
    assert marked.max() == pytest.approx((32 / 38) ** 2, abs=0.06)


def test_a_prediction_is_not_overwritten_unasked(hospital, prediction, segmenter, classifiers):
    before = (prediction[0] / "submission.csv").read_bytes()
    with refused("--overwrite"):
        predict(hospital[0], prediction[0], segmenter, classifiers)
    assert (prediction[0] / "submission.csv").read_bytes() == before


def test_command_and_function_agree(hospital, prediction, segmenter, classifiers, tmp_path):
    predict(hospital[0] / hospital[1], tmp_path / "out", segmenter, classifiers)
    (row,) = patients(tmp_path / "out").values()
    assert row["probability"] == pytest.approx(patients(prediction[0])[hospital[1]]["probability"], abs=1e-6)
    predict(hospital[0] / hospital[1], tmp_path / "out", segmenter, classifiers, overwrite=True, mri_types="FLAIR")
    (again,) = patients(tmp_path / "out").values()
    assert again["probability"] == pytest.approx(row["series"]["FLAIR"]["probability"], abs=1e-6)
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == [f"{hospital[1]}_FLAIR.nii.gz"]


def test_an_interrupted_prediction_goes_on_without_preparing_again(
    hospital, prediction, segmenter, classifiers, tmp_path
):
    study = hospital[0] / hospital[1]
    with killed(inferers.SliceSegmenter, 2):
        predict(study, tmp_path / "out", segmenter, classifiers)
    first = times(tmp_path / "out")
    assert len(first) == 2
    with killed(inferers.SequenceClassifier, 0):
        predict(study, tmp_path / "out", segmenter, classifiers)
    second = times(tmp_path / "out")
    assert len(second) == 4
    assert {name: second[name] for name in first} == first
    predict(study, tmp_path / "out", segmenter, classifiers)
    assert times(tmp_path / "out") == second
    (row,) = patients(tmp_path / "out").values()
    assert row["probability"] == pytest.approx(patients(prediction[0])[hospital[1]]["probability"], abs=1e-6)


def test_dicom_of_a_prediction(hospital, prediction, segmenter, classifiers, tmp_path, monkeypatch):
    """Beside the NIfTI masks and where they lie; interrupted while it writes them, a prediction goes on."""
    pytest.importorskip("highdicom", reason="DICOM output needs the extra [dicom]")
    studies = tmp_path / "studies"
    for patient in (hospital[1], "00902"):
        shutil.copytree(hospital[0] / patient, studies / patient)
    settings = {"mri_types": "FLAIR,T2w", "dicom": True}
    with monkeypatch.context() as patch:
        patch.setattr(output, "write_report", kill_after(0, output.write_report))
        with pytest.raises(Killed):
            predict(studies, tmp_path / "out", segmenter, classifiers, **settings)
    assert not (tmp_path / "out" / "patients.json").exists()
    predict(studies, tmp_path / "out", segmenter, classifiers, **settings)
    good = hospital[1]
    written = {path.relative_to(tmp_path / "out" / "dicom").as_posix() for path in (tmp_path / "out").rglob("*.dcm")}
    assert written == {
        f"{good}/FLAIR_seg.dcm", f"{good}/T2w_seg.dcm", f"{good}/report_sr.dcm",
        "00902/T2w_seg.dcm", "00902/report_sr.dcm",
    }  # fmt: skip
    for mri_type in ("FLAIR", "T2w"):
        found = pydicom.dcmread(tmp_path / "out" / "dicom" / good / f"{mri_type}_seg.dcm")
        assert found.PatientID == good
        image = nib.load(tmp_path / "out" / "masks" / f"{good}_{mri_type}.nii.gz")
        labels = np.asarray(image.dataobj)
        assert found.pixel_array.sum() == (labels > 0).sum() > 0
        group = found.PerFrameFunctionalGroupsSequence[0]
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float) * [-1, -1, 1]
        i, j, k = np.linalg.solve(image.affine[:3, :3], corner - image.affine[:3, 3]).round(3)
        assert (i, j) == (0, 0)
        np.testing.assert_array_equal(found.pixel_array[0], labels[:, :, int(k)].T)
    if shutil.which("dciodvfy") is not None:  # Debian: apt-get install dicom3tools
        for name in written:
            words = ["dciodvfy", "-new", str(tmp_path / "out" / "dicom" / name)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert "Error" not in done.stderr + done.stdout


def test_prediction_without_a_classifier_still_segments(hospital, segmenter, tmp_path):
    (tmp_path / "models").mkdir()
    predict(
        hospital[0] / hospital[1],
        tmp_path / "out",
        segmenter,
        None,
        models_dir=str(tmp_path / "models"),
        mri_types="T1w",
    )
    (row,) = patients(tmp_path / "out").values()
    assert row["probability"] == 0.5
    assert "T1w: no classifier weights" in row["reason"]
    assert (tmp_path / "out" / "masks" / f"{hospital[1]}_T1w.nii.gz").is_file()


@pytest.mark.parametrize("year", [2021, 2023])
def test_prediction_of_brats_studies(cohort, segmenter, classifiers, year, tmp_path):
    source = cohort / "data" / "task1" / "BraTS2021_00000"
    name, mark = ("BraTS2021_00000", "_") if year == 2021 else ("BraTS-GLI-00000-000", "-")
    names = {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w"}
    study = tmp_path / "studies" / name
    study.mkdir(parents=True)
    files = {}
    for kind, mri_type in zip(names, ("FLAIR", "T1w", "T1wCE", "T2w"), strict=True):
        files[mri_type] = study / f"{name}{mark}{kind if year == 2021 else names[kind]}.nii.gz"
        shutil.copy(source / f"BraTS2021_00000_{kind}.nii.gz", files[mri_type])
    predict(tmp_path / "studies", tmp_path / "out", segmenter, classifiers)
    assert [row["BraTS21ID"] for row in read_rows(tmp_path / "out" / "submission.csv")] == [name]
    for mri_type, file in files.items():
        found, expected = (
            affine_and_shape(one) for one in (tmp_path / "out" / "masks" / f"{name}_{mri_type}.nii.gz", file)
        )
        np.testing.assert_allclose(found[0], expected[0], atol=1e-4)
        assert found[1] == expected[1]
    assert sorted(patients(tmp_path / "out")[name]["used"]) == sorted(TRAINED)


def test_one_volume_is_segmented(cohort, segmenter, tmp_path):
    """The job of viewers and servers: stage 1 alone."""
    source = cohort / "data" / "task1" / "BraTS2021_00000" / "BraTS2021_00000_flair.nii.gz"
    radiogenomics.run_config(
        "inference_segmentation",
        image=str(source),
        segmenter=str(segmenter),
        output_dir=str(tmp_path / "out"),
        num_workers=0,
    )
    (written,) = (tmp_path / "out").rglob("*.nii.gz")
    found, expected = affine_and_shape(written), affine_and_shape(source)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)
    assert found[1] == expected[1]
    assert np.asarray(nib.load(written).dataobj).any()


# Networks that give no numbers


@pytest.fixture(scope="module")
def two_studies(hospital, tmp_path_factory):
    """One good study, and one whose series can't be read."""
    folder = tmp_path_factory.mktemp("studies")
    for patient in (hospital[1], "00901"):
        shutil.copytree(hospital[0] / patient, folder / patient)
    return folder, hospital[1]


def test_a_segmenter_that_overflows_is_a_reason_and_no_mask(two_studies, segmenter, classifiers, tmp_path):
    folder, good = two_studies
    broken = overflowing(segmenter, tmp_path / "broken.pt")
    predict(folder, tmp_path / "predicted", broken, classifiers)
    row = patients(tmp_path / "predicted")[good]
    assert (row["probability"], row["used"]) == (0.5, [])
    for facts in row["series"].values():
        assert "the segmenter answered with NaN or infinity" in facts["reason"]
    assert not list((tmp_path / "predicted").rglob("*.nii.gz"))
    for fuse in (False, True):
        out = radiogenomics.segment(folder, tmp_path / f"fused {fuse}", segmenter=broken, fuse=fuse, num_workers=0)
        rows = [row for row in read_rows(out / "volumes.csv") if row["patient"] == good]
        assert len(rows) == (1 if fuse else 4)
        for row in rows:
            assert (row["file"], row["whole_tumour_ml"]) == ("", "")
            assert "the segmenter answered with NaN or infinity" in row["reason"]
        assert not list(out.rglob("*.nii.gz"))


def test_a_classifier_that_overflows_leaves_its_modality_out(two_studies, segmenter, classifiers, tmp_path):
    folder, good = two_studies
    weights_dir = tmp_path / "classifiers"
    weights_dir.mkdir()
    files = {name: next(classifiers.rglob(f"model_{name}.pt")) for name in TRAINED}
    overflowing(files["FLAIR"], weights_dir / "model_FLAIR.pt")
    shutil.copy(files["T1wCE"], weights_dir)
    predict(folder, tmp_path / "out", segmenter, weights_dir)
    row = patients(tmp_path / "out")[good]
    assert row["used"] == ["T1wCE"]
    assert row["probability"] == row["series"]["T1wCE"]["probability"]
    assert row["series"]["FLAIR"]["probability"] is None
    assert "the classifier answered with NaN or infinity" in row["series"]["FLAIR"]["reason"]
    assert {path.name for path in (tmp_path / "out").rglob("*.logits.json")} == {"T1wCE.logits.json"}
    assert "NaN" not in (tmp_path / "out" / "patients.json").read_text().replace("NaN or infinity", "")


def test_weights_that_are_not_finite_are_refused(two_studies, segmenter, classifiers, tmp_path):
    content = torch.load(segmenter, weights_only=True)
    content["model"]["segmentation_head.0.bias"][0] = float("nan")
    torch.save(content, tmp_path / "nan.pt")
    with refused("nan.pt: 1 of"):
        predict(two_studies[0], tmp_path / "out", tmp_path / "nan.pt", classifiers)
    assert not (tmp_path / "out").exists()


# What is shown


def test_a_prediction_shows_its_own_words_alone(two_studies, segmenter, classifiers, tmp_path):
    words = ["predict", "--input", two_studies[0], "--output", tmp_path / "out", "--segmenter", segmenter]
    words += ["--classifier", classifiers, "--min_tumor_ratio=-1", "--cache_dir", tmp_path / "cache"]
    ours = (
        "segmentation weights: ", r"\w+ classifier weights: ", "for the modalities without classifier weights: ",
        r"\d+ series: \d+ (prepared|classified) before", r"\w+ computes in ", "preparing a network for ",
        r"00901/\w+: ", "patient 00901 gets the cohort prior ", r"\d patients in submission.csv", "patient  probability", r"00\d+  +\d\.\d", str(tmp_path / "out"),
    )  # fmt: skip
    assert foreign_lines(words, *ours) == []
