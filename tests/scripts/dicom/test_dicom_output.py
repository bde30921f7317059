"""DICOM SEG and SR: read back with highdicom and pydicom, from sources that these tests write or that are real."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from custom_transforms import SeriesReader, SliceGeometry
from scripts.dicom import output
from scripts.dicom.output import DicomError, write_dicom, write_report, write_segmentation
from scripts.prepared import PreparedSeries, write_series

highdicom = pytest.importorskip("highdicom", reason="DICOM output needs the extra [dicom]")

MRI_TYPES = ("FLAIR", "T1w", "T1wCE", "T2w")
AXIAL = np.eye(3)


def make_file(pixels, position, directions=AXIAL, spacing=(1.0, 1.0), study="study", series="series", **attributes):
    """One MR slice with no more than the attributes that place it and tell what it belongs to; None leaves one out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[study])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[study, series])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[study, "frame"])
    dataset.Modality = "MR"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset.ImageOrientationPatient = [f"{value:.9g}" for value in directions[:, :2].T.ravel()]
    dataset.ImagePositionPatient = [f"{value:.8g}" for value in position]
    dataset.PixelSpacing = [f"{value:.8g}" for value in spacing]
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def make_series(
    folder,
    shape=(5, 8, 6),
    spacing=(1.0, 1.0),
    step=2.5,
    directions=AXIAL,
    origin=(-10.0, -20.0, 30.0),
    tilt=(0.0, 0.0),
    missing=(),
    order=None,
    **attributes,
):
    """Write a series ``(N, rows, columns)`` of voxels that are all different; return where each of them lies, in LPS.

    Args:
        tilt: mm by which each slice is shifted along its rows and columns.
        missing: slices that are not written.
        order: file numbers of the slices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    n, rows, columns = shape
    values = np.arange(1, n * rows * columns + 1).reshape(shape)
    place_of = {}
    for k in range(n):
        if k in missing:
            continue
        position = np.asarray(origin) + directions @ np.array([tilt[0] * k, tilt[1] * k, step * k])
        number = k if order is None else order[k]
        dataset = make_file(values[k], position, directions, spacing, InstanceNumber=number + 1, **attributes)
        dataset.save_as(folder / f"Image-{number + 1}.dcm", enforce_file_format=True)
        for i in range(rows):
            for j in range(columns):
                place = position + directions[:, 0] * spacing[1] * j + directions[:, 1] * spacing[0] * i
                place_of[int(values[k, i, j])] = place
    return place_of


def read_stack(source, plane=None):
    """The slices of a series as the jobs see them, and their geometry."""
    volume, meta = SeriesReader().get_data(source)
    geometry = SliceGeometry.from_affine(meta["affine"], volume.shape, plane)
    return geometry.to_stack(volume), geometry


def some_masks(stack, seed=0, share=0.3):
    """WT and ET, each its own random voxels of those that were acquired: they overlap, and neither holds the other."""
    masks = np.random.default_rng(seed).random((len(stack), 2, *stack.shape[1:])) < share
    return (masks & (stack > stack.min())[:, None]).astype(np.uint8)


def nested(masks):
    """What is enhancing tumour is tumour."""
    return np.stack([masks[:, 0] | masks[:, 1], masks[:, 1]], axis=1)


def save_segmentation(folder, masks, geometry, source=None, **settings):
    settings = {"patient": "00001", "mri_type": "FLAIR", **settings}
    return write_segmentation(source or folder / "series", masks, folder / "seg.dcm", geometry=geometry, **settings)


def marked_places(file):
    """Where DICOM says that each segment's marked voxels lie: ``(V, 3)`` in LPS, by pydicom and the standard alone."""
    dataset = pydicom.dcmread(file)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    rows_apart, columns_apart = (float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing)
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    places = {1: [np.zeros((0, 3))], 2: [np.zeros((0, 3))]}
    for frame, group in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        i, j = np.nonzero(frame)
        found = origin + np.outer(j * columns_apart, orientation[:3]) + np.outer(i * rows_apart, orientation[3:])
        places[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber].append(found)
    return {number: np.concatenate(found) for number, found in places.items()}


