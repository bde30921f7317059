import copy

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scripts.kernels import FoldedDecoderBlock, fold_constants, fold_decoder, upsampled_kernel
from scripts.networks import BiLSTMNFNet


def segmenter(**options):
    torch.manual_seed(0)
    options = {"encoder_name": "densenet121", "decoder_channels": (64, 32, 32, 16, 16), **options}
    network = smp.UnetPlusPlus(encoder_weights=None, classes=2, **options)
    for module in network.modules():  # as after training: statistics that are not 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return network


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_the_transposed_kernel_is_repetition_and_convolution_in_one(inputs, outputs, height, width, seed):
    torch.manual_seed(seed)
    weight, x = torch.randn(outputs, inputs, 3, 3).double(), torch.randn(2, inputs, height, width).double()
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, padding=1)
    torch.testing.assert_close(F.conv_transpose2d(x, upsampled_kernel(weight), stride=2, padding=1), expected)


@pytest.mark.slow
def test_a_folded_decoder_has_the_same_parameters_results_and_gradients():
    plain = segmenter(encoder_name="timm-mobilenetv3_small_minimal_100").double()
    folded = fold_decoder(copy.deepcopy(plain))
    assert all(isinstance(block, FoldedDecoderBlock) for block in folded.decoder.blocks.values())
    assert list(folded.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for network in (plain, folded):
        network.train()(x).square().mean().backward()
    torch.testing.assert_close(folded.eval()(x), plain.eval()(x))
    for (name, expected), found in zip(plain.named_parameters(), folded.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)


@pytest.mark.slow
def test_a_networks_constants_are_folded_without_changing_it():
    network = segmenter().double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    before = copy.deepcopy(network.state_dict())
    folded = fold_constants(network)
    torch.testing.assert_close(folded(x), network(x))
    assert not any("bn" in name or "conv1.1" in name for name in folded.decoder.state_dict())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "left"), [("tu-tf_efficientnet_lite0", 0), ("resnet18", 0), ("densenet121", 62), ("tu-resnetv2_50", 16)]
)
def test_norms_are_worked_into_the_convolutions_before_them(encoder, left):
    network = smp.Unet(encoder, encoder_weights=None, classes=2).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    before = copy.deepcopy(network.state_dict())
    folded = fold_constants(network)
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    torch.testing.assert_close(folded(x), network(x))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == left, "that come first"
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_norm_stays_where_the_convolution_before_it_is_used_elsewhere_too():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
            nn.init.uniform_(self.norm.bias, 1, 2)

        def forward(self, x):
            x = self.convolution(x)
            return x + self.norm(x)

    network = Residual().eval()
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(fold_constants(network)(x), network(x))


@pytest.mark.slow
def test_a_backbone_without_norms_becomes_plain_convolutions():
    torch.manual_seed(0)
    backbone = BiLSTMNFNet("eca_nfnet_l0").backbone.double().eval()
    folded = fold_constants(backbone)
    assert {type(module) for module in folded.modules() if isinstance(module, nn.Conv2d)} == {nn.Conv2d}
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(folded(x), backbone(x))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"decoder_attention_type": "scse"}, {"decoder_interpolation": "bilinear"}])
def test_blocks_that_can_not_be_folded_are_left_alone(options):
    network = segmenter(encoder_name="timm-mobilenetv3_small_minimal_100", **options).double().eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = network(x)
    torch.testing.assert_close(fold_constants(network)(x), expected)
    torch.testing.assert_close(fold_decoder(network)(x), expected)
