from __future__ import annotations

import json

import pytest

pytest.importorskip("matplotlib")

from scripts import demo


def test_overwriting_never_removes_a_folder_that_is_no_demo(tmp_path):
    (tmp_path / demo.STATE_FILE).write_text('{"mine": 1}', encoding="utf-8")
    (tmp_path / "thesis.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"no demo.*--output"):
        demo._start(tmp_path, 1.0, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "kept"


def test_an_interrupted_demo_goes_on_and_a_finished_one_is_refused(tmp_path):
    state = demo._start(tmp_path, 1.0, overwrite=False)
    state["seconds"]["data lists"] = 2.0
    state["starts"]["data lists"] = 1
    (tmp_path / demo.STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
    assert demo._start(tmp_path, 1.0, overwrite=False)["seconds"] == {"data lists": 2.0}
    with pytest.raises(FileExistsError, match=r"signal 1\.0.*--overwrite"):
        demo._start(tmp_path, 0.0, overwrite=False)
    (tmp_path / demo.METRICS_FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"holds a demo.*--overwrite"):
        demo._start(tmp_path, 1.0, overwrite=False)
    assert demo._start(tmp_path, 0.0, overwrite=True)["seconds"] == {}
    assert not (tmp_path / demo.METRICS_FILE).exists()


@pytest.mark.parametrize("signal", [-0.1, 1.5])
def test_a_signal_out_of_range_is_refused(tmp_path, signal):
    with pytest.raises(ValueError, match=f"signal is {signal}"):
        demo._start(tmp_path / "new", signal, overwrite=False)
    assert not (tmp_path / "new").exists()
