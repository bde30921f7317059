"""How a command ends that is asked to, with real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import scripts
from scripts import interruption

WORKING = """
import hashlib, multiprocessing, sys, time
from scripts import interruption

def work(kind):
    if kind == "computing":  # in C, which no handler interrupts
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    time.sleep(60)

with interruption.awaited("predict"):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    child.start()
    print(child.pid, flush=True)
    work(sys.argv[1])
"""
COMMAND = """
import os, signal, sys, time
from scripts import cli

def asked(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

def failing():
    try:
        asked()
    except KeyboardInterrupt:
        raise ValueError("half a chunk") from None

if sys.argv[1] == "early":
    cli._quieten = asked
cli.COMMANDS = {"doctor": failing}
sys.argv[1:] = ["doctor"]
cli.main()
"""


def ended(kind, number):
    """A process at work that gets a signal: itself, what it wrote, how long it took, and its child's number."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKING, kind], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(scripts.__file__).parents[1])},
    )  # fmt: skip
    child = int(process.stdout.readline())
    time.sleep(0.3)
    asked = time.monotonic()
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    return process.returncode, error, time.monotonic() - asked, child


def is_gone(child):
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.is_file() or state.read_text().rsplit(") ", 1)[1][0] == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("kind", ["waiting", "computing"])
def test_it_leaves_with_one_line(kind, number, status):
    code, error, seconds, child = ended(kind, number)
    assert code == status
    assert error == "interrupted; the same command continues where it stopped\n"
    assert seconds < (2 if kind == "waiting" else interruption.PATIENCE + 2)
    assert is_gone(child)


@pytest.mark.parametrize("when", ["early", "failing"])
def test_a_command_leaves_so_before_it_began_and_when_it_fails_for_that_reason(when):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, when], capture_output=True, text=True, timeout=30, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(scripts.__file__).parents[1])},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (143, "interrupted\n")


def test_the_line_says_how_to_go_on():
    assert (
        interruption.Interruption("train").line
        == "interrupted; the same command with --resume continues where it stopped"
    )
    assert interruption.Interruption("show").line == "interrupted"


def test_an_interruption_that_python_ignores_is_not_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: shown.append(one.exc_type))

    class Ending:
        def __init__(self, error):
            self.error = error

        def __del__(self):
            raise self.error

    with interruption.awaited("predict"):
        Ending(KeyboardInterrupt())
        Ending(ValueError())
    Ending(KeyboardInterrupt())
    assert shown == [ValueError, KeyboardInterrupt]


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruption.awaited("predict"):
        assert signal.getsignal(signal.SIGTERM) not in before
        pid = os.fork()
        if pid == 0:  # what it forks ends as if nothing had been taken over
            os._exit(signal.getsignal(signal.SIGTERM) != before[1])
        assert os.waitpid(pid, 0)[1] == 0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
