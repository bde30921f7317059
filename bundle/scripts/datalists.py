"""Data lists: the patients, the paths of their series, and who is used for training, validation and testing.

A data list is a JSON file in the Decathlon form, ``{"training": [...], "validation": [...], "test": [...]}``, with one entry
per patient: ``patient`` (identifier), a path for each existing modality (``FLAIR``, ``T1w``, ``T1wCE``, ``T2w``: a folder of
DICOM files or images, a NIfTI file, or a list of DICOM files), optionally ``seg`` (BraTS labels), ``label`` (MGMT 0 or 1), ``group`` (the same for the
same person) and ``fold``. Paths are relative to ``dataset_dir``, which the file names and every configuration can override.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .datalist_entries import check_entry
from .errors import some
from .files import FileError, is_path, one_line, read_json, write_json
from .identifiers import lookup, person
from .label_tables import read_labels
from .modalities import MRI_TYPES
from .outputs import check_identifier, same_on_disk
from .studies.folders import DataListError, find_studies
from .studies.pseudonyms import CALLED, deidentified

logger = logging.getLogger(__name__)

EXCLUDED_PATIENTS = ("00109", "00123", "00709")
"""Patients that the challenge's organisers ask to leave out of training."""


def build_datalist(
    dataset_dir: str | Path,
    output: str | Path | None = None,
    labels: str | Path | None = None,
    folds: int = 5,
    seed: int = 67,
    overwrite: bool = False,
    rules: str | Path | None = None,
) -> dict[str, Any]:
    """Build the data list of a folder, whatever its layout, and write it as JSON where ``output`` is given.

    A folder with ``train/`` (and ``test/``) in it is the challenge's: the patients of ``train/`` are labelled by
    ``train_labels.csv``, those of ``test/`` have no label. Otherwise all studies of the folder are taken: those with a
    segmentation (Task 1) or with a label train, the others are for testing. Folds: grouped by person for Task 1,
    stratified by label and grouped by person for Task 2.

    Args:
        dataset_dir: folder of studies; the paths of a zip file would not last.
        output: JSON file to write.
        labels: CSV of labels; ``train_labels.csv`` in ``dataset_dir`` by default, where there is one.
        folds: number of folds.
        seed: of the assignment to folds.
        overwrite: replace an existing ``output``.
        rules: file of rules for DICOM series; the bundle's by default.

    Returns:
        The data list.

    Raises:
        DataListError: when there is nothing to list, too few patients for the folds, or ``output`` exists.
    """
    if output is not None:
        _may_be_written(output, overwrite)
    root = Path(dataset_dir).resolve()
    if root.is_file():
        raise DataListError(f"{dataset_dir}: a data list needs files that stay in place; unpack it and give the folder")
    train_dir = root / "train"
    studies = find_studies(train_dir if train_dir.is_dir() else root, rules)
    test = find_studies(root / "test", rules) if train_dir.is_dir() and (root / "test").is_dir() else []
    if without := [study["patient"] for study in (*studies, *test) if "reason" in study]:
        logger.warning("%d patients without any series are not listed: %s", len(without), some(without, 10))
    studies, test = ([study for study in part if "reason" not in study] for part in (studies, test))
    labels_file = Path(labels) if labels else root / "train_labels.csv"
    _label(studies, labels_file if labels or labels_file.is_file() else None)
    training = [study for study in studies if "label" in study or "seg" in study]
    test += [study for study in studies if "label" not in study and "seg" not in study]
    if training:
        _assign_folds(training, folds, seed)
    datalist: dict[str, Any] = {
        "name": root.name,
        "dataset_dir": str(root),
        "training": [_relative(study, root) for study in training],
        "validation": [],
        "test": [_relative(study, root) for study in test],
    }
    if output is not None:
        write_json(datalist, output)
    return datalist


