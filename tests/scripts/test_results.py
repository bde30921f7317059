import csv
import io
import json
import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.transforms import Compose, LoadImaged

from custom_transforms import AcquisitionSlicesd, SeriesReader, SliceGeometry
from scripts import loading, results
from scripts.files import read_csv, write_json
from scripts.metrics import RegionOverlap
from scripts.prepared import PreparedSeries, write_series

TURN = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
AFFINES = {
    "RAS": np.diag([1.0, 1, 1, 1]),
    "LPS, as DICOM": nib.affines.from_matvec(np.diag([-0.5, -0.5, 5.0]), [90, 110, -40]),
    "BraTS": nib.affines.from_matvec(np.diag([-1.0, -1, 1]), [0, 239, 0]),
    "flipped": nib.affines.from_matvec(np.diag([1.0, -2, -3]), [-5, 6, 7]),
    "axes changed": nib.affines.from_matvec(np.array([[0, 0, 4.0], [1, 0, 0], [0, -1, 0]]), [1, 2, 3]),
    "coronal": nib.affines.from_matvec(np.array([[-1.0, 0, 0], [0, 0, 3], [0, -1, 0]]), [10, 20, 30]),
    "oblique": nib.affines.from_matvec(TURN @ np.diag([-0.9, -0.9, 4]), [12.5, -7, 3]),
}


def read_rows(file):
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


# Label maps


def test_label_map():
    masks = np.zeros((1, 2, 1, 4), np.uint8)
    masks[0, 0, 0, [1, 3]] = 1
    masks[0, 1, 0, [2, 3]] = 1
    found = results.label_map(masks)
    assert found.tolist() == [[[0, 1, 2, 2]]]
    assert found.dtype == np.uint8


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_saved_map_lies_where_the_image_lies(tmp_path, affine):
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 6), dtype=np.uint8)
    results.save_label_map(labels, affine, tmp_path / "masks" / "a.nii.gz")
    image = nib.load(tmp_path / "masks" / "a.nii.gz")
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    np.testing.assert_allclose(image.get_qform(), affine, atol=1e-4)
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels)
    assert b"Research use only" in image.header["descrip"].item()
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["a.nii.gz"]


def bright_spots(affine, shape=(6, 7, 8)):
    """A volume whose bright voxels are known in the patient's space."""
    volume = np.random.default_rng(1).uniform(0, 100, shape).astype(np.float32)
    spots = [(1, 2, 3), (4, 5, 6), (5, 0, 7)]
    for spot in spots:
        volume[spot] = 1000
    return volume, {tuple(np.round(nib.affines.apply_affine(affine, spot), 3)) for spot in spots}


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_masks_go_back_to_where_the_voxels_were(tmp_path, affine):
    """Read a NIfTI file, find its bright voxels slice by slice, write them as masks: same places in the patient."""
    volume, world = bright_spots(affine)
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "image.nii.gz")
    read = Compose(
        [
            LoadImaged("image", reader=SeriesReader(), ensure_channel_first=True),
            AcquisitionSlicesd("image"),
        ]
    )({"image": str(tmp_path / "image.nii.gz")})
    stack = read["image"].numpy()
    found = np.stack([stack > 500, stack > 5000], axis=1)
    write_prepared(tmp_path / "prepared", "00001", "FLAIR", found, read["geometry"])
    written = results.write_masks(tmp_path / "prepared", tmp_path / "masks")
    assert written == {"00001/FLAIR": "00001_FLAIR.nii.gz"}
    image = nib.load(tmp_path / "masks" / "00001_FLAIR.nii.gz")
    assert image.shape == volume.shape
    np.testing.assert_allclose(image.affine, nib.load(tmp_path / "image.nii.gz").affine, atol=1e-4)
    voxels = np.argwhere(np.asarray(image.dataobj) == 1)
    assert {tuple(np.round(nib.affines.apply_affine(image.affine, voxel), 3) + 0.0) for voxel in voxels} == {
        tuple(np.array(place) + 0.0) for place in world
    }
    restored = results.RestoreLabelMap()(
        {
            "pred": torch.from_numpy(found[2:]), "slices": torch.arange(2, len(found)), "n_slices": len(found),
            "geometry": read["geometry"], "source": "image.nii.gz",
        }
    )["pred"]  # fmt: skip
    assert restored.shape == (1, *volume.shape)
    np.testing.assert_allclose(restored.affine.numpy(), image.affine, atol=1e-4)
    without = found.copy()
    without[:2] = False
    np.testing.assert_array_equal(
        restored.numpy()[0], read["geometry"].to_volume(results.label_map(without).astype(np.float32))
    )


