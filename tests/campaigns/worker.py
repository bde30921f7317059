"""A process that is kept and runs the command ``radiogenomics`` again and again, with limits of time and memory.

Imports are paid once. Output goes by file descriptors, so that what libraries in C print is caught too. Linux only.
"""

from __future__ import annotations

import gc
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SECONDS, MEGABYTES = 30.0, 2000.0
"""Limits of a command: of the processor's time, and of memory above what the process takes when its imports are done."""
PATIENCE = 4.0
"""How many times as long as its limit a command may take by the clock, as other programs may run."""

OVERLAY = "overlay"
"""First word of what is no command: MONAI's runner with a configuration, a file laid over it, and settings."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        status: ``right``, ``refused`` (with a message), ``traceback``, ``hang``, ``memory`` or ``crash``.
        text: the message or the traceback.
        output: all that was printed.
        seconds: of the processor's time.
        megabytes: above the base.
    """

    status: str
    text: str
    output: str
    seconds: float
    megabytes: float


class Worker:
    """The process, as a context; one that was killed starts anew with the next command.

    Args:
        home: folder for its output, temporary files and cache.
        first: words of commands that warm it up, at each start; what they take is the base.
    """

    def __init__(self, home: Path, first: Callable[[], Sequence[Sequence[Any]]] = tuple) -> None:
        self.home, self.first = home, first
        self.log = home / "log.txt"
        self.process: subprocess.Popen | None = None
        self.base = 0.0
        for name in ("tmp", "cwd"):
            (home / name).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                pipe.close()
            self.process = None

    def run(self, words: Sequence[Any], seconds: float = SECONDS) -> Outcome:
        """Run ``radiogenomics`` with these words."""
        if self.process is None:
            self._start()
        return self._run(words, seconds, MEGABYTES)

    def _start(self) -> None:
        paths = [ROOT, ROOT / "bundle", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "TMPDIR": str(self.home / "tmp"), "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(self.home / "cache"), "PYTHONUNBUFFERED": "1", "MPLBACKEND": "agg",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.campaigns.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=self.home / "cwd", env=environment, text=True,
        )  # fmt: skip
        for words in self.first():
            done = self._run(words, 300, 1e9)
            if done.status != "right":
                raise RuntimeError(f"{' '.join(map(str, words))}: {done}")
        self.base = _memory(self.process.pid, "VmRSS")

    def _run(self, words: Sequence[Any], seconds: float, most: float) -> Outcome:
        assert self.process is not None
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")  # the peak is counted from here on
        self.log.touch()  # a process that is killed at once has not made it yet
        started, spent_before = time.monotonic(), _processor(self.process.pid)
        self.process.stdin.write(json.dumps({"words": [str(word) for word in words], "log": str(self.log)}) + "\n")
        self.process.stdin.flush()
        status = ""
        while not select.select([self.process.stdout], [], [], 0.03)[0]:
            if _processor(self.process.pid) - spent_before > seconds or time.monotonic() - started > PATIENCE * seconds:
                status = "hang"
            elif _memory(self.process.pid, "VmRSS") - self.base > most:
                status = "memory"
            if status:
                break
        spent, peak = _processor(self.process.pid) - spent_before, _memory(self.process.pid, "VmHWM") - self.base
        answer = {"status": status, "text": ""} if status else json.loads(self.process.stdout.readline() or "{}")
        if answer.get("status") in (None, "hang", "memory"):
            self.stop()
        if peak > most:
            answer["status"] = "memory"
        output = self.log.read_text(encoding="utf-8", errors="replace")
        return Outcome(answer.get("status") or "crash", answer.get("text", ""), output, max(spent, 0.0), max(peak, 0.0))


def _memory(process: int, what: str) -> float:
    """MB; 0 of a process that is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith(what)), 0.0)


def _processor(process: int) -> float:
    """Seconds that a process has computed; 0 of one that is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _serve() -> None:
    """Run what the parent asks for, until it is gone."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    for line in requests:
        request = json.loads(line)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        answer = _answer(request["words"])
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(log)
        gc.collect()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(words: list[str]) -> dict[str, str]:
    import traceback

    from radiogenomics.scripts import cli

    if words[0] == OVERLAY:
        return _overlay(words)
    sys.argv = ["radiogenomics", *words]
    try:
        cli.main()
    except SystemExit as end:
        if end.code in (None, 0):
            return {"status": "right", "text": ""}
        return {"status": "refused", "text": str(end.code)}
    except BaseException:  # whatever it is, the command line would show it
        return {"status": "traceback", "text": traceback.format_exc()}
    return {"status": "right", "text": ""}


def _overlay(words: list[str]) -> dict[str, str]:
    """Run a configuration with a file laid over it by MONAI's runner, whose errors are tracebacks: the cause is reported."""
    from monai.bundle import run

    from scripts import locks  # which the process would hold to its end

    base, file, *settings = words[1:]
    values = dict(zip([name.removeprefix("--") for name in settings[::2]], settings[1::2], strict=True))
    meta = Path(base).with_name("metadata.json")
    try:
        with locks.released_after():
            run("run", config_file=[base, file], meta_file=str(meta), logging_file=False, **values)
    except BaseException as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return {"status": "refused", "text": f"{type(cause).__name__}: {cause}"}
    return {"status": "right", "text": ""}


if __name__ == "__main__":
    _serve()
