"""Segmentation alone, and what no job does to the files of others."""

import json
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
import torch

pytest.importorskip("nilearn", reason="the phantom cohort needs the extra [phantom]")

import radiogenomics
from custom_transforms import SeriesReader
from scripts import datalists, fusion, inferers
from tests.forked import python_words
from tests.integration.jobs import (
    affine_and_shape,
    contents,
    killed,
    patients,
    predict,
    read_rows,
    refused,
)


@pytest.fixture(scope="module")
def segmented(cohort, hospital, segmenter):
    """The hospital's studies, segmented series by series."""
    return radiogenomics.segment(hospital[0], cohort / "segmented", segmenter=segmenter, num_workers=0)


def test_segmentation_leaves_masks_and_volumes_and_nothing_else(hospital, prediction, segmented):
    written = {"masks", "volumes.csv", "studies.csv", "studies.json", "resolved_config.yaml"}
    assert {path.name for path in segmented.iterdir()} == written
    masks = {path.name for path in (segmented / "masks").iterdir()}
    assert masks == {path.name for path in (prediction[0] / "masks").iterdir()}
    for name in masks:
        found, expected = (nib.load(folder / "masks" / name) for folder in (segmented, prediction[0]))
        np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
        np.testing.assert_allclose(found.affine, expected.affine)


def test_volumes_are_those_of_the_masks_and_nobody_vanishes(hospital, segmented):
    rows = {(row["patient"], row["mri_type"]): row for row in read_rows(segmented / "volumes.csv")}
    assert {patient for patient, _ in rows} == {hospital[1], "00901", "00902", "00903", "BraTS2021_00904"}
    for row in rows.values():
        assert bool(row["file"]) != bool(row["reason"])
        if row["file"]:
            image = nib.load(segmented / row["file"])
            volume = abs(np.linalg.det(image.affine[:3, :3])) * np.array(
                [np.count_nonzero(np.asarray(image.dataobj) == value) for value in (1, 2)]
            )
            assert float(row["whole_tumour_ml"]) == pytest.approx(volume.sum() / 1000, abs=2e-3)
            parts = [row[name] for name in ("not_enhancing_ml", "enhancing_ml")]
            if row["mri_type"] == "T1wCE":
                np.testing.assert_allclose([float(part) * 1000 for part in parts], volume, atol=1)
            else:  # not recognisable without contrast agent
                assert parts == ["", ""]
                assert volume[1] == 0
    assert float(rows[hospital[1], "FLAIR"]["whole_tumour_ml"]) > 0
    assert "Image-" in rows["00901", "FLAIR"]["reason"]
    assert "00903" in rows["00903", "FLAIR"]["reason"]


def test_nobody_vanishes_whose_series_are_not_understood(hospital, segmenter, classifiers, tmp_path, capsys):
    studies, good = tmp_path / "studies", hospital[1]
    shutil.copytree(hospital[0] / good / "FLAIR", studies / good / "FLAIR")
    for folder in (studies / "P" / "AX FLAIR", studies / good / "AX T1"):
        folder.mkdir(parents=True)
        (folder / "Image-1.dcm").write_bytes(b"no DICOM")
    predict(studies, tmp_path / "out", segmenter, classifiers, prior=0.45)
    table = capsys.readouterr().out.splitlines()
    said = "none of its series was recognised: found AX FLAIR; expected folders FLAIR, T1w, T1wCE, T2w"
    rows = patients(tmp_path / "out")
    assert {row["BraTS21ID"]: float(row["MGMT_value"]) for row in read_rows(tmp_path / "out" / "submission.csv")}[
        "P"
    ] == 0.45
    assert rows["P"]["reason"].startswith(f"cohort prior 0.45: {said}")
    assert rows[good]["warnings"][0].startswith("not recognised: AX T1; expected")
    assert [line.split()[0] for line in table] == ["patient", good, "P"]
    assert float(table[1].split()[1]) == pytest.approx(rows[good]["probability"], abs=1e-3)
    for fuse in (False, True):
        out = radiogenomics.segment(studies, tmp_path / f"fuse {fuse}", segmenter=segmenter, fuse=fuse, num_workers=0)
        volumes = {row["patient"]: row for row in read_rows(out / "volumes.csv")}
        assert volumes["P"]["reason"].startswith(said)
        assert volumes[good]["file"]
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["patient", good, "P"]


def test_a_finished_segmentation_is_not_overwritten_unasked(hospital, segmented, segmenter):
    with refused("holds an earlier run; replace it (--overwrite)"):
        radiogenomics.segment(hospital[0], segmented, segmenter=segmenter)
    with refused("holds the outputs of another job, segmentation"):
        radiogenomics.segment(hospital[0], segmented, segmenter=segmenter, fuse=True)
    with refused("--fuse T1w: expected True or False"):
        radiogenomics.segment(hospital[0], segmented, segmenter=segmenter, fuse="T1w")


