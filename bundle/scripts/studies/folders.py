"""The studies in a folder or a zip file of any layout: the challenge's, BraTS of any year, BIDS, plain names, or DICOM as exported."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..environment import BUNDLE_ROOT
from ..errors import UserError, some
from ..modalities import MRI_TYPES
from ..outputs import same_on_disk
from .archives import unpacked
from .pseudonyms import deidentified, quiet
from .walk import Walk, has_image, named_row

logger = logging.getLogger(__name__)

RULES_FILE = BUNDLE_ROOT / "configs" / "modality_rules.yaml"
"""The default rules for sorting DICOM series."""
_LAYOUTS = (
    "Expected DICOM files, NIfTI files whose names end with a modality (<patient>_flair.nii.gz, <patient>-t2f.nii.gz), or "
    f"<patient>/{{{','.join(MRI_TYPES)}}}/ with DICOM or JPG files"
)


NO_STUDY = (
    "no study can be used; the reason names patients and files, which --deidentify leaves out: `radiogenomics studies --input STUDIES` "
    "shows it"
)


class DataListError(UserError):
    """A data list or a folder of studies that can't be used."""


def find_studies(
    source: str | Path | None,
    rules: str | Path | None = None,
    deidentify: bool = False,
    named: Mapping[str, str | Path] | None = None,
    patient: str | None = None,
) -> list[dict[str, Any]]:
    """The studies of a folder or a zip file, each ``{"patient", <modality>: path, ..., "study"}``, sorted by patient.

    Recognised at any depth: folders named by modality, as in the challenge's Task 2; NIfTI files whose names end with one
    (:mod:`scripts.studies.names`); DICOM files of any name, sorted by their headers and the rules. Paths are absolute; the files of a
    DICOM series that shares its folder with others are a list.

    ``study`` describes all series, including those that are left out: ``{"date", "uid", "phantom", "series": [{"number", "description",
    "plane", "slices", "spacing", "taken", "uid", "modality", "chosen", "reason", "files"}]}``. A patient none of whose series can be
    used has an entry with the ``reason`` in place of paths; one who lacks a modality beside images that were not recognised has
    ``warnings``. Each visit of a patient has an entry, with the same ``group``. Results of this project among the studies are
    skipped.

    Args:
        source: the folder, or the zip file, which is unpacked while the process runs; None where ``named`` has all series.
        rules: file of rules for DICOM series; :data:`RULES_FILE` by default.
        deidentify: give patients pseudonyms, and omit dates, descriptions, UIDs and file names (:mod:`scripts.studies.pseudonyms`).
        named: of one patient, by modality: a file or folder, or the number, description, UID or file name of a series in ``source``.
        patient: that patient's name.

    Raises:
        DataListError: when there is no study, or ``named`` matches nothing.
    """
    if deidentify:
        return _deidentified(source, rules, named, patient)
    if source is None:
        return [_of_files(named or {}, patient)]
    root = unpacked(source)
    if not root.is_dir():
        raise DataListError(f"{source}: no such folder or zip file of studies")
    nested = [name for name in ("train", "test") if (root / name).is_dir()]
    walk = Walk(root, nested)
    studies, clashes = _resolve(walk, rules)
    if named or patient:
        _apply(named or {}, patient, studies, clashes, source)
    entries = {name: _entry(name, study, clashes[name]) for name, study in studies.items()}
    for name, person in walk.persons.items():
        if name in entries:
            entries[name]["group"] = person
    _report_the_rest(walk, entries)
    return _reported(walk, entries, source, root / nested[0] if nested else None)


def _deidentified(
    source: str | Path | None,
    rules: str | Path | None,
    named: Mapping[str, str | Path] | None,
    patient: str | None,
) -> list[dict[str, Any]]:
    with quiet():
        try:
            return deidentified(find_studies(source, rules, False, named, patient))
        except DataListError:
            raise DataListError(NO_STUDY) from None


def paths_of(files: str | Sequence[str]) -> list[Path]:
    """The paths of a series: one, or those of its files."""
    return [Path(files)] if isinstance(files, str) else [Path(file) for file in files]


