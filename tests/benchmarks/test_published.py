"""The reference computes what the project computes."""

import json

import nibabel as nib
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch.utils.data import default_collate

pytest.importorskip("nilearn", reason="the phantom cohort needs the extra [phantom]")

import radiogenomics
from benchmarks import published
from custom_transforms import ChunkSlices
from scripts import datalists, loading
from scripts.networks import BiLSTMNFNet
from scripts.prepared import PreparedSeries
from scripts.weights import save_weights
from tests.networks import CLASSIFIER, SEGMENTER

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two patients as NIfTI with labels and one as DICOM, its series in three planes."""
    folder = tmp_path_factory.mktemp("cohort")
    radiogenomics.phantom(
        folder / "data", segmentation_patients=2, classification_patients=0, test_patients=1, spacing=5.0,
        planes={"T1w": "coronal", "T2w": "sagittal"},
    )  # fmt: skip
    torch.manual_seed(1)
    network = smp.UnetPlusPlus(
        SEGMENTER["encoder_name"], encoder_weights=None, decoder_channels=SEGMENTER["decoder_channels"], classes=2
    )
    for head, scale in ((network.segmentation_head[0], 30.0),):  # masks with an edge, not noise about 0
        head.weight.data *= scale
    save_weights(network, SEGMENTER, folder / "segmentation.pt")
    classifier = BiLSTMNFNet(CLASSIFIER["backbone"], CLASSIFIER["sequence_length"], CLASSIFIER["hidden_size"])
    classifier.clf_head.weight.data *= 10
    save_weights(classifier, CLASSIFIER, folder / "classifier.pt")
    return folder


@pytest.fixture(scope="module")
def both(cohort, tmp_path_factory):
    """Output folders of the reference and of the project for both kinds of studies."""
    settings = {"min_tumor_ratio": -1, "max_contours": 50}
    files = {"segmenter": str(cohort / "segmentation.pt"), "classifier": str(cohort / "classifier.pt")}
    folders = {}
    for task in ("task1", "task2/test"):
        folder = tmp_path_factory.mktemp("both")
        studies = cohort / "data" / task
        published.predict(
            studies, folder / "published", masks=folder / "published" / "masks", workers=1, **files, **settings
        )
        radiogenomics.predict(
            studies, folder / "ours", num_workers=0, runtime="eager", amp=False, report=False, **files, **settings
        )
        folders[task] = (folder / "published", folder / "ours")
    return folders


@pytest.mark.parametrize("task", ["task1", "task2/test"])
def test_masks_are_the_same(both, task):
    theirs, ours = both[task]
    names = sorted(path.name for path in (ours / "masks").iterdir())
    assert names == sorted(path.name for path in (theirs / "masks").iterdir())
    assert len(names) == {"task1": 8, "task2/test": 4}[task]
    sizes = []
    for name in names:
        first, second = (nib.load(folder / "masks" / name) for folder in (theirs, ours))
        np.testing.assert_allclose(first.affine, second.affine)
        found = np.asarray(second.dataobj)
        np.testing.assert_array_equal(np.asarray(first.dataobj), found)
        sizes.append((found > 0).mean())
    assert 0.01 < max(sizes) < 0.9, "the comparison needs masks that are neither empty nor full"


@pytest.mark.parametrize("task", ["task1", "task2/test"])
def test_probabilities_and_counts_are_the_same(both, task):
    first, second = (json.loads((folder / "patients.json").read_text())["patients"] for folder in both[task])
    assert len(first) == len(second)
    probabilities = []
    for theirs, ours in zip(first, second, strict=True):
        assert theirs["patient"] == ours["patient"]
        assert theirs["probability"] == pytest.approx(ours["probability"], abs=1e-5)
        assert theirs["series"].keys() == ours["series"].keys()
        for name, facts in theirs["series"].items():
            for key in ("slices", "foreground", "kept"):
                assert facts[key] == ours["series"][name][key]
            assert facts["kept"] > 6, "several sequences are needed"
            assert facts["sequences"] == pytest.approx(ours["series"][name]["sequences"], abs=1e-5)
            probabilities += facts["sequences"]
    assert np.ptp(probabilities) > 1e-3, "the comparison needs probabilities that differ"


def test_prepared_slices_are_the_same(both):
    theirs, ours = both["task2/test"]
    for prepared in sorted((ours / "prepared").rglob("*.h5")):
        series = PreparedSeries(prepared)
        files = sorted((theirs / "slices" / prepared.parent.name / prepared.stem).iterdir())
        assert [int(file.stem) for file in files] == series.slices.tolist()
        chunks = ChunkSlices(6, 3)
        cut = [[str(file) for file in files[start:stop]] for start, stop in chunks.bounds(len(files))]
        dataset = published.SliceSequences(cut, 6)
        load = loading.LoadSequence(6)
        for index, (start, stop) in enumerate(chunks.bounds(len(files))):
            item = load({"series": str(prepared), "start": start, "stop": stop, "label": 0})
            torch.testing.assert_close(dataset[index], item["image"].float(), rtol=0, atol=0)


def test_training_slices_are_the_same(cohort, tmp_path):
    """The release kept the fractions of grey values, the project cuts them off."""
    radiogenomics.datalist(cohort / "data" / "task1", tmp_path / "task1.json", folds=2)
    ours = radiogenomics.prepare("segmentation", tmp_path / "ours", datalist=tmp_path / "task1.json", num_workers=0)
    entries = datalists.load_datalist(tmp_path / "task1.json")["training"]
    items = {
        (row["patient"], row["mri_type"], f"{row['plane']}_{row['slice']:03d}"): loading.LoadSlice()(row)
        for row in loading.slice_items(entries, ours)
    }
    files = published.prepare_segmentation(entries, tmp_path / "published")
    assert len(files) == len(items) > 20
    dataset = published.SegmentationFiles(files)
    for index, row in enumerate(files):
        patient, mri_type, name = row["image"].removesuffix(".npy").split("/")[-3:]
        expected = items[patient, mri_type, name]
        item = dataset[index]
        torch.testing.assert_close(item["label"], expected["label"].float(), rtol=0, atol=0)
        torch.testing.assert_close(item["image"].floor(), expected["image"].float(), rtol=0, atol=1)
        assert item["image"].dtype == torch.float32
    assert default_collate([dataset[0], dataset[0]])["label"].shape[:2] == (2, 2)


def test_a_patient_without_tumour_stays(cohort, tmp_path):
    published.predict(
        cohort / "data" / "task2" / "test", tmp_path, cohort / "segmentation.pt", cohort / "classifier.pt", "FLAIR",
        min_tumor_ratio=1e9, workers=1,
    )  # fmt: skip
    (row,) = json.loads((tmp_path / "patients.json").read_text())["patients"]
    assert row["probability"] == 0.5
    assert row["series"]["FLAIR"]["kept"] == 0
