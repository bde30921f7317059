"""Reading a file that may not be one of weights."""

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from scripts import weights
from scripts.model_files import WeightsError, read_weights
from tests.networks import SETTINGS, classifier


class Oracle:
    """Something that a pickle may hold, but a weights file may not."""


def test_objects_in_a_pickle_are_refused(tmp_path):
    file = tmp_path / "unsafe.pt"
    torch.save({"model": Oracle()}, file)
    with pytest.raises(WeightsError, match=r"unsafe\.pt: not a weights file that can be read safely"):
        read_weights(file)


def test_code_in_a_pickle_is_not_run(tmp_path):
    ran = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    file = tmp_path / "payload.pt"
    file.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(WeightsError, match=r"payload\.pt"):
        read_weights(file)
    assert not ran.exists()


def saved(content, **how):
    stream = io.BytesIO()
    torch.save(content, stream, **how)
    return stream.getvalue()


def zipped():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("notes.txt", "no weights")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty (0 bytes); download or copy it again"),
        (b"no weights at all", "it is text that begins with 'no weights at all'"),
        (b"<!DOCTYPE html>\n<html>", "it is text that begins with '<!DOCTYPE html>'"),
        (saved({"a": torch.zeros(1000)})[:2000], "it is truncated: 2000 bytes, and the end of the archive is missing; download"),
        (saved({"a": torch.zeros(9)}, _use_new_zipfile_serialization=False)[:150], "its 150 bytes are damaged, or not what"),
        (zipped(), "it is an archive, but not one of weights, or it is damaged"),
        (bytes(range(128, 256)) * 9, "its 1152 bytes are damaged, or not what torch.save writes"),
        (saved({"model": Oracle()}), "Oracle, which is not a tensor, and loading it could run code"),
        (saved({"model": Oracle()}), 'save its tensors alone: torch.save({"model": state_dict, "settings": {...}}, FILE)'),
        (saved({"model": {}, "from": Path("a")}, _use_new_zipfile_serialization=False), "Path, which is not a tensor"),
    ],
    ids=["empty", "text", "page", "cut", "old and cut", "zip", "noise", "object", "remedy", "path"],
)  # fmt: skip
def test_a_file_of_something_else_is_refused_in_plain_words(tmp_path, content, reason):
    file = tmp_path / "notes.pt"
    file.write_bytes(content)
    with pytest.raises(WeightsError) as info:
        read_weights(file)
    assert str(info.value).startswith(f"{file}: not a weights file that can be read safely: ")
    assert reason in str(info.value)
    assert "weights_only" not in str(info.value)
    assert "\n" not in str(info.value)


def test_a_folder_is_no_weights_file(tmp_path):
    with pytest.raises(WeightsError, match="is a folder, expected a weights file; name the file in it"):
        read_weights(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("flat", [True, False])
def test_weights_that_are_not_finite_are_refused(tmp_path, value, flat):
    network = classifier()
    state = network.state_dict()
    for name in ("clf_head.bias", "lstm.bias_ih_l0", "lstm.bias_hh_l0", "clf_head.weight"):
        state[name].flatten()[-1] = value
    file = tmp_path / "model.pt"
    torch.save(state if flat else {"model": state, "settings": SETTINGS}, file)
    message = rf"model\.pt: 4 of {len(state)} parameters hold NaN or infinity \(lstm\.bias_ih_l0, .*, …\), expected finite numbers"
    for read in (read_weights, lambda file: weights.load_weights(network, file)):
        with pytest.raises(WeightsError, match=message):
            read(file)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(2)], ids=["list", "numbers", "tensor"])
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    file = tmp_path / "other.pt"
    torch.save(content, file)
    with pytest.raises(WeightsError, match=r"other\.pt: holds no state dict; expected a mapping"):
        read_weights(file)


def packed_zeros(content, gigabytes):
    """Weights to which a packed member of zeros was added."""
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data/9", bytes(int(gigabytes * 1e9)))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            packed_zeros(saved({"a": torch.zeros(9)}), 0.05),
            "bytes unpack to 5.*expected what torch.save writes, which is uncompressed",
        ),
        (
            saved({"a": torch.zeros(1).expand(10**13)}),
            r"parameter a of \(10000000000000,\) is larger than the file of \d+ bytes",
        ),
        (
            saved({"a": torch.zeros(3, dtype=torch.complex64)}),
            "holds no state dict; expected a mapping from parameter names",
        ),
        (saved({"a": torch.eye(3).to_sparse()}), "holds no state dict; expected a mapping from parameter names"),
        (saved({1: torch.zeros(3)}), "holds no state dict; expected a mapping from parameter names"),
        (
            saved({"model": {"a": torch.zeros(1)}, "settings": None}),
            "its settings are None, expected a mapping from names",
        ),
        (
            saved({"model": {"a": torch.zeros(1)}, "settings": {1: 2}}),
            r"its settings are \{1: 2\}, expected a mapping from names",
        ),
    ],
    ids=["packed", "view", "complex", "sparse", "numbered", "no settings", "numbered settings"],
)
def test_hostile_weights_are_refused_before_memory_is_taken(tmp_path, content, reason):
    file = tmp_path / "hostile.pt"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"hostile\.pt: .*{reason}"):
        read_weights(file)
