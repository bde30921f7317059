"""All jobs on a tiny phantom cohort, through the configurations as they are, with tiny networks."""

import csv
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
import yaml

pytest.importorskip("nilearn", reason="the phantom cohort needs the extra [phantom]")

import radiogenomics
from custom_transforms import SeriesReader
from scripts import datalists, fusion, handlers, inferers, weights
from scripts.dicom import output
from scripts.preparation import read_index
from scripts.prepared import PreparedSeries
from scripts.weights import read_weights

CONFIGS = Path(radiogenomics.__file__).parent / "configs"
SEGMENTER = {"encoder_name": "tu-test_efficientnet", "decoder_channels": [16, 8, 8, 4, 4], "image_size": 32}
CLASSIFIER = {"backbone": "test_efficientnet", "image_size": 32, "sequence_length": 6, "stride": 3, "hidden_size": 4}
TRAINING = {"init": "none", "num_workers": 0, "warmup_epochs": 1, "learning_rate": 0.01}
KEEP_ALL = {"min_tumor_ratio": -1, "num_workers": 0}
TRAINED = ("FLAIR", "T1wCE")


class Killed(BaseException):
    """What ends a run in the middle."""


def command(config, run_id, folder, **overrides):
    """``python -m monai.bundle run`` in a process of its own, from another working directory."""
    folder.mkdir(exist_ok=True)
    words = [f"--{name}={value}" for name, value in overrides.items()]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(CONFIGS / f"{config}.yaml"), *words],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(CONFIGS.parent) + os.pathsep + str(CONFIGS.parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert not list(folder.iterdir()), "a job writes nothing into the working directory"


@contextmanager
def refused(words):
    """The reason lies below MONAI's «failed to evaluate …»."""
    with pytest.raises((RuntimeError, ValueError, OSError)) as info:
        yield
    error = info.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert words in str(error)


def kill_after(calls, then):
    """A function that calls ``then`` so many times, and ends the run when it is called once more."""
    left = [calls]

    def function(*args, **kwargs):
        if not left[0]:
            raise Killed
        left[0] -= 1
        return then(*args, **kwargs)

    return function


@contextmanager
def killed(kind, calls):
    """A run that ends when something of this kind is called for more than so many times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "__call__", kill_after(calls, kind.__call__))
        with pytest.raises(Killed):
            yield


def read_rows(file):
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def times(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(Path(folder).rglob("*.h5"))}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def affine_and_shape(file):
    image = nib.load(file)
    return image.affine, image.shape


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def prepared_slices(cohort):
    return radiogenomics.prepare("segmentation", cohort / "slices", datalist=cohort / "task1.json", num_workers=0)


@pytest.fixture(scope="module")
def segmentation(cohort, prepared_slices):
    """A trained segmenter: the command by which everybody trains one."""
    command(
        "train_segmentation", "training", cohort / "elsewhere",
        datalist=cohort / "task1.json", classification_datalist=cohort / "task2.json", prepared_dir=prepared_slices,
        output_dir=cohort / "segmentation", max_epochs=2, batch_size=16, **SEGMENTER, **TRAINING,
    )  # fmt: skip
    return cohort / "segmentation"


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory, write_segmenter):
    """Weights of a segmenter that finds a tumour wherever it looks, so that slices pass without a long training."""
    return write_segmenter(SEGMENTER, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def prepared_series(cohort, segmenter):
    return radiogenomics.prepare(
        "classification", cohort / "series", datalist=cohort / "task2.json", segmenter=segmenter, **KEEP_ALL
    )


def train_classifiers(cohort, output, mri_types=TRAINED, **rest):
    settings = {**CLASSIFIER, **TRAINING, "max_epochs": 2, "batch_size": 2, **rest}
    return radiogenomics.train(
        "classification", cohort / "task2.json", cohort / "series", output, mri_types=list(mri_types), **settings
    )


@pytest.fixture(scope="module")
def classifiers(cohort, prepared_series):
    return train_classifiers(cohort, cohort / "classifiers")


# Stage 1


def test_slices_are_prepared_for_every_volume(cohort, prepared_slices):
    rows = read_index(prepared_slices)
    assert len(rows) == 5 * 4 * 3
    assert all(row["kept"] > 0 for row in rows.values())
    config = yaml.safe_load((prepared_slices / "resolved_config.yaml").read_text())
    assert config["datalist"] == str(cohort / "task1.json")
    before = times(prepared_slices)
    radiogenomics.prepare("segmentation", prepared_slices, datalist=cohort / "task1.json", num_workers=0)
    assert times(prepared_slices) == before


def test_training_of_the_segmenter_leaves_what_it_should(cohort, segmentation):
    state, settings = read_weights(segmentation / "segmentation.pt")
    assert {key: settings[key] for key in SEGMENTER} == SEGMENTER
    assert state["segmentation_head.0.weight"].shape[0] == 2
    assert [row["epoch"] for row in read_rows(segmentation / "history.csv")] == ["1", "2"]
    assert {"dice", "iou", "WT_dice", "ET_dice", "loss", "train_loss"} <= set(
        read_rows(segmentation / "history.csv")[0]
    )
    patients = json.loads((cohort / "task1.json").read_text())["training"]
    assert set(settings["trained_on"]) == {one["patient"] for one in patients if one["fold"] != 0} - {"BraTS2021_00004"}
    config = yaml.safe_load((segmentation / "resolved_config.yaml").read_text())
    assert config["encoder_name"] == SEGMENTER["encoder_name"]
    assert config["max_epochs"] == 2
    assert list(segmentation.glob("events.out.tfevents*"))
    assert (segmentation / "last.pt").is_file()


def test_patients_of_task_2_do_not_train_the_segmenter(cohort, prepared_slices, caplog):
    both = {one["patient"] for one in json.loads((cohort / "task1.json").read_text())["training"]}
    both = [name for name in both if datalists.patient_number(name) == 4]
    caplog.set_level(logging.INFO)
    with killed(handlers.EpochSeed, 0):
        radiogenomics.train(
            "segmentation", cohort / "task1.json", prepared_slices, cohort / "told",
            classification_datalist=str(cohort / "task2.json"), max_epochs=1, **SEGMENTER, **TRAINING,
        )  # fmt: skip
    (told,) = [record.message for record in caplog.records if "left out of stage 1" in record.message]
    assert "1 patients" in told
    assert both[0] in told


def test_a_killed_training_is_resumed_to_the_same_end(cohort, prepared_slices, tmp_path):
    def train(name, **rest):
        radiogenomics.train(
            "segmentation", cohort / "task1.json", prepared_slices, tmp_path / name,
            max_epochs=3, batch_size=16, **SEGMENTER, **TRAINING, **rest,
        )  # fmt: skip
        return torch.load(tmp_path / name / "last.pt", weights_only=True)

    whole = train("whole")
    with killed(handlers.ValidationScore, 1):
        train("broken")
    assert [row["epoch"] for row in read_rows(tmp_path / "broken" / "history.csv")] == ["1"]
    with refused("--resume"):
        train("broken")
    resumed = train("broken", resume=True)
    assert equal(whole["model"], resumed["model"])
    assert read_rows(tmp_path / "whole" / "history.csv") == read_rows(tmp_path / "broken" / "history.csv")
    weights = [read_weights(tmp_path / name / "segmentation.pt") for name in ("whole", "broken")]
    assert equal(weights[0][0], weights[1][0])
    assert weights[0][1] == weights[1][1]


def test_resuming_a_run_without_a_checkpoint_starts_from_the_weights_asked_for(
    cohort, prepared_slices, segmenter, tmp_path, monkeypatch
):
    begun_with = []
    monkeypatch.setattr(weights, "initialise", lambda network, init, models: begun_with.append(init) or network)
    settings = {**SEGMENTER, **TRAINING, "init": str(segmenter), "resume": True}
    with killed(handlers.EpochSeed, 0):
        radiogenomics.train("segmentation", cohort / "task1.json", prepared_slices, tmp_path, **settings)
    (tmp_path / handlers.LAST_CHECKPOINT).touch()
    with pytest.raises((RuntimeError, EOFError)):  # no checkpoint can be read from an empty file
        radiogenomics.train("segmentation", cohort / "task1.json", prepared_slices, tmp_path, **settings)
    assert begun_with == [str(segmenter), "none"]


def test_evaluation_of_the_segmenter(cohort, prepared_slices, segmentation, tmp_path):
    metrics = radiogenomics.evaluate(
        "segmentation", cohort / "task1.json", prepared_slices, tmp_path / "out",
        segmenter=segmentation / "segmentation.pt", classification_datalist=str(cohort / "task2.json"), num_workers=0,
    )  # fmt: skip
    held_out = datalists.segmentation_split(cohort / "task1.json", None, 0, cohort / "task2.json")[1]
    assert metrics["patients"] == len(held_out)
    rows = read_rows(tmp_path / "out" / "overlap.csv")
    assert len(rows) == len(held_out) * 4 * 3 * 2
    # the figures of the training's own validation of the same weights
    best = read_weights(segmentation / "segmentation.pt")[1]["trained"]
    found = [float(row["dice"]) for row in rows if row["dice"]]
    assert np.mean(found) == pytest.approx(best["dice"], abs=2e-3)


def test_whole_series_are_compared_in_3d(cohort, prepared_slices, segmentation, tmp_path):
    output = radiogenomics.evaluate(
        "segmentation", cohort / "task1.json", prepared_slices, tmp_path / "volumes",
        segmenter=segmentation / "segmentation.pt", volumes=True, distances=False, num_workers=0,
    )  # fmt: skip
    metrics = json.loads((tmp_path / "volumes" / "metrics.json").read_text())
    rows = [row for row in read_rows(tmp_path / "volumes" / "overlap.csv") if row["plane"] == "3D"]
    assert output
    assert len({row["patient"] for row in rows}) * 4 * 2 == len(rows)
    assert 0 <= metrics["3D"]["WT_dice"] <= 1
    assert metrics["3D"]["WT_hd95_mm"] is None or metrics["3D"]["WT_hd95_mm"] >= 0
    assert metrics["all"]["WT_hd95_mm"] is None
    assert "failed" not in metrics


# Stage 2


def test_a_segmenter_is_not_evaluated_on_whom_it_was_trained_on(cohort, prepared_slices, segmentation, tmp_path):
    state, known = read_weights(segmentation / "segmentation.pt")
    held_out = [
        one["patient"] for one in json.loads((cohort / "task1.json").read_text())["training"] if one["fold"] == 0
    ]
    file = tmp_path / "start.pt"
    torch.save({"model": state, "settings": {**known, "trained_on": held_out[:1]}}, file)
    with refused(f"was trained on 1 of the patients that it is to be evaluated on: {held_out[0]}"):
        radiogenomics.evaluate(
            "segmentation", cohort / "task1.json", prepared_slices, tmp_path / "told", segmenter=file, num_workers=0
        )
    assert not (tmp_path / "told").exists()
    options = {"namesakes": True, "distances": False, "num_workers": 0}
    radiogenomics.evaluate(
        "segmentation", cohort / "task1.json", prepared_slices, tmp_path / "done", segmenter=file, **options
    )
    assert (tmp_path / "done" / "metrics.json").is_file()
    trained = tmp_path / "trained"  # begins with these weights: they were trained on all that trained those
    radiogenomics.train(
        "segmentation", cohort / "task1.json", prepared_slices, trained, max_epochs=1, batch_size=16,
        **SEGMENTER, **{**TRAINING, "init": str(file)},
    )  # fmt: skip
    assert held_out[0] in read_weights(trained / "segmentation.pt")[1]["trained_on"]


def test_every_series_is_prepared(cohort, prepared_series, segmenter):
    rows = read_index(prepared_series)
    assert len(rows) == 5 * 4
    assert all(row["kept"] > 0 for row in rows.values())
    before = times(prepared_series)
    radiogenomics.prepare(
        "classification", prepared_series, datalist=cohort / "task2.json", segmenter=segmenter, **KEEP_ALL
    )
    assert times(prepared_series) == before


def test_small_slices_are_segmented_and_not_classified(write_segmenter, tmp_path):
    """Of weights that were trained on a field of view; the method's own leave small slices out altogether."""
    volume = np.zeros((40, 40, 12), np.float32)
    volume[10:30, 10:30, 2:8] = 100  # a quarter of the slice
    volume[17:24, 17:24, 8:11] = 120  # 3 % of it
    (tmp_path / "data" / "P").mkdir(parents=True)
    nib.save(nib.Nifti1Image(volume, np.diag([5.0, 5, 5, 1])), tmp_path / "data" / "P" / "P_flair.nii.gz")
    (tmp_path / "data" / "list.json").write_text(
        json.dumps(
            {
                "dataset_dir": str(tmp_path / "data"),
                "training": [{"patient": "P", "FLAIR": "P/P_flair.nii.gz", "fold": 0}],
            }
        )
    )
    found = {}
    for name, more in (("method", {}), ("field", {"field_of_view": 200.0})):
        (tmp_path / name).mkdir()
        weights_file = write_segmenter({**SEGMENTER, **more}, tmp_path / name)
        radiogenomics.prepare(
            "classification",
            tmp_path / name / "out",
            tmp_path / "data" / "list.json",
            segmenter=weights_file,
            **KEEP_ALL,
        )
        found[name] = PreparedSeries(tmp_path / name / "out" / "P" / "FLAIR.h5")
    assert list(found["method"].slices) == list(found["field"].slices) == [2, 3, 4, 5, 6, 7]
    marked = {name: np.flatnonzero(series.masks()[:, 0].any((1, 2))) for name, series in found.items()}
    assert list(marked["method"]) == [2, 3, 4, 5, 6, 7]
    assert list(marked["field"]) == [2, 3, 4, 5, 6, 7, 8, 9, 10]


def test_training_of_classifiers_leaves_what_it_should(classifiers):
    for mri_type in TRAINED:
        state, settings = read_weights(classifiers / mri_type / f"model_{mri_type}.pt")
        assert {key: settings[key] for key in CLASSIFIER} == CLASSIFIER
        assert settings["mri_type"] == mri_type
        assert state["clf_head.weight"].shape == (1, 2 * 4 * 6)
        rows = read_rows(classifiers / mri_type / "history.csv")
        assert [row["epoch"] for row in rows] == ["1", "2"]
        assert {"auc", "log_loss", "train_loss"} <= set(rows[0])


def test_a_killed_classifier_is_resumed_to_the_same_end(cohort, classifiers, tmp_path):
    with killed(handlers.ValidationScore, 1):
        train_classifiers(cohort, tmp_path, ["FLAIR"])
    train_classifiers(cohort, tmp_path, ["FLAIR"], resume=True)
    whole, broken = (torch.load(folder / "FLAIR" / "last.pt", weights_only=True) for folder in (classifiers, tmp_path))
    assert equal(whole["model"], broken["model"])
    assert read_rows(classifiers / "FLAIR" / "history.csv") == read_rows(tmp_path / "FLAIR" / "history.csv")


def test_a_run_is_not_overwritten_unasked(cohort, classifiers):
    before = (classifiers / "FLAIR" / "model_FLAIR.pt").read_bytes()
    with refused("holds an earlier run"):
        train_classifiers(cohort, classifiers, ["FLAIR"])
    assert (classifiers / "FLAIR" / "model_FLAIR.pt").read_bytes() == before


def test_evaluation_of_classifiers(cohort, prepared_series, classifiers):
    """By the bundle's command; of the held-out fold, and in this process of the test section with its own labels."""
    command(
        "evaluate_classification", "evaluation", cohort / "elsewhere",
        datalist=cohort / "task2.json", prepared_dir=prepared_series, classifier=classifiers,
        output_dir=cohort / "evaluation", num_workers=0,
    )  # fmt: skip
    metrics = json.loads((cohort / "evaluation" / "metrics.json").read_text())
    assert (metrics["patients"], metrics["positive"]) == (2, 1)
    assert set(TRAINED) <= set(metrics)
    assert "T1w" not in metrics
    held_out = {one["patient"] for one in datalists.classification_split(cohort / "task2.json")[1]}
    rows = read_rows(cohort / "evaluation" / "predictions.csv")
    assert {row["patient"] for row in rows} == held_out
    for row in rows:
        mean = np.mean([float(row[mri_type]) for mri_type in TRAINED])
        assert float(row["all"]) == pytest.approx(mean, abs=1e-6)
    best = read_weights(classifiers / "FLAIR" / "model_FLAIR.pt")[1]["trained"]
    assert metrics["FLAIR"]["auc"] == pytest.approx(best["auc"])


def test_tracking_with_mlflow(cohort, prepared_slices, tmp_path):
    pytest.importorskip("mlflow", reason="needs the extra [mlflow]")
    command(
        "train_segmentation", "training", tmp_path / "elsewhere",
        datalist=cohort / "task1.json", prepared_dir=prepared_slices, output_dir=tmp_path / "run", max_epochs=1,
        batch_size=16, tracking="mlflow", **SEGMENTER, **TRAINING,
    )  # fmt: skip
    assert list((tmp_path / "run").glob("mlruns*"))
    assert (tmp_path / "run" / "segmentation.pt").is_file()


# Prediction


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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


def patients(folder):
    return {row["patient"]: row for row in json.loads((folder / "patients.json").read_text())["patients"]}


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
    assert "no classifier weights for T2w" in rows["00902"]["series"]["T2w"]["reason"]


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


def predict(folder, output, segmenter, classifier, **rest):
    return radiogenomics.predict(folder, output, segmenter=segmenter, classifier=classifier, **{**KEEP_ALL, **rest})


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
    settings = {"mri_types": "FLAIR,T2w", "dicom": True, "deidentify": True}
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
    assert "no classifier weights for T1w" in row["reason"]
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
    if not (CONFIGS / "inference_segmentation.yaml").is_file():
        pytest.skip("no configuration of that name yet")
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


# What a prediction must never do


@pytest.fixture
def one_study(cohort, tmp_path):
    """A folder of studies with one patient's FLAIR in it, and something else that is somebody's."""
    shutil.copytree(cohort / "data" / "task2" / "test", tmp_path / "x" / "studies")
    for path in (tmp_path / "x" / "studies").glob("*/*"):
        if path.name != "FLAIR":
            shutil.rmtree(path)
    (tmp_path / "x" / "thesis.txt").write_text("mine")
    return tmp_path / "x" / "studies"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("output", ["..", ".", "out"])
def test_results_are_never_mixed_with_the_studies(one_study, segmenter, output):
    before = contents(one_study.parent)
    for overwrite in (False, True):
        with refused("results are kept apart"):
            radiogenomics.segment(
                one_study, one_study / output, segmenter=segmenter, overwrite=overwrite, num_workers=0
            )
    assert contents(one_study.parent) == before


def test_weights_that_fail_leave_the_earlier_results(one_study, segmenter, tmp_path):
    out = radiogenomics.segment(one_study, tmp_path / "out", segmenter=segmenter, num_workers=0)
    before = contents(out)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    (tmp_path / "none.pt").write_bytes(b"")
    for file in ("other.pt", "none.pt", "missing.pt"):
        with refused(file):
            radiogenomics.segment(one_study, out, segmenter=tmp_path / file, overwrite=True, num_workers=0)
    assert contents(out) == before
    assert {path.name for path in tmp_path.iterdir()} == {"x", "out", "other.pt", "none.pt"}


def test_overwriting_replaces_results_whole_and_keeps_what_is_not_ours(one_study, segmenter, tmp_path):
    out = radiogenomics.segment(one_study, tmp_path / "out", segmenter=segmenter, num_workers=0)
    (out / "masks" / "notes.txt").write_text("mine")
    (mask,) = (out / "masks").glob("*.nii.gz")
    mask.with_name("99999_FLAIR.nii.gz").write_bytes(b"of a patient that is gone")
    before = contents(out)
    with killed(inferers.SliceSegmenter, 0):
        radiogenomics.segment(one_study, out, segmenter=segmenter, overwrite=True, num_workers=0)
    assert contents(out) == before
    radiogenomics.segment(one_study, out, segmenter=segmenter, overwrite=True, num_workers=0)
    assert {path.name for path in (out / "masks").iterdir()} == {mask.name, "notes.txt"}
    assert {path.name for path in tmp_path.iterdir()} == {"x", "out"}


def test_a_data_list_cannot_write_outside_the_output_folder(one_study, segmenter, tmp_path):
    (study,) = datalists.find_studies(one_study)
    listed = {"test": [{**study, "patient": "../../../x"}]}
    (tmp_path / "list.json").write_text(json.dumps(listed))
    with refused("patient '../../../x' can't be used in file names"):
        radiogenomics.segment(
            one_study, tmp_path / "out", segmenter=segmenter, datalist=str(tmp_path / "list.json"), num_workers=0
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["1e3", "run#2,@#a $b 50%"])
def test_paths_are_taken_as_they_are_typed(one_study, segmenter, tmp_path, name):
    studies = tmp_path / f"in {name}"
    one_study.rename(studies)
    done = subprocess.run(
        [sys.executable, "-m", "radiogenomics.scripts.cli", "segment", f"--input={studies.name}", f"--output={name}",
         f"--segmenter={segmenter}", "--num_workers=0"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / name / "masks").iterdir())) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"x", studies.name, name}


