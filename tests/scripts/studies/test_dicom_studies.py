"""What is read of DICOM files of any name, and the entries that become of it."""

import json
import re

import numpy as np
import pydicom
import pytest
import yaml
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    SegmentationStorage,
    generate_uid,
)

from custom_transforms import SeriesReader
from scripts.modalities import MRI_TYPES
from scripts.studies.dicom import item_names
from scripts.studies.folders import RULES_FILE, DataListError, find_studies
from scripts.studies.series import read_studies
from tests.campaigns import sound
from tests.scripts.studies.exports import (
    AXIAL,
    RULES,
    SAGITTAL,
    Export,
    chosen,
    decisions,
    header,
    studies_of,
)

# What is there


def test_series_are_found_in_any_files(export):
    uid = export.series("FLAIR", slices=12, step=2.5)
    (export.folder / "notes.txt").write_text("no DICOM")
    (export.folder / "README").write_text("no DICOM, and its name does not say so")
    (export.folder / "fake.dcm").write_bytes(b"no DICOM")
    (export.folder / ".hidden").write_bytes(b"x")
    (study,) = studies_of(export.folder)
    (series,) = study.series
    assert (series.uid, series.slices, series.images, series.plane) == (uid, 12, 12, "axial")
    assert series.spacing == pytest.approx(2.5)
    places = [float(pydicom.dcmread(file).ImagePositionPatient[2]) for file in series.files]
    assert places == sorted(places)


@pytest.mark.filterwarnings("error")
def test_a_text_without_a_suffix_is_passed_over_silently(export, caplog):
    export.series("FLAIR")
    (export.folder / "README").write_text("no DICOM, and its name does not say so " * 20)
    assert len(studies_of(export.folder)) == 1
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_damaged_file_is_passed_over_with_a_warning(export, caplog):
    export.series("FLAIR")
    victim = export.save(header(PatientID="P-1", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4"))
    victim.write_bytes(victim.read_bytes()[:140] + b"\xff" * 40)
    assert [series.description for series in studies_of(export.folder)[0].series] == ["FLAIR"]
    assert str(victim) in caplog.text


def test_copies_of_a_file_count_once(export):
    export.series("FLAIR")
    for place, file in enumerate([path for path in export.folder.rglob("*") if path.is_file()]):
        (export.folder / f"copy{place}").write_bytes(file.read_bytes())
    (study,) = studies_of(export.folder)
    assert (study.series[0].images, study.series[0].trouble) == (12, "")


def test_files_without_preamble_are_read(export):
    export.series("FLAIR")
    for file in [path for path in export.folder.rglob("*") if path.is_file()]:
        file.write_bytes(file.read_bytes()[132:])
    assert studies_of(export.folder)[0].series[0].slices == 12


def test_an_enhanced_file_counts_its_frames(export):
    frames = []
    for place in range(15):
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, 3 * place]
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    shared, plane = Dataset(), Dataset()
    plane.ImageOrientationPatient = AXIAL
    shared.PlaneOrientationSequence = [plane]
    export.save(
        header(
            EnhancedMRImageStorage, PatientID="P", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1", NumberOfFrames=15, Rows=4,
            SeriesDescription="FLAIR", Columns=4, PerFrameFunctionalGroupsSequence=frames, SharedFunctionalGroupsSequence=[shared],
        )
    )  # fmt: skip
    (series,) = studies_of(export.folder)[0].series
    assert (series.slices, series.spacing, series.plane) == (15, 3.0, "axial")
    assert chosen(export) == {"FLAIR": "FLAIR"}


def test_studies_of_one_patient_stay_apart(export):
    export.series("FLAIR", study="1.2.1", StudyDate="20200102")
    export.series("FLAIR", study="1.2.2", StudyDate="20200304")
    found = studies_of(export.folder)
    assert [(study.uid, len(study.series)) for study in found] == [("1.2.1", 1), ("1.2.2", 1)]
    assert item_names(found, export.folder) == ["P-1_day000", "P-1_day062"]


def test_two_patients_with_one_study_uid_are_not_mixed(export):
    export.series("FLAIR", patient="A")
    export.series("T1w", patient="B")
    assert [(study.patient, len(study.series)) for study in studies_of(export.folder)] == [("A", 1), ("B", 1)]


def test_names_of_items_are_safe_and_differ(export):
    for study, patient in (
        ("1.1", "../x y"),
        ("1.2", "../x_y"),
        ("1.3", "患者"),
        ("1.4", ""),
        ("1.5", "b"),
        ("1.6", "B"),
    ):
        export.series("FLAIR", study=study, patient=patient, SpecificCharacterSet="ISO_IR 192")
    names = item_names(studies_of(export.folder), export.folder)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in names)
    assert len({name.lower() for name in names}) == 6


