import json
import os
import subprocess
import sys
from importlib.metadata import version

import nibabel as nib
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import yaml

from scripts import checks, cli
from scripts.modalities import MRI_TYPES
from scripts.networks import build_classifier
from scripts.weights import save_weights
from tests.forked import python_words

ENCODER = {"encoder_name": "tu-test_efficientnet", "decoder_channels": [16, 8, 8, 4, 4], "image_size": 32}


def run(monkeypatch, *words):
    """The command with these words; its exit status, as the shell sees it, and its last words."""
    monkeypatch.setattr(sys, "argv", ["radiogenomics", *map(str, words)])
    try:
        cli.main()
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture
def segmenter(tmp_path):
    file = tmp_path / "segmentation.pt"
    network = smp.UnetPlusPlus(
        ENCODER["encoder_name"], encoder_weights=None, decoder_channels=ENCODER["decoder_channels"], classes=2
    )
    save_weights(network, ENCODER, file)
    return file


@pytest.fixture
def studies(tmp_path):
    series = tmp_path / "studies" / "00001" / "FLAIR"
    series.mkdir(parents=True)
    (series / "Image-1.dcm").write_bytes(b"no DICOM")
    return tmp_path / "studies"


# Starting


@pytest.mark.parametrize("words", [["--help"], ["predict", "--help"]])
def test_help_imports_nothing_heavy(words):
    code = f"""
import sys
sys.argv = {["radiogenomics", *words]}
from radiogenomics.scripts.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = set(["torch", "monai", "timm", "numpy", "nibabel", "pydicom"]) & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    assert "INFO" not in shown
    commands = ("predict", "prepare", "train", "evaluate", "phantom", "datalist", "report", "doctor")
    for expected in commands if len(words) == 1 else ("INPUT", "OUTPUT", "not for diagnosis"):
        assert expected in shown


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_all_commands_are_shown_in_groups_the_main_one_first(monkeypatch, capsys, words):
    assert run(monkeypatch, *words) == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"\n  {name} ") for group in cli.GROUPS.values() for name in (one.__name__ for one in group)]
    assert places == sorted(places)
    assert places[0] == shown.index("\n  predict ")
    assert all(shown.index(f"\n{title}\n") for title in cli.GROUPS)
    assert "FIRE" not in shown + capsys.readouterr().err


def test_unknown_command_is_answered_with_the_nearest(monkeypatch):
    assert run(monkeypatch, "predct", "--input", "x").startswith(
        "error: predct: no such command; did you mean predict?"
    )


def test_functions_are_the_python_interface():
    import radiogenomics
    from radiogenomics import predict

    assert callable(predict)
    for name in ("predict", "prepare", "train", "evaluate", "phantom", "datalist", "report", "doctor", "run_config"):
        assert name in radiogenomics.__all__
        assert callable(getattr(radiogenomics, name))


def test_doctor_shows_what_a_bug_report_needs(monkeypatch, capsys):
    assert run(monkeypatch, "doctor") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["packages"]["torch"] == version("torch")
    assert {"monai", "timm", "segmentation-models-pytorch", "pydicom"} <= shown["packages"].keys()
    assert "cpu" in shown["devices"]
    assert set(shown["weights"]) == {"segmentation", "FLAIR", "T1w", "T1wCE", "T2w"}
    assert "Research use only" in shown["use"]


@pytest.fixture
def classifier(tmp_path):
    settings = {"backbone": "test_efficientnet", "image_size": 32, "sequence_length": 6, "stride": 3, "hidden_size": 4}
    network = build_classifier(settings)
    file = tmp_path / "classifiers" / "model_FLAIR.pt"
    save_weights(network, {**settings, "mri_type": "FLAIR"}, file)
    return file


def test_doctor_tries_weights(monkeypatch, capsys, segmenter, classifier):
    assert run(monkeypatch, "doctor", "--segmenter", segmenter, "--classifier", classifier.parent) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["weights"]["segmentation"] == str(segmenter)
    assert (shown["weights"]["FLAIR"], shown["weights"]["T2w"]) == (str(classifier), "none")
    assert set(shown["tried"]) == {str(segmenter), str(classifier)}
    assert "ok, a segmenter; settings: encoder_name tu-test_efficientnet" in shown["tried"][str(segmenter)]
    assert "ok, a classifier" in shown["tried"][str(classifier)]
    assert "problems" not in shown


@pytest.mark.slow
def test_doctor_names_weights_that_cant_be_used(monkeypatch, capsys, segmenter, classifier, tmp_path):
    """With status 1, and with all the rest."""
    end = run(monkeypatch, "doctor", "--segmenter", classifier, "--classifier", tmp_path / "gone")
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["packages"]["torch"] == version("torch")
    assert end.startswith("error: ")
    assert "\n" not in end
    assert "gone: no such file or folder of classifier weights" in shown["problems"][0]
    assert f"{classifier}: these weights are not for this network" in shown["problems"][1]
    unknown = tmp_path / "unknown.pt"
    save_weights(torch.nn.Linear(2, 2), {**ENCODER, "encoder_name": "no such encoder"}, unknown)
    end = run(monkeypatch, "doctor", "--segmenter", unknown, "--classifier", classifier)
    assert "unknown.pt: no segmenter can be built from its settings" in end
    empty = tmp_path / "empty.pt"
    empty.touch()
    assert "empty (0 bytes)" in run(monkeypatch, "doctor", "--segmenter", empty)


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["studies", "{studies}"]])
def test_a_reader_that_goes_away_ends_the_command_quietly(tmp_path, words):
    """As in ``radiogenomics --help | head -2``."""
    (tmp_path / "00001").mkdir()
    for mri_type in MRI_TYPES:
        (tmp_path / "00001" / f"00001_{mri_type}.nii.gz").touch()
    source, sink = os.pipe()
    os.close(source)
    code = f"import sys; from radiogenomics.scripts import cli; sys.argv = ['radiogenomics', *{words!r}]; cli.main()"
    start = [sys.executable] if words == ["--help"] else python_words()
    try:
        done = subprocess.run(
            [*start, "-c", code.format(studies=tmp_path)], stdout=sink, stderr=subprocess.PIPE, text=True, timeout=120,
            check=False,
        )  # fmt: skip
    finally:
        os.close(sink)
    assert (done.returncode, done.stderr) == (cli.READER_GONE, "")


# Settings


def test_unknown_setting_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="inference has no setting 'min_tumour_ratio'; did you mean --min_tumor_ratio"):
        cli.run_config("inference", min_tumour_ratio=0.1)
    with pytest.raises(ValueError, match=r"--imports 5: not a setting; change it in a configuration"):
        checks.settings("inference", {"imports": 5})
    with pytest.raises(ValueError, match=r"--batch_size : expected a whole number from 1"):
        checks.settings("inference", {"batch_size": ""})
    with pytest.raises(ValueError, match=r"train_segmentation has no setting 'xyz'; expected one of .*max_epochs"):
        cli.run_config("train_segmentation", xyz=1)
    assert not list(tmp_path.iterdir())


def test_what_is_offered_can_be_set():
    with pytest.raises(ValueError) as info:
        cli.run_config("train_classification", xyz=1)
    offered = str(info.value)
    for name in ("learning_rate", "hidden_size", "datalist", "excluded_patients"):
        assert name in offered
    for name in ("network_def", "train", "imports", "training"):
        assert name not in offered.split("expected one of ")[1].split(", ")


@pytest.mark.parametrize("text", ["$1/2", "@seed", "half"])
def test_a_number_is_no_text(monkeypatch, capsys, tmp_path, text):
    words = ("predict", "--input", tmp_path, "--output", tmp_path / "out", "--prior", text)
    assert mistake(monkeypatch, capsys, *words) == f"error: --prior {text}: expected a number from 0 to 1"


def test_part_of_a_block_can_be_set():
    checks.settings("phantom", {"phantom#segmentation_patients": 1})
    with pytest.raises(ValueError, match="phantom has no setting 'phantom#patients'"):
        cli.run_config("phantom", **{"phantom#patients": 1})


def test_stage_is_one_of_two():
    with pytest.raises(ValueError, match="--stage segmenting: expected one of segmentation, classification"):
        cli.train("segmenting", "a.json", "prepared", "runs")
    with pytest.raises(ValueError, match="--stage x"):
        cli.prepare("x", "prepared")


@pytest.mark.parametrize("mri_types", ["T1", "FLAIR,T1ce", ("FLAIR", "PD")])
def test_unknown_modality(tmp_path, mri_types):
    with pytest.raises(ValueError, match="expected some of FLAIR,T1w,T1wCE,T2w"):
        cli.predict(tmp_path, tmp_path / "out", mri_types=mri_types)
    assert not list(tmp_path.iterdir())


# Mistakes end in a line


def mistake(monkeypatch, capsys, *words):
    """What the command says of a mistake: one line with the reason, status 1."""
    monkeypatch.delenv("RADIOGENOMICS_DEBUG", raising=False)
    code = run(monkeypatch, *words)
    assert isinstance(code, str), f"exit status {code}"  # sys.exit of a text prints it and exits with 1
    first, *rest = code.lstrip("\n").splitlines()  # a progress bar of an earlier test may stand before
    assert first.startswith("error: ")
    assert len(rest) <= 1
    assert "Traceback" not in code + capsys.readouterr().err
    return first


def test_a_name_of_several_lines_is_reported_on_one(monkeypatch, capsys, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text('BraTS21ID,MGMT_value\n"a\nb\x1b[2J",5\n')
    (tmp_path / "in" / "A").mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.eye(4)[:, :, None] * np.ones(4), np.eye(4)), tmp_path / "in" / "A" / "A_flair.nii")
    said = mistake(monkeypatch, capsys, "datalist", tmp_path / "in", tmp_path / "list.json", "--labels", labels)
    assert said == f"error: {labels}: MGMT_value of a b\\x1b[2J is '5', expected 0 or 1"


def test_no_studies(monkeypatch, capsys, tmp_path, segmenter):
    (tmp_path / "empty").mkdir()
    said = mistake(
        monkeypatch,
        capsys,
        "predict",
        "--input",
        tmp_path / "empty",
        "--output",
        tmp_path / "out",
        "--segmenter",
        segmenter,
    )
    assert "empty: no study found. Expected" in said
    assert not (tmp_path / "out").exists()


def test_no_such_folder(monkeypatch, capsys, tmp_path, segmenter):
    said = mistake(
        monkeypatch,
        capsys,
        "predict",
        "--input",
        tmp_path / "gone",
        "--output",
        tmp_path / "out",
        "--segmenter",
        segmenter,
    )
    assert "gone: no such folder or zip file of studies" in said
    assert not (tmp_path / "out").exists()


def test_wrong_modality(monkeypatch, capsys, tmp_path, studies):
    said = mistake(
        monkeypatch, capsys, "predict", "--input", studies, "--output", tmp_path / "out", "--mri_types", "FLAIR,T1ce"
    )
    assert "--mri_types FLAIR,T1ce: expected some of FLAIR,T1w,T1wCE,T2w" in said


def test_weights_that_are_not_there(monkeypatch, capsys, tmp_path, studies):
    words = ("predict", "--input", studies, "--output", tmp_path / "out")
    said = mistake(monkeypatch, capsys, *words, "--segmenter", tmp_path / "gone.pt")
    assert "gone.pt: no such weights file; train your own with `radiogenomics train`" in said
    (tmp_path / "models").mkdir()
    said = mistake(monkeypatch, capsys, *words, "--models_dir", tmp_path / "models")
    assert "no weights for segmentation: " in said
    assert "radiogenomics download" in said
    assert not (tmp_path / "out").exists()


def test_classifier_that_is_not_there(monkeypatch, capsys, tmp_path, studies, segmenter):
    said = mistake(
        monkeypatch, capsys, "predict", "--input", studies, "--output", tmp_path / "out",
        "--segmenter", segmenter, "--classifier", tmp_path / "gone",
    )  # fmt: skip
    assert "gone: no such file or folder of classifier weights" in said
    assert not (tmp_path / "out").exists()


def test_sample_submission_that_is_not_there(monkeypatch, capsys, tmp_path, studies, segmenter):
    """It is looked for before the work begins, not after it."""
    said = mistake(
        monkeypatch, capsys, "predict", "--input", studies, "--output", tmp_path / "out",
        "--segmenter", segmenter, "--sample_submission", tmp_path / "gone.csv",
    )  # fmt: skip
    assert "gone.csv: no such file" in said
    assert not (tmp_path / "out").exists()


def test_dicom_without_highdicom(monkeypatch, capsys, tmp_path, studies, segmenter):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    words = ("predict", "--input", studies, "--output", tmp_path / "out", "--segmenter", segmenter)
    said = mistake(monkeypatch, capsys, *words, "--dicom")
    assert "pip install 'brats-mri-radiogenomics[dicom]'" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--deidentify=yes", "--deidentify yes: expected True or False"),
        ("--dicom=yes", "--dicom yes: expected True or False"),
    ],
)
def test_dicom_is_asked_for_clearly(monkeypatch, capsys, tmp_path, studies, segmenter, option, reason):
    words = ("predict", "--input", studies, "--output", tmp_path / "out", "--segmenter", segmenter)
    assert reason in mistake(monkeypatch, capsys, *words, option)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("segment", "--input", "STUDIES", "--output", "OUT"), "dicom"),
        (("prepare", "classification", "--input", "STUDIES", "--prepared", "OUT"), "prior"),
        (("pretrain", "--output", "OUT"), "excluded_patients"),
        (("phantom", "--preview", "OUT"), "max_epochs"),
        (("crossvalidate", "--output", "OUT", "--prepare_classification", "{flips: True}"), "flips"),
    ],
)
def test_what_a_job_never_uses_is_refused(monkeypatch, capsys, tmp_path, studies, command, option):
    places = {"STUDIES": studies, "OUT": tmp_path / "out"}
    words = [places.get(word, word) for word in command]
    more = () if command[0] == "crossvalidate" else (f"--{option}", "1")
    assert f"nothing in this job uses '{option}'" in mistake(monkeypatch, capsys, *words, *more)
    assert not (tmp_path / "out").exists()


def test_unknown_option(monkeypatch, capsys, tmp_path, studies):
    said = mistake(monkeypatch, capsys, "predict", "--input", studies, "--output", tmp_path / "out", "--zom", "1.0")
    assert "inference has no setting 'zom'; did you mean --zoom?" in said


def test_data_list_that_is_not_there(monkeypatch, capsys, tmp_path):
    words = (
        "--datalist",
        tmp_path / "gone.json",
        "--prepared",
        tmp_path / "p",
        "--output",
        tmp_path / "out",
        "--init",
        "none",
    )
    said = mistake(monkeypatch, capsys, "train", "segmentation", *words)
    assert "gone.json: no such data list; make one with `radiogenomics datalist" in said
    assert not (tmp_path / "out").exists()


def test_an_error_of_the_program_is_shown_whole(monkeypatch):
    def broken(output):
        raise RuntimeError("not the user's fault")

    monkeypatch.setitem(cli.COMMANDS, "phantom", broken)
    with pytest.raises(RuntimeError, match="not the user's fault"):
        run(monkeypatch, "phantom", "--output", "x")


REFUSED = [  # words after those that are right, and what is said of them
    (("predict", "--prior", "nan"), "--prior nan: expected a number from 0 to 1"),
    (("predict", "--prior", "inf"), "--prior inf: expected a number from 0 to 1"),
    (("predict", "--prior=1e999"), "--prior inf: expected a number from 0 to 1"),
    (("predict", "--prior", "half"), "--prior half: expected a number from 0 to 1"),
    (("predict", "--prior", "True"), "--prior True: expected a number from 0 to 1"),
    (("predict", "--prior=-0.1"), "--prior -0.1: expected a number from 0 to 1"),
    (("predict", "--batch_size", "0"), "--batch_size 0: expected a whole number from 1"),
    (("predict", "--batch_size=-1"), "--batch_size -1: expected a whole number from 1"),
    (("segment", "--batch_size", "many"), "--batch_size many: expected a whole number from 1"),
    (("segment", "--num_workers=-1"), "--num_workers -1: expected a whole number from 0"),
    (("predict", "--zoom", "0"), "--zoom 0: expected a number from 1"),
    (("predict", "--zoom", "nan"), "--zoom nan: expected a number from 1"),
    (("predict", "--min_tumor_ratio", "nan"), "--min_tumor_ratio nan: expected a number"),
    (("predict", "--min_tumor_ratio", "small"), "--min_tumor_ratio small: expected a number"),
    (("predict", "--max_contours", "few"), "--max_contours few: expected a whole number from 0"),
    (("predict", "--coarse_step", "nan"), "--coarse_step nan: expected a number from 0"),
    (("segment", "--fuse", "--threshold", "2"), "--threshold 2: expected a number from 0 to 1"),
    (("segment", "--fuse", "--reference", "T1"), "--reference T1: expected one of FLAIR, T1w, T1wCE, T2w"),
    (("segment", "--fuse=T1w"), "--fuse T1w: expected True or False"),
    (("segment", "--fast=yes"), "--fast yes: expected True or False"),
    (("predict", "--runtime", "quick"), "--runtime quick: expected one of auto, eager, torch, inductor, openvino"),
    (("predict", "--precision", "int4"), "--precision int4: expected one of auto, fp32, bf16, int8"),
    (("predict", "--mri_types", "FLAIR,T1"), "--mri_types FLAIR,T1: expected some of FLAIR,T1w,T1wCE,T2w"),
    (("predict", "--mri_types", "3"), "--mri_types 3: expected some of FLAIR,T1w,T1wCE,T2w"),
    (("predict", "--device", "nonsense"), "--device nonsense: expected cpu, cuda, cuda:1"),
    (("predict", "--amp", "1"), "--amp 1: expected one of auto, True, False"),
    (("predict", "--zom", "1"), "inference has no setting 'zom'; did you mean --zoom?"),
    (("predict", "--overwrite=yes"), "--overwrite yes: expected True or False"),
    (("predict", "--input", "GONE"), "--input GONE: no such folder or zip file of studies"),
    (("predict", "--input", "FILE"), "--input FILE: is a file, expected a folder of studies"),
    (("predict", "--output", "FILE/out"), "--output FILE/out: FILE is a file, expected a folder; name another"),
    (("predict", "--segmenter", "GONE"), "--segmenter GONE: no such weights file; train your own"),
    (("segment", "--segmenter", "."), "--segmenter DIR: is a folder, expected a weights file"),
    (("predict", "--classifier", "GONE"), "--classifier GONE: no such file or folder of classifier weights"),
    (("predict", "--sample_submission", "GONE"), "--sample_submission GONE: no such file"),
    (("predict", "--datalist", "GONE"), "--datalist GONE: no such data list"),
    (("prepare", "classification", "--prepared", "out", "--datalist", "GONE"), "--datalist GONE: no such data list; make"),
    (("prepare", "segmentation", "--prepared", "out", "--input", "GONE"), "--input GONE: no such folder or zip file of studies"),
    (("train", "segmentation", "FILE", "GONE", "out"), "--prepared GONE/index.json: no such index of prepared series"),
    (("train", "classification", "FILE", ".", "out", "--init", "GONE"), "--init GONE: no such weights file; or give"),
    (("train", "classification", "FILE", ".", "out", "--runtime", "openvino"), "--runtime openvino: expected one of eager"),
    (("train", "segmentation", "FILE", ".", "out", "--max_epoch", "2"), "did you mean --max_epochs?"),
    (("evaluate", "segmentation", "GONE", ".", "out"), "--datalist GONE: no such data list"),
    (("crossvalidate", "out", "--datalist", "GONE"), "--datalist GONE: no such data list"),
    (("crossvalidate", "out", "--stages", "all"), "--stages all: expected some of segmentation,classification"),
    (("crossvalidate", "out", "--train_classification", "{max_epoch: 2}"), "did you mean --max_epochs?"),
    (("crossvalidate", "out", "--train_classification", "{max_epochs: few}"), "--max_epochs few: expected a whole number"),
    (("explain", "GONE"), "--run GONE: no such folder of a run"),
    (("explain", ".", "--limit", "0"), "--limit 0: expected a whole number from 1"),
    (("explain", ".", "--device", "gpu"), "--device gpu: expected cpu, cuda, cuda:1"),
    (("report", "GONE"), "--run GONE: no such folder of a run"),
    (("report", ".", "--output", "FILE/report"), "--output FILE: FILE is a file, expected a folder"),
    (("card", "GONE"), "--run GONE: no such folder of a run"),
    (("export", "segmenter", "onnx", "GONE", "a.onnx"), "--weights GONE: no such weights file"),
    (("export", "both", "onnx", "FILE", "a.onnx"), "--what both: expected one of segmenter, classifier"),
    (("export", "segmenter", "keras", "FILE", "a"), "--format keras: expected one of torchscript, onnx, openvino"),
    (("datalist", "GONE", "a.json"), "GONE: no such folder or zip file of studies"),
    (("datalist", ".", "a.json", "--folds", "two"), "--folds two: expected a whole number from 2"),
    (("datalist", ".", "FILE/a.json"), "--output FILE: FILE is a file, expected a folder"),
    (("pretrain", "out", "--label_maps", "GONE"), "--label_maps GONE: no such folder of brain segmentations"),
    (("pretrain", "FILE"), "--output FILE: FILE is a file, expected a folder"),
    (("phantom", "FILE"), "--output FILE: FILE is a file, expected a folder"),
    (("phantom", "out", "--spacing", "wide"), "--spacing wide: expected a number"),
    (("phantom", "--preview", "FILE/a.png"), "--preview FILE: FILE is a file, expected a folder"),
    (("demo", "FILE"), "--output FILE: FILE is a file, expected a folder"),
    (("demo", "out", "--signal", "much"), "--signal much: expected a number from 0 to 1"),
]  # fmt: skip


def test_mistakes_are_refused_before_anything_heavy_is_imported(tmp_path):
    """Each in one line that names the option and its value, with nothing written, and at once."""
    file, gone = tmp_path / "file", tmp_path / "gone"
    (tmp_path / "index.json").write_text("{}")
    file.touch()

    def placed(text):
        return text.replace("GONE", str(gone)).replace("FILE", str(file)).replace("DIR", str(tmp_path))

    commands = []
    for (name, *words), _ in REFUSED:
        right = {"predict": (".", "out"), "segment": (".", "out")}.get(name, ())
        named = {word for word in words if word in ("--input", "--output")}
        given = [
            f"--{key}={value}"
            for key, value in zip(("input", "output"), right, strict=False)
            if f"--{key}" not in named
        ]
        commands.append([name, *given, *map(placed, words)])
    code = f"""
