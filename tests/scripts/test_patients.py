"""Patients' probabilities, and what a prediction writes of them."""

import io
import json
import logging

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from custom_transforms import SliceGeometry
from scripts import loading
from scripts.patients import PatientResults, write_predictions
from tests.scripts.cohorts import add_error, entry, read_rows, volume_rows, write_prepared


def add_logits(patients, patient, mri_type, *probabilities, label=None):
    logits = torch.logit(torch.tensor(probabilities, dtype=torch.float64))[:, None]
    batch = {"patient": patient, "mri_type": mri_type, **({} if label is None else {"label": label})}
    engine = Engine(lambda engine, batch: {"pred": logits})
    patients.attach(engine)
    engine.run([batch])


def prepared_cohort(folder):
    """Patient a is fine, b's only series is broken, c shows too little tumour, d has no weights for its modality."""
    geometry = SliceGeometry.from_affine(np.eye(4), (2, 2, 3))
    masks = np.zeros((3, 2, 2, 2), bool)
    write_prepared(folder, "00012", "FLAIR", masks, geometry, kept=2, warnings=["a gap"])
    write_prepared(folder, "00012", "T1w", masks, geometry, kept=1)
    add_error(folder, "00007", "FLAIR", "SeriesError: no pixel data in Image-1.dcm")
    write_prepared(folder, "00003", "FLAIR", masks, geometry, kept=0)
    write_prepared(folder, "00001", "T1w", masks, geometry, kept=3)
    entries = [entry("00012", "FLAIR", "T1w"), entry("00007", "FLAIR"), entry("00003", "FLAIR"), entry("00001", "T1w")]
    patients = PatientResults(prior=0.4)
    add_logits(patients, "00012", "FLAIR", 0.2, 0.4)
    rows = patients.patient_rows(entries, folder, {"FLAIR": "flair.pt", "T1w": None})
    return {row["patient"]: row for row in rows}, rows


def test_every_patient_has_a_row_in_order(tmp_path):
    by_patient, rows = prepared_cohort(tmp_path)
    assert list(by_patient) == ["00012", "00007", "00003", "00001"]
    assert [row["probability"] for row in rows] == [pytest.approx(0.3), 0.4, 0.4, 0.4]
    assert by_patient["00012"]["used"] == ["FLAIR"]
    assert all(row["used"] == [] for row in rows[1:])


def test_row_of_a_series(tmp_path):
    flair = prepared_cohort(tmp_path)[0]["00012"]["series"]["FLAIR"]
    assert (flair["slices"], flair["foreground"], flair["kept"]) == (3, 3, 2)
    assert flair["sequences"] == [pytest.approx(0.2), pytest.approx(0.4)]
    assert flair["probability"] == pytest.approx(0.3)
    assert flair["seconds"] >= 1.5
    assert flair["warnings"] == ["a gap"]
    assert "reason" not in flair


def test_whoever_gets_the_prior_has_a_reason(tmp_path, caplog):
    by_patient, _ = prepared_cohort(tmp_path)
    assert "reason" not in by_patient["00012"]
    for patient, part in [
        ("00007", "FLAIR: SeriesError: no pixel data in Image-1.dcm"),
        ("00003", "FLAIR: no slice shows enough tumour"),
        ("00001", "FLAIR: no such series; T1w: no classifier weights"),
    ]:
        assert by_patient[patient]["reason"].startswith("cohort prior 0.4: ")
        assert part in by_patient[patient]["reason"]
        assert f"patient {patient} gets the cohort prior 0.4" in caplog.text
    assert by_patient["00007"]["series"]["FLAIR"]["warnings"] == ["odd"]


def test_a_patient_without_recognised_series_has_a_row_with_the_reason(tmp_path, caplog):
    prepared_cohort(tmp_path)
    entries = [{"patient": "P", "reason": "none of its series was recognised: found AX FLAIR"}]
    (row,) = PatientResults(prior=0.4).patient_rows(entries, tmp_path, {"FLAIR": "flair.pt"})
    assert (row["probability"], row["used"]) == (0.4, [])
    assert row["reason"] == "cohort prior 0.4: none of its series was recognised: found AX FLAIR"
    assert "patient P gets the cohort prior 0.4: none of its series" in caplog.text


