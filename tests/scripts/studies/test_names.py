"""Names of NIfTI files, and folders of them, as data sets give them."""

import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.modalities import MRI_TYPES
from scripts.studies.archives import ArchiveError
from scripts.studies.folders import DataListError, find_studies
from scripts.studies.names import Name, read_name
from tests.scripts.layouts import dicom_study, names, touch


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("Brats17_CBICA_AAB_1_t1ce.nii.gz", Name("Brats17_CBICA_AAB_1", "T1wCE")),
        ("BraTS20_Training_001_flair.nii", Name("BraTS20_Training_001", "FLAIR")),
        ("BraTS-GLI-00005-101-t2f.nii.gz", Name("BraTS-GLI-00005-101", "FLAIR")),
        ("UCSF-PDGM-0004_T1c.nii.gz", Name("UCSF-PDGM-0004", "T1wCE")),
        ("UCSF-PDGM-0004_T1_bias.nii.gz", Name("UCSF-PDGM-0004", "T1w", "bias")),
        ("UCSF-PDGM-0004_tumor_segmentation.nii.gz", Name("UCSF-PDGM-0004", "seg")),
        ("UPENN-GBM-00001_11_T1GD.nii.gz", Name("UPENN-GBM-00001_11", "T1wCE")),
        ("UPENN-GBM-00001_11_FLAIR_unstripped.nii.gz", Name("UPENN-GBM-00001_11", "FLAIR", "unstripped")),
        ("UPENN-GBM-00001_11_automated_approx_segm.nii.gz", Name("UPENN-GBM-00001_11", "seg")),
        ("sub-01_T2w.nii.gz", Name("sub-01", "T2w")),
        ("sub-01_ses-pre_ce-gadolinium_T1w.nii.gz", Name("sub-01", "T1wCE", "", "ses-pre")),
        ("sub-01_ses-1_acq-3D_run-2_FLAIR.nii.gz", Name("sub-01", "FLAIR", "acq-3D run-2", "ses-1")),
        ("CT1.nii.gz", Name("", "T1wCE")),
        ("t1.nii", Name("", "T1w")),
        ("T2_FLAIR.nii.gz", Name("", "FLAIR")),
        ("Doe T1-Gd.nii.gz", Name("Doe", "T1wCE")),
    ],
)
def test_names_of_data_sets(file, expected):
    assert read_name(file) == expected


@pytest.mark.parametrize(
    "file",
    ["dwi.nii.gz", "UCSF-PDGM-0004_SWI.nii.gz", "UCSF-PDGM-0004_brain_segmentation.nii.gz", "case_0000.nii.gz",
     "sub-01_dwi.nii.gz", "sub-01_ses-1_acq-3D_label-x_mask.nii.gz", ".nii.gz", "P_adc_map.nii"],
)  # fmt: skip
def test_names_without_meaning(file):
    assert read_name(file) is None


@given(
    st.from_regex(r"[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8}){0,2}", fullmatch=True),
    st.sampled_from("_-"),
    st.sampled_from([("flair", "FLAIR"), ("t1n", "T1w"), ("t1ce", "T1wCE"), ("t2w", "T2w"), ("T1GD", "T1wCE")]),
    st.sampled_from([".nii", ".nii.gz", ".NII.GZ"]),
)
def test_the_patient_is_what_stands_before_the_modality(patient, mark, modality, suffix):
    read = read_name(f"x{patient}9{mark}{modality[0]}{suffix}")
    assert read == Name(f"x{patient}9", modality[1])


# Folders


def modalities(entry):
    return [name for name in MRI_TYPES if name in entry]


def test_bare_names_in_folders_of_patients_and_visits(tmp_path):
    for place in ("P1", "P2/week-000", "P2/week-044", "P3/week-000"):
        for name in ("flair", "t1", "t1c", "t2"):
            touch(tmp_path / place / f"{name}.nii.gz")
    found = find_studies(tmp_path)
    assert names(found) == ["P1", "P2_week-000", "P2_week-044", "P3_week-000"]
    assert [entry.get("group") for entry in found] == [None, "P2", "P2", "P3"]
    assert all(modalities(entry) == list(MRI_TYPES) for entry in found)


