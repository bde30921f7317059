"""The slices about the largest one, as the challenge's winner takes them."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from custom_transforms import CentralSlices, CentralSlicesd
from custom_transforms.central_slices import file_order, largest_slice


def published(images, count, size):
    """The winner's own steps, in plain loops: slices of 0…1."""
    areas = []
    for image in images:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        areas.append((rows[-1] - rows[0]) * (columns[-1] - columns[0]) if len(rows) else 0)
    middle = int(np.argmax(areas))
    found = []
    for image in images[max(0, middle - count // 2) : min(len(images), middle + count // 2)]:
        resized = cv2.resize(image, (size, size))
        resized = resized - resized.min()
        found.append(resized / resized.max() if resized.max() > 0 else resized)
    return np.stack(found)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_as_published_to_the_rounding(n, half, seed):
    rng = np.random.default_rng(seed)
    stack = rng.uniform(0, 900, (n, 14, 11)).astype(np.float32)
    for image in stack:  # each with a box of its own, some empty
        image[: rng.integers(0, 14)] = 0
        image[:, : rng.integers(0, 12)] = 0
    found = CentralSlices(slices=2 * half, image_size=9)(torch.from_numpy(stack))
    expected = published(stack, 2 * half, 9)
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    assert np.abs(found / 255 - expected).max() <= 0.5 / 255 + 1e-6


def test_the_largest_slice_goes_by_its_box_not_by_its_pixels():
    stack = np.zeros((3, 10, 10))
    stack[0, 2:8, 2:8] = 1
    stack[1, 0, 0] = stack[1, 9, 9] = 1  # two pixels far apart
    assert largest_slice(stack) == 1


def test_order_of_files_and_of_space():
    stack = torch.zeros((4, 8, 8))
    for place in range(4):
        stack[place, 0, 0] = stack[place, 7, 7] = 1
        stack[place, place + 1, 3] = 1  # which slice it is
    names = ["Image-11.dcm", "Image-2.dcm", "Image-30.dcm", "Image-4.dcm"]
    by_place = CentralSlicesd("image", 2, 8)({"image": stack})["image"]
    by_file = CentralSlicesd("image", 2, 8, order="files")({"image": stack, "slice_files": names})["image"]
    # the first of the largest slices begins the second half, so one alone is left
    assert [int(image[1:5, 3].argmax()) for image in by_place] == [0]
    assert [int(image[1:5, 3].argmax()) for image in by_file] == [1]
    assert file_order(names, 4) == [1, 3, 0, 2]
    assert file_order(["a", "Image-2.dcm"], 2) == [0, 1]
    assert file_order([], 3) == [0, 1, 2]


@pytest.mark.parametrize("options", [{"slices": 3}, {"slices": 0}])
def test_odd_numbers_of_slices_are_refused(options):
    with pytest.raises(ValueError, match="even number"):
        CentralSlices(**options)


def test_an_unknown_order_and_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="position, files"):
        CentralSlicesd("image", order="time")
    with pytest.raises(ValueError, match="stack of slices"):
        CentralSlices()(np.zeros((0, 4, 4)))
