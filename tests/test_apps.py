"""What the applications repeat of the project, where their systems leave no other way."""

import re
from pathlib import Path

import yaml

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "apps" / "monaideploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def by_name(requirements):
    """Requirements by the package they name."""
    lines = [line.split("#")[0].strip() for line in requirements]
    return {re.split(r"[=<>!~\[; ]", line)[0].lower(): line for line in lines if line}


def test_monai_deploy_requires_what_the_project_requires():
    wanted = by_name(
        [
            *PROJECT["dependencies"],
            *(line for extra in ("dicom", "report") for line in PROJECT["optional-dependencies"][extra]),
        ]
    )
    listed = by_name((DEPLOY / "requirements.txt").read_text(encoding="utf-8").splitlines())
    pinned = {"torch", "torchvision"}  # to those that were tried with the SDK
    assert {name: listed.get(name) for name in wanted if name not in pinned} == {
        name: line for name, line in wanted.items() if name not in pinned
    }
    assert all("==" in listed[name] for name in pinned)


def test_monai_deploy_has_the_projects_version():
    config = yaml.safe_load((DEPLOY / "app.yaml").read_text(encoding="utf-8"))
    assert config["application"]["version"] == PROJECT["version"]
