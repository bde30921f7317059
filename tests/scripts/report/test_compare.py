"""The page that compares cross-validations: what it finds, says, refuses and writes."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil

import numpy as np
import pytest
import yaml
from scipy import special
from sklearn.metrics import roc_auc_score

from scripts import cli
from scripts.evaluation.comparison import ComparisonError
from scripts.files import RESEARCH_ONLY, write_csv, write_json
from scripts.report.compare import costs_of, named, read_finished, write_comparison

FEW = {"resamples": 40, "permutations": 99}
COSTS = {"parameters": 12_345_678, "gflop": 4.5, "peak_memory_mb": 1500.0, "seconds_per_patient": 2.25, "training_seconds": 3700.0}  # fmt: skip
EVIL = '<script>alert(1)<!--&"'


def write_run(folder, model=None, n=60, shift=1.0, seed=0, seeds=(67, 68), costs=None, selection="inner", **config):
    """A finished cross-validation; without a model's name that of the two-stage method."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        base = rng.normal((i // 5 % 2 - 0.5) * shift, 1.0)
        for number in seeds:
            for mri_type in ("FLAIR", "T2w"):
                chance = float(special.expit(base + rng.normal(0, 0.3)))
                row = {"patient": f"{i:05d}", "fold": i % 5, "seed": number, "mri_type": mri_type, "label": i // 5 % 2}
                rows.append({**row, "probability": None if i == 3 else chance})
    write_csv(rows, folder / "predictions.csv")
    seconds = {
        "prepare classification": 100.0,
        "train FLAIR, seed 67, fold 0": 30.5,
        "train T2w, seed 67, fold 0": 40.0,
    }
    metrics = {"note": RESEARCH_ONLY, "selection": selection, "classification": {}, "seconds": seconds}
    write_json({**metrics, "costs": costs} if costs else metrics, folder / "metrics.json")
    settings = {"job": "crossvalidate", "seeds": list(seeds), "mri_types": ["FLAIR", "T2w"], **config}
    if model:
        settings["model"] = model
    (folder / "resolved_config.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        write_run(tmp_path / "cv", shift=2.0, seed=1, train_classification={"max_epochs": 7}),
        write_run(tmp_path / "cv_3d", "cnn3d", shift=0.3, seed=2, costs=COSTS, selection="outer"),
        write_run(tmp_path / "cv_size", "size", shift=0.0, seed=3, segmenter=EVIL),
    ]


def text_of(page):
    """What a page says, without its markup."""
    return html.unescape(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(script|style).*?</\1>", " ", page.read_text())))


def table_of(page, name="comparison"):
    with open(page.parent / "tables" / f"{name}.csv", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_page_figures_and_tables(runs, tmp_path):
    page = write_comparison(runs, tmp_path / "out", **FEW)
    assert page == tmp_path / "out" / "compare.html"
    made = {path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*") if path.is_file()}
    tables = ("comparison", "predictions", "runs", "settings_that_differ", "roc_curves", "calibration_curves")
    assert made == {
        "compare.html",
        *(f"figures/{name}.{ending}" for name in ("areas", "roc", "calibration") for ending in ("png", "svg")),
        *(f"tables/{name}.{ending}" for name in tables for ending in ("csv", "json")),
    }
    assert all(
        (page.parent / "figures" / f"{name}.png").stat().st_size > 5000 for name in ("areas", "roc", "calibration")
    )
    assert not list(tmp_path.glob(".*"))
    rows = {row["run"]: row for row in table_of(page)}
    assert next(iter(rows)) == "t4e"
    assert set(rows) == {"t4e", "cnn3d", "size"}
    predictions = table_of(page, "predictions")
    for name, row in rows.items():
        labels, values = zip(*((int(one["label"]), float(one[name])) for one in predictions), strict=True)
        assert float(row["auc"]) == pytest.approx(roc_auc_score(labels, values))
        assert float(values[3]) == 0.5  # no prediction
    difference = float(rows["cnn3d"]["auc"]) - float(rows["size"]["auc"])
    assert float(rows["cnn3d"]["against_size_difference"]) == pytest.approx(difference)
    assert rows["t4e"]["against_best_p"] == ""
    with open(page.parent / "tables" / "comparison.json") as stream:
        assert json.load(stream)[0]["run"] == "t4e"


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_what_the_page_says(runs, tmp_path):
    page = write_comparison(runs, tmp_path / "out", **FEW)
    text = re.sub(r"\s+", " ", text_of(page))
    rows = {row["run"]: row for row in table_of(page)}
    assert RESEARCH_ONLY in text
    assert "phantom" not in text.lower()
    assert "t4e has the highest AUC" in text
    assert "biased by selection" in text
    include = [
        name for name, row in rows.items() if float(row["auc_delong_low"]) <= 0.5 <= float(row["auc_delong_high"])
    ]
    assert "t4e" not in include
    assert f"includes 0.5 for {', '.join(include)}. An interval that does is compatible with no information." in text
    one = rows["cnn3d"]
    assert (
        f"{float(one['auc']):.2f} ({float(one['auc_delong_low']):.2f} to {float(one['auc_delong_high']):.2f})" in text
    )
    assert "Epochs of cnn3d were chosen on the held-out fold" in text
    assert "12.3 M" in text
    assert "1:01:40" in text
    assert "0:01:10" in text  # of a run without costs: its steps of training
    assert rows["t4e"]["parameters"] == ""
    settings = {row["setting"]: row for row in table_of(page, "settings_that_differ")}
    assert settings["train_classification: max_epochs"]["t4e"] == "7"
    assert settings["segmenter"]["size"] == EVIL
    assert "seeds" not in settings


@pytest.mark.slow
def test_page_fetches_and_runs_nothing_foreign(runs, tmp_path):
    page = write_comparison(runs, tmp_path / "out", **FEW)
    content = page.read_text()
    assert EVIL not in content
    links = re.findall(r"""(?:href|src)=["']([^"']*)""", content)
    assert all((page.parent / link).is_file() for link in links if not link.startswith(("#", "data:")))
    assert not re.search(r"""(?i)(?:href|src|url\()=?\s*["']?(?:https?:|//)""", content)


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_phantoms_are_named(runs, tmp_path):
    cohort = tmp_path / "phantom"
    cohort.mkdir()
    (cohort / "README.txt").write_text("PHANTOM COHORT - synthetic images, not patients\n")
    write_json({"dataset_dir": ".", "training": []}, cohort / "task2.json")
    write_run(runs[2], "size", datalist=str(cohort / "task2.json"))
    text = text_of(write_comparison(runs, tmp_path / "out", **FEW))
    assert "Phantom data: synthetic" in text
    assert "nothing here says anything about MGMT" in text


def test_runs_of_the_same_model_are_distinguished(runs, tmp_path):
    again = write_run(tmp_path / "other" / "cv_3d", "cnn3d", seed=9)
    third = write_run(tmp_path / "cv_wide", "cnn3d", seed=8)
    folders = named([read_finished(one) for one in (*runs, third)])
    assert list(folders) == ["t4e", "cnn3d (cv_3d)", "size", "cnn3d (cv_wide)"]
    folders = named([read_finished(one) for one in (runs[1], again, third)])
    assert list(folders) == ["cnn3d (cv_3d)", "cnn3d (other/cv_3d)", "cnn3d (cv_wide)"]
    with pytest.raises(ComparisonError, match="named twice"):
        named([read_finished(one) for one in (runs[0], runs[0])])


def test_other_patients_are_named_and_nothing_is_written(runs, tmp_path):
    write_run(runs[1], "cnn3d", n=62)
    with pytest.raises(ComparisonError, match=r"t4e and cnn3d do not have .* patients 00060, 00061 only in cnn3d"):
        write_comparison(runs, tmp_path / "out", **FEW)
    assert not (tmp_path / "out").exists()


def test_what_is_no_finished_cross_validation(runs, tmp_path):
    def message(folder):
        with pytest.raises(ComparisonError) as found:
            read_finished(folder)
        return str(found.value)

    assert "no such folder" in message(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "holds no cross-validation" in message(tmp_path / "empty")
    write_run(tmp_path / "seeds", seeds=(67,))
    write_run(tmp_path / "more").joinpath("predictions.csv").write_bytes(
        (tmp_path / "seeds/predictions.csv").read_bytes()
    )
    assert "not finished, it has no predictions of seed 68" in message(tmp_path / "more")
    (runs[0] / "metrics.json").unlink()
    assert re.search(r"not finished, it has no metrics\.json; .*`radiogenomics crossvalidate`", message(runs[0]))
    write_json({"segmentation": {}}, runs[1] / "metrics.json")
    assert "no out-of-fold predictions" in message(runs[1])
    (runs[2] / "resolved_config.yaml").write_text("job: evaluate_classification\n")
    assert "holds a run of evaluate_classification, expected a finished cross-validation" in message(runs[2])


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_nothing_else_is_overwritten(runs, tmp_path):
    out = tmp_path / "out"
    write_comparison(runs, out, **FEW)
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_comparison(runs, out, **FEW)
    write_comparison(runs[:2], out, overwrite=True, **FEW)
    assert len(table_of(out / "compare.html")) == 2
    (out / "figures" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"figures/mine\.txt"):
        write_comparison(runs, out, overwrite=True, **FEW)
    shutil.rmtree(out)
    out.mkdir()
    (out / "compare.html").write_text("<html>mine</html>")
    with pytest.raises(FileExistsError, match="is no comparison"):
        write_comparison(runs, out, overwrite=True, **FEW)
    with pytest.raises(FileExistsError, match="not a comparison's file"):
        write_comparison(runs, runs[0], overwrite=True, **FEW)


def test_costs_that_a_run_wrote_come_first():
    seconds = {"train segmentation, fold 0": 5.0, "train FLAIR, seed 67, fold 0": 2.0, "evaluate seed 67, fold 0": 9.0}
    assert costs_of({"seconds": seconds})["training_seconds"] == 2.0
    assert costs_of({"seconds": seconds, "costs": COSTS})["training_seconds"] == 3700.0
    assert costs_of({})["training_seconds"] is None


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_command(runs, tmp_path, monkeypatch, capsys):
    """Folders whose names Fire would take for numbers or lists."""
    odd = [tmp_path / "1e3", tmp_path / "a,b"]
    for folder, place in zip(runs, odd, strict=False):
        folder.rename(place)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["radiogenomics", "compare", "1e3", "a,b", "--output", "2e3"])
    cli.main()
    assert capsys.readouterr().out.strip() == str(tmp_path / "2e3" / "compare.html")
    assert {row["model"] for row in table_of(tmp_path / "2e3" / "compare.html")} == {"t4e", "cnn3d"}
    monkeypatch.setattr("sys.argv", ["radiogenomics", "compare", "1e3", "a,b", "--output", "2e3", "--overwrite"])
    cli.main()
    with pytest.raises(ValueError, match="expected two or more"):
        cli.COMMANDS["compare"]("1e3", output="out")
    with pytest.raises(ValueError, match="GONE: no such folder of a run"):
        cli.COMMANDS["compare"]("1e3", "GONE", output="out")
