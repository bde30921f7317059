"""A small part of the soak campaign: every layout, and every way to break a study once."""

from __future__ import annotations

import pytest

from tests.campaigns import soak

pytestmark = pytest.mark.slow


def test_every_study_has_its_row_and_every_broken_one_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "SHARE", 0.3)
    studies, wrong, facts = soak.soak(70, 0, tmp_path)
    assert {one.way for one in studies} == {"", *soak.WAYS}
    assert {one.layout for one in studies if not one.way} == set(soak.LAYOUTS)
    assert wrong == []
    assert facts["peak MB"] > 100
