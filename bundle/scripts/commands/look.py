"""Commands for looking at data: show, headers, volumes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import checks
from ..modalities import MRI_TYPES
from .running import bundle_module, full_path, run_command

PLANES = ("axial", "coronal", "sagittal")


def show(
    series: str | Path,
    output: str | Path | None = None,
    patient: str | None = None,
    modality: str | None = None,
    mask: str | Path | None = None,
    window: str | Sequence[float] = "auto",
    plane: str | None = None,
    slices: int = 30,
    animation: bool = True,
    video: bool | None = None,
    per_second: float = 10,
    label_folder: str | Path | None = None,
    per_label: int = 5,
    rules: str | Path | None = None,
    overwrite: bool = False,
) -> Mapping[str, Any]:
    """Draw a series: a montage of its slices and an animation, masks over them; or patients with and without a label side by side.

    Writes <patient>_<modality>.png, .gif and .mp4. With label_folder it writes labels_<modality>.png, a row of patients of each label, and
    montages of these patients in the folders 0 and 1. The pictures carry the patients' identifiers.

    Args:
        series: a DICOM folder, a NIfTI file, a folder of pictures, or a folder or zip file of studies.
        output: folder for the pictures.
        patient: the patient of the studies to show.
        modality: FLAIR, T1w, T1wCE or T2w of the studies; all of the patient by default, with label_folder FLAIR.
        mask: label map (1 tumour, 2 enhancing tumour; or BraTS labels), or a folder of them, as segment and predict write it.
        window: header (of the DICOM files), percentile, or the grey values of black and white, 0,1200 for example; by default header where
            all files have one, else percentile.
        plane: axial, coronal or sagittal; the acquisition's by default.
        slices: maximum number of slices in a montage.
        animation: write an animation.
        video: write it as MP4 too, which needs the extra video; by default where that is installed.
        per_second: slices per second of the animation.
        label_folder: CSV of labels (BraTS21ID,MGMT_value), or a folder with train_labels.csv, of the studies.
        per_label: patients per label.
        rules: YAML file of rules for sorting DICOM series; by default configs/modality_rules.yaml, which explains them.
        overwrite: replace existing pictures.
    """
    checks.exists("series or studies")("series", full_path(series))
    checks.flag("animation", animation)
    checks.flag("overwrite", overwrite)
    for name, value in (("slices", slices), ("per_label", per_label)):
        checks.number(1, whole=True)(name, value)
    checks.number(0.1, 100)("per_second", per_second)
    if modality is not None:
        checks.one_of(MRI_TYPES)("modality", modality)
    if plane is not None:
        checks.one_of(PLANES)("plane", plane)
    if video is not None:
        checks.flag("video", video)
    if mask is not None:
        checks.exists("label map, or folder of them")("mask", full_path(mask))
    _require_output(output)
    how = {"window": _window(window), "plane": plane}
    given: dict[str, Any] = {
        "slices": slices,
        "mask": full_path(mask),
        "rules": full_path(rules),
        "overwrite": overwrite,
    }
    job = bundle_module("explore.show")
    if label_folder is None:
        who = None if patient is None else str(patient)
        files = job.show_series(
            full_path(series),
            full_path(output),
            who,
            modality,
            animation=animation,
            video=video,
            per_second=per_second,
            **given,
            **how,
        )
        return dict(job.summary(files, {}))
    if patient is not None:
        raise ValueError("--patient names one patient, --label_folder shows many; leave one of them out")
    checks.exists("CSV of labels, or folder with it")("label_folder", full_path(label_folder))
    files, passed_over = job.show_by_label(
        full_path(series), full_path(output), full_path(label_folder), modality, per_label, **given, **how
    )
    return dict(job.summary(files, passed_over))


def _require_output(output: str | Path | None) -> None:
    if output is None:
        raise ValueError("no output folder; say where the results go: --output FOLDER")
    checks.output("output", output)


def _window(window: str | Sequence[float]) -> str | tuple[float, float]:
    """The option's value, also from text such as ``0,1200``."""
    values = window.split(",") if isinstance(window, str) else list(window)
    if len(values) == 2:
        try:
            low, high = (float(value) for value in values)
        except ValueError:
            pass
        else:
            if low < high:
                return low, high
    checks.one_of(("auto", "header", "percentile", "LOW,HIGH"))("window", window)
    if window == "LOW,HIGH":
        raise ValueError("--window LOW,HIGH: expected two numbers, 0,1200 for example")
    return str(window)


