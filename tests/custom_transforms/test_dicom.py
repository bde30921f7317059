"""DICOM series: their geometry, their values, and what is refused."""

from __future__ import annotations

import struct
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import gdcm
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from custom_transforms import (
    SeriesError,
    SeriesReader,
    dicom_slices,
)
from custom_transforms.dicom_file import read_dicom
from tests.campaigns import sound
from tests.custom_transforms.stacks import (
    CORONAL,
    LPS_TO_RAS,
    OBLIQUE,
    ORIENTATIONS,
    assert_same_as_itk,
    enhanced,
    little_memory,
    planes,
    read,
)

# --- DICOM: geometry --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_geometry_equals_itk(write_series, tmp_path, name):
    write_series(planes(7), orientation=ORIENTATIONS[name], step=3.3, spacing=(0.7, 1.2))
    array, meta = read(tmp_path / "series")
    assert array.shape == (5, 6, 7)
    assert array.dtype == np.float32
    assert_same_as_itk(array, meta["affine"], tmp_path / "series")
    assert meta["warnings"] == []
    assert meta["slice_files"] == [f"Image-{index}.dcm" for index in range(1, 8)]


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_slices_ascend_along_the_normal_whatever_the_names(write_series, tmp_path, name):
    orientation = ORIENTATIONS[name]
    order = np.random.default_rng(1).permutation(7)
    stack = planes(7)
    # The file numbered n holds slice order[n].
    write_series(stack[order], orientation=orientation, distances=order * 2.0, origin=(1.0, 2.0, 3.0))
    array, meta = read(tmp_path / "series")
    np.testing.assert_array_equal(array, stack.transpose(2, 1, 0))
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lps = LPS_TO_RAS @ meta["affine"]
    np.testing.assert_allclose(lps[:3, 0], row, atol=1e-6)
    np.testing.assert_allclose(lps[:3, 1], column, atol=1e-6)
    np.testing.assert_allclose(lps[:3, 2], np.cross(row, column) * 2, atol=1e-6)
    np.testing.assert_allclose(lps[:3, 3], [1, 2, 3], atol=1e-6)


def test_names_without_suffix_and_junk(write_series, tmp_path):
    stack = planes(3)
    write_series(stack, names=["b", "IM.0001", "slice.IMA"])
    folder = tmp_path / "series"
    (folder / ".DS_Store").write_bytes(b"junk")
    (folder / "._slice.dcm").write_bytes(b"junk")
    (folder / "notes.txt").write_text("junk")
    (folder / "README").write_text("junk")
    (folder / "preview.jpg").write_bytes(cv2.imencode(".jpg", np.zeros((4, 4), np.uint8))[1].tobytes())
    (folder / "subfolder").mkdir()
    directory = pydicom.Dataset()
    directory.file_meta = pydicom.dataset.FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    directory.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    directory.DirectoryRecordSequence = []
    directory.save_as(folder / "DICOMDIR", enforce_file_format=True)
    array, meta = read(folder)
    np.testing.assert_array_equal(array, stack.transpose(2, 1, 0))
    assert meta["slice_files"] == ["b", "IM.0001", "slice.IMA"]


def test_spacing_is_measured_not_taken_from_the_thickness(write_series, tmp_path):
    write_series(planes(4), step=6.0, SliceThickness=5, SpacingBetweenSlices=5)
    assert read(tmp_path / "series")[1]["affine"][2, 2] == pytest.approx(6)


def test_a_tilted_stack_stays_tilted(write_series, tmp_path):
    def shift(index: int, dataset: Dataset) -> None:
        dataset.ImagePositionPatient = [0, index * 0.5, index * 2.0]

    write_series(planes(5), change=shift)
    affine = LPS_TO_RAS @ read(tmp_path / "series")[1]["affine"]
    np.testing.assert_allclose(affine[:3, 2], [0, 0.5, 2])


