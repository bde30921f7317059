"""One DICOM file: opened with care, because it may be damaged or hostile."""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from .volume import MAX_VOXELS, SeriesError

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
LONGEST_META = 4096  # bytes of a file that contain its transfer syntax
MAX_UNPACKED = 4 * MAX_VOXELS  # bytes


def open_dicom(path: Path, **options: Any) -> pydicom.Dataset:
    """``pydicom.dcmread`` that refuses a deflated file of a few MB that unpacks to gigabytes before memory is taken for it.

    Raises:
        SeriesError: for such a file, and for one with sequences nested too deep.
    """
    with open(path, "rb") as stream:
        deflated = DeflatedExplicitVRLittleEndian.encode() in stream.read(LONGEST_META)
    if deflated and (size := _unpacked_size(path)) > MAX_UNPACKED:
        raise SeriesError(
            f"{path}: its deflated content unpacks to {size:,} bytes or more, expected at most {MAX_UNPACKED:,}. The file is damaged, or "
            "no series of one brain: export it again."
        )
    try:
        return pydicom.dcmread(path, **options)
    except RecursionError:
        raise SeriesError(
            f"{path}: its header nests sequences deeper than can be read. The file is damaged: export it again."
        ) from None


def _unpacked_size(path: Path) -> int:
    """Unpacked size of the deflated part of a file in bytes, counted up to the limit; nothing is kept."""
    unpacker, size, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, b""
    with open(path, "rb") as stream:
        stream.seek(0 if stream.read(132)[128:] != b"DICM" else 132)
        read_dataset(stream, False, True, stop_when=lambda tag, vr, length: int(tag) >> 16 != 2)
        with contextlib.suppress(zlib.error):  # pydicom reports it
            while size <= MAX_UNPACKED and not unpacker.eof and (rest or (rest := stream.read(1 << 18))):
                size += len(unpacker.decompress(rest, 1 << 22))
                rest = unpacker.unconsumed_tail
    return size


def read_dicom(path: Path, pixels: bool = True) -> pydicom.Dataset | None:
    """Read one file; None if it is not a DICOM file and its name does not claim it."""
    suffix = path.suffix.lower()
    dataset: pydicom.Dataset
    try:
        dataset = open_dicom(path, stop_before_pixels=not pixels)
    except InvalidDicomError:
        if suffix != "" and suffix not in DICOM_SUFFIXES:
            return None
        # Old files lack the 128-byte preamble that identifies DICOM.
        try:
            dataset = open_dicom(path, stop_before_pixels=not pixels, force=True)
        except Exception:
            dataset = pydicom.Dataset()
        if "SOPClassUID" not in dataset or "Rows" not in dataset:
            if suffix == "":
                return None
            raise SeriesError(
                f"{path}: not a readable DICOM file ({path.stat().st_size} bytes). Copy it again from its source, or "
                "remove it from the folder."
            ) from None
        if "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
            dataset.file_meta = FileMetaDataset()
            is_explicit = getattr(dataset, "original_encoding", (True, True))[0] is False
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if is_explicit else ImplicitVRLittleEndian
    except SeriesError:
        raise
    except Exception as error:
        raise SeriesError(
            f"{path}: unreadable or truncated DICOM file ({error}). Copy it again from its source, or remove it from "
            "the folder."
        ) from error
    try:
        is_directory = dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage
    except Exception as error:
        raise SeriesError(
            f"{path}: its file meta information can't be read ({error}). Copy it again from its source, or remove it from "
            "the folder."
        ) from error
    return None if is_directory else dataset
