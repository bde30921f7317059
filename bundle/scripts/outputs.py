"""Output paths of a job: never outside its folder, separate from its inputs, and this project's files in a folder.

Standard library and YAML only.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import is_path, read_json
from .modalities import MRI_TYPES

CONFIG_FILE = "resolved_config.yaml"
"""A run's configuration, in its folder."""

SERIES_SUFFIX = ".h5"
"""Suffix of the file of a prepared series."""

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f/\\]|^[A-Za-z]:|^\.{0,2}$")

_PREPARED = ("index.json", CONFIG_FILE, f"*/*{SERIES_SUFFIX}", "*/*.logits.json")
_TRAINING = (CONFIG_FILE, "history.csv", "last.pt", "segmentation.pt", "model_*.pt", "events.out.tfevents.*")
_EVALUATION = (CONFIG_FILE, "overlap.csv", "predictions.csv", "patients.json", "metrics.json")
BRAIN_SUFFIX = "_brain.nii.gz"
"""Ending of the brain masks' names, beside those of the tumour."""
_BRAIN = (f"*{BRAIN_SUFFIX}", "*_transform.txt")
_STUDIES = ("studies.json", "studies.csv")
_MASKS = (*(f"masks/*_{mri_type}.nii.gz" for mri_type in MRI_TYPES), *(f"masks/{name}" for name in _BRAIN))
_REPORT = tuple(
    f"report/{name}"
    for name in ("report.html", "patients/*.html", "figures/*.png", "figures/*.svg", "tables/*.csv", "tables/*.json")
)
_EXPLANATIONS = ("explanations/*.json", "explanations/*.npz", "explanations/*.png")
_ABOUT = (*_REPORT, *_EXPLANATIONS, "MODEL_CARD.md")
"""Files that `report`, `explain` and `card` write into the folder of a run."""