def test_single_file(write_series, tmp_path):
    stack = planes(3)
    write_series(stack, step=4.0, SliceThickness=4)
    array, meta = read(tmp_path / "series" / "Image-2.dcm")
    np.testing.assert_array_equal(array[..., 0], stack[1].T)
    np.testing.assert_allclose(
        LPS_TO_RAS @ meta["affine"], [[1, 0, 0, -10], [0, 1, 0, -20], [0, 0, 4, 34], [0, 0, 0, 1]]
    )


def test_files_of_a_series_that_shares_its_folder(write_series, tmp_path):
    """In any order, and under one name in different folders."""
    write_series(planes(6))
    whole = read(tmp_path / "series")
    for place, file in enumerate(sorted((tmp_path / "series").iterdir())):
        (tmp_path / f"disc{place}").mkdir()
        file.rename(tmp_path / f"disc{place}" / "IM1")
    files = [tmp_path / f"disc{place}" / "IM1" for place in (3, 0, 5, 2, 1, 4)]
    array, meta = SeriesReader().get_data(files)
    np.testing.assert_array_equal(array, whole[0])
    np.testing.assert_array_equal(meta["affine"], whole[1]["affine"])
    assert meta["filename_or_obj"] == str(tmp_path)
    np.testing.assert_array_equal(dicom_slices(files).affine, meta["affine"])


def test_slice_location_is_the_fallback(write_series, tmp_path):
    stack = planes(5)
    order = np.array([3, 1, 4, 0, 2])

    def change(index: int, dataset: Dataset) -> None:
        del dataset.ImagePositionPatient
        dataset.SliceLocation = f"{order[index] * 3 + 7}"

    write_series(stack[order], change=change)
    array, meta = read(tmp_path / "series")
    np.testing.assert_array_equal(array, stack.transpose(2, 1, 0))
    np.testing.assert_allclose(LPS_TO_RAS @ meta["affine"], [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 3, 7], [0, 0, 0, 1]])
    assert len(meta["warnings"]) == 1
    assert "SliceLocation" in meta["warnings"][0]


@pytest.mark.parametrize("how", ["InstanceNumber", "number in the file name", "by file name"])
def test_without_geometry(write_series, tmp_path, how):
    stack = planes(4)
    order = np.array([2, 0, 3, 1])
    names = {
        "InstanceNumber": ["a", "b", "c", "d"],
        # As text 12 comes before 2.
        "number in the file name": [["Image-2", "Image-3", "Image-12", "Image-101"][place] for place in order],
        "by file name": [["a", "b", "c", "d"][place] for place in order],
    }[how]

    def change(index: int, dataset: Dataset) -> None:
        del dataset.ImagePositionPatient
        del dataset.ImageOrientationPatient
        dataset.InstanceNumber = order[index] + 10 if how == "InstanceNumber" else 1

    write_series(stack[order], names=names, change=change, spacing=(0.5, 0.75), SliceThickness=3)
    array, meta = read(tmp_path / "series")
    np.testing.assert_array_equal(array, stack.transpose(2, 1, 0))
    np.testing.assert_allclose(meta["affine"], np.diag([-0.75, -0.5, 3, 1]))
    assert any("ImageOrientationPatient" in text for text in meta["warnings"])
    assert any(how in text for text in meta["warnings"])


def test_no_spacing_is_one_millimetre_and_said(write_series, tmp_path):
    write_series(planes(1), spacing=None)
    _, meta = read(tmp_path / "series")
    np.testing.assert_allclose(np.abs(meta["affine"][:3, :3]), np.eye(3))
    assert any("PixelSpacing" in text for text in meta["warnings"])
    assert any("SliceThickness" in text for text in meta["warnings"])


# --- DICOM: doubled, missing and uneven slices ------------------------------------------------------------------------


