"""The configurations: complete, runnable by name, right under several processes, and in agreement with each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from scripts import distributed, weights
from scripts.baselines.members import stack_settings
from scripts.environment import LAID_OVER, config_files

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundle"
CONFIGS = BUNDLE / "configs"
METADATA = CONFIGS / "metadata.json"
OVERLAY, SITE = "distributed", "federated"  # laid over jobs, the one by torchrun, the other by MonaiAlgo
TABLES = ("modality_rules", "baseline_models")  # which jobs read
JOBS = sorted(file.stem for file in CONFIGS.glob("*.yaml") if file.stem not in (OVERLAY, SITE, *TABLES))
TRAININGS = ("train_segmentation", "pretrain_segmentation", "train_classification", "train_baseline")


def read(job):
    """The configuration of a job as it is written, with what it is laid over."""
    return ConfigParser.load_config_files(config_files(job))


def parser(job, **values):
    """A configuration that answers without data."""
    config = read(job) | values
    return ConfigParser(config | {"bundle_root": str(BUNDLE)})


def workflow_type(job):
    if job in TRAININGS:
        return "train"
    return (
        "infer"
        if job.startswith(("inference", "fuse", "evaluate", "prepare_classification", "prepare_baseline"))
        else None
    )


@pytest.mark.slow
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
        "runtime": "eager",  # no network is compiled
    }
    if job.endswith("_baseline"):
        overrides |= {"classifier": weights_files["cnn3d", "nested"], "settings": stack_settings("cnn3d")}
    overrides = {key: value for key, value in overrides.items() if key in config}
    for part in ("train", "validate", "preparation"):
        if part in config:
            overrides[f"{part}#dataset#data"] = item
    if isinstance(config.get("dataset"), dict):
        overrides["dataset#data"] = item
    workflow = ConfigWorkflow(
        config_file=[str(file) for file in config_files(job)],
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
        assert isinstance(config[kind], list)


@pytest.mark.parametrize("job", [*JOBS, OVERLAY])
def test_commands_in_the_head_name_what_is_there(job, commands):
    found = list(commands((CONFIGS / f"{job}.yaml").read_text(encoding="utf-8")))
    assert found
    for configs, options in found:
        names = [config.stem for config in configs]
        assert job in names
        for over in LAID_OVER.keys() & set(names):
            assert names[names.index(over) - 1] == LAID_OVER[over]
        known = ConfigParser.load_config_files([CONFIGS / config.name for config in configs])
        assert options <= set(known), f"{configs}: no such value to override"


# Many processes


@pytest.mark.parametrize("job", [job for job in JOBS if job != "phantom"])
def test_every_job_joins_the_other_processes_before_it_looks_at_its_data(job, monkeypatch):
    config = read(job)
    assert set(ConfigParser.load_config_file(CONFIGS / f"{OVERLAY}.yaml")) - set(config) <= {"device"}
    begins = next(
        (config[key] for key in ("preparing", "training", "evaluation", "inference") if key in config), config["run"]
    )
    assert begins[:2].count("@processes") == 1
    alone = parser(job)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError) as error:
        alone.get_parsed_content("processes")
    assert "2 processes were started" in str(error.value.__cause__), "alone it would do what the other process does"


def components(value, place=""):
    """All components of a configuration by their id."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        name = f"{place}#{key}".lstrip("#")
        if isinstance(part, dict) and "_target_" in part:
            yield name, part
        yield from components(part, name)


@pytest.mark.parametrize("job", [job for job in JOBS if job != "phantom"])
def test_bars_and_curves_are_those_of_the_first_process(job, monkeypatch):
    switches = {"ignite.handlers.ProgressBar": "disable", "TensorBoardStatsHandler": "_disabled_"}
    found = [
        f"{name}#{switches[part['_target_']]}" for name, part in components(read(job)) if part["_target_"] in switches
    ]
    for rank, off in ((0, False), (1, True)):
        monkeypatch.setattr(distributed.idist, "get_rank", lambda rank=rank: rank)
        asked = parser(job)
        assert all(asked.get_parsed_content(name) is off for name in found)


# Federations


@pytest.mark.parametrize("job", ["train_segmentation", "train_classification"])
def test_what_is_laid_over_a_site_is_there(job, tmp_path):
    """It starts a run as `training` does, has the properties that MonaiAlgo asks for, and changes nothing else."""
    config, overlay = read(job), ConfigParser.load_config_file(CONFIGS / f"{SITE}.yaml")
    assert set(overlay) - set(config) == {"started", "train#trainer#train_handlers"}
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


# What several configurations, each of which is complete by itself, must have in common


