import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from scripts.evaluation import ensembles
from scripts.evaluation.scores import roc_auc

pytest.importorskip("sklearn", reason="needs the extra [train]")

EXAMPLES = settings(deadline=None, max_examples=50)
COMBINE = [ensembles.mean, ensembles.logit_mean, ensembles.rank_mean]

CHANCE = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 1))
TABLES = st.tuples(st.integers(1, 12), st.integers(1, 4)).flatmap(
    lambda shape: arrays.arrays(np.float64, shape, elements=st.one_of(CHANCE, st.just(np.nan)))
)
# patients without any member have one of 0.5
MEMBERS = TABLES.map(lambda table: np.where(np.isnan(table).all(axis=1, keepdims=True), 0.5, table))


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


# Logistic regression


def test_constant_and_separable_features_are_fitted():
    labels, folds = np.array([0, 0, 0, 1, 1, 1] * 2), np.repeat([0, 1], 6)
    found = ensembles.cross_fitted(labels, np.column_stack([labels * 1e6, np.full(12, 0.1)]), folds)
    assert roc_auc(labels, found) == 1
    assert ensembles.cross_fitted(labels, np.zeros((12, 1)), folds) == pytest.approx(np.full(12, 0.5))


def features_of(n=30, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 2)
    return labels, rng.normal(labels[:, None] * [0.5, 1.0], 1.0), np.arange(n) % 5


@pytest.mark.slow
@given(seed=st.integers(0, 10_000), changed=st.integers(0, 29))
@settings(deadline=None, max_examples=15)
def test_nobody_is_predicted_with_labels_of_the_own_fold(seed, changed):
    labels, features, folds = features_of(seed=seed)
    before = ensembles.cross_fitted(labels, features, folds)
    turned = labels.copy()
    turned[changed] = 1 - turned[changed]
    after = ensembles.cross_fitted(turned, features, folds)
    own = folds == folds[changed]
    assert np.array_equal(before[own], after[own])
    assert not np.array_equal(before[~own], after[~own])


@pytest.mark.slow
def test_labels_that_mean_nothing_are_not_predicted():
    """Without cross-fitting, 40 features of noise would separate 60 patients."""
    areas = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels, features = rng.permutation(np.arange(60) % 2), rng.random((60, 40))
        areas.append(roc_auc(labels, ensembles.cross_fitted(labels, features, np.arange(60) % 5)))
    assert np.mean(areas) < 0.56


@pytest.mark.slow
def test_ranks_within_folds_do_not_lean_against_the_fold():
    """The folds here differ in their share of labels, and the feature means nothing."""
    pooled, ranked = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels, folds = rng.permutation(np.arange(80) % 2), np.arange(80) % 5
        scores = ensembles.cross_fitted(labels, rng.normal(size=(80, 1)), folds)
        pooled.append(roc_auc(labels, scores))
        ranked.append(roc_auc(labels, ensembles.ranks_within_folds(scores, folds)))
    assert np.mean(pooled) < 0.45
    assert np.mean(ranked) == pytest.approx(0.5, abs=3 * np.std(ranked) / np.sqrt(len(ranked)))


def test_ranks_are_those_of_each_fold():
    found = ensembles.ranks_within_folds(np.array([0.9, 0.1, 0.3, 0.3, 0.2]), np.array([0, 0, 1, 1, 1]))
    assert found == pytest.approx([3 / 4, 1 / 4, 2 / 3, 2 / 3, 1 / 6])


def test_cross_fitting_refuses():
    labels, features, _ = features_of(20)
    with pytest.raises(ValueError, match=r"fold 0: the patients of the other folds have labels \[1\], expected both"):
        ensembles.cross_fitted(labels, features, labels)