def _of_files(named: Mapping[str, str | Path], patient: str | None) -> dict[str, Any]:
    """The entry of a patient whose series are all named by their paths."""
    paths = {name: Path(value).expanduser().resolve() for name, value in named.items()}
    for name, path in paths.items():
        if not path.exists():
            raise DataListError(f"--{name} {path}: no such file or folder")
    first = next(iter(paths.values()), None)
    if first is None:
        raise DataListError(
            "no studies named; give a folder or a zip file of them (dataset_dir), a data list (--datalist FILE), or the files of one patient (--FLAIR FILE)"
        )
    place = first if first.is_dir() else first.parent
    series = [_row_of_path(name, path) for name, path in paths.items()]
    return _entry(patient or (place.parent if first.is_dir() else place).name or "patient", _named_study(series), {})


def _row_of_path(mri_type: str, path: Path) -> dict[str, Any]:
    return {**named_row(path, path.name, mri_type), "chosen": True, "reason": "as asked for"}


def _named_study(series: list[dict[str, Any]]) -> dict[str, Any]:
    """The study of series without headers that describe it."""
    return {"date": "", "uid": "", "phantom": False, "series": series}


def _resolve(walk: Walk, rules: str | Path | None) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, str]]]:
    """The facts of each patient's study, and undecided choices, by patient and modality."""
    studies: dict[str, dict[str, Any]] = {}
    for name, rows in walk.rows.items():
        _choose_by_name(rows)
        studies[name] = _named_study(rows)
    if walk.dicom:
        from .dicom import read_exported  # pydicom is loaded only where needed

        exported, persons, unreadable = read_exported(walk.root, walk.dicom, rules or RULES_FILE)
        for name, study in exported.items():
            earlier = studies.get(name, {"series": []})
            studies[name] = {**study, "series": [*earlier["series"], *study["series"]]}
            walk.understood |= {walk.place(path) for row in study["series"] for path in paths_of(row["files"])}
        walk.persons |= persons
        for path in unreadable:
            walk.not_understood(path)
    clashes: dict[str, dict[str, str]] = {}
    for name, study in studies.items():
        clashes[name] = {}
        for kind in (*MRI_TYPES, "seg"):
            meant = [row for row in study["series"] if row["modality"] == kind and row["chosen"]]
            if len(meant) > 1:
                called = " and ".join(f"{row['number'] or ''} {row['description']}".strip() for row in meant)
                clashes[name][kind] = (
                    f"{called} are both {kind} of patient {name}; keep one of them, or name it with --{kind}"
                )
    return studies, clashes


def _choose_by_name(rows: Iterable[dict[str, Any]]) -> None:
    """For each modality, prefer the series itself to versions of it (``…_T1_bias.nii.gz``)."""
    plain = {row["modality"]: row["description"] for row in rows if not row["version"]}
    for row in rows:
        better = plain.get(row["modality"]) if row.pop("version") else None
        row["chosen"] = better is None
        row["reason"] = "by its name" if better is None else f"a version of {better}"


def _apply(
    named: Mapping[str, str | Path],
    patient: str | None,
    studies: dict[str, dict[str, Any]],
    clashes: dict[str, dict[str, str]],
    source: str | Path,
) -> None:
    """Choose the named series of the only patient."""
    if patient is not None and patient not in studies and len(studies) == 1:
        (earlier,) = studies
        studies[patient], clashes[patient] = studies.pop(earlier), clashes.pop(earlier)
    elif patient is not None and patient in studies:
        for other in [name for name in studies if name != patient]:
            del studies[other], clashes[other]
    if len(studies) != 1:
        whom = (
            f"--patient {patient}: none of"
            if patient
            else f"--{next(iter(named))} names a series of one patient; {source} holds"
        )
        raise DataListError(f"{whom} {some(sorted(studies), 10) or 'none'}; say which with --patient")
    ((name, study),) = studies.items()
    for kind, value in named.items():
        given = str(value)
        rows = [row for row in study["series"] if given in _names_of(row)]
        if not rows and Path(given).expanduser().exists():
            rows = [_row_of_path(kind, Path(given).expanduser().resolve())]
            study["series"].append(rows[0])
        if len(rows) != 1:
            listed = some((f"{row['number'] or ''} '{row['description']}'".strip() for row in study["series"]), 10)
            raise DataListError(
                f"--{kind} {given}: {'several series of' if rows else 'neither a path nor a series of'} patient {name}; expected the number, "
                f"description or UID of one, or a path. Its series: {listed}"
            )
        for row in study["series"]:
            if row["modality"] == kind and row["chosen"] and row is not rows[0]:
                row |= {"chosen": False, "reason": f"{given} was asked for"}
        rows[0] |= {"modality": kind, "chosen": True, "reason": "as asked for"}
        clashes[name].pop(kind, None)


