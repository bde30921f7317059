from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_transforms import (
    BratsLabelsToWTET,
    BratsLabelsToWTETD,
    BratsLabelsToWTETd,
    BratsLabelsToWTETDict,
    LabelMapToWTET,
    LabelMapToWTETD,
    LabelMapToWTETd,
    LabelMapToWTETDict,
)
from scripts.masks import label_map

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def labels(enhancing: int) -> np.ndarray:
    return np.array([[[0, 1], [2, enhancing]], [[enhancing, 0], [1, 2]]], dtype=np.uint8)


@pytest.mark.parametrize("enhancing", [3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_masks_of_either_year(enhancing, dtype):
    wt = [[[0, 1], [1, 1]], [[1, 0], [1, 1]]]
    et = [[[0, 0], [0, 1]], [[1, 0], [0, 0]]]
    for volume in (labels(enhancing).astype(dtype), labels(enhancing).astype(dtype)[None]):
        masks = BratsLabelsToWTET()(volume)
        assert isinstance(masks, np.ndarray)
        assert masks.dtype == np.uint8
        np.testing.assert_array_equal(masks, np.array([wt, et]))


def test_types_in_are_types_out():
    plain = BratsLabelsToWTET()(torch.from_numpy(labels(4)))
    assert type(plain) is torch.Tensor
    assert plain.dtype == torch.uint8
    meta = BratsLabelsToWTET()(MetaTensor(torch.from_numpy(labels(4))[None].float(), affine=torch.from_numpy(AFFINE)))
    assert isinstance(meta, MetaTensor)
    assert meta.dtype == torch.uint8
    np.testing.assert_array_equal(meta.affine, AFFINE)
    np.testing.assert_array_equal(meta.as_tensor(), plain)


def test_no_tumour_gives_empty_masks():
    assert not BratsLabelsToWTET()(np.zeros((1, 2, 3, 4))).any()


@pytest.mark.parametrize(
    ("values", "found"), [([3, 4], "3, 4"), ([5], "5"), ([-1], "-1"), ([0.5], "0.5"), ([np.nan], "nan")]
)
def test_other_values_are_named(values, found):
    volume = np.zeros((2, 2, 2))
    volume.flat[: len(values)] = values
    with pytest.raises(ValueError, match=found):
        BratsLabelsToWTET()(volume)


@pytest.mark.parametrize("shape", [(2, 3, 3, 3), (3, 3), (1, 1, 3, 3, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        BratsLabelsToWTET()(np.zeros(shape))


@pytest.mark.parametrize("transform", [BratsLabelsToWTETd, BratsLabelsToWTETD, BratsLabelsToWTETDict])
def test_dictionary_form(transform):
    data = {"seg": torch.from_numpy(labels(3))[None], "other": 1}
    result = transform("seg")(data)
    torch.testing.assert_close(result["seg"], BratsLabelsToWTET()(data["seg"]))
    assert result["other"] == 1
    assert data["seg"].shape == (1, 2, 2, 2)
    with pytest.raises(KeyError):
        transform("missing")(data)
    assert transform("missing", allow_missing_keys=True)(data).keys() == data.keys()


def test_real_segmentation(real_data: Path):
    path = real_data / "task1" / "BraTS2021_07294" / "BraTS2021_07294_seg.nii.gz"
    seg = np.asarray(nib.load(path).dataobj)
    wt, et = BratsLabelsToWTET()(torch.from_numpy(seg.astype(np.float32))[None])
    assert int(wt.sum()) == int(np.isin(seg, [1, 2, 4]).sum()) > 0
    assert int(et.sum()) == int((seg == 4).sum())


# Label maps of this project


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_masks_of_a_label_map(dtype):
    label = np.array([[[0, 1], [2, 2]], [[1, 0], [0, 2]]], dtype=dtype)
    for volume in (label, label[None]):
        wt, et = LabelMapToWTET()(volume)
        np.testing.assert_array_equal(wt, [[[0, 1], [1, 1]], [[1, 0], [0, 1]]])
        np.testing.assert_array_equal(et, [[[0, 0], [1, 1]], [[0, 0], [0, 1]]])


def test_a_label_map_comes_from_its_masks_again():
    label = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    masks = LabelMapToWTET()(torch.from_numpy(label))
    assert masks.dtype == torch.uint8
    np.testing.assert_array_equal(label_map(masks.numpy().swapaxes(0, 1)), label)


@pytest.mark.parametrize(("value", "found"), [(3, "3"), (4, "4"), (-1, "-1"), (0.5, "0.5")])
def test_other_values_of_a_label_map_are_named(value, found):
    volume = np.zeros((2, 2, 2))
    volume[0, 0, 0] = value
    with pytest.raises(ValueError, match=f"found .*{found}.*two segments"):
        LabelMapToWTET()(volume)


def test_other_shapes_of_a_label_map_are_refused():
    with pytest.raises(ValueError, match="shape"):
        LabelMapToWTET()(np.zeros((2, 3, 3, 3)))


@pytest.mark.parametrize("transform", [LabelMapToWTETd, LabelMapToWTETD, LabelMapToWTETDict])
def test_dictionary_form_for_label_maps(transform):
    data = {"seg": torch.tensor([[[[0, 1, 2]]]]), "other": 1}
    result = transform("seg")(data)
    torch.testing.assert_close(result["seg"], LabelMapToWTET()(data["seg"]))
    assert result["other"] == 1
    assert transform("missing", allow_missing_keys=True)(data).keys() == data.keys()
