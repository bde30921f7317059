"""What the tests of the bundle share: its metadata, networks with random weights, and its zips."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import zipfile
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
import yaml

from scripts import weights
from scripts.baselines.members import stack_settings
from scripts.baselines.networks import CNN3D
from scripts.networks import BiLSTMNFNet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
METADATA = ROOT / "bundle" / "configs" / "metadata.json"
NAME = "brats_mri_radiogenomics"
SEGMENTATION = "brats_mri_slice_segmentation"


@pytest.fixture(scope="session")
def metadata():
    return json.loads(METADATA.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="session")
def released():
    """The files that the method's authors released: ``path`` and ``url``."""
    return yaml.safe_load((ROOT / "bundle" / "large_files.yml").read_text(encoding="utf-8"))["large_files"]


@pytest.fixture(scope="session")
def commands():
    """A function that finds every ``monai.bundle run`` command in a text: its configurations, and the names of its options."""

    def find(text):
        joined = re.sub(r"\\\n[#\s]*", " ", text)
        for line in re.findall(r"-m monai\.bundle run .*", joined):
            options = re.findall(r"--(\w+)", line)
            files = re.search(r"--config_file\s+(\S+)", line)[1].strip('"[]').split(",")  # one, or a list in quotes
            yield [Path(file.strip("'")) for file in files], set(options) - {"config_file", "tracking"}

    return find


@pytest.fixture(scope="session")
def segmenter():
    torch.manual_seed(0)
    return smp.UnetPlusPlus(encoder_name="densenet121", encoder_weights=None, classes=2).eval()


@pytest.fixture(scope="session")
def classifier():
    torch.manual_seed(0)
    return BiLSTMNFNet().eval()


@pytest.fixture(scope="session")
def weights_files(tmp_path_factory, segmenter, classifier):
    """Flat and nested weights of both networks."""
    folder = tmp_path_factory.mktemp("weights")
    files = {}
    for name, network in (("segmenter", segmenter), ("classifier", classifier), ("cnn3d", CNN3D())):
        files[name, "flat"] = folder / f"{name}.pth"
        torch.save(network.state_dict(), files[name, "flat"])
        files[name, "nested"] = folder / f"{name}.pt"
        settings = {**stack_settings(name), "mri_type": "FLAIR"} if name == "cnn3d" else {}
        weights.save_weights(network, settings, files[name, "nested"])
    return {key: str(file) for key, file in files.items()}


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def unzipped(builder, tmp_path_factory, metadata):
    path, folder = unzip(builder, tmp_path_factory.mktemp("zip"), NAME)
    assert path.name == f"{NAME}_v{metadata['version']}.zip"
    return folder


@pytest.fixture(scope="session")
def stage_1(builder, tmp_path_factory, metadata):
    """The unzipped bundle of the segmentation."""
    path, folder = unzip(builder, tmp_path_factory.mktemp("stage_1"), SEGMENTATION)
    assert path.name == f"{SEGMENTATION}_v{metadata['version']}.zip"
    return folder