def write_prepared(folder, patient, mri_type, masks, geometry, kept=0, **info):
    """One prepared series with its row in the index."""
    file = folder / patient / f"{mri_type}.h5"
    info = {
        "patient": patient, "mri_type": mri_type, "slices": len(masks), "foreground": len(masks), "kept": kept,
        "seconds": 1.5, "warnings": [], **info,
    }  # fmt: skip
    image = np.zeros((kept, *masks.shape[2:]), np.uint8)
    write_series(file, image, np.arange(kept), masks, info, geometry)
    add_row(folder, f"{patient}/{mri_type}", {"file": f"{patient}/{mri_type}.h5", **info})


def add_row(folder, name, row):
    index = folder / "index.json"
    content = json.loads(index.read_text()) if index.is_file() else {"configuration": {}, "series": {}}
    content["series"][name] = row
    write_json(content, index)


def add_error(folder, patient, mri_type, error):
    row = {"patient": patient, "mri_type": mri_type, "warnings": ["odd"], "error": error}
    add_row(folder, f"{patient}/{mri_type}", row)


@pytest.mark.parametrize(("mri_type", "on", "told"), [
    ("T1wCE", None, True), ("FLAIR", None, False), ("T1w", None, False), ("T1w", ["T1w"], True), ("T1wCE", [], False),
])  # fmt: skip
def test_enhancing_tumour_is_claimed_with_contrast_agent_alone(tmp_path, mri_type, on, told):
    geometry = SliceGeometry.from_affine(np.diag([10.0, 10, 10, 1]), (2, 2, 2))
    masks = np.zeros((2, 2, 2, 2), bool)
    masks[0, 0], masks[0, 1, 0, 0], masks[1, 1, 0, 0] = True, True, True  # one voxel of ET is outside WT
    write_prepared(tmp_path, "1", mri_type, masks, geometry)
    settings = {} if on is None else {"enhancing_on": on}
    results.write_masks(tmp_path, tmp_path / "masks", **settings)
    labels = np.asarray(nib.load(tmp_path / "masks" / f"1_{mri_type}.nii.gz").dataobj)
    assert (np.count_nonzero(labels == 1), np.count_nonzero(labels == 2)) == ((3, 2) if told else (5, 0))
    (row,) = results.series_volumes(tmp_path, **settings)
    assert row["whole_tumour_ml"] == "5.000"
    assert (row.get("not_enhancing_ml"), row.get("enhancing_ml")) == (("3.000", "2.000") if told else (None, None))
    # the classification's masks stay
    np.testing.assert_array_equal(PreparedSeries(tmp_path / "1" / f"{mri_type}.h5").masks(), masks)


def test_masks_are_written_again_only_when_the_series_is(tmp_path):
    geometry = SliceGeometry.from_affine(np.eye(4), (2, 2, 2))
    masks = np.zeros((2, 2, 2, 2), bool)
    write_prepared(tmp_path, "1", "T1wCE", masks, geometry)
    add_error(tmp_path, "2", "FLAIR", "broken")
    target = tmp_path / "masks" / "1_T1wCE.nii.gz"
    assert list(results.write_masks(tmp_path, tmp_path / "masks")) == ["1/T1wCE"]
    before = target.stat().st_mtime_ns
    results.write_masks(tmp_path, tmp_path / "masks")
    assert target.stat().st_mtime_ns == before
    write_prepared(tmp_path, "1", "T1wCE", ~masks, geometry)
    results.write_masks(tmp_path, tmp_path / "masks")
    assert (np.asarray(nib.load(target).dataobj) == 2).all()


# Patients


def entry(patient, *mri_types, **rest):
    return {"patient": patient, **dict.fromkeys(mri_types, "somewhere"), **rest}


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
    patients = results.PatientResults(prior=0.4)
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
        ("00001", "FLAIR: no such series; T1w: no classifier weights for T1w"),
    ]:
        assert by_patient[patient]["reason"].startswith("cohort prior 0.4: ")
        assert part in by_patient[patient]["reason"]
        assert f"patient {patient} gets the cohort prior 0.4" in caplog.text
    assert by_patient["00007"]["series"]["FLAIR"]["warnings"] == ["odd"]


