import json
import logging

import numpy as np
import pytest
import torch
from monai.visualize import GradCAM
from scipy.stats import spearmanr
from torch import nn

from custom_transforms import ChunkSlices, SliceGeometry
from scripts import weights
from scripts.explain import maps as explanations
from scripts.explain.maps import (
    BLANKED,
    Explanation,
    explain_run,
    explain_series,
    grad_cam,
    occlusion_by_region,
    occlusion_by_slice,
    randomisation_check,
    to_slices,
)
from scripts.files import write_json
from scripts.inferers import SequenceClassifier, normalise
from scripts.networks import BiLSTMNFNet
from scripts.prepared import PreparedError, write_series

SIZE = 64
CHUNKS = ChunkSlices(4, 2)


def colour_slices(n, height=SIZE, width=SIZE, seed=0):
    """Slices with a tumour whose place changes, noise for the brain, black around it."""
    rng = np.random.default_rng(seed)
    slices = np.zeros((n, 3, height, width), np.uint8)
    slices[:, 0, 4:-4, 4:-4] = rng.integers(2, 256, (n, height - 8, width - 8))
    for index in range(n):
        top, left = rng.integers(8, height // 2), rng.integers(8, width // 2)
        slices[index, 1, top : top + 16, left : left + 12] = 255
        slices[index, 2, top + 4 : top + 9, left + 2 : left + 8] = 255
    return torch.from_numpy(slices)


@pytest.fixture(scope="module", params=["resnet10t", "test_efficientnet", "test_nfnet"])
def network(request):
    return make_network(request.param)


def make_network(backbone="resnet10t", seed=0):
    torch.manual_seed(seed)
    network = BiLSTMNFNet(backbone, sequence_length=4, hidden_size=4).eval()
    nn.init.normal_(network.clf_head.weight)
    return network


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


@pytest.mark.parametrize("n", [1, 4, 9])
@pytest.mark.parametrize("batch_size", [2, 35])
def test_grad_cam_against_full_gradients(network, n, batch_size):
    slices = colour_slices(n)
    signed = naive_maps(network, slices, CHUNKS, SIZE, 1.2)
    expected = to_slices(signed.relu() / signed.abs().max(), (SIZE, SIZE), 1.2)
    found = grad_cam(network, slices, CHUNKS, SIZE, 1.2, batch_size)
    assert found.shape == (n, SIZE, SIZE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    against = grad_cam(network, slices, CHUNKS, SIZE, 1.2, batch_size, label=0)
    np.testing.assert_allclose(
        against, to_slices((-signed).relu() / signed.abs().max(), (SIZE, SIZE), 1.2).numpy(), atol=1e-4
    )
    assert found.min() == against.min() == 0
    assert 0.2 < max(found.max(), against.max()) <= 1


@pytest.mark.parametrize(
    ("backbone", "layer"), [("resnet10t", "layer4"), ("test_efficientnet", "bn2"), ("test_nfnet", "final_act")]
)
def test_grad_cam_of_a_single_sequence_is_that_of_monai(backbone, layer):
    network, slices = make_network(backbone), colour_slices(4)
    images = normalise(SequenceClassifier(CHUNKS, SIZE, 1.0).resize(slices))
    monai = GradCAM(make_network(backbone), f"backbone.{layer}", postprocessing=lambda maps: maps)
    monai_maps = monai.compute_map(images[None], class_idx=0)
    expected = monai.upsampler((SIZE, SIZE))(monai_maps)[:, 0].detach()
    found = torch.from_numpy(grad_cam(network, slices, CHUNKS, SIZE, 1.0))
    assert expected.max() > 0
    # MONAI's maps are not scaled
    scale = naive_maps(network, slices, CHUNKS, SIZE, 1.0).abs().max()
    torch.testing.assert_close(found * scale, expected, atol=1e-4 * float(scale), rtol=1e-3)


@pytest.mark.parametrize("function", [grad_cam, occlusion_by_slice])
def test_the_backbone_sees_each_slice_once_in_small_batches(network, monkeypatch, function):
    seen = []
    forward = type(network.backbone).forward_features

    def counted(self, images):
        assert not torch.is_grad_enabled()
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(type(network.backbone), "forward_features", counted)
    function(network, colour_slices(9), CHUNKS, SIZE, batch_size=4)
    assert seen == [1, 4, 4, 1]  # the black slice comes first


def test_grad_cam_leaves_the_network_as_it_was(network):
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():  # gradients are asked for in there all the same
        grad_cam(network, colour_slices(5), CHUNKS, SIZE)
        randomisation_check(network, colour_slices(5), CHUNKS, SIZE)
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
    maps = grad_cam(Known(sign=sign), slices, CHUNKS, 32, 1.25, label=label)
    # the network sees rows and columns 8 to 72; between cells of 8 pixels the map fades
    assert maps[:, 8:36, 44:72].min() > 0.9
    for rows, columns in ((slice(44, None), slice(None)), (slice(None), slice(0, 36)), (slice(0, 8), slice(None))):
        assert maps[:, rows, columns].max() == 0
    assert not grad_cam(Known(sign=sign), slices, CHUNKS, 32, 1.25, label=1 - label).any()


def test_grad_cam_finds_the_slice():
    """Sequences of slices 0 to 3 and 2 to 5, of which the classifier sees the first step: slices 0 and 2."""
    slices = torch.full((6, 3, 64, 64), 200, dtype=torch.uint8)
    maps = grad_cam(Known(step=0), slices, CHUNKS, 32, 1.0)
    assert CHUNKS.bounds(6) == [(0, 4), (2, 6)]
    strongest = maps.max(axis=(1, 2))
    # slice 2 is first in one of the two sequences that it is in
    np.testing.assert_allclose(strongest, [1, 0, 0.5, 0, 0, 0], atol=1e-6)


def test_a_network_without_evidence_has_black_maps():
    maps = grad_cam(Known(sign=0.0), colour_slices(3), CHUNKS, 32)
    assert maps.shape == (3, SIZE, SIZE)
    assert not maps.any()


# Occlusion


def probability(network, slices, zoom=1.2, size=SIZE):
    with torch.no_grad():
        return float(SequenceClassifier(CHUNKS, size, zoom, amp=False)(slices, network).sigmoid().mean())


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


@pytest.mark.parametrize("n", [1, 7])
def test_occlusion_by_region_against_blanked_series(network, n):
    slices = colour_slices(n)
    slices[0, 2] = 0  # a slice without ET
    found = occlusion_by_region(network, slices, CHUNKS, SIZE, batch_size=3)
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
    found = occlusion_by_region(image, slices, CHUNKS, 32, 1.0)
    assert found["ET"] < -0.01
    assert found["WT without ET"] == found["masks"] == 0
    assert found["brain without WT"] > 0  # the mean is brighter than the brain around the tumour
    found = occlusion_by_region(masks, slices, CHUNKS, 32, 1.0)
    assert found["masks"] < -0.01
    assert found["ET"] == found["WT without ET"] == found["brain without WT"] == 0


def test_a_slice_without_brain_can_be_blanked():
    slices = torch.zeros((2, 3, 40, 40), dtype=torch.uint8)
    slices[1, 1:] = 255
    found = occlusion_by_region(Known(), slices, CHUNKS, 32)
    assert found == dict.fromkeys(BLANKED, 0.0)


@pytest.mark.parametrize("n", [1, 3, 9])
def test_occlusion_by_slice_against_blackened_series(network, n):
    slices = colour_slices(n)
    found = occlusion_by_slice(network, slices, CHUNKS, SIZE, batch_size=2)
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
    found = occlusion_by_slice(Known(step=3), slices, CHUNKS, 32, 1.0)
    assert np.flatnonzero(found).tolist() == [3, 5]
    assert (found[[3, 5]] < 0).all()


# Do the maps depend on the weights?


def test_spearman_is_that_of_scipy():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 9, (2, 5, 6)), rng.normal(size=(2, 5, 6))
    assert explanations._spearman(one, other) == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic)
    assert explanations._spearman(np.ones(4), np.arange(4)) is None
    assert explanations._spearman(np.arange(4), np.array([0, 1, np.nan, 2])) is None


