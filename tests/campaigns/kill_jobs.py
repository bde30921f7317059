"""What the kill campaign runs: small jobs of the command, a cohort for them, and whether two output folders are the same."""

import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import torch
import yaml

import radiogenomics
from scripts.weights import save_weights

SEGMENTER = {"encoder_name": "tu-test_efficientnet", "decoder_channels": [8, 8, 4, 4, 4], "image_size": 32}
CLASSIFIER = {"backbone": "test_efficientnet", "image_size": 32, "sequence_length": 4, "stride": 3, "hidden_size": 4}
TRAINING = {**CLASSIFIER, "init": "none", "warmup_epochs": 0, "batch_size": 4}
KEEP_ALL = ["--min_tumor_ratio=-1", "--max_contours=1000", "--runtime=eager", "--device=cpu"]


@dataclass
class Job:
    """Words of a command, without its output; ``over`` an earlier run of the same command, which it is to replace."""

    words: list[str]
    option: str = "--output"
    over: bool = False

    def command(self, output, first=False):
        """The words on the command line; of the ``first`` run, before anything is there."""
        again = ["--overwrite"] if self.over and not first else []
        return [*self.words, f"{self.option}={output}", *again]


def make_cohort(folder):
    """Write phantoms, data lists, weights and prepared series; in a process of its own, as it starts threads."""
    from tests.networks import finds_everything

    radiogenomics.phantom(
        folder / "data", segmentation_patients=0, classification_patients=6, test_patients=2, spacing=8.0
    )
    radiogenomics.datalist(folder / "data" / "task2", folder / "task2.json", folds=3)
    save_weights(finds_everything(SEGMENTER), SEGMENTER, folder / "segmentation.pt")
    radiogenomics.prepare(
        "classification", folder / "prepared", datalist=folder / "task2.json", segmenter=folder / "segmentation.pt",
        mri_types="FLAIR", min_tumor_ratio=-1, max_contours=1000, runtime="eager", device="cpu", num_workers=0,
    )  # fmt: skip
    radiogenomics.train(
        "classification", folder / "task2.json", folder / "prepared", folder / "classifiers", mri_types="FLAIR",
        device="cpu", num_workers=0, max_epochs=1, **TRAINING,
    )  # fmt: skip


