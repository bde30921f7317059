from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_transforms import ConcatMaskChannels, ConcatMaskChannelsD, ConcatMaskChannelsd, ConcatMaskChannelsDict

RNG = np.random.default_rng(67)
IMAGE = RNG.integers(0, 256, (4, 5, 6)).astype(np.uint8)
WT = RNG.integers(0, 2, IMAGE.shape).astype(bool)
ET = WT & (IMAGE > 100)
EXPECTED = np.stack([IMAGE, np.where(WT, 255, 0), np.where(ET, 255, 0)], axis=1)


@pytest.mark.parametrize("image_dtype", [np.uint8, np.int32, np.float32])
@pytest.mark.parametrize("mask_dtype", [bool, np.uint8, np.int64, np.float32])
def test_channels(image_dtype, mask_dtype):
    slices = ConcatMaskChannels()(IMAGE.astype(image_dtype), WT.astype(mask_dtype), ET.astype(mask_dtype))
    assert isinstance(slices, np.ndarray)
    assert slices.dtype == np.uint8
    np.testing.assert_array_equal(slices, EXPECTED)


def test_masks_of_255_and_probabilities():
    image = torch.from_numpy(IMAGE)
    slices = ConcatMaskChannels()(image, torch.from_numpy(WT).to(torch.uint8) * 255, torch.from_numpy(ET) * 0.7)
    assert type(slices) is torch.Tensor
    np.testing.assert_array_equal(slices.numpy(), EXPECTED)
    half = ConcatMaskChannels()(image, torch.full(image.shape, 0.5), torch.full(image.shape, 0.4))
    assert not half[:, 1:].any()


def test_metatensor_gives_a_plain_tensor():
    slices = ConcatMaskChannels()(MetaTensor(torch.from_numpy(IMAGE)), MetaTensor(torch.from_numpy(WT)), ET)
    assert type(slices) is torch.Tensor
    np.testing.assert_array_equal(slices.numpy(), EXPECTED)


def test_empty_stack():
    empty = np.zeros((0, 5, 6), dtype=np.float32)
    assert ConcatMaskChannels()(empty, empty, empty).shape == (0, 3, 5, 6)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(4, 5, 6\).*\(3, 5, 6\)"):
        ConcatMaskChannels()(IMAGE, WT[:3], ET)
    with pytest.raises(ValueError, match="N, H, W"):
        ConcatMaskChannels()(IMAGE[0], WT[0], ET[0])


@pytest.mark.parametrize("scale", [1 / 255, 2, -1, np.nan])
def test_images_must_be_grey_values(scale):
    with pytest.raises(ValueError, match="0…255"):
        ConcatMaskChannels()(IMAGE.astype(np.float32) * scale, WT, ET)


@pytest.mark.parametrize("transform", [ConcatMaskChannelsd, ConcatMaskChannelsD, ConcatMaskChannelsDict])
def test_dictionary_form(transform):
    data = {"image": IMAGE, "wt": WT, "et": ET}
    np.testing.assert_array_equal(transform()(data)["image"], EXPECTED)
    assert data["image"] is IMAGE
    renamed = {"flair": IMAGE, "whole": WT, "core": ET}
    result = transform("flair", "whole", "core", "slices")(renamed)
    np.testing.assert_array_equal(result["slices"], EXPECTED)
    assert result["flair"] is IMAGE