def test_randomised_weights_change_the_maps(network):
    found = randomisation_check(network, colour_slices(6), CHUNKS, SIZE)
    assert list(found["correlation"]) == ["head", "head and LSTM", "everything"]
    assert all(0 <= rho <= 1 for rho in found["correlation"].values())
    assert found["threshold"] == explanations.RANDOMISATION_THRESHOLD
    assert found["maps_change"] is (max(found["correlation"].values()) < found["threshold"])
    once = [randomisation_check(network, colour_slices(6), CHUNKS, SIZE, draws=1) for _ in range(2)]
    assert once[0] == once[1] != found
    other = randomisation_check(network, colour_slices(6), CHUNKS, SIZE, seed=1)
    assert other["correlation"] != found["correlation"]
    json.dumps(found)


def test_maps_that_change_are_told():
    found = randomisation_check(make_network("test_efficientnet"), colour_slices(9), CHUNKS, SIZE)
    assert max(found["correlation"].values()) < 0.45
    assert found["maps_change"] is True
    assert "depend on what was learned" in found["statement"]


def test_maps_that_do_not_change_are_found_out():
    found = randomisation_check(Known(), colour_slices(6), CHUNKS, 32)
    assert found["correlation"] == pytest.approx({"head": 1, "head and LSTM": 1, "everything": 1})
    assert found["maps_change"] is False
    assert "stay alike when the weights of everything are random" in found["statement"]


