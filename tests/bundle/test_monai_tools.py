"""MONAI's own commands on the bundle's networks: shapes and export."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from monai.bundle import ckpt_export, verify_net_in_out

pytestmark = pytest.mark.slow  # networks are compiled or written for other runtimes

CONFIGS = Path(__file__).resolve().parents[2] / "bundle" / "configs"
METADATA = CONFIGS / "metadata.json"


def test_segmenter_takes_and_gives_what_the_metadata_say(metadata, weights_files):
    arguments = {
        "net_id": "network_def",
        "meta_file": str(METADATA),
        "config_file": str(CONFIGS / "inference_segmentation.yaml"),
        "device": "cpu",
        "segmenter": weights_files["segmenter", "nested"],
    }
    verify_net_in_out(**arguments, **{"_meta_#network_data_format": metadata["segmentation_data_format"]})
    with pytest.raises((ValueError, RuntimeError)):
        verify_net_in_out(**arguments)


def test_output_shapes_are_those_of_the_metadata(metadata, segmenter, classifier):
    for key, network in (("network_data_format", classifier), ("segmentation_data_format", segmenter)):
        image, pred = metadata[key]["inputs"]["image"], metadata[key]["outputs"]["pred"]
        shapes_only = copy.deepcopy(network).to("meta")
        output = shapes_only(torch.empty(1, image["num_channels"], *image["spatial_shape"], device="meta"))
        assert list(output.shape) == [1, pred["num_channels"], *pred["spatial_shape"]]


@pytest.mark.parametrize("form", ["flat", "nested"])
def test_export_of_the_classifier(tmp_path, classifier, weights_files, form):
    file = tmp_path / "classifier.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(file),
        ckpt_file=weights_files["classifier", form],
        meta_file=str(METADATA),
        config_file=str(CONFIGS / "inference.yaml"),
        key_in_ckpt="model" if form == "nested" else "",
        models_dir=str(tmp_path),
    )
    sequences = torch.rand(1, 35, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(torch.jit.load(str(file)).eval()(sequences), classifier(sequences))


def test_export_of_the_segmenter(tmp_path, segmenter, weights_files):
    """Flat weights; how nested ones are read is seen with the classifier."""
    file = tmp_path / "segmenter.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(file),
        ckpt_file=weights_files["segmenter", "flat"],
        meta_file=str(METADATA),
        config_file=str(CONFIGS / "inference_segmentation.yaml"),
        key_in_ckpt="",
        use_trace=True,
        input_shape=[1, 3, 32, 32],
        segmenter=weights_files["segmenter", "flat"],
    )
    exported = torch.jit.load(str(file)).eval()
    with torch.inference_mode():
        for size in (32, 64):
            images = torch.rand(2, 3, size, size)
            torch.testing.assert_close(exported(images), segmenter(images), rtol=1e-4, atol=1e-5)
