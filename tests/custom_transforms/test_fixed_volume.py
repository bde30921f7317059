"""8-bit volumes of one size."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from custom_transforms import FixedVolume, FixedVolumed, SeriesError

ndimage = pytest.importorskip("scipy.ndimage", reason="needs the extra [train]")


def diary(stack: np.ndarray, size: tuple[int, int, int], order: int = 3) -> np.ndarray:
    """The recipe, slice by slice, as (rows, columns, slices); SciPy writes uint8 itself."""
    slices = [(plane / plane.max() * 255).astype(np.uint8) for plane in stack.astype(np.float64) if plane.max() > 0]
    volume = np.stack(slices, axis=-1)
    return ndimage.zoom(volume, [new / old for new, old in zip(size, volume.shape, strict=True)], order=order)


def stack_of(n: int, rows: int, columns: int, seed: int = 3) -> np.ndarray:
    """Hard edges, at which a cubic spline overshoots; the first and the last slice are empty."""
    stack = np.random.default_rng(seed).choice([0, 0, 400, 1000], (n, rows, columns)).astype(np.float32)
    stack[[0, -1]] = 0
    stack[1:-1, 0, 0] = 1000 + np.arange(n - 2)
    return stack


@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_recipe(order):
    stack = stack_of(9, 20, 24)
    found = FixedVolume((32, 48, 16), order)(stack)
    assert found.shape == (16, 32, 48)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found.transpose(1, 2, 0), diary(stack, (32, 48, 16), order))


def test_overshoot_is_cut_and_does_not_wrap():
    stack = np.zeros((4, 8, 8))
    stack[:, 2:6, 2:6] = 1
    found = FixedVolume((32, 32, 4))(stack)
    # in float, without a limit, the spline leaves 0…255 on both sides of the edge
    free = ndimage.zoom(stack * 255.0, (1, 4, 4), order=3)
    assert free.max() > 260
    assert free.min() < -5
    assert (found[free > 256] == 255).all()
    assert (found[free < -1] == 0).all()


def test_each_slice_has_a_maximum_of_its_own_and_empty_ones_are_left_out():
    stack = np.zeros((4, 3, 3))
    stack[1, 1, 1], stack[3, 0, 2] = 10, 7000
    stack[2] = -5
    stack[1, 0, 0] = -3
    found = FixedVolume((3, 3, 2))(stack)
    np.testing.assert_array_equal(found[0], [[0, 0, 0], [0, 255, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found[1], [[0, 0, 255], [0, 0, 0], [0, 0, 0]])


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    size=st.tuples(*[st.integers(1, 12)] * 3),
    order=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_any_stack_gets_the_size(shape, size, order, seed):
    stack = np.random.default_rng(seed).integers(1, 4000, shape).astype(np.int16)
    found = FixedVolume(size, order)(stack)
    assert found.shape == (size[2], size[0], size[1])
    assert found.dtype == np.uint8


@pytest.mark.slow
def test_tensors_stay_tensors_and_the_default_size():
    stack = stack_of(6, 10, 10)
    found = FixedVolume()(torch.from_numpy(stack))
    assert type(found) is torch.Tensor
    assert type(FixedVolume()(MetaTensor(stack))) is torch.Tensor
    assert found.dtype == torch.uint8
    assert found.shape == (32, 128, 128)
    np.testing.assert_array_equal(found.numpy(), FixedVolume()(stack))


def test_what_is_refused():
    with pytest.raises(SeriesError, match="none of the 3 slices has a value above 0"):
        FixedVolume()(np.zeros((3, 4, 4)))
    with pytest.raises(SeriesError, match="none of the 0 slices"):
        FixedVolume()(np.zeros((0, 4, 4)))
    with pytest.raises(ValueError, match=r"\(N, H, W\), got shape \(1, 3, 4, 4\)"):
        FixedVolume()(np.ones((1, 3, 4, 4)))
    with pytest.raises(ValueError, match="not finite"):
        FixedVolume()(np.full((3, 4, 4), np.nan))
    for size in ((128, 128), (128, 128, 0), (128, 128, 31.5)):
        with pytest.raises(ValueError, match="three whole numbers"):
            FixedVolume(size)
    with pytest.raises(ValueError, match="from 0 to 5, got 6"):
        FixedVolume(order=6)


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r"SciPy: pip install '\.\[train\]'"):
        FixedVolume()(np.ones((3, 4, 4)))


def test_dictionary_form():
    data = {"a": stack_of(6, 10, 10), "b": stack_of(5, 8, 9), "c": "untouched"}
    done = FixedVolumed(["a", "b", "missing"], size=(6, 5, 4), order=1, allow_missing_keys=True)(data)
    for key in "ab":
        np.testing.assert_array_equal(done[key], FixedVolume((6, 5, 4), 1)(data[key]))
    assert done["c"] == "untouched"
    assert data["a"].shape == (6, 10, 10)
