import itertools

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from custom_transforms import ChunkSlices, SliceGeometry
from scripts.inferers import (
    SCALINGS,
    AutocastInferer,
    NonFiniteError,
    SequenceClassifier,
    SliceSegmenter,
    autocast,
    is_finite,
    normalise,
    prepare_series_batch,
)
from scripts.networks import BiLSTMNFNet

MEAN, STD = np.array([0.485, 0.456, 0.406]) * 255, np.array([0.229, 0.224, 0.225]) * 255


# Normalisation and precision


def test_normalise_is_that_of_imagenet():
    images = torch.arange(2 * 3 * 4, dtype=torch.uint8).reshape(2, 3, 2, 2) * 10
    expected = (images.numpy().transpose(0, 2, 3, 1) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = normalise(images)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("amp", [True, False])
def test_autocast_inferer(amp):
    seen = {}

    class Network(nn.Module):
        def forward(self, x):
            y = x @ x
            seen["dtype"] = y.dtype
            return y

    out = AutocastInferer(amp)(torch.eye(2), Network())
    assert seen["dtype"] == (torch.bfloat16 if amp else torch.float32)
    assert out.dtype == torch.float32


def test_autocast_auto_follows_the_processor(monkeypatch):
    for fast in (True, False):
        monkeypatch.setattr("scripts.inferers.has_fast_bf16", lambda device, fast=fast: fast)
        with autocast("cpu", "auto"):
            assert torch.is_autocast_enabled("cpu") is fast


# Segmentation


class Threshold(nn.Module):
    """A segmenter that is known by heart: WT where red is above 0, ET where blue is above 0.8."""

    def forward(self, images):
        return torch.stack([images[:, 0] - 0.0, images[:, 2] - 0.8], dim=1) * 5


def smooth_slices(n, height, width, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            cv2.resize(rng.uniform(0, 255, (5, 6)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
            for _ in range(n)
        ]
    ).clip(0, 255)


def published_masks(slices, size, zoom):
    """The published loop, slice by slice with OpenCV; NaN where interpolation leaves the mask undecided."""
    whole = int(size * zoom)
    before = (whole - size) // 2
    result = []
    for one in slices:
        image = cv2.resize(one.astype(np.float32), (whole, whole), interpolation=cv2.INTER_LINEAR)
        image = image[before : before + size, before : before + size]
        colour = (np.repeat(image[:, :, None], 3, axis=2) - MEAN) / STD
        with torch.inference_mode():
            logits = Threshold()(torch.from_numpy(colour.transpose(2, 0, 1)[None]).float())[0]
        masks = []
        for probability in torch.sigmoid(logits).numpy():
            padded = np.zeros((whole, whole), np.float32)
            padded[before : before + size, before : before + size] = probability > 0.5
            back = cv2.resize(padded, one.shape[::-1], interpolation=cv2.INTER_LINEAR)
            masks.append(np.where(np.abs(back - 0.5) < 1e-3, np.nan, back > 0.5))
        result.append(masks)
    return np.array(result)


@pytest.mark.parametrize("shape", [(64, 64), (40, 40), (31, 57), (90, 50)])
@pytest.mark.parametrize(("size", "zoom"), [(32, 1.2), (32, 1.0), (33, 1.5)])
def test_segmenter_against_the_published_loop(shape, size, zoom):
    slices = smooth_slices(3, *shape)
    expected = published_masks(slices, size, zoom)
    found = SliceSegmenter(size, zoom, amp=False)(torch.from_numpy(slices), Threshold())
    assert found.shape == (3, 2, *shape)
    assert found.dtype == torch.uint8
    decided = ~np.isnan(expected)
    wrong = (found.numpy() != expected) & decided
    assert wrong.mean() < 2e-3  # pixels whose grey value sits on the threshold
    for region in range(2):
        assert 0.02 < np.nanmean(expected[:, region]) < 0.98


class Counting(Threshold):
    """How many slices the network is shown."""

    def __init__(self):
        super().__init__()
        self.shown = 0

    def forward(self, images):
        self.shown += len(images)
        return super().forward(images)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), max_size=30), st.sampled_from([1.0, 2.0, 3.9]), st.sampled_from([0, 1, 4, 9.5]))