def test_identical_doubles_are_dropped(write_series, tmp_path, caplog):
    stack = planes(4)
    write_series(stack[[0, 1, 1, 2, 3]], distances=[0, 2, 2, 4, 6])
    array, meta = read(tmp_path / "series")
    np.testing.assert_array_equal(array, stack.transpose(2, 1, 0))
    assert meta["affine"][2, 2] == pytest.approx(2)
    assert len(meta["warnings"]) == 1
    assert "Image-3.dcm (as Image-2.dcm)" in meta["warnings"][0]
    assert [record.message for record in caplog.records] == [f"{tmp_path / 'series'}: {meta['warnings'][0]}"]


def test_different_doubles_are_refused(write_series, tmp_path):
    write_series(planes(5), distances=[0, 2, 4, 2, 6])
    with pytest.raises(SeriesError, match=r"Image-2.dcm and Image-4.dcm.*same position"):
        read(tmp_path / "series")


@pytest.mark.parametrize("missing", [[4], [4, 5], [2, 7], [1, 5, 6, 7]])
def test_blank_slices_stand_in_for_missing_ones(write_series, tmp_path, missing):
    stack = planes(10) + 5
    kept = [index for index in range(10) if index not in missing]
    write_series(stack[kept], distances=np.array(kept) * 2.5)
    array, meta = read(tmp_path / "series")
    assert array.shape == (5, 6, 10)
    np.testing.assert_array_equal(array[..., kept], stack[kept].transpose(2, 1, 0))
    assert (array[..., missing] == stack[kept].min()).all()
    assert meta["affine"][2, 2] == pytest.approx(2.5)
    assert [index for index, name in enumerate(meta["slice_files"]) if not name] == missing
    assert len(meta["warnings"]) == 1
    assert f"{len(missing)} slices missing" in meta["warnings"][0]
    assert f"{missing[0] * 2.5 - 2.5 + 30:.1f} mm" in meta["warnings"][0]


def test_gaps_off_the_grid_get_the_mean_spacing(write_series, tmp_path):
    distances = np.array([0, 2, 4, 7.1, 9.1, 12.2, 14.2, 16.2, 18.2])
    write_series(planes(9), distances=distances)
    array, meta = read(tmp_path / "series")
    assert array.shape[2] == 9
    assert meta["affine"][2, 2] == pytest.approx(18.2 / 8)
    off = np.abs(distances - np.arange(9) * 18.2 / 8).max()
    assert off > 0.5
    assert f"up to {off:.1f} mm off" in meta["warnings"][0]


def test_two_far_blocks_are_not_filled(write_series, tmp_path):
    write_series(planes(6), distances=[0, 2, 4, 100, 102, 104])
    array, meta = read(tmp_path / "series")
    assert array.shape[2] == 6
    assert "slices missing" in meta["warnings"][0]


def test_uneven_slices_are_said(write_series, tmp_path):
    write_series(planes(7), distances=[0, 2, 4, 6, 9, 12, 15])
    _, meta = read(tmp_path / "series")
    assert len(meta["warnings"]) == 1
    assert "unevenly spaced" in meta["warnings"][0]
    write_series(planes(5), "rounded", distances=[0, 2.01, 4, 5.99, 8])
    assert read(tmp_path / "rounded")[1]["warnings"] == []


# --- DICOM: values ----------------------------------------------------------------------------------------------------


def test_rescale_per_file(write_series, tmp_path):
    stack = planes(3).astype(np.int16) - 500

    def change(index: int, dataset: Dataset) -> None:
        if index:
            dataset.RescaleSlope, dataset.RescaleIntercept = index * 0.5, -10 * index

    write_series(stack, change=change)
    array, _ = read(tmp_path / "series")
    for k, (slope, intercept) in enumerate([(1, 0), (0.5, -10), (1, -20)]):
        np.testing.assert_array_equal(array[..., k], stack[k].T * slope + intercept)


