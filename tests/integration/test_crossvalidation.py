"""Cross-validation from data list to tables, on a small phantom cohort and with tiny networks."""

import json
import logging
import shutil

import pytest
import torch
import yaml

import radiogenomics
from scripts.evaluation import crossvalidation, guard, leakage, plan
from scripts.evaluation.cohort import COLUMNS
from scripts.report import card
from scripts.weights import read_weights, sha256
from tests.integration.jobs import read_rows

SEGMENTER = {"encoder_name": "tu-test_efficientnet", "decoder_channels": [8, 8, 4, 4, 4], "image_size": 32}
CLASSIFIER = {
    "backbone": "test_efficientnet", "hidden_size": 4, "image_size": 32, "sequence_length": 4, "stride": 3, "init": "none",
    "max_epochs": 1, "warmup_epochs": 0, "batch_size": 4,
}  # fmt: skip
TRAINING = {"init": "none", "max_epochs": 1, "warmup_epochs": 0, "batch_size": 16}
SETTINGS = {
    "train_segmentation": {
        **SEGMENTER,
        **TRAINING,
        # belongs to that configuration, which the one of the cross-validation must not resolve
        "lr_scheduler": {
            "_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
            "optimizer": "@optimizer",
            "mode": "max",
            "patience": 0,
        },
    },
    "train_classification": CLASSIFIER,
    "prepare_classification": {"min_tumor_ratio": -1, "max_contours": 1000, "runtime": "eager"},
    "evaluate_classification": {"runtime": "eager"},
    "evaluate_segmentation": {},
}


