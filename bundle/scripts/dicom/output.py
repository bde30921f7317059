"""DICOM out: a Segmentation (SEG) for every DICOM series, and a Structured Report (SR) for every patient.

A SEG holds WT and ET as overlapping binary segments, frame by frame on the slices of its source series, to which each
frame refers. The SR (Comprehensive SR, TID 1500) holds their volumes and the probability of MGMT promoter methylation.

What comes from the source is what the standard asks such objects to share with it: patient, study and frame of reference.
What the source lacks stays empty. Deidentified objects carry nothing of patient and study but the UIDs that link them to
the source, and the data list's name of the patient.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.valuerep import DA, DS, TM

from custom_transforms import DicomSlices, SeriesError, SliceGeometry, dicom_slices

from .. import distributed
from ..datalists import ENHANCING_ON, MRI_TYPES
from ..environment import BUNDLE_ROOT
from ..files import written_whole
from ..outputs import inside
from ..preparation import read_index
from ..prepared import PreparedSeries
from ..results import RESEARCH_ONLY, claimed, nested

logger = logging.getLogger(__name__)

REPORT_NAME = "report_sr.dcm"
SERIES_NUMBER = 9000
"""Of a patient's report; the segmentations of the modalities are the series that follow."""

CODING_SCHEME = "99RADIOGENOMICS"
"""Designator of this project's own codes, for which no public scheme has one."""

_PROBABILITY = Code("MGMT-P", CODING_SCHEME, "Probability of MGMT promoter methylation")
_LOWER = Code("MGMT-P-LOW", CODING_SCHEME, "Agreement interval of MGMT probability, 95 %, lower end")
_UPPER = Code("MGMT-P-HIGH", CODING_SCHEME, "Agreement interval of MGMT probability, 95 %, upper end")
_METHYLATION = Code("MGMT", CODING_SCHEME, "MGMT promoter methylation")

# SNOMED CT's code, and that of DICOM's own context groups of brain lesions, CID 7168 and 7169
_SEGMENTS = {
    "WT": ("Whole tumour (WT)", Code("108369006", "SCT", "Neoplasm")),
    "ET": ("Enhancing tumour (ET)", Code("C113842", "NCIt", "Enhancing Lesion")),
}
_CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_BRAIN = Code("12738006", "SCT", "Brain")
_MRI_OF_BRAIN = Code("816077007", "SCT", "Magnetic resonance imaging of brain")
_VOLUME = Code("118565006", "SCT", "Volume")
_MM3 = Code("mm3", "UCUM", "cubic millimeter")
_NO_UNITS = Code("1", "UCUM", "no units")
_COMMENT = Code("121106", "DCM", "Comment")
_AI = Code("123110", "DCM", "Artificial Intelligence")

_LINKS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
# of the source image, beside its place in space: no word of the patient
_IMAGE = (
    *_LINKS, "FrameOfReferenceUID", "Modality", "Rows", "Columns", "NumberOfFrames", "SliceThickness",
    "ImagePositionPatient", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
# demanded of every object, though they may be empty
_TYPE_2 = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
    "ReferringPhysicianName",
)  # fmt: skip
# PS3.15's Basic Profile replaces the times of an object that demands them
_DUMMY_TIMES = {"ContentDate": "19000101", "ContentTime": "000000"}

NO_TUMOUR = "no tumour was found"
UNFIT = "the headers of the series do not allow one"


class DicomError(ValueError):
    """A series that no DICOM object can be written for; the message names it, what was found and what to do."""


def require(dicom: bool = True, deidentify: bool = False) -> None:
    """Check, before anything is written, that DICOM can be written as it is asked for.

    Raises:
        ImportError: when highdicom is not installed.
        ValueError: when a setting is neither True nor False, or only the second is True.
    """
    for name, value in (("dicom", dicom), ("deidentify", deidentify)):
        if not isinstance(value, bool):  # the command line makes a string of `true`, and any string would count as true
            raise ValueError(f"{name} is {value!r}, expected True or False")
    if deidentify and not dicom:
        raise ValueError("deidentify is for DICOM output, which is not asked for; add --dicom")
    if dicom and find_spec("highdicom") is None:
        raise ImportError("DICOM is written with highdicom: pip install 'brats-mri-radiogenomics[dicom]'")


