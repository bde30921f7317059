import json

import numpy as np
import pytest
import torch
from monai.visualize import GradCAM
from scipy.stats import spearmanr
from torch import nn

from custom_transforms import ChunkSlices
from scripts.explain import maps
from scripts.explain.maps import grad_cam, randomisation_check, to_slices
from scripts.explain.occlusion import BLANKED, occlusion_by_region, occlusion_by_slice
from scripts.explain.series import encode
from scripts.inferers import SequenceClassifier, normalise

SIZE = 64
CHUNKS = ChunkSlices(4, 2)


def encoded(network, slices, image_size=SIZE, zoom=1.2, batch_size=35, chunks=CHUNKS):
    return encode(network, slices, SequenceClassifier(chunks, image_size, zoom, batch_size))


@pytest.fixture(scope="module", params=["resnet10t", "test_efficientnet", "test_nfnet"])
def network(request, make_network):
    return make_network(request.param)


# Grad-CAM


def naive_maps(network, slices, chunks, image_size, zoom):
    """One sequence after another through the whole network, all with gradients; gradients then averaged by slice."""
    images = SequenceClassifier(chunks, image_size, zoom).resize(slices)
    gradients, activations = [[] for _ in slices], {}
    for start, stop in chunks.bounds(len(slices)):
        padded = torch.cat([images[start:stop], torch.zeros(chunks.length - (stop - start), *images.shape[1:])])
        maps = network.backbone.forward_features(normalise(padded))
        logit = network.classify(network.backbone.forward_head(maps)[None]).sum()
        (gradient,) = torch.autograd.grad(logit, maps)
        for step, index in enumerate(range(start, stop)):
            gradients[index].append(gradient[step])
            activations[index] = maps[step].detach()
    return torch.stack(
        [
            (torch.stack(own).mean(0).mean((1, 2), keepdim=True) * activations[index]).sum(0)
            for index, own in enumerate(gradients)
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 4, 9])
@pytest.mark.parametrize("batch_size", [2, 35])
def test_grad_cam_against_full_gradients(network, n, batch_size, colour_slices):
    slices = colour_slices(n)
    signed = naive_maps(network, slices, CHUNKS, SIZE, 1.2)
    expected = to_slices(signed.relu() / signed.abs().max(), (SIZE, SIZE), 1.2)
    found = grad_cam(encoded(network, slices, SIZE, 1.2, batch_size))
    assert found.shape == (n, SIZE, SIZE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    against = grad_cam(encoded(network, slices, SIZE, 1.2, batch_size), label=0)
    np.testing.assert_allclose(
        against, to_slices((-signed).relu() / signed.abs().max(), (SIZE, SIZE), 1.2).numpy(), atol=1e-4
    )
    assert found.min() == against.min() == 0
    assert 0.2 < max(found.max(), against.max()) <= 1


@pytest.mark.parametrize(
    ("backbone", "layer"), [("resnet10t", "layer4"), ("test_efficientnet", "bn2"), ("test_nfnet", "final_act")]
)
def test_grad_cam_of_a_single_sequence_is_that_of_monai(backbone, layer, colour_slices, make_network):
    network, slices = make_network(backbone), colour_slices(4)
    images = normalise(SequenceClassifier(CHUNKS, SIZE, 1.0).resize(slices))
    monai = GradCAM(make_network(backbone), f"backbone.{layer}", postprocessing=lambda maps: maps)
    monai_maps = monai.compute_map(images[None], class_idx=0)
    expected = monai.upsampler((SIZE, SIZE))(monai_maps)[:, 0].detach()
    found = torch.from_numpy(grad_cam(encoded(network, slices, SIZE, 1.0)))
    assert expected.max() > 0
    # MONAI's maps are not scaled
    scale = naive_maps(network, slices, CHUNKS, SIZE, 1.0).abs().max()
    torch.testing.assert_close(found * scale, expected, atol=1e-4 * float(scale), rtol=1e-3)


@pytest.mark.parametrize("function", [grad_cam, occlusion_by_slice])
def test_the_backbone_sees_each_slice_once_in_small_batches(network, monkeypatch, function, colour_slices):
    seen = []
    forward = type(network.backbone).forward_features

    def counted(self, images):
        assert not torch.is_grad_enabled()
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(type(network.backbone), "forward_features", counted)
    function(encoded(network, colour_slices(9), SIZE, batch_size=4))
    assert seen == [1, 4, 4, 1]  # the black slice comes first


@pytest.mark.slow
def test_grad_cam_leaves_the_network_as_it_was(network, colour_slices):
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():  # gradients are asked for in there all the same
        grad_cam(encoded(network, colour_slices(5), SIZE))
        randomisation_check(encoded(network, colour_slices(5), SIZE))
    assert network.training
    network.eval()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("zoom", [1.0, 1.2, 1.5])
@pytest.mark.parametrize("shape", [(64, 64), (90, 50), (31, 57)])
def test_maps_lie_where_the_slice_does(shape, zoom):
    """A blob that the network is shown somewhere is brought back to where it was."""
    height, width = shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centre = (0.4 * height, 0.6 * width)
    blob = torch.exp(-(((rows - centre[0]) / height) ** 2 + ((columns - centre[1]) / width) ** 2) / 0.01) * 255
    slices = blob[None, None].repeat(2, 3, 1, 1)
    shown = SequenceClassifier(CHUNKS, 48, zoom).resize(slices)[:, 0]
    back = to_slices(shown, shape, zoom)
    assert back.shape == (2, *shape)
    margin = torch.ones(shape, dtype=torch.bool)
    inner = [int(np.ceil(side * (1 - 1 / zoom) / 2)) + 2 for side in shape]
    margin[inner[0] : -inner[0], inner[1] : -inner[1]] = False
    assert (back[0] - blob)[~margin].abs().max() < 255 * 0.05
    whole = to_slices(torch.ones(1, 3, 3), shape, zoom)[0]
    assert whole[~margin].min() == pytest.approx(1)
    assert (whole[0].max() == 0) == (zoom > 1)
    assert abs(float(whole.mean()) - 1 / zoom**2) < 0.06


class Quadrant(nn.Module):
    """A backbone whose only map is one channel of one quadrant of the slice, 0 where that is black."""

    def __init__(self, channel):
        super().__init__()
        self.channel = channel

    def forward_features(self, images):
        seen = images - normalise(torch.zeros(1, 3, 1, 1))
        quadrant = torch.zeros(8, 8)
        quadrant[:4, 4:] = 1
        return nn.functional.avg_pool2d(seen[:, self.channel, None], images.shape[-1] // 8) * quadrant

    def forward_head(self, maps):
        return maps.mean((2, 3))


class Known(nn.Module):
    """A classifier that is known by heart, and has weights that change nothing.

    Args:
        channel: of the slice, the only one that it sees.
        step: of the sequence, likewise; None: all steps.
        sign: of the logit.
    """

    def __init__(self, channel=0, step=None, sign=1.0):
        super().__init__()
        self.step, self.sign = step, sign
        self.backbone, self.lstm, self.clf_head = Quadrant(channel), nn.Linear(2, 2), nn.Linear(2, 2)

    def classify(self, features):
        seen = features if self.step is None else features[:, self.step : self.step + 1]
        return self.sign * seen.mean(1)


@pytest.mark.parametrize(("sign", "label"), [(1.0, 1), (-1.0, 0)])
def test_grad_cam_finds_the_quadrant(sign, label):
    slices = torch.full((6, 3, 80, 80), 200, dtype=torch.uint8)
    found = grad_cam(encoded(Known(sign=sign), slices, 32, 1.25), label=label)
    # the network sees rows and columns 8 to 72; between cells of 8 pixels the map fades
    assert found[:, 8:36, 44:72].min() > 0.9
    for rows, columns in ((slice(44, None), slice(None)), (slice(None), slice(0, 36)), (slice(0, 8), slice(None))):
        assert found[:, rows, columns].max() == 0
    assert not grad_cam(encoded(Known(sign=sign), slices, 32, 1.25), label=1 - label).any()


def test_grad_cam_finds_the_slice():
    """Sequences of slices 0 to 3 and 2 to 5, of which the classifier sees the first step: slices 0 and 2."""
    slices = torch.full((6, 3, 64, 64), 200, dtype=torch.uint8)
    found = grad_cam(encoded(Known(step=0), slices, 32, 1.0))
    assert CHUNKS.bounds(6) == [(0, 4), (2, 6)]
    strongest = found.max(axis=(1, 2))
    # slice 2 is first in one of the two sequences that it is in
    np.testing.assert_allclose(strongest, [1, 0, 0.5, 0, 0, 0], atol=1e-6)


def test_a_network_without_evidence_has_black_maps(colour_slices):
    found = grad_cam(encoded(Known(sign=0.0), colour_slices(3), 32))
    assert found.shape == (3, SIZE, SIZE)
    assert not found.any()


def blanked_by_hand(slices, region):
    slices = slices.clone()
    for one in slices:
        image, wt, et = one[0].numpy(), one[1].numpy() > 0, one[2].numpy() > 0
        inside = {"ET": et, "WT without ET": wt & ~et, "brain without WT": (image > 1) & ~(wt | et)}
        if region == "masks":
            one[1:] = 0
        else:
            image[inside[region]] = round(float(image[image > 1].mean())) if (image > 1).any() else 0
    return slices


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 7])
def test_occlusion_by_region_against_blanked_series(network, n, colour_slices, probability):
    slices = colour_slices(n)
    slices[0, 2] = 0  # a slice without ET
    found = occlusion_by_region(encoded(network, slices, SIZE, batch_size=3))
    assert list(found) == list(BLANKED)
    whole = probability(network, slices)
    for region, change in found.items():
        assert change == pytest.approx(probability(network, blanked_by_hand(slices, region)) - whole, abs=1e-5)
    assert found["masks"] != 0
    assert (found["ET"] == 0) == (n == 1)


