"""No command reaches for a network, nor does a package that it uses: they run where there is none, and every attempt is noted."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("nilearn", reason="the phantom cohort needs the extra [phantom]")
pytest.importorskip("jinja2", reason="reports need the extra [report]")

from tests import attempts
from tests.integration.jobs import CONFIGS
from tests.networks import CLASSIFIER

pytestmark = pytest.mark.slow
DRIVER = """
import json, sys, traceback
from radiogenomics.scripts import cli
endings = []
for words in json.load(open(sys.argv[1])):
    sys.argv = ["radiogenomics", *map(str, words)]
    try:
        cli.main()
        endings.append(0)
    except SystemExit as error:
        endings.append(error.code or 0)
    except BaseException:
        endings.append(traceback.format_exc())
    json.dump(endings, open("endings.json", "w"))
"""
TRAINING = ["--init", "none", "--num_workers", 0, "--warmup_epochs", 1, "--max_epochs", 1, "--batch_size", 2]
ONE_EPOCH = {"init": "none", "warmup_epochs": 0, "max_epochs": 1}
TINY = ["--encoder_name", "tu-test_efficientnet", "--decoder_channels", "[16,8,8,4,4]", "--image_size", 32]


def commands(root, segmenter):
    """Words of every command that needs no network, with tiny settings."""
    task1, task2, test = (root / "data" / name for name in ("task1", "task2", "task2/test"))
    weights, flair = ["--segmenter", segmenter], ["--mri_types", "FLAIR"]
    classifier = [word for name, value in CLASSIFIER.items() for word in (f"--{name}", value)]
    keep = ["--min_tumor_ratio", -1, "--num_workers", 0]
    folds = ["--datalist", root / "t2.json", "--seeds", 1, "--num_workers", 0, "--selection", "outer", *flair, *weights]
    first = next((test).glob("*/FLAIR/*"))
    return [
        ["--help"], *([name, "--help"] for name in ("predict", "train", "headers")), ["doctor"],
        ["phantom", "--output", root / "more", "--segmentation_patients", 0, "--classification_patients", 0, "--spacing", 8.0],
        ["datalist", task1, root / "t1.json", "--folds", 2], ["datalist", task2, root / "t2.json", "--folds", 2],
        ["studies", "--input", test, "--output", root / "studies"],
        ["explore", "--input", test, "--output", root / "explored"],
        ["show", test, "--output", root / "shown"], ["headers", first],
        ["volumes", "--input", test, "--output", root / "volumes", "--brain", "never", "--num_workers", 0],
        ["prepare", "segmentation", "--prepared", root / "p1", "--datalist", root / "t1.json", "--num_workers", 0],
        ["train", "segmentation", "--datalist", root / "t1.json", "--prepared", root / "p1", "--output", root / "seg", *TINY, *TRAINING],
        ["evaluate", "segmentation", "--datalist", root / "t1.json", "--prepared", root / "p1", "--output", root / "e1", *weights],
        ["prepare", "classification", "--prepared", root / "p2", "--datalist", root / "t2.json", *keep, *flair, *weights],
        ["train", "classification", "--datalist", root / "t2.json", "--prepared", root / "p2", "--output", root / "clf", *flair, *classifier, *TRAINING],
        ["evaluate", "classification", "--datalist", root / "t2.json", "--prepared", root / "p2", "--output", root / "e2", "--classifier", root / "clf", *flair],
        ["segment", "--input", test, "--output", root / "fast", "--fast", *weights],
        ["predict", "--input", test, "--output", root / "predicted", "--classifier", root / "clf", "--runtime", "torch", "--dicom", *keep, *flair, *weights],
        ["explain", root / "predicted"], ["report", root / "e2"], ["card", root / "e2"],
        ["crossvalidate", "--output", root / "cv1", *folds, "--train_classification", json.dumps({**CLASSIFIER, **ONE_EPOCH}), "--prepare_classification", '{"min_tumor_ratio": -1, "runtime": "eager"}'],
        ["crossvalidate", "--output", root / "cv2", *folds, "--model", "size"],
        ["compare", root / "cv1", root / "cv2", "--output", root / "compared"],
        *(["export", "segmenter", kind, segmenter, root / f"s.{end}"] for kind, end in (("onnx", "onnx"), ("torchscript", "ts"), ("openvino", "xml"))),
    ]  # fmt: skip


def test_the_catch_catches(tmp_path):
    """Of Python, and of compiled code, where strace is there."""
    (tmp_path / "asks.py").write_text(
        "import contextlib, socket, urllib.request\n"
        "with contextlib.suppress(OSError): urllib.request.urlopen('http://192.0.2.1', timeout=0.2)\n"
        "a, b = socket.socketpair(); a.sendmsg([b'x'])\n"
    )
    _, found = attempts.run([tmp_path / "asks.py"], tmp_path / "work")
    assert any(line.startswith("urllib.Request") for line in found)
    assert any(line.startswith("socket.connect ('192.0.2.1', 80)") for line in found)
    assert any("connect(" in line for line in found) or not attempts.traced()
    assert len(found) <= 4


def test_no_command_tries(cohort, segmenter, tmp_path):
    if not attempts.alone():
        pytest.skip("this system does not let a user make a network of his own (unshare -rn)")
    (tmp_path / "data").symlink_to(cohort / "data")
    (tmp_path / "driver.py").write_text(DRIVER)
    words = commands(tmp_path, segmenter)
    (tmp_path / "words.json").write_text(json.dumps(words, default=str))
    done, found = attempts.run([tmp_path / "driver.py", tmp_path / "words.json"], tmp_path / "work")
    endings = json.loads((tmp_path / "work" / "endings.json").read_text())
    failed = {" ".join(map(str, one)): ending for one, ending in zip(words, endings, strict=True) if ending}
    assert not failed, done.stderr[-2000:]
    assert found == []
    kept = {path.name for path in (tmp_path / "work").rglob("*") if path.is_file()}
    assert not kept & {"deviceid", "onnxruntime.db", "telemetry.json"}, (
        "identifiers under which statistics would be sent"
    )


def test_the_bundle_command_does_not_try(cohort, segmenter, tmp_path):
    if not attempts.alone():
        pytest.skip("this system does not let a user make a network of his own (unshare -rn)")
    (series,) = (cohort / "data" / "task2" / "test").glob("*/FLAIR")
    words = ["-m", "monai.bundle", "run", "--config_file", CONFIGS / "inference_segmentation.yaml", "--image", series]
    words += ["--output_dir", tmp_path / "out", "--segmenter", segmenter]
    done, found = attempts.run(
        words,
        tmp_path / "work",
        PYTHONPATH=os.pathsep.join([str(tmp_path / "work"), str(CONFIGS.parent), str(CONFIGS.parents[1])]),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert found == []


def test_packages_are_set_not_to_report_how_they_are_used():
    code = "import os; import radiogenomics; print(os.environ['ORT_DISABLE_TELEMETRY'], os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    environment = {key: value for key, value in os.environ.items() if not key.endswith("TELEMETRY")}
    done = subprocess.run([sys.executable, "-c", code], env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.split() == ["1", "true"]