# Segmentation alone


@pytest.fixture(scope="module")
def segmented(cohort, hospital, segmenter):
    """The hospital's studies, segmented series by series."""
    return radiogenomics.segment(hospital[0], cohort / "segmented", segmenter=segmenter, num_workers=0)


def test_segmentation_leaves_masks_and_volumes_and_nothing_else(hospital, prediction, segmented):
    assert {path.name for path in segmented.iterdir()} == {"masks", "volumes.csv", "resolved_config.yaml"}
    masks = {path.name for path in (segmented / "masks").iterdir()}
    assert masks == {path.name for path in (prediction[0] / "masks").iterdir()}
    for name in masks:
        found, expected = (nib.load(folder / "masks" / name) for folder in (segmented, prediction[0]))
        np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
        np.testing.assert_allclose(found.affine, expected.affine)


def test_volumes_are_those_of_the_masks_and_nobody_vanishes(hospital, segmented):
    rows = {(row["patient"], row["mri_type"]): row for row in read_rows(segmented / "volumes.csv")}
    assert {patient for patient, _ in rows} == {hospital[1], "00901", "00902", "00903", "BraTS2021_00904"}
    for row in rows.values():
        assert bool(row["file"]) != bool(row["reason"])
        if row["file"]:
            image = nib.load(segmented / row["file"])
            volume = abs(np.linalg.det(image.affine[:3, :3])) * np.array(
                [np.count_nonzero(np.asarray(image.dataobj) == value) for value in (1, 2)]
            )
            assert float(row["whole_tumour_ml"]) == pytest.approx(volume.sum() / 1000, abs=2e-3)
            parts = [row[name] for name in ("not_enhancing_ml", "enhancing_ml")]
            if row["mri_type"] == "T1wCE":
                np.testing.assert_allclose([float(part) * 1000 for part in parts], volume, atol=1)
            else:  # nobody can tell without contrast agent
                assert parts == ["", ""]
                assert volume[1] == 0
    assert float(rows[hospital[1], "FLAIR"]["whole_tumour_ml"]) > 0
    assert "Image-" in rows["00901", "FLAIR"]["reason"]
    assert "00903" in rows["00903", "FLAIR"]["reason"]


