"""Tables of the report."""

import csv
import json

import pytest

from scripts.report import tables


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("auc", "AUC"),
        ("WT_dice", "WT Dice"),
        ("pr_auc", "PR AUC"),
        ("brier", "Brier"),
        ("log_loss", "log loss"),
        ("T1wCE", "T1wCE"),
        ("<b>&", "<b>&"),
    ],
)
def test_heads(key, expected):
    assert tables.head(key) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.12345, "0.123"),
        (3, "3"),
        (True, "yes"),
        (None, "\N{EN DASH}"),
        (float("nan"), "\N{EN DASH}"),
        (4.2e-5, "4.20e-05"),
        (0.0, "0.000"),
    ],
)
def test_numbers(value, expected):
    assert tables.shown(value) == expected


def test_a_figure_and_its_interval_share_a_cell():
    table = tables.table_of_records("Scores", [{"auc": 0.8123, "auc_95": [0.7199, 0.9], "auc_bootstrap": [0.7, 0.88]}])
    assert table.columns == ["AUC (95 %)", "AUC, 95 %, bootstrap"]
    assert [cell.text for cell in table.rows[0]] == ["0.81 (0.72 to 0.90)", "0.70 to 0.88"]
    assert table.rows[0][0].value == 0.8123


def test_tables_of_an_evaluation_put_alike_groups_together():
    scores = {"patients": 30, "auc": 0.7, "auc_95": [0.6, 0.8]}
    summary, found = tables.tables_of({"note": "x", "patients": 30, "all": scores, "FLAIR": scores})
    assert (summary.title, summary.columns) == ("Summary", ["patients"])
    assert [row[0].text for row in found.rows] == ["all modalities", "FLAIR"]
    assert found.columns == ["", "patients", "AUC (95 %)"]


def test_tables_of_deeply_nested_figures():
    metrics = {"controls": {"p": 0.03, "baselines": {"a": {"auc": 1}, "b": {"auc": 2}}}}
    titles = {table.title: [[cell.text for cell in row] for row in table.rows] for table in tables.tables_of(metrics)}
    assert titles == {"Controls": [["0.030"]], "Controls: baselines": [["a", "1"], ["b", "2"]]}


def test_table_files_hold_all_digits_and_no_nan(tmp_path):
    table = tables.table_of_records("A b", [{"auc": 0.123456789, "auc_95": [0.1, 0.2]}, {"auc": float("nan")}])
    tables.write_table(table, tmp_path, "a_b")
    assert json.loads((tmp_path / "a_b.json").read_text())[1] == {"auc": None}
    with open(tmp_path / "a_b.csv", newline="") as stream:
        row = next(csv.DictReader(stream))
    assert row == {"auc": "0.123456789", "auc_95_low": "0.1", "auc_95_high": "0.2"}


def test_no_table_file_holds_what_a_spreadsheet_would_run(tmp_path):
    table = tables.table_of_records("Patients", [{"patient": "=1+1", "error": -0.5, "files": ["@a", "b"]}])
    tables.write_table(table, tmp_path, "patients")
    assert (tmp_path / "patients.csv").read_text().splitlines() == ["patient,error,files", "'=1+1,-0.5,'@a; b"]


def test_a_single_wide_row_is_turned_into_a_column():
    table = tables.table_of_records("Seconds", [{f"step {number}": number for number in range(9)}])
    assert table.columns == ["", "value"]
    assert [cell.text for cell in table.rows[3]] == ["step 3", "3"]
