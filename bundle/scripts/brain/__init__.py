"""Skull and brain: whether a series shows the skull, where the brain is, and how the series of a patient lie to each other."""

from .extraction import METHODS, BrainMask, extract_brain, method_for
from .registration import RigidTransform, register, resampled
from .skull import SkullFinding, has_skull

__all__ = [
    "METHODS",
    "BrainMask",
    "RigidTransform",
    "SkullFinding",
    "extract_brain",
    "has_skull",
    "method_for",
    "register",
    "resampled",
]
