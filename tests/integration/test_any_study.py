"""Studies as people have them: the same answer whatever form they come in, and what is wrong is reported before anything is computed."""

import json
import shutil
import zipfile

import nibabel as nib
import numpy as np
import pydicom
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff
from pydicom.uid import RLELossless

import radiogenomics
from custom_transforms import SeriesReader
from tests.integration.jobs import KEEP_ALL, patients, predict

NAMES = {"FLAIR": "t2f", "T1w": "t1n", "T1wCE": "t1c", "T2w": "t2w"}
DESCRIPTIONS = {"FLAIR": "AX FLAIR", "T1w": "COR T1 PRE", "T1wCE": "AX T1 POST GAD", "T2w": "SAG T2 FSE"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Slices that are thicker than they are wide, because nothing else in a NIfTI file shows the plane of acquisition."""
    home = tmp_path_factory.mktemp("phantom")
    radiogenomics.phantom(
        home, segmentation_patients=0, classification_patients=0, test_patients=1, spacing=4.0, slice_thickness=8.0,
        planes={"T1w": "coronal", "T2w": "sagittal", "FLAIR": "axial", "T1wCE": "axial"},
    )  # fmt: skip
    (folder,) = [path for path in (home / "task2" / "test").iterdir() if path.is_dir()]
    return folder


@pytest.fixture(scope="module")
def forms(study, tmp_path_factory):
    """The study as the challenge has it, as a shuffled and compressed export, the same in a zip file, and as turned NIfTI files."""
    root = tmp_path_factory.mktemp("forms")
    shutil.copytree(study, root / "challenge" / study.name)
    (root / "export").mkdir()
    (root / "nifti" / study.name).mkdir(parents=True)
    files = [(mri_type, file) for mri_type in NAMES for file in sorted((study / mri_type).iterdir())]
    for number, (mri_type, file) in enumerate(files):
        dataset = pydicom.dcmread(file)
        dataset.PatientID, dataset.StudyInstanceUID = study.name, "1.2.3"
        dataset.SeriesDescription = DESCRIPTIONS[mri_type]
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(root / "export" / f"IM{number * 7919 % 10007:06d}")
    with zipfile.ZipFile(root / "export.zip", "w") as archive:
        for file in (root / "export").iterdir():
            archive.write(file, f"DICOM/{file.name}")
    ornt = np.array([[2, -1], [0, 1], [1, -1]], dtype=float)
    for mri_type, name in NAMES.items():
        array, meta = SeriesReader().get_data(study / mri_type)
        turned = apply_orientation(array, ornt)
        image = nib.Nifti1Image(turned.astype(np.int16), meta["affine"] @ inv_ornt_aff(ornt, array.shape))
        nib.save(image, root / "nifti" / study.name / f"{study.name}-{name}.nii.gz")
    return root


@pytest.fixture(scope="module")
def predictions(forms, segmenter, classifiers):
    made = {}
    for form in ("challenge", "export", "export.zip", "nifti"):
        made[form] = predict(forms / form, forms / f"out_{form}", segmenter, classifiers, **KEEP_ALL)
    return made


def in_patient(file):
    """Labels by position in hundredths of a mm."""
    image = nib.load(file)
    labels = np.asarray(image.dataobj)
    places = np.argwhere(labels) @ image.affine[:3, :3].T + image.affine[:3, 3]
    rows = np.c_[np.rint(places * 100).astype(int), labels[labels > 0]]
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("form", ["export", "export.zip", "nifti"])
def test_the_answer_is_the_same_in_any_form(predictions, study, form):
    expected, found = (patients(predictions[name]) for name in ("challenge", form))
    assert list(found) == [study.name]
    assert found[study.name]["used"] == expected[study.name]["used"]
    assert found[study.name]["probability"] == pytest.approx(expected[study.name]["probability"], abs=1e-6)
    for mri_type in NAMES:
        name = f"{study.name}_{mri_type}.nii.gz"
        first, second = (in_patient(predictions[one] / "masks" / name) for one in ("challenge", form))
        assert len(first) > 100
        assert np.abs(first - second).max() <= 1


def test_masks_lie_on_the_grid_of_their_series(predictions, forms, study):
    source = nib.load(forms / "nifti" / study.name / f"{study.name}-t2f.nii.gz")
    mask = nib.load(predictions["nifti"] / "masks" / f"{study.name}_FLAIR.nii.gz")
    assert mask.shape == source.shape
    np.testing.assert_allclose(mask.affine, source.affine, atol=1e-4)


def test_the_run_says_which_series_was_which(predictions, study):
    (facts,) = json.loads((predictions["export"] / "studies.json").read_text())
    assert facts["patient"] == study.name
    assert {name: one["description"] for name, one in facts["chosen"].items()} == DESCRIPTIONS
    assert (predictions["export"] / "studies.csv").read_text().count("by its description") == 4


def test_files_of_one_patient_may_be_named(forms, study, segmenter, tmp_path):
    files = {name: forms / "nifti" / study.name / f"{study.name}-{NAMES[name]}.nii.gz" for name in ("FLAIR", "T1wCE")}
    out = radiogenomics.segment(output=tmp_path / "out", segmenter=segmenter, patient="Jo", num_workers=0, **files)
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["Jo_FLAIR.nii.gz", "Jo_T1wCE.nii.gz"]


def test_an_ambiguous_patient_does_not_stop_the_others(forms, study, segmenter, tmp_path):
    shutil.copytree(forms / "nifti" / study.name, tmp_path / "in" / "good")
    for name in ("t2f", "flair"):
        shutil.copy(forms / "nifti" / study.name / f"{study.name}-t2f.nii.gz", tmp_path / "in" / f"P_{name}.nii.gz")
    out = radiogenomics.segment(tmp_path / "in", tmp_path / "out", segmenter=segmenter, num_workers=0)
    assert len(list((out / "masks").iterdir())) == 4
    rows = (out / "volumes.csv").read_text()
    assert "both FLAIR of patient P; keep one of them, or name it with --FLAIR" in rows


def test_an_output_folder_is_asked_for(forms):
    with pytest.raises(ValueError, match=r"no output folder; say where the results go: --output FOLDER"):
        radiogenomics.predict(forms / "nifti")
