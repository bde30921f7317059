"""Nothing that a command writes or says identifies a patient, but the identifier; with --deidentify not even that.

Every attribute of PS3.15's table E.1-1, all other names, dates and times, private and nested ones, NIfTI headers, texts in pictures, and the
names of folders and files below the patient's have a mark each, for which everything that is left behind is searched.
"""

from __future__ import annotations

import csv
import json
import logging
import re
import stat
import sys

import pytest
import torch

pytest.importorskip("highdicom", reason="DICOM output needs the extra [dicom]")
pytest.importorskip("jinja2", reason="reports need the extra [report]")

from radiogenomics.scripts import cli
from scripts.networks import build_classifier
from scripts.weights import save_weights
from tests.networks import CLASSIFIER, SEGMENTER
from tests.planted import DESCRIPTIONS, Marks, dicom_series, fetched, nifti, pictures, search

pytestmark = pytest.mark.slow
LINKS = ("SeriesInstanceUID", "FrameOfReferenceUID", "StudyInstanceUID")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Studies of all kinds, the marks in them, and the names of the patients."""
    root, marks = tmp_path_factory.mktemp("planted") / "in", Marks()
    people = {
        kind: marks.new(f"identifier {kind}") for kind in ("named", "exported", "visits", "nifti", "drawn", "broken")
    }

    def uid():
        return marks.new("StudyInstanceUID", "UI")

    study = uid()
    for number, mri_type in enumerate(("FLAIR", "T1wCE")):
        header = marks.new("PatientID"), uid(), marks.new("SeriesDescription of a named folder")
        dicom_series(root / people["named"] / mri_type, marks, f"named {mri_type}", *header, number)
        place = root / people["exported"] / marks.new("folder") / marks.new("folder")
        description = f"{DESCRIPTIONS[mri_type]} {marks.new('SeriesDescription')}"
        dicom_series(place, marks, f"exported {mri_type}", people["exported"], study, description, number)
    for number, date in enumerate(("20010203", "20010406")):
        place = root / people["visits"] / marks.new("folder")
        marks.places[date] = f"StudyDate of visit {number}"
        dicom_series(place, marks, "visit", people["visits"], uid(), "AX FLAIR", number, StudyDate=date)
    nifti(root / people["nifti"] / "t2f.nii.gz", marks, "NIfTI", 5)
    pictures(root / people["drawn"] / "FLAIR", marks, "pictures", 6)
    header = marks.new("PatientID"), uid(), marks.new("SeriesDescription of a named folder")
    dicom_series(root / people["broken"] / "FLAIR", marks, "broken", *header, 7)
    for file in (root / people["broken"] / "FLAIR").iterdir():
        file.write_bytes(file.read_bytes()[:2000])
    return root, marks, people


@pytest.fixture(scope="module")
def networks(write_segmenter, tmp_path_factory):
    """Options that name a segmenter that marks everything, and classifiers."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    for name in ("FLAIR", "T1wCE"):
        save_weights(build_classifier(CLASSIFIER), CLASSIFIER, folder / f"model_{name}.pt")
    how = [
        "--segmenter",
        write_segmenter(SEGMENTER, folder),
        "--brain",
        "never",
        "--num_workers",
        0,
        "--runtime",
        "eager",
    ]
    return how, ["--classifier", folder, "--dicom", "--min_tumor_ratio", -1]


