"""A small part of the kill campaign, and that its comparison sees what it should."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.campaigns.kill import wrong_ending
from tests.campaigns.kill_jobs import Unbroken

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_killed_training_ends_as_an_unbroken_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaigns.kill", "--count", "3", "--seed", "1", "--jobs", "train", "--kinds", "SIGKILL",
         "SIGTERM", "SIGINT", "--output", tmp_path / "kill.md"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "bundle")}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "kill.md").read_text().count("| nothing |") == 3


@pytest.mark.parametrize(
    ("kind", "status", "text", "faults"),
    [
        ("SIGTERM", 143, "50%\rinterrupted; go on", []),
        ("SIGTERM", -15, "50%\r60%\nthe result\n", []),  # it was done, and Python took itself down
        ("SIGTERM", -15, "50%\r60%", ["last line '60%'"]),
        ("SIGINT", 130, "Traceback\ninterrupted", ["says Traceback"]),
        ("SIGINT", 1, "interrupted", ["exit status 1, expected 130"]),
        ("SIGINT", -2, "interrupted", ["exit status -2, expected 130"]),
        ("SIGKILL", -9, "60%", []),
        ("SIGKILL", 1, "60%", ["ended with 1"]),
    ],
)
def test_how_a_process_has_to_end(kind, status, text, faults):
    assert wrong_ending(kind, status, text, "the result") == faults


@pytest.fixture
def folders(tmp_path):
    """Two unbroken runs, which differ in a time alone, and one that was killed."""
    for number in (1, 2, 3):
        folder = tmp_path / str(number)
        (folder / "FLAIR").mkdir(parents=True)
        (folder / "state.json").write_text(f'{{"auc": 0.5, "seconds": {number}, "took": {number}}}')
        (folder / "table.csv").write_text("patient,p\n1,0.25\n")
        (folder / "page.html").write_text(f"on 2026-01-0{number} 10:0{number}.")
        (folder / "FLAIR" / f"events.out.tfevents.{number}.host").write_text(str(number))
        torch.save({"w": torch.ones(3)}, folder / "FLAIR" / "last.pt")
    return [tmp_path / str(number) for number in (1, 2, 3)]


def test_runs_that_differ_in_times_alone_are_the_same(folders):
    unbroken = Unbroken(*folders[:2])
    assert unbroken.differences(folders[2]) == []
    assert "table.csv" in unbroken.exact


@pytest.mark.parametrize(
    ("name", "content", "difference"),
    [
        ("state.json", '{"auc": 0.6, "seconds": 9, "took": 9}', "state.json: /auc differs"),
        ("table.csv", "patient,p\n1,0.26\n", "table.csv differs"),
        ("FLAIR/tmpabc", "", "FLAIR/tmpabc stayed"),
        ("FLAIR/last.pt", "", None),
    ],
)
def test_a_difference_is_reported(folders, name, content, difference):
    unbroken = Unbroken(*folders[:2])
    if difference is None:
        (folders[2] / name).unlink()
        difference = f"{name} is missing"
    else:
        (folders[2] / name).write_text(content)
    assert unbroken.differences(folders[2]) == [difference]
