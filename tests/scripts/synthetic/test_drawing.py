import itertools
from dataclasses import replace
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Orientation
from torch.utils.data import RandomSampler

pytest.importorskip("nilearn", reason="synthetic brains need the extra [phantom]")

from custom_transforms import SlicePlanes
from scripts import cli
from scripts.datalists import MRI_TYPES
from scripts.synthetic.acquisition import LOOKS, RANDOM, acquire, draw_look, paint
from scripts.synthetic.brains import label_map_brains
from scripts.synthetic.drawing import DrawSlice, slice_items, write_contact_sheet
from scripts.synthetic.randomisation import Randomisation
from scripts.synthetic.tissues import TISSUES, Cut, cut_tissues

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).resolve().parents[3] / "bundle" / "configs" / "pretrain_segmentation.yaml"
SETTINGS = {key: value for key, value in yaml.safe_load(CONFIG.read_text())["ranges"].items() if key != "_target_"}
RANGES = Randomisation(**SETTINGS)
STILL = replace(
    RANGES, deformation=(0, 0), rotation=0, brain_scale=(1, 1), ventricle_scale=(1, 1), sulcus_width=(0, 0), midline_shift=0,
    push=(0, 0),
)  # fmt: skip
SIZE = 48


@pytest.fixture(scope="module")
def draw():
    return DrawSlice(RANGES, SIZE)


@pytest.fixture(scope="module")
def items(draw):
    return [draw(number) for number in range(160)]


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) if isinstance(first[key], torch.Tensor) else first[key] == second[key]
        for key in first
    )


# The form


def test_items_are_those_of_prepared_slices(items):
    item = items[0]
    assert {"image", "label", "field_of_view", "patient", "mri_type", "plane"} == set(item)
    for item in items:
        assert item["image"].shape == (1, SIZE, SIZE)
        assert item["label"].shape == (2, SIZE, SIZE)
        assert item["image"].dtype == item["label"].dtype == torch.uint8
        assert item["label"].max() <= 1
        assert item["field_of_view"].shape == (2,)
        assert 130 < item["field_of_view"].min() <= item["field_of_view"].max() < 350, "mm"


def test_all_modalities_and_planes_come(items):
    assert {item["mri_type"] for item in items} == {*MRI_TYPES, RANDOM}
    assert {item["plane"] for item in items} == set(RANGES.planes)


def test_brightness_is_of_all_of_8_bits(items):
    brightest = torch.stack([item["image"].max() for item in items])
    assert brightest.max() == 255
    assert brightest.min() < 140, "most slices lack the volume's brightest voxel"
    assert len(torch.cat([item["image"].unique() for item in items]).unique()) > 250


def test_size_can_be_any(draw):
    for size in (16, 65, 224):
        item = DrawSlice(RANGES, size)(3)
        assert item["image"].shape == (1, size, size)
        assert item["mri_type"] == draw(3)["mri_type"]


@pytest.mark.parametrize("settings", [{"image_size": 8}, {"slices_per_brain": 0}, {"brain_maps": []}])
def test_sizes_that_are_refused(settings):
    with pytest.raises(ValueError, match=r"expected at least 16 pixels and 1 slice|give at least one"):
        DrawSlice(RANGES, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"motion": 1.5}, r"motion is 1\.5, expected a share"),
        ({"blur": [2, 1]}, r"blur is \[2, 1\], expected \[least, most\]"),
        ({"noise": [-1, 1]}, "noise is"),
        ({"planes": ["oblique"]}, "planes is .* expected some of sagittal, coronal, axial"),
        ({"rotation": -3}, "rotation is -3, expected 0 or more"),
    ],
)
def test_ranges_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Randomisation(**{**SETTINGS, **settings})


# The seed


def test_a_slice_is_that_of_its_number_and_seed(draw, items):
    assert same(DrawSlice(RANGES, SIZE)(5), items[5])
    assert not same(DrawSlice(RANGES, SIZE, seed=68)(5), items[5])
    assert not torch.equal(items[6]["image"], items[5]["image"])


def test_stream_goes_on_for_ever(draw):
    assert same(draw(10**12), draw(10**12))
    assert not torch.equal(draw(10**12)["image"], draw(10**12 + 1)["image"])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(draw, workers):
    def batches(count):
        dataset = Dataset(range(2**31), draw)
        sampler = RandomSampler(dataset, replacement=True, num_samples=8, generator=torch.Generator().manual_seed(3))
        return list(DataLoader(dataset, batch_size=4, sampler=sampler, num_workers=count))

    for first, second in zip(batches(0), batches(workers), strict=True):
        assert same(first, second)