def test_nobody_vanishes_whose_series_are_not_understood(hospital, segmenter, classifiers, tmp_path, capsys):
    studies, good = tmp_path / "studies", hospital[1]
    shutil.copytree(hospital[0] / good / "FLAIR", studies / good / "FLAIR")
    shutil.copytree(hospital[0] / good / "FLAIR", studies / "P" / "AX FLAIR")
    (studies / good / "AX T1").mkdir()
    predict(studies, tmp_path / "out", segmenter, classifiers, prior=0.45)
    table = capsys.readouterr().out.splitlines()
    said = "none of its series was understood: found AX FLAIR; expected folders FLAIR, T1w, T1wCE, T2w"
    rows = patients(tmp_path / "out")
    assert {row["BraTS21ID"]: float(row["MGMT_value"]) for row in read_rows(tmp_path / "out" / "submission.csv")}[
        "P"
    ] == 0.45
    assert rows["P"]["reason"].startswith(f"cohort prior 0.45: {said}")
    assert rows[good]["warnings"][0].startswith("not understood: AX T1; expected")
    assert [line.split()[0] for line in table] == ["patient", good, "P"]
    assert float(table[1].split()[1]) == pytest.approx(rows[good]["probability"], abs=1e-3)
    for fuse in (False, True):
        out = radiogenomics.segment(studies, tmp_path / f"fuse {fuse}", segmenter=segmenter, fuse=fuse, num_workers=0)
        volumes = {row["patient"]: row for row in read_rows(out / "volumes.csv")}
        assert volumes["P"]["reason"].startswith(said)
        assert volumes[good]["file"]
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["patient", good, "P"]


