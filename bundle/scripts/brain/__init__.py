"""Brain extraction for series that show the skull, and registration of a patient's series."""

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
