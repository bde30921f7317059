"""The bundle as MONAI's own tools see it: metadata, properties, networks, export, agreement of its parts, and the zip."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from urllib.parse import urlparse

import pytest
import segmentation_models_pytorch as smp
import torch
import yaml
from monai.bundle import (
    ConfigParser,
    ConfigWorkflow,
    ckpt_export,
    download_large_files,
    trt_export,
    verify_metadata,
    verify_net_in_out,
)
from monai.bundle.properties import InferProperties, MetaProperties
from monai.bundle.utils import DEPRECATED_ID_MAPPING
from packaging.requirements import Requirement

from scripts import weights
from scripts.networks import SEGMENTER_PARTS, BiLSTMNFNet, build_segmenter

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
CONFIGS = BUNDLE / "configs"
METADATA = CONFIGS / "metadata.json"
SCHEMA = Path(__file__).parent / "data" / "meta_schema.json"
OFFICIAL_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
NAME = "brats_mri_radiogenomics"
SEGMENTATION = "brats_mri_slice_segmentation"
JOBS = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
OVERLAY, SITE = "distributed", "federated"  # laid over jobs, the one by torchrun, the other by MonaiAlgo
NOT_IN_METADATA = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}


def read(name):
    """The configuration as it is written."""
    return ConfigParser.load_config_file(CONFIGS / f"{name}.yaml")


@pytest.fixture(scope="module")
def metadata():
    return json.loads(METADATA.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


# Metadata


def test_metadata_is_valid(metadata):
    assert metadata["schema"] == OFFICIAL_SCHEMA
    verify_metadata(meta_file=str(METADATA), filepath=SCHEMA)  # the schema is there, so nothing is downloaded


def test_metadata_without_a_required_key_is_invalid(tmp_path, metadata):
    file = tmp_path / "metadata.json"
    file.write_text(json.dumps({key: value for key, value in metadata.items() if key != "required_packages_version"}))
    with pytest.raises(ValueError, match="required_packages_version"):
        verify_metadata(meta_file=str(file), filepath=SCHEMA)


def test_metadata_with_a_wrong_data_format_is_invalid(tmp_path, metadata):
    wrong = copy.deepcopy(metadata)
    wrong["segmentation_data_format"]["outputs"]["pred"]["num_channels"] = "2"
    file = tmp_path / "metadata.json"
    file.write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="schema"):
        verify_metadata(meta_file=str(file), filepath=SCHEMA)


def test_every_channel_is_described(metadata):
    for key in ("network_data_format", "segmentation_data_format"):
        for tensors in metadata[key].values():
            for tensor in tensors.values():
                assert sorted(map(int, tensor["channel_def"])) == list(range(tensor["num_channels"]))


def test_versions_agree(metadata, project):
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert metadata["version"] == project["version"] == re.search(r"^## (\d\S*)", changelog, re.MULTILINE)[1]
    assert next(iter(metadata["changelog"])) == metadata["version"]


def test_declared_packages_are_those_of_the_project(metadata, project):
    """Prediction's and those of the extras without which some job does not run."""
    extras = project["optional-dependencies"]
    named = ("train", "phantom", "download", "export")
    declared = [*project["dependencies"], *(text for name in named for text in extras[name])]
    required = {requirement.name: requirement for requirement in map(Requirement, declared)}
    versions = dict(metadata["required_packages_version"])
    versions |= {name: metadata[key] for name, key in NOT_IN_METADATA.items()}
    assert set(versions) == set(required)
    for name, version in versions.items():
        assert required[name].specifier.contains(version), f"{name} {version}: pyproject.toml wants {required[name]}"


def test_the_zoo_can_download_with_the_declared_gdown(metadata):
    """Its checks install what the metadata name, and give gdown the option ``fuzzy``, which version 6 no longer has."""
    assert metadata["required_packages_version"]["gdown"].startswith("5.")


def test_no_name_that_monai_replaces(metadata):
    """MONAI takes ``optional_packages_version`` for the old name of the required ones, which it would then replace."""
    assert not set(DEPRECATED_ID_MAPPING) & set(metadata)


def test_no_metric_is_claimed(metadata):
    assert not metadata.get("eval_metrics")


def test_research_use_only(metadata):
    assert "Research use only" in metadata["intended_use"]
    assert "Research use only" in (BUNDLE / "docs" / "README.md").read_text(encoding="utf-8")


# Configurations


def test_every_job_has_its_configuration():
    assert {
        "phantom",
        "prepare_segmentation",
        "train_segmentation",
        "pretrain_segmentation",
        "evaluate_segmentation",
        "prepare_classification",
        "train_classification",
        "evaluate_classification",
        "inference",
        "inference_segmentation",
        "fuse_segmentation",
        "distributed",
        "federated",
    } <= set(JOBS)


def workflow_type(job):
    if job.startswith(("train", "pretrain")):
        return "train"
    return "infer" if job.startswith(("inference", "fuse", "evaluate", "prepare_classification")) else None


