"""The demo: everything the bundle does, on a phantom cohort, in a few minutes on a CPU.

It runs the configurations that a user would run, with smaller networks and images. Stage 1 starts from the shipped weights,
stage 2 from random ones.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .checks import as_values
from .commands.running import run_config
from .datalists import build_datalist
from .environment import BUNDLE_ROOT
from .evaluation.resampling import bootstrap_interval
from .evaluation.scores import roc_auc
from .explain.run import explain_run
from .files import RESEARCH_ONLY, read_csv, write_json
from .label_tables import read_labels
from .report.pages import write_report
from .report.picture import write_picture
from .run_folder import read_object
from .weights import OWN_SEGMENTER, segmenter_settings, sha256

logger = logging.getLogger(__name__)

MRI_TYPES = ["FLAIR", "T1wCE"]
"""Modalities that are classified; the made-up signal shows in both."""

OTHERS = {"namesakes": True}
"""Phantoms share names with patients that the shipped weights were trained on, but are not those patients."""

SETTINGS: dict[str, dict[str, Any]] = {
    "phantom": {
        "segmentation_patients": 36,
        "classification_patients": 30,
        "test_patients": 30,
        "overlap": 2,  # two persons are in both tasks, to show that stage 1 leaves them out
        "spacing": 3.0,  # mm
        "shape": [68, 68, 52],  # just large enough for a head
        "slice_thickness": 4.0,
    },
    "prepare_segmentation": {"planes": ["axial"], "keep_rate": 0.2},  # the plane of the phantom's DICOM series
    "train_segmentation": {
        "image_size": 128,
        "learning_rate": 0.003,
        "lr_scheduler": {  # so that a few epochs end at a small learning rate
            "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
            "optimizer": "@optimizer",
            "T_max": "@max_epochs",
        },
        "batch_size": 8,
        "max_epochs": 3,
        "warmup_epochs": 0,
    },
    "evaluate_segmentation": OTHERS,
    "prepare_classification": {**OTHERS, "zoom": 1.0},  # as training sees whole slices
    "train_classification": {
        "backbone": "resnet10t",
        "hidden_size": 32,
        "image_size": 64,
        "sequence_length": 12,
        "stride": 6,
        "zoom": 1.0,
        "init": "none",
        "score": "-log_loss",  # the AUC of so few patients soon reaches 1 and no longer distinguishes epochs
        "learning_rate": 0.0005,
        "max_epochs": 8,
        "warmup_epochs": 0,
    },
    "evaluate_classification": {"zoom": 1.0},
    "inference": {**OTHERS, "zoom": 1.0},
}
"""Values that differ from the configurations' own, by configuration."""

START = BUNDLE_ROOT / "models" / OWN_SEGMENTER
"""Weights that stage 1 starts from."""

WORKERS = 1  # with one thread for the network, both of two cores are busy and neither waits for the other
EXPLAINED = 6  # series: enough for an impression
STATE_FILE = "demo_state.json"
METRICS_FILE = "metrics.json"
PREDICTION = "prediction"
PARTS = (
    *(METRICS_FILE, "overview.png", "task1.json", "task2.json", "phantom", "prepared", "runs", PREDICTION, "report"),
    *("evaluation_segmentation", "evaluation_classification", STATE_FILE),
)
"""Files and folders of a demo."""


def run(output: str | Path, signal: float, overwrite: bool) -> Path:
    """Make a phantom cohort, train and evaluate both stages on it, predict and explain its test patients, and write a report.

    A demo that was interrupted continues where it stopped.

    Args:
        output: folder for everything, which is returned.
        signal: strength of the label's made-up signal in the phantom, 0 (none) to 1.
        overwrite: replace the demo that is in ``output``; other folders are never replaced.

    Raises:
        FileExistsError: ``output`` holds a finished demo, one with another signal, or other files.
        WeightsError: the shipped weights are missing.
    """
    folder = Path(output)
    steps = _steps(folder, float(signal))  # fails without weights, before anything is written
    state = _start(folder, float(signal), overwrite)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number, (title, step) in enumerate(steps.items(), 1):
            if title in state["seconds"]:
                logger.info("%d/%d %s: already done", number, len(steps), title)
                continue
            logger.info("\n%d/%d %s", number, len(steps), title)
            state["starts"][title] = state["starts"].get(title, 0) + 1
            write_json(state, folder / STATE_FILE)
            started = time.monotonic()
            step()
            state["seconds"][title] = round(time.monotonic() - started, 1)
            write_json(state, folder / STATE_FILE)
    finally:
        torch.set_num_threads(threads)
    metrics = summarise(folder, state)
    write_json(metrics, folder / METRICS_FILE)
    logger.info("%s", _report(folder, metrics))
    return folder


