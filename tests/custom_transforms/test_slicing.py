from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import LoadImage, Orientation

from custom_transforms import (
    AcquisitionSlices,
    SampleSlices,
    SampleSlicesD,
    SampleSlicesd,
    SampleSlicesDict,
    SeriesReader,
    SliceGeometry,
    SlicePlanes,
    SlicePlanesD,
    SlicePlanesd,
    SlicePlanesDict,
)

VOLUME = np.arange(2 * 3 * 4 * 5, dtype=np.int32).reshape(2, 3, 4, 5)


def test_each_plane_by_plain_loops():
    stacks = SlicePlanes()(VOLUME)
    assert list(stacks) == ["sagittal", "coronal", "axial"]
    assert {plane: stack.shape for plane, stack in stacks.items()} == {
        "sagittal": (3, 2, 4, 5),
        "coronal": (4, 2, 3, 5),
        "axial": (5, 2, 3, 4),
    }
    for c in range(2):
        for x in range(3):
            for y in range(4):
                for z in range(5):
                    value = VOLUME[c, x, y, z]
                    assert stacks["sagittal"][x, c, y, z] == value
                    assert stacks["coronal"][y, c, x, z] == value
                    assert stacks["axial"][z, c, x, y] == value


def test_radiological_slices_are_those_of_the_display():
    """For an RAS volume the display orientation is also what SliceGeometry makes."""
    stacks = SlicePlanes(radiological=True)(VOLUME)
    for plane, stack in stacks.items():
        shown = SliceGeometry.from_affine(np.eye(4), (3, 4, 5), plane).to_stack(VOLUME[1])
        # Coronal slices of SliceGeometry run front to back, those of the volume back to front.
        np.testing.assert_array_equal(stack[:, 1], shown[::-1] if plane == "coronal" else shown)
    # The first row is the front (largest y), the first column the patient's right (largest x, as R grows with x).
    assert stacks["axial"][2, 0, 0, 0] == VOLUME[0, -1, -1, 2]


@pytest.mark.parametrize("radiological", [False, True])
def test_numpy_torch_and_metatensor_agree(radiological):
    slicer = SlicePlanes(("axial",), radiological)
    expected = slicer(VOLUME)["axial"]
    assert isinstance(expected, np.ndarray)
    for volume in (torch.from_numpy(VOLUME), MetaTensor(torch.from_numpy(VOLUME), affine=torch.eye(4))):
        stack = slicer(volume)["axial"]
        assert type(stack) is torch.Tensor
        np.testing.assert_array_equal(stack.numpy(), expected)


def test_other_orientations_and_shapes_are_refused():
    lps = MetaTensor(torch.from_numpy(VOLUME), affine=torch.diag(torch.tensor([-1.0, -1, 1, 1])))
    with pytest.raises(ValueError, match=r"LPS.*Orientationd"):
        SlicePlanes()(lps)
    assert SlicePlanes("axial")(Orientation("RAS")(lps))["axial"].shape == (5, 2, 3, 4)
    with pytest.raises(ValueError, match="C, X, Y, Z"):
        SlicePlanes()(VOLUME[0])
    with pytest.raises(ValueError, match="oblique"):
        SlicePlanes(("oblique",))


@pytest.mark.parametrize("transform", [SlicePlanesd, SlicePlanesD, SlicePlanesDict])
def test_planes_dictionary_form(transform):
    data = {"image": VOLUME, "label": VOLUME[:1] > 3, "patient": "00000"}
    result = transform(("image", "label"), planes=("axial", "sagittal"))(data)
    assert set(result) == {"image_axial", "image_sagittal", "label_axial", "label_sagittal", "patient"}
    assert set(data) == {"image", "label", "patient"}
    np.testing.assert_array_equal(result["label_sagittal"], SlicePlanes()(VOLUME[:1] > 3)["sagittal"])
    assert transform("missing", allow_missing_keys=True)(data).keys() == data.keys()


def test_planes_of_a_real_volume(real_data: Path):
    path = real_data / "task1" / "BraTS2021_07294" / "BraTS2021_07294_flair.nii.gz"
    volume = Orientation("RAS")(LoadImage(reader=SeriesReader(), ensure_channel_first=True)(path))
    stacks = SlicePlanes()(volume)
    np.testing.assert_array_equal(stacks["coronal"][100, 0], volume[0, :, 100].numpy())
    assert float(stacks["coronal"][100].max()) > 0


@given(n=st.integers(0, 400), rate=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_every_t_th_slice(n, rate):
    step = max(round(rate * n), 1)
    expected = [index for index in range(n) if index % step == 0]
    assert SampleSlices(rate)(np.arange(n)).tolist() == expected


@pytest.mark.parametrize(("n", "kept"), [(0, 0), (1, 1), (14, 14), (16, 8), (100, 10), (155, 10), (144, 11)])
def test_sampling_as_the_method_counts(n, kept):
    assert len(SampleSlices(0.1)(np.zeros((n, 2)))) == kept


def test_sampling_keeps_the_type():
    stack = torch.arange(40).reshape(20, 2)
    assert type(SampleSlices(0.1)(stack)) is torch.Tensor
    sampled = SampleSlices(0.1)(MetaTensor(stack))
    assert type(sampled) is torch.Tensor
    torch.testing.assert_close(sampled, stack[::2])
    with pytest.raises(ValueError, match="keep_rate"):
        SampleSlices(-0.1)


@pytest.mark.parametrize("transform", [SampleSlicesd, SampleSlicesD, SampleSlicesDict])
def test_sampling_dictionary_form(transform):
    data = {"image": np.arange(30), "label": torch.arange(30), "short": np.arange(3)}
    result = transform(("image", "label"), keep_rate=0.1)(data)
    assert result["image"].tolist() == result["label"].tolist() == list(range(0, 30, 3))
    assert len(result["short"]) == 3
    with pytest.raises(ValueError, match=r"'image': 30.*'short': 3"):
        transform(("image", "short"))(data)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_training_slices_look_like_the_slices_of_an_acquired_series(plane):
    # stage 1 trains on SlicePlanes of a RAS volume, stage 2 applies it to AcquisitionSlices of any volume
    rng = np.random.default_rng(3)
    lps = MetaTensor(torch.from_numpy(rng.random((1, 5, 6, 7))), affine=np.diag([-1.0, -2.0, 3.0, 1.0]))
    ras = Orientation(axcodes="RAS", labels=None)(lps)
    trained = SlicePlanes(planes=(plane,), radiological=True)(ras)[plane][:, 0]
    seen, _ = AcquisitionSlices(plane=plane)(lps)
    # the order along the coronal axis runs the other way; the slices themselves must agree
    expected = seen.flip(0) if plane == "coronal" else seen
    assert torch.equal(torch.as_tensor(trained), torch.as_tensor(expected))


@pytest.mark.parametrize(("n", "step", "expected"), [(25, 10, [0, 10, 20]), (3, 10, [0]), (4, 1, [0, 1, 2, 3])])
def test_every_so_many_slices(n, step, expected):
    assert SampleSlices(step=step)(np.arange(n)).tolist() == expected
    assert SampleSlicesd("image", step=step)({"image": np.arange(n)})["image"].tolist() == expected


def test_a_step_of_none_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        SampleSlices(step=0)
