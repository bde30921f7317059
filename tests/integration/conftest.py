"""Fixtures that whole jobs share."""

import pytest
import segmentation_models_pytorch as smp
import torch

from scripts.weights import save_weights


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
