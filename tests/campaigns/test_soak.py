"""A small part of the soak campaign: every layout, and every way to break a study once."""

from __future__ import annotations

import pytest

from tests.campaigns import soak


@pytest.mark.slow
def test_every_study_has_its_row_and_every_broken_one_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "SHARE", 0.3)
    studies, wrong, facts = soak.soak(70, 0, tmp_path)
    assert {one.way for one in studies} == {"", *soak.WAYS}
    assert {one.layout for one in studies if not one.way} == set(soak.LAYOUTS)
    assert wrong == []
    assert facts["peak MB"] > 100


def test_tenths_are_those_of_the_preparation():
    preparing = [soak.Look(number, number, 100 + number, 30) for number in range(101)]
    later = [soak.Look(200 + number, 100, 9000, 5) for number in range(50)]
    facts = soak.facts_of([*preparing, *later])
    assert (facts["second tenth, MB"], facts["last tenth, MB"]) == (115, 195)
    assert facts["last tenth, open files"] == 30
    assert facts["last tenth, ms a study"] == 1000 * len(soak.MRI_TYPES)
    assert facts["peak MB"] == 9000