def _names_of(row: Mapping[str, Any]) -> set[str]:
    """The names by which a series may be chosen."""
    return {str(row["number"]), row["description"], row["uid"], Path(row["description"]).name} - {"None", ""}


def _entry(patient: str, study: Mapping[str, Any], clashes: Mapping[str, str]) -> dict[str, Any]:
    """The entry of a patient: its series' paths, or the reason for their absence."""
    series = study["series"]
    entry: dict[str, Any] = {"patient": patient}
    if clashes:
        entry["reason"] = "; ".join(clashes.values())
    else:
        chosen = {row["modality"]: row["files"] for row in series if row["chosen"]}
        entry |= {kind: chosen[kind] for kind in (*MRI_TYPES, "seg") if kind in chosen}
    if not clashes and not any(name in entry for name in MRI_TYPES) and any(row["uid"] for row in series):
        reasons = (
            f"series {row['number']} '{row['description']}' ({row['slices']} slices): {row['reason']}" for row in series
        )
        entry["reason"] = f"none of its series is usable: {some(reasons, 8)}"
    return {**entry, "study": dict(study)}


def _report_the_rest(walk: Walk, entries: dict[str, dict[str, Any]]) -> None:
    """Give patients with unrecognised images a warning, or an entry with the reason."""
    if walk.root.name in entries:  # a single study, whose folders are then series, not patients
        paths = [path for place, inside in walk.others.items() for path in (inside if place == walk.root else [place])]
        walk.others = {walk.root: paths} if paths else {}
    else:
        walk.others |= walk.empty_folders()
        for entry in entries.values():
            if set(entry) == {"patient", "seg", "study"}:
                walk.not_understood(Path(entry["seg"]))
    for place, paths in walk.others.items():
        paths.sort()
        entry = entries.get(place.name, {"patient": place.name})
        lacking = [name for name in MRI_TYPES if name not in entry]
        found = (
            f"{some((path.name for path in paths), 5)}; expected folders {', '.join(MRI_TYPES)} or files "
            f"{place.name}_{{flair,t1,t1ce,t2}}.nii.gz"
        )
        if place.name in entries and any(name in entry for name in MRI_TYPES):
            if lacking and paths:
                entry["warnings"] = [f"not recognised: {found}"]
        elif place != walk.root and place not in walk.understood and any(map(has_image, paths)):
            entries[place.name] = {
                "study": _named_study([]),
                **entry,
                "reason": f"none of its series was recognised: found {found}",
            }


def _reported(
    walk: Walk, entries: Mapping[str, dict[str, Any]], source: str | Path, nested: Path | None
) -> list[dict[str, Any]]:
    """The entries in order, after logging what is not among them; an error if there are none."""
    if walk.outputs:
        shown = some((path.relative_to(walk.root).as_posix() for path in walk.outputs), 5)
        logger.info("%s: results of this project among the studies are passed over: %s", source, shown)
    listed = [entry for entry in entries.values() if any(name in entry for name in (*MRI_TYPES, "reason"))]
    names = {place.name: some((path.name for path in paths), 3) for place, paths in walk.others.items()}
    rest = some((f"{place} ({inside or 'no images'})" for place, inside in names.items()), 10)
    if all("reason" in entry for entry in listed):
        if listed and not rest:
            hint = (
                ". A site's own rules are given with --rules FILE" if any(one["study"]["uid"] for one in listed) else ""
            )
            raise DataListError(f"{source}: {some((one['reason'] for one in listed), 5)}{hint}")
        what = f"no study found; not recognised: {rest}" if rest else "no study found"
        raise DataListError(f"{source}: {what}. {_LAYOUTS}{f'; did you mean {nested}?' if nested else ''}")
    if rest:
        logger.warning("%s: not recognised: %s. %s", source, rest, _LAYOUTS)
    if alike := same_on_disk(entry["patient"] for entry in listed):
        raise DataListError(
            f"{source}: patients whose names differ only in case or the encoding of accents: {some(alike)}; rename "
            "one of each"
        )
    return sorted(listed, key=lambda entry: entry["patient"])