def test_occlusion_by_region_finds_what_is_seen():
    slices = torch.full((5, 3, 64, 64), 100, dtype=torch.uint8)
    slices[:, 1:] = 0
    slices[:, :, 5:27, 40:60] = 255  # an enhancing tumour in the quadrant that is seen
    image, masks = Known(channel=0), Known(channel=2)
    found = occlusion_by_region(encoded(image, slices, 32, 1.0))
    assert found["ET"] < -0.01
    assert found["WT without ET"] == found["masks"] == 0
    assert found["brain without WT"] > 0  # the mean is brighter than the brain around the tumour
    found = occlusion_by_region(encoded(masks, slices, 32, 1.0))
    assert found["masks"] < -0.01
    assert found["ET"] == found["WT without ET"] == found["brain without WT"] == 0


def test_a_slice_without_brain_can_be_blanked():
    slices = torch.zeros((2, 3, 40, 40), dtype=torch.uint8)
    slices[1, 1:] = 255
    found = occlusion_by_region(encoded(Known(), slices, 32))
    assert found == dict.fromkeys(BLANKED, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3, 9])
def test_occlusion_by_slice_against_blackened_series(network, n, colour_slices, probability):
    slices = colour_slices(n)
    found = occlusion_by_slice(encoded(network, slices, SIZE, batch_size=2))
    assert found.shape == (n,)
    assert found.dtype == np.float32
    whole = probability(network, slices)
    for index, change in enumerate(found):
        without = slices.clone()
        without[index] = 0
        assert change == pytest.approx(probability(network, without) - whole, abs=1e-5)
    assert n == 1 or np.ptp(found) > 1e-4


