"""Studies in folders of any layout."""

import os
import zipfile

import nibabel as nib
import numpy as np
import pytest

from custom_transforms.dicom_file import DICOM_SUFFIXES
from custom_transforms.nifti import NIFTI_SUFFIXES
from custom_transforms.pictures import PICTURE_SUFFIXES
from scripts.errors import UserError
from scripts.masks import save_label_map
from scripts.studies import walk
from scripts.studies.folders import DataListError, find_studies
from tests.scripts.layouts import MRI_TYPES, NAMES_2021, NAMES_2023, dicom_study, names, nifti_study, touch


def find(folder, **settings):
    """What is found, without the description of each series."""
    return [
        {key: value for key, value in entry.items() if key != "study"} for entry in find_studies(folder, **settings)
    ]


# Finding studies


@pytest.mark.parametrize("suffix", ["dcm", "jpg"])
def test_challenge_layout(tmp_path, suffix):
    dicom_study(tmp_path, "00012", suffix=suffix)
    dicom_study(tmp_path, "00002", ["T2w", "T1w"], suffix=suffix)
    first, second = find(tmp_path)
    assert first == {"patient": "00002", **{name: str(tmp_path / "00002" / name) for name in ("T1w", "T2w")}}
    assert second == {"patient": "00012", **{name: str(tmp_path / "00012" / name) for name in MRI_TYPES}}


@pytest.mark.parametrize("suffix", ["nii.gz", "nii"])
@pytest.mark.parametrize(
    ("patient", "modalities", "mark"),
    [("BraTS2021_00012", NAMES_2021, "_"), ("BraTS-GLI-00012-000", NAMES_2023, "-")],
    ids=["2021", "2023"],
)
def test_brats_layouts(tmp_path, patient, modalities, mark, suffix):
    nifti_study(tmp_path, patient, modalities, mark, suffix=suffix)
    (found,) = find(tmp_path)
    expected = {name: str(tmp_path / patient / f"{patient}{mark}{modalities[name]}.{suffix}") for name in MRI_TYPES}
    seg = str(tmp_path / patient / f"{patient}{mark}seg.{suffix}")
    assert found == {"patient": patient, "seg": seg, **expected}


def test_one_study_alone(tmp_path):
    dicom_study(tmp_path, "00012")
    nifti_study(tmp_path, "BraTS2021_00013", seg=False)
    assert names(find(tmp_path / "00012")) == ["00012"]
    (found,) = find(tmp_path / "BraTS2021_00013")
    assert set(found) == {"patient", *MRI_TYPES}


def test_patients_side_by_side(tmp_path):
    for patient in ("BraTS2021_00001", "BraTS2021_00002"):
        nifti_study(tmp_path, patient)
        for file in (tmp_path / patient).iterdir():
            file.rename(tmp_path / file.name)
        (tmp_path / patient).rmdir()
    found = find(tmp_path)
    assert names(found) == ["BraTS2021_00001", "BraTS2021_00002"]
    assert all(set(study) == {"patient", "seg", *MRI_TYPES} for study in found)


def test_paths_are_absolute(tmp_path, monkeypatch):
    dicom_study(tmp_path / "studies", "00001")
    monkeypatch.chdir(tmp_path)
    assert find("studies")[0]["FLAIR"] == str(tmp_path / "studies" / "00001" / "FLAIR")


def test_other_files_do_not_matter(tmp_path, log):
    dicom_study(tmp_path, "00001", ["FLAIR"])
    touch(tmp_path / "train_labels.csv")
    for name in (".DS_Store", "._00001_t1.nii.gz", "README.txt", "flair.json", "dwi.bval", "dwi.bvec", "LICENSE"):
        touch(tmp_path / "00001" / name)
        touch(tmp_path / name)
    (found,) = find(tmp_path)
    assert set(found) == {"patient", "FLAIR"}
    assert log.text == ""


# Unrecognised input


