"""The report: what it finds and computes, what it writes, and how its pages behave in a browser."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import time
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest
import yaml
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as reference_roc

from custom_transforms import SliceGeometry
from scripts import cli
from scripts.evaluation import scores
from scripts.files import read_csv, write_csv, write_json
from scripts.prepared import PreparedSeries, write_series
from scripts.report import figures, pages, tables, viewer

EVIL = '<script>alert(1)<!--&"'  # no identifier has a slash
SHAPE = (40, 48, 12)  # X, Y, Z
AFFINE = np.diag([-2.0, -2.0, 5.0, 1.0])  # as DICOM: columns to the left, rows to the back
KEPT = [3, 4, 5, 6, 7]


def write_config(folder, **values):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resolved_config.yaml").write_text(yaml.safe_dump(values))


def volume_and_masks():
    """A head with a tumour, ``(X, Y, Z)``, and its masks ``(N, 2, H, W)``."""
    x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    head = ((x - 20) / 17) ** 2 + ((y - 24) / 21) ** 2 < 1
    whole = ((x - 12) ** 2 + (y - 20) ** 2 < 36) & (abs(z - 5) < 3)
    enhancing = ((x - 12) ** 2 + (y - 20) ** 2 < 9) & (abs(z - 5) < 2)
    volume = (head * (80 + 4 * z) + whole * 60 + enhancing * 50).astype(np.float32)
    geometry = SliceGeometry.from_affine(AFFINE, SHAPE)
    return volume, np.stack([geometry.to_stack(whole), geometry.to_stack(enhancing)], axis=1), geometry


def patient_row(patient, chances, **more):
    series = {
        mri_type: {"warnings": [], "slices": 12, "kept": 5, "sequences": [value], "probability": value, "seconds": 1.5}
        for mri_type, value in chances.items()
    }
    chance = float(np.mean(list(chances.values()))) if chances else 0.5
    return {"patient": patient, "probability": chance, "used": list(chances), "series": series, **more}


def write_patients(folder, rows, **config):
    write_json(
        {"note": pages.RESEARCH_ONLY, "weights": {}, "runtime": "torch fp32", "patients": rows},
        folder / "patients.json",
    )
    write_config(folder, job="inference", seed=67, **config)


def write_pictures(studies, prepared, patients):
    """Studies of FLAIR and T1wCE, and the series prepared of them."""
    volume, masks, geometry = volume_and_masks()
    index = {}
    for patient in patients:
        for mri_type, name in (("FLAIR", "flair"), ("T1wCE", "t1ce")):
            study = studies / patient
            study.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(volume, AFFINE), study / f"{patient}_{name}.nii.gz")
            image = np.clip(geometry.to_stack(volume), 0, 255).astype(np.uint8)[KEPT]
            info = {"patient": patient, "mri_type": mri_type}
            write_series(prepared / patient / f"{mri_type}.h5", image, np.array(KEPT), masks, info, geometry)
            index[f"{patient}/{mri_type}"] = {"file": f"{patient}/{mri_type}.h5"}
    write_json({"configuration": {}, "series": index}, prepared / "index.json")


@pytest.fixture
def prediction(tmp_path):
    """A prediction of two patients with pictures, one of them with a heat map, and of two without a usable series."""
    folder = tmp_path / "prediction"
    write_pictures(tmp_path / "studies", folder / "prepared", ("00001", "00002"))
    masks = volume_and_masks()[1]
    (folder / "explanations").mkdir()
    heat = np.zeros((len(KEPT), *masks.shape[2:]), np.uint8)
    heat[:, 4:6, 3:5] = 255
    explained = folder / "explanations" / "00001_FLAIR.npz"
    np.savez(explained, maps=heat, slices=KEPT, by_slice=-np.arange(len(KEPT)) / 10)
    changes = {"by_region": {"ET": -0.125}, "randomisation": {"statement": "the maps change."}}
    write_json(changes, explained.with_suffix(".json"))
    warned = patient_row("00002", {"FLAIR": 0.8, "T1wCE": 0.9})
    warned["series"]["FLAIR"]["warnings"] = ["2 slices were missing"]
    failed = patient_row(EVIL, {}, reason="cohort prior 0.5: FLAIR: <b>truncated</b> file")
    failed["series"] = {"FLAIR": {"warnings": [], "reason": "<b>truncated</b> file"}}
    rows = [
        patient_row("00001", {"FLAIR": 0.2, "T1wCE": 0.4}, agreement_interval=[0.1, 0.45]),
        warned,
        failed,
        patient_row("00004", {}, reason="cohort prior 0.5: no study of this patient"),
    ]
    write_patients(folder, rows, dataset_dir=str(tmp_path / "studies"))
    return folder


@pytest.fixture
def many(tmp_path):
    """A prediction of 20 patients without pictures, the last of them failed."""
    rng = np.random.default_rng(0)
    rows = [patient_row(f"{number:05d}", {"FLAIR": float(rng.uniform())}) for number in range(19)]
    write_patients(tmp_path / "many", [*rows, patient_row("00999", {}, reason="cohort prior 0.5")])
    return tmp_path / "many"


@pytest.fixture
def cross_validation(tmp_path):
    """A cross-validation of 60 patients, 3 folds, 2 seeds and 2 modalities."""
    folder, rng = tmp_path / "cross_validation", np.random.default_rng(1)
    rows = [
        {
            "patient": f"{patient:05d}",
            "fold": patient % 3,
            "seed": seed,
            "mri_type": mri_type,
            "probability": rng.uniform(),
            "label": patient // 3 % 2,
        }
        for patient in range(60)
        for seed in (67, 68)
        for mri_type in ("FLAIR", "T2w")
    ]
    write_csv(rows, folder / "predictions.csv")
    scores = {"auc": 0.81, "auc_delong": [0.72, 0.9], "auc_bootstrap": [0.7, 0.88], "pr_auc": 0.7}
    metrics = {
        "note": pages.RESEARCH_ONLY,
        "ensembles": {"mean": scores, EVIL: scores},
        "mri_types": {"FLAIR": scores, "T2w": {**scores, "auc": None}},
        "seeds": [67, 68],
        "controls": {"permutation_p": 0.031, "baselines": {"prior": scores, "volume": scores}},
        "curves": {
            "roc": {"fpr": [0, 0.5, 1], "tpr": [0, 0.8, 1], "low": [0, 0.6, 1], "high": [0, 0.9, 1]},
            "calibration": {"bins": [{"predicted": 0.2, "observed": 0.3, "low": 0.1, "high": 0.5}]},
            "decision": {"threshold": [0.1, 0.5], "model": [0.4, 0.1], "all": [0.4, 0], "none": [0, 0]},
        },
    }
    write_json(metrics, folder / "metrics.json")
    write_config(folder, job="cross_validation")
    return folder


HELD_OUT = {"00001": (0, 1), "00002": (1, 0), "00003": (2, 1), EVIL: (2, 0)}  # fold and label


def chance_of(patient, seed, mri_type):
    """What a model gave a patient."""
    return round(0.1 + 0.2 * list(HELD_OUT).index(patient) + 0.04 * (seed == 68) + 0.1 * (mri_type == "T1wCE"), 3)


@pytest.fixture
def folds(tmp_path):
    """A finished cross-validation of four patients with all that its evaluations wrote; the last has no usable series."""
    folder = tmp_path / "folds"
    write_pictures(tmp_path / "cohort", folder / "prepared" / "classification", list(HELD_OUT)[:3])
    entries = [
        {"patient": who, "label": label, "fold": fold, "FLAIR": f"{who}/{who}_flair.nii.gz"}
        for who, (fold, label) in HELD_OUT.items()
    ]
    listed = {"dataset_dir": str(tmp_path / "cohort"), "training": entries, "validation": [], "test": []}
    write_json(listed, tmp_path / "cohort.json")
    table = []
    for seed in (67, 68):
        for fold in (0, 1, 2):
            place = folder / "classification" / f"seed{seed}" / f"fold{fold}" / "evaluation"
            rows = []
            for who in (who for who in HELD_OUT if HELD_OUT[who][0] == fold):
                chances = {name: None if who == EVIL else chance_of(who, seed, name) for name in ("FLAIR", "T1wCE")}
                there = {} if who == EVIL else chances
                reason = {"reason": "cohort prior 0.5: FLAIR: no slice"} if who == EVIL else {}
                rows.append(patient_row(who, there, label=HELD_OUT[who][1], **reason))
                table += [
                    {"patient": who, "fold": fold, "seed": seed, "mri_type": name, "probability": value, "label": HELD_OUT[who][1]}
                    for name, value in chances.items()
                ]  # fmt: skip
            write_patients(place, rows, datalist=str(tmp_path / "cohort.json"))
            write_csv([{"patient": row["patient"]} for row in rows], place / "predictions.csv")
    write_csv(table, folder / "predictions.csv")
    scores = {"auc": 0.75, "brier": 0.2}
    write_json(
        {"note": pages.RESEARCH_ONLY, "ensembles": {"mean": scores, "rank_mean": scores}}, folder / "metrics.json"
    )
    datalist = str(tmp_path / "cohort.json")
    write_config(folder, job="crossvalidate", seeds=[67, 68], mri_types=["FLAIR", "T1wCE"], datalist=datalist)
    return folder


@pytest.fixture
def training(tmp_path):
    losses, scores = [0.7, 0.6, 0.5, 0.45], [0.5, 0.7, 0.7, 0.6]
    for name in ("FLAIR", "T1wCE"):
        rows = [
            {"epoch": epoch, "lr": 1e-4, "train_loss": loss, "auc": score, "log_loss": loss}
            for epoch, loss, score in zip(range(1, 5), losses, scores, strict=True)
        ]
        write_csv(rows, tmp_path / "runs" / name / "history.csv")
        score = "auc" if name == "FLAIR" else "-log_loss"
        write_config(tmp_path / "runs" / name, job="train_classification", score=score, seed=67)
    return tmp_path / "runs"


def text_of(page):
    """What a page says, without its markup."""
    return html.unescape(
        re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(script|style).*?</\1>", " ", page.read_text(encoding="utf-8")))
    )


# Tables


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("auc", "AUC"),
        ("WT_dice", "WT Dice"),
        ("pr_auc", "PR AUC"),
        ("brier", "Brier"),
        ("log_loss", "log loss"),
        ("T1wCE", "T1wCE"),
        (EVIL, EVIL),
    ],
)
def test_heads(key, expected):
    assert tables.head(key) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.12345, "0.123"),
        (3, "3"),
        (True, "yes"),
        (None, "\N{EN DASH}"),
        (float("nan"), "\N{EN DASH}"),
        (4.2e-5, "4.20e-05"),
        (0.0, "0.000"),
    ],
)
def test_numbers(value, expected):
    assert tables.shown(value) == expected


def test_a_figure_and_its_interval_share_a_cell():
    table = tables.table_of_records("Scores", [{"auc": 0.8123, "auc_95": [0.7199, 0.9], "auc_bootstrap": [0.7, 0.88]}])
    assert table.columns == ["AUC (95 %)", "AUC, 95 %, bootstrap"]
    assert [cell.text for cell in table.rows[0]] == ["0.81 (0.72 to 0.90)", "0.70 to 0.88"]
    assert table.rows[0][0].value == 0.8123


def test_tables_of_an_evaluation_put_alike_groups_together():
    scores = {"patients": 30, "auc": 0.7, "auc_95": [0.6, 0.8]}
    summary, found = tables.tables_of({"note": "x", "patients": 30, "all": scores, "FLAIR": scores})
    assert (summary.title, summary.columns) == ("Summary", ["patients"])
    assert [row[0].text for row in found.rows] == ["all modalities", "FLAIR"]
    assert found.columns == ["", "patients", "AUC (95 %)"]


def test_tables_of_deeply_nested_figures():
    metrics = {
        "controls": {"p": 0.03, "baselines": {"a": {"auc": 1}, "b": {"auc": 2}}},
        "folds": [{"fold": 0, "x": {"y": 1}}],
    }
    titles = {table.title: [[cell.text for cell in row] for row in table.rows] for table in tables.tables_of(metrics)}
    assert titles == {"Controls": [["0.030"]], "Controls: baselines": [["a", "1"], ["b", "2"]], "Folds": [["0", "1"]]}


def test_table_files_hold_all_digits_and_no_nan(tmp_path):
    table = tables.table_of_records("A b", [{"auc": 0.123456789, "auc_95": [0.1, 0.2]}, {"auc": float("nan")}])
    tables.write_table(table, tmp_path)
    assert json.loads((tmp_path / "a_b.json").read_text())[1] == {"auc": None}
    with open(tmp_path / "a_b.csv", newline="") as stream:
        row = next(csv.DictReader(stream))
    assert row == {"auc": "0.123456789", "auc_95_low": "0.1", "auc_95_high": "0.2"}


def test_no_table_file_holds_what_a_spreadsheet_would_run(tmp_path):
    table = tables.table_of_records("Patients", [{"patient": "=1+1", "error": -0.5, "files": ["@a", "b"]}])
    tables.write_table(table, tmp_path)
    assert (tmp_path / "patients.csv").read_text().splitlines() == ["patient,error,files", "'=1+1,-0.5,'@a; b"]


def test_a_single_wide_row_is_turned_into_a_column():
    table = tables.table_of_records("Seconds", [{f"step {number}": number for number in range(9)}])
    assert table.columns == ["", "value"]
    assert [cell.text for cell in table.rows[3]] == ["step 3", "3"]


# Figures


def test_roc_and_auc_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels, chance = rng.integers(0, 2, 50), rng.uniform(size=50).round(1)
    assert scores.roc_auc(labels, chance) == pytest.approx(roc_auc_score(labels, chance))
    false, true = scores.roc_curve(labels, chance)
    expected = reference_roc(labels, chance, drop_intermediate=False)
    np.testing.assert_allclose(false, expected[0])
    np.testing.assert_allclose(true, expected[1])


def test_wilson_interval_by_hand():
    assert scores.wilson_interval(5, 10)[1:] == pytest.approx((0.2366, 0.7634), abs=1e-4)
    _, low, high = scores.wilson_interval(0, 10)
    assert low == 0
    assert high == pytest.approx(0.2775, abs=1e-4)


def test_groups_of_both_forms_of_predictions():
    wide = [{"patient": "a", "label": "1", "all": "0.6", "FLAIR": "0.7", "T2w": ""}]
    assert [(group.name, group.probabilities.tolist()) for group in figures.groups_of(wide)] == [
        ("FLAIR", [0.7]),
        ("all", [0.6]),
    ]
    long = [
        {"patient": "a", "label": "1", "fold": "2", "seed": seed, "mri_type": name, "probability": chance}
        for seed, name, chance in (("1", "FLAIR", "0.2"), ("2", "FLAIR", "0.4"), ("1", "T2w", "0.9"))
    ]
    groups = {group.name: group for group in figures.groups_of(long)}
    assert groups["FLAIR"].probabilities[0] == pytest.approx(0.3)
    assert groups["all"].probabilities[0] == pytest.approx(0.6)
    assert groups["all"].folds == ["2"]


@pytest.mark.parametrize(("score", "expected"), [("auc", 2), ("-loss", 3), (None, 2)])
def test_best_epoch_is_the_first_of_the_best(score, expected):
    history = {"epoch": np.array([1.0, 2, 3]), "auc": np.array([0.5, 0.7, 0.7]), "loss": np.array([3.0, 2, 1])}
    assert figures.best_epoch(history, score)[0] == expected


# Pictures


@pytest.mark.parametrize(
    ("plane", "letters"),
    [
        ("axial", {"left": "R", "right": "L", "top": "A", "bottom": "P"}),
        ("coronal", {"left": "R", "right": "L", "top": "S", "bottom": "I"}),
        ("sagittal", {"left": "A", "right": "P", "top": "S", "bottom": "I"}),
    ],
)
@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, -1, 1, 1]), np.diag([1.0, -1, -1, 1])])
def test_letters_of_the_planes(plane, letters, affine):
    geometry = SliceGeometry.from_affine(affine, (4, 5, 6), plane)
    assert viewer.orientation_letters(geometry.stack_affine) == letters


def test_slices_keep_the_shape_they_have_in_the_patient(tmp_path):
    affine = np.diag([-1.0, -2.0, 5.0, 1.0])  # rows twice as far apart as columns
    geometry = SliceGeometry.from_affine(affine, (40, 30, 3))
    image = np.full((3, 30, 40), 200, np.uint8)
    write_series(tmp_path / "a.h5", image, np.arange(3), np.zeros((3, 2, 30, 40), bool), {}, geometry)
    view = viewer.series_sheets(PreparedSeries(tmp_path / "a.h5"))
    assert view["tile"] == [40, 60]
    assert view["wt_sheet"] is None


def test_sheets_stay_within_their_bytes(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 200, 200), dtype=np.uint8)
    write_series(tmp_path / "a.h5", image, np.arange(40), np.zeros((40, 2, 200, 200), bool), {})
    view = viewer.series_sheets(PreparedSeries(tmp_path / "a.h5"), most_bytes=200_000)
    assert len(view["image"]) <= 200_000
    assert view["tile"][0] < 192


def test_sequences_lie_on_the_slices_they_were_made_of():
    kept = list(range(10, 22))
    assert pages.sequence_spans(kept, 3, [(35, 5), (6, 3)]) == [[10, 15], [13, 18], [16, 21]]
    assert pages.sequence_spans(kept, 1, [(35, 5)]) == [[10, 21]]
    assert pages.sequence_spans(kept, 7, [(35, 5)]) == []


# What is found


def test_unknown_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(pages.ReportError, match=r"patients\.json .*metrics\.json .*history\.csv"):
        pages.write_report(tmp_path)
    with pytest.raises(pages.ReportError, match="no such folder"):
        pages.write_report(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_broken_files_are_named(tmp_path):
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(pages.ReportError, match=r"metrics\.json: can't be read"):
        pages.write_report(tmp_path)


def test_phantom_is_known_by_its_readme(many, tmp_path):
    assert not pages.is_phantom(pages.read_run(many))
    (tmp_path / "phantom" / "task2" / "test").mkdir(parents=True)
    (tmp_path / "phantom" / "README.txt").write_text("PHANTOM COHORT - synthetic images, not patients\n")
    write_config(many, job="inference", dataset_dir=str(tmp_path / "phantom" / "task2" / "test"))
    assert pages.is_phantom(pages.read_run(many))


# What is written


def test_training(training):
    page = pages.write_report(training)
    assert page == training / "report" / "report.html"
    text = text_of(page)
    assert pages.RESEARCH_ONLY in text
    assert "The weights of epoch 2 were kept" in text
    assert "The weights of epoch 4 were kept" in text
    files = {path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*") if path.is_file()}
    assert {
        "figures/learning_curves_FLAIR.png",
        "figures/learning_curves_FLAIR.svg",
        "tables/training_runs.csv",
    } <= files
    assert not list(training.glob(".*"))


def test_cross_validation(cross_validation):
    page = pages.write_report(cross_validation)
    text = text_of(page)
    assert "0.81 (0.72 to 0.90)" in text
    for part in ("Cross-validation", "Ensembles", "Modalities", "Controls: baselines", "AUC by fold", EVIL):
        assert part in text
    for name in ("roc", "calibration", "decision_curve", "probability_by_label"):
        for ending in ("png", "svg"):
            assert (page.parent / "figures" / f"{name}.{ending}").stat().st_size > 1000
    with open(page.parent / "tables" / "auc_by_fold.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    groups = figures.groups_of(read_csv(cross_validation / "predictions.csv"))
    chosen = next(group for group in groups if group.name == "T2w")
    inside = np.array(chosen.folds) == "1"
    assert float(rows[1]["T2w"]) == pytest.approx(roc_auc_score(chosen.labels[inside], chosen.probabilities[inside]))
    assert json.loads((page.parent / "tables" / "curves.json").read_text())["roc"]["tpr"] == [0, 0.8, 1]


@pytest.mark.parametrize(
    "curves",
    [
        {"roc": None, "calibration": None, "decision": []},
        {
            "roc": {"fpr": [0, 1], "tpr": [0, None, 1]},
            "calibration": {"bins": [{"predicted": None}]},
            "decision": {"x": 1},
        },
        {
            "roc": {"mean": {"fpr": [0, 1], "tpr": [0, None], "low": [0, 1], "high": [0, 1]}},
            "calibration": {"predicted": [0.1], "observed": [0.2]},
        },
        "none",
    ],
)
def test_curves_of_other_forms_do_no_harm(cross_validation, curves):
    metrics = json.loads((cross_validation / "metrics.json").read_text())
    odd = {"empty": {}, "nothing": [], "deep": {"a": {"b": {"c": [1, [2, 3]]}}}, "rows": [{"x": None}, {"y": [1, 2]}]}
    write_json({**metrics, **odd, "curves": curves}, cross_validation / "metrics.json")
    assert (pages.write_report(cross_validation).parent / "figures" / "roc.png").is_file()


def test_segmentation(tmp_path):
    rows = [
        {"patient": patient, "mri_type": "FLAIR", "plane": "axial", "region": region, "dice": dice, "iou": dice / 2}
        for patient, dice in (("a", 0.5), ("b", 0.75))
        for region in ("WT", "ET")
    ]
    write_csv(rows, tmp_path / "overlap.csv")
    write_json({"patients": 2, "all": {"WT_dice": 0.625}}, tmp_path / "metrics.json")
    text = text_of(pages.write_report(tmp_path))
    assert "WT Dice" in text
    assert "0.625" in text


def test_prediction(prediction):
    page = pages.write_report(prediction)
    text = text_of(page)
    assert "0.30 (0.10 to 0.45)" in text
    assert "2 slices were missing" in text
    assert EVIL in text
    files = sorted((page.parent / "patients").iterdir())
    assert len(files) == 4
    one = next(path for path in files if path.name == "00001.html")
    (views,) = re.findall(r'(?s)<script type="application/json">(.*?)</script>', one.read_text())
    first, second = json.loads(views)
    assert first["slices"] == list(range(12))
    assert first["kept"] == KEPT
    assert first["full"]
    assert first["positions"] == [5.0 * index for index in range(12)]
    assert first["letters"]["left"] == "R"
    assert first["heat_sheet"].startswith("data:image/jpeg;base64,")
    assert second["heat_sheet"] is None
    assert first["sequences"] == [{"slices": [3, 7], "probability": 0.2}]
    assert one.stat().st_size < 3_000_000


def index_of(page):
    """Rows of the patients' index as its CSV has them."""
    with open(page.parent / "tables" / "patients.csv", newline="") as stream:
        return {row["patient"]: row for row in csv.DictReader(stream)}