# ---------------------------------------------------------------------------------------------------------------------
# what the objects share with their source


def _read(series_dir: str | Path) -> DicomSlices:
    """The headers of a series.

    Raises:
        DicomError: when it is no DICOM, or one of its files has no UIDs to refer to.
    """
    slices = dicom_slices(series_dir)
    if slices is None:
        raise DicomError(
            f"{series_dir}: found no DICOM files, to which a DICOM object could refer; pass a DICOM series"
        )
    for header in slices.headers:
        if header is not None and (missing := [keyword for keyword in _LINKS if not header.get(keyword)]):
            raise DicomError(
                f"{series_dir}: a file has no {', '.join(missing)}, to which a DICOM object could refer; export the series again"
            )
    return slices


def _check_place(series_dir: str | Path, slices: DicomSlices, geometry: SliceGeometry) -> None:
    """Raise DicomError unless the headers say where the slices lie in the patient, and that is where the masks lie."""
    header = next(header for header in slices.headers if header is not None)
    found = {
        "ImageOrientationPatient": slices.orientation is not None,
        "ImagePositionPatient": slices.positions is not None,
        "PixelSpacing": slices.spacing is not None,
        "FrameOfReferenceUID": bool(header.get("FrameOfReferenceUID")),
    }
    if missing := [keyword for keyword, there in found.items() if not there]:
        raise DicomError(
            f"{series_dir}: no usable {', '.join(missing)}: a SEG must say where its voxels lie in the patient; export "
            "the series with its geometry"
        )
    shape = (int(header.Columns), int(header.Rows), len(slices.headers))
    if shape != geometry.shape or not np.allclose(slices.affine, geometry.affine, atol=1e-3):
        raise DicomError(
            f"{series_dir}: found a volume of {shape} voxels at {slices.affine[:3, 3].round(3).tolist()}, the masks are of "
            f"one of {geometry.shape} at {geometry.affine[:3, 3].round(3).tolist()}; segment the series again"
        )


def _references(slices: DicomSlices, patient: str, deidentify: bool) -> list[Dataset]:
    """The files of a series as a new object refers to them, in slice order: patient, study, UIDs and geometry.

    Every orientation and spacing is that of the volume, for headers of one series differ in rounding; the distance between
    slices is left to be measured.
    """
    files = {id(header): header for header in slices.headers if header is not None}
    return [_reference(header, slices, patient, deidentify) for header in files.values()]


def _reference(header: Dataset, slices: DicomSlices, patient: str, deidentify: bool) -> Dataset:
    reference = Dataset()
    for element in header:  # decoded one by one: bytes would be read again in another character set
        if element.keyword in _IMAGE or not deidentify:
            reference.add(element)
    for keyword in _TYPE_2:
        if keyword not in reference:
            setattr(reference, keyword, "")
    if deidentify:
        reference.PatientID = patient
    elif reference.PatientSex not in ("M", "F", "O"):
        reference.PatientSex = ""
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(reference[keyword].value or "")
        except ValueError:  # what can't be read as a date is none
            setattr(reference, keyword, "")

    plane, pixel = Dataset(), Dataset()
    if slices.orientation is not None:
        plane.ImageOrientationPatient = [_number(value) for value in slices.orientation]
    if slices.spacing is not None:
        pixel.PixelSpacing = [_number(value) for value in slices.spacing]
    pixel.SliceThickness = _number(_thickness(header) or float(np.linalg.norm(slices.affine[:3, 2])))
    if "PerFrameFunctionalGroupsSequence" not in header:
        reference.update(plane)
        reference.update(pixel)
        if "SpacingBetweenSlices" in reference:
            del reference.SpacingBetweenSlices
        return reference
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [pixel]
    reference.SharedFunctionalGroupsSequence = [shared]
    reference.PerFrameFunctionalGroupsSequence = []
    for place in _by_frame(slices):
        group, position = Dataset(), Dataset()
        if slices.positions is not None:
            position.ImagePositionPatient = [_number(value) for value in slices.positions[place]]
        group.PlanePositionSequence = [position]
        reference.PerFrameFunctionalGroupsSequence.append(group)
    return reference


