"""8-bit volumes for other programs: what is in the files, and what is made again."""

from __future__ import annotations

import csv
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_transforms import AcquisitionSlices, FixedVolume, SeriesReader
from scripts import cli
from scripts.explore import tfrecord
from tests.scripts.explore.conftest import AFFINE, write_nifti

pytest.importorskip("scipy", reason="needs the extra [train]")

# --- TFRecord, read by code that shares nothing with that which writes ------------------------------------------------


def crc32c_bit_by_bit(data: bytes) -> int:
    """Division by the polynomial 0x1EDC6F41 with the bits of each byte and of the remainder reversed, no table."""
    remainder = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            top = (remainder >> 31) ^ (byte >> bit & 1)
            remainder = (remainder << 1 & 0xFFFFFFFF) ^ (0x1EDC6F41 if top else 0)
    return int(f"{remainder ^ 0xFFFFFFFF:032b}"[::-1], 2)


def unmasked(crc: int) -> int:
    rotated = (crc - 0xA282EAD8) % 2**32
    return (rotated >> 17 | rotated << 15) % 2**32


def fields(data: bytes):
    """Numbers and contents of a message's length-delimited fields."""
    stream = list(data)

    def number():
        found, shift = 0, 0
        while True:
            byte = stream.pop(0)
            found += (byte % 128) << shift
            shift += 7
            if byte < 128:
                return found

    while stream:
        key = number()
        assert key % 8 == 2, "length-delimited"
        size = number()
        yield key // 8, bytes(stream[:size])
        del stream[:size]


def read_example(data: bytes):
    found = {}
    for _, features in fields(data):
        for _, entry in fields(features):
            (_, name), (_, feature) = fields(entry)
            ((kind, content),) = fields(feature)
            ((_, values),) = fields(content)
            if kind == 3:
                numbers, shift, value = [], 0, 0
                for byte in values:
                    value |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        numbers.append(value - 2**64 if value >= 2**63 else value)
                        shift = value = 0
                values = numbers
            elif kind == 2:
                values = list(struct.unpack(f"<{len(values) // 4}f", values))
            found[name.decode()] = values
    return found


def read_records(file, check=True):
    data = file.read_bytes()
    while data:
        length, of_length = struct.unpack("<QI", data[:12])
        content, (of_data,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        assert unmasked(of_length) == crc32c_bit_by_bit(data[:8])
        if check:
            assert unmasked(of_data) == crc32c_bit_by_bit(content)
        yield read_example(content)
        data = data[16 + length :]


def test_checksum_is_that_of_the_standard():
    """Vectors of RFC 3720, B.4."""
    assert tfrecord.crc32c(b"123456789") == 0xE3069283
    assert tfrecord.crc32c(bytes(32)) == 0x8A9136AA
    assert tfrecord.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert tfrecord.crc32c(bytes(range(32))) == 0x46DD794E


@given(st.binary(max_size=60))
def test_checksum_equals_the_division(data):
    assert tfrecord.crc32c(data) == crc32c_bit_by_bit(data)
    assert unmasked(tfrecord.masked_crc(data)) == crc32c_bit_by_bit(data)


FEATURES = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.one_of(
        st.binary(max_size=300),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
        st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5),
    ),
    max_size=5,
)


@pytest.mark.slow
@given(st.lists(FEATURES, max_size=3))
def test_what_is_written_is_read(tmp_path_factory, examples):
    file = tmp_path_factory.mktemp("records") / "a.tfrecord"
    tfrecord.write_tfrecord(examples, file)
    assert list(read_records(file)) == examples


def test_protobuf_reads_it():
    """With a description of tf.train.Example that is built here, where TensorFlow is not installed."""
    pytest.importorskip("google.protobuf", reason="of tensorboard, in the extra [train]")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="e.proto", package="t", syntax="proto3")
    kinds = {"BytesList": 12, "FloatList": 2, "Int64List": 3}
    for name, kind in kinds.items():
        file.message_type.add(name=name).field.add(name="value", number=1, label=3, type=kind)
    feature = file.message_type.add(name="Feature")
    for number, (field, kind) in enumerate(zip(("bytes", "floats", "ints"), kinds, strict=True), 1):
        feature.field.add(name=field, number=number, label=1, type=11, type_name=f".t.{kind}")
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=9)
    entry.field.add(name="value", number=2, label=1, type=11, type_name=".t.Feature")
    features.field.add(name="feature", number=1, label=3, type=11, type_name=".t.Features.FeatureEntry")
    file.message_type.add(name="Example").field.add(
        name="features", number=1, label=1, type=11, type_name=".t.Features"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))()
    message.ParseFromString(tfrecord.example({"a": b"\x00\x01", "b": [1, -2, 2**40], "c": [0.5, 1.5], "d": "é"}))
    found = message.features.feature
    assert found["a"].bytes.value == [b"\x00\x01"]
    assert found["b"].ints.value == [1, -2, 2**40]
    assert found["c"].floats.value == [0.5, 1.5]
    assert found["d"].bytes.value[0].decode() == "é"


# --- the command ------------------------------------------------------------------------------------------------------

SIZE = (16, 12, 8)