def test_patients_of_a_cross_validation(folds):
    page = pages.write_report(folds)
    assert "Cross-validation: folds" in text_of(page)
    assert len(list((page.parent / "patients").iterdir())) == 4
    one = page.parent / "patients" / "00001.html"
    text = text_of(one)
    mean = np.mean([chance_of("00001", seed, name) for seed in (67, 68) for name in ("FLAIR", "T1wCE")])
    listed = index_of(page)
    assert float(listed["00001"]["all"]) == pytest.approx(mean)
    assert float(listed["00001"]["absolute_error"]) == pytest.approx(1 - mean)
    assert re.search(rf"{mean:.2f} \(\d", text)
    for told in ("over seeds 67, 68", "Held out in fold 0", "Known label: 1", "FLAIR, seed 67", "T1wCE, seed 68"):
        assert told in text
    with open(page.parent / "tables" / "series_00001.csv", newline="") as stream:
        flair = next(csv.DictReader(stream))
    assert float(flair["seed 68"]) == chance_of("00001", 68, "FLAIR")
    (views,) = re.findall(r'(?s)<script type="application/json">(.*?)</script>', one.read_text())
    first, second = json.loads(views)
    assert first["full"]
    assert not second["full"]  # the data list has no T1wCE
    (sequence,) = first["sequences"]
    assert sequence["slices"] == [3, 7]
    assert sequence["probability"] == pytest.approx(float(flair["probability"]))


