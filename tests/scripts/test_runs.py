import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser, ConfigWorkflow

from scripts import checks, locks, runs
from scripts.runs import RunExistsError

CONFIG = """
imports:
- $import scripts.runs as runs
output_dir: null
rate: 0.1
names: [a, b]
later: "$@rate * 2"
run:
- "$runs.start(@output_dir)"
"""


def run_of(folder, *files):
    """A folder as an earlier run leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / runs.CONFIG_FILE).write_text("job: evaluate_segmentation\nweights_file: last.pt\n")
    for file in files:
        (folder / file).write_text("earlier")
    return folder


def test_a_new_folder_is_made(tmp_path):
    assert runs.start(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()


def test_an_earlier_run_is_not_touched_unasked(tmp_path):
    folder = run_of(tmp_path / "run", "last.pt")
    with pytest.raises(RunExistsError, match=r"run holds an earlier run; .*--resume.*--overwrite.*another folder"):
        runs.start(folder)
    assert (folder / "last.pt").read_text() == "earlier"
    assert "last.pt" in (folder / runs.CONFIG_FILE).read_text()


def test_resume_keeps_everything(tmp_path):
    folder = run_of(tmp_path / "run", "last.pt")
    runs.start(folder, resume=True)
    assert (folder / "last.pt").read_text() == "earlier"
    assert runs.start(tmp_path / "new", resume=True).is_dir()


def test_overwrite_empties_a_run(tmp_path):
    folder = run_of(tmp_path / "run", "last.pt")
    runs.start(folder, overwrite=True)
    assert not list(folder.iterdir())
    run_of(folder, "last.pt")
    (folder / "notes.txt").write_text("mine")
    (folder / "studies").mkdir()
    (folder / "studies" / "last.pt").write_text("mine")
    runs.start(folder, overwrite=True)
    assert sorted(path.name for path in folder.rglob("*")) == ["last.pt", "notes.txt", "studies"]
    assert runs.start(tmp_path / "new", overwrite=True).is_dir()


def test_overwrite_leaves_what_is_no_run(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    with pytest.raises(
        RunExistsError, match="thesis is not empty, but holds no run of this project; it is not overwritten"
    ):
        runs.start(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "mine"


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    folder = run_of(tmp_path / "run", "last.pt")
    with pytest.raises(ValueError, match="--resume and --overwrite exclude each other"):
        runs.start(folder, resume=True, overwrite=True)
    assert (folder / "last.pt").is_file()


def test_an_interrupted_run_goes_on_unasked_and_a_complete_one_does_not(tmp_path):
    folder = run_of(tmp_path / "run", "last.pt")
    runs.start(folder, last_output="metrics.json")
    assert (folder / "last.pt").is_file()
    (folder / "metrics.json").write_text("done")
    with pytest.raises(RunExistsError):
        runs.start(folder, last_output="metrics.json")
    runs.start(folder, overwrite=True, last_output="metrics.json")
    assert not (folder / "metrics.json").exists()


def test_an_interrupted_run_can_be_overwritten(tmp_path):
    folder = run_of(tmp_path / "run", "last.pt")
    runs.start(folder, overwrite=True, last_output="metrics.json")
    assert not (folder / "last.pt").exists()


def test_config_is_saved_with_its_overrides(tmp_path):
    (tmp_path / "job.yaml").write_text(CONFIG)
    folder = tmp_path / "run"
    workflow = ConfigWorkflow(
        config_file=str(tmp_path / "job.yaml"), meta_file=None, logging_file=False, workflow_type=None,
        output_dir=str(folder), rate=0.5,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    saved = yaml.safe_load((folder / runs.CONFIG_FILE).read_text())
    assert saved["rate"] == 0.5
    assert saved["output_dir"] == str(folder)
    assert saved["names"] == ["a", "b"]
    assert saved["later"] == "$@rate * 2"
    assert {path.name for path in folder.iterdir()} - set(locks.FILES) == {runs.CONFIG_FILE}
    locks.release(folder)
    assert [path.name for path in folder.iterdir()] == [runs.CONFIG_FILE]
    # what was saved is a configuration itself, and the folder is known as a run
    again = ConfigWorkflow(
        config_file=str(folder / runs.CONFIG_FILE), meta_file=None, logging_file=False, workflow_type=None
    )
    again.initialize()
    with pytest.raises(RuntimeError) as info:
        again.run()
    assert isinstance(info.value.__cause__, RunExistsError)


def test_no_config_is_running():
    assert runs.running_config() is None


REPLACING = """
job: evaluate_segmentation
imports:
- $import pathlib
- $import scripts.runs as runs
output_dir: null
overwrite: false
table: new
fails: false
run_dir: "$runs.place(@output_dir, overwrite=@overwrite)"
run:
- "$runs.start(@output_dir, overwrite=@overwrite, last_output='metrics.json', run_dir=@run_dir)"
- "$pathlib.Path(@run_dir, 'metrics.json').write_text(@table)"
- "$1 / 0 if @fails else None"
- "$runs.finish(@output_dir, @run_dir)"
"""


def replace(tmp_path, **settings):
    (tmp_path / "job.yaml").write_text(REPLACING)
    workflow = ConfigWorkflow(
        config_file=str(tmp_path / "job.yaml"), meta_file=None, logging_file=False, workflow_type=None,
        **checks.as_values({"output_dir": str(tmp_path / "run"), **settings}),
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    return tmp_path / "run"


def test_the_earlier_run_stays_until_the_new_one_is_complete_and_then_goes_whole(tmp_path):
    folder = replace(tmp_path, table="old")
    (folder / "overlap.csv").write_text("old")
    (folder / "mine.csv").write_text("mine")
    with pytest.raises(RuntimeError):
        replace(tmp_path, overwrite=True, fails=True)
    assert {path.name: path.read_text() for path in folder.glob("*.csv")} == {"overlap.csv": "old", "mine.csv": "mine"}
    assert (folder / "metrics.json").read_text() == "old"
    replace(tmp_path, overwrite=True)
    assert (folder / "metrics.json").read_text() == "new"
    assert [path.name for path in folder.glob("*.csv")] == ["mine.csv"]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "job.yaml"}, "nothing hidden stays"


def test_a_replacement_that_was_cut_off_while_it_was_moved_is_moved_the_next_time(tmp_path, monkeypatch):
    folder = replace(tmp_path, table="old")
    (folder / "overlap.csv").write_text("old")
    rename = os.replace

    def dies(source, target):
        if Path(target) == folder / "metrics.json":
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(runs.os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            replace(tmp_path, overwrite=True)
    with pytest.raises(RuntimeError):  # whatever comes next
        replace(tmp_path, overwrite=True, fails=True)
    assert (folder / "metrics.json").read_text() == "new"
    assert not (folder / "overlap.csv").exists()


def test_texts_reach_a_configuration_and_its_record_as_they_were_typed(tmp_path):
    for name in ("a#b", "@#c", "$d", "%e", "it's @output_dir", 'a"#\\n', "50%"):
        folder = tmp_path / name
        folder.mkdir()
        run = replace(folder, table=name)
        assert (run / "metrics.json").read_text() == name
        assert yaml.safe_load((run / runs.CONFIG_FILE).read_text())["table"] == name
        assert yaml.safe_load((run / runs.CONFIG_FILE).read_text())["output_dir"] == str(run)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_a_value(text):
    parser = ConfigParser({"other": 1, **checks.as_values({"value": text, "listed": [text, {"deep": text}]})})
    parser.parse()
    assert parser.get_parsed_content("value") == text
    assert parser.get_parsed_content("listed") == [text, {"deep": text}]


def test_a_replacement_moves_to_another_disk(tmp_path, mount):
    """As of a container whose output folder is mounted: what replaces it is written beside it."""
    folder = run_of(tmp_path / "out")
    new = runs.replacement(folder)
    mount(folder, "1m")
    run_of(folder, "metrics.json")
    run_of(new / "tables")
    (new / "metrics.json").write_text("new")
    (new / runs.CONFIG_FILE).write_text("job: evaluate_segmentation\n")
    runs.finish(folder, new)
    assert (folder / "metrics.json").read_text() == "new"
    assert {path.name for path in folder.iterdir()} == {"metrics.json", runs.CONFIG_FILE, "tables"}
    assert not new.exists()