def test_coarse_steps_pass_over_slices_between_two_without_tumour(tumour, distance, coarse_step):
    slices = torch.zeros(len(tumour), 24, 24)
    slices[torch.tensor(tumour, dtype=torch.bool), 8:16, 8:16] = 255
    network, every = Counting(), Counting()
    geometry = SliceGeometry(np.diag([1.0, 1.0, distance, 1.0]), (24, 24, max(len(tumour), 1)), "axial")
    found = SliceSegmenter(24, 1.2, 4, False, coarse_step)(slices, network, geometry=geometry)
    expected = SliceSegmenter(24, 1.2, 4, False)(slices, every)
    step = max(int(coarse_step / distance), 1)
    coarse = [index for index in range(len(tumour)) if index % step == 0 or index == len(tumour) - 1]
    seen = set(coarse)
    for first, last in itertools.pairwise(coarse):
        if tumour[first] or tumour[last]:
            seen |= set(range(first, last))
    assert network.shown == len(seen)
    assert every.shown == len(tumour)
    for index in range(len(tumour)):
        assert torch.equal(found[index], expected[index] if index in seen else torch.zeros_like(expected[index]))


def test_coarse_steps_need_to_know_the_distance_of_slices():
    network = Counting()
    SliceSegmenter(24, coarse_step=4, amp=False)(torch.zeros(9, 24, 24), network)
    assert network.shown == 9
    with pytest.raises(ValueError, match="coarse_step is -1"):
        SliceSegmenter(coarse_step=-1)


def test_segmenter_leaves_the_margin_out():
    slices = torch.full((1, 60, 60), 255.0)
    ((wt, _),) = SliceSegmenter(32, 1.2, amp=False)(slices, Threshold())
    rows, columns = np.flatnonzero(wt.any(1)), np.flatnonzero(wt.any(0))
    for found in (rows, columns):
        assert found[0] == 59 - found[-1]  # in the middle
        assert abs(len(found) - 60 * 32 / int(32 * 1.2)) <= 1
    ((whole, _),) = SliceSegmenter(32, 1.0, amp=False)(slices, Threshold())
    assert whole.all()


def test_segmenter_without_slices():
    found = SliceSegmenter(32)(torch.zeros((0, 20, 30), dtype=torch.uint8), Threshold())
    assert found.shape == (0, 2, 20, 30)
    assert found.dtype == torch.uint8


def test_segmenter_takes_more_dimensions():
    slices = torch.from_numpy(smooth_slices(6, 20, 30))
    segmenter = SliceSegmenter(32, amp=False)
    flat = segmenter(slices, Threshold())
    assert torch.equal(segmenter(slices.reshape(2, 3, 20, 30), Threshold()), flat.reshape(2, 3, 2, 20, 30))


def test_segmenter_does_not_depend_on_the_batch():
    slices = torch.from_numpy(smooth_slices(7, 25, 40)).to(torch.uint8)
    found = [SliceSegmenter(32, batch_size=batch, amp=False)(slices, Threshold()) for batch in (1, 3, 7, 100)]
    assert all(torch.equal(one, found[0]) for one in found)
    assert found[0].any()


def test_zoom_below_one_is_refused():
    with pytest.raises(ValueError, match=r"zoom is 0\.9, expected 1 or more"):
        SliceSegmenter(zoom=0.9)


# Classification


@pytest.fixture(scope="module")
def networks():
    made = {}
    for seed, (length, mri_type) in enumerate([(35, "long"), (4, "FLAIR"), (4, "T1w")]):
        torch.manual_seed(seed)
        made[mri_type] = BiLSTMNFNet("test_efficientnet", sequence_length=length, hidden_size=4).eval()
        nn.init.normal_(made[mri_type].clf_head.weight)
    return made


def colour_slices(n, height=40, width=40, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, height, width), dtype=np.uint8))


def published_logits(slices, network, length, stride, size, zoom):
    """Every zero-padded sequence through the whole network, one after another."""
    n = len(slices)
    side = int(size * zoom)
    before = (side - size) / 2
    # OpenCV: magnify by zoom, then cut the centre out; the grid of both steps together
    matrix = np.array([[side / slices.shape[3], 0, 0], [0, side / slices.shape[2], 0]])
    matrix[:, 2] = [0.5 * matrix[0, 0] - 0.5 - before, 0.5 * matrix[1, 1] - 0.5 - before]
    resized = [
        cv2.warpAffine(one.numpy().transpose(1, 2, 0).astype(np.float32), matrix, (size, size), flags=cv2.INTER_LINEAR)
        for one in slices
    ]
    count = max(int(np.ceil((n - length) / stride)) + 1, 1)
    logits = []
    for chunk in range(count):
        part = resized[chunk * stride : chunk * stride + length]
        part = part + [np.zeros((size, size, 3), np.float32)] * (length - len(part))
        images = (np.stack(part) - MEAN) / STD
        with torch.inference_mode():
            logits.append(float(network(torch.from_numpy(images.transpose(0, 3, 1, 2)[None]).float())))
    return logits


