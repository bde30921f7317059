from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor

from custom_transforms import (
    ContourCountFilter,
    ContourCountFilterD,
    ContourCountFilterd,
    ContourCountFilterDict,
    ForegroundFilter,
    ForegroundFilterD,
    ForegroundFilterd,
    ForegroundFilterDict,
    SeriesReader,
    TumorRatioFilter,
    TumorRatioFilterD,
    TumorRatioFilterd,
    TumorRatioFilterDict,
)

MEASURES = ("largest_contour", "brain_area", "image_area")
SMALL_STACK = arrays(np.bool_, st.tuples(st.just(3), st.integers(1, 9), st.integers(1, 9)))


def contours_of_the_method(region: np.ndarray) -> list[np.ndarray]:
    return list(cv2.findContours(region.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)[0])


def largest_contour_of_the_method(region: np.ndarray) -> float:
    return max([cv2.contourArea(contour) for contour in contours_of_the_method(region)], default=0.0)


def boxes(*corners: tuple[int, int, int, int], size: int = 20) -> np.ndarray:
    mask = np.zeros((size, size), dtype=np.uint8)
    for top, left, bottom, right in corners:
        mask[top:bottom, left:right] = 1
    return mask


# --- foreground -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pixels", "kept"), [(0, False), (39, False), (40, False), (41, True), (400, True)])
def test_foreground_is_strict(pixels, kept):
    image = np.zeros((1, 20, 20), dtype=np.uint8)
    image.reshape(-1)[:pixels] = 7
    assert ForegroundFilter(0.1)(image).tolist() == [kept]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_foreground_types(dtype):
    image = np.stack([boxes(), boxes((0, 0, 10, 10))]).astype(dtype)
    for given_image in (torch.from_numpy(image), MetaTensor(torch.from_numpy(image))):
        keep = ForegroundFilter()(given_image)
        assert type(keep) is torch.Tensor
        assert keep.dtype == torch.bool
        assert keep.tolist() == [False, True]
    keep = ForegroundFilter()(image)
    assert isinstance(keep, np.ndarray)
    assert keep.dtype == bool
    assert ForegroundFilter()(-image.astype(np.int32)).tolist() == [False, False]


@pytest.mark.parametrize("empty", [np.zeros((0, 4, 4)), torch.zeros(0, 4, 4)])
def test_empty_stacks(empty):
    for keep in (
        ForegroundFilter()(empty),
        TumorRatioFilter()(empty, empty),
        TumorRatioFilter(-1)(empty, empty),
        ContourCountFilter()(empty),
    ):
        assert type(keep) is type(empty)
        assert keep.shape == (0,)
        assert keep.dtype in (bool, torch.bool)


# --- tumour ratio -----------------------------------------------------------------------------------------------------


def test_areas_counted_by_hand():
    image = boxes((0, 0, 20, 20)) * 200
    mask = boxes((2, 2, 7, 7), (10, 10, 13, 13))
    # contourArea goes through pixel centres: 4 x 4 of 19 x 19; pixels: 25 + 9 of 400.
    for measure, ratio in (("largest_contour", 16 / 361), ("brain_area", 34 / 400), ("image_area", 34 / 400)):
        assert TumorRatioFilter(ratio - 1e-9, measure)(image[None], mask[None]).tolist() == [True]
        assert TumorRatioFilter(ratio, measure)(image[None], mask[None]).tolist() == [False]


def test_brain_is_above_one():
    image, mask = boxes((0, 0, 20, 20)), boxes((5, 5, 10, 10))
    image[:10] = 2
    assert TumorRatioFilter(24.9 / 200, "brain_area")(image[None], mask[None]).tolist() == [True]
    assert TumorRatioFilter(25 / 200, "brain_area")(image[None], mask[None]).tolist() == [False]
    assert TumorRatioFilter(16.1 / (9 * 19))(image[None], mask[None]).tolist() == [False]
    assert TumorRatioFilter(15.9 / (9 * 19))(image[None], mask[None]).tolist() == [True]


@pytest.mark.parametrize("measure", MEASURES)
def test_black_slices_and_slices_without_tumour(measure):
    black, bright = boxes(), boxes((0, 0, 20, 20)) * 9
    image = np.stack([black, black, bright, bright])
    mask = np.stack([boxes(), boxes((1, 1, 9, 9)), boxes(), boxes((1, 1, 9, 9))])
    without_brain = measure == "image_area"
    assert TumorRatioFilter(0, measure)(image, mask).tolist() == [False, without_brain, False, True]
    assert TumorRatioFilter(-1, measure)(image, mask).tolist() == [True] * 4


@pytest.mark.slow
@given(image=SMALL_STACK, data=st.data(), ratio=st.sampled_from([0.0, 0.025, 0.2, 0.5]))
@settings(max_examples=150, deadline=None)
def test_largest_contour_equals_the_method(image, data, ratio):
    mask = data.draw(arrays(np.bool_, image.shape))
    expected = []
    for one, tumor in zip(image, mask, strict=True):
        brain = largest_contour_of_the_method(one)
        expected.append(brain > 0 and largest_contour_of_the_method(tumor) / brain > ratio)
    assert TumorRatioFilter(ratio)(image.astype(np.uint8) * 255, mask).tolist() == expected


