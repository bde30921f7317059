"""DICOM files with damaged or hostile headers."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEGLosslessSV1,
)

from custom_transforms import (
    SeriesError,
    SeriesReader,
)
from custom_transforms.dicom_file import read_dicom
from tests.campaigns import sound
from tests.custom_transforms.stacks import (
    little_memory,
    planes,
    read,
)


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
