"""Pretraining on synthetic slices, through the configuration as it is, with a tiny network."""

import pytest
import torch
import yaml

pytest.importorskip("nilearn", reason="synthetic brains need the extra [phantom]")

import radiogenomics
from scripts.handlers import ValidationScore
from scripts.weights import read_weights
from tests.integration.jobs import read_rows
from tests.networks import SEGMENTER

TINY = {
    **SEGMENTER, "init": "none", "num_workers": 0, "steps": 2, "batch_size": 2, "validation_slices": 6,
    "validation_slices_per_brain": 3, "learning_rate": 0.01,
}  # fmt: skip


class Killed(BaseException):
    """What ends a run in the middle."""


def pretrain(folder, **rest):
    radiogenomics.pretrain(folder, **{**TINY, **rest})
    return torch.load(folder / "last.pt", weights_only=True)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretraining") / "whole"
    return folder, pretrain(folder, max_epochs=3)


def test_pretraining_leaves_what_it_should(whole):
    folder, _ = whole
    state, settings = read_weights(folder / "segmentation.pt")
    assert {key: settings[key] for key in SEGMENTER} == SEGMENTER
    assert settings["trained_on"] == "synthetic brains"
    assert all(value.isfinite().all() for value in state.values())
    rows = read_rows(folder / "history.csv")
    assert {"dice", "iou", "WT_dice", "ET_dice", "loss", "train_loss"} <= set(rows[0])
    rates = [float(row["lr"]) for row in rows]
    assert rates == pytest.approx([0.01 * (0.01 + 0.495 * (1 + c)) for c in (0.5, -0.5, -1)]), "a cosine"
    assert yaml.safe_load((folder / "resolved_config.yaml").read_text())["job"] == "pretrain_segmentation"


def test_killed_pretraining_is_resumed_to_the_same_end(whole, tmp_path, monkeypatch):
    folder, checkpoint = whole
    step, calls = ValidationScore.__call__, []

    def killed(self, engine):
        calls.append(engine)
        if len(calls) > 1:
            raise Killed
        step(self, engine)

    monkeypatch.setattr(ValidationScore, "__call__", killed)
    with pytest.raises(Killed):
        pretrain(tmp_path / "broken", max_epochs=3)
    monkeypatch.undo()
    resumed = pretrain(tmp_path / "broken", max_epochs=3, resume=True)
    assert equal(checkpoint["model"], resumed["model"])
    assert read_rows(folder / "history.csv") == read_rows(tmp_path / "broken" / "history.csv")


def test_longer_when_resumed(whole, tmp_path):
    """The rate follows the new number of epochs."""
    pretrain(tmp_path / "run", max_epochs=1)
    pretrain(tmp_path / "run", max_epochs=2, resume=True)
    assert [float(row["lr"]) for row in read_rows(tmp_path / "run" / "history.csv")] == pytest.approx([1e-4, 1e-4])


def test_weights_are_a_start_at_another_size(whole, tmp_path):
    folder, _ = whole
    pretrain(tmp_path / "larger", init=str(folder / "segmentation.pt"), image_size=64, max_epochs=1)
    assert read_weights(tmp_path / "larger" / "segmentation.pt")[1]["image_size"] == 64
