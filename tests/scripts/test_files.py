import csv
import errno
import json
import os
import platform
import string
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts import files, masks, weights
from scripts.files import (
    folder_written_whole,
    is_dead,
    is_formula,
    read_csv,
    remove_leftovers,
    write_csv,
    write_json,
    written_whole,
)

EXAMPLES = settings(deadline=None, max_examples=50)
NAMES = (
    st.text(string.ascii_letters + string.digits + "._- ", min_size=1, max_size=40).filter(str.strip).map("a{}".format)
)


class Killed(BaseException):
    """An end that no ``except Exception`` sees, as Ctrl-C is."""


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(NAMES, st.binary(max_size=50), st.none() | st.binary(max_size=50))
@EXAMPLES
def test_the_file_is_there_when_it_is_whole(name, content, earlier):
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / name
        if earlier is not None:
            target.write_bytes(earlier)
        with written_whole(target) as temporary:
            temporary.write_bytes(content)
            assert (target.read_bytes() if target.exists() else None) == earlier
            assert temporary.parent == target.parent
            assert temporary.name.startswith(".")
            assert temporary.name.endswith(f".{name}")
            assert str(os.getpid()) in temporary.name.split(".")
        assert files_in(Path(folder)) == {name: content}


@given(st.sampled_from([OSError, KeyboardInterrupt, Killed]), st.none() | st.binary(), st.none() | st.binary())
@EXAMPLES
def test_a_failure_leaves_what_was_there(error, written, earlier):
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "a.bin"
        if earlier is not None:
            target.write_bytes(earlier)

        def fail():
            with written_whole(target) as temporary:
                if written is not None:
                    temporary.write_bytes(written)
                raise error

        with pytest.raises(error):
            fail()
        assert files_in(Path(folder)) == ({} if earlier is None else {"a.bin": earlier})


@pytest.mark.skipif(os.name != "posix", reason="leftovers are removed on POSIX alone")
def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    """Wherever it lies in the folder; what others write, and what only looks like it, stays."""
    code = "import os, sys; from scripts.files import written_whole\n"
    code += "with written_whole(sys.argv[1]) as file: file.write_text('half'); os.kill(os.getpid(), 9)"
    bundle = Path(__file__).resolve().parents[2] / "bundle"
    folder = tmp_path / "below"
    killed = subprocess.run([sys.executable, "-c", code, str(folder / "a.txt")], cwd=bundle, check=False)
    assert killed.returncode == -9
    (leftover,) = folder.iterdir()
    assert leftover.name.endswith(".a.txt")
    host, dead, alive = platform.node(), leftover.name.split(".")[-3], os.getppid()
    others = {f".{host}.{alive}.a.txt", f".elsewhere.{dead}.a.txt", f"{host}.{dead}.b.txt", ".b.txt", "a.txt"}
    for name in others:
        (folder / name).touch()
    remove_leftovers(tmp_path)
    assert {file.name for file in folder.iterdir()} == others


def test_a_process_that_is_at_work_is_not_dead():
    assert not is_dead(os.getpid())
    assert not is_dead(1)  # somebody else's, mostly


def test_folders_are_made_and_a_string_will_do(tmp_path):
    with written_whole(str(tmp_path / "a" / "b" / "c.txt")) as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_nothing_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "a.txt"):
        pass
    assert not list(tmp_path.iterdir())


def test_writers_that_go_by_the_suffix(tmp_path):
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    with written_whole(tmp_path / "a.nii.gz") as temporary:
        nib.save(image, temporary)
    assert (tmp_path / "a.nii.gz").read_bytes()[:2] == b"\x1f\x8b"  # compressed


def test_json_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.json"
    write_json({"a": 1}, file)
    with pytest.raises(TypeError):
        write_json({"a": Path}, file)
    assert json.loads(file.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [file]


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
CELLS |= st.builds(
    "".join, st.tuples(st.sampled_from(["", "'", "''"]), st.sampled_from("=+-@\t"), st.sampled_from(["", "1", "x"]))
)


@given(st.lists(st.fixed_dictionaries({"a": CELLS, "b, with a comma": CELLS}), min_size=1, max_size=5))
@EXAMPLES
def test_csv_reads_back(rows):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.csv"
        write_csv(rows, file)
        assert read_csv(file) == rows
        write_csv(rows, file, ["a"])
        assert read_csv(file) == [{"a": row["a"]} for row in rows]
        write_csv(rows, file, verbatim=True)
        with open(file, newline="", encoding="utf-8") as stream:
            assert list(csv.DictReader(stream)) == rows


@pytest.mark.parametrize("text", ["=cmd|'/c calc'!A1", "@x", "-rf", "+1", "-", "-1+1", "\t=1", "\r=1"])
def test_a_spreadsheet_runs_nothing_of_a_table(tmp_path, text):
    assert is_formula(text)
    write_csv([{"patient": text, text: 1}], tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as stream:
        assert list(csv.reader(stream)) == [["patient", f"'{text}"], [f"'{text}", "1"]]
    assert read_csv(tmp_path / "a.csv") == [{"patient": text, text: "1"}]


@pytest.mark.parametrize("value", [-0.5, -3, float("-inf"), "-0.5", "-1e-05", "-inf", "a=b", "00012", "", None])
def test_numbers_and_plain_texts_stay_as_they_are(tmp_path, value):
    assert not is_formula(value)
    write_csv([{"a": value, "b": 1}], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().split()[1] == f"{'' if value is None else value},1"


def test_csv_without_rows_has_its_columns(tmp_path):
    write_csv([], tmp_path / "a.csv", ["a", "b"])
    assert (tmp_path / "a.csv").read_text().split() == ["a,b"]


def test_csv_is_written_whole_or_not_at_all(tmp_path):
    write_csv([{"a": 1}], tmp_path / "a.csv")
    before = files_in(tmp_path)
    with pytest.raises(ValueError, match="'b'"):
        write_csv([{"a": 1}, {"a": 2, "b": 3}], tmp_path / "a.csv")
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    ("write", "breaks"),
    [
        (lambda file: masks.save_label_map(np.zeros((1, 1, 1)), np.eye(4), file), "nibabel.save"),
        (lambda file: write_csv([{"epoch": 1}], file), "csv.DictWriter.writerows"),
        (lambda file: weights.save_weights(torch.nn.Linear(1, 1), {}, file), "torch.save"),
    ],
    ids=["label map", "table", "weights"],
)
def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch, write, breaks):
    def full(*args, **_):
        for place in args:
            if isinstance(place, Path):
                place.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(breaks, full)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path / "a.nii.gz")
    assert not list(tmp_path.iterdir())


