import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.evaluation.resampling import bootstrap_interval, permutation_p_value, roc_curve_band
from scripts.evaluation.scores import average_precision, brier_score, log_loss, roc_auc, roc_curve
from tests.scripts.evaluation.drawn import BOTH_LABELS, EXAMPLES, cohort, columns

pytest.importorskip("sklearn", reason="needs the extra [train]")


# The bootstrap


def test_interval_contains_the_estimate_and_shrinks_with_patients():
    widths = []
    for n in (20, 100, 600):
        labels, values = cohort(n)
        low, high = bootstrap_interval(labels, values, resamples=500)
        assert 0 <= low <= roc_auc(labels.tolist(), values.tolist()) <= high <= 1
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1] > 2 * widths[2]


def test_interval_follows_the_seed():
    labels, values = cohort(60)
    low, high = bootstrap_interval(labels, values, resamples=500)
    assert bootstrap_interval(labels, values, resamples=500) == (low, high)
    assert bootstrap_interval(labels, values, resamples=500, seed=1) != (low, high)


def test_interval_is_as_wide_as_theory_says():
    """Hanley and McNeil's standard error, for an AUC of 0.76 on 118 patients."""
    labels, values = cohort(118, seed=3)
    area, m = roc_auc(labels.tolist(), values.tolist()), 59
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = math.sqrt((area * (1 - area) + (m - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)) / m**2)
    low, high = bootstrap_interval(labels, values)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_interval_of_noise_contains_one_half():
    labels, values = cohort(80, seed=4, shift=0.0)
    low, high = bootstrap_interval(labels, values, resamples=500)
    assert low < 0.5 < high


def test_interval_of_a_perfect_score():
    assert bootstrap_interval([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], resamples=50) == (1.0, 1.0)


SCORES = {"auc": roc_auc, "pr_auc": average_precision, "brier": brier_score, "log_loss": log_loss}


@pytest.mark.slow
@pytest.mark.parametrize("score", SCORES)
@given(BOTH_LABELS, st.integers(0, 99))
@EXAMPLES
def test_resamples_are_scored_as_one_by_one(score, rows, seed):
    labels, values = (np.array(column) for column in columns(rows))
    rng = np.random.default_rng(seed)
    drawn = []
    for label in (1, 0):
        own = np.flatnonzero(labels == label)
        drawn.append(own[rng.integers(len(own), size=(10, len(own)))])
    one_by_one = [SCORES[score](labels[sample], values[sample]) for sample in np.concatenate(drawn, axis=1)]
    expected = np.quantile(one_by_one, [0.025, 0.975])
    assert bootstrap_interval(labels, values, score, resamples=10, seed=seed) == pytest.approx(expected, abs=1e-12)


def test_interval_of_the_brier_score_is_as_wide_as_theory_says():
    """The mean's standard error, stratified: of the squared differences within each label."""
    labels, values = cohort(200, seed=6)
    squares = (values - labels) ** 2
    error = math.sqrt(sum(squares[labels == label].var() * 100 for label in (0, 1))) / 200
    low, high = bootstrap_interval(labels, values, "brier")
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


# Permutations


@given(BOTH_LABELS, st.integers(0, 99))
@EXAMPLES
def test_p_value_is_at_most_one_and_never_none(rows, seed):
    labels, values = columns(rows)
    found = permutation_p_value(labels, values, permutations=19, seed=seed)
    assert 0 < found <= 1
    if len(labels) > 3:  # of 3 patients and fewer all permutations are looked at
        assert found * 20 == pytest.approx(round(found * 20))
    assert permutation_p_value(labels, np.exp(values), permutations=19, seed=seed) == found
    assert permutation_p_value(labels, [0.3] * len(labels), permutations=19, seed=seed) == 1


SMALL = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), min_size=2, max_size=7)


@pytest.mark.slow
@given(SMALL.filter(lambda rows: len({label for label, _ in rows}) == 2))
@settings(deadline=None, max_examples=25)
def test_p_value_against_all_permutations(rows):
    labels, values = columns(rows)
    areas = []
    for positive in itertools.combinations(range(len(labels)), sum(labels)):
        areas.append(roc_auc([int(i in positive) for i in range(len(labels))], values))
    exact = np.mean(np.array(areas) >= roc_auc(labels, values) - 1e-9)
    # five standard errors of 2000 permutations
    margin = 5 * math.sqrt(exact * (1 - exact) / 2000) + 1 / 2000
    assert permutation_p_value(labels, values, permutations=2000) == pytest.approx(exact, abs=margin)


@pytest.mark.slow
@pytest.mark.parametrize("distinct", [3, 10**9])
def test_p_values_of_chance_are_uniform_or_too_large(distinct):
    """Of labels that mean nothing, at most k in 20 have a p value of k / 20 or less; just so many where no AUCs are equal."""
    found = np.empty(1500)
    for seed in range(len(found)):
        rng = np.random.default_rng(10_000 + seed)
        labels, values = rng.permutation([0, 1] * 15), rng.integers(distinct, size=30)
        found[seed] = permutation_p_value(labels, values, permutations=19, seed=seed)
    shares = np.array([(found <= k / 20 + 1e-9).mean() for k in range(1, 20)])
    expected = np.arange(1, 20) / 20
    error = np.sqrt(expected * (1 - expected) / len(found))
    assert (shares <= expected + 4 * error).all()
    assert (shares >= expected - 4 * error - (0.06 if distinct == 3 else 0.02)).all()


def test_p_value_of_a_signal_is_small():
    assert permutation_p_value(*cohort(80), permutations=999) == 1 / 1000
    labels, values = cohort(80)
    assert permutation_p_value(labels, -values, permutations=999) == 1


# Curves


@given(BOTH_LABELS)
@settings(deadline=None, max_examples=25)
def test_band_contains_the_curve_and_grows(rows):
    labels, values = columns(rows)
    band = roc_curve_band(labels, values, resamples=30, points=21)
    assert np.allclose(band["fpr"], np.linspace(0, 1, 21))
    assert (band["low"] <= band["high"]).all()
    for name in ("tpr", "low", "high"):
        assert (np.diff(band[name]) >= -1e-12).all()
        assert band[name][-1] == 1
    # the curve of the false positive rates that occur is that of the steps
    false, true = roc_curve(labels, values)
    for x, y in zip(band["fpr"], band["tpr"], strict=True):
        at = np.isclose(false, x, rtol=0, atol=1e-15)
        if at.any():
            assert y == pytest.approx(true[at].max(), abs=1e-9)


def test_band_of_many_patients_is_about_theory():
    """Sensitivity at a specificity of 80 %, with normal scores 1 apart, is Phi(1 - 0.8416)."""
    labels, values = cohort(4000, seed=1)
    band = roc_curve_band(labels, values, resamples=100, points=11)
    expected = 0.5 * math.erfc(-(1 - 0.841621) / math.sqrt(2))
    assert band["low"][2] < expected < band["high"][2]
    assert band["high"][2] - band["low"][2] < 0.1
    area = ((band["tpr"][1:] + band["tpr"][:-1]) / 2 * np.diff(band["fpr"])).sum()
    assert area == pytest.approx(roc_auc(labels, values), abs=0.01)