def test_unrecognised_images_are_a_warning_of_the_patient(tmp_path):
    prepared_cohort(tmp_path)
    entries = [entry("00003", "FLAIR", warnings=["not recognised: AX T1"]), entry("00007", "FLAIR")]
    first, second = PatientResults().patient_rows(entries, tmp_path, {"FLAIR": "flair.pt"})
    assert first["warnings"] == ["not recognised: AX T1"]
    assert "warnings" not in second


def test_prior_must_be_a_probability():
    for prior in (-0.1, 1.5):
        with pytest.raises(ValueError, match=f"prior is {prior}, expected a probability"):
            PatientResults(prior)


# Networks that give no numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_a_failure_of_their_series(tmp_path, caplog, value):
    logits = {"FLAIR": torch.tensor([[0.0], [value]]), "T1w": torch.tensor([[1.0]])}
    items = stored_cohort(tmp_path)
    patients, _ = classify(items, logits)
    assert not (tmp_path / "1" / "FLAIR.logits.json").exists()
    assert "1/FLAIR: the classifier answered with NaN or infinity" in caplog.text
    (row,) = patients.patient_rows([entry("1", "FLAIR", "T1w")], tmp_path, {"FLAIR": "f.pt", "T1w": "t.pt"})
    assert row["series"]["FLAIR"]["probability"] is None
    assert "NaN or infinity" in row["series"]["FLAIR"]["reason"]
    assert (row["used"], row["probability"]) == (["T1w"], pytest.approx(torch.sigmoid(torch.tensor(1.0)).item()))
    patients, _ = classify(items, {"FLAIR": torch.tensor([[value]]), "T1w": torch.zeros(0, 1)}, store=None)
    (row,) = patients.patient_rows([entry("1", "FLAIR", "T1w")], tmp_path, {"FLAIR": "f.pt", "T1w": "t.pt"})
    assert (row["probability"], row["used"]) == (0.5, [])
    assert "FLAIR: the classifier answered with NaN or infinity" in row["reason"]
    json.dumps(row, allow_nan=False)


def test_kept_logits_that_are_not_finite_are_computed_anew(tmp_path):
    items = stored_cohort(tmp_path)
    classify(items, LOGITS)
    file = tmp_path / "1" / "FLAIR.logits.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({**stored, "logits": [[float("nan")]]}))
    assert classify(items, LOGITS)[1] == ["FLAIR"]
    assert json.loads(file.read_text())["logits"] == stored["logits"]


# Logits that are kept

STORE = {
    "weights": {"FLAIR": "f0", "T1w": "f1", "T1wCE": None},
    "settings": {"stride": 5},
    "zoom": 1.2,
    "runtime": "torch",
}


def stored_cohort(folder):
    """Items of a patient with two series, one without a slice."""
    geometry = SliceGeometry.from_affine(np.eye(4), (2, 2, 3))
    for mri_type, kept in (("FLAIR", 2), ("T1w", 0)):
        write_prepared(
            folder, "1", mri_type, np.zeros((3, 2, 2, 2), bool), geometry, kept, fingerprint=f"of {mri_type}"
        )
    return loading.series_items([entry("1", "FLAIR", "T1w", label=1)], folder, ["FLAIR", "T1w"])


def classify(items, logits, store=STORE):
    """Results after a run over what is pending, and which modalities that was."""
    patients = PatientResults(store=store)
    todo = patients.pending(items)
    engine = Engine(lambda engine, batch: {"pred": logits[batch["mri_type"]]})
    patients.attach(engine)
    if todo:
        engine.run(todo)
    return patients, [item["mri_type"] for item in todo]


LOGITS = {
    "FLAIR": torch.cat([torch.randn(200, generator=torch.Generator().manual_seed(3)), torch.tensor([0.1, 1e-40])])[:, None],
    "T1w": torch.zeros(0, 1),
}  # fmt: skip


