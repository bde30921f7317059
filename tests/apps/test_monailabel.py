"""What apps/monailabel lays for MONAI Label, without MONAI Label: its own tests run the server (`make test-monailabel`)."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from monai.bundle import ConfigParser, verify_metadata
from packaging.requirements import Requirement

from scripts import weights
from scripts.masks import label_map
from scripts.networks import BiLSTMNFNet
from tests.forked import python_words

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "apps" / "monailabel"
CONFIGS = ROOT / "bundle" / "configs"
SETTINGS = {"encoder_name": "tu-test_efficientnet", "decoder_channels": [16, 8, 8, 4, 4], "image_size": 32}


def load(name):
    spec = importlib.util.spec_from_file_location(name, APP / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def install():
    return load("install")


@pytest.fixture
def bundle(install, tmp_path):
    return install.lay_bundle(tmp_path / "app")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    torch.manual_seed(0)
    parts = {key: SETTINGS[key] for key in ("encoder_name", "decoder_channels")}
    file = tmp_path_factory.mktemp("weights") / "segmentation.pt"
    weights.save_weights(smp.UnetPlusPlus(encoder_weights=None, classes=2, **parts), SETTINGS, file)
    return file


def read(file):
    return ConfigParser.load_config_file(file)


# Configurations


def test_segmentation_is_the_project_s(bundle):
    """But for where the weights lie, and the runtime."""
    laid, own = read(bundle / "configs" / "inference.yaml"), read(CONFIGS / "inference_segmentation.yaml")
    assert {key for key in laid if laid[key] != own.get(key)} == {"segmenter", "runtime", "progress_bar"}
    assert laid["progress_bar"] == {**own["progress_bar"], "disable": True}


def test_training_is_the_project_s(bundle):
    laid, own = read(bundle / "configs" / "train.yaml"), read(CONFIGS / "train_segmentation.yaml")
    for key in ("network", "loss", "optimizer", "lr_scheduler", "learning_rate", "score", "training", "run"):
        assert laid[key] == own[key], key
    for key in own["train"]:
        if key not in ("dataset", "progress_bar"):
            assert laid["train"][key] == own["train"][key], key
    assert laid["train"]["progress_bar"] == {**own["train"]["progress_bar"], "disable": True}
    for key in own["validate"]:
        assert key == "dataset" or laid["validate"][key] == own["validate"][key], key
    prepare = read(CONFIGS / "prepare_segmentation.yaml")
    for key in prepare["configuration"]:
        assert key == "stage" or laid[key] == prepare[key], key
    assert laid["transform"] == prepare["transform"]
    assert laid["label_values"]["_target_"] == "custom_transforms.LabelMapToWTETd"


def test_configurations_have_what_monai_label_asks_for(bundle):
    inference, train = (ConfigParser(read(bundle / "configs" / f"{name}.yaml")) for name in ("inference", "train"))
    for name in ("network_def", "preprocessing", "postprocessing", "inferer", "device", "bundle_root"):
        assert name in inference, name
    for name in (
        "network", "device", "bundle_root", "train#trainer#max_epochs", "train#dataset#data", "train#handlers", "validate#dataset#data",
    ):  # fmt: skip
        assert name in train, name


def test_metadata(bundle):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    verify_metadata(
        meta_file=str(bundle / "configs" / "metadata.json"), filepath=ROOT / "tests" / "data" / "meta_schema.json"
    )
    own = json.loads((CONFIGS / "metadata.json").read_text())
    for key in ("version", "schema", "intended_use", "copyright"):
        assert metadata[key] == own[key], key
    assert "Research use only" in metadata["description"], "the annotator reads it"
    formats = metadata["network_data_format"]
    assert (next(iter(formats["inputs"])), next(iter(formats["outputs"]))) == ("image", "pred")
    masks = np.array([[[[0, 1, 1]], [[0, 0, 1]]]])
    assert sorted(map(int, formats["outputs"]["pred"]["channel_def"])) == sorted(np.unique(label_map(masks)))


def test_environment_has_what_the_project_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (APP / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = {one.name: one for one in map(Requirement, filter(None, (line.split("#")[0].strip() for line in lines)))}
    not_needed = {"fire": "the command", "pytorch-ignite": "MONAI Label's own"}
    for one in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["train"]]):
        if one.name not in not_needed:
            assert one.name in asked
            pinned = [part.version for part in asked[one.name].specifier if part.operator in ("==", ">=")]
            assert all(one.specifier.contains(version) for version in pinned), one.name


# Weights


def test_weights_are_laid_where_monai_label_looks(install, bundle, segmenter):
    file = install.lay_weights(bundle, segmenter)
    assert file == bundle / "models" / "model.pt"
    assert file.read_bytes() == segmenter.read_bytes()
    assert install.lay_weights(bundle) == install.lay_weights(bundle, segmenter) == file


@pytest.mark.slow
def test_released_weights_have_no_settings_and_fit(install, bundle, tmp_path):
    network = smp.UnetPlusPlus("densenet121", encoder_weights=None, classes=2)
    torch.save(network.state_dict(), tmp_path / "flat.pth")
    assert install.lay_weights(bundle, tmp_path / "flat.pth").is_file()


def test_shipped_weights_are_laid_where_no_others_are(install, bundle):
    shipped = ROOT / "bundle" / "models" / "segmentation.pt"
    assert install.lay_weights(bundle).read_bytes() == shipped.read_bytes()


@pytest.mark.slow
def test_weights_that_were_trained_are_not_overwritten_unasked(install, bundle, segmenter):
    file = install.lay_weights(bundle, segmenter)
    state, settings = weights.read_weights(file)
    torch.save({"model": state, "settings": {**settings, "trained": {"epoch": 1}}}, file)
    trained = file.read_bytes()
    with pytest.raises(FileExistsError, match=r"model\.pt.*--overwrite"):
        install.lay_weights(bundle, segmenter)
    install.lay_bundle(bundle.parents[1])
    assert install.lay_weights(bundle).read_bytes() == trained, "code is laid anew, weights stay"
    install.lay_weights(bundle, segmenter, overwrite=True)
    assert file.read_bytes() == segmenter.read_bytes()


@pytest.mark.slow
def test_other_weights_are_refused(install, bundle, segmenter, tmp_path):
    with pytest.raises(weights.WeightsError, match="no such weights file"):
        install.lay_weights(bundle, tmp_path / "missing.pt")
    classifier = BiLSTMNFNet("test_efficientnet", sequence_length=2, hidden_size=2)
    weights.save_weights(classifier, {"backbone": "test_efficientnet"}, tmp_path / "classifier.pt")
    with pytest.raises(weights.WeightsError, match=r"classifier\.pt: these weights are not for this network"):
        install.lay_weights(bundle, tmp_path / "classifier.pt")
    assert not (bundle / "models" / "model.pt").exists()
    state, settings = weights.read_weights(segmenter)
    (bundle / "models").mkdir()
    torch.save({"model": state, "settings": {**settings, "encoder_name": "resnet18"}}, bundle / "models" / "model.pt")
    with pytest.raises(weights.WeightsError, match="not for this network"):
        install.lay_weights(bundle)


# Jobs of the bundle as it is laid


@pytest.mark.slow
def test_annotated_volumes_train_the_weights(install, bundle, segmenter, tmp_path):
    """As MONAI Label runs it: in a process of its own, with volumes as data."""
    file = install.lay_weights(bundle, segmenter)
    image = np.zeros((40, 40, 24), np.float32)
    image[4:36, 4:36, 2:22] = np.random.default_rng(0).uniform(50, 100, (32, 32, 20))
    label = np.zeros(image.shape, np.uint8)
    label[12:28, 12:28, 6:18], label[16:24, 16:24, 8:16] = 1, 2
    for name, array in (("image", image + 100 * label), ("label", label)):
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
    run = (
        "import json, sys, monai.bundle; given = json.loads(sys.argv[1]); "
        "monai.bundle.run(run_id='run', init_id=None, final_id=None, **given)"
    )
    given = {
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "config_file": str(bundle / "configs" / "train.yaml"),
        "bundle_root": str(bundle),
        "device": "cpu",
        "train#trainer#max_epochs": 2,
        "train#dataset#data": [{key: str(tmp_path / f"{key}.nii.gz") for key in ("image", "label")}],
        "validate#dataset#data": [],
    }
    done = subprocess.run(
        [*python_words(), "-c", run, json.dumps(given)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    before, _ = weights.read_weights(segmenter)
    after, settings = weights.read_weights(file)
    assert {key: settings[key] for key in SETTINGS} == SETTINGS
    assert settings["trained"]["epoch"] in (1, 2)
    assert settings["trained_on"] == ["image"]
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], after[key]) for key in before if key.startswith("encoder"))
    history = (bundle / "runs" / "annotations" / "history.csv").read_text().splitlines()
    assert len(history) == 3
    assert "no held-out volume" in done.stdout


# The command


def test_studies_must_be_there(monkeypatch, tmp_path, install):
    monkeypatch.setitem(sys.modules, "install", install)
    start = load("start")
    (tmp_path / "patient").mkdir()
    (tmp_path / "patient" / "flair.nii.gz").write_bytes(b"")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match=r"no NIfTI file.*one folder"):
            start.studies_of(str(folder))
        assert folder.is_dir() == (folder == tmp_path), "no folder is made"
    assert start.studies_of(str(tmp_path / "patient")) == str(tmp_path / "patient")
    assert start.studies_of("http://127.0.0.1:8042/dicom-web") == "http://127.0.0.1:8042/dicom-web"


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the server is a child")
def test_the_server_is_for_this_machine_alone_and_fetches_nothing(monkeypatch, tmp_path, install, capsys):
    monkeypatch.setitem(sys.modules, "install", install)
    start = load("start")
    (tmp_path / "flair.nii.gz").write_bytes(b"")
    started, laid = [], []
    monkeypatch.setattr(start, "install", lambda *given: laid.append(given))
    monkeypatch.setattr(os, "execv", lambda program, words: started.append((program, words, dict(os.environ))))
    monkeypatch.setattr(os, "environ", {**os.environ, "MONAI_LABEL_DATASTORE_FILE_EXT": '["*.nii"]'})
    monkeypatch.setattr(sys, "argv", ["start.py", "--studies", str(tmp_path), "--app", str(tmp_path / "app")])
    monkeypatch.setattr(start.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0))
    with pytest.raises(SystemExit):  # the server, which this is not, would never come back
        start.main()
    ((program, words, environment),) = started
    assert laid == [(tmp_path / "app", None, False)]
    assert program == words[0] == sys.executable
    pairs = set(itertools.pairwise(words))
    assert {
        ("--host", "127.0.0.1"),
        ("--port", "8000"),
        ("--studies", str(tmp_path)),
        ("--app", str(tmp_path / "app")),
    } <= pairs
    assert {("models", install.NAME), ("zoo_source", "ngc"), ("sam2", "false")} <= pairs
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert json.loads(environment["MONAI_LABEL_DICOMWEB_SEARCH_FILTER"]) == {"Modality": "MR"}
    assert environment["MONAI_LABEL_DATASTORE_FILE_EXT"] == '["*.nii"]', "what a person has set stays"
    printed = capsys.readouterr().out
    assert "this machine alone" in printed
    assert "Research use only" in printed


def test_without_monai_label_it_says_where_to_get_it(install, tmp_path, monkeypatch):
    monkeypatch.setattr(install, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"environment of its own.*requirements\.txt"):
        install.install(tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_an_app_is_not_laid_over_something_else(install, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        install.make_app(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
