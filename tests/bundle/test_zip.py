"""The zips of the bundle and of its first stage alone: what is in them, and that they run without the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigParser

from scripts import weights

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundle"
CONFIGS = BUNDLE / "configs"
NAME = "brats_mri_radiogenomics"
SEGMENTATION = "brats_mri_slice_segmentation"
NO_JOBS = ("modality_rules", "baseline_models")
JOBS = sorted(file.stem for file in CONFIGS.glob("*.yaml") if file.stem not in NO_JOBS)


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
        "scripts/report/templates/card.md",
        "docs/data_license.txt",
        "models/README.md",
        "scripts/weights.py",
        "custom_transforms/series.py",
    }
    assert sources <= files
    assert not any("__pycache__" in file or file.endswith(".pyc") for file in files)


@pytest.mark.slow
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
    code = {file for file in files if file.startswith(("scripts/", "custom_transforms/"))}
    assert {"scripts/weights.py", "custom_transforms/series.py"} <= code
    configs = ("distributed", "evaluate", "inference", "phantom", "prepare_segmentation", "train")
    assert files - code == {
        "LICENSE",
        "configs/logging.conf",
        "configs/metadata.json",
        "configs/modality_rules.yaml",
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
    assert ConfigParser.load_config_file(stage_1 / "configs" / f"{job}.yaml") == ConfigParser.load_config_file(
        CONFIGS / f"{job}_segmentation.yaml"
    )


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


def test_stage_1_is_trained_and_downloaded_from_the_same_places(stage_1, released):
    places = yaml.safe_load((stage_1 / "large_files.yml").read_text(encoding="utf-8"))["large_files"]
    released_names = {file["url"]: Path(file["path"]).name for file in released}
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


def test_documents_of_stage_1_name_what_is_there(stage_1, commands):
    configs = [file for file in (stage_1 / "configs").glob("*.yaml") if file.stem not in NO_JOBS]
    texts = [stage_1 / "docs" / "README.md", *configs]
    for text in texts:
        found = list(commands(text.read_text(encoding="utf-8")))
        assert found, text
        for configs, options in found:
            known = set()
            for config in configs:
                known |= set(ConfigParser.load_config_file(stage_1 / "configs" / config.name))
            assert options <= known, f"{text}: {configs}"


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


@pytest.mark.slow
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
