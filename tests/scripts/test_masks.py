"""What WT and ET are, and label maps."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged

from custom_transforms import AcquisitionSlicesd, SeriesReader, SliceGeometry
from scripts import masks, volumes
from scripts.prepared import PreparedSeries
from tests.scripts.cohorts import add_error, write_prepared

TURN = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
AFFINES = {
    "RAS": np.diag([1.0, 1, 1, 1]),
    "LPS, as DICOM": nib.affines.from_matvec(np.diag([-0.5, -0.5, 5.0]), [90, 110, -40]),
    "BraTS": nib.affines.from_matvec(np.diag([-1.0, -1, 1]), [0, 239, 0]),
    "flipped": nib.affines.from_matvec(np.diag([1.0, -2, -3]), [-5, 6, 7]),
    "axes changed": nib.affines.from_matvec(np.array([[0, 0, 4.0], [1, 0, 0], [0, -1, 0]]), [1, 2, 3]),
    "coronal": nib.affines.from_matvec(np.array([[-1.0, 0, 0], [0, 0, 3], [0, -1, 0]]), [10, 20, 30]),
    "oblique": nib.affines.from_matvec(TURN @ np.diag([-0.9, -0.9, 4]), [12.5, -7, 3]),
}


def test_label_map():
    both = np.zeros((1, 2, 1, 4), np.uint8)
    both[0, 0, 0, [1, 3]] = 1
    both[0, 1, 0, [2, 3]] = 1
    found = masks.label_map(both)
    assert found.tolist() == [[[0, 1, 2, 2]]]
    assert found.dtype == np.uint8


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_saved_map_lies_where_the_image_lies(tmp_path, affine):
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 6), dtype=np.uint8)
    masks.save_label_map(labels, affine, tmp_path / "masks" / "a.nii.gz")
    image = nib.load(tmp_path / "masks" / "a.nii.gz")
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    np.testing.assert_allclose(image.get_qform(), affine, atol=1e-4)
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels)
    assert b"Research use only" in image.header["descrip"].item()
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["a.nii.gz"]


def bright_spots(affine, shape=(6, 7, 8)):
    """A volume whose bright voxels are known in the patient's space."""
    volume = np.random.default_rng(1).uniform(0, 100, shape).astype(np.float32)
    spots = [(1, 2, 3), (4, 5, 6), (5, 0, 7)]
    for spot in spots:
        volume[spot] = 1000
    return volume, {tuple(np.round(nib.affines.apply_affine(affine, spot), 3)) for spot in spots}


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_masks_go_back_to_where_the_voxels_were(tmp_path, affine):
    """Read a NIfTI file, find its bright voxels slice by slice, write them as masks: same places in the patient."""
    volume, world = bright_spots(affine)
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "image.nii.gz")
    read = Compose(
        [
            LoadImaged("image", reader=SeriesReader(), ensure_channel_first=True),
            AcquisitionSlicesd("image"),
        ]
    )({"image": str(tmp_path / "image.nii.gz")})
    stack = read["image"].numpy()
    found = np.stack([stack > 500, stack > 5000], axis=1)
    write_prepared(tmp_path / "prepared", "00001", "FLAIR", found, read["geometry"])
    written = masks.write_masks(tmp_path / "prepared", tmp_path / "masks")
    assert written == {"00001/FLAIR": "00001_FLAIR.nii.gz"}
    image = nib.load(tmp_path / "masks" / "00001_FLAIR.nii.gz")
    assert image.shape == volume.shape
    np.testing.assert_allclose(image.affine, nib.load(tmp_path / "image.nii.gz").affine, atol=1e-4)
    voxels = np.argwhere(np.asarray(image.dataobj) == 1)
    assert {tuple(np.round(nib.affines.apply_affine(image.affine, voxel), 3) + 0.0) for voxel in voxels} == {
        tuple(np.array(place) + 0.0) for place in world
    }
    restored = masks.RestoreLabelMap()(
        {
            "pred": torch.from_numpy(found[2:]), "slices": torch.arange(2, len(found)), "n_slices": len(found),
            "geometry": read["geometry"], "source": "image.nii.gz",
        }
    )["pred"]  # fmt: skip
    assert restored.shape == (1, *volume.shape)
    np.testing.assert_allclose(restored.affine.numpy(), image.affine, atol=1e-4)
    without = found.copy()
    without[:2] = False
    np.testing.assert_array_equal(
        restored.numpy()[0], read["geometry"].to_volume(masks.label_map(without).astype(np.float32))
    )


@pytest.mark.parametrize(("mri_type", "on", "claimed"), [
    ("T1wCE", None, True), ("FLAIR", None, False), ("T1w", None, False), ("T1w", ["T1w"], True), ("T1wCE", [], False),
])  # fmt: skip
def test_enhancing_tumour_is_claimed_with_contrast_agent_alone(tmp_path, mri_type, on, claimed):
    geometry = SliceGeometry.from_affine(np.diag([10.0, 10, 10, 1]), (2, 2, 2))
    found = np.zeros((2, 2, 2, 2), bool)
    found[0, 0], found[0, 1, 0, 0], found[1, 1, 0, 0] = True, True, True  # one voxel of ET is outside WT
    write_prepared(tmp_path, "1", mri_type, found, geometry)
    settings = {} if on is None else {"enhancing_on": on}
    masks.write_masks(tmp_path, tmp_path / "masks", **settings)
    image = np.asarray(nib.load(tmp_path / "masks" / f"1_{mri_type}.nii.gz").dataobj)
    assert (np.count_nonzero(image == 1), np.count_nonzero(image == 2)) == ((3, 2) if claimed else (5, 0))
    (row,) = volumes.series_volumes(tmp_path, **settings)
    assert row["whole_tumour_ml"] == "5.000"
    assert (row.get("not_enhancing_ml"), row.get("enhancing_ml")) == (("3.000", "2.000") if claimed else (None, None))
    # the classification's masks stay
    np.testing.assert_array_equal(PreparedSeries(tmp_path / "1" / f"{mri_type}.h5").masks(), found)


def test_masks_are_written_again_only_when_the_series_is(tmp_path):
    geometry = SliceGeometry.from_affine(np.eye(4), (2, 2, 2))
    found = np.zeros((2, 2, 2, 2), bool)
    write_prepared(tmp_path, "1", "T1wCE", found, geometry)
    add_error(tmp_path, "2", "FLAIR", "broken")
    target = tmp_path / "masks" / "1_T1wCE.nii.gz"
    assert list(masks.write_masks(tmp_path, tmp_path / "masks")) == ["1/T1wCE"]
    before = target.stat().st_mtime_ns
    masks.write_masks(tmp_path, tmp_path / "masks")
    assert target.stat().st_mtime_ns == before
    write_prepared(tmp_path, "1", "T1wCE", ~found, geometry)
    masks.write_masks(tmp_path, tmp_path / "masks")
    assert (np.asarray(nib.load(target).dataobj) == 2).all()
