"""DICOM SR, and whose SEG and SR are: read back with highdicom and pydicom."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from scripts.dicom import output
from scripts.dicom.objects import DicomError
from scripts.dicom.report import write_report
from scripts.masks import region_volumes
from tests.scripts.dicom.sources import (
    errors_of,
    items,
    make_series,
    measured,
    number,
    read_stack,
    some_masks,
    write_both,
)

highdicom = pytest.importorskip("highdicom", reason="DICOM output needs the extra [dicom]")


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
    facts = {
        "source": folder / "series",
        **region_volumes(masks * 0, geometry.voxel_volume),
        "reason": output.NO_TUMOUR,
    }
    sr = write_report({"T2w": facts}, folder / "sr.dcm", patient_row=row, segmentations={})
    report = highdicom.sr.srread(sr)
    assert [measured(report, f"{name} in T2w")[0] for name in ("WT", "ET")] == [0, 0]
    comments = [item.TextValue for item in items(report, "Comment")]
    assert "T2w: no segmentation is stored: no tumour was found." in comments
    # a cohort's prior is no measurement
    assert any("No probability of MGMT promoter methylation" in text for text in comments)
    assert not [item for item in items(report) if "MGMT-P" in item.ConceptNameCodeSequence[0].CodeValue]
    assert errors_of(sr) == []


def test_report_without_a_series(tmp_path):
    row = {"patient": "00001", "probability": 0.5, "used": []}
    with pytest.raises(DicomError, match="patient 00001: no DICOM series"):
        write_report({}, tmp_path / "sr.dcm", patient_row=row, segmentations={})
