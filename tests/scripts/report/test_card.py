import json

import numpy as np
import pytest
import yaml

from scripts.evaluation.summary import summarise
from scripts.report import card


def rows(patients=24, seeds=(1, 2)):
    rng = np.random.default_rng(3)
    return [
        {
            "patient": f"{number:05d}", "fold": number // 2 % 3, "seed": seed, "mri_type": mri_type, "label": number % 2,
            "probability": float(np.clip(rng.normal(0.4 + 0.2 * (number % 2), 0.15), 0.01, 0.99)), "kept": 5 + number % 4,
            "tumour_volume": 20.0 + number, "scanner": ["A", "B|C"][number % 3 // 2],
        }
        for number in range(patients) for seed in seeds for mri_type in ("FLAIR", "T1wCE")
    ]  # fmt: skip


def write_run(folder, metrics, **config):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "resolved_config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_card_of_a_crossvalidation(tmp_path):
    summary = summarise(rows(), subgroups=["scanner"], resamples=50, permutations=99)
    metrics = {
        "classification": summary,
        "selection": "outer",
        "leakage": {"leaks": 0, "compared": {"FLAIR, seed 1, fold 0": 24}},
    }
    file = card.fill(write_run(tmp_path / "run", metrics, job="crossvalidate", datalist="/data/task2.json"))
    text = file.read_text()
    area = summary["ensembles"]["mean"]["auc"]
    assert f"{area['value']:.3f} ({area['delong'][0]:.3f} to {area['delong'][1]:.3f})" in text
    assert f"p = {summary['controls']['permutation']['p']:.4f} (99 permutations)" in text
    assert "Over 2 seeds the AUC lies between" in text
    assert "tumour volume" in text
    assert "scanner: B\\|C" in text
    assert "1 splits" in text
    assert "flatters these figures" in text
    assert "`task2.json`" in text
    assert "/data" not in text
    assert "Not for diagnosis" in text
    assert "None was measured" not in text
    for heading in ("# Data", "# Intended use", "# Known failures and limitations"):
        assert heading in text


def test_card_of_an_evaluation_and_of_a_segmentation(tmp_path):
    one = {"patients": 4, "auc": 0.75, "auc_95": [0.25, 1.0], "log_loss": 0.6}
    metrics = {
        "patients": 4,
        "positive": 2,
        "without_usable_slice": 1,
        "all": one,
        "FLAIR": {**one, "auc_95": None, "auc": None},
    }
    text = card.fill(write_run(tmp_path / "a", metrics, job="evaluate_classification")).read_text()
    assert "| all | 4 | 0.750 (0.250 to 1.000) | 0.600 |" in text
    assert "| FLAIR | 4 | - | 0.600 |" in text
    metrics = {"patients": 3, "all": {"WT_dice": 0.5, "ET_dice": None}, "axial": {"WT_dice": 0.25, "ET_dice": 1.0}}
    text = card.fill(write_run(tmp_path / "b", metrics, job="evaluate_segmentation")).read_text()
    assert "| all | 0.500 | - |\n| axial | 0.250 | 1.000 |\n\n" in text


def test_figures_of_a_phantom_say_so(tmp_path):
    (tmp_path / "README.txt").write_text("PHANTOM COHORT - synthetic")
    listed = tmp_path / "task2.json"
    listed.write_text(json.dumps({"training": [], "dataset_dir": str(tmp_path / "task2")}))
    metrics = {"patients": 3, "all": {"WT_dice": 0.5}}
    text = card.fill(
        write_run(tmp_path / "run", metrics, job="evaluate_segmentation", datalist=str(listed))
    ).read_text()
    assert "say nothing about patients" in text


def test_mistakes(tmp_path):
    with pytest.raises(FileNotFoundError, match="finished"):
        card.fill(tmp_path)
    run = write_run(tmp_path / "run", {"note": "x"}, job="inference")
    with pytest.raises(ValueError, match="inference hold no evaluation"):
        card.fill(run)
    assert not (run / "MODEL_CARD.md").exists()
    (run / "MODEL_CARD.md").write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        card.fill(run)
    assert (run / "MODEL_CARD.md").read_text() == "mine"
