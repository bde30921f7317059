import pytest
import yaml
from monai.bundle import ConfigWorkflow

from scripts import runs
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
    (folder / runs.CONFIG_FILE).write_text("rate: 1\n")
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
    assert (folder / runs.CONFIG_FILE).read_text() == "rate: 1\n"


def test_resume_keeps_everything(tmp_path):
    folder = run_of(tmp_path / "run", "last.pt")
    runs.start(folder, resume=True)
    assert (folder / "last.pt").read_text() == "earlier"
    assert runs.start(tmp_path / "new", resume=True).is_dir()


def test_overwrite_empties_a_run(tmp_path):
    folder = run_of(tmp_path / "run", "last.pt")
    runs.start(folder, overwrite=True)
    assert not list(folder.iterdir())
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
    with pytest.raises(ValueError, match="both resume and overwrite"):
        runs.start(folder, resume=True, overwrite=True)
    assert (folder / "last.pt").is_file()


def test_an_interrupted_run_goes_on_unasked_and_a_complete_one_does_not(tmp_path):
    folder = run_of(tmp_path / "run", "half.json")
    runs.start(folder, last_output="result.json")
    assert (folder / "half.json").is_file()
    (folder / "result.json").write_text("done")
    with pytest.raises(RunExistsError):
        runs.start(folder, last_output="result.json")
    runs.start(folder, overwrite=True, last_output="result.json")
    assert not (folder / "result.json").exists()


def test_an_interrupted_run_can_be_overwritten(tmp_path):
    folder = run_of(tmp_path / "run", "half.json")
    runs.start(folder, overwrite=True, last_output="result.json")
    assert not (folder / "half.json").exists()


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
