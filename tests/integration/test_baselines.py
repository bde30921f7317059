"""The field's other models: each learns a planted signal, goes on after it was killed, and takes the way of the method's own jobs."""

import json
import shutil

import pytest
import torch

import radiogenomics
from scripts import handlers
from scripts.baselines import fitting, networks
from scripts.model_files import WeightsError, read_weights
from scripts.prepared import PreparedError, PreparedSeries
from tests.integration.jobs import KEEP_ALL, equal, killed, patients, read_rows, refused
from tests.scripts.baselines.stacks import write_masks, write_stacks

STACKED = {
    "cnn3d": {"image_size": 26, "slices": 26},
    "resnet10": {"image_size": 16, "slices": 4},
    "efficientnet2d": {"image_size": 32},
    "efficientnet3d": {"image_size": 32, "slices": 32},
}
STACKED_NETWORKS = dict(networks.STACKED)
FITTED = ("forest", "size")
EPOCHS = {"cnn3d": 8, "resnet10": 6, "efficientnet2d": 10, "efficientnet3d": 10}
LEARNING = {"num_workers": 0, "batch_size": 6, "learning_rate": 0.001}


def train(model, data, output, **rest):
    datalist, prepared = data
    options = LEARNING | {"max_epochs": EPOCHS[model]} if model in STACKED else {}
    return radiogenomics.train(
        "baseline", datalist, prepared, output, model=model, mri_types="FLAIR", **{**options, **rest}
    )


def quick_to_average(model):
    """A network whose batch normalisation needs a few steps, not a hundred, to know its statistics."""

    def build():
        network = STACKED_NETWORKS[model]()
        for layer in network.modules():
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
                layer.momentum = 0.5
        return network

    return build


@pytest.mark.parametrize("model", [*STACKED, *FITTED])
def test_a_planted_signal_is_learnt(model, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "STACKED", {name: quick_to_average(name) for name in STACKED})
    data = write_stacks(tmp_path, model, **STACKED[model]) if model in STACKED else write_masks(tmp_path)
    run = train(model, data, tmp_path / "run")
    metrics = radiogenomics.evaluate("baseline", *data, tmp_path / "evaluation", classifier=run, model=model)
    assert metrics["FLAIR"]["patients"] == (6 if model in STACKED else 8)
    assert metrics["FLAIR"]["auc"] == 1
    if model in STACKED:  # not in the best epoch alone, which may be luck
        history = read_rows(run / "FLAIR" / "history.csv")
        assert [float(row["auc"]) for row in history[-2:]] == [1, 1]
    if model == "forest":
        ranked = [row["feature"] for row in read_rows(run / "FLAIR" / "importances.csv")]
        assert any(name.startswith("tumour_") for name in ranked[:3])
        table = read_rows(run / "FLAIR" / "features.csv")
        assert len(table) == 8
        assert {row["label"] for row in table} == {"0", "1"}


@pytest.mark.parametrize("model", STACKED)
def test_a_training_that_was_killed_ends_as_an_unbroken_one(model, tmp_path):
    data = write_stacks(tmp_path, model, patients=4, **STACKED[model])
    whole = train(model, data, tmp_path / "whole", max_epochs=2)
    with killed(handlers.EpochSeed, 1):  # in the second epoch
        train(model, data, tmp_path / "broken", max_epochs=2)
    broken = train(model, data, tmp_path / "broken", max_epochs=2, resume=True)
    states = [read_weights(run / "FLAIR" / "model_FLAIR.pt")[0] for run in (whole, broken)]
    assert equal(*states)
    last = [torch.load(run / "FLAIR" / "last.pt", weights_only=True)["model"] for run in (whole, broken)]
    assert equal(*last)
    assert read_rows(whole / "FLAIR" / "history.csv") == read_rows(broken / "FLAIR" / "history.csv")


