"""Models compared on the same patients: paired tests, Holm's correction, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn import metrics as sklearn_metrics

from scripts.evaluation.comparison import ComparisonError, Finished, compare, holm, records
from scripts.evaluation.scores import recalibration
from tests.scripts.evaluation.drawn import EXAMPLES

FEW = {"resamples": 40, "permutations": 99}


def run(name, n=60, shift=1.0, seed=0, seeds=(67, 68), model=None, mri_types=("FLAIR", "T1w"), **more):
    """A run whose probabilities separate the labels by ``shift``; patients and folds are those of every other one of ``n``."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        label = i // 5 % 2
        patient = rng.normal((label - 0.5) * shift, 1.0)
        for mri_type in mri_types:
            for number in seeds:
                chance = float(special.expit(patient + rng.normal(0, 0.4)))
                rows.append({
                    "patient": f"{i:05d}", "fold": i % 5, "seed": number, "mri_type": mri_type, "probability": chance,
                    "label": label,
                })  # fmt: skip
    return Finished(name, model or name, rows, **more)


def means(one):
    """Labels and mean probabilities of the patients, in order; 0.5 for those without any."""
    labels, values = {}, {}
    for row in one.rows:
        labels[row["patient"]] = row["label"]
        values.setdefault(row["patient"], []).extend([] if row["probability"] is None else [row["probability"]])
    names = sorted(labels)
    return np.array([labels[name] for name in names]), np.array(
        [np.mean(values[name]) if values[name] else 0.5 for name in names]
    )


def changed(one, **values):
    """The run with other values in the rows of its second patient."""
    rows = [{**row, **values} if row["patient"] == "00001" else row for row in one.rows]
    return Finished(one.name, one.model, rows)


@pytest.fixture(scope="module")
def runs():
    return [run("cnn3d", seed=1, shift=0.6), run("size", seed=2, shift=0.2), run("t4e", seed=3, shift=1.6)]


@pytest.fixture(scope="module")
def found(runs):
    return compare(runs, **FEW)


def by_covariance(labels, first, second):
    """DeLong's test by the definition: placements pair by pair, and their full covariances."""

    def placements(scores):
        wins = np.array([[(a > b) + 0.5 * (a == b) for b in scores[labels == 0]] for a in scores[labels == 1]])
        return wins.mean(axis=1), wins.mean(axis=0)

    (above, below), (above2, below2) = placements(first), placements(second)
    covariance = np.cov(above, above2) / len(above) + np.cov(below, below2) / len(below)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    difference = above.mean() - above2.mean()
    return difference, variance**0.5, 2 * stats.norm.sf(abs(difference) / variance**0.5)


def test_paired_differences_against_covariances_by_definition(runs, found):
    of = {one.name: means(one) for one in runs}
    assert found["best"] == "t4e"
    assert found["runs"][0]["name"] == "t4e"
    for one in found["runs"]:
        for reference, name in (("best", "t4e"), ("size", "size")):
            test = one["against"][reference]
            if one["name"] == name:
                assert test is None
                continue
            labels, predicted = of[one["name"]]
            difference, error, p = by_covariance(labels, predicted, of[name][1])
            assert test["difference"] == pytest.approx(difference)
            assert (test["low"], test["high"]) == pytest.approx(
                (difference - 1.96 * error, difference + 1.96 * error), abs=1e-5
            )
            assert test["p"] == pytest.approx(p)


def test_interval_of_a_difference_against_a_bootstrap(runs, found):
    """Of patients with both probabilities, within each label."""
    (labels, first), (_, second) = means(runs[0]), means(runs[2])
    rng, groups = np.random.default_rng(0), [np.flatnonzero(labels == label) for label in (0, 1)]
    values = []
    for _ in range(2000):
        negative, positive = (rng.choice(group, len(group)) for group in groups)
        areas = [(scores[positive][:, None] > scores[negative]).mean() for scores in (first, second)]
        values.append(areas[0] - areas[1])
    test = next(one for one in found["runs"] if one["name"] == "cnn3d")["against"]["best"]
    assert (test["low"], test["high"]) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.03)


