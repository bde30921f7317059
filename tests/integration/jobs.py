"""What the tests of whole jobs share: tiny settings, commands, and runs that end in the middle."""

import csv
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import pytest
import torch

import radiogenomics
from tests.forked import python_words
from tests.networks import CLASSIFIER

CONFIGS = Path(radiogenomics.__file__).parent / "configs"
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
        [*python_words(), "-m", "monai.bundle", "run", run_id, "--config_file", str(CONFIGS / f"{config}.yaml"), *words],
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


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def patients(folder):
    return {row["patient"]: row for row in json.loads((folder / "patients.json").read_text())["patients"]}


def train_classifiers(cohort, output, mri_types=TRAINED, **rest):
    settings = {**CLASSIFIER, **TRAINING, "max_epochs": 2, "batch_size": 2, **rest}
    return radiogenomics.train(
        "classification", cohort / "task2.json", cohort / "series", output, mri_types=list(mri_types), **settings
    )


def predict(folder, output, segmenter, classifier, **rest):
    settings = {**KEEP_ALL, "report": False, **rest}
    return radiogenomics.predict(folder, output, segmenter=segmenter, classifier=classifier, **settings)


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


def foreign_lines(words, *ours, start=(sys.executable,)):
    """What the command with these words shows beside its results, its progress and lines that begin with ours."""
    done = subprocess.run(
        [*start, "-c", "from radiogenomics.scripts.cli import main; main()", *map(str, words)],
        capture_output=True, text=True, timeout=300, check=False,
        env={key: value for key, value in os.environ.items() if key not in ("PYTHONWARNINGS", "RADIOGENOMICS_DEBUG")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    known = ("outputs go to ", r"(prepare|classify|train \w+)( \[\d+/\d+\])?(: )?\[\d+/\d+\]", *ours)
    # PyTorch 2.15 imports Triton, whose leaks nanobind reports after Python has ended
    said = re.sub(r"nanobind: leaked(.|\n)*?refleaks\.html", "", done.stderr)
    lines = (said.replace("\r", "\n") + done.stdout).splitlines()
    return [one for one in map(str.strip, lines) if one and not any(re.match(pattern, one) for pattern in known)]
