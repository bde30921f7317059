"""DICOM after a prediction: what is written, what is left out, and why."""

from __future__ import annotations

import json
import logging
import shutil
import sys

import cv2
import nibabel as nib
import numpy as np
import pydicom
import pytest

from scripts.dicom import output
from scripts.dicom.output import write_dicom
from scripts.dicom.report import write_report
from scripts.dicom.segmentation import write_segmentation
from scripts.masks import region_volumes
from scripts.prepared import PreparedSeries, write_series
from tests.scripts.dicom.sources import (
    MRI_TYPES,
    errors_of,
    items,
    make_series,
    marked_places,
    measured,
    read_stack,
    save_segmentation,
    some_masks,
)

highdicom = pytest.importorskip("highdicom", reason="DICOM output needs the extra [dicom]")


def prepare(folder, entries, empty=()):
    """Prepared series with masks, as a prediction leaves them, and the patients' rows."""
    index, rows = {}, []
    for entry in entries:
        rows.append(
            {"patient": entry["patient"], "probability": 0.75, "agreement_interval": (0.5, 0.9), "used": ["FLAIR"]}
        )
        for mri_type in MRI_TYPES:
            if mri_type not in entry:
                continue
            name = f"{entry['patient']}/{mri_type}"
            stack, geometry = read_stack(entry[mri_type])
            masks = some_masks(stack) * (name not in empty)
            info = {"patient": entry["patient"], "mri_type": mri_type}
            write_series(folder / f"{name}.h5", stack.astype(np.uint8), np.arange(len(stack)), masks, info, geometry)
            index[name] = {"file": f"{name}.h5", **info}
    (folder / "index.json").write_text(json.dumps({"series": index}))
    return rows


@pytest.mark.slow
def test_after_a_prediction(tmp_path, caplog, monkeypatch):
    studies = tmp_path / "studies"
    for patient, mri_type in (("a", "FLAIR"), ("a", "T2w"), ("b", "FLAIR"), ("c", "T1w")):
        make_series(studies / patient / mri_type, study=patient, series=mri_type)
    for file in (studies / "c" / "T1w").iterdir():  # no geometry
        dataset = pydicom.dcmread(file)
        del dataset.ImagePositionPatient
        dataset.save_as(file)
    _, geometry = read_stack(studies / "a" / "FLAIR")
    nib.save(nib.Nifti1Image(np.arange(240.0).reshape(6, 8, 5), geometry.affine), studies / "a" / "T1w.nii.gz")
    (studies / "d").mkdir()
    for k in range(3):
        cv2.imwrite(str(studies / "d" / f"Image-{k}.png"), np.full((8, 6), 40 * k, np.uint8))
    entries = [
        {
            "patient": "a",
            "FLAIR": str(studies / "a/FLAIR"),
            "T2w": str(studies / "a/T2w"),
            "T1w": str(studies / "a/T1w.nii.gz"),
        },
        {"patient": "b", "FLAIR": str(studies / "b/FLAIR")},
        {"patient": "c", "T1w": str(studies / "c/T1w")},
        {"patient": "d", "FLAIR": str(studies / "d")},
    ]
    rows = prepare(tmp_path / "prepared", entries, empty={"b/FLAIR"})
    with caplog.at_level(logging.INFO):
        written = write_dicom(tmp_path / "prepared", rows, entries, tmp_path / "dicom")
    assert written == {
        "a": ["a/FLAIR_seg.dcm", "a/T2w_seg.dcm", "a/report_sr.dcm"],
        "b": ["b/report_sr.dcm"],
        "c": ["c/report_sr.dcm"],
    }
    assert {path.relative_to(tmp_path / "dicom").as_posix() for path in (tmp_path / "dicom").rglob("*.*")} == {
        name for files in written.values() for name in files
    }
    said = caplog.text
    for part in (
        "a/T1w: no DICOM written", "b/FLAIR: no DICOM written: no tumour was found", "no usable ImagePositionPatient",
        "d/FLAIR: no DICOM written", "5 DICOM files of 3 patients",
    ):  # fmt: skip
        assert part in said
    assert "copy" not in said  # highdicom logs all that it does
    report = pydicom.dcmread(tmp_path / "dicom" / "c" / "report_sr.dcm")
    comments = " ".join(item.TextValue for item in items(report, "Comment"))
    assert "T1w: no segmentation is stored: the headers of the series do not allow one." in comments
    assert str(tmp_path) not in comments
    for files in written.values():
        for name in files:
            assert errors_of(tmp_path / "dicom" / name) == []
    # again, as an interrupted prediction does it, and from the folder that it lies in
    monkeypatch.chdir(tmp_path)
    assert write_dicom("prepared", rows, entries, "dicom") == written
    seg, report = (pydicom.dcmread(tmp_path / "dicom" / "a" / name) for name in ("FLAIR_seg.dcm", "report_sr.dcm"))
    (referenced,) = items(measured(report, "WT in FLAIR")[1], "Referenced Segment")
    assert referenced.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == seg.SOPInstanceUID


