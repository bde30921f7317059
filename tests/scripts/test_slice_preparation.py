"""Stage 1's slices of labelled volumes."""

import os

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, LoadImaged, Orientationd

from custom_transforms import (
    BratsLabelsToWTETd,
    SampleSlices,
    ScaleToUint8d,
    SeriesReader,
    SlicePlanes,
    TumorRatioFilter,
)
from scripts import preparation, slice_preparation
from scripts.prepared import PreparedSeries

PLANES = ("sagittal", "coronal", "axial")


def volume(seed=4, shape=(12, 11, 10)):
    """A brain with a tumour that grows along one diagonal, and labels of BraTS 2021."""
    rng = np.random.default_rng(seed)
    seg = np.zeros(shape, dtype=np.uint8)
    seg[3:9, 2:7, 4:8] = 2
    seg[4:7, 3:5, 4:6] = 4
    seg[5, 4, 5] = 1
    image = rng.uniform(10, 500, shape).astype(np.float32)
    image[:2] = image[-2:] = 0
    return image, seg


def save_case(folder, patient, image, seg, affine=None):
    affine = np.diag([-1.0, -1, 1, 1]) if affine is None else affine
    (folder / patient).mkdir(parents=True, exist_ok=True)
    entry = {"patient": patient}
    for name, array in (("FLAIR", image), ("seg", seg)):
        entry[name] = str(folder / patient / f"{patient}_{name.lower()}.nii.gz")
        nib.save(nib.Nifti1Image(array, affine), entry[name])
    return entry


def expected_planes(image, seg, min_ratio, keep_rate, radiological):
    """Stage 1's slices by plane, computed with numpy alone; image and labels lie in LPS order and are turned to RAS."""
    image, seg = image[::-1, ::-1], seg[::-1, ::-1]
    scaled = np.floor((image - image.min()) / (image.max() - image.min()) * 255 + 0.5).astype(int)
    result = {}
    for axis, plane in enumerate(PLANES):
        kept = []
        for index in range(image.shape[axis]):
            labels = seg.take(index, axis)
            if (labels > 0).sum() / labels.size > min_ratio:
                kept.append((scaled.take(index, axis), labels > 0, labels == 4))
        step = max(round(keep_rate * len(kept)), 1)
        kept = kept[::step]
        if radiological:
            kept = [tuple(np.rot90(one.T, 2) for one in parts) for parts in kept]
        result[plane] = kept
    return result


def prepare_volumes(entries, folder, min_ratio=0.01, keep_rate=0.1, radiological=False):
    configuration = {"planes": list(PLANES), "ratio": min_ratio, "rate": keep_rate, "radiological": radiological}
    transform = Compose(
        [
            LoadImaged("image", reader=SeriesReader(), ensure_channel_first=True),
            LoadImaged("seg", reader=SeriesReader(labels=True), ensure_channel_first=True),
            Orientationd(["image", "seg"], axcodes="RAS", labels=None),
            ScaleToUint8d("image"),
            BratsLabelsToWTETd("seg"),
            slice_preparation.SavePlanes(
                SlicePlanes(PLANES, radiological=radiological),
                TumorRatioFilter(min_ratio, "image_area"),
                SampleSlices(keep_rate),
            ),
        ]
    )
    items = slice_preparation.segmentation_items(entries, folder, configuration)
    return preparation.prepare(items, transform, folder, configuration)


@pytest.mark.parametrize("radiological", [False, True])
@pytest.mark.parametrize(("min_ratio", "keep_rate"), [(0.01, 0.1), (0.1, 0.5)])
def test_planes_against_numpy(tmp_path, radiological, min_ratio, keep_rate):
    image, seg = volume()
    entry = save_case(tmp_path / "data", "BraTS2021_00001", image, seg)
    rows = prepare_volumes([entry], tmp_path / "prepared", min_ratio, keep_rate, radiological)
    expected = expected_planes(image, seg, min_ratio, keep_rate, radiological)
    assert set(rows) == {f"BraTS2021_00001/FLAIR/{plane}" for plane in PLANES}
    for plane, slices in expected.items():
        row = preparation.read_index(tmp_path / "prepared")[f"BraTS2021_00001/FLAIR/{plane}"]
        assert row["kept"] == len(slices) > 0
        stack, masks = PreparedSeries(row["file"]).stacks()
        for found, found_masks, (one, wt, et) in zip(stack, masks, slices, strict=True):
            assert np.abs(found.astype(int) - one).max() <= 1
            np.testing.assert_array_equal(found_masks, [wt, et])


