import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from monai.metrics import DiceMetric, MeanIoU

from scripts.metrics import (
    MeanLoss,
    PatientProbabilities,
    PatientScore,
    RegionOverlap,
    auc_interval,
    log_loss,
    roc_auc,
)

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="needs the extra [train]")
EXAMPLES = settings(deadline=None, max_examples=50)

PATIENTS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=2, max_size=40)
BOTH_LABELS = PATIENTS.filter(lambda rows: len({label for label, _ in rows}) == 2)


def columns(rows):
    return [label for label, _ in rows], [value / 20 for _, value in rows]


# Overlap of regions


def batches(seed=0, sizes=(3, 4, 2)):
    """Batches of slices of two patients and two planes, mixed up, as a shuffled loader gives them."""
    rng = np.random.default_rng(seed)
    for size in sizes:
        batch = {
            "patient": [f"p{rng.integers(2)}" for _ in range(size)],
            "mri_type": ["FLAIR"] * size,
            "plane": [["axial", "coronal"][rng.integers(2)] for _ in range(size)],
        }
        output = {
            "pred": torch.from_numpy(rng.normal(size=(size, 2, 6, 5)).astype(np.float32)),
            "label": torch.from_numpy((rng.random((size, 2, 6, 5)) < 0.4).astype(np.float32)),
        }
        yield batch, output


def by_group(seed=0):
    """Masks of all slices of a group one upon the other: ``{group: (pred, label)}`` each ``(2, n, H, W)``."""
    groups = {}
    for batch, output in batches(seed):
        for index, group in enumerate(zip(batch["patient"], batch["mri_type"], batch["plane"], strict=True)):
            groups.setdefault(group, []).append((output["pred"][index] > 0, output["label"][index] > 0))
    return {
        group: tuple(torch.stack(masks, dim=1).float() for masks in zip(*slices, strict=True))
        for group, slices in groups.items()
    }


@pytest.mark.parametrize("region", ["WT", "ET", None])
@pytest.mark.parametrize("score", ["dice", "iou"])
def test_overlap_against_monai(score, region):
    metric = RegionOverlap(score, region)
    for batch, output in batches():
        metric.update((batch, output))
    values = []
    for pred, label in by_group().values():
        monai = DiceMetric() if score == "dice" else MeanIoU()
        both = monai(pred[None], label[None])[0].tolist()
        values += both if region is None else [both[("WT", "ET").index(region)]]
    assert metric.compute() == pytest.approx(np.mean(values), abs=1e-6)


def test_overlap_against_numpy_per_group():
    metric = RegionOverlap()
    for batch, output in batches(1):
        metric.update((batch, output))
    rows = {(row["patient"], row["mri_type"], row["plane"], row["region"]): row for row in metric.table()}
    expected = by_group(1)
    assert len(rows) == 2 * len(expected)
    for group, (pred, label) in expected.items():
        for index, region in enumerate(("WT", "ET")):
            p, t = pred[index].numpy().astype(bool), label[index].numpy().astype(bool)
            assert rows[(*group, region)]["dice"] == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()))
            assert rows[(*group, region)]["iou"] == pytest.approx((p & t).sum() / (p | t).sum())


def test_overlap_counts_patients_alike_however_many_slices_they_have():
    def slices(n, right):
        label = torch.ones(n, 2, 2, 2)
        batch = {"patient": [f"p{n}"] * n, "mri_type": ["T2w"] * n, "plane": ["axial"] * n}
        return batch, {"pred": label if right else -label, "label": label}

    metric = RegionOverlap()
    metric.update(slices(9, right=True))
    metric.update(slices(1, right=False))
    assert metric.compute() == 0.5


def test_overlap_without_the_region():
    metric = RegionOverlap("dice", "ET")
    batch = {"patient": ["a", "b"], "mri_type": ["T2w"] * 2, "plane": ["axial"] * 2}
    label = torch.zeros(2, 2, 3, 3)
    label[0, 1, 0, 0] = label[:, 0, 1] = 1
    pred = torch.where(label > 0, 1.0, -1.0)
    metric.update((batch, {"pred": pred, "label": label}))
    assert metric.compute() == 1.0  # that of patient a alone
    assert [row["dice"] for row in metric.table() if row["patient"] == "b" and row["region"] == "ET"] == [None]
    metric.reset()
    with pytest.raises(NotComputableError, match="no slice with ET"):
        metric.compute()


def test_overlap_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="'f1' of region None: expected dice or iou"):
        RegionOverlap("f1")
    with pytest.raises(ValueError, match="'TC'"):
        RegionOverlap("dice", "TC")


def test_metrics_run_in_an_engine_and_start_anew_each_time():
    outputs = iter([*batches(2), *batches(3)])

    def step(engine, _):
        engine.state.batch, output = next(outputs)
        return output

    engine = Engine(step)
    RegionOverlap().attach(engine, "dice")
    MeanLoss(torch.nn.BCEWithLogitsLoss()).attach(engine, "loss")
    for seed in (2, 3):
        state = engine.run([0, 1, 2])
        logits, labels = (torch.cat([output[key] for _, output in batches(seed)]) for key in ("pred", "label"))
        expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        assert state.metrics["loss"] == pytest.approx(float(expected), abs=1e-6)
        dices = [DiceMetric()(pred[None], label[None]).mean() for pred, label in by_group(seed).values()]
        assert state.metrics["dice"] == pytest.approx(float(np.mean(dices)), abs=1e-6)


