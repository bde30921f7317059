"""A seeded part of the mutation campaign, and what its judge sees."""

import nibabel as nib
import numpy as np
import pytest

from tests.campaigns import fuzz, oracle
from tests.campaigns.fuzz_cases import Campaign
from tests.campaigns.table import markdown_table
from tests.campaigns.worker import Worker


@pytest.mark.slow
def test_inputs_with_one_thing_wrong_are_answered_or_refused_in_a_sentence(tmp_path):
    records = fuzz.run(40, 1, tmp_path / "fuzz.jsonl")
    assert {record["number"]: record["defects"] for record in records} == {number: [] for number in range(40)}
    assert len({record["kind"] for record in records}) >= 8
    assert 5 <= sum(bool(record["refused"]) for record in records) <= 35  # neither is the rule
    assert fuzz.run(40, 1, tmp_path / "fuzz.jsonl") == records  # existing ones are not tried again
    assert "| all | 40 |" in fuzz.table(records)


@pytest.mark.slow
def test_what_takes_too_long_is_killed_and_the_next_goes_on(tmp_path):
    with Worker(tmp_path) as worker:
        assert worker.run(["doctor"], seconds=0.05).status == "hang"
        done = worker.run(["headers", tmp_path / "none.dcm"])
    assert (done.status, done.text.splitlines()[0]) == (
        "refused",
        f"error: {tmp_path / 'none.dcm'}: no such file or folder; expected a DICOM file, or a folder of a series",
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("error: a.csv: no such file; give another", []),
        ("error: list index out of range", ["message names no file", "message without remedy"]),
        ("error: a.csv: first\nsecond; give another", ["message of 2 lines"]),
        ("error: a.csv: found 5", ["message without remedy"]),
    ],
)
def test_messages_are_judged(text, found):
    assert list(oracle.check_message(f"{text}\n(RADIOGENOMICS_DEBUG=1 shows where)", ["a.csv"])) == found


def test_files_are_judged(tmp_path):
    (tmp_path / "good.json").write_text("[1]")
    (tmp_path / "good.csv").write_text("a,b\n1,a sentence with nan\n")
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "good.nii.gz")
    assert list(oracle.check_tree(tmp_path)) == []
    (tmp_path / "bad.json").write_text('{"a": NaN}')
    (tmp_path / "bad.csv").write_text("a,b\n1,nan\n")
    (tmp_path / ".host.12.mask.nii.gz").write_text("half")
    (tmp_path / "bad.png").write_text("no picture")
    np.savez(tmp_path / "bad.npz", a=np.array([np.inf]))
    nib.save(nib.Nifti1Image(np.full((2, 2, 2), 9, np.uint8), np.eye(4)), tmp_path / "bad.nii.gz")
    found = " ".join(oracle.check_tree(tmp_path))
    for what in ("bad.json", "cell nan", "left over: .host", "bad.png", "a is not finite", "other values than 0, 1, 2"):
        assert what in found
    assert "good" not in found


@pytest.mark.slow
def test_the_same_seed_makes_the_same_inputs(tmp_path):
    first, second = (Campaign(tmp_path / name, 3) for name in "ab")
    for number in range(6):
        one, other = first.case(number), second.case(number)
        assert (one.kind, one.what) == (other.kind, other.what)
        content = [
            [path.read_bytes() for path in sorted(each.place.rglob("*")) if path.is_file()] for each in (first, second)
        ]
        assert content[0] == content[1]


def test_table():
    rows = [{"input": "a|b", "tried": 3, "s": 1.25}, {"input": "c", "tried": 10, "s": None}]
    assert markdown_table(rows) == "| input | tried | s |\n| --- | ---: | ---: |\n| a\\|b | 3 | 1.2 |\n| c | 10 |  |\n"
