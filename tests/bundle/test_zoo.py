"""What the model zoo checks of a bundle that is brought to it, in its order: files, version, metadata, properties, shapes, export."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, trt_export, verify_metadata, verify_net_in_out
from monai.bundle.properties import InferProperties, MetaProperties

from scripts import weights
from scripts.networks import BiLSTMNFNet, build_segmenter

pytestmark = pytest.mark.slow

SCHEMA = Path(__file__).resolve().parents[1] / "data" / "meta_schema.json"
NAME = "brats_mri_radiogenomics"
SEGMENTATION = "brats_mri_slice_segmentation"


@pytest.fixture(params=[NAME, SEGMENTATION])
def brought(request, unzipped, stage_1, weights_files, tmp_path):
    """A bundle with its weights, shipped or as after the download of its large files; and their file."""
    folder = tmp_path / request.param
    shutil.copytree(unzipped if request.param == NAME else stage_1, folder)
    file = folder / "models" / "model.pt"
    if request.param == NAME:
        shutil.copy(weights_files["classifier", "flat"], file)
    return folder, file


def test_the_zoo_finds_its_files(brought):
    folder, weights_file = brought
    assert {"LICENSE", "docs", "large_files.yml"} <= {path.name for path in folder.iterdir()}
    for name in ("configs/metadata.json", "configs/inference.yaml", "docs/README.md", "docs/data_license.txt"):
        assert (folder / name).stat().st_size > 1000, name
    assert all(path.stat().st_size < 25e6 for path in folder.rglob("*") if path != weights_file)
    card = (folder / "docs" / "README.md").read_text(encoding="utf-8")
    headings = ("Model Overview", "Data", "Performance", "MONAI Bundle Commands", "References", "License")
    assert all(f"\n# {heading}\n" in f"\n{card}" for heading in headings)
    assert "Research use only" in card
    assert "No patient data" in (folder / "docs" / "data_license.txt").read_text(encoding="utf-8")


def test_the_zoo_accepts_its_metadata(brought):
    folder, _ = brought
    meta = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert meta["version"] == next(iter(meta["changelog"]))
    assert folder.name not in meta["changelog"]
    assert isinstance(meta["supported_apps"], dict)
    verify_metadata(meta_file=str(folder / "configs" / "metadata.json"), filepath=SCHEMA)


def test_the_zoo_finds_its_properties(brought):
    """Of the inference configuration alone, as its own checks do."""
    folder, _ = brought
    workflow = ConfigWorkflow(
        config_file=str(folder / "configs" / "inference.yaml"),
        logging_file=str(folder / "configs" / "logging.conf"),
        workflow_type="inference",
        **{"bundle_root": str(folder), "dataset#data": [{}], "entries": [], "amp": False, "runtime": "eager"},
    )
    workflow.properties = {**MetaProperties, **InferProperties}
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_zoo_gets_tensors_of_the_shapes_that_are_declared(brought):
    """Before there are weights too: for other checks the zoo makes some of its own from the definition of the network."""
    folder, weights_file = brought
    weights_file.unlink()
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(folder / "configs" / "metadata.json"),
        config_file=str(folder / "configs" / "inference.yaml"),
        device="cpu",
        bundle_root=str(folder),
    )


def test_the_zoo_exports_it(brought):
    """With nothing but the place of the weights: scripted, and without the key of a state dict."""
    folder, weights_file = brought
    if folder.name == NAME:
        network, shape = BiLSTMNFNet(), [1, 35, 3, 32, 32]
    else:
        settings = weights.segmenter_settings(weights_file)
        network, shape = build_segmenter(settings), [1, 3, 32, 32]
    ckpt_export(
        net_id="network_def",
        filepath=str(folder / "models" / "verify_model.ts"),
        ckpt_file=str(weights_file),
        meta_file=str(folder / "configs" / "metadata.json"),
        config_file=str(folder / "configs" / "inference.yaml"),
        bundle_root=str(folder),
    )
    images, exported = torch.rand(shape), torch.jit.load(folder / "models" / "verify_model.ts").eval()
    with torch.inference_mode():
        torch.testing.assert_close(exported(images), weights.load_weights(network, weights_file).eval()(images))


def test_what_tensorrt_is_given(brought, monkeypatch):
    """As far as the conversion itself, which needs a GPU; with the options of the cards."""
    folder, weights_file = brought
    given = {}

    class Converted(Exception):
        pass

    def convert(model, **options):
        given.update(options, model=model)
        raise Converted

    monkeypatch.setattr("monai.bundle.scripts.convert_to_trt", convert)
    card = (folder / "docs" / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"-m monai\.bundle trt_export .*", re.sub(r"\\\n\s*", " ", card))
    options = dict(re.findall(r"--(\w+) (\"[^\"]*\"|\S+)", command))
    with pytest.raises(Converted):
        trt_export(
            net_id=options["net_id"],
            filepath=str(folder / options["filepath"]),
            ckpt_file=str(weights_file),
            meta_file=str(folder / options["meta_file"]),
            config_file=str(folder / options["config_file"]),
            precision=options["precision"],
            use_trace=options["use_trace"] == "True",
            dynamic_batchsize=json.loads(options["dynamic_batchsize"].strip('"')),
            bundle_root=str(folder),
        )
    whole = folder.name == NAME
    assert list(given["input_shape"]) == ([1, 35, 3, 224, 224] if whole else [1, 3, 224, 224])
    assert given["dynamic_batchsize"] == ([1, 4, 4] if whole else [1, 16, 16])
    assert (given["precision"], given["use_trace"]) == ("fp16", True)
    assert type(given["model"]).__name__ == ("BiLSTMNFNet" if whole else "StrictUnet")
