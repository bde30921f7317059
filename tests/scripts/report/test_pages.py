"""The report: what it finds, and what it writes."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import json
import re
import shutil
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from scripts import cli
from scripts.files import RESEARCH_ONLY, read_csv, write_csv, write_json
from scripts.report import pages
from scripts.report.groups import groups_of
from scripts.report.pages import write_report
from scripts.report.patient import sequence_spans
from scripts.report.run import NOT_FINISHED, is_phantom, read_run
from scripts.run_folder import RunError


def text_of(page):
    """What a page says, without its markup."""
    return html.unescape(
        re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(script|style).*?</\1>", " ", page.read_text(encoding="utf-8")))
    )


def test_sequences_lie_on_the_slices_they_were_made_of():
    kept = list(range(10, 22))
    assert sequence_spans(kept, 3, [(35, 5), (6, 3)]) == [[10, 15], [13, 18], [16, 21]]
    assert sequence_spans(kept, 1, [(35, 5)]) == [[10, 21]]
    assert sequence_spans(kept, 7, [(35, 5)]) == []


def test_unknown_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(RunError, match=r"patients\.json .*metrics\.json .*history\.csv"):
        write_report(tmp_path)
    with pytest.raises(RunError, match="no such folder"):
        write_report(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_broken_files_are_named(tmp_path):
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(RunError, match=r"metrics\.json: not readable JSON"):
        write_report(tmp_path)


def test_phantom_is_known_by_its_readme(many, tmp_path):
    assert not is_phantom(read_run(many))
    (tmp_path / "phantom" / "task2" / "test").mkdir(parents=True)
    (tmp_path / "phantom" / "README.txt").write_text("PHANTOM COHORT - synthetic images, not patients\n")
    (many / "resolved_config.yaml").write_text(yaml.safe_dump({"dataset_dir": str(tmp_path / "phantom/task2/test")}))
    assert is_phantom(read_run(many))


@pytest.mark.slow
def test_training(training):
    page = write_report(training)
    assert page == training / "report" / "report.html"
    text = text_of(page)
    assert RESEARCH_ONLY in text
    assert "The weights of epoch 2 were kept" in text
    assert "The weights of epoch 4 were kept" in text
    files = {path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*") if path.is_file()}
    assert {
        "figures/learning_curves_FLAIR.png",
        "figures/learning_curves_FLAIR.svg",
        "tables/training_runs.csv",
    } <= files
    assert not list(training.glob(".*"))


@pytest.mark.slow
def test_cross_validation(cross_validation, made_up):
    page = write_report(cross_validation)
    text = text_of(page)
    assert "0.81 (0.72 to 0.90)" in text
    for part in ("Cross-validation", "Ensembles", "Modalities", "Controls: baselines", "AUC by fold", made_up.evil):
        assert part in text
    for name in ("roc", "calibration", "decision_curve", "probability_by_label"):
        for ending in ("png", "svg"):
            assert (page.parent / "figures" / f"{name}.{ending}").stat().st_size > 1000
    with open(page.parent / "tables" / "auc_by_fold.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    groups = groups_of(read_csv(cross_validation / "predictions.csv"))
    chosen = next(group for group in groups if group.name == "T2w")
    inside = np.array(chosen.folds) == "1"
    assert float(rows[1]["T2w"]) == pytest.approx(roc_auc_score(chosen.labels[inside], chosen.probabilities[inside]))
    assert json.loads((page.parent / "tables" / "curves.json").read_text())["roc"]["tpr"] == [0, 0.8, 1]


def test_segmentation(tmp_path):
    rows = [
        {"patient": patient, "mri_type": "FLAIR", "plane": "axial", "region": region, "dice": dice, "iou": dice / 2}
        for patient, dice in (("a", 0.5), ("b", 0.75))
        for region in ("WT", "ET")
    ]
    write_csv(rows, tmp_path / "overlap.csv")
    write_json({"patients": 2, "all": {"WT_dice": 0.625}}, tmp_path / "metrics.json")
    text = text_of(write_report(tmp_path))
    assert "WT Dice" in text
    assert "0.625" in text


@pytest.mark.slow
def test_prediction(prediction, made_up):
    page = write_report(prediction)
    text = text_of(page)
    assert "0.30 (0.10 to 0.45)" in text
    assert "2 slices were missing" in text
    assert made_up.evil in text
    files = sorted((page.parent / "patients").iterdir())
    assert len(files) == 4
    one = next(path for path in files if path.name == "00001.html")
    (views,) = re.findall(r'(?s)<script type="application/json">(.*?)</script>', one.read_text())
    first, second = json.loads(views)
    assert first["slices"] == list(range(12))
    assert first["kept"] == made_up.kept
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


@pytest.mark.slow
def test_patients_of_a_cross_validation(folds, made_up):
    page = write_report(folds)
    assert "Cross-validation: folds" in text_of(page)
    assert len(list((page.parent / "patients").iterdir())) == 4
    one = page.parent / "patients" / "00001.html"
    text = text_of(one)
    mean = np.mean([made_up.chance_of("00001", seed, name) for seed in (67, 68) for name in ("FLAIR", "T1wCE")])
    listed = index_of(page)
    assert float(listed["00001"]["all"]) == pytest.approx(mean)
    assert float(listed["00001"]["absolute_error"]) == pytest.approx(1 - mean)
    assert re.search(rf"{mean:.2f} \(\d", text)
    for part in ("over seeds 67, 68", "Held out in fold 0", "Known label: 1", "FLAIR, seed 67", "T1wCE, seed 68"):
        assert part in text
    with open(page.parent / "tables" / "series_00001.csv", newline="") as stream:
        flair = next(csv.DictReader(stream))
    assert float(flair["seed 68"]) == made_up.chance_of("00001", 68, "FLAIR")
    (views,) = re.findall(r'(?s)<script type="application/json">(.*?)</script>', one.read_text())
    first, second = json.loads(views)
    assert first["full"]
    assert not second["full"]  # the data list has no T1wCE
    (sequence,) = first["sequences"]
    assert sequence["slices"] == [3, 7]
    assert sequence["probability"] == pytest.approx(float(flair["probability"]))


@pytest.mark.usefixtures("without_figures")
@pytest.mark.slow
def test_a_patient_whom_no_fold_could_predict_is_in_the_index(folds, made_up):
    page = write_report(folds)
    assert float(index_of(page)[made_up.evil]["all"]) == 0.5
    assert page.read_text().count('class="failed"') == 1
    assert "cohort prior 0.5" in text_of(page)


@pytest.mark.slow
def test_patients_of_an_evaluation(folds, made_up):
    evaluation = folds / "classification" / "seed67" / "fold2" / "evaluation"
    rows = [
        {"patient": who, "label": made_up.held_out[who][1], "all": 0.5, "FLAIR": 0.5} for who in ("00003", made_up.evil)
    ]
    write_csv(rows, evaluation / "predictions.csv")
    write_json({"patients": 2, "all": {"auc": 0.5}}, evaluation / "metrics.json")
    (folds / "prepared" / "classification").rename(evaluation / "prepared")
    page = write_report(evaluation)
    text = text_of(page)
    assert "Evaluation: evaluation" in text
    assert "absolute error" in text
    assert "Prediction" not in text
    assert 'href="patients/00003.html"' in page.read_text()
    one = page.parent / "patients" / "00003.html"
    assert '<script type="application/json">' in one.read_text()
    assert "Known label: 1" in text_of(one)


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_a_cross_validation_on_its_way(folds):
    """Folds that were evaluated are shown before the others are."""
    for name in ("predictions.csv", "metrics.json"):
        (folds / name).unlink()
    for seed in (67, 68):
        shutil.rmtree(folds / "classification" / f"seed{seed}" / "fold2")
    page = write_report(folds)
    assert NOT_FINISHED in text_of(page)
    assert "Cross-validation: folds" in text_of(page)
    assert set(index_of(page)) == {"00001", "00002"}
    assert (page.parent / "patients" / "00002.html").is_file()


def test_details_that_are_none_are_named(folds):
    file = folds / "classification" / "seed68" / "fold1" / "evaluation" / "patients.json"
    file.write_text('{"patients": 3}')
    with pytest.raises(RunError, match=r"fold1.evaluation.patients\.json: holds no list of patients"):
        write_report(folds)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["prediction", "folds"])
def test_links_lead_to_files(request, run):
    prediction = request.getfixturevalue(run)
    page = write_report(prediction, prediction.parent / "out.html")
    assert page == prediction.parent / "out.html"
    for file in (page, *(prediction.parent / "out_files" / "patients").iterdir()):
        for link in re.findall(r'href="([^"#]+)"', file.read_text()):
            if link != "data:,":
                assert (file.parent / unquote(html.unescape(link))).is_file(), (file, link)


@pytest.mark.usefixtures("without_figures")
def test_kept_slices_stand_in_for_a_study_that_is_gone(prediction, made_up):
    shutil.rmtree(prediction.parent / "studies")
    page = write_report(prediction)
    one = page.parent / "patients" / "00001.html"
    assert "only the slices that were used are shown" in text_of(one)
    assert f'"slices": {made_up.kept}' in one.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_a_study_that_changed_is_not_shown(prediction, made_up):
    file = prediction.parent / "studies" / "00001" / "00001_flair.nii.gz"
    nib.save(
        nib.Nifti1Image(np.arange(np.prod(made_up.shape), dtype=np.float32).reshape(made_up.shape), np.eye(4)), file
    )
    write_report(prediction)
    assert "is not the series that was predicted" in text_of(prediction / "report" / "patients" / "00001.html")


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("content", [{"maps": np.zeros((2, 4, 4), np.uint8), "slices": [0, 1]}, {"other": np.zeros(3)}])
def test_heat_maps_of_other_slices_are_not_shown(prediction, content):
    np.savez(prediction / "explanations" / "00001_FLAIR.npz", **content)
    write_report(prediction)
    assert "FLAIR: no heat map" in text_of(prediction / "report" / "patients" / "00001.html")


@pytest.mark.usefixtures("without_figures")
def test_what_the_classifiers_looked_at(prediction):
    write_report(prediction)
    text = text_of(prediction / "report" / "patients" / "00001.html")
    assert "without ET" in text
    assert "-0.125" in text
    assert "FLAIR: the maps change." in text
    assert "What the classifiers looked at" not in text_of(prediction / "report" / "patients" / "00002.html")


@pytest.mark.usefixtures("without_figures")
def test_prediction_without_pictures(prediction):
    write_report(prediction, images=False)
    assert '<script type="application/json">' not in (prediction / "report" / "patients" / "00001.html").read_text()


@pytest.mark.slow
def test_nothing_in_a_name_becomes_markup(prediction, cross_validation, folds):
    for page in map(write_report, (prediction, cross_validation, folds)):
        for file in (page, *page.parent.glob("patients/*.html")):
            assert "<script>alert" not in file.read_text()
            assert "<b>truncated" not in file.read_text()


@pytest.mark.slow
def test_pages_ask_for_nothing_outside(prediction, cross_validation, training):
    for run in (prediction, cross_validation, training):
        page = write_report(run)
        for file in (page, *page.parent.glob("patients/*.html")):
            text = file.read_text()
            assert "default-src 'none'" in text
            (policy,) = re.findall(r'"Content-Security-Policy" content="([^"]*)"', text)
            (script,) = re.findall(r"(?s)<script>(.*?)</script>", text)
            allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"script-src 'sha256-{allowed}';" in policy
            assert policy.count("unsafe-") == policy.count("style-src 'unsafe-inline'")
            assert not re.findall(r"<[^>]* on\w+=", re.sub(r"(?s)<script.*?</script>", "", text))
            assert not re.findall(r'(?:src|href)="(?:https?:)?//', text)


@pytest.mark.usefixtures("without_figures")
@pytest.mark.slow
def test_many_patients_are_linked_and_not_embedded(many):
    page = write_report(many)
    assert len(list((page.parent / "patients").iterdir())) == 20
    assert page.read_text().count('<details class="patient"') == 0


@pytest.mark.usefixtures("without_figures")
@pytest.mark.slow
def test_a_report_is_replaced_only_when_asked_to(training):
    page = write_report(training)
    page.write_text(page.read_text() + "earlier")
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_report(training)
    assert page.read_text().endswith("earlier")
    write_report(training, overwrite=True)
    assert not page.read_text().endswith("earlier")


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("name", ["out", "out.html"])
def test_what_is_no_report_is_never_replaced(training, tmp_path, name):
    if name == "out":
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
    else:
        (tmp_path / name).write_text("years of work")
    with pytest.raises(FileExistsError, match="is not a report"):
        write_report(training, tmp_path / name, overwrite=True)
    assert "years of work" in ((tmp_path / name / "thesis.txt") if name == "out" else tmp_path / name).read_text()


@pytest.mark.usefixtures("without_figures")
@pytest.mark.slow
def test_a_report_that_fails_leaves_the_earlier_one(training, monkeypatch):
    page = write_report(training)
    before = page.read_text()
    monkeypatch.setattr(pages, "settings_table", lambda settings: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(training, overwrite=True)
    assert page.read_text() == before
    assert [path.name for path in training.iterdir() if path.name.startswith(".")] == []


@pytest.mark.usefixtures("without_figures")
@pytest.mark.slow
def test_command(many, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["radiogenomics", "report", str(many), "--output", str(many.parent / "here")])
    cli.main()
    assert capsys.readouterr().out.strip() == str(many.parent / "here" / "report.html")
    monkeypatch.setattr("sys.argv", ["radiogenomics", "report", str(many.parent)])
    with pytest.raises(SystemExit, match=r"error: .*looked for"):
        cli.main()