def _by_frame(slices: DicomSlices) -> list[int]:
    """The acquired slices in the order of the frames in their file; that of the slices where each has a file of its own."""
    acquired = [place for place, header in enumerate(slices.headers) if header is not None]
    return sorted(acquired, key=lambda place: slices.frames[place])


def _thickness(header: Dataset) -> float | None:
    """SliceThickness in mm, which Enhanced MR keeps in functional groups; None where the header says none."""
    groups = [
        *header.get("SharedFunctionalGroupsSequence", ()),
        *header.get("PerFrameFunctionalGroupsSequence", ())[:1],
    ]
    for item in (header, *(item for group in groups for item in group.get("PixelMeasuresSequence", ()))):
        if item.get("SliceThickness"):
            return float(item.SliceThickness)
    return None


def _number(value: float) -> Any:
    """A decimal string of 16 characters at most."""
    return DS(float(value), auto_format=True)


def _software() -> dict[str, Any]:
    """What the objects say of their maker: this bundle and its version."""
    metadata = json.loads((BUNDLE_ROOT / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return {
        "manufacturer": metadata["authors"],
        "manufacturer_model_name": metadata["name"],
        "software_versions": metadata["version"],
        "device_serial_number": "none",
    }


@contextmanager
def _making(failure: str) -> Iterator[None]:
    """What highdicom refuses becomes a DicomError; its narration, and its doubts about the source's names, are kept back."""
    narrator = logging.getLogger("highdicom")
    level = narrator.level
    narrator.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*unlikely to represent the intended person name")
            yield
    except (ValueError, AttributeError, KeyError) as error:
        raise DicomError(
            f"{failure} ({type(error).__name__}: {error}); export it as MR images, one file a slice or one multi-frame file"
        ) from error
    finally:
        narrator.setLevel(level)


def _finish(made: Dataset, path: Path, deidentify: bool) -> Path:
    """Write an object, whole or not at all; if it is deidentified, without times and with the statement that it is."""
    if deidentify:

        def forget(dataset: Dataset, element: pydicom.DataElement) -> None:
            if element.VR in ("DA", "TM", "DT"):
                element.value = _DUMMY_TIMES.get(element.keyword, "")

        made.walk(forget)
        made.PatientIdentityRemoved = "YES"
        made.LongitudinalTemporalInformationModified = "REMOVED"
        made.DeidentificationMethod = "Patient, study, equipment, times of source not copied; UIDs kept"
        made.DeidentificationMethodCodeSequence = [
            _item(Code("113100", "DCM", "Basic Application Confidentiality Profile")),
            _item(Code("113110", "DCM", "Retain UIDs Option")),
        ]
    with written_whole(path) as temporary:
        made.save_as(temporary, enforce_file_format=True)
    return path


def _item(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


# ---------------------------------------------------------------------------------------------------------------------
# segmentations


def write_segmentation(
    series_dir: str | Path,
    masks: np.ndarray,
    path: str | Path,
    *,
    geometry: SliceGeometry,
    patient: str,
    mri_type: str,
    deidentify: bool = False,
) -> Path | None:
    """Write the DICOM SEG of one DICOM series, whole or not at all.

    Segment 1 is WT, segment 2 is ET, which is part of WT as in label maps; both are described where there are masks of both, and
    only frames that show them are written. Where no voxel is marked nothing is written, for DICOM knows no SEG without frames,
    and what was at ``path`` is removed.

    Args:
        series_dir: the source: a folder of DICOM files, or one multi-frame file.
        masks: ``(N, 2, H, W)`` of 0 and 1, WT and ET of every slice, or ``(N, 1, H, W)``, WT alone, as
            :func:`~scripts.results.claimed` gives them.
        path: file to write; folders are made.
        geometry: of the series that the masks were made on.
        patient: its name in the data list, the PatientID of deidentified objects.
        mri_type: modality, for the description.
        deidentify: leave out what identifies the patient.

    Returns:
        The file; None where no voxel is marked.

    Raises:
        ImportError: when highdicom is not installed.
        DicomError: when the series does not say where its slices lie, or is not the one that the masks were made on.
        SeriesError: when its files do not make one series.
    """
    require()
    import highdicom
    from highdicom.seg import Segmentation, SegmentDescription

    path = Path(path)
    slices = _read(series_dir)
    _check_place(series_dir, slices, geometry)
    if not masks.any():
        path.unlink(missing_ok=True)
        return None
    # (slices, rows, columns, segments) of the files, whichever way the stack shows them
    regions = np.moveaxis(nested(masks), 1, 0)
    frames = np.stack([np.asarray(geometry.to_volume(region)).T for region in regions], axis=-1).astype(np.uint8)
    places = _by_frame(slices)
    # a blank slice has no file; a mask on one is kept at its place, at the price of references from slice to slice
    blank = [place for place, header in enumerate(slices.headers) if header is None and frames[place].any()]
    positions = None
    if blank:
        places += blank
        assert slices.positions is not None  # checked above
        positions = [highdicom.PlanePositionSequence("PATIENT", slices.positions[place]) for place in places]
    software = _software()
    algorithm = highdicom.AlgorithmIdentificationSequence(
        software["manufacturer_model_name"], family=_AI, version=software["software_versions"]
    )
    descriptions = [
        SegmentDescription(
            number,
            label,
            _CATEGORY,
            kind,
            "AUTOMATIC",
            algorithm,
            tracking_uid=highdicom.UID(),
            tracking_id=f"{name} in {mri_type}",
            anatomic_regions=[_BRAIN],
        )
        for number, (name, (label, kind)) in enumerate(list(_SEGMENTS.items())[: len(regions)], 1)
    ]
    with _making(f"{series_dir}: no SEG can refer to this series"):
        made = Segmentation(
            _references(slices, patient, deidentify),
            frames[places],
            "BINARY",
            descriptions,
            series_instance_uid=highdicom.UID(),
            series_number=SERIES_NUMBER + 1 + MRI_TYPES.index(mri_type),
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            plane_positions=positions,
            content_description=RESEARCH_ONLY,
            content_label="TUMOUR",
            content_qualification="RESEARCH",
            series_description=f"{mri_type}: tumour masks. {RESEARCH_ONLY}",
            specific_character_set="ISO_IR 192",
            **software,
        )
    return _finish(made, path, deidentify)


def volumes(masks: np.ndarray, geometry: SliceGeometry) -> dict[str, float]:
    """Volumes in mm³ of WT and ET in masks ``(N, 2, H, W)``, or of WT alone: the marked voxels', those of ET among WT's."""
    regions = np.moveaxis(nested(masks), 1, 0)
    return {
        name: float(np.count_nonzero(region)) * geometry.voxel_volume
        for name, region in zip(_SEGMENTS, regions, strict=False)  # of ET where there is a mask of it
    }


# ---------------------------------------------------------------------------------------------------------------------
# reports


def write_report(
    study: Mapping[str, Mapping[str, Any]],
    path: str | Path,
    *,
    patient_row: Mapping[str, Any],
    segmentations: Mapping[str, str | Path],
    deidentify: bool = False,
) -> Path:
    """Write the DICOM SR of one patient (Comprehensive SR, TID 1500), whole or not at all.

    It belongs to the study of the first series. A probability that is not the networks' but the cohort's prior is left
    out, and a comment says so.

    Args:
        study: by modality the facts of its series: ``source``, the path of the DICOM series; ``WT`` and, where it is told,
            ``ET``, volumes in mm³; ``reason``, why there is no SEG.
        path: file to write; folders are made.
        patient_row: the patient's row of patients.json: ``patient``, ``probability``, ``agreement_interval``, ``used``.
        segmentations: SEG files by modality, of those that have one.
        deidentify: leave out what identifies the patient.

    Returns:
        The file.

    Raises:
        ImportError: when highdicom is not installed.
        DicomError: when there is no series, or one has no UIDs to refer to.
    """
    require()
    import highdicom
    from highdicom import sr
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    patient = patient_row["patient"]
    if not study:
        raise DicomError(f"patient {patient}: no DICOM series, to which a report could refer")
    software = _software()
    algorithm = sr.AlgorithmIdentification(
        software["manufacturer_model_name"], software["software_versions"], family=_AI
    )
    evidence: list[Dataset] = []
    groups: list[Any] = []
    comments = [RESEARCH_ONLY]
    for mri_type, facts in study.items():
        references = _references(_read(facts["source"]), patient, deidentify)
        evidence += references
        file = segmentations.get(mri_type)
        made = None if file is None else pydicom.dcmread(file)
        if made is not None:
            evidence.append(made)
            if alone := made.SharedFunctionalGroupsSequence[0].get("SegmentIdentificationSequence"):
                # highdicom writes a single segment's number once for all frames, and looks for it in each
                for frame in made.PerFrameFunctionalGroupsSequence:
                    frame.SegmentIdentificationSequence = alone
        else:
            comments.append(f"{mri_type}: no segmentation is stored, for {facts['reason']}.")
        for number, (name, (_, kind)) in enumerate(_SEGMENTS.items(), 1):
            if name not in facts:
                continue
            known: dict[str, Any] = {
                "tracking_identifier": sr.TrackingIdentifier(highdicom.UID(), f"{name} in {mri_type}"),
                "finding_type": kind,
                "finding_sites": [sr.FindingSite(_BRAIN)],
                "algorithm_id": algorithm,
                "measurements": [sr.Measurement(_VOLUME, round(facts[name], 3), _MM3)],
            }
            if made is not None and facts[name] > 0:
                segment = sr.ReferencedSegment.from_segmentation(made, number)
                tracked = made.SegmentSequence[number - 1]
                known["tracking_identifier"] = sr.TrackingIdentifier(tracked.TrackingUID, tracked.TrackingID)
                groups.append(
                    sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **known)
                )
            else:  # what has no voxels is no region that could be referred to
                source = sr.SourceImageForMeasurementGroup.from_source_image(references[0])
                groups.append(sr.MeasurementsAndQualitativeEvaluations(source_images=[source], **known))
    if patient_row["used"]:
        found = [(_PROBABILITY, patient_row["probability"])]
        if patient_row.get("agreement_interval"):
            found += zip((_LOWER, _UPPER), patient_row["agreement_interval"], strict=True)
            comments.append(
                "The agreement interval tells how far modalities, sequences and models agree, not how often they are right."
            )
        groups.append(
            sr.MeasurementsAndQualitativeEvaluations(
                sr.TrackingIdentifier(highdicom.UID(), _METHYLATION.meaning),
                finding_type=_METHYLATION,
                algorithm_id=algorithm,
                measurements=[sr.Measurement(code, round(float(value), 6), _NO_UNITS) for code, value in found],
            )
        )
    else:
        comments.append("No probability of MGMT promoter methylation: no slice could be classified.")
    device = sr.DeviceObserverIdentifyingAttributes(
        f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, ' '.join(software.values())).int}",
        name=software["manufacturer_model_name"],
        manufacturer_name=software["manufacturer"],
        model_name=software["manufacturer_model_name"],
    )
    content = sr.MeasurementReport(
        sr.ObservationContext(sr.ObserverContext(sr.CodedConcept("121007", "DCM", "Device"), device)),
        _MRI_OF_BRAIN,
        groups,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            sr.CodedConcept("en", "RFC5646", "English")
        ),
    )
    for text in comments:
        content[0].ContentSequence.append(sr.TextContentItem(_COMMENT, text, "CONTAINS"))
    scheme = CodingSchemeIdentificationItem(
        CODING_SCHEME,
        name=f"Codes of {software['manufacturer_model_name']}",
        version=software["software_versions"],
        responsible_organization=software["manufacturer"],
    )
    with _making(f"patient {patient}: no report can refer to these series"):
        report = sr.ComprehensiveSR(
            evidence,
            content[0],
            series_instance_uid=highdicom.UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            is_complete=True,
            content_qualification="RESEARCH",
            coding_schemes=[scheme],
            series_description=f"Tumour volumes, MGMT. {RESEARCH_ONLY}",
            specific_character_set="ISO_IR 192",
            **software,
        )
    return _finish(report, Path(path), deidentify)