class Killed(BaseException):
    """What ends a run here, for nothing catches it."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    radiogenomics.phantom(
        folder / "data", segmentation_patients=6, classification_patients=8, test_patients=1, overlap=1, spacing=6.0
    )
    for task in ("task1", "task2"):
        radiogenomics.datalist(folder / "data" / task, folder / f"{task}.json", folds=3)
    return folder


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory, write_segmenter):
    """Weights of a segmenter that finds a tumour wherever it looks."""
    return write_segmenter(SEGMENTER, tmp_path_factory.mktemp("weights"))


def validate(cohort, output, **options):
    options = {"mri_types": ["FLAIR", "T1wCE"], "seeds": [1, 2], "num_workers": 0, "device": "cpu", **options}
    return radiogenomics.crossvalidate(output, datalist=cohort / "task2.json", **options, **SETTINGS)


def killed_at_second_call(title):
    then, calls = getattr(crossvalidation.CrossValidation, title), []

    def step(self, *args):
        calls.append(args)
        if len(calls) == 2:
            raise Killed
        then(self, *args)

    return step


@pytest.fixture(scope="module")
def finished(cohort, segmenter, tmp_path_factory):
    """A run that was interrupted twice on its way."""
    output = tmp_path_factory.mktemp("runs") / "run"
    for title in ("_train_classification", "_evaluate_classification"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(crossvalidation.CrossValidation, title, killed_at_second_call(title))
            with pytest.raises(Killed):
                validate(cohort, output, segmenter=segmenter)
    return output, validate(cohort, output, segmenter=segmenter)


def test_every_patient_is_predicted_out_of_fold(cohort, finished):
    output, _ = finished
    rows = read_rows(output / "predictions.csv")
    assert set(COLUMNS) <= rows[0].keys()
    entries = {one["patient"]: one for one in json.loads((cohort / "task2.json").read_text())["training"]}
    combinations = {(row["patient"], row["seed"], row["mri_type"]) for row in rows}
    assert combinations == {(who, seed, name) for who in entries for seed in "12" for name in ("FLAIR", "T1wCE")}
    assert len(rows) == len(combinations)
    for row in rows:
        assert int(row["fold"]) == entries[row["patient"]]["fold"]
        assert int(row["label"]) == entries[row["patient"]]["label"]
        assert 0 <= float(row["probability"]) <= 1
        assert float(row["tumour_volume"]) > 0
        assert int(row["kept"]) > 0
        assert "PHANTOM" in row["scanner"]


def test_metrics_and_tables(finished):
    output, metrics = finished
    assert metrics["classification"]["patients"] == 8
    assert set(metrics["classification"]["mri_types"]) == {"FLAIR", "T1wCE"}
    assert metrics["leakage"]["leaks"] == 0
    assert metrics["leakage"]["compared"]["FLAIR, seed 1, fold 0"] == 8
    for name in ("scores", "controls", "roc", "calibration", "decision"):
        assert read_rows(output / "tables" / f"{name}.csv")
        assert json.loads((output / "tables" / f"{name}.json").read_text())
    assert (output / "classification" / "seed2" / "fold1" / "T1wCE" / "model_T1wCE.pt").is_file()
    assert metrics == json.loads((output / "metrics.json").read_text())


def test_every_patient_has_a_page_in_the_report(cohort, finished, tmp_path):
    output, _ = finished
    page = radiogenomics.report(output, tmp_path / "report")
    listed = {row["patient"]: row for row in read_rows(page.parent / "tables" / "patients.csv")}
    assert len(listed) == 8
    predictions = read_rows(output / "predictions.csv")
    for patient, row in listed.items():
        assert f'href="patients/{patient}.html"' in page.read_text()
        own = [one for one in predictions if one["patient"] == patient]
        mean = sum(float(one["probability"]) for one in own) / 4  # of two seeds and two modalities
        assert float(row["all"]) == pytest.approx(mean)
        text = (page.parent / "patients" / f"{patient}.html").read_text()
        assert f'<p class="figure">{mean:.2f} (' in text
        assert f"Held out in fold {own[0]['fold']}" in text
        assert f"Known label: {own[0]['label']}" in text
        views = json.loads(text.split('<script type="application/json">')[1].split("</script>")[0])
        assert [view["mri_type"] for view in views] == ["FLAIR", "T1wCE"]
        assert all(view["full"] and view["sequences"] for view in views)
        for one in own:
            (series,) = (
                found
                for found in read_rows(page.parent / "tables" / f"series_{patient}.csv")
                if found["modality"] == one["mri_type"]
            )
            assert float(series[f"seed {one['seed']}"]) == pytest.approx(float(one["probability"]))


def test_an_evaluation_of_a_fold_has_pages_too(finished, without_figures, tmp_path):
    evaluation = finished[0] / "classification" / "seed2" / "fold1" / "evaluation"
    page = radiogenomics.report(evaluation, tmp_path / "report")
    assert "<h1>Evaluation: evaluation</h1>" in page.read_text()
    rows = read_rows(evaluation / "predictions.csv")
    assert {f"{row['patient']}.html" for row in rows} == {path.name for path in (page.parent / "patients").iterdir()}
    listed = {row["patient"]: row for row in read_rows(page.parent / "tables" / "patients.csv")}
    for row in rows:
        assert float(listed[row["patient"]]["all"]) == pytest.approx(float(row["all"]))
        text = (page.parent / "patients" / f"{row['patient']}.html").read_text()
        assert "data-viewers" in text.split("<script>")[0]
        assert f"Known label: {row['label']}" in text


def test_explanations_come_from_models_that_did_not_see_the_patient(finished, without_figures, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(finished[0], copied)
    predictions = [row for row in read_rows(copied / "predictions.csv") if row["seed"] == "1"]
    patients = sorted({row["patient"] for row in predictions})[:2]
    found = radiogenomics.explain(copied, patients=",".join(patients), mri_types="FLAIR")
    assert sorted(found) == [f"{patient}/FLAIR" for patient in patients]
    for patient in patients:
        (row,) = (row for row in predictions if (row["patient"], row["mri_type"]) == (patient, "FLAIR"))
        made = json.loads((copied / "explanations" / f"{patient}_FLAIR.json").read_text())["made_with"]
        model = copied / "classification" / "seed1" / f"fold{row['fold']}" / "FLAIR" / "model_FLAIR.pt"
        assert made["weights"] == sha256(model)
        assert found[f"{patient}/FLAIR"]["probability"] == pytest.approx(float(row["probability"]), abs=1e-4)
    page = radiogenomics.report(copied, images=True)
    for patient in patients:
        text = (page.parent / "patients" / f"{patient}.html").read_text()
        assert "What the classifiers looked at" in text
        assert '"heat_sheet": "data:image' in text


def test_a_run_does_not_go_on_with_other_settings(cohort, finished, segmenter, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(finished[0], copied)
    (copied / "metrics.json").unlink()  # as if interrupted
    with pytest.raises(ValueError, match="began with other selection"):
        validate(cohort, copied, segmenter=segmenter, selection="outer")
    assert yaml.safe_load((copied / "resolved_config.yaml").read_text())["selection"] == "inner"
    assert validate(cohort, copied, segmenter=segmenter)["classification"] == finished[1]["classification"]


def test_the_held_out_fold_decides_nothing(cohort, finished):
    entries = json.loads((cohort / "task2.json").read_text())["training"]
    for fold, validation in ((0, 1), (1, 2), (2, 0)):
        run = finished[0] / "classification" / "seed1" / f"fold{fold}" / "FLAIR"
        config = yaml.safe_load((run / "resolved_config.yaml").read_text())
        assert config["fold"] == validation
        assert {one["patient"] for one in entries if one["fold"] == fold} <= set(config["excluded_patients"])
        assert "00709" in config["excluded_patients"]


def test_the_epoch_may_be_chosen_on_the_held_out_fold(cohort, segmenter, tmp_path):
    listed = radiogenomics.datalist(cohort / "data" / "task2", tmp_path / "task2.json", folds=2)
    with pytest.raises(ValueError, match=r"2 folds leave nothing to train on .*--selection outer"):
        validate(tmp_path, tmp_path / "run", segmenter=segmenter)
    metrics = validate(tmp_path, tmp_path / "run", segmenter=segmenter, selection="outer", seeds=1, mri_types="FLAIR")
    assert listed.is_file()
    assert metrics["selection"] == "outer"
    run = tmp_path / "run" / "classification" / "seed1" / "fold1" / "FLAIR"
    assert yaml.safe_load((run / "resolved_config.yaml").read_text())["fold"] == 1


def test_a_prediction_averages_folds_seeds_and_views(cohort, finished, segmenter, tmp_path):
    options = {
        "input": cohort / "data" / "task2" / "test",
        "segmenter": segmenter,
        "mri_types": "FLAIR",
        "num_workers": 0,
    }
    options |= {"min_tumor_ratio": -1, "max_contours": 1000, "runtime": "eager"}
    run = finished[0]
    radiogenomics.predict(output=tmp_path / "all", classifier=run, flips=True, **options)
    found = json.loads((tmp_path / "all" / "patients.json").read_text())
    (patient,) = found["patients"]
    assert len(found["weights"]["FLAIR"]) == 6
    low, high = patient["agreement_interval"]
    assert low <= patient["probability"] <= high
    singles = []
    for member in sorted(run.glob("classification/seed*/fold*")):
        radiogenomics.predict(output=tmp_path / "one", classifier=member, overwrite=True, **options)
        singles.append(json.loads((tmp_path / "one" / "patients.json").read_text())["patients"][0]["probability"])
    radiogenomics.predict(output=tmp_path / "folds", classifier=run, **options)
    together = json.loads((tmp_path / "folds" / "patients.json").read_text())["patients"][0]["probability"]
    assert together == pytest.approx(sum(singles) / 6, abs=1e-6)


def test_a_finished_run_is_not_run_again_unasked(cohort, finished, segmenter):
    with pytest.raises(ValueError, match="overwrite"):
        validate(cohort, finished[0], segmenter=segmenter)


def test_both_stages(cohort, tmp_path):
    # references in settings are for configurations, so this is what the bundle command runs
    radiogenomics.run_config(
        "crossvalidate", output_dir=str(tmp_path / "run"), datalist=str(cohort / "task2.json"),
        segmentation_datalist=str(cohort / "task1.json"), stages=["segmentation", "classification"], mri_types=["FLAIR"],
        num_workers=0, device="cpu",
        **{**SETTINGS, "prepare_segmentation": {"planes": ["axial"], "min_tumor_ratio": 0.001}},
    )  # fmt: skip
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["segmentation"]["fold"]) == {"0", "1", "2"}
    # the patient who is in both tasks is on neither side of stage 1
    assert metrics["segmentation"]["patients"] == 5
    assert {row["fold"] for row in read_rows(tmp_path / "run" / "tables" / "overlap.csv")} == {"0", "1", "2"}
    config = yaml.safe_load((tmp_path / "run" / "prepared" / "classification" / "resolved_config.yaml").read_text())
    assert config["segmenter"] == str(tmp_path / "run" / "segmentation" / "fold0" / "segmentation.pt")
    config = yaml.safe_load((tmp_path / "run" / "segmentation" / "fold1" / "resolved_config.yaml").read_text())
    assert config["lr_scheduler"]["patience"] == 0


def test_a_renamed_copy_stops_the_run_before_any_training(cohort, segmenter, tmp_path, monkeypatch):
    data = tmp_path / "task2"
    shutil.copytree(cohort / "data" / "task2", data)
    shutil.copytree(data / "train" / "00005", data / "train" / "00099")
    with open(data / "train_labels.csv") as stream:
        label = next(line for line in stream if line.startswith("00005")).split(",")[1].strip()
    with open(data / "train_labels.csv", "a") as stream:
        stream.write(f"00099,{label}\n")
    listed = radiogenomics.datalist(data, tmp_path / "task2.json", folds=3)
    content = json.loads(listed.read_text())
    for entry in content["training"]:
        if entry["patient"] in ("00005", "00099"):
            entry["fold"] = int(entry["patient"] == "00099")
    listed.write_text(json.dumps(content))
    monkeypatch.setattr(
        crossvalidation.CrossValidation, "_train_classification", lambda *args: pytest.fail("it trains")
    )
    with pytest.raises(
        leakage.LeakError, match=r"00099 and 00005 \(DICOM PatientID, looks the same in FLAIR, .*pixels of a series\)"
    ):
        validate(tmp_path, tmp_path / "run", segmenter=segmenter)
    assert not (tmp_path / "run" / "classification").exists()


def test_a_start_that_was_trained_on_held_out_patients_is_refused(cohort, segmenter, tmp_path):
    state, known = read_weights(segmenter)
    file = tmp_path / "start.pt"
    torch.save({"model": state, "settings": {**known, "trained_on": ["BraTS2021_00002"]}}, file)
    settings = {**SETTINGS, "train_segmentation": {**SETTINGS["train_segmentation"], "init": str(file)}}
    options = {
        "stages": ["segmentation"],
        "segmentation_datalist": cohort / "task1.json",
        "num_workers": 0,
        "device": "cpu",
    }
    with pytest.raises(
        leakage.LeakError, match="was trained on 1 of the patients that it is to be evaluated on: BraTS2021_00002"
    ):
        radiogenomics.crossvalidate(tmp_path / "run", datalist=cohort / "task2.json", **options, **settings)
    assert not list(tmp_path.rglob("last.pt"))


def test_patients_that_the_segmenter_knows_are_named(cohort, segmenter, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    state, known = read_weights(segmenter)
    patients = [one["patient"] for one in json.loads((cohort / "task2.json").read_text())["training"]]
    file = tmp_path / "start.pt"
    listed = f"BraTS2021_{patients[0]}"
    torch.save({"model": state, "settings": {**known, "trained_on": [listed, "Brats18_TCIA01_201_1"]}}, file)
    metrics = validate(cohort, tmp_path / "run", segmenter=file, mri_types=["FLAIR"], seeds=[1])
    assert metrics["leakage"]["segmenter_trained_on"] == [patients[0]]
    assert f"was trained on 1 of these patients: {patients[0]} ({listed} there)" in caplog.text
    assert f"The segmenter was trained on 1 of these patients: {patients[0]}." in card.rendered(metrics, {})
    others = {"prepare_classification": {"namesakes": True}}
    run = plan.Plan(tmp_path / "run", cohort / "task2.json", segmenter=file, settings=others)
    assert guard.seen_by_segmenter(run) == []


def test_a_leak_in_a_finished_run_is_found(finished, cohort, segmenter, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(finished[0], copied)
    # a model that was trained with nobody left out
    file = copied / "classification" / "seed1" / "fold0" / "FLAIR" / "resolved_config.yaml"
    config = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**config, "excluded_patients": []}))
    run = plan.Plan(copied, cohort / "task2.json", segmenter=segmenter, seeds=[1, 2], mri_types=["FLAIR", "T1wCE"])
    with pytest.raises(leakage.LeakError, match=r"seed1.fold0.FLAIR"):
        guard.verify(run)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stages": "both"}, "expected some of segmentation,classification"),
        ({"folds": 0}, "fold 0 alone"),
        ({"folds": [0, 7]}, r"folds \[0, 7\] are requested, but it has \[0, 1, 2\]"),
        ({"segmenter": None}, "--segmenter"),
        ({"seeds": []}, "--seeds"),
        ({"selection": "best"}, "expected one of inner, outer"),
        ({"stages": "segmentation"}, "--segmentation_datalist"),
    ],
)
def test_mistakes_are_reported_before_anything_is_written(cohort, segmenter, tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        validate(cohort, tmp_path / "run", **{"segmenter": segmenter, **options})
    assert not (tmp_path / "run").exists()
