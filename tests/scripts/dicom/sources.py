"""DICOM series that tests write, and what is read back from SEG and SR, by pydicom and the standard alone."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from custom_transforms import SeriesReader, SliceGeometry
from scripts.dicom.report import write_report
from scripts.dicom.segmentation import write_segmentation
from scripts.masks import region_volumes
from tests.custom_transforms.conftest import make_slice

highdicom = pytest.importorskip("highdicom", reason="DICOM output needs the extra [dicom]")

MRI_TYPES = ("FLAIR", "T1w", "T1wCE", "T2w")
AXIAL = np.eye(3)


def make_file(pixels, position, directions=AXIAL, spacing=(1.0, 1.0), study="study", series="series", **attributes):
    """One MR slice with no more than the attributes that give its position and its series; None leaves one out."""
    given = {keyword: value for keyword, value in attributes.items() if value is not None}
    dataset = make_slice(
        pixels.astype("<u2"), series_uid=generate_uid(entropy_srcs=[study, series]), instance=None,
        position=[float(f"{value:.8g}") for value in position],
        orientation=[float(f"{value:.9g}") for value in directions[:, :2].T.ravel()],
        spacing=[f"{value:.8g}" for value in spacing],
        **{"StudyInstanceUID": generate_uid(entropy_srcs=[study]), "FrameOfReferenceUID": generate_uid(entropy_srcs=[study, "frame"]), **given},
    )  # fmt: skip
    for keyword in attributes.keys() - given.keys():
        delattr(dataset, keyword)
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


def code(sequence):
    return sequence[0].CodeValue, sequence[0].CodingSchemeDesignator


def write_both(folder, masks, geometry, deidentify=False, patient="00001"):
    """SEG and SR of one series."""
    seg = save_segmentation(folder, masks, geometry, deidentify=deidentify, patient=patient)
    facts = {"source": folder / "series", **region_volumes(masks, geometry.voxel_volume), "reason": ""}
    row = {"patient": patient, "probability": 0.25, "agreement_interval": (0.125, 0.5), "used": ["FLAIR"]}
    sr = write_report(
        {"FLAIR": facts}, folder / "sr.dcm", patient_row=row, segmentations={"FLAIR": seg}, deidentify=deidentify
    )
    return seg, sr


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
