import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.data import MetaTensor

from custom_transforms import ScaleToUint8, ScaleToUint8d, grey_window

volumes = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=4, max_side=6),
    elements=st.floats(-1e4, 1e4, width=32),
)


@settings(deadline=None, max_examples=60)
@given(volumes)
def test_equals_the_plain_formula(volume):
    low, high = float(volume.min()), float(volume.max())
    expected = np.zeros(volume.shape, np.uint8)
    if high > low:
        for index, value in np.ndenumerate(volume):
            expected[index] = int((float(value) - low) / (high - low) * 255.0)
    np.testing.assert_array_equal(ScaleToUint8()(volume), expected)


@settings(deadline=None, max_examples=60)
@given(volumes)
def test_keeps_order_and_reaches_both_ends(volume):
    scaled = ScaleToUint8()(volume)
    order = np.argsort(volume, axis=None)
    assert (np.diff(scaled.ravel()[order].astype(int)) >= 0).all()
    if volume.max() > volume.min():
        assert scaled.min() == 0
        assert scaled.max() == 255


def test_whole_numbers_of_a_full_range_stay_as_they_are():
    volume = np.arange(256, dtype=np.int16).reshape(4, 8, 8)
    np.testing.assert_array_equal(ScaleToUint8()(volume), volume.astype(np.uint8))


def test_type_in_is_type_out_and_the_affine_stays():
    values = torch.linspace(-3, 9, 24).reshape(1, 2, 3, 4)
    affine = torch.diag(torch.tensor([2.0, 2.0, 5.0, 1.0], dtype=torch.float64))
    plain = ScaleToUint8()(values)
    meta = ScaleToUint8()(MetaTensor(values, affine=affine))
    assert type(plain) is torch.Tensor
    assert plain.dtype == torch.uint8
    assert isinstance(meta, MetaTensor)
    assert torch.equal(meta.affine, affine)
    assert torch.equal(meta.as_tensor(), plain)
    np.testing.assert_array_equal(ScaleToUint8()(values.numpy()), plain.numpy())


@pytest.mark.parametrize("shape", [(0, 5, 5), (3, 4)])
def test_empty_and_constant_arrays_become_zero(shape):
    scaled = ScaleToUint8()(np.full(shape, 7.0))
    assert scaled.shape == shape
    assert not scaled.any()


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        ScaleToUint8()(np.array([0.0, np.nan]))


def test_dictionary_form_scales_each_key_by_itself():
    data = {"a": np.array([0.0, 1.0]), "b": np.array([5.0, 10.0, 15.0]), "c": "untouched"}
    scaled = ScaleToUint8d(keys=["a", "b"])(data)
    np.testing.assert_array_equal(scaled["a"], [0, 255])
    np.testing.assert_array_equal(scaled["b"], [0, 127, 255])
    assert scaled["c"] == "untouched"
    assert data["a"][1] == 1.0


@settings(deadline=None, max_examples=100)
@given(
    hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=12),
        elements=st.integers(0, 20) | st.integers(0, 255),
    )
)
def test_window_is_from_the_background_to_the_percentile_of_the_rest(volume):
    black, white = grey_window(volume)
    assert (black, white) == grey_window(torch.from_numpy(volume)) == grey_window(volume.astype(np.float32))
    assert 0 <= black < white <= 255
    levels, counts = np.unique(volume, return_counts=True)
    most = levels[counts.argmax()]
    if most < 128 and counts.max() >= 0.1 * volume.size:
        if most == levels[-1]:
            assert (black, white) == (0, 255), "nothing is brighter than the background"
            return
        assert black == most
    else:
        assert black == 0
    above = volume[volume > black]
    # the least grey value that so many per cent of the others do not exceed
    assert (above <= white).mean() >= 0.995
    assert white == black + 1 or (above <= white - 1).mean() < 0.995


def test_window_passes_over_a_few_bright_voxels():
    volume = np.zeros((100, 100), np.uint8)
    volume[:50] = 80
    volume[0, :20] = 255
    assert grey_window(volume) == (0, 80)
    volume[0, :30] = 255
    assert grey_window(volume) == (0, 255)


def test_background_that_resampling_left_above_the_minimum_is_black():
    volume = np.zeros((40, 40, 40), np.float32)
    volume[10:30, 10:30, 10:30] = np.linspace(300, 700, 8000).reshape(20, 20, 20)
    volume[10, 10, 10] = -100  # an overshoot beside an edge
    black, white = grey_window(ScaleToUint8()(volume))
    assert black == int(100 / 800 * 255)
    assert white == pytest.approx((0.995 * 400 + 300 + 100) / 800 * 255, abs=1)


def test_a_stack_without_background_begins_at_0():
    assert grey_window(np.arange(256, dtype=np.uint8).repeat(10)) == (0, 254)
