"""A walk through a folder of studies: which files their names describe, and which need their headers read."""

from __future__ import annotations

import gzip
import os
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import RESEARCH_ONLY
from ..modalities import MRI_TYPES
from ..outputs import CONFIG_FILE
from ..waiting import StalledError, within_limit
from .names import is_nifti, modality_of, read_name

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".dcm", ".dicom", ".ima", ".jpg", ".jpeg", ".png")
"""Endings of files of a series; DICOM files need none."""
OUTPUTS = {"prepared": "index.json", "report": "report.html", "explanations": "*.npz", "dicom": "*/*_s[er]*.dcm"}
"""Folders that this project writes beside its configuration, each with its typical content."""
_NOT_RAW_BIDS = ("code", "derivatives", "sourcedata", "stimuli")


class Walk:
    """The files below a folder.

    Args:
        root: the folder.
        skipped: names of folders in it to skip.

    Attributes:
        rows: of the series that names describe, by patient: see :func:`~scripts.studies.folders.find_studies`; ``version`` besides.
        persons: of patients with several visits, by the name of the visit.
        dicom: files that DICOM headers must describe.
        others: unrecognised images and folders, by their folder in ``root``.
        outputs: results of this project.
        understood: folders in ``root`` below which there are series.
    """

    def __init__(self, root: Path, skipped: Iterable[str] = ()) -> None:
        self.root = root
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.persons: dict[str, str] = {}
        self.dicom: list[Path] = []
        self.others: dict[Path, list[Path]] = {}
        self.outputs: list[Path] = []
        self.understood: set[Path] = set()
        self._noted: set[Path] = set()
        self._skipped = {*skipped, *(_NOT_RAW_BIDS if (root / "dataset_description.json").is_file() else ())}
        # of files that name no patient, and of BIDS, which may name a visit: the patient's name depends on the others
        self._bare: dict[Path, list[tuple[str, Path, str]]] = {}
        self._bids: list[tuple[str, str, dict[str, Any]]] = []
        self._walk()
        self._name_patients()
        self._leave_series_beside_named_ones()

    def not_understood(self, path: Path) -> None:
        """Record an unrecognised image, or its subfolder of a folder in ``root``."""
        parts = path.relative_to(self.root).parts
        place = self.place(path)
        entry = place / parts[1] if len(parts) > 1 else path
        if entry not in self._noted:
            self._noted.add(entry)
            self.others.setdefault(place, []).append(entry)

    def empty_folders(self) -> dict[Path, list[Path]]:
        """The folders in ``root`` below which there is no image, and the folders in each."""
        touched = {*self.understood, *self.others, *self.outputs}
        return {
            place: _folders_in(place)
            for place in _folders_in(self.root)
            if place not in touched and place.name not in self._skipped
        }

    def place(self, path: Path) -> Path:
        """The folder in ``root`` with a path; ``root`` where there is none."""
        parts = path.relative_to(self.root).parts
        return self.root / parts[0] if len(parts) > 1 else self.root

    def _walk(self) -> None:
        for name, folders, names in os.walk(self.root):
            place = Path(name)
            if place != self.root and _is_output(place):
                self.outputs.append(place)
                folders.clear()
                continue
            skipped = self._skipped if place == self.root else ()
            folders[:] = sorted(one for one in folders if not one.startswith(".") and one not in skipped)
            modality = modality_of(place.name)
            if place != self.root and modality in MRI_TYPES and not folders:
                # an empty one too; the reader gives the reason
                self._bare.setdefault(place.parent, []).append((modality, place, ""))
                self.understood.add(self.place(place))
                continue
            for path in (place / one for one in sorted(names) if not one.startswith(".")):
                self._sort(path)

    def _sort(self, path: Path) -> None:
        """Sort a file."""
        if not is_nifti(path.name):
            if _is_dicom(path):
                self.dicom.append(path)
            elif path.name.lower().endswith(IMAGE_SUFFIXES):
                self.not_understood(path)
            return
        name = read_name(path.name)
        if (name is None or name.kind != "seg") and _is_mask(path):
            self.outputs.append(path)
        elif name is None:
            self.not_understood(path)
        elif name.patient.startswith("sub-"):
            self._bids.append((name.patient, name.session, self._row(path, name.kind, name.version)))
        elif name.patient:
            self.rows.setdefault(name.patient, []).append(self._row(path, name.kind, name.version))
        else:
            self._bare.setdefault(path.parent, []).append((name.kind, path, name.version))
            return
        if name is not None and name.kind != "seg":
            self.understood.add(self.place(path))

    def _row(self, path: Path, kind: str, version: str) -> dict[str, Any]:
        """The facts of a series from its name."""
        return {**named_row(path, path.relative_to(self.root).as_posix(), kind), "version": version}

    def _name_patients(self) -> None:
        """Name the patients of bare files by their folder, with those above it where two are alike; of BIDS with the session."""
        sessions: dict[str, set[str]] = {}
        for subject, session, _ in self._bids:
            sessions.setdefault(subject, set()).add(session)
        for subject, session, row in self._bids:
            name = subject
            if len(sessions[subject]) > 1 and session:
                name = f"{subject}_{session}"
                self.persons[name] = subject
            self.rows.setdefault(name, []).append(row)
        alike = Counter(place.name for place in self._bare)
        of_visits = {place.parent for place in self._bare if alike[place.name] > 1}
        for place, files in self._bare.items():
            name = place.name
            if place.parent in of_visits and place != self.root:
                parts = place.relative_to(self.root).parts
                name = "_".join(parts)
                self.persons |= {name: "_".join(parts[:-1])} if len(parts) > 1 else {}
            self.rows.setdefault(name, []).extend(self._row(path, kind, version) for kind, path, version in files)
            self.understood.add(self.place(files[0][1]))

    def _leave_series_beside_named_ones(self) -> None:
        """Ignore DICOM beside folders named by modality: there names decide."""
        named = {place for place, files in self._bare.items() if any(path.is_dir() for _, path, _ in files)}
        sorted_out, self.dicom = self.dicom, []
        for path in sorted_out:
            if named and not named.isdisjoint(path.parents):
                self.not_understood(path)
            else:
                self.dicom.append(path)