def _start(folder: Path, signal: float, overwrite: bool) -> dict[str, Any]:
    """The state of the demo in a folder: a new one's, or that of one that was interrupted."""
    if not 0 <= signal <= 1:
        raise ValueError(f"signal is {signal}, expected 0 (none) to 1 (obvious)")
    settings = {**SETTINGS, "weights": sha256(START)}
    state: dict[str, Any] = {"note": RESEARCH_ONLY, "signal": signal, "settings": settings, "starts": {}, "seconds": {}}
    file = folder / STATE_FILE
    earlier = read_object(file) if file.is_file() else {}
    if earlier.keys() == state.keys():
        if overwrite:
            _remove(folder)
        elif (folder / METRICS_FILE).is_file():
            raise FileExistsError(f"{folder} holds a demo; replace it (--overwrite), or name another folder (--output)")
        elif {**earlier, "starts": {}, "seconds": {}} != state:
            raise FileExistsError(
                f"{folder} holds an unfinished demo of signal {earlier['signal']}, or with other settings or weights; replace it "
                "(--overwrite), or name another folder (--output)"
            )
        else:
            return earlier
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} holds no demo and is left as it is; name another folder (--output)")
    write_json(state, file)
    return state


def _remove(folder: Path) -> None:
    """Remove a demo; foreign files in it stay."""
    for name in PARTS:
        part = folder / name
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def _steps(folder: Path, signal: float) -> dict[str, Callable[[], Any]]:
    """What a demo does in its folder, in order. Every step may be started again after an interruption.

    Raises:
        WeightsError: the shipped weights are missing.
    """
    known = segmenter_settings(START)
    network = {name: known[name] for name in ("architecture", "encoder_name", "decoder_channels")}
    phantom, runs, prediction = folder / "phantom", folder / "runs", folder / PREDICTION
    task1, task2 = (
        {
            "datalist": str(folder / f"{task}.json"),
            "prepared_dir": str(folder / "prepared" / stage),
            "num_workers": WORKERS,
        }
        for task, stage in (("task1", "segmentation"), ("task2", "classification"))
    )
    without_task2 = {"classification_datalist": task2["datalist"]}
    segmenter = {"segmenter": str(runs / "segmentation" / "segmentation.pt")}
    classifiers = {"classifier": str(runs), "mri_types": MRI_TYPES}

    def write_phantom() -> None:
        shutil.rmtree(phantom, ignore_errors=True)  # what an interruption left
        _job("phantom", output_dir=str(phantom), signal=signal)

    def write_datalists() -> None:
        for task in ("task1", "task2"):
            build_datalist(phantom / task, folder / f"{task}.json", overwrite=True)

    def train_classification() -> None:
        for name in MRI_TYPES:
            _job("train_classification", mri_type=name, output_dir=str(runs / name), resume=True, **task2)

    def predict() -> None:
        # a prediction is complete when this file is there, and continues as long as it is not
        (prediction / "patients.json").unlink(missing_ok=True)
        asked = {"sample_submission": str(phantom / "task2" / "sample_submission.csv"), "num_workers": WORKERS}
        studies, output = str(phantom / "task2" / "test"), str(prediction)
        _job("inference", dataset_dir=studies, output_dir=output, **asked, **segmenter, **classifiers)

    def evaluate(stage: str, **values: Any) -> None:
        _job(f"evaluate_{stage}", output_dir=str(folder / f"evaluation_{stage}"), overwrite=True, **values)

    training = {"output_dir": str(runs / "segmentation"), "resume": True, "init": str(START), **network}
    test = {"section": "test", "labels": str(phantom / "task2" / "test_labels.csv")}
    return {
        "phantom cohort": write_phantom,
        "data lists": write_datalists,
        "prepare segmentation": lambda: _job("prepare_segmentation", **task1),
        "train segmentation": lambda: _job("train_segmentation", **training, **without_task2, **task1),
        "evaluate segmentation": lambda: evaluate("segmentation", **segmenter, **without_task2, **task1),
        "prepare classification": lambda: _job("prepare_classification", mri_types=MRI_TYPES, **segmenter, **task2),
        "train classification": train_classification,
        "evaluate classification": lambda: evaluate("classification", **test, **classifiers, **task2),
        "predict": predict,
        "overview": lambda: write_picture(folder, phantom / "task2_masks", folder / "overview.png"),
        "explain": lambda: explain_run(prediction, limit=EXPLAINED),
        "report": lambda: write_report(folder, overwrite=(folder / "report").exists()),
    }


