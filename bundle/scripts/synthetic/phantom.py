"""The phantom cohort: synthetic glioma patients in the layouts of both challenge tasks.

A phantom is the MNI152 average brain (shipped inside nilearn), deformed per patient, given a contrast per modality,
with a tumour grown in it. Its "MGMT label" is **made up**: it changes the tumour's look by an amount the user chooses,
has no biological meaning, and tells nothing about how well MGMT status can be read from real MRI.

Layouts: METHOD section "The challenge". Atlas: Fonov et al., NeuroImage 54 (2011), ICBM 2009a nonlinear symmetric.
"""

import csv
import gzip
import math
import os
import platform
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset, validate_file_meta
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from tqdm import tqdm

from custom_transforms.planes import DISPLAY_AXCODES

from ..files import is_dead
from .brains import RandomFields, load_atlas, rotation, sample_atlas, soft_step

__all__ = [
    "MRI_TYPES",
    "PhantomPatient",
    "PhantomSeries",
    "balanced_labels",
    "make_patient",
    "make_series",
    "write_cohort",
]

# Challenge name -> BraTS 2021 file name.
MRI_TYPES = {"FLAIR": "flair", "T1w": "t1", "T1wCE": "t1ce", "T2w": "t2"}
FOLDERS = ("task1", "task2", "task2_masks", "task2_jpg")
README = "README.txt"
HEADLINE = "PHANTOM COHORT - synthetic images, not patients"
NO_MEANING = "The MGMT label is a made-up signal without biological meaning."

FIELD_OF_VIEW = (240.0, 240.0, 155.0)  # mm, as BraTS
SMALLEST_FIELD_OF_VIEW = (165.0, 200.0, 150.0)  # mm, holds the largest brain that is drawn


@dataclass(frozen=True)
class Contrast:
    """Intensities of one modality as fractions of its white level (about the 99.5th percentile of the volume).

    Pairs are the values at (label 0, label 1) when the signal is full. `texture` scales the template's own T1 texture.
    """

    csf: float
    grey: float
    white: float
    texture: float
    vessels: float
    oedema: tuple[float, float]
    enhancing: tuple[float, float]
    necrosis: tuple[float, float]

    def at(self, trait: float) -> dict[str, float]:
        """Return one value a tissue; `trait` 0 is the look of label 0, 1 that of label 1."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: _between(value, trait) if isinstance(value, tuple) else value for name, value in values}


# Near those measured on a real glioma; the pairs lie on both sides of what was measured there.
CONTRASTS = {
    "FLAIR": Contrast(0.14, 0.59, 0.50, -0.3, 0.35, (0.76, 0.94), (0.66, 0.82), (0.26, 0.62)),
    "T1w": Contrast(0.17, 0.48, 0.78, 1.3, 0.85, (0.44, 0.54), (0.36, 0.50), (0.16, 0.36)),
    "T1wCE": Contrast(0.17, 0.46, 0.68, 1.3, 1.15, (0.42, 0.48), (0.82, 1.08), (0.13, 0.44)),
    "T2w": Contrast(0.86, 0.34, 0.22, -0.4, 0.30, (0.46, 0.62), (0.40, 0.54), (0.95, 0.58)),
}
# Thickness of the enhancing rim as a fraction of the core's radius at (label 0, label 1): a thin ring, a solid lump.
RIM_FRACTION = (0.25, 0.65)


@dataclass(frozen=True)
class PhantomPatient:
    """One synthetic patient on one grid, the four modalities registered.

    Attributes:
        number: patient number, unique in a cohort.
        label: made-up MGMT value, 0 or 1.
        volumes: modality name -> float32 (X, Y, Z) in arbitrary scanner units, index order LPS, 0 outside the brain.
        seg: uint8 (X, Y, Z) BraTS labels: 1 necrotic core, 2 oedema, 4 enhancing tumour.
        affine: (4, 4) voxel index -> RAS world in mm, diag(-s, -s, s) and a translation.
    """

    number: int
    label: int
    volumes: dict[str, np.ndarray]
    seg: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class PhantomSeries:
    """One modality as a scanner stores it: square slices in one plane.

    Attributes:
        image: uint16 (columns, rows, slices), slices ordered along the slice normal.
        mask: uint8, same shape: 1 tumour that does not enhance, 2 enhancing tumour.
        affine: (4, 4) voxel index -> RAS world in mm.
    """

    image: np.ndarray
    mask: np.ndarray
    affine: np.ndarray


def _between(pair: tuple[float, float], trait: float) -> float:
    return pair[0] + trait * (pair[1] - pair[0])


def _grid(spacing: float, shape: Sequence[int] | None) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of an LPS grid centred on the brain."""
    if spacing <= 0:
        raise ValueError(f"spacing is a voxel side in mm and must be positive, got {spacing}.")
    size = tuple(shape) if shape is not None else tuple(round(extent / spacing) for extent in FIELD_OF_VIEW)
    if len(size) != 3 or any(n * spacing < least for n, least in zip(size, SMALLEST_FIELD_OF_VIEW, strict=True)):
        raise ValueError(
            f"shape {size} at {spacing} mm does not hold a head: the field of view must be at least "
            f"{SMALLEST_FIELD_OF_VIEW} mm. Ask for more voxels or leave shape out."
        )
    affine = np.diag([-spacing, -spacing, spacing, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(size) - 1) / 2)
    return size, affine


