"""``volumes.csv``, and what is said of volumes."""

import json

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor

from scripts import masks, patients, volumes
from scripts.dicom.output import write_dicom
from scripts.evaluation import out_of_fold
from scripts.files import read_csv
from scripts.fusion import FuseSeries
from scripts.prepared import PreparedSeries
from scripts.report.viewer import series_sheets
from tests.scripts.cohorts import volume_rows, write_prepared


def test_volumes_name_everybody_asked_for(tmp_path):
    both = np.zeros((4, 2, 5, 6), bool)
    both[:2, 0], both[0, 1, 0] = True, True
    found = volumes.in_millilitres(masks.region_volumes(both, 10.0))
    assert found == {"whole_tumour_ml": "0.600", "not_enhancing_ml": "0.540", "enhancing_ml": "0.060"}
    rows = [
        {"patient": "b", "mri_type": "FLAIR", "file": "masks/b_FLAIR.nii.gz", **found},
        {"patient": "b", "mri_type": "T1w", "reason": "ValueError: half a file"},
    ]
    (tmp_path / "prepared").mkdir()
    entries = [{"patient": "a"}, {"patient": "b"}, {"patient": "c", "reason": "none of its series was recognised"}]
    file = volumes.write_volumes(rows, tmp_path, entries, tmp_path / "prepared")
    written = read_csv(file)
    assert [(row["patient"], row["mri_type"], row["reason"]) for row in written] == [
        ("a", "", "no series"), ("b", "FLAIR", ""), ("b", "T1w", "ValueError: half a file"),
        ("c", "", "none of its series was recognised"),
    ]  # fmt: skip
    assert written[1]["whole_tumour_ml"] == "0.600"
    assert volumes.in_millilitres(masks.region_volumes(both[:, :1], 10.0)) == {"whole_tumour_ml": "0.600"}
    assert not (tmp_path / "prepared").exists()


def test_segmentation_ends_with_a_table(tmp_path, capsys):
    rows = [
        *volume_rows("a", T1w=3, FLAIR=20),
        {"patient": "a", "mri_type": "T2w", "reason": "ValueError: half a file"},
    ]
    volumes.write_volumes(
        rows, tmp_path, [{"patient": "a"}, {"patient": "b", "reason": "none of its series was recognised"}]
    )
    head, first, second = capsys.readouterr().out.splitlines()
    assert "probability" not in head
    assert first.split()[:3] == ["a", "FLAIR+T1w", "20.0"]
    assert first.endswith("half a file and 1 more")
    assert second.split("  ")[0] == "b"
    assert "none of its series was recognised" in second


def test_series_that_disagree_on_the_volume_are_remarked_upon(tmp_path, caplog):
    rows = [
        *volume_rows("a", FLAIR=51, T1w=13, T1wCE=0, T2w=54),
        *volume_rows("b", FLAIR=51, T2w=26),  # less than twice
        *volume_rows("c", FLAIR=4.9, T2w=0),  # less than 5 ml
        {"patient": "a", "mri_type": "x", "reason": "broken"},
    ]
    said = "the series disagree on the volume of the tumour: FLAIR 51.0 ml, T1w 13.0 ml, T1wCE 0.0 ml, T2w 54.0 ml; look at the masks"
    written = read_csv(volumes.write_volumes(rows, tmp_path))
    assert [row["remark"] for row in written] == [said] * 4 + [""] * 5
    assert caplog.text.count("disagree") == 1
    assert f"patient a: {said}" in caplog.text
    predicted = [{"patient": name, "probability": 0.5, "used": ["FLAIR"], "series": {}} for name in "abc"]
    patients.write_predictions(predicted, tmp_path, {}, volumes=rows)
    details = json.loads((tmp_path / "patients.json").read_text())["patients"]
    assert [row.get("warnings") for row in details] == [[said], None, None]


# One rule everywhere


def outside(n, height, width):
    """Masks with ET on five voxels, of which two lie in WT's four."""
    both = np.zeros((n, 2, height, width), bool)
    both[1, 0, 1, :4] = True
    both[1, 1, 1, 2:4], both[2, 1, 3, :3] = True, True
    return both


