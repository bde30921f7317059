"""Fixtures of the tests of DICOM output."""

from __future__ import annotations

import pytest

from tests.scripts.dicom.sources import make_series, read_stack, some_masks


@pytest.fixture
def series(tmp_path):
    """A series, its stack, its geometry and masks."""
    make_series(tmp_path / "series")
    stack, geometry = read_stack(tmp_path / "series")
    return tmp_path, stack, geometry, some_masks(stack)
