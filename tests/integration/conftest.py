"""Fixtures that whole jobs share."""

import json
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch

from scripts import cli
from scripts.weights import save_weights


def pytest_collection_modifyitems(items):
    """Whole jobs take seconds: `make quick` leaves them out."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def write_segmenter():
    """A function that writes weights of a segmenter that finds a tumour wherever it looks, and returns their file."""

    def write(settings, folder):
        torch.manual_seed(0)
        network = smp.UnetPlusPlus(
            settings["encoder_name"], encoder_weights=None, decoder_channels=settings["decoder_channels"], classes=2
        )
        torch.nn.init.zeros_(network.segmentation_head[0].weight)
        network.segmentation_head[0].bias.data = torch.tensor([5.0, -5.0])
        file = folder / "segmentation.pt"
        save_weights(network, settings, file)
        return file

    return write


@pytest.fixture(scope="session")
def federated_sites(tmp_path_factory, write_segmenter):
    """Folder of two sites, ``north`` with four patients and ``south`` with two, each with its own data list and prepared series.

    Both labels are in both folds of north; ``data/task2/test`` has a patient of neither.
    """
    folder = tmp_path_factory.mktemp("sites")
    cli.phantom(folder / "data", segmentation_patients=0, classification_patients=6, test_patients=1, spacing=7.0)
    settings = {"encoder_name": "tu-test_efficientnet", "decoder_channels": [16, 8, 8, 4, 4], "image_size": 32}
    segmenter = write_segmenter(settings, folder)
    cli.datalist(folder / "data" / "task2", folder / "task2.json", folds=2)
    everybody = json.loads((folder / "task2.json").read_text())
    one, other = ([entry for entry in everybody["training"] if entry["label"] == label] for label in (0, 1))
    for name, patients in {"north": [one[0], other[0], one[1], other[1]], "south": [one[2], other[2]]}.items():
        mine = [{**entry, "fold": number * 2 // len(patients)} for number, entry in enumerate(patients)]
        (folder / name).mkdir()
        (folder / name / "task2.json").write_text(json.dumps({**everybody, "training": mine, "test": []}))
        cli.prepare(
            "classification", folder / name / "prepared", datalist=folder / name / "task2.json", segmenter=segmenter,
            mri_types="FLAIR", min_tumor_ratio=-1, num_workers=0, amp=False,
        )  # fmt: skip
    return folder
