"""The weights that are shipped: what the file is, and that it finds tumours that nobody showed it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch

pytest.importorskip("nilearn", reason="synthetic brains need the extra [phantom]")

import yaml

import radiogenomics
from custom_transforms import ScaleToUint8
from scripts import synthesis, weights
from scripts.inferers import SliceSegmenter, normalise

BUNDLE = Path(radiogenomics.__file__).parent
FILE = BUNDLE / "models" / "segmentation.pt"


@pytest.fixture(scope="module")
def network():
    loaded = weights.load_weights(smp.UnetPlusPlus("densenet121", encoder_weights=None, classes=2), FILE)
    return loaded.eval().requires_grad_(False)


def dice(found, true):
    return 2 * (found & true).sum() / (found.sum() + true.sum())


def test_the_file_is_small_and_says_what_it_is():
    assert FILE.stat().st_size <= 65e6
    state, settings = weights.read_weights(FILE)
    assert weights.is_synthetic(FILE)
    assert {key: settings[key] for key in ("encoder_name", "image_size", "scaling")} == {
        "encoder_name": "densenet121", "image_size": 224, "scaling": "window",
    }  # fmt: skip
    assert all(value.isfinite().all() for value in state.values())
    assert {value.dtype for value in state.values()} == {torch.float16, torch.int64}


def test_it_is_what_prediction_uses_where_there_is_nothing_else(tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    (models / "segmentation.pt").symlink_to(FILE)
    assert weights.find_segmenter(None, models) == weights.find_segmenter("synthetic", models)
    assert weights.start_settings("synthetic", models)["scaling"] == "window"


def test_card_and_licence_come_with_it():
    card = (BUNDLE / "docs" / "segmentation_weights.md").read_text(encoding="utf-8")
    assert "Research use only" in card
    assert "synthetic" in card
    assert (BUNDLE / "docs" / "segmentation_weights.png").is_file()


def test_it_finds_the_tumours_of_synthetic_brains_that_it_was_not_trained_on(network):
    config = yaml.safe_load((BUNDLE / "configs" / "pretrain_segmentation.yaml").read_text(encoding="utf-8"))
    ranges = {name: value for name, value in config["ranges"].items() if name != "_target_"}
    ranges |= {"tumour_free_brains": 0.0, "anywhere": 0.0}
    draw = synthesis.DrawSlice(synthesis.Randomisation(**ranges), 224, seed=5067)
    items = [draw({"slice": number, "mri_type": "FLAIR"}) for number in range(10)]
    images = torch.cat([item["image"] for item in items])[:, None].expand(-1, 3, -1, -1)
    found = torch.cat([network(normalise(part)) for part in images.split(5)])[:, 0] > 0
    assert dice(found, torch.stack([item["label"][0] for item in items]) > 0) > 0.5


def test_it_finds_a_real_tumour(network, real_data):
    """A fifth of the axial slices of a FLAIR volume; the card has the figures of whole studies."""
    folder = real_data / "task1" / "BraTS2021_07294"
    image, labels = (nib.load(folder / f"BraTS2021_07294_{name}.nii.gz") for name in ("flair", "seg"))
    volume = torch.from_numpy(ScaleToUint8()(image.get_fdata(dtype=np.float32)).transpose(2, 1, 0).copy())
    true = (np.asarray(labels.dataobj) > 0).transpose(2, 1, 0)[::5]
    segmenter = SliceSegmenter(amp=False, scaling="window")
    found = segmenter.probabilities(volume[::5], network, segmenter.window(volume))[:, 0].numpy() >= 0.5
    assert dice(found, true) > 0.6
