"""One mask a patient: planes and modalities put together."""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Orientation
from torch import nn

from scripts.files import read_csv
from scripts.fusion import FuseSeries, VolumeSegmenter, series_items
from scripts.inferers import SliceSegmenter, normalise
from scripts.synthetic.brains import rotation
from scripts.synthetic.phantom import make_patient

WEIGHTS = {"WT": {"FLAIR": 1.0, "T2w": 1.0, "T1w": 0.5, "T1wCE": 0.5}, "ET": {"T1wCE": 1.0}}


class Brightness(nn.Module):
    """WT where a pixel is brighter than 100, ET where brighter than 200, as certain as can be."""

    def forward(self, images):
        levels = torch.tensor([100.0, 200.0])
        grey = normalise(levels[:, None, None, None].expand(2, 3, 1, 1))[:, 0]
        return (images[:, :1] - grey[None]) * 1000


def volume(shape=(20, 24, 16), seed=0):
    rng = np.random.default_rng(seed)
    data = np.zeros(shape, np.float32)
    low, high = [side // 4 for side in shape], [3 * side // 4 for side in shape]
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    data[box] = 60
    for level in (150, 250):
        start = [int(rng.integers(a, b - 2)) for a, b in zip(low, high, strict=True)]
        data[tuple(slice(a, a + 2) for a in start)] = level
    return torch.from_numpy(data)[None]


def segmenter(**options):
    return SliceSegmenter(image_size=32, zoom=1.0, amp=False, **options)


@pytest.mark.parametrize("planes", [("axial",), ("sagittal",), ("coronal",), ("axial", "coronal", "sagittal")])
def test_every_plane_finds_its_voxels_where_they_are(planes):
    image = volume((32, 32, 32))
    found = VolumeSegmenter(segmenter(), planes, min_foreground=0)(image, Brightness())
    np.testing.assert_array_equal(found[0].numpy() > 0.5, image[0].numpy() > 100)
    np.testing.assert_array_equal(found[1].numpy() > 0.5, image[0].numpy() > 200)


def test_planes_are_averaged_over_the_slices_that_have_a_say():
    image = torch.zeros((1, 32, 32, 32))
    image[:, 8:24, 8:24, 8:12] = 150  # a flat slab: 25 % of four axial slices, 6 % of those across
    both = VolumeSegmenter(segmenter(), ("axial", "coronal"), min_foreground=0.1)(image, Brightness())
    axial = VolumeSegmenter(segmenter(), ("axial",), min_foreground=0.1)(image, Brightness())
    np.testing.assert_array_equal(both.numpy(), axial.numpy())
    none = VolumeSegmenter(segmenter(), ("axial", "coronal"), min_foreground=0.5)(image, Brightness())
    assert not none.any()


def test_a_series_is_scaled_once_for_all_planes():
    image = torch.zeros((1, 32, 32, 32), dtype=torch.uint8)
    image[:, 10:22, 10:22, 10:22] = 30
    image[:, 11:14, 11:14, 11:14] = 75
    image[:, 18:21, 18:21, 18:21] = 125  # the series' white; slices without it are not scaled to their own
    dark = VolumeSegmenter(segmenter(), min_foreground=0)(image, Brightness())
    scaled = VolumeSegmenter(segmenter(scaling="window"), min_foreground=0)(image, Brightness())
    assert dark[1].sum() == 0
    np.testing.assert_array_equal(scaled[0].numpy() > 0.5, image[0].numpy() > 50)
    np.testing.assert_array_equal(scaled[1].numpy() > 0.5, image[0].numpy() > 100)


def series(mri_type, probabilities, affine, patient="00001", codes="RAS"):
    """What the engine hands over: a volume that was read, turned to RAS, and its probabilities there."""
    read = MetaTensor(torch.zeros((1, *probabilities.shape[1:])), affine=affine)
    read.meta |= {"original_affine": np.asarray(affine), "spatial_shape": np.array(probabilities.shape[1:])}
    image = Orientation(codes, labels=None)(read)
    turned = Orientation(codes, labels=None)(MetaTensor(probabilities, affine=affine))
    return {"patient": patient, "mri_type": mri_type, "image": image, "error": ""}, turned.as_tensor()


def fused(tmp_path, given_series, weights=WEIGHTS, **options):
    fuse = FuseSeries(tmp_path, weights, **options)
    files = []
    for item, _ in given_series:
        file = tmp_path / f"{item['patient']}_{item['mri_type']}.src"
        file.write_text("x")
        files.append({"patient": item["patient"], "mri_type": item["mri_type"], "image": str(file)})
    for item in fuse.pending(files):
        index = files.index(item)
        fuse.add(*given_series[index])
    return fuse


AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def test_the_mask_lies_on_the_grid_of_the_reference_as_it_was_read(tmp_path):
    rng = np.random.default_rng(1)
    probabilities = torch.from_numpy(rng.random((2, 6, 7, 5), dtype=np.float32))
    fuse = fused(tmp_path, [series("FLAIR", probabilities, AFFINE)], weights={"WT": {"FLAIR": 1}, "ET": {"FLAIR": 1}})
    fuse.write()
    image = nib.load(tmp_path / "masks" / "00001.nii.gz")
    np.testing.assert_allclose(image.affine, AFFINE)
    whole, enhancing = probabilities.numpy() >= 0.5
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.where(enhancing, 2, whole))  # what is ET is WT
    (row,) = read_csv(tmp_path / "volumes.csv")
    assert float(row["whole_tumour_ml"]) == pytest.approx((whole | enhancing).sum() * 2 / 1000, abs=1e-3)
    assert float(row["enhancing_ml"]) == pytest.approx(enhancing.sum() * 2 / 1000, abs=1e-3)
    assert (row["patient"], row["mri_type"], row["file"], row["reason"]) == ("00001", "FLAIR", "masks/00001.nii.gz", "")


