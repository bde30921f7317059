"""The application of apps/monaideploy on phantom studies as a hospital exports them, with tiny random networks.

It runs in a process of its own. The MONAI Deploy App SDK has an environment of its own.
"""

import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import segmentation_models_pytorch as smp
import torch
import yaml
from pydicom.uid import generate_uid

if importlib.util.find_spec("monai.deploy") is None:
    pytest.skip(
        "the MONAI Deploy App SDK has an environment of its own: make test-monaideploy", allow_module_level=True
    )

import highdicom

import radiogenomics
from scripts.networks import BiLSTMNFNet
from scripts.studies.folders import find_studies
from scripts.weights import save_weights
from tests.networks import CLASSIFIER, SEGMENTER

APP = Path(__file__).resolve().parents[2] / "apps" / "monaideploy"
PLANES = {"FLAIR": "axial", "T1w": "sagittal", "T1wCE": "axial", "T2w": "coronal"}
DESCRIPTIONS = {"FLAIR": "AX FLAIR", "T1w": "SAG T1 SE", "T1wCE": "AX T1 POST GAD", "T2w": "t2_tse_cor"}
FIRST, SECOND = "PHANTOM-1_20200102", "PHANTOM-1_20200304"


def rewrite(source, folder, names, values, keep=slice(None)):
    """A series of the phantom under names without meaning, every second column of its slices left out."""
    files = sorted(source.iterdir())[keep]
    for file in files:
        dataset = pydicom.dcmread(file)
        pixels = np.ascontiguousarray(dataset.pixel_array[:, ::2])
        dataset.PixelData, dataset.Columns = pixels.tobytes(), pixels.shape[1]
        rows_apart, columns_apart = dataset.PixelSpacing
        dataset.PixelSpacing = [rows_apart, 2 * columns_apart]
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        place = folder / f"{names.randrange(3)}"
        place.mkdir(parents=True, exist_ok=True)
        dataset.save_as(place / f"{names.getrandbits(64):016x}")
    return len(files)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two patients of the phantom, who are the two studies of one person below."""
    folder = tmp_path_factory.mktemp("phantom")
    radiogenomics.phantom(
        folder,
        segmentation_patients=0,
        classification_patients=0,
        test_patients=2,
        spacing=4.0,
        slice_thickness=10.0,
        planes=PLANES,
    )
    return sorted(path for path in (folder / "task2" / "test").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def studies(tmp_path_factory, cohort):
    """One person's two studies in shuffled files: all modalities, a localizer and an interrupted FLAIR; and T1w, T1wCE, FLAIR."""
    folder, names = tmp_path_factory.mktemp("studies"), random.Random(67)
    for patient, date in zip(cohort, ("20200102", "20200304"), strict=True):
        common = {"PatientID": "PHANTOM-1", "StudyInstanceUID": generate_uid(), "StudyDate": date}
        common["FrameOfReferenceUID"] = generate_uid()
        for number, (mri_type, description) in enumerate(DESCRIPTIONS.items(), 1):
            if mri_type == "T2w" and date == "20200304":
                continue
            values = {"SeriesInstanceUID": generate_uid(), "SeriesDescription": description, "SeriesNumber": number}
            rewrite(patient / mri_type, folder, names, {**common, **values})
        if date == "20200102":
            values = {"SeriesInstanceUID": generate_uid(), "SeriesDescription": "3-plane LOC", "SeriesNumber": 11}
            rewrite(patient / "T1w", folder, names, {**common, **values}, slice(3))
            values = {"SeriesInstanceUID": generate_uid(), "SeriesDescription": "AX FLAIR", "SeriesNumber": 12}
            rewrite(patient / "FLAIR", folder, names, {**common, **values}, slice(4, 15))
    (folder / "README").write_text("no DICOM")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Weights of a segmenter whose masks go by the image, so that they lie differently in every slice, and of classifiers."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    network = smp.UnetPlusPlus(
        SEGMENTER["encoder_name"], encoder_weights=None, decoder_channels=SEGMENTER["decoder_channels"], classes=2
    )
    torch.nn.init.normal_(network.segmentation_head[0].weight)
    save_weights(network, SEGMENTER, folder / "segmentation.pt")
    settings = {key: CLASSIFIER[key] for key in ("backbone", "sequence_length", "hidden_size")}
    for mri_type in PLANES:
        save_weights(BiLSTMNFNet(**settings), CLASSIFIER, folder / f"model_{mri_type}.pt")
    return folder


