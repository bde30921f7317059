"""The wheel: what it declares, what it holds, and that it works outside of the repository."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

pytestmark = pytest.mark.slow  # it builds the wheel

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("custom_transforms", "bundle")
NOT_FOR_PREDICTION = {
    "openvino",
    "nncf",
    "brats-mri-radiogenomics",
    "gdown",
    "highdicom",
    "hypothesis",
    "imageio-ffmpeg",
    "itk",
    "jinja2",
    "matplotlib",
    "mlflow",
    "mypy",
    "nilearn",
    "onnx",
    "onnxruntime",
    "pytest",
    "ruff",
    "selenium",
    "scikit-learn",
    "scipy",
    "tensorboard",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the sources, so that nothing is left in the repository and nothing old gets in."""
    pytest.importorskip("build", reason="the wheel is built with the package build, of the extra [dev]")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.pt", "*.pth", "*.ts", "runs", "prepared", "eval")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def declared(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The unpacked wheel, as in a site-packages folder."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_python(code, installed, cwd, *arguments):
    """Run code with the unpacked wheel and what is installed, but (-S reads no .pth file) without an editable install."""
    places = [str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return subprocess.run(
        [sys.executable, "-S", "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_name_python_and_licence(wheel, declared):
    assert wheel.name.startswith("brats_mri_radiogenomics-")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert declared["Name"] == "brats-mri-radiogenomics"
    assert declared["License-Expression"] == "Apache-2.0"
    python = SpecifierSet(declared["Requires-Python"])
    versions = [f"3.{minor}" for minor in range(10, 14)]
    assert [f"3.{minor}" for minor in range(30) if python.contains(f"3.{minor}.5")] == versions
    prefix = "Programming Language :: Python :: 3."
    assert [name.split(" :: ")[-1] for name in declared.get_all("Classifier") if name.startswith(prefix)] == versions


def test_what_prediction_needs_is_kept_apart(declared):
    assert set(declared.get_all("Provides-Extra")) == {
        "train",
        "openvino",
        "dicom",
        "brain",
        "register",
        "export",
        "compact",
        "flare",
        "phantom",
        "demo",
        "report",
        "video",
        "mlflow",
        "download",
        "dev",
    }
    requirements = [Requirement(text) for text in declared.get_all("Requires-Dist")]
    core = {requirement.name for requirement in requirements if requirement.marker is None}
    assert {"monai", "torch", "timm", "segmentation-models-pytorch", "pydicom", "nibabel", "fire"} <= core
    assert not core & NOT_FOR_PREDICTION


def test_wheel_holds_the_bundle(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {
        f"{'radiogenomics' if package == 'bundle' else package}/{path.relative_to(ROOT / package).as_posix()}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.*")
        if path.suffix in {".py", ".yaml", ".yml", ".json", ".conf", ".md", ".txt", ".html", ".css", ".js"}
        and not {"runs", "prepared", "eval", "released", "__pycache__"} & set(path.parts)
    }
    assert len(sources) > 30
    assert sources <= names
    assert {"radiogenomics/LICENSE", "radiogenomics/models/calibration.npz"} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"radiogenomics", "custom_transforms"}


def test_installed_package_is_imported_from_anywhere(installed, tmp_path):
    code = (
        "import importlib.util, radiogenomics\n"
        "print(radiogenomics.__file__, importlib.util.find_spec('custom_transforms').origin, sep='\\n')\n"
    )
    result = run_python(code, installed, tmp_path)
    assert result.returncode == 0, result.stderr[-4000:]
    assert len(result.stdout.splitlines()) == 2
    assert all(Path(line).is_relative_to(installed) for line in result.stdout.splitlines())


def test_command_shows_its_help(installed, tmp_path):
    code = (
        "import importlib.metadata, sys\n"
        f"(found,) = importlib.metadata.Distribution.discover(name='brats-mri-radiogenomics', path=[{str(installed)!r}])\n"
        "(entry,) = (entry for entry in found.entry_points if entry.name == 'radiogenomics')\n"
        "sys.argv[0] = 'radiogenomics'\n"
        "entry.load()()\n"
    )
    result = run_python(code, installed, tmp_path, "--help")
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-4000:]
    for command in ("predict", "prepare", "train", "evaluate", "phantom", "datalist", "demo", "report", "doctor"):
        assert command in output