def test_constant_maps_tell_nothing():
    found = randomisation_check(Known(sign=0.0), colour_slices(3), CHUNKS, 32)
    assert found["correlation"] == dict.fromkeys(("head", "head and LSTM", "everything"))
    assert found["maps_change"] is None
    assert "constant" in found["statement"]


# What is refused


@pytest.mark.parametrize("function", [grad_cam, occlusion_by_region, occlusion_by_slice, randomisation_check])
def test_what_can_not_be_explained_is_refused(network, function):
    for shape in ((0, 3, 8, 8), (2, 1, 8, 8), (3, 8, 8)):
        with pytest.raises(ValueError, match=r"expected \(K, 3, H, W\) of one slice or more"):
            function(network, torch.zeros(shape, dtype=torch.uint8), CHUNKS, SIZE)
    compiled = nn.Module()
    compiled.backbone = nn.Identity()
    with pytest.raises(TypeError, match=r"load_classifiers"):
        function(compiled, colour_slices(2), CHUNKS, SIZE)
    with pytest.raises(ValueError, match="a sequence has 5 slices, the classifier was made for 4"):
        function(network, colour_slices(2), ChunkSlices(5, 2), SIZE)


def test_other_labels_and_other_features_are_refused(network):
    with pytest.raises(ValueError, match="label is 2, expected 1"):
        grad_cam(network, colour_slices(2), CHUNKS, SIZE, label=2)
    tokens = Known()
    tokens.backbone.forward_features = lambda images: images.flatten(2)
    with pytest.raises(ValueError, match=r"last features are \(1, 3, 1024\)"):
        grad_cam(tokens, colour_slices(2), CHUNKS, 32)


# Files

SETTINGS = {"backbone": "resnet10t", "image_size": 32, "sequence_length": 4, "stride": 2, "hidden_size": 4}


def save_classifier(file, seed=0):
    weights.save_weights(make_network(seed=seed), SETTINGS, file)
    return str(file)


def save_series(folder, patient="1", mri_type="FLAIR", kept=5, seed=0):
    """A prepared series of 9 slices, whose slices from 2 on are kept."""
    slices = colour_slices(9, 40, 48, seed).numpy()
    indices = np.arange(2, 2 + kept)
    file = folder / patient / f"{mri_type}.h5"
    info = {"patient": patient, "mri_type": mri_type, "kept": kept, "fingerprint": f"{patient}-{seed}"}
    geometry = SliceGeometry.from_affine(np.eye(4), (48, 40, 9))
    write_series(file, slices[indices, 0], indices, slices[:, 1:] > 0, info, geometry)
    return file, info


