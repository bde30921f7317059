"""Slices of synthetic brains with tumours, randomised far beyond real scanners, to train a segmenter on.

After SynthSeg (Billot et al., Medical Image Analysis 86, 2023): a network trained on images of every possible appearance need
not have seen that of new ones. Brains are deformed maps of tissues, with folds, ventricles, lesions and vessels of their
own; a tumour is grown in most of them; each slice is given the contrast of a modality, or any, and the faults of an acquisition.
They are no patients: nothing measured on them shows how well real tumours are found.

A slice is computed only on its own pixels, from its number alone: neither the number of processes nor the order of the slices
changes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from monai.transforms import Transform

from ..files import written_whole
from ..modalities import MRI_TYPES
from .acquisition import RANDOM, acquire, draw_look, paint, strip
from .brains import BrainMap, average_brain
from .randomisation import Brain, Randomisation, draw_brain
from .tissues import AXES, Cut, cut_tissues, folding_noise

SUB_SLICE = 2.0  # mm, at most between the planes that a thick slice is the mean of
# The white level of a volume, which lies at 255, against that of LOOKS: least and most. A FLAIR volume has a lower one where little
# in it is as bright as a tumour.
WHITE_LEVELS = {"FLAIR": (0.85, 1.3), "T1w": (0.85, 1.1), "T1wCE": (0.8, 1.45), "T2w": (0.8, 1.1), RANDOM: (0.8, 1.1)}
WHITE_LEVEL_WITHOUT_TUMOUR = (0.68, 0.95)  # of FLAIR
LARGE = 14.0  # mm, radius of a tumour that decides the white level
HEAD = 11  # mm around the brain that a slice is computed in

SHEET_TITLE = (
    "Synthetic brains, no patients. Whole tumour yellow, enhancing tumour red. Research use only, not for diagnosis."
)
SHEET_ROWS = (*MRI_TYPES, RANDOM, "as drawn")
SHEET_PLANES = ("axial", "axial", "axial", "axial", "coronal", "coronal", "sagittal", "sagittal")
OUTLINES = ((0, 255, 255), (0, 0, 255))  # BGR of WT and ET


def slice_items(count: int, slices_per_brain: int) -> list[dict[str, Any]]:
    """One item for each of the first slices, ``{"slice", "patient"}``."""
    return [{"slice": number, "patient": _patient(number // slices_per_brain)} for number in range(count)]


def _patient(number: int) -> str:
    return f"synthetic-{number}"


class DrawSlice(Transform):
    """Draw the slice of a number: what :class:`scripts.loading.LoadSlice` reads from prepared series.

    Args:
        ranges: what is drawn.
        image_size: side of the square picture, pixels.
        seed: of everything.
        slices_per_brain: number of consecutive slices of the same brain.
        brain_maps: to draw brains from; that of the atlas by default.

    Raises:
        ImportError: when nilearn, which carries the atlas, is not installed.
        ValueError: for sizes below 16, less than one slice of a brain, or no map.
    """

    def __init__(
        self,
        ranges: Randomisation,
        image_size: int = 224,
        seed: int = 67,
        slices_per_brain: int = 1,
        brain_maps: Sequence[BrainMap] | None = None,
    ) -> None:
        if image_size < 16 or slices_per_brain < 1:
            raise ValueError(
                f"image_size {image_size}, slices_per_brain {slices_per_brain}: expected at least 16 pixels and 1 slice"
            )
        self.image_size, self.seed, self.slices_per_brain = image_size, seed, slices_per_brain
        self.ranges = ranges
        self.brain_maps = (average_brain(),) if brain_maps is None else tuple(brain_maps)
        if not self.brain_maps:
            raise ValueError("brain_maps is empty; give at least one, or None for the atlas")
        folding_noise()  # made here, like the maps, so that forked processes share its memory

    def brain(self, number: int) -> Brain:
        """The brain of a number."""
        rng = np.random.default_rng([self.seed, number])
        return draw_brain(number, rng, self.brain_maps[int(rng.integers(len(self.brain_maps)))], self.ranges)

    def __call__(self, item: int | Mapping[str, Any]) -> dict[str, Any]:
        """``image`` ``(1, H, W)`` in 0…255 and ``label`` ``(2, H, W)`` [WT, ET], both uint8; ``field_of_view`` ``(2,)``, height and
        width in mm; ``patient``, ``mri_type`` and ``plane``.

        Args:
            item: number of the slice, 0 or more; or ``{"slice": number}`` with the wanted ``mri_type`` and ``plane``.
        """
        wanted: Mapping[str, Any] = item if isinstance(item, Mapping) else {"slice": item}
        number, index = divmod(int(wanted["slice"]), self.slices_per_brain)
        brain = self.brain(number)
        rng = np.random.default_rng([self.seed, number, 2, index])
        mri_type = RANDOM if rng.random() < self.ranges.random_contrast else str(rng.choice(MRI_TYPES))
        plane = str(rng.choice(list(self.ranges.planes)))
        mri_type, plane = str(wanted.get("mri_type", mri_type)), str(wanted.get("plane", plane))
        image, masks, field = self._draw(brain, mri_type, plane, rng)
        return {
            "image": torch.from_numpy(image[None]),
            "label": torch.from_numpy(masks),
            "field_of_view": torch.tensor(field, dtype=torch.float32),
            "patient": _patient(number),
            "mri_type": mri_type,
            "plane": plane,
        }

    def _draw(
        self, brain: Brain, mri_type: str, plane: str, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
        ranges, size = self.ranges, self.image_size
        normal, across, along = AXES[plane]
        # the field of view, and the brain's place in it
        longest = 2 * max(brain.extent[across], brain.extent[along])
        height = width = longest / rng.uniform(*ranges.brain_fill)
        if plane != "axial" and rng.random() < ranges.squeezed:
            height = min(height, max(2 * brain.extent[2] * 1.08, 0.646 * width))  # 155 of 240 mm
        offsets = rng.uniform(-ranges.off_centre, ranges.off_centre, 2) * (height, width)
        pixel = (height / size, width / size)
        rows = offsets[0] + height / 2 - (np.arange(size) + 0.5) * pixel[0]
        columns = offsets[1] + width / 2 - (np.arange(size) + 0.5) * pixel[1]

        # the acquisition: thick slices blur along their normal, which may lie in the picture
        thickness = rng.uniform(*ranges.slice_thickness)
        blurred = np.full(2, rng.uniform(*ranges.blur))
        shown_thickness = thickness
        if rng.random() < ranges.other_plane:
            blurred[0 if plane != "axial" else int(rng.integers(2))] += thickness / math.sqrt(12)
            shown_thickness = 1.0
        planes = max(math.ceil(shown_thickness / SUB_SLICE), 1)
        depths = (np.arange(planes) + 0.5) / planes * shown_thickness - shown_thickness / 2
        cut = Cut(plane, self._position(brain, normal, rng) + depths, rows, columns)

        # only where the head is
        inner = [
            np.flatnonzero(np.abs(line) < brain.extent[a] + HEAD) for line, a in ((rows, along), (columns, across))
        ]
        place = tuple(slice(int(line[0]), int(line[-1]) + 1) for line in inner)
        small = Cut(plane, cut.positions, rows[place[0]], columns[place[1]])
        parts = cut_tissues(brain, small, [self.seed, brain.number])
        image, kept = np.zeros((size, size), np.float32), np.zeros((size, size), bool)
        masks = np.zeros((2, size, size), np.uint8)
        look = draw_look(mri_type, rng)
        kept[place] = strip(parts, ranges, rng)
        image[place] = paint(parts, look, rng)
        image *= kept | (cv2.dilate(kept.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
        image = acquire(image, pixel, (blurred[0], blurred[1]), ranges, rng)
        if rng.random() >= ranges.background:
            image *= kept
        masks[:, place[0], place[1]] = np.stack([parts["WT"] > 0.5, parts["ET"] > 0.5])
        masks[1] &= masks[0]
        masks *= kept
        # the white level is that of the volume, most of which is not in this slice
        large = any(tumour.radius + 0.4 * tumour.reach > LARGE for tumour in brain.tumours)
        levels = WHITE_LEVELS[mri_type] if large or mri_type != "FLAIR" else WHITE_LEVEL_WITHOUT_TUMOUR
        return np.clip(image * (255 / rng.uniform(*levels)), 0, 255).astype(np.uint8), masks, (height, width)

    def _position(self, brain: Brain, normal: int, rng: np.random.Generator) -> float:
        """The position of a slice along its normal: through the tumour, or anywhere."""
        if brain.tumours and rng.random() >= self.ranges.anywhere:
            tumour = brain.tumours[int(rng.integers(len(brain.tumours)))]
            centre = np.linalg.solve(brain.matrix.astype(float), tumour.centre.astype(float))[normal]
            position = float(centre + rng.uniform(-0.9, 0.9) * (tumour.radius + 0.4 * tumour.reach))
            return float(np.clip(position, -0.82 * brain.extent[normal], 0.82 * brain.extent[normal]))
        return float(rng.uniform(-0.85, 0.85) * brain.extent[normal])


def write_contact_sheet(draw: DrawSlice, file: str | Path, overwrite: bool = False) -> Path:
    """Write a PNG of slices with the outlines of their tumours: a row per modality, a column per brain, then a row of random slices.

    Raises:
        FileExistsError: when the file exists and is not to be replaced.
        ValueError: when its name does not end with .png.
    """
    path = Path(file)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the contact sheet is a PNG; name a file that ends with .png")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; name another file, or replace it (--overwrite)")
    rows = []
    for row in SHEET_ROWS:
        tiles = []
        for column, plane in enumerate(SHEET_PLANES):
            item: dict[str, Any] = {"slice": column * draw.slices_per_brain, "mri_type": row, "plane": plane}
            if row == SHEET_ROWS[-1]:
                item = {"slice": (column + len(SHEET_PLANES)) * draw.slices_per_brain}
            drawn = draw(item)
            tiles.append(outlined(drawn["image"][0].numpy(), drawn["label"].numpy()))
        rows.append(np.hstack(tiles))
    sheet = np.vstack(rows)
    title = np.zeros((24, sheet.shape[1], 3), np.uint8)
    font, grey = cv2.FONT_HERSHEY_SIMPLEX, (210, 210, 210)
    size = min(0.5, 0.5 * sheet.shape[1] / (cv2.getTextSize(SHEET_TITLE, font, 0.5, 1)[0][0] + 16))
    cv2.putText(title, SHEET_TITLE, (6, 16), font, size, grey, 1, cv2.LINE_AA)
    for index, row in enumerate(SHEET_ROWS):
        cv2.putText(sheet, row, (4, index * draw.image_size + 14), font, 0.4, grey, 1, cv2.LINE_AA)
    with written_whole(path) as temporary:
        if not cv2.imwrite(str(temporary), np.vstack([title, sheet])):
            raise OSError(f"{path}: OpenCV could not write the picture; is the disk full?")
    return path


def outlined(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """A slice (H, W) uint8 with the outlines of its masks (2, H, W) uint8 [WT, ET], (H, W, 3) uint8, BGR."""
    tile = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    for mask, colour in zip(masks, OUTLINES, strict=True):
        contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(tile, contours, -1, colour, 1)
    return tile
