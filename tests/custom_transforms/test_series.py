from __future__ import annotations

import gzip
import json
import pickle
import re
import shutil
import struct
import tracemalloc
import zlib
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import cv2
import gdcm
import h5py
import itk
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import LoadImage, LoadImaged, Orientation
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    EnhancedMRImageStorage,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)
from scipy.spatial.transform import Rotation

from custom_transforms import (
    AcquisitionSlices,
    AcquisitionSlicesD,
    AcquisitionSlicesd,
    AcquisitionSlicesDict,
    SeriesError,
    SeriesReader,
    SliceGeometry,
    dicom_slices,
)

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
ROWS_UPWARDS = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
OBLIQUE = tuple((Rotation.from_euler("xyz", [20, -15, 35], degrees=True).as_matrix()[:, :2]).T.ravel().tolist())
ORIENTATIONS = {
    "axial": AXIAL,
    "coronal": CORONAL,
    "sagittal": SAGITTAL,
    "rows upwards": ROWS_UPWARDS,
    "oblique": OBLIQUE,
}


def planes(n: int, rows: int = 6, columns: int = 5) -> np.ndarray:
    return np.random.default_rng(67).integers(0, 1000, (n, rows, columns)).astype(np.uint16)


def read(path: Path) -> tuple[np.ndarray, dict]:
    reader = SeriesReader()
    return reader.get_data(reader.read(path))


def assert_same_as_itk(array: np.ndarray, affine: np.ndarray, folder: Path) -> None:
    """Voxels that ITK reads lie at the same place in the patient with the same value."""
    names = itk.GDCMSeriesFileNames.New()
    names.SetDirectory(str(folder))
    (uid,) = names.GetSeriesUIDs()
    image = itk.imread(list(names.GetFileNames(uid)), itk.F)
    values = itk.array_from_image(image)
    assert values.size == array.size
    direction = itk.array_from_matrix(image.GetDirection()) @ np.diag(list(image.GetSpacing()))
    # All voxels of a small image, every 101st or so of a real one.
    kji = np.stack(
        np.unravel_index(np.arange(0, values.size, 1 if values.size < 10_000 else 101), values.shape), axis=1
    )
    # ITK's own function for some of them: the matrix here must be what ITK means.
    for k, j, i in kji[:: len(kji) // 5]:
        index = [int(i), int(j), int(k)]
        np.testing.assert_allclose(
            list(image.TransformIndexToPhysicalPoint(index)), list(image.GetOrigin()) + direction @ index, atol=1e-4
        )
    points = kji[:, ::-1] @ direction.T + np.array(list(image.GetOrigin()))
    ras = np.c_[points * [-1, -1, 1], np.ones(len(points))]
    index = (ras @ np.linalg.inv(affine).T)[:, :3]
    np.testing.assert_allclose(index, np.rint(index), atol=0.02)
    found = array[tuple(np.rint(index).astype(int).T)]
    np.testing.assert_array_equal(found, values[tuple(kji.T)])


def brain(shape: tuple[int, int, int] = (24, 28, 20), seed: int = 5) -> np.ndarray:
    """An ellipsoid of noisy whole grey values from 1 up that reaches the last slice, 0 around it."""
    axes = [np.linspace(-1, 1, length) * reach for length, reach in zip(shape, (1.2, 1.2, 1.0), strict=True)]
    inside = sum(axis**2 for axis in np.ix_(*axes)) < 0.95
    values = np.random.default_rng(seed).normal(300, 80, shape).clip(1, 1000).round()
    return np.where(inside, values, 0).astype(np.float32)


def read_nifti(values: np.ndarray, folder: Path) -> tuple[np.ndarray, dict]:
    nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "volume.nii")
    return read(folder / "volume.nii")


# --- DICOM: geometry --------------------------------------------------------------------------------------------------


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


def compress(path: Path, syntax: pydicom.uid.UID) -> None:
    dataset = pydicom.dcmread(path)
    if syntax == JPEGLosslessSV1:
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
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


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLosslessSV1, JPEG2000Lossless], ids=lambda uid: uid.keyword)
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


def enhanced(stack: np.ndarray, order: np.ndarray, positions: np.ndarray) -> Dataset:
    def item(**attributes: Any) -> Dataset:
        dataset = Dataset()
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        return dataset

    def group(**attributes: Any) -> DicomSequence:
        return DicomSequence([item(**attributes)])

    dataset = item(
        SOPClassUID=EnhancedMRImageStorage,
        SOPInstanceUID=generate_uid(),
        SeriesInstanceUID=generate_uid(),
        Modality="MR",
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        NumberOfFrames=len(stack),
        Rows=stack.shape[1],
        Columns=stack.shape[2],
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=0,
        PixelData=stack[order].tobytes(),
        SharedFunctionalGroupsSequence=group(
            PlaneOrientationSequence=group(ImageOrientationPatient=list(SAGITTAL)),
            PixelMeasuresSequence=group(PixelSpacing=[0.5, 0.8], SliceThickness=2),
        ),
        PerFrameFunctionalGroupsSequence=DicomSequence(
            item(
                PlanePositionSequence=group(ImagePositionPatient=[float(-positions[place]), 5, 6]),
                PixelValueTransformationSequence=group(RescaleSlope=2, RescaleIntercept=int(place)),
            )
            for place in order
        ),
    )
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


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


