"""Operations are counted as by hand."""

import torch
from torch import nn

from scripts.baselines.networks import CNN3D
from scripts.evaluation.costs import gflop, peak_memory


def test_operations_of_a_convolution_and_a_product():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16 * 20, 5))
    by_hand = 2 * (16 * 20 * 8 * 3 * 9 + 8 * 16 * 20 * 5)
    assert gflop(network, 1, 3, 16, 20) == by_hand / 1e9


def test_operations_of_the_diarys_network():
    layers = ((126 * 126 * 30, 1, 64), (61 * 61 * 13, 64, 64), (28 * 28 * 4, 64, 128), (26 * 26 * 2, 128, 256))
    by_hand = 2 * sum(voxels * 27 * before * after for voxels, before, after in layers) + 2 * (256 * 128 + 128)
    assert gflop(CNN3D(), 1, 32, 128, 128) == by_hand / 1e9


def test_memory_is_that_of_this_process():
    before = peak_memory()
    held = torch.ones(60_000_000)
    after = peak_memory()
    if before is not None:
        assert after >= before
        assert after > held.numel() * 4 / (1 << 20)
