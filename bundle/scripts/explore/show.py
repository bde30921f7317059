"""The selection of series to show, and the files of their pictures."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from custom_transforms import SeriesError

from ..errors import UserError, some
from ..identifiers import lookup, person
from ..label_tables import read_labels
from ..modalities import MRI_TYPES
from ..outputs import check_identifier, inside
from ..studies.folders import DataListError, find_studies
from ..studies.names import is_nifti
from .pictures import PictureError, Shown, draw_montage, draw_side_by_side, read_shown, write_gif, write_mp4, write_png

logger = logging.getLogger(__name__)

LABELS_FILE = "train_labels.csv"


def show_series(
    source: str | Path,
    output: str | Path,
    patient: str | None = None,
    modality: str | None = None,
    mask: str | Path | None = None,
    rules: str | Path | None = None,
    animation: bool = True,
    video: bool | None = None,
    slices: int = 30,
    per_second: float = 10,
    overwrite: bool = False,
    **how: Any,
) -> list[Path]:
    """Write a montage and an animation of a series, or of each of a patient's series.

    Args:
        source: a NIfTI file, a folder or file of DICOM, a folder of pictures, or a folder or zip file of studies.
        output: folder for ``<name>.png``, ``<name>.gif`` and ``<name>.mp4``.
        patient: of the studies; may be omitted for a single patient.
        modality: of the studies; all by default.
        mask: label map, or a folder of ``<patient>_<modality>.nii.gz``, such as ``masks/`` of a run, or the run.
        rules: file of rules for DICOM series.
        animation: write an animation.
        video: as MP4 too; None: where imageio-ffmpeg is installed.
        slices: of the montage at most.
        per_second: slices of the animation.
        overwrite: replace existing pictures.
        how: ``window`` and ``plane`` of :func:`~scripts.explore.pictures.read_shown`.

    Returns:
        The files.

    Raises:
        UserError, SeriesError: for series that can't be shown.
        ImportError: MP4 was asked for without imageio-ffmpeg.
    """
    if video and find_spec("imageio_ffmpeg") is None:
        raise ImportError("MP4 is written with imageio-ffmpeg: pip install '.[video]'")
    found = _series_of(Path(source), patient, modality, rules)
    if mask is not None and Path(mask).is_file() and len(found) > 1:
        raise PictureError(
            f"--mask {mask}: is one mask, found {len(found)} series; say which with --modality, or give a folder"
        )
    kinds = ["png", *(["gif"] if animation else [])]
    if animation and (video or (video is None and find_spec("imageio_ffmpeg") is not None)):
        kinds.append("mp4")
    files = {name: {kind: inside(output, f"{name}.{kind}") for kind in kinds} for name in found}
    _refuse_existing([file for of_series in files.values() for file in of_series.values()], overwrite)
    written: list[Path] = []
    for name, (title, series) in found.items():
        shown = read_shown(series, title, mask=_mask_of(mask, name), **how)
        write_png(draw_montage(shown, slices), files[name]["png"])
        if "gif" in kinds:
            write_gif(shown, files[name]["gif"], per_second)
        if "mp4" in kinds:
            write_mp4(shown, files[name]["mp4"], per_second)
        written += files[name].values()
    return written


def show_by_label(
    source: str | Path,
    output: str | Path,
    labels: str | Path,
    modality: str | None = None,
    per_label: int = 5,
    mask: str | Path | None = None,
    rules: str | Path | None = None,
    slices: int = 30,
    overwrite: bool = False,
    **how: Any,
) -> tuple[list[Path], dict[str, str]]:
    """Write a picture with a row of patients of each label, and montages of these patients in folders ``0`` and ``1``.

    Patients are the first of each label by name that have the modality: nobody is hand-picked.

    Args:
        source: a folder or zip file of studies.
        output: folder for ``labels_<modality>.png``, ``0/<patient>_<modality>.png`` and ``1/…``.
        labels: CSV with the columns ``BraTS21ID,MGMT_value``, or a folder with ``train_labels.csv``.
        modality: FLAIR by default, or the first that all have.
        per_label: number of patients.
        mask: folder of masks, such as ``masks/`` of a run, or the run.
        rules: file of rules for DICOM series.
        slices: of a montage at most.
        overwrite: replace existing pictures.
        how: see :func:`show_series`.

    Returns:
        The files, and the reasons for skipped patients.

    Raises:
        UserError: when no labelled patient can be shown.
    """
    file = Path(labels) / LABELS_FILE if Path(labels).is_dir() else Path(labels)
    labelled = _labelled(find_studies(source, rules), file)
    name = modality or next((one for one in MRI_TYPES if any(one in entry for _, entry in labelled)), MRI_TYPES[0])
    if mask is not None and Path(mask).is_file():
        raise PictureError(f"--mask {mask}: is one mask, expected a folder of masks of many patients")
    overview = inside(output, f"labels_{name}.png")
    earlier = [*Path(output).glob(f"[01]/*_{name}.png"), overview] if Path(output).is_dir() else []
    _refuse_existing(earlier, overwrite)
    groups: dict[str, list[Shown]] = {}
    written, passed_over = [], {}
    for label in (0, 1):
        for one in (entry for value, entry in labelled if value == label):
            if len(groups.get(f"label {label}", ())) == per_label:
                break
            patient = check_identifier(one["patient"], source)
            if name not in one:
                passed_over[patient] = one.get("reason", f"it has no {name}")
                continue
            try:
                shown = read_shown(one[name], patient, mask=_mask_of(mask, f"{patient}_{name}"), **how)
            except (SeriesError, PictureError) as error:
                passed_over[patient] = str(error)
                continue
            groups.setdefault(f"label {label}", []).append(shown)
            target = inside(output, str(label), f"{patient}_{name}.png")
            titled = Shown(f"{patient}, {name}, label {label}", *_rest(shown))
            write_png(draw_montage(titled, slices), target)
            written.append(target)
    if not groups:
        raise PictureError(
            f"{source}: no labelled patient's {name} can be shown: {some(f'{who}: {why}' for who, why in passed_over.items())}"
        )
    title = f"{name} of patients by label (MGMT_value of {file.name}: 0 not methylated, 1 methylated)"
    write_png(draw_side_by_side(groups, title), overview)
    return [overview, *written], passed_over


def _labelled(entries: Sequence[Mapping[str, Any]], file: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """The patients of whom a table has a label, each after it."""
    label_of = lookup(read_labels(file))
    labels = [label_of(one["patient"]) for one in entries]
    found = [(label, one) for label, one in zip(labels, entries, strict=True) if label is not None]
    if not found:
        raise DataListError(
            f"{file}: it has no label for any of {some((one['patient'] for one in entries), 5)}; give the file of these studies"
        )
    return found


def _rest(shown: Shown) -> tuple[Any, ...]:
    return shown.slices, shown.geometry, shown.window, shown.regions, shown.warnings


def _series_of(
    source: Path, patient: str | None, modality: str | None, rules: str | Path | None
) -> dict[str, tuple[str, str | Sequence[str]]]:
    """Titles and files of the series by the name of their pictures."""
    asked = patient is not None or modality is not None
    whole = source.is_file() and not zipfile.is_zipfile(source)
    has_folders = source.is_dir() and any(one.is_dir() for one in source.iterdir() if not one.name.startswith("."))
    if whole or (source.is_dir() and not has_folders and not asked and not _holds_niftis(source)):
        try:
            return (
                {**_one_series(source)} if whole or _is_one_series(source) else _of_studies(source, None, None, rules)
            )
        except DataListError as error:
            raise PictureError(f"{source}: neither a series nor studies: {error}") from error
    if not source.exists():
        raise PictureError(f"{source}: no such file or folder; expected a series or studies")
    return _of_studies(source, patient, modality, rules)


def _holds_niftis(folder: Path) -> bool:
    return any(is_nifti(one.name) for one in folder.iterdir())


def _is_one_series(folder: Path) -> bool:
    """Whether the files of a folder are one series by their headers, or pictures."""
    from custom_transforms import dicom_slices

    try:
        dicom_slices(folder)  # None: there are only pictures, or nothing, which the reader reports
    except SeriesError as error:
        return "series in one folder" not in str(error)
    return True


def _one_series(source: Path) -> dict[str, tuple[str, str]]:
    """A series given by its path, and named after it."""
    if source.is_dir():
        where = source.resolve()
        return {f"{where.parent.name}_{where.name}".lstrip("_"): (f"{where.parent.name}, {where.name}", str(source))}
    stem = source.name
    for suffix in (".gz", ".nii", ".dcm"):
        stem = stem.removesuffix(suffix)
    return {stem: (stem, str(source))}


def _of_studies(
    source: Path, patient: str | None, modality: str | None, rules: str | Path | None
) -> dict[str, tuple[str, str | Sequence[str]]]:
    """The series of one patient of the studies."""
    entries = find_studies(source, rules)
    if patient is not None:
        same = [one for one in entries if one["patient"] == patient]
        same = same or [one for one in entries if person(one["patient"]) == person(patient)]
    else:
        same = entries
    if len(same) != 1:
        asked = f"--patient {patient}: {'several' if same else 'none'} of" if patient is not None else f"{source} holds"
        raise PictureError(f"{asked} {some((one['patient'] for one in entries), 10)}; say which with --patient")
    (entry,) = same
    found = {name: entry[name] for name in MRI_TYPES if name in entry}
    if modality is not None:
        if modality not in found:
            why = entry.get("reason") or f"found {', '.join(found) or 'nothing'}"
            raise PictureError(f"patient {entry['patient']} has no {modality}: {why}; see `radiogenomics studies`")
        found = {modality: found[modality]}
    if not found:
        raise PictureError(
            f"patient {entry['patient']}: {entry.get('reason', 'no series')}; see `radiogenomics studies`"
        )
    who = check_identifier(entry["patient"], source)
    return {f"{who}_{name}": (f"{who}, {name}", files) for name, files in found.items()}


def _mask_of(mask: str | Path | None, name: str) -> Path | None:
    """The mask of a series: the file itself, or the one in a folder; None, with a log line, where that has none."""
    if mask is None or Path(mask).is_file():
        return None if mask is None else Path(mask)
    if not Path(mask).is_dir():
        raise PictureError(f"--mask {mask}: no such file or folder of masks")
    for folder in (Path(mask), Path(mask) / "masks"):
        for ending in (".nii.gz", ".nii"):
            if (file := folder / f"{name}{ending}").is_file():
                return file
    logger.warning("%s: no %s.nii.gz in it; shown without a mask", mask, name)
    return None


def _refuse_existing(files: Sequence[Path], overwrite: bool) -> None:
    there = [str(file) for file in files if file.exists()]
    if there and not overwrite:
        raise UserError(f"{some(there, 3)}: already exists; name another folder, or replace it with --overwrite")


def summary(files: Sequence[Path], passed_over: Mapping[str, str]) -> dict[str, Any]:
    """The command's output."""
    return {"written": [str(file) for file in files]} | ({"passed over": dict(passed_over)} if passed_over else {})
