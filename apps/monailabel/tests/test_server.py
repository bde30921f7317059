# mypy: disallow-untyped-defs=False
# ruff: noqa: D102, D103
"""The server as a person starts it, with phantom series, through its REST interface; it is stopped at the end."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
import segmentation_models_pytorch as smp
import torch

from custom_transforms import SeriesReader
from scripts.synthetic.cohort import write_cohort
from scripts.weights import read_weights, save_weights

APP = Path(__file__).resolve().parents[1]
MODEL = "brats_mri_slice_segmentation"
SETTINGS = {"encoder_name": "tu-test_efficientnet", "decoder_channels": [16, 8, 8, 4, 4], "image_size": 64}
PATIENTS = ("BraTS2021_00000", "BraTS2021_00001", "BraTS2021_00002")
IMAGES = tuple(f"{patient}_flair" for patient in PATIENTS)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folder of everything."""
    return tmp_path_factory.mktemp("label")


@pytest.fixture(scope="module")
def cohort(place):
    write_cohort(place / "cohort", len(PATIENTS), classification_patients=1, test_patients=0, spacing=5.0)
    return place / "cohort"


@pytest.fixture(scope="module")
def studies(place, cohort):
    """The datastore: a folder of FLAIR series."""
    (place / "studies").mkdir()
    for file in cohort.glob("task1/*/*_flair.nii.gz"):
        shutil.copyfile(file, place / "studies" / file.name)
    return place / "studies"


@pytest.fixture(scope="module")
def segmenter(place):
    """Untrained weights; they mark a part of every slice."""
    torch.manual_seed(0)
    parts = {key: SETTINGS[key] for key in ("encoder_name", "decoder_channels")}
    network = smp.UnetPlusPlus(encoder_weights=None, classes=2, **parts)
    save_weights(network, SETTINGS, place / "segmentation.pt")
    return place / "segmentation.pt"


class Server:
    """MONAI Label in a process of its own."""

    def __init__(self, place, studies, segmenter):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.app, self.log = place / "app", place / "server.log"
        command = [sys.executable, APP / "start.py", "--studies", studies, "--segmenter", segmenter]
        command += ["--app", self.app, "--port", self.port]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([*map(str, command)], cwd=place, stdout=log, stderr=subprocess.STDOUT)

    @property
    def model(self):
        return self.app / "model" / MODEL

    @property
    def weights(self):
        return self.model / "models" / "model.pt"

    def wait(self, seconds=300):
        for _ in range(seconds):
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            try:
                return self.get("info/")
            except requests.ConnectionError:
                time.sleep(1)
        raise TimeoutError(self.log.read_text()[-4000:])

    def stop(self):
        self.process.terminate()
        self.process.wait(60)

    def get(self, path):
        answer = requests.get(f"{self.address}/{path}", timeout=60)
        answer.raise_for_status()
        return answer.json()

    def post(self, path, **options):
        return requests.post(f"{self.address}/{path}", timeout=120, **options)

    def logged(self, words):
        """Whether the server writes something into its log, which may come after its answer."""
        for _ in range(30):
            if words in self.log.read_text():
                return True
            time.sleep(1)
        return False

    def infer(self, image, file, **params):
        """Segment an image, write the label map and return it."""
        answer = self.post(
            f"infer/{MODEL}", params={"image": image, "output": "image"}, data={"params": json.dumps(params)}
        )
        assert answer.status_code == 200, self.log.read_text()[-4000:]
        file.write_bytes(answer.content)
        return nib.load(file)

    def train(self, **request):
        """Train to the end with what a viewer sends, every option of the server, and return the task."""
        config = self.get("info/")["trainers"][MODEL]["config"]
        options = {key: value[0] if isinstance(value, list) else value for key, value in config.items()}
        assert self.post(f"train/{MODEL}", json={**options, **request}).status_code == 200
        for _ in range(300):
            task = self.get("train/")
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                return task
            time.sleep(1)
        raise TimeoutError(self.log.read_text()[-4000:])

    def submit(self, cohort, patient, image):
        """Submit the truth as an annotator's label map."""
        truth = nib.load(cohort / "task1" / patient / f"{patient}_seg.nii.gz")
        values = np.asarray(truth.dataobj)
        label = np.where(values == 4, 2, values > 0).astype(np.uint8)
        file = self.log.parent / "annotation.nii.gz"
        nib.save(nib.Nifti1Image(label, truth.affine), file)
        with open(file, "rb") as stream:
            answer = requests.put(
                f"{self.address}/datastore/label",
                params={"image": image},
                files={"label": (file.name, stream)},
                timeout=60,
            )
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def server(place, studies, segmenter):
    running = Server(place, studies, segmenter)
    try:
        running.wait()
        yield running
    finally:
        running.stop()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", running.port)), "nothing listens any more"