def test_monochrome1_is_inverted(write_series, tmp_path):
    stack = planes(3)
    write_series(stack, PhotometricInterpretation="MONOCHROME1")
    array, _ = read(tmp_path / "series")
    np.testing.assert_array_equal(array, (int(stack.max()) + int(stack.min()) - stack.astype(int)).transpose(2, 1, 0))


GDCM = {
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless,
}


def compress(path: Path, syntax: pydicom.uid.UID) -> None:
    dataset = pydicom.dcmread(path)
    if syntax in GDCM:
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(GDCM[syntax]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    elif syntax == JPEG2000Lossless:
        coded = cv2.imencode(".jp2", dataset.pixel_array, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])[1].tobytes()
        # DICOM holds the code stream without the JP2 boxes around it.
        dataset.PixelData = encapsulate([coded[coded.index(b"\xff\x4f\xff\x51") :]])
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset["PixelData"].VR = "OB"
        dataset.save_as(path)
    else:
        dataset.compress(syntax)
        dataset.save_as(path)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless], ids=lambda uid: uid.keyword
)
def test_compressed(write_series, tmp_path, syntax):
    stack = planes(3, 40, 32)
    write_series(stack)
    for path in (tmp_path / "series").iterdir():
        compress(path, syntax)
    np.testing.assert_array_equal(read(tmp_path / "series")[0], stack.transpose(2, 1, 0))


def test_file_without_preamble(write_series, tmp_path):
    stack = planes(2)
    datasets = write_series(stack)
    for index, dataset in enumerate(datasets):
        del dataset.file_meta
        path = tmp_path / "series" / f"Image-{index + 1}.dcm"
        dataset.save_as(path, implicit_vr=bool(index), little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read(tmp_path / "series")[0], stack.transpose(2, 1, 0))


def test_enhanced_mr(tmp_path):
    stack, order = planes(4), np.array([2, 0, 3, 1])
    dataset = enhanced(stack, order, np.arange(4) * 1.5)
    path = tmp_path / "enhanced.dcm"
    dataset.save_as(path, enforce_file_format=True)
    array, meta = read(path)
    np.testing.assert_array_equal(array, (stack.astype(int) * 2 + np.arange(4)[:, None, None]).transpose(2, 1, 0))
    expected = [[0, 0, -1.5, 0], [0.8, 0, 0, 5], [0, -0.5, 0, 6], [0, 0, 0, 1]]
    np.testing.assert_allclose(LPS_TO_RAS @ meta["affine"], expected)
    assert meta["slice_files"][0] == "enhanced.dcm[1]"
    del dataset.PerFrameFunctionalGroupsSequence
    dataset.save_as(path, enforce_file_format=True, overwrite=True)
    with pytest.raises(SeriesError, match="4 frames without a position"):
        read(path)


# --- DICOM: what is refused -------------------------------------------------------------------------------------------


def test_two_series_are_named(write_series, tmp_path):
    uids = [
        write_series(planes(n), names=[f"{name}-{i}" for i in range(n)], SeriesDescription=name)[0].SeriesInstanceUID
        for n, name in ((4, "FLAIR"), (3, "T1w"))
    ]
    with pytest.raises(SeriesError) as raised:
        read(tmp_path / "series")
    text = str(raised.value)
    assert f"{uids[0]} 'FLAIR' (4 files); {uids[1]} 'T1w' (3 files)" in text
    assert str(tmp_path / "series") in text
    assert "Move each series into a folder of its own" in text