def test_files_that_are_no_dicom_are_named(tmp_path):
    (tmp_path / "fake.dcm").write_text("nothing")
    assert read_studies([tmp_path / "fake.dcm"]) == ([], [tmp_path / "fake.dcm"])


# What can't be used, whatever it is called


def test_a_series_of_several_volumes_is_left(export):
    uid = generate_uid()
    for _ in range(2):
        export.series("FLAIR", SeriesInstanceUID=uid)
    assert "24 images at 12 positions: several volumes" in decisions(export)["FLAIR"].reason


def test_a_series_in_several_directions_is_left(export):
    uid = generate_uid()
    for orientation in (AXIAL, SAGITTAL):
        export.series("FLAIR", SeriesInstanceUID=uid, orientation=orientation)
    assert decisions(export)["FLAIR"].reason == "slices in different directions"


def test_a_series_of_several_sizes_is_left(export):
    uid = generate_uid()
    export.series("FLAIR", SeriesInstanceUID=uid, slices=12)
    export.series("FLAIR", SeriesInstanceUID=uid, slices=1, Rows=8)
    assert decisions(export)["FLAIR"].reason.startswith("slices of different sizes: ")


def test_what_is_no_mr_image_is_left(export):
    export.save(
        header(
            SegmentationStorage, PatientID="P", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1", SeriesDescription="FLAIR"
        )
    )  # fmt: skip
    assert decisions(export)["FLAIR"].reason == "no MR images but Segmentation Storage"


def test_computed_images_are_left_by_their_image_type(export):
    export.series("FLAIR", ImageType=["DERIVED", "PRIMARY", "MIP"])
    assert "ImageType is MIP" in decisions(export)["FLAIR"].reason


def test_too_few_slices_are_left(export):
    export.series("FLAIR", slices=9)
    assert decisions(export)["FLAIR"].reason == "FLAIR, but 9 slices; 10 are needed"


def test_the_protocol_stands_in_for_a_missing_description(export):
    export.series("", ProtocolName="AX FLAIR")
    assert chosen(export) == {"FLAIR": "AX FLAIR"}


# From files to entries


@pytest.fixture
def exported(export):
    export.series("AX FLAIR", SeriesNumber=1)
    export.series("t1w", SeriesNumber=2, orientation=SAGITTAL)
    export.series("LOC", SeriesNumber=3, slices=3)
    export.series("DWI", study="1.2.9", patient="P-2", SeriesNumber=4)
    return export


def test_chosen_series_are_those_that_the_reader_gets(exported):
    entry = find_studies(exported.folder)[0]
    assert [key for key in entry if key != "study"] == ["patient", "FLAIR", "T1w"]
    volume, meta = SeriesReader().get_data(entry["FLAIR"])
    np.testing.assert_array_equal(volume[0, 0], np.arange(12))
    assert len(meta["slice_files"]) == 12


def test_a_series_with_a_folder_to_itself_is_the_folder(tmp_path):
    export = Export(tmp_path / "in")
    for name in ("S1", "S2"):
        export.save = lambda dataset, name=name: _save_in(export, name, dataset)
        export.series({"S1": "FLAIR", "S2": "AX T1"}[name])
    (entry,) = find_studies(tmp_path / "in")
    assert (entry["FLAIR"], entry["T1w"]) == (str(tmp_path / "in" / "S1"), str(tmp_path / "in" / "S2"))


