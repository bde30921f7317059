"""Skull and brain: whether a series shows the skull, where the brain is, and how the series of a patient lie to each other."""

from .skull import SkullFinding, has_skull

__all__ = ["SkullFinding", "has_skull"]