def _may_be_written(output: str | Path, overwrite: bool) -> None:
    """Refuse to replace a data list unless asked, and any other file in any case."""
    if Path(output).exists():
        if not overwrite:
            raise DataListError(f"{output} exists; give another name or --overwrite")
        load_datalist(output)


def _label(studies: Sequence[dict[str, Any]], labels_file: Path | None) -> None:
    """Write ``group``, and ``label`` where the file has one, into each entry; the log names those without."""
    values = {} if labels_file is None else read_labels(labels_file)
    label_of = lookup(values)
    for study in studies:
        study["group"] = person(study.get("group", study["patient"]))
        if (label := label_of(study["patient"])) is not None:
            study["label"] = label
    if unlabelled := [study["patient"] for study in studies if "label" not in study and values]:
        logger.warning("%d patients have no label in %s: %s", len(unlabelled), labels_file, ", ".join(unlabelled[:10]))


def _relative(study: Mapping[str, Any], root: Path) -> dict[str, Any]:
    def relative(path: str) -> str:
        return Path(os.path.relpath(path, root)).as_posix()

    kept = {key: value for key, value in study.items() if key not in ("study", "warnings")}
    return kept | {key: _each(relative, kept[key]) for key in (*MRI_TYPES, "seg") if key in kept}


def _each(change: Callable[[str], str], files: str | list[str]) -> str | list[str]:
    """A series' path, or those of its files, changed."""
    return change(files) if isinstance(files, str) else [change(file) for file in files]


def _assign_folds(training: list[dict[str, Any]], folds: int, seed: int) -> None:
    """Write ``fold`` into each entry: GroupKFold for Task 1, StratifiedGroupKFold where there are labels."""
    import numpy as np
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
    from sklearn.utils import check_random_state

    labelled = [study for study in training if "label" in study]
    stratified = len(labelled) == len(training)
    groups = [study["group"] for study in training]
    smallest = min(Counter(study["label"] for study in labelled).values()) if stratified else len(set(groups))
    if smallest < folds:
        what = "patients of the rarer label" if stratified else "patients"
        raise DataListError(f"{smallest} {what} can't be split into {folds} folds; ask for fewer with --folds")
    if stratified:
        # as shuffle=True does in scikit-learn from 1.8 on; before, it mixed up labels
        known, numbers = np.unique(groups, return_inverse=True)
        shuffled = np.arange(len(known))
        check_random_state(seed).shuffle(shuffled)
        labels = [study["label"] for study in training]
        splits = StratifiedGroupKFold(n_splits=folds).split(training, labels, np.argsort(shuffled)[numbers])
    else:
        splits = GroupKFold(n_splits=folds).split(training, groups=groups)
    for fold, (_, held_out) in enumerate(splits):
        for index in held_out:
            training[index]["fold"] = fold


