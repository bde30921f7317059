import json
import re

import numpy as np
import pydicom
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SegmentationStorage,
    generate_uid,
)

from custom_transforms import SeriesReader
from scripts.modalities import MRI_TYPES
from scripts.studies.dicom import item_names
from scripts.studies.folders import RULES_FILE, DataListError, find_studies
from scripts.studies.rules import choose, plain, read_rules
from scripts.studies.series import DicomSeries, DicomStudy, StudiesError, read_studies

RULES = read_rules(RULES_FILE)
AXIAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]


def header(sop_class=MRImageStorage, **values):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


class Export:
    """A folder of DICOM files that is filled series by series."""

    def __init__(self, folder):
        self.folder = folder
        self.count = 0

    def save(self, dataset, name=None):
        self.count += 1
        # names and places that tell nothing
        path = self.folder / f"{self.count * 7919 % 5}" / (name or f"{self.count * 7919 % 10007:05x}")
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        return path

    def series(self, description, slices=12, study="1.2.3", patient="P-1", orientation=AXIAL, step=2.0, **values):
        """Write the slices of a series from its top to its bottom, and return its UID."""
        uid = generate_uid()
        normal = np.cross(orientation[:3], orientation[3:])
        for place in reversed(range(slices)):
            common = {
                "PatientID": patient, "StudyInstanceUID": study, "SeriesInstanceUID": uid, "SeriesDescription": description,
                "StudyDate": "20200102", "Rows": 4, "Columns": 4, "ImageType": ["ORIGINAL", "PRIMARY"], "Modality": "MR",
                "ImageOrientationPatient": orientation, "ImagePositionPatient": list(normal * step * place),
                "PixelSpacing": [1, 1], "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
                "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0,
                "PixelData": np.full(16, place, np.uint16).tobytes(),
            }  # fmt: skip
            self.save(header(**{**common, **values}))
        return uid


@pytest.fixture
def export(tmp_path):
    return Export(tmp_path / "in")


def studies_of(folder):
    """The studies of all files in a folder."""
    return read_studies(sorted(path for path in folder.rglob("*") if path.is_file()))[0]


def decisions(export, rules=RULES):
    """What was decided on each series of the only study, by description."""
    (study,) = studies_of(export.folder)
    return {one.series.description: one for one in choose(study, rules)}


def chosen(export, rules=RULES):
    return {one.mri_type: name for name, one in decisions(export, rules).items() if one.chosen}


def rules_with(tmp_path, **changes):
    content = yaml.safe_load(RULES_FILE.read_text()) | changes
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(content))
    return read_rules(file)


# Rules


@pytest.mark.parametrize(
    ("mri_type", "descriptions"),
    [
        ("FLAIR", ["FLAIR", "flair", "t2f", "AX FLAIR", "Ax T2 FLAIR FS", "t2_tirm_tra_dark-fluid", "T2_SPACE_DARKFLUID", "SAG CUBE FLAIR",
                   "AX FLAIR POST GAD", "t2_flair_KM"]),
        ("T1wCE", ["T1wCE", "t1ce", "T1c", "t1Gd", "T1w+C", "AX T1 POST GAD", "AX T1 +C", "Ax T1 + Gd", "t1_mprage_sag_KM", "SAG T1 POST",
                   "MPRAGE POST", "AX BRAVO +C", "3D FSPGR POST GAD", "T1W_3D_TFE_CONTRAST", "AX T1 FSE C+", "sT1W_SE CE",
                   "AX T1 FLAIR POST", "T1 AX POSTCONTRAST", "T1_SE_TRA_GADOVIST", "T1 (post)"]),
        ("T1w", ["T1w", "t1", "AX T1", "SAG T1 SE", "t1_mprage_sag_p2_iso", "MP-RAGE", "AX BRAVO", "3D FSPGR", "AX T1 FLAIR", "AX T1 PRE",
                 "T1 PRE CONTRAST", "T1 without contrast", "AX T1 W/O", "T1 NON-CONTRAST", "t1_se_tra_nativ", "sT1W_SE",
                 "T1 non contrast", "AX T1 pre-gad"]),
        ("T2w", ["T2w", "t2", "AX T2", "t2_tse_tra", "T2W_TSE", "AX T2 FSE", "Ax T2 PROPELLER", "t2_space_sag", "T2TSE"]),
        (None, ["3-plane LOC", "localizer", "Survey", "ADC", "AX DWI b1000", "ep2d_diff_3scan_trace", "T2*", "AX T2* GRE", "SWI",
                "Perfusion T1", "T1 SUB", "T1 POST MPR", "TOF MRA", "PD AX", "AX PD T2", "STIR", "T2 C-SPINE", "SAG T1 CSPINE",
                "T1 map", "screenshot", "AX T1 ORBITS POST", "", "something"]),
    ],
)  # fmt: skip
def test_common_descriptions(mri_type, descriptions):
    series = tuple(
        DicomSeries(str(i), "P", "1.2", "", text, i, (), 20, 20, 5.0, "axial", ("ORIGINAL",), "", "")
        for i, text in enumerate(descriptions)
    )
    found = choose(DicomStudy("1.2", "P", "", series), RULES)
    assert {one.series.description: one.mri_type for one in found} == dict.fromkeys(descriptions, mri_type)
    assert any(one.chosen for one in found) == (mri_type is not None)