def check_places(file, stack, masks, place_of):
    """Every marked voxel, and no other, lies where the source's files say that it does."""
    masks = nested(masks)
    for number, found in marked_places(file).items():
        expected = np.array([place_of[int(value)] for value in stack[masks[:, number - 1] > 0]]).reshape(-1, 3)
        assert len(found) == len(expected)
        if len(found):
            distances = np.linalg.norm(found[:, None] - expected[None], axis=2)
            assert distances.min(axis=1).max() < 1e-3
            assert len(set(distances.argmin(axis=1))) == len(found)  # each by one


def check_references(file, source, stack, masks):
    """highdicom finds the mask of each source file by its UID."""
    masks = nested(masks)
    seg = highdicom.seg.segread(file)
    files = [pydicom.dcmread(path) for path in sorted(source.iterdir())]
    found = seg.get_pixels_by_source_instance(
        [dataset.SOPInstanceUID for dataset in files], assert_missing_frames_are_empty=True
    )
    for pixels, dataset in zip(found, files, strict=True):
        for number in (0, 1):
            expected = np.isin(dataset.pixel_array, stack[masks[:, number] > 0])
            np.testing.assert_array_equal(pixels[..., number] > 0, expected)


def errors_of(file):
    """What dciodvfy, the validator of Debian's dicom3tools, finds wrong with a file."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian: apt-get install dicom3tools)")
    done = subprocess.run(["dciodvfy", "-new", str(file)], capture_output=True, text=True, check=False)
    assert done.stderr.strip() or done.stdout.strip()  # it names the kind of object
    return [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("Error")]


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


@pytest.fixture
def series(tmp_path):
    """A series, its stack, its geometry and masks."""
    make_series(tmp_path / "series")
    stack, geometry = read_stack(tmp_path / "series")
    return tmp_path, stack, geometry, some_masks(stack)


def code(sequence):
    return sequence[0].CodeValue, sequence[0].CodingSchemeDesignator


def test_segments_are_coded(series):
    folder, _, geometry, masks = series
    file = save_segmentation(folder, masks, geometry, mri_type="T1wCE")
    found = highdicom.seg.segread(file)
    assert found.SegmentationType == "BINARY"
    assert found.SegmentsOverlap == "YES"
    assert found.number_of_segments == 2
    metadata = json.loads((Path(output.__file__).parents[2] / "configs" / "metadata.json").read_text())
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
    with pytest.raises(DicomError, match=r"volume\.nii\.gz: found no DICOM"):
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


# Whose it is


PERSON = {
    "PatientName": "Musterfrau^Mimi", "PatientID": "HOSPITAL-4711", "PatientBirthDate": "19410203", "PatientSex": "F",
    "PatientAge": "079Y", "PatientWeight": "61.5", "PatientAddress": "Lindenweg 3", "OtherPatientIDs": "OTHER-815",
    "EthnicGroup": "GROUPX", "PatientComments": "Neighbour of Erika", "StudyDate": "20200304", "StudyTime": "111213",
    "SeriesDate": "20200305", "AcquisitionDate": "20200306", "ContentDate": "20200307", "AccessionNumber": "ACC-99",
    "StudyID": "STUDY-5", "StudyDescription": "Head of Mimi", "ReferringPhysicianName": "Doctor^Who",
    "NameOfPhysiciansReadingStudy": "Strange^Stephen", "InstitutionName": "General Hospital", "InstitutionAddress": "Hill 1",
    "StationName": "STATION-2", "DeviceSerialNumber": "SERIAL-3", "Manufacturer": "ScannerMaker", "OperatorsName": "Jones^Indiana",
    "SeriesDescription": "Mimi's series", "ImageComments": "call 555-1234",
}  # fmt: skip


def write_both(folder, masks, geometry, deidentify=False, patient="00001"):
    """SEG and SR of one series."""
    seg = save_segmentation(folder, masks, geometry, deidentify=deidentify, patient=patient)
    facts = {"source": folder / "series", **output.volumes(masks, geometry), "reason": ""}
    row = {"patient": patient, "probability": 0.25, "agreement_interval": (0.125, 0.5), "used": ["FLAIR"]}
    sr = write_report(
        {"FLAIR": facts}, folder / "sr.dcm", patient_row=row, segmentations={"FLAIR": seg}, deidentify=deidentify
    )
    return seg, sr


def test_patient_and_study_are_those_of_the_source(tmp_path):
    make_series(tmp_path / "series", **PERSON)
    stack, geometry = read_stack(tmp_path / "series")
    source = pydicom.dcmread(next((tmp_path / "series").iterdir()))
    for file in write_both(tmp_path, some_masks(stack), geometry):
        found = pydicom.dcmread(file)
        for keyword in (
            "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyDate", "StudyTime", "AccessionNumber",
            "StudyID", "ReferringPhysicianName", "StudyInstanceUID",
        ):  # fmt: skip
            assert found[keyword].value == source[keyword].value, keyword
        assert found.SeriesInstanceUID != source.SeriesInstanceUID
        assert errors_of(file) == []


def test_what_the_source_lacks_is_not_made_up(series):
    folder, _, geometry, masks = series
    for file in write_both(folder, masks, geometry):
        found = pydicom.dcmread(file)
        for keyword in (
            "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
            "ReferringPhysicianName",
        ):  # fmt: skip
            assert not found[keyword].value, keyword
        assert "PatientIdentityRemoved" not in found
        assert errors_of(file) == []


def test_names_keep_their_letters(tmp_path):
    make_series(tmp_path / "series", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen", PatientID="Zoë")
    stack, geometry = read_stack(tmp_path / "series")
    for file in write_both(tmp_path, some_masks(stack), geometry):
        found = pydicom.dcmread(file)
        assert (str(found.PatientName), found.PatientID) == ("Müller^Jürgen", "Zoë")
        assert found.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_values_that_are_none_are_left_empty(tmp_path):
    make_series(tmp_path / "series")
    for file in (tmp_path / "series").iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PatientSex = "U"
        for keyword in ("PatientBirthDate", "StudyDate"):
            dataset.add_new(keyword, "LO", "unknown")
            dataset[keyword].VR = "DA"
        dataset.save_as(file)
    stack, geometry = read_stack(tmp_path / "series")
    for file in write_both(tmp_path, some_masks(stack), geometry):
        found = pydicom.dcmread(file)
        assert not any(found[keyword].value for keyword in ("PatientSex", "PatientBirthDate", "StudyDate"))


def test_deidentified(tmp_path):
    make_series(tmp_path / "series", **PERSON)
    stack, geometry = read_stack(tmp_path / "series")
    sources = [pydicom.dcmread(file) for file in (tmp_path / "series").iterdir()]
    for file in write_both(tmp_path, some_masks(stack), geometry, deidentify=True, patient="case-7"):
        found = pydicom.dcmread(file)
        assert (found.PatientID, found.PatientIdentityRemoved) == ("case-7", "YES")
        assert found.DeidentificationMethod
        codes = {item.CodeValue for item in found.DeidentificationMethodCodeSequence}
        assert codes == {"113100", "113110"}
        assert found.LongitudinalTemporalInformationModified == "REMOVED"
        # a viewer still finds the images
        assert found.StudyInstanceUID == sources[0].StudyInstanceUID
        content = file.read_bytes()
        assert all(source.SOPInstanceUID.encode() in content for source in sources if "seg" in file.name)
        for keyword, value in PERSON.items():
            if keyword == "PatientSex":
                assert not found.PatientSex
            else:
                assert str(value).encode() not in content, keyword
        times = {
            str(element.value) for element in found.iterall() if element.VR in ("DA", "TM", "DT") and element.value
        }
        assert times <= {"19000101", "000000"}
        assert errors_of(file) == []


def test_without_it_nothing_says_that_it_was_deidentified(tmp_path):
    make_series(tmp_path / "series", **PERSON)
    stack, geometry = read_stack(tmp_path / "series")
    for file in write_both(tmp_path, some_masks(stack), geometry):
        assert b"Musterfrau^Mimi" in file.read_bytes()
        assert "DeidentificationMethod" not in pydicom.dcmread(file)


# Reports


def items(node, name=None):
    """All content items of a report, or those of a concept name's meaning."""
    for item in node.get("ContentSequence", []):
        if name is None or item.ConceptNameCodeSequence[0].CodeMeaning == name:
            yield item
        yield from items(item, name)


