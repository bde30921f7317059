import base64
import json
import re

import cv2
import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("jinja2", reason="summaries need the extra [report]")

from custom_transforms import SliceGeometry
from scripts.preparation import write_index
from scripts.prepared import PreparedSeries, write_series
from scripts.report.study import write_summaries
from scripts.report.tables import NOTHING
from scripts.report.viewer import WT_COLOUR, largest_tumour

# axial slices as DICOM stores them, 2 mm between columns, 1 mm between rows, 4 mm between slices
AFFINE = np.diag([-2.0, -1.0, 4.0, 1.0])
SHAPE = (20, 40, 6)  # columns, rows, slices
LARGEST = 2


def tumour():
    """Masks ``(N, 2, H, W)``: WT in three slices, most of it in one, with ET in its upper left corner."""
    masks = np.zeros((6, 2, 40, 20), dtype=bool)
    masks[1:4, 0, 10:14, 5:7] = True
    masks[LARGEST, 0, 10:30, 4:14] = True
    masks[LARGEST, 1, 10:14, 4:6] = True
    return masks


@pytest.fixture
def volume():
    return np.random.default_rng(0).uniform(50, 200, SHAPE).astype(np.float32)


@pytest.fixture
def prediction(tmp_path, volume):
    """A prediction of one study with a FLAIR whose tumour is known."""
    file = tmp_path / "FLAIR.nii.gz"
    nib.save(nib.Nifti1Image(volume, AFFINE), file)
    prepared = tmp_path / "prediction" / "prepared"
    geometry = SliceGeometry.from_affine(AFFINE, SHAPE)
    item = {"patient": "P_2020", "mri_type": "FLAIR", "output": str(prepared / "P_2020" / "FLAIR.h5")}
    info = {"patient": "P_2020", "mri_type": "FLAIR", "warnings": []}
    write_series(item["output"], np.zeros((1, 40, 20), np.uint8), np.array([2]), tumour(), info, geometry)
    write_index(prepared, {}, [item], {})
    facts = {"slices": 6, "kept": 1, "probability": 0.625, "sequences": [0.625], "warnings": ["2 slices missing"]}
    row = {
        "patient": "P_2020",
        "probability": 0.625,
        "agreement_interval": [0.5, 0.75],
        "used": ["FLAIR"],
        "series": {"FLAIR": facts},
    }
    (tmp_path / "prediction" / "patients.json").write_text(json.dumps({"patients": [row]}))
    return tmp_path / "prediction"


def study(name, chosen, phantom=False):
    """An entry of the data list, without the place of its series."""
    row = {
        "number": 3, "description": "AX <FLAIR>", "plane": "axial", "slices": 6, "spacing": 4.0, "taken": "", "uid": "1.2",
        "modality": "FLAIR", "chosen": chosen, "reason": "by its description" if chosen else "too few slices",
    }  # fmt: skip
    return {"patient": name, "study": {"uid": "1", "date": "2020", "phantom": phantom, "series": [row]}}


@pytest.fixture
def write(prediction, tmp_path):
    def write(*studies, source="FLAIR.nii.gz"):
        entries = [{**one, "FLAIR": str(tmp_path / source)} if one["patient"] == "P_2020" else one for one in studies]
        write_summaries(prediction, entries, tmp_path / "out")
        return [(tmp_path / "out" / one["patient"] / "summary.html").read_text() for one in studies]

    return write


def cells(page, table):
    """Rows of the page's so many-th table, their cells as plain text."""
    body = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)[table]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    return [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]


def test_the_page_shows_volumes_probability_and_series(write):
    (page,) = write(study("P_2020", True))
    flair, t1w, *_ = cells(page, 0)
    masks = tumour()
    ml = f"{masks[:, 0].sum() * 8 / 1000:.3f}"  # a voxel has 2 * 1 * 4 mm3
    assert flair == ["FLAIR", "AX &lt;FLAIR&gt;", ml, NOTHING, "6", "1", "0.625", NOTHING]
    assert t1w[0] == "T1w"
    assert t1w[-1] == "no such series"
    assert cells(page, 1) == [["3", "AX &lt;FLAIR&gt;", "axial", "6", "4.000", "FLAIR", "by its description"]]
    assert "0.62 (0.50 to 0.75)" in page
    assert "FLAIR: 2 slices missing" in page
    assert "Research use only. Not for diagnosis." in page
    assert "slice 3 of 6, where the tumour is largest: 4.0 cm²" in page  # 200 pixels of 2 mm2
    assert "Left in the picture: R, top: A" in page
    assert "phantom" not in page.split("</style>")[1]


def test_a_study_without_a_usable_series_gets_a_page_that_says_so(write):
    _, page = write(study("P_2020", True), study("Q", False))
    assert "The study has no usable series." in page
    assert cells(page, 1)[0][-2:] == [NOTHING, "too few slices"]
    assert "data:image/png" not in page


def test_a_phantom_is_called_one(write):
    assert "According to its headers a phantom, not a patient." in write(study("P_2020", True, phantom=True))[0]


def test_a_source_that_is_gone_costs_only_the_picture(write):
    (page,) = write(study("P_2020", True), source="none.nii.gz")
    assert "FLAIR: no picture (" in page
    assert cells(page, 0)[0][2] != NOTHING


def test_the_picture_shows_the_largest_tumour_where_it_is(prediction, volume):
    series = PreparedSeries(prediction / "prepared" / "P_2020" / "FLAIR.h5")
    full = np.full((6, 40, 20), 60, np.uint8)
    found = largest_tumour(series, full)
    assert (found["slice"], found["slices"], found["plane"]) == (LARGEST, 6, "axial")
    data = base64.b64decode(found["picture"].split(",")[1])
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    assert picture.shape[0] == picture.shape[1]  # 40 rows of 1 mm, 20 columns of 2 mm
    scale = picture.shape[0] / 40

    def at(row, column):
        return picture[int((row + 0.5) * scale), int((2 * column + 1) * scale)]

    def tinted(pixel, colour):
        return np.abs(pixel - (60 + (np.array(colour) - 60) * 70 / 255)).max() < 3

    assert tinted(at(20, 8), WT_COLOUR)
    assert not tinted(at(11, 4), WT_COLOUR)
    assert tuple(at(5, 8)) == (60, 60, 60)
    assert np.argmax(at(11, 4)) != 2  # orange over blue


def test_no_tumour_no_picture(tmp_path):
    write_series(
        tmp_path / "a.h5", np.zeros((0, 40, 20), np.uint8), np.zeros(0, int), np.zeros((6, 2, 40, 20), bool), {},
        SliceGeometry.from_affine(AFFINE, SHAPE),
    )  # fmt: skip
    assert largest_tumour(PreparedSeries(tmp_path / "a.h5"), np.zeros((6, 40, 20), np.uint8)) is None