def headers(
    first: str | Path,
    second: str | Path | None = None,
    phi: bool = False,
    private: bool = False,
    everything: bool = False,
    html: str | Path | None = None,
    colour: bool | None = None,
    overwrite: bool = False,
) -> str:
    """Show the DICOM attributes of a file, how two files or series differ, or which vary along a series; without the patient's identity.

    Attributes of DICOM's Basic Confidentiality Profile (PS3.15) are hidden, descriptions, dates and UIDs among them; whether they differ is
    shown.

    Args:
        first: DICOM file, or a folder of one series.
        second: another one to compare with the first.
        phi: show the hidden attributes too.
        private: include private attributes; their values are hidden without phi.
        everything: show attributes that are the same, or constant along a series, too.
        html: file to write a page to, which needs the extra report.
        colour: colour the text; by default on a terminal.
        overwrite: replace an existing page.
    """
    for name, value in (("phi", phi), ("private", private), ("everything", everything), ("overwrite", overwrite)):
        checks.flag(name, value)
    if colour is not None:
        checks.flag("colour", colour)
    job = bundle_module("explore.headers")
    if html is not None:
        checks.output_file("html", html)
        if Path(str(html)).exists() and not overwrite:
            raise ValueError(f"--html {html}: already exists; name another file, or replace it with --overwrite")
    found = job.compare([path for path in (full_path(first), full_path(second)) if path is not None], phi, private)
    if html is not None:
        job.write_html(found, str(html), everything)
    on_terminal = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    text: str = job.as_text(found, everything, on_terminal if colour is None else colour)
    return text


def volumes(
    input: str | Path | None = None,
    output: str | Path | None = None,
    size: Sequence[int] = (128, 128, 32),
    format: str | Sequence[str] = "npz",
    mri_types: str | Sequence[str] | None = None,
    labels: str | Path | None = None,
    datalist: str | Path | None = None,
    brain: str | Path | None = None,
    rules: str | Path | None = None,
    num_workers: int | None = None,
    overwrite: bool = False,
    **overrides: Any,
) -> Path:
    """Write series as 8-bit volumes of one size, for 3-D networks and other programs: NPZ, TFRecord.

    Writes <patient>_<modality>.npz, <patient>.tfrecord, volumes.csv and volumes.json. Empty slices are left out, each slice is scaled by its
    own maximum, and the stack is zoomed. Volumes made from the same files in the same way are kept.

    Args:
        input: folder or zip file of studies: DICOM as exported, or NIfTI files named by modality; `studies` shows what is found.
        output: folder for the volumes.
        size: rows, columns and slices of a volume.
        format: npz, tfrecord, or npz,tfrecord.
        mri_types: modalities, FLAIR,T1wCE for example; all by default.
        labels: CSV of labels (BraTS21ID,MGMT_value) to store in the volumes.
        datalist: data list whose patients are used.
        brain: how the brain is found in series that show the skull: auto, deepbet, hd-bet, synthstrip, a folder of masks, or never, which
            uses such series as they are.
        rules: YAML file of rules for sorting DICOM series; by default configs/modality_rules.yaml, which explains them.
        num_workers: processes that read ahead (1).
        overwrite: replace the volumes of an earlier run in output.
        overrides: further settings of configs/volumes.yaml.
    """
    options = locals()
    sides = size.split(",") if isinstance(size, str) else size
    try:
        whole = [int(side) for side in sides]
        good = len(whole) == 3 and min(whole) > 0 and all(float(side) == int(side) for side in sides)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(
            f"--size {size}: expected rows, columns and slices, three whole numbers from 1 up, 128,128,32 for example"
        )
    del options["size"], options["format"]
    names = format.split(",") if isinstance(format, str) else list(format)
    checks.some_of(("npz", "tfrecord"))("format", names)
    options["labels"] = full_path(labels)
    if find_spec("scipy") is None:
        raise ImportError("Volumes are zoomed with SciPy: pip install '.[train]'")
    run_command("volumes", options, size=whole, formats=names)
    return Path(str(output))