def jobs_of(folder):
    """The jobs by name, on the cohort in a folder."""
    datalist, segmenter = f"--datalist={folder / 'task2.json'}", f"--segmenter={folder / 'segmentation.pt'}"
    settings = [f"--{name}={value}" for name, value in {**TRAINING, "max_epochs": 3}.items()]
    predict = [
        "predict", f"--input={folder / 'data' / 'task2' / 'test'}", segmenter, f"--classifier={folder / 'classifiers'}",
        *KEEP_ALL, "--num_workers=1", "--report=False", "--mri_types=FLAIR,T1wCE",
    ]  # fmt: skip
    validation = {
        "train_classification": {**TRAINING, "max_epochs": 1},
        "prepare_classification": {"min_tumor_ratio": -1, "max_contours": 1000, "runtime": "eager"},
        "evaluate_classification": {"runtime": "eager"},
    }
    return {
        "prepare": Job(["prepare", "classification", datalist, segmenter, *KEEP_ALL, "--num_workers=0", "--mri_types=FLAIR"], "--prepared"),
        "train": Job(
            ["train", "classification", datalist, f"--prepared={folder / 'prepared'}", "--mri_types=FLAIR", "--resume",
             "--device=cpu", "--num_workers=0", *settings]
        ),
        "predict": Job(predict),
        "predict over an earlier one": Job(predict, over=True),
        "crossvalidate": Job(
            ["crossvalidate", datalist, segmenter, "--mri_types=FLAIR", "--folds=0,1", "--seeds=1", "--device=cpu",
             "--num_workers=0", *(f"--{name}={value}" for name, value in validation.items())]
        ),
        "explore": Job(["explore", f"--input={folder / 'data' / 'task2' / 'test'}"]),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# comparison

_EVENTS = re.compile(r"events\.out\.tfevents\..*")  # a run that goes on writes another one
_TIMES = re.compile(r"seconds|ready|memory|\btime")
_DATE = re.compile(rb"\d{4}-\d\d-\d\d[ T]\d\d:\d\d")


def bytes_of(path):
    """What is in a file, without the dates of pages."""
    return _DATE.sub(b"", path.read_bytes()) if path.suffix == ".html" else path.read_bytes()


def files_of(folder):
    """Files below a folder by their relative names; those of TensorBoard, which bear times, under one name."""
    files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    return {str(path.relative_to(folder).parent / _EVENTS.sub("events", path.name)): path for path in files}


def _flat(value, name=""):
    """Values by the names that lead to them."""
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return {name: (value.shape, value.tobytes() if value.dtype != object else str(value.tolist()))}
    if isinstance(value, dict):
        return {key: one for part, inner in value.items() for key, one in _flat(inner, f"{name}/{part}").items()}
    if isinstance(value, (list, tuple)):
        return _flat(dict(enumerate(value)), name)
    if isinstance(value, (str, bytes)) and value[:1] in ("{", "[", b"{", b"["):
        try:
            return _flat(json.loads(value), name)
        except ValueError:
            pass
    return {name: value}


def _h5(path):
    found = {}
    with h5py.File(path) as file:
        found |= {f"@{key}": value for key, value in file.attrs.items()}
        file.visititems(
            lambda name, one: found.update(
                {name: one[()]} if isinstance(one, h5py.Dataset) else {},
                **{f"{name}@{k}": v for k, v in one.attrs.items()},
            )
        )
    return found


_READERS = {
    ".json": lambda path: json.loads(path.read_text()),
    ".yaml": lambda path: yaml.safe_load(path.read_text()),
    ".csv": lambda path: list(csv.DictReader(io.StringIO(path.read_text()))),
    ".pt": lambda path: torch.load(path, weights_only=True, map_location="cpu"),
    ".h5": _h5,
    ".npz": lambda path: dict(np.load(path)),
    ".gz": lambda path: [nib.load(path).affine, np.asarray(nib.load(path).dataobj)],
}


def values_of(path):
    """The values in a file by name, those of time left out."""
    return {name: value for name, value in _all_values(path).items() if not _TIMES.search(name)}


def _all_values(path):
    return _flat(_READERS.get(path.suffix, lambda path: bytes_of(path).splitlines())(path))


class Unbroken:
    """Two unbroken runs of a job, which show what part of its output is reproducible."""

    def __init__(self, first, second):
        self.files, again = files_of(first), files_of(second)
        assert self.files.keys() == again.keys(), self.files.keys() ^ again.keys()
        self.exact = {
            name
            for name, path in self.files.items()
            # a checkpoint that was loaded pickles the same values in another way
            if not name.endswith(("events", "last.pt"))
            and bytes_of(path) == bytes_of(again[name])
            and not any(map(_TIMES.search, _all_values(path)))  # equal by chance
        }
        self.values = {}
        for name in self.files.keys() - self.exact:
            if not name.endswith("events"):
                one, other = values_of(self.files[name]), values_of(again[name])
                self.values[name] = {key: value for key, value in one.items() if other.get(key, self) == value}

    def differences(self, folder):
        """What is not as in the unbroken run; empty where all is."""
        found = files_of(folder)
        differences = [f"{name} stayed" for name in sorted(found.keys() - self.files.keys())]
        differences += [f"{name} is missing" for name in sorted(self.files.keys() - found.keys())]
        differences += [
            f"{name} differs"
            for name in sorted(self.exact & found.keys())
            if bytes_of(found[name]) != bytes_of(self.files[name])
        ]
        for name, expected in self.values.items():
            if name in found:
                values = values_of(found[name])
                wrong = [key for key, value in expected.items() if values.get(key, self) != value]
                differences += [f"{name}: {', '.join(wrong[:3])} differs"] if wrong else []
        return differences