def test_fused_segmentation_is_one_mask_a_patient_on_the_grid_of_flair(hospital, segmenter, tmp_path):
    out = tmp_path / "out"
    with killed(fusion.VolumeSegmenter, 7):
        radiogenomics.segment(hospital[0], out, segmenter=segmenter, fuse=True, num_workers=0)
    assert not (out / "volumes.csv").exists()
    radiogenomics.segment(hospital[0], out, segmenter=segmenter, fuse=True, num_workers=0)
    assert {path.name for path in out.iterdir()} == {
        "masks",
        "volumes.csv",
        "studies.csv",
        "studies.json",
        "resolved_config.yaml",
    }
    good = hospital[1]
    assert {path.name for path in (out / "masks").iterdir()} == {
        f"{good}.nii.gz", "00902.nii.gz", "BraTS2021_00904.nii.gz",
    }  # fmt: skip
    volume, meta = SeriesReader().get_data(hospital[0] / good / "FLAIR")
    affine, shape = affine_and_shape(out / "masks" / f"{good}.nii.gz")
    np.testing.assert_allclose(affine, meta["affine"], atol=1e-3)
    assert shape == volume.shape
    assert np.asarray(nib.load(out / "masks" / f"{good}.nii.gz").dataobj)[volume > 0].mean() > 0.5
    rows = {row["patient"]: row for row in read_rows(out / "volumes.csv")}
    assert rows[good]["mri_type"] == "FLAIR+T2w+T1wCE+T1w"
    assert rows["00902"]["mri_type"] == "T2w", "its FLAIR is broken"
    assert "Image-" in rows["00901"]["reason"]
    assert "00903" in rows["00903"]["reason"]


# What no job does


@pytest.fixture
def one_study(cohort, tmp_path):
    """A folder of studies with one patient's FLAIR in it, and something else that is somebody's."""
    shutil.copytree(cohort / "data" / "task2" / "test", tmp_path / "x" / "studies")
    for path in (tmp_path / "x" / "studies").glob("*/*"):
        if path.name != "FLAIR":
            shutil.rmtree(path)
    (tmp_path / "x" / "thesis.txt").write_text("mine")
    return tmp_path / "x" / "studies"


@pytest.mark.parametrize("output", ["..", ".", "out"])
def test_results_are_never_mixed_with_the_studies(one_study, segmenter, output):
    before = contents(one_study.parent)
    for overwrite in (False, True):
        with refused("results are kept apart"):
            radiogenomics.segment(
                one_study, one_study / output, segmenter=segmenter, overwrite=overwrite, num_workers=0
            )
    assert contents(one_study.parent) == before


def test_weights_that_fail_leave_the_earlier_results(one_study, segmenter, tmp_path):
    out = radiogenomics.segment(one_study, tmp_path / "out", segmenter=segmenter, num_workers=0)
    before = contents(out)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    (tmp_path / "none.pt").write_bytes(b"")
    for file in ("other.pt", "none.pt", "missing.pt"):
        with refused(file):
            radiogenomics.segment(one_study, out, segmenter=tmp_path / file, overwrite=True, num_workers=0)
    assert contents(out) == before
    assert {path.name for path in tmp_path.iterdir()} == {"x", "out", "other.pt", "none.pt"}


def test_overwriting_replaces_results_whole_and_keeps_what_is_not_ours(one_study, segmenter, tmp_path):
    out = radiogenomics.segment(one_study, tmp_path / "out", segmenter=segmenter, num_workers=0)
    (out / "masks" / "notes.txt").write_text("mine")
    (mask,) = (out / "masks").glob("*.nii.gz")
    mask.with_name("99999_FLAIR.nii.gz").write_bytes(b"of a patient that is gone")
    before = contents(out)
    with killed(inferers.SliceSegmenter, 0):
        radiogenomics.segment(one_study, out, segmenter=segmenter, overwrite=True, num_workers=0)
    assert contents(out) == before
    radiogenomics.segment(one_study, out, segmenter=segmenter, overwrite=True, num_workers=0)
    assert {path.name for path in (out / "masks").iterdir()} == {mask.name, "notes.txt"}
    assert {path.name for path in tmp_path.iterdir()} == {"x", "out"}


def test_a_data_list_cannot_write_outside_the_output_folder(one_study, segmenter, tmp_path):
    (study,) = datalists.find_studies(one_study)
    listed = {"test": [{**study, "patient": "../../../x"}]}
    (tmp_path / "list.json").write_text(json.dumps(listed))
    with refused("patient '../../../x' can't be used in file names"):
        radiogenomics.segment(
            one_study, tmp_path / "out", segmenter=segmenter, datalist=str(tmp_path / "list.json"), num_workers=0
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["1e3", "run#2,@#a $b 50%"])
def test_paths_are_taken_as_they_are_typed(one_study, segmenter, tmp_path, name):
    studies = tmp_path / f"in {name}"
    one_study.rename(studies)
    done = subprocess.run(
        [*python_words(), "-m", "radiogenomics.scripts.cli", "segment", f"--input={studies.name}", f"--output={name}",
         f"--segmenter={segmenter}", "--num_workers=0"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / name / "masks").iterdir())) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"x", studies.name, name}
