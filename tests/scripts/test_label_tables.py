import pytest

from scripts import label_tables
from scripts.datalists import DataListError
from tests.scripts.layouts import write_rows


def test_labels_keep_the_style_of_the_file(tmp_path):
    file = write_rows(tmp_path / "labels.csv", [("00012", 1), ("7", 0)])
    assert label_tables.read_labels(file) == {"00012": 1, "7": 0}


def test_asked_keeps_order_and_style(tmp_path):
    file = write_rows(tmp_path / "sample.csv", [("12", 0.5), ("00003", 0.5), ("1", 0.5)])
    assert label_tables.read_asked(file) == ["12", "00003", "1"]


def test_csv_with_a_byte_order_mark(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbfBraTS21ID,MGMT_value\r\n00001,1\r\n")
    assert label_tables.read_labels(tmp_path / "labels.csv") == {"00001": 1}


@pytest.mark.parametrize("value", ["2", "", "yes", "0.5"])
def test_impossible_label(tmp_path, value):
    file = write_rows(tmp_path / "labels.csv", [("00001", 1), ("00002", value)])
    with pytest.raises(DataListError, match=rf"labels\.csv: MGMT_value of 00002 is '{value}', expected 0 or 1"):
        label_tables.read_labels(file)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("12", "00012"),
        ("BraTS2021_00012", "12"),
        ("BraTS-GLI-00012-001", "00012-001"),
        ("TCGA-06-0001", "TCGA-06-0001"),
    ],
)
def test_two_labels_of_a_patient_are_refused(tmp_path, first, second):
    file = write_rows(tmp_path / "labels.csv", [(first, 1), ("00003", 0), (second, 0)])
    with pytest.raises(
        DataListError, match=rf"labels\.csv: {first} and {second} are the same patient; keep one of them"
    ):
        label_tables.read_labels(file)


def test_visits_of_a_person_have_labels_of_their_own(tmp_path):
    visits = {"BraTS-GLI-00012-000": 0, "BraTS-GLI-00012-001": 1}
    assert label_tables.read_labels(write_rows(tmp_path / "labels.csv", visits.items())) == visits


@pytest.mark.parametrize("content", [b"BraTS21ID,MGMT_value\n1," + b"x" * 200_000, b"BraTS21ID,MGMT_value\n\xe4,1\n"])
@pytest.mark.parametrize("read", [label_tables.read_labels, label_tables.read_asked])
def test_what_is_no_table_is_named(tmp_path, content, read):
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    with pytest.raises(DataListError, match=r"labels\.csv: not a readable table \(.*\); save it as CSV in UTF-8"):
        read(file)


def test_wrong_columns(tmp_path):
    file = write_rows(tmp_path / "labels.csv", [("00001", 1)], columns=("id", "MGMT_value"))
    with pytest.raises(
        DataListError, match=r"labels\.csv: expected rows with the columns BraTS21ID,MGMT_value.*BraTS21ID"
    ):
        label_tables.read_labels(file)
    with pytest.raises(DataListError, match="all rows"):
        label_tables.read_asked(write_rows(tmp_path / "empty.csv", []))
    with pytest.raises(DataListError, match=r"gone\.csv: no such file"):
        label_tables.read_asked(tmp_path / "gone.csv")
