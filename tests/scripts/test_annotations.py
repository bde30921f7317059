from __future__ import annotations

import json
import os

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, LoadImaged, Orientationd

from custom_transforms import (
    LabelMapToWTETd,
    SampleSlices,
    ScaleToUint8d,
    SeriesReader,
    SlicePlanes,
    TumorRatioFilter,
)
from scripts import annotations
from scripts.annotations import AnnotatedSlices, annotated_items
from scripts.loading import LoadSlice
from scripts.preparation import KeepFacts
from scripts.slice_preparation import SavePlanes

CONFIGURATION = {"planes": ["axial", "sagittal"]}
PREPARATION = Compose(
    [
        LoadImaged(keys="image", reader=SeriesReader(), ensure_channel_first=True),
        LoadImaged(keys="seg", reader=SeriesReader(labels=True), ensure_channel_first=True),
        KeepFacts(),
        Orientationd(keys=["image", "seg"], axcodes="RAS", labels=None),
        ScaleToUint8d(keys="image"),
        LabelMapToWTETd(keys="seg"),
        SavePlanes(SlicePlanes(CONFIGURATION["planes"]), TumorRatioFilter(0.01, "image_area"), SampleSlices(0)),
    ]
)


@pytest.fixture
def write_volume(tmp_path):
    """Write a volume ``(12, 10, 8)`` with tumour in axial slices 3 and 4, in 2 it enhances; returns their paths."""

    def write(name, label=(1, 2)):
        image = np.random.default_rng(0).uniform(1, 100, (12, 10, 8)).astype(np.float32)
        seg = np.zeros(image.shape, np.uint8)
        if label:
            seg[2:6, 3:7, 3], seg[2:6, 3:7, 4] = label
        paths = {"image": str(tmp_path / f"{name}.nii.gz"), "label": str(tmp_path / "labels" / f"{name}.nii.gz")}
        (tmp_path / "labels").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(image, np.eye(4)), paths["image"])
        nib.save(nib.Nifti1Image(seg, np.eye(4)), paths["label"])
        return paths

    return write


def dataset(data, folder, **options):
    return AnnotatedSlices(data, LoadSlice(), PREPARATION, folder / "prepared", CONFIGURATION, **options)


def test_slices_are_those_with_tumour_and_have_its_masks(write_volume, tmp_path):
    volume = write_volume("a")
    found = [found for found in dataset([volume], tmp_path) if found["plane"] == "axial"]
    seg = np.asarray(nib.load(volume["label"]).dataobj)
    assert len(found) == 2
    for z, item in zip((3, 4), found, strict=True):
        np.testing.assert_array_equal(item["label"][0], seg[..., z] > 0)
        np.testing.assert_array_equal(item["label"][1], seg[..., z] == 2)
    assert {item["patient"] for item in found} == {"a"}


def test_an_annotation_is_prepared_once_and_again_when_it_changes(write_volume, tmp_path, monkeypatch):
    read = []
    real = SavePlanes.__call__
    monkeypatch.setattr(SavePlanes, "__call__", lambda self, data: read.append(data["patient"]) or real(self, data))
    volumes = [write_volume("a"), write_volume("b")]
    dataset(volumes, tmp_path)
    dataset(volumes, tmp_path)
    assert sorted(read) == ["a", "b"]
    changed = write_volume("b", label=(1, 1))
    os.utime(changed["image"], ns=(1, 1))
    again = dataset(volumes, tmp_path)
    assert sorted(read) == ["a", "b", "b"]
    assert not any(item["label"][1].any() for item in again if item["patient"] == "b")


def test_without_a_held_out_volume_the_training_ones_validate_and_it_says_so(write_volume, tmp_path, caplog):
    volume = write_volume("a")
    for data in ([], [write_volume("empty", label=None)]):
        caplog.clear()
        assert {item["patient"] for item in dataset(data, tmp_path, otherwise=[volume])} == {"a"}
        assert "no held-out volume" in caplog.text
    caplog.clear()
    assert {item["patient"] for item in dataset([write_volume("b")], tmp_path, otherwise=[volume])} == {"b"}
    assert "no held-out volume" not in caplog.text


def test_nothing_to_train_on_is_an_error_that_says_where_the_reasons_are(write_volume, tmp_path):
    with pytest.raises(ValueError, match=r"none of 0 annotated"):
        dataset([], tmp_path)
    with pytest.raises(ValueError, match=r"none of 1 annotated volumes .*index\.json"):
        dataset([write_volume("third segment", label=(1, 3))], tmp_path)
    rows = json.loads((tmp_path / "prepared" / "index.json").read_text())["series"]
    assert all("two segments" in row["error"] for row in rows.values())


def test_a_volume_that_cannot_be_used_does_not_stop_the_others(write_volume, tmp_path):
    volumes = [write_volume("good"), write_volume("bad", label=(1, 3))]
    assert {item["patient"] for item in dataset(volumes, tmp_path)} == {"good"}


def test_volumes_of_one_name_are_refused(tmp_path):
    for folder in "xy":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.nii.gz").write_bytes(b"")
    volumes = [{"image": str(tmp_path / f / "a.nii.gz"), "label": str(tmp_path / f / "a.nii.gz")} for f in "xy"]
    with pytest.raises(ValueError, match="same name"):
        annotated_items(volumes, tmp_path, CONFIGURATION)


def test_processes_validate_volumes_of_their_own(write_volume, tmp_path, monkeypatch):
    volumes = [write_volume("a"), write_volume("b")]
    whole = dataset(volumes, tmp_path)
    assert {item["patient"] for item in whole} == {"a", "b"}
    monkeypatch.setattr(annotations, "prepare", lambda *args: None)  # it is, and would wait for the other
    monkeypatch.setattr(annotations.distributed.idist, "get_world_size", lambda: 2)
    for rank, name in enumerate("ab"):
        monkeypatch.setattr(annotations.distributed.idist, "get_rank", lambda rank=rank: rank)
        assert {item["patient"] for item in dataset(volumes, tmp_path, share=True)} == {name}
        assert len(dataset(volumes, tmp_path)) == len(whole), "a sampler shares what trains"
