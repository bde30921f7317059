import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.evaluation import scores
from scripts.evaluation.resampling import bootstrap_interval, permutation_p_value, roc_curve_band
from scripts.evaluation.scores import (
    average_precision,
    brier_score,
    calibration_curve,
    delong_interval,
    delong_test,
    expected_calibration_error,
    log_loss,
    roc_auc,
    roc_curve,
    wilson_interval,
)
from scripts.evaluation.thresholds import (
    decision_curve,
    sensitivity_specificity,
    youden_threshold,
)
from tests.scripts.evaluation.drawn import EXAMPLES, PATIENTS, cohort, columns

pytest.importorskip("sklearn", reason="needs the extra [train]")

# four patients whose labels are 0, 0, 1, 1, and any others
TWO_OF_EACH = st.tuples(st.lists(st.integers(0, 20), min_size=4, max_size=4), PATIENTS).map(
    lambda parts: [*zip((0, 0, 1, 1), parts[0], strict=True), *parts[1]]
)


def test_a_prediction_imports_no_library_for_it():
    """It has the agreement of a patient's probabilities from here, and may be installed without SciPy and scikit-learn."""
    code = "import sys, scripts.evaluation.scores, scripts.evaluation.resampling; print(*sorted(sys.modules))"
    bundle = Path(scores.__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=bundle)
    assert "numpy" in found.stdout.split()
    assert not {"torch", "monai", "scipy", "sklearn"} & set(found.stdout.split())


# Scores


def test_log_loss_of_certainty_is_finite():
    assert log_loss([1, 0], [1.0, 0.0]) == pytest.approx(0, abs=1e-6)
    assert 10 < log_loss([1], [0.0]) < 20


def test_figures_of_one_label_alone():
    one_label = ([1, 1, 1], [0.1, 0.9, 0.5])
    assert math.isnan(roc_auc(*one_label))
    assert all(math.isnan(value) for value in delong_interval(*one_label))
    assert all(math.isnan(value) for value in delong_test(*one_label, [0.1, 0.2, 0.3]))
    assert all(math.isnan(bound) for bound in bootstrap_interval(*one_label))
    assert math.isnan(permutation_p_value(*one_label))
    assert math.isnan(youden_threshold(*one_label))
    assert np.isnan(roc_curve_band(*one_label)["tpr"]).all()
    assert math.isnan(average_precision([0, 0], [0.1, 0.9]))
    assert np.isnan(roc_curve(*one_label)).all()
    assert all(math.isnan(bound) for bound in bootstrap_interval([0, 0], [0.1, 0.9], "pr_auc"))
    sensitivity, specificity = sensitivity_specificity(*one_label, 0.3)
    assert sensitivity.value == pytest.approx(2 / 3)
    assert all(math.isnan(value) for value in specificity)
    assert average_precision(*one_label) == 1
    low, high = bootstrap_interval(*one_label, "brier", resamples=50)
    assert low <= brier_score(*one_label) <= high


def test_figures_of_nobody():
    assert math.isnan(roc_auc([], []))
    assert all(math.isnan(value) for value in (*delong_interval([], []), *bootstrap_interval([], [], "brier")))
    assert calibration_curve([], []) == []
    assert math.isnan(expected_calibration_error([], []))
    assert np.isnan(decision_curve([], [], np.array([0.1]))["model"]).all()


@pytest.mark.parametrize("function", [delong_interval, bootstrap_interval, permutation_p_value, roc_curve_band])
def test_what_is_refused(function):
    with pytest.raises(ValueError, match="label 2 of patient number 1: expected 0 or 1"):
        function([0, 2], [0.1, 0.2])
    with pytest.raises(ValueError, match="value nan of patient number 1: expected a finite one; leave the patient out"):
        function([0, 1], [0.1, float("nan")])
    with pytest.raises(ValueError, match=r"labels \(2,\) and values \(3,\)"):
        function([0, 1], [0.1, 0.2, 0.3])


# DeLong