def test_modalities_count_by_their_weights_and_only_where_they_lie(tmp_path):
    def constant(whole, enhancing, shape=(8, 8, 8)):
        return torch.tensor([whole, enhancing])[:, None, None, None].expand(2, *shape).clone()

    moved = AFFINE.copy()
    moved[0, 3] = -4  # the second series covers the second half of the first along x
    parts = [
        series("FLAIR", constant(0.6, 0.0), AFFINE),
        series("T1wCE", constant(0.1, 0.4), moved),
    ]
    fused(tmp_path, parts, weights={"WT": {"FLAIR": 1, "T1wCE": 1}, "ET": {"T1wCE": 1}})
    assert "enhancing_ml" in json.loads((tmp_path / "done" / "00001.json").read_text())["row"]
    labels = np.asarray(nib.load(tmp_path / "masks" / "00001.nii.gz").dataobj)
    assert set(np.unique(labels[:3])) == {1}  # FLAIR alone
    assert set(np.unique(labels[5:])) == {0}  # (0.6 + 0.1) / 2
    heavier = tmp_path / "heavier"
    heavier.mkdir()
    fused(heavier, parts, weights={"WT": {"FLAIR": 9, "T1wCE": 1}, "ET": {"T1wCE": 1}})
    labels = np.asarray(nib.load(heavier / "masks" / "00001.nii.gz").dataobj)
    assert set(np.unique(labels[5:])) == {1}  # 0.55
    enhancing = tmp_path / "enhancing"
    enhancing.mkdir()
    fused(
        enhancing,
        [parts[0], series("T1wCE", constant(0.1, 0.9), moved)],
        weights={"WT": {"FLAIR": 1, "T1wCE": 1}, "ET": {"T1wCE": 1}},
    )
    labels = np.asarray(nib.load(enhancing / "masks" / "00001.nii.gz").dataobj)
    assert set(np.unique(labels[5:])) == {2}  # enhancing as T1wCE alone says, and what is ET is WT


