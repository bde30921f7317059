"""Locks of output folders, with real processes."""

import errno
import fcntl
import logging
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import radiogenomics
import scripts
from scripts import locks
from scripts.environment import config_files

HOLDER = """
import os, sys, time
from scripts import locks
locks.acquire(sys.argv[1])
child = os.fork() if "fork" in sys.argv else "held"
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
sys.stdin.readline()
"""
COUNTING = """
import sys, time
from pathlib import Path
from scripts import locks
folder, counter = Path(sys.argv[1]), Path(sys.argv[2])
done = 0
while done < 25:
    try:
        locks.acquire(folder)
    except locks.FolderInUseError:
        continue
    number = int(counter.read_text())
    time.sleep(0.001)
    counter.write_text(str(number + 1))
    locks.release(folder)
    done += 1
"""


def started(code, *words):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(scripts.__file__).parents[1])},
    )  # fmt: skip


@pytest.fixture
def holder(tmp_path):
    process = started(HOLDER, tmp_path / "out", "--name", "Zoë")
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_learns_who_has_the_folder(holder, tmp_path):
    with pytest.raises(locks.FolderInUseError) as info:
        locks.acquire(tmp_path / "out")
    message = str(info.value)
    assert "\n" not in message
    assert message.startswith(f"{tmp_path / 'out'}: another run is writing into this folder")
    assert f"process {holder.pid} on {platform.node()}" in message
    assert re.search(r"since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d: -c .*out --name", message)
    locks.acquire(tmp_path / "other")  # another folder is free
    locks.release(tmp_path / "other")


def test_nothing_stays_of_a_run_that_ends(holder, tmp_path):
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(locks.FILES)
    holder.communicate("\n")
    assert not (tmp_path / "out").exists()  # it was made for the lock
    (tmp_path / "out").mkdir()
    locks.acquire(tmp_path / "out")
    (tmp_path / "out" / "result.csv").write_text("1")
    locks.release(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result.csv"]


def test_a_killed_process_leaves_no_lock(holder, tmp_path):
    holder.kill()
    holder.wait()
    locks.acquire(tmp_path / "out")
    assert f'"process": {os.getpid()}' in (tmp_path / "out" / locks.NOTE).read_text()
    locks.release(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_what_a_killed_process_had_started_keeps_no_lock(tmp_path):
    process = started(HOLDER, tmp_path, "fork")
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        os.kill(child, 0)  # it lives, as a reader of a loader does for some seconds
        locks.acquire(tmp_path)
        locks.release(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)


def test_never_two_at_a_time(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "counter").write_text("0")
    processes = [started(COUNTING, tmp_path / "out", tmp_path / "counter") for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "counter").read_text() == "75"
    assert not list((tmp_path / "out").iterdir())


def test_the_same_process_may_ask_again(tmp_path):
    with locks.released_after():
        locks.acquire(tmp_path)
        with locks.released_after():
            locks.acquire(tmp_path)
            locks.acquire(tmp_path / "fold0")
        assert (tmp_path / locks.LOCK).is_file()
        assert not (tmp_path / "fold0").exists()
    assert not list(tmp_path.iterdir())


def test_locks_of_killed_runs_below_a_folder_go_and_those_of_others_stay(holder, tmp_path):
    dead = tmp_path / "fold0" / "FLAIR"
    dead.mkdir(parents=True)
    for name in locks.FILES:
        (dead / name).touch()
    locks.remove_leftovers(tmp_path)
    assert not list(dead.iterdir())
    assert (tmp_path / "out" / locks.NOTE).is_file()
    with pytest.raises(locks.FolderInUseError):
        locks.acquire(tmp_path / "out")


@pytest.fixture
def no_locks(monkeypatch):
    """As of NFS without its lock daemon."""

    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)


def test_without_locks_a_run_goes_on_with_a_warning(no_locks, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        locks.acquire(tmp_path)
    assert "this file system has no locks" in caplog.text
    locks.release(tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_locks_the_note_of_a_living_process_counts(no_locks, holder, tmp_path, caplog):
    with pytest.raises(locks.FolderInUseError, match=str(holder.pid)):
        locks.acquire(tmp_path / "out")
    holder.kill()
    holder.wait()
    with caplog.at_level(logging.WARNING):
        locks.acquire(tmp_path / "out")
    assert f"the last run there was process {holder.pid}" in caplog.text
    locks.release(tmp_path / "out")


def test_a_lock_is_no_link_to_follow(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / locks.LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=re.escape(locks.LOCK)):
        locks.acquire(tmp_path / "out")
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_folder_is_refused_within_a_moment(holder, tmp_path):
    started_at = time.monotonic()
    with pytest.raises(locks.FolderInUseError):
        locks.acquire(tmp_path / "out")
    assert time.monotonic() - started_at < 0.5


def test_every_job_with_an_output_folder_takes_its_lock():
    names = {file.stem for file in config_files("inference")[0].parent.glob("*.yaml")} - {
        "phantom"
    }  # makes a new folder
    jobs = {name: "".join(file.read_text() for file in config_files(name)) for name in names}
    writing = {name for name, text in jobs.items() if re.search(r"^output_dir:|^job: prepare_", text, re.M)}
    assert {
        "inference",
        "explore",
        "volumes",
        "crossvalidate",
        "fuse_segmentation",
        "prepare_classification",
    } <= writing
    assert {name for name in writing if "$runs.start(" not in jobs[name]} == set()


@pytest.mark.slow
def test_a_command_leaves_a_folder_in_use_as_it_is(holder, tmp_path):
    for patient in ("00001", "00002"):
        (tmp_path / "in" / patient).mkdir(parents=True)
        image = nib.Nifti1Image(np.random.default_rng(0).uniform(0, 9, (20, 20, 6)).astype(np.float32), np.eye(4))
        nib.save(image, tmp_path / "in" / patient / f"{patient}_flair.nii.gz")
    out = tmp_path / "out"
    for command in (radiogenomics.explore, radiogenomics.volumes):
        with pytest.raises(ValueError, match=f"^{out}: another run is writing into this folder .*process {holder.pid}"):
            command(tmp_path / "in", out)
        assert {path.name for path in out.iterdir()} == set(locks.FILES)
    holder.communicate("\n")
    radiogenomics.volumes(tmp_path / "in", out)
    assert len(list(out.glob("*.npz"))) == 2
    assert not set(locks.FILES) & {path.name for path in out.iterdir()}
