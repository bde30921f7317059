"""Metrics and tables of an evaluation."""

import json

import numpy as np
import pytest
import torch

from scripts import results
from scripts.metrics import RegionOverlap
from scripts.patients import write_predictions
from tests.scripts.cohorts import read_rows


def test_overlap_names_the_series_that_failed(tmp_path, caplog):
    metric = RegionOverlap()
    pred = torch.ones(2, 2, 4, 4)
    pred[1] = float("nan")
    batch = {"patient": ["a", "b"], "mri_type": ["FLAIR", "T2w"], "plane": ["axial", "axial"]}
    metric.update((batch, {"pred": pred, "label": torch.ones(2, 2, 4, 4)}))
    metrics = results.write_overlap(metric, tmp_path)
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["all"]["WT_dice"], metrics["T2w"]["WT_dice"]) == (1, None)
    assert list(metrics["failed"]) == ["b/T2w/axial"]
    assert "b/T2w/axial: the segmenter answered with NaN or infinity" in caplog.text


def evaluated(n=12):
    rng = np.random.default_rng(2)
    rows = []
    for number in range(n):
        label = number % 2
        flair = float(np.clip(0.3 + 0.4 * label + rng.normal(0, 0.2), 0.01, 0.99))
        series = {"FLAIR": {"probability": flair}, "T1w": {"probability": None, "reason": "none"}}
        rows.append(
            {"patient": f"{number:05d}", "label": label, "probability": flair, "used": ["FLAIR"], "series": series}
        )
    rows[0] |= {"probability": 0.5, "used": [], "series": {}}
    return rows


def test_evaluation(tmp_path):
    metrics_of = pytest.importorskip("sklearn.metrics", reason="needs the extra [train]")
    rows = evaluated()
    unlabelled = {"patient": "x", "probability": 0.1, "used": [], "series": {}}
    metrics = results.write_evaluation([*rows, unlabelled], tmp_path, ["FLAIR", "T1w"], {"FLAIR": "a.pt"}, "torch")
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    labels, chances = [row["label"] for row in rows], [row["probability"] for row in rows]
    assert (metrics["patients"], metrics["positive"], metrics["without_usable_slice"]) == (12, 6, 1)
    assert metrics["all"]["auc"] == pytest.approx(metrics_of.roc_auc_score(labels, chances))
    assert metrics["all"]["log_loss"] == pytest.approx(metrics_of.log_loss(labels, chances))
    assert metrics["FLAIR"]["patients"] == 11
    assert metrics["FLAIR"]["auc"] == pytest.approx(metrics_of.roc_auc_score(labels[1:], chances[1:]))
    low, high = metrics["all"]["auc_95"]
    assert low <= metrics["all"]["auc"] <= high
    assert "T1w" not in metrics
    table = read_rows(tmp_path / "predictions.csv")
    assert [row["patient"] for row in table] == [row["patient"] for row in rows]
    assert (table[0]["FLAIR"], table[1]["T1w"]) == ("", "")
    assert float(table[1]["all"]) == chances[1]
    details = json.loads((tmp_path / "patients.json").read_text())
    assert (details["weights"], details["runtime"]) == ({"FLAIR": "a.pt"}, "torch")
    assert details["patients"] == rows  # whoever has a label
    write_predictions(rows, tmp_path / "prediction", {"FLAIR": "a.pt"}, runtime="torch")
    assert details == json.loads((tmp_path / "prediction" / "patients.json").read_text())


def test_evaluation_without_labels(tmp_path):
    with pytest.raises(ValueError, match="none of the patients has a label"):
        results.write_evaluation(
            [{"patient": "x", "probability": 0.1, "used": [], "series": {}}], tmp_path, ["FLAIR"], {}
        )
    assert not list(tmp_path.iterdir())


def test_metrics_of_one_label_alone_are_json(tmp_path):
    """An AUC that is not defined must not make a file that strict readers refuse."""
    rows = [row for row in evaluated() if row["label"]]
    results.write_evaluation(rows, tmp_path, ["FLAIR"], {})

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    metrics = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    assert metrics["all"]["auc"] is None
    assert metrics["all"]["log_loss"] > 0


def test_overlap(tmp_path):
    metric = RegionOverlap(distances=True)
    label = torch.zeros(4, 2, 4, 4)
    label[:, 0, :2] = 1
    label[0, 1, 0] = 1
    pred = torch.where(label > 0, 1.0, -1.0)
    pred[1, 0, 1] = -1  # half of the tumour is missed: Dice 2/3, IoU 1/2
    batch = {
        "patient": ["a", "a", "b", "b"], "mri_type": ["FLAIR", "T2w", "FLAIR", "T2w"],
        "plane": ["axial", "axial", "axial", "coronal"], "field_of_view": torch.tensor([[8.0, 4.0]] * 4),
    }  # fmt: skip
    metric.update((batch, {"pred": pred, "label": label}))
    metrics = results.write_overlap(metric, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert metrics["patients"] == 2
    assert metrics["all"]["WT_dice"] == pytest.approx((3 + 2 / 3) / 4)
    assert metrics["all"]["WT_iou"] == pytest.approx((3 + 1 / 2) / 4)
    assert metrics["all"]["ET_dice"] == 1
    assert (metrics["FLAIR"]["WT_dice"], metrics["coronal"]["WT_dice"]) == (1, 1)
    assert metrics["T2w"]["WT_dice"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["T2w"]["ET_dice"] is None
    assert metrics["all"]["WT_volume_error"] == pytest.approx(-1 / 2 / 4)
    assert metrics["T2w"]["ET_volume_error"] is metrics["T2w"]["ET_slice_hd95_mm"] is None
    assert metrics["all"]["WT_slice_hd95_mm"] == pytest.approx(2 / 4)  # one row of 2 mm is missed in one of four
    table = read_rows(tmp_path / "overlap.csv")
    assert len(table) == 8
    assert set(table[0]) == {
        "patient", "mri_type", "plane", "region", "dice", "iou", "volume_error", "slice_hd95_mm",
    }  # fmt: skip