def test_a_finished_segmentation_is_not_overwritten_unasked(hospital, segmented, segmenter):
    with refused("holds an earlier run; replace it (--overwrite)"):
        radiogenomics.segment(hospital[0], segmented, segmenter=segmenter)
    with refused("holds the outputs of another job, segmentation"):
        radiogenomics.segment(hospital[0], segmented, segmenter=segmenter, fuse=True)
    with refused("--fuse T1w: expected True or False"):
        radiogenomics.segment(hospital[0], segmented, segmenter=segmenter, fuse="T1w")


def test_fused_segmentation_is_one_mask_a_patient_on_the_grid_of_flair(hospital, segmenter, tmp_path):
    out = tmp_path / "out"
    with killed(fusion.VolumeSegmenter, 7):
        radiogenomics.segment(hospital[0], out, segmenter=segmenter, fuse=True, num_workers=0)
    assert not (out / "volumes.csv").exists()
    radiogenomics.segment(hospital[0], out, segmenter=segmenter, fuse=True, num_workers=0)
    assert {path.name for path in out.iterdir()} == {"masks", "volumes.csv", "resolved_config.yaml"}
    good = hospital[1]
    assert {path.name for path in (out / "masks").iterdir()} == {
        f"{good}.nii.gz", "00902.nii.gz", "BraTS2021_00904.nii.gz",
    }  # fmt: skip
    volume, meta = SeriesReader().get_data(hospital[0] / good / "FLAIR")
    affine, shape = affine_and_shape(out / "masks" / f"{good}.nii.gz")
    np.testing.assert_allclose(affine, meta["affine"], atol=1e-3)
    assert shape == volume.shape
    assert np.asarray(nib.load(out / "masks" / f"{good}.nii.gz").dataobj)[volume > 0].mean() > 0.5
    rows = {row["patient"]: row for row in read_rows(out / "volumes.csv")}
    assert rows[good]["mri_type"] == "FLAIR+T2w+T1wCE+T1w"
    assert rows["00902"]["mri_type"] == "T2w", "its FLAIR is broken"
    assert "Image-" in rows["00901"]["reason"]
    assert "00903" in rows["00903"]["reason"]


