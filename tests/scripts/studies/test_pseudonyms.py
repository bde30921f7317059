"""Pseudonyms: stable, not to be guessed, and nothing beside them that leads back."""

import json

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.datalists import DataListError, select
from scripts.files import read_csv
from scripts.label_tables import read_asked
from scripts.studies.folders import find_studies
from scripts.studies.pseudonyms import CALLED, HIDDEN, KeyFileError, deidentified, hide, write_key

NAMES = ("Smith Jane", "00012", "BraTS2021_00012", "Ärztin", "x.y")


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(NAMES):
        (tmp_path / "in" / name).mkdir(parents=True)
        image = np.random.default_rng(seed).uniform(size=(6, 6, 6)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "in" / name / "flair.nii.gz")
    return tmp_path / "in"


def names_of(entries):
    return {entry[CALLED]: entry["patient"] for entry in entries}


def test_the_same_again_also_among_fewer_and_in_a_data_list(folder, tmp_path):
    first = names_of(find_studies(folder, deidentify=True))
    assert set(first) == set(NAMES)
    assert names_of(find_studies(folder, deidentify=True)) == first
    listed = [{"patient": name, "FLAIR": f"{name}/flair.nii.gz"} for name in NAMES[:2]]
    (tmp_path / "list.json").write_text(json.dumps({"test": listed, "dataset_dir": str(folder)}))
    assert names_of(select(datalist=tmp_path / "list.json", deidentify=True)) == {
        name: first[name] for name in NAMES[:2]
    }


def test_other_images_give_the_same_name_another_pseudonym(folder):
    first = names_of(find_studies(folder, deidentify=True))["00012"]
    nib.save(nib.Nifti1Image(np.ones((6, 6, 6), np.float32), np.eye(4)), folder / "00012" / "flair.nii.gz")
    assert names_of(find_studies(folder, deidentify=True))["00012"] != first


def test_who_has_no_images_has_a_pseudonym_too():
    one, other = (deidentified([{"patient": "00012", "reason": "00012/a.dcm is damaged"}])[0] for _ in range(2))
    assert one["patient"] != other["patient"]  # there is nothing that keeps it from being guessed but chance
    assert "a.dcm" not in one["reason"]


@given(st.text(min_size=1, max_size=12).filter(lambda text: text.strip("/\\. ")))
def test_no_name_is_revealed(name):
    if name in ("FLAIR", "T1w", "T1wCE", "T2w", "seg"):
        return
    item = {CALLED: name, "image": f"/data/{name}/FLAIR"}
    for text in (f"/data/{name}/FLAIR: damaged", f"patient {name}: damaged", f"({name})", f"found {name}, {name}"):
        assert HIDDEN in hide(text, item)
        assert f" {name}:" not in hide(text, item)
    assert hide(f"patient {name}", {"image": "x"}) == f"patient {name}"


def test_no_key_is_written_over_or_among_results(folder, tmp_path):
    entries = find_studies(folder, deidentify=True)
    write_key(entries, None, tmp_path / "out")
    key = tmp_path / "key.csv"
    write_key(entries, key, tmp_path / "out")
    write_key(entries, key, tmp_path / "out")
    assert {row["patient"]: row["pseudonym"] for row in read_csv(key)} == names_of(entries)
    with pytest.raises(KeyFileError, match="with another key"):
        write_key(entries[:2], key, tmp_path / "out")
    write_key(entries[:2], key, tmp_path / "out", overwrite=True)
    assert len(read_csv(key)) == 2
    with pytest.raises(KeyFileError, match="is inside the results"):
        write_key(entries, tmp_path / "out" / "a" / "key.csv", tmp_path / "out")
    with pytest.raises(KeyFileError, match="add --deidentify"):
        write_key(find_studies(folder), tmp_path / "other.csv", tmp_path / "out")


def test_errors_of_deidentified_studies_name_nobody(tmp_path):
    (tmp_path / "in" / "Smith Jane").mkdir(parents=True)
    (tmp_path / "in" / "Smith Jane" / "scan.png").touch()
    with pytest.raises(DataListError) as info:
        find_studies(tmp_path / "in", deidentify=True)
    assert "Smith" not in str(info.value)
    with pytest.raises(DataListError, match="omit one of the two"):
        read_asked(tmp_path / "sample.csv", deidentify=True)