def _check_signal(signal: float) -> None:
    if not 0 <= signal <= 1:
        raise ValueError(f"signal must lie in 0 ... 1, got {signal}.")


def _check_thickness(thickness: float, spacing: float) -> None:
    if thickness < spacing:
        raise ValueError(f"slice_thickness {thickness} mm is thinner than a voxel ({spacing} mm); ask for more.")


def make_patient(
    number: int,
    label: int,
    signal: float = 1.0,
    seed: int = 67,
    spacing: float = 2.0,
    shape: Sequence[int] | None = None,
) -> PhantomPatient:
    """Draw one synthetic patient; the same arguments give the same voxels.

    Everything random comes from (seed, number) and is drawn alike for both labels. The label moves the tumour's traits
    (thickness of the enhancing rim, intensities of necrosis, rim and oedema) from the middle towards its own end by
    `signal`: at 0 the label changes nothing at all.

    Args:
        number: patient number.
        label: made-up MGMT value, 0 or 1. It has no biological meaning.
        signal: strength of the label in the image, 0 (none) to 1 (plain to see).
        seed: seed of the cohort.
        spacing: voxel side in mm.
        shape: voxels per axis; None means the 240 x 240 x 155 mm of BraTS.

    Raises:
        ValueError: label, signal, spacing or shape out of range.
        ImportError: nilearn is not installed.
    """
    if label not in (0, 1):
        raise ValueError(f"label must be 0 or 1, got {label}.")
    _check_signal(signal)
    size, affine = _grid(spacing, shape)
    atlas = load_atlas()
    rng = np.random.default_rng([seed, number])
    trait = 0.5 + signal * (label - 0.5)

    # Deformation: where in the atlas each voxel comes from.
    axes = [np.arange(n) * affine[a, a] + affine[a, 3] for a, n in enumerate(size)]
    random_fields = RandomFields(rng, axes)
    # The MNI152 average is larger than most brains, and would not fit into 155 mm.
    scale = rng.uniform(0.89, 0.97, 3)
    matrix = rotation(rng.uniform(-5, 5, 3)) / scale[:, None]
    shift = rng.uniform(-3, 3, 3)
    middle = atlas.affine[:3, :3] @ ((np.array(atlas.channels.shape[1:]) - 1) / 2) + atlas.affine[:3, 3]
    voxels = np.stack(np.meshgrid(*[axis.astype(np.float32) for axis in axes], indexing="ij"))
    points = np.tensordot(matrix.astype(np.float32), voxels, axes=1)
    for axis in range(3):
        points[axis] += (middle[axis] + shift[axis]) + 3.0 * random_fields.draw(36) + 1.0 * random_fields.draw(12)

    # The tumour: a noisy ellipsoid about a site deep enough in one hemisphere. `radius` is in mm of the atlas.
    core_radius = rng.uniform(12.0, 17.0)
    sites = atlas.sites[atlas.sites[:, 3] >= core_radius + 3]
    centre = sites[int(rng.random() * len(sites)), :3]
    side = np.sign(centre[0])
    stretch = np.exp(rng.uniform(-0.2, 0.2, 3))
    ellipsoid = (rotation(rng.uniform(0, 180, 3)) * stretch[:, None] / np.cbrt(stretch.prod())).astype(np.float32)
    offset = points - centre[:, None, None, None].astype(np.float32)
    radius = np.sqrt((np.tensordot(ellipsoid, offset, axes=1) ** 2).sum(0))
    # Mass effect: the tumour pushes the tissue around it outwards.
    push = rng.uniform(0.2, 0.4)
    points -= push * offset * np.exp(-((radius / (1.6 * core_radius)) ** 2))

    grey, white, texture, depth = sample_atlas(atlas, points)
    brain = depth > 0.5
    # The template is an average of 152 brains; without sharpening its sulci are a haze.
    csf = np.clip(1 - grey - white, 0, 1)
    tissues = np.stack([csf, grey, white]) ** 1.6
    csf, grey, white = tissues / np.maximum(tissues.sum(0), 1e-6)

    inside = soft_step(np.minimum(depth - 3, side * points[0] - 2), 1.5)
    core_edge = core_radius * (1 + np.clip(0.17 * random_fields.draw(11), -0.35, 0.25))
    rim = _between(RIM_FRACTION, trait) + rng.normal(0, 0.02)
    necrosis_edge = core_edge * (1 - rim * np.clip(1 + 0.15 * random_fields.draw(9), 0.7, 1.3))
    reach = rng.uniform(7, 12)
    oedema_edge = core_edge + reach * (0.15 + 0.85 * white) * np.clip(0.9 + 0.5 * random_fields.draw(14), 0.15, 1.3)
    in_core = soft_step(core_edge - radius, 1.5) * inside
    in_necrosis = soft_step(necrosis_edge - radius, 1.5) * inside
    in_oedema = soft_step(oedema_edge - radius, 3) * inside * (1 - csf)
    seg = np.zeros(size, np.uint8)
    seg[in_oedema > 0.5] = 2
    seg[in_core > 0.5] = 4
    seg[in_necrosis > 0.5] = 1

    # Vessels run where the outer fluid is; they keep "brightest in T1wCE" from meaning "tumour".
    in_vessels = np.clip(random_fields.draw(6) - 1.2, 0, 1) * csf * soft_step(8 - depth, 3)
    mottle = random_fields.draw(7)
    volumes = {}
    for mri_type, contrast in CONTRASTS.items():
        drawn = {name: value * math.exp(rng.normal(0, 0.04)) for name, value in contrast.at(trait).items()}
        volume = drawn["csf"] * csf + drawn["grey"] * grey + drawn["white"] * white + drawn["texture"] * texture
        volume += in_vessels * (drawn["vessels"] - volume)
        for weight, name in ((in_oedema, "oedema"), (in_core, "enhancing"), (in_necrosis, "necrosis")):
            volume += weight * (drawn[name] * (1 + 0.08 * mottle) - volume)
        volume *= np.exp(0.06 * random_fields.draw(90))
        volumes[mri_type] = volume
    # Voxel noise comes last: all that is drawn before is the same at every voxel size.
    for mri_type, volume in volumes.items():
        level = rng.uniform(0.012, 0.025)
        gain = rng.uniform(250, 1200)
        real, imaginary = level * rng.standard_normal((2, *size), dtype=np.float32)
        rician = np.sqrt((volume + real) ** 2 + imaginary**2)
        volumes[mri_type] = (np.where(brain, rician, 0) * gain).astype(np.float32)
    return PhantomPatient(number, label, volumes, seg * brain, affine)


