"""What `radiogenomics volumes` writes, read by TensorFlow itself. TensorFlow has an environment of its own: make test-tensorflow."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from scripts import cli
from scripts.explore.tfrecord import write_tfrecord

tf = pytest.importorskip("tensorflow", reason="TensorFlow has an environment of its own: make test-tensorflow")
pytestmark = pytest.mark.slow

FEATURES = {
    "volume": tf.io.FixedLenFeature([], tf.string),
    "shape": tf.io.FixedLenFeature([3], tf.int64),
    "patient": tf.io.FixedLenFeature([], tf.string),
    "modality": tf.io.FixedLenFeature([], tf.string),
    "spacing": tf.io.FixedLenFeature([3], tf.float32),
    "label": tf.io.FixedLenFeature([], tf.int64, default_value=-1),
}


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow")
    for seed, patient in enumerate(("00001", "00002")):
        (folder / "STUDIES" / patient).mkdir(parents=True)
        for name in ("flair", "t1ce"):
            values = np.zeros((30, 34, 12), np.float32)
            values[6:24, 6:28, 1:11] = np.random.default_rng(seed).uniform(100, 900, (18, 22, 10))
            image = nib.Nifti1Image(values, np.diag([-1.0, -1.0, 4.0, 1.0]))
            nib.save(image, folder / "STUDIES" / patient / f"{patient}_{name}.nii.gz")
    (folder / "labels.csv").write_text("BraTS21ID,MGMT_value\n00001,1\n")
    return cli.volumes(
        folder / "STUDIES", folder / "out", size=(20, 24, 8), format="npz,tfrecord", labels=folder / "labels.csv", brain="never",
        num_workers=0,
    )  # fmt: skip


def test_a_dataset_reads_the_volumes(volumes):
    """TensorFlow checks the checksums of every record."""
    files = sorted(map(str, volumes.glob("*.tfrecord")))
    assert len(files) == 2
    seen = []
    for one in tf.data.TFRecordDataset(files).map(lambda record: tf.io.parse_single_example(record, FEATURES)):
        volume = tf.reshape(tf.io.decode_raw(one["volume"], tf.uint8), one["shape"]).numpy()
        patient, modality = (one[key].numpy().decode() for key in ("patient", "modality"))
        with np.load(volumes / f"{patient}_{modality}.npz") as content:
            np.testing.assert_array_equal(volume, content["volume"])
            np.testing.assert_array_equal(one["spacing"].numpy(), content["spacing"])
        seen.append((patient, modality, int(one["label"])))
    assert seen == [("00001", "FLAIR", 1), ("00001", "T1wCE", 1), ("00002", "FLAIR", -1), ("00002", "T1wCE", -1)]


def test_an_example_is_that_of_tensorflow(tmp_path):
    values = {"a": b"\x00\xff" * 500, "b": [0, 1, -1, 2**62, -(2**62)], "c": [0.5, -1e30, 3.25], "d": "Kübler"}
    write_tfrecord([values, {"a": b""}], tmp_path / "a.tfrecord")
    first, second = (
        tf.train.Example.FromString(record.numpy()).features.feature
        for record in tf.data.TFRecordDataset([str(tmp_path / "a.tfrecord")])
    )
    assert first["a"].bytes_list.value == [values["a"]]
    assert list(first["b"].int64_list.value) == values["b"]
    assert list(first["c"].float_list.value) == pytest.approx(values["c"])
    assert first["d"].bytes_list.value[0].decode() == "Kübler"
    assert second["a"].bytes_list.value == [b""]


def test_a_damaged_record_is_noticed(volumes, tmp_path):
    data = bytearray(next(iter(volumes.glob("*.tfrecord"))).read_bytes())
    data[500] ^= 1
    (tmp_path / "damaged.tfrecord").write_bytes(data)
    with pytest.raises(tf.errors.DataLossError):
        list(tf.data.TFRecordDataset([str(tmp_path / "damaged.tfrecord")]))
