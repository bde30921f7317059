"""The display of grey values by a DICOM header: its VOI LUT, a window or a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from .dicom_order import Frame
from .volume import SeriesError, some

try:
    from pydicom.pixels import apply_voi_lut
except ImportError:  # before pydicom 3
    from pydicom.pixel_data_handlers.util import apply_voi_lut  # type: ignore[no-redef]

_LUT = ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence")


def with_voi_lut(
    path: Path, frames: list[Frame], planes: list[np.ndarray]
) -> tuple[list[np.ndarray], list[str], tuple[float, float] | None]:
    """Rescaled slices for display, each by the first window or table of its header, and warnings.

    A table has precedence over a window. A window stretches to the range of the stored bits (PS3.3 C.11.2.1.2), a table to its own.

    Args:
        path: of the series, for messages.
        frames: the slices' headers.
        planes: (rows, columns) float32 of each, after rescaling.

    Returns:
        planes, float32, slices without a window or table unchanged, as the warnings say; and the values of black
        and white, None where slices differ in them or have neither window nor table.

    Raises:
        SeriesError: for a window or table that can't be applied, a width of 0 for example.
    """
    shown, without, ranges = [], [], set()
    for frame, plane in zip(frames, planes, strict=True):
        header = _voi_lut_of(frame)
        if not _is_usable(header):
            without.append(frame.name)
            shown.append(plane)
            continue
        values: np.ndarray = plane
        try:
            if header.get("VOILUTSequence"):
                entries, first = (int(number) for number in header.VOILUTSequence[0].LUTDescriptor[:2])
                # whole numbers from the first to the last entry, because pydicom would wrap values beyond 16 bits
                values = np.clip(np.rint(plane), first, first + (entries or 1 << 16) - 1).astype(np.int64)
            seen = np.asarray(apply_voi_lut(values, header), np.float32)
            if not np.isfinite(seen).all():
                raise ValueError("it gives NaN or infinity")
            shown.append(seen)
            ranges.add(_range_of(header))
        except Exception as error:
            raise SeriesError(
                f"{path}: the window or VOI LUT of {frame.name} can't be applied ({error}). Read the series without voi_lut, "
                "as `show --window percentile` does."
            ) from error
    if len(without) == len(frames):
        return shown, ["no window or VOI LUT in the header: grey values are as they were stored."], None
    if without:
        return (
            shown,
            [
                f"{len(without)} of {len(frames)} slices have no window or VOI LUT ({some(without)}): their grey values are as they were "
                "stored, and can't be compared with those of the others."
            ],
            None,
        )
    return shown, [], ranges.pop() if len(ranges) == 1 else None


def _range_of(header: pydicom.Dataset) -> tuple[float, float]:
    """The values of black and white after the window (PS3.3 C.11.2.1.2: the range of the stored values, rescaled) or the table."""
    if header.get("VOILUTSequence"):
        return 0.0, float((1 << int(header.VOILUTSequence[0].bits_per_entry)) - 1)
    bits, signed = int(header.BitsStored), int(header.PixelRepresentation) == 1
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    slope, intercept = float(header.RescaleSlope), float(header.RescaleIntercept)
    return low * slope + intercept, high * slope + intercept


def _voi_lut_of(frame: Frame) -> pydicom.Dataset:
    """The parts of a slice's header that pydicom needs; Enhanced MR has a window per frame."""
    dataset, header = frame.dataset, pydicom.Dataset()
    groups: list[Any] = [
        *list(dataset.get("PerFrameFunctionalGroupsSequence", ()))[frame.index : frame.index + 1],
        *list(dataset.get("SharedFunctionalGroupsSequence", ()))[:1],
    ]
    sources = [item for group in groups for item in list(group.get("FrameVOILUTSequence", ()))[:1]]
    source = next(iter(sources), dataset)
    for keyword in _LUT:
        if source.get(keyword) not in (None, ""):
            header.add(source[keyword])
    if header.get("VOILUTSequence"):
        item = header.VOILUTSequence[0]
        table = pydicom.Dataset()
        if item.get("LUTDescriptor") and item.get("LUTData") is not None:
            table.update({element.tag: element for element in (item["LUTDescriptor"], item["LUTData"])})
            # pydicom counts the entries of a table of 8 bits in 8 bits
            table.bits_per_entry = int(item.LUTDescriptor[2])  # an attribute of this Dataset only, not a DICOM keyword
            table.LUTDescriptor = [*item.LUTDescriptor[:2], max(16, int(item.LUTDescriptor[2]))]
        header.VOILUTSequence = [table]
    for keyword in ("PhotometricInterpretation", "BitsStored", "PixelRepresentation"):
        if keyword in dataset:
            header.add(dataset[keyword])
    header.RescaleSlope, header.RescaleIntercept = frame.slope, frame.intercept
    header.file_meta = dataset.file_meta
    return header


def _is_usable(header: pydicom.Dataset) -> bool:
    table = bool(header.get("VOILUTSequence")) and "LUTData" in header.VOILUTSequence[0]
    return table or ("WindowCenter" in header and "WindowWidth" in header)
