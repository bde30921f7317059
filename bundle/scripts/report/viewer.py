"""Pictures of a prepared series for the viewer in a report: all slices in one sprite sheet, masks and heat maps in others."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import UserError
from ..masks import nested
from ..studies.folders import paths_of

if TYPE_CHECKING:
    from custom_transforms import SliceGeometry

    from ..prepared import PreparedSeries

WT_COLOUR = (0x35, 0xD0, 0xFF)  # RGB
ET_COLOUR = (0xFF, 0xB0, 0x00)
MOST_SLICES = 256  # in a sheet; of a longer series every second, third, … slice and all kept ones are shown
QUALITIES = ((192, 80), (192, 65), (160, 60), (128, 55), (96, 45), (64, 40))
"""Pixels of a slice's longer side and JPEG quality, the first that fits is taken."""

PICTURE_SIDE = 360  # pixels of the longer side of a picture by itself
_MARGIN = 3  # pixels around the head
_FILL, _OUTLINE = 70, 255  # alpha


class SheetError(UserError):
    """A source series or a heat map that does not belong to the prepared series."""


def orientation_letters(stack_affine: np.ndarray) -> dict[str, str]:
    """The sides of the patient at the edges of a displayed slice: R, L, A, P, S, I, two letters where it is oblique.

    ``stack_affine`` (4, 4) is from (column, row, slice) index to RAS mm; letters are by ``left``, ``right``, ``top``, ``bottom``.
    """
    names = ("R", "L"), ("A", "P"), ("S", "I")  # of the positive and the negative direction of each axis

    def towards(direction: np.ndarray) -> str:
        unit = direction / np.linalg.norm(direction)
        order = [axis for axis in np.argsort(-np.abs(unit)) if abs(unit[axis]) > 0.35][:2]
        return "".join(names[axis][int(unit[axis] < 0)] for axis in order)

    column, row = stack_affine[:3, 0], stack_affine[:3, 1]
    return {"left": towards(-column), "right": towards(column), "top": towards(-row), "bottom": towards(row)}


def read_source(source: str | Sequence[str], geometry: SliceGeometry) -> np.ndarray:
    """All slices ``(N, H, W)`` uint8 of the series that a prepared one of this geometry was made from.

    Raises:
        SheetError: when it can't be read or is another series by now.
    """
    from custom_transforms import SeriesReader

    name = source if isinstance(source, str) else f"{source[0]} and {len(source) - 1} more files"
    if not all(path.exists() for path in paths_of(source)):
        raise SheetError(f"{name} is no longer there")
    try:
        volume, meta = SeriesReader().get_data(paths_of(source))
    except (ValueError, OSError, RuntimeError) as error:
        raise SheetError(f"{name} can't be read: {error}") from error
    affine = np.asarray(meta["affine"], dtype=float)
    if tuple(volume.shape) != geometry.shape or not np.allclose(affine, geometry.affine, atol=1e-3):
        raise SheetError(f"{name} is not the series that was predicted")
    stack = np.asarray(geometry.to_stack(volume), dtype=np.float32)
    low = min(float(stack.min()), 0.0)
    bright = stack[stack > low]
    white = float(np.percentile(bright, 99.5)) if bright.size else 1.0
    return np.clip((stack - low) / max(white - low, 1e-6) * 255, 0, 255).astype(np.uint8)


def read_heat(file: str | Path, series: PreparedSeries) -> dict[int, np.ndarray]:
    """Grad-CAM of slices of a series, ``(h, w)`` uint8 by index of the slice, from a file of :mod:`scripts.explain.explanation`.

    Raises:
        SheetError: when it can't be read or belongs to other slices.
    """
    try:
        with np.load(file, allow_pickle=False) as content:
            maps, slices = content["maps"], content["slices"]
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise SheetError(f"{file} can't be read: {error}") from error
    if maps.shape != (len(series), *series.size) or not np.array_equal(slices, series.slices):
        raise SheetError(f"{file} holds maps {maps.shape} of slices other than the {len(series)} that were used")
    return dict(zip(slices.tolist(), maps, strict=True))