def _below(folder: str, patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{folder}/{pattern}" for pattern in patterns)


_SEGMENTED = (CONFIG_FILE, *_STUDIES, "volumes.csv", *_MASKS, *_below("prepared", _PREPARED))
OUTPUTS: dict[str, tuple[str, ...]] = {
    "inference": (*_SEGMENTED, "submission.csv", "patients.json", "dicom/*/*_seg.dcm", "dicom/*/report_sr.dcm"),
    "segmentation": _SEGMENTED,
    "fuse_segmentation": (
        CONFIG_FILE,
        *_STUDIES,
        "volumes.csv",
        "masks/*.nii.gz",
        "masks/*_transform.txt",
        "done/*.json",
    ),
    "volumes": (CONFIG_FILE, "*.npz", "*.tfrecord", "volumes.csv", "volumes.json", "done/*.json", *_MASKS),
    "explore": (
        CONFIG_FILE,
        "explore.html",
        *(f"figures/*.{ending}" for ending in ("png", "svg")),
        *(f"tables/*.{ending}" for ending in ("csv", "json")),
    ),
    "inference_segmentation": (CONFIG_FILE, "*_seg.nii.gz", "**/*_seg.nii.gz"),
    "crossvalidate": (
        *_EVALUATION,
        "state.json",
        "tables/*.csv",
        "tables/*.json",
        *_below("prepared/*", _PREPARED),
        *_below("segmentation/fold*", _TRAINING),
        *_below("segmentation/fold*/evaluation", _EVALUATION),
        *_below("classification/seed*/fold*/*", _TRAINING),
        *_below("classification/seed*/fold*/evaluation", _EVALUATION),
    ),
    **dict.fromkeys(("evaluate_segmentation", "evaluate_classification"), _EVALUATION),
    **dict.fromkeys(("train_segmentation", "train_classification", "pretrain_segmentation"), _TRAINING),
}
"""Files that a job writes into its folder, as patterns relative to it, by the job's name."""


class OutputError(UserError):
    """An identifier or a folder that can't be used for output."""


_LONGEST = 150  # bytes of a name, to which others are added; file systems take 255
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def is_reserved(name: str) -> bool:
    """Whether Windows takes a file name for a device, ``CON`` or ``nul.txt`` for example."""
    return _RESERVED.fullmatch(name) is not None


def same_on_disk(names: Iterable[str]) -> list[str]:
    """Names that some file systems take for one: they differ only in case or in the encoding of accents."""
    found: dict[str, set[str]] = {}
    for name in names:
        found.setdefault(unicodedata.normalize("NFC", name).casefold(), set()).add(name)
    return sorted(name for alike in found.values() if len(alike) > 1 for name in alike)


def check_identifier(patient: Any, source: str | Path) -> str:
    """A patient's identifier from ``source``, from which file names are made.

    Raises:
        OutputError: when it is not a text, empty, ``.`` or ``..``, begins with a drive, holds a path separator or a control
            character, or is too long.
    """
    if not isinstance(patient, str) or _FORBIDDEN.search(patient):
        raise OutputError(
            f"{source}: patient {patient!r} can't be used in file names; expected text without /, \\, control characters or a drive, "
            "and not . or ..; rename the patient"
        )
    try:
        size = len(patient.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise OutputError(f"{source}: patient {patient!r} contains half a character; rename the patient") from None
    if size > _LONGEST:
        raise OutputError(
            f"{source}: patient {patient[:40]!r}… has {size} bytes, expected at most {_LONGEST}, because file names are made from it; "
            "rename the patient"
        )
    return patient


def inside(folder: str | Path, *parts: str) -> Path:
    """The path of an output that is named after something from data.

    Raises:
        OutputError: when it would leave the folder.
    """
    root = Path(os.path.abspath(folder))
    path = Path(os.path.abspath(root.joinpath(*parts)))
    if root not in path.parents:
        raise OutputError(
            f"{'/'.join(parts)}: this name would lie outside the output folder {root}; rename the patient"
        )
    return path


def own_files(folder: str | Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """The files in a run's folder that its job, with this configuration, and `report`, `explain` and `card` wrote."""
    weights = config.get("weights_file")
    named = [weights] if isinstance(weights, str) and not _FORBIDDEN.search(weights) else []
    patterns = [*OUTPUTS.get(str(config.get("job")), (CONFIG_FILE,)), *_ABOUT, *named]
    found = {path for pattern in patterns for path in Path(folder).glob(pattern) if path.is_file()}
    yield from sorted(found)


def remove_own_files(folder: str | Path, config: Mapping[str, Any], but: frozenset[str] = frozenset()) -> None:
    """Remove :func:`own_files` ``but`` those named, relative to the folder, and folders that are empty then; all else stays."""
    root = Path(folder)
    _remove(root, [path for path in own_files(root, config) if path.relative_to(root).as_posix() not in but])


def remove_unfinished(folder: str | Path, output: str | Path) -> None:
    """Remove prepared series, or notes of patients that are done, if their ``folder`` lies in ``output``; all else stays."""
    root, files = Path(folder), ("*.json", *_PREPARED)
    if Path(output) in root.parents:
        _remove(Path(output), [path for pattern in files for path in root.glob(pattern) if path.is_file()])
        if root.is_dir() and not any(root.iterdir()):
            root.rmdir()


def _remove(root: Path, files: Iterable[Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == root or not parent.is_dir() or any(parent.iterdir()):
                break
            parent.rmdir()


_FOLDERS = ("dataset_dir", "segmentation_dataset_dir", "label_maps", "prepared_dir")
_DATALISTS = ("datalist", "segmentation_datalist", "classification_datalist")
_FILES = ("image", "sample_submission", "labels", "segmenter", "init", "classifier")


def keep_apart(output: str | Path, config: Mapping[str, Any]) -> None:
    """Refuse an output folder that would mix results with the job's inputs.

    Args:
        output: folder for the results.
        config: of the job; expressions in it are ignored.

    Raises:
        OutputError: when the output folder is, holds, or lies in a folder of studies, a data list's or one of prepared series; or is
            or holds weights or another file that is read.
    """
    given = {key: Path(value) for key, value in config.items() if isinstance(value, str) and not value.startswith("$")}
    folders = {key: given[key] for key in _FOLDERS if key in given}
    if str(config.get("job")).startswith("prepare_"):
        folders.pop("prepared_dir", None)  # is what they write
    files = {key: given[key] for key in (*_DATALISTS, *_FILES) if key in given}
    for key in _DATALISTS:
        if key in files and (root := _dataset_dir(files[key])) is not None:
            folders.setdefault(f"folder of {key}", root)
    target = Path(output).resolve()
    for name, path in {**folders, **files}.items():
        place = path.resolve()
        relation = "is" if target == place else "holds" if target in place.parents else None
        if name in folders and place in target.parents:
            relation = "lies in"
        if relation and (name in folders or path.exists()):
            raise OutputError(
                f"{target}: this output folder {relation} {place} ({name}), which the job reads; results are kept apart, so "
                "that nothing there is replaced or taken for a study. Name another folder"
            )


def _dataset_dir(datalist: Path) -> Path | None:
    """The folder of studies that a data list names, if any."""
    try:
        named = read_json(datalist, "").get("dataset_dir")
    except (UserError, AttributeError):
        return None  # its reader reports the error
    return datalist.parent / named if named and is_path(named) else None
