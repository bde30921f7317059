import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

pytest.importorskip("nilearn", reason="the phantom cohort needs the extra [phantom]")

from scripts.synthetic.cohort import balanced_labels, write_cohort
from scripts.synthetic.phantom import MRI_TYPES, make_patient, make_series
from tests.forked import python_words
from tests.scripts.cohorts import read_rows

CONFIG = Path(__file__).resolve().parents[3] / "bundle" / "configs" / "phantom.yaml"
SPACING = 4.0
COHORT = {
    "segmentation_patients": 2,
    "classification_patients": 2,
    "test_patients": 1,
    "overlap": 1,
    "spacing": SPACING,
    "slice_thickness": 6.0,
    "planes": {"T1wCE": "coronal", "T2w": "sagittal"},
    "jpg": True,
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "cohort"
    return folder, write_cohort(folder, **COHORT)


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# The patient


def test_patient_form():
    patient = make_patient(3, 0, spacing=SPACING)
    assert patient.seg.shape == (60, 60, 39)
    np.testing.assert_allclose(np.diag(patient.affine), [-SPACING, -SPACING, SPACING, 1])
    assert set(np.unique(patient.seg)) == {0, 1, 2, 4}
    assert set(patient.volumes) == set(MRI_TYPES)
    for volume in patient.volumes.values():
        assert volume.dtype == np.float32
        assert volume.shape == patient.seg.shape
        assert volume.min() == 0
        assert volume[[0, -1]].max() == volume[:, [0, -1]].max() == 0


def test_same_arguments_give_the_same_patient_and_others_another():
    first, second = (make_patient(3, 1, spacing=SPACING) for _ in range(2))
    others = [make_patient(4, 1, spacing=SPACING), make_patient(3, 1, spacing=SPACING, seed=68)]
    np.testing.assert_array_equal(first.seg, second.seg)
    for mri_type in MRI_TYPES:
        np.testing.assert_array_equal(first.volumes[mri_type], second.volumes[mri_type])
        assert all(np.abs(first.volumes[mri_type] - other.volumes[mri_type]).max() > 0 for other in others)


def test_without_signal_the_label_changes_nothing():
    zero, one = (make_patient(5, label, signal=0.0, spacing=SPACING) for label in (0, 1))
    np.testing.assert_array_equal(zero.seg, one.seg)
    for mri_type in MRI_TYPES:
        np.testing.assert_array_equal(zero.volumes[mri_type], one.volumes[mri_type])


@pytest.mark.slow
def test_full_signal_separates_the_labels_in_every_modality():
    solid: dict[int, list[float]] = {0: [], 1: []}
    contrast: dict[str, dict[int, list[float]]] = {mri_type: {0: [], 1: []} for mri_type in MRI_TYPES}
    for number in range(12):
        label = number % 2
        patient = make_patient(number, label, spacing=SPACING)
        core = np.isin(patient.seg, (1, 4))
        solid[label].append((patient.seg == 4).sum() / core.sum())
        for mri_type, volume in patient.volumes.items():
            brain = volume[(volume > 0) & (patient.seg == 0)]
            contrast[mri_type][label].append(np.percentile(volume[core], 20) / np.median(brain))
    assert max(solid[0]) < min(solid[1])
    for mri_type in ("FLAIR", "T1w", "T1wCE"):
        assert max(contrast[mri_type][0]) < min(contrast[mri_type][1]), mri_type
    # Fluid is bright in T2w: its dark fifth is the rim, which differs less than necrosis does elsewhere.
    assert np.mean(contrast["T2w"][0]) < np.mean(contrast["T2w"][1])


def test_signal_strength_grows_with_the_setting():
    def difference(signal):
        volumes = [make_patient(2, label, signal, spacing=SPACING).volumes["FLAIR"] for label in (0, 1)]
        return np.abs(volumes[0] - volumes[1]).mean()

    assert 0 < difference(0.2) < difference(0.6) < difference(1.0)


@pytest.mark.slow
def test_tumour_lies_in_one_hemisphere_inside_the_brain_and_is_large_enough():
    for number in range(4):
        patient = make_patient(number, number % 2, spacing=2.0)
        tumour = patient.seg > 0
        brain = patient.volumes["T1w"] > 0
        grown = np.pad(tumour, 1)
        touched = np.logical_or.reduce([np.roll(grown, s, a) for a in range(3) for s in (-1, 1)])[1:-1, 1:-1, 1:-1]
        assert brain[touched].all()
        x = np.argwhere(tumour) @ patient.affine[:3, :3].T + patient.affine[:3, 3]
        assert min((x[:, 0] > 0).mean(), (x[:, 0] < 0).mean()) < 0.1
        across = np.ptp(x, axis=0) + 2.0
        assert 24 <= across.mean() <= 64


def test_brightness_of_the_parts():
    patient = make_patient(1, 0, spacing=3.0)
    median = {
        (mri_type, part): np.median(volume[mask])
        for mri_type, volume in patient.volumes.items()
        for part, mask in {
            "brain": (volume > 0) & (patient.seg == 0),
            "necrosis": patient.seg == 1,
            "oedema": patient.seg == 2,
            "enhancing": patient.seg == 4,
        }.items()
    }
    for mri_type in ("FLAIR", "T2w"):
        assert median[mri_type, "oedema"] > 1.1 * median[mri_type, "brain"]
    assert median["T1w", "oedema"] < median["T1w", "brain"]
    assert median["T1wCE", "enhancing"] > 1.2 * median["T1wCE", "brain"]
    assert median["T1wCE", "necrosis"] < 0.5 * median["T1wCE", "brain"]


def test_anatomy_is_the_same_at_another_voxel_size():
    centres, volumes = [], []
    for spacing in (3.0, 5.0):
        patient = make_patient(6, 1, spacing=spacing)
        indices = np.argwhere(patient.seg > 0)
        centres.append((indices @ patient.affine[:3, :3].T + patient.affine[:3, 3]).mean(0))
        volumes.append(len(indices) * spacing**3)
    np.testing.assert_allclose(centres[0], centres[1], atol=2)
    assert volumes[0] == pytest.approx(volumes[1], rel=0.15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": 2}, "label 2: expected 0 or 1"),
        ({"label": 1, "signal": 1.5}, "signal 1.5: expected 0"),
        ({"label": 1, "spacing": 0}, "spacing"),
        ({"label": 1, "spacing": 2, "shape": (60, 60, 60)}, "does not hold a head"),
    ],
)
def test_patient_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_patient(0, **arguments)