@pytest.mark.parametrize("n", [1, 34, 35, 36, 41, 80])
def test_classifier_against_the_published_way(networks, n):
    slices = colour_slices(n, 32, 32)
    found = SequenceClassifier(ChunkSlices(35, 5), 32, zoom=1.0, batch_size=16, amp=False)(slices, networks["long"])
    expected = published_logits(slices, networks["long"], 35, 5, 32, 1.0)
    assert found.shape == (len(expected), 1)
    np.testing.assert_allclose(found[:, 0].detach().numpy(), expected, atol=1e-5)
    assert len(expected) == 1 or np.ptp(expected) > 1e-4


@pytest.mark.parametrize("stride", [1, 3, 4])
@pytest.mark.parametrize("n", [1, 3, 4, 5, 9])
def test_short_sequences(networks, n, stride):
    slices = colour_slices(n, 32, 32, seed=n)
    classify = SequenceClassifier(ChunkSlices(4, stride), 32, zoom=1.0, amp=False)
    found = classify(slices, networks["FLAIR"])[:, 0].detach().numpy()
    np.testing.assert_allclose(found, published_logits(slices, networks["FLAIR"], 4, stride, 32, 1.0), atol=1e-5)


def test_classifier_magnifies_about_the_centre():
    """A cross in the middle stays there and grows; what stands at the rim is cut off."""
    image = torch.zeros(1, 3, 81, 61)
    image[..., 40, 30] = 255
    image[..., 0, :] = image[..., :, 0] = 255
    for zoom in (1.0, 1.2, 2.0):
        found = SequenceClassifier(ChunkSlices(4, 1), 41, zoom=zoom).resize(image)[0, 0].numpy()
        assert found.shape == (41, 41)
        inside = found[4:-4, 4:-4]
        assert np.unravel_index(inside.argmax(), inside.shape) == (16, 16)
        assert (found[0].max() > 50) == (zoom == 1.0)


@pytest.mark.parametrize("zoom", [1.0, 1.25, 1.5])
@pytest.mark.parametrize("shape", [(40, 40), (64, 48)])
def test_magnification_against_opencv(shape, zoom):
    size = 32
    image = smooth_slices(1, *shape)[0]
    side = size * zoom
    matrix = np.array([[side / shape[1], 0, 0], [0, side / shape[0], 0]])
    matrix[:, 2] = 0.5 * np.diag(matrix[:, :2]) - 0.5 - (side - size) / 2
    expected = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    tensor = torch.from_numpy(image)[None, None].repeat(1, 3, 1, 1)
    found = SequenceClassifier(ChunkSlices(4, 1), size, zoom=zoom).resize(tensor)[0]
    assert torch.equal(found[0], found[2])
    # OpenCV rounds positions to 1/32 of a pixel
    assert np.abs(found[0].numpy() - expected)[1:-1, 1:-1].max() < np.abs(np.gradient(image)).max() / 16


def test_every_slice_is_encoded_once(networks, monkeypatch):
    network = networks["FLAIR"]
    rows = []
    encode = type(network).encode

    def counted(self, images):
        rows.append(images)
        return encode(self, images)

    monkeypatch.setattr(type(network), "encode", counted)
    slices = colour_slices(9)
    classify = SequenceClassifier(ChunkSlices(4, 1), 32, batch_size=4, amp=False)
    assert classify(slices, network).shape == (6, 1)
    seen = torch.cat(rows)
    black = normalise(torch.zeros(1, 3, 32, 32))
    of_slices = [image for image in seen if not torch.equal(image[None], black)]
    assert len(of_slices) == 9
    assert len(seen) <= 10
    assert len({image.numpy().tobytes() for image in of_slices}) == 9


def test_classifier_does_not_depend_on_the_batch(networks):
    slices = colour_slices(9)
    found = [
        SequenceClassifier(ChunkSlices(4, 2), 32, batch_size=batch, amp=False)(slices, networks["FLAIR"]).detach()
        for batch in (1, 4, 100)
    ]
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], atol=1e-5, rtol=0)


def test_one_network_for_each_modality(networks):
    slices = colour_slices(5)
    classify = SequenceClassifier(ChunkSlices(4, 2), 32, amp=False)
    both = nn.ModuleDict({name: networks[name] for name in ("FLAIR", "T1w")})
    for name in ("FLAIR", "T1w"):
        torch.testing.assert_close(classify(slices, both, mri_type=name), classify(slices, networks[name]))
    assert not torch.allclose(classify(slices, both, mri_type="FLAIR"), classify(slices, both, mri_type="T1w"))


