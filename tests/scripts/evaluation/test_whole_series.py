from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from custom_transforms import SliceGeometry
from scripts.evaluation.whole_series import VolumeOverlap, labelled_series, volume_scores


def box(start, stop, shape=(20, 18, 16)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def surface(mask, spacing):
    return np.argwhere(mask & ~binary_erosion(mask)) * spacing


def test_distance_is_that_of_surfaces_in_mm():
    one, other, spacing = box((3, 3, 3), (10, 11, 9)), box((4, 3, 5), (13, 10, 11)), np.array([0.5, 1.0, 3.0])
    table = np.linalg.norm(surface(one, spacing)[:, None] - surface(other, spacing), axis=-1)
    expected = max(np.percentile(table.min(0), 95), np.percentile(table.min(1), 95))
    found = volume_scores(one, other, spacing)
    assert found["hd95_mm"] == pytest.approx(expected, rel=1e-5)
    assert found["dice"] == pytest.approx(2 * (one & other).sum() / (one.sum() + other.sum()))
    assert found["volume_error"] == pytest.approx(one.sum() / other.sum() - 1)


def test_what_is_not_defined_is_none():
    nothing, some = np.zeros((4, 4, 4), bool), box((1, 1, 1), (2, 2, 2), (4, 4, 4))
    assert set(volume_scores(nothing, nothing, np.ones(3)).values()) == {None}
    assert volume_scores(nothing, some, np.ones(3)) == {"dice": 0, "iou": 0, "volume_error": -1, "hd95_mm": None}


def test_masks_are_compared_in_the_geometry_of_the_series():
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    geometry = SliceGeometry.from_affine(affine, (6, 8, 5))
    label = np.zeros((2, 6, 8, 5), np.float32)
    label[0, 1:4, 2:6, 1:4] = 1
    label[1, 2:3, 3:5, 2:3] = 1
    batch = {
        "patient": "a", "mri_type": "T2w", "seg": torch.from_numpy(label), "geometry": geometry, "n_slices": 5,
        "slices": torch.arange(1, 5), "error": "",
    }  # fmt: skip
    # planes of the volume as slices; the last three are right, the first is not segmented
    slices = np.stack([geometry.to_stack(part) for part in label], axis=1)
    overlap = VolumeOverlap()
    engine = SimpleNamespace(state=SimpleNamespace(batch=batch, output={"pred": torch.from_numpy(slices[1:])}))
    overlap(engine)
    whole, enhancing = overlap.table()
    assert (whole["plane"], whole["region"], enhancing["region"]) == ("3D", "WT", "ET")
    assert (whole["dice"], whole["hd95_mm"]) == (1, 0)
    engine.state.batch = {**batch, "mri_type": "T1w", "seg": torch.from_numpy(label[:, :5])}
    overlap(engine)
    engine.state.batch = {**batch, "mri_type": "FLAIR", "error": "SeriesError: half a file"}
    overlap(engine)
    assert overlap.failures()["a/FLAIR/3D"] == "SeriesError: half a file"
    assert "expected the same grid" in overlap.failures()["a/T1w/3D"]
    assert len(overlap.table()) == 2


def test_series_without_labels_are_left_out():
    entries = [{"patient": "a", "FLAIR": "f", "T2w": "t", "seg": "s"}, {"patient": "b", "FLAIR": "f"}]
    assert [(item["patient"], item["mri_type"]) for item in labelled_series(entries)] == [("a", "FLAIR"), ("a", "T2w")]
