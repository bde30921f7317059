"""Series through MONAI, backgrounds and skulls, and real ones."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import LoadImage, LoadImaged, Orientation

from custom_transforms import (
    AcquisitionSlices,
    SeriesError,
    SeriesReader,
    SliceGeometry,
)
from tests.custom_transforms.stacks import (
    LPS_TO_RAS,
    assert_same_as_itk,
    brain,
    planes,
    read,
    read_nifti,
)

# --- background and skull ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1024, 100, 0.25])
def test_a_background_that_is_not_0_is_subtracted(tmp_path, value, caplog):
    array, meta = read_nifti(brain() + np.float32(value), tmp_path)
    np.testing.assert_array_equal(array, brain())
    assert meta["warnings"] == [f"the background is {value:g}, expected 0: it was subtracted."]
    assert meta["warnings"][0] in caplog.text


@pytest.mark.parametrize("top", ["largest value", "largest number"])
def test_monochrome1_has_a_background_of_0(write_series, tmp_path, top):
    values = brain().transpose(2, 1, 0).astype(np.uint16)
    whole = int(values.max()) if top == "largest value" else 4095
    write_series(whole - values, PhotometricInterpretation="MONOCHROME1")
    array, meta = read(tmp_path / "series")
    np.testing.assert_array_equal(array, brain())
    assert len(meta["warnings"]) == (top == "largest number")


def test_a_brain_darker_than_the_background_is_raised_above_it(write_series, tmp_path):
    """As where a file says MONOCHROME1 and its pixels are MONOCHROME2; also with a slice missing, which stays blank."""
    values = brain().transpose(2, 1, 0).astype(np.uint16)
    kept = [*range(10), *range(11, 20)]
    write_series(values[kept], distances=np.array(kept) * 2.0, PhotometricInterpretation="MONOCHROME1")
    array, meta = read(tmp_path / "series")
    foreground = brain() > 0
    foreground[..., 10] = False
    np.testing.assert_array_equal(array > 0, foreground)
    assert array.min() == 0
    assert "100% of the brain is darker than the background" in meta["warnings"][-1]


def test_ordinary_backgrounds_stay_bit_for_bit(tmp_path):
    ordinary = brain()
    overshoot = ordinary.copy()
    overshoot[[0, 5, 8], [3, 0, 7], 4] = [-6, -2, -9]
    noise = np.random.default_rng(0).normal(0, 1, ordinary.shape).astype(np.float32) + ordinary
    for values in (ordinary, overshoot, noise - 1024):
        array, meta = read_nifti(values, tmp_path)
        assert array.tobytes() == values.tobytes()
        assert not any("background" in text for text in meta["warnings"])


@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(*[st.integers(12, 24)] * 3),
    offset=st.integers(-2000, 2000),
    how=st.sampled_from(["offset", "inverted", "z-scored", "z-scored with offset", "inverted by itself"]),
)
@settings(max_examples=60, deadline=None)
def test_foreground_does_not_depend_on_how_grey_values_are_stored(tmp_path_factory, seed, shape, offset, how):
    volume = brain(shape, seed)
    foreground = volume > 0
    stored = volume.copy()
    if how.startswith("z-scored"):
        stored[foreground] = (volume[foreground] - volume[foreground].mean()) / volume[foreground].std()
        assume((stored[foreground] != 0).all())
    if how.startswith("inverted"):
        stored = stored.max() - stored
    if how in ("offset", "inverted", "z-scored with offset"):
        stored = stored + np.float32(offset)
        assume((stored[foreground] != stored[0, 0, 0]).all())
    array, _ = read_nifti(stored, tmp_path_factory.mktemp("volume"))
    np.testing.assert_array_equal(array > 0, foreground)
    assert (array[~foreground] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_a_skull_stripped_series_is_no_head(tmp_path, axis):
    """The whole brain, or half of it."""
    stripped = head(scalp=False)
    half = stripped if axis is None else np.take(stripped, range(stripped.shape[axis] // 2), axis)
    assert read_nifti(half, tmp_path)[1]["warnings"] == []


@pytest.mark.slow
@pytest.mark.parametrize("air", ["noise", "zero"])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 6), (2, 2, 2)])
def test_a_series_with_its_skull_is_said_to_have_it(tmp_path, air, spacing):
    values = head(scalp=True, spacing=spacing)
    if air == "noise":
        values += np.random.default_rng(0).rayleigh(8, values.shape).round().astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([*spacing, 1])), tmp_path / "head.nii")
    array, meta = read(tmp_path / "head.nii")
    np.testing.assert_array_equal(array, values)
    (warning,) = meta["warnings"]
    assert meta["skull"] == "skull"
    assert re.match(r"it shows the skull: .*dark layer between bright ones.*\. Expected the brain alone", warning)


def head(scalp: bool, spacing: tuple[float, ...] = (1, 1, 1)) -> np.ndarray:
    """A noisy brain of 130 x 160 x 120 mm with a shell of bright fluid, alone or within bone and scalp, the rest 0."""
    axes = [
        (np.arange(round(fov / step)) + 0.5) * step - fov / 2
        for fov, step in zip((180, 210, 168), spacing, strict=True)
    ]

    def within(margin: float) -> np.ndarray:
        return (
            sum((axis / (radius + margin)) ** 2 for axis, radius in zip(np.ix_(*axes), (65, 80, 60), strict=True)) < 1
        )

    values = np.random.default_rng(3).normal(300, 40, [len(axis) for axis in axes])
    values = np.where(within(-4), values, np.where(within(0), 600, 0))
    if scalp:
        values = np.where(within(0), values, np.where(within(8), 20, np.where(within(16), 700, 0)))
    return values.clip(0, None).round().astype(np.float32)


@pytest.mark.slow
def test_real_series_are_said_to_have_their_skull_only_where_they_do(real_data: Path, tmp_path):
    for file in (real_data / "raw" / "06692" / "export").iterdir():
        folder = tmp_path / str(pydicom.dcmread(file, stop_before_pixels=True).SeriesInstanceUID)
        folder.mkdir(exist_ok=True)
        shutil.copy(file, folder)
    heads = list(tmp_path.iterdir())
    assert len(heads) == 4
    for path in heads:
        assert [text[:20] for text in read(path)[1]["warnings"]] == ["it shows the skull: "]
    task1 = [path for path in real_data.glob("task1/*/*.nii.gz") if not path.name.endswith("_seg.nii.gz")]
    stripped = [*task1, *real_data.glob("brats2023/*/*.nii.gz")]
    stripped += real_data.glob("task2/train/*/*")
    stripped += sorted(path for path in real_data.glob("cohort/*/*.nii.gz") if not path.name.endswith("_seg.nii.gz"))[
        ::7
    ]
    for path in stripped:
        assert read(path)[1]["warnings"] == [], path


# --- through MONAI ----------------------------------------------------------------------------------------------------


def test_load_imaged(write_series, tmp_path):
    stack = planes(4)
    write_series(stack)
    nib.save(nib.Nifti1Image(stack, np.diag([1, 2, 3, 1])), tmp_path / "t1.nii.gz")
    loader = LoadImaged(("FLAIR", "T1w"), reader=SeriesReader(), ensure_channel_first=True)
    data = loader({"FLAIR": str(tmp_path / "series"), "T1w": tmp_path / "t1.nii.gz"})
    flair = data["FLAIR"]
    assert isinstance(flair, MetaTensor)
    assert flair.shape == (1, 5, 6, 4)
    np.testing.assert_array_equal(flair[0].numpy(), stack.transpose(2, 1, 0))
    np.testing.assert_allclose(flair.affine, read(tmp_path / "series")[1]["affine"])
    np.testing.assert_allclose(flair.meta["original_affine"], flair.affine)
    assert flair.meta["spatial_shape"].tolist() == [5, 6, 4]
    assert flair.meta["space"] == "RAS"
    assert flair.meta["filename_or_obj"] == str(tmp_path / "series")
    assert flair.meta["warnings"] == []
    np.testing.assert_array_equal(data["T1w"][0].numpy(), stack)
    assert Orientation("RAS")(flair).shape == (1, 5, 6, 4)


@pytest.mark.parametrize(
    "reader",
    [
        "custom_transforms.SeriesReader",
        "$custom_transforms.SeriesReader()",
        {"_target_": "custom_transforms.SeriesReader"},
    ],
    ids=["name", "expression", "target"],
)
def test_from_a_config(write_series, tmp_path, reader):
    write_series(planes(3))
    loader = {"_target_": "LoadImaged", "keys": "image", "reader": reader, "ensure_channel_first": True}
    parser = ConfigParser({"imports": ["$import custom_transforms"], "loader": loader})
    data = parser.get_parsed_content("loader")({"image": tmp_path / "series"})
    assert data["image"].shape == (1, 5, 6, 3)
    assert "slice_files" in data["image"].meta


def test_no_other_reader_takes_over_what_is_refused(write_series, tmp_path):
    """MONAI's loader tries its own readers after a failed ``read``; ITK's would take one of two series."""
    for name in ("FLAIR", "T1w"):
        write_series(planes(3), names=[f"{name}-{i}.dcm" for i in range(3)])
    with pytest.raises(SeriesError, match="2 series"):
        LoadImage(reader=SeriesReader())(tmp_path / "series")
    with pytest.raises(SeriesError, match="no such file"):
        LoadImage(reader=SeriesReader())(tmp_path / "nowhere")


def test_verify_suffix(tmp_path):
    reader = SeriesReader()
    for name in (tmp_path, "a/Image-1.dcm", "a.nii", "a.NII.GZ", "IM0001", ("IM1", "IM2")):
        assert reader.verify_suffix(name)
    for name in ("a.jpg", "a.npz"):
        assert not reader.verify_suffix(name)


# --- real -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mri_type", "shape", "spacing"),
    [
        ("FLAIR", (256, 256, 68), (0.9375, 0.9375, 2.5)),
        ("T1w", (512, 512, 34), (0.46875, 0.46875, 5)),
    ],
)
def test_real_dicom(real_data: Path, tmp_path, mri_type, shape, spacing):
    folder = real_data / "task2" / "train" / "07294" / mri_type
    array, meta = read(folder)
    assert array.shape == shape
    assert meta["warnings"] == []
    np.testing.assert_allclose(np.linalg.norm(meta["affine"][:3, :3], axis=0), spacing, rtol=1e-4)
    assert_same_as_itk(array, meta["affine"], folder)
    locations = [
        float(pydicom.dcmread(folder / name, specific_tags=["SliceLocation"]).SliceLocation)
        for name in meta["slice_files"]
    ]
    assert locations == sorted(locations)
    if mri_type == "FLAIR":
        numbers = [int(name[len("Image-") : -len(".dcm")]) for name in meta["slice_files"]]
        # Rows run upwards in the image, so the normal points to the feet; the stack below runs to the head.
        assert numbers == list(range(1, 69))

    # Written as NIfTI by nibabel, ITK finds each voxel where the reader has it.
    nib.save(nib.Nifti1Image(array, meta["affine"]), tmp_path / "series.nii")
    image = itk.imread(str(tmp_path / "series.nii"))
    for index in ([0, 0, 0], [10, 200, 30], [255, 1, 33]):
        np.testing.assert_allclose(
            np.array(list(image.TransformIndexToPhysicalPoint(index))) * [-1, -1, 1],
            (meta["affine"] @ [*index, 1])[:3],
            atol=1e-3,
        )
        assert image.GetPixel(index) == array[tuple(index)]

    loaded = LoadImage(reader=SeriesReader(), ensure_channel_first=True)(folder)
    stack, geometry = AcquisitionSlices()(loaded)
    assert geometry.plane == "axial"
    assert stack.shape == (shape[2], shape[1], shape[0])
    np.testing.assert_array_equal(geometry.to_volume(stack.numpy()), array)
    np.testing.assert_array_equal(stack[0].numpy(), array[:, ::-1, -1].T)
    np.testing.assert_allclose(np.diff(geometry.positions), spacing[2], rtol=1e-4)
    column, row, along = LPS_TO_RAS[:3, :3] @ geometry.stack_affine[:3, :3].T[..., None]
    assert column[0] > 0
    assert row[1] > 0
    assert along[2] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "task1/BraTS2021_07294/BraTS2021_07294_t1ce.nii.gz",
        "brats2023/BraTS-GLI-00001-000/BraTS-GLI-00001-000-t2f.nii.gz",
    ],
)
def test_real_nifti(real_data: Path, name):
    array, meta = read(real_data / name)
    image = nib.load(real_data / name)
    np.testing.assert_array_equal(array, image.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(meta["affine"], image.affine)
    geometry = SliceGeometry.from_affine(meta["affine"], array.shape)
    assert geometry.plane == "axial"
    np.testing.assert_array_equal(geometry.to_volume(geometry.to_stack(array)), array)