@pytest.fixture
def said(monkeypatch, capfd, tmp_path, caplog):
    """A function that runs the command, and gives back all that it said, whether it worked, failed or was refused."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(logging.root, "disabled", False)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["radiogenomics", *map(str, words)])
        with caplog.at_level(logging.INFO, logger="scripts"), caplog.at_level(logging.INFO, logger="custom_transforms"):
            try:
                cli.main()
                ending = ""
            except SystemExit as error:
                ending = str(error)
        output = capfd.readouterr()
        return "\n".join([output.out, output.err, caplog.text, ending])

    return run


def found(planted, tmp_path, output, without=("identifier",)):
    """What identifies the patients, by what was marked: files, or ``said``."""
    marks = {
        mark: place for mark, place in planted[1].patterns().items() if not place.startswith(without or ("no such",))
    }
    return search([tmp_path], marks, output)


def words_of(planted, networks, tmp_path, command):
    root, _, people = planted
    how, classify = networks
    out = tmp_path / "out"
    return {
        "studies": ["studies", "--input", root, "--output", out],
        "explore": ["explore", "--input", root, "--output", out, "--num_workers", 0],
        "volumes": ["volumes", "--input", root, "--output", out, "--format", "npz,tfrecord", "--brain", "never", "--num_workers", 0],
        "show": ["show", root, "--patient", people["named"], "--output", out, "--window", "percentile"],
        "headers": ["headers", root / people["named"] / "FLAIR", "--everything", "--private", "--html", out / "page.html"],
        "segment": ["segment", "--input", root, "--output", out, *how],
        "fuse": ["segment", "--input", root, "--output", out, "--fuse", *how],
        "predict": ["predict", "--input", root, "--output", out, *classify, *how],
        "error": ["segment", "--input", root / people["broken"], "--output", out, *how],
    }[command]  # fmt: skip


NAMES_OF_FILES = re.compile("folder|.*file name")


@pytest.mark.parametrize("command", ["studies", "explore", "volumes", "show", "headers", "segment", "fuse", "error"])
def test_the_identifier_alone(planted, networks, said, tmp_path, command):
    """But a message about a faulty file names it, and tables of studies have the descriptions that distinguish series."""
    output = said(*words_of(planted, networks, tmp_path, command))
    assert (tmp_path / "out").exists()
    pages = list((tmp_path / "out").rglob("*.html"))
    assert len(pages) == (command in ("explore", "headers"))
    assert not [what for page in pages for what in fetched(page.read_text(encoding="utf-8"))]
    for what, places in found(planted, tmp_path, output).items():
        if NAMES_OF_FILES.fullmatch(what):
            assert what.startswith("broken"), (what, places)
        else:
            assert what.startswith("SeriesDescription"), (what, places)
            assert places <= {"said", f"{tmp_path.name}/out/studies.csv", f"{tmp_path.name}/out/studies.json"}, (
                what,
                places,
            )


def test_a_data_list_has_the_paths_and_nothing_else(planted, said, tmp_path):
    output = said("datalist", "--input", planted[0], "--output", tmp_path / "list.json")
    assert all(NAMES_OF_FILES.fullmatch(what) for what in found(planted, tmp_path, output))
    names = {entry["patient"] for entry in json.loads((tmp_path / "list.json").read_text())["test"]}
    assert names == {*planted[2].values(), *(f"{planted[2]['visits']}_day{day}" for day in ("000", "062"))} - {
        planted[2]["visits"]
    }


def test_dicom_objects_alone_carry_what_the_source_says_of_the_patient(planted, networks, said, tmp_path):
    """By design: a SEG or SR belongs to the patient and study of its source."""
    output = said(*words_of(planted, networks, tmp_path, "predict"))
    output += said("report", tmp_path / "out", "--output", tmp_path / "again")
    assert (tmp_path / "again" / "report.html").is_file()
    in_objects = 0
    for what, places in found(planted, tmp_path, output).items():
        elsewhere = {place for place in places if not re.search(r"out/dicom/[^/]+/\w+\.dcm$", place)}
        in_objects += elsewhere != places
        if elsewhere:
            assert what.startswith(("SeriesDescription", "broken file name")), (what, elsewhere)
    assert in_objects > 50
    patients = {row["patient"] for row in json.loads((tmp_path / "out" / "patients.json").read_text())["patients"]}
    assert planted[2]["exported"] in patients


@pytest.mark.parametrize("command", ["predict", "segment", "fuse", "error"])
def test_nothing_at_all_of_who_is_deidentified(planted, networks, said, tmp_path, command):
    output = said(*words_of(planted, networks, tmp_path, command), "--deidentify")
    assert (tmp_path / "out" / "studies.json").is_file()
    for what, places in found(planted, tmp_path, output, without=()).items():
        assert any(link in what for link in LINKS), (what, places)
        assert all(re.search(r"out/dicom/study_\w+/\w+\.dcm$", place) for place in places), (what, places)
    assert str(planted[0]) not in "".join(path.read_text() for path in (tmp_path / "out").glob("*.*"))
    assert not (tmp_path / "key.csv").exists()


def test_the_key_is_kept_where_it_is_asked_for(planted, networks, said, tmp_path):
    words = words_of(planted, networks, tmp_path, "segment")
    refused = said(*words, "--deidentify", "--key_file", tmp_path / "out" / "key.csv")
    assert "is inside the results" in refused
    assert not (tmp_path / "out").exists()
    assert "add --deidentify" in said(*words, "--key_file", tmp_path / "key.csv")
    assert not (tmp_path / "out").exists()
    said(*words, "--deidentify", "--key_file", tmp_path / "key.csv")
    key = tmp_path / "key.csv"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with open(key, newline="") as stream:
        names = {row["pseudonym"]: row["patient"] for row in csv.DictReader(stream)}
    assert set(planted[2].values()) - {planted[2]["visits"]} < set(names.values())
    rows = list(csv.DictReader(open(tmp_path / "out" / "volumes.csv", newline="")))  # noqa: SIM115
    assert {row["patient"] for row in rows} == set(names)
    assert all(re.fullmatch(r"study_[0-9a-f]{12}", name) for name in names)
    visits = [name for name, patient in names.items() if patient.startswith(planted[2]["visits"])]
    groups = {one["patient"]: one.get("group") for one in json.loads((tmp_path / "out" / "studies.json").read_text())}
    assert len({groups[name] for name in visits}) == 1
    key.write_text("pseudonym,patient\n")
    assert "with another key" in said(*words, "--deidentify", "--key_file", key, "--overwrite", "False")


def test_a_sample_submission_is_refused_where_nobody_is_named(planted, networks, said, tmp_path):
    (tmp_path / "sample.csv").write_text(f"BraTS21ID,MGMT_value\n{planted[2]['named']},0.5\n")
    words = words_of(planted, networks, tmp_path, "predict")
    assert "omit one of the two" in said(*words, "--deidentify", "--sample_submission", tmp_path / "sample.csv")
    assert not (tmp_path / "out").exists()