def replace(folder: Path, name: str, **attributes: Any) -> None:
    dataset = pydicom.dcmread(folder / name)
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(folder / name)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"Rows": 3, "Columns": 10}, r"different size: 6 rows x 5 columns: .*3 rows x 10 columns: Image-2.dcm"),
        ({"ImageOrientationPatient": list(CORONAL)}, r"different orientation: .*: Image-2.dcm"),
        ({"PixelSpacing": [2, 2]}, r"different pixel spacing: .*2 x 2: Image-2.dcm"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, r"photometric.*MONOCHROME1: Image-2.dcm"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, r"Image-2.dcm holds RGB pixels"),
        ({"PixelData": None}, r"no pixel data in Image-2.dcm"),
        ({"PixelData": b"12345678"}, r"pixels of Image-2.dcm can't be decoded"),
        ({"Rows": None}, r"Image-2.dcm has an unusable header"),
        ({"Rows": 60000}, r"Image-2.dcm: the header declares 60000 x 5 x 1 voxels, expected at most 4096"),
        ({"NumberOfFrames": 10**8}, r"Image-2.dcm: the header declares 6 x 5 x 100000000 voxels"),
    ],
)
def test_a_file_that_does_not_belong_is_named(write_series, tmp_path, attributes, message):
    write_series(planes(4))
    replace(tmp_path / "series", "Image-2.dcm", **attributes)
    with pytest.raises(SeriesError, match=message):
        read(tmp_path / "series")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("part", [0.0, 0.2, 0.6, 0.99])
def test_truncated_file_is_named(write_series, tmp_path, part, compressed):
    write_series(planes(4, 30, 30))
    path = tmp_path / "series" / "Image-2.dcm"
    if compressed:
        compress(path, RLELossless)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(SeriesError, match=r"Image-2.dcm"):
        read(tmp_path / "series")


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless], ids=["raw", "RLE", "JPEG 2000"])
def test_dicom_files_that_declare_too_much_are_refused_before_memory_is_taken(write_series, tmp_path, syntax):
    """Each file, and all of them together."""
    write_series(planes(30, 40, 32))
    for path in (tmp_path / "series").iterdir():
        if syntax is not None:
            compress(path, syntax)
        replace(tmp_path / "series", path.name, Rows=4000, Columns=4000)
    with little_memory(), pytest.raises(SeriesError, match="series: the header declares 4000 x 4000 x 30 voxels"):
        read(tmp_path / "series")
    for path in [*(tmp_path / "series").iterdir()][1:]:
        path.unlink()
    with little_memory() if syntax is None else nullcontext(), pytest.raises(SeriesError, match="can't be decoded"):
        read(tmp_path / "series")


@pytest.mark.parametrize(
    ("syntax", "start", "offset", "form"),
    [(JPEG2000Lossless, b"\xff\x4f\xff\x51", 8, ">II"), (JPEGLSLossless, b"\xff\xf7", 5, ">HH")],
)
def test_a_compressed_image_that_is_larger_than_its_header_says_is_not_unpacked(
    write_series, tmp_path, syntax, start, offset, form
):
    write_series(planes(1, 40, 32))
    (path,) = (tmp_path / "series").iterdir()
    compress(path, syntax)
    content = bytearray(path.read_bytes())
    place = content.index(start) + offset
    content[place : place + struct.calcsize(form)] = struct.pack(form, 20000, 20000)
    path.write_bytes(content)
    with little_memory(), pytest.raises(SeriesError, match=r"Image-1.dcm: the header declares 20000 x 20000 voxels"):
        read(tmp_path / "series")


def test_paths_without_a_series(tmp_path):
    with pytest.raises(SeriesError, match=r"nowhere: no such file or folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(SeriesError, match=r"found 0 files"):
        read(tmp_path)
    (tmp_path / "FLAIR").mkdir()
    with pytest.raises(SeriesError, match=r"1 folders \(FLAIR\).*Pass the folder of one series"):
        read(tmp_path)
    (tmp_path / "notes.txt").write_text("junk")
    with pytest.raises(SeriesError, match=r"notes.txt: found neither DICOM nor NIfTI"):
        read(tmp_path / "notes.txt")
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4)), tmp_path / "flair.nii.gz")
    with pytest.raises(SeriesError, match=r"Pass the path of the NIfTI file itself \(flair.nii.gz\)"):
        read(tmp_path)
    with pytest.raises(SeriesError, match=r"flair.nii.gz: found neither DICOM nor NIfTI"):
        SeriesReader().get_data([tmp_path / "flair.nii.gz", tmp_path / "notes.txt"])