@pytest.mark.parametrize("job", [job for job in JOBS if workflow_type(job)])
def test_properties(job, tmp_path, monkeypatch, weights_files):
    """The check builds every component, so data and weights are stood in for."""
    monkeypatch.chdir(tmp_path)
    config = read(job)
    item = [{}]
    overrides = {
        "output_dir": str(tmp_path),
        "prepared_dir": str(tmp_path),
        "dataset_dir": str(tmp_path),
        "segmenter": weights_files["segmenter", "nested"],
        "classifier": weights_files["classifier", "nested"],
        "init": "none",
        "entries": [],
        "split": [[], []],
        "items": [],
    }
    overrides = {key: value for key, value in overrides.items() if key in config}
    for part in ("train", "validate", "preparation"):
        if part in config:
            overrides[f"{part}#dataset#data"] = item
    if isinstance(config.get("dataset"), dict):
        overrides["dataset#data"] = item
    workflow = ConfigWorkflow(
        config_file=str(CONFIGS / f"{job}.yaml"),
        meta_file=str(METADATA),
        logging_file=False,
        workflow_type=workflow_type(job),
        **overrides,
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("job", JOBS)
def test_runs_by_its_own_name_too(job):
    config = read(job)
    assert "initialize" not in config, "the bundle root is not importable before the run begins"
    kinds = {"train": "training", "pretrain": "training", "evaluate": "evaluation"}
    kinds |= {"inference": "inference", "fuse": "inference"}
    kind = kinds.get(job.split("_")[0])
    if kind:
        assert config["run"] == [f"$@{kind}"]
        assert config[kind][0] == "$monai.utils.set_determinism(@seed)"


def commands(text):
    """Option names of every ``monai.bundle run`` command in a text, by configuration."""
    joined = re.sub(r"\\\n[#\s]*", " ", text)
    for line in re.findall(r"-m monai\.bundle run .*", joined):
        options = re.findall(r"--(\w+)", line)
        files = re.search(r"--config_file (\S+)", line)[1].strip('"[]').split(",")  # one, or a list in quotes
        yield [Path(file.strip("'")) for file in files], set(options) - {"config_file", "tracking"}


@pytest.mark.parametrize(
    "file",
    [ROOT / "README.md", BUNDLE / "docs" / "README.md", *(CONFIGS / f"{job}.yaml" for job in JOBS if job != SITE)],
    ids=str,
)
def test_commands_in_documents_name_what_is_there(file):
    found = list(commands(file.read_text(encoding="utf-8")))
    assert found
    for configs, options in found:
        if file.suffix == ".yaml":
            assert file.name in [config.name for config in configs]
        assert all((CONFIGS / config.name).is_file() for config in configs)
        assert options <= {key for config in configs for key in read(config.stem)}, (
            f"{configs}: no such value to override"
        )


# Many processes


@pytest.mark.parametrize("job", [job for job in JOBS if job not in (OVERLAY, SITE, "phantom")])
def test_what_is_laid_over_a_job_is_there(job):
    """Every job joins before it looks at its data, and alone is what it is without the other configuration."""
    config, overlay = read(job), read(OVERLAY)
    assert set(overlay) - set(config) <= {"device"}
    assert config["processes"] == "$distributed.alone()"
    assert "$import scripts.distributed as distributed" in config["imports"]
    (begins,) = [config[key] for key in ("training", "evaluation", "inference", "preparing") if key in config] or [
        config["run"]
    ]
    assert begins[:2].count("@processes") == 1


@pytest.mark.parametrize("job", [job for job in JOBS if job not in (OVERLAY, SITE, "phantom")])
def test_bars_and_curves_are_those_of_the_first_process(job):
    def components(value):
        if isinstance(value, dict):
            yield value
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from components(part)

    for part in components(read(job)):
        if str(part.get("_target_")).endswith(("ProgressBar", "TensorBoardStatsHandler")):
            assert part["_disabled_"] == "$not distributed.is_first()"


@pytest.mark.parametrize("job", ["train_segmentation", "pretrain_segmentation", "train_classification"])
def test_only_the_trainer_has_the_parallel_network(job):
    """So that weights and checkpoint have plain keys, and validation needs no step in common."""
    config = read(job)
    assert json.dumps(config).count("distributed.parallel(") == 1
    assert config["train"]["trainer"]["network"] == "$distributed.parallel(@network)"
    assert config["validate"]["evaluator"]["network"] == ("@averaged" if "averaged" in config else "@network")
    targets = [handler["_target_"] for handler in config["train"]["handlers"]]
    assert targets.index("scripts.distributed.SameBuffers") < targets.index("ValidationHandler")


# Federations


@pytest.mark.parametrize("job", ["train_segmentation", "train_classification"])
def test_what_is_laid_over_a_site_is_there(job, tmp_path):
    """It starts a run as `training` does, has the properties that MonaiAlgo asks for, and changes nothing else."""
    config, overlay = read(job), read(SITE)
    assert set(overlay) - set(config) == {"started", "train#trainer#train_handlers"}
    assert overlay["started"][0] == config["training"][0]
    assert overlay["started"][1] in config["training"]
    starts = [step.replace("@resume", "False") for step in config["training"]]
    assert overlay["started"][2] in starts
    workflow = ConfigWorkflow(
        config_file=[str(CONFIGS / f"{name}.yaml") for name in (job, SITE)],
        meta_file=str(METADATA),
        logging_file=False,
        workflow_type="train",
        **{"output_dir": str(tmp_path / "run"), "prepared_dir": str(tmp_path / "prepared"), "split": [[], []]},
        **{"train#dataset#data": [{}], "validate#dataset#data": [{}]},
    )
    workflow.initialize()
    assert workflow.evaluator
    assert not (tmp_path / "run" / "resolved_config.yaml").exists(), "scoring the server's weights is no run"
    assert workflow.check_properties() == []
    assert (tmp_path / "run" / "resolved_config.yaml").is_file()


# What several configurations say must be the same


def test_preparation_is_the_same_for_training_and_prediction():
    prepare, inference = read("prepare_classification"), read("inference")
    assert prepare["preparation"] == inference["preparation"]
    for key in (
        "zoom",
        "min_foreground",
        "segmented_foreground",
        "planes",
        "min_tumor_ratio",
        "max_contours",
        "batch_size",
        "device",
        "amp",
    ):
        assert prepare[key] == inference[key], key


def test_segmentation_of_a_volume_is_that_of_prediction():
    alone, inference = read("inference_segmentation"), read("inference")
    for key in ("network_def", "dataloader", "inferer"):
        expected = json.loads(json.dumps(inference["preparation"][key]).replace("@preparation#", "@"))
        assert alone[key] == expected, key
    for key in (
        "segmenter_file",
        "segmenter_settings",
        "zoom",
        "min_foreground",
        "segmented_foreground",
        "planes",
        "amp",
    ):
        assert alone[key] == inference[key], key
    steps = [step for step in inference["preparation"]["preprocessing"]["transforms"] if "classified" not in str(step)]
    assert alone["preprocessing"]["transforms"] == steps


def test_fusion_computes_as_prediction_does():
    fuse, inference = read("fuse_segmentation"), read("inference")
    for key in ("segmenter_file", "segmenter_settings", "zoom", "batch_size", "device", "amp", "compute", "entries"):
        assert fuse[key] == inference[key], key
    for key in ("network_def", "dataloader"):
        expected = json.loads(json.dumps(inference["preparation"][key]).replace("@preparation#", "@"))
        assert fuse[key] == expected, key
    expected = {**inference["preparation"]["inferer"]}
    del expected["coarse_step"], expected["planes"]
    assert fuse["inferer"]["segmenter"] == expected


def test_classification_is_the_same_in_evaluation_and_prediction():
    evaluation, inference = read("evaluate_classification"), read("inference")
    for key in (
        "classifier_settings",
        "network_def",
        "compute",
        "trained",
        "network",
        "preprocessing",
        "dataset",
        "dataloader",
        "inferer",
        "patients",
        "series",
        "handlers",
        "evaluator",
        "rows",
        "zoom",
        "prior",
    ):
        assert evaluation[key] == inference[key], key


def test_prediction_alone_keeps_logits():
    """With all that changes them; evaluation must not write among prepared series that may be somebody else's."""
    evaluation, inference = read("evaluate_classification"), read("inference")
    assert evaluation["store"] is None
    text = json.dumps([inference[key] for key in ("network_def", "trained", "network", "preprocessing", "inferer")])
    changes = set(re.findall(r"@(\w+)", text)) - {"network_def", "trained", "device", "batch_size"}
    assert changes == {"members", "classifier_settings", "zoom", "flips", "compute"}
    assert all(f"@{name}" in json.dumps(inference["store"]) for name in changes)


def test_validation_of_training_is_that_of_evaluation():
    training, evaluation = read("train_segmentation"), read("evaluate_segmentation")
    for key in ("preprocessing", "inferer"):
        assert training["validate"][key] == evaluation[key], key
    training, evaluation = read("train_classification"), read("evaluate_classification")
    assert training["validate"]["preprocessing"] == evaluation["preprocessing"]
    assert training["zoom"] == evaluation["zoom"]
    for key in ("excluded_patients", "fold"):
        assert training[key] == evaluation[key], key


def deterministic(transforms):
    return [transform for transform in transforms if not transform["_target_"].startswith("Rand")]


def test_training_slices_are_preprocessed_as_held_out_ones():
    config = read("train_segmentation")
    assert (
        deterministic(config["train"]["preprocessing"]["transforms"])
        == config["validate"]["preprocessing"]["transforms"]
    )


def test_pretraining_is_a_training_on_other_slices():
    """The network, its loss and scores, and how slices are normalised are those of a training on prepared slices."""
    training, pretraining = read("train_segmentation"), read("pretrain_segmentation")
    for key in ("encoder_name", "decoder_channels", "image_size", "network_def", "network", "amp", "runtime"):
        assert training[key] == pretraining[key], key
    assert pretraining["cross_entropy"] == 0, "the Dice loss alone, unless more is asked for"
    assert pretraining["average_decay"] == 0, "and the network itself, not its average"
    for part in ("inferer", "trainer", "key_metric"):
        assert training["train"][part] == pretraining["train"][part], part
    for part in ("inferer", "key_metric", "handlers"):
        assert training["validate"][part] == pretraining["validate"][part], part
    assert {**training["validate"]["evaluator"], "network": "@averaged"} == pretraining["validate"]["evaluator"]
    transforms = pretraining["validate"]["preprocessing"]["transforms"]
    assert pretraining["validate"]["synthetic"]["_target_"] == "scripts.synthetic.drawing.DrawSlice"
    assert transforms[1:] == training["validate"]["preprocessing"]["transforms"][2:], "but for reading and resizing"
    assert deterministic(pretraining["train"]["preprocessing"]["transforms"])[1:] == transforms[1:]


def test_networks_agree():
    trained, evaluated = read("train_segmentation"), read("evaluate_segmentation")
    prepared = read("prepare_classification")["preparation"]
    for network in (evaluated["network_def"], prepared["network_def"]):
        assert network["_target_"] == trained["network_def"]["_target_"]
        assert network["classes"] == trained["network_def"]["classes"]
    assert read("train_classification")["network_def"].keys() == read("inference")["network_def"].keys()


def test_settings_of_flat_weights_are_those_of_training():
    segmentation, classification = read("train_segmentation"), read("train_classification")
    settings = {**weights.SEGMENTER_SETTINGS}
    assert "start_settings(@init, @models_dir).get('scaling', 'minmax')" in segmentation["scaling"]
    assert settings.pop("scaling") == "minmax"
    assert settings.pop("field_of_view") is None, "prepared slices are shown whole"
    assert {key: segmentation[key] for key in settings} == settings
    assert {key: classification[key] for key in weights.CLASSIFIER_SETTINGS} == weights.CLASSIFIER_SETTINGS


# The numbers of the method, each where it is written

NUMBERS = {
    "prepare_segmentation": {
        "planes": ["sagittal", "coronal", "axial"],
        "min_tumor_ratio": 0.01,
        "tumor_ratio_of": "image_area",
        "keep_rate": 0.1,
    },
    "train_segmentation": {
        "encoder_name": "densenet121",
        "image_size": 224,
        "network_def#classes": 2,
        "loss#_target_": "DiceLoss",
        "optimizer#_target_": "torch.optim.AdamW",
        "learning_rate": 1e-4,
        "lr_scheduler#_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "batch_size": 128,
        "max_epochs": 500,
        "warmup_epochs": 10,
        "patience": 10,
        "fold": 0,
        "seed": 67,
        "init": "imagenet",
        "flip_probability": 0.5,
        "affine_probability": 0.5,
        "shift_range": 0.0625,
        "scale_range": 0.1,
    },
    "prepare_classification": {
        "zoom": 1.2,
        "min_foreground": 0.1,
        "min_tumor_ratio": 0.025,
        "max_contours": 5,
    },
    "train_classification": {
        "backbone": "eca_nfnet_l0",
        "hidden_size": 128,
        "image_size": 224,
        "sequence_length": 35,
        "stride": 5,
        "zoom": 1.2,
        "excluded_patients": ["00109", "00123", "00709"],
        "loss#_target_": "torch.nn.BCEWithLogitsLoss",
        "optimizer#_target_": "torch.optim.AdamW",
        "learning_rate": 1e-6,
        "lr_scheduler#_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "lr_scheduler#factor": 0.67,
        "lr_scheduler#patience": 3,
        "batch_size": 4,
        "max_epochs": 80,
        "warmup_epochs": 5,
        "patience": 10,
        "fold": 0,
        "seed": 67,
        "init": "imagenet",
        "flip_probability": 0.5,
        "affine_probability": 0.5,
        "shift_range": 0.0625,
        "scale_range": 0.1,
    },
    "inference_segmentation": {"zoom": 1.2, "min_foreground": 0.1, "seed": 67},
    "evaluate_classification": {"zoom": 1.2, "fold": 0, "prior": 0.5, "seed": 67},
    "inference": {
        "zoom": 1.2,
        "min_foreground": 0.1,
        "min_tumor_ratio": 0.025,
        "max_contours": 5,
        "prior": 0.5,
        "mri_types": ["FLAIR", "T1w", "T1wCE", "T2w"],
        "seed": 67,
    },
}


@pytest.mark.parametrize(("job", "key"), [(job, key) for job, numbers in NUMBERS.items() for key in numbers])
def test_numbers_of_the_method(job, key):
    value = read(job)
    for part in key.split("#"):
        value = value[part]
    assert value == NUMBERS[job][key]
    assert type(value) is type(NUMBERS[job][key])  # YAML reads 1e-4 as text


@pytest.mark.parametrize("job", ["train_segmentation", "train_classification"])
def test_rotation_and_normalisation(job):
    parser = ConfigParser(read(job))
    assert parser.get_parsed_content("rotate_range") == pytest.approx(torch.pi * 45 / 180)
    normalise = next(
        transform
        for transform in parser["train#preprocessing#transforms"]
        if transform["_target_"] == "NormalizeIntensityd"
    )
    length = parser.get("sequence_length", 1)
    values = [normalise["subtrahend"], normalise["divisor"]]
    if job == "train_classification":
        values = [eval(value[1:].replace("@sequence_length", str(length))) for value in values]
    imagenet = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    for found, expected in zip(values, imagenet, strict=True):
        assert found == pytest.approx([255 * value for value in expected] * length)


# Networks


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return smp.UnetPlusPlus(encoder_name="densenet121", encoder_weights=None, classes=2).eval()


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return BiLSTMNFNet().eval()


@pytest.fixture(scope="module")
def weights_files(tmp_path_factory, segmenter, classifier):
    """Flat and nested weights of both networks."""
    folder = tmp_path_factory.mktemp("weights")
    files = {}
    for name, network in (("segmenter", segmenter), ("classifier", classifier)):
        files[name, "flat"] = folder / f"{name}.pth"
        torch.save(network.state_dict(), files[name, "flat"])
        files[name, "nested"] = folder / f"{name}.pt"
        weights.save_weights(network, {}, files[name, "nested"])
    return {key: str(file) for key, file in files.items()}


@pytest.mark.parametrize("job", ["prepare_classification", "inference_segmentation"])
def test_segmenter_takes_and_gives_what_the_metadata_say(job, metadata, weights_files):
    arguments = {
        "net_id": "network_def",
        "meta_file": str(METADATA),
        "config_file": str(CONFIGS / f"{job}.yaml"),
        "device": "cpu",
        "segmenter": weights_files["segmenter", "nested"],
    }
    verify_net_in_out(**arguments, **{"_meta_#network_data_format": metadata["segmentation_data_format"]})
    with pytest.raises((ValueError, RuntimeError)):
        verify_net_in_out(**arguments)


def test_output_shapes_are_those_of_the_metadata(metadata, segmenter, classifier):
    for key, network in (("network_data_format", classifier), ("segmentation_data_format", segmenter)):
        image, pred = metadata[key]["inputs"]["image"], metadata[key]["outputs"]["pred"]
        shapes_only = copy.deepcopy(network).to("meta")
        output = shapes_only(torch.empty(1, image["num_channels"], *image["spatial_shape"], device="meta"))
        assert list(output.shape) == [1, pred["num_channels"], *pred["spatial_shape"]]


@pytest.mark.parametrize("form", ["flat", "nested"])
def test_export_of_the_classifier(tmp_path, classifier, weights_files, form):
    file = tmp_path / "classifier.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(file),
        ckpt_file=weights_files["classifier", form],
        meta_file=str(METADATA),
        config_file=str(CONFIGS / "inference.yaml"),
        key_in_ckpt="model" if form == "nested" else "",
        models_dir=str(tmp_path),
    )
    sequences = torch.rand(1, 35, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(torch.jit.load(str(file)).eval()(sequences), classifier(sequences))


@pytest.mark.parametrize("form", ["flat", "nested"])
def test_export_of_the_segmenter(tmp_path, segmenter, weights_files, form):
    file = tmp_path / "segmenter.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(file),
        ckpt_file=weights_files["segmenter", form],
        meta_file=str(METADATA),
        config_file=str(CONFIGS / "prepare_classification.yaml"),
        key_in_ckpt="model" if form == "nested" else "",
        use_trace=True,
        input_shape=[1, 3, 32, 32],
        segmenter=weights_files["segmenter", "flat"],
    )
    exported = torch.jit.load(str(file)).eval()
    with torch.inference_mode():
        for size in (32, 64):
            images = torch.rand(2, 3, size, size)
            torch.testing.assert_close(exported(images), segmenter(images), rtol=1e-4, atol=1e-5)