@given(
    st.sampled_from(["T1w", "FLAIR", "AX T2 FSE", "AX T1 POST GAD"]), st.sampled_from([" ", "_", "-", "  ", "/", "_-"])
)
@settings(deadline=None, max_examples=30)
def test_separators_and_capitals_do_not_matter(description, separator):
    assert plain(description.replace(" ", separator)).lower() == description.lower()


def test_an_expression_must_match_the_whole_description(export, tmp_path):
    rules = rules_with(tmp_path, modalities={"T1w": ["^T1w$"]}, exclude=None, contrast_by_header_unless=None)
    for description in ("T1wCE", "T1w", "AX T1w"):
        export.series(description)
    assert chosen(export, rules) == {"T1w": "T1w"}
    rules = rules_with(tmp_path, modalities={"T1w": ["T1w"]}, exclude=None, contrast_by_header_unless=None)
    assert chosen(export, rules) == {"T1w": "T1w"}


def test_the_first_modality_that_fits_counts(export, tmp_path):
    export.series("both")
    for order in (("T1w", "T2w"), ("T2w", "T1w")):
        file = tmp_path / "rules.yaml"
        file.write_text(yaml.safe_dump({"modalities": {name: ["both"] for name in order}}, sort_keys=False))
        assert chosen(export, read_rules(file)) == {order[0]: "both"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("modalities: {T1w: ['(']}", "is no regular expression"),
        ("modalities: {T1: [t1]}", "modality 'T1' is unknown; expected FLAIR"),
        ("modalities: {T1w: ['{t1}']}", "{t1} stands for no expression"),
        ("modalities: {T1w: t1}", "modalities: T1w: expected a list, found 't1'"),
        ("modalities: {T1w: [t1]}\nexcluded: [x]", "'excluded' is unknown; expected words, exclude"),
        ("modalities: {T1w: [t1]}\nprefer: [best]", "prefer: 'best' is unknown"),
        ("modalities: {T1w: [t1]}\nmin_slices: 0", "min_slices is 0"),
        ("modalities: {T1w: [t1", "not YAML"),
        ("[]", "expected rules with `modalities:`"),
    ],
)
def test_mistakes_in_rules_are_named(tmp_path, content, words):
    file = tmp_path / "rules.yaml"
    file.write_text(content)
    with pytest.raises(StudiesError, match=re.escape(words)) as info:
        read_rules(file)
    assert str(file) in str(info.value)
    with pytest.raises(StudiesError, match="no such file of rules"):
        read_rules(tmp_path / "none.yaml")


# What is there


def test_series_are_found_in_any_files(export):
    uid = export.series("FLAIR", slices=12, step=2.5)
    (export.folder / "notes.txt").write_text("no DICOM")
    (export.folder / "README").write_text("no DICOM, and its name does not tell")
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
    (export.folder / "README").write_text("no DICOM, and its name does not tell " * 20)
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
    assert item_names(found, export.folder) == ["P-1_20200102", "P-1_20200304"]


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


# Several series of a modality


def test_more_slices_are_preferred(export):
    export.series("AX T2", slices=12, SeriesNumber=1)
    export.series("SAG T2", slices=20, SeriesNumber=2)
    found = decisions(export)
    assert found["SAG T2"].chosen
    assert not found["AX T2"].chosen
    assert found["AX T2"].reason == "series 2 'SAG T2' was preferred: more slices, 20 and 12"
    assert found["SAG T2"].reason.endswith("preferred to 1 other series: more slices, 20 and 12")