def series_sheets(
    series: PreparedSeries,
    full: np.ndarray | None = None,
    heat: Mapping[int, np.ndarray] | None = None,
    sequences: Sequence[Mapping[str, Any]] = (),
    most_bytes: int = 700_000,
) -> dict[str, Any] | None:
    """What the viewer needs to show a series: sheets as data URIs, where slices are in them, and what they are.

    Slices keep their anatomical proportions: non-square pixels are resampled.

    Args:
        series: the prepared series.
        full: ``(N, H, W)`` uint8, all slices; without it only the kept slices are shown.
        heat: from :func:`read_heat`.
        sequences: ``{"slices": [first, last], "probability": p}`` each, indices of slices in the series.
        most_bytes: limit for the sheets.

    Returns:
        JSON values; None without a slice to show.
    """
    kept, geometry = {int(index) for index in series.slices}, series.geometry
    if full is not None:
        step = -(-len(full) // MOST_SLICES)
        chosen = sorted(set(range(0, len(full), step)) | kept)
        images = full[chosen]
    else:
        step, chosen, images = 1, sorted(kept), series.images()
    if not len(images):
        return None
    masks = nested(series.masks())
    areas = masks.sum((2, 3)).T.tolist()
    box = shown_box(images, masks[chosen])
    spacing = geometry.pixel_spacing if geometry else (1.0, 1.0)
    view: dict[str, Any] = {
        "mri_type": str(series.info.get("mri_type", "")),
        "plane": geometry.plane if geometry else "",
        "letters": orientation_letters(geometry.stack_affine) if geometry else {},
        "slices": chosen,
        "positions": (geometry.positions[chosen].round(2) if geometry else np.array(chosen)).tolist(),
        "total": int(series.n_slices),
        "step": step,
        "full": full is not None,
        "kept": sorted(kept),
        "wt": areas[0],
        "et": areas[1],
        "sequences": list(sequences),
        # opened at the largest tumour among kept slices, else among all
        "start": max(range(len(chosen)), key=lambda place: (chosen[place] in kept, areas[0][chosen[place]])),
    }
    return view | _sheets(
        images, masks[chosen], [heat.get(index) for index in chosen] if heat else [], box, spacing, most_bytes
    )


def _sheets(
    images: np.ndarray,
    masks: np.ndarray,
    heat: Sequence[np.ndarray | None],
    box: tuple[slice, slice],
    spacing: Sequence[float],
    most_bytes: int,
) -> dict[str, Any]:
    """Sheets of a view, as fine as ``most_bytes`` allows, and the size of their tiles."""
    for side, quality in QUALITIES:
        height, width = tile_size(box, spacing, side)
        columns = max(1, round((len(images) * height / width) ** 0.5))
        tiles = [cv2.resize(image[box], (width, height), interpolation=cv2.INTER_AREA) for image in images]
        sheets: dict[str, str | None] = {"image": _uri(_sheet(tiles, columns), ".jpg", quality)}
        for region, (name, colour) in enumerate((("wt_sheet", WT_COLOUR), ("et_sheet", ET_COLOUR))):
            painted = [region_overlay(mask[region][box], (width, height), colour) for mask in masks]
            sheets[name] = _uri(_sheet(painted, columns), ".png") if masks[:, region].any() else None
        warm = [_warm(one, masks.shape[2:], box, (width, height)) for one in heat]
        sheets["heat_sheet"] = _uri(_sheet(warm, columns), ".jpg", 60) if warm else None
        if sum(len(sheet) for sheet in sheets.values() if sheet) <= most_bytes:
            break
    return {"tile": [width, height], "columns": columns, **sheets}


def largest_tumour(series: PreparedSeries, full: np.ndarray) -> dict[str, Any] | None:
    """The slice of a series with the largest tumour as a picture, its masks drawn on it; ``full`` ``(N, H, W)`` uint8 are all slices.

    Returns:
        ``picture`` (data URI, square pixels), ``slice`` (index from 0), ``slices``, ``plane``, ``area`` of WT in cm2, and the
        ``letters`` of :func:`orientation_letters`; None where no slice shows a tumour.
    """
    masks, geometry = nested(series.masks()), series.geometry
    areas = masks[:, 0].sum((1, 2))
    if geometry is None or not areas.any():
        return None
    index = int(areas.argmax())
    box = shown_box(full, masks)
    spacing = geometry.pixel_spacing
    height, width = _extent(box, spacing)
    pixel = max(height, width) / PICTURE_SIDE
    size = max(round(width / pixel), 1), max(round(height / pixel), 1)
    picture = cv2.cvtColor(cv2.resize(full[index][box], size, interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2BGR)
    for mask, colour in zip(masks[index], (WT_COLOUR, ET_COLOUR), strict=True):
        painted = region_overlay(mask[box], size, colour)
        share = painted[..., 3:].astype(np.float32) / 255
        picture = np.rint(picture * (1 - share) + painted[..., :3] * share).astype(np.uint8)
    return {
        "picture": _uri(picture, ".png"),
        "slice": index,
        "slices": int(series.n_slices),
        "plane": geometry.plane,
        "area": float(areas[index]) * spacing[0] * spacing[1] / 100,
        "letters": orientation_letters(geometry.stack_affine),
    }


def shown_box(images: np.ndarray, masks: np.ndarray) -> tuple[slice, slice]:
    """The non-empty rows and columns."""
    height, width = images.shape[1:]
    rows, columns = np.nonzero((images.max(0) > 4) | (masks.max((0, 1)) > 0))
    if len(rows) < height * width / 50:
        return slice(0, height), slice(0, width)
    return (
        slice(max(int(rows.min()) - _MARGIN, 0), min(int(rows.max()) + 1 + _MARGIN, height)),
        slice(max(int(columns.min()) - _MARGIN, 0), min(int(columns.max()) + 1 + _MARGIN, width)),
    )


def tile_size(box: tuple[slice, slice], spacing: Sequence[float], side: int) -> tuple[int, int]:
    """Height and width in square pixels, the longer one at most ``side`` and no finer than the series."""
    height, width = _extent(box, spacing)
    pixel = max(min(spacing), max(height, width) / side)
    return max(round(height / pixel), 1), max(round(width / pixel), 1)


def _extent(box: tuple[slice, slice], spacing: Sequence[float]) -> tuple[float, float]:
    """Height and width of a box in mm."""
    height, width = ((part.stop - part.start) * float(mm) for part, mm in zip(box, spacing, strict=True))
    return height, width


def _sheet(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Tiles side by side, row by row."""
    (height, width, *channels), rows = tiles[0].shape, -(-len(tiles) // columns)
    sheet = np.zeros((rows * columns, height, width, *channels), np.uint8)
    sheet[: len(tiles)] = tiles
    sheet = sheet.reshape(rows, columns, height, width, *channels).swapaxes(1, 2)
    return sheet.reshape(rows * height, columns * width, *channels)


def region_overlay(mask: np.ndarray, size: tuple[int, int], colour: tuple[int, int, int]) -> np.ndarray:
    """A mask as ``(h, w, 4)`` BGRA: a light fill and its outline."""
    inside = (cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5).astype(np.uint8)
    edge = inside - np.asarray(cv2.erode(inside, np.ones((3, 3), np.uint8)), np.uint8)
    tile = np.zeros((*inside.shape, 4), np.uint8)
    tile[inside > 0] = (*colour[::-1], _FILL)
    tile[edge > 0] = (*colour[::-1], _OUTLINE)
    return tile


def _warm(
    heat: np.ndarray | None, shape: tuple[int, int], box: tuple[slice, slice], size: tuple[int, int]
) -> np.ndarray:
    """A heat map of a whole slice as BGR tile, black where it is cold."""
    if heat is None:
        return np.zeros((size[1], size[0], 3), np.uint8)
    whole = cv2.resize(heat.astype(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    tile = cv2.resize(np.ascontiguousarray(whole[box]), size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.applyColorMap(tile, cv2.COLORMAP_INFERNO))


def _uri(picture: np.ndarray, ending: str, quality: int | None = None) -> str:
    options = [] if quality is None else [cv2.IMWRITE_JPEG_QUALITY, quality]
    data = cv2.imencode(ending, picture, options)[1]
    kind = {".jpg": "jpeg", ".png": "png"}[ending]
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"
