"""Training and evaluation of both stages on a tiny phantom cohort, through the configurations as they are, with tiny networks."""

import json
import logging

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("nilearn", reason="the phantom cohort needs the extra [phantom]")

import radiogenomics
from scripts import datalists, handlers, weights
from scripts.identifiers import patient_number
from scripts.preparation import read_index
from scripts.prepared import PreparedSeries
from scripts.weights import read_weights
from tests.forked import python_words
from tests.integration.jobs import (
    KEEP_ALL,
    TRAINED,
    TRAINING,
    command,
    equal,
    foreign_lines,
    killed,
    overflowing,
    read_rows,
    refused,
    times,
    train_classifiers,
)
from tests.networks import CLASSIFIER, SEGMENTER


@pytest.fixture(scope="module")
def segmentation(cohort, prepared_slices):
    """A trained segmenter: the command by which everybody trains one."""
    command(
        "train_segmentation", "training", cohort / "elsewhere",
        datalist=cohort / "task1.json", classification_datalist=cohort / "task2.json", prepared_dir=prepared_slices,
        output_dir=cohort / "segmentation", max_epochs=2, batch_size=16, **SEGMENTER, **TRAINING,
    )  # fmt: skip
    return cohort / "segmentation"


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
    both = [name for name in both if patient_number(name) == 4]
    caplog.set_level(logging.INFO)
    with killed(handlers.EpochSeed, 0):
        radiogenomics.train(
            "segmentation", cohort / "task1.json", prepared_slices, cohort / "reported",
            classification_datalist=str(cohort / "task2.json"), max_epochs=1, **SEGMENTER, **TRAINING,
        )  # fmt: skip
    (message,) = [record.message for record in caplog.records if "left out of stage 1" in record.message]
    assert "1 patients" in message
    assert both[0] in message


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


def test_an_evaluation_of_a_segmenter_that_overflows_has_no_scores(cohort, prepared_slices, segmenter, tmp_path):
    metrics = radiogenomics.evaluate(
        "segmentation", cohort / "task1.json", prepared_slices, tmp_path / "out",
        segmenter=overflowing(segmenter, tmp_path / "broken.pt"), num_workers=0,
    )  # fmt: skip
    assert metrics["all"]["WT_dice"] is None
    assert len(metrics["failed"]) == metrics["patients"] * 4 * 3
    assert not any(row["dice"] for row in read_rows(tmp_path / "out" / "overlap.csv"))


def test_a_segmenter_is_not_evaluated_on_whom_it_was_trained_on(cohort, prepared_slices, segmentation, tmp_path):
    state, known = read_weights(segmentation / "segmentation.pt")
    held_out = [
        one["patient"] for one in json.loads((cohort / "task1.json").read_text())["training"] if one["fold"] == 0
    ]
    file = tmp_path / "start.pt"
    torch.save({"model": state, "settings": {**known, "trained_on": held_out[:1]}}, file)
    with refused(f"was trained on 1 of the patients that it is to be evaluated on: {held_out[0]}"):
        radiogenomics.evaluate(
            "segmentation", cohort / "task1.json", prepared_slices, tmp_path / "refused", segmenter=file, num_workers=0
        )
    assert not (tmp_path / "refused").exists()
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


# Stage 2


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


def test_a_training_shows_its_own_words_alone(cohort, prepared_series, tmp_path):
    words = ["train", "classification", "--datalist", cohort / "task2.json", "--prepared", cohort / "series"]
    words += ["--output", tmp_path / "out", "--mri_types", "FLAIR", "--max_epochs", "2"]
    words += [f"--{name}={value}" for name, value in {**CLASSIFIER, **TRAINING}.items()]
    ours = (
        "left out of stage 2", r"fold \d: ", r"FLAIR: \d+ sequences ", r"epoch \d: ", "warm-up is over", str(tmp_path / "out"),
    )  # fmt: skip
    assert foreign_lines(words, *ours, start=python_words()) == []