def test_kept_logits_are_taken_up_as_if_computed(tmp_path):
    items = stored_cohort(tmp_path)
    first, done = classify(items, LOGITS)
    assert done == ["FLAIR", "T1w"]
    again, done = classify(items, {})
    assert done == []
    assert again.probabilities.sequences == first.probabilities.sequences
    assert list(again.probabilities.sequences["1"]) == ["FLAIR", "T1w"]
    assert again.probabilities.labels == first.probabilities.labels == {"1": 1}
    assert again.seconds == first.seconds
    stored = json.loads((tmp_path / "1" / "FLAIR.logits.json").read_text())
    assert torch.equal(torch.tensor(stored["logits"]), LOGITS["FLAIR"])


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {**STORE["weights"], "FLAIR": "other"}},
        {"settings": {"stride": 4}},
        {"zoom": 1.0},
        {"runtime": "openvino int8"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_logits_of_something_else_are_replaced(tmp_path, change):
    items = stored_cohort(tmp_path)[:1]
    classify(items, LOGITS)
    other = {"FLAIR": LOGITS["FLAIR"] + 1}
    found, done = classify(items, other, {**STORE, **change})
    assert done == ["FLAIR"]
    assert found.probabilities.sequences["1"]["FLAIR"] == torch.sigmoid(other["FLAIR"]).flatten().tolist()
    assert classify(items, {}, {**STORE, **change})[1] == []


def test_weights_of_another_modality_do_not_matter(tmp_path):
    items = stored_cohort(tmp_path)
    classify(items, LOGITS)
    assert classify(items, LOGITS, {**STORE, "weights": {**STORE["weights"], "FLAIR": "other"}})[1] == ["FLAIR"]


def test_logits_of_a_series_that_was_prepared_anew_are_replaced(tmp_path):
    items = stored_cohort(tmp_path)
    classify(items, LOGITS)
    geometry = SliceGeometry.from_affine(np.eye(4), (2, 2, 3))
    write_prepared(tmp_path, "1", "FLAIR", np.ones((3, 2, 2, 2), bool), geometry, 2, fingerprint="another")
    assert classify(items, LOGITS)[1] == ["FLAIR"]


@pytest.mark.parametrize("content", [b"", b'{"fingerprint": "', b"[1]", b"null", b"\xff\xfe", b'{"fingerprint": "x"}'])
def test_half_a_file_and_somebody_elses_are_replaced(tmp_path, content):
    items = stored_cohort(tmp_path)
    first = classify(items, LOGITS)[0]
    (tmp_path / "1" / "FLAIR.logits.json").write_bytes(content)
    again, done = classify(items, LOGITS)
    assert done == ["FLAIR"]
    assert again.probabilities.of_patient("1") == first.probabilities.of_patient("1")
    assert classify(items, {})[1] == []


def test_nothing_is_kept_unasked(tmp_path):
    items = stored_cohort(tmp_path)
    classify(items, LOGITS)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert classify(items, LOGITS, None)[1] == ["FLAIR", "T1w"]
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


# The submission


def test_submission_and_details(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    _, rows = prepared_cohort(tmp_path / "prepared")
    write_predictions(rows, tmp_path, {"segmenter": "seg.pt", "FLAIR": "flair.pt", "T1w": None}, runtime="torch fp32")
    submission = read_rows(tmp_path / "submission.csv")
    assert list(submission[0]) == ["BraTS21ID", "MGMT_value"]
    assert [row["BraTS21ID"] for row in submission] == ["00012", "00007", "00003", "00001"]
    assert [float(row["MGMT_value"]) for row in submission] == pytest.approx([0.3, 0.4, 0.4, 0.4])
    details = json.loads((tmp_path / "patients.json").read_text())
    assert details["weights"] == {"segmenter": "seg.pt", "FLAIR": "flair.pt", "T1w": None}
    assert details["runtime"] == "torch fp32"
    assert details["patients"] == json.loads(json.dumps(rows))
    assert "Research use only" in details["note"]
    assert "Research use only" in caplog.text


def test_submission_follows_the_sample(tmp_path, caplog):
    _, rows = prepared_cohort(tmp_path / "prepared")
    write_predictions(rows, tmp_path, {}, asked=["1", "12", "99", "00007"], prior=0.25)
    submission = read_rows(tmp_path / "submission.csv")
    assert [row["BraTS21ID"] for row in submission] == ["1", "12", "99", "00007"]
    assert [float(row["MGMT_value"]) for row in submission] == pytest.approx([0.4, 0.3, 0.25, 0.4])
    assert "patient 99 gets the prior 0.25: no study of this patient" in caplog.text
    details = json.loads((tmp_path / "patients.json").read_text())["patients"]
    assert {row["patient"] for row in details} == {"00001", "00012", "99", "00007", "00003"}
    assert len(details) == 5
    assert details[2]["reason"] == "no study of this patient"


def test_submission_knows_brats_names(tmp_path):
    rows = [{"patient": "BraTS2021_00012", "probability": 0.7, "used": ["FLAIR"], "series": {}}]
    write_predictions(rows, tmp_path, {}, asked=["00012"])
    assert read_rows(tmp_path / "submission.csv") == [{"BraTS21ID": "00012", "MGMT_value": "0.700000"}]


def test_submission_keeps_identifiers_and_warns_of_spreadsheets(tmp_path, caplog):
    names = ["=cmd|'/c calc'!A1", "@x", "-rf", "00001"]
    rows = [{"patient": name, "probability": 0.7, "used": ["FLAIR"], "series": {}} for name in names]
    write_predictions(rows, tmp_path, {})
    assert [row["BraTS21ID"] for row in read_rows(tmp_path / "submission.csv")] == names
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("submission.csv names patients as they were asked for")
    assert all((name in warning) == (name != "00001") for name in names)
    caplog.clear()
    write_predictions(rows[-1:], tmp_path, {})
    assert "spreadsheet" not in caplog.text


# What is shown at the end


def test_prediction_ends_with_a_table(tmp_path, capsys):
    _, rows = prepared_cohort(tmp_path / "prepared")
    volumes = [*volume_rows("00012", T1w=1.5, FLAIR=1.25), *volume_rows("00001", T1w=0)]
    write_predictions(rows, tmp_path, {}, volumes=volumes)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "patient"
    columns = [head.index(name) for name in ("patient", "probability", "modalities", "tumour, ml", "remarks")]
    cells = [[line[a:b].strip() for a, b in zip(columns, [*columns[1:], None], strict=True)] for line in lines]
    assert [row[:4] for row in cells] == [
        ["00012", "0.300", "FLAIR", "1.2"], ["00007", "0.400", "none", ""],
        ["00003", "0.400", "none", ""], ["00001", "0.400", "none", "0.0"],
    ]  # fmt: skip
    assert cells[0][4] == "a gap and 1 more"
    assert cells[1][4].startswith("cohort prior 0.4: FLAIR: SeriesError: no pixel data")
    assert cells[2][4] == "cohort prior 0.4: FLAIR: no slice shows enough tumour; T1w: no such series"
    assert max(map(len, lines)) < 160


def test_a_large_cohort_shows_its_first_patients_and_where_the_others_are(tmp_path, capsys):
    rows = [{"patient": f"{i:05d}", "probability": 0.7, "used": ["FLAIR"], "series": {}} for i in range(50)]
    write_predictions(rows[:20], tmp_path, {})
    assert len(capsys.readouterr().out.splitlines()) == 21
    write_predictions(rows, tmp_path, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22
    assert lines[20].startswith("00019")
    assert lines[21] == "and 30 more patients: patients.json"


def test_wide_and_foreign_names_are_shown_as_far_as_the_terminal_can(tmp_path, monkeypatch):
    rows = [
        {"patient": "begin" + "x" * 90 + "end", "probability": 0.5, "used": [], "series": {}},
        {"patient": "\u65e5\u672c", "probability": 0.5, "used": [], "series": {}},
    ]
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    write_predictions(rows, tmp_path, {})
    terminal.flush()
    lines = terminal.buffer.getvalue().decode("ascii").splitlines()
    assert lines[1].split()[0] == "beginxxxxxxxx?xxxxxxxend"
    assert lines[2].split()[0] == "??"
