"""DICOM Structured Report (SR): a patient's tumour volumes and probability of MGMT promoter methylation.

It is a Comprehensive SR by TID 1500.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from ..files import RESEARCH_ONLY
from . import objects
from .objects import AI, BRAIN, SEGMENTS, SERIES_NUMBER, DicomError, require

CODING_SCHEME = "99RADIOGENOMICS"
"""Designator of this project's own codes, which no public scheme has."""

_PROBABILITY = Code("MGMT-P", CODING_SCHEME, "Probability of MGMT promoter methylation")
_LOWER = Code("MGMT-P-LOW", CODING_SCHEME, "Agreement interval of MGMT probability, 95 %, lower end")
_UPPER = Code("MGMT-P-HIGH", CODING_SCHEME, "Agreement interval of MGMT probability, 95 %, upper end")
_METHYLATION = Code("MGMT", CODING_SCHEME, "MGMT promoter methylation")
_MRI_OF_BRAIN = Code("816077007", "SCT", "Magnetic resonance imaging of brain")
_VOLUME = Code("118565006", "SCT", "Volume")
_MM3 = Code("mm3", "UCUM", "cubic millimeter")
_NO_UNITS = Code("1", "UCUM", "no units")
_COMMENT = Code("121106", "DCM", "Comment")


def write_report(
    study: Mapping[str, Mapping[str, Any]],
    path: str | Path,
    *,
    patient_row: Mapping[str, Any],
    segmentations: Mapping[str, str | Path],
    deidentify: bool = False,
) -> Path:
    """Write the DICOM SR of one patient (Comprehensive SR, TID 1500), whole or not at all.

    It belongs to the study of the first series. A cohort prior in place of a network's probability is left out, and a
    comment says so.

    Args:
        study: by modality the facts of its series: ``source``, the path of the DICOM series; ``WT`` and, where it is claimed,
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
    from highdicom import sr

    patient = patient_row["patient"]
    if not study:
        raise DicomError(f"patient {patient}: no DICOM series that a report could refer to")
    evidence: list[Dataset] = []
    groups: list[Any] = []
    comments = [RESEARCH_ONLY]
    for mri_type, facts in study.items():
        references = objects.references(objects.read_headers(facts["source"]), patient, deidentify)
        made = _read_segmentation(segmentations[mri_type]) if mri_type in segmentations else None
        evidence += [*references, *([made] if made is not None else [])]
        if made is None:
            comments.append(f"{mri_type}: no segmentation is stored: {facts['reason']}.")
        groups += _volume_groups(mri_type, facts, references[0], made)
    probability, comment = _probability(patient_row)
    comments += [comment] if comment else []
    with objects.making(f"patient {patient}: no report can refer to these series"):
        report = sr.ComprehensiveSR(
            evidence,
            _content([*groups, *probability], comments),
            is_complete=True,
            coding_schemes=[_coding_scheme()],
            **objects.of_new_object(SERIES_NUMBER, "Tumour volumes, MGMT"),
        )
    return objects.finish(report, Path(path), deidentify)


def _read_segmentation(file: str | Path) -> Dataset:
    """A SEG in the form a report can reference.

    highdicom writes a single segment's number once for all frames, but looks for it in each.
    """
    made = pydicom.dcmread(file)
    if alone := made.SharedFunctionalGroupsSequence[0].get("SegmentIdentificationSequence"):
        for frame in made.PerFrameFunctionalGroupsSequence:
            frame.SegmentIdentificationSequence = alone
    return made


def _coding_scheme() -> Any:
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    software = objects.software()
    return CodingSchemeIdentificationItem(
        CODING_SCHEME,
        name=f"Codes of {software['manufacturer_model_name']}",
        version=software["software_versions"],
        responsible_organization=software["manufacturer"],
    )


def _algorithm() -> Any:
    from highdicom import sr

    software = objects.software()
    return sr.AlgorithmIdentification(software["manufacturer_model_name"], software["software_versions"], family=AI)


def _volume_groups(mri_type: str, facts: Mapping[str, Any], source: Dataset, made: Dataset | None) -> list[Any]:
    """A measurement group for each region of a series whose volume is known; ``source`` is for regions without a segment."""
    import highdicom
    from highdicom import sr

    groups: list[Any] = []
    for number, (name, (_, kind)) in enumerate(SEGMENTS.items(), 1):
        if name not in facts:
            continue
        known: dict[str, Any] = {
            "tracking_identifier": sr.TrackingIdentifier(highdicom.UID(), f"{name} in {mri_type}"),
            "finding_type": kind,
            "finding_sites": [sr.FindingSite(BRAIN)],
            "algorithm_id": _algorithm(),
            "measurements": [sr.Measurement(_VOLUME, round(facts[name], 3), _MM3)],
        }
        if made is not None and facts[name] > 0:
            segment = sr.ReferencedSegment.from_segmentation(made, number)
            tracked = made.SegmentSequence[number - 1]
            known["tracking_identifier"] = sr.TrackingIdentifier(tracked.TrackingUID, tracked.TrackingID)
            groups.append(sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **known))
        else:  # a region without voxels can't be referenced
            image = sr.SourceImageForMeasurementGroup.from_source_image(source)
            groups.append(sr.MeasurementsAndQualitativeEvaluations(source_images=[image], **known))
    return groups


def _probability(patient_row: Mapping[str, Any]) -> tuple[list[Any], str]:
    """The measurement group of the probability with its agreement interval, if there are any, and a comment on them."""
    import highdicom
    from highdicom import sr

    if not patient_row["used"]:
        return [], "No probability of MGMT promoter methylation: no slice could be classified."
    found, comment = [(_PROBABILITY, patient_row["probability"])], ""
    if interval := patient_row.get("agreement_interval"):
        found += zip((_LOWER, _UPPER), interval, strict=True)
        comment = (
            "The agreement interval says how far modalities, sequences and models agree, not how often they are right."
        )
    group = sr.MeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(highdicom.UID(), _METHYLATION.meaning),
        finding_type=_METHYLATION,
        algorithm_id=_algorithm(),
        measurements=[sr.Measurement(code, round(float(value), 6), _NO_UNITS) for code, value in found],
    )
    return [group], comment


def _content(groups: Sequence[Any], comments: Sequence[str]) -> Dataset:
    """The root of the report's tree: measurement groups, then comments."""
    from highdicom import sr

    software = objects.software()
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
    return content[0]