@settings(max_examples=15, deadline=None)
@given(st.permutations([0, 1, 2]), st.tuples(*[st.sampled_from([1, -1])] * 3))
def test_any_orientation_of_a_further_series_ends_on_the_reference(tmp_path_factory, order, signs):
    folder = tmp_path_factory.mktemp("fused")
    rng = np.random.default_rng(3)
    blob = np.zeros((2, 8, 8, 8), np.float32)
    start = rng.integers(1, 5, 3)
    blob[(slice(None), *(slice(a, a + 3) for a in start))] = 1
    affine = np.zeros((4, 4))
    shown = blob.transpose(0, *(axis + 1 for axis in order))
    for voxel, world in enumerate(order):
        affine[world, voxel] = signs[voxel]
        if signs[voxel] < 0:
            shown = np.flip(shown, voxel + 1)
            affine[world, 3] = 7
    affine[3, 3] = 1
    parts = [
        series("FLAIR", torch.zeros((2, 8, 8, 8)), np.eye(4)),
        series("T1wCE", torch.from_numpy(shown.copy()), affine),
    ]
    fused(folder, parts, weights={"WT": {"T1wCE": 1}, "ET": {"T1wCE": 1}})
    labels = np.asarray(nib.load(folder / "masks" / "00001.nii.gz").dataobj)
    np.testing.assert_array_equal(labels, blob[0] * 2)


def test_an_unreadable_series_is_reported_and_the_next_is_the_reference(tmp_path, caplog):
    broken = {
        "patient": "00001",
        "mri_type": "FLAIR",
        "image": torch.zeros((0, 1, 1)),
        "error": "ValueError: half a file",
    }
    ones = torch.ones((2, 4, 4, 4))
    fuse = fused(tmp_path, [(broken, torch.zeros((2, 0, 0, 0))), series("T2w", ones, AFFINE)])
    assert "00001/FLAIR: ValueError: half a file" in caplog.text
    assert fuse.rows[0]["mri_type"] == "T2w"
    assert "enhancing_ml" not in fuse.rows[0]
    assert np.asarray(nib.load(tmp_path / "masks" / "00001.nii.gz").dataobj).min() == 1  # nothing marks ET


def test_a_patient_without_a_readable_series_has_a_row_with_the_reason(tmp_path):
    broken = {"patient": "00007", "mri_type": "FLAIR", "image": torch.zeros((0, 1, 1)), "error": "OSError: gone"}
    fused(tmp_path, [(broken, torch.zeros((2, 0, 0, 0)))]).write()
    (row,) = read_csv(tmp_path / "volumes.csv")
    assert (row["patient"], row["reason"], row["file"]) == ("00007", "FLAIR: OSError: gone", "")
    assert VolumeSegmenter(segmenter())(torch.zeros((0, 1, 1)), Brightness()).shape == (2, 0, 0, 0)


def test_finished_patients_are_passed_over_until_something_changes(tmp_path):
    ones = torch.ones((2, 4, 4, 4))
    fused(tmp_path, [series("FLAIR", ones, AFFINE)])
    item = {"patient": "00001", "mri_type": "FLAIR", "image": str(tmp_path / "00001_FLAIR.src")}
    again = FuseSeries(tmp_path, WEIGHTS)
    assert again.pending([item]) == []
    assert again.rows[0]["file"] == "masks/00001.nii.gz"
    assert FuseSeries(tmp_path, WEIGHTS, threshold=0.4).pending([item]) == [item]
    assert FuseSeries(tmp_path, WEIGHTS, configuration={"segmenter": "other"}).pending([item]) == [item]
    (tmp_path / "00001_FLAIR.src").write_text("another file")
    assert FuseSeries(tmp_path, WEIGHTS).pending([item]) == [item]
    (tmp_path / "00001_FLAIR.src").write_text("x")
    (tmp_path / "done" / "00001.json").write_text(json.dumps({"row": []}))
    assert FuseSeries(tmp_path, WEIGHTS).pending([item]) == [item]