def test_slices_of_a_brain_show_the_same_brain():
    draw = DrawSlice(replace(RANGES, tumour_free_brains=0, anywhere=0), SIZE, slices_per_brain=3)
    items = [draw(item) for item in slice_items(6, 3)]
    assert [item["patient"] for item in items] == [item["patient"] for item in slice_items(6, 3)]
    assert len({item["patient"] for item in items}) == 2
    assert draw.brain(0).tumours[0].radius == draw.brain(0).tumours[0].radius != draw.brain(1).tumours[0].radius
    assert not any(torch.equal(a["image"], b["image"]) for a, b in itertools.combinations(items, 2))


# The tumour


def test_enhancing_tumour_is_part_of_the_tumour(items):
    assert all((item["label"][1] <= item["label"][0]).all() for item in items)
    share = np.mean([bool(item["label"][1].any()) for item in items])
    assert 0.3 < share < 0.75


def test_tumour_lies_in_the_head(items):
    for item in items:
        outside = item["image"][0] == 0
        tumour = item["label"][0] > 0
        assert (tumour & outside).sum() <= 0.2 * tumour.sum()


def test_some_slices_show_no_tumour(items):
    assert 0.15 < np.mean([not item["label"].any() for item in items]) < 0.4


def test_brains_without_tumours_have_empty_masks():
    draw = DrawSlice(replace(RANGES, tumour_free_brains=1), SIZE)
    for item in map(draw, range(20)):
        assert not item["label"].any()
        assert item["image"].any()


def test_label_is_the_same_in_every_modality(draw):
    labels = [draw({"slice": 11, "mri_type": mri_type})["label"] for mri_type in (*MRI_TYPES, RANDOM)]
    assert labels[0].any()
    assert all(torch.equal(labels[0], label) for label in labels)


def tissues_of(draw, number, plane="axial"):
    """Tissues of the slice through the first tumour's middle, 2 mm."""
    brain = draw.brain(number)
    place = np.linalg.solve(brain.matrix, brain.tumours[0].centre)
    line = np.arange(110, -110, -2.0)
    return cut_tissues(brain, Cut(plane, place[[2]], line, line), [draw.seed, number])


def test_contrasts_are_those_of_a_glioma(draw):
    """Bright fluid and tumour in T2, dark fluid and bright oedema in FLAIR, oedema darker than white matter in T1, a ring after contrast."""
    for mri_type in MRI_TYPES:
        look = dict(zip(TISSUES, LOOKS[mri_type], strict=True))
        rng = np.random.default_rng(0)
        image = paint(tissues := tissues_of(draw, 11), look | {"texture": 0}, rng)
        assert image.shape == tissues["WT"].shape == (110, 110)
        white = np.median(image[(tissues["white"] > 0.9) & (tissues["WT"] < 0.1)])
        assert white == pytest.approx(look["white"], rel=0.1)
        oedema = np.median(image[(tissues["oedema"] > 0.9) & (tissues["tumour"] < 0.1)])
        assert (oedema > white) == (mri_type in ("FLAIR", "T2w"))
        drawn = np.mean([list(draw_look(mri_type, rng).values())[: len(TISSUES)] for _ in range(200)], axis=0)
        np.testing.assert_allclose(drawn, LOOKS[mri_type], rtol=0.2)
    assert LOOKS["T2w"][TISSUES.index("csf")] > 1.5 * LOOKS["T2w"][TISSUES.index("oedema")]
    assert LOOKS["T1wCE"][TISSUES.index("vessel")] >= LOOKS["T1wCE"][TISSUES.index("enhancing")]


# Geometry


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_slices_are_turned_as_those_of_real_volumes(tmp_path, write_label_map, plane):
    """Beside SlicePlanes, which cuts what stage 1 trains on: a piece of white matter in front, above, and on one side."""

    def only_a_piece(labels):
        labels[labels == 2] = 3
        labels[14:20, 36:42, 28:34] = 2  # stored from right to left

    write_label_map(tmp_path, change=only_a_piece)
    image = nib.load(tmp_path / "brain.nii.gz")
    labels = np.asarray(image.dataobj)
    volume = MetaTensor(torch.from_numpy((labels == 2).astype(np.float32))[None], affine=image.affine)
    head = Orientation("RAS", labels=None)(
        MetaTensor(torch.from_numpy((labels > 0).astype(np.float32))[None], affine=image.affine)
    )
    volume = Orientation("RAS", labels=None)(volume)
    stack, heads = (SlicePlanes([plane], radiological=True)(one)[plane][:, 0].numpy() for one in (volume, head))
    number = int(stack.sum((1, 2)).argmax())
    expected = centre_of(stack[number]) - centre_of(heads.sum(0))
    middle = centre_of(stack.sum((1, 2))[:, None])[0] - centre_of(heads.sum((1, 2))[:, None])[0]

    draw = DrawSlice(STILL, SIZE, brain_maps=label_map_brains(tmp_path))
    brain = replace(draw.brain(0), tumours=(), fold_depth=0.1, lesions=(0, 0))
    line = np.arange(100, -100, -2.0)
    found = cut_tissues(brain, Cut(plane, np.array([3.0 * middle]), line, line), [67, 0])["white"]
    np.testing.assert_allclose(2 * (centre_of(found) - (len(line) - 1) / 2), 3 * expected, atol=4)