def run_app(source, output, models, config=None):
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    environment |= {"HOLOSCAN_CONFIG_PATH": str(config)} if config else {}
    return subprocess.run(
        [sys.executable, str(APP / "app.py"), "-i", str(source), "-o", str(output), "-m", str(models)],
        cwd=output.parent, env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The application's own settings, but every slice is kept: random networks find no tumour in it."""
    content = yaml.safe_load((APP / "app.yaml").read_text())
    content["prediction"] |= {"min_tumor_ratio": -1, "max_contours": 100000, "runtime": "torch"}
    file = tmp_path_factory.mktemp("config") / "app.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def output(tmp_path_factory, studies, models, config):
    folder = tmp_path_factory.mktemp("run") / "output"
    done = run_app(studies, folder, models, config)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return folder


@pytest.fixture(scope="module")
def rows(output):
    return {
        row["patient"]: row for row in json.loads((output / "prediction" / "patients.json").read_text())["patients"]
    }


def test_the_series_are_chosen_by_the_rules(output):
    facts = json.loads((output / "results" / "studies.json").read_text())
    found = {one["patient"]: {name: series["description"] for name, series in one["chosen"].items()} for one in facts}
    assert found == {FIRST: DESCRIPTIONS, SECOND: {name: DESCRIPTIONS[name] for name in ("FLAIR", "T1w", "T1wCE")}}
    why = {row["number"]: row["reason"] for row in facts[0]["series"]}
    assert "excluded" in why[11]
    assert re.search(r"series 1 'AX FLAIR' was preferred: more slices, 16 and 11", why[12])


def test_every_chosen_series_is_classified(rows):
    assert rows[FIRST]["used"] == list(PLANES)
    assert rows[SECOND]["used"] == ["FLAIR", "T1w", "T1wCE"]
    assert rows[SECOND]["series"]["T2w"]["reason"] == "no such series"


def in_patient(indices, affine):
    """Positions of voxels, sorted, in hundredths of a mm."""
    places = np.rint((indices @ affine[:3, :3].T + affine[:3, 3]) * 100).astype(int)
    return places[np.lexsort(places.T)]


@pytest.mark.parametrize(
    ("study", "mri_type"),
    [(study, mri_type) for study in (FIRST, SECOND) for mri_type in PLANES if (study, mri_type) != (SECOND, "T2w")],
)
def test_the_seg_lies_where_the_mask_lies(output, study, mri_type):
    image = nib.load(output / "prediction" / "masks" / f"{study}_{mri_type}.nii.gz")
    labels = np.asarray(image.dataobj)
    # a mask that is its own mirror image would hide a turned one
    assert all((labels != np.flip(labels, axis)).any() for axis in range(3))
    assert image.header.get_zooms() == pytest.approx((8, 4, 10))
    seg = highdicom.seg.segread(output / "results" / study / f"{mri_type}_seg.dcm")
    volume = seg.get_volume()  # (slices, rows, columns, segments), LPS
    lps_to_ras = np.diag([-1, -1, 1, 1])
    regions = [(volume.array[..., 0] > 0, labels > 0)]
    if mri_type == "T1wCE":  # enhancing tumour can't be recognised without contrast agent
        regions.append((volume.array[..., 1] > 0, labels == 2))
    assert volume.array.shape[-1] == len(regions)
    for region, label_map in regions:
        found, marked = np.argwhere(region), np.argwhere(label_map)
        assert len(marked) > 100
        np.testing.assert_allclose(
            in_patient(found, lps_to_ras @ volume.affine), in_patient(marked, image.affine), atol=1
        )


def test_the_seg_refers_to_the_chosen_series(output, studies):
    facts = json.loads((output / "results" / "studies.json").read_text())
    known = {entry["patient"]: entry["study"] for entry in find_studies(studies)}
    for one in facts:
        uids = {row["modality"]: row["uid"] for row in known[one["patient"]]["series"] if row["chosen"]}
        for mri_type in one["chosen"]:
            seg = pydicom.dcmread(output / "results" / one["patient"] / f"{mri_type}_seg.dcm")
            assert seg.StudyInstanceUID == known[one["patient"]]["uid"]
            assert [item.SeriesInstanceUID for item in seg.ReferencedSeriesSequence] == [uids[mri_type]]


def values_of(report, code):
    """The numbers under a concept, wherever they stand in the report's tree."""
    found = []

    def look(item):
        if item.get("ValueType") == "NUM" and item.ConceptNameCodeSequence[0].CodeValue == code:
            found.append(float(item.MeasuredValueSequence[0].NumericValue))
        for inner in item.get("ContentSequence", ()):
            look(inner)

    look(report)
    return found


@pytest.mark.parametrize("study", [FIRST, SECOND])
def test_the_report_holds_the_probability(output, rows, study):
    report = highdicom.sr.srread(output / "results" / study / "report_sr.dcm")
    assert values_of(report, "MGMT-P") == pytest.approx([rows[study]["probability"]], abs=1e-6)
    volumes = []
    for mri_type in rows[study]["used"]:
        image = nib.load(output / "prediction" / "masks" / f"{study}_{mri_type}.nii.gz")
        labels, voxel = np.asarray(image.dataobj), abs(np.linalg.det(image.affine[:3, :3]))
        volumes.append((labels > 0).sum() * voxel)
        volumes += [(labels == 2).sum() * voxel] if mri_type == "T1wCE" else []
    assert values_of(report, "118565006") == pytest.approx(
        volumes, rel=1e-4
    )  # of each series WT, then ET where it is marked


@pytest.mark.parametrize("study", [FIRST, SECOND])
def test_the_summary_stands_alone_and_says_what_it_must(output, rows, study):
    page = (output / "results" / study / "summary.html").read_text()
    assert "Research use only. Not for diagnosis." in page
    low, high = rows[study]["agreement_interval"]
    assert f"{rows[study]['probability']:.2f} ({low:.2f} to {high:.2f})" in page
    assert page.count("data:image/png;base64,") == len(rows[study]["used"])
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    assert all(f"{mri_type}, {PLANES[mri_type]}, slice " in page for mri_type in rows[study]["used"])
    assert "a phantom, not a patient" in page
    assert "AX T1 POST GAD" in page
    assert ("more slices" in page) == (study == FIRST)


def test_only_results_are_dicom_in_the_output(output):
    """What receives the output must not get the studies back."""
    files = [path for path in output.rglob("*") if path.is_file()]
    assert not [path for path in files if path.is_symlink()]
    dicom = {path.relative_to(output).parts[0] for path in files if path.read_bytes()[128:132] == b"DICM"}
    assert dicom == {"results"}


def test_a_finished_output_is_not_overwritten(output, studies, models, config):
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    done = run_app(studies, output, models, config)
    assert done.returncode != 0
    assert "earlier run" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()} == before