# Networks that give no numbers


def overflowing(file, target):
    """A copy of a weights file, all of it finite, whose network overflows."""
    content = torch.load(file, weights_only=True)
    for name, value in content["model"].items():
        if "bias" in name:  # so that the last layer's inputs are greater than 0
            value.fill_(10)
        elif name in ("segmentation_head.0.weight", "clf_head.weight"):
            value.fill_(3e38)
    torch.save(content, target)
    return target


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


def test_an_evaluation_of_a_segmenter_that_overflows_has_no_scores(cohort, prepared_slices, segmenter, tmp_path):
    metrics = radiogenomics.evaluate(
        "segmentation", cohort / "task1.json", prepared_slices, tmp_path / "out",
        segmenter=overflowing(segmenter, tmp_path / "broken.pt"), num_workers=0,
    )  # fmt: skip
    assert metrics["all"]["WT_dice"] is None
    assert len(metrics["failed"]) == metrics["patients"] * 4 * 3
    assert not any(row["dice"] for row in read_rows(tmp_path / "out" / "overlap.csv"))


def test_weights_that_are_not_finite_are_refused(two_studies, segmenter, classifiers, tmp_path):
    content = torch.load(segmenter, weights_only=True)
    content["model"]["segmentation_head.0.bias"][0] = float("nan")
    torch.save(content, tmp_path / "nan.pt")
    with refused("nan.pt: 1 of"):
        predict(two_studies[0], tmp_path / "out", tmp_path / "nan.pt", classifiers)
    assert not (tmp_path / "out").exists()


