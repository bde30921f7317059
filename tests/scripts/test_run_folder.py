"""What a finished run left: patients of a prediction, an evaluation, and of all folds and seeds of a cross-validation."""

import json
import subprocess
import sys

import pytest
import yaml

from scripts import run_folder
from scripts.files import write_csv, write_json


def series(*sequences, **more):
    chance = sum(sequences) / len(sequences) if sequences else None
    return {"warnings": [], "kept": 5, "seconds": 2.0, "sequences": list(sequences), "probability": chance, **more}


def row(patient, label=1, probability=0.5, **by_modality):
    used = [name for name, facts in by_modality.items() if facts["probability"] is not None]
    return {
        "patient": patient, "label": label, "probability": probability, "agreement_interval": [0.1, 0.9], "used": used,
        "series": by_modality,
    }  # fmt: skip


def write_config(folder, **values):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resolved_config.yaml").write_text(yaml.safe_dump(values))


def evaluated(root, seed, fold, *rows, details=True, **config):
    """An evaluation in a cross-validation."""
    run = root / "classification" / f"seed{seed}" / f"fold{fold}"
    write_csv([{"patient": one["patient"]} for one in rows], run / "evaluation" / "predictions.csv")
    if details:
        weights = {name: str(run / name / f"model_{name}.pt") for name in ("FLAIR", "T1wCE")}
        content = {"weights": weights, "runtime": "torch fp32", "patients": list(rows)}
        write_json(content, run / "evaluation" / "patients.json")
    write_config(run / "evaluation", job="evaluate_classification", **config)


def by_patient(root):
    return {one["patient"]: one for one in run_folder.read_patients(root)["patients"]}


@pytest.fixture
def run(tmp_path):
    for seed, more in ((7, 0.0), (8, 0.2)):
        evaluated(tmp_path, seed, 0, row("a", FLAIR=series(0.1 + more, 0.3 + more), T1wCE=series(0.6)), zoom=1.1)
        evaluated(tmp_path, seed, 10, row("b", label=0, probability=0.4, FLAIR=series(reason="no slice")))
        evaluated(tmp_path, seed, 2, row("c", FLAIR=series(0.9), T1wCE=series(reason="no slice")))
    return tmp_path


def test_probabilities_are_means_over_seeds_and_modalities(run):
    found = run_folder.read_patients(run)
    assert found["runtime"] == "torch fp32"
    assert [one["patient"] for one in found["patients"]] == ["a", "c", "b"]  # by fold
    one = found["patients"][0]
    assert (one["label"], one["fold"], one["seeds"], one["used"]) == (1, 0, [7, 8], ["FLAIR", "T1wCE"])
    flair = one["series"]["FLAIR"]
    assert flair["probability"] == pytest.approx(0.3)
    assert flair["sequences"] == pytest.approx([0.2, 0.4])
    assert flair["by_seed"]["8"] == {"probability": pytest.approx(0.4), "sequences": pytest.approx([0.3, 0.5])}
    assert flair["kept"] == 5
    assert one["probability"] == pytest.approx((0.3 + 0.6) / 2)
    low, high = one["agreement_interval"]
    assert 0.1 <= low < one["probability"] < high <= 0.6


def test_whom_nobody_could_predict_keeps_the_prior(run):
    one = by_patient(run)["b"]
    assert (one["probability"], one["used"], one["agreement_interval"]) == (0.4, [], None)
    assert one["series"]["FLAIR"]["probability"] is None
    assert one["series"]["FLAIR"]["reason"] == "no slice"


def test_modalities_without_a_prediction_do_not_count(run):
    one = by_patient(run)["c"]
    assert (one["probability"], one["used"]) == (pytest.approx(0.9), ["FLAIR"])


def test_models_are_those_that_did_not_see_the_patient(run):
    found = run_folder.read_patients(run)
    for one in found["patients"]:
        expected = run / "classification" / "seed7" / f"fold{one['fold']}" / "FLAIR" / "model_FLAIR.pt"
        assert run_folder.classifier_of(found, one, "FLAIR") == str(expected)
        assert run_folder.classifier_of(found, one, "T2w") is None
    facts = found["patients"][0]["series"]["FLAIR"]
    assert run_folder.chance_of(facts) == pytest.approx(0.2)  # of that model, not of all