def test_figures_against_sklearn(runs, found):
    for one in found["runs"]:
        labels, predicted = means(next(other for other in runs if other.name == one["name"]))
        assert one["auc"]["value"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, predicted))
        assert one["pr_auc"]["value"] == pytest.approx(sklearn_metrics.average_precision_score(labels, predicted))
        assert one["brier"]["value"] == pytest.approx(sklearn_metrics.brier_score_loss(labels, predicted))
        within = np.empty(len(labels))
        for fold in range(5):
            own = np.arange(len(labels)) % 5 == fold
            within[own] = stats.rankdata(predicted[own])
        assert one["auc"]["within_folds"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, within))
    json.dumps(found, allow_nan=False)


def test_spread_over_seeds(runs, found):
    one = next(one for one in found["runs"] if one["name"] == "t4e")["seeds"]
    areas = []
    for seed in (67, 68):
        labels, predicted = means(Finished("", "", [row for row in runs[2].rows if row["seed"] == seed]))
        areas.append(sklearn_metrics.roc_auc_score(labels, predicted))
    assert list(one["auc"].values()) == pytest.approx(areas)
    assert (one["sd"], one["min"], one["max"]) == pytest.approx((np.std(areas, ddof=1), min(areas), max(areas)))
    alone = compare([run("a", seeds=(67,)), run("b")], **FEW)["runs"]
    assert next(one for one in alone if one["name"] == "a")["seeds"]["sd"] is None


def test_holm_worked_example():
    """0.01, 0.04, 0.03, 0.005: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04, which may not be below the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == pytest.approx([1, 1])
    assert holm([0.04]) == pytest.approx([0.04])
    assert holm([np.nan, 0.02, 0.03]) == pytest.approx([np.nan, 0.04, 0.04], nan_ok=True)
    assert len(holm([])) == 0


@EXAMPLES
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_rejects_what_its_steps_reject(values, level):
    """Holm's own words: go from the smallest p up, reject while p <= level / (tests that are left)."""
    rejected, order = set(), np.argsort(values, kind="stable")
    for step, place in enumerate(order):
        if values[place] * (len(values) - step) > level:
            break
        rejected.add(int(place))
    assert {place for place, p in enumerate(holm(values)) if p <= level} == rejected


def test_family_holds_each_pair_once(runs, found):
    """Of three runs: t4e with both others as the best; size with cnn3d too."""
    assert found["comparisons"] == 3
    pairs = [("cnn3d", "t4e"), ("size", "t4e"), ("cnn3d", "size")]
    of = {one.name: means(one) for one in runs}
    adjusted = holm([by_covariance(of[a][0], of[a][1], of[b][1])[2] for a, b in pairs])
    by_name = {one["name"]: one["against"] for one in found["runs"]}
    assert by_name["cnn3d"]["best"]["p_holm"] == pytest.approx(adjusted[0])
    assert by_name["size"]["best"]["p_holm"] == by_name["t4e"]["size"]["p_holm"] == pytest.approx(adjusted[1])
    assert by_name["cnn3d"]["size"]["p_holm"] == pytest.approx(adjusted[2])
    assert compare([run("a"), run("b", seed=1)], **FEW)["size"] is None


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(st.permutations(range(4)))
def test_order_of_runs_does_not_matter(order):
    several = [run(name, n=20, seed=seed) for seed, name in enumerate(("a", "b", "size", "d"))]
    several[3] = Finished("d", "d", several[1].rows)  # the same AUC as another
    few = {"resamples": 5, "permutations": 9}
    assert compare([several[place] for place in order], **few) == compare(several, **few)


