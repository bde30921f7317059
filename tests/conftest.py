"""Fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import yaml

from tests import attempts

SHARING = tuple(
    f"tests/integration/test_{name}.py" for name in ("any_study", "baselines", "prediction", "segmentation", "training")
)
"""Files that share what ``integration/conftest.py`` makes once: a cohort, what was prepared of it, trained networks."""
FIRST = (
    *SHARING,
    "tests/integration/test_distributed.py",
    "tests/integration/test_crossvalidation.py",
    "tests/docs/test_documents.py",
    "tests/integration/",
)
"""Files that take longest, so that no worker begins one of them when the others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((number for number, start in enumerate(FIRST) if item.nodeid.startswith(start)), len(FIRST))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """``--dist loadfile``, but that files which share a cohort go to one worker, and all in the order of ``FIRST``."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class BySharing(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "sharing" if file in SHARING else file

    config.option.loadscopereorder = False
    return BySharing(config, log)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real glioma MRI (``task1``, ``task2``, ``brats2023``); tests that ask for it skip without it."""
    named = os.environ.get("RADIOGENOMICS_REAL_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data" / "real"
    if not folder.is_dir():
        pytest.skip(f"no real MRI at {folder}: set RADIOGENOMICS_REAL_DATA to its folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Networks that tests compile are kept from test to test, apart from the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="session")
def _attempts(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("network") / "attempts.txt"
    file.touch()
    attempts.note(file)
    return file


@pytest.fixture(autouse=True)
def _no_network(_attempts):
    """No test reaches for another machine."""
    before = _attempts.stat().st_size
    yield
    assert not _attempts.read_text()[before:]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny networks gain nothing from threads, which wait for each other when the machine has other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _fast_yaml():
    """MONAI reads configurations with Python's YAML; that of C, which reads the same, takes a seventh of the time."""
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(yaml, "CSafeLoader"):
            patch.setattr(yaml, "safe_load", lambda stream: yaml.load(stream, Loader=yaml.CSafeLoader))
        yield


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports whose figures are not what is tested: drawing them takes most of the time. The files in their places are empty."""
    from scripts.report import writer

    def save_nothing(figure: object, folder: Path, name: str) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        for ending in ("png", "svg"):
            (folder / f"{name}.{ending}").touch()
        return "<svg></svg>"

    monkeypatch.setattr(writer, "save_figure", save_nothing)