def test_bids(tmp_path):
    touch(tmp_path / "dataset_description.json")
    for session in ("ses-1", "ses-2"):
        for name in ("ce-gadolinium_T1w", "T1w", "T2w", "FLAIR"):
            touch(tmp_path / "sub-01" / session / "anat" / f"sub-01_{session}_{name}.nii.gz")
        touch(tmp_path / "sub-01" / session / "dwi" / f"sub-01_{session}_dwi.nii.gz")
    touch(tmp_path / "sub-02" / "ses-1" / "anat" / "sub-02_ses-1_FLAIR.nii.gz")
    touch(tmp_path / "derivatives" / "x" / "sub-02" / "anat" / "sub-02_ses-1_FLAIR.nii.gz")
    first, second, third = find_studies(tmp_path)
    assert names((first, second, third)) == ["sub-01_ses-1", "sub-01_ses-2", "sub-02"]
    assert modalities(first) == list(MRI_TYPES)
    assert first["T1wCE"].endswith("sub-01_ses-1_ce-gadolinium_T1w.nii.gz")
    assert first["group"] == second["group"] == "sub-01"


def test_two_runs_of_bids_are_asked_about(tmp_path):
    for run in (1, 2):
        touch(tmp_path / "sub-01" / "anat" / f"sub-01_run-{run}_FLAIR.nii.gz")
    with pytest.raises(
        DataListError, match=r"run-1_FLAIR.nii.gz and .*run-2_FLAIR.nii.gz are both FLAIR of patient sub-01"
    ):
        find_studies(tmp_path)
    (entry,) = find_studies(tmp_path, named={"FLAIR": "sub-01_run-2_FLAIR.nii.gz"})
    assert entry["FLAIR"].endswith("run-2_FLAIR.nii.gz")


def test_ucsf_and_upenn(tmp_path):
    for name in (
        "FLAIR",
        "FLAIR_bias",
        "T1",
        "T1c",
        "T2",
        "SWI",
        "DTI_eddy_FA",
        "tumor_segmentation",
        "brain_segmentation",
    ):
        touch(tmp_path / "UCSF-PDGM-0004_nifti" / f"UCSF-PDGM-0004_{name}.nii.gz")
    patient = "UPENN-GBM-00001_11"
    for name in ("FLAIR", "T1", "T1GD", "T2"):
        touch(tmp_path / "images_structural" / patient / f"{patient}_{name}.nii.gz")
        touch(tmp_path / "images_structural_unstripped" / patient / f"{patient}_{name}_unstripped.nii.gz")
    ucsf, upenn = find_studies(tmp_path)
    assert names((ucsf, upenn)) == ["UCSF-PDGM-0004", patient]
    assert modalities(ucsf) == modalities(upenn) == list(MRI_TYPES)
    assert ucsf["seg"].endswith("tumor_segmentation.nii.gz")
    assert "unstripped" not in upenn["FLAIR"]
    left = [row for row in upenn["study"]["series"] if not row["chosen"]]
    assert [row["reason"] for row in left] == [
        f"a version of images_structural/{patient}/{patient}_{name}.nii.gz" for name in ("FLAIR", "T1GD", "T1", "T2")
    ]


def test_layouts_at_any_depth(tmp_path):
    dicom_study(tmp_path / "site" / "2021", "00001")
    touch(tmp_path / "HGG" / "Brats18_1" / "Brats18_1_flair.nii.gz")
    assert names(find_studies(tmp_path)) == ["00001", "Brats18_1"]


# Zip files


def zipped(folder, file):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return file


def test_a_zip_file_is_read_as_its_folder(tmp_path):
    dicom_study(tmp_path / "in", "00001", ["FLAIR"])
    first = find_studies(zipped(tmp_path / "in", tmp_path / "studies.zip"))
    assert names(first) == ["00001"]
    assert first == find_studies(tmp_path / "studies.zip")  # unpacked once


def test_zip_files_that_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.writestr("../../escaped_flair.nii.gz", b"x")
    with pytest.raises(ArchiveError, match="would be written outside its folder"):
        find_studies(tmp_path / "out.zip")
    touch(tmp_path / "in" / "P_flair.nii.gz").write_bytes(bytes(1000))
    content = zipped(tmp_path / "in", tmp_path / "cut.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(content.replace(b"x\x9cc", b"x\x9cd").replace(b"c`\x18", b"cd\x18"))
    with pytest.raises(ArchiveError, match="can't be unpacked"):
        find_studies(tmp_path / "cut.zip")
    (tmp_path / "no.zip").write_bytes(b"PK")
    with pytest.raises(DataListError, match="no such folder or zip file of studies"):
        find_studies(tmp_path / "no.zip")