@pytest.mark.slow
@pytest.mark.parametrize(("on", "marked"), [(None, ["T1wCE"]), (["FLAIR", "T1wCE"], ["FLAIR", "T1wCE"])])
def test_enhancing_tumour_is_claimed_with_contrast_agent_alone(tmp_path, on, marked):
    for mri_type in ("FLAIR", "T1wCE"):
        make_series(tmp_path / mri_type, study="a", series=mri_type)
    entries = [{"patient": "a", **{mri_type: str(tmp_path / mri_type) for mri_type in ("FLAIR", "T1wCE")}}]
    rows = prepare(tmp_path / "prepared", entries)
    write_dicom(tmp_path / "prepared", rows, entries, tmp_path / "dicom", **({"enhancing_on": on} if on else {}))
    report = pydicom.dcmread(tmp_path / "dicom" / "a" / "report_sr.dcm")
    named = [item.TextValue for item in items(report, "Tracking Identifier")]
    for mri_type in ("FLAIR", "T1wCE"):
        file = tmp_path / "dicom" / "a" / f"{mri_type}_seg.dcm"
        segments = [segment.SegmentLabel for segment in pydicom.dcmread(file).SegmentSequence]
        assert segments == ["Whole tumour (WT)", "Enhancing tumour (ET)"][: 2 if mri_type in marked else 1]
        assert f"WT in {mri_type}" in named
        assert (f"ET in {mri_type}" in named) == (mri_type in marked)
        masks = PreparedSeries(tmp_path / "prepared" / "a" / f"{mri_type}.h5").masks()
        assert pydicom.dcmread(file).pixel_array[: len(masks)].sum() == masks.any(axis=1).sum()  # what is ET is WT
        assert errors_of(file) == []


def test_a_source_that_changed_stops_nobody_else(tmp_path, caplog):
    for patient in ("a", "b"):
        make_series(tmp_path / patient, study=patient)
    entries = [{"patient": patient, "FLAIR": str(tmp_path / patient)} for patient in ("a", "b")]
    rows = prepare(tmp_path / "prepared", entries)
    shutil.rmtree(tmp_path / "a")
    with caplog.at_level(logging.WARNING):
        written = write_dicom(tmp_path / "prepared", rows, entries, tmp_path / "dicom")
    assert list(written) == ["b"]
    assert "a/FLAIR: no DICOM written" in caplog.text


# Before a prediction


def test_settings_are_checked_first():
    output.require(True, True)
    output.require(False, False)
    output.require(False, True)
    with pytest.raises(ValueError, match="dicom is 'yes', expected True or False"):
        output.require("yes")


def test_without_highdicom(monkeypatch, series):
    folder, _, geometry, masks = series
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ImportError, match=r"pip install 'brats-mri-radiogenomics\[dicom\]'"):
        output.require()
    with pytest.raises(ImportError, match="pip install"):
        save_segmentation(folder, masks, geometry)
    output.require(dicom=False)


# On real MRI


@pytest.mark.slow
def test_real_series(real_data, tmp_path):
    """Each marked voxel lies in the file that it was marked in, and all that is written is valid."""
    study, segs = {}, {}
    for mri_type in MRI_TYPES:
        source = real_data / "task2" / "train" / "07294" / mri_type
        stack, geometry = read_stack(source)
        masks = np.zeros((len(stack), 2, *stack.shape[1:]), dtype=np.uint8)
        rng = np.random.default_rng(0)
        for k in range(2, len(stack), 3):
            masks[k, 0, rng.integers(stack.shape[1], size=20), rng.integers(stack.shape[2], size=20)] = 1
            masks[k, 1] = masks[k, 0] * (rng.random(stack.shape[1:]) < 0.5)
        file = tmp_path / f"{mri_type}_seg.dcm"
        segs[mri_type] = write_segmentation(source, masks, file, geometry=geometry, patient="07294", mri_type=mri_type)
        study[mri_type] = {"source": source, **region_volumes(masks, geometry.voxel_volume), "reason": ""}
        assert errors_of(file) == []
        # RAS of the NIfTI masks' affine against LPS of DICOM
        for segment, found in marked_places(file).items():
            index = np.argwhere(masks[:, segment - 1])
            expected = nib.affines.apply_affine(geometry.stack_affine, index[:, ::-1]) * [-1, -1, 1]
            assert len(found) == len(expected)
            distances = np.linalg.norm(found[:, None] - expected[None], axis=2)
            assert distances.min(axis=1).max() < 0.05  # the volume has one step, the files have their own positions
            assert len(set(distances.argmin(axis=1))) == len(expected)
    row = {"patient": "07294", "probability": 0.5, "agreement_interval": None, "used": ["FLAIR"]}
    assert errors_of(write_report(study, tmp_path / "sr.dcm", patient_row=row, segmentations=segs)) == []
