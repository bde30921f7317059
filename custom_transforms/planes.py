"""The three planes of slices."""

from __future__ import annotations

PLANES = ("sagittal", "coronal", "axial")
"""In the order of the patient axes along their normals: right to left, front to back, bottom to top."""

DISPLAY_AXCODES = {"axial": ("L", "P", "S"), "coronal": ("L", "I", "P"), "sagittal": ("P", "I", "R")}
"""Directions towards which (column, row, slice) index grow in the usual display of each plane, as scanners store it."""