# Released weights


def released():
    return yaml.safe_load((BUNDLE / "large_files.yml").read_text(encoding="utf-8"))["large_files"]


def test_large_files_are_the_seven_released_ones():
    files = released()
    assert len({file["path"] for file in files}) == len({file["url"] for file in files}) == 7
    assert all(urlparse(file["url"]).netloc == "drive.google.com" for file in files)
    assert [file["path"] for file in files if Path(file["path"]).parent.name != "released"] == ["models/model.pt"]


@pytest.mark.parametrize("already_there", [False, True])
def test_large_files_arrive_where_they_are_looked_for(tmp_path, already_there):
    files = released()
    for number, file in enumerate(files):
        torch.save({"clf_head.bias": torch.tensor([number])}, tmp_path / f"{number}.pth")
        if already_there:
            target = tmp_path / file["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tmp_path / f"{number}.pth", target)
        else:
            file["url"] = (tmp_path / f"{number}.pth").as_uri()
    (tmp_path / "large_files.yml").write_text(yaml.safe_dump({"large_files": files}))
    download_large_files(bundle_path=str(tmp_path))
    for number, file in enumerate(files):
        assert weights.read_weights(tmp_path / file["path"])[0]["clf_head.bias"] == number
    folder = tmp_path / "models" / "released"
    assert weights.find_segmenter(None, tmp_path / "models") == str(folder / weights.RELEASED_SEGMENTER)
    found = weights.find_classifiers(None, tmp_path / "models", required=True)
    assert found.pop("FLAIR") == str(tmp_path / "models" / "model.pt")
    assert found == {
        mri_type: str(folder / weights.RELEASED_CLASSIFIER.format(mri_type=mri_type))
        for mri_type in ("T1w", "T1wCE", "T2w")
    }


# The zip


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("build_bundle", ROOT / "tools" / "build_bundle.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unzip(builder, folder, name):
    path = builder.build_bundle(folder / "dist", name=name)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    assert sorted(entry.name for entry in folder.iterdir()) == sorted([name, "dist"])
    return path, folder / name


@pytest.fixture(scope="module")
def unzipped(builder, tmp_path_factory, metadata):
    path, folder = unzip(builder, tmp_path_factory.mktemp("zip"), NAME)
    assert path.name == f"{NAME}_v{metadata['version']}.zip"
    return folder


@pytest.fixture(scope="module")
def stage_1(builder, tmp_path_factory, metadata):
    """The unzipped bundle of the segmentation."""
    path, folder = unzip(builder, tmp_path_factory.mktemp("stage_1"), SEGMENTATION)
    assert path.name == f"{SEGMENTATION}_v{metadata['version']}.zip"
    return folder


def test_zip_holds_the_whole_bundle_and_nothing_else(unzipped):
    assert {entry.name for entry in unzipped.iterdir()} == {
        "LICENSE",
        "configs",
        "custom_transforms",
        "docs",
        "large_files.yml",
        "models",
        "scripts",
    }
    files = {path.relative_to(unzipped).as_posix() for path in unzipped.rglob("*") if path.is_file()}
    sources = {f"configs/{job}.yaml" for job in JOBS} | {
        "configs/metadata.json",
        "configs/logging.conf",
        "docs/README.md",
        "docs/data_license.txt",
        "models/README.md",
        "scripts/weights.py",
        "custom_transforms/series.py",
    }
    assert sources <= files
    assert not any("__pycache__" in file or file.endswith(".pyc") for file in files)


@pytest.mark.parametrize("name", [NAME, SEGMENTATION])
def test_zip_is_reproducible_and_replaces_itself_whole(builder, tmp_path, name):
    first = builder.build_bundle(tmp_path / "first", name=name).read_bytes()
    again = builder.build_bundle(tmp_path / "again", name=name)
    again.write_bytes(b"broken")
    assert builder.build_bundle(tmp_path / "again", name=name).read_bytes() == first
    assert [path.name for path in again.parent.iterdir()] == [again.name]


def test_zip_carries_own_weights(builder, tmp_path):
    for name in ("configs", "docs", "scripts", "models", "models/released"):
        (tmp_path / "bundle" / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "custom_transforms").mkdir()
    (tmp_path / "bundle" / "configs" / "metadata.json").write_text('{"version": "1.2.3"}')
    names = [
        "LICENSE",
        "large_files.yml",
        "models/README.md",
        "models/calibration.npz",
        "models/segmentation.pt",
        "models/model_T2w.pt",
    ]
    for name in [*names, "models/other.pt", "models/released/start.pth", "__init__.py", "scripts/.hidden"]:
        (tmp_path / "bundle" / name).touch()
    with zipfile.ZipFile(builder.build_bundle(tmp_path, tmp_path)) as archive:
        assert sorted(archive.namelist()) == sorted(f"{NAME}/{name}" for name in [*names, "configs/metadata.json"])


def test_zip_of_stage_1_holds_what_the_zoo_and_label_look_for(stage_1):
    files = {path.relative_to(stage_1).as_posix() for path in stage_1.rglob("*") if path.is_file()}
    code = {file for file in files if file.endswith((".py", ".html", ".css", ".js"))}
    assert {"scripts/weights.py", "custom_transforms/series.py"} <= code
    configs = ("distributed", "evaluate", "inference", "phantom", "prepare_segmentation", "train")
    assert files - code == {
        "LICENSE",
        "configs/logging.conf",
        "configs/metadata.json",
        *(f"configs/{name}.yaml" for name in configs),
        "docs/README.md",
        "docs/data_license.txt",
        "docs/segmentation.png",
        "docs/segmentation_failure.png",
        "docs/segmentation_weights.md",
        "large_files.yml",
        "models/README.md",
        "models/calibration.npz",
        "models/model.pt",
    }


@pytest.mark.parametrize("job", ["inference", "train", "evaluate"])
def test_jobs_of_stage_1_are_those_of_the_whole(stage_1, job):
    assert ConfigParser.load_config_file(stage_1 / "configs" / f"{job}.yaml") == read(f"{job}_segmentation")


def test_stage_1_carries_its_own_weights(builder, tmp_path):
    shutil.copytree(ROOT / "tools" / "segmentation_bundle", tmp_path / "tools" / "segmentation_bundle")
    for name in ("bundle", "custom_transforms"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pt", "*.pth", "__pycache__"))
    for name in ("segmentation.pt", "model_FLAIR.pt"):
        (tmp_path / "bundle" / "models" / name).touch()
    with zipfile.ZipFile(builder.build_bundle(tmp_path / "dist", tmp_path, SEGMENTATION)) as archive:
        models = {name.split("/", 2)[2] for name in archive.namelist() if "/models/" in name}
    assert models == {"model.pt", "README.md", "calibration.npz"}


def test_metadata_of_stage_1_are_those_of_the_whole_but_for_what_it_is(stage_1, metadata):
    own = json.loads((stage_1 / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert own["network_data_format"] == metadata["segmentation_data_format"]
    assert set(metadata) - set(own) == {"segmentation_data_format"}
    same = {key for key in own if own[key] == metadata[key]}
    assert {"schema", "version", "monai_version", "required_packages_version", "intended_use", "copyright"} <= same
    assert not {"name", "task", "description", "pred_classes"} & same


def test_stage_1_is_trained_and_downloaded_from_the_same_places(stage_1):
    places = yaml.safe_load((stage_1 / "large_files.yml").read_text(encoding="utf-8"))["large_files"]
    released_names = {file["url"]: Path(file["path"]).name for file in released()}
    named = {Path(file["path"]).name: released_names[file["url"]] for file in places}
    start = "unet_pp_densenet121_2channels_out.pth"
    assert named == {name: name for name in (weights.RELEASED_SEGMENTER, start)}


def test_weights_of_stage_1_are_found(tmp_path):
    assert weights.find_segmenter(None, tmp_path) is None
    (tmp_path / "released").mkdir()
    (tmp_path / "released" / weights.RELEASED_SEGMENTER).touch()
    assert weights.find_segmenter(None, tmp_path) == str(tmp_path / "released" / weights.RELEASED_SEGMENTER)
    shutil.copy(BUNDLE / "models" / "segmentation.pt", tmp_path / "model.pt")
    assert weights.find_segmenter(None, tmp_path) == str(tmp_path / "model.pt")
    (tmp_path / "segmentation.pt").touch()
    assert weights.find_segmenter(None, tmp_path) == str(tmp_path / "segmentation.pt")


def test_documents_of_stage_1_name_what_is_there(stage_1):
    texts = [stage_1 / "docs" / "README.md", *(stage_1 / "configs").glob("*.yaml")]
    for text in texts:
        found = list(commands(text.read_text(encoding="utf-8")))
        assert found, text
        for configs, options in found:
            known = set()
            for config in configs:
                known |= set(ConfigParser.load_config_file(stage_1 / "configs" / config.name))
            assert options <= known, f"{text}: {configs}"


# What the model zoo checks of a bundle that is brought to it, in its order: files, version, metadata, properties, shapes, export


@pytest.fixture(params=[NAME, SEGMENTATION])
def brought(request, unzipped, stage_1, weights_files, tmp_path):
    """A bundle with its weights, shipped or as after the download of its large files; and their file."""
    folder = tmp_path / request.param
    shutil.copytree(unzipped if request.param == NAME else stage_1, folder)
    file = folder / "models" / "model.pt"
    if request.param == NAME:
        shutil.copy(weights_files["classifier", "flat"], file)
    return folder, file


def test_the_zoo_finds_its_files(brought):
    folder, weights_file = brought
    assert {"LICENSE", "docs", "large_files.yml"} <= {path.name for path in folder.iterdir()}
    for name in ("configs/metadata.json", "configs/inference.yaml", "docs/README.md", "docs/data_license.txt"):
        assert (folder / name).stat().st_size > 1000, name
    assert all(path.stat().st_size < 25e6 for path in folder.rglob("*") if path != weights_file)
    card = (folder / "docs" / "README.md").read_text(encoding="utf-8")
    headings = ("Model Overview", "Data", "Performance", "MONAI Bundle Commands", "References", "License")
    assert all(f"\n# {heading}\n" in f"\n{card}" for heading in headings)
    assert "Research use only" in card
    assert "No patient data" in (folder / "docs" / "data_license.txt").read_text(encoding="utf-8")


def test_the_zoo_accepts_its_metadata(brought):
    folder, _ = brought
    meta = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert meta["version"] == next(iter(meta["changelog"]))
    assert folder.name not in meta["changelog"]
    assert isinstance(meta["supported_apps"], dict)
    verify_metadata(meta_file=str(folder / "configs" / "metadata.json"), filepath=SCHEMA)


def test_the_zoo_finds_its_properties(brought):
    """Of the inference configuration alone, as its own checks do."""
    folder, _ = brought
    workflow = ConfigWorkflow(
        config_file=str(folder / "configs" / "inference.yaml"),
        logging_file=str(folder / "configs" / "logging.conf"),
        workflow_type="inference",
        **{"bundle_root": str(folder), "dataset#data": [{}], "entries": [], "amp": False, "runtime": "eager"},
    )
    workflow.properties = {**MetaProperties, **InferProperties}
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_zoo_gets_tensors_of_the_shapes_that_are_declared(brought):
    """Before there are weights too: for other checks the zoo makes some of its own from the definition of the network."""
    folder, weights_file = brought
    weights_file.unlink()
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(folder / "configs" / "metadata.json"),
        config_file=str(folder / "configs" / "inference.yaml"),
        device="cpu",
        bundle_root=str(folder),
    )


def test_the_zoo_exports_it(brought):
    """With nothing but the place of the weights: scripted, and without the key of a state dict."""
    folder, weights_file = brought
    if folder.name == NAME:
        network, shape = BiLSTMNFNet(), [1, 35, 3, 32, 32]
    else:
        settings = weights.segmenter_settings(weights_file)
        network, shape = build_segmenter(**{name: settings[name] for name in SEGMENTER_PARTS}), [1, 3, 32, 32]
    ckpt_export(
        net_id="network_def",
        filepath=str(folder / "models" / "verify_model.ts"),
        ckpt_file=str(weights_file),
        meta_file=str(folder / "configs" / "metadata.json"),
        config_file=str(folder / "configs" / "inference.yaml"),
        bundle_root=str(folder),
    )
    images, exported = torch.rand(shape), torch.jit.load(folder / "models" / "verify_model.ts").eval()
    with torch.inference_mode():
        torch.testing.assert_close(exported(images), weights.load_weights(network, weights_file).eval()(images))


def test_what_tensorrt_is_given(brought, monkeypatch):
    """As far as the conversion itself, which needs a GPU; with the options of the cards."""
    folder, weights_file = brought
    given = {}

    class Converted(Exception):
        pass

    def convert(model, **options):
        given.update(options, model=model)
        raise Converted

    monkeypatch.setattr("monai.bundle.scripts.convert_to_trt", convert)
    card = (folder / "docs" / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"-m monai\.bundle trt_export .*", re.sub(r"\\\n\s*", " ", card))
    options = dict(re.findall(r"--(\w+) (\"[^\"]*\"|\S+)", command))
    with pytest.raises(Converted):
        trt_export(
            net_id=options["net_id"],
            filepath=str(folder / options["filepath"]),
            ckpt_file=str(weights_file),
            meta_file=str(folder / options["meta_file"]),
            config_file=str(folder / options["config_file"]),
            precision=options["precision"],
            use_trace=options["use_trace"] == "True",
            dynamic_batchsize=json.loads(options["dynamic_batchsize"].strip('"')),
            bundle_root=str(folder),
        )
    whole = folder.name == NAME
    assert list(given["input_shape"]) == ([1, 35, 3, 224, 224] if whole else [1, 3, 224, 224])
    assert given["dynamic_batchsize"] == ([1, 4, 4] if whole else [1, 16, 16])
    assert (given["precision"], given["use_trace"]) == ("fp16", True)
    assert type(given["model"]).__name__ == ("BiLSTMNFNet" if whole else "StrictUnet")


RUN_JOBS = """
import json, sys
from monai.bundle import run

bundle, out = sys.argv[1:]
run(
    config_file=f"{bundle}/configs/phantom.yaml", output_dir=f"{out}/phantom", spacing=6.0,
    segmentation_patients=2, classification_patients=2, test_patients=0,
)
run(
    config_file=f"{bundle}/configs/prepare_segmentation.yaml", dataset_dir=f"{out}/phantom/task1",
    prepared_dir=f"{out}/prepared", num_workers=0,
)
from scripts.datalists import build_datalist

build_datalist(f"{out}/phantom/task1", f"{out}/task1.json", folds=2)
own = ("scripts", "custom_transforms", "radiogenomics")
files = {name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] in own}
with open(f"{out}/modules.json", "w") as file:
    json.dump(files, file)
"""


def test_unzipped_bundle_runs_without_the_repository(unzipped, tmp_path):
    pytest.importorskip("nilearn", reason="the phantom cohort needs the extra [phantom]")
    # With -S, and the installed packages on PYTHONPATH instead, no .pth file is read: an editable install isn't there.
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    result = subprocess.run(
        [sys.executable, "-S", "-c", RUN_JOBS, str(unzipped), str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert {"scripts.synthetic.cohort", "scripts.preparation", "custom_transforms.series"} <= set(modules)
    assert all(Path(file).is_relative_to(unzipped) for file in modules.values()), modules
    assert list((tmp_path / "phantom" / "task1").iterdir())
    assert [path for path in (tmp_path / "prepared").rglob("*") if path.is_file() and path.stat().st_size > 1000]
    assert len(json.loads((tmp_path / "task1.json").read_text())["training"]) == 2