def test_unrecognised_images_of_a_patient_are_reported(tmp_path, log):
    dicom_study(tmp_path, "00001", ["FLAIR", "AX T1"])
    touch(tmp_path / "00001" / "dwi.nii.gz")
    (found,) = find(tmp_path)
    assert found["FLAIR"] == str(tmp_path / "00001" / "FLAIR")
    (warning,) = found["warnings"]
    assert "not recognised: AX T1, dwi.nii.gz; expected folders FLAIR, T1w, T1wCE, T2w or files 00001_{flair" in warning
    assert "not recognised: 00001 (AX T1, dwi.nii.gz). Expected DICOM files" in log.text
    assert [record.levelname for record in log.records] == ["WARNING"]


def test_further_series_of_a_complete_patient_are_reported_in_the_log_alone(tmp_path, log):
    dicom_study(tmp_path, "00001", [*MRI_TYPES, "DWI"])
    (found,) = find(tmp_path)
    assert set(found) == {"patient", *MRI_TYPES}
    assert "00001 (DWI)" in log.text


def dicom_without_a_suffix(path):
    touch(path).write_bytes(bytes(128) + b"DICM" + bytes(8))


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (lambda folder: touch(folder / "AX FLAIR" / "Image-1.dcm"), "AX FLAIR"),
        (lambda folder: touch(folder / "2021-03-04" / "AX FLAIR" / "Image-1.dcm"), "2021-03-04"),
        (lambda folder: touch(folder / "dwi.nii.gz"), "dwi.nii.gz"),
        (lambda folder: touch(folder / "P_flair.nii.gz" / "volume.nii"), "P_flair.nii.gz"),
        (lambda folder: touch(folder / "P_seg.nii.gz"), "P_seg.nii.gz"),
        (lambda folder: touch(folder / "Image-1.JPG"), "Image-1.JPG"),
        (lambda folder: dicom_without_a_suffix(folder / "IM0001"), "IM0001"),
        (lambda folder: dicom_without_a_suffix(folder / "SER 1" / "IM0001"), "SER 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_patients_with_unrecognised_images_are_kept(tmp_path, log, write, found):
    dicom_study(tmp_path, "00001")
    write(tmp_path / "P")
    first, second = find(tmp_path)
    assert first["patient"] == "00001"
    assert set(second) - {"seg"} == {"patient", "reason"}
    assert second["patient"] == "P"
    assert second["reason"].startswith(f"none of its series was recognised: found {found}; expected folders FLAIR, T1w")
    assert f"P ({found})" in log.text


def test_folders_without_images_are_no_patients_and_are_reported(tmp_path, log):
    dicom_study(tmp_path, "00001")
    (tmp_path / "00002").mkdir()
    touch(tmp_path / "00003" / "notes.txt")
    (tmp_path / "00004" / "AX FLAIR").mkdir(parents=True)
    assert names(find(tmp_path)) == ["00001"]
    assert "00002 (no images), 00003 (no images), 00004 (AX FLAIR)." in log.text


@pytest.mark.slow
def test_a_thousand_of_them_are_reported_in_a_line(tmp_path, log):
    dicom_study(tmp_path, "00001")
    for number in range(1000):
        touch(tmp_path / f"P{number:04d}" / "AX FLAIR" / "Image-1.dcm")
    for number in range(1000):
        touch(tmp_path / "P0000" / f"Image-{number}.dcm")
    assert len(find(tmp_path)) == 1001
    (record,) = log.records
    assert (
        "not recognised: P0000 (AX FLAIR, Image-0.dcm, Image-1.dcm and 998 more), P0001 (AX FLAIR)," in record.message
    )
    assert "P0009 (AX FLAIR) and 990 more. Expected" in record.message
    assert len(record.message) < 1000


def test_files_beside_the_patients_are_reported(tmp_path, log):
    dicom_study(tmp_path / "studies", "00001")
    touch(tmp_path / "studies" / "P7.nii.gz")
    assert names(find(tmp_path / "studies")) == ["00001"]
    assert "studies (P7.nii.gz)." in log.text


def test_folders_of_a_study_alone_are_no_patients(tmp_path, log):
    dicom_study(tmp_path, "00001", ["FLAIR", "AX T1"])
    nifti_study(tmp_path, "00002", seg=False)
    touch(tmp_path / "00002" / "DWI" / "Image-1.dcm")
    (found,) = find(tmp_path / "00001")
    assert "AX T1" in found["warnings"][0]
    assert names(find(tmp_path / "00002")) == ["00002"]
    assert "00002 (DWI)" in log.text


def test_no_study_says_what_was_found(tmp_path):
    for patient in ("P1", "P2"):
        touch(tmp_path / patient / "AX FLAIR" / "Image-1.dcm")
    with pytest.raises(
        DataListError,
        match=r"no study found; not recognised: P1 \(AX FLAIR\), P2 \(AX FLAIR\)\. Expected DICOM files",
    ):
        find(tmp_path)


def test_results_of_this_project_are_no_patients(tmp_path, log):
    labels, affine = np.ones((2, 2, 2), np.uint8), np.eye(4)
    dicom_study(tmp_path, "P1")
    for name in ("P1_FLAIR", "P2"):  # a mask a series, a mask a patient
        save_label_map(labels, affine, tmp_path / "masks" / f"{name}.nii.gz")
    save_label_map(labels, affine, tmp_path / "P3_FLAIR.nii.gz")
    for file in (
        "out/resolved_config.yaml", "out/P4_flair.nii.gz", "prepared/index.json", "prepared/P1/FLAIR.h5",
        "dicom/P1/FLAIR_seg.dcm", "report/report.html", "report/figures/a.png", "explanations/P1_FLAIR.npz",
    ):  # fmt: skip
        touch(tmp_path / file)
    (found,) = find(tmp_path)
    assert found == {"patient": "P1", **{name: str(tmp_path / "P1" / name) for name in MRI_TYPES}}
    (record,) = log.records
    assert (
        "results of this project among the studies are passed over: P3_FLAIR.nii.gz, dicom, explanations"
        in record.message
    )


def test_masks_of_others_are_images_and_ours_may_be_labels(tmp_path):
    dicom_study(tmp_path, "P1", ["FLAIR"])
    save_label_map(np.ones((2, 2, 2), np.uint8), np.eye(4), tmp_path / "P1" / "P1_seg.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "P1" / "P1_t1.nii.gz")
    (found,) = find(tmp_path)
    assert set(found) == {"patient", "FLAIR", "T1w", "seg"}


def test_endings_of_images_are_those_that_are_read():
    read = NIFTI_SUFFIXES + DICOM_SUFFIXES + PICTURE_SUFFIXES
    assert sorted(walk.IMAGE_SUFFIXES) == sorted(read)


def test_an_empty_series_folder_is_a_patient_all_the_same(tmp_path):
    """Whose series was not copied must not vanish: the reader gives the reason."""
    dicom_study(tmp_path, "00001", ["FLAIR"])
    (tmp_path / "00002" / "FLAIR").mkdir(parents=True)
    assert names(find(tmp_path)) == ["00001", "00002"]


def test_no_folder(tmp_path):
    with pytest.raises(DataListError, match="gone: no such folder or zip file of studies"):
        find(tmp_path / "gone")


def test_no_study(tmp_path):
    touch(tmp_path / "notes.txt")
    with pytest.raises(DataListError, match=r"no study found\. Expected .*flair.*t2f.*FLAIR") as info:
        find(tmp_path)
    assert str(tmp_path) in str(info.value)
    assert "did you mean" not in str(info.value)


def test_folder_above_the_studies(tmp_path):
    dicom_study(tmp_path / "train", "00001")
    with pytest.raises(DataListError, match=r"did you mean .*train\?"):
        find(tmp_path)


def test_two_paths_for_one_modality(tmp_path):
    nifti_study(tmp_path, "BraTS2021_00001")
    touch(tmp_path / "BraTS2021_00001" / "BraTS2021_00001_t2f.nii.gz")
    with pytest.raises(
        DataListError, match=r"flair\.nii\.gz and .*t2f\.nii\.gz are both FLAIR of patient BraTS2021_00001; keep one"
    ):
        find(tmp_path)


def test_a_member_of_gigabytes_is_not_unpacked(tmp_path):
    archive = tmp_path / "studies.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("A/A_flair.nii", os.urandom(3_000_000))
        new.filelist[0].file_size, new.filelist[0].compress_size = 3_000_000_000, 3_000_000
    with pytest.raises(
        UserError, match=r"studies\.zip: its member 'A/A_flair.nii' declares 3,000,000,000 bytes, .*; remove it"
    ):
        find_studies(archive)
