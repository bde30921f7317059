"""JPG and PNG input: the volume of a folder of pictures."""

from __future__ import annotations

import io
import re
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from .volume import LPS_TO_RAS, SeriesError, Volume, check_size

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")


def read_pictures(folder: Path, files: list[Path]) -> Volume:
    """The volume of a folder's pictures, in the order of the numbers in their names.

    Raises:
        SeriesError: when they do not form one series.
    """
    numbered: dict[int, Path] = {}
    for file in files:
        numbers = re.findall(r"\d+", file.stem)
        if not numbers:
            raise SeriesError(
                f"{folder}: {file.name} has no number, expected names like Image-1.jpg. Rename or remove it."
            )
        number = int(numbers[-1])
        if number in numbered:
            raise SeriesError(
                f"{folder}: {numbered[number].name} and {file.name} have the same number, expected one picture per "
                "slice. Remove one of them."
            )
        numbered[number] = file
    pictures: list[np.ndarray] = []
    ordered = [numbered[number] for number in sorted(numbered)]
    for file in ordered:
        picture = _read_picture(folder, file)
        if pictures and picture.shape != pictures[0].shape:
            raise SeriesError(
                f"{folder}: {ordered[0].name} has {pictures[0].shape} rows and columns, {file.name} has "
                f"{picture.shape}. Expected one size in a series. Remove the pictures that do not belong to it."
            )
        if not pictures:
            check_size(str(folder), (*picture.shape, len(ordered)))
        pictures.append(picture)
    volume = np.stack(pictures).astype(np.float32).transpose(2, 1, 0)
    warning = "pictures carry no geometry: taken as axial slices of 1 mm in standard position, ordered by their number."
    return Volume(np.ascontiguousarray(volume), LPS_TO_RAS.copy(), [file.name for file in ordered], [warning])


def _read_picture(folder: Path, file: Path) -> np.ndarray:
    """Grey values (rows, columns) of a picture."""
    data = file.read_bytes()
    picture = None
    try:
        with Image.open(io.BytesIO(data)) as header:  # OpenCV can't read only the size
            check_size(f"{folder}: {file.name}", header.size)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    except Image.DecompressionBombError as error:
        raise SeriesError(f"{folder}: {file.name} is not a slice of a brain ({error}). Remove it.") from error
    except SeriesError:
        raise
    except Exception:  # of any kind: ValueError, SyntaxError and struct.error are among those of damaged pictures
        pass
    if picture is None:
        raise SeriesError(f"{folder}: {file.name} is not a readable picture. Copy it again, or remove it.")
    return picture
