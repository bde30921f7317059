import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("nilearn", reason="synthetic brains need the extra [phantom]")

from scripts.synthetic.brains import (
    CHANNELS,
    LABEL_VALUES,
    MARGIN,
    RandomFields,
    SliceFields,
    average_brain,
    label_map_brains,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("normal", [0, 1, 2])
def test_fields_of_a_slice_are_those_of_the_volume(normal):
    axes = [np.arange(20.0) - 10, np.arange(12.0) * 3, np.arange(30.0) * 2]
    whole = RandomFields(np.random.default_rng(1), axes).draw(9)
    axes[normal] = axes[normal][4:6]
    slab = SliceFields(np.random.default_rng(1), axes, normal).draw(9)
    np.testing.assert_allclose(slab, whole.take([4, 5], axis=normal), atol=2e-6)
    assert slab.dtype == np.float32


def test_average_brain_has_what_a_brain_has():
    brain = average_brain()
    grey, white, _, depth, ventricle, from_ventricles, folds = brain.channels.numpy()
    assert len(brain.channels) == len(CHANNELS)
    assert 1000 < (depth > 0).sum() * brain.step.prod() / 1000 < 2200, "ml"
    assert 10 < (ventricle > 0.5).sum() * brain.step.prod() / 1000 < 60, "ml"
    assert (grey[depth < 0] == 0).all()
    assert (white[depth < 0] == 0).all()
    assert depth.min() <= -MARGIN + 1
    assert depth[ventricle > 0.9].min() > 5, "ventricles are inside of the brain"
    assert (from_ventricles[ventricle > 0.5] == 0).all()
    middle = tuple(n // 2 for n in folds.shape)
    assert folds[middle] < 0.1 < folds.max(), "folds are at the surface"
    mirrored = np.abs(brain.channels[0] - brain.channels[0].flip(0)).mean()
    assert mirrored < 0.05, "x runs from side to side"
    assert np.abs(brain.sites[:, 0]).max() < brain.extent[0]


def test_sampling_finds_the_voxels_again():
    brain = average_brain()
    voxel = np.array([60, 100, 90])
    point = (voxel * brain.step + brain.origin).astype(np.float32)
    found = brain.sample(point[:, None, None, None])[:, 0, 0, 0]
    np.testing.assert_allclose(found, brain.channels[(slice(None), *voxel)], atol=1e-3)


# Label maps


def test_label_maps_become_brains(tmp_path, write_label_map):
    labels = write_label_map(tmp_path)
    write_label_map(tmp_path, "another.nii")
    brains = label_map_brains(tmp_path)
    assert len(brains) == 2
    grey, white, _, depth, ventricle, *_ = brains[0].channels.numpy()
    volume = 3.0**3
    for tissue, value in ((grey, 3), (white, 2), (ventricle, 4)):
        assert tissue.sum() * volume == pytest.approx((labels == value).sum() * volume, rel=0.02)
    assert depth.max() == pytest.approx(66, abs=5), "mm under the surface"


def test_label_map_of_another_orientation_is_the_same_brain(tmp_path, write_label_map):
    def mark(labels):
        labels[30:36, 40:45, 30:34] = 251

    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    write_label_map(tmp_path / "first", change=mark)
    image = nib.load(tmp_path / "first" / "brain.nii.gz")
    turned = image.as_reoriented(nib.orientations.axcodes2ornt(("S", "R", "P")))
    nib.save(nib.Nifti1Image(np.asarray(turned.dataobj), turned.affine), tmp_path / "second" / "brain.nii.gz")
    first, second = (label_map_brains(tmp_path / name)[0] for name in ("first", "second"))
    np.testing.assert_allclose(first.channels, second.channels, atol=1e-4)


def test_own_label_values(tmp_path, write_label_map):
    def renumber(labels):
        labels[labels == 3] = 100

    write_label_map(tmp_path, change=renumber)
    with pytest.raises(ValueError, match=r"brain\.nii\.gz: values \[100\] belong to no tissue"):
        label_map_brains(tmp_path)
    values = {**LABEL_VALUES, "grey": [100]}
    assert label_map_brains(tmp_path, values)[0].channels[0].max() > 0.9


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grey": [3]}, "expected grey, white, csf, ventricles, background"),
        ({**LABEL_VALUES, "ventricles": [], "csf": [24, 4]}, ": no ventricles"),
    ],
)
def test_label_values_that_cannot_be_used(tmp_path, write_label_map, values, message):
    write_label_map(tmp_path)
    with pytest.raises(ValueError, match=message):
        label_map_brains(tmp_path, values)


def test_folder_without_label_maps(tmp_path):
    with pytest.raises(ValueError, match="no label map"):
        label_map_brains(tmp_path)