def test_a_compressed_image_that_is_larger_than_its_header_says_is_not_unpacked(write_series, tmp_path):
    write_series(planes(1, 40, 32))
    (path,) = (tmp_path / "series").iterdir()
    compress(path, JPEG2000Lossless)
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\x4f\xff\x51") + 8
    content[start : start + 8] = struct.pack(">II", 20000, 20000)
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
    with pytest.raises(SeriesError, match=r"Found 2 paths"):
        SeriesReader().get_data([tmp_path / "a.nii", tmp_path / "b.nii"])


# --- NIfTI and pictures -----------------------------------------------------------------------------------------------


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


@contextmanager
def little_memory():
    """See that no more than 20 MB are taken: numpy and Python tell what they ask for, without touching it."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((512, 512, 300), np.int16, "found .* bytes.* expected 157286752 from its header"),
        ((512, 512, 300), np.float64, "declares 629,145,952 bytes, expected at most 400,000,000"),
        (
            (2000, 2000, 2000),
            np.int16,
            r"declares 2000 x 2000 x 2000 voxels, expected at most 4096 a side and 100,000,000",
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


def png(width: int, height: int) -> bytes:
    """A black picture, row by row: a bomb when it is large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = b"".join([*(packer.compress(bytes(1 + width)) for _ in range(min(height, 100))), packer.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((9000, 9000), r"Image-1.png: the header declares 9000 x 9000 voxels, expected at most 4096"),
        ((60000, 60000), r"Image-1.png is no slice of a brain \(.*3600000000 pixels.*\). Remove it"),
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
    with pytest.raises(SeriesError, match=rf"Image-1.{suffix} is no readable picture"):
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


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_a_skull_stripped_series_is_no_head(tmp_path, axis):
    """The whole brain, or half of it."""
    stripped = head(scalp=False)
    half = stripped if axis is None else np.take(stripped, range(stripped.shape[axis] // 2), axis)
    assert read_nifti(half, tmp_path)[1]["warnings"] == []


@pytest.mark.parametrize("air", ["noise", "zero"])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 6), (2, 2, 2)])
def test_a_series_with_its_skull_is_said_to_have_it(tmp_path, air, spacing, caplog):
    values = head(scalp=True, spacing=spacing)
    if air == "noise":
        values += np.random.default_rng(0).rayleigh(8, values.shape).round().astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([*spacing, 1])), tmp_path / "head.nii")
    array, meta = read(tmp_path / "head.nii")
    np.testing.assert_array_equal(array, values)
    (warning,) = meta["warnings"]
    fact = "the air around the head is noise" if air == "noise" else "within a bright rim, lies a dark one"
    assert re.match(rf"looks as if it had its skull: .*{fact}.*; expected a skull-stripped series\. ", warning)
    assert warning in caplog.text


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


def test_real_series_are_said_to_have_their_skull_only_where_they_do(real_data: Path, tmp_path):
    for file in (real_data / "raw" / "06692" / "export").iterdir():
        folder = tmp_path / str(pydicom.dcmread(file, stop_before_pixels=True).SeriesInstanceUID)
        folder.mkdir(exist_ok=True)
        shutil.copy(file, folder)
    heads = list(tmp_path.iterdir())
    assert len(heads) == 4
    for path in heads:
        assert [text[:30] for text in read(path)[1]["warnings"]] == ["looks as if it had its skull: "]
    stripped = [*real_data.glob("task1/*/*.nii.gz"), *real_data.glob("brats2023/*/*.nii.gz")]
    stripped += real_data.glob("task2/train/*/*")
    stripped += sorted(path for path in real_data.glob("cohort/*/*.nii.gz") if not path.name.endswith("_seg.nii.gz"))[
        ::7
    ]
    for path in stripped:
        assert read(path)[1]["warnings"] == [], path


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
    with pytest.raises(SeriesError, match=r"Image-2.png is no readable picture"):
        read(tmp_path / "a")


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
    for name in (tmp_path, "a/Image-1.dcm", "a.nii", "a.NII.GZ", "IM0001"):
        assert reader.verify_suffix(name)
    for name in ("a.jpg", "a.npz", ("a.nii", "b.nii")):
        assert not reader.verify_suffix(name)


# --- SliceGeometry ----------------------------------------------------------------------------------------------------

SIGNED_PERMUTATIONS = [
    (order, signs)
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1))
]


def affine_of(order: tuple[int, ...], signs: tuple[int, ...], spacing: Any, angles: Any = (0, 0, 0)) -> np.ndarray:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = turn @ (np.eye(3)[:, list(order)] * signs * spacing)
    affine[:3, 3] = (3, -5, 7)
    return affine


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


# --- real -------------------------------------------------------------------------------------------------------------


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
