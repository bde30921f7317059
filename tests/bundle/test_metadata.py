"""What the bundle says of itself, and where its large files come from."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
import yaml
from monai.bundle import download_large_files, verify_metadata
from monai.bundle.utils import DEPRECATED_ID_MAPPING
from packaging.requirements import Requirement

from scripts import weights
from scripts.baselines.members import PUBLISHED

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundle"
METADATA = BUNDLE / "configs" / "metadata.json"
SCHEMA = ROOT / "tests" / "data" / "meta_schema.json"
OFFICIAL_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
NOT_IN_METADATA = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}


def test_metadata_is_valid(metadata):
    assert metadata["schema"] == OFFICIAL_SCHEMA
    verify_metadata(meta_file=str(METADATA), filepath=SCHEMA)  # the schema is there, so nothing is downloaded


@pytest.mark.slow
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


# Large files


def test_large_files_are_the_seven_released_ones_and_the_winners_five(released):
    files = copy.deepcopy(released)
    assert len({file["path"] for file in files}) == len({file["url"] for file in files}) == 12
    hosts = Counter(urlparse(file["url"]).netloc for file in files)
    assert hosts == {"drive.google.com": 7, "raw.githubusercontent.com": 5}
    winners = [file for file in files if "resnet10" in file["path"]]
    assert all(file["url"].endswith(f"/weights/{Path(file['path']).name}") for file in winners)
    assert all(fnmatch(file["path"], f"models/{PUBLISHED['resnet10']}") for file in winners)
    assert len(winners) == 5
    assert [file["path"] for file in files if Path(file["path"]).parent.name != "released"] == ["models/model.pt"]


@pytest.mark.parametrize("already_there", [False, True])
def test_large_files_arrive_where_they_are_looked_for(released, tmp_path, already_there):
    files = copy.deepcopy(released)
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
    found = weights.find_classifiers(None, tmp_path / "models")
    assert found.pop("FLAIR") == str(tmp_path / "models" / "model.pt")
    assert found == {
        mri_type: str(folder / weights.RELEASED_CLASSIFIER.format(mri_type=mri_type))
        for mri_type in ("T1w", "T1wCE", "T2w")
    }
