"""Which patient and modality a NIfTI file shows, by its name: of BraTS 2017 to 2025, BIDS, UCSF-PDGM, UPENN-GBM, or any with such an ending."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..modalities import ALIASES

_SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_QUALIFIERS = (
    "unstripped", "stripped", "skullstripped", "brain", "bet", "ss", "bias", "n4", "bfc", "reg", "registered", "coreg", "resampled",
    "iso", "1mm", "norm", "orig", "raw", "native", "preproc", "preprocessed",
)  # fmt: skip
"""Words after the modality that mark a version of a series."""
_BIDS = re.compile(
    r"(?P<subject>sub-[A-Za-z0-9]+)(?:_(?P<session>ses-[A-Za-z0-9]+))?_(?:(?P<rest>.+)_)?(?P<suffix>[A-Za-z0-9]+)"
)


@dataclass(frozen=True)
class Name:
    """The parts of a file's name.

    Attributes:
        patient: identifier; empty where the name is a modality only and the folder names the patient.
        kind: modality, or ``seg``.
        version: words that mark a version of the series, ``bias`` for example; mostly empty.
        session: of BIDS, ``ses-1``.
    """

    patient: str
    kind: str
    version: str = ""
    session: str = ""


def is_nifti(name: str) -> bool:
    """Whether a file name is a NIfTI file's."""
    return _SUFFIX.search(name) is not None


def read_name(name: str) -> Name | None:
    """The parts of a NIfTI file's name; None where it ends with no known modality."""
    stem = _SUFFIX.sub("", name)
    if match := _BIDS.fullmatch(stem):
        return _read_bids(match)
    words = list(re.finditer(r"[^_\-. ]+", stem))
    end = len(words)
    while end > 1 and words[end - 1][0].lower() in _QUALIFIERS:
        end -= 1
    for length in (3, 2, 1):  # T2_FLAIR before FLAIR
        ending = words[max(end - length, 0) : end]
        kind = modality_of("_".join(word[0] for word in ending))
        if len(ending) == length and kind is not None:
            patient = stem[: ending[0].start()][:-1]
            return Name(patient, kind, " ".join(word[0].lower() for word in words[end:]))
    return None


def modality_of(name: str) -> str | None:
    """The modality, or ``seg``, that a whole name stands for; None where it is neither."""
    return ALIASES.get(re.sub(r"[\-. ]+", "_", name.strip()).lower())


def _read_bids(match: re.Match[str]) -> Name | None:
    kind = ALIASES.get(match["suffix"].lower())
    if kind is None:
        return None
    entities = dict(part.split("-", 1) for part in (match["rest"] or "").split("_") if "-" in part)
    if kind == "T1w" and entities.pop("ce", None) is not None:
        kind = "T1wCE"
    return Name(
        match["subject"], kind, " ".join(f"{key}-{value}" for key, value in entities.items()), match["session"] or ""
    )
