"""DICOM headers: what differs, what varies, and that nobody is named."""

from __future__ import annotations

import copy
import re

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from scripts import cli
from scripts.explore import profile
from scripts.explore.headers import HIDDEN, HeaderError, as_text, compare
from tests.custom_transforms.conftest import make_slice, save
from tests.custom_transforms.stacks import planes

SECRETS = {
    "PatientName": "Doe^Jane",
    "PatientID": "SECRET-1",
    "PatientBirthDate": "19500203",
    "StudyDate": "20200504",
    "InstitutionName": "St Elsewhere",
    "ReferringPhysicianName": "House^G",
    "SeriesDescription": "ax T1 of Jane",
    "DeviceSerialNumber": "SN-99",
    "AccessionNumber": "ACC-5",
}


def write(path, **attributes):
    pixels = attributes.pop("pixels", planes(1)[0])
    return save(make_slice(pixels, series_uid="1.2.3", **{**SECRETS, **attributes}), path)


def rows(*paths, **options):
    return {row.name: row for row in compare(paths, **options).rows}


@pytest.fixture
def pair(tmp_path):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = "12738006", "SCT"
    other = copy.deepcopy(item)
    other.CodeValue = "69536005"
    first = write(tmp_path / "a.dcm", EchoTime="90", FlipAngle="9", AnatomicRegionSequence=[item])
    second = write(
        tmp_path / "b.dcm", EchoTime="30", PatientName="Doe^John", Manufacturer="X", AnatomicRegionSequence=[other, item],
        pixels=planes(1)[0] + 1,
    )  # fmt: skip
    return first, second


def test_two_files(pair):
    found = rows(*pair)
    seen = {name: (row.status, row.values) for name, row in found.items()}
    assert seen["EchoTime"] == ("differs", ("90", "30"))
    assert seen["FlipAngle"] == ("only in A", ("9", ""))
    assert seen["Manufacturer"] == ("only in B", ("", "X"))
    assert seen["Rows"] == ("same", ("6", "6"))
    assert seen["AnatomicRegionSequence"] == ("differs", ("1 items", "2 items"))
    assert seen["AnatomicRegionSequence[1].CodeValue"] == ("differs", ("12738006", "69536005"))
    assert seen["AnatomicRegionSequence[2].CodeValue"] == ("only in B", ("", "12738006"))
    assert found["AnatomicRegionSequence[1].CodeValue"].path == "(0008,2218)[1](0008,0100)"
    status, values = seen["PixelData"]
    assert status == "differs"
    assert re.fullmatch(r"60 bytes, SHA-256 [0-9a-f]{16}", values[0])


def test_nobody_is_named_but_what_differs_is_reported(pair):
    found = rows(*pair)
    assert (found["PatientName"].status, found["PatientName"].values) == ("differs", (HIDDEN, HIDDEN))
    assert (found["PatientID"].status, found["PatientID"].values) == ("same", (HIDDEN, HIDDEN))
    for text in (
        as_text(compare(pair), everything=True),
        as_text(compare(pair[:1])),
        cli.headers(*pair, everything=True),
    ):
        assert not [value for value in SECRETS.values() if value in text]
        assert "1.2.3" not in text.replace("1.2.840", "")
    assert "! (0010,0010) PatientName" in as_text(compare(pair))
    shown = as_text(compare(pair, phi=True), everything=True)
    for value in (*SECRETS.values(), "Doe^John"):
        assert value in shown


def test_what_is_in_a_hidden_sequence_is_hidden(tmp_path):
    item = Dataset()
    item.RequestedProcedureID, item.CodeMeaning = "REQ-8", "of Jane"
    path = write(tmp_path / "a.dcm", RequestAttributesSequence=[item])
    text = as_text(compare([path]))
    assert "RequestAttributesSequence[1].CodeMeaning" in text
    assert "REQ-8" not in text
    assert "of Jane" not in text
    assert "of Jane" in as_text(compare([path], phi=True))


def test_private_attributes(tmp_path):
    dataset = make_slice(planes(1)[0], series_uid="1.2.3")
    block = dataset.private_block(0x0019, "MAKER 1.0", create=True)
    block.add_new(0x0C, "LO", "b1000 of Jane")
    path = save(dataset, tmp_path / "a.dcm")
    assert "0019" not in as_text(compare([path]))
    listed = as_text(compare([path], private=True))
    assert "(0019,100C)" in listed
    assert "Jane" not in listed
    assert "b1000 of Jane" in as_text(compare([path], private=True, phi=True))