def _job(config: str, **values: Any) -> None:
    """Run a configuration with the demo's values and these."""
    run_config(config, **{**SETTINGS[config], **as_values(values)})


def summarise(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    """The figures of a finished demo: Dice of held-out patients, AUC of test patients in two ways, and the seconds in its ``state``.

    The seconds of a step that was interrupted are those of its last attempt.
    """
    segmentation = read_object(folder / "evaluation_segmentation" / METRICS_FILE)
    classification = read_object(folder / "evaluation_classification" / METRICS_FILE)
    labels = read_labels(folder / "phantom" / "task2" / "test_labels.csv")
    submitted = read_csv(folder / PREDICTION / "submission.csv")
    truth = [labels[row["BraTS21ID"]] for row in submitted]  # both use the phantom's names
    chance = [float(row["MGMT_value"]) for row in submitted]
    return {
        "note": f"Phantom data: synthetic, no biological meaning. {RESEARCH_ONLY}",
        "signal": state["signal"],
        "segmentation": {"patients": segmentation["patients"], **segmentation["all"]},
        "classification": {
            name: {key: classification[name][key] for key in ("patients", "auc", "auc_95", "log_loss")}
            for name in ("all", *MRI_TYPES)
            if name in classification
        },
        "submission": {
            "patients": len(truth),
            "auc": roc_auc(truth, chance),
            "auc_95": list(bootstrap_interval(truth, chance)),
        },
        "seconds": {**state["seconds"], "total": round(sum(state["seconds"].values()), 1)},
        "interrupted": [title for title, starts in state["starts"].items() if starts > 1],
    }


def _report(folder: Path, metrics: dict[str, Any]) -> str:
    """The demo's results, and the places of its files."""
    overlap, submission = metrics["segmentation"], metrics["submission"]
    low, high = submission["auc_95"]
    without = ", not counting interrupted attempts" if metrics["interrupted"] else ""
    places = {
        "report/report.html": "everything, for a browser: curves, scores, every patient's slices with masks and heat maps",
        "overview.png": "masks, learning curves and ROC in one picture",
        f"{PREDICTION}/submission.csv": "probability of every test patient (patients.json: how it came about)",
        f"{PREDICTION}/masks/": "predicted tumours as NIfTI label maps: 1 not enhancing, 2 enhancing",
        METRICS_FILE: "the figures above and the seconds of each step",
        "evaluation_*/": "metrics and tables of both stages",
        "runs/": f"weights, history and TensorBoard logs (tensorboard --logdir {folder / 'runs'})",
        "phantom/": "the synthetic cohort in both layouts of the challenge, with its true masks",
    }
    lines = [
        "",
        f"Held-out Dice ({overlap['patients']} patients): WT {overlap['WT_dice']:.3f}, ET {overlap['ET_dice']:.3f}",
        f"AUC of {submission['patients']} test patients: {submission['auc']:.3f} (95 % interval {low:.3f} to {high:.3f}), "
        f"made-up signal of strength {metrics['signal']:g}",
        f"{metrics['seconds']['total']:.0f} seconds{without}. {metrics['note']}",
        f"In {folder}:",
        *(f"  {name:<28}{what}" for name, what in places.items()),
    ]
    return "\n".join(lines)