@pytest.fixture
def prediction(tmp_path):
    """Patient 1 is fine, 2's series is damaged, 3's shows too little tumour, 4's is gone, 5 has no study."""
    prepared, index, rows = tmp_path / "prepared", {}, []
    classifier = save_classifier(tmp_path / "model.pt")
    for patient in "1234":
        series = {}
        for mri_type in ("FLAIR", "T2w") if patient == "1" else ("FLAIR",):
            file, info = save_series(prepared, patient, mri_type, kept=0 if patient == "3" else 5)
            index[f"{patient}/{mri_type}"] = {"file": f"{patient}/{mri_type}.h5", **info}
            series[mri_type] = {"probability": 0.5, "kept": 5}
            if patient == "3":
                series[mri_type] = {"probability": None, "reason": "no slice shows enough tumour"}
            if patient == "2":
                file.write_bytes(b"damaged")
        rows.append({"patient": patient, "probability": 0.5, "series": series})
    del index["4/FLAIR"]
    rows.append({"patient": "5", "probability": 0.5, "series": {}})
    write_json({"configuration": {"zoom": 1.3}, "series": index}, prepared / "index.json")
    write_json({"patients": rows}, tmp_path / "patients.json")
    return tmp_path, {"FLAIR": classifier, "T1w": None, "T2w": classifier}


def test_explanation_of_a_series(tmp_path):
    file, _ = save_series(tmp_path)
    found = explain_series(file, save_classifier(tmp_path / "model.pt"), zoom=1.3, batch_size=3)
    network, slices = make_network(), colour_slices(9, 40, 48)[2:7]
    how = (network, slices, CHUNKS, 32, 1.3)
    assert (found.patient, found.mri_type, found.slices.tolist()) == ("1", "FLAIR", [2, 3, 4, 5, 6])
    for maps, label in ((found.maps, 1), (found.maps_against, 0)):
        assert maps.dtype == np.uint8
        np.testing.assert_allclose(maps / 255, grad_cam(*how, label=label), atol=1 / 255)
    np.testing.assert_allclose(found.by_slice, occlusion_by_slice(*how), atol=1e-5)
    assert found.by_region == pytest.approx(occlusion_by_region(*how), abs=1e-5)
    assert found.logits.shape == (2,)
    assert found.probability == pytest.approx(probability(network, slices, 1.3, 32), abs=1e-5)
    assert found.randomisation["correlation"] == pytest.approx(randomisation_check(*how)["correlation"], abs=1e-3)
    assert found.made_with["weights"] == weights.sha256(tmp_path / "model.pt")
    assert found.made_with["zoom"] == 1.3


def test_explanations_are_saved_and_read(tmp_path):
    file, _ = save_series(tmp_path)
    made = explain_series(file, save_classifier(tmp_path / "model.pt"))
    target = made.save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1_FLAIR.json", "1_FLAIR.npz"]
    read = Explanation.load(target)
    for name, value in vars(made).items():
        np.testing.assert_equal(getattr(read, name), value)
    assert read.maps.dtype == np.uint8
    assert "Research use only" in json.loads(target.read_text())["note"]
    # arrays of other weights beside it, as an interruption leaves them
    other = explain_series(file, save_classifier(tmp_path / "other.pt", seed=1))
    other.save(tmp_path / "other")
    (tmp_path / "other" / "1_FLAIR.npz").replace(tmp_path / "out" / "1_FLAIR.npz")
    with pytest.raises(ValueError, match=r"of another explanation.*explain again"):
        Explanation.load(target)
    (tmp_path / "out" / "1_FLAIR.npz").write_bytes(b"half of one")
    with pytest.raises(ValueError, match="no explanation that can be read"):
        Explanation.load(target)
    with pytest.raises(ValueError, match="no explanation that can be read"):
        Explanation.load(tmp_path / "none.json")


def test_series_that_can_not_be_explained(tmp_path):
    classifier = save_classifier(tmp_path / "model.pt")
    file, _ = save_series(tmp_path, kept=0)
    with pytest.raises(PreparedError, match="no slice shows enough tumour"):
        explain_series(file, classifier)
    with pytest.raises(weights.WeightsError, match="no such weights file"):
        explain_series(file, tmp_path / "none.pt")
    file, _ = save_series(tmp_path)
    broken = make_network()
    nn.init.constant_(broken.clf_head.bias, torch.nan)
    weights.save_weights(broken, SETTINGS, tmp_path / "broken.pt")
    with pytest.raises(weights.WeightsError, match="hold NaN or infinity"):
        explain_series(file, tmp_path / "broken.pt")