def test_all_outputs_agree_on_enhancing_tumour_outside_the_whole(tmp_path):
    """volumes.csv, label maps, SEG, SR, fused masks, patients.json, the size-only baseline, and the pictures of reports."""
    highdicom = pytest.importorskip("highdicom", reason="DICOM output needs the extra [dicom]")
    sources = pytest.importorskip("tests.scripts.dicom.sources")
    sources.make_series(tmp_path / "series", spacing=(10.0, 10.0), step=10.0)  # 1 ml a voxel
    stack, geometry = sources.read_stack(tmp_path / "series")
    both = outside(*stack.shape)
    prepared = tmp_path / "prepared"
    write_prepared(prepared, "a", "T1wCE", both, geometry)
    write_prepared(prepared, "a", "FLAIR", both & False, geometry)

    masks.write_masks(prepared, tmp_path / "masks")
    labels = np.asarray(nib.load(tmp_path / "masks" / "a_T1wCE.nii.gz").dataobj)
    assert (np.count_nonzero(labels), np.count_nonzero(labels == 2)) == (7, 5)

    rows = volumes.series_volumes(prepared)
    written = {row["mri_type"]: row for row in read_csv(volumes.write_volumes(rows, tmp_path))}
    ml = {"whole_tumour_ml": "7.000", "not_enhancing_ml": "2.000", "enhancing_ml": "5.000"}
    assert {name: written["T1wCE"][name] for name in ml} == ml

    sources.make_series(tmp_path / "flair", spacing=(10.0, 10.0), step=10.0, series="flair")
    entry = {"patient": "a", "FLAIR": str(tmp_path / "flair"), "T1wCE": str(tmp_path / "series")}
    row = {"patient": "a", "probability": 0.5, "used": [], "series": {}}
    patients.write_predictions([row], tmp_path, {}, volumes=rows)
    (details,) = json.loads((tmp_path / "patients.json").read_text())["patients"]
    assert "FLAIR 0.0 ml, T1wCE 7.0 ml" in details["warnings"][0]

    write_dicom(prepared, [row], [entry], tmp_path / "dicom")
    segments = (
        highdicom.seg.segread(tmp_path / "dicom" / "a" / "T1wCE_seg.dcm").get_volume(combine_segments=False).array
    )
    assert np.count_nonzero(segments, axis=(0, 1, 2)).tolist() == [7, 5]
    report = pydicom.dcmread(tmp_path / "dicom" / "a" / "report_sr.dcm")
    assert [sources.measured(report, f"{region} in T1wCE")[0] for region in masks.REGIONS] == [7000, 5000]

    everywhere = {region: {"T1wCE": 1.0} for region in masks.REGIONS}
    fuse = FuseSeries(tmp_path / "fused", everywhere)
    item = {"patient": "a", "mri_type": "T1wCE", "image": str(tmp_path / "series"), "error": ""}
    assert len(fuse.pending([item])) == 1
    seen = np.stack([np.asarray(geometry.to_volume(region)) for region in np.moveaxis(both, 1, 0)])
    read = MetaTensor(torch.zeros(1, *seen.shape[1:]), affine=torch.as_tensor(geometry.affine))
    read.meta |= {"original_affine": geometry.affine, "spatial_shape": np.array(seen.shape[1:])}
    fuse.add({**item, "image": read}, torch.from_numpy(seen.astype(np.float32)))
    (fused,) = read_csv(fuse.write())
    assert {name: fused[name] for name in ml} == ml
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "fused" / "masks" / "a.nii.gz").dataobj), labels)

    file = prepared / "a" / "T1wCE.h5"
    assert out_of_fold._tumour_volume({"file": str(file)}) == pytest.approx(7)
    view = series_sheets(PreparedSeries(file), np.zeros(stack.shape, np.uint8))
    assert (sum(view["wt"]), sum(view["et"])) == (7, 5)
