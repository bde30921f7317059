import numpy as np
import pytest

from scripts.report.groups import groups_of
from scripts.report.training import best_epoch


def test_groups_of_both_forms_of_predictions():
    wide = [{"patient": "a", "label": "1", "all": "0.6", "FLAIR": "0.7", "T2w": ""}]
    assert [(group.name, group.probabilities.tolist()) for group in groups_of(wide)] == [
        ("FLAIR", [0.7]),
        ("all", [0.6]),
    ]
    long = [
        {"patient": "a", "label": "1", "fold": "2", "seed": seed, "mri_type": name, "probability": chance}
        for seed, name, chance in (("1", "FLAIR", "0.2"), ("2", "FLAIR", "0.4"), ("1", "T2w", "0.9"))
    ]
    groups = {group.name: group for group in groups_of(long)}
    assert groups["FLAIR"].probabilities[0] == pytest.approx(0.3)
    assert groups["all"].probabilities[0] == pytest.approx(0.6)
    assert groups["all"].folds == ["2"]


@pytest.mark.parametrize(("score", "expected"), [("auc", 2), ("-loss", 3), ("", 2)])
def test_best_epoch_is_the_first_of_the_best(score, expected):
    history = {"epoch": np.array([1.0, 2, 3]), "auc": np.array([0.5, 0.7, 0.7]), "loss": np.array([3.0, 2, 1])}
    assert best_epoch(history, score)[0] == expected