def test_only_the_standard_library_is_imported():
    code = "import sys, scripts.files, scripts.datalists; print(sorted({'torch', 'numpy', 'monai'} & set(sys.modules)))"
    bundle = Path(__file__).resolve().parents[2] / "bundle"
    result = subprocess.run([sys.executable, "-c", code], cwd=bundle, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Folders


def test_a_folder_is_replaced_when_it_is_whole(tmp_path):
    for content in ("first", "second"):
        with folder_written_whole(tmp_path / "a" / "b") as folder:
            (folder / content).write_text(content)
    assert files_in(tmp_path / "a" / "b") == {"second": b"second"}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_a_folder_that_fails_leaves_the_earlier_one(tmp_path):
    with folder_written_whole(tmp_path / "b") as folder:
        (folder / "first").write_text("first")

    def fail():
        with folder_written_whole(tmp_path / "b") as folder:
            (folder / "second").write_text("second")
            raise Killed

    with pytest.raises(Killed):
        fail()
    assert files_in(tmp_path / "b") == {"first": b"first"}
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def _write_with_torch(path):
    torch.save(torch.zeros(100_000), path)


def _write_with_torch_to_a_stream(path):
    with open(path, "wb") as stream:
        torch.save(torch.zeros(100_000), stream)


def _write_with_hdf5(path):
    with h5py.File(path, "w") as file:
        file["image"] = np.random.default_rng(0).random(100_000)


def _write_with_numpy(path):
    with open(path, "wb") as stream:
        np.savez(stream, image=np.zeros(100_000))


def _write_array(path):
    np.save(path, np.zeros(100_000))


def _write_text(path):
    path.write_text("x" * 100_000)


@pytest.mark.parametrize(
    "write",
    [_write_with_torch, _write_with_torch_to_a_stream, _write_with_hdf5, _write_with_numpy, _write_array, _write_text],
)
def test_a_full_disk_names_folder_and_remedy(full_disk, write):
    (full_disk / "out.npy").write_text("earlier")
    with (
        pytest.raises(files.WriteError, match=rf"^{full_disk}: no space is left on its disk; free some, .*again$"),
        files.written_whole(full_disk / "out.npy") as temporary,
    ):
        write(temporary)
    assert (full_disk / "out.npy").read_text() == "earlier"
    assert len(list(full_disk.iterdir())) == 1


def test_a_read_only_disk_is_reported(full_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(full_disk)], check=True)
    for path in (full_disk / "out.csv", full_disk / "new" / "out.csv"):
        with pytest.raises(files.WriteError, match=r"its disk is read-only; make it writable, .* name another folder$"):
            files.write_csv([{"a": 1}], path)


def test_a_write_error_comes_through_a_loader_as_it_is(tmp_path):
    error = files.WriteError(f"{tmp_path}: no space")
    again = files.WriteError(f"Caught WriteError in worker 0.\nTraceback\n  x\nscripts.files.WriteError: {error}\n")
    assert str(again) == str(error)


def test_lacking_permission_to_read_is_no_write_error(tmp_path):
    error = PermissionError(errno.EACCES, "no", str(tmp_path / "input.nii"))
    with pytest.raises(PermissionError), files.written_whole(tmp_path / "out" / "a.csv"):
        raise error
    assert files.write_error(error, tmp_path / "out") is None
    assert "no permission to write" in str(files.write_error(error, tmp_path))


def test_errors_that_refer_to_each_other_come_to_an_end(tmp_path):
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__context__ = other, one
    assert files.write_error(one, tmp_path) is None


@pytest.mark.parametrize("sign", ["[", "- ", "{a: ", "? "])
def test_lists_in_lists_by_the_thousand_are_refused(sign):
    """They end the process in older PyYAML."""
    with pytest.raises(yaml.YAMLError):
        files.parse_yaml(sign * 100_000)
    assert files.parse_yaml("- - [[{a: [1]}]]") == [[[[{"a": [1]}]]]]
