from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from monai.data import Dataset, MetaTensor, get_track_meta
from monai.transforms import Compose, Resized, Rotate90d
from torch.utils.data import DataLoader

from custom_transforms import ChunkSlices
from scripts import loading
from scripts.files import write_json
from scripts.loading import (
    LoadSequence,
    LoadSeries,
    LoadSlice,
    SplitSequence,
    UntrackedCompose,
    sequence_items,
    series_items,
    slice_items,
)
from scripts.prepared import write_series

RNG = np.random.default_rng(5)
IMAGE = RNG.integers(0, 256, (4, 6, 5), dtype=np.uint8)
MASKS = RNG.integers(0, 2, (7, 2, 6, 5)).astype(bool)
KEPT = np.array([1, 2, 4, 6])
STACK = np.stack([IMAGE, MASKS[KEPT, 0] * 255, MASKS[KEPT, 1] * 255], axis=1).astype(np.uint8)


@pytest.fixture
def prepared(tmp_path):
    """Patient a has four kept slices, patient b none, patient c failed."""
    rows = {}
    for patient, image, slices in (("a", IMAGE, KEPT), ("b", IMAGE[:0], KEPT[:0])):
        info = {"patient": patient, "mri_type": "FLAIR", "plane": "axial", "kept": len(slices)}
        write_series(tmp_path / patient / "FLAIR.h5", image, slices, MASKS, info)
        rows[f"{patient}/FLAIR"] = {**info, "file": f"{patient}/FLAIR.h5"}
    rows["c/FLAIR"] = {"patient": "c", "mri_type": "FLAIR", "plane": "axial", "error": "unreadable"}
    write_json({"series": rows}, tmp_path / "index.json")
    return tmp_path


ENTRIES = [{"patient": name, "label": label} for name, label in (("a", 1), ("b", 0), ("c", 0))]


def test_items_are_those_of_usable_series_only(prepared):
    assert [item["slice"] for item in slice_items(ENTRIES, prepared)] == [0, 1, 2, 3]
    assert [(item["patient"], item["kept"]) for item in series_items(ENTRIES, prepared, ["FLAIR", "T1w"])] == [
        ("a", 4),
        ("b", 0),
    ]
    items = sequence_items(ENTRIES, prepared, "FLAIR", ChunkSlices(length=3, stride=1))
    assert [(item["start"], item["stop"], item["label"]) for item in items] == [(0, 3, 1), (1, 4, 1)]


def test_patients_without_any_slice_are_an_error_that_names_folder_and_remedy(prepared):
    with pytest.raises(
        ValueError, match=r"none of 2 patients has a FLAIR sequence.*index\.json.*smaller tumour ratio"
    ) as error:
        sequence_items(ENTRIES[1:], prepared, "FLAIR", ChunkSlices())
    assert str(prepared) in str(error.value)


def test_slices_may_be_missing_where_they_are_not_required(prepared):
    assert slice_items(ENTRIES[1:], prepared, required=False) == []
    with pytest.raises(ValueError, match="none of 2 patients has a slice"):
        slice_items(ENTRIES[1:], prepared)


def test_a_slice_comes_with_its_own_masks(prepared):
    for item in slice_items(ENTRIES, prepared):
        loaded = LoadSlice()(item)
        k = item["slice"]
        np.testing.assert_array_equal(loaded["image"].numpy(), IMAGE[k : k + 1])
        np.testing.assert_array_equal(loaded["label"].numpy(), MASKS[KEPT[k]])
        assert loaded["field_of_view"].isnan().all(), "nothing is known of the size of its pixels"


def test_a_slice_has_its_size_in_millimetres(tmp_path):
    write_series(tmp_path / "a.h5", IMAGE, KEPT, MASKS, {"spacing": [0.5, 2.0]})
    found = LoadSlice()({"series": str(tmp_path / "a.h5"), "slice": 0})["field_of_view"]
    assert found.tolist() == [0.5 * IMAGE.shape[1], 2 * IMAGE.shape[2]]