def test_occlusion_by_slice_finds_the_slice():
    slices = torch.full((6, 3, 64, 64), 200, dtype=torch.uint8)
    found = occlusion_by_slice(encoded(Known(step=3), slices, 32, 1.0))
    assert np.flatnonzero(found).tolist() == [3, 5]
    assert (found[[3, 5]] < 0).all()


def test_spearman_is_that_of_scipy():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 9, (2, 5, 6)), rng.normal(size=(2, 5, 6))
    assert maps.rank_correlation(one, other) == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic)
    assert np.isnan(maps.rank_correlation(np.ones(4), np.arange(4)))
    assert np.isnan(maps.rank_correlation(np.arange(4), np.array([0, 1, np.nan, 2])))


@pytest.mark.slow
def test_randomised_weights_change_the_maps(network, colour_slices):
    found = randomisation_check(encoded(network, colour_slices(6), SIZE))
    assert list(found["correlation"]) == ["head", "head and LSTM", "everything"]
    assert all(0 <= rho <= 1 for rho in found["correlation"].values())
    assert found["threshold"] == maps.RANDOMISATION_THRESHOLD
    assert found["maps_change"] is (max(found["correlation"].values()) < found["threshold"])
    assert randomisation_check(encoded(network, colour_slices(6), SIZE)) == found
    json.dumps(found)


def test_maps_that_change_are_reported(colour_slices, make_network):
    found = randomisation_check(encoded(make_network("test_efficientnet"), colour_slices(9), SIZE))
    assert max(found["correlation"].values()) < 0.45
    assert found["maps_change"] is True
    assert "depend on what was learned" in found["statement"]


def test_maps_that_do_not_change_are_found_out(colour_slices):
    found = randomisation_check(encoded(Known(), colour_slices(6), 32))
    assert found["correlation"] == pytest.approx({"head": 1, "head and LSTM": 1, "everything": 1})
    assert found["maps_change"] is False
    assert "stay alike when the weights of everything are random" in found["statement"]


def test_constant_maps_show_nothing(colour_slices):
    found = randomisation_check(encoded(Known(sign=0.0), colour_slices(3), 32))
    assert found["correlation"] == dict.fromkeys(("head", "head and LSTM", "everything"))
    assert found["maps_change"] is None
    assert "constant" in found["statement"]


@pytest.mark.parametrize("function", [grad_cam, occlusion_by_region, occlusion_by_slice, randomisation_check])
def test_what_can_not_be_explained_is_refused(network, function, colour_slices):
    with pytest.raises(ValueError, match="a sequence has 5 slices, the classifier was made for 4"):
        function(encoded(network, colour_slices(2), chunks=ChunkSlices(5, 2)))


def test_other_features_are_refused(colour_slices):
    tokens = Known()
    tokens.backbone.forward_features = lambda images: images.flatten(2)
    with pytest.raises(ValueError, match=r"last features are \(1, 3, 1024\)"):
        grad_cam(encoded(tokens, colour_slices(2), 32))