@pytest.mark.parametrize("model", FITTED)
def test_a_fit_that_was_killed_is_made_anew(model, tmp_path, monkeypatch):
    data = write_masks(tmp_path)
    whole = train(model, data, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "save_weights", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(model, data, tmp_path / "broken")
    assert not (tmp_path / "broken" / "FLAIR" / "model_FLAIR.pt").exists()
    broken = train(model, data, tmp_path / "broken", resume=True)
    states = [read_weights(run / "FLAIR" / "model_FLAIR.pt")[0] for run in (whole, broken)]
    assert equal(*states)


def test_weights_are_not_mistaken_for_another_models(tmp_path):
    data = write_stacks(tmp_path, "efficientnet2d", patients=4, image_size=16)
    run = train("efficientnet2d", data, tmp_path / "run", max_epochs=1)
    with refused("expected cnn3d"):
        train("cnn3d", data, tmp_path / "other")
    with refused("holds weights of efficientnet2d"):
        radiogenomics.evaluate("baseline", *data, tmp_path / "evaluation", classifier=run, model="resnet10")
    with refused("select that model (--model efficientnet2d)"):
        radiogenomics.evaluate("classification", *data, tmp_path / "evaluation", classifier=run)
    assert not (tmp_path / "evaluation").exists()
    with pytest.raises(ValueError, match="add --model"):
        radiogenomics.train("baseline", *data, tmp_path / "other")
    with pytest.raises(ValueError, match="say baseline instead"):
        radiogenomics.train("classification", *data, tmp_path / "other", model="cnn3d")
    assert issubclass(PreparedError, ValueError)
    assert issubclass(WeightsError, ValueError)


@pytest.mark.parametrize("model", ["resnet10", "size"])
def test_crossvalidation_and_prediction(model, cohort, segmenter, tmp_path):
    """From phantom DICOM to a submission, through the guard, the report and the costs."""
    settings = {
        "prepare_baseline": {"image_size": 16, "slices": 4},
        "train_baseline": {"max_epochs": 1},
        "prepare_classification": KEEP_ALL,
    }
    if model == "size":
        settings |= {"train_baseline": {}, "prepare_baseline": {}, "segmenter": segmenter}
    else:
        del settings["prepare_classification"]
    metrics = radiogenomics.crossvalidate(
        tmp_path / "run",
        datalist=cohort / "task2.json",
        model=model,
        mri_types="T1wCE",
        selection="outer",
        num_workers=0,
        **settings,
    )
    assert metrics["classification"]["patients"] == 4
    assert metrics["leakage"]["compared"]["T1wCE, seed 67, fold 0"] == 4
    costs = metrics["costs"]
    assert costs["parameters"] > 1000
    assert costs["gflop"] > 0
    assert costs["seconds_per_patient"] > 0
    page = radiogenomics.report(tmp_path / "run")
    assert page.is_file()
    sizes = {"segmenter": segmenter, **KEEP_ALL} if model == "size" else {"num_workers": 0}
    output = radiogenomics.predict(
        cohort / "data" / "task2" / "test", tmp_path / "out", classifier=tmp_path / "run", model=model, **sizes
    )
    (row,) = read_rows(output / "submission.csv")
    found = patients(output)[row["BraTS21ID"]]
    assert found["used"] == ["T1wCE"]
    members = [
        read_weights(tmp_path / "run" / "classification" / "seed67" / f"fold{fold}" / "T1wCE" / "model_T1wCE.pt")
        for fold in (0, 1)
    ]
    assert all(settings["model"] == model for _, settings in members)
    assert float(row["MGMT_value"]) == pytest.approx(found["probability"], abs=1e-6)
    # asked again nothing is computed, and the answer is the same
    (output / "submission.csv").rename(tmp_path / "before.csv")
    (output / "patients.json").unlink()
    radiogenomics.predict(cohort / "data" / "task2" / "test", output, classifier=tmp_path / "run", model=model, **sizes)
    assert (output / "submission.csv").read_text() == (tmp_path / "before.csv").read_text()


def test_the_order_of_files_reaches_the_stack(cohort, tmp_path):
    """Files whose numbers run against space give another stack only when that order is asked for."""
    source = next((cohort / "data" / "task2" / "train").iterdir())
    study = tmp_path / "studies" / source.name / "T1wCE"
    study.mkdir(parents=True)
    files = sorted((source / "T1wCE").iterdir(), key=lambda file: int("".join(filter(str.isdigit, file.stem))))
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(1)).tolist()
    for number, place in enumerate(order):
        shutil.copy(files[place], study / f"Image-{number}.dcm")
    stacks = {}
    for name, folder in (("space", source), ("files", study.parent)):
        root = tmp_path / f"in_{name}"
        shutil.copytree(folder, root / "P1")
        for other in ("FLAIR", "T1w", "T2w"):
            shutil.rmtree(root / "P1" / other, ignore_errors=True)
        for by in ("position", "files"):
            prepared = radiogenomics.prepare(
                "baseline",
                tmp_path / f"{name}_{by}",
                input=root,
                model="resnet10",
                image_size=16,
                slices=64,
                order=by,
                num_workers=0,
            )
            index = json.loads((prepared / "index.json").read_text())
            assert index["configuration"]["settings"]["order"] == by
            stacks[name, by] = PreparedSeries(prepared / "P1" / "T1wCE.h5").images()
    assert (stacks["space", "position"] == stacks["files", "position"]).all()
    assert (
        stacks["files", "files"].shape != stacks["files", "position"].shape
        or (stacks["files", "files"] != stacks["files", "position"]).any()
    )
