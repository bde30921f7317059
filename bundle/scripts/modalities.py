"""The modalities: how the project names them, and how studies do. Standard library only."""

from __future__ import annotations

MRI_TYPES = ("FLAIR", "T1w", "T1wCE", "T2w")
"""The challenge's names of the four modalities."""

ALIASES = {
    **dict.fromkeys(("flair", "t2f"), "FLAIR"),
    **dict.fromkeys(("t1w", "t1", "t1n"), "T1w"),
    **dict.fromkeys(("t1wce", "t1ce", "t1c", "t1gd"), "T1wCE"),
    **dict.fromkeys(("t2w", "t2"), "T2w"),
    "seg": "seg",
}
"""Lower-case names of modalities, in BraTS 2021, BraTS 2023 and the challenge, to the challenge's names."""

ENHANCING_ON = ("T1wCE",)
"""Modalities in which enhancing tumour shows apart from the rest: those with contrast agent."""