def test_a_patient_whom_no_fold_could_predict_is_in_the_index(folds):
    page = pages.write_report(folds)
    assert float(index_of(page)[EVIL]["all"]) == 0.5
    assert page.read_text().count('class="failed"') == 1
    assert "cohort prior 0.5" in text_of(page)


def test_patients_of_an_evaluation(folds):
    evaluation = folds / "classification" / "seed67" / "fold2" / "evaluation"
    rows = [{"patient": who, "label": HELD_OUT[who][1], "all": 0.5, "FLAIR": 0.5} for who in ("00003", EVIL)]
    write_csv(rows, evaluation / "predictions.csv")
    write_json({"patients": 2, "all": {"auc": 0.5}}, evaluation / "metrics.json")
    (folds / "prepared" / "classification").rename(evaluation / "prepared")
    page = pages.write_report(evaluation)
    text = text_of(page)
    assert "Evaluation: evaluation" in text
    assert "absolute error" in text
    assert "Prediction" not in text
    assert 'href="patients/00003.html"' in page.read_text()
    one = page.parent / "patients" / "00003.html"
    assert '<script type="application/json">' in one.read_text()
    assert "Known label: 1" in text_of(one)


def test_a_cross_validation_on_its_way(folds):
    """Folds that were evaluated are shown before the others are."""
    for name in ("predictions.csv", "metrics.json"):
        (folds / name).unlink()
    for seed in (67, 68):
        shutil.rmtree(folds / "classification" / f"seed{seed}" / "fold2")
    page = pages.write_report(folds)
    assert pages.NOT_FINISHED in text_of(page)
    assert "Cross-validation: folds" in text_of(page)
    assert set(index_of(page)) == {"00001", "00002"}
    assert (page.parent / "patients" / "00002.html").is_file()


