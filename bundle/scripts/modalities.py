"""The modalities: their names in the project, and in studies. Standard library only."""

from __future__ import annotations

MRI_TYPES = ("FLAIR", "T1w", "T1wCE", "T2w")
"""The challenge's names of the four modalities."""

ALIASES = {
    **dict.fromkeys(("flair", "t2f", "t2flair", "t2_flair"), "FLAIR"),
    **dict.fromkeys(("t1w", "t1", "t1n", "t1pre", "t1_pre"), "T1w"),
    **dict.fromkeys(("t1wce", "t1ce", "t1c", "t1gd", "t1post", "ct1", "t1_ce", "t1_c", "t1_gd", "t1_post"), "T1wCE"),
    **dict.fromkeys(("t2w", "t2"), "T2w"),
    **dict.fromkeys(("seg", "segm", "tumor_seg", "tumor_segmentation", "automated_approx_segm"), "seg"),
}
"""Endings of file and folder names, in lower case with ``_`` between words, to the challenge's names."""

ENHANCING_ON = ("T1wCE",)
"""Modalities in which enhancing tumour can be distinguished: those with contrast agent."""