def test_a_folder_without_a_usable_series_is_refused(tmp_path, cohort, models):
    values = {"SeriesDescription": "3-plane LOC", "SeriesInstanceUID": generate_uid(), "SeriesNumber": 4}
    rewrite(cohort[0] / "T1w", tmp_path / "in", random.Random(0), values)
    done = run_app(tmp_path / "in", tmp_path / "out", models)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for words in (str(tmp_path / "in"), "none of its series is usable", "3-plane LOC", "--rules FILE"):
        assert words in line
    assert not list((tmp_path / "out").rglob("*.dcm"))


def test_a_folder_without_dicom_is_refused(tmp_path, models):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("nothing")
    done = run_app(tmp_path / "in", tmp_path / "out", models)
    assert done.returncode != 0
    assert f"error: {tmp_path / 'in'}: no study found. Expected DICOM files" in done.stderr


def test_missing_weights_are_named(tmp_path, studies):
    (tmp_path / "models").mkdir()
    done = run_app(studies, tmp_path / "out", tmp_path / "models")
    assert done.returncode != 0
    assert f"error: {tmp_path / 'models'}: holds no weights" in done.stderr


def test_the_shipped_segmenter_goes_where_none_is_given(tmp_path, models, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(APP))
    app = importlib.import_module("app")
    assert app.find_models(tmp_path / "models") == app.SHIPPED
    (tmp_path / "models").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        app.find_models(tmp_path / "models")
    shutil.copy(next(models.glob("model_*.pt")), tmp_path / "models")
    assert app.find_models(tmp_path / "models") == tmp_path / "models"
