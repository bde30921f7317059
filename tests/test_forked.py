"""Programs that are forked end, print and import as new ones do."""

import os
import signal
import subprocess
import sys

import pytest

from tests.forked import python_words

pytestmark = pytest.mark.slow

SHOW = """
import os, sys
own = {"scripts", "radiogenomics", "custom_transforms"} & set(sys.modules)
print(__name__, sys.argv, os.getcwd(), os.environ["GIVEN"], sorted(own), input())
import planted
print(planted.__file__)
sys.exit("the end")
"""


@pytest.mark.parametrize("start", [[sys.executable], None], ids=["new", "forked"])
def test_a_program_has_its_own_words_variables_streams_and_imports(tmp_path, start):
    (tmp_path / "planted.py").touch()
    (tmp_path / "below").mkdir()
    done = subprocess.run(
        [*(start or python_words()), "-c", SHOW, "a", "b c"], cwd=tmp_path / "below", input="typed\n", capture_output=True,
        text=True, check=False, env={**os.environ, "PYTHONPATH": str(tmp_path), "GIVEN": "x"},
    )  # fmt: skip
    expected = f"__main__ ['-c', 'a', 'b c'] {tmp_path / 'below'} x [] typed\n{tmp_path / 'planted.py'}\n"
    assert (done.stdout, done.stderr, done.returncode) == (expected, "the end\n", 1)


def test_a_program_ends_as_it_ends(tmp_path):
    def code(*words):
        return subprocess.run([*python_words(), *words], capture_output=True, check=False).returncode

    (tmp_path / "script.py").write_text("import sys; sys.exit(int(sys.argv[1]))")
    assert code(str(tmp_path / "script.py"), "3") == 3
    assert code("-c", "pass") == 0
    assert code("-c", "1 / 0") == 1
    assert code("-c", "import os; os.kill(os.getpid(), 9)") == -signal.SIGKILL