def test_of_equal_ones_the_newest_is_preferred_or_the_oldest(export, tmp_path):
    for time in ("090000", "113000.5", "101500"):
        export.series(f"AX T2 at {time}", AcquisitionDate="20200102", AcquisitionTime=time)
    rules = {name: rules_with(tmp_path, prefer=["slices", name]) for name in ("newest", "oldest")}
    assert chosen(export, rules["newest"]) == {"T2w": "AX T2 at 113000.5"}
    assert chosen(export, rules["oldest"]) == {"T2w": "AX T2 at 090000"}


def test_original_images_are_preferred_to_derived_ones(export):
    export.series("AX T2", slices=12)
    export.series("AX T2 filtered", slices=20, ImageType=["DERIVED", "SECONDARY"])
    assert chosen(export) == {"T2w": "AX T2"}


def test_thin_slices_may_be_preferred(export, tmp_path):
    export.series("AX T2", slices=20, step=5.0)
    export.series("3D T2", slices=12, step=1.0)
    assert chosen(export, rules_with(tmp_path, prefer=["thin"])) == {"T2w": "3D T2"}


def test_flair_before_contrast_is_preferred(export):
    export.series("FLAIR POST GAD", slices=20)
    export.series("FLAIR AX", slices=12)
    assert chosen(export) == {"FLAIR": "FLAIR AX"}


def test_what_is_alike_in_everything_is_asked_about(export):
    export.series("AX T2 b", SeriesNumber=7)
    export.series("AX T2 a", SeriesNumber=5)
    export.series("FLAIR", patient="P-2", study="1.2.4")
    asked, other = find_studies(export.folder)
    assert (
        asked["reason"]
        == "5 AX T2 a and 7 AX T2 b are both T2w of patient P-1; keep one of them, or name it with --T2w"
    )
    assert set(other) == {"patient", "FLAIR", "study"}


# Contrast agent in the header


def test_of_two_alike_series_the_one_with_contrast_agent_is_t1wce(export):
    export.series("AX T1", SeriesNumber=1)
    with_agent = export.series("AX T1", SeriesNumber=9, ContrastBolusAgent="Gadovist")
    (study,) = studies_of(export.folder)
    found = {one.series.uid: one for one in choose(study, RULES) if one.chosen}
    assert found[with_agent].mri_type == "T1wCE"
    assert "contrast agent 'Gadovist'" in found[with_agent].reason
    assert sorted(one.mri_type for one in found.values()) == ["T1w", "T1wCE"]


def test_headers_are_asked_only_where_no_description_names_contrast(export):
    """Where the agent was entered before the first series, all name it."""
    export.series("AX T1", ContrastBolusAgent="Gadovist")
    export.series("AX T1 POST", ContrastBolusAgent="Gadovist")
    assert chosen(export) == {"T1w": "AX T1", "T1wCE": "AX T1 POST"}


@pytest.mark.parametrize(("description", "agent"), [("AX T1 PRE", "Gadovist"), ("AX T1", "NONE"), ("AX T1", "")])
def test_a_header_does_not_overrule(export, description, agent):
    export.series(description, ContrastBolusAgent=agent)
    assert chosen(export) == {"T1w": description}


def test_headers_may_be_left_unasked(export, tmp_path):
    export.series("AX T1", ContrastBolusAgent="Gadovist")
    assert chosen(export, rules_with(tmp_path, contrast_by_header_unless=None)) == {"T1w": "AX T1"}


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


def test_every_series_of_every_study_is_told_of(exported):
    first, second = find_studies(exported.folder)
    assert [row["description"] for row in first["study"]["series"]] == ["AX FLAIR", "t1w", "LOC"]
    assert all(row["reason"] for one in (first, second) for row in one["study"]["series"])
    assert second["reason"].startswith(
        "none of its series is usable: series 4 'DWI' (12 slices): its description is excluded"
    )
    assert second["patient"] == "P-2"


def test_nothing_usable_is_an_error_that_tells_why(export):
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
        ("P-1_20200102", "P-1"),
        ("P-1_20200304", "P-1"),
    ]


def test_deidentified_studies_name_neither_patient_nor_dates(exported):
    found = find_studies(exported.folder, deidentify=True)
    told = json.dumps([{key: value for key, value in one.items() if key not in MRI_TYPES} for one in found])
    assert not re.search(r"P-1|P-2|20200102", re.sub(r'"files": (\[[^]]*\]|"[^"]*")', "", told))
    assert all(re.fullmatch(r"study_[0-9a-f]{8}", one["patient"]) for one in found)


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
