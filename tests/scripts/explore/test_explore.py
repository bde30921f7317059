"""The job `explore` on phantoms with planted faults."""

from __future__ import annotations

import csv
import json
import logging
import shutil

import nibabel as nib
import numpy as np
import pytest

from scripts.explore import facts, findings, job, outliers
from scripts.runs import RunExistsError

pytest.importorskip("nilearn")
NAMES = {"FLAIR": "flair", "T1w": "t1", "T1wCE": "t1ce", "T2w": "t2"}


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """a, b and c; d is a turned copy of a with other grey values, without T2w; b's T1w is damaged; c's T2w lies elsewhere."""
    from scripts.synthetic.phantom import make_patient

    root = tmp_path_factory.mktemp("explore") / "studies"
    for number, name in enumerate("abc"):
        patient = make_patient(number, number % 2, spacing=4.0)
        for mri_type, volume in patient.volumes.items():
            affine = patient.affine.copy()
            if (name, mri_type) == ("c", "T2w"):
                affine[2, 3] += 500
            save(root / name / f"{name}_{NAMES[mri_type]}.nii.gz", volume, affine)
            if name == "a" and mri_type != "T2w":
                turned = affine @ np.diag([-1.0, 1, 1, 1])
                turned[:3, 3] = affine[:3, 3] + affine[:3, 0] * (len(volume) - 1)
                save(root / "d" / f"d_{NAMES[mri_type]}.nii.gz", 900 * (volume[::-1] / volume.max()) ** 0.8, turned)
    (root / "b" / "b_t1.nii.gz").write_bytes(b"nothing")
    (root / "train_labels.csv").write_text("BraTS21ID,MGMT_value\na,1\nb,0\nc,1\n")
    return root


def save(file, volume, affine):
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume.astype(np.float32), affine), file)


def table(folder, name):
    return json.loads((folder / "tables" / f"{name}.json").read_text())


@pytest.mark.slow
def test_planted_faults_are_reported_and_a_second_run_reads_nothing(studies, tmp_path, monkeypatch):
    from scripts.commands.use import explore

    out = tmp_path / "out"
    page = explore(input=studies, output=out, num_workers=0)
    assert "Research use only" in page.read_text(encoding="utf-8")
    assert {(row["patient"], row["other_patient"], row["mri_type"]) for row in table(out, "near_duplicate_series")} == {
        ("a", "d", name) for name in ("FLAIR", "T1w", "T1wCE")
    }
    assert table(out, "missing_series") == [{"patient": "d", "missing": "T2w", "reason": ""}]
    (broken,) = table(out, "series_that_can_t_be_read")
    assert (broken["patient"], broken["mri_type"]) == ("b", "T1w")
    assert [row["patient"] for row in table(out, "overlap_of_a_patient_s_series") if row["agree"] == "no"] == ["c"]
    everyone = table(out, "balance_of_labels")[0]
    assert (everyone["patients"], everyone["label_0"], everyone["label_1"]) == (3, 1, 2)
    with open(out / "tables" / "facts_of_all_series.csv", newline="", encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream))) == 15
    for ending in ("png", "svg"):
        assert (out / "figures" / f"median.{ending}").stat().st_size > 1000

    with pytest.raises(RunExistsError):
        explore(input=studies, output=out, num_workers=0)
    read = []
    monkeypatch.setattr(job, "ReadFacts", lambda todo, pixels: read.append([item["mri_type"] for item in todo]) or todo)
    explore(input=studies, output=out, num_workers=0, overwrite=True)
    assert read == [[]]
    assert page.is_file()


@pytest.mark.slow
def test_headers_alone(studies, tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "PatientReader", None)
    entries = job.entries_of(studies)
    job.explore(entries, tmp_path / "facts", tmp_path / "run", pixels=False, num_workers=0)
    assert "Left out: needs pixels" in (tmp_path / "run" / "explore.html").read_text(encoding="utf-8")
    rows = table(tmp_path / "run", "facts_of_all_series")
    assert {row["matrix"] for row in rows if row["error"] is None} == {"60 x 60"}
    assert "skull" not in rows[0]


def test_an_interrupted_run_goes_on(studies, tmp_path):
    folder = tmp_path / "studies"
    shutil.copytree(studies / "a", folder / "a")
    items = job.items_of(job.entries_of(folder), tmp_path / "facts")
    job.read_facts(items[:1], pixels=False, num_workers=0)
    first = json.loads((tmp_path / "facts").rglob("*.json").__next__().read_text())
    assert first["mri_type"] == "FLAIR"
    assert logging.getLogger("custom_transforms").level != logging.ERROR, (
        "whoever explores in a program of their own hears warnings again"
    )
    assert [job._kept(item, False) is not None for item in items] == [True, False, False, False]
    assert job._kept(items[0], True) is None, "pixels were not read"
    save(folder / "a" / "a_flair.nii.gz", np.ones((5, 5, 5)), np.eye(4))
    assert job._kept(job.items_of(job.entries_of(folder), tmp_path / "facts")[0], False) is None, "the file has changed"


def test_empty_slices_are_counted(tmp_path):
    volume = np.zeros((40, 40, 20), np.float32)
    volume[5:35, 5:35, 4:14] = np.random.default_rng(1).uniform(50, 100, (30, 30, 10))
    save(tmp_path / "x_t1.nii.gz", volume, np.diag([3, 3, 5, 1]))
    found = facts.facts_of(str(tmp_path / "x_t1.nii.gz"))
    assert found["slices"] == 20
    assert found["empty_slices"] == 10
    assert found["plane"] == "axial"
    assert found["shown_ml"] == pytest.approx(30 * 30 * 10 * 0.045)
    assert found["pixel_mm"] == 3
    assert found["slice_mm"] == 5


def grid(x, n=10, side=1.0):
    affine = np.diag([side, side, side, 1.0])
    affine[0, 3] = x
    return {"affine": affine.tolist(), "shape": [n, n, n]}


@pytest.mark.parametrize(("other", "expected"), [(grid(0), 1), (grid(5), 0.5), (grid(10), 0), (grid(2.5, 5), 1)])
def test_overlap(other, expected):
    assert findings.overlap(grid(0), other) == pytest.approx(expected, abs=0.05)
    assert findings.overlap(other, grid(0)) == pytest.approx(expected, abs=0.05)


def row(number, **change):
    known = {
        "patient": f"p{number}",
        "mri_type": "FLAIR",
        "format": "DICOM",
        "slices": 60,
        "slice_mm": 2.5,
        "pixel_mm": 0.9,
    }
    return {**known, "matrix": [256, 256], "plane": "axial", "empty_slices": 5, "median": 100.0 + number, **change}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"slices": 9}, "few slices"),
        ({"slice_mm": 7.0}, "slices far apart"),
        ({"empty_slices": 40}, "empty slices"),
        ({"matrix": [512, 512]}, "unusual matrix"),
        ({"plane": "sagittal"}, "unusual plane"),
        ({"median": 9000.0}, "far-off median grey value"),
        ({"skull": "stripped", "shown_ml": 300.0}, "volume of the brain"),
    ],
)
def test_what_stands_out_is_named(change, reason):
    rows = [row(number) for number in range(12)]
    assert outliers.outliers(rows) == []
    found = outliers.outliers([*rows, row(99, **change)])
    assert {one["patient"] for one in found} == {"p99"}
    assert any(one["reason"].startswith(reason) for one in found)