def centre_of(weights):
    return np.array([(weights * index).sum() / weights.sum() for index in np.indices(weights.shape)])


def test_thick_slices_are_the_mean_of_thin_ones(draw):
    brain, line = draw.brain(4), np.arange(90, -90, -3.0)
    depths = np.array([-4.0, 0.0, 4.0])
    thick = cut_tissues(brain, Cut("coronal", depths, line, line), [67, 4])
    thin = [cut_tissues(brain, Cut("coronal", depths[[k]], line, line), [67, 4]) for k in range(3)]
    for name in ("grey", "WT", "depth"):
        np.testing.assert_allclose(thick[name], np.mean([one[name] for one in thin], axis=0), atol=1e-4)


def test_faults_of_the_acquisition_leave_the_look(draw):
    image = np.zeros((64, 64), np.float32)
    image[16:48, 16:48] = 0.5
    clean = replace(RANGES, sharpening=0, motion=0, bias=(0, 0), noise=(0, 0), gamma=(1, 1))
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(acquire(image, (2, 2), (0, 0), clean, rng), image, atol=2e-3)
    blurred = acquire(image, (2, 2), (6, 0), clean, rng)
    assert abs(blurred[16, 32] - 0.25) < 0.08, "along the rows' order"
    assert abs(blurred[32, 16] - 0.5) < 0.01
    for fault in ({"motion": 1}, {"bias": (0.3, 0.3)}, {"noise": (0.05, 0.05)}, {"gamma": (2, 2)}):
        changed = acquire(image, (2, 2), (0, 0), replace(clean, **fault), rng)
        assert changed.shape == image.shape
        assert (changed >= 0).all()
        assert np.abs(changed - image).mean() > 0.005


# Label maps


def test_brains_of_label_maps(tmp_path, write_label_map):
    write_label_map(tmp_path)
    draw = DrawSlice(RANGES, SIZE, brain_maps=label_map_brains(tmp_path))
    items = [draw(number) for number in range(12)]
    assert any(item["label"].any() for item in items)
    assert all(item["image"].any() for item in items)
    assert same(items[2], DrawSlice(RANGES, SIZE, brain_maps=label_map_brains(tmp_path))(2))
    assert not same(items[2], DrawSlice(RANGES, SIZE)(2))


def test_label_maps_by_the_command(tmp_path, write_label_map):
    write_label_map(tmp_path)
    settings = {"image_size": 32, "ranges#tumour_free_brains": 0}
    pictures = [
        cli.phantom(preview=tmp_path / f"{number}.png", label_maps=folder, **settings).read_bytes()
        for number, folder in enumerate([None, str(tmp_path)])
    ]
    assert pictures[0] != pictures[1]
    with pytest.raises(ValueError, match="no such folder of brain segmentations"):
        cli.phantom(preview=tmp_path / "none.png", label_maps=str(tmp_path / "nowhere"), **settings)


# The picture


def test_contact_sheet(tmp_path):
    file = tmp_path / "sheets" / "sheet.png"
    settings = {"image_size": 64, "seed": 5}
    assert cli.phantom(preview=file, **settings) == file
    sheet = cv2.imread(str(file))
    assert sheet.shape == (24 + 6 * 64, 8 * 64, 3)
    assert {(0, 255, 255), (0, 0, 255)} <= {tuple(pixel) for pixel in sheet.reshape(-1, 3).tolist()}, "outlines"
    first = file.read_bytes()
    with pytest.raises(FileExistsError, match="name another file, or replace it"):
        cli.phantom(preview=file, **settings)
    cli.phantom(preview=file, overwrite=True, **settings)
    assert file.read_bytes() == first
    assert list(file.parent.iterdir()) == [file]


def test_contact_sheet_is_a_png(draw, tmp_path):
    with pytest.raises(ValueError, match=r"name a file that ends with \.png"):
        write_contact_sheet(draw, tmp_path / "sheet.jpg")
    assert not list(tmp_path.iterdir())


def test_phantom_is_a_cohort_or_a_picture(tmp_path):
    for names in ({}, {"output": tmp_path / "cohort", "preview": tmp_path / "sheet.png"}):
        with pytest.raises(ValueError, match="either --output FOLDER"):
            cli.phantom(**names)
    assert not list(tmp_path.iterdir())
