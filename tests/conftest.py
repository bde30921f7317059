"""Fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real glioma MRI (``task1``, ``task2``, ``brats2023``); tests that ask for it skip without it."""
    named = os.environ.get("RADIOGENOMICS_REAL_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data" / "real"
    if not folder.is_dir():
        pytest.skip(f"no real MRI at {folder}: set RADIOGENOMICS_REAL_DATA to its folder")
    return folder