def number(item):
    return float(item.MeasuredValueSequence[0].NumericValue)


def measured(report, tracked):
    """The volume in the group of this tracking identifier, and the group."""
    for group in items(report, "Measurement Group"):
        (identifier,) = items(group, "Tracking Identifier")
        if identifier.TextValue == tracked:
            (volume,) = items(group, "Volume")
            assert code(volume.MeasuredValueSequence[0].MeasurementUnitsCodeSequence) == ("mm3", "UCUM")
            return number(volume), group
    raise AssertionError(f"no {tracked}")


def test_report_measures(tmp_path):
    make_series(tmp_path / "series", spacing=(0.5, 1.5), step=4.0)
    _, geometry = read_stack(tmp_path / "series")
    masks = np.zeros((5, 2, 8, 6), dtype=np.uint8)
    masks[1:4, 0, 2:6, 1:4] = 1
    masks[2, 1, 3:5, 2] = 1
    seg, sr = write_both(tmp_path, masks, geometry)
    report = highdicom.sr.srread(sr)
    assert isinstance(report, highdicom.sr.ComprehensiveSR)
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    uid = pydicom.dcmread(seg).SOPInstanceUID
    for name, voxels, segment in (("WT in FLAIR", 36, 1), ("ET in FLAIR", 2, 2)):
        volume, group = measured(report, name)
        assert volume == voxels * 0.5 * 1.5 * 4.0
        (referenced,) = items(group, "Referenced Segment")
        assert referenced.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == uid
        assert referenced.ReferencedSOPSequence[0].ReferencedSegmentNumber == segment
    found = {
        item.ConceptNameCodeSequence[0].CodeValue: number(item)
        for item in items(report)
        if item.ValueType == "NUM" and item.ConceptNameCodeSequence[0].CodingSchemeDesignator == "99RADIOGENOMICS"
    }
    assert found == {"MGMT-P": 0.25, "MGMT-P-LOW": 0.125, "MGMT-P-HIGH": 0.5}
    (scheme,) = report.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99RADIOGENOMICS"
    assert scheme.CodingSchemeName
    comments = [item.TextValue for item in items(report, "Comment")]
    assert comments[0] == "Research use only. Not for diagnosis."
    assert any("not how often they are right" in text for text in comments)
    assert report.ContentQualification == "RESEARCH"
    assert errors_of(sr) == []