def test_folds_that_an_earlier_version_evaluated_have_no_pages(folds):
    (folds / "classification" / "seed68" / "fold1" / "evaluation" / "patients.json").unlink()
    page = pages.write_report(folds)
    assert "Patients without a page: 1." in text_of(page)
    assert set(index_of(page)) == set(HELD_OUT)
    assert not (page.parent / "patients" / "00002.html").exists()
    assert 'href="patients/00002.html"' not in page.read_text()
    assert 'href="patients/00001.html"' in page.read_text()


def test_details_that_are_none_are_named(folds):
    file = folds / "classification" / "seed68" / "fold1" / "evaluation" / "patients.json"
    file.write_text('{"patients": 3}')
    with pytest.raises(pages.ReportError, match=r"fold1.evaluation.patients\.json: holds no list of patients"):
        pages.write_report(folds)


@pytest.mark.parametrize("run", ["prediction", "folds"])
def test_links_lead_to_files(request, run):
    prediction = request.getfixturevalue(run)
    page = pages.write_report(prediction, prediction.parent / "out.html")
    assert page == prediction.parent / "out.html"
    for file in (page, *(prediction.parent / "out_files" / "patients").iterdir()):
        for link in re.findall(r'href="([^"#]+)"', file.read_text()):
            if link != "data:,":
                assert (file.parent / unquote(html.unescape(link))).is_file(), (file, link)