def make_series(
    volume: np.ndarray, seg: np.ndarray, affine: np.ndarray, plane: str = "axial", slice_thickness: float | None = None
) -> PhantomSeries:
    """Cut a patient's volume into the slices of one series, without gaps.

    Thick slices average over their thickness, so small parts blur as on a scanner; a mask voxel takes what fills more
    than half of it.

    Args:
        volume: (X, Y, Z), scanner units.
        seg: (X, Y, Z), BraTS labels 1, 2, 4.
        affine: (4, 4) of both, RAS mm.
        plane: axial, coronal or sagittal.
        slice_thickness: mm, at least the voxel side; None means the voxel side.

    Raises:
        ValueError: unknown plane, or slices thinner than a voxel.
    """
    if plane not in DISPLAY_AXCODES:
        raise ValueError(f"plane must be one of {', '.join(DISPLAY_AXCODES)}, got {plane!r}.")
    spacing = float(np.abs(np.diag(affine)[:3]).min())
    thickness = spacing if slice_thickness is None else float(slice_thickness)
    _check_thickness(thickness, spacing)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(DISPLAY_AXCODES[plane])
    )
    channels = [
        nib.orientations.apply_orientation(array, turn)
        for array in (volume, (seg > 0).astype(np.float32), (seg == 4).astype(np.float32))
    ]
    series_affine = affine @ nib.orientations.inv_ornt_aff(turn, volume.shape)

    # Scanners store square slices.
    columns, rows, depth = channels[0].shape
    pad = [
        ((max(rows, columns) - n) // 2, max(rows, columns) - n - (max(rows, columns) - n) // 2) for n in (columns, rows)
    ]
    series_affine = series_affine @ _translation(-pad[0][0], -pad[1][0], 0)
    channels = [np.pad(array, (*pad, (0, 0))) for array in channels]

    # Slices lie symmetrically about the middle of the volume; weights (slices, voxels) are shares of a slice.
    slices = math.ceil(depth * spacing / thickness - 1e-6)
    starts = (depth - slices * thickness / spacing) / 2 + np.arange(slices) * thickness / spacing
    ends = starts + thickness / spacing
    edges = np.arange(depth)
    weights = np.minimum(ends[:, None], edges + 1) - np.maximum(starts[:, None], edges)
    weights = np.clip(weights, 0, None)
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    image, tumour, enhancing = (array @ weights.T for array in channels)
    # Index k stands for the middle of slice k.
    series_affine = series_affine @ _translation(0, 0, starts[0] + thickness / spacing / 2 - 0.5)
    series_affine[:3, 2] *= thickness / spacing

    mask = (tumour > 0.5).astype(np.uint8) + ((tumour > 0.5) & (enhancing > 0.5))
    return PhantomSeries(np.rint(image).astype(np.uint16), mask.astype(np.uint8), series_affine)


def _translation(i: float, j: float, k: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = i, j, k
    return matrix


def balanced_labels(count: int, seed: Sequence[int]) -> list[int]:
    """Shuffled labels, half of them 1 (an odd one out is 0)."""
    labels = np.arange(count) % 2
    return [int(label) for label in np.random.default_rng(list(seed)).permutation(labels)]


def _file_numbers(mri_type: str, count: int) -> list[int]:
    """File number of each slice along the normal: as in the challenge, not to be relied on for the order."""
    ascending = list(range(1, count + 1))
    if mri_type == "FLAIR":  # against the slice order
        return ascending[::-1]
    if mri_type == "T1wCE":  # does not start at 1
        return [number + 17 for number in ascending]
    if mri_type == "T2w":  # acquired interleaved: every other slice first
        return [k // 2 + 1 + (k % 2) * ((count + 1) // 2) for k in range(count)]
    return ascending


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header["descrip"] = b"PHANTOM: synthetic, not a patient"
    image.header.set_xyzt_units("mm")
    # Without a time stamp in the archive the same voxels give the same file.
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=2, mtime=0))


def _write_dicom_series(
    folder: Path, patient: str, mri_type: str, series: PhantomSeries, thickness: float, uid_name: str
) -> None:
    """Write `Image-N.dcm`, MR Image Storage; `uid_name` makes the UIDs, the same name the same UIDs."""

    def uid(name: str) -> UID:
        return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{uid_name}/{name}').int}")

    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ series.affine
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / steps
    peak = int(series.image.max())
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationVersionName = "PHANTOM"  # not pydicom's, so that its version doesn't change the files
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=False, is_little_endian=True)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    dataset.SOPClassUID = MRImageStorage
    for type_2 in (
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ReferringPhysicianName",
        "PatientBirthDate",
        "PatientSex",
    ):
        setattr(dataset, type_2, "")
    dataset.Modality = "MR"
    dataset.BodyPartExamined = "BRAIN"  # not one of a pair, of which DICOM would ask the side
    dataset.Manufacturer = "PHANTOM"
    dataset.StudyDescription = "PHANTOM (synthetic)"
    dataset.SeriesDescription = mri_type
    dataset.PatientName = f"PHANTOM^{patient}"
    dataset.PatientID = patient
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Synthetic image"
    dataset.ScanningSequence = "RM"
    dataset.SequenceVariant = "NONE"
    dataset.ScanOptions = ""
    dataset.MRAcquisitionType = "3D" if math.isclose(steps[0], steps[2]) else "2D"
    dataset.SliceThickness = round(thickness, 6)
    dataset.RepetitionTime = None
    dataset.EchoTime = None
    dataset.EchoTrainLength = None
    dataset.SpacingBetweenSlices = round(float(steps[2]), 6)
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID = uid("study")
    dataset.SeriesInstanceUID = uid(mri_type)
    dataset.StudyID = patient
    dataset.SeriesNumber = list(MRI_TYPES).index(mri_type) + 1
    dataset.FrameOfReferenceUID = uid("frame")
    dataset.PositionReferenceIndicator = ""
    dataset.ImageOrientationPatient = [round(float(v), 6) for v in directions[:, :2].T.ravel()]
    dataset.ImageComments = f"{HEADLINE}. {NO_MEANING}"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Columns, dataset.Rows = series.image.shape[:2]
    dataset.PixelSpacing = [round(float(steps[1]), 6), round(float(steps[0]), 6)]
    dataset.BitsAllocated = 16
    dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.QualityControlImage = "YES"  # DICOM's word for "phantom"
    dataset.WindowCenter = peak / 2
    dataset.WindowWidth = peak
    folder.mkdir(parents=True)
    for k, number in enumerate(_file_numbers(mri_type, series.image.shape[2])):
        position = (lps @ [0, 0, k, 1])[:3]
        dataset.SOPInstanceUID = uid(f"{mri_type}/{number}")
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = [round(float(v), 6) for v in position]
        dataset.SliceLocation = round(float(position @ np.cross(directions[:, 0], directions[:, 1])), 6)
        dataset.PixelData = np.ascontiguousarray(series.image[:, :, k].T).tobytes()
        # The length of the meta information is counted anew where it stands; pydicom 2 and 3 agree on that.
        dataset.file_meta.FileMetaInformationGroupLength = 0
        validate_file_meta(dataset.file_meta, enforce_standard=True)
        dataset.save_as(folder / f"Image-{number}.dcm")