def test_what_is_asked_for_counts(run):
    write_config(run, job="crossvalidate", seeds=[8], folds=[0, 2], mri_types=["FLAIR"])
    found = by_patient(run)
    assert set(found) == {"a", "c"}
    assert (found["a"]["seeds"], found["a"]["used"]) == ([8], ["FLAIR"])
    assert found["a"]["probability"] == pytest.approx(0.4)
    assert found["a"]["agreement_interval"] == [0.1, 0.9]  # of a single seed it is the evaluation's


def test_a_seed_that_is_not_evaluated_yet_does_not_count(run):
    write_config(run, job="crossvalidate", seeds=[7, 8, 9])
    (run / "classification" / "seed9" / "fold0").mkdir(parents=True)
    assert by_patient(run)["a"]["seeds"] == [7, 8]


def test_sequences_that_do_not_match_have_no_means(run):
    evaluated(run, 8, 0, row("a", FLAIR=series(0.4), T1wCE=series(0.6)))
    one = by_patient(run)["a"]
    assert one["series"]["FLAIR"]["sequences"] == []
    assert one["series"]["FLAIR"]["probability"] == pytest.approx(0.3)
    assert one["agreement_interval"] is None


def test_a_prediction_and_an_evaluation_are_as_they_are_written(run, tmp_path):
    assert run_folder.read_patients(tmp_path / "none") is None
    place = run / "classification" / "seed7" / "fold0" / "evaluation"
    assert run_folder.read_patients(place) == json.loads((place / "patients.json").read_text())
    assert run_folder.classifier_of({"weights": {"FLAIR": ["a", "b"]}}, {"patient": "a"}, "FLAIR") == "a"
    assert run_folder.chance_of({"probability": 0.25}) == 0.25


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"patients": [1]}'])
def test_files_that_can_not_be_read_are_named(run, content):
    file = run / "classification" / "seed7" / "fold0" / "evaluation" / "patients.json"
    file.write_text(content)
    with pytest.raises(run_folder.RunError, match=r"patients\.json"):
        run_folder.read_patients(run)


def test_prepared_series_of_each_kind_of_run(run, tmp_path):
    assert run_folder.prepared_dir(run) is None
    write_json({}, run / "prepared" / "classification" / "index.json")
    assert run_folder.prepared_dir(run) == run / "prepared" / "classification"
    write_json({}, tmp_path / "elsewhere" / "classification" / "index.json")
    write_config(run, job="crossvalidate", prepared_dir=str(tmp_path / "elsewhere"))
    assert run_folder.prepared_dir(run) == tmp_path / "elsewhere" / "classification"
    evaluation = run / "classification" / "seed7" / "fold0" / "evaluation"
    write_config(evaluation, prepared_dir=str(tmp_path / "elsewhere" / "classification"))
    assert run_folder.prepared_dir(evaluation) == tmp_path / "elsewhere" / "classification"
    write_config(evaluation, prepared_dir="$@bundle_root + '/prepared'")
    assert run_folder.prepared_places(evaluation) == [evaluation / "prepared"]


def test_zoom(run, tmp_path):
    assert run_folder.zoom_of(run) == 1.1
    write_config(tmp_path / "prediction", zoom=1.3)
    assert run_folder.zoom_of(tmp_path / "prediction") == 1.3
    assert run_folder.zoom_of(tmp_path / "none") is None


def test_neither_torch_nor_monai_is_needed():
    code = "import sys, radiogenomics.scripts.run_folder; sys.exit(any(name in sys.modules for name in ('torch', 'monai')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("content", ["[" * 100_000, "\udcff", "{", "[]"])
def test_a_damaged_file_of_a_run_is_named_with_what_to_do(tmp_path, content):
    (tmp_path / "patients.json").write_text(content, errors="surrogateescape")
    with pytest.raises(run_folder.RunError, match=r"patients\.json: .*; run the job that wrote it again"):
        run_folder.read_patients(tmp_path)
    if content != "[]":
        (tmp_path / "resolved_config.yaml").write_text(content, errors="surrogateescape")
        with pytest.raises(
            run_folder.RunError, match=r"resolved_config\.yaml: can't be read as YAML .*; run the job"
        ) as info:
            run_folder.read_config(tmp_path)
        assert "\n" not in str(info.value)
