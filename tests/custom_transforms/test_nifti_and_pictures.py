"""NIfTI files and folders of pictures: what is read, and what is refused."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import pytest

from custom_transforms import (
    SeriesError,
    SeriesReader,
    SliceGeometry,
)
from tests.custom_transforms.stacks import (
    LPS_TO_RAS,
    little_memory,
    planes,
    png,
    read,
    read_nifti,
)

# --- NIfTI and pictures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([-5e12, -6e12, 8e12, 1]),
        np.diag([1e-6, 1e-6, 1e-6, 1]),
        np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1e-5, 0], [0, 0, 0, 1.0]]),
        np.array([[1, 0, 0, 1e30], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    ],
)
def test_a_geometry_in_which_nothing_can_lie_is_refused(tmp_path, affine):
    nib.save(nib.Nifti1Image(np.random.default_rng(0).uniform(size=(8, 8, 8)).astype("f4"), affine), tmp_path / "a.nii")
    with pytest.raises(SeriesError, match=r"a\.nii: unusable affine .* expected voxels of 0.001 to 1000 mm .* Repair"):
        read(tmp_path / "a.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 5, 1), (3, 4)])
def test_nifti(tmp_path, suffix, shape):
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    affine = np.array([[0, -1, 0.1, 4], [2, 0, 0, 5], [0, 0.1, 3, 6], [0, 0, 0, 1]])
    path = tmp_path / f"t1{suffix}"
    nib.save(nib.Nifti1Image(values, affine), path)
    array, meta = read(path)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, values.reshape((*shape, 1)[:3]))
    np.testing.assert_allclose(meta["affine"], affine, atol=1e-6)
    assert meta["warnings"] == meta["slice_files"] == []


def test_nifti_scaling_and_missing_orientation(tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), None)
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, tmp_path / "a.nii")
    array, meta = read(tmp_path / "a.nii")
    np.testing.assert_allclose(array, nib.load(tmp_path / "a.nii").get_fdata())
    assert "neither sform nor qform" in meta["warnings"][0]


def test_nifti_nan_becomes_zero(tmp_path):
    values = np.zeros((3, 3, 3), dtype=np.float32)
    values[1, 1] = 8
    values[0, 0] = [np.nan, np.inf, -np.inf]
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    array, meta = read(tmp_path / "a.nii")
    assert array[0, 0].tolist() == [0, 0, 0]
    assert array.sum() == 24
    assert len(meta["warnings"]) == 1
    assert "3 NaN or infinite voxels" in meta["warnings"][0]
    nib.save(nib.Nifti1Image(values * np.nan, np.eye(4)), tmp_path / "b.nii")
    with pytest.raises(SeriesError, match="all voxels"):
        read(tmp_path / "b.nii")


def test_nifti_that_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 3)), np.eye(4)), tmp_path / "several.nii")
    with pytest.raises(SeriesError, match=r"several.nii: found a NIfTI file of shape \(2, 2, 2, 3\)"):
        read(tmp_path / "several.nii")
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.complex64), np.eye(4)), tmp_path / "complex.nii")
    with pytest.raises(SeriesError, match="complex64"):
        read(tmp_path / "complex.nii")
    nib.save(nib.Nifti1Image(planes(9, 9, 9), np.eye(4)), tmp_path / "whole.nii.gz")
    content = (tmp_path / "whole.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.nii").write_text("no NIfTI")
    for name in ("cut.nii.gz", "text.nii"):
        with pytest.raises(SeriesError, match=f"{name}: unreadable or truncated"):
            read(tmp_path / name)


def header_of(shape: tuple[int, ...], dtype: Any = np.int16) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header.set_sform(np.eye(4), 1)
    return header.binaryblock + bytes(4)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((512, 512, 300), np.int16, "found .* bytes.* expected 157286752 from its header"),
        ((512, 512, 300), np.float64, "declares 629,145,952 bytes, expected at most 400,000,000"),
        (
            (2000, 2000, 2000),
            np.int16,
            r"declares 2000 x 2000 x 2000 voxels, expected at most 4096 per side and 100,000,000",
        ),
        ((30000, 4, 4), np.int16, r"declares 30000 x 4 x 4 voxels"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_nifti_header_that_lies_is_refused_before_memory_is_taken(tmp_path, suffix, shape, dtype, message):
    content = header_of(shape, dtype) + bytes(1000)
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    with little_memory(), pytest.raises(SeriesError, match=f"bomb{suffix}: .*{message}"):
        read(path)


def test_a_bomb_of_zeros_is_not_unpacked(tmp_path):
    """4 GB of zeros would fit into its 4 MB; the declared size is what is refused."""
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(header_of((1300, 1300, 1300)) + np.random.default_rng(0).bytes(4_100_000)))
    with little_memory(), pytest.raises(SeriesError, match="1300 x 1300 x 1300 voxels"):
        read(path)


def test_a_well_packed_volume_is_read(tmp_path):
    values = np.zeros((200, 200, 100), np.float32)
    values[100, 100, 50] = 1
    (tmp_path / "sparse.nii.gz").write_bytes(gzip.compress(nib.Nifti1Image(values, np.eye(4)).to_bytes()))
    assert values.nbytes > 900 * (tmp_path / "sparse.nii.gz").stat().st_size
    np.testing.assert_array_equal(read(tmp_path / "sparse.nii.gz")[0], values)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((9000, 9000), r"Image-1.png: the header declares 9000 x 9000 voxels, expected at most 4096"),
        ((60000, 60000), r"Image-1.png is not a slice of a brain \(.*3600000000 pixels.*\). Remove it"),
    ],
)
def test_huge_pictures_are_refused_before_they_are_unpacked(tmp_path, size, message):
    (tmp_path / "Image-1.png").write_bytes(png(*size))
    with little_memory(), pytest.raises(SeriesError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_pictures_are_named(tmp_path, suffix):
    y, x = np.mgrid[:64, :64]
    content = cv2.imencode(f".{suffix}", (2 * x + y).astype(np.uint8))[1].tobytes()
    for number in (1, 2):
        (tmp_path / f"Image-{number}.{suffix}").write_bytes(content[: len(content) * number * 4 // 10])
    with pytest.raises(SeriesError, match=rf"Image-1.{suffix} is not a readable picture"):
        read(tmp_path)


@pytest.mark.parametrize("value", [0, 7, -1024])
def test_a_constant_volume_is_no_image(tmp_path, value):
    with pytest.raises(SeriesError, match=rf"volume.nii: all 504 voxels have the value {value}, expected images"):
        read_nifti(np.full((7, 8, 9), value, np.int16), tmp_path)


def test_black_pictures_and_slices_are_no_images(write_series, tmp_path):
    write_series(np.zeros((3, 6, 5), np.uint16))
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures" / "Image-1.png"), np.zeros((6, 5), np.uint8))
    for folder in ("series", "pictures"):
        with pytest.raises(SeriesError, match=rf"{folder}: all \d+ voxels have the value 0, expected images"):
            read(tmp_path / folder)


def test_a_label_map_may_be_empty_and_keeps_its_values(tmp_path):
    reader = SeriesReader(labels=True)
    for values in (np.zeros((7, 8, 9), np.uint8), np.pad(np.zeros((5, 6, 7), np.uint8), 1, constant_values=4)):
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "seg.nii.gz")
        array, meta = reader.get_data(tmp_path / "seg.nii.gz")
        np.testing.assert_array_equal(array, values)
        assert meta["warnings"] == []


@pytest.mark.parametrize("suffix", ["jpg", "png", "JPG"])
def test_pictures(tmp_path, suffix):
    pictures = []
    for number in (9, 10, 101, 2):
        picture = np.full((8, 6), number, np.uint8)
        picture[:4] = 200
        cv2.imwrite(str(tmp_path / f"Image-{number}.{suffix}"), picture)
        pictures.append(cv2.imread(str(tmp_path / f"Image-{number}.{suffix}"), cv2.IMREAD_GRAYSCALE))
    array, meta = read(tmp_path)
    expected = np.stack([pictures[place] for place in (3, 0, 1, 2)])
    np.testing.assert_array_equal(array, expected.transpose(2, 1, 0))
    np.testing.assert_array_equal(meta["affine"], LPS_TO_RAS)
    assert "no geometry" in meta["warnings"][0]
    # The slices come out as the pictures show them.
    np.testing.assert_array_equal(SliceGeometry.from_affine(meta["affine"], array.shape).to_stack(array), expected)


def test_pictures_that_are_refused(tmp_path):
    for folder, files, message in (
        ("a", {"Image-1.png": (4, 4), "Image-2.png": (4, 5)}, r"Image-1.png has \(4, 4\).*Image-2.png has \(4, 5\)"),
        ("b", {"Image-1.png": (4, 4), "Image-01.jpg": (4, 4)}, r"same number"),
        ("c", {"cover.png": (4, 4)}, r"cover.png has no number"),
    ):
        (tmp_path / folder).mkdir()
        for name, shape in files.items():
            cv2.imwrite(str(tmp_path / folder / name), np.zeros(shape, np.uint8))
        with pytest.raises(SeriesError, match=message):
            read(tmp_path / folder)
    with pytest.raises(SeriesError, match="found one picture"):
        read(tmp_path / "a" / "Image-1.png")
    (tmp_path / "a" / "Image-2.png").write_bytes(b"")
    with pytest.raises(SeriesError, match=r"Image-2.png is not a readable picture"):
        read(tmp_path / "a")


@pytest.mark.parametrize("chunk", [b"zTXt", b"iCCP"])
def test_a_picture_with_text_that_unpacks_to_gigabytes_is_refused(tmp_path, chunk):
    picture = cv2.imencode(".png", planes(1)[0])[1].tobytes()
    packer = zlib.compressobj(9)
    block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    content = b"a\0\0" + block + block[2:] * 120  # the header of zlib comes once
    whole = len(content).to_bytes(4, "big") + chunk + content + zlib.crc32(chunk + content).to_bytes(4, "big")
    (tmp_path / "Image-1.png").write_bytes(picture[:33] + whole + picture[33:])
    with pytest.raises(SeriesError, match=r"Image-1\.png is not a readable picture. Copy it again, or remove it"):
        read(tmp_path)