def test_kept_slices_stand_in_for_a_study_that_is_gone(prediction):
    shutil.rmtree(prediction.parent / "studies")
    page = pages.write_report(prediction)
    one = page.parent / "patients" / "00001.html"
    assert "only the slices that were used are shown" in text_of(one)
    assert f'"slices": {KEPT}' in one.read_text()


def test_a_study_that_changed_is_not_shown(prediction):
    file = prediction.parent / "studies" / "00001" / "00001_flair.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE), np.eye(4)), file)
    pages.write_report(prediction)
    assert "another series than the one" in text_of(prediction / "report" / "patients" / "00001.html")


@pytest.mark.parametrize("content", [{"maps": np.zeros((2, 4, 4), np.uint8), "slices": [0, 1]}, {"other": np.zeros(3)}])
def test_heat_maps_of_other_slices_are_not_shown(prediction, content):
    np.savez(prediction / "explanations" / "00001_FLAIR.npz", **content)
    pages.write_report(prediction)
    assert "FLAIR: no heat map" in text_of(prediction / "report" / "patients" / "00001.html")


def test_what_the_classifiers_looked_at(prediction):
    pages.write_report(prediction)
    text = text_of(prediction / "report" / "patients" / "00001.html")
    assert "without ET" in text
    assert "-0.125" in text
    assert "FLAIR: the maps change." in text
    assert "What the classifiers looked at" not in text_of(prediction / "report" / "patients" / "00002.html")