def test_explanations_of_a_prediction(prediction, caplog):
    folder, classifiers = prediction
    with caplog.at_level(logging.INFO):
        rows = explain_run(folder, classifiers)
    assert list(rows) == ["1/FLAIR", "1/T2w", "2/FLAIR", "3/FLAIR", "4/FLAIR"]
    assert "2/FLAIR.h5: no prepared series that can be read" in rows["2/FLAIR"]["error"]
    assert rows["3/FLAIR"] == {"reason": "no slice shows enough tumour"}
    assert "no 4/FLAIR; prepare it again" in rows["4/FLAIR"]["error"]
    for mri_type in ("FLAIR", "T2w"):
        row = rows[f"1/{mri_type}"]
        explanation = Explanation.load(folder / "explanations" / row["file"])
        assert (explanation.patient, explanation.mri_type) == ("1", mri_type)
        assert explanation.probability == row["probability"]
        assert explanation.made_with["zoom"] == 1.3  # of the prediction
        assert row["predicted"] == 0.5
        assert row["maps_change"] is explanation.randomisation["maps_change"]
    names = {path.name for path in (folder / "explanations").iterdir()}
    assert names == {"index.json", *(f"1_{mri_type}.{end}" for mri_type in ("FLAIR", "T2w") for end in ("npz", "json"))}
    stored = json.loads((folder / "explanations" / "index.json").read_text())
    assert stored["series"] == rows
    assert "5 series, 2 failed" in caplog.text
    differs = abs(rows["1/FLAIR"]["probability"] - 0.5) > explanations.PREDICTION_TOLERANCE
    assert ("but 0.500 in the prediction" in caplog.text) == differs


def test_explaining_goes_on_where_it_was_interrupted(prediction, monkeypatch):
    folder, classifiers = prediction
    done = []
    explain = explanations._explain

    def counted(file, *rest):
        done.append(f"{file}")
        return explain(file, *rest)

    monkeypatch.setattr(explanations, "_explain", counted)

    def explained(**rest):
        done.clear()
        rows = explain_run(folder, classifiers, **rest)
        return rows, [file.removeprefix(f"{folder / 'prepared'}/") for file in done]

    rows, files = explained(patients=["1"], limit=1)
    assert (list(rows), files) == (["1/FLAIR"], ["1/FLAIR.h5"])
    rows, files = explained(patients=["1"])
    assert (list(rows), files) == (["1/FLAIR", "1/T2w"], ["1/T2w.h5"])
    again, files = explained(patients=["1"])
    assert (again, files) == (rows, [])
    (folder / "explanations" / "1_T2w.npz").unlink()
    assert explained(patients=["1"]) == (rows, ["1/T2w.h5"])
    assert explained(patients=["1"], mri_types=["FLAIR"])[1] == []
    save_classifier(classifiers["FLAIR"], seed=1)  # other weights under the same name
    assert explained(patients=["1"], mri_types=["FLAIR"])[1] == ["1/FLAIR.h5"]
    save_series(folder / "prepared", "1", "FLAIR", seed=1)  # prepared anew
    assert explained(patients=["1"], mri_types=["FLAIR"])[1] == ["1/FLAIR.h5"]


def test_other_probabilities_than_predicted_are_told(prediction, caplog):
    folder, classifiers = prediction
    rows = json.loads((folder / "patients.json").read_text())
    rows["patients"][0]["series"]["FLAIR"]["probability"] = 2.0
    write_json(rows, folder / "patients.json")
    explain_run(folder, classifiers, ["1"], ["FLAIR"])
    assert "but 2.000 in the prediction" in caplog.text


def test_what_explaining_needs(prediction, tmp_path_factory):
    folder, classifiers = prediction
    with pytest.raises(ValueError, match="no patient 8, 9 in this run"):
        explain_run(folder, classifiers, patients=["9", "1", "8"])
    with pytest.raises(ValueError, match="no classifier weights for T1w"):
        explain_run(folder, classifiers, mri_types=["FLAIR", "T1w"])
    with pytest.raises(ValueError, match="no classifier weights for any modality"):
        explain_run(folder, {})
    with pytest.raises(weights.WeightsError, match="no such weights file"):
        explain_run(folder, {"FLAIR": str(folder / "none.pt")})
    assert not (folder / "explanations").exists()
    with pytest.raises(FileNotFoundError, match="name the folder of a finished prediction"):
        explain_run(tmp_path_factory.mktemp("empty"), classifiers)
    index = json.loads((folder / "prepared" / "index.json").read_text())
    write_json({**index, "configuration": {}}, folder / "prepared" / "index.json")
    with pytest.raises(PreparedError, match="tells no zoom"):
        explain_run(folder, classifiers)


