"""Series and classifiers to explain."""

import numpy as np
import pytest
import torch
from torch import nn

from custom_transforms import ChunkSlices
from scripts.inferers import SequenceClassifier
from scripts.networks import BiLSTMNFNet


@pytest.fixture(scope="session")
def colour_slices():
    """A function that makes so many slices with a tumour whose place changes, noise for the brain, black around it."""

    def make(n, height=64, width=64, seed=0):
        rng = np.random.default_rng(seed)
        slices = np.zeros((n, 3, height, width), np.uint8)
        slices[:, 0, 4:-4, 4:-4] = rng.integers(2, 256, (n, height - 8, width - 8))
        for index in range(n):
            top, left = rng.integers(8, height // 2), rng.integers(8, width // 2)
            slices[index, 1, top : top + 16, left : left + 12] = 255
            slices[index, 2, top + 4 : top + 9, left + 2 : left + 8] = 255
        return torch.from_numpy(slices)

    return make


@pytest.fixture(scope="session")
def make_network():
    """A function that makes a small classifier of sequences of 4 slices."""

    def make(backbone="resnet10t", seed=0):
        torch.manual_seed(seed)
        network = BiLSTMNFNet(backbone, sequence_length=4, hidden_size=4).eval()
        nn.init.normal_(network.clf_head.weight)
        return network

    return make


@pytest.fixture(scope="session")
def probability():
    """A function that classifies slices as a prediction does."""

    def classify(network, slices, zoom=1.2, size=64):
        inferer = SequenceClassifier(ChunkSlices(4, 2), size, zoom, amp=False)
        with torch.no_grad():
            return float(inferer(slices, network).sigmoid().mean())

    return classify