def directly(server, image, output):
    """The bundle's own run on an image, with the current weights; the label map."""
    done = subprocess.run(
        [
            sys.executable, "-m", "monai.bundle", "run", "inference", "--config_file", str(server.model / "configs/inference.yaml"),
            "--image", str(image), "--segmenter", str(server.weights), "--output_dir", str(output),
        ],
        cwd=output.parent, env=os.environ, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (file,) = output.glob("*_seg.nii.gz")
    return nib.load(file)


def same(one, other):
    return one.shape == other.shape and np.array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))


def test_server_says_what_it_is(server):
    info = server.get("info/")
    assert list(info["models"]) == list(info["trainers"]) == [MODEL], "and no other model, from nowhere"
    model = info["models"][MODEL]
    assert model["labels"] == {"tumour": 1, "enhancing tumour": 2}
    assert (model["type"], model["dimension"]) == ("segmentation", 3)
    assert "Research use only" in model["description"]
    assert info["datastore"]["total"] == len(IMAGES)
    assert "this machine alone" in server.log.read_text()


def test_inference_is_that_of_the_bundle(server, studies, place):
    image = studies / f"{IMAGES[0]}.nii.gz"
    found = server.infer(IMAGES[0], place / "before.nii.gz")
    expected = directly(server, image, place / "before")
    assert same(found, expected)
    assert set(np.unique(found.dataobj)) == {0, 1, 2}, "all labels take part in the comparison"
    assert found.shape == nib.load(image).shape
    np.testing.assert_allclose(found.affine, nib.load(image).affine, atol=1e-4)


def test_a_dicom_series_by_its_path(server, cohort, place):
    (series,) = cohort.glob("task2/train/*/FLAIR")
    found = server.infer(str(series), place / "dicom.nii.gz", result_extension=".nii.gz")
    volume, meta = SeriesReader().get_data(series)
    assert found.shape == volume.shape
    np.testing.assert_allclose(found.affine, meta["affine"], atol=1e-4)
    assert same(found, directly(server, series, place / "dicom"))


def test_active_learning_asks_for_what_is_not_annotated(server, cohort):
    assert server.post("activelearning/random", json={}).json()["id"] in IMAGES
    for patient, image in zip(PATIENTS[:2], IMAGES[:2], strict=True):
        server.submit(cohort, patient, image)
    assert server.get("info/")["datastore"]["completed"] == 2
    for strategy in ("random", "first"):
        assert server.post(f"activelearning/{strategy}", json={}).json()["id"] == IMAGES[2]


def test_after_training_the_new_weights_segment(server, studies, place):
    """With the labels of the test before this one."""
    before, old = server.infer(IMAGES[0], place / "old.nii.gz"), server.weights.read_bytes()
    task = server.train(max_epochs=1, val_split=0.5)
    assert task["status"] == "DONE", "\n".join(task["details"])
    assert "no held-out volume" not in server.log.read_text(), "one of two volumes was held out"
    assert server.weights.read_bytes() != old
    assert {key: read_weights(server.weights)[1][key] for key in SETTINGS} == SETTINGS
    assert len((server.model / "runs/annotations/history.csv").read_text().splitlines()) == 2
    after = server.infer(IMAGES[0], place / "after.nii.gz")
    assert not same(after, before)
    assert same(after, directly(server, studies / f"{IMAGES[0]}.nii.gz", place / "after"))


def test_weights_of_another_network_are_refused(server):
    """By a running server that was set to load whatever fits; here a layer has another name."""
    good = server.weights.read_bytes()
    state, settings = read_weights(server.weights)
    other = {key.replace("segmentation_head.0", "head"): value for key, value in state.items()}
    try:
        torch.save({"model": other, "settings": settings}, server.weights)
        answer = server.post(f"infer/{MODEL}", params={"image": IMAGES[0], "output": "image"})
        assert answer.status_code == 500
        assert server.logged('Missing key(s) in state_dict: "segmentation_head.0.weight"')
        task = server.train(max_epochs=1)
        assert task["status"] == "ERROR"
        assert server.logged("these weights are not for this network")
    finally:
        server.weights.write_bytes(good)
    answer = server.post(f"infer/{MODEL}", params={"image": IMAGES[0], "output": "image"})
    assert answer.status_code == 200


def test_the_command_says_what_is_missing(studies, tmp_path):
    command = [sys.executable, APP / "start.py", "--studies", studies, "--app", tmp_path / "app"]
    command += ["--segmenter", "missing.pt"]
    done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert "no such weights file" in done.stderr
    assert "Traceback" not in done.stderr
