import os
import subprocess
import sys

import h5py
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from custom_transforms import SliceGeometry
from scripts.prepared import PreparedError, PreparedSeries, write_series

EXAMPLES = settings(deadline=None, max_examples=25)


@st.composite
def series(draw):
    """Kept slices, their indices among N, and masks of all N, of any size."""
    n, height, width = draw(st.integers(0, 7)), draw(st.integers(1, 19)), draw(st.integers(1, 19))
    kept = [index for index in range(n) if draw(st.booleans())]
    image = draw(hnp.arrays(np.uint8, (len(kept), height, width)))
    masks = draw(hnp.arrays(bool, (n, 2, height, width)))
    return image, np.array(kept, dtype=np.int64), masks


def write(path, image, slices, masks, **rest):
    write_series(path, image, slices, masks, rest.pop("info", {}), **rest)
    return PreparedSeries(path)


def brain(n=40, size=192):
    """A stack like a brain: smooth and noisy tissue in an ellipse on black, with a tumour in some slices."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    inside = (x / 0.6) ** 2 + (y / 0.75) ** 2 < 1
    tissue = 120 + 40 * np.sin(4 * x) * np.cos(3 * y)
    image = np.stack([inside * (tissue + rng.normal(0, 4, inside.shape)) for _ in range(n)]).astype(np.uint8)
    masks = np.zeros((n, 2, size, size), dtype=bool)
    masks[10:25, 0] = (x - 0.2) ** 2 + y**2 < 0.05
    masks[12:20, 1] = (x - 0.2) ** 2 + y**2 < 0.02
    return image, np.arange(n), masks


@given(series())
@EXAMPLES
def test_round_trip(tmp_path_factory, made):
    image, slices, masks = made
    found = write(tmp_path_factory.mktemp("series") / "a.h5", image, slices, masks, info={"patient": "1"})
    assert (len(found), found.n_slices, found.size) == (len(image), len(masks), masks.shape[2:])
    np.testing.assert_array_equal(found.slices, slices)
    np.testing.assert_array_equal(found.images(), image)
    np.testing.assert_array_equal(found.masks(), masks)
    stack, kept_masks = found.stacks()
    np.testing.assert_array_equal(stack, image)
    np.testing.assert_array_equal(kept_masks, masks[slices])
    assert stack.dtype == kept_masks.dtype == found.masks().dtype == np.uint8
    assert found.info == {"patient": "1"}


@given(series(), st.integers(0, 8), st.integers(0, 8))
@EXAMPLES
def test_any_range_of_kept_slices(tmp_path_factory, made, start, stop):
    image, slices, masks = made
    found = write(tmp_path_factory.mktemp("series") / "a.h5", image, slices, masks)
    stack, kept_masks = found.stacks(start, stop)
    np.testing.assert_array_equal(stack, image[start:stop])
    np.testing.assert_array_equal(kept_masks, masks[slices[start:stop]])


def test_kept_slices_that_do_not_follow_each_other(tmp_path):
    rng = np.random.default_rng(2)
    slices = np.array([1, 4, 5, 9])
    image, masks = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), rng.random((11, 2, 5, 3)) > 0.5
    stack, kept_masks = write(tmp_path / "a.h5", image, slices, masks).stacks(1, 4)
    np.testing.assert_array_equal(stack, image[1:4])
    np.testing.assert_array_equal(kept_masks, masks[[4, 5, 9]])


def test_no_slice_is_kept(tmp_path):
    masks = np.ones((3, 2, 4, 5), dtype=bool)
    found = write(tmp_path / "a.h5", np.zeros((0, 4, 5), np.uint8), np.zeros(0, np.int64), masks)
    stack, kept_masks = found.stacks()
    assert stack.shape == (0, 4, 5)
    assert kept_masks.shape == (0, 2, 4, 5)
    assert found.masks().all()


def test_no_slice_at_all(tmp_path):
    found = write(tmp_path / "a.h5", np.zeros((0, 4, 5), np.uint8), np.zeros(0, np.int64), np.zeros((0, 2, 4, 5), bool))
    assert found.masks().shape == (0, 2, 4, 5)
    assert found.stacks()[0].shape == (0, 4, 5)


def test_geometry_is_kept(tmp_path):
    affine = nib.affines.from_matvec(np.array([[0.9, 0.1, 0.3], [-0.1, 0.9, 0.02], [0, 0.1, 5.5]]), [1 / 3, -2.25, 1e3])
    geometry = SliceGeometry.from_affine(affine, (5, 4, 3))
    n, height, width = geometry.stack_shape
    masks = np.zeros((n, 2, height, width), bool)
    found = write(
        tmp_path / "a.h5", np.zeros((0, height, width), np.uint8), np.zeros(0, np.int64), masks, geometry=geometry
    )
    assert found.geometry == geometry
    np.testing.assert_array_equal(found.geometry.affine, affine)


def test_without_geometry(tmp_path):
    assert write(tmp_path / "a.h5", *brain(2, 8)[:2], np.zeros((2, 2, 8, 8), bool)).geometry is None


def test_info_may_hold_any_json(tmp_path):
    info = {"patient": "Müller", "warnings": ["a «b»"], "seconds": 0.25, "none": None}
    assert write(tmp_path / "a.h5", *brain(2, 8)[:2], np.zeros((2, 2, 8, 8), bool), info=info).info == info


@pytest.mark.parametrize(
    ("image", "slices", "masks"),
    [
        ((2, 4, 4), 2, (3, 2, 4, 5)),
        ((2, 4, 4), 3, (3, 2, 4, 4)),
        ((2, 4, 4), 2, (3, 1, 4, 4)),
    ],
    ids=["size", "count", "channels"],
)
def test_what_does_not_belong_together_is_refused(tmp_path, image, slices, masks):
    with pytest.raises(ValueError, match=r"a\.h5: image .* slices .* masks .* do not fit"):
        write_series(tmp_path / "a.h5", np.zeros(image, np.uint8), np.arange(slices), np.zeros(masks, bool), {})
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    image, slices, masks = brain(3, 16)
    write(tmp_path / "a.h5", image, slices, masks[:3], info={"version": 1})

    class Unwritable:
        def to_dict(self):
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_series(tmp_path / "a.h5", image + 1, slices, masks[:3], {"version": 2}, Unwritable())
    assert os.listdir(tmp_path) == ["a.h5"]
    found = PreparedSeries(tmp_path / "a.h5")
    assert found.info == {"version": 1}
    np.testing.assert_array_equal(found.images(), image)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            write_series(tmp_path / "b.h5", image, slices, masks[:3], {})
    assert os.listdir(tmp_path) == ["a.h5"]


def test_missing_file(tmp_path):
    with pytest.raises(PreparedError, match=r"gone\.h5: not a readable prepared series .*prepare it again"):
        PreparedSeries(tmp_path / "gone.h5")


def test_truncated_file(tmp_path):
    write(tmp_path / "a.h5", *brain(4, 32)[:2], np.zeros((4, 2, 32, 32), bool))
    content = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(PreparedError, match=r"a\.h5: not a readable prepared series"):
        PreparedSeries(tmp_path / "a.h5")


def test_file_of_something_else(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"not HDF5")
    with pytest.raises(PreparedError, match=r"a\.h5"):
        PreparedSeries(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["image"] = np.zeros(3)
    with pytest.raises(PreparedError, match=r"b\.h5: format None, expected .*; remove it and prepare again"):
        PreparedSeries(tmp_path / "b.h5")


def test_small_for_a_brain(tmp_path):
    image, slices, masks = brain()
    found = write(tmp_path / "a.h5", image, slices, masks)
    np.testing.assert_array_equal(found.masks(), masks)
    np.save(tmp_path / "a.npy", np.concatenate([image[:, None], masks.astype(np.uint8) * 255], axis=1))
    assert (tmp_path / "a.h5").stat().st_size < 0.25 * (tmp_path / "a.npy").stat().st_size


@pytest.mark.slow
def test_a_full_disk_is_reported_in_one_line(full_disk):
    code = (
        "import numpy as np, sys; from scripts.prepared import write_series\n"
        "noise = np.random.default_rng(0).integers(0, 255, (9, 100, 100)).astype(np.uint8)\n"
        "write_series(sys.argv[1], noise, np.arange(9), noise[:, None].repeat(2, 1) > 99, {})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(full_disk / "a.h5")], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stderr.strip().splitlines()[-1].startswith(f"scripts.files.WriteError: {full_disk}: no space is left")
    assert "Exception ignored" not in done.stderr  # as h5py says it, several times
    assert not list(full_disk.iterdir())