@pytest.mark.parametrize("radiological", [False, True])
def test_slices_have_the_spacing_of_their_rows_and_columns(tmp_path, radiological):
    image, seg = volume()
    # columns of the affine: the first axis of the file lies along Y, the second along X
    affine = np.array([[0, 2.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 5.0, 0], [0, 0, 0, 1]])
    rows = prepare_volumes(
        [save_case(tmp_path / "data", "a", image, seg, affine)], tmp_path / "out", radiological=radiological
    )
    expected = {"sagittal": [3, 5], "coronal": [2, 5], "axial": [2, 3]}
    for plane, spacing in expected.items():
        assert rows[f"a/FLAIR/{plane}"]["spacing"] == pytest.approx(spacing[::-1] if radiological else spacing)


def test_a_volume_without_tumour_gives_no_slice(tmp_path):
    image, seg = volume()
    rows = prepare_volumes([save_case(tmp_path / "data", "a", image, 0 * seg)], tmp_path / "prepared")
    assert [row["kept"] for row in rows.values()] == [0, 0, 0]


def test_entries_without_labels_are_no_items(tmp_path):
    image, seg = volume()
    with_seg = save_case(tmp_path, "a", image, seg)
    without = {key: value for key, value in save_case(tmp_path, "b", image, seg).items() if key != "seg"}
    items = slice_preparation.segmentation_items([with_seg, without], tmp_path, {"planes": ["axial"]})
    assert [item["patient"] for item in items] == ["a"]


def test_a_broken_volume_is_reported_and_the_rest_is_prepared(tmp_path, log):
    image, seg = volume()
    entries = [save_case(tmp_path / "data", name, image, seg) for name in ("a", "b", "c")]
    seg[0, 0, 0] = 9
    entries[1] = save_case(tmp_path / "data", "b", image, seg)
    rows = prepare_volumes(entries, tmp_path / "prepared")
    assert [name for name, row in rows.items() if "error" in row] == [f"b/FLAIR/{plane}" for plane in PLANES]
    assert "9" in rows["b/FLAIR/axial"]["error"]
    assert "b/FLAIR" in log.text
    assert all(rows[f"{name}/FLAIR/axial"]["kept"] for name in ("a", "c"))
    # once it is mended, only this one is prepared
    before = os.stat(preparation.read_index(tmp_path / "prepared")["a/FLAIR/axial"]["file"]).st_mtime_ns
    save_case(tmp_path / "data", "b", *volume())
    assert prepare_volumes(entries, tmp_path / "prepared")["b/FLAIR/axial"]["kept"]
    assert os.stat(preparation.read_index(tmp_path / "prepared")["a/FLAIR/axial"]["file"]).st_mtime_ns == before


def test_a_constant_volume_is_reported_as_such(tmp_path):
    image, seg = volume()
    rows = prepare_volumes([save_case(tmp_path / "data", "a", 0 * image + 7, seg)], tmp_path / "prepared")
    assert "a_flair.nii.gz: all 1320 voxels have the value 7, expected images" in rows["a/FLAIR/axial"]["error"]


def test_asking_again_costs_nothing_and_another_configuration_everything(tmp_path, log):
    entry = save_case(tmp_path / "data", "a", *volume())
    folder = tmp_path / "prepared"

    def times():
        return {path.name: path.stat().st_mtime_ns for path in sorted(folder.rglob("*.h5"))}

    first_rows = prepare_volumes([entry], folder)
    first = times()
    assert len(first) == 3
    log.clear()
    assert prepare_volumes([entry], folder) == first_rows
    assert times() == first
    assert "3 prepared before, 0 to prepare" in log.text
    second_rows = prepare_volumes([entry], folder, min_ratio=0.2)
    assert first.keys() == times().keys()
    assert all(times()[name] != first[name] for name in first)
    assert sum(row["kept"] for row in second_rows.values()) < sum(row["kept"] for row in first_rows.values())
