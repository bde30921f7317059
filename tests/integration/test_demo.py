"""The demo from its first step to its last, on a cohort and with a classifier that are smaller still."""

import json
import logging

import pytest

pytest.importorskip("nilearn", reason="the phantom cohort needs the extra [phantom]")
pytest.importorskip("matplotlib", reason="the report needs the extra [report]")

from scripts import demo
from scripts.weights import read_weights

TINY = {
    "phantom": {"segmentation_patients": 10, "classification_patients": 10, "test_patients": 4, "overlap": 1, "spacing": 6.0},
    "train_segmentation": {"max_epochs": 1},
    "prepare_classification": {"min_tumor_ratio": -1},
    "train_classification": {
        "backbone": "test_efficientnet", "image_size": 32, "sequence_length": 6, "stride": 3, "hidden_size": 4, "max_epochs": 1,
    },
    "inference": {"min_tumor_ratio": -1},
}  # fmt: skip


def test_a_demo_goes_on_after_an_interruption_and_ends_with_its_figures(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    small = {name: {**values, **TINY.get(name, {})} for name, values in demo.SETTINGS.items()}
    small["phantom"] |= {"shape": None, "slice_thickness": None}
    monkeypatch.setattr(demo, "SETTINGS", small)
    folder = tmp_path / "demo"

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "write_picture", interrupt)
        with pytest.raises(KeyboardInterrupt):
            demo.run(folder, 1.0, overwrite=False)
    demo.run(folder, 1.0, overwrite=False)

    metrics = json.loads((folder / demo.METRICS_FILE).read_text(encoding="utf-8"))
    assert metrics["interrupted"] == ["overview"]
    assert metrics["segmentation"]["WT_dice"] > 0.5, "the shipped weights know what a tumour is"
    assert metrics["submission"]["patients"] == 4
    assert {part.name for part in folder.iterdir()} == set(demo.PARTS)
    trained_on = read_weights(folder / "runs" / "segmentation" / "segmentation.pt")[1]["trained_on"]
    assert set(trained_on) > set(read_weights(demo.START)[1]["trained_on"])
    assert "was trained on" not in caplog.text, "phantoms are nobody that the weights know"
