import pytest

from custom_transforms.volume import SeriesError
from scripts.errors import UserError, grouped, reason


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UserError("a.nii: 2 slices, expected 3"), "a.nii: 2 slices, expected 3"),
        (SeriesError("a.nii: 2 slices, expected 3"), "a.nii: 2 slices, expected 3"),
        (FileNotFoundError(2, "No such file", "a.nii"), "FileNotFoundError: [Errno 2] No such file: 'a.nii'"),
        (RuntimeError("mat1 and mat2"), "RuntimeError: mat1 and mat2"),
        (ValueError("cannot reshape"), "ValueError: cannot reshape"),
    ],
)
def test_the_reason_names_the_kind_of_errors_of_other_code(error, expected):
    assert reason(error) == expected


def test_each_text_stands_once():
    assert grouped({"FLAIR": "no slice", "T1w": "half a file", "T2w": "no slice"}) == [
        "FLAIR, T2w: no slice",
        "T1w: half a file",
    ]
    assert grouped({}) == []
