"""Pictures of a series: a montage of its slices, an animation, and patients side by side, with masks over them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from custom_transforms import SeriesReader, SliceGeometry

from ..errors import UserError
from ..files import RESEARCH_ONLY, written_whole
from ..report.viewer import ET_COLOUR, WT_COLOUR, orientation_letters, region_overlay, shown_box, tile_size
from ..studies.folders import paths_of

WHITE_PERCENTILE = 99.5
DARK = 12  # of 255: darker pixels count as background
TILE_SIDE = 190  # pixels of the longer side of a slice in a montage
FRAME_SIDE = 448  # … in an animation
PAGE_WIDTH = 1500  # pixels of a montage
_MARGIN, _GAP = 16, 4
_INK, _GREY, _PAPER = (27, 39, 51), (96, 110, 124), (255, 255, 255)
_SMALL, _LARGE = 14, 20


class PictureError(UserError):
    """A series or mask that can't be drawn."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A series prepared for display.

    Attributes:
        name: patient and modality, or the file's name.
        slices: ``(N, H, W)`` uint8, from black to white.
        geometry: where they lie.
        window: description of the grey window.
        regions: ``(N, 2, H, W)`` bool, whole and enhancing tumour; None without a mask.
        warnings: of the reader.
    """

    name: str
    slices: np.ndarray
    geometry: SliceGeometry
    window: str
    regions: np.ndarray | None = None
    warnings: list[str] = field(default_factory=list)

    def title(self) -> list[str]:
        """Two lines: what it is; plane, distances, window."""
        rows, columns = self.geometry.pixel_spacing
        shape = f"{self.geometry.plane}, {len(self.slices)} slices, {self.geometry.slice_spacing:.2f} mm apart"
        return [self.name, f"{shape}, pixels {rows:.2f} x {columns:.2f} mm; grey values: {self.window}"]

    @property
    def largest(self) -> int:
        """The slice with the largest tumour, else that which shows most."""
        tumour = None if self.regions is None else self.regions[:, 0].sum((1, 2))
        areas = tumour if tumour is not None and tumour.any() else (self.slices > DARK).sum((1, 2))
        return int(np.argmax(areas))


def read_shown(
    source: str | Sequence[str],
    name: str,
    window: str | tuple[float, float] = "auto",
    mask: str | Path | None = None,
    plane: str | None = None,
) -> Shown:
    """Read a series to be shown.

    Args:
        source: its file, folder, or files.
        name: for the title.
        window: header (WindowCenter and WindowWidth, or the VOI LUT, of each file), percentile (the 99.5th of what is above the background
            is white), auto (header where all files have one), or the values of black and white.
        mask: label map in the geometry of the series: 1 tumour, 2 enhancing tumour; or BraTS labels, where 3 and 4 are the enhancing
            tumour.
        plane: of the slices; that of the acquisition by default.

    Raises:
        PictureError: when the mask belongs to another series, or a header window was requested and there is none.
        SeriesError: when the series can't be read.
    """
    paths = paths_of(source)
    volume, meta, black, white, shown_as = _windowed(paths, name, window)
    geometry = SliceGeometry.from_affine(meta["affine"], volume.shape, plane or meta["plane"] or None)
    scaled = np.clip((geometry.view(volume) - black) / max(white - black, 1e-6), 0, 1)
    slices = np.rint(scaled * 255).astype(np.uint8)
    regions = None if mask is None else _read_regions(Path(mask), geometry)
    return Shown(name, slices, geometry, shown_as, regions, list(meta["warnings"]))


def _windowed(
    paths: list[Path], name: str, window: str | tuple[float, float]
) -> tuple[np.ndarray, dict[str, Any], float, float, str]:
    """A volume, its metadata, the values of black and white, and their origin."""
    files: Any = paths[0] if len(paths) == 1 else paths
    if not isinstance(window, str):
        volume, meta = SeriesReader(labels=True).get_data(files)  # labels: the values stay as they are
        return volume, meta, *window, f"{window[0]:g} to {window[1]:g}"
    if window != "percentile":
        volume, meta = SeriesReader(labels=True, voi_lut=True).get_data(files)
        if meta["shown_range"]:
            return volume, meta, *meta["shown_range"], "window of the header of each slice"
        if window == "header":
            raise PictureError(
                f"{name}: its slices have no window or VOI LUT of one kind, expected one in each DICOM header; choose --window percentile"
            )
    volume, meta = SeriesReader().get_data(files)  # with a background of 0
    bright = volume[volume > 0]
    white = float(np.percentile(bright, WHITE_PERCENTILE)) if bright.size else 1.0
    return volume, meta, 0.0, white, f"0 to {white:g}, the {WHITE_PERCENTILE}th percentile"


def _read_regions(mask: Path, geometry: SliceGeometry) -> np.ndarray:
    """Whole and enhancing tumour ``(N, 2, H, W)`` of a label map."""
    if not mask.is_file():
        raise PictureError(f"{mask}: no such mask; expected a NIfTI label map of the series")
    volume, meta = SeriesReader(labels=True).get_data(mask)
    if tuple(volume.shape) != geometry.shape or not np.allclose(meta["affine"], geometry.affine, atol=1e-2):
        raise PictureError(
            f"{mask}: this mask has {' x '.join(map(str, volume.shape))} voxels, the series {' x '.join(map(str, geometry.shape))}, or another "
            "position; expected the mask of this series, as `radiogenomics segment` writes it"
        )
    labels = geometry.view(np.rint(volume).astype(np.int16))
    enhancing = labels >= 3 if labels.max() >= 3 else labels == 2
    return np.stack([labels > 0, enhancing], axis=1)


# ---------------------------------------------------------------------------------------------------------------------
# a montage


def draw_montage(shown: Shown, most: int = 30) -> Image.Image:
    """Slices side by side with their numbers, from the first that shows anything to the last, at equal steps.

    Args:
        shown: the series.
        most: number of slices at most.
    """
    areas = (shown.slices > DARK).sum((1, 2))
    seen = np.flatnonzero(areas > areas.max() / 50)
    seen = seen if len(seen) else np.arange(len(shown.slices))
    step = max(1, math.ceil(len(seen) / most))
    chosen = range(int(seen[0]), int(seen[-1]) + 1, step)
    images = [_slice_picture(shown, index, TILE_SIDE) for index in chosen]
    width, _height = images[0].size
    letters = orientation_letters(shown.geometry.stack_affine)
    for place, (index, image) in enumerate(zip(chosen, images, strict=True)):
        _write(image, (4, 2), str(index + 1), _SMALL, (255, 255, 255))
        if not place:
            _write_letters(image, letters)
    columns = max(1, min(len(images), (PAGE_WIDTH - 2 * _MARGIN) // (width + _GAP)))
    across = f"slice {chosen[0] + 1} to {chosen[-1] + 1} of {len(shown.slices)}"
    across += f", every {_ordinal(step)}" if step > 1 else ""
    return _page(images, columns, shown.title(), f"{across}. {_legend(shown.regions is not None)}")


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")


def _legend(masked: bool) -> str:
    outlines = "Outlines: whole tumour blue, enhancing tumour orange. " if masked else ""
    return f"{outlines}{RESEARCH_ONLY}"


def draw_side_by_side(groups: Mapping[str, Sequence[Shown]], title: str) -> Image.Image:
    """A row of patients for each group: the slice with the largest tumour of each, or without masks the one that shows most."""
    most = max(len(patients) for patients in groups.values())
    label, caption, side = 80, 22, TILE_SIDE
    width = 2 * _MARGIN + label + most * (side + _GAP)
    height = 2 * _MARGIN + 62 + len(groups) * (side + caption + _GAP)
    masked = any(shown.regions is not None for patients in groups.values() for shown in patients)
    chosen = "The slice with the largest tumour, or without a mask" if masked else "Of each patient"
    foot = f"{chosen} the slice that shows most. {_legend(masked)}"
    width = max(width, _room((title, _LARGE), (foot, _SMALL)))
    page = Image.new("RGB", (width, height), _PAPER)
    _write(page, (_MARGIN, _MARGIN - 4), title, _LARGE, _INK)
    for row, (group, patients) in enumerate(groups.items()):
        top = _MARGIN + 32 + row * (side + caption + _GAP)
        _write(page, (_MARGIN, top + caption + side // 2 - 10), group, 16, _INK)
        for column, shown in enumerate(patients):
            left = _MARGIN + label + column * (side + _GAP)
            name = shown.name if len(shown.name) <= 24 else f"{shown.name[:12]}…{shown.name[-11:]}"
            _write(page, (left, top + 2), name, _SMALL, _INK)
            image = _squared(_slice_picture(shown, shown.largest, side), side)
            _write(image, (4, side - 18), f"{shown.largest + 1}/{len(shown.slices)}", 12, (210, 210, 210))
            page.paste(image, (left, top + caption))
    _write(page, (_MARGIN, height - 30), foot, _SMALL, _GREY)
    return page


def _slice_picture(shown: Shown, index: int, side: int) -> Image.Image:
    """A slice, cropped to the visible part of the series, with square pixels; its masks as outlines."""
    box, (height, width) = _cut(shown, side)
    image = shown.slices[index][box]
    how = cv2.INTER_AREA if width <= image.shape[1] else cv2.INTER_CUBIC
    tile = cv2.resize(image, (width, height), interpolation=how)
    picture = cv2.cvtColor(tile, cv2.COLOR_GRAY2RGB)
    masks = [] if shown.regions is None else shown.regions[index]
    for mask, colour in zip((one[box] for one in masks), (WT_COLOUR, ET_COLOUR), strict=False):
        if mask.any():
            painted = region_overlay(mask, (width, height), colour)
            share = painted[..., 3:].astype(np.float32) / 255
            picture = np.rint(picture * (1 - share) + painted[..., 2::-1] * share).astype(np.uint8)
    return Image.fromarray(picture)


def _cut(shown: Shown, side: int) -> tuple[tuple[slice, slice], tuple[int, int]]:
    """The visible part of the slices, and its height and width in a picture."""
    masks = np.zeros((1, 1, *shown.slices.shape[1:]), bool) if shown.regions is None else shown.regions
    box = shown_box(shown.slices, masks)
    height, width = tile_size(box, shown.geometry.pixel_spacing, side)
    scale = side / max(height, width)  # small series are enlarged, so that numbers fit on them
    return box, (max(round(height * scale), 1), max(round(width * scale), 1))


def _squared(image: Image.Image, side: int) -> Image.Image:
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _page(images: Sequence[Image.Image], columns: int, title: Sequence[str], foot: str) -> Image.Image:
    """Pictures in rows under a title."""
    width, height = images[0].size
    rows = math.ceil(len(images) / columns)
    top = _MARGIN + 54
    size = (
        max(
            2 * _MARGIN + columns * (width + _GAP) - _GAP, _room((title[0], _LARGE), (title[1], _SMALL), (foot, _SMALL))
        ),
        top + rows * (height + _GAP) + 26 + _MARGIN,
    )
    page = Image.new("RGB", size, _PAPER)
    _write(page, (_MARGIN, _MARGIN - 4), title[0], _LARGE, _INK)
    _write(page, (_MARGIN, _MARGIN + 24), title[1], _SMALL, _GREY)
    for place, image in enumerate(images):
        page.paste(image, (_MARGIN + place % columns * (width + _GAP), top + place // columns * (height + _GAP)))
    _write(page, (_MARGIN, size[1] - 30), foot, _SMALL, _GREY)
    return page


def _font(size: int, text: str) -> tuple[Any, str]:
    """Pillow's own font, and the text without letters that it lacks."""
    try:
        return ImageFont.load_default(size=size), text
    except TypeError:  # before Pillow 10.1: one size, and only Latin letters
        return ImageFont.load_default(), text.encode("latin-1", "replace").decode("latin-1")