def test_a_patient_of_whom_nothing_was_understood_has_a_row_with_the_reason(tmp_path, caplog):
    prepared_cohort(tmp_path)
    entries = [{"patient": "P", "reason": "none of its series was understood: found AX FLAIR"}]
    (row,) = results.PatientResults(prior=0.4).patient_rows(entries, tmp_path, {"FLAIR": "flair.pt"})
    assert (row["probability"], row["used"]) == (0.4, [])
    assert row["reason"] == "cohort prior 0.4: none of its series was understood: found AX FLAIR"
    assert "patient P gets the cohort prior 0.4: none of its series" in caplog.text


def test_what_was_not_understood_beside_is_a_warning_of_the_patient(tmp_path):
    prepared_cohort(tmp_path)
    entries = [entry("00003", "FLAIR", warnings=["not understood: AX T1"]), entry("00007", "FLAIR")]
    first, second = results.PatientResults().patient_rows(entries, tmp_path, {"FLAIR": "flair.pt"})
    assert first["warnings"] == ["not understood: AX T1"]
    assert "warnings" not in second


def test_prior_must_be_a_probability():
    for prior in (-0.1, 1.5):
        with pytest.raises(ValueError, match=f"prior is {prior}, expected a probability"):
            results.PatientResults(prior)


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


def test_overlap_names_the_series_that_failed(tmp_path, caplog):
    metric = RegionOverlap()
    pred = torch.ones(2, 2, 4, 4)
    pred[1] = float("nan")
    batch = {"patient": ["a", "b"], "mri_type": ["FLAIR", "T2w"], "plane": ["axial", "axial"]}
    metric.update((batch, {"pred": pred, "label": torch.ones(2, 2, 4, 4)}))
    metrics = results.write_overlap(metric, tmp_path)
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["all"]["WT_dice"], metrics["T2w"]["WT_dice"]) == (1, None)
    assert list(metrics["failed"]) == ["b/T2w/axial"]
    assert "b/T2w/axial: the segmenter answered with NaN or infinity" in caplog.text


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
    patients = results.PatientResults(store=store)
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
    results.write_predictions(
        rows, tmp_path, {"segmenter": "seg.pt", "FLAIR": "flair.pt", "T1w": None}, runtime="torch fp32"
    )
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
    results.write_predictions(rows, tmp_path, {}, asked=["1", "12", "99", "00007"], prior=0.25)
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
    results.write_predictions(rows, tmp_path, {}, asked=["00012"])
    assert read_rows(tmp_path / "submission.csv") == [{"BraTS21ID": "00012", "MGMT_value": "0.700000"}]


def test_submission_keeps_identifiers_and_warns_of_spreadsheets(tmp_path, caplog):
    names = ["=cmd|'/c calc'!A1", "@x", "-rf", "00001"]
    rows = [{"patient": name, "probability": 0.7, "used": ["FLAIR"], "series": {}} for name in names]
    results.write_predictions(rows, tmp_path, {})
    assert [row["BraTS21ID"] for row in read_rows(tmp_path / "submission.csv")] == names
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("submission.csv names patients as they were asked for")
    assert all((name in warning) == (name != "00001") for name in names)
    caplog.clear()
    results.write_predictions(rows[-1:], tmp_path, {})
    assert "spreadsheet" not in caplog.text


# What is shown at the end


def volume_rows(patient, **volumes):
    return [
        {
            "patient": patient,
            "mri_type": name,
            "whole_tumour_ml": f"{value:.3f}",
            "file": f"masks/{patient}_{name}.nii.gz",
        }
        for name, value in volumes.items()
    ]


def test_prediction_ends_with_a_table(tmp_path, capsys):
    _, rows = prepared_cohort(tmp_path / "prepared")
    volumes = [*volume_rows("00012", T1w=1.5, FLAIR=1.25), *volume_rows("00001", T1w=0)]
    results.write_predictions(rows, tmp_path, {}, volumes=volumes)
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
    results.write_predictions(rows[:20], tmp_path, {})
    assert len(capsys.readouterr().out.splitlines()) == 21
    results.write_predictions(rows, tmp_path, {})
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
    results.write_predictions(rows, tmp_path, {})
    terminal.flush()
    lines = terminal.buffer.getvalue().decode("ascii").splitlines()
    assert lines[1].split()[0] == "beginxxxxxxxx?xxxxxxxend"
    assert lines[2].split()[0] == "??"