def test_patient_without_prediction_has_the_prior(runs):
    lacking = changed(runs[0], probability=None)
    found = compare([lacking, *runs[1:]], **FEW)
    one = next(one for one in found["runs"] if one["name"] == "cnn3d")
    assert one["without_prediction"] == 1
    assert one["auc"]["value"] == pytest.approx(sklearn_metrics.roc_auc_score(*means(lacking)))
    assert found["predictions"][1]["probabilities"]["cnn3d"] == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fold": 4}, r"^a and b do not have .*: another fold of 00001 \(fold 1 and 4\)\. .*same data list"),
        ({"label": 1}, r"another label of 00001 \(label 0 and 1\)"),
        ({"patient": "99999"}, r"patient 00001 only in a; patient 99999 only in b"),
    ],
)
def test_other_patients_labels_or_folds_are_refused(values, message):
    with pytest.raises(ComparisonError, match=message):
        compare([run("a"), changed(run("b", seed=1), **values), run("c")], **FEW)


def test_only_a_few_patients_are_named():
    with pytest.raises(ComparisonError, match=r"patients 00050, 00051, 00052 and 7 more only in b\."):
        compare([run("a", n=50), run("b", n=60)], **FEW)


def test_what_else_is_refused():
    with pytest.raises(ComparisonError, match="two or more"):
        compare([run("a")])
    with pytest.raises(ComparisonError, match="two runs are called a"):
        compare([run("a"), run("a")])
    nothing = [{**row, "probability": None} for row in run("a").rows]
    with pytest.raises(ComparisonError, match="b: none of 60 patients"):
        compare([run("a"), Finished("b", "b", nothing)])
    alike = [Finished(name, name, [{**row, "label": 1} for row in run("a").rows]) for name in "ab"]
    with pytest.raises(ComparisonError, match="all 60 patients have label 1"):
        compare(alike)


def test_recalibration_finds_what_was_done_to_calibrated_probabilities():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, 20000)
    labels = (rng.uniform(size=len(logits)) < special.expit(logits)).astype(int)
    found = recalibration(labels, special.expit(2 * logits))
    assert found.slope.low < 0.5 < found.slope.high
    shifted = recalibration(labels, special.expit(logits + 0.4))
    assert shifted.intercept.low < -0.4 < shifted.intercept.high
    assert shifted.slope.value == pytest.approx(1, abs=0.05)


def test_recalibration_solves_the_equations_of_a_regression():
    """The residuals of the fitted probabilities sum to 0, and so do their products with the logits."""
    rng = np.random.default_rng(1)
    labels, chance = rng.integers(2, size=50), rng.uniform(0.02, 0.98, 50)
    found, logits = recalibration(labels, chance), special.logit(chance)
    slope = found.slope.value
    shift = 0.0  # that of the first equation is found by Newton's steps
    for _ in range(50):
        fitted = special.expit(shift + slope * logits)
        shift -= (fitted - labels).sum() / (fitted * (1 - fitted)).sum()
    assert ((special.expit(shift + slope * logits) - labels) * logits).sum() == pytest.approx(0, abs=1e-4)
    assert (special.expit(logits + found.intercept.value) - labels).sum() == pytest.approx(0, abs=1e-8)


def test_recalibration_where_there_is_none():
    assert np.isnan(recalibration([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]).slope.value)
    assert np.isnan(recalibration([0, 1, 1], [0.5, 0.5, 0.5]).slope.value)
    assert recalibration([0, 1, 1, 1], [0.5] * 4).intercept.value == pytest.approx(np.log(3))
    assert np.isnan(recalibration([1, 1], [0.3, 0.4]).intercept.value)


def test_records_are_flat_and_alike(found):
    rows = records(found)
    assert len({tuple(row) for row in rows}) == 1
    assert [row["run"] for row in rows] == [one["name"] for one in found["runs"]]
    assert rows[0]["against_best_difference"] is None
    assert rows[0]["against_size_p_holm"] == found["runs"][0]["against"]["size"]["p_holm"]
    assert not any(isinstance(value, (dict, list)) for row in rows for value in row.values())