def test_shape_is_kept():
    assert make_patient(0, 0, spacing=5.0, shape=(50, 48, 36)).seg.shape == (50, 48, 36)


# The series


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("slice_thickness", [2.0, 3.0, 5.0])
def test_series_keeps_every_point_where_it_is(plane, slice_thickness):
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    affine[:3, 3] = 31, 17, -9
    size = (31, 25, 20)
    volume = np.zeros(size, np.float32)
    seg = np.zeros(size, np.uint8)
    volume[8:18, 5:17, 4:16], seg[8:18, 5:17, 4:16] = 1000, 4
    series = make_series(volume, seg, affine, plane, slice_thickness)
    assert series.image.shape[0] == series.image.shape[1]
    centre = affine[:3, :3] @ [12.5, 10.5, 9.5] + affine[:3, 3]
    indices = np.argwhere(series.image > 0)
    weights = series.image[series.image > 0]
    found = series.affine[:3, :3] @ np.average(indices, axis=0, weights=weights) + series.affine[:3, 3]
    # What a thick slice holds counts at its middle: that shifts the mean a little where a border cuts a slice.
    np.testing.assert_allclose(found, centre, atol=0.1)
    voxel = abs(np.linalg.det(series.affine[:3, :3]))
    assert weights.sum() * voxel == pytest.approx(volume.sum() * 8, rel=1e-3)
    np.testing.assert_allclose(np.linalg.norm(series.affine[:3, :3], axis=0), [2, 2, slice_thickness])
    assert set(np.unique(series.mask)) == {0, 2}