def test_the_handler_takes_what_the_engine_has(tmp_path):
    item, probabilities = series("FLAIR", torch.ones((2, 4, 4, 4)), AFFINE)
    (tmp_path / "f").write_text("x")
    fuse = FuseSeries(tmp_path, WEIGHTS)
    fuse.pending([{"patient": "00001", "mri_type": "FLAIR", "image": str(tmp_path / "f")}])
    fuse(SimpleNamespace(state=SimpleNamespace(batch=item, output={"pred": probabilities})))
    assert (tmp_path / "masks" / "00001.nii.gz").is_file()


def test_items_begin_with_the_reference():
    entries = [
        {"patient": "a", "T1w": "1", "FLAIR": "2", "T2w": "3"},
        {"patient": "b", "T1w": "4", "T1wCE": "5"},
    ]
    assert [(item["patient"], item["mri_type"]) for item in series_items(entries)] == [
        ("a", "FLAIR"), ("a", "T2w"), ("a", "T1w"), ("b", "T1wCE"), ("b", "T1w"),
    ]  # fmt: skip
    assert [item["mri_type"] for item in series_items(entries, reference="T1w")][:1] == ["T1w"]
    assert [item["image"] for item in series_items(entries, ["T1w"])] == ["1", "4"]
    with pytest.raises(ValueError, match="PET"):
        series_items(entries, ["PET"])
    with pytest.raises(ValueError, match="none of 2 patients has a series of T2w"):
        series_items([{"patient": "a"}, {"patient": "b"}], ["T2w"])


@pytest.mark.parametrize(
    ("weights", "threshold", "expected"),
    [
        ({"WT": {}}, 0.5, "for WT and for ET"),
        ({"WT": {"FLAIR": -1}, "ET": {}}, 0.5, "at least 0"),
        (WEIGHTS, 1.0, "threshold"),
    ],
)
def test_bad_settings_are_reported(tmp_path, weights, threshold, expected):
    with pytest.raises(ValueError, match=expected):
        FuseSeries(tmp_path, weights, threshold)


@pytest.mark.slow
def test_series_between_which_the_patient_moved_are_aligned_where_asked(tmp_path):
    pytest.importorskip("SimpleITK")
    patient = make_patient(1, 1, spacing=2.0, shape=(100, 110, 90))
    planted = np.eye(4)
    planted[:3, :3] = rotation(np.array([0, 0, 5]))
    planted[:3, 3] = 8, 0, 0
    found, wanted = torch.from_numpy(np.stack([patient.seg > 0, patient.seg == 4]).astype(np.float32)), patient.seg > 0
    overlaps = {}
    for register in (False, True):
        parts = []
        for mri_type, affine in (("FLAIR", patient.affine), ("T2w", planted @ patient.affine)):
            item, probabilities = series(mri_type, found, affine)
            image = Orientation("RAS", labels=None)(MetaTensor(patient.volumes[mri_type][None], affine=affine))
            image.meta |= {key: item["image"].meta[key] for key in ("original_affine", "spatial_shape")}
            parts.append(({**item, "image": image}, probabilities))
        folder = tmp_path / str(register)
        folder.mkdir()
        fused(
            folder, parts, weights={"WT": {"FLAIR": 1, "T2w": 1}, "ET": {"FLAIR": 0}}, threshold=0.9, register=register
        )
        mask = np.asarray(nib.load(folder / "masks" / "00001.nii.gz").dataobj) > 0
        overlaps[register] = 2 * (mask & wanted).sum() / (mask.sum() + wanted.sum())
    assert overlaps[True] > overlaps[False] + 0.1
    matrix = np.loadtxt(tmp_path / "True" / "masks" / "00001_T2w_transform.txt")
    corners = np.array([[x, y, z, 1] for x in (-60, 60) for y in (-70, 70) for z in (-50, 50)]).T
    assert np.abs((matrix - planted) @ corners).max() < 2
