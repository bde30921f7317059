import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.evaluation.thresholds import (
    decision_curve,
    sensitivity_specificity,
    thresholds_of_other_folds,
    youden_threshold,
)
from tests.scripts.evaluation.drawn import BOTH_LABELS, EXAMPLES, columns

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="needs the extra [train]")


@pytest.mark.slow
@given(BOTH_LABELS, st.integers(0, 20))
@EXAMPLES
def test_sensitivity_and_specificity_against_sklearn(rows, threshold):
    labels, values = columns(rows)
    called = [value >= threshold / 20 for value in values]
    sensitivity, specificity = sensitivity_specificity(labels, values, threshold / 20)
    assert sensitivity.value == pytest.approx(sklearn_metrics.recall_score(labels, called))
    assert specificity.value == pytest.approx(sklearn_metrics.recall_score(labels, called, pos_label=0))
    each = np.full(len(labels), threshold / 20)
    assert sensitivity_specificity(labels, values, each) == (sensitivity, specificity)


def test_patients_without_a_threshold_are_left_out():
    sensitivity, specificity = sensitivity_specificity([1, 1, 0], [0.9, 0.1, 0.2], np.array([0.5, np.nan, 0.5]))
    assert (sensitivity.value, specificity.value) == (1, 1)


@pytest.mark.slow
@given(BOTH_LABELS)
@EXAMPLES
def test_no_threshold_is_better_than_youdens(rows):
    labels, values = columns(rows)

    def gain(threshold):
        return sum(one.value for one in sensitivity_specificity(labels, values, threshold))

    best = youden_threshold(labels, values)
    candidates = [-1.0, *np.linspace(0, 1, 41) - 0.001, 2.0]
    assert gain(best) >= max(gain(candidate) for candidate in candidates) - 1e-12
    assert min(values) <= best <= max(values)


def test_threshold_is_midway():
    assert youden_threshold([0, 0, 1, 1], [0.1, 0.3, 0.5, 0.9]) == pytest.approx(0.4)
    assert youden_threshold([1, 0], [0.2, 0.7]) == 0.2  # everybody is called
    close = np.nextafter(0.5, 1)
    assert youden_threshold([0, 1], [0.5, close]) == close


FOLDED = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20), st.integers(0, 3)), min_size=4, max_size=30).filter(
    lambda rows: len({fold for _, _, fold in rows}) > 1
)


@pytest.mark.slow
@given(FOLDED, st.data())
@EXAMPLES
def test_no_threshold_is_chosen_with_the_patients_own_fold(rows, data):
    labels, values, folds = (np.array(column) for column in zip(*rows, strict=True))
    thresholds = thresholds_of_other_folds(labels, values, folds)
    for fold in np.unique(folds):
        others = folds != fold
        expected = youden_threshold(labels[others], values[others])
        assert np.array_equal(thresholds[~others], np.full((~others).sum(), expected), equal_nan=True)
    changed = data.draw(st.integers(0, len(labels) - 1))
    labels[changed] = 1 - labels[changed]
    values[changed] = 20 - values[changed]
    own = folds == folds[changed]
    assert np.array_equal(thresholds_of_other_folds(labels, values, folds)[own], thresholds[own], equal_nan=True)


def test_net_benefit_of_a_worked_example():
    """Of 100 patients 40 have label 1; at 0.2 the model treats 30 of them and 20 others: 0.30 - 0.20 / 4."""
    labels = [1] * 40 + [0] * 60
    chances = [0.9] * 30 + [0.1] * 10 + [0.9] * 20 + [0.1] * 40
    found = decision_curve(labels, chances, np.array([0.2, 0.0, 0.95]))
    assert found["model"] == pytest.approx([0.30 - 0.20 / 4, 0.4, 0.0])
    assert found["all"] == pytest.approx([0.4 - 0.6 / 4, 0.4, 0.4 - 0.6 * 19])
    assert found["none"].tolist() == [0, 0, 0]


@given(BOTH_LABELS)
@EXAMPLES
def test_a_model_that_treats_all_is_treating_all(rows):
    labels, _ = columns(rows)
    limits = np.linspace(0, 0.95, 20)
    curve = decision_curve(labels, [1.0] * len(labels), limits)
    assert np.allclose(curve["model"], curve["all"])
    assert np.allclose(decision_curve(labels, [0.0] * len(labels), limits[1:])["model"], 0)
    assert (decision_curve(labels, labels, limits[1:])["model"] >= np.maximum(curve["all"], 0)[1:] - 1e-12).all()
