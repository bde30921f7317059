"""Pictures of the report."""

import numpy as np
import pytest

from custom_transforms import SliceGeometry
from scripts.prepared import PreparedSeries, write_series
from scripts.report import viewer


@pytest.mark.parametrize(
    ("plane", "letters"),
    [
        ("axial", {"left": "R", "right": "L", "top": "A", "bottom": "P"}),
        ("coronal", {"left": "R", "right": "L", "top": "S", "bottom": "I"}),
        ("sagittal", {"left": "A", "right": "P", "top": "S", "bottom": "I"}),
    ],
)
@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, -1, 1, 1]), np.diag([1.0, -1, -1, 1])])
def test_letters_of_the_planes(plane, letters, affine):
    geometry = SliceGeometry.from_affine(affine, (4, 5, 6), plane)
    assert viewer.orientation_letters(geometry.stack_affine) == letters


def test_slices_keep_the_shape_they_have_in_the_patient(tmp_path):
    affine = np.diag([-1.0, -2.0, 5.0, 1.0])  # rows twice as far apart as columns
    geometry = SliceGeometry.from_affine(affine, (40, 30, 3))
    image = np.full((3, 30, 40), 200, np.uint8)
    write_series(tmp_path / "a.h5", image, np.arange(3), np.zeros((3, 2, 30, 40), bool), {}, geometry)
    view = viewer.series_sheets(PreparedSeries(tmp_path / "a.h5"))
    assert view["tile"] == [40, 60]
    assert view["wt_sheet"] is None


def test_sheets_stay_within_their_bytes(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 200, 200), dtype=np.uint8)
    write_series(tmp_path / "a.h5", image, np.arange(40), np.zeros((40, 2, 200, 200), bool), {})
    view = viewer.series_sheets(PreparedSeries(tmp_path / "a.h5"), most_bytes=200_000)
    assert len(view["image"]) <= 200_000
    assert view["tile"][0] < 192
