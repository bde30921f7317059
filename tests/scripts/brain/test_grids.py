"""Masks on grids, against SciPy."""

import numpy as np
import pytest

from scripts.brain.grids import (
    as_stored,
    canonical,
    carried,
    centre,
    dice,
    filled,
    largest_piece,
    millilitres,
    pieces,
    same_grid,
)

ndimage = pytest.importorskip("scipy.ndimage")
OBLIQUE = np.array([[0.1, 0.0, 3.0, -10], [-0.9, 0.1, 0.3, 20], [0.05, 0.85, 0.4, 5], [0, 0, 0, 1.0]])


@pytest.fixture(params=[0.3, 0.6, 0.9])
def mask(request):
    return np.random.default_rng(1).random((17, 12, 9)) < request.param


def test_pieces_are_those_of_scipy(mask):
    labels, count = ndimage.label(mask)
    found = pieces(mask)
    assert len(np.unique(found)) == count + 1
    assert len(np.unique(np.column_stack([found[mask], labels[mask]]), axis=0)) == count
    sizes = np.bincount(labels.ravel())[1:]
    assert largest_piece(mask).sum() == sizes.max()
    np.testing.assert_array_equal(filled(mask), ndimage.binary_fill_holes(mask))


def test_an_empty_mask_stays_empty():
    empty = np.zeros((4, 5, 6), bool)
    assert not largest_piece(empty).any()
    assert not filled(empty).any()
    assert dice(empty, empty) == 1


def test_canonical_axes_point_right_forward_and_up():
    volume = np.arange(60.0).reshape(3, 4, 5)
    turned, affine = canonical(volume, OBLIQUE)
    assert (np.abs(affine[:3, :3]).argmax(0) == [0, 1, 2]).all()
    assert (affine[:3, :3].diagonal() > 0).all()
    np.testing.assert_array_equal(as_stored(turned, OBLIQUE), volume)
    bright = np.argwhere(turned == 42)[0], np.argwhere(volume == 42)[0]
    np.testing.assert_allclose(affine @ [*bright[0], 1], OBLIQUE @ [*bright[1], 1])


def test_carried_values_are_those_of_scipy():
    rng = np.random.default_rng(0)
    values = rng.random((9, 8, 7)).astype("f4")
    affine, to = OBLIQUE, OBLIQUE @ np.diag([0.7, 0.8, 0.6, 1])
    to[:3, 3] += [1.0, -2, 0.5]
    moved = np.eye(4)
    moved[:3, 3] = 0.3
    found = carried(values, affine, (10, 9, 11), to, moved)
    matrix = np.linalg.inv(affine) @ moved @ to
    expected = ndimage.affine_transform(
        values, matrix[:3, :3], matrix[:3, 3], (10, 9, 11), order=1, mode="nearest"
    )  # fmt: skip
    covered = ~np.isnan(found)
    np.testing.assert_allclose(found[covered], expected[covered], atol=1e-4)
    index = np.stack(np.meshgrid(*map(np.arange, (10, 9, 11)), indexing="ij"), -1) @ matrix[:3, :3].T + matrix[:3, 3]
    inside = ((index > -0.49) & (index < np.array(values.shape) - 0.51)).all(-1)
    outside = ((index < -0.51) | (index > np.array(values.shape) - 0.49)).any(-1)
    assert covered[inside].all()
    assert not covered[outside].any()


def test_volume_middle_and_sameness_of_grids():
    mask = np.zeros((6, 6, 6), bool)
    mask[1:3, 2:4, 3:5] = True
    affine = np.diag([2.0, 3, 5, 1])
    assert millilitres(mask, affine) == pytest.approx(8 * 30 / 1000)
    np.testing.assert_allclose(centre(mask, affine), [3, 7.5, 17.5])
    assert same_grid((6, 6, 6), affine, (6, 6, 6), affine + 1e-4)
    assert not same_grid((6, 6, 6), affine, (6, 6, 5), affine)
    shifted = affine.copy()
    shifted[0, 3] = 1
    assert not same_grid((6, 6, 6), affine, (6, 6, 6), shifted)
