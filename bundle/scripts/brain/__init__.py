"""Where the brain is in series that show the skull, and how the series of a patient lie to each other."""

from .extraction import BrainMask, extract_brain, method_for
from .registration import RigidTransform, register, resampled
from .strip import StripSkull, settings

__all__ = [
    "BrainMask",
    "RigidTransform",
    "StripSkull",
    "extract_brain",
    "method_for",
    "register",
    "resampled",
    "settings",
]