def structural_components(labels, scores):
    """DeLong's V10 and V01 pair by pair, as the paper defines them."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    table = [[1.0 if x > y else 0.5 if x == y else 0.0 for y in scores[labels == 0]] for x in scores[labels == 1]]
    return np.mean(table, axis=1), np.mean(table, axis=0)


def by_the_paper(labels, *scores):
    """AUCs and their covariances, from the structural components."""
    v10, v01 = zip(*(structural_components(labels, one) for one in scores), strict=True)
    covariance = np.atleast_2d(np.cov(v10)) / len(v10[0]) + np.atleast_2d(np.cov(v01)) / len(v01[0])
    return [float(v.mean()) for v in v10], covariance


def ct_ratings():
    """Hanley and McNeil, Radiology 143 (1982) 29: ratings 1 to 5 of 58 normal and 51 abnormal CT images."""
    normal, abnormal = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)
    return [0] * 58 + [1] * 51, np.concatenate([np.repeat(range(1, 6), normal), np.repeat(range(1, 6), abnormal)])


# DeLong et al. 1988, the 43 patients who have all tests: albumin, total protein, K-G score, label
OVARIAN = np.array(
    " ".join(
        [
            "3 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4 5 0",
            "2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1",
            "4.1 6.6 5 1  3.6 5.7 5 1  4.3 7 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0",
            "4 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1",
            "3.1 6.6 6 1  4.1 8.2 6 1  4.3 7 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1",
            "3.3 6.8 6 0  1.7 4 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1",
            "2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4 7 7 1  3.3 5.7 6 1  3.7 6.9 5 1",
            "3.6 6.6 5 1",
        ]
    ).split(),
    dtype=float,
).reshape(-1, 4)


def test_delong_of_published_ct_ratings():
    """What Stata's manual prints of them (roctab): area 0.8932, standard error 0.0307, interval 0.83295 to 0.95339."""
    area, low, high = delong_interval(*ct_ratings())
    assert area == pytest.approx(0.8932, abs=5e-5)
    assert (low, high) == (pytest.approx(0.83295, abs=5e-6), pytest.approx(0.95339, abs=5e-6))
    assert (high - low) / 2 / 1.959964 == pytest.approx(0.0307, abs=5e-5)


OVARIAN_TESTS = {"K-G score": 10 - OVARIAN[:, 2], "albumin": OVARIAN[:, 0], "total protein": OVARIAN[:, 1]}


def test_delong_of_published_ovarian_cancer():
    """Area, standard error and interval that SAS's documentation prints of them (PROC LOGISTIC, comparing ROC curves)."""
    published = {
        "K-G score": (0.7258, 0.1028, 0.5243, 0.9273),
        "albumin": (0.7366, 0.0927, 0.5549, 0.9182),
        "total protein": (0.6478, 0.1000, 0.4518, 0.8439),
    }
    for name, expected in published.items():
        area, low, high = delong_interval(OVARIAN[:, 3], OVARIAN_TESTS[name])
        error = (high - low) / 2 / 1.959964
        assert (area, error, low, high) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize("pair", itertools.permutations(OVARIAN_TESTS, 2))
def test_delong_test_against_the_paper(pair):
    labels = OVARIAN[:, 3]
    one, other = (OVARIAN_TESTS[name] for name in pair)
    areas, covariance = by_the_paper(labels, one, other)
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = delong_test(labels, one, other)
    assert found.difference == pytest.approx(areas[0] - areas[1])
    assert found.z == pytest.approx((areas[0] - areas[1]) / error)
    assert found.p == pytest.approx(math.erfc(abs(found.z) / math.sqrt(2)))
    assert (found.low, found.high) == pytest.approx(
        (found.difference - 1.959964 * error, found.difference + 1.959964 * error), abs=1e-6
    )


@given(TWO_OF_EACH)
@EXAMPLES
def test_delong_interval_against_the_paper(rows):
    labels, values = columns(rows)
    (area,), covariance = by_the_paper(labels, values)
    width = 1.959964 * math.sqrt(covariance[0, 0])
    expected = (area, max(area - width, 0), min(area + width, 1))
    assert delong_interval(labels, values) == pytest.approx(expected, abs=1e-6)


@given(TWO_OF_EACH, st.randoms())
@EXAMPLES
def test_delong_follows_order_alone(rows, random):
    labels, values = columns(rows)
    found = delong_interval(labels, values)
    assert delong_interval(labels, np.exp(values) * 7 - 2) == found
    turned = delong_interval(labels, [-value for value in values])
    assert turned == pytest.approx((1 - found.value, 1 - found.high, 1 - found.low))
    random.shuffle(rows)
    assert delong_interval(*columns(rows)) == pytest.approx(found, abs=1e-12)