import json, sys
from radiogenomics.scripts.cli import main
for words in {commands!r}:
    sys.argv = ["radiogenomics", *words]
    try:
        main()
        said = "nothing"
    except SystemExit as end:
        said = end.code
    print(json.dumps([said, sorted({{"torch", "monai", "numpy"}} & set(sys.modules))]))
"""
    environment = {key: value for key, value in os.environ.items() if key != "RADIOGENOMICS_DEBUG"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    for (words, expected), line in zip(REFUSED, done.stdout.splitlines(), strict=True):
        said, heavy = json.loads(line)
        first, hint = said.splitlines()
        assert first.startswith("error: "), words
        assert placed(expected) in first, words
        assert hint == "(RADIOGENOMICS_DEBUG=1 shows where)"
        assert not heavy, words
    assert {path.name for path in tmp_path.iterdir()} == {"file", "index.json"}


def test_a_device_that_is_not_there(monkeypatch, capsys, tmp_path, studies, segmenter):
    words = ("predict", "--input", studies, "--output", tmp_path / "out", "--segmenter", segmenter)
    said = mistake(monkeypatch, capsys, *words, "--device", "cuda:99")
    assert "--device cuda:99: no such device on this machine; available: cpu" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_of_a_forbidden_place_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(ValueError, match=r"--output .*out: no permission to write to .*; name another folder"):
        cli.segment(tmp_path, tmp_path / "out")


def test_debugging_shows_where(monkeypatch, tmp_path):
    monkeypatch.setenv("RADIOGENOMICS_DEBUG", "1")
    with pytest.raises(ValueError, match="no such folder or zip file of studies"):
        run(monkeypatch, "datalist", "--input", tmp_path / "gone", "--output", tmp_path / "a.json")


# A data list by command


def test_datalist(monkeypatch, tmp_path, studies, capsys):
    assert run(monkeypatch, "datalist", "--input", studies, "--output", tmp_path / "list.json") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "list.json")
    listed = json.loads((tmp_path / "list.json").read_text())
    assert [one["patient"] for one in listed["test"]] == ["00001"]