def test_report_of_an_empty_segmentation(series):
    """What was looked for and not found has a volume of 0, and the report says that there is no SEG."""
    folder, _, geometry, masks = series
    row = {"patient": "00001", "probability": 0.5, "agreement_interval": None, "used": []}
    facts = {"source": folder / "series", **output.volumes(masks * 0, geometry), "reason": output.NO_TUMOUR}
    sr = write_report({"T2w": facts}, folder / "sr.dcm", patient_row=row, segmentations={})
    report = highdicom.sr.srread(sr)
    assert [measured(report, f"{name} in T2w")[0] for name in ("WT", "ET")] == [0, 0]
    comments = [item.TextValue for item in items(report, "Comment")]
    assert "T2w: no segmentation is stored, for no tumour was found." in comments
    # a cohort's prior is no measurement
    assert any("No probability of MGMT promoter methylation" in text for text in comments)
    assert not [item for item in items(report) if "MGMT-P" in item.ConceptNameCodeSequence[0].CodeValue]
    assert errors_of(sr) == []


def test_report_without_a_series(tmp_path):
    row = {"patient": "00001", "probability": 0.5, "used": []}
    with pytest.raises(DicomError, match="patient 00001: no DICOM series"):
        write_report({}, tmp_path / "sr.dcm", patient_row=row, segmentations={})


# After a prediction


def prepare(folder, entries, empty=()):
    """Prepared series with masks, as a prediction leaves them, and the patients' rows."""
    index, rows = {}, []
    for entry in entries:
        rows.append(
            {"patient": entry["patient"], "probability": 0.75, "agreement_interval": (0.5, 0.9), "used": ["FLAIR"]}
        )
        for mri_type in MRI_TYPES:
            if mri_type not in entry:
                continue
            name = f"{entry['patient']}/{mri_type}"
            stack, geometry = read_stack(entry[mri_type])
            masks = some_masks(stack) * (name not in empty)
            info = {"patient": entry["patient"], "mri_type": mri_type}
            write_series(folder / f"{name}.h5", stack.astype(np.uint8), np.arange(len(stack)), masks, info, geometry)
            index[name] = {"file": f"{name}.h5", **info}
    (folder / "index.json").write_text(json.dumps({"series": index}))
    return rows


