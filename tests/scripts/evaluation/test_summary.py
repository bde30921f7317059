import json
import random

import numpy as np
import pytest

from scripts.evaluation.cohort import COLUMNS
from scripts.evaluation.resampling import bootstrap_interval
from scripts.evaluation.scores import delong_interval, roc_auc
from scripts.evaluation.summary import summarise
from scripts.evaluation.tables import tables
from scripts.files import write_csv

special = pytest.importorskip("scipy.special", reason="needs the extra [train]")
sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="needs the extra [train]")

MRI_TYPES = ("FLAIR", "T1wCE")
SEEDS = (1, 2, 3)
FEW = {"resamples": 60, "permutations": 99}


def predictions(n=80, shift=1.0, size=0.0, seed=0):
    """Out-of-fold rows; the label shows in the probabilities by ``shift``, in the tumours' volume by ``size``."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 2)
    rows = []
    for i, label in enumerate(labels):
        volume = float(np.exp(rng.normal(3 + size * label, 0.5)))
        patient_logit = rng.normal((label - 0.5) * shift, 1.0)
        for mri_type in MRI_TYPES:
            kept = int(rng.integers(5, 40))
            for number in SEEDS:
                rows.append({
                    "patient": f"{i:05d}", "fold": i % 5, "seed": number, "mri_type": mri_type, "label": int(label),
                    "probability": float(special.expit(patient_logit + rng.normal(0, 0.3))), "kept": kept,
                    "tumour_volume": volume, "scanner": "AB"[i % 3 == 0], "site": "X" if label else f"Y{i % 2}",
                })  # fmt: skip
    # no FLAIR of one patient, nothing of another
    for row in rows:
        if row["patient"] == "00003" or (row["patient"], row["mri_type"]) == ("00004", "FLAIR"):
            row |= {"probability": None, "kept": None}
    return rows


@pytest.fixture(scope="module")
def rows():
    return predictions()


@pytest.fixture(scope="module")
def summary(rows):
    return summarise(rows, subgroups=("scanner", "site"), **FEW)


def by_hand(rows, **chosen):
    """Labels and mean probabilities by patient of the rows that have the chosen values."""
    there = [row for row in rows if row["probability"] is not None and all(row[k] == v for k, v in chosen.items())]
    found = {}
    for row in there:
        found.setdefault(row["patient"], (row["label"], []))[1].append(row["probability"])
    labels, values = zip(*(found[patient] for patient in sorted(found)), strict=True)
    return list(labels), [float(np.mean(value)) for value in values]


def test_what_is_there(summary):
    assert set(summary["ensembles"]) == {"mean", "rank_mean", "logit_mean"}
    assert set(summary["mri_types"]) == set(MRI_TYPES)
    assert set(summary["seeds"]) == {"1", "2", "3"}
    assert (summary["patients"], summary["positive"], summary["folds"]) == (80, 40, 5)
    assert summary["without_prediction"] == 1
    assert summary["left_out"] == {}
    assert "brier" not in summary["ensembles"]["rank_mean"]


def test_summary_is_json_without_nan(summary):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    assert json.loads(json.dumps(summary), parse_constant=refuse) == summary


def test_figures_of_modalities_and_seeds_against_sklearn(rows, summary):
    for kind, names, key in (("mri_types", MRI_TYPES, "mri_type"), ("seeds", SEEDS, "seed")):
        for name in names:
            labels, values = by_hand(rows, **{key: name})
            found = summary[kind][str(name)]
            assert found["patients"] == len(labels)
            assert found["auc"]["value"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, values))
            assert found["auc"]["delong"] == pytest.approx(delong_interval(labels, values)[1:])
            assert found["pr_auc"]["value"] == pytest.approx(sklearn_metrics.average_precision_score(labels, values))
            assert found["brier"]["value"] == pytest.approx(sklearn_metrics.brier_score_loss(labels, values))
            assert found["log_loss"]["value"] == pytest.approx(sklearn_metrics.log_loss(labels, values))
            expected = bootstrap_interval(labels, values, "brier", resamples=60)
            assert found["brier"]["bootstrap"] == pytest.approx(expected)
    assert summary["mri_types"]["FLAIR"]["patients"] == 78


def test_patient_without_a_prediction_has_the_prior(rows):
    labels, values = by_hand(rows)
    prior = next(row["label"] for row in rows if row["patient"] == "00003")
    found = summarise(rows, **FEW)["ensembles"]["mean"]
    assert found["patients"] == 80
    expected = sklearn_metrics.brier_score_loss([*labels, prior], [*values, 0.5])
    assert found["brier"]["value"] == pytest.approx(expected)


def test_order_of_rows_does_not_matter(rows, summary):
    mixed = list(rows)
    random.Random(0).shuffle(mixed)
    found = summarise(mixed, subgroups=("scanner", "site"), **FEW)
    assert found == summary


@pytest.mark.slow
def test_rows_may_come_from_a_csv_file(rows, summary):
    as_text = [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    assert summarise(as_text, subgroups=("scanner", "site"), **FEW) == summary


def test_spread_of_seeds(rows, summary):
    areas = [roc_auc(*by_hand(rows, seed=number)) for number in SEEDS]
    spread = summary["controls"]["seeds"]["all"]
    # here patients without any prediction are left out
    assert list(spread["auc"].values()) == pytest.approx(areas)
    assert (spread["min"], spread["max"]) == pytest.approx((min(areas), max(areas)))
    assert spread["sd"] == pytest.approx(np.std(areas, ddof=1))
    alone = roc_auc(*by_hand(rows, seed=2, mri_type="T1wCE"))
    assert summary["controls"]["seeds"]["T1wCE"]["auc"]["2"] == pytest.approx(alone)
    one_seed = summarise([row for row in rows if row["seed"] == 1], **FEW)
    assert one_seed["controls"]["seeds"]["all"]["sd"] is None


@pytest.mark.slow
def test_signal_is_distinguished_from_none(summary):
    assert summary["controls"]["permutation"] == {"permutations": 99, "p": 0.01}
    for name in ("mean", "logit_mean"):
        low, high = summary["ensembles"][name]["auc"]["delong"]
        assert 0.5 < low < summary["ensembles"][name]["auc"]["value"] < high
    chance = summarise(predictions(shift=0.0, seed=8), **FEW)
    assert chance["controls"]["permutation"]["p"] > 0.05
    low, high = chance["ensembles"]["mean"]["auc"]["bootstrap"]
    assert low < 0.5 < high


@pytest.mark.slow
def test_baselines_that_know_nothing_and_that_know_all():
    found = summarise(predictions(shift=2.0), **FEW)["baselines"]
    assert set(found) == {"tumour_volume", "slices"}
    for weak in found.values():
        assert weak["model_against_it"]["difference"] == pytest.approx(weak["model_auc"] - weak["auc"]["value"])
        assert weak["model_against_it"]["p"] < 0.05
        assert weak["model_against_it"]["low"] > 0
    strong = summarise(predictions(size=4.0), **FEW)["baselines"]["tumour_volume"]
    assert strong["auc"]["value"] > 0.95
    assert min(strong["auc"]["folds"].values()) > 0.9
    assert strong["model_against_it"]["high"] < 0


@pytest.mark.slow
def test_baselines_are_of_what_is_known(rows):
    without = [{key: value for key, value in row.items() if key not in ("kept", "tumour_volume")} for row in rows]
    assert summarise(without, **FEW)["baselines"] == {}
    partly = [row | {"tumour_volume": None} if row["patient"] < "00010" else row for row in rows]
    found = summarise(partly, **FEW)["baselines"]
    assert (found["tumour_volume"]["patients"], found["slices"]["patients"]) == (70, 80)


@pytest.mark.slow
def test_slices_are_a_baseline_where_they_predict_the_label(rows):
    telling = [row | {"kept": row["kept"] and 10 * row["label"] + len(row["patient"])} for row in rows]
    assert summarise(telling, **FEW)["baselines"]["slices"]["auc"]["value"] > 0.95


@pytest.mark.slow
def test_subgroups(rows, summary):
    for value in "AB":
        found = summary["subgroups"]["scanner"][value]
        labels, values = by_hand([row for row in rows if row["patient"] != "00003"], scanner=value)
        if value == "B":  # the patient with the prior
            assert found["patients"] == len(labels) + 1
        else:
            assert found["auc"]["value"] == pytest.approx(roc_auc(labels, values))
    assert summary["subgroups"]["site"]["X"] == {"patients": 40, "positive": 40, "auc": None}
    unknown = [row | {"scanner": None} if row["patient"] == "00001" else row for row in rows]
    assert summarise(unknown, subgroups=["scanner"], **FEW)["subgroups"]["scanner"]["unknown"]["patients"] == 1


def test_curves(summary):
    for name in ("mean", "FLAIR"):
        curves = summary["curves"][name]
        assert len(curves["roc"]["fpr"]) == len(curves["roc"]["high"]) == 101
        assert sum(part["patients"] for part in curves["calibration"]) == summary["patients"] - 2 * (name == "FLAIR")
        assert len(curves["decision"]["model"]) == 99
    assert set(summary["curves"]["rank_mean"]) == {"roc"}


def test_what_cannot_be_fitted_is_said(rows):
    """Where the other folds have one label alone."""
    split = [row | {"fold": row["label"]} for row in rows]
    found = summarise(split, **FEW)
    assert set(found["left_out"]) == {"tumour_volume", "slices"}
    assert "expected both 0 and 1" in found["left_out"]["slices"]
    assert found["ensembles"]["mean"]["sensitivity"] == {"value": None, "wilson": [None, None]}
    assert found["ensembles"]["mean"]["auc"]["folds"] == {"0": None, "1": None}


def test_tables_can_be_written(summary, tmp_path):
    found = tables(summary)
    assert set(found) == {"scores", "seeds", "controls", "baselines", "subgroups", "roc", "calibration", "decision"}
    for name, table in found.items():
        write_csv(table, tmp_path / f"{name}.csv")  # which refuses columns that differ
        assert all(set(row) == set(table[0]) for row in table)
    scores = {(row["kind"], row["name"]): row for row in found["scores"]}
    assert len(scores) == 3 + 2 + 3
    mean = summary["ensembles"]["mean"]
    assert scores["ensemble", "mean"]["auc_delong_low"] == mean["auc"]["delong"][0]
    assert scores["ensemble", "mean"]["ece_mass"] == mean["ece"]["mass"]
    assert scores["ensemble", "rank_mean"]["brier"] is None
    assert scores["seed", "2"]["log_loss_high"] == summary["seeds"]["2"]["log_loss"]["bootstrap"][1]
    assert {row["value"]: row["auc"] for row in found["subgroups"]}["X"] is None


def test_tables_of_little(rows):
    one = [{key: row[key] for key in COLUMNS} for row in rows if row["mri_type"] == "FLAIR" and row["seed"] == 1]
    found = tables(summarise(one, **FEW))
    assert {"baselines", "subgroups"}.isdisjoint(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 1}, "patient 00000: label 1 and 0; expected the same in all rows"),
        ({"fold": 3}, "patient 00000: fold 3 and 0; expected the same in all rows, with the same folds"),
        ({"fold": None}, "patient 00000: fold None, expected a whole number"),
        ({"probability": 1.2}, r"patient 00000, FLAIR, seed 1: probability 1\.2, expected 0 to 1"),
        ({"tumour_volume": -3}, r"patient 00000, FLAIR, seed 1: tumour_volume -3\.0, expected 0 to inf"),
        ({"seed": 2}, "patient 00000, FLAIR, seed 2: two rows; expected one"),
        ({"scanner": "C"}, "patient 00000: scanner 'C' and 'B'; expected one per patient"),
    ],
)
def test_rows_that_contradict_each_other(change, message):
    rows = predictions(n=10)
    for row in rows:
        row["label"] = int(row["patient"]) % 2
    rows[0] = rows[0] | change
    with pytest.raises(ValueError, match=message):
        summarise(rows, subgroups=["scanner"], **FEW)


def test_what_is_refused(rows):
    with pytest.raises(ValueError, match="no out-of-fold predictions"):
        summarise([])
    with pytest.raises(ValueError, match=r"lacks \['fold'\], expected"):
        summarise([{key: value for key, value in rows[0].items() if key != "fold"}])
    with pytest.raises(ValueError, match="label 2, expected 0 or 1"):
        summarise([row | {"label": 2} for row in rows])
    with pytest.raises(ValueError, match=r"folds \[1\]: expected at least two"):
        summarise([row | {"fold": 1} for row in rows])
    with pytest.raises(ValueError, match="none of 80 patients has a probability"):
        summarise([row | {"probability": None} for row in rows])
