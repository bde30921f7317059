"""What is reported of studies before anything is computed."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

import radiogenomics
from scripts.studies.folders import find_studies
from scripts.studies.table import as_text, describe, read_studies_file, remarks, write_studies


def save(file, shape=(30, 32, 20), spacing=(2.0, 2.0, 6.0), value=None):
    """A stripped brain, or what a value makes of it."""
    axes = np.ix_(*(np.linspace(-1.2, 1.2, side) for side in shape))
    inside = sum(axis**2 for axis in axes) < 1
    values = np.where(inside, 300, 0) if value is None else np.full(shape, value)
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(np.int16), np.diag([*spacing, 1])), file)


def study(**series):
    rows = [
        {"modality": name, "chosen": True, "slices": 30, "spacing": 4.0, "description": name, "region": "", **facts}
        for name, facts in series.items()
    ]
    return {"patient": "P", "study": {"date": "", "uid": "", "phantom": False, "series": rows}}


ALL = {name: {} for name in ("FLAIR", "T1w", "T1wCE", "T2w")}


def test_a_complete_study_has_no_remark():
    assert remarks(study(**ALL)) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"FLAIR": {"slices": 12, "spacing": 7.0}}, "FLAIR: 12 slices 7.0 mm apart"),
        ({"T2w": {"region": "LSPINE"}}, "T2w: its header names the LSPINE; expected a scan of the head"),
        ({"T1w": {"description": "AX T1 POST OP"}}, "its headers say 'POST OP'"),
        ({"T1w": {"remark": "the skull shows"}, "FLAIR": {"remark": "the skull shows"}}, "FLAIR, T1w: the skull shows"),
    ],
)
def test_what_may_go_wrong_is_reported(change, expected):
    (remark,) = remarks(study(**{**ALL, **change}))
    assert expected in remark


@pytest.mark.parametrize(("installed", "said"), [(True, "predict and segment remove"), (False, "pip install 'brats")])
def test_a_skull_that_nothing_here_removes_is_a_remark(monkeypatch, tmp_path, installed, said):
    monkeypatch.setattr("scripts.brain.deepbet.is_installed", lambda: installed)
    monkeypatch.setattr("scripts.brain.programs.is_installed", lambda name: False)
    monkeypatch.setattr("scripts.reading.PatientReader.get_data", lambda self, files: (None, {"skull": "skull"}))
    row = {"modality": "T1w", "chosen": True, "files": str(tmp_path / "a.nii.gz"), "slices": 3}
    describe({"patient": "1", "study": {"series": [row]}})
    assert said in row["remark"]


def test_missing_modalities_are_reported_with_their_consequence():
    assert remarks(study(FLAIR={}, T2w={})) == ["no T1w, T1wCE: enhancing tumour is not marked"]


def test_heads_by_any_name_are_heads():
    for region in ("HEAD", "BRAIN", "HEADNECK", "Kopf", ""):
        assert remarks(study(**{**ALL, "FLAIR": {"region": region}})) == []


def test_the_table_is_shown_and_written(tmp_path):
    for name in ("flair", "t1", "t1ce", "t2"):
        save(tmp_path / "in" / "P1" / f"P1_{name}.nii.gz")
    save(tmp_path / "in" / "P2" / "P2_flair.nii.gz", value=7)
    shown = radiogenomics.studies(tmp_path / "in", tmp_path / "out")
    lines = [line.split() for line in shown.splitlines()]
    assert lines[0] == ["P1"]
    assert lines[1][:2] == ["FLAIR", "P1/P1_flair.nii.gz"]
    assert "20 x 6.0 mm" in shown
    assert "axial" in shown
    assert "all 19200 voxels have the value 7" in shown
    found = read_studies_file(tmp_path / "out")
    assert list(found) == ["P1", "P2"]
    assert found["P1"]["chosen"].keys() == set(ALL)
    with open(tmp_path / "out" / "studies.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["patient"], row["modality"], row["slices"]) for row in rows][:2] == [
        ("P1", "FLAIR", "20"),
        ("P1", "T1w", "20"),
    ]
    assert "files" not in json.loads((tmp_path / "out" / "studies.json").read_text())[0]["series"][0]


def test_a_file_that_cannot_be_read_is_reported_and_the_others_go_on(tmp_path):
    save(tmp_path / "P_t2.nii.gz")
    (tmp_path / "P_flair.nii.gz").write_bytes(b"no NIfTI")
    (entry,) = find_studies(tmp_path)
    describe(entry)
    rows = {row["modality"]: row for row in entry["study"]["series"]}
    assert rows["T2w"]["slices"] == 20
    assert rows["FLAIR"]["remark"]
    assert "FLAIR: " in as_text([entry])


def test_entries_of_a_data_list_have_no_table(tmp_path):
    write_studies([{"patient": "P", "FLAIR": "x"}], tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert read_studies_file(tmp_path) == {}


@pytest.mark.parametrize("skull", [True, False])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5, 2), (30, 32, 20)])
def test_what_is_wrong_with_a_nifti_file_is_reported_and_no_number_is_none(tmp_path, skull, shape):
    file = tmp_path / "A" / "A_flair.nii"
    file.parent.mkdir()
    data = bytearray(nib.Nifti1Image(np.ones(shape, np.int16), np.eye(4)).to_bytes())
    data[280:284] = np.float32(np.inf if len(shape) == 3 else 1).tobytes()  # srow_x
    file.write_bytes(data)
    entries = find_studies(tmp_path)
    describe(entries[0], skull)
    write_studies(entries, tmp_path / "out")
    written = (tmp_path / "out" / "studies.json").read_text()
    json.loads(written, parse_constant=pytest.fail)
    if skull or len(shape) != 2:
        assert "A_flair.nii: " in written  # the file is named, not only what Python said of it
