import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from monai.metrics import DiceMetric, MeanIoU

from scripts.metrics import PatientProbabilities, PatientScore, RegionOverlap

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="needs the extra [train]")

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


def test_volume_error_is_of_the_group_and_has_a_sign():
    label = torch.zeros(3, 2, 4, 4)
    label[:2, 0, :2] = 1  # 8 pixels in each of two slices of patient a, none in patient b's
    pred = torch.zeros(3, 2, 4, 4)
    pred[0, 0] = pred[2, 0] = pred[2, 1] = 1  # 16 pixels in one, none in the other
    pred[1, 0, 0, :2] = 1
    metric = RegionOverlap()
    batch = {"patient": ["a", "a", "b"], "mri_type": ["T2w"] * 3, "plane": ["axial"] * 3}
    metric.update((batch, {"pred": pred - 0.5, "label": label}))
    rows = {(row["patient"], row["region"]): row for row in metric.table()}
    assert rows["a", "WT"]["volume_error"] == pytest.approx((18 - 16) / 16)
    assert rows["a", "ET"]["volume_error"] is None
    assert (rows["b", "WT"]["volume_error"], rows["b", "WT"]["dice"]) == (None, 0)
    assert "slice_hd95_mm" not in rows["a", "WT"]


def outline(mask):
    """Pixels of a mask that have a neighbour outside it, by its four sides; the picture's edge is outside."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~inside)


def hd95(one, other, spacing):
    distances = np.linalg.norm((outline(one)[:, None] - outline(other)) * spacing, axis=-1)
    return max(np.percentile(distances.min(0), 95), np.percentile(distances.min(1), 95))


def test_distances_are_those_of_slices_with_both_and_averaged_by_group():
    rng = np.random.default_rng(7)
    label, pred = np.zeros((5, 2, 24, 20), dtype=bool), np.zeros((5, 2, 24, 20), dtype=bool)
    for masks in (label, pred):
        for n in range(5):
            for region in range(2):
                top, left = rng.integers(1, 12, size=2)
                masks[n, region, top : top + 7 + region, left : left + 5] = True
    pred[1, 0] = False  # missed: no distance
    label[2, 0] = False  # invented: none either
    label[3, 1] = pred[4, 1] = False
    who = ["a", "a", "a", "b", "b"]
    spacing = np.array([2.0, 0.5])  # mm from row to row and from column to column
    field = torch.tensor(spacing * (24, 20)).float().repeat(5, 1)
    batch = {"patient": who, "mri_type": ["T2w"] * 5, "plane": ["axial"] * 5, "field_of_view": field}
    output = {"pred": torch.from_numpy(pred).float() - 0.5, "label": torch.from_numpy(label).float()}
    metric = RegionOverlap(distances=True)
    for part in (slice(0, 2), slice(2, 5)):  # batches divide a group
        metric.update(
            ({key: value[part] for key, value in batch.items()}, {key: value[part] for key, value in output.items()})
        )
    rows = {(row["patient"], row["region"]): row["slice_hd95_mm"] for row in metric.table()}
    assert rows["a", "WT"] == pytest.approx(hd95(pred[0, 0], label[0, 0], spacing))
    assert rows["b", "WT"] == pytest.approx(np.mean([hd95(pred[n, 0], label[n, 0], spacing) for n in (3, 4)]))
    assert rows["a", "ET"] == pytest.approx(np.mean([hd95(pred[n, 1], label[n, 1], spacing) for n in (0, 1, 2)]))
    assert rows["b", "ET"] is None


@pytest.mark.parametrize(("width", "expected"), [(32, 3), (16, 1.5), (float("nan"), None)])
def test_distance_of_a_shifted_square_is_the_shift(width, expected):
    """In millimetres; a slice of unknown size has none."""
    label = torch.zeros(1, 2, 32, 32)
    label[:, :, 8:16, 8:16] = 1
    metric = RegionOverlap(distances=True)
    batch = {"patient": ["a"], "mri_type": ["T2w"], "plane": ["axial"], "field_of_view": torch.tensor([[32.0, width]])}
    metric.update((batch, {"pred": torch.roll(label, 3, dims=-1) - 0.5, "label": label}))
    assert [row["slice_hd95_mm"] for row in metric.table()] == [expected, expected]


def test_distances_are_not_computed_unasked(monkeypatch):
    """Validation asks for the Dice after every epoch."""
    monkeypatch.setattr("scripts.metrics.compute_hausdorff_distance", None)
    metric = RegionOverlap()
    for batch, output in batches():
        metric.update((batch, output))
    assert metric.compute() > 0


def test_distances_without_scipy(monkeypatch):
    monkeypatch.setattr("scripts.metrics.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"SciPy: pip install '\.\[train\]'"):
        RegionOverlap(distances=True)


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
    for seed in (2, 3):
        state = engine.run([0, 1, 2])
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


def patients_with(*modalities):
    found = PatientProbabilities()
    for number, values in enumerate(modalities):
        found.add("a", f"modality {number}", torch.logit(torch.tensor(values)).reshape(-1, 1))
    return found


def test_interval_of_a_patient():
    agreeing = patients_with([0.6, 0.61, 0.6], [0.6, 0.59, 0.61])
    low, high = agreeing.agreement_interval("a")
    assert 0.59 < low < agreeing.of_patient("a") < high < 0.61
    apart = patients_with([0.9, 0.91, 0.9], [0.2, 0.21, 0.2])
    low, high = apart.agreement_interval("a")
    assert low < 0.25
    assert high > 0.85
    assert patients_with([0.6], []).agreement_interval("a") is None
    assert agreeing.agreement_interval("b") is None


def test_members_are_averaged_and_widen_the_interval():
    found, alone = PatientProbabilities(), PatientProbabilities()
    chances = torch.tensor([[0.2, 0.8], [0.3, 0.7]])
    found.add("a", "FLAIR", torch.logit(chances))
    alone.add("a", "FLAIR", torch.logit(chances[:, :1]))
    assert found.sequences["a"]["FLAIR"] == pytest.approx([0.5, 0.5])
    low, high = found.agreement_interval("a")
    assert low < 0.3
    assert high > 0.7
    assert alone.agreement_interval("a") == pytest.approx((0.2, 0.3))


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4), min_size=1, max_size=4))
def test_interval_lies_within_what_was_predicted(modalities):
    interval = patients_with(*modalities).agreement_interval("a")
    if sum(map(len, modalities)) < 2:
        assert interval is None
    else:
        values = [value for modality in modalities for value in modality]
        assert min(values) - 1e-6 <= interval[0] <= interval[1] <= max(values) + 1e-6


# Networks that give no numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_overlap_of_a_prediction_that_is_not_finite_is_no_number(value):
    metric = RegionOverlap()
    batch = {"patient": ["a", "b"], "mri_type": ["FLAIR", "FLAIR"], "plane": ["axial", "axial"]}
    pred, label = torch.ones(2, 2, 4, 4), torch.ones(2, 2, 4, 4)
    pred[0, 1, 2, 3] = value
    metric.update((batch, {"pred": pred, "label": label}))
    scores = {(row["patient"], row["region"]): (row["dice"], row["iou"], row["volume_error"]) for row in metric.table()}
    assert scores["a", "WT"] == scores["a", "ET"] == (None, None, None)
    assert scores["b", "WT"] == (1, 1, 0)
    assert list(metric.failures()) == ["a/FLAIR/axial"]
    assert "NaN or infinity" in metric.failures()["a/FLAIR/axial"]
    assert np.isnan(metric.compute()), "which a training takes for the worst of scores"


@pytest.mark.parametrize("score", ["auc", "log_loss"])
def test_score_of_a_probability_that_is_none_is_no_number(score):
    metric = PatientScore(score)
    for patient, value, label in (("a", float("nan"), 0), ("b", 1.0, 1), ("c", -1.0, 0)):
        metric.update(({"patient": patient, "mri_type": "FLAIR", "label": label}, {"pred": torch.tensor([[value]])}))
    assert np.isnan(metric.compute())