def test_two_series(write_series, tmp_path):
    def change(index: int, dataset: Dataset) -> None:
        dataset.EchoTime, dataset.FlipAngle = "90", str(5 + (index == 2))
        if not index:
            dataset.Laterality = "R"

    write_series(planes(4), "a", change=change, **SECRETS)
    write_series(planes(3), "b", EchoTime="30", FlipAngle="5", **{**SECRETS, "StudyDate": "20210504"})
    found = rows(tmp_path / "a", tmp_path / "b")
    seen = {name: (row.status, row.values) for name, row in found.items()}
    assert seen["EchoTime"] == ("differs", ("90", "30"))
    assert seen["FlipAngle"] == ("differs", ("2 values, 5 to 6", "5"))
    assert seen["InstanceNumber"] == ("varies", ("4 values, 1 to 4", "3 values, 1 to 3"))
    assert seen["Laterality"] == ("only in A", ("R (in 1 of 4 files)", ""))
    assert seen["StudyDate"] == ("differs", (HIDDEN, HIDDEN))
    assert seen["SOPInstanceUID"] == ("varies", (f"4 values {HIDDEN}", f"3 values {HIDDEN}"))
    assert seen["Rows"][0] == "same"
    alone = {row.name: row for row in compare([tmp_path / "a"]).shown(False)}
    assert {"InstanceNumber", "ImagePositionPatient", "FlipAngle", "Laterality", "SOPInstanceUID"} <= alone.keys()
    assert "EchoTime" not in alone
    assert not [
        value for value in SECRETS.values() if value in as_text(compare([tmp_path / "a", tmp_path / "b"]), True)
    ]


def test_colours_and_page(pair, tmp_path):
    plain, coloured = (cli.headers(*pair, colour=colour) for colour in (False, True))
    assert "\x1b[31m- (0018,0081) EchoTime" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    assert plain.splitlines()[-1].endswith("are the same (--everything True shows these too)")
    page = tmp_path / "page.html"
    cli.headers(*pair, html=page)
    text = page.read_text(encoding="utf-8")
    assert (
        '<tr class="differs"><td>(0018,0081)</td><td>EchoTime</td><td>DS</td><td>differs</td><td>90</td><td>30</td></tr>'
        in text
    )
    assert "Doe" not in text
    assert """content="default-src 'none'; style-src 'unsafe-inline';""" in text
    with pytest.raises(ValueError, match="already exists"):
        cli.headers(*pair, html=page)


def test_values_are_escaped_in_the_page(tmp_path):
    path = write(tmp_path / "a.dcm", ScanningSequence="<b>SE</b>")
    cli.headers(path, html=tmp_path / "a.html")
    assert "&lt;b&gt;SE" in (tmp_path / "a.html").read_text()


def test_what_is_refused(tmp_path):
    with pytest.raises(HeaderError, match="no such file or folder"):
        compare([tmp_path / "gone"])
    (tmp_path / "notes.txt").write_text("no DICOM")
    with pytest.raises(HeaderError, match=r"notes.txt: is not a DICOM image"):
        compare([tmp_path / "notes.txt"])
    (tmp_path / "x.dcm").write_bytes(b"no DICOM")
    with pytest.raises(HeaderError, match=r"x.dcm: not a readable DICOM file"):
        compare([tmp_path / "x.dcm"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(HeaderError, match="found 0 files, none of which is DICOM"):
        compare([tmp_path / "empty"])
    for number in (1, 2):
        save(make_slice(planes(1)[0], series_uid=generate_uid(), **SECRETS), tmp_path / "two" / f"{number}.dcm")
    with pytest.raises(HeaderError, match="found 2 series in 2 files") as raised:
        compare([tmp_path / "two"])
    assert "Jane" not in str(raised.value)


def test_the_table_is_that_of_the_standard():
    tags = profile.tags()
    assert len(tags) == 617
    # from each of the groups of PS3.15 table E.1-1; and geometry and contrast, which the profile keeps
    for tag in (
        0x00100010,
        0x00100020,
        0x00080050,
        0x00080018,
        0x0008103E,
        0x00181030,
        0x00400275,
        0x00020003,
        0x300600C2,
    ):
        assert tag in tags
    for tag in (0x00280010, 0x00180081, 0x00200032, 0x7FE00010, 0x00080060):
        assert tag not in tags


def test_names_and_what_the_standard_does_not_know_are_hidden(tmp_path):
    dataset = make_slice(
        planes(1)[0], series_uid="1.2.3", NameOfPhysiciansReadingStudy="X^Y", VerifyingObserverName="Z^W"
    )
    dataset.add_new(0x00101234, "LO", "of Jane")  # (0010,1234): no such attribute
    path = save(dataset, tmp_path / "a.dcm")
    text = as_text(compare([path]))
    assert "(0010,1234) Unknown" in text
    assert not [word for word in ("X^Y", "Z^W", "of Jane") if word in text]
