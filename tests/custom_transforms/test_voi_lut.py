"""Series as their headers want them shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset

from custom_transforms import SeriesError, SeriesReader
from tests.custom_transforms.stacks import brain, enhanced, planes, read


def shown(path: Path) -> tuple[np.ndarray, dict]:
    reader = SeriesReader(labels=True, voi_lut=True)  # labels: no background is looked for and taken off
    return reader.get_data(reader.read(path))


def linear(values: np.ndarray, center: float, width: float, low: float = 0, high: float = 65535) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1, value by value."""
    found = np.empty(values.shape)
    for index, value in np.ndenumerate(values.astype(float)):
        if value <= center - 0.5 - (width - 1) / 2:
            found[index] = low
        elif value > center - 0.5 + (width - 1) / 2:
            found[index] = high
        else:
            found[index] = ((value - (center - 0.5)) / (width - 1) + 0.5) * (high - low) + low
    return found


def table(entries: list[int], first: int, bits: int) -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries)
    return [item]


def test_each_slice_has_a_window_of_its_own_after_rescaling(write_series, tmp_path):
    stack = planes(3)
    stack[:, 0, 0] = 0

    def change(index: int, dataset: Dataset) -> None:
        dataset.WindowCenter, dataset.WindowWidth = 300 + 100 * index, 200
        dataset.RescaleSlope, dataset.RescaleIntercept = 2, 0

    write_series(stack, change=change)
    array, meta = shown(tmp_path / "series")
    for k in range(3):
        expected = linear(stack[k].T * 2.0, 300 + 100 * k, 200, 0, 2 * 65535)
        np.testing.assert_allclose(array[..., k], expected, rtol=1e-6)
    assert meta["warnings"] == []
    assert meta["shown_range"] == [0, 2 * 65535]


def test_the_default_does_not_look_at_the_window(write_series, tmp_path):
    stack = planes(4)
    write_series(stack, "plain")
    write_series(stack, "windowed", WindowCenter=500, WindowWidth=10, VOILUTSequence=table([5, 9], 0, 8))
    plain, windowed = read(tmp_path / "plain")[0], read(tmp_path / "windowed")[0]
    assert plain.tobytes() == windowed.tobytes()
    assert "shown_range" not in read(tmp_path / "windowed")[1]
    assert not np.array_equal(shown(tmp_path / "windowed")[0], plain)


@pytest.mark.parametrize("bits", [8, 12])
def test_a_table_before_a_window(write_series, tmp_path, bits):
    """Entries beyond 255 of a table of 8 bits too."""
    entries = (np.random.default_rng(1).permutation(600) % (1 << bits)).tolist()
    stack = planes(3)
    write_series(stack, VOILUTSequence=table(entries, 100, bits), WindowCenter=10, WindowWidth=10)
    array, meta = shown(tmp_path / "series")
    assert meta["shown_range"] == [0, (1 << bits) - 1]
    expected = np.vectorize(lambda value: entries[min(max(int(value) - 100, 0), 599)])(stack.transpose(2, 1, 0))
    np.testing.assert_array_equal(array, expected)


def test_the_first_of_several_windows_and_the_sigmoid(write_series, tmp_path):
    stack = planes(2)
    write_series(
        stack, WindowCenter=[400, 10], WindowWidth=[300, 20], VOILUTFunction="SIGMOID", BitsStored=12, HighBit=11
    )
    expected = 4095 / (1 + np.exp(-4 * (stack.transpose(2, 1, 0) - 400.0) / 300))
    np.testing.assert_allclose(shown(tmp_path / "series")[0], expected, rtol=1e-5)


def test_monochrome1_is_inverted_after_it(write_series, tmp_path):
    stack = planes(3)
    write_series(stack, WindowCenter=500, WindowWidth=400, PhotometricInterpretation="MONOCHROME1")
    windowed = linear(stack.transpose(2, 1, 0), 500, 400)
    assert windowed.min() == 0
    assert windowed.max() == 65535
    np.testing.assert_allclose(shown(tmp_path / "series")[0], 65535 - windowed, atol=0.01)


def test_enhanced_mr_has_a_window_per_frame(tmp_path):
    stack = planes(4)
    order = np.array([2, 0, 3, 1])
    dataset = enhanced(stack, order, np.arange(4) * 1.5)
    for place, group in zip(order, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        window = Dataset()
        window.WindowCenter, window.WindowWidth = 1000 + 10 * int(place), 800
        group.FrameVOILUTSequence = [window]
    dataset.PixelRepresentation = 0
    dataset.save_as(tmp_path / "enhanced.dcm", enforce_file_format=True)
    array, _ = shown(tmp_path / "enhanced.dcm")
    for place in range(4):
        values = stack[place].astype(float) * 2 + place
        expected = linear(values, 1000 + 10 * place, 800, place, 2 * 65535 + place)
        np.testing.assert_allclose(array[:, :, place].T, expected, rtol=1e-6)


def test_without_a_window(write_series, tmp_path):
    stack = planes(3)

    def first_alone(index: int, dataset: Dataset) -> None:
        if not index:
            dataset.WindowCenter, dataset.WindowWidth = 500, 400

    write_series(stack, "none")
    write_series(stack, "first", change=first_alone)
    array, meta = shown(tmp_path / "none")
    np.testing.assert_array_equal(array, read(tmp_path / "none")[0])
    assert "no window or VOI LUT in the header" in meta["warnings"][0]
    array, meta = shown(tmp_path / "first")
    assert meta["shown_range"] == []
    np.testing.assert_array_equal(array[..., 1:], read(tmp_path / "first")[0][..., 1:])
    assert "2 of 3 slices have no window or VOI LUT (Image-2.dcm, Image-3.dcm)" in meta["warnings"][0]


def test_a_window_that_is_none(write_series, tmp_path):
    write_series(planes(3), WindowCenter=500, WindowWidth=0)
    with pytest.raises(
        SeriesError, match=r"the window or VOI LUT of Image-1.dcm .*without voi_lut, .*--window percentile"
    ):
        shown(tmp_path / "series")
    write_series(planes(3), "broken", WindowCenter="nan", WindowWidth="5")
    with pytest.raises(
        SeriesError, match=r"the window or VOI LUT of Image-1.dcm .*NaN or infinity.*--window percentile"
    ):
        shown(tmp_path / "broken")


def test_nifti_has_nothing_to_apply(tmp_path: Path):
    image: Any = nib.Nifti1Image(brain(), np.eye(4))
    nib.save(image, tmp_path / "volume.nii")
    array, meta = SeriesReader(voi_lut=True).get_data(tmp_path / "volume.nii")
    expected, expected_meta = read(tmp_path / "volume.nii")
    np.testing.assert_array_equal(array, expected)
    assert meta["warnings"] == expected_meta["warnings"]
