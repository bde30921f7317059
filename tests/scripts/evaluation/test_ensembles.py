import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from scripts.evaluation import ensembles
from scripts.evaluation.ensembles import Logistic, Stacking, Temperature
from scripts.evaluation.scores import expected_calibration_error, log_loss, roc_auc

EXAMPLES = settings(deadline=None, max_examples=50)
COMBINE = [ensembles.mean, ensembles.logit_mean, ensembles.rank_mean]

CHANCE = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 1))
TABLES = st.tuples(st.integers(1, 12), st.integers(1, 4)).flatmap(
    lambda shape: arrays.arrays(np.float64, shape, elements=st.one_of(CHANCE, st.just(np.nan)))
)
# patients without any member have one of 0.5
MEMBERS = TABLES.map(lambda table: np.where(np.isnan(table).all(axis=1, keepdims=True), 0.5, table))


def cohort(n=200, members=3, seed=0, missing=0.0, shift=0.8):
    """Labels, members' probabilities ``(n, members)`` and folds."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 2)
    table = ensembles.expit(rng.normal((labels[:, None] - 0.5) * shift * np.arange(1, members + 1), 1.0))
    table[rng.random(table.shape) < missing] = np.nan
    table[np.isnan(table).all(axis=1), 0] = 0.5
    return labels, table, np.arange(n) % 5


# Combination


@pytest.mark.parametrize("combine", COMBINE)
@given(table=MEMBERS, random=st.randoms(use_true_random=False))
@EXAMPLES
def test_combination_whatever_the_order(combine, table, random):
    found = combine(table)
    assert found.shape == (len(table),)
    assert ((found >= 0) & (found <= 1)).all()
    patients, members = (random.sample(range(size), size) for size in table.shape)
    assert np.allclose(combine(table[patients][:, members]), found[patients])


@pytest.mark.parametrize("combine", [ensembles.mean, ensembles.logit_mean])
@given(table=MEMBERS)
@EXAMPLES
def test_combination_is_between_the_members_that_are_there(combine, table):
    found = combine(table)
    clipped = np.clip(table, ensembles.CLIP, 1 - ensembles.CLIP) if combine is ensembles.logit_mean else table
    assert (found >= np.nanmin(clipped, axis=1) - 1e-9).all()
    assert (found <= np.nanmax(clipped, axis=1) + 1e-9).all()
    # a member that nobody has changes nothing
    nobody = np.full((len(table), 1), np.nan)
    assert np.allclose(combine(np.hstack([table, nobody])), found)


@given(MEMBERS)
@EXAMPLES
def test_ranks_go_by_order_alone(table):
    rough = np.rint(table * 20) / 20  # apart by more than rounding, or tied
    assert np.allclose(ensembles.rank_mean(rough), ensembles.rank_mean(rough**3 / 2 + rough / 4))


def test_worked_example():
    table = np.array([[0.2, 0.4], [0.9, np.nan], [0.5, 0.1]])
    assert ensembles.mean(table) == pytest.approx([0.3, 0.9, 0.3])
    assert ensembles.rank_mean(table) == pytest.approx([(1 / 6 + 3 / 4) / 2, 5 / 6, (3 / 6 + 1 / 4) / 2])
    odds = np.sqrt([0.2 / 0.8 * 0.4 / 0.6, (0.9 / 0.1) ** 2, 0.1 / 0.9])
    assert ensembles.logit_mean(table) == pytest.approx(odds / (1 + odds))


def test_certainty_stays_finite():
    assert ensembles.logit_mean(np.array([[0.0, 1.0]])) == pytest.approx([0.5])
    assert np.isfinite(ensembles.logit([0.0, 1.0])).all()
    assert ensembles.expit(np.array([-1e4, 0.0, 1e4])).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("combine", COMBINE)
def test_what_is_refused(combine):
    with pytest.raises(ValueError, match="patient 1 in order has no member: leave it out"):
        combine(np.array([[0.1, 0.2], [np.nan, np.nan]]))
    with pytest.raises(ValueError, match=r"1\.5 of patient 0 and member 1 in order: expected a probability"):
        combine(np.array([[0.1, 1.5]]))
    with pytest.raises(ValueError, match=r"\(2,\): expected \(patients, members\)"):
        combine(np.array([0.1, 0.2]))


# Logistic regression and stacking


@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
def test_logistic_regression_against_sklearn(strength):
    linear_model = pytest.importorskip("sklearn.linear_model", reason="needs the extra [train]")
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, 3)) * [1, 10, 0.1] + [5, 0, -3]
    labels = (features[:, 0] + rng.normal(size=60) > 5.3).astype(int)
    standard = (features - features.mean(0)) / features.std(0)
    expected = linear_model.LogisticRegression(C=1 / strength, tol=1e-10, max_iter=1000).fit(standard, labels)
    found = Logistic.fit(labels, features, strength)
    assert found.weights == pytest.approx(expected.coef_[0], abs=1e-5)
    assert found.intercept == pytest.approx(expected.intercept_[0], abs=1e-5)
    assert found.predict(features) == pytest.approx(expected.predict_proba(standard)[:, 1], abs=1e-5)


def test_logistic_regression_of_separable_and_of_constant_features():
    labels = np.array([0, 0, 0, 1, 1, 1])
    found = Logistic.fit(labels, np.column_stack([labels * 1e6, np.full(6, 0.1)]))
    assert np.isfinite(found.weights).all()
    assert found.weights[1] == pytest.approx(0)
    assert roc_auc(labels, found.predict(np.column_stack([labels * 1e6, np.full(6, 0.1)]))) == 1
    assert Logistic.fit(labels, np.zeros((6, 1))).predict(np.zeros((2, 1))) == pytest.approx([0.5, 0.5])


def test_logistic_regression_refuses():
    with pytest.raises(ValueError, match=r"3 patients with labels \[1\]: expected both 0 and 1"):
        Logistic.fit([1, 1, 1], np.zeros((3, 1)))
    with pytest.raises(ValueError, match="expected finite ones"):
        Logistic.fit([0, 1], np.array([[np.nan], [1.0]]))
    with pytest.raises(ValueError, match="strength 0 of the penalty"):
        Logistic.fit([0, 1], np.zeros((2, 1)), strength=0)


def test_stacking_trusts_who_is_right():
    labels, table, folds = cohort(600)
    table[:, 0] = np.random.default_rng(9).random(600)  # knows nothing
    found = ensembles.stacked(labels, table, folds)
    assert abs(found.model.weights[0]) < 0.2 < found.model.weights[1] < found.model.weights[2]
    assert roc_auc(labels, found.probabilities) > roc_auc(labels, ensembles.mean(table))
    assert ensembles.logit(found.model.predict(np.full((1, 3), 0.5))) == pytest.approx([found.model.intercept])


def test_a_missing_member_has_no_opinion():
    labels, table, _ = cohort(missing=0.2)
    found = Stacking.fit(labels, table)
    without = np.array([[np.nan, 0.8, 0.7], [0.5, 0.8, 0.7]])
    assert found.predict(without)[0] == pytest.approx(found.predict(without)[1])
    assert np.allclose(Stacking.fit(labels, np.where(np.isnan(table), 0.5, table)).weights, found.weights)


# Temperature


def test_temperature_mends_logits_that_are_three_times_too_large():
    rng = np.random.default_rng(3)
    right = rng.normal(0, 1.2, 4000)
    labels = (rng.random(4000) < ensembles.expit(right)).astype(int)
    wrong = ensembles.expit(3 * right)
    found = ensembles.calibrated(labels, wrong, np.arange(4000) % 5)
    assert found.model.value == pytest.approx(3, rel=0.1)
    assert log_loss(labels, found.probabilities) < log_loss(labels, wrong) - 0.1
    for equal in ("width", "mass"):
        error = expected_calibration_error(labels, found.probabilities, equal=equal)
        assert error < 0.03 < 0.1 < expected_calibration_error(labels, wrong, equal=equal)
    assert np.array_equal(np.argsort(found.model.predict(wrong)), np.argsort(wrong))


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0.001, 0.999)), min_size=2, max_size=30), st.floats(0.02, 50))
@EXAMPLES
def test_no_temperature_is_better(rows, other):
    labels, values = (np.array(column) for column in zip(*rows, strict=True))
    if len(set(labels)) < 2:
        return
    found = Temperature.fit(labels, values)
    assert 1 / 100 <= found.value <= 100
    loss, than = (log_loss(labels, Temperature(value).predict(values)) for value in (found.value, other))
    assert loss <= than + 1e-6


def test_temperature_of_predictions_that_mean_nothing():
    labels = np.arange(40) % 2
    opposite = np.where(labels == 1, 0.2, 0.8)
    assert Temperature.fit(labels, opposite).value == pytest.approx(100)
    assert Temperature.fit(labels, 1 - opposite).value == pytest.approx(1 / 100)
    with pytest.raises(ValueError, match=r"labels \[0\]: expected both 0 and 1"):
        Temperature.fit([0, 0], [0.1, 0.2])


# Cross-fitting


@pytest.mark.parametrize("combine", [ensembles.stacked, lambda y, x, f: ensembles.calibrated(y, ensembles.mean(x), f)])
@given(seed=st.integers(0, 10_000), changed=st.integers(0, 29))
@settings(deadline=None, max_examples=25)
def test_nobody_is_predicted_with_labels_of_the_own_fold(combine, seed, changed):
    labels, table, folds = cohort(30, seed=seed, missing=0.2)
    before = combine(labels, table, folds)
    turned = labels.copy()
    turned[changed] = 1 - turned[changed]
    after = combine(turned, table, folds)
    own = folds == folds[changed]
    assert np.array_equal(before.probabilities[own], after.probabilities[own])
    if combine is ensembles.stacked:  # a temperature may be at its limit with either label
        assert not np.array_equal(before.probabilities[~own], after.probabilities[~own])


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=25)
def test_cross_fitting_is_fitting_fold_by_fold(seed):
    labels, table, folds = cohort(40, seed=seed)
    found = ensembles.stacked(labels, table, folds)
    for fold in range(5):
        model = Stacking.fit(labels[folds != fold], table[folds != fold])
        assert np.array_equal(found.probabilities[folds == fold], model.predict(table[folds == fold]))
    assert np.array_equal(found.model.predict(table), Stacking.fit(labels, table).predict(table))


def test_labels_that_mean_nothing_are_not_predicted():
    """Without cross-fitting, 40 members of noise would separate 60 patients."""
    areas, flattered = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels, table = rng.permutation(np.arange(60) % 2), rng.random((60, 40))
        found = ensembles.stacked(labels, table, np.arange(60) % 5)
        areas.append(roc_auc(labels, found.probabilities))
        flattered.append(roc_auc(labels, found.model.predict(table)))
    assert np.mean(areas) < 0.56 < 0.9 < np.mean(flattered)


def test_ranks_within_folds_do_not_lean_against_the_fold():
    """The folds here differ in their share of labels, and the feature means nothing."""
    pooled, ranked = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        labels, folds = rng.permutation(np.arange(80) % 2), np.arange(80) % 5
        scores = ensembles.cross_fitted(Logistic.fit, labels, rng.normal(size=(80, 1)), folds).probabilities
        pooled.append(roc_auc(labels, scores))
        ranked.append(roc_auc(labels, ensembles.ranks_within_folds(scores, folds)))
    assert np.mean(pooled) < 0.45
    assert np.mean(ranked) == pytest.approx(0.5, abs=3 * np.std(ranked) / np.sqrt(len(ranked)))


def test_ranks_are_those_of_each_fold():
    found = ensembles.ranks_within_folds([0.9, 0.1, 0.3, 0.3, 0.2], [0, 0, 1, 1, 1])
    assert found == pytest.approx([3 / 4, 1 / 4, 2 / 3, 2 / 3, 1 / 6])
    with pytest.raises(ValueError, match=r"scores \(2,\) and folds \(3,\)"):
        ensembles.ranks_within_folds([0.1, 0.2], [0, 1, 2])


def test_cross_fitting_refuses():
    labels, table, folds = cohort(20)
    with pytest.raises(ValueError, match=r"folds \[0\]: expected two at least"):
        ensembles.stacked(labels, table, np.zeros(20, dtype=int))
    with pytest.raises(ValueError, match=r"fitting for fold 0 on the patients of the others: .*expected both 0 and 1"):
        ensembles.stacked(labels, table, labels)
    with pytest.raises(ValueError, match=r"labels \(3,\) and inputs \(20, 3\)"):
        ensembles.stacked([0, 1, 0], table, folds)