def expected(file):
    from monai.transforms import LoadImage

    stack, _ = AcquisitionSlices()(LoadImage(reader=SeriesReader(), image_only=True, ensure_channel_first=True)(file))
    return FixedVolume(SIZE)(stack.numpy()).transpose(1, 2, 0)


def make(studies, output, **options):
    return cli.volumes(
        studies, output, **{"size": SIZE, "format": "npz,tfrecord", "brain": "never", "num_workers": 0, **options}
    )


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix in (".npz", ".tfrecord")}


@pytest.fixture
def made(studies, tmp_path):
    write_nifti(np.zeros((9, 9, 5), np.float32), studies / "00003" / "00003_t2.nii.gz", AFFINE)
    return make(studies, tmp_path / "out", labels=tmp_path / "labels.csv")


def test_files(made, studies):
    assert {path.name for path in made.glob("*.*") if path.suffix in (".npz", ".tfrecord")} == {
        "00001_FLAIR.npz", "00001_T1wCE.npz", "00002_FLAIR.npz", "00003_FLAIR.npz", "00001.tfrecord", "00002.tfrecord",
        "00003.tfrecord",
    }  # fmt: skip
    for patient, label in (("00001", 1), ("00002", 0), ("00003", None)):
        with np.load(made / f"{patient}_FLAIR.npz", allow_pickle=False) as content:
            assert content["volume"].dtype == np.uint8
            np.testing.assert_array_equal(content["volume"], expected(studies / patient / f"{patient}_flair.nii.gz"))
            assert (str(content["patient"]), str(content["modality"])) == (patient, "FLAIR")
            np.testing.assert_allclose(content["spacing"], [1, 1, 3])
            assert ("label" in content) == (label is not None)
            assert label is None or int(content["label"]) == label
    records = list(read_records(made / "00001.tfrecord"))
    assert [record["modality"] for record in records] == [b"FLAIR", b"T1wCE"]
    for record in records:
        with np.load(made / f"00001_{record['modality'].decode()}.npz") as content:
            volume = np.frombuffer(record["volume"], np.uint8).reshape(record["shape"])
            np.testing.assert_array_equal(volume, content["volume"])
        assert (record["patient"], record["label"]) == (b"00001", [1])
    (unlabelled,) = read_records(made / "00003.tfrecord", check=False)
    assert "label" not in unlabelled


def test_tables(made):
    with open(made / "volumes.csv", newline="") as stream:
        rows = {(row["patient"], row["modality"]): row for row in csv.DictReader(stream)}
    assert len(rows) == 5
    assert rows["00001", "T1wCE"]["npz"] == "00001_T1wCE.npz"
    assert rows["00001", "FLAIR"]["label"] == "1"
    assert (rows["00001", "FLAIR"]["slices"], rows["00001", "FLAIR"]["slice_spacing"]) == ("20", "3.0")
    failed = rows["00003", "T2w"]
    assert failed["npz"] == failed["tfrecord"] == ""
    assert "all 405 voxels have the value 0" in failed["reason"]
    written = json.loads((made / "volumes.json").read_text())
    assert written["configuration"]["size"] == list(SIZE)
    assert [row["reason"] == "" for row in written["series"]] == [True, True, True, True, False]


def test_what_is_there_stays_and_what_changed_is_made_again(made, studies, tmp_path):
    before = times(made)
    make(studies, made, labels=tmp_path / "labels.csv")
    after = times(made)
    unchanged = {name for name in before if before[name] == after[name]}
    # the failed series of 00003 is tried again, and its record written again; its good volume is not
    assert unchanged == set(before) - {"00003.tfrecord"}
    (studies / "00002" / "00002_flair.nii.gz").touch()
    (made / "00001_FLAIR.npz").unlink()
    make(studies, made, labels=tmp_path / "labels.csv")
    again = times(made)
    assert again["00002_FLAIR.npz"] != before["00002_FLAIR.npz"]
    assert again["00001_T1wCE.npz"] == before["00001_T1wCE.npz"]
    assert (made / "00001_FLAIR.npz").is_file()
    make(studies, made, size=(8, 8, 4), labels=tmp_path / "labels.csv")
    with np.load(made / "00001_FLAIR.npz") as content:
        assert content["volume"].shape == (8, 8, 4)


def test_overwrite_replaces_what_is_there(made, studies):
    make(studies, made, overwrite=True, mri_types="FLAIR", format="npz")
    assert set(times(made)) == {f"{patient}_FLAIR.npz" for patient in ("00001", "00002", "00003")}


def test_a_patient_without_a_series_has_a_row(studies, tmp_path):
    out = make(studies, tmp_path / "out", mri_types="T1wCE", format="npz")
    with open(out / "volumes.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["patient"], bool(row["reason"])) for row in rows] == [
        ("00001", False),
        ("00002", True),
        ("00003", True),
    ]


def test_what_is_refused(studies, tmp_path):
    with pytest.raises(ValueError, match="--size 64,64: expected rows, columns and slices"):
        make(studies, tmp_path / "out", size="64,64")
    with pytest.raises(ValueError, match="--format nii: expected some of npz,tfrecord"):
        make(studies, tmp_path / "out", format="nii")
    with pytest.raises(ValueError, match="no output folder"):
        make(studies, None)
    with pytest.raises(ValueError, match="this output folder lies in"):
        make(studies, studies / "out")