# ---------------------------------------------------------------------------------------------------------------------
# after a prediction


def write_dicom(
    prepared_dir: str | Path,
    rows: Iterable[Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    deidentify: bool = False,
    enhancing_on: Sequence[str] = ENHANCING_ON,
) -> dict[str, list[str]]:
    """Write the SEG of every prepared series whose source is DICOM, and an SR for every patient with such a series.

    Several processes must call this together; each writes those of its share. What can't be written is left out, and the
    log says why.

    Args:
        prepared_dir: folder of prepared series with its index.
        rows: from :meth:`~scripts.results.PatientResults.patient_rows`.
        entries: of the data list.
        output_dir: folder for ``<patient>/<mri_type>_seg.dcm`` and ``<patient>/report_sr.dcm``.
        deidentify: leave out what identifies the patients.
        enhancing_on: modalities in which enhancing tumour is told.

    Returns:
        Files written, relative to the folder, by patient; only patients with any.
    """
    index, row_of = read_index(prepared_dir), {row["patient"]: row for row in rows}
    written: dict[str, list[str]] = {}
    left_out: dict[str, str] = {}
    for entry in distributed.share(entries):
        patient = entry["patient"]
        folder = inside(output_dir, patient)
        files = _write_patient(entry, index, row_of[patient], folder, deidentify, enhancing_on, left_out)
        if files:
            written[patient] = [Path(os.path.relpath(file, output_dir)).as_posix() for file in files]
    parts = distributed.gather((written, left_out))
    for name, reason in sorted((name, reason) for _, part in parts for name, reason in part.items()):
        logger.warning("%s: no DICOM is written: %s", name, reason)
    everything = {patient: files for part, _ in parts for patient, files in part.items()}
    result = {entry["patient"]: everything[entry["patient"]] for entry in entries if entry["patient"] in everything}
    logger.info("%s: %d DICOM files of %d patients", output_dir, sum(map(len, result.values())), len(result))
    return result


def _write_patient(
    entry: Mapping[str, Any],
    index: Mapping[str, Mapping[str, Any]],
    row: Mapping[str, Any],
    folder: Path,
    deidentify: bool,
    enhancing_on: Sequence[str],
    left_out: dict[str, str],
) -> list[Path]:
    """Write the objects of one patient; what is left out goes into ``left_out`` with its reason."""
    study: dict[str, dict[str, Any]] = {}
    segmentations: dict[str, Path] = {}
    for mri_type in MRI_TYPES:
        name = f"{entry['patient']}/{mri_type}"
        prepared = index.get(name, {}).get("file")
        if prepared is None:
            continue
        try:
            if dicom_slices(entry[mri_type]) is None:
                left_out[name] = f"{entry[mri_type]} is no DICOM"
                continue
        except SeriesError as error:  # changed since it was segmented
            left_out[name] = str(error)
            continue
        series = PreparedSeries(prepared)
        assert series.geometry is not None, f"{prepared}: prepared for training, without geometry"
        masks = claimed(series.masks(), mri_type, enhancing_on)
        study[mri_type] = {"source": entry[mri_type], **volumes(masks, series.geometry), "reason": NO_TUMOUR}
        try:
            made = write_segmentation(
                entry[mri_type],
                masks,
                folder / f"{mri_type}_seg.dcm",
                geometry=series.geometry,
                patient=entry["patient"],
                mri_type=mri_type,
                deidentify=deidentify,
            )
        except (DicomError, SeriesError) as error:
            # the report has no room for paths, which may hold names
            left_out[name], study[mri_type]["reason"] = str(error), UNFIT
            continue
        if made is None:
            left_out[name] = NO_TUMOUR
        else:
            segmentations[mri_type] = made
    files = list(segmentations.values())
    if study:
        try:
            files.append(
                write_report(
                    study, folder / REPORT_NAME, patient_row=row, segmentations=segmentations, deidentify=deidentify
                )
            )
        except (DicomError, SeriesError) as error:
            left_out[f"{entry['patient']}/report"] = str(error)
    return files
