import copy

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from scripts.networks import BiLSTMNFNet, StrictUnetPlusPlus, build_classifier

TINY = "test_efficientnet"


class Published(nn.Module):
    """The classifier as the method describes it, written down once more with nothing but timm and torch."""

    def __init__(self, hidden=128):
        super().__init__()
        self.backbone = timm.create_model("eca_nfnet_l0", pretrained=False)
        self.backbone.head.fc = nn.Identity()
        self.lstm = nn.LSTM(2304, hidden, bidirectional=True, batch_first=True)
        self.clf_head = nn.Linear(2 * hidden * 35, 1)

    def forward(self, sequences):
        features = torch.stack([self.backbone(sequence) for sequence in sequences])
        outputs, _ = self.lstm(features)
        return self.clf_head(outputs.reshape(len(outputs), -1))


def shapes(network):
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def full_size():
    torch.manual_seed(1)
    return BiLSTMNFNet().eval()


def test_parameters_of_the_full_size_classifier(full_size):
    found = shapes(full_size)
    assert {name.split(".")[0] for name in found} == {"backbone", "lstm", "clf_head"}
    assert found["clf_head.weight"] == (1, 2 * 128 * 35)
    assert found["clf_head.bias"] == (1,)
    for suffix in ("", "_reverse"):
        assert found[f"lstm.weight_ih_l0{suffix}"] == (4 * 128, 2304)
        assert found[f"lstm.weight_hh_l0{suffix}"] == (4 * 128, 128)
    assert not any(name.startswith("lstm") and "l1" in name for name in found)
    assert not any(".fc." in name and "head" in name for name in found)
    assert full_size.num_features == 2304


@pytest.mark.slow
def test_weights_go_both_ways_between_published_form_and_ours(full_size):
    torch.manual_seed(2)
    published = Published().eval()
    assert shapes(published) == shapes(full_size)
    nn.init.normal_(published.clf_head.weight, std=0.1)
    full_size.load_state_dict(published.state_dict(), strict=True)
    sequence = torch.randn(1, 35, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(full_size(sequence), published(sequence), atol=1e-5, rtol=0)
    Published().load_state_dict(full_size.state_dict(), strict=True)


def test_hidden_size_of_the_readme():
    network = BiLSTMNFNet(TINY, hidden_size=64)
    assert tuple(network.clf_head.weight.shape) == (1, 2 * 64 * 35)
    assert tuple(network.lstm.weight_hh_l0.shape) == (4 * 64, 64)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(4)
    return BiLSTMNFNet(TINY, sequence_length=5, hidden_size=3).eval()


def test_forward_is_encode_then_classify(tiny):
    sequences = torch.randn(2, 5, 3, 32, 32)
    with torch.inference_mode():
        features = tiny.encode(sequences.reshape(10, 3, 32, 32))
        logits = tiny(sequences)
        assert features.shape == (10, tiny.num_features)
        assert logits.shape == (2, 1)
        torch.testing.assert_close(tiny.classify(features.reshape(2, 5, -1)), logits)
        torch.testing.assert_close(torch.cat([tiny(sequence[None]) for sequence in sequences]), logits)


@pytest.mark.parametrize("backbone", ["resnet10t", "mobilenetv3_small_050", "test_nfnet"])
def test_features_fit_the_lstm(backbone):
    network = BiLSTMNFNet(backbone, sequence_length=1, hidden_size=2).eval()
    with torch.inference_mode():
        assert network.encode(torch.zeros(1, 3, 64, 64)).shape == (1, network.num_features)
        assert network(torch.zeros(1, 1, 3, 64, 64)).shape == (1, 1)


def test_order_of_slices_and_every_time_step_count(tiny):
    features = torch.randn(1, 5, tiny.num_features)
    with torch.inference_mode():
        logit = tiny.classify(features)
        assert not torch.allclose(tiny.classify(features.flip(1)), logit)
        for step in range(5):
            changed = features.clone()
            changed[:, step] += 1
            assert not torch.allclose(tiny.classify(changed), logit)


@pytest.mark.parametrize("length", [0, 4, 6])
def test_a_sequence_of_another_length_is_refused(tiny, length):
    with pytest.raises(ValueError, match=rf"{length} slices.* 5"):
        tiny.classify(torch.zeros(1, length, tiny.num_features))


def test_gradients_reach_backbone_and_lstm():
    network = BiLSTMNFNet(TINY, sequence_length=2, hidden_size=3).train()
    network(torch.randn(2, 2, 3, 32, 32)).sum().backward()
    for part in (network.backbone, network.lstm, network.clf_head):
        assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in part.parameters())


@pytest.mark.slow
def test_segmenter_has_the_keys_of_the_library():
    """The released weights of stage 1 are segmentation-models-pytorch's own state dict."""
    network = smp.UnetPlusPlus("densenet121", encoder_weights=None, classes=2)
    named = smp.create_model("unetplusplus", "densenet121", encoder_weights=None, classes=2)
    network.load_state_dict(named.state_dict(), strict=True)
    found = shapes(network)
    assert {name.split(".")[0] for name in found} == {"encoder", "decoder", "segmentation_head"}
    assert found["segmentation_head.0.weight"] == (2, 16, 3, 3)


STRICT = {
    "encoder_name": "tu-test_efficientnet",
    "decoder_channels": [16, 8, 8, 4, 4],
    "encoder_weights": None,
    "classes": 2,
}


def test_a_strict_network_is_the_library_s_own():
    network, plain = StrictUnetPlusPlus(**STRICT).eval(), smp.UnetPlusPlus(**STRICT).eval()
    network.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network(image), plain(image), rtol=0, atol=0)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_a_strict_network_refuses_other_weights_even_from_who_takes_what_fits(change):
    network = StrictUnetPlusPlus(**STRICT)
    state = network.state_dict()
    key = "segmentation_head.0.weight"
    if change == "missing":
        del state[key]
    elif change == "unexpected":
        state[f"{key}.other"] = torch.zeros(1)
    else:
        state[key] = torch.zeros(3, 3)
    # the library's own network takes them in silence
    smp.UnetPlusPlus(**STRICT).load_state_dict(dict(state), strict=False)
    with pytest.raises(RuntimeError, match=key):
        copy.deepcopy(network).load_state_dict(state, strict=False)


def test_a_further_layer_is_a_setting():
    settings = {"backbone": "test_efficientnet", "sequence_length": 6, "hidden_size": 4, "image_size": 32, "stride": 3}
    assert "lstm.weight_ih_l1" not in shapes(build_classifier(settings))
    assert shapes(build_classifier({**settings, "num_layers": 2}))["lstm.weight_ih_l1"] == (16, 8)
