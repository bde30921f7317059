"""What stands in data, or is typed as an option, is never run, never leaves the output folder and never becomes markup."""

from __future__ import annotations

import csv
import json
import re
import unicodedata

import nibabel as nib
import numpy as np
import pytest

from scripts import checks
from scripts.commands import running
from scripts.commands.running import run_job
from scripts.datalists import build_datalist, load_datalist, select
from scripts.errors import UserError
from scripts.files import is_formula, write_json
from scripts.label_tables import read_asked, read_labels
from scripts.outputs import OutputError, check_identifier
from scripts.patients import write_predictions
from scripts.report.writer import Writer
from scripts.studies.folders import DataListError, find_studies
from scripts.studies.table import as_text, read_studies_file, write_studies
from tests.scripts.studies.exports import Export

CODE = "$__import__('os').system('touch PWNED')"
MARKUP = "<img src=x onerror=alert(1)>"
FILE_NAMES = (
    CODE, "@device", "%file", "ab::c#d", "$'x'", "=1+cmd|' calc'!A1", MARKUP, '"; DROP', "\u202eyxes", "NUL.txt", "p\u0430tient",
    "patient", "+1", "-1-1", "{{ 7 * 7 }}", "x" * 120,
)  # fmt: skip
"""Names that a folder may have."""
REFUSED = ("../../x", "a/b", "a\\b", "..", "", "a\nb", "a\x00b", "\x1b[2J", "C:x", "a::b#c", "x" * 300)
"""Identifiers of which no file names are made."""


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path, monkeypatch):
    """Each test works in a folder of its own, outside of which nothing is written, and in which nothing ran."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    yield
    assert list(home.iterdir()) == []
    assert not list(tmp_path.rglob("PWNED"))


@pytest.fixture
def folder(tmp_path):
    """A study in a folder of each name."""
    image = nib.Nifti1Image(np.random.default_rng(0).uniform(size=(8, 8, 8)).astype(np.float32), np.eye(4))
    for name in FILE_NAMES:
        (tmp_path / "in" / name).mkdir(parents=True)
        nib.save(image, tmp_path / "in" / name / "flair.nii.gz")
    return tmp_path / "in"


def cells_of(file):
    with open(file, newline="", encoding="utf-8") as stream:
        return [cell for row in csv.reader(stream) for cell in row]


def test_texts_of_options_are_values():
    from monai.bundle import ConfigParser

    for text in (*FILE_NAMES, *REFUSED):
        settings = {"one": text, "list": [text], "map": {"a": text}}
        escaped = checks.as_values(settings)
        parser = ConfigParser({**escaped, "device": "cpu"})
        assert [parser.get_parsed_content(key) for key in settings] == list(settings.values())
        assert checks.as_typed(escaped) == settings


def test_an_option_builds_no_object():
    object_of = {"_target_": "os.system", "command": "touch PWNED"}
    for value in (object_of, [object_of], {"a": object_of}):
        with pytest.raises(ValueError, match=r"found _target_.*expected a value"):
            run_job("inference", section=value)


def test_an_option_is_an_expression_where_it_is_said(monkeypatch):
    ran = {}
    monkeypatch.setattr(running, "run_config", lambda config, run=None, **values: ran.update(values))
    run_job("inference", batch_size="$2 * 8", seed="$1", device="@device", expression="batch_size,device")
    assert (ran["batch_size"], ran["device"]) == ("$2 * 8", "@device")
    assert checks.as_typed(ran["seed"]) == "$1"  # the text
    assert "expression" not in ran
    for name, reason in (
        ("zoom", "no such setting was given"),
        ("prior", "found 0.5"),
        ("segmenter", "found '/a/\\$b'"),
        (3, "names of settings"),
    ):
        with pytest.raises(ValueError, match=reason):
            run_job("inference", prior=0.5, segmenter="/a/$b", expression=name)


def test_no_command_takes_expressions_unasked(tmp_path, monkeypatch):
    """From the command line, through every command that has further settings."""
    from scripts.commands import evaluate, train, use

    ran = []
    monkeypatch.setattr(running, "run_config", lambda config, run=None, **values: ran.append(values))
    monkeypatch.setattr(use, "bundle_module", lambda name: pytest.fail("nothing is written"))
    monkeypatch.setattr(evaluate, "_metrics", lambda output: {})
    common = {"device": CODE, "seed": CODE}
    use.predict(tmp_path, tmp_path / "o", report=False, **common)
    use.segment(tmp_path, tmp_path / "o", **common)
    train.prepare("segmentation", tmp_path / "p", datalist="x.json", num_workers=CODE)
    train.train("classification", "x.json", tmp_path / "p", tmp_path / "o", mri_types="FLAIR", **common)
    train.pretrain(tmp_path / "o", **common)
    evaluate.evaluate("segmentation", "x.json", tmp_path / "p", tmp_path / "o", **common)
    evaluate.crossvalidate(tmp_path / "o", **common, train_classification={"seed": CODE, "nested": [CODE]})
    texts = [text for values in ran for text in _texts(values)]
    assert len(ran) == 7
    assert sum(text == CODE for text in map(checks.as_typed, texts)) >= 14
    assert CODE not in texts


def _texts(value):
    if isinstance(value, dict):
        return [text for one in value.values() for text in _texts(one)]
    if isinstance(value, (list, tuple)):
        return [text for one in value for text in _texts(one)]
    return [value] if isinstance(value, str) else []


def test_names_of_folders(folder, tmp_path):
    entries = find_studies(folder)
    assert {entry["patient"] for entry in entries} == set(FILE_NAMES)
    labels = tmp_path / "labels.csv"
    with open(labels, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(
            [("BraTS21ID", "MGMT_value"), *((name, i % 2) for i, name in enumerate(FILE_NAMES))]
        )
    listed = build_datalist(folder, tmp_path / "list.json", labels, folds=2)
    assert {entry["patient"]: entry["label"] for entry in listed["training"]} == read_labels(labels)
    loaded = select(datalist=tmp_path / "list.json")
    assert {entry["FLAIR"] for entry in loaded} == {entry["FLAIR"] for entry in entries}
    write_studies(entries, tmp_path / "out")
    assert set(read_studies_file(tmp_path / "out")) == set(FILE_NAMES)
    assert not any(map(is_formula, cells_of(tmp_path / "out" / "studies.csv")))
    shown = as_text(entries)
    assert MARKUP in shown
    assert not {unicodedata.category(sign) for sign in shown.replace("\n", "")} & {"Cc", "Cf"}


@pytest.mark.slow
def test_headers_of_dicom(tmp_path):
    export = Export(tmp_path / "in")
    texts = [
        CODE,
        "@device",
        "=1+1",
        MARKUP,
        "../../x",
        "CON",
        "NUL.txt",
        "a::b#c",
        "p\u0430tient",
        "patient",
        '"; DROP',
        "x" * 64,
    ]
    for place, text in enumerate(texts):
        export.series(
            f"FLAIR {text}"[:64], patient=text, study=f"1.2.{place}", PatientName=text, StudyDescription=text, SpecificCharacterSet="ISO_IR 192",
        )  # fmt: skip
        export.series("AX T2", patient=text, study=f"1.2.{place}", SpecificCharacterSet="ISO_IR 192")
    entries = find_studies(tmp_path / "in")
    names = [entry["patient"] for entry in entries]
    assert len({name.casefold() for name in names}) == len(texts)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)
        assert name.split(".")[0].upper() not in ("CON", "NUL")
        check_identifier(name, "DICOM")
    write_studies(entries, tmp_path / "out")
    cells = cells_of(tmp_path / "out" / "studies.csv")
    assert f"FLAIR {CODE}" in cells
    assert not any(map(is_formula, cells))


def test_what_steers_a_terminal_is_not_printed(folder):
    (entry, *_) = find_studies(folder)
    entry["study"]["series"][0]["description"] = "\x1b[2J\x1b]0;title\x07FLAIR\u202e"
    assert "\x1b" not in as_text([entry])
    assert "FLAIR" in as_text([entry])


@pytest.mark.parametrize("patient", REFUSED)
def test_identifiers_that_are_no_names_are_refused(tmp_path, patient):
    with pytest.raises(OutputError, match="rename the patient"):
        check_identifier(patient, "list.json")
    write_json({"test": [{"patient": patient, "FLAIR": "x.nii.gz"}]}, tmp_path / "list.json")
    with pytest.raises(UserError, match=r"list\.json: "):
        load_datalist(tmp_path / "list.json")


@pytest.mark.parametrize(("one", "other"), [("Patient", "patient"), ("caf\u00e9", "cafe\u0301")])
def test_names_that_are_one_on_some_disks_are_refused(tmp_path, one, other):
    for name in (one, other):
        (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name / "flair.nii.gz").touch()
    if len(list((tmp_path / "in").iterdir())) == 2:
        with pytest.raises(DataListError, match="only in case or the encoding of accents"):
            find_studies(tmp_path / "in")
    write_json({"test": [{"patient": name, "FLAIR": "x.nii.gz"} for name in (one, other)]}, tmp_path / "list.json")
    with pytest.raises(DataListError, match="named more than once"):
        load_datalist(tmp_path / "list.json")


def test_a_submission_and_its_report(tmp_path, caplog):
    """The submission names patients as they were asked for, which programs compare; where a spreadsheet would run one, the log says so."""
    pages = pytest.importorskip("scripts.report.pages", reason="reports need the extra [report]")
    asked_in = tmp_path / "sample.csv"
    with open(asked_in, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("BraTS21ID", "MGMT_value"), *((name, 0.5) for name in FILE_NAMES)])
    asked = read_asked(asked_in)
    out = tmp_path / "out"
    write_predictions([], out, {}, asked, 0.5, "torch", [])
    assert cells_of(out / "submission.csv")[2::2] == list(FILE_NAMES)
    assert "a spreadsheet would run" in caplog.text
    page = pages.write_report(out)
    written = {path.resolve() for path in tmp_path.rglob("*") if path.is_file()}
    assert all(out.resolve() in path.parents for path in written - {asked_in.resolve()})
    found = list(page.parent.glob("patients/*.html"))
    assert len({path.name.casefold() for path in found}) == len(FILE_NAMES)
    assert not any(path.stem.split(".")[0].upper() == "NUL" for path in found)
    for file in (page, *found):
        assert "<img" not in file.read_text(encoding="utf-8")
        assert "49" not in re.findall(r"Patient (\S*)</h1>", file.read_text(encoding="utf-8"))
    for table in page.parent.glob("tables/*.csv"):
        assert not any(map(is_formula, cells_of(table))), table
    assert json.loads((out / "patients.json").read_text(encoding="utf-8"))["patients"][0]["patient"] == CODE


def test_files_of_a_report_are_distinguished(tmp_path):
    writer = Writer(tmp_path)
    names = [writer.name(name) for name in (*FILE_NAMES, *REFUSED, "CON", "con")]
    assert len({name.lower() for name in names}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9-][A-Za-z0-9._-]*", name) for name in names)
    assert not any(name.split(".")[0].upper() in ("CON", "NUL") for name in names)
