"""The geometry of series, and their acquisition slices."""

from __future__ import annotations

import json
import pickle

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import LoadImage

from custom_transforms import (
    AcquisitionSlices,
    AcquisitionSlicesD,
    AcquisitionSlicesd,
    AcquisitionSlicesDict,
    SeriesReader,
    SliceGeometry,
)
from tests.custom_transforms.stacks import (
    LPS_TO_RAS,
    ORIENTATIONS,
    SIGNED_PERMUTATIONS,
    affine_of,
    planes,
    read,
)

# --- SliceGeometry ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(
    which=st.sampled_from(SIGNED_PERMUTATIONS),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    angles=st.tuples(*[st.floats(-25, 25)] * 3),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    plane=st.sampled_from([None, "axial", "coronal", "sagittal"]),
)
@settings(max_examples=150, deadline=None)
def test_stack_and_volume_are_inverse_and_in_place(which, spacing, angles, shape, plane):
    geometry = SliceGeometry.from_affine(affine_of(*which, spacing, angles), shape, plane)
    volume = np.arange(np.prod(shape)).reshape(shape)
    stack = geometry.to_stack(volume)
    assert stack.shape == geometry.stack_shape
    np.testing.assert_array_equal(geometry.to_volume(stack), volume)
    tensor = torch.from_numpy(volume)
    assert torch.equal(geometry.to_stack(tensor), torch.from_numpy(stack))
    assert torch.equal(geometry.to_volume(torch.from_numpy(stack)), tensor)
    # Each voxel keeps its place in the patient.
    for index in np.ndindex(shape):
        n, h, w = np.argwhere(stack == volume[index])[0]
        np.testing.assert_allclose(
            geometry.stack_affine @ [w, h, n, 1], geometry.affine @ [*index, 1], atol=1e-9, rtol=1e-9
        )
    # The plane asked for is the one of the slices, in display orientation (RAS axes).
    column, row, along = (
        geometry.stack_affine[:3, :3].T / np.linalg.norm(geometry.stack_affine[:3, :3], axis=0)[:, None]
    )
    axes = {
        "axial": ([-1, 0, 0], [0, -1, 0], [0, 0, 1]),
        "coronal": ([-1, 0, 0], [0, 0, -1], [0, -1, 0]),
        "sagittal": ([0, -1, 0], [0, 0, -1], [1, 0, 0]),
    }[geometry.plane]
    for found, expected in zip((column, row, along), axes, strict=True):
        assert found @ expected > 0.5
    assert (np.diff(geometry.positions) > 0).all()


@pytest.mark.parametrize(
    ("axis", "plane"), [(0, "sagittal"), (1, "coronal"), (2, "axial")], ids=["sagittal", "coronal", "axial"]
)
@pytest.mark.parametrize("which", SIGNED_PERMUTATIONS[::5])
def test_plane_is_across_the_thick_slices(which, axis, plane):
    order, signs = which
    spacing = [5 if order[place] == axis else 0.5 for place in range(3)]
    assert SliceGeometry.from_affine(affine_of(order, signs, spacing, (10, -10, 10)), (3, 4, 5)).plane == plane


@pytest.mark.parametrize(
    ("spacing", "plane"),
    [
        ((1, 1, 1), "axial"),
        ((1.04, 1, 1), "axial"),
        ((1.06, 1, 1), "sagittal"),
        ((1, 2, 2), "axial"),
        ((1, 3, 2), "coronal"),
    ],
)
def test_near_isotropic_volumes_are_axial(spacing, plane):
    assert SliceGeometry.from_affine(np.diag([*spacing, 1]), (3, 4, 5)).plane == plane


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_standard_dicom_slices_come_out_as_they_were(write_series, tmp_path, plane):
    stack = planes(4)
    datasets = write_series(stack, orientation=ORIENTATIONS[plane], step=4.0, spacing=(0.6, 0.9))
    array, meta = read(tmp_path / "series")
    geometry = SliceGeometry.from_affine(meta["affine"], array.shape)
    assert geometry.plane == plane
    np.testing.assert_array_equal(geometry.to_stack(array), stack)
    assert geometry.pixel_spacing == pytest.approx((0.6, 0.9))
    assert geometry.slice_spacing == pytest.approx(4)
    # DICOM's own: position along row direction x column direction.
    normal = np.cross(ORIENTATIONS[plane][:3], ORIENTATIONS[plane][3:])
    expected = [np.dot(np.array(dataset.ImagePositionPatient, dtype=float), normal) for dataset in datasets]
    np.testing.assert_allclose(geometry.positions, expected)
    np.testing.assert_allclose(LPS_TO_RAS @ geometry.stack_affine @ [0, 0, 0, 1], [-10, -20, 30, 1])


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("step", [1.0, 0.5])
def test_slices_of_a_dicom_series_are_its_files_however_thin(write_series, tmp_path, plane, step):
    """Isotropic acquisitions are common, sagittal ones above all."""
    stack = planes(4)
    write_series(stack, orientation=ORIENTATIONS[plane], step=step, spacing=(1.0, 1.0))
    volume = LoadImage(reader=SeriesReader(), ensure_channel_first=True)(tmp_path / "series")
    found, geometry = AcquisitionSlices()(volume)
    assert geometry.plane == plane
    np.testing.assert_array_equal(found, stack)
    assert AcquisitionSlices("axial")(volume)[1].plane == "axial", "what is asked for goes first"