def _save_in(export, name, dataset):
    export.count += 1
    path = export.folder / name / f"IM{export.count}"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def test_every_series_of_every_study_is_listed(exported):
    first, second = find_studies(exported.folder)
    assert [row["description"] for row in first["study"]["series"]] == ["AX FLAIR", "t1w", "LOC"]
    assert all(row["reason"] for one in (first, second) for row in one["study"]["series"])
    assert second["reason"].startswith(
        "none of its series is usable: series 4 'DWI' (12 slices): its description is excluded"
    )
    assert second["patient"] == "P-2"


def test_nothing_usable_is_an_error_that_says_why(export):
    export.series("DWI", SeriesNumber=4)
    export.series("LOC", slices=3, SeriesNumber=5)
    with pytest.raises(DataListError) as info:
        find_studies(export.folder)
    for words in (str(export.folder), "series 4 'DWI' (12 slices): its description is excluded", "LOC"):
        assert words in str(info.value)


def test_visits_are_entries_of_one_person(export):
    export.series("FLAIR", study="1.2.1", StudyDate="20200102")
    export.series("FLAIR", study="1.2.2", StudyDate="20200304")
    assert [(one["patient"], one["group"]) for one in find_studies(export.folder)] == [
        ("P-1_day000", "P-1"),
        ("P-1_day062", "P-1"),
    ]


def test_deidentified_studies_name_neither_patient_nor_dates(exported):
    found = find_studies(exported.folder, deidentify=True)
    text = json.dumps(
        [{key: value for key, value in one.items() if key not in (*MRI_TYPES, "called")} for one in found]
    )
    assert not re.search(r"P-1|P-2|20200102", re.sub(r'"files": (\[[^]]*\]|"[^"]*")', "", text))
    assert all(re.fullmatch(r"study_[0-9a-f]{12}", one["patient"]) for one in found)


def test_the_rules_of_a_site(export, tmp_path):
    export.series("weighted dark water")
    rules = yaml.safe_load(RULES_FILE.read_text())
    rules["modalities"]["FLAIR"].append("weighted dark water")
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(rules))
    with pytest.raises(DataListError, match="no rule fits its description"):
        find_studies(export.folder)
    assert "FLAIR" in find_studies(export.folder, rules=tmp_path / "site.yaml")[0]


def test_the_rules_file_knows_all_modalities():
    assert list(RULES.modalities) == ["FLAIR", "T1wCE", "T1w", "T2w"]
    assert set(RULES.modalities) == set(MRI_TYPES)


# Series that were named


def test_a_named_series_goes_before_the_rules(export, tmp_path):
    export.series("AX T1", SeriesNumber=1)
    export.series("AX T1", SeriesNumber=2, AcquisitionDate="20200101", AcquisitionTime="120000")
    export.series("my own contrast", SeriesNumber=3)
    uid = export.series("my own water", SeriesNumber=4)
    (tmp_path / "T2").mkdir()
    named = {"T1w": "1", "T1wCE": "my own contrast", "FLAIR": uid, "T2w": tmp_path / "T2"}
    (entry,) = find_studies(export.folder, named=named, patient="Jo")
    rows = {row["number"]: row for row in entry["study"]["series"]}
    assert [rows[number]["modality"] for number in (1, 3, 4)] == ["T1w", "T1wCE", "FLAIR"]
    assert not rows[2]["chosen"]
    assert entry["T1w"] == rows[1]["files"]
    assert entry["T2w"] == str(tmp_path / "T2")
    assert entry["patient"] == "Jo"