def named_row(path: Path, description: str, kind: str) -> dict[str, Any]:
    """The row of a series that only its path describes: see :func:`~scripts.studies.folders.find_studies`."""
    return {
        "number": None, "description": description, "plane": "", "slices": None, "spacing": None, "taken": "", "uid": "",
        "modality": kind, "files": str(path),
    }  # fmt: skip


def has_image(path: Path) -> bool:
    """Whether a path is an image, or a folder with one below it."""
    if not path.is_dir():
        return _is_dicom(path) or path.name.lower().endswith(IMAGE_SUFFIXES)
    return any(has_image(one) for one in path.rglob("[!.]*") if one.is_file())


def _folders_in(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def _is_output(folder: Path) -> bool:
    """Whether a folder holds results of this project."""
    kept = OUTPUTS.get(folder.name)
    return (folder / CONFIG_FILE).is_file() or (kept is not None and next(folder.glob(kept), None) is not None)


def _is_mask(file: Path) -> bool:
    """Whether a file is a label map that this project wrote: by the header of NIfTI, which has room for a note."""
    try:
        return within_limit(file, _beginning, file, 228)[148:].rstrip(b"\0") == RESEARCH_ONLY.encode()
    except (OSError, EOFError, zlib.error, StalledError):  # its reader gives the reason
        return False


def _beginning(file: Path, count: int) -> bytes:
    with gzip.open(file) if file.name.lower().endswith(".gz") else open(file, "rb") as stream:
        return stream.read(count)


def _is_dicom(file: Path) -> bool:
    """Whether a file may hold DICOM: by its ending or its first bytes, including old ones without the preamble."""
    if file.name.lower().endswith(IMAGE_SUFFIXES):
        return file.name.lower().endswith((".dcm", ".dicom", ".ima"))
    try:
        start = within_limit(file, _beginning, file, 132)
    except (OSError, EOFError, zlib.error, StalledError):
        return False
    old = file.suffix == "" and start[:2] in (b"\x02\x00", b"\x08\x00")
    return file.name != "DICOMDIR" and (start[128:] == b"DICM" or old)