def named_steps(config, part):
    """The transforms of a part of a training, by the names that stand in its list."""
    names = [name.split("#")[1] for name in config[part]["preprocessing"]["transforms"]]
    return [config["transforms"][name] for name in names]


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
    steps = {f"@preparation#{name}": inference["preparation"][name] for name in ("facts", "brain")}
    del steps["@preparation#brain"]["masks_dir"]
    whole = [
        steps[step] if isinstance(step, str) else step
        for step in inference["preparation"]["preprocessing"]["transforms"]
    ]
    left_out = ("classified", "@preparation#brain")  # the image is as its viewer shows it, all of it
    expected = [step for step in whole if not any(name in str(step) for name in left_out)]
    assert alone["preprocessing"]["transforms"] == expected


def test_fusion_computes_as_prediction_does():
    fuse, inference = read("fuse_segmentation"), read("inference")
    for key in ("segmenter_file", "segmenter_settings", "zoom", "batch_size", "device", "amp", "compute"):
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
        "classifier_settings", "network_def", "compute", "trained", "network", "preprocessing", "dataset", "dataloader",
        "inferer", "patients", "series", "handlers", "progress_bar", "evaluator", "rows", "zoom", "prior",
    ):  # fmt: skip
        assert evaluation[key] == inference[key], key


@pytest.mark.slow
def test_logits_are_kept_with_all_that_changes_them(weights_files):
    first = {"classifier": weights_files["classifier", "nested"], "runtime": "torch", "amp": False}
    others = {
        "zoom": 1.1,
        "flips": True,
        "runtime": "eager",
        "precision": "bf16",
        "classifier": weights_files["classifier", "flat"],
    }
    stores = [
        parser("inference", **{**first, **change}).get_parsed_content("store")
        for change in ({}, *({key: value} for key, value in others.items()))
    ]
    assert all(store != stores[0] for store in stores[1:])
    assert read("evaluate_classification")["store"] is None, "prepared series may be somebody else's"


def test_validation_of_training_is_that_of_evaluation():
    training, evaluation = read("train_segmentation"), read("evaluate_segmentation")
    assert named_steps(training, "validate") == evaluation["preprocessing"]["transforms"]
    assert training["validate"]["inferer"] == evaluation["inferer"]
    training, evaluation = read("train_classification"), read("evaluate_classification")
    assert training["validate"]["preprocessing"] == evaluation["preprocessing"]
    for key in ("zoom", "excluded_patients", "fold"):
        assert training[key] == evaluation[key], key


@pytest.mark.parametrize("job", ["train_segmentation", "pretrain_segmentation"])
def test_training_slices_are_preprocessed_as_held_out_ones(job):
    config = read(job)
    certain = [step for step in named_steps(config, "train") if not step["_target_"].startswith("Rand")]
    assert certain[1:] == named_steps({**config, "transforms": config["transforms"]}, "validate")[1:]


def test_settings_of_flat_weights_are_those_of_training():
    """Released weights do not record how they were made: it is the method's way."""
    segmentation, classification = parser("train_segmentation", init="none"), read("train_classification")
    settings = {**weights.SEGMENTER_SETTINGS}
    assert settings.pop("field_of_view") is None, "prepared slices are shown whole"
    assert {key: segmentation.get_parsed_content(key) for key in settings} == settings
    assert {key: classification[key] for key in weights.CLASSIFIER_SETTINGS} == weights.CLASSIFIER_SETTINGS


# The numbers that the method was published with

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
        "loss#_target_": "DiceLoss",
        "optimizer#_target_": "torch.optim.AdamW",
        "learning_rate": 1e-4,
        "lr_scheduler#_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "batch_size": 128,
        "max_epochs": 500,
        "warmup_epochs": 10,
        "patience": 10,
        "flip_probability": 0.5,
        "affine_probability": 0.5,
        "shift_range": 0.0625,
        "scale_range": 0.1,
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
        "flip_probability": 0.5,
        "affine_probability": 0.5,
        "shift_range": 0.0625,
        "scale_range": 0.1,
    },
    "inference": {"zoom": 1.2, "min_foreground": 0.1, "min_tumor_ratio": 0.025, "max_contours": 5},
}


@pytest.mark.parametrize("job", NUMBERS)
def test_numbers_of_the_method(job):
    config = ConfigParser(read(job))
    for key, expected in NUMBERS[job].items():
        assert config[key] == expected, key
        assert type(config[key]) is type(expected), f"{key}: YAML reads 1e-4 as text"


@pytest.mark.parametrize("job", ["train_segmentation", "train_classification"])
def test_rotation_and_normalisation(job):
    config = parser(job)
    assert config.get_parsed_content("rotate_range") == pytest.approx(torch.pi * 45 / 180)
    place = next(name for name, part in components(read(job)) if part["_target_"] == "NormalizeIntensityd")
    length = config.get("sequence_length", 1)
    imagenet = {"subtrahend": [0.485, 0.456, 0.406], "divisor": [0.229, 0.224, 0.225]}
    for name, expected in imagenet.items():
        found = config.get_parsed_content(f"{place}#{name}")
        assert found == pytest.approx([255 * value for value in expected] * length)