def test_segmentation_ends_with_a_table(tmp_path, capsys):
    rows = [
        *volume_rows("a", T1w=3, FLAIR=20),
        {"patient": "a", "mri_type": "T2w", "reason": "ValueError: half a file"},
    ]
    results.write_volumes(
        rows, tmp_path, [{"patient": "a"}, {"patient": "b", "reason": "none of its series was understood"}]
    )
    head, first, second = capsys.readouterr().out.splitlines()
    assert "probability" not in head
    assert first.split()[:3] == ["a", "FLAIR+T1w", "20.0"]
    assert first.endswith("half a file and 1 more")
    assert second.split("  ")[0] == "b"
    assert "none of its series was understood" in second


# Volumes that disagree


def test_series_that_disagree_on_the_volume_are_remarked_upon(tmp_path, caplog):
    rows = [
        *volume_rows("a", FLAIR=51, T1w=13, T1wCE=0, T2w=54),
        *volume_rows("b", FLAIR=51, T2w=26),  # less than twice
        *volume_rows("c", FLAIR=4.9, T2w=0),  # less than 5 ml
        {"patient": "a", "mri_type": "x", "reason": "broken"},
    ]
    said = "the series disagree on the volume of the tumour: FLAIR 51.0 ml, T1w 13.0 ml, T1wCE 0.0 ml, T2w 54.0 ml; look at the masks"
    written = read_csv(results.write_volumes(rows, tmp_path))
    assert [row["remark"] for row in written] == [said] * 4 + [""] * 5
    assert caplog.text.count("disagree") == 1
    assert f"patient a: {said}" in caplog.text
    predicted = [{"patient": name, "probability": 0.5, "used": ["FLAIR"], "series": {}} for name in "abc"]
    results.write_predictions(predicted, tmp_path, {}, volumes=rows)
    details = json.loads((tmp_path / "patients.json").read_text())["patients"]
    assert [row.get("warnings") for row in details] == [[said], None, None]


# Evaluation


def evaluated(n=12):
    rng = np.random.default_rng(2)
    rows = []
    for number in range(n):
        label = number % 2
        flair = float(np.clip(0.3 + 0.4 * label + rng.normal(0, 0.2), 0.01, 0.99))
        series = {"FLAIR": {"probability": flair}, "T1w": {"probability": None, "reason": "none"}}
        rows.append(
            {"patient": f"{number:05d}", "label": label, "probability": flair, "used": ["FLAIR"], "series": series}
        )
    rows[0] |= {"probability": 0.5, "used": [], "series": {}}
    return rows


def test_evaluation(tmp_path):
    metrics_of = pytest.importorskip("sklearn.metrics", reason="needs the extra [train]")
    rows = evaluated()
    unlabelled = {"patient": "x", "probability": 0.1, "used": [], "series": {}}
    metrics = results.write_evaluation([*rows, unlabelled], tmp_path, ["FLAIR", "T1w"], {"FLAIR": "a.pt"}, "torch")
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    labels, chances = [row["label"] for row in rows], [row["probability"] for row in rows]
    assert (metrics["patients"], metrics["positive"], metrics["without_usable_slice"]) == (12, 6, 1)
    assert metrics["all"]["auc"] == pytest.approx(metrics_of.roc_auc_score(labels, chances))
    assert metrics["all"]["log_loss"] == pytest.approx(metrics_of.log_loss(labels, chances))
    assert metrics["FLAIR"]["patients"] == 11
    assert metrics["FLAIR"]["auc"] == pytest.approx(metrics_of.roc_auc_score(labels[1:], chances[1:]))
    low, high = metrics["all"]["auc_95"]
    assert low <= metrics["all"]["auc"] <= high
    assert "T1w" not in metrics
    table = read_rows(tmp_path / "predictions.csv")
    assert [row["patient"] for row in table] == [row["patient"] for row in rows]
    assert (table[0]["FLAIR"], table[1]["T1w"]) == ("", "")
    assert float(table[1]["all"]) == chances[1]
    details = json.loads((tmp_path / "patients.json").read_text())
    assert (details["weights"], details["runtime"]) == ({"FLAIR": "a.pt"}, "torch")
    assert details["patients"] == rows  # whoever has a label
    results.write_predictions(rows, tmp_path / "prediction", {"FLAIR": "a.pt"}, runtime="torch")
    assert details == json.loads((tmp_path / "prediction" / "patients.json").read_text())