def test_series_refuses():
    volume = np.zeros((4, 4, 4), np.float32)
    with pytest.raises(ValueError, match="plane 'oblique': expected one of axial, coronal, sagittal"):
        make_series(volume, volume, np.diag([-2.0, -2, 2, 1]), "oblique")
    with pytest.raises(ValueError, match="expected at least the side of a voxel"):
        make_series(volume, volume, np.diag([-2.0, -2, 2, 1]), "axial", 1.0)


# The cohort


def test_labels_are_balanced_and_follow_the_seed():
    labels = balanced_labels(20, [67, 1])
    assert sum(labels) == 10
    assert labels == balanced_labels(20, [67, 1]) != balanced_labels(20, [68, 1])
    assert sum(balanced_labels(5, [67, 1])) == 2


@pytest.mark.slow
def test_layout(cohort):
    folder, written = cohort
    assert {path.name for path in folder.iterdir()} == {"task1", "task2", "task2_masks", "task2_jpg", "README.txt"}
    assert {path.name for path in (folder / "task1").iterdir()} == {"BraTS2021_00000", "BraTS2021_00001"}
    assert {path.name for path in (folder / "task1" / "BraTS2021_00001").iterdir()} == {
        f"BraTS2021_00001_{name}.nii.gz" for name in ("flair", "t1", "t1ce", "t2", "seg")
    }
    # Task-1 patient 1 is the person asked for with overlap=1.
    assert {path.name for path in (folder / "task2" / "train").iterdir()} == {"00001", "00002"}
    assert {path.name for path in (folder / "task2" / "test").iterdir()} == {"00003"}
    assert {path.name for path in (folder / "task2" / "test" / "00003").iterdir()} == set(MRI_TYPES)
    assert len(list((folder / "task2_masks").iterdir())) == 3 * 4
    dicom = {path.relative_to(folder / "task2").with_suffix("") for path in (folder / "task2").rglob("*.dcm")}
    jpg = {path.relative_to(folder / "task2_jpg").with_suffix("") for path in (folder / "task2_jpg").rglob("*.jpg")}
    assert dicom == jpg
    assert written["classification_patients"] == 2
    assert all(Path(str(written[name])).exists() for name in ("task1", "task2", "masks", "jpg", "test_labels"))


@pytest.mark.slow
def test_label_files(cohort):
    _, written = cohort
    train, test = read_rows(written["train_labels"]), read_rows(written["test_labels"])
    assert [row["BraTS21ID"] for row in train] == ["00001", "00002"]
    assert sorted(row["MGMT_value"] for row in train) == ["0", "1"]
    assert [row["BraTS21ID"] for row in test] == ["00003"]
    assert read_rows(written["sample_submission"]) == [{"BraTS21ID": "00003", "MGMT_value": "0.5"}]


def test_everything_says_phantom(cohort):
    folder, _ = cohort
    readme = (folder / "README.txt").read_text()
    assert readme.startswith("PHANTOM COHORT")
    assert "seed: 67" in readme
    assert "signal: 1.0" in readme
    assert str(folder) not in readme
    for path in folder.rglob("*.nii.gz"):
        assert b"PHANTOM" in nib.load(path).header["descrip"].item()
    dataset = pydicom.dcmread(next(folder.rglob("*.dcm")))
    for keyword in ("PatientName", "StudyDescription", "ImageComments"):
        assert "PHANTOM" in str(dataset[keyword].value)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian: dicom3tools)")
