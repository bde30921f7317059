import json
import os
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.transforms import Compose, LoadImaged

from custom_transforms import SeriesReader, SliceGeometry
from scripts import preparation
from scripts.errors import UserError
from scripts.inferers import SliceSegmenter, prepare_series_batch
from scripts.prepared import PreparedError, PreparedSeries, write_series


@pytest.fixture
def study(tmp_path):
    """Two series, one a folder and one a file."""
    (tmp_path / "study" / "FLAIR").mkdir(parents=True)
    (tmp_path / "study" / "FLAIR" / "Image-1.dcm").write_bytes(b"one")
    (tmp_path / "study" / "t1.nii").write_bytes(b"two")
    return {"patient": "00001", "FLAIR": str(tmp_path / "study" / "FLAIR"), "T1w": str(tmp_path / "study" / "t1.nii")}


def items_of(study, folder, configuration=None, **rest):
    return preparation.series_items([study], folder, configuration or {"zoom": 1.2}, **rest)


def save(item, **info):
    """Stand in for the preparation of one item."""
    info = {"fingerprint": item["fingerprint"], "patient": item["patient"], "mri_type": item["mri_type"], **info}
    write_series(item["output"], np.zeros((0, 2, 2), np.uint8), np.zeros(0, int), np.zeros((1, 2, 2, 2), bool), info)


# What made a prepared series


def test_fingerprint_follows_configuration_and_source(study):
    flair = study["FLAIR"]
    first = preparation.fingerprint({"zoom": 1.2}, flair)
    assert preparation.fingerprint({"zoom": 1.2}, flair) == first
    assert preparation.fingerprint({"zoom": 1.0}, flair) != first
    assert preparation.fingerprint({"zoom": 1.2, "more": None}, flair) != first
    assert preparation.fingerprint({"zoom": 1.2}, study["T1w"]) != first


def test_fingerprint_does_not_follow_the_order_of_settings(study):
    assert preparation.fingerprint({"a": 1, "b": [2]}, study["T1w"]) == preparation.fingerprint(
        {"b": [2], "a": 1}, study["T1w"]
    )


@pytest.mark.parametrize("change", ["content", "time", "new file", "name"])
def test_fingerprint_follows_the_files_of_a_series(study, tmp_path, change):
    folder = tmp_path / "study" / "FLAIR"
    file = folder / "Image-1.dcm"
    first = preparation.fingerprint({}, folder)
    if change == "content":
        file.write_bytes(b"longer")
    elif change == "time":
        os.utime(file, (1, 1))
    elif change == "new file":
        (folder / "Image-2.dcm").write_bytes(b"one")
    else:
        file.rename(folder / "Image-3.dcm")
    assert preparation.fingerprint({}, folder) != first


def test_items_are_the_series_that_are_there(study, tmp_path):
    items = items_of(study, tmp_path / "prepared")
    assert [(item["patient"], item["mri_type"], item["image"]) for item in items] == [
        ("00001", "FLAIR", study["FLAIR"]),
        ("00001", "T1w", study["T1w"]),
    ]
    assert len({item["output"] for item in items}) == 2
    assert [item["mri_type"] for item in items_of(study, tmp_path, mri_types=["T1w", "T2w"])] == ["T1w"]


def test_only_what_is_not_prepared_is_pending(study, tmp_path, log):
    items = items_of(study, tmp_path / "prepared")
    assert preparation.pending(items) == items
    save(items[0])
    assert preparation.pending(items) == items[1:]
    assert "2 series: 1 prepared before, 1 to prepare" in log.text
    assert preparation.pending(items_of(study, tmp_path / "prepared", {"zoom": 1.0})) != []
    with open(items[0]["output"], "wb") as file:
        file.write(b"broken")
    assert preparation.pending(items) == items


# A series that can't be read


def test_a_bad_item_is_reported_and_the_rest_goes_on():
    def transform(item):
        if item["image"] == "bad":
            raise RuntimeError("applying transform") from ValueError("bad: found nothing, expected a series")
        return {**item, "image": torch.ones(2, 3, 3)}

    dataset = preparation.SeriesDataset([{"image": "good"}, {"image": "bad"}, {"image": "fine"}], transform)
    good, bad, fine = (dataset[index] for index in range(3))
    assert good["error"] == fine["error"] == ""
    assert len(good["image"]) == 2
    assert bad["error"] == "ValueError: bad: found nothing, expected a series"
    assert bad["image"].shape[0] == 0
    assert bad["n_slices"] == 0


