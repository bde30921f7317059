"""One person under the names of several data sets and visits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.identifiers import lookup, patient_number, person

EXAMPLES = settings(deadline=None, max_examples=50)
STYLES = ("{}", "{:05d}", "BraTS2021_{:05d}", "BraTS-GLI-{:05d}-000", "BraTS-GLI-{:05d}-001", "TCGA-{}")
IDENTIFIERS = st.builds(str.format, st.sampled_from(STYLES), st.integers(0, 3))


def same_patient(first, second):
    return person(first) == person(second)


@given(st.integers(0, 99999))
@EXAMPLES
def test_one_person_under_all_names(number):
    styles = [
        str(number),
        f"{number:05d}",
        f"BraTS2021_{number:05d}",
        f"BraTS-GLI-{number:05d}-000",
        f"BraTS-GLI-{number:05d}-101",
    ]
    for first in styles:
        assert patient_number(first) == number
        assert all(same_patient(first, second) for second in styles)


@given(st.integers(0, 99999), st.integers(0, 99999))
@EXAMPLES
def test_two_persons_are_two(first, second):
    assert same_patient(f"{first:05d}", f"BraTS2021_{second:05d}") == (first == second)


@given(st.lists(IDENTIFIERS, unique=True), IDENTIFIERS)
@EXAMPLES
def test_lookup(names, asked):
    """Against a plain search: the very name, else the last of the same person."""
    values = {name: place for place, name in enumerate(names)}
    others = [place for name, place in values.items() if same_patient(name, asked)]
    expected = values[asked] if asked in values else others[-1] if others else None
    assert lookup(values)(asked) == expected


@pytest.mark.parametrize(
    ("first", "second", "other"),
    [
        ("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"),
        ("UPENN-GBM-00012_11", "UPENN-GBM-00012_21", "UPENN-GBM-00013_11"),
        ("UCSF-PDGM-0004", "UCSF-PDGM-0004_FU003d", "UCSF-PDGM-0005"),
    ],
)
def test_visits_are_of_one_person(first, second, other):
    assert same_patient(first, second)
    assert not same_patient(first, other)


@pytest.mark.parametrize("name", ["", "TCGA-06-0001", "patient 7", "BraTS2021_", "123456", "UPENN-GBM-00012", "12a"])
def test_names_of_another_form_have_no_number(name):
    assert patient_number(name) is None
    assert same_patient(name, name)
    assert not same_patient(name, name + "x")
    assert not same_patient(name, "12")
