"""DICOM SEG: read back with highdicom and pydicom, from sources that these tests write."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage

from scripts.dicom.objects import DicomError
from scripts.environment import BUNDLE_ROOT
from tests.scripts.dicom.sources import (
    AXIAL,
    MRI_TYPES,
    check_places,
    check_references,
    code,
    errors_of,
    make_file,
    make_series,
    marked_places,
    nested,
    read_stack,
    save_segmentation,
    some_masks,
)

highdicom = pytest.importorskip("highdicom", reason="DICOM output needs the extra [dicom]")

# Where masks lie


@st.composite
def geometries(draw):
    quaternion = np.array([draw(st.floats(-1, 1)) for _ in range(4)])
    if np.linalg.norm(quaternion) < 1e-2:
        quaternion = np.array([1.0, 0, 0, 0])
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    directions = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    n = draw(st.integers(1, 6))
    sizes = st.floats(0.3, 6)
    return {
        "shape": (
            n,
            draw(st.integers(4, 7)),
            draw(st.integers(4, 7)),
        ),  # a frame of fewer bits than the padding is read as two
        "spacing": (draw(sizes), draw(sizes)),
        "step": draw(sizes),
        "directions": directions,
        "origin": tuple(draw(st.floats(-150, 150)) for _ in range(3)),
        "tilt": (draw(st.sampled_from([0.0, 0.4])), draw(st.sampled_from([0.0, -0.3]))),
        "missing": draw(st.sets(st.integers(1, n - 2), max_size=2)) if n > 3 else set(),
        "order": draw(st.permutations(range(n))),
        "plane": draw(st.sampled_from([None, "axial", "coronal", "sagittal"])),
        "seed": draw(st.integers(0, 5)),
    }


REVERSED = {
    "shape": (5, 4, 7), "spacing": (0.5, 1.25), "step": 3.0, "directions": AXIAL, "origin": (1.0, 2.0, 3.0), "tilt": (0.0, 0.0),
    "missing": {2}, "order": [4, 3, 2, 1, 0], "plane": None, "seed": 0,
}  # fmt: skip
FLIPPED = {**REVERSED, "directions": np.diag([1.0, -1.0, -1.0]), "missing": set()}
SAGITTAL = np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]])
CUT_ACROSS = {
    **REVERSED,
    "directions": SAGITTAL,
    "spacing": (1.0, 1.0),
    "step": 1.0,
    "plane": "axial",
    "missing": set(),
}


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=geometries())
@example(case=REVERSED)
@example(case=FLIPPED)
@example(case=CUT_ACROSS)
def test_masks_lie_where_they_lay(case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    case = dict(case)
    plane, seed = case.pop("plane"), case.pop("seed")
    place_of = make_series(folder / "series", **case)
    stack, geometry = read_stack(folder / "series", plane)
    masks = some_masks(stack, seed)
    file = save_segmentation(folder, masks, geometry)
    if not masks.any():
        assert file is None
        return
    check_places(file, stack, masks, place_of)
    check_references(file, folder / "series", stack, masks)


def test_a_mask_on_a_slice_that_stands_in_for_a_missing_one(tmp_path):
    """The method may mark such a slice too, if its lowest value is not 0."""
    make_series(tmp_path / "series", shape=(6, 4, 4), step=2.0, origin=(0.0, 0.0, 10.0), missing={3})
    _, geometry = read_stack(tmp_path / "series")
    masks = np.zeros((6, 2, 4, 4), dtype=np.uint8)
    masks[2:4, 0, 1, 2] = 1
    file = save_segmentation(tmp_path, masks, geometry)
    assert sorted(map(tuple, marked_places(file)[1])) == [(2.0, 1.0, 14.0), (2.0, 1.0, 16.0)]
    assert errors_of(file) == []


def test_highdicom_reads_the_volume_back(tmp_path):
    """Anisotropic, without the empty frames in the middle: still a volume of all slices from the first to the last."""
    make_series(tmp_path / "series", shape=(7, 5, 4), spacing=(0.5, 2.0), step=3.0)
    _, geometry = read_stack(tmp_path / "series")
    masks = np.zeros((7, 2, 5, 4), dtype=np.uint8)
    masks[[1, 5], 0, 2, 3] = 1
    file = save_segmentation(tmp_path, masks, geometry)
    volume = highdicom.seg.segread(file).get_volume(segment_numbers=[1], allow_missing_positions=True)
    assert volume.array.sum() == 2
    index = np.argwhere(volume.array[..., 0])
    found = (volume.affine @ np.c_[index, np.ones(2)].T).T[:, :3]
    # column 3 and row 2 of slices 1 and 5
    assert sorted(map(tuple, found)) == [(-4.0, -19.0, 33.0), (-4.0, -19.0, 45.0)]
    assert volume.spacing == pytest.approx((3.0, 0.5, 2.0))


def enhanced(frames, positions, **attributes):
    """One multi-frame Enhanced MR file; its orientation and spacing are given frame by frame."""
    dataset = make_file(frames[0], positions[0], **attributes)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = EnhancedMRImageStorage
    dataset.NumberOfFrames = len(frames)
    dataset.PixelData = frames.astype("<u2").tobytes()
    plane, measures = Dataset(), Dataset()
    plane.ImageOrientationPatient, measures.PixelSpacing = dataset.ImageOrientationPatient, dataset.PixelSpacing
    measures.SliceThickness = "1.5"
    dataset.SharedFunctionalGroupsSequence = [Dataset()]
    dataset.PerFrameFunctionalGroupsSequence = []
    for position in positions:
        group, place = Dataset(), Dataset()
        place.ImagePositionPatient = list(map(float, position))
        group.PlanePositionSequence = [place]
        group.PlaneOrientationSequence, group.PixelMeasuresSequence = [plane], [measures]
        dataset.PerFrameFunctionalGroupsSequence.append(group)
    for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"):
        delattr(dataset, keyword)
    return dataset


def test_multiframe_source(tmp_path):
    frames = np.arange(1, 4 * 3 * 5 + 1).reshape(4, 3, 5)
    heights = [6.0, 0.0, 2.0, 4.0]
    dataset = enhanced(frames, [(0, 0, height) for height in heights], spacing=(0.5, 2.0))
    (tmp_path / "series").mkdir()
    dataset.save_as(tmp_path / "series" / "enhanced.dcm", enforce_file_format=True)
    stack, geometry = read_stack(tmp_path / "series")
    masks = some_masks(stack, 3)
    place_of = {
        int(frames[k, i, j]): np.array([2.0 * j, 0.5 * i, heights[k]])
        for k in range(4) for i in range(3) for j in range(5)
    }  # fmt: skip
    file = save_segmentation(tmp_path, masks, geometry)
    check_places(file, stack, masks, place_of)
    found = pydicom.dcmread(file)
    assert found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 1.5
    for pixels, group in zip(found.pixel_array, found.PerFrameFunctionalGroupsSequence, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == dataset.SOPInstanceUID
        marked = frames[source.ReferencedFrameNumber - 1][pixels > 0]
        segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert set(marked) <= set(stack[nested(masks)[:, segment - 1] > 0])
    assert errors_of(file) == []


def test_headers_that_round_differently_are_one_series(tmp_path):
    place_of = make_series(tmp_path / "series")
    for number, file in enumerate(sorted((tmp_path / "series").iterdir())):
        dataset = pydicom.dcmread(file)
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, round(number * 1e-6, 6)]
        dataset.PixelSpacing = [1 + number * 1e-6, 1]
        dataset.save_as(file)
    stack, geometry = read_stack(tmp_path / "series")
    masks = some_masks(stack)
    check_places(save_segmentation(tmp_path, masks, geometry), stack, masks, place_of)


def test_a_wrong_distance_in_the_header_is_not_carried_on(tmp_path):
    make_series(tmp_path / "series", step=2.5, SpacingBetweenSlices="9", SliceThickness="2")
    stack, geometry = read_stack(tmp_path / "series")
    found = pydicom.dcmread(save_segmentation(tmp_path, some_masks(stack), geometry))
    measures = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.SpacingBetweenSlices, measures.SliceThickness) == (2.5, 2)


# What a segmentation says


def test_segments_are_coded(series):
    folder, _, geometry, masks = series
    file = save_segmentation(folder, masks, geometry, mri_type="T1wCE")
    found = highdicom.seg.segread(file)
    assert found.SegmentationType == "BINARY"
    assert found.SegmentsOverlap == "YES"
    assert found.number_of_segments == 2
    metadata = json.loads((BUNDLE_ROOT / "configs" / "metadata.json").read_text())
    for number, kind in ((1, ("108369006", "SCT")), (2, ("C113842", "NCIt"))):
        segment = found.get_segment_description(number)
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert code(segment.SegmentedPropertyTypeCodeSequence) == kind
        assert code(segment.SegmentedPropertyCategoryCodeSequence) == ("49755003", "SCT")
        assert code(segment.AnatomicRegionSequence) == ("12738006", "SCT")
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (metadata["name"], metadata["version"])
    assert "T1wCE" in found.SeriesDescription
    assert "Research use only. Not for diagnosis." in (found.ContentDescription, found.SeriesDescription)
    assert found.ContentQualification == "RESEARCH"
    assert errors_of(file) == []


def test_series_of_a_patient_have_numbers_of_their_own(series):
    folder, _, geometry, masks = series
    numbers = set()
    for mri_type in MRI_TYPES:
        numbers.add(pydicom.dcmread(save_segmentation(folder, masks, geometry, mri_type=mri_type)).SeriesNumber)
    assert len(numbers) == 4


def test_without_a_tumour_there_is_no_segmentation(series):
    folder, _, geometry, masks = series
    assert save_segmentation(folder, masks, geometry).is_file()
    assert save_segmentation(folder, np.zeros_like(masks), geometry) is None
    assert not (folder / "seg.dcm").exists()  # that of before is none of this series


@pytest.mark.parametrize("absent", [0, 1])
def test_one_segment_alone(series, absent):
    folder, stack, geometry, masks = series
    masks[:, absent] = 0
    file = save_segmentation(folder, masks, geometry)
    assert errors_of(file) == []
    found = highdicom.seg.segread(file)
    assert found.number_of_segments == 2
    check_references(file, folder / "series", stack, masks)


@pytest.mark.parametrize(
    "keyword", ["FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
)
def test_a_series_that_does_not_say_where_it_lies(tmp_path, keyword):
    make_series(tmp_path / "series", **{keyword: None})
    stack, geometry = read_stack(tmp_path / "series")
    with pytest.raises(DicomError, match=rf"series: no usable .*{keyword}.*: a SEG must say where"):
        save_segmentation(tmp_path, some_masks(stack), geometry)
    assert not (tmp_path / "seg.dcm").exists()


def test_masks_of_another_series(series):
    folder, _, _, masks = series
    make_series(folder / "moved", origin=(-10.0, -20.0, 31.0))
    make_series(folder / "longer", shape=(6, 8, 6))
    for name in ("moved", "longer"):
        _, geometry = read_stack(folder / name)
        with pytest.raises(DicomError, match="segment the series again"):
            save_segmentation(folder, np.ones((geometry.shape[2], 2, 8, 6), np.uint8), geometry)
    _, geometry = read_stack(folder / "series")
    with pytest.raises(ValueError, match="Expected a stack"):
        save_segmentation(folder, masks[:-1], geometry)


def test_a_source_that_is_no_dicom(series, tmp_path):
    _, _, geometry, masks = series
    nib.save(nib.Nifti1Image(np.zeros((6, 8, 5)), geometry.affine), tmp_path / "volume.nii.gz")
    with pytest.raises(DicomError, match=r"volume\.nii\.gz: no DICOM files"):
        save_segmentation(tmp_path, masks, geometry, source=tmp_path / "volume.nii.gz")


def test_an_interruption_leaves_the_earlier_file(series, monkeypatch):
    folder, _, geometry, masks = series
    before = save_segmentation(folder, masks, geometry).read_bytes()

    def broken(self, path, **settings):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(highdicom.seg.Segmentation, "save_as", broken)
    with pytest.raises(OSError, match="disk full"):
        save_segmentation(folder, masks, geometry)
    assert (folder / "seg.dcm").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["seg.dcm", "series"]
