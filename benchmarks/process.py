"""A process with all that it starts: its seconds on the clock, the seconds of its parts, and its peak memory (Linux)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SAMPLING_SECONDS = 0.5


class ProcessError(RuntimeError):
    """A measured process that failed."""


@dataclass
class Run:
    """What one run took.

    Attributes:
        seconds: from the call to the end of the process.
        parts: busy seconds by part.
        peak: bytes, the largest sum over all of its processes at a time (see :func:`memory`).
    """

    seconds: float
    parts: dict[str, float]
    peak: int


def run(way: str, options: Sequence[str]) -> Run:
    """Run one of the ways of :mod:`benchmarks.child` in a fresh process.

    Raises:
        ProcessError: when it fails, with the end of what it said.
    """
    from .child import UNCOUNTED

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        seconds, peak = watch([sys.executable, "-m", "benchmarks.child", way, str(report), *options])
        parts: dict[str, float] = json.loads(report.read_text())
    return Run(seconds - parts.pop(UNCOUNTED, 0.0), parts, peak)


def watch(command: Sequence[str]) -> tuple[float, int]:
    """Run a command; its seconds and its peak memory in bytes.

    Raises:
        ProcessError: when it fails, with the end of what it said.
    """
    paths = [str(ROOT), str(ROOT / "bundle"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with tempfile.TemporaryFile() as said:
        started = time.time()
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**environment, "BENCHMARK_STARTED": repr(started)},
        )
        sampler = _Sampler(process.pid)
        sampler.start()
        try:
            process.wait()
            seconds = time.time() - started
        finally:
            if process.poll() is None:  # what is measured must not outlive an interrupted benchmark
                os.killpg(process.pid, signal.SIGKILL)
            sampler.stop()
        if process.returncode:
            said.seek(0)
            words = said.read().decode(errors="replace").strip()
            raise ProcessError(f"{' '.join(command)} ended with {process.returncode}:\n{words[-2000:]}")
    return seconds, sampler.peak


class _Sampler(threading.Thread):
    """Looks at the memory of a session of processes every now and then."""

    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self.session = session
        self.peak = 0
        self._stopped = threading.Event()

    def run(self) -> None:
        """Sample until stopped."""
        while not self._stopped.wait(SAMPLING_SECONDS):
            found = [memory(pid) for pid in processes(self.session)]
            # the kernel keeps the peak of each process: none is missed between two samples
            self.peak = max([self.peak, sum(now for now, _ in found), *(peak for _, peak in found)])

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self.join()


def processes(session: int) -> Iterable[int]:
    """Processes of a session."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:  # ended meanwhile
                continue
            if int(stat.rpartition(")")[2].split()[3]) == session:
                yield int(entry)


def memory(pid: int) -> tuple[int, int]:
    """Bytes of a process in memory now, of pages that it shares its share (PSS), and its peak so far (RSS)."""
    values = []
    for file, key in (("smaps_rollup", "Pss"), ("status", "VmHWM")):
        try:
            found = re.search(rf"^{key}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
        except OSError:  # ended meanwhile
            found = None
        values.append(int(found[1]) * 1024 if found else 0)
    return values[0], values[1]


def size_on_disk(folder: str | Path, pattern: str = "*") -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob(pattern) if path.is_file())
