import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheelhouse():
    pytest.importorskip("packaging")
    spec = importlib.util.spec_from_file_location("wheelhouse", ROOT / "tools" / "wheelhouse.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_platform_brings_the_older_ones_along(wheelhouse):
    found = wheelhouse.platforms("manylinux_2_28_x86_64")
    assert found[0] == "manylinux_2_28_x86_64"
    assert found[-1] == "linux_x86_64"
    assert "manylinux_2_29_x86_64" not in found
    wheel = "numpy-2.0.0-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
    tags = parse_wheel_filename(wheel)[3]
    assert tags == {
        Tag("cp312", "cp312", name) for name in found if name in ("manylinux2014_x86_64", "manylinux_2_17_x86_64")
    }
    assert wheelhouse.platforms("win_amd64") == ["win_amd64"]
    assert "manylinux2014_aarch64" in wheelhouse.platforms("manylinux_2_28_aarch64")


RESOLVED = {
    "ours": {"requires_dist": ["Torch>=2", "timm", "numpy", "pytest; extra == 'dev'"]},
    "torch": {"requires_dist": ["cuda[runtime]; platform_system == 'Linux'", "sympy"]},
    "cuda": {"requires_dist": ["cuda-runtime; extra == 'runtime'", "cuda-rest; extra == 'rest'"]},
    "cuda-runtime": {"requires_dist": []},
    "cuda-rest": {},
    "sympy": {},
    "timm": {"requires_dist": ["torch", "hub[fast]", "old; python_version < '3.11'"]},
    "hub": {"requires_dist": ["speed; extra == 'fast'", "numpy"]},
    "speed": {},
    "old": {},
    "numpy": {},
    "pytest": {},
}


@pytest.mark.parametrize(
    ("without", "python", "expected"),
    [
        ([], "3.12", {"torch", "cuda", "cuda-runtime", "sympy", "timm", "hub", "speed", "numpy"}),
        (["torch"], "3.12", {"timm", "hub", "speed", "numpy"}),
        (["TORCH", "numpy"], "3.10", {"timm", "hub", "speed", "old"}),
    ],
)
def test_what_is_needed_without_what_is_there(wheelhouse, without, python, expected):
    environment = wheelhouse.environment(python, "manylinux_2_28_x86_64")
    assert set(wheelhouse.needed(RESOLVED, "ours", without, environment)) == expected


def test_markers_are_those_of_the_other_machine(wheelhouse):
    found = wheelhouse.environment("3.12", "manylinux_2_28_aarch64")
    assert found["platform_machine"] == "aarch64"
    assert found["sys_platform"] == "linux"
    assert wheelhouse.environment(None, None) == {}


@pytest.mark.slow
def test_a_failed_collection_leaves_what_was_there(wheelhouse, tmp_path):
    """No wheel of anything is for that platform."""
    program = tmp_path / "tools" / "wheelhouse.py"
    for name in ("bundle", "custom_transforms", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pt", "*.pth", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "dist" / "wheelhouse").mkdir(parents=True)
    (tmp_path / "dist" / "wheelhouse" / "earlier.whl").touch()
    words = ["--platform", "no_such_platform", "--output", str(tmp_path / "dist" / "wheelhouse")]
    offline = {
        **os.environ,
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
    }  # 0 means no isolation, as pip reads it
    done = subprocess.run([sys.executable, program, *words], env=offline, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "pip install failed; nothing was written" in done.stderr
    assert [path.name for path in (tmp_path / "dist").rglob("*")] == ["wheelhouse", "earlier.whl"]