@pytest.mark.parametrize(
    ("named", "patient", "message"),
    [
        ({"T1w": "9"}, "P-1", r"--T1w 9: neither a path nor a series of patient P-1.*'AX T1'"),
        ({"T1w": "AX T1"}, "P-1", r"--T1w AX T1: several series of patient P-1"),
        ({"T1w": "1"}, None, r"--T1w names a series of one patient; .* holds P-1, P-2; say which with --patient"),
        ({}, "P-3", r"--patient P-3: none of P-1, P-2"),
    ],
)
def test_named_series_that_are_not_there(export, named, patient, message):
    for number in (1, 2):
        export.series("AX T1", SeriesNumber=number, AcquisitionTime=f"12000{number}")
    export.series("AX T1", patient="P-2", study="1.2.9")
    with pytest.raises(DataListError, match=message):
        find_studies(export.folder, named=named, patient=patient)


def test_a_patient_whose_files_are_named(tmp_path):
    for name in ("a.nii.gz", "post"):
        (tmp_path / "Jo" / name).mkdir(parents=True)
    (entry,) = find_studies(None, named={"FLAIR": tmp_path / "Jo" / "a.nii.gz", "T1wCE": tmp_path / "Jo" / "post"})
    assert entry["patient"] == "Jo"
    assert (entry["FLAIR"], entry["T1wCE"]) == (str(tmp_path / "Jo" / "a.nii.gz"), str(tmp_path / "Jo" / "post"))
    with pytest.raises(DataListError, match=r"--FLAIR .*gone: no such file or folder"):
        find_studies(None, named={"FLAIR": tmp_path / "gone"})


def test_a_file_that_declares_a_billion_frames_is_left_out_at_once(tmp_path):
    export = Export(tmp_path)
    export.series("FLAIR AX", slices=3, NumberOfFrames=1_000_000_000)
    (decision,) = decisions(export).values()
    assert not decision.chosen
    assert "declares 1000000000 frames, expected at most 4096" in decision.reason


@pytest.mark.parametrize("position", ["nan", "inf", "1e300"])
def test_positions_that_are_no_place_are_none(tmp_path, position):
    export = Export(tmp_path)
    export.series("FLAIR AX", slices=4)
    file = next(path for path in sorted(tmp_path.rglob("*")) if path.is_file())
    dataset = pydicom.dcmread(file)
    tag = pydicom.tag.Tag("ImagePositionPatient")
    value = f"0\\0\\{position} ".encode()
    value += b" " * (len(value) % 2)
    dataset._dict[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)
    dataset.save_as(file)
    (study,) = studies_of(tmp_path)
    assert study.series[0].spacing is None  # as where a slice says nothing
    assert study.series[0].plane == "axial"


@pytest.mark.parametrize(
    "attribute", [b"\x20\x00\x0e\x00UI", b"\x10\x00\x20\x00LO", b"\x08\x00\x3e\x10LO", b"\x20\x00\x32\x00DS"]
)
def test_a_value_of_an_unknown_kind_loses_nobody_else(tmp_path, attribute):
    """pydicom raises no error of its own for it, and not before it is asked for the value."""
    for patient in ("00001", "00002"):
        files = sound.save_dicom(sound.dicom(int(patient), patient), tmp_path / patient)
    for file in files:
        content = file.read_bytes()
        assert attribute in content
        file.write_bytes(content.replace(attribute, attribute[:4] + b"M" + attribute[5:]))
    studies, others = read_studies(sorted(tmp_path.rglob("*.dcm")))
    assert "00001" in {study.patient for study in studies}
    read = [file for study in studies for one in study.series for file in one.files]
    assert sorted([*read, *others]) == sorted(tmp_path.rglob("*.dcm"))


@pytest.mark.parametrize(("attribute", "value"), [("Columns", [28, 32]), ("ImageType", "ORIGINAL"), ("Rows", None)])
def test_values_of_another_count_lose_nobody_else(tmp_path, attribute, value):
    files = sound.save_dicom(sound.dicom(0, "00001"), tmp_path / "a")
    changed = pydicom.dcmread(files[0])
    setattr(changed, attribute, value)
    changed.save_as(files[0])
    (study,), others = read_studies(files)
    assert (study.patient, others) == ("00001", [])
    assert bool(study.series[0].trouble) == (attribute != "ImageType")
