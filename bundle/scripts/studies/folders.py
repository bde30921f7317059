"""The studies in a folder, whatever its layout: challenge, BraTS of any year, one study, or NIfTI files side by side."""

from __future__ import annotations

import gzip
import logging
import re
import zlib
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..errors import UserError, some
from ..files import RESEARCH_ONLY
from ..modalities import ALIASES, MRI_TYPES
from ..outputs import CONFIG_FILE

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".dcm", ".dicom", ".ima", ".jpg", ".jpeg", ".png")
"""Endings of files that a series may be made of; a file that holds DICOM needs none."""
OUTPUTS = {"prepared": "index.json", "report": "report.html", "explanations": "*.npz", "dicom": "*/*_s[er]*.dcm"}
"""Folders that this project writes beside its configuration, each with what is in it alone."""
_LAYOUTS = (
    f"Expected <patient>/{{{','.join(MRI_TYPES)}}}/ with DICOM or JPG files, or "
    "<patient>/<patient>_{flair,t1,t1ce,t2}.nii.gz (BraTS 2021), or <patient>/<patient>-{t2f,t1n,t1c,t2w}.nii.gz (BraTS 2023+)"
)
_NIFTI = re.compile(r"^(?P<patient>.+)[_-](?P<name>[A-Za-z0-9]+)\.nii(\.gz)?$")


class DataListError(UserError):
    """A data list or a folder of studies that can't be used."""


def find_studies(folder: str | Path) -> list[dict[str, Any]]:
    """The studies of a folder, each ``{"patient", <modality>: path, ...}`` with absolute paths, sorted by patient.

    Known layouts: the challenge's Task 2 (``<patient>/<modality>/`` with DICOM or JPG files), BraTS 2021 and 2023+
    (``<patient>/<patient>_flair.nii.gz``, ``<patient>-t2f.nii.gz``, with ``seg`` where there is one), one such study alone, and
    NIfTI files of several patients side by side.

    The log names what was not understood. A patient of whom that is all, images among it, has an entry with the ``reason`` in
    place of paths; one who lacks a modality beside it has ``warnings``. Outputs of this project among the studies are passed
    over.

    Raises:
        DataListError: when nothing of the kind is there, or two paths claim the same modality of a patient.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise DataListError(f"{folder}: no such folder of studies")
    studies: dict[str, dict[str, Any]] = {}
    not_understood: dict[Path, list[Path]] = {}  # by the folder that it lies in
    outputs: list[Path] = []
    for place in (root, *sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))):
        if place != root and _is_output(place):
            outputs.append(place)
            continue
        series, others, masks = _sort_out(place)
        outputs += masks
        for patient, name, path in series:
            study = studies.setdefault(patient, {"patient": patient})
            if name in study:
                raise DataListError(
                    f"{folder}: {study[name]} and {path} are both {name} of patient {patient}; keep one of them"
                )
            study[name] = str(path)
        is_one_study = root.name in studies  # its folders are series then, not patients
        if place == root:
            others = [path for path in others if is_one_study or not path.is_dir()]
        elif is_one_study or ALIASES.get(place.name.lower()) in MRI_TYPES:
            continue
        elif not any(name in MRI_TYPES for _, name, _ in series):
            others += [path for _, _, path in series]
        if others or not (series or masks or place == root):
            not_understood[place] = others
    for place, paths in not_understood.items():
        study = studies.get(place.name, {"patient": place.name})
        lacking = [name for name in MRI_TYPES if name not in study]
        expected = f"expected folders {', '.join(MRI_TYPES)} or files {place.name}_{{flair,t1,t1ce,t2}}.nii.gz"
        told = f"{some((path.name for path in paths), 5)}; {expected}"
        if len(lacking) == len(MRI_TYPES) and place != root and _any_image(paths):
            studies[place.name] = {**study, "reason": f"none of its series was understood: found {told}"}
        elif lacking and paths:
            study["warnings"] = [f"not understood: {told}"]
    if outputs:
        shown = some((path.relative_to(root).as_posix() for path in outputs), 5)
        logger.info("%s: results of this project among the studies are passed over: %s", folder, shown)
    found = [study for study in studies.values() if any(name in study for name in (*MRI_TYPES, "reason"))]
    names = {place.name: some((path.name for path in paths), 3) for place, paths in not_understood.items()}
    told = some((f"{place} ({inside or 'no images'})" for place, inside in names.items()), 10)
    if all("reason" in study for study in found):
        nested = [name for name in ("train", "test") if (root / name).is_dir()]
        hint = f"; did you mean {root / nested[0]}?" if nested else ""
        raise DataListError(f"{folder}: no study found{f'; not understood: {told}' if told else ''}. {_LAYOUTS}{hint}")
    if told:
        logger.warning("%s: not understood: %s. %s", folder, told, _LAYOUTS)
    return sorted(found, key=lambda study: study["patient"])


def _sort_out(place: Path) -> tuple[list[tuple[str, str, Path]], list[Path], list[Path]]:
    """What lies directly in a folder, but for hidden files and those that are no images.

    Returns:
        ``(patient, modality, path)`` of series; folders and images that were not understood; label maps that this project wrote.
    """
    series: list[tuple[str, str, Path]] = []
    others, masks = [], []
    for path in sorted(path for path in place.iterdir() if not path.name.startswith(".")):
        match = None if path.is_dir() else _NIFTI.match(path.name)
        name = ALIASES.get((match["name"] if match else path.name).lower())
        if path.is_dir() and name in MRI_TYPES:  # an empty one too, of which the reader gives the reason
            series.append((place.name, name, path))
        elif name != "seg" and _is_mask(path):
            masks.append(path)
        elif match and name:
            series.append((match["patient"], name, path))
        elif path.is_dir() or _is_image(path):
            others.append(path)
    return series, others, masks


def _is_output(folder: Path) -> bool:
    """Whether a folder holds results of this project."""
    kept = OUTPUTS.get(folder.name)
    return (folder / CONFIG_FILE).is_file() or (kept is not None and next(folder.glob(kept), None) is not None)


def _is_mask(file: Path) -> bool:
    """Whether a file is a label map that this project wrote: by the header of NIfTI, which has room for a note."""
    if not file.name.lower().endswith((".nii", ".nii.gz")) or file.is_dir():
        return False
    try:
        with gzip.open(file) if file.name.lower().endswith(".gz") else open(file, "rb") as stream:
            return stream.read(228)[148:].rstrip(b"\0") == RESEARCH_ONLY.encode()
    except (OSError, EOFError, zlib.error):  # its reader gives the reason
        return False


def _is_image(file: Path) -> bool:
    """Whether a file may belong to a series: by its ending, or because it holds DICOM."""
    if file.name.lower().endswith(IMAGE_SUFFIXES):
        return True
    try:
        with open(file, "rb") as stream:
            return stream.read(132)[128:] == b"DICM" and file.name != "DICOMDIR"
    except OSError:
        return False


def _any_image(paths: Iterable[Path], most: int = 1000) -> bool:
    """Whether an image is among files, or below folders, of which so many are looked at."""
    files = chain.from_iterable(path.rglob("[!.]*") if path.is_dir() else [path] for path in paths)
    return any(_is_image(file) for file in islice(files, most) if file.is_file())