def test_evaluation_without_labels(tmp_path):
    with pytest.raises(ValueError, match="none of the patients has a label"):
        results.write_evaluation(
            [{"patient": "x", "probability": 0.1, "used": [], "series": {}}], tmp_path, ["FLAIR"], {}
        )
    assert not list(tmp_path.iterdir())


def test_metrics_of_one_label_alone_are_json(tmp_path):
    """An AUC that is not defined must not make a file that strict readers refuse."""
    rows = [row for row in evaluated() if row["label"]]
    results.write_evaluation(rows, tmp_path, ["FLAIR"], {})

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    metrics = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    assert metrics["all"]["auc"] is None
    assert metrics["all"]["log_loss"] > 0


def test_overlap(tmp_path):
    metric = RegionOverlap(distances=True)
    label = torch.zeros(4, 2, 4, 4)
    label[:, 0, :2] = 1
    label[0, 1, 0] = 1
    pred = torch.where(label > 0, 1.0, -1.0)
    pred[1, 0, 1] = -1  # half of the tumour is missed: Dice 2/3, IoU 1/2
    batch = {
        "patient": ["a", "a", "b", "b"], "mri_type": ["FLAIR", "T2w", "FLAIR", "T2w"],
        "plane": ["axial", "axial", "axial", "coronal"], "field_of_view": torch.tensor([[8.0, 4.0]] * 4),
    }  # fmt: skip
    metric.update((batch, {"pred": pred, "label": label}))
    metrics = results.write_overlap(metric, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert metrics["patients"] == 2
    assert metrics["all"]["WT_dice"] == pytest.approx((3 + 2 / 3) / 4)
    assert metrics["all"]["WT_iou"] == pytest.approx((3 + 1 / 2) / 4)
    assert metrics["all"]["ET_dice"] == 1
    assert (metrics["FLAIR"]["WT_dice"], metrics["coronal"]["WT_dice"]) == (1, 1)
    assert metrics["T2w"]["WT_dice"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["T2w"]["ET_dice"] is None
    assert metrics["all"]["WT_volume_error"] == pytest.approx(-1 / 2 / 4)
    assert metrics["T2w"]["ET_volume_error"] is metrics["T2w"]["ET_slice_hd95_mm"] is None
    assert metrics["all"]["WT_slice_hd95_mm"] == pytest.approx(2 / 4)  # one row of 2 mm is missed in one of four
    table = read_rows(tmp_path / "overlap.csv")
    assert len(table) == 8
    assert set(table[0]) == {
        "patient", "mri_type", "plane", "region", "dice", "iou", "volume_error", "slice_hd95_mm",
    }  # fmt: skip


def test_volumes_name_everybody_asked_for(tmp_path):
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[:2], labels[0, 0] = 1, 2
    found = results.label_volumes(labels, 10.0)
    assert found == {"whole_tumour_ml": "0.600", "not_enhancing_ml": "0.540", "enhancing_ml": "0.060"}
    rows = [
        {"patient": "b", "mri_type": "FLAIR", "file": "masks/b_FLAIR.nii.gz", **found},
        {"patient": "b", "mri_type": "T1w", "reason": "ValueError: half a file"},
    ]
    (tmp_path / "prepared").mkdir()
    entries = [{"patient": "a"}, {"patient": "b"}, {"patient": "c", "reason": "none of its series was understood"}]
    file = results.write_volumes(rows, tmp_path, entries, tmp_path / "prepared")
    written = read_csv(file)
    assert [(row["patient"], row["mri_type"], row["reason"]) for row in written] == [
        ("a", "", "no series"), ("b", "FLAIR", ""), ("b", "T1w", "ValueError: half a file"),
        ("c", "", "none of its series was understood"),
    ]  # fmt: skip
    assert written[1]["whole_tumour_ml"] == "0.600"
    assert results.label_volumes(labels, 10.0, enhancing=False) == {"whole_tumour_ml": "0.600"}
    assert not (tmp_path / "prepared").exists()
