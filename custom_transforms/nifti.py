"""NIfTI input: the volume of a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .volume import MAX_VOXELS, SeriesError, Volume, check_affine, check_size, finite_voxels

NIFTI_SUFFIXES = (".nii", ".nii.gz")
MAX_NIFTI_BYTES = 4 * MAX_VOXELS  # nibabel takes three times as much memory to unpack them
# gzip packs at most 1032 bytes into one.
MAX_GZIP_RATIO = 1100


def open_nifti(path: Path) -> tuple[Any, tuple[int, int, int], np.ndarray]:
    """nibabel's image of a file, without reading voxels, the shape of its volume ``(X, Y, Z)`` and its affine.

    Raises:
        SeriesError: when it is damaged, or not a volume.
    """
    try:
        image: Any = nib.load(path, mmap=False)  # a stalled memory-mapped file would block all threads
        shape = image.shape
        if image.get_data_dtype().kind not in "iuf":
            raise SeriesError(
                f"{path}: found {image.get_data_dtype()} voxels, expected grey values (integer or float)."
            )
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) == 2:
            shape = (*shape, 1)
        if len(shape) != 3 or min(shape) < 1:
            raise SeriesError(
                f"{path}: found a NIfTI file of shape {tuple(image.shape)}, expected one volume (X, Y, Z). Split it into one "
                "file per volume and pass one of them."
            )
        check_size(str(path), shape)
        affine = np.array(image.affine, dtype=np.float64)
    except SeriesError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error
    check_affine(str(path), affine, "Repair the file's sform or qform.")
    return image, shape, affine


def read_nifti(path: Path) -> Volume:
    """The volume of a NIfTI file.

    Raises:
        SeriesError: when it is damaged, or not a volume.
    """
    image, shape, affine = open_nifti(path)
    try:
        _check_nifti_file(path, image.dataobj.offset + math.prod(shape) * image.get_data_dtype().itemsize)
        array = np.asanyarray(image.dataobj, dtype=np.float32).reshape(shape)
    except SeriesError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error
    warnings = []
    if int(image.header.get("sform_code", 1)) == 0 and int(image.header.get("qform_code", 1)) == 0:
        warnings.append("neither sform nor qform is set: orientation and position in the patient are unknown.")
    (array,), cleared = finite_voxels(str(path), [array])
    return Volume(np.ascontiguousarray(array), affine, [], warnings + cleared)


def _unreadable(path: Path, error: Exception) -> SeriesError:
    return SeriesError(
        f"{path}: unreadable or truncated NIfTI file ({type(error).__name__}: {error}). Copy it again from its source."
    )


def _check_nifti_file(path: Path, declared: int) -> None:
    """The bytes that the header declares must fit into the file; nibabel takes the memory before it reads."""
    if declared > MAX_NIFTI_BYTES:
        raise SeriesError(
            f"{path}: the header declares {declared:,} bytes, expected at most {MAX_NIFTI_BYTES:,}. Save it as integers or float32 "
            "where it holds wider numbers; else the header is damaged."
        )
    size = path.stat().st_size
    room = size * MAX_GZIP_RATIO if path.suffix.lower() == ".gz" else size
    if declared > room:
        packed = f", which unpacks to {room} at most" if room > size else ""
        raise SeriesError(
            f"{path}: unreadable or truncated NIfTI file: found {size} bytes{packed}, expected {declared} from its header. Copy "
            "it again from its source."
        )
