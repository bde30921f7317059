"""Reading that gives no answer: a FIFO that nobody writes to, and readers that block, also in forked processes."""

import json
import logging
import os
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImaged

import radiogenomics
from custom_transforms import SeriesError, series
from scripts import waiting
from scripts.preparation import SeriesDataset
from scripts.reading import PatientReader
from scripts.waiting import StalledError, limit_reading, within_limit
from tests.campaigns import sound


@pytest.fixture(autouse=True)
def _no_limit_afterwards(monkeypatch):
    monkeypatch.setenv(waiting._SETTING, "0")
    yield
    waiting._stalled.clear()


@pytest.fixture
def cohort(tmp_path):
    """NIfTI studies of three patients, of two modalities each."""
    values = np.random.default_rng(0).uniform(50, 200, (20, 20, 6)).astype(np.float32)
    values[:4], values[-4:] = 0, 0
    for patient in ("00001", "00002", "00003"):
        (tmp_path / "in" / patient).mkdir(parents=True)
        for name in ("flair", "t1"):
            file = tmp_path / "in" / patient / f"{patient}_{name}.nii.gz"
            nib.save(nib.Nifti1Image(values, np.eye(4)), file)
    return tmp_path / "in"


@pytest.fixture
def stalled(cohort, monkeypatch):
    """A file that does not answer, whoever reads its voxels."""
    file, read = cohort / "00002" / "00002_flair.nii.gz", series.read_nifti

    def blocks(path):
        if Path(path) == file:
            time.sleep(600)
        return read(path)

    monkeypatch.setattr(series, "read_nifti", blocks)
    return file


def test_a_fifo_that_nobody_writes_to(tmp_path):
    os.mkfifo(tmp_path / "series.nii")
    limit_reading(0.3)
    started = time.monotonic()
    with pytest.raises(StalledError, match=r"series.nii: no answer within 0.3 s, .*--read_timeout SECONDS"):
        within_limit(tmp_path / "series.nii", Path.read_bytes, tmp_path / "series.nii")
    assert 0.3 <= time.monotonic() - started < 3
    with pytest.raises(StalledError):  # nothing else of it is waited for
        within_limit(tmp_path / "series.nii", list, "abc")
    assert time.monotonic() - started < 3
    assert within_limit(tmp_path / "other.nii", sorted, "cba") == ["a", "b", "c"]


def test_files_of_a_folder_stall_together(tmp_path):
    limit_reading(0.2)
    with pytest.raises(StalledError):
        within_limit(tmp_path / "FLAIR" / "1.dcm", time.sleep, 60)
    with pytest.raises(StalledError):
        within_limit(tmp_path / "FLAIR" / "2.dcm", list)
    assert within_limit(tmp_path / "T1w" / "1.dcm", list) == []


def test_answers_and_errors_come_as_they_are(tmp_path):
    for seconds in (0, 5):
        limit_reading(seconds)
        assert within_limit(tmp_path, divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            within_limit(tmp_path, divmod, 7, 0)
    with pytest.raises(ValueError, match="expected seconds, or 0 for no limit"):
        limit_reading(-1)


def test_a_forked_process_reads_with_a_thread_of_its_own(tmp_path):
    limit_reading(5)
    assert within_limit(tmp_path, os.getpid) == os.getpid()
    pid = os.fork()
    if pid == 0:
        os._exit(within_limit(tmp_path, os.getpid) != os.getpid())
    assert os.waitpid(pid, 0)[1] == 0


def test_one_stalled_series_fails_and_the_rest_goes_on(cohort, stalled):
    limit_reading(0.5)
    files = sorted(cohort.rglob("*_flair.nii.gz"))
    read = LoadImaged("image", reader=PatientReader(), ensure_channel_first=True)
    items = [{"image": str(file), "patient": file.parent.name, "mri_type": "FLAIR"} for file in files]
    found = [SeriesDataset(items, read)[index] for index in range(3)]
    assert [bool(item["error"]) for item in found] == [False, True, False]
    assert found[1]["error"].startswith(f"{stalled}: no answer within 0.5 s")


def test_without_a_limit_a_reader_raises_what_it_did(tmp_path):
    with pytest.raises(SeriesError, match="none"):
        PatientReader().get_data(tmp_path / "none.nii")


def test_studies_names_the_stalled_series(cohort, stalled):
    text = radiogenomics.studies(cohort, read_timeout=0.5)
    assert f"{stalled}: no answer within 0.5 s" in text.replace("\n", " ")
    assert text.count("00003") >= 1


@pytest.mark.slow
def test_explore_goes_on(cohort, stalled, tmp_path, caplog, monkeypatch):
    with caplog.at_level(logging.WARNING):
        radiogenomics.explore(cohort, tmp_path / "out", read_timeout=0.5, num_workers=1)
    warned = [one for one in caplog.messages if "no answer" in one]
    assert len(warned) == 1
    assert warned[0].startswith("00002/FLAIR: ")
    rows = (tmp_path / "out" / "tables").glob("*.csv")
    assert any("no answer within 0.5 s" in file.read_text() for file in rows)
    caplog.clear()
    monkeypatch.undo()  # it answers again
    page = radiogenomics.explore(cohort, tmp_path / "out", overwrite=True, num_workers=1)
    assert "no answer" not in caplog.text + page.read_text()


@pytest.mark.slow
def test_predict_goes_on(cohort, stalled, tmp_path):
    segmenter, classifier = sound.weights(tmp_path / "weights")
    radiogenomics.predict(
        cohort, tmp_path / "out", segmenter=segmenter, classifier=classifier, mri_types="FLAIR", device="cpu", runtime="eager",
        brain="never", min_tumor_ratio=-1, max_contours=1000, read_timeout=0.5, num_workers=1,
    )  # fmt: skip
    rows = {row["patient"]: row for row in json.loads((tmp_path / "out" / "patients.json").read_text())["patients"]}
    assert [bool(rows[patient].get("reason")) for patient in ("00001", "00002", "00003")] == [False, True, False]
    assert "no answer within 0.5 s" in rows["00002"]["series"]["FLAIR"]["reason"]


def test_walking_passes_over_a_header_that_stalls(cohort, monkeypatch):
    from scripts.studies import walk

    read = walk._beginning
    monkeypatch.setattr(
        walk, "_beginning", lambda file, count: time.sleep(600) if "00002_t1" in file.name else read(file, count)
    )
    text = radiogenomics.studies(cohort, skull=False, read_timeout=0.5)
    assert all(patient in text for patient in ("00001", "00002", "00003"))
    assert "00002_t1.nii.gz: no answer within 0.5 s" in text.replace("\n", " ")