@given(TWO_OF_EACH, st.integers(0, 99))
@EXAMPLES
def test_delong_test_turns_round(rows, seed):
    labels, first = columns(rows)
    second = np.random.default_rng(seed).permutation(first)
    one, other = delong_test(labels, first, second), delong_test(labels, second, first)
    assert one.difference == -other.difference
    assert (one.z, one.p) == pytest.approx((-other.z, other.p), nan_ok=True)
    assert delong_test(labels, first, np.asarray(first) * 3 - 1) == (0, 0, 0, 0, 1)


def test_delong_without_variance():
    labels = [0, 0, 1, 1]
    assert delong_interval(labels, [1, 2, 3, 4]) == (1, 1, 1)
    found = delong_test(labels, [1, 2, 3, 4], [4, 3, 2, 1])
    assert found.difference == 1
    assert math.isnan(found.p)
    assert math.isnan(found.z)
    area, low, high = delong_interval([0, 0, 1], [1, 3, 2])
    assert area == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.slow
def test_intervals_contain_the_truth_as_often_as_they_say():
    """Normal scores with a distance of 1 have an AUC of Phi(1 / sqrt 2); 400 cohorts of 80 patients."""
    truth = 0.5 * math.erfc(-0.5)
    within = np.zeros(3)
    for seed in range(400):
        labels, values = cohort(80, seed)
        _, other = cohort(80, 1000 + seed)
        _, low, high = delong_interval(labels, values)
        by_resampling = bootstrap_interval(labels, values, resamples=300)
        compared = delong_test(labels, values, other)
        within += [low <= truth <= high, by_resampling[0] <= truth <= by_resampling[1], compared.p > 0.05]
    assert (np.abs(within / 400 - 0.95) < 0.03).all(), within / 400


# Calibration


@pytest.mark.parametrize("equal", ["width", "mass"])
@given(rows=PATIENTS, bins=st.integers(1, 12), random=st.randoms())
@EXAMPLES
def test_calibration_is_of_all_patients_in_any_order(equal, rows, bins, random):
    labels, values = columns(rows)
    curve = calibration_curve(labels, values, bins, equal)
    assert 1 <= len(curve) <= bins
    assert sum(part.patients for part in curve) == len(labels)
    assert sum(part.patients * part.observed for part in curve) == pytest.approx(sum(labels))
    assert sum(part.patients * part.probability for part in curve) == pytest.approx(sum(values))
    assert all(part.low <= part.observed <= part.high for part in curve)
    error = expected_calibration_error(labels, values, bins, equal)
    gaps = [part.patients * abs(part.observed - part.probability) for part in curve]
    assert error == pytest.approx(sum(gaps) / len(labels))
    assert abs(np.mean(labels) - np.mean(values)) - 1e-9 <= error <= 1
    random.shuffle(rows)
    assert expected_calibration_error(*columns(rows), bins, equal) == pytest.approx(error)


def test_bins_of_equal_width_and_of_equal_mass():
    values = [0.0, 0.1, 0.11, 0.12, 0.13, 0.14, 0.5, 1.0]
    labels = [0] * 4 + [1] * 4
    assert [part.patients for part in calibration_curve(labels, values, 2, "width")] == [7, 1]
    assert [part.patients for part in calibration_curve(labels, values, 2, "mass")] == [4, 4]
    assert [part.patients for part in calibration_curve(labels, [0.5] * 8, 4, "mass")] == [8]


def test_calibrated_probabilities_have_little_error():
    rng = np.random.default_rng(2)
    values = rng.random(20000)
    labels = (rng.random(20000) < values).astype(int)
    for equal in ("width", "mass"):
        assert expected_calibration_error(labels, values, equal=equal) < 0.02
        assert expected_calibration_error(labels, values**3, equal=equal) > 0.2


# Shares


def test_wilson_of_a_published_example():
    """Newcombe, Statistics in Medicine 17 (1998) 857, table I: 81 of 263, 15 of 148, 0 of 20 and 1 of 29."""
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (count, total), bounds in published.items():
        assert wilson_interval(count, total)[1:] == pytest.approx(bounds, abs=5e-5)


@given(st.integers(0, 60), st.integers(0, 60))
@EXAMPLES
def test_wilson_contains_its_share(count, others):
    share, low, high = wilson_interval(count, count + others)
    if count + others:
        assert 0 <= low <= share <= high <= 1
    else:
        assert math.isnan(share)