# What is shown


def foreign_lines(words, *ours):
    """What the command with these words shows beside its results, its progress and lines that begin with ours."""
    done = subprocess.run(
        [sys.executable, "-c", "from radiogenomics.scripts.cli import main; main()", *map(str, words)],
        capture_output=True, text=True, timeout=300, check=False,
        env={key: value for key, value in os.environ.items() if key not in ("PYTHONWARNINGS", "RADIOGENOMICS_DEBUG")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    known = ("outputs go to ", r"(prepare|classify|train \w+)( \[\d+/\d+\])?(: )?\[\d+/\d+\]", *ours)
    lines = (done.stderr.replace("\r", "\n") + done.stdout).splitlines()
    return [one for one in map(str.strip, lines) if one and not any(re.match(pattern, one) for pattern in known)]


def test_a_prediction_shows_its_own_words_alone(two_studies, segmenter, classifiers, tmp_path):
    words = ["predict", "--input", two_studies[0], "--output", tmp_path / "out", "--segmenter", segmenter]
    words += ["--classifier", classifiers, "--min_tumor_ratio=-1", "--cache_dir", tmp_path / "cache"]
    ours = (
        "segmentation weights: ", r"\w+ classifier weights: ", "for the modalities without classifier weights: ",
        r"\d+ series: \d+ (prepared|classified) before", r"\w+ computes in ", "preparing a network for ",
        r"00901/\w+: ", "patient 00901 gets the cohort prior ", r"\d patients in submission.csv", "patient  probability", r"00\d+  +\d\.\d", str(tmp_path / "out"),
    )  # fmt: skip
    assert foreign_lines(words, *ours) == []


def test_a_training_shows_its_own_words_alone(cohort, prepared_series, tmp_path):
    words = ["train", "classification", "--datalist", cohort / "task2.json", "--prepared", cohort / "series"]
    words += ["--output", tmp_path / "out", "--mri_types", "FLAIR", "--max_epochs", "2"]
    words += [f"--{name}={value}" for name, value in {**CLASSIFIER, **TRAINING}.items()]
    ours = (
        "left out of stage 2", r"fold \d: ", r"FLAIR: \d+ sequences ", r"epoch \d: ", "warm-up is over", str(tmp_path / "out"),
    )  # fmt: skip
    assert foreign_lines(words, *ours) == []