# The files behind the slices


def test_headers_come_in_the_order_of_the_slices(write_series, tmp_path):
    """Of a series with a gap, a doubled slice, and names that say nothing."""
    distances = np.array([9.0, 0.0, 6.0, 15.0, 3.0, 6.0])  # 12.0 is missing, 6.0 is there twice
    stack = planes(6)
    stack[5] = stack[2]
    write_series(stack, distances=distances, orientation=OBLIQUE, origin=(1.0, 2.0, 3.0))
    _, meta = SeriesReader().get_data(tmp_path / "series")
    found = dicom_slices(tmp_path / "series")
    names = ["" if header is None else Path(header.filename).name for header in found.headers]
    assert names == meta["slice_files"]
    assert names[4] == ""
    assert found.frames == [0] * 6
    np.testing.assert_array_equal(found.affine, meta["affine"])
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    expected = np.array([1.0, 2.0, 3.0]) + np.outer(np.arange(6) * 3.0, normal)
    np.testing.assert_allclose(found.positions, expected, atol=1e-6)
    np.testing.assert_allclose(found.orientation, OBLIQUE, atol=1e-9)
    assert found.spacing == (1.0, 1.0)
    assert all("PixelData" not in header for header in found.headers if header is not None)


def test_positions_are_what_the_headers_say(write_series, tmp_path):
    """Where slices are unevenly spaced, the volume's affine is off; its files are not."""
    distances = [0.0, 2.0, 3.0, 7.0]
    write_series(planes(4), distances=distances, origin=(0.0, 0.0, 0.0))
    np.testing.assert_array_equal(dicom_slices(tmp_path / "series").positions[:, 2], distances)


def test_frames_of_one_file(tmp_path):
    dataset = enhanced(planes(4), np.array([2, 0, 3, 1]), np.arange(4) * 1.5)
    dataset.save_as(tmp_path / "enhanced.dcm", enforce_file_format=True)
    found = dicom_slices(tmp_path / "enhanced.dcm")
    assert found.frames == [1, 3, 0, 2]
    np.testing.assert_array_equal(found.positions[:, 0], [0, -1.5, -3, -4.5])
    assert {id(header) for header in found.headers} == {id(found.headers[0])}


def test_headers_without_a_place(write_series, tmp_path):
    write_series(planes(3), change=lambda index, dataset: delattr(dataset, "ImagePositionPatient"))
    found = dicom_slices(tmp_path / "series")
    assert found.positions is None
    assert [header.InstanceNumber for header in found.headers] == [1, 2, 3]


def test_what_is_no_dicom_has_no_headers(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4)), tmp_path / "volume.nii.gz")
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures" / "Image-1.png"), np.zeros((4, 4), np.uint8))
    assert dicom_slices(tmp_path / "volume.nii.gz") is None
    assert dicom_slices(tmp_path / "pictures") is None
    with pytest.raises(SeriesError, match="gone"):
        dicom_slices(tmp_path / "gone")


# --- damaged and hostile files ------------------------------------------------------------------------------------------


def _first(folder):
    """A file of a series, its bytes, and where its file meta information ends."""
    file = sorted(folder.iterdir())[0]
    data = file.read_bytes()
    return file, data, 144 + int.from_bytes(data[140:144], "little")


@pytest.mark.slow
def test_a_deflated_file_that_unpacks_to_gigabytes_is_refused(write_series, tmp_path):
    (dataset, *_) = write_series(planes(3))
    file = _first(tmp_path / "series")[0]
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(file, enforce_file_format=True)
    np.testing.assert_array_equal(read_dicom(file).pixel_array, planes(3)[0])  # a sound one is read
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    _, data, end = _first(tmp_path / "series")
    file.write_bytes(data[:end] + block * 120)  # 2 GB in 2 MB
    with little_memory(), pytest.raises(SeriesError, match=r"Image-1.*deflated content unpacks to .* export it again"):
        read_dicom(file)