def test_series_stay_open_for_further_slices(prepared, monkeypatch):
    opened = []
    real = loading.PreparedSeries
    monkeypatch.setattr(loading, "PreparedSeries", lambda path, **options: opened.append(path) or real(path, **options))
    for name in "de":
        write_series(prepared / f"{name}.h5", IMAGE, KEPT, MASKS, {})
    items = [{"series": str(prepared / f"{name}.h5"), "slice": 0} for name in "ddedde"]
    load = LoadSlice()
    load.most = 2
    for item in items:
        load(item)
    assert len(opened) == 2
    one = LoadSlice()
    one.most = 1
    for item in items:
        one(item)
    assert len(opened) == 2 + 4


@pytest.mark.slow
def test_open_series_are_not_shared_between_processes(prepared):
    load = LoadSlice()
    items = slice_items(ENTRIES, prepared)
    expected = [load(item)["image"].tolist() for item in items]
    copied = pickle.loads(pickle.dumps(load))
    assert [copied(item)["image"].tolist() for item in items] == expected
    for _ in range(2):  # forked workers inherit what this process opened
        loader = DataLoader(Dataset(items, load), batch_size=None, num_workers=2)
        assert [item["image"].tolist() for item in loader] == expected


def test_transforms_without_metadata_give_the_same_and_leave_the_setting_alone(prepared):
    transforms = [LoadSlice(), Resized(["image", "label"], (8, 8), mode=["bilinear", "nearest"]), Rotate90d("image")]
    item = slice_items(ENTRIES, prepared)[0]
    plain, tracked = UntrackedCompose(transforms)(item), Compose(transforms)(item)
    assert type(plain["image"]) is torch.Tensor
    assert isinstance(tracked["image"], MetaTensor)
    for key in ("image", "label"):
        assert torch.equal(plain[key], torch.as_tensor(tracked[key]))
    with pytest.raises(RuntimeError):
        UntrackedCompose([Rotate90d("nothing")])(item)
    assert get_track_meta()


def test_a_series_is_the_stack_of_three_channels(prepared):
    loaded = LoadSeries()(series_items(ENTRIES, prepared, ["FLAIR"])[0])
    assert loaded["image"].dtype == torch.uint8
    np.testing.assert_array_equal(loaded["image"].numpy(), STACK)


@pytest.mark.parametrize("length", [2, 3, 9])
def test_a_sequence_is_black_where_the_series_is_too_short(prepared, length):
    item = {"series": str(prepared / "a" / "FLAIR.h5"), "start": 1, "stop": min(1 + length, 4), "label": 1}
    loaded = SplitSequence()(LoadSequence(length)(item))
    there = item["stop"] - item["start"]
    assert loaded["image"].shape == (length, 3, 6, 5)
    np.testing.assert_array_equal(loaded["image"][:there].numpy(), STACK[1 : item["stop"]])
    assert not loaded["image"][there:].any()
    assert loaded["label"].tolist() == [1.0]


def test_slices_are_shown_with_the_grey_window_of_their_volume(tmp_path):
    image = np.array([[[0, 10, 50, 100]] * 4], np.uint8)
    masks = np.zeros((1, 2, 4, 4), bool)
    item = {"series": str(tmp_path / "a.h5"), "slice": 0}
    write_series(tmp_path / "a.h5", image, np.arange(1), masks, {"window": [5, 56]})
    np.testing.assert_array_equal(LoadSlice()(item)["image"][0], image[0])
    stretched = LoadSlice(scaling="window")(item)["image"][0]
    np.testing.assert_array_equal(stretched, [[0, 25, 225, 255]] * 4)
    assert stretched.dtype == torch.uint8
    with pytest.raises(ValueError, match="scaling is 'black', expected one of minmax, window"):
        LoadSlice(scaling="black")
