from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from scripts import cuts, labelled_volumes
from scripts.synthetic.randomisation import PLANES

RANGES = {
    name: value
    for name, value in yaml.safe_load(
        (Path(cuts.__file__).parents[1] / "configs" / "pretrain_segmentation.yaml").read_text()
    )["augmentation"].items()
    if name != "_target_"
}  # fmt: skip


def write_patient(folder, name, where=0, flip=False):
    """A round brain of 64 mm with a bright tumour at ``where`` mm from its middle, to the left where it is below 0."""
    index = np.stack(np.meshgrid(*[np.arange(80) - 39.5] * 3, indexing="ij"))
    brain = (index**2).sum(0) < 32**2
    distance = ((index - np.array([where, 5, 0]).reshape(3, 1, 1, 1)) ** 2).sum(0)
    labels = np.where(distance < 9**2, 2, 0) + np.where(distance < 5**2, 2, 0)
    image = brain * (100 + 2.0 * index[2] + index[1]) + (labels > 0) * 150
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) if flip else np.eye(4)
    entry = {"patient": name}
    for key, content in (("FLAIR", image.astype(np.float32)), ("seg", labels.astype(np.uint8))):
        stored = content[::-1, ::-1] if flip else content
        nib.save(nib.Nifti1Image(np.ascontiguousarray(stored), affine), folder / f"{name}_{key}.nii.gz")
        entry[key] = str(folder / f"{name}_{key}.nii.gz")
    return entry


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    return labelled_volumes.load_volumes([write_patient(folder, "A", -14), write_patient(folder, "B", 16, flip=True)])


def test_volumes_are_in_ras_whatever_way_they_are_stored(volumes):
    for volume, side in zip(volumes, (-1, 1), strict=True):
        middle = volume.tumour.mean(0) - volume.centre
        assert np.sign(middle[0]) == side
        assert middle[1] == pytest.approx(5, abs=0.3)
        assert volume.one_sided == side
        assert (volume.distance[volume.labels > 0] == 0).all()


def test_straight_slices_are_as_radiologists_see_them(volumes):
    draw = cuts.CutSlice(volumes, None, image_size=200)
    item = {"patient": "A", "mri_type": "FLAIR", "plane": "axial", "depth": 0.0}
    cut = draw(item)
    rows, columns = np.nonzero(cut["label"][0].numpy())
    assert columns.mean() > 100, "the patient's left, where the tumour is, is shown on the right"
    assert rows.mean() < 100, "front is up"
    assert rows.max() - rows.min() == pytest.approx(17, abs=1), "a pixel is 1 mm at 200 pixels"
    assert cut["label"][1].sum() < cut["label"][0].sum()
    upright = draw({**item, "plane": "coronal"})["image"][0].numpy()
    assert upright[80, 100] > upright[120, 100], "the head is up"
    assert {one["plane"] for one in cuts.cut_items(volumes)} == set(PLANES)


def test_a_slice_follows_from_its_number_alone(volumes):
    first, second = (cuts.CutSlice(volumes, cuts.Augmentation(**RANGES), 64) for _ in range(2))
    for number in (3, 1):
        assert torch.equal(first(number)["image"], second(number)["image"])
    assert not torch.equal(first(1)["image"], first(2)["image"])
    assert not torch.equal(
        first(1)["image"], cuts.CutSlice(volumes, cuts.Augmentation(**RANGES), 64, seed=1)(1)["image"]
    )


def test_slices_are_fit_to_train_on(volumes):
    draw = cuts.CutSlice(volumes, cuts.Augmentation(**RANGES), 64)
    slices = [draw(number) for number in range(60)]
    assert all(one["image"].dtype == one["label"].dtype == torch.uint8 for one in slices)
    assert all(one["image"].shape == (1, 64, 64) and one["label"].shape == (2, 64, 64) for one in slices)
    assert all((one["label"][1] <= one["label"][0]).all() for one in slices), "enhancing tumour is tumour"
    shown = sum(bool(one["label"].any()) for one in slices)
    assert 30 < shown < 60


def test_a_tumour_comes_to_another_brain_with_its_label(volumes):
    ranges = {**RANGES, "donated": 1, "mended": 0, "tumour": 1, "tilt": 0, "rotation": 0, "warp": 0, "off_centre": 0}
    draw = cuts.CutSlice(volumes, cuts.Augmentation(**{**ranges, "planes": ["axial"]}), 128)
    both = [draw(number)["label"][0].numpy() for number in range(40)]
    assert any(one[:, :60].any() and one[:, 68:].any() for one in both), "one on each side"


def test_half_a_brain_is_mirrored_over_its_tumour(volumes):
    ranges = {**RANGES, "donated": 0, "mended": 1}
    draw = cuts.CutSlice(volumes, cuts.Augmentation(**ranges), 64)
    assert not any(draw(number)["label"].any() for number in range(30))


def test_sources_are_mixed_in_their_proportion(volumes):
    mixed = cuts.DrawMixed(lambda number: "cut", lambda number: "synthetic", 0.25)
    drawn = [mixed(number) for number in range(2000)]
    assert drawn.count("synthetic") == pytest.approx(500, abs=80)
    assert cuts.DrawMixed(None, lambda number: "synthetic")(0) == "synthetic"
    with pytest.raises(ValueError, match="at least one source"):
        cuts.DrawMixed(None, None)


def test_what_can_not_be_cut_is_reported(tmp_path):
    with pytest.raises(ValueError, match="none of 1 patients has labels"):
        labelled_volumes.load_volumes([{"patient": "A", "FLAIR": "x.nii.gz"}])
    entry = write_patient(tmp_path, "A")
    image = nib.load(entry["seg"])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.diag([2.0, 1, 1, 1])), entry["seg"])
    with pytest.raises(ValueError, match=r"A_seg\.nii\.gz: voxels of .*expected 1 mm"):
        labelled_volumes.load_volumes([entry])
    entry = write_patient(tmp_path, "B")
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.float32) * np.arange(8), np.eye(4)), entry["FLAIR"])
    with pytest.raises(ValueError, match=r"B_FLAIR\.nii\.gz: \(8, 8, 8\) voxels"):
        labelled_volumes.load_volumes([entry])