def test_series_are_valid_dicom(cohort):
    """Nothing that MR images must have is missing, so that what is derived from them lacks nothing either."""
    for folder in {path.parent for path in cohort[0].rglob("*.dcm")}:
        words = ["dciodvfy", "-new", str(next(folder.iterdir()))]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert "MRImage" in done.stderr + done.stdout
        assert "Error" not in done.stderr + done.stdout


def test_task1_volumes(cohort):
    folder, _ = cohort
    seg = nib.load(folder / "task1/BraTS2021_00000/BraTS2021_00000_seg.nii.gz")
    flair = nib.load(folder / "task1/BraTS2021_00000/BraTS2021_00000_flair.nii.gz")
    assert nib.aff2axcodes(seg.affine) == ("L", "P", "S")
    assert flair.get_data_dtype() == np.int16
    np.testing.assert_array_equal(seg.affine, flair.affine)
    assert set(np.unique(np.asarray(seg.dataobj))) == {0, 1, 2, 4}


@pytest.mark.parametrize("mri_type", list(MRI_TYPES))
def test_dicom_series_and_its_mask_share_their_geometry(cohort, mri_type):
    folder, _ = cohort
    datasets = [pydicom.dcmread(path) for path in (folder / "task2/train/00001" / mri_type).iterdir()]
    orientation = np.array(datasets[0].ImageOrientationPatient, float)
    normal = np.cross(orientation[:3], orientation[3:])
    datasets.sort(key=lambda d: float(np.dot(d.ImagePositionPatient, normal)))
    locations = np.array([float(d.SliceLocation) for d in datasets])
    np.testing.assert_allclose(np.diff(locations), 6.0, atol=1e-4)

    mask = nib.load(folder / "task2_masks" / f"00001_{mri_type}.nii.gz")
    labels = np.asarray(mask.dataobj)
    assert labels.shape == (datasets[0].Columns, datasets[0].Rows, len(datasets))
    assert set(np.unique(labels)) == {0, 1, 2}
    row_step, column_step = map(float, datasets[0].PixelSpacing)
    for k in (0, len(datasets) - 1):
        for i, j in ((0, 0), (7, 3)):
            position = np.array(datasets[k].ImagePositionPatient, float)
            position += i * column_step * orientation[:3] + j * row_step * orientation[3:]
            world = mask.affine @ [i, j, k, 1]
            np.testing.assert_allclose(world[:3], position * [-1, -1, 1], atol=1e-3)

    # The mask lies on tissue, and the tumour is where Task 1 has it for the same person.
    image = np.stack([d.pixel_array.T for d in datasets], axis=-1)
    assert (image[labels > 0] > 0).all()
    truth = nib.load(folder / "task1/BraTS2021_00001/BraTS2021_00001_seg.nii.gz")
    centres = [
        nib.affines.apply_affine(volume.affine, np.argwhere(np.asarray(volume.dataobj) > 0)).mean(0)
        for volume in (mask, truth)
    ]
    np.testing.assert_allclose(*centres, atol=2)


def test_dicom_identity_and_numbering(cohort):
    folder, _ = cohort
    instances, numbers_by_slice, headers = set(), {}, []
    for series in sorted((folder / "task2").glob("*/*/*")):
        datasets = {
            int(path.stem.split("-")[1]): pydicom.dcmread(path, stop_before_pixels=True) for path in series.iterdir()
        }
        for number, dataset in datasets.items():
            assert dataset.InstanceNumber == number
            assert dataset.PatientID == series.parent.name
            assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID
            assert dataset.SOPInstanceUID.startswith("2.25.")
            assert dataset.SOPInstanceUID.is_valid
            instances.add(dataset.SOPInstanceUID)
            headers.append((dataset.StudyInstanceUID, dataset.SeriesInstanceUID))
        numbers_by_slice[series.name] = sorted(datasets, key=lambda n: float(datasets[n].SliceLocation))
    assert len(instances) == len(headers)
    assert len({study for study, _ in headers}) == 3
    assert len({series for _, series in headers}) == 3 * 4
    assert numbers_by_slice["FLAIR"] == sorted(numbers_by_slice["FLAIR"], reverse=True)
    assert min(numbers_by_slice["T1wCE"]) > 1
    assert numbers_by_slice["T2w"] != sorted(numbers_by_slice["T2w"])
    assert sorted(numbers_by_slice["T2w"]) == list(range(1, len(numbers_by_slice["T2w"]) + 1))