def test_members_and_mirrored_views_stand_side_by_side(networks):
    first, second = networks["FLAIR"], networks["T1w"]
    slices, chunks = colour_slices(9), ChunkSlices(first.sequence_length, 3)
    settings = {"image_size": 32, "zoom": 1.0, "amp": False}
    with torch.no_grad():
        alone = SequenceClassifier(chunks, **settings)
        together = SequenceClassifier(chunks, **settings, flips=True)(slices, torch.nn.ModuleList([first, second]))
        assert together.shape[1] == 8
        torch.testing.assert_close(together[:, :1], alone(slices, first))
        torch.testing.assert_close(together[:, 5:6], alone(slices.flip(-1), second))
        torch.testing.assert_close(together[:, 7:], alone(slices.flip(-1).flip(-2), second))


def test_classifier_without_slices(networks):
    found = SequenceClassifier(ChunkSlices(4, 2), 32)(torch.zeros(0, 3, 20, 30, dtype=torch.uint8), networks["FLAIR"])
    assert found.shape == (0, 1)


def test_batch_of_a_series():
    batch = {"image": torch.zeros(2, 3, 4, 4), "mri_type": "T1w", "label": 1}
    image, label, args, kwargs = prepare_series_batch(batch, "cpu")
    assert image.shape == (2, 3, 4, 4)
    assert label.tolist() == [[1.0]]
    assert args == ()
    assert kwargs == {"mri_type": "T1w"}
    assert prepare_series_batch({"image": batch["image"], "mri_type": "T1w"}, "cpu")[1] is None


def test_a_series_with_a_geometry_gives_the_distance_of_its_slices():
    geometry = SliceGeometry(np.diag([1.0, 1.0, 3.5, 1.0]), (4, 4, 2), "axial")
    batch = {"image": torch.zeros(2, 4, 4), "geometry": geometry}
    assert prepare_series_batch(batch, "cpu")[3] == {"geometry": geometry}
    assert prepare_series_batch({**batch, "geometry": None}, "cpu")[3] == {}


def test_the_window_is_that_of_the_whole_series():
    slices = torch.full((3, 32, 32), 20, dtype=torch.uint8)
    slices[0, 8:24, 8:24], slices[1, 8:24, 8:24] = 70, 120
    as_it_is, stretched = (SliceSegmenter(32, 1.0, amp=False, scaling=name)(slices, Threshold()) for name in SCALINGS)
    by_hand = (slices.float() - 20) * 2.55
    np.testing.assert_array_equal(stretched, SliceSegmenter(32, 1.0, amp=False)(by_hand, Threshold()))
    assert stretched.sum() > as_it_is.sum()
    with pytest.raises(ValueError, match="scaling is 'max', expected one of minmax, window"):
        SliceSegmenter(scaling="max")


@pytest.mark.parametrize("spacing", [1.0, 0.5, 1.9])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_field_of_view_is_the_same_for_all_pixel_sizes(spacing, plane):
    """A square of 40 mm, off the picture's middle, fills a fifth of the network's picture at any spacing."""
    geometry = SliceGeometry(np.diag([spacing] * 3 + [1]), tuple([int(240 / spacing)] * 3), plane)
    side, low, high = geometry.stack_shape[1], round(50 / spacing), round(90 / spacing)
    slices = torch.zeros((2, side, side))
    slices[:, low:high, low:high] = 255
    shown = []

    class Watching(Threshold):
        def forward(self, images):
            shown.append(images)
            return super().forward(images)

    found = SliceSegmenter(64, amp=False, field_of_view=200, planes="acquired")(slices, Watching(), geometry=geometry)
    white = (shown[0][0, 0] > 0).any(0).sum()
    assert abs(int(white) - 64 / 5) <= 1
    middle = torch.nonzero(shown[0][0, 0] > 0).float().mean(0)
    assert abs(float(middle.mean()) - 31.5) < 0.6
    edge = round(6 / spacing)  # two of the network's pixels
    assert found[0, 0, low + edge : high - edge, low + edge : high - edge].all()
    assert not found[0, 0, : low - edge].any()
    assert not found[0, 0, :, high + edge :].any()


