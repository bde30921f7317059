"""Names that are code, formulas, markup, escape sequences or very long, of patients and in paths: text in all that a prediction makes."""

from __future__ import annotations

import csv
import json
import re
import sys
import unicodedata

import nibabel as nib
import numpy as np
import pydicom
import pytest
from tqdm import tqdm

pytest.importorskip("jinja2", reason="reports need the extra [report]")

from radiogenomics.scripts import cli
from scripts.files import is_formula
from scripts.report.pages import write_report
from tests.planted import DESCRIPTIONS, Marks, brain, dicom_series, fetched

pytestmark = pytest.mark.slow
CODE = "$__import__('os').system('touch PWNED')"
MARKUP = "<img src=x onerror=alert(1)>"
FORGED = "2026-01-01 00:00:00 - root - ERROR - forged"
PATIENTS = (
    CODE, "@device", "%file", "$'x'", "=1+cmd|' calc'!A1", MARKUP, '"; DROP', "\u202eyxes", "NUL.txt", "p\u0430tient", "patient", "+1",
    "{{ 7 * 7 }}", "x" * 120,
)  # fmt: skip
PLACES = (*PATIENTS, "a::b#c", f"x\n{FORGED}", "\x1b[2J\x1b]0;title\x07", "\r" + FORGED, "\u2028", "y" * 248, "\x9b31m")
"""Names of folders in which a data list's series lie."""
WORDS = ["--brain", "never", "--num_workers", 0, "--runtime", "eager", "--mri_types", "FLAIR"]


@pytest.fixture
def listed(tmp_path):
    """A data list of patients with such names in folders with such names, every third of them broken."""
    entries = []
    for number, place in enumerate(PLACES):
        folder = tmp_path / "in" / place
        folder.mkdir(parents=True)
        file = folder / "scan.nii.gz"
        nib.save(nib.Nifti1Image(brain(number).astype(np.float32), np.diag([5, 5, 12, 1])), file)
        if number % 3 == 2 or number >= len(PATIENTS):
            file.write_bytes(file.read_bytes()[:500])
        name = PATIENTS[number] if number < len(PATIENTS) else f"p{number}"
        entries.append({"patient": name, "FLAIR": f"in/{place}/scan.nii.gz"})
    (tmp_path / "list.json").write_text(json.dumps({"test": entries}))
    return tmp_path / "list.json"


@pytest.fixture
def run(monkeypatch, capfd, caplog):
    """A function that runs a command and returns all that it said."""

    def output_of(*words):
        monkeypatch.setattr(sys, "argv", ["radiogenomics", *map(str, words)])
        ending = ""
        caplog.clear()
        tqdm._instances.clear()  # a bar that another test has broken off moves those after it, by escape sequences
        try:
            cli.main()
        except SystemExit as error:
            ending = str(error)
        output = capfd.readouterr()
        return "\n".join([output.out, output.err, *(record.getMessage() for record in caplog.records), ending])

    return output_of


def harmless(output):
    """Nothing but lines, and the progress bar's returns, in what was said; and no line that a name began."""
    controls = {sign for sign in output if unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp")} - {"\n", "\r"}
    assert not controls
    assert not [line for line in re.split("[\r\n]", output) if line.startswith(FORGED)]


def test_a_prediction(listed, segmenter, tmp_path, run, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    output = run("predict", "--datalist", listed, "--output", tmp_path / "out", "--segmenter", segmenter, *WORDS)
    assert "scan.nii.gz" in output  # broken files are named
    harmless(output)
    out = tmp_path / "out"
    assert list(home.iterdir()) == []
    assert not list(tmp_path.rglob("PWNED"))
    rows = json.loads((out / "patients.json").read_text(encoding="utf-8"))["patients"]
    assert [row["patient"] for row in rows][: len(PATIENTS)] == list(PATIENTS)
    good = [name for number, name in enumerate(PATIENTS) if number % 3 != 2]
    assert {path.name for path in (out / "masks").iterdir()} == {f"{name}_FLAIR.nii.gz" for name in good}
    for table in [*out.glob("report/tables/*.csv"), out / "studies.csv"]:
        if table.is_file():
            with open(table, newline="", encoding="utf-8") as stream:
                assert not any(is_formula(cell) for row in csv.reader(stream) for cell in row), table
    pages = [*out.rglob("*.html")]
    assert len(pages) > len(PATIENTS)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "<img src=x" not in text
        assert not fetched(text), page
    harmless(run("report", out, "--overwrite"))
    assert write_report(out, tmp_path / "again").is_file()


def test_names_in_dicom(segmenter, tmp_path, run):
    pytest.importorskip("highdicom", reason="DICOM output needs the extra [dicom]")
    for number, name in enumerate((CODE, MARKUP, "=1+1", "@x", "%x", "\u202eyxes", "x" * 64)):
        place = tmp_path / "in" / f"f{number}\n{FORGED}"
        header = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": name}
        dicom_series(
            place, Marks(), "", name, f"1.2.{number}", f"{DESCRIPTIONS['FLAIR']} {name}"[:64], number, **header
        )
    for more in ([], ["--deidentify"]):
        out, given = tmp_path / f"out{len(more)}", ["--segmenter", segmenter, *more, *WORDS]
        harmless(run("predict", "--input", tmp_path / "in", "--output", out, "--dicom", *given))
        found = [pydicom.dcmread(file) for file in out.rglob("*_seg.dcm")]
        assert len(found) == 7
        names = {str(one.PatientID) for one in found}
        assert all(re.fullmatch(r"study_\w{12}", name) for name in names) if more else CODE in names
        for page in out.rglob("*.html"):
            assert "<img src=x" not in page.read_text(encoding="utf-8")
    harmless(run("studies", "--input", tmp_path / "in"))
    harmless(run("headers", next((tmp_path / "in").rglob("*.dcm")), "--phi", "--colour", "False"))
    shown = ["--output", tmp_path / "shown", "--patient", "x" * 64, "--animation", "False"]
    harmless(run("show", tmp_path / "in", *shown))


def test_names_of_255_bytes_and_line_breaks_are_refused_in_a_line(tmp_path, segmenter, run):
    for name in ("z" * 255, f"x\n{FORGED}", "\x1b[2J"):
        folder = tmp_path / str(len(name)) / name
        folder.mkdir(parents=True)
        nib.save(nib.Nifti1Image(brain(0).astype(np.float32), np.eye(4)), folder / "flair.nii.gz")
        output = run("segment", "--input", folder.parent, "--output", tmp_path / "out", "--segmenter", segmenter)
        assert "rename the patient" in output
        harmless(output)
        assert not (tmp_path / "out").exists()
