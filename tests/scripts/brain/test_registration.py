"""How series of a head lie to each other: motion that is planted is found again."""

import functools

import numpy as np
import pytest

from scripts.brain import RigidTransform, register, registration, resampled
from scripts.brain.grids import canonical, centre
from scripts.errors import UserError
from scripts.synthetic.brains import rotation
from tests.heads import with_skull

pytestmark = pytest.mark.skipif(not registration.is_installed(), reason="SimpleITK is not installed")

MOTIONS = [((5, 0, 0), (0, 0, 8)), ((0, 0, 5), (8, 0, 0)), ((3, -3, 2.6), (4.6, -4.6, 4.6))]
"""Degrees about x, y and z, and mm along them: 5° and 8 mm each."""


def motion(degrees, shift, middle):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(np.array(degrees))
    matrix[:3, 3] = middle + np.array(shift) - matrix[:3, :3] @ middle
    return matrix


def apart(found, planted, mask, affine):
    """Mean distance in mm between where two transforms put the voxels of a brain."""
    return found.apart(RigidTransform(planted, 0, 0), mask, affine)


@pytest.fixture(scope="module")
def heads(patient):
    return {mri_type: with_skull(patient.volumes[mri_type], noise=0.02) for mri_type in ("T1w", "FLAIR")}


@pytest.mark.slow
def test_planted_motion_is_found_between_modalities(heads, patient):
    brain = patient.volumes["T1w"] > 0
    planted = motion(*MOTIONS[2], centre(brain, patient.affine))
    moving = (heads["FLAIR"], planted @ patient.affine)
    found = register(moving, (heads["T1w"], patient.affine))
    assert apart(found, planted, brain, patient.affine) < 0.5
    assert found.angle == pytest.approx(5, abs=0.5)
    aligned = resampled(moving, (heads["T1w"], patient.affine), found)
    assert np.corrcoef(aligned[brain], patient.volumes["FLAIR"][brain])[0, 1] > 0.97


@pytest.mark.slow
def test_the_orientation_of_storage_changes_nothing(heads, patient):
    volume, affine = canonical(heads["FLAIR"], patient.affine)
    found = [
        register((heads["T1w"], patient.affine), one).matrix
        for one in ((heads["FLAIR"], patient.affine), (volume, affine))
    ]
    np.testing.assert_array_equal(*found)


def test_without_simpleitk_the_error_names_the_remedy(monkeypatch):
    monkeypatch.setattr(registration, "is_installed", lambda: False)
    one = (np.zeros((4, 4, 4)), np.eye(4))
    with pytest.raises(UserError, match=r"brats-mri-radiogenomics\[register\]"):
        register(one, one)


def test_depth_is_that_of_scipy():
    """SciPy measures to the nearest voxel on the other side, beyond the border."""
    ndimage = pytest.importorskip("scipy.ndimage")
    mask = np.zeros((20, 18, 8), bool)
    mask[4:15, 3:12, 2:6] = True
    mask[15:18, 5, 3] = True
    sides = (1.0, 0.5, 4.0)
    inside, outside = (ndimage.distance_transform_edt(part, sampling=sides) for part in (mask, ~mask))
    found = registration.depth(mask, np.diag([*sides, 1]))
    np.testing.assert_array_equal(found > 0, mask)
    assert np.corrcoef(found.ravel(), (inside - outside).ravel())[0, 1] > 0.98


@pytest.fixture(scope="module")
def as_it_lies(real_head):
    """A function that finds how a series of the real head lies to another, once."""
    return functools.cache(lambda moving, fixed: register(real_head.series[moving], real_head.series[fixed]).matrix)


@pytest.mark.slow
@pytest.mark.parametrize(("degrees", "shift"), MOTIONS)
@pytest.mark.parametrize(("moving", "fixed"), [("T1w", "T1wCE"), ("T2w", "FLAIR"), ("T1w", "FLAIR")])
def test_motion_planted_in_a_real_case_is_found_to_a_millimetre(real_head, as_it_lies, degrees, shift, moving, fixed):
    """The patient moved as it is; planted motion must come on top of that."""
    volume, affine = real_head.series[moving]
    brain, where = real_head.masks[fixed], real_head.series[fixed][1]
    planted = motion(degrees, shift, centre(brain, where))
    before = as_it_lies(moving, fixed)
    found = register((volume, planted @ affine), real_head.series[fixed])
    assert apart(found, planted @ before, brain, where) < 1


@pytest.mark.slow
def test_motion_planted_in_one_real_series_is_found_to_a_tenth(real_head):
    volume, affine = real_head.series["T1w"]
    brain = real_head.masks["T1w"]
    for degrees, shift in MOTIONS:
        planted = motion(degrees, shift, centre(brain, affine))
        found = register((volume, planted @ affine), (volume, affine))
        assert apart(found, planted, brain, affine) < 0.1