def test_prediction_without_pictures(prediction):
    pages.write_report(prediction, images=False)
    assert '<script type="application/json">' not in (prediction / "report" / "patients" / "00001.html").read_text()


def test_nothing_in_a_name_becomes_markup(prediction, cross_validation, folds):
    for page in map(pages.write_report, (prediction, cross_validation, folds)):
        for file in (page, *page.parent.glob("patients/*.html")):
            assert "<script>alert" not in file.read_text()
            assert "<b>truncated" not in file.read_text()


def test_pages_ask_for_nothing_outside(prediction, cross_validation, training):
    for run in (prediction, cross_validation, training):
        page = pages.write_report(run)
        for file in (page, *page.parent.glob("patients/*.html")):
            text = file.read_text()
            assert "default-src 'none'" in text
            assert not re.findall(r'(?:src|href)="(?:https?:)?//', text)


def test_many_patients_are_linked_and_not_embedded(many):
    page = pages.write_report(many)
    assert len(list((page.parent / "patients").iterdir())) == 20
    assert page.read_text().count('<details class="patient"') == 0


# Overwriting


def test_a_report_is_replaced_only_when_asked_to(training):
    page = pages.write_report(training)
    page.write_text(page.read_text() + "earlier")
    with pytest.raises(FileExistsError, match="--overwrite"):
        pages.write_report(training)
    assert page.read_text().endswith("earlier")
    pages.write_report(training, overwrite=True)
    assert not page.read_text().endswith("earlier")


