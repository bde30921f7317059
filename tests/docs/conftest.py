"""A small project for the commands in the documents: what they name is where the text says that it is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from scripts import cli
from scripts.datalists import MRI_TYPES
from scripts.environment import BUNDLE_ROOT
from scripts.networks import build_classifier
from scripts.weights import save_weights
from tests.networks import CLASSIFIER, SEGMENTER, finds_everything

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    **SEGMENTER,
    **CLASSIFIER,
    "init": "none",
    "max_epochs": 1,
    "warmup_epochs": 0,
    "num_workers": 0,
    "min_tumor_ratio": -1,
    "max_contours": 9999,
    "spacing": 7.0,
}
"""Values of the configurations in the copy that the commands run."""


@pytest.fixture(scope="session")
def quick_project(tmp_path_factory):
    """A copy of the project with small networks, two studies in STUDIES, and weights."""
    folder = tmp_path_factory.mktemp("quick_project")
    _copy_code(folder)
    _write_weights(folder)
    cli.phantom(folder / "phantoms", segmentation_patients=0, classification_patients=2, test_patients=0, spacing=7.0)
    _write_studies(folder)
    (folder / "cohort.json").write_text(json.dumps({"test": [{"patient": "00000", "FLAIR": "00000/FLAIR"}]}))
    return folder


@pytest.fixture(scope="session")
def whole_project(tmp_path_factory):
    """The same with the challenge's two tasks in TASK1 and TASK2, their data lists, and prepared slices."""
    folder = tmp_path_factory.mktemp("whole_project")
    _copy_code(folder)
    segmenter = _write_weights(folder)
    cli.phantom(folder / "phantoms", segmentation_patients=5, classification_patients=10, test_patients=1, spacing=7.0)
    _write_studies(folder)
    for task in ("task1", "task2"):
        (folder / task.upper()).symlink_to(folder / "phantoms" / task)
        cli.datalist(folder / "phantoms" / task, folder / f"{task}.json", folds=3)
    shutil.copy(folder / "task2.json", folder / "cohort.json")
    shutil.copy(folder / "TASK2" / "train_labels.csv", folder)
    shutil.copy(folder / "runs" / "classification" / "FLAIR" / "model_FLAIR.pt", folder / "bundle" / "models")
    shutil.copy(next((folder / "TASK1").rglob("*_t1ce.nii.gz")), folder / "t1ce.nii.gz")
    cli.prepare("segmentation", folder / "prepared" / "segmentation", datalist=folder / "task1.json", num_workers=0)
    cli.prepare(
        "classification", folder / "prepared" / "classification", datalist=folder / "task2.json", segmenter=segmenter,
        min_tumor_ratio=-1, num_workers=0,
    )  # fmt: skip
    return folder


def _copy_code(folder: Path) -> None:
    """The project's files, whose configurations and metadata have tiny values, and a folder as that of installed packages.

    Stage 1 starts from weights that mark everything: after one epoch from random ones no slice would reach stage 2.
    """
    ignored = shutil.ignore_patterns("__pycache__", ".*", "*.pt", "*.pth", "runs", "prepared", "eval")
    for name in ("apps", "benchmarks", "bundle", "custom_transforms", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("Makefile", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    for config in (folder / "bundle" / "configs").glob("*.yaml"):
        text = config.read_text(encoding="utf-8")
        start = {"init": str(folder / "segmentation.pt")} if config.stem == "train_segmentation" else {}
        for name, value in {**TINY, **start}.items():  # plain values alone: an expression follows from others
            text = re.sub(rf"(?m)^{name}: (?![\"$@]|null).*", f"{name}: {json.dumps(value)}", text)
        config.write_text(text, encoding="utf-8")
    metadata = folder / "bundle" / "configs" / "metadata.json"
    content = json.loads(metadata.read_text(encoding="utf-8"))
    sides = [3, CLASSIFIER["image_size"], CLASSIFIER["image_size"]]
    content["network_data_format"]["inputs"]["image"] |= {
        "num_channels": CLASSIFIER["sequence_length"],
        "spatial_shape": sides,
    }
    metadata.write_text(json.dumps(content), encoding="utf-8")
    shutil.copy(BUNDLE_ROOT / "models" / "segmentation.pt", folder / "bundle" / "models")
    shutil.copy(ROOT / "tests" / "data" / "meta_schema.json", folder / "schema.json")  # what is there is not downloaded
    (folder / "installed").mkdir()
    (folder / "installed" / "radiogenomics").symlink_to(folder / "bundle")
    (folder / "installed" / "custom_transforms").symlink_to(folder / "custom_transforms")


def _write_weights(folder: Path) -> Path:
    """Weights of both networks in the places that documents name; this segmenter marks everything as tumour.

    Where none is named, the shipped one works.
    """
    file = folder / "segmentation.pt"
    for place in (file, folder / "runs" / "segmentation" / file.name):
        place.parent.mkdir(parents=True, exist_ok=True)
        save_weights(finds_everything(SEGMENTER), SEGMENTER, place)
    for mri_type in MRI_TYPES:
        place = folder / "runs" / "classification" / mri_type / f"model_{mri_type}.pt"
        place.parent.mkdir(parents=True)
        save_weights(build_classifier(CLASSIFIER), {**CLASSIFIER, "mri_type": mri_type}, place)
    return file


def _write_studies(folder: Path) -> None:
    train = folder / "phantoms" / "task2" / "train"
    for patient in sorted(path for path in train.iterdir() if path.is_dir())[:2]:
        shutil.copytree(patient, folder / "STUDIES" / patient.name)
