"""Small networks for tests."""

from __future__ import annotations

import segmentation_models_pytorch as smp
import torch

from scripts.networks import BiLSTMNFNet

SEGMENTER = {"encoder_name": "tu-test_efficientnet", "decoder_channels": [16, 8, 8, 4, 4], "image_size": 32}
CLASSIFIER = {"backbone": "test_efficientnet", "image_size": 32, "sequence_length": 6, "stride": 3, "hidden_size": 4}
TINY = "test_efficientnet"
SETTINGS = {"backbone": TINY, "image_size": 32, "sequence_length": 4, "stride": 2, "hidden_size": 3}


def classifier(seed=0, **settings):
    torch.manual_seed(seed)
    kept = {"backbone": TINY, "sequence_length": 4, "hidden_size": 3, **settings}
    return BiLSTMNFNet(**kept)


def segmenter(seed=0, encoder_name="tu-test_efficientnet", decoder_channels=(16, 8, 8, 4, 4)):
    torch.manual_seed(seed)
    return smp.UnetPlusPlus(encoder_name, encoder_weights=None, decoder_channels=decoder_channels, classes=2)


def finds_everything(settings):
    """A segmenter that marks all that it sees as tumour, none of it as enhancing."""
    network = segmenter(0, settings["encoder_name"], settings["decoder_channels"])
    torch.nn.init.zeros_(network.segmentation_head[0].weight)
    network.segmentation_head[0].bias.data = torch.tensor([5.0, -5.0])
    return network


def with_statistics(network):
    """A network whose batch normalisations change what they are given; else folding them away would change nothing."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.7, 1.5)
    return network.eval()
