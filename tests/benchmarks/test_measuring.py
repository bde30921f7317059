"""What is measured, and how it is put together."""

import json
import multiprocessing
import sys
import time

import nibabel as nib
import numpy as np
import pytest
import torch

pytest.importorskip("nilearn", reason="the phantom cohort needs the extra [phantom]")

from benchmarks import floor, predict, process, report
from benchmarks.child import PARTS
from benchmarks.timers import Timers, find


class Sleeper:
    def outer(self):
        time.sleep(0.02)
        self.inner()

    def inner(self):
        time.sleep(0.05)


def test_timers_count_a_part_within_another_once_and_see_forked_processes(monkeypatch):
    for name in ("outer", "inner"):
        monkeypatch.setattr(Sleeper, name, getattr(Sleeper, name))  # restored at the end
    timers = Timers({"a": [f"{__name__}:Sleeper.outer"], "b": [f"{__name__}:Sleeper.inner"], "c": []}, time.time() - 1)
    Sleeper().outer()
    child = multiprocessing.get_context("fork").Process(target=Sleeper().inner)
    child.start()
    child.join()
    seconds = timers.seconds()
    assert seconds.keys() == {"start-up", "a", "b"}
    assert 1 <= seconds["start-up"] < 1.5
    assert 0.02 <= seconds["a"] < 0.05
    assert seconds["b"] >= 0.1


@pytest.mark.parametrize("way", PARTS)
def test_everything_that_is_timed_is_there(way):
    for targets in PARTS[way].values():
        for target in targets:
            find(target)
    with pytest.raises(AttributeError, match="no_such"):
        find("scripts.weights:no_such")


@pytest.mark.slow
def test_a_process_is_watched_with_all_that_it_starts():
    code = (
        "import multiprocessing, time\n"
        "fork = multiprocessing.get_context('fork')\n"
        "both = fork.Barrier(2)\n"
        "def fill():\n"
        "    held = bytearray(b'x' * 60_000_000); both.wait(); time.sleep(1.5); both.wait()\n"
        "children = [fork.Process(target=fill) for _ in range(2)]\n"
        "[child.start() for child in children]; [child.join() for child in children]"
    )
    seconds, peak = process.watch([sys.executable, "-c", code])
    assert seconds > 1.5
    assert 120_000_000 < peak < 200_000_000
    with pytest.raises(process.ProcessError, match="the reason"):
        process.watch([sys.executable, "-c", "raise SystemExit('the reason')"])


def test_operations_are_counted_as_known():
    """A 3 x 3 convolution and a matrix product by hand."""
    network = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False, device="meta")
    assert floor.operations(network, 224) == 2 * 224 * 224 * 8 * 3 * 9
    known = floor.Floor(segmented=10, encoded=2, rates={"float32": 1.0, "bfloat16": 4.0})
    assert (known.fastest, known.seconds(3, 5)) == ("bfloat16", 10.0)


def write_labels(file, labels):
    nib.save(nib.Nifti1Image(np.array(labels, np.uint8).reshape(-1, 1, 1), np.eye(4)), file)


def write_prediction(folder, labels, probability):
    (folder / "masks").mkdir(parents=True)
    write_labels(folder / "masks" / "p_FLAIR.nii.gz", labels)
    series = {"FLAIR": {"slices": 4, "foreground": 3, "kept": 2, "probability": probability}, "T1w": {"reason": "none"}}
    rows = [{"patient": "p", "probability": probability + 0.1, "series": series}]
    (folder / "patients.json").write_text(json.dumps({"patients": rows}))


def test_agreement_of_two_predictions(tmp_path):
    write_prediction(tmp_path / "a", [0, 1, 1, 2], 0.5)
    write_prediction(tmp_path / "b", [0, 0, 1, 2], 0.47)
    found = predict.agreement(tmp_path / "a", tmp_path / "b")
    assert found == {"probability": pytest.approx(0.03), "WT": pytest.approx(0.8), "ET": 1.0}
    write_labels(tmp_path / "seg.nii.gz", [0, 4, 1, 4])
    assert predict.truth("published", tmp_path / "b", tmp_path / "seg.nii.gz").endswith("WT 0.800, ET 0.667")
    assert predict.counts(tmp_path / "a") == {"slices": 4, "foreground": 3, "kept": 2}


def test_table():
    assert report.table([{"": "x", "a": 1}, {"": "y", "b": 2}]).splitlines() == [
        "|  | a | b |",
        "| :-- | --: | --: |",
        "| x | 1 | - |",
        "| y | - | 2 |",
    ]
    assert report.spread([3, 1, 2]) == "2.0 s (1.0 to 3.0)"
    assert (report.megabytes(5_250_000), report.megabytes(2.5e9)) == ("5.2 MB", "2,500 MB")