def test_after_a_prediction(tmp_path, caplog, monkeypatch):
    studies = tmp_path / "studies"
    for patient, mri_type in (("a", "FLAIR"), ("a", "T2w"), ("b", "FLAIR"), ("c", "T1w")):
        make_series(studies / patient / mri_type, study=patient, series=mri_type)
    for file in (studies / "c" / "T1w").iterdir():  # no geometry
        dataset = pydicom.dcmread(file)
        del dataset.ImagePositionPatient
        dataset.save_as(file)
    _, geometry = read_stack(studies / "a" / "FLAIR")
    nib.save(nib.Nifti1Image(np.arange(240.0).reshape(6, 8, 5), geometry.affine), studies / "a" / "T1w.nii.gz")
    (studies / "d").mkdir()
    for k in range(3):
        cv2.imwrite(str(studies / "d" / f"Image-{k}.png"), np.full((8, 6), 40 * k, np.uint8))
    entries = [
        {
            "patient": "a",
            "FLAIR": str(studies / "a/FLAIR"),
            "T2w": str(studies / "a/T2w"),
            "T1w": str(studies / "a/T1w.nii.gz"),
        },
        {"patient": "b", "FLAIR": str(studies / "b/FLAIR")},
        {"patient": "c", "T1w": str(studies / "c/T1w")},
        {"patient": "d", "FLAIR": str(studies / "d")},
    ]
    rows = prepare(tmp_path / "prepared", entries, empty={"b/FLAIR"})
    with caplog.at_level(logging.INFO):
        written = write_dicom(tmp_path / "prepared", rows, entries, tmp_path / "dicom")
    assert written == {
        "a": ["a/FLAIR_seg.dcm", "a/T2w_seg.dcm", "a/report_sr.dcm"],
        "b": ["b/report_sr.dcm"],
        "c": ["c/report_sr.dcm"],
    }
    assert {path.relative_to(tmp_path / "dicom").as_posix() for path in (tmp_path / "dicom").rglob("*.*")} == {
        name for files in written.values() for name in files
    }
    said = caplog.text
    for part in (
        "a/T1w: no DICOM is written", "b/FLAIR: no DICOM is written: no tumour was found", "no usable ImagePositionPatient",
        "d/FLAIR: no DICOM is written", "5 DICOM files of 3 patients",
    ):  # fmt: skip
        assert part in said
    assert "copy" not in said  # highdicom tells all that it does
    report = pydicom.dcmread(tmp_path / "dicom" / "c" / "report_sr.dcm")
    comments = " ".join(item.TextValue for item in items(report, "Comment"))
    assert "T1w: no segmentation is stored, for the headers of the series do not allow one." in comments
    assert str(tmp_path) not in comments
    for files in written.values():
        for name in files:
            assert errors_of(tmp_path / "dicom" / name) == []
    # again, as an interrupted prediction does it, and from the folder that it lies in
    monkeypatch.chdir(tmp_path)
    assert write_dicom("prepared", rows, entries, "dicom") == written
    seg, report = (pydicom.dcmread(tmp_path / "dicom" / "a" / name) for name in ("FLAIR_seg.dcm", "report_sr.dcm"))
    (referenced,) = items(measured(report, "WT in FLAIR")[1], "Referenced Segment")
    assert referenced.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == seg.SOPInstanceUID