@pytest.mark.slow
def test_same_arguments_give_the_same_files_and_nothing_is_replaced_unasked(cohort):
    folder, _ = cohort
    before = files_of(folder)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_cohort(folder, **COHORT)
    assert files_of(folder) == before
    (folder / "task2" / "stale.txt").write_text("of an earlier cohort")
    write_cohort(folder, **COHORT, overwrite=True)
    assert files_of(folder) == before


def test_foreign_data_are_never_replaced(tmp_path):
    (tmp_path / "task1").mkdir()
    with pytest.raises(FileExistsError, match=r"no README\.txt of a phantom"):
        write_cohort(tmp_path, **COHORT, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["task1"]


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(write_cohort.__globals__, "_write_csv", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path, 1, 0, 0, spacing=5.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="leftovers are removed on POSIX alone")
def test_what_a_killed_run_left_is_removed(tmp_path):
    """Killed with its patients half made, by a signal that no program can catch; everything else in the folder stays."""
    code = (
        "import os, sys; from scripts.synthetic import cohort; cohort._write_csv = lambda *_: os.kill(os.getpid(), 9); "
    )
    code += "cohort.write_cohort(sys.argv[1], 1, 0, 0, spacing=5.0)"
    killed = subprocess.run([*python_words(), "-c", code, str(tmp_path)], cwd=CONFIG.parents[1], check=False)
    assert killed.returncode == -9
    (leftover,) = tmp_path.iterdir()
    assert (leftover / "task1" / "BraTS2021_00000").is_dir()
    dead = leftover.name.split("-")[-2]
    at_work = f".phantom-{platform.node()}-{os.getpid()}-abcdefgh"
    others = [".phantom-notes", f".phantom-elsewhere-{dead}-abcdefgh", at_work]
    for name in others:
        (tmp_path / name).mkdir()
    write_cohort(tmp_path, 1, 0, 0, spacing=5.0)
    assert {path.name for path in tmp_path.iterdir()} == {*others, "task1", "task2", "task2_masks", "README.txt"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"segmentation_patients": -1}, "expected none below 0"),
        ({"segmentation_patients": 2, "overlap": 3}, "overlap 3: expected 0 to 2"),
        ({"planes": {"FLAIR": "oblique"}}, "expected FLAIR, T1w, T1wCE, T2w, and axial, coronal, sagittal for each"),
        ({"signal": 2}, "signal 2.0: expected 0"),
        ({"slice_thickness": 1.0}, "expected at least the side of a voxel"),
    ],
)
def test_cohort_refuses_before_it_writes(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_cohort(tmp_path / "cohort", **arguments)
    assert not (tmp_path / "cohort").exists()


def test_without_nilearn_the_error_names_the_remedy(monkeypatch):
    load_atlas = make_patient.__globals__["load_atlas"]
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(ImportError, match=r"brats-mri-radiogenomics\[phantom\]"):
        load_atlas.__wrapped__()


@pytest.mark.slow
def test_config_runs_from_any_working_directory(tmp_path):
    arguments = {"output_dir": "made", "signal": 0.5, "spacing": 5.0, "segmentation_patients": 1}
    arguments |= {"classification_patients": 1, "test_patients": 0}
    command = [*python_words(), "-m", "monai.bundle", "run", "--config_file", str(CONFIG)]
    for name, value in arguments.items():
        command += [f"--{name}", str(value)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "signal: 0.5" in (tmp_path / "made" / "README.txt").read_text()
    assert (tmp_path / "made" / "task2" / "train" / "00001" / "FLAIR").is_dir()
