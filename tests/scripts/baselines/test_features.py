"""Features against tumours whose size, shape and grey values are known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from custom_transforms import SliceGeometry
from scripts.baselines.features import NAMES, grey_features, measure, shape_features
from scripts.prepared import PreparedError, PreparedSeries, write_series


def ball(radius, spacing):
    """A ball of this radius in mm in the middle of a grid, as WT, its upper half as ET."""
    sides = [int(2 * radius / step) + 5 for step in spacing]
    axes = [(np.arange(side) - side // 2) * step for side, step in zip(sides, spacing, strict=True)]
    place = np.stack(np.meshgrid(*axes, indexing="ij"))
    inside = (place**2).sum(0) <= radius**2
    return np.stack([inside, inside & (place[0] > 0)], axis=1)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.8, 0.8), (1.5, 1.0, 2.0)])
def test_a_ball(spacing):
    found = shape_features(ball(20.0, spacing), spacing)
    assert found["tumour_ml"] == pytest.approx(4 / 3 * math.pi * 20**3 / 1000, rel=0.03)
    for axis in ("longest", "middle", "shortest"):
        assert found[f"{axis}_axis_mm"] == pytest.approx(40, rel=0.03)
    # faces of voxels along three axes have 1.5 times the area of a ball's surface
    assert found["compactness"] == pytest.approx(1 / 1.5, rel=0.05)
    assert found["parts"] == 1
    assert found["largest_part_share"] == 1
    assert 0.3 < found["enhancing_share"] < 0.5


def test_two_parts_of_which_one_is_three_times_as_large():
    masks = np.zeros((4, 2, 20, 20), bool)
    masks[0, 0, :3, :2] = True
    masks[2, 0, 10:14, 10:13] = masks[3, 0, 10:13, 10:12] = True
    found = shape_features(masks, (5.0, 1.0, 1.0))
    assert (found["parts"], found["largest_part_share"]) == (2, 0.75)
    assert found["slices_with_tumour"] == 3
    assert found["tumour_ml"] == pytest.approx(24 * 5 / 1000)


def test_without_tumour_what_has_no_meaning_is_nan():
    found = shape_features(np.zeros((3, 2, 8, 8), bool), (1.0, 1.0, 1.0))
    assert (found["tumour_ml"], found["slices_with_tumour"]) == (0, 0)
    assert math.isnan(found["compactness"])
    assert math.isnan(found["longest_axis_mm"])


def test_grey_values_of_tumour_and_brain():
    images = np.full((2, 10, 10), 50, np.uint8)
    images[:, :2] = 0  # no brain
    tumour = np.zeros(images.shape, bool)
    tumour[:, 4:8, 4:8] = True
    images[tumour] = 150
    images[0, 4, 4] = 182
    found = grey_features(images, tumour, np.zeros_like(tumour))
    assert found["brain_mean"] == 50
    assert found["tumour_mean"] == pytest.approx(151)
    assert found["tumour_over_brain"] == pytest.approx(151 / 50)
    assert found["brain_entropy"] == 0
    assert found["brain_energy"] == pytest.approx(1)  # one grey level
    assert found["tumour_homogeneity"] < 1
    assert math.isnan(found["enhancing_mean"])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.booleans(), st.integers(0, 2**32 - 1))
def test_turning_a_tumour_changes_no_feature_of_its_shape(quarters, mirrored, seed):
    masks = np.random.default_rng(seed).random((4, 2, 9, 9)) > 0.6
    masks[:, 1] &= masks[:, 0]
    turned = np.rot90(masks, quarters, axes=(2, 3))
    turned = turned[:, :, ::-1] if mirrored else turned
    first, second = (shape_features(one, (3.0, 1.0, 1.0)) for one in (masks, turned))
    assert first == pytest.approx(second, nan_ok=True)


def test_a_series_has_all_features_of_both_models(tmp_path):
    geometry = SliceGeometry(np.diag([1.0, 2.0, 5.0, 1.0]), (8, 6, 3), "axial")
    masks = np.zeros((3, 2, 6, 8), bool)
    masks[1, 0, 2:5, 2:5] = True
    image = np.random.default_rng(0).integers(1, 255, (1, 6, 8), dtype=np.uint8)
    write_series(tmp_path / "a.h5", image, np.array([1]), masks, {}, geometry)
    series = PreparedSeries(tmp_path / "a.h5")
    assert measure(series, "size") == {"log_tumour_ml": pytest.approx(math.log1p(9 * 10 / 1000))}
    found = measure(series, "forest")
    assert set(found) == set(NAMES["forest"])
    assert found["tumour_mean"] == pytest.approx(image[0, 2:5, 2:5].mean())
    write_series(tmp_path / "b.h5", image[:0], np.array([], int), masks, {}, geometry)
    assert measure(PreparedSeries(tmp_path / "b.h5"), "forest") is None
    assert measure(PreparedSeries(tmp_path / "b.h5"), "size") == measure(series, "size")
    write_series(tmp_path / "c.h5", image, np.array([1]), masks, {})
    with pytest.raises(PreparedError, match="geometry"):
        measure(PreparedSeries(tmp_path / "c.h5"), "size")