def test_a_reason_does_not_repeat_whose_it_is():
    def transform(item):
        raise UserError("patient 7: T1w: no brain, expected one")

    (failed,) = preparation.SeriesDataset([{"patient": "7", "mri_type": "T1w"}], transform)
    assert failed["error"] == "no brain, expected one"


def test_slice_indices():
    out = preparation.SliceIndices()({"image": torch.zeros(4, 2, 2), "patient": "1"})
    assert out["n_slices"] == 4
    assert out["slices"].tolist() == [0, 1, 2, 3]
    assert out["patient"] == "1"


def series_item(tmp_path, error=""):
    geometry = SliceGeometry.from_affine(np.diag([1.0, 1, 3, 1]), (4, 5, 6))
    rng = np.random.default_rng(3)
    return {
        "patient": "00001",
        "mri_type": "FLAIR",
        "output": str(tmp_path / "00001" / "FLAIR.h5"),
        "fingerprint": "abc",
        "source": "/data/00001/FLAIR",
        "warnings": ["a gap"],
        "error": error,
        "ready": 0.0,
        "read_seconds": 0.0,
        "n_slices": 6,
        "geometry": geometry,
        "foreground": torch.tensor([1, 2, 4]),
        "masks": torch.from_numpy(rng.integers(0, 2, (3, 2, 5, 4), dtype=np.uint8)),
        "slices": torch.tensor([2, 4]),
        "image": torch.from_numpy(rng.integers(0, 256, (2, 5, 4), dtype=np.uint8)),
    }


def test_save_series(tmp_path):
    item = series_item(tmp_path)
    summary = preparation.SaveSeries()(item)["summary"]
    saved = PreparedSeries(item["output"])
    expected = np.zeros((6, 2, 5, 4), np.uint8)
    expected[[1, 2, 4]] = item["masks"]
    np.testing.assert_array_equal(saved.masks(), expected)
    image, masks = saved.stacks()
    np.testing.assert_array_equal(image, item["image"])
    np.testing.assert_array_equal(masks, expected[[2, 4]])
    assert saved.geometry == item["geometry"]
    assert (summary["slices"], summary["foreground"], summary["kept"]) == (6, 3, 2)
    assert saved.info["fingerprint"] == "abc"
    assert saved.info["warnings"] == ["a gap"]
    assert "/data" not in json.dumps(saved.info)


def test_seconds_of_a_series_are_its_own(tmp_path, monkeypatch):
    """Two series are read ahead at once; the first takes 3 s and then 10 s to write, the second 2 s."""
    clock = [100.0]
    monkeypatch.setattr(preparation.time, "time", lambda: clock[0])

    def write_slowly(*args):
        clock[0] += 10

    monkeypatch.setattr(preparation, "write_series", write_slowly)
    save = preparation.SaveSeries()
    found = []
    for seconds in (3, 2):
        clock[0] += seconds
        found.append(save({**series_item(tmp_path), "ready": 100.0, "read_seconds": 0.5})["summary"]["seconds"])
    assert found == [3.5, 2.5]


def test_an_item_with_an_error_is_not_saved(tmp_path):
    summary = preparation.SaveSeries()(series_item(tmp_path, "SeriesError: broken"))["summary"]
    assert summary["error"] == "SeriesError: broken"
    assert not list(tmp_path.iterdir())


# The index


def test_index_has_everyone_asked_for(study, tmp_path, log):
    folder = tmp_path / "prepared"
    second = {"patient": "00002", "FLAIR": study["FLAIR"]}
    items = preparation.series_items([study, second], folder, {"zoom": 1.2})
    save(items[0], slices=3, kept=2)
    index = preparation.PreparationIndex(folder, {"zoom": 1.2}, items)
    summary = {"patient": "00001", "mri_type": "T1w", "warnings": [], "error": "SeriesError: broken"}
    index(SimpleNamespace(state=SimpleNamespace(output={"summary": summary})))
    rows = index.write()
    assert set(rows) == {"00001/FLAIR", "00001/T1w", "00002/FLAIR"}
    assert rows["00001/T1w"]["error"] == "SeriesError: broken"
    assert rows["00002/FLAIR"]["error"] == "not prepared"
    assert "00001/T1w: SeriesError: broken" in log.text
    assert json.loads((folder / "index.json").read_text())["configuration"] == {"zoom": 1.2}
    read = preparation.read_index(folder)
    assert read["00001/FLAIR"]["file"] == items[0]["output"]
    assert (read["00001/FLAIR"]["slices"], read["00001/FLAIR"]["kept"]) == (3, 2)


