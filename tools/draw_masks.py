"""Draw a study with the outlines of its masks: rows are series, columns are slices as they were acquired.

python tools/draw_masks.py --study STUDY --masks OUT/masks --output masks.png

STUDY: one study in any layout; OUT: of `radiogenomics segment`, without or with --fuse (drawn over its reference series).
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import fire
import nibabel as nib
import numpy as np
import torch
from monai.transforms import LoadImage

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT)]
from custom_transforms import AcquisitionSlices, SeriesReader, grey_window  # noqa: E402
from custom_transforms.intensity import ScaleToUint8  # noqa: E402
from scripts.datalists import MRI_TYPES, find_studies  # noqa: E402
from scripts.synthetic.drawing import outlined  # noqa: E402
from scripts.views import stretch  # noqa: E402

SIDE = 200
TITLE = "Whole tumour yellow, enhancing tumour red. Research use only, not for diagnosis."


def row(image: np.ndarray, labels: np.ndarray, spacing: tuple[float, float], columns: int) -> np.ndarray:
    """Half of the slices through the marked region, the others beside it, (SIDE, columns * SIDE, 3)."""
    filled, marked = (np.flatnonzero(share > least) for share, least in (
        ((image > 0).mean((1, 2)), 0.03), ((labels > 0).mean((1, 2)), 0.0),
    ))  # fmt: skip
    inside = _spread(marked, columns // 2)
    chosen = np.sort(np.concatenate([inside, _spread(np.setdiff1d(filled, marked), columns - len(inside))]))
    brain = np.argwhere((image > 0).any(0))
    (top, left), (bottom, right) = brain.min(0), brain.max(0) + 1
    scale = SIDE / max((bottom - top) * spacing[0], (right - left) * spacing[1])
    size = (round((right - left) * spacing[1] * scale), round((bottom - top) * spacing[0] * scale))
    tiles = []
    for index in chosen:
        grey = cv2.resize(image[index, top:bottom, left:right], size, interpolation=cv2.INTER_AREA)
        masks = (labels[index, top:bottom, left:right] > region for region in range(2))
        shown = [cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) for mask in masks]
        tile = outlined(grey, np.stack(shown))
        canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
        y, x = (SIDE - tile.shape[0]) // 2, (SIDE - tile.shape[1]) // 2
        canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        tiles.append(canvas)
    tiles += [np.zeros((SIDE, SIDE, 3), np.uint8)] * (columns - len(tiles))
    return np.hstack(tiles)


def _spread(slices: np.ndarray, count: int) -> np.ndarray:
    """This number of slices, or all, evenly spaced."""
    return (
        slices[np.linspace(0.1 * len(slices), 0.9 * len(slices) - 1, count).round().astype(int)]
        if len(slices) > count
        else slices
    )


def main(study: str, masks: str, output: str, columns: int = 8, title: str = TITLE) -> None:
    """Write the picture.

    Args:
        study: folder of one study.
        masks: folder of its masks.
        output: PNG to write.
        columns: slices of each series.
        title: above the picture.
    """
    (found,) = find_studies(study)
    rows = []
    for mri_type in MRI_TYPES:
        files = [Path(masks) / f"{found['patient']}{end}.nii.gz" for end in (f"_{mri_type}", "")]
        file = next((file for file in files if file.is_file()), None)
        if mri_type not in found or file is None:
            continue
        volume = LoadImage(reader=SeriesReader(), ensure_channel_first=True)(found[mri_type])
        labels = np.asarray(nib.load(file).dataobj)
        if labels.shape != tuple(volume.shape[1:]):
            continue  # the mask of all series lies on another one
        stack, geometry = AcquisitionSlices()(volume)
        image = np.asarray(ScaleToUint8()(stack.numpy()))
        image = stretch(torch.from_numpy(image).float(), grey_window(image)).numpy().astype(np.uint8)
        drawn = row(image, geometry.to_stack(labels), geometry.pixel_spacing, columns)
        name = f"{mri_type}, {len(image)} slices {geometry.slice_spacing:.1f} mm apart"
        cv2.putText(drawn, name, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
        rows.append(drawn)
    head = np.zeros((26, columns * SIDE, 3), np.uint8)
    cv2.putText(head, title, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (210, 210, 210), 1, cv2.LINE_AA)
    if not cv2.imwrite(output, np.vstack([head, *rows])):
        raise OSError(f"{output}: the picture could not be written")


if __name__ == "__main__":
    fire.Fire(main)