def test_views_that_there_are_not():
    with pytest.raises(ValueError, match="field_of_view is 0, expected a length in mm"):
        SliceSegmenter(field_of_view=0)
    with pytest.raises(ValueError, match="planes is 'all', expected one of auto, acquired, three"):
        SliceSegmenter(planes="all")


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_series_is_segmented_along_three_planes(plane):
    geometry = SliceGeometry(np.diag([-4.0, 4, 5, 1]), (48, 52, 40), plane)
    slices = torch.zeros(geometry.stack_shape)
    slices[5:-5, 5:-5, 5:-5] = 60
    slices[10:14, 20:26, 8:20] = 255
    network, alone = Counting(), Counting()
    options = {"image_size": 64, "amp": False, "field_of_view": 250, "planes": "three"}
    found = SliceSegmenter(**options)(slices, network, geometry=geometry)
    SliceSegmenter(**{**options, "planes": "acquired"})(slices, alone, geometry=geometry)
    assert found.shape == (len(slices), 2, *slices.shape[1:])
    assert alone.shown == len(slices)
    axial = slices.shape[{"axial": 0, "coronal": 1, "sagittal": 1}[plane]] - 10  # slices without a head are passed over
    crossing = network.shown - axial
    assert 0 < crossing < sum(slices.shape) - 30 - axial, "of the other planes those that cross what may be tumour"
    nothing = Counting()
    SliceSegmenter(**options)(slices.clamp(max=60), nothing, geometry=geometry)
    assert nothing.shown == sum(slices.shape) - 30
    right = slices > 128
    both = (found[:, 0].bool() & right).sum()
    assert 2 * both / (found[:, 0].sum() + right.sum()) > 0.85
    thin = SliceGeometry(np.diag([1.0, 1, 2, 1]), (48, 52, 40), "axial")
    by_itself = SliceSegmenter(field_of_view=200)
    assert by_itself.crosses(thin)
    assert not by_itself.crosses(geometry)
    assert not SliceSegmenter(**options, coarse_step=4).crosses(geometry)
    assert not SliceSegmenter(planes="three").crosses(geometry)
    assert not SliceSegmenter().crosses(geometry)


@pytest.mark.parametrize("signs", list(itertools.product([1, -1], repeat=3)))
def test_slices_that_speak_for_their_neighbours_do_so_at_their_place(signs):
    """Voxels of 1 mm: of the other planes every second slice is looked at, and all voxels of a thick tumour are found where they are."""
    volume = torch.zeros((70, 80, 75))
    volume[5:65, 5:75, 5:70] = 60
    volume[12:24, 40:61, 20:35] = 255
    network = Counting()
    segmenter = SliceSegmenter(64, amp=False, field_of_view=64)
    found = segmenter.of_volume(volume, np.diag([*signs, 1.0]), network)[0] >= 0.5
    true = volume > 128
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.85
    centre = [
        float(torch.nonzero(one).float().mean(0).sub(torch.tensor([17.5, 50, 27])).abs().max()) for one in (found, true)
    ]
    assert max(centre) < 0.6
    assert network.shown < 65 + 42
    alike = segmenter.of_volume(volume, np.diag([*signs, 1.0]), lambda images: images[:, :2] * 0 + 4)
    np.testing.assert_allclose(alike[:, 15:55, 20:60, 15:55], torch.tensor(4.0).sigmoid(), rtol=1e-6)


def test_the_acquired_plane_comes_first():
    """All of its slices are looked at, and those of the others that cross what is found in it."""
    volume = torch.zeros((40, 60, 60))
    volume[4:36, 4:56, 4:56] = 60
    volume[10:20, 20:40, 20:40] = 255
    network = Counting()
    SliceSegmenter(64, amp=False, field_of_view=200).of_volume(volume, np.diag([5.0, 3, 3, 1]), network)
    assert network.shown == 32 + 2 * (20 + 2 * 3)  # 10 mm beyond


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_answer_that_is_not_finite_is_no_mask(value):
    segmenter = SliceSegmenter(image_size=32, zoom=1.0, amp=False, batch_size=2)
    slices = torch.from_numpy(smooth_slices(3, 32, 32))

    def network(images):
        logits = images[:, :2] * 0
        logits[-1, 1, 3, 4] = value
        return logits

    with pytest.raises(NonFiniteError, match="the segmenter answered with NaN or infinity, expected finite numbers"):
        segmenter(slices, network)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16, torch.int64])
def test_great_numbers_are_finite_and_their_sum_need_not_be(dtype):
    greatest = torch.finfo(dtype).max if dtype.is_floating_point else 2**62
    values = torch.full((5,), greatest, dtype=dtype)
    assert is_finite(values)
    assert is_finite(values[:0])
    if dtype.is_floating_point:
        for value in (float("nan"), float("inf"), float("-inf")):
            values[3] = value
            assert not is_finite(values)