def load_datalist(file: str | Path, dataset_dir: str | Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """Read a data list; paths become absolute, sections that are missing become empty.

    Args:
        file: JSON file.
        dataset_dir: folder that the paths are relative to; by default the one given in the file, else the file's own.

    Raises:
        DataListError: when the file is missing, is not a data list, or has a patient twice or without a name.
    """
    path = Path(file)
    if not path.is_file():
        raise DataListError(
            f"{file}: no such data list; make one with `radiogenomics datalist --input DIR --output {file}`"
        )
    try:
        content = read_json(path, "make it again with `radiogenomics datalist`")
    except FileError as error:
        raise DataListError(str(error)) from error
    sections = ("training", "validation", "test")
    if not isinstance(content, dict) or not any(section in content for section in sections):
        raise DataListError(f"{file}: not a data list; expected a JSON object with the lists {', '.join(sections)}")
    folder = content.get("dataset_dir") or ""
    if not is_path(folder):
        raise DataListError(f"{file}: dataset_dir is {one_line(repr(folder))}; expected the path of a folder")
    root = Path(dataset_dir or folder or path.parent)
    root = root if root.is_absolute() else (path.parent / root)
    datalist: dict[str, list[dict[str, Any]]] = {}
    for section in sections:
        datalist[section] = []
        if not isinstance(content.get(section, []), list):
            raise DataListError(
                f"{file}: {section!r} is {one_line(repr(content[section]))}; expected a list of patients"
            )
        for entry in content.get(section, []):
            check_entry(entry, section, file)
            paths = {
                key: _each(lambda path: str(root / path), entry[key]) for key in (*MRI_TYPES, "seg") if key in entry
            }
            datalist[section].append({**entry, **paths})
    names = Counter(entry["patient"] for section in sections for entry in datalist[section])
    doubled = [patient for patient, count in names.items() if count > 1]
    if doubled or (doubled := same_on_disk(names)):  # which share a folder on some file systems
        raise DataListError(f"{file}: patients named more than once: {', '.join(doubled[:10])}; keep one entry of each")
    return datalist


def exclude(
    entries: Iterable[dict[str, Any]], patients: Iterable[str], why: str = "left out of training"
) -> list[dict[str, Any]]:
    """The entries whose patient is not among ``patients`` under any identifier; logs who was left out."""
    persons = {person(str(patient)) for patient in patients}
    kept: list[dict[str, Any]] = []
    gone: list[dict[str, Any]] = []
    for entry in entries:
        (gone if person(entry["patient"]) in persons else kept).append(entry)
    logger.info("%s: %d patients%s", why, len(gone), f" ({some(entry['patient'] for entry in gone)})" if gone else "")
    return kept


def segmentation_split(
    datalist: str | Path,
    dataset_dir: str | Path | None = None,
    fold: int = 0,
    classification_datalist: str | Path | None = None,
    excluded: Sequence[str] = (),
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and held-out patients of stage 1; those of the Task-2 data list, who would leak into stage 2, are left out."""
    lists = load_datalist(datalist, dataset_dir)
    if excluded:
        lists = {section: exclude(entries, excluded) for section, entries in lists.items()}
    if classification_datalist is None:
        logger.warning(
            "no Task-2 data list is given: patients who are in both tasks can't be kept out of stage 1 "
            "(--classification_datalist FILE)"
        )
        return split_fold(lists, fold)
    others = [entry["patient"] for entries in load_datalist(classification_datalist).values() for entry in entries]
    return split_fold(lists, fold, others, "left out of stage 1 as patients of Task 2")


def classification_split(
    datalist: str | Path,
    dataset_dir: str | Path | None = None,
    fold: int = 0,
    excluded: Sequence[str] = EXCLUDED_PATIENTS,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and held-out patients of stage 2, without those that the challenge's organisers ask to leave out, or others."""
    by_hosts = {str(patient) for patient in excluded} <= set(EXCLUDED_PATIENTS)
    why = "left out of stage 2, as the organisers ask" if by_hosts else "left out of stage 2"
    return split_fold(load_datalist(datalist, dataset_dir), fold, excluded, why)


def split_fold(
    datalist: Mapping[str, Sequence[dict[str, Any]]], fold: int = 0, excluded: Iterable[str] = (), why: str = "left out"
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and held-out entries: by ``fold``, or the data list's own ``validation`` section where it has one.

    Args:
        datalist: from :func:`load_datalist`.
        fold: that is held out.
        excluded: patients on neither side.
        why: the reason for the log.

    Raises:
        DataListError: when either side is empty or a person is on both sides.
    """
    candidates = exclude(datalist["training"], excluded, why)
    if datalist["validation"]:
        training, held_out = candidates, exclude(datalist["validation"], excluded, f"{why}, of the held-out")
    else:
        training = [entry for entry in candidates if entry.get("fold") != fold]
        held_out = [entry for entry in candidates if entry.get("fold") == fold]
    if not training or not held_out:
        folds = sorted({entry["fold"] for entry in candidates if "fold" in entry})
        raise DataListError(
            f"fold {fold}: {len(training)} patients train and {len(held_out)} are held out; the data list has the folds {folds}"
        )
    shared = {_group(entry) for entry in training} & {_group(entry) for entry in held_out}
    if shared:
        raise DataListError(
            f"the same persons would be in training and held out: {some(sorted(shared))}; rebuild the data list"
        )
    logger.info("fold %s: %d patients train, %d are held out", fold, len(training), len(held_out))
    return training, held_out


def select(
    dataset_dir: str | Path | None = None,
    datalist: str | Path | None = None,
    section: str | None = None,
    labels: str | Path | None = None,
    rules: str | Path | None = None,
    named: Mapping[str, str] | None = None,
    patient: str | None = None,
    deidentify: bool = False,
) -> list[dict[str, Any]]:
    """The patients requested from a job.

    Args:
        dataset_dir: folder or zip file of studies; with a data list, the folder that its paths are relative to.
        datalist: data list; without it all studies of ``dataset_dir`` are taken.
        section: of the data list; all of them by default.
        labels: CSV with labels for patients whose entries have none.
        rules: file of rules for DICOM series; the bundle's by default.
        named: series of one patient by modality, see :func:`~scripts.studies.folders.find_studies`.
        patient: that patient's name.
        deidentify: give patients pseudonyms (:mod:`scripts.studies.pseudonyms`).

    Raises:
        DataListError: when no input is given, or nobody is left.
    """
    given = {name: value for name, value in (named or {}).items() if value is not None}
    if datalist is not None:
        if given or patient:
            raise DataListError(
                "series and patients are named in the data list; name them there, or give studies without a data list"
            )
        lists = _load(datalist, dataset_dir, deidentify)
        if section is not None and section not in lists:
            raise DataListError(f"section {section!r}: expected one of {', '.join(lists)}")
        entries = [entry for name, part in lists.items() if section in (None, name) for entry in part]
        entries = deidentified(entries) if deidentify else entries
    else:
        entries = find_studies(dataset_dir, rules, deidentify, given, patient)
    if not entries:
        raise DataListError(
            f"{datalist}: there is no patient in {section or 'it'}; expected entries in a list called training, validation or test"
        )
    for entry in entries:
        check_identifier(entry["patient"], dataset_dir or "")
    if labels is not None:
        label_of = lookup(read_labels(labels))
        for entry in entries:
            label = label_of(entry.get(CALLED, entry["patient"]))
            if label is not None:
                entry["label"] = label
    return entries


def _load(datalist: str | Path, dataset_dir: str | Path | None, deidentify: bool) -> dict[str, list[dict[str, Any]]]:
    try:
        return load_datalist(datalist, dataset_dir)
    except DataListError:
        if not deidentify or not Path(datalist).is_file():
            raise
        raise DataListError(
            "the data list can't be used; the reason may name patients, which --deidentify leaves out: the same command without it shows it"
        ) from None


def identifiers(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The real names of the entries, whatever their pseudonyms."""
    return [entry.get(CALLED, entry["patient"]) for entry in entries]


def volumes(image: str | Path | None = None, dataset_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """Items ``{"image": path}`` for one series (a NIfTI file or a folder of DICOM files), or for all series of the studies."""
    if image is not None:
        return [{"image": str(image)}]
    return [{"image": entry[name]} for entry in select(dataset_dir) for name in MRI_TYPES if name in entry]


def held_out(
    datalist: str | Path,
    dataset_dir: str | Path | None = None,
    fold: int = 0,
    section: str | None = None,
    labels: str | Path | None = None,
    excluded: Sequence[str] = EXCLUDED_PATIENTS,
) -> list[dict[str, Any]]:
    """The patients to evaluate stage 2 on: those of a fold, or of a section of the data list."""
    if section is None:
        return classification_split(datalist, dataset_dir, fold, excluded)[1]
    return exclude(select(dataset_dir, datalist, section, labels), excluded, "left out, as the organisers ask")


def _group(entry: Mapping[str, Any]) -> str:
    return str(entry.get("group", person(entry["patient"])))