@pytest.mark.parametrize(("on", "told"), [(None, ["T1wCE"]), (["FLAIR", "T1wCE"], ["FLAIR", "T1wCE"])])
def test_enhancing_tumour_is_claimed_with_contrast_agent_alone(tmp_path, on, told):
    for mri_type in ("FLAIR", "T1wCE"):
        make_series(tmp_path / mri_type, study="a", series=mri_type)
    entries = [{"patient": "a", **{mri_type: str(tmp_path / mri_type) for mri_type in ("FLAIR", "T1wCE")}}]
    rows = prepare(tmp_path / "prepared", entries)
    write_dicom(tmp_path / "prepared", rows, entries, tmp_path / "dicom", **({"enhancing_on": on} if on else {}))
    report = pydicom.dcmread(tmp_path / "dicom" / "a" / "report_sr.dcm")
    named = [item.TextValue for item in items(report, "Tracking Identifier")]
    for mri_type in ("FLAIR", "T1wCE"):
        file = tmp_path / "dicom" / "a" / f"{mri_type}_seg.dcm"
        segments = [segment.SegmentLabel for segment in pydicom.dcmread(file).SegmentSequence]
        assert segments == ["Whole tumour (WT)", "Enhancing tumour (ET)"][: 2 if mri_type in told else 1]
        assert f"WT in {mri_type}" in named
        assert (f"ET in {mri_type}" in named) == (mri_type in told)
        masks = PreparedSeries(tmp_path / "prepared" / "a" / f"{mri_type}.h5").masks()
        assert pydicom.dcmread(file).pixel_array[: len(masks)].sum() == masks.any(axis=1).sum()  # what is ET is WT
        assert errors_of(file) == []


def test_a_source_that_changed_stops_nobody_else(tmp_path, caplog):
    for patient in ("a", "b"):
        make_series(tmp_path / patient, study=patient)
    entries = [{"patient": patient, "FLAIR": str(tmp_path / patient)} for patient in ("a", "b")]
    rows = prepare(tmp_path / "prepared", entries)
    shutil.rmtree(tmp_path / "a")
    with caplog.at_level(logging.WARNING):
        written = write_dicom(tmp_path / "prepared", rows, entries, tmp_path / "dicom")
    assert list(written) == ["b"]
    assert "a/FLAIR: no DICOM is written" in caplog.text


# Before a prediction


def test_settings_are_checked_first():
    output.require(True, True)
    output.require(False, False)
    with pytest.raises(ValueError, match="add --dicom"):
        output.require(False, True)
    with pytest.raises(ValueError, match="dicom is 'yes', expected True or False"):
        output.require("yes")


def test_without_highdicom(monkeypatch, series):
    folder, _, geometry, masks = series
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ImportError, match=r"pip install 'brats-mri-radiogenomics\[dicom\]'"):
        output.require()
    with pytest.raises(ImportError, match="pip install"):
        save_segmentation(folder, masks, geometry)
    output.require(dicom=False)


# On real MRI


def test_real_series(real_data, tmp_path):
    """Each marked voxel lies in the file that it was marked in, and all that is written is valid."""
    study, segs = {}, {}
    for mri_type in MRI_TYPES:
        source = real_data / "task2" / "train" / "07294" / mri_type
        stack, geometry = read_stack(source)
        masks = np.zeros((len(stack), 2, *stack.shape[1:]), dtype=np.uint8)
        rng = np.random.default_rng(0)
        for k in range(2, len(stack), 3):
            masks[k, 0, rng.integers(stack.shape[1], size=20), rng.integers(stack.shape[2], size=20)] = 1
            masks[k, 1] = masks[k, 0] * (rng.random(stack.shape[1:]) < 0.5)
        file = tmp_path / f"{mri_type}_seg.dcm"
        segs[mri_type] = write_segmentation(source, masks, file, geometry=geometry, patient="07294", mri_type=mri_type)
        study[mri_type] = {"source": source, **output.volumes(masks, geometry), "reason": ""}
        assert errors_of(file) == []
        # RAS of the NIfTI masks' affine against LPS of DICOM
        for segment, found in marked_places(file).items():
            index = np.argwhere(masks[:, segment - 1])
            expected = nib.affines.apply_affine(geometry.stack_affine, index[:, ::-1]) * [-1, -1, 1]
            assert len(found) == len(expected)
            distances = np.linalg.norm(found[:, None] - expected[None], axis=2)
            assert distances.min(axis=1).max() < 0.05  # the volume has one step, the files have their own positions
            assert len(set(distances.argmin(axis=1))) == len(expected)
    row = {"patient": "07294", "probability": 0.5, "agreement_interval": None, "used": ["FLAIR"]}
    assert errors_of(write_report(study, tmp_path / "sr.dcm", patient_row=row, segmentations=segs)) == []
