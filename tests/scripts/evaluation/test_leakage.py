import logging

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from scripts.evaluation import leakage


def side(*patients, rows=()):
    return leakage.identities([{"patient": patient} for patient in patients], rows)


@settings(deadline=None)
@given(
    arrays.arrays(np.float32, (3, 4, 5), elements=st.integers(-300, 300)),
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from([1, -1])] * 3),
)
def test_fingerprint_does_not_depend_on_order_and_direction(image, axes, steps):
    turned = image.transpose(axes)[tuple(slice(None, None, step) for step in steps)]
    assert leakage.pixel_fingerprint(turned) == leakage.pixel_fingerprint(image)


@settings(deadline=None)
@given(arrays.arrays(np.float32, (2, 3, 4), elements=st.integers(0, 60000)), st.integers(0, 23))
def test_fingerprint_distinguishes_images(image, place):
    other = image.copy()
    other.flat[place] += 1
    assert leakage.pixel_fingerprint(other) != leakage.pixel_fingerprint(image)


@settings(deadline=None)
@given(arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(-10, 10, width=32) | st.integers(-9, 9)))
@example(np.array([-1, 1.1754944e-38], np.float32))
def test_integers_and_fractions_are_counted_alike(image):
    values, counts = leakage._occurrences(image)
    expected = np.unique(image, return_counts=True)
    np.testing.assert_array_equal(values, expected[0])
    np.testing.assert_array_equal(counts, expected[1])


def test_identifiers_of_both_tasks_are_the_same_person():
    leaks = leakage.find_leaks(side("00012", "00013"), side("BraTS2021_00012", "BraTS2021_00044"))
    assert leaks == {("00012", "BraTS2021_00012"): ["identifier"]}


def test_group_of_the_data_list():
    first = leakage.identities([{"patient": "a", "group": 7}])
    second = leakage.identities([{"patient": "b", "group": "7"}])
    assert leakage.find_leaks(first, second) == {("a", "b"): ["group"]}


def test_renamed_copy_is_found_by_pixels_and_patient_id():
    row = {"pixels": "abc", "person": leakage.anonymous("P-17")}
    first, second = side("a", rows=[{"patient": "a", **row}]), side("b", "c", rows=[{"patient": "b", **row}])
    with pytest.raises(
        leakage.LeakError, match=r"1 leak between training and fold 0: a and b \(DICOM PatientID, pixels"
    ):
        leakage.refuse_leaks(first, second, ("training", "fold 0"), "Remove one.")


def test_placeholder_instead_of_a_patient_id(caplog):
    rows = [{"patient": str(n), "person": leakage.anonymous("ANONYMOUS")} for n in range(1, 8)]
    with caplog.at_level(logging.WARNING):
        found = side(*(row["patient"] for row in rows), rows=rows)
    assert "placeholder" in caplog.text
    assert not any("DICOM PatientID" in marks for marks in found.values())


def test_no_identifier_is_written():
    assert leakage.anonymous(" ") == ""
    assert "Smith" not in leakage.anonymous("Smith")
    assert len(leakage.anonymous("Smith")) == 32


@settings(deadline=None)
@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_leaks_are_the_persons_on_both_sides(first, second):
    leaks = leakage.find_leaks(side(*(f"{n:05d}" for n in first)), side(*(f"BraTS2021_{n:05d}" for n in second)))
    assert {int(patient) for patient, _ in leaks} == first & second
    assert len(leaks) == len(first & second)


SHIPPED = {"trained_on": ["BraTS2021_00002", "Brats18_TCIA01_201_1"]}


def test_patients_that_weights_were_trained_on_are_known_by_any_of_their_names():
    names = ["00002", "BraTS-GLI-00002-000", "Brats18_TCIA01_201_1", "Brats18_TCIA01_201_2", "00003", "2b"]
    assert leakage.trained(names, SHIPPED) == {
        "00002": "BraTS2021_00002",
        "BraTS-GLI-00002-000": "BraTS2021_00002",
        "Brats18_TCIA01_201_1": "Brats18_TCIA01_201_1",
    }
    for settings_of_file in ({}, {"trained_on": "synthetic brains"}, {"trained_on": []}):
        assert leakage.trained(names, settings_of_file) == {}


def test_weights_are_not_evaluated_on_whom_they_were_trained_on(caplog):
    caplog.set_level(logging.INFO)
    leakage.refuse_trained(["00003", "X"], SHIPPED, "file.pt")
    assert not caplog.messages
    with pytest.raises(
        leakage.LeakError, match=r"file\.pt: was trained on 1 of the .*: 00002 \(BraTS2021_00002 there\)"
    ):
        leakage.refuse_trained(["00003", "00002"], SHIPPED, "file.pt")
    leakage.refuse_trained(["00003", "00002"], SHIPPED, "file.pt", namesakes=True)
    assert "treated as different persons" in caplog.text
    caplog.clear()
    assert leakage.name_trained(["00003", "00002"], SHIPPED, "file.pt") == ["00002"]
    assert "was trained on 1 of these patients: 00002" in caplog.text
    assert "--namesakes True" in caplog.text
    caplog.clear()
    assert leakage.name_trained(["00003", "00002"], SHIPPED, "file.pt", namesakes=True) == []
    assert not caplog.messages


def test_weights_name_everybody_who_trained_them():
    mine = [{"patient": "a"}, {"patient": "b"}]
    assert leakage.trained_on(mine, {}) == ["a", "b"]
    assert leakage.trained_on(mine, {"trained_on": ["c", "b"]}) == ["c", "b", "a"]
    assert leakage.trained_on(mine, {"trained_on": "synthetic brains"}) == ["a", "b"]
    assert leakage.trained_on([], {}, "synthetic brains") == "synthetic brains"
    assert leakage.trained_on([], {}) is None