def test_geometry_is_plain_data(tmp_path):
    geometry = SliceGeometry.from_affine(affine_of((2, 0, 1), (1, -1, 1), (1, 2, 3)), (3, 4, 5))
    for copy in (
        pickle.loads(pickle.dumps(geometry)),
        SliceGeometry.from_dict(geometry.to_dict()),
        SliceGeometry.from_dict(json.loads(json.dumps(geometry.to_dict()))),
    ):
        assert copy == geometry
        assert hash(copy) == hash(geometry)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs.update(geometry.to_dict())
    with h5py.File(tmp_path / "a.h5") as file:
        assert SliceGeometry.from_dict(file.attrs) == geometry
    assert SliceGeometry(geometry.affine, (3, 4, 5), "axial") != SliceGeometry(geometry.affine, (3, 4, 6), "axial")
    assert SliceGeometry(geometry.affine, (3, 4, 5), "axial") != SliceGeometry(geometry.affine, (3, 4, 5), "coronal")
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 0] = 9


def test_geometry_refuses_what_it_cannot_be():
    with pytest.raises(ValueError, match="oblique"):
        SliceGeometry(np.eye(4), (1, 2, 3), "oblique")
    with pytest.raises(ValueError, match="invertible"):
        SliceGeometry(np.zeros((4, 4)), (1, 2, 3), "axial")
    with pytest.raises(ValueError, match="X, Y, Z"):
        SliceGeometry.from_affine(np.eye(4), (1, 1, 2, 3))
    geometry = SliceGeometry(np.eye(4), (1, 2, 3), "axial")
    with pytest.raises(ValueError, match=r"\(1, 2, 3\), got \(3, 2, 1\)"):
        geometry.to_stack(np.zeros((3, 2, 1)))
    with pytest.raises(ValueError, match=r"\(3, 2, 1\), got \(1, 2, 3\)"):
        geometry.to_volume(np.zeros((1, 2, 3)))


# --- AcquisitionSlices ------------------------------------------------------------------------------------------------


def volume_of(spacing: tuple[float, float, float] = (1, 1, 3)) -> MetaTensor:
    values = torch.arange(60, dtype=torch.float32).reshape(1, 3, 4, 5)
    return MetaTensor(values, affine=torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64)))


def test_acquisition_slices():
    volume = volume_of()
    stack, geometry = AcquisitionSlices()(volume)
    assert type(stack) is torch.Tensor
    assert geometry == SliceGeometry.from_affine(np.diag([1, 1, 3, 1]), (3, 4, 5), "axial")
    for n in range(5):
        for h in range(4):
            for w in range(3):
                assert stack[n, h, w] == volume[0, 2 - w, 3 - h, n]
    stack, geometry = AcquisitionSlices("coronal")(volume.to(torch.uint8))
    assert stack.dtype == torch.uint8
    assert (geometry.plane, stack.shape) == ("coronal", (4, 5, 3))


def test_acquisition_slices_refuses_what_has_no_geometry():
    with pytest.raises(TypeError, match=r"MetaTensor.*SeriesReader"):
        AcquisitionSlices()(torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match="ensure_channel_first"):
        AcquisitionSlices()(volume_of()[0])
    with pytest.raises(ValueError, match="oblique"):
        AcquisitionSlices("oblique")


@pytest.mark.parametrize("transform", [AcquisitionSlicesd, AcquisitionSlicesD, AcquisitionSlicesDict])
def test_acquisition_slices_dictionary_form(transform):
    data = {"image": volume_of(), "wt": volume_of() > 3, "other": volume_of((1, 1, 2))}
    result = transform(("image", "wt"))(data)
    stack, geometry = AcquisitionSlices()(data["image"])
    assert torch.equal(result["image"], stack)
    assert torch.equal(result["wt"], stack > 3)
    assert type(result["wt"]) is torch.Tensor
    assert result["geometry"] == geometry
    assert data["image"].shape == (1, 3, 4, 5)
    assert transform("image", geometry_key="grid", plane="sagittal")(data)["grid"].plane == "sagittal"
    with pytest.raises(ValueError, match=r"'image' and 'other' are different"):
        transform(("image", "other"))(data)
    assert "geometry" not in transform("missing", allow_missing_keys=True)(data)