# Patients


def logit(*probabilities):
    return torch.logit(torch.tensor(probabilities, dtype=torch.float64))[:, None]


def test_mean_over_sequences_then_over_modalities():
    chances = PatientProbabilities()
    chances.add("a", "FLAIR", logit(0.1, 0.2, 0.3))
    chances.add("a", "T1w", logit(0.8))
    assert chances.of_series("a", "FLAIR") == pytest.approx(0.2)
    assert chances.of_series("a", "T2w") is None
    assert chances.of_patient("a") == pytest.approx(0.5)


def test_a_patient_does_not_depend_on_what_was_computed_first():
    """Not even in the last digit: 0.1 + 0.2 + 0.3 is more than 0.3 + 0.2 + 0.1 in floating point."""
    values = {"FLAIR": [0.1], "T1w": [0.2], "T1wCE": [0.3]}
    found = []
    for names in (list(values), list(values)[::-1]):
        chances = PatientProbabilities()
        chances.sequences["a"] = {name: values[name] for name in names}
        found.append(chances.of_patient("a"))
    assert found[0] == found[1]


def test_prior_of_who_has_no_sequence():
    chances = PatientProbabilities(prior=0.3)
    chances.add("a", "FLAIR", torch.zeros(0, 1))
    assert chances.of_patient("a") == 0.3
    assert chances.of_patient("never seen") == 0.3
    chances.add("a", "T1w", logit(0.9))
    assert chances.of_patient("a") == pytest.approx(0.9)


@given(BOTH_LABELS)
@EXAMPLES
def test_auc_against_sklearn(rows):
    labels, values = columns(rows)
    assert roc_auc(labels, values) == pytest.approx(sklearn_metrics.roc_auc_score(labels, values))


@given(BOTH_LABELS)
@EXAMPLES
def test_log_loss_against_sklearn(rows):
    labels, values = columns(rows)
    values = [0.01 + 0.98 * value for value in values]
    assert log_loss(labels, values) == pytest.approx(sklearn_metrics.log_loss(labels, values))


def test_log_loss_of_certainty_is_finite():
    assert log_loss([1, 0], [1.0, 0.0]) == pytest.approx(0, abs=1e-6)
    assert 10 < log_loss([1], [0.0]) < 20


def test_auc_of_one_label_alone():
    assert math.isnan(roc_auc([1, 1], [0.1, 0.9]))
    assert all(math.isnan(bound) for bound in auc_interval([0, 0], [0.1, 0.9]))


@pytest.mark.parametrize("score", ["auc", "log_loss"])
def test_score_is_of_patients_not_of_sequences(score):
    rng = np.random.default_rng(5)
    metric = PatientScore(score, prior=0.4)
    labels, values = [], []
    for patient in range(12):
        count = int(rng.integers(0, 6))
        chances = rng.uniform(0.05, 0.95, count)
        metric.update(
            ({"patient": str(patient), "mri_type": "FLAIR", "label": patient % 2}, {"pred": logit(*chances).float()})
        )
        labels.append(patient % 2)
        values.append(chances.mean() if count else 0.4)
    expected = {"auc": sklearn_metrics.roc_auc_score, "log_loss": sklearn_metrics.log_loss}[score]
    assert metric.compute() == pytest.approx(expected(labels, values), abs=1e-5)
    metric.reset()
    metric.update(({"patient": "a", "mri_type": "FLAIR", "label": 1}, {"pred": logit(0.5)}))
    assert metric.patients.labels == {"a": 1}


def test_unknown_score():
    with pytest.raises(ValueError, match=r"score 'f1': expected one of .*auc.*log_loss"):
        PatientScore("f1")


# The interval


def cohort(n, seed=0, shift=1.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return labels, 1 / (1 + np.exp(-rng.normal(labels * shift, 1.0)))


def test_interval_contains_the_estimate_and_shrinks_with_patients():
    widths = []
    for n in (20, 100, 600):
        labels, values = cohort(n)
        low, high = auc_interval(labels, values, resamples=500)
        assert 0 <= low <= roc_auc(labels.tolist(), values.tolist()) <= high <= 1
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1] > 2 * widths[2]


def test_interval_follows_level_and_seed():
    labels, values = cohort(60)
    low, high = auc_interval(labels, values, resamples=500)
    assert auc_interval(labels, values, resamples=500) == (low, high)
    assert auc_interval(labels, values, resamples=500, seed=1) != (low, high)
    narrow = auc_interval(labels, values, level=0.5, resamples=500)
    assert low < narrow[0] < narrow[1] < high


def test_interval_is_as_wide_as_theory_says():
    """Hanley and McNeil's standard error, for an AUC of 0.76 on 118 patients."""
    labels, values = cohort(118, seed=3)
    area, m = roc_auc(labels.tolist(), values.tolist()), 59
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = math.sqrt((area * (1 - area) + (m - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)) / m**2)
    low, high = auc_interval(labels, values)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_interval_of_noise_contains_one_half():
    labels, values = cohort(80, seed=4, shift=0.0)
    low, high = auc_interval(labels, values, resamples=500)
    assert low < 0.5 < high


def test_interval_of_a_perfect_score():
    assert auc_interval([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], resamples=50) == (1.0, 1.0)
