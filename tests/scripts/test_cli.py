import json
import subprocess
import sys
from importlib.metadata import version

import pytest
import segmentation_models_pytorch as smp
import yaml

from scripts import cli
from scripts.weights import save_weights

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
    commands = ("predict", "prepare", "train", "evaluate", "phantom", "datalist", "report", "doctor")
    for expected in commands if len(words) == 1 else ("INPUT", "OUTPUT", "not for diagnosis"):
        assert expected in shown


def test_functions_are_the_python_interface():
    import radiogenomics
    from radiogenomics import predict

    assert callable(predict)
    for name in ("predict", "prepare", "train", "evaluate", "phantom", "datalist", "report", "doctor", "run_config"):
        assert name in radiogenomics.__all__
        assert callable(getattr(radiogenomics, name))


def test_doctor_tells_what_a_bug_report_needs(monkeypatch, capsys):
    assert run(monkeypatch, "doctor") == 0
    told = yaml.safe_load(capsys.readouterr().out)
    assert told["packages"]["torch"] == version("torch")
    assert {"monai", "timm", "segmentation-models-pytorch", "pydicom"} <= told["packages"].keys()
    assert "cpu" in told["devices"]
    assert set(told["weights"]) == {"segmentation", "FLAIR", "T1w", "T1wCE", "T2w"}
    assert "Research use only" in told["use"]


# Settings


def test_unknown_setting_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="inference has no setting 'min_tumour_ratio'; did you mean --min_tumor_ratio"):
        cli.run_config("inference", min_tumour_ratio=0.1)
    with pytest.raises(ValueError, match=r"train_segmentation has no setting 'xyz'; it knows .*max_epochs"):
        cli.run_config("train_segmentation", xyz=1)
    assert not list(tmp_path.iterdir())


def test_what_is_offered_can_be_set():
    with pytest.raises(ValueError) as info:
        cli.run_config("train_classification", xyz=1)
    offered = str(info.value)
    for name in ("learning_rate", "hidden_size", "datalist", "excluded_patients"):
        assert name in offered
    for name in ("network_def", "train", "imports", "training"):
        assert name not in offered.split("it knows")[1].split(", ")


def test_part_of_a_block_can_be_set(tmp_path):
    cli.run_config("phantom", **{"output_dir": str(tmp_path), "phantom#segmentation_patients": 1, "run": ["$len('a')"]})
    with pytest.raises(ValueError, match="phantom has no setting 'phantom#patients'"):
        cli.run_config("phantom", **{"phantom#patients": 1})


def test_stage_is_one_of_two():
    with pytest.raises(ValueError, match="stage 'segmenting': expected segmentation or classification"):
        cli.train("segmenting", "a.json", "prepared", "runs")
    with pytest.raises(ValueError, match="stage 'x'"):
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
    first, *rest = code.splitlines()
    assert first.startswith("error: ")
    assert len(rest) <= 1
    assert "Traceback" not in code + capsys.readouterr().err
    return first


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
    assert "gone: no such folder of studies" in said
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
    assert "there are no weights for segmentation: " in said
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
    [("--deidentify", "add --dicom"), ("--dicom=yes", "dicom is 'yes', expected True or False")],
)
def test_dicom_is_asked_for_clearly(monkeypatch, capsys, tmp_path, studies, segmenter, option, reason):
    words = ("predict", "--input", studies, "--output", tmp_path / "out", "--segmenter", segmenter)
    assert reason in mistake(monkeypatch, capsys, *words, option)
    assert not (tmp_path / "out").exists()


def test_segment_refuses_what_only_prediction_does(monkeypatch, capsys, tmp_path, studies):
    words = ("segment", "--input", studies, "--output", tmp_path / "out")
    assert "segment has no setting dicom: use predict" in mistake(monkeypatch, capsys, *words, "--dicom")
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


def test_debugging_shows_where(monkeypatch, tmp_path):
    monkeypatch.setenv("RADIOGENOMICS_DEBUG", "1")
    with pytest.raises(ValueError, match="no such folder of studies"):
        run(monkeypatch, "datalist", "--input", tmp_path / "gone", "--output", tmp_path / "a.json")


# A data list by command


def test_datalist(monkeypatch, tmp_path, studies, capsys):
    assert run(monkeypatch, "datalist", "--input", studies, "--output", tmp_path / "list.json") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "list.json")
    listed = json.loads((tmp_path / "list.json").read_text())
    assert [one["patient"] for one in listed["test"]] == ["00001"]
