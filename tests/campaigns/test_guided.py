"""What the guided fuzzer begins with is sound, and its readers refuse by errors of ours alone what is not."""

from __future__ import annotations

import pytest

from custom_transforms import SeriesError
from scripts.errors import UserError
from tests.campaigns import guided


@pytest.mark.parametrize("name", guided.READERS)
def test_sound_inputs_are_read_and_others_refused(name, tmp_path):
    suffix, read = guided.READERS[name]
    guided.write_sound(name, tmp_path / "sound")
    files = sorted((tmp_path / "sound").iterdir())
    assert files
    for number, sound in enumerate(files):
        content = sound.read_bytes()
        for kind, changed in (("whole", content), ("cut", content[: len(content) // 2])):
            file = tmp_path / f"{kind}{number}{suffix}"
            file.write_bytes(changed)
            try:
                read(file)
            except (UserError, SeriesError):
                assert kind == "cut"