def _write_jpg_series(folder: Path, mri_type: str, series: PhantomSeries) -> None:
    """Write `Image-N.jpg`, 8 bit, the series' minimum ... maximum at 0 ... 255."""
    folder.mkdir(parents=True)
    low, high = int(series.image.min()), int(series.image.max())
    grey = np.rint((series.image.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8)
    for k, number in enumerate(_file_numbers(mri_type, grey.shape[2])):
        path = folder / f"Image-{number}.jpg"
        if not cv2.imwrite(str(path), np.ascontiguousarray(grey[:, :, k].T), [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise OSError(f"{path}: the picture could not be written; is the disk full?")


def _write_csv(path: Path, rows: Mapping[str, int | float]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["BraTS21ID", "MGMT_value"])
        writer.writerows(rows.items())


def write_cohort(
    output: str | Path,
    segmentation_patients: int = 8,
    classification_patients: int = 16,
    test_patients: int = 8,
    overlap: int = 0,
    signal: float = 1.0,
    seed: int = 67,
    spacing: float = 2.0,
    shape: Sequence[int] | None = None,
    slice_thickness: float | None = None,
    planes: Mapping[str, str] | None = None,
    jpg: bool = False,
    overwrite: bool = False,
) -> dict[str, str | int]:
    """Write a synthetic cohort in the layouts of both challenge tasks; the same arguments give the same bytes.

    Task-1 patients are numbered from 0; the Task-2 training patients follow, then the test patients. With `overlap` the
    last so many Task-1 patients and the first so many Task-2 patients are the same persons under the same numbers.
    Labels are half 0, half 1 within training and within test.

    In `output`: `task1/BraTS2021_N/`; `task2/{train,test}/N/{FLAIR,T1w,T1wCE,T2w}/Image-*.dcm` with `train_labels.csv`,
    `sample_submission.csv` and `test_labels.csv` (the truth); `task2_masks/N_FLAIR.nii.gz` and so on (1 tumour that
    does not enhance, 2 enhancing, on the grid of the DICOM series); on request `task2_jpg/`; `README.txt`. They appear
    when all are made; what a killed run had in the making is removed.

    Args:
        output: folder; made if missing.
        segmentation_patients: number of Task-1 patients.
        classification_patients: number of labelled Task-2 patients.
        test_patients: number of Task-2 test patients.
        overlap: number of Task-1 patients who are Task-2 patients as well.
        signal: strength of the made-up label in the image, 0 (none) to 1 (plain to see).
        seed: seed of everything.
        spacing: voxel side in mm.
        shape: voxels per axis; None means 240 x 240 x 155 mm.
        slice_thickness: mm, of the Task-2 series; None means `spacing`.
        planes: modality -> axial, coronal or sagittal, for Task 2; axial where not named.
        jpg: write the JPG rendering of Task 2 as well.
        overwrite: replace the phantom cohort that is in `output`. Other data are never replaced.

    Returns:
        Paths (`output`, `task1`, `task2`, `masks`, `train_labels`, `test_labels`, `sample_submission`, with `jpg` also
        `jpg`) and numbers of patients (`segmentation_patients`, `classification_patients`, `test_patients`).

    Raises:
        ValueError: an argument is out of range.
        FileExistsError: `output` holds a cohort already, or something that is not a phantom.
        ImportError: nilearn is not installed.
    """
    counts = {
        "segmentation_patients": segmentation_patients,
        "classification_patients": classification_patients,
        "test_patients": test_patients,
    }
    if min(counts.values()) < 0 or sum(counts.values()) == 0:
        raise ValueError(f"Numbers of patients must not be negative, and one at least positive, got {counts}.")
    if not 0 <= overlap <= min(segmentation_patients, classification_patients):
        raise ValueError(
            f"overlap must lie in 0 ... {min(segmentation_patients, classification_patients)} (no more than there are "
            f"Task-1 or labelled Task-2 patients), got {overlap}."
        )
    planes = {**dict.fromkeys(MRI_TYPES, "axial"), **(planes or {})}
    if set(planes) != set(MRI_TYPES) or not set(planes.values()) <= set(DISPLAY_AXCODES):
        raise ValueError(f"planes maps {', '.join(MRI_TYPES)} to {', '.join(DISPLAY_AXCODES)}, got {planes}.")
    thickness = float(spacing if slice_thickness is None else slice_thickness)
    _check_signal(signal)
    _check_thickness(thickness, spacing)
    settings = {
        **counts,
        "overlap": overlap,
        "signal": float(signal),
        "seed": seed,
        "spacing": float(spacing),
        "shape": list(_grid(spacing, shape)[0]),
        "slice_thickness": thickness,
        "planes": planes,
        "jpg": jpg,
    }
    uid_name = f"phantom/{settings}"

    first_test = segmentation_patients - overlap + classification_patients
    train = range(segmentation_patients - overlap, first_test)
    test = range(first_test, first_test + test_patients)
    labels = dict(zip(train, balanced_labels(len(train), [seed, 0, 1]), strict=True))
    labels |= zip(test, balanced_labels(len(test), [seed, 0, 2]), strict=True)
    segmentation_only = range(segmentation_patients - overlap)
    labels |= zip(segmentation_only, balanced_labels(len(segmentation_only), [seed, 0, 3]), strict=True)

    output = Path(output).resolve()
    _check_output(output, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(output)
    staging = Path(tempfile.mkdtemp(prefix=f".phantom-{platform.node()}-{os.getpid()}-", dir=output))
    try:
        for folder in FOLDERS if jpg else FOLDERS[:-1]:
            (staging / folder).mkdir()
        for number in tqdm(sorted(labels), desc="phantom patients", unit="patient"):
            patient = make_patient(number, labels[number], signal, seed, spacing, shape)
            if number < segmentation_patients:
                _write_task1(staging / "task1", patient)
            if number >= train.start:
                split = "test" if number in test else "train"
                for mri_type in MRI_TYPES:
                    series = make_series(
                        patient.volumes[mri_type], patient.seg, patient.affine, planes[mri_type], thickness
                    )
                    name = f"{number:05d}"
                    where = Path(split, name, mri_type)
                    _write_dicom_series(
                        staging / "task2" / where, name, mri_type, series, thickness, f"{uid_name}/{number}"
                    )
                    _write_nifti(staging / "task2_masks" / f"{name}_{mri_type}.nii.gz", series.mask, series.affine)
                    if jpg:
                        _write_jpg_series(staging / "task2_jpg" / where, mri_type, series)
        _write_csv(staging / "task2" / "train_labels.csv", {f"{n:05d}": labels[n] for n in train})
        _write_csv(staging / "task2" / "test_labels.csv", {f"{n:05d}": labels[n] for n in test})
        _write_csv(staging / "task2" / "sample_submission.csv", {f"{n:05d}": 0.5 for n in test})
        (staging / README).write_text(_readme(settings), encoding="utf-8")
        _check_output(output, overwrite)
        # The README, by which a later run knows a phantom, comes first; the rest are renames, done in no time.
        (staging / README).replace(output / README)
        for folder in FOLDERS:
            if (output / folder).exists():
                (output / folder).replace(staging / f"old_{folder}")
            if (staging / folder).exists():
                (staging / folder).replace(output / folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)

    paths = {
        "output": output,
        "task1": output / "task1",
        "task2": output / "task2",
        "masks": output / "task2_masks",
        "train_labels": output / "task2" / "train_labels.csv",
        "test_labels": output / "task2" / "test_labels.csv",
        "sample_submission": output / "task2" / "sample_submission.csv",
    }
    if jpg:
        paths["jpg"] = output / "task2_jpg"
    return {**{name: str(path) for name, path in paths.items()}, **counts}


def _write_task1(folder: Path, patient: PhantomPatient) -> None:
    name = f"BraTS2021_{patient.number:05d}"
    (folder / name).mkdir()
    for mri_type, file_name in MRI_TYPES.items():
        volume = np.rint(patient.volumes[mri_type]).astype(np.int16)
        _write_nifti(folder / name / f"{name}_{file_name}.nii.gz", volume, patient.affine)
    _write_nifti(folder / name / f"{name}_seg.nii.gz", patient.seg, patient.affine)


def _check_output(output: Path, overwrite: bool) -> None:
    """Refuse what would be replaced without being asked for, and what is no phantom in any case."""
    present = [name for name in (*FOLDERS, README) if (output / name).exists()]
    if not present:
        return
    readme = output / README
    is_phantom = readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith(HEADLINE)
    if not is_phantom:
        raise FileExistsError(
            f"{output} holds {', '.join(present)} but no {README} of a phantom cohort: these may be somebody's "
            "data and are not replaced. Choose another output folder."
        )
    if not overwrite:
        raise FileExistsError(
            f"{output} holds a phantom cohort already ({', '.join(present)}). Choose another output folder, or "
            "ask for it to be replaced with overwrite=True (--overwrite True)."
        )


def _remove_leftovers(output: Path) -> None:
    """Remove the hidden folders that runs of this machine had in the making in `output` when they were killed."""
    made_here = re.compile(rf"\.phantom-{re.escape(platform.node())}-(\d{{1,9}})-\w+")
    for folder in output.iterdir():
        match = made_here.fullmatch(folder.name)
        if match and is_dead(int(match[1])):
            shutil.rmtree(folder, ignore_errors=True)


def _readme(settings: Mapping[str, object]) -> str:
    lines = "\n".join(f"  {name}: {value}" for name, value in settings.items())
    return f"""{HEADLINE}

{NO_MEANING}
It changes the look of the tumour (thickness of the enhancing rim; brightness of necrosis, rim and oedema in all
modalities) by an amount that was chosen: the setting `signal`, 0 = not at all, 1 = plain to see. A figure measured on
this cohort shows that software works; it says nothing about real MRI or real MGMT status. Never for diagnosis.

How it was made: the MNI152 average brain (ICBM 2009a nonlinear symmetric, as carried by nilearn), deformed at random
per patient, given a contrast per modality, vessels, a tumour (necrotic core, enhancing rim, oedema along white matter),
a bias field and Rician noise. Everything follows from the settings, so that they make the same files again:

{lines}

  task1/        BraTS 2021 form; labels 1 necrotic core, 2 oedema, 4 enhancing tumour
  task2/        DICOM series and labels; test_labels.csv is the truth of the test patients
  task2_masks/  true masks of the Task-2 series: 1 tumour that does not enhance, 2 enhancing tumour
  task2_jpg/    8-bit rendering of task2, if it was asked for
"""
