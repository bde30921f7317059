"""A series comes out alike however it is stored: order and names of files, compression, orientation, DICOM or NIfTI."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from nibabel.orientations import apply_orientation, inv_ornt_aff
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from custom_transforms import AcquisitionSlices, SeriesReader
from tests.custom_transforms.conftest import make_slice
from tests.custom_transforms.stacks import ORIENTATIONS, SIGNED_PERMUTATIONS, brain
from tests.custom_transforms.test_dicom import compress

SYNTAXES = (ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless)


def read(path):
    """The slices that both stages see, and the grid of the written masks."""
    array, meta = SeriesReader().get_data(path)
    stack, geometry = AcquisitionSlices()(MetaTensor(array[None], meta=meta))
    return np.asarray(stack), geometry


def write_dicom(folder, stack, orientation, names, syntax):
    uid, normal = generate_uid(), np.cross(orientation[:3], orientation[3:])
    for index, name in enumerate(names):
        position = np.array([-10.0, -20.0, 30.0]) + normal * 2.5 * index
        dataset = make_slice(stack[index], series_uid=uid, orientation=orientation, position=position)
        dataset.save_as(folder / name, enforce_file_format=True)
        if syntax != ExplicitVRLittleEndian:
            compress(folder / name, syntax)
    return [folder / name for name in names]


@pytest.mark.slow
@given(
    orientation=st.sampled_from(sorted(ORIENTATIONS)),
    names=st.permutations([f"IM{number:06d}" for number in (3, 17, 100, 2, 81, 45, 9)]),
    syntax=st.sampled_from(SYNTAXES),
    stored=st.sampled_from(SIGNED_PERMUTATIONS),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
    shuffled=st.randoms(use_true_random=False),
)
@settings(max_examples=25, deadline=None)
def test_however_it_is_stored(orientation, names, syntax, stored, suffix, shuffled):
    volume = brain((40, 36, 7))
    stack = volume.transpose(2, 1, 0).astype(np.uint16)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "series")
        folder.mkdir()
        files = write_dicom(folder, stack, ORIENTATIONS[orientation], names, syntax)
        expected, geometry = read(folder)
        shuffled.shuffle(files)
        again, _ = read(files)
        np.testing.assert_array_equal(again, expected)

        array, meta = SeriesReader().get_data(folder)
        axes, signs = stored
        ornt = np.array([[axis, sign] for axis, sign in zip(axes, signs, strict=True)], dtype=float)
        turned = apply_orientation(array, ornt)
        affine = meta["affine"] @ inv_ornt_aff(ornt, array.shape)
        file = Path(place, f"series{suffix}")
        nib.save(nib.Nifti1Image(turned.astype(np.int16), affine), file)
        found, other = read(file)
    np.testing.assert_array_equal(found, expected)
    assert other.plane == geometry.plane
    # a mask that is drawn on the slices lies in the same voxels of the patient
    np.testing.assert_allclose(other.stack_affine, geometry.stack_affine, atol=1e-4)
    mask = np.random.default_rng(0).random(expected.shape) < 0.2
    np.testing.assert_array_equal(
        other.to_volume(mask), apply_orientation(geometry.to_volume(mask).astype(np.uint8), ornt).astype(bool)
    )


@pytest.mark.parametrize("signed", [False, True])
def test_grey_values_are_those_of_the_scanner(write_series, tmp_path, signed):
    """Signed pixels, and a slope and an intercept for each slice, as Philips writes them."""
    stack = np.random.default_rng(1).integers(-900 if signed else 0, 900, (5, 6, 7)).astype(np.int16)
    slopes = np.array([0.5, 1.25, 2.0, 0.75, 3.5])

    def change(index, dataset):
        dataset.PixelRepresentation = int(signed)
        dataset.PixelData = stack[index].astype("<i2" if signed else "<u2").tobytes()
        dataset.RescaleSlope, dataset.RescaleIntercept = str(slopes[index]), str(index * 10)

    write_series(stack.astype(np.uint16), change=change)
    found, _ = SeriesReader(labels=True).get_data(tmp_path / "series")
    expected = stack * slopes[:, None, None] + np.arange(5)[:, None, None] * 10
    np.testing.assert_allclose(found, expected.transpose(2, 1, 0), rtol=1e-6)
