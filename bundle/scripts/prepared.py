"""Prepared series: one HDF5 file per series, written whole or not at all, readable slice by slice.

A file holds the kept slices as uint8 images, the WT and ET masks of *all* slices as bits, the position of every kept slice in the
series, the geometry of the series, and a fingerprint of its making. Images and masks are compressed slice by slice, so that a
shuffled loader reads single slices, with a codec that decodes at memory speed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from custom_transforms import SliceGeometry

from .errors import UserError
from .files import written_whole

FORMAT = "brats-mri-radiogenomics/series/2"
_COMPRESSION = hdf5plugin.Blosc2(cname="lz4hc", clevel=9, filters=hdf5plugin.Blosc2.NOFILTER)


class PreparedError(UserError):
    """A prepared series that is missing or unreadable."""


def write_series(
    path: str | Path,
    image: np.ndarray,
    slices: np.ndarray,
    masks: np.ndarray,
    info: Mapping[str, Any],
    geometry: SliceGeometry | None = None,
) -> None:
    """Write a prepared series, whole or not at all.

    Args:
        path: file to write; folders are made.
        image: ``(K, H, W)`` uint8, the kept slices.
        slices: ``(K,)`` their indices among the N slices of the series, ascending.
        masks: ``(N, 2, H, W)`` bool, WT and ET of every slice.
        info: facts of the series: ``patient``, ``mri_type``, ``fingerprint``, warnings, counts. Anything JSON.
        geometry: where the slices lie in space; None for slices of a training set.
    """
    if (image.shape[1:] != masks.shape[2:] and len(image)) or len(image) != len(slices) or masks.shape[1] != 2:
        raise ValueError(
            f"{path}: image {image.shape}, slices {slices.shape} and masks {masks.shape} do not fit together"
        )
    height, width = masks.shape[2:]
    bits = np.packbits(masks.reshape(len(masks), 2, height * width), axis=-1)
    # in memory first: HDF5 prints many errors when the disk is full
    with h5py.File("series", "w", driver="core", backing_store=False, track_order=False) as file:
        # one-slice chunks, which make slices readable one by one, need at least one slice
        chunked = {"chunks": (1, height, width), "compression": _COMPRESSION} if len(image) else {}
        file.create_dataset("image", data=image.reshape(-1, height, width).astype(np.uint8), **chunked)
        chunked = {"chunks": (1, 2, bits.shape[-1]), "compression": _COMPRESSION} if bits.size else {}
        file.create_dataset("masks", data=bits, **chunked)
        file.create_dataset("slices", data=np.asarray(slices, dtype=np.int32))
        file.attrs["format"] = FORMAT
        file.attrs["size"] = (height, width)
        file.attrs["info"] = json.dumps(info)
        file.attrs["geometry"] = json.dumps(geometry.to_dict() if geometry else None)
        file.flush()
        content = file.id.get_file_image()
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


class PreparedSeries:
    """A prepared series on disk; only its header is read on creation.

    Args:
        path: its file.
        keep_open: until the object goes; for many reads. Only the process that opened it may read.
    """

    def __init__(self, path: str | Path, keep_open: bool = False) -> None:
        self.path = Path(path)
        self._kept: tuple[h5py.Dataset, h5py.Dataset] | None = None
        with self._datasets(keep_open) as (image, masks):
            file = image.file
            height, width = map(int, file.attrs["size"])
            self.size = (height, width)
            self.info: dict[str, Any] = json.loads(file.attrs["info"])
            geometry = json.loads(file.attrs["geometry"])
            self.slices: np.ndarray = file["slices"][:]
            self.n_slices: int = masks.shape[0]
            self._kept = (image, masks) if keep_open else None
        self.geometry = SliceGeometry.from_dict(geometry) if geometry else None

    def __len__(self) -> int:
        """Number of kept slices."""
        return len(self.slices)

    def require_geometry(self) -> SliceGeometry:
        """The position of the slices in space.

        Raises:
            PreparedError: when the series was prepared for the training of stage 1, without geometry.
        """
        if self.geometry is None:
            raise PreparedError(
                f"{self.path}: found slices for the training of the segmentation, expected a series with its geometry; prepare it "
                "with `radiogenomics prepare classification`"
            )
        return self.geometry

    @contextmanager
    def _datasets(self, keep_open: bool = False) -> Iterator[tuple[h5py.Dataset, h5py.Dataset]]:
        """The images and masks in the file; finding them takes longer than reading a slice."""
        if self._kept is not None:
            yield self._kept
            return
        with ExitStack() as stack:
            try:
                file = stack.enter_context(h5py.File(self.path, "r"))
            except OSError as error:
                raise PreparedError(
                    f"{self.path}: not a readable prepared series ({error}); prepare it again"
                ) from error
            if file.attrs.get("format") != FORMAT:
                raise PreparedError(
                    f"{self.path}: format {file.attrs.get('format')!r}, expected {FORMAT!r}; remove it and prepare again"
                )
            yield file["image"], file["masks"]
            if keep_open:
                stack.pop_all()

    def images(self) -> np.ndarray:
        """The kept slices ``(K, H, W)`` uint8."""
        with self._datasets() as (image, _):
            return image[:]

    def masks(self) -> np.ndarray:
        """WT and ET of every slice of the series, ``(N, 2, H, W)`` uint8 of 0 and 1."""
        with self._datasets() as (_, masks):
            return self._unpack(masks[:])

    def stacks(self, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Kept slices ``start:stop`` and their masks: ``(k, H, W)`` uint8 and ``(k, 2, H, W)`` uint8 of 0 and 1."""
        wanted = self.slices[start:stop]
        with self._datasets() as (image, masks):
            # HDF5 reads a list of rows slowly and a range fast; kept slices are nearly always a range
            first, last = (wanted[0], wanted[-1] + 1) if len(wanted) else (0, 0)
            bits = masks[first:last]
            if len(bits) != len(wanted):
                bits = bits[wanted - first]
            return image[start:stop], self._unpack(bits)

    def _unpack(self, bits: np.ndarray) -> np.ndarray:
        height, width = self.size
        return np.unpackbits(bits, axis=-1, count=height * width).reshape(len(bits), 2, height, width)