@pytest.mark.parametrize("depth", [30, 20_000])
def test_sequences_in_sequences(write_series, tmp_path, depth):
    write_series(planes(3))
    file, data, end = _first(tmp_path / "series")
    start = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    close = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    file.write_bytes(data[:end] + start * depth + close * depth + data[end:])
    if depth < 100:
        assert read(tmp_path / "series")[0].shape[2] == 3
        return
    with pytest.raises(SeriesError, match=r"nests sequences deeper than can be read.*export it again"):
        read(tmp_path / "series")


@pytest.mark.parametrize("how", [{"spacing": (1e-7, 1e-7)}, {"spacing": (1e6, 1.0)}, {"origin": (0.0, 0.0, 1e7)}])
def test_a_geometry_in_which_nothing_can_lie_is_refused(write_series, tmp_path, how):
    write_series(planes(3), **how)
    with pytest.raises(SeriesError, match=r"unusable affine .* expected voxels of 0.001 to 1000 mm .* Export"):
        read(tmp_path / "series")


def test_pixels_that_no_decoder_takes_are_reported_on_one_line(write_series, tmp_path):
    broken = b"\xff\xd8\xff\xc3" + struct.pack(">HBHH", 11, 16, 6, 5) + b"\x01\x01\x11\x00\xff\xd9"

    def compress(index, dataset):
        dataset.PixelData = encapsulate([broken])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1

    write_series(planes(3), change=compress)
    with pytest.raises(SeriesError, match=r"the pixels of Image-1\.dcm can't be decoded .*: copy it again") as info:
        read(tmp_path / "series")
    assert "\n" not in str(info.value)


def test_values_that_are_no_numbers_become_zero(write_series, tmp_path):
    values = planes(3)
    write_series(values, RescaleSlope="1e28")
    array, meta = read(tmp_path / "series")
    assert np.isfinite(array).all()
    assert "NaN or infinite voxels set to 0" in meta["warnings"][0]
    write_series(values + 1, "all", RescaleSlope="1e38")
    with pytest.raises(SeriesError, match=r"all voxels are NaN, infinite, .* Export the series again"):
        read(tmp_path / "all")


def test_file_meta_of_an_unknown_representation_is_reported(write_series, tmp_path):
    write_series(planes(3))
    file = sorted((tmp_path / "series").iterdir())[0]
    file.write_bytes(file.read_bytes().replace(b"\x02\x00\x02\x00UI", b"\x02\x00\x02\x00BI", 1))
    with pytest.raises(SeriesError, match=rf"{file.name}: its file meta information can't be read .*\. Copy it again"):
        read(tmp_path / "series")


@pytest.mark.parametrize(
    ("attribute", "raises"),
    [
        (b"\x08\x00\x70\x00LO", None),
        (b"\x28\x00\x30\x00DS", "unusable header"),
        (b"\x20\x00\x0e\x00UI", "unusable header"),
        (b"\x28\x00\x10\x00US", ""),
    ],
)
def test_an_unknown_kind_of_value_is_empty_or_named(tmp_path, attribute, raises):
    """Of what a series can do without, and of what it can't; a guided fuzzer found it."""
    files = sound.save_dicom(sound.dicom(0, "00001"), tmp_path / "FLAIR")
    for file in files:
        content = file.read_bytes()
        assert content.count(attribute) == 1
        file.write_bytes(content.replace(attribute, attribute[:4] + b"M" + attribute[5:]))
    if raises is None:
        assert SeriesReader().get_data(tmp_path / "FLAIR")[1]["scanner"] == "3 T"
    else:
        with pytest.raises(SeriesError, match=rf"FLAIR: .*{raises}"):
            SeriesReader().get_data(tmp_path / "FLAIR")
