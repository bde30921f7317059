import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts import outputs
from scripts.outputs import OutputError


@pytest.mark.parametrize(
    "patient", ["../x", "a/b", "a\\b", "..", ".", "", "C:x", "d:", "a\nb", "a\x00", "\x7f", 12, None, ["a"]]
)
def test_an_identifier_that_is_no_file_name_is_refused(patient):
    with pytest.raises(OutputError, match=r"list\.json: patient .*rename the patient"):
        outputs.check_identifier(patient, "list.json")


@given(st.text(min_size=1))
def test_an_identifier_that_is_taken_stays_in_its_folder_and_apart_from_all_others(patient):
    try:
        name = outputs.check_identifier(patient, "list.json")
    except OutputError:
        return
    assert name == patient
    path = outputs.inside("/out", name, "FLAIR.h5")
    assert path.parts == ("/", "out", patient, "FLAIR.h5")


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "/etc/x", "."])
def test_no_output_leaves_its_folder(name, tmp_path):
    with pytest.raises(OutputError, match="would lie outside the output folder"):
        outputs.inside(tmp_path / "out", name)


def _files(folder, *names):
    for name in names:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def test_only_what_a_job_wrote_is_removed(tmp_path):
    own = [
        "resolved_config.yaml", "submission.csv", "patients.json", "masks/P1_FLAIR.nii.gz", "prepared/index.json",
        "prepared/P1/FLAIR.h5", "prepared/P1/FLAIR.logits.json", "dicom/P1/report_sr.dcm", "report/report.html",
        "report/patients/P1.html", "explanations/index.json",
    ]  # fmt: skip
    others = ["thesis.tex", "studies/P1/FLAIR/Image-1.dcm", "masks/P1_FLAIR_corrected.nii.gz", "dicom/P1/FLAIR/1.dcm"]
    _files(tmp_path, *own, *others)
    outputs.remove_own_files(tmp_path, {"job": "inference"})
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == set(others)
    assert not (tmp_path / "prepared").exists()


def test_only_what_a_run_needed_itself_is_removed_at_its_end(tmp_path):
    own, others = ["prepared/index.json", "prepared/P1/FLAIR.h5"], ["prepared/notes.txt", "masks/P1_FLAIR.nii.gz"]
    _files(tmp_path / "out", *own, *others)
    _files(tmp_path / "elsewhere", *own)
    outputs.remove_unfinished(tmp_path / "out" / "prepared", tmp_path / "out")
    outputs.remove_unfinished(tmp_path / "elsewhere" / "prepared", tmp_path / "out")
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*(f"out/{name}" for name in others), *(f"elsewhere/{name}" for name in own)}


def test_the_folder_of_an_unknown_job_keeps_everything_but_its_configuration(tmp_path):
    _files(tmp_path, "resolved_config.yaml", "patients.json")
    outputs.remove_own_files(tmp_path, {"job": "somebody_elses"})
    assert [path.name for path in tmp_path.iterdir()] == ["patients.json"]


@pytest.mark.parametrize(
    ("output", "relation"),
    [("x", "holds"), ("x/studies", "is"), ("x/studies/out", "lies in"), ("x/other/../studies", "is")],
)
def test_results_are_kept_apart_from_studies(output, relation, tmp_path):
    (tmp_path / "x" / "studies").mkdir(parents=True)
    given = {"job": "inference", "dataset_dir": str(tmp_path / "x" / "studies"), "prepared_dir": "$@run_dir"}
    with pytest.raises(OutputError, match=rf"{relation} .*studies \(dataset_dir\).*another folder"):
        outputs.keep_apart(tmp_path / output, given)
    outputs.keep_apart(tmp_path / "x" / "results", given)


def test_results_are_kept_apart_from_what_a_data_list_names_prepared_series_and_weights(tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "task2.json").write_text(json.dumps({"dataset_dir": "../studies", "training": []}))
    _files(tmp_path, "weights/model_FLAIR.pt", "prepared/index.json")
    given = {
        "datalist": str(tmp_path / "lists" / "task2.json"),
        "prepared_dir": str(tmp_path / "prepared"),
        "segmenter": str(tmp_path / "weights" / "model_FLAIR.pt"),
        "classifier": str(tmp_path / "weights"),
        "init": "imagenet",
    }
    for output in ("studies", "studies/a", "lists", "prepared", "prepared/a", "weights", "."):
        with pytest.raises(OutputError, match="kept apart"):
            outputs.keep_apart(tmp_path / output, given)
    for output in ("results", "lists/results", "weights/results"):
        outputs.keep_apart(tmp_path / output, given)
    outputs.keep_apart(tmp_path / "prepared", {**given, "job": "prepare_classification"})


def test_a_data_list_whose_folder_is_no_path_is_left_to_whoever_reads_it(tmp_path):
    for named in ("a\0b", "\ud800", 5, None):
        (tmp_path / "list.json").write_text(json.dumps({"dataset_dir": named}))
        outputs.keep_apart(tmp_path / "out", {"datalist": str(tmp_path / "list.json")})