def _write(image: Image.Image, place: tuple[int, int], text: str, size: int, colour: tuple[int, int, int]) -> None:
    font, text = _font(size, text)
    ImageDraw.Draw(image).text(place, text, fill=colour, font=font)


def _room(*lines: tuple[str, int]) -> int:
    """The width of a page that fits lines of these sizes."""
    fonts = (_font(size, text) for text, size in lines)
    return 2 * _MARGIN + math.ceil(max(font.getlength(text) for font, text in fonts))


def _write_letters(image: Image.Image, letters: Mapping[str, str]) -> None:
    """Which sides of the patient a slice's edges show."""
    width, height = image.size
    places = {"left": (4, height // 2 - 8), "right": (width - 14, height // 2 - 8)}
    places |= {"top": (width // 2 - 4, 2), "bottom": (width // 2 - 4, height - 20)}
    for side, place in places.items():
        _write(image, place, letters[side], _SMALL, (255, 221, 120))


# ---------------------------------------------------------------------------------------------------------------------
# an animation


def frames(shown: Shown) -> Iterator[Image.Image]:
    """All slices in order, each with its number."""
    letters = orientation_letters(shown.geometry.stack_affine)
    for index in range(len(shown.slices)):
        image = _slice_picture(shown, index, FRAME_SIDE)
        _write(image, (6, 3), f"{index + 1}/{len(shown.slices)}", 16, (255, 255, 255))
        _write_letters(image, letters)
        yield image


def write_gif(shown: Shown, file: Path, per_second: float = 10) -> None:
    """Write the animation as GIF; all frames have the same 256 colours, so that nothing flickers."""
    pictures = list(frames(shown))
    sample = [*pictures[:: max(1, len(pictures) // 24)], pictures[shown.largest]]
    strip = Image.new("RGB", (FRAME_SIDE, FRAME_SIDE * len(sample)))
    for place, picture in enumerate(sample):
        strip.paste(picture, (0, place * FRAME_SIDE))
    palette = strip.quantize(256)
    reduced = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    with written_whole(file) as temporary:
        reduced[0].save(
            temporary, format="GIF", save_all=True, append_images=reduced[1:], duration=round(1000 / per_second), loop=0
        )


def write_mp4(shown: Shown, file: Path, per_second: float = 10) -> None:
    """Write the animation as MP4 (H.264).

    Raises:
        ImportError: imageio-ffmpeg is not installed.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError("MP4 is written with imageio-ffmpeg: pip install '.[video]'") from error
    with written_whole(file) as temporary:
        writer = None
        for picture in frames(shown):
            even = Image.new("RGB", (picture.width + picture.width % 2, picture.height + picture.height % 2))
            even.paste(picture)
            if writer is None:
                writer = imageio_ffmpeg.write_frames(
                    str(temporary), even.size, fps=per_second, macro_block_size=2, quality=8
                )
                writer.send(None)
            writer.send(np.ascontiguousarray(even))
        if writer is not None:
            writer.close()


def write_png(image: Image.Image, file: Path) -> None:
    """Write a picture, whole or not at all."""
    with written_whole(file) as temporary:
        image.save(temporary, format="PNG")