@pytest.mark.parametrize("name", ["out", "out.html"])
def test_what_is_no_report_is_never_replaced(training, tmp_path, name):
    if name == "out":
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
    else:
        (tmp_path / name).write_text("years of work")
    with pytest.raises(FileExistsError, match="is no report"):
        pages.write_report(training, tmp_path / name, overwrite=True)
    assert "years of work" in ((tmp_path / name / "thesis.txt") if name == "out" else tmp_path / name).read_text()


def test_a_report_that_fails_leaves_the_earlier_one(training, monkeypatch):
    page = pages.write_report(training)
    before = page.read_text()
    monkeypatch.setattr(pages, "settings_table", lambda settings: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pages.write_report(training, overwrite=True)
    assert page.read_text() == before
    assert [path.name for path in training.iterdir() if path.name.startswith(".")] == []


def test_command(many, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["radiogenomics", "report", str(many), "--output", str(many.parent / "here")])
    cli.main()
    assert capsys.readouterr().out.strip() == str(many.parent / "here" / "report.html")
    monkeypatch.setattr("sys.argv", ["radiogenomics", "report", str(many.parent)])
    with pytest.raises(SystemExit, match=r"error: .*looked for"):
        cli.main()


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium that logs its console."""
    pytest.importorskip("selenium", reason="pages are tried in a browser with selenium, of the extra [dev]")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("no chromium and chromedriver on this machine (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    off = "quic", "background-networking", "component-update", "sync", "gpu"
    flags = ["headless", "no-sandbox", "no-first-run", *(f"disable-{name}" for name in off), "window-size=1280,900"]
    for flag in (*flags, f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


def opened(browser, page):
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    assert_nothing_was_fetched(browser)


def assert_nothing_was_fetched(browser):
    names = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in names if not name.startswith(("file:", "data:"))] == []


def column(browser, place):
    return browser.execute_script(
        "return [...document.querySelectorAll('.index tbody tr')].filter((row) => !row.hidden)"
        f".map((row) => row.cells[{place}].textContent)"
    )


def fill(browser, name, value):
    browser.execute_script(
        "const input = document.querySelector(`.index [data-filter=${arguments[0]}]`);"
        "if (input.type === 'checkbox') input.checked = arguments[1]; else input.value = arguments[1];"
        "input.dispatchEvent(new Event('input'))",
        name,
        value,
    )


def test_index_sorts_and_filters_in_a_browser(browser, many):
    opened(browser, pages.write_report(many))
    heads = browser.find_elements("css selector", ".index th button")
    heads[1].click()
    found = [float(text) for text in column(browser, 1)]
    assert found == sorted(found)
    heads[1].click()
    assert [float(text) for text in column(browser, 1)] == sorted(found, reverse=True)
    fill(browser, "text", "0001")
    assert set(column(browser, 0)) == {"00001", *(f"000{number}" for number in range(10, 19))}
    fill(browser, "text", "")
    fill(browser, "low", "0.25")
    fill(browser, "high", "0.75")
    assert sorted(map(float, column(browser, 1))) == [value for value in sorted(found) if 0.25 <= value <= 0.75]
    fill(browser, "failed", True)
    assert column(browser, 0) == ["00999"]
    assert "1 of 20" in browser.find_element("css selector", "[data-count]").text
    browser.find_element("link text", "00999").click()
    assert "Patient 00999" in browser.title
    assert browser.get_log("browser") == []


def pixels(browser):
    """What the first viewer shows, as RGB."""
    # the copy is made for reading, or Chromium would complain of it in the console
    data = browser.execute_script(
        "const shown = document.querySelector('.stage canvas'), copy = document.createElement('canvas');"
        "[copy.width, copy.height] = [shown.width, shown.height];"
        "const context = copy.getContext('2d', { willReadFrequently: true });"
        "context.drawImage(shown, 0, 0);"
        "return [copy.width, ...context.getImageData(0, 0, copy.width, copy.height).data]"
    )
    return np.array(data[1:]).reshape(-1, data[0], 4)[..., :3]


def wait_for(condition):
    for _ in range(100):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def test_viewer_in_a_browser(browser, prediction):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page = pages.write_report(prediction)
    opened(browser, page.parent / "patients" / "00001.html")
    first, second = browser.find_elements("css selector", ".viewer")
    stage = first.find_element("css selector", ".stage")
    shown = lambda: [int(viewer.get_attribute("data-slice")) for viewer in (first, second)]  # noqa: E731
    wait_for(lambda: pixels(browser).max() > 0)
    start = shown()[0]
    assert start in KEPT
    stage.send_keys(Keys.HOME)
    assert shown() == [0, 0]
    stage.send_keys(Keys.ARROW_DOWN)
    assert shown() == [1, 1]
    ActionChains(browser).scroll_from_origin(_origin(stage), 0, 20).perform()
    wait_for(lambda: shown() == [2, 2])
    browser.find_element("css selector", "[data-together]").click()
    stage.send_keys(Keys.END)
    assert shown() == [11, 2]
    stage.send_keys(*[Keys.ARROW_UP] * 6)
    assert shown() == [5, 2]
    assert "used" in first.find_element("css selector", ".place").text
    letters = {
        edge: first.find_element("css selector", f".stage .{edge}").text for edge in ("left", "right", "top", "bottom")
    }
    assert letters == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    masked = pixels(browser)
    assert (masked.max(-1) - masked.min(-1)).max() > 60  # coloured
    for layer in ("wt", "et"):
        browser.find_element("css selector", f"[data-layer={layer}]").click()
    plain = pixels(browser)
    assert (plain.max(-1) - plain.min(-1)).max() < 12  # grey
    browser.find_element("css selector", "[data-layer=heat]").click()
    wait_for(lambda: (pixels(browser) != plain).any())
    assert browser.get_log("browser") == []
    assert_nothing_was_fetched(browser)


def test_from_a_cross_validation_to_a_patient_in_a_browser(browser, folds):
    from selenium.webdriver.common.action_chains import ActionChains

    opened(browser, pages.write_report(folds))
    browser.find_elements("css selector", ".index th button")[3].click()
    assert column(browser, 0)[0] == "00001"
    fill(browser, "text", "00002")
    assert column(browser, 0) == ["00002"]
    browser.find_element("css selector", ".index").find_element("link text", "00002").click()
    assert browser.title == "Patient 00002"
    viewer = browser.find_element("css selector", ".viewer")
    wait_for(lambda: pixels(browser).max() > 0)
    start = int(viewer.get_attribute("data-slice"))
    stage = viewer.find_element("css selector", ".stage")
    ActionChains(browser).scroll_to_element(stage).scroll_from_origin(_origin(stage), 0, 20).perform()
    wait_for(lambda: int(viewer.get_attribute("data-slice")) == start + 1)
    assert browser.get_log("browser") == []
    assert_nothing_was_fetched(browser)


def test_the_first_column_of_a_wide_table_stays_in_sight(browser, cross_validation):
    metrics = json.loads((cross_validation / "metrics.json").read_text())
    metrics["ensembles"] = {name: {f"score {number}": number for number in range(40)} for name in ("mean", "stacked")}
    write_json(metrics, cross_validation / "metrics.json")
    opened(browser, pages.write_report(cross_validation))
    scrolled = browser.execute_script(
        "const box = [...document.querySelectorAll('.scroll')].find((one) => one.scrollWidth > one.clientWidth);"
        "box.scrollLeft = 300;"
        "const edge = (one) => one.getBoundingClientRect().left;"
        "const cells = box.querySelector('tbody tr').cells;"
        "return [box.scrollLeft, edge(cells[0]) - edge(box), edge(cells[1]) - edge(box)]"
    )
    assert scrolled[0] == 300
    assert abs(scrolled[1]) < 1  # nothing shows between the edge and it
    assert scrolled[2] < 0


def _origin(stage):
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    return ScrollOrigin.from_element(stage)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(browser, prediction, cross_validation, training, width):
    for run in (prediction, cross_validation, training):
        page = pages.write_report(run)
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        opened(browser, page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
