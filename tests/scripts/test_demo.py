from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("matplotlib")

from scripts import demo
from scripts.weights import WeightsError, read_weights, save_weights

NETWORK = ("architecture", "encoder_name", "decoder_channels")


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """The values that each step of a demo gives its configuration, by configuration."""
    asked = {}
    monkeypatch.setattr(demo, "run_config", lambda config, **values: asked.update({config: values}))
    for title, step in demo._steps(tmp_path, 1.0).items():
        if title.split()[0] in ("prepare", "train", "evaluate", "predict"):
            step()
    return asked


def test_overwriting_never_removes_a_folder_that_is_no_demo(tmp_path):
    (tmp_path / demo.STATE_FILE).write_text('{"mine": 1}', encoding="utf-8")
    (tmp_path / "thesis.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"no demo.*--output"):
        demo._start(tmp_path, 1.0, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "kept"


def test_an_interrupted_demo_goes_on_and_a_finished_one_is_refused(tmp_path):
    state = demo._start(tmp_path, 1.0, overwrite=False)
    state["seconds"]["data lists"] = 2.0
    state["starts"]["data lists"] = 1
    (tmp_path / demo.STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
    assert demo._start(tmp_path, 1.0, overwrite=False)["seconds"] == {"data lists": 2.0}
    with pytest.raises(FileExistsError, match=r"signal 1\.0.*--overwrite"):
        demo._start(tmp_path, 0.0, overwrite=False)
    (tmp_path / demo.METRICS_FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"holds a demo.*--overwrite"):
        demo._start(tmp_path, 1.0, overwrite=False)
    assert demo._start(tmp_path, 0.0, overwrite=True)["seconds"] == {}
    assert not (tmp_path / demo.METRICS_FILE).exists()


@pytest.mark.parametrize("signal", [-0.1, 1.5])
def test_a_signal_out_of_range_is_refused(tmp_path, signal):
    with pytest.raises(ValueError, match=f"signal is {signal}"):
        demo._start(tmp_path / "new", signal, overwrite=False)
    assert not (tmp_path / "new").exists()


def test_stage_1_begins_with_the_shipped_weights_in_the_network_that_they_are_for(jobs):
    training = jobs["train_segmentation"]
    known = read_weights(training["init"])[1]
    assert known["trained_on"]
    assert {name: training[name] for name in NETWORK} == {name: known[name] for name in NETWORK}


def test_phantoms_are_taken_for_others_than_the_patients_whose_names_they_have(jobs):
    for job in ("evaluate_segmentation", "prepare_classification", "inference"):
        assert jobs[job]["namesakes"] is True


def test_an_unfinished_demo_that_began_with_other_weights_is_not_gone_on_with(tmp_path, monkeypatch):
    demo._start(tmp_path / "out", 1.0, overwrite=False)
    save_weights(torch.nn.Linear(1, 1), {}, tmp_path / "other.pt")
    monkeypatch.setattr(demo, "START", tmp_path / "other.pt")
    with pytest.raises(FileExistsError, match=r"unfinished demo .* with other settings or weights.*--overwrite"):
        demo._start(tmp_path / "out", 1.0, overwrite=False)


def test_without_the_shipped_weights_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "START", tmp_path / "segmentation.pt")
    with pytest.raises(WeightsError, match=r"segmentation\.pt: no such weights file"):
        demo.run(tmp_path / "out", 1.0, overwrite=False)
    assert not (tmp_path / "out").exists()