def test_prepared_series_may_lie_elsewhere(prediction, tmp_path_factory):
    folder, classifiers = prediction
    place = tmp_path_factory.mktemp("elsewhere") / "series"
    (folder / "prepared").rename(place)
    (folder / "resolved_config.yaml").write_text(f"job: inference\nprepared_dir: {place}\n")
    rows = explain_run(folder, classifiers, ["1"], ["FLAIR"])
    assert (folder / "explanations" / rows["1/FLAIR"]["file"]).is_file()
    (folder / "resolved_config.yaml").write_text("prepared_dir: $str(@output_dir) + '/prepared'\n")
    with pytest.raises(PreparedError, match="no such index"):
        explain_run(folder, classifiers, ["1"], ["FLAIR"])


def test_an_evaluation_is_explained_with_its_own_zoom(prediction):
    folder, classifiers = prediction
    content = json.loads((folder / "patients.json").read_text())
    write_json({**content, "weights": classifiers}, folder / "patients.json")
    (folder / "resolved_config.yaml").write_text("job: evaluate_classification\nzoom: 1.0\n")
    rows = explain_run(folder, patients=["1"], mri_types=["T2w"])
    assert list(rows) == ["1/T2w"]
    explanation = Explanation.load(folder / "explanations" / "1_T2w.json")
    assert explanation.made_with["zoom"] == 1.0  # not that of the preparation
    assert explanation.made_with["weights"] == weights.sha256(classifiers["T2w"])


@pytest.fixture
def folds(tmp_path):
    """A cross-validation: patient k was held out in fold k of both seeds."""
    index = {}
    for patient in "12":
        file, info = save_series(tmp_path / "prepared" / "classification", patient)
        index[f"{patient}/FLAIR"] = {"file": f"{patient}/FLAIR.h5", **info}
        for seed in (7, 8):
            run = tmp_path / "classification" / f"seed{seed}" / f"fold{patient}"
            (run / "FLAIR").mkdir(parents=True)
            model = save_classifier(run / "FLAIR" / "model_FLAIR.pt", seed=10 * seed + int(patient))
            chance = explain_series(file, model, zoom=1.3).probability if seed == 7 else 0.99
            facts = {"probability": chance, "kept": 5, "sequences": [chance]}
            row = {"patient": patient, "probability": chance, "used": ["FLAIR"], "series": {"FLAIR": facts}}
            write_json({"weights": {"FLAIR": model}, "patients": [row]}, run / "evaluation" / "patients.json")
            (run / "evaluation" / "predictions.csv").write_text(f"patient\n{patient}\n")
    write_json(
        {"configuration": {"zoom": 1.3}, "series": index}, tmp_path / "prepared" / "classification" / "index.json"
    )
    return tmp_path


def test_a_cross_validation_is_explained_with_models_that_did_not_see_the_patient(folds, caplog):
    rows = explain_run(folds)
    assert list(rows) == ["1/FLAIR", "2/FLAIR"]
    for patient in "12":
        explanation = Explanation.load(folds / "explanations" / f"{patient}_FLAIR.json")
        model = folds / "classification" / "seed7" / f"fold{patient}" / "FLAIR" / "model_FLAIR.pt"
        assert explanation.made_with["weights"] == weights.sha256(model)
        assert rows[f"{patient}/FLAIR"]["predicted"] == pytest.approx(explanation.probability, abs=1e-6)
    assert "in the prediction" not in caplog.text  # compared with that model, not with the mean over seeds
    assert list(explain_run(folds, patients=["2"])) == ["2/FLAIR"]
    assert list(explain_run(folds, limit=1)) == ["1/FLAIR"]


def test_an_earlier_cross_validation_is_told_to_be_evaluated_again(folds):
    for file in folds.glob("classification/seed8/fold*/evaluation/patients.json"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"evaluate it again"):
        explain_run(folds)