def test_index_collects_from_an_engine(study, tmp_path):
    items = items_of(study, tmp_path)
    index = preparation.PreparationIndex(tmp_path, {}, items)
    engine = Engine(lambda engine, item: {"summary": {**item, "warnings": [], "error": f"no {item['mri_type']}"}})
    index.attach(engine)
    engine.run([{"patient": "00001", "mri_type": name} for name in ("FLAIR", "T1w")])
    assert {name: row["error"] for name, row in index.write().items()} == {
        "00001/FLAIR": "no FLAIR",
        "00001/T1w": "no T1w",
    }


def test_index_of_a_relative_folder(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    items = items_of(study, "prepared")
    save(items[0], slices=3)
    assert preparation.PreparationIndex("prepared", {}, items).write()["00001/FLAIR"]["file"] == "00001/FLAIR.h5"
    assert preparation.read_index("prepared")["00001/FLAIR"]["slices"] == 3


def test_index_can_be_moved(study, tmp_path):
    items = items_of(study, tmp_path / "here")
    save(items[0], kept=0)
    preparation.PreparationIndex(tmp_path / "here", {}, items).write()
    (tmp_path / "here").rename(tmp_path / "there")
    assert PreparedSeries(preparation.read_index(tmp_path / "there")["00001/FLAIR"]["file"]).n_slices == 1


def test_no_index(tmp_path):
    with pytest.raises(PreparedError, match=r"index\.json: no such index; prepare into .*radiogenomics prepare"):
        preparation.read_index(tmp_path)


def test_facts_hold_what_the_reader_saw(tmp_path):
    image = np.pad(np.random.default_rng(4).uniform(10, 500, (12, 11, 10)).astype(np.float32), 3) - 1024
    nib.save(nib.Nifti1Image(image, np.diag([-1.0, -1, 1, 1])), tmp_path / "shifted.nii.gz")
    data = LoadImaged("image", reader=SeriesReader(), ensure_channel_first=True)(
        {"image": str(tmp_path / "shifted.nii.gz")}
    )
    assert preparation.KeepFacts()(data)["warnings"] == ["the background is -1024, expected 0: it was subtracted."]


def test_as_is():
    item = {"image": object()}
    assert preparation.as_is(item) is item


# Networks that give no numbers


def test_a_series_that_the_network_fails_on_is_reported_and_the_others_go_on(tmp_path, caplog):
    loader = [
        {
            "patient": name,
            "mri_type": "FLAIR",
            "image": torch.full((3, 32, 32), value),
            "error": "",
            "warnings": ["a gap"],
        }
        for name, value in (("00001", 10), ("00002", 200), ("00003", 10))
    ]

    def network(images):
        return images[:, :2] * (float("nan") if images.max() > 1 else 1)

    summarise = Compose([preparation.SaveSeries()])
    shown = []

    def postprocessing(data):
        shown.append((data["patient"], tuple(data["pred"].shape)))
        return summarise(data) if data["error"] else {**data, "summary": {}}

    index = preparation.PreparationIndex(tmp_path, {}, [])
    preparation.SeriesEvaluator(
        device="cpu",
        val_data_loader=loader,
        network=network,
        inferer=SliceSegmenter(image_size=32, zoom=1.0, amp=False),
        prepare_batch=prepare_series_batch,
        postprocessing=postprocessing,
        val_handlers=[index],
        decollate=False,
    ).run()
    assert shown == [("00001", (3, 2, 32, 32)), ("00002", (0, 2, 1, 1)), ("00003", (3, 2, 32, 32))]
    (row,) = index.errors.values()
    assert (row["patient"], row["warnings"]) == ("00002", ["a gap"])
    assert "the segmenter answered with NaN or infinity" in row["error"]
    assert "00002/FLAIR: the segmenter answered" in caplog.text