@pytest.mark.parametrize("scale", [1, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_masks_of_any_dtype(dtype, scale):
    image = np.stack([boxes((0, 0, 20, 20)) * 100] * 2)
    mask = np.stack([boxes(), boxes((1, 1, 9, 9))]).astype(dtype) * dtype(scale)
    keep = TumorRatioFilter()(torch.from_numpy(image), torch.from_numpy(mask))
    assert isinstance(keep, torch.Tensor)
    assert keep.tolist() == [False, True]
    assert TumorRatioFilter()(image, mask.astype(bool)).tolist() == [False, True]
    assert TumorRatioFilter()(image, mask.astype(bool) * np.float32(0.5)).tolist() == [False, False]


def test_ratio_refuses_what_it_cannot_use():
    image = np.zeros((2, 4, 4))
    with pytest.raises(ValueError, match=r"\(2, 4, 4\) and \(1, 4, 4\)"):
        TumorRatioFilter()(image, image[:1])
    with pytest.raises(ValueError, match="N, H, W"):
        TumorRatioFilter()(image[0], image[0])
    with pytest.raises(ValueError, match="volume"):
        TumorRatioFilter(0.1, "volume")


# --- contour count ----------------------------------------------------------------------------------------------------


def test_counts_by_hand():
    five = [(1, 1, 3, 3), (1, 5, 3, 7), (1, 9, 3, 11), (1, 13, 3, 15), (1, 17, 3, 19)]
    ring = boxes((1, 1, 10, 10))
    ring[4:7, 4:7] = 0
    masks = np.stack([boxes(), boxes(*five[:1]), boxes(*five), boxes(*five, (10, 10, 12, 12)), ring])
    assert ContourCountFilter(5)(masks).tolist() == [False, True, True, False, True]
    assert ContourCountFilter(2)(masks[4:]).tolist() == [True]
    # The hole counts.
    assert ContourCountFilter(1)(masks[4:]).tolist() == [False]


@given(masks=SMALL_STACK, most=st.integers(0, 6))
@settings(max_examples=150, deadline=None)
def test_count_equals_the_method(masks, most):
    expected = [1 <= len(contours_of_the_method(mask)) <= most for mask in masks]
    assert ContourCountFilter(most)(torch.from_numpy(masks)).tolist() == expected


# --- dictionary forms -------------------------------------------------------------------------------------------------


def stacks() -> dict:
    return {
        "image": np.stack([boxes((0, 0, 20, 20)) * 50] * 3),
        "wt": torch.from_numpy(np.stack([boxes(), boxes((1, 1, 9, 9)), boxes((2, 2, 4, 4), (8, 8, 10, 10))])),
        "et": MetaTensor(torch.zeros(3, 20, 20)),
        "positions": np.array([1.0, 2.0, 3.0]),
        "short": np.zeros((2, 20, 20)),
    }


KEYS = ("image", "wt", "et", "positions")


@pytest.mark.parametrize("transform", [TumorRatioFilterd, TumorRatioFilterD, TumorRatioFilterDict])
def test_ratio_dictionary_form(transform):
    result = transform(KEYS)(stacks())
    assert [len(result[key]) for key in KEYS] == [1, 1, 1, 1]
    assert result["positions"].tolist() == [2.0]
    assert isinstance(result["image"], np.ndarray)
    assert type(result["wt"]) is type(result["et"]) is torch.Tensor
    assert len(transform(KEYS, min_ratio=-1)(stacks())["positions"]) == 3
    assert transform("positions", min_ratio=0.09, measure="brain_area")(stacks())["positions"].tolist() == [2.0]
    assert transform("positions", min_ratio=0.01, measure="brain_area")(stacks())["positions"].tolist() == [2.0, 3.0]


@pytest.mark.parametrize("transform", [ContourCountFilterd, ContourCountFilterD, ContourCountFilterDict])
def test_count_dictionary_form(transform):
    assert transform(KEYS)(stacks())["positions"].tolist() == [2.0, 3.0]
    result = transform(("image", "positions"), mask_key="wt", max_contours=1)(stacks())
    assert result["positions"].tolist() == [2.0]
    assert len(result["wt"]) == 3


@pytest.mark.parametrize("transform", [ForegroundFilterd, ForegroundFilterD, ForegroundFilterDict])
def test_foreground_dictionary_form(transform):
    data = {**stacks(), "other": stacks()["wt"]}
    result = transform(("image", "positions"), image_key="other", min_foreground=0.1)(data)
    assert result["positions"].tolist() == [2.0]
    assert len(result["image"]) == 1
    assert len(data["image"]) == 3


@pytest.mark.parametrize("transform", [TumorRatioFilterd, ContourCountFilterd, ForegroundFilterd])
def test_stacks_of_another_length_are_refused(transform):
    with pytest.raises(ValueError, match=r"'short' has 2 slices.*among 3"):
        transform(("image", "short"))(stacks())


# --- real -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_slices(real_data: Path):
    reader = SeriesReader()
    folder = real_data / "task1" / "BraTS2021_07294"
    flair, _ = reader.get_data(folder / "BraTS2021_07294_flair.nii.gz")
    seg, _ = reader.get_data(folder / "BraTS2021_07294_seg.nii.gz")
    image = np.rint(flair / flair.max() * 255).astype(np.uint8).transpose(2, 0, 1)
    mask = (seg > 0).transpose(2, 0, 1)
    ratios, counts = [], []
    for one, tumor in zip(image, mask, strict=True):
        brain = largest_contour_of_the_method(one > 1)
        ratios.append(largest_contour_of_the_method(tumor) / brain if brain > 0 else 0)
        counts.append(len(contours_of_the_method(tumor)))
    keep = TumorRatioFilter()(image, mask)
    assert keep.tolist() == [ratio > 0.025 for ratio in ratios]
    assert 10 < keep.sum() < 155
    keep = ContourCountFilter()(mask)
    assert keep.tolist() == [1 <= count <= 5 for count in counts]
    assert 10 < keep.sum() < 155
    keep = ForegroundFilter()(image)
    assert keep.tolist() == [float((one > 0).mean()) > 0.1 for one in image]
    assert 50 < keep.sum() < 155
