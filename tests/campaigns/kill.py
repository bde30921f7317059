"""Jobs that are ended at random points, and run again by the same command: ``python -m tests.campaigns.kill --count 50 --seed 0``.

Importing torch takes longer than any of these jobs. All trials are therefore forked from one process that has imported everything and
started no thread that computes: a trial then costs what its job costs. What is ended is still the whole command, from reading its
words to its last file.
"""

import argparse
import atexit
import contextlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


from tests.campaigns.disks import may_mount, small_disk
from tests.campaigns.kill_jobs import Unbroken, jobs_of, make_cohort

LIMIT = 300  # seconds of a job that nobody ends
AT_ONCE = 5.0  # seconds in which a job that is asked to end has to
FULL, READ_ONLY = "disk full", "read-only"
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM}


def warm_up():
    """Import what the jobs import, so that what is forked need not."""
    import fire  # noqa: F401
    import torch.utils.tensorboard

    from scripts.commands.running import bundle_module

    for module in (
        "runs", "preparation", "loading", "patients", "volumes", "masks", "runtimes", "weights", "networks", "handlers", "inferers",
        "brain", "dicom.output", "explore.job", "evaluation.crossvalidation", "evaluation.leakage", "studies.table", "report.run",
    ):  # fmt: skip
        bundle_module(module)
    torch.set_num_threads(1)


# ---------------------------------------------------------------------------------------------------------------------
# processes


class Process:
    """A forked process that runs a function, or the command with these words; its output goes to a file."""

    def __init__(self, what, log):
        self.log, self.started = Path(log), time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._child(what)

    def _child(self, what):
        status = 70
        try:
            os.setsid()
            target = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(target, 1)
            os.dup2(target, 2)
            status = _as_program(what)
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)

    def wait(self, seconds):
        """The exit status, negative for a signal; None when it has not ended by then."""
        until = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.seconds = time.monotonic() - self.started
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > until:
                return None
            time.sleep(0.005)

    def finish(self):
        """The exit status of a job that nobody ends."""
        status = self.wait(LIMIT)
        if status is None:
            self.kill()
            raise RuntimeError(f"not done after {LIMIT} s: {self.log.read_text()[-2000:]}")
        return status

    def kill(self):
        """End it and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(10)


def _as_program(what):
    """The exit status with which Python would end."""
    try:
        if callable(what):
            what()
        else:
            from radiogenomics.scripts.cli import main

            sys.argv = ["radiogenomics", *what]
            main()
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
            return 1
        return error.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


def last_line(text):
    """What a log ends with, of a progress bar its newest state."""
    return (text.replace("\r", "\n").strip().splitlines() or [""])[-1]


def wrong_ending(kind, status, text, result):
    """What is wrong with how a process ended that was asked to.

    Args:
        kind: name of the signal.
        status: exit status, negative for a signal.
        text: its log.
        result: the line with which an unbroken run ends. One that has said it was done, and was ended while Python took itself down.
    """
    if kind == "SIGKILL":
        return [] if status == -signal.SIGKILL else [f"ended with {status}"]
    asked, done = {128 + SIGNALS[kind]}, bool(result) and last_line(text) == result
    if kind == "SIGTERM" or done:
        asked.add(-SIGNALS[kind])
    wrong = [] if status in asked else [f"exit status {status}, expected {128 + SIGNALS[kind]}"]
    wrong += [f"says {word}" for word in ("Traceback", "terminating", "ignored") if word in text]
    if not done and not re.match("interrupted|stopped", last_line(text)):
        wrong.append(f"last line {last_line(text)[:200]!r}")
    return wrong


# ---------------------------------------------------------------------------------------------------------------------
# trials


@dataclass
class Outcome:
    """Of all trials of one kind with one job."""

    trials: int = 0
    ended: int = 0  # before the job was done
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Campaign:
    """A folder with the cohort, the unbroken runs, and ``out``, where all runs of a job take place, as paths are among the output."""

    def __init__(self, folder, seed=0, names=None):
        self.folder, self.random = Path(folder), random.Random(seed)
        self.out, self.log = self.folder / "disk" / "out", self.folder / "log.txt"
        self.first = self.folder / "first.txt"  # log of the run that is ended
        self.out.parent.mkdir(parents=True, exist_ok=True)
        warm_up()
        cohort = self.folder / "cohort"
        if not (cohort / "classifiers" / "FLAIR" / "model_FLAIR.pt").is_file():
            assert Process(lambda: make_cohort(cohort), self.log).finish() == 0, self.log.read_text()
        self.jobs = {name: job for name, job in jobs_of(cohort).items() if names is None or name in names}
        self.unbroken, self.seconds, self.size, self.result = {}, {}, {}, {}
        self.outcomes: dict[tuple[str, str], Outcome] = {}

    def _clear(self):
        for path in self.out.parent.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _before(self, job):
        """What is there before the job starts."""
        self._clear()
        if job.over:
            self.run(job.command(self.out, first=True))

    def run(self, words):
        """Run a command to its end, which must be a good one."""
        process = Process(words, self.log)
        if process.finish() != 0:
            raise RuntimeError(f"{' '.join(words)}: {self.log.read_text()[-3000:]}")
        return process.seconds

    def measure(self, name):
        """Run a job twice without a break."""
        if name in self.unbroken:
            return
        job, kept = self.jobs[name], []
        for number in (1, 2):
            self._before(job)
            self.seconds[name] = self.run(job.command(self.out))
            kept.append(self.folder / f"{name} {number}")
            shutil.rmtree(kept[-1], ignore_errors=True)
            shutil.copytree(self.out, kept[-1])
        self.size[name] = sum(path.stat().st_size for path in kept[0].rglob("*") if path.is_file())
        self.result[name] = last_line(self.log.read_text())
        self.unbroken[name] = Unbroken(*kept)

    def trial(self, name, kind):
        """End a job at a random point, run it again, and compare."""
        self.measure(name)
        outcome = self.outcomes.setdefault((name, kind), Outcome())
        outcome.trials += 1
        point = self.random.random()
        try:
            wrong = (
                self._with_signal(name, kind, point, outcome)
                if kind in SIGNALS
                else self._on_disk(name, kind, point, outcome)
            )
            wrong += self.unbroken[name].differences(self.out)
            wrong += [f"{path.name} stayed beside it" for path in self.out.parent.iterdir() if path != self.out]
        except RuntimeError as error:
            wrong = [str(error)]
        outcome.wrong += [f"at {point:.3f}: {one}" for one in wrong]
        if wrong:
            shutil.copy(self.first, self.folder / f"{name}, {kind}, {point:.3f}.log")
        return wrong

    def _with_signal(self, name, kind, point, outcome):
        job = self.jobs[name]
        self._before(job)
        process = Process(job.command(self.out), self.first)
        status = process.wait(point * self.seconds[name])
        if status is None:
            outcome.ended += 1
            status = self._end(process, kind, outcome)
        wrong = wrong_ending(kind, status, self.first.read_text(), self.result[name]) if status != 0 else []
        self._again(job, status)
        return wrong

    def _again(self, job, status):
        """The same command once more; one that was done a moment before it was ended says so."""
        if status == 0:
            return
        try:
            self.run(job.command(self.out))
        except RuntimeError as error:
            if "holds an earlier run" not in str(error):
                raise

    def _end(self, process, kind, outcome):
        asked = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            # a terminal sends to all processes of a group, others to the one that they started
            (os.killpg if kind == "SIGINT" else os.kill)(process.pid, SIGNALS[kind])
        status = process.wait(AT_ONCE)
        if status is None:
            process.kill()
            raise RuntimeError(f"still there {AT_ONCE} s after {kind}")
        outcome.slowest = max(outcome.slowest, time.monotonic() - asked)
        return status

    def _on_disk(self, name, kind, point, outcome):
        """The folder is on a small disk, or one that becomes read-only; once it is better the same command goes on."""
        job = self.jobs[name]
        self._clear()
        with small_disk(self.out.parent) as disk:
            self._before(job)
            words = job.command(self.out)
            if kind == FULL:
                used = sum(path.stat().st_blocks * 512 for path in self.out.parent.rglob("*"))
                disk.resize(used + int(point * self.size[name]))
                status = Process(words, self.first).finish()
                disk.resize(1 << 30)
            else:
                process = Process(words, self.first)
                status = process.wait(point * self.seconds[name])
                if status is None:
                    disk.protect()
                    status = process.finish()
                    disk.allow()
            wrong = [] if status == 0 else self._explained(status)
            outcome.ended += status != 0
            self._again(job, status)
            copied = self.folder / "copied"
            shutil.rmtree(copied, ignore_errors=True)
            shutil.copytree(self.out.parent, copied)
        shutil.copytree(copied, self.out.parent, dirs_exist_ok=True)
        return wrong

    def _explained(self, status):
        text = self.first.read_text()
        lines = [one for one in text.replace("\r", "\n").splitlines() if one.startswith("error: ")]
        wrong = ["a traceback"] if "Traceback" in text else []
        wrong += [] if status == 1 else [f"exit status {status}"]
        if len(lines) != 1 or str(self.out.parent) not in lines[0] or ";" not in lines[0]:
            wrong.append(f"said {lines or text[-300:]}")
        return wrong

    def table(self):
        """The outcomes in Markdown."""
        rows = [
            "| job | ended by | trials | ended before it was done | slowest end, s | wrong |",
            "|---|---|---|---|---|---|",
        ]
        for (name, kind), one in self.outcomes.items():
            slowest = f"{one.slowest:.1f}" if kind in SIGNALS else ""
            faults = "<br>".join(line.replace("|", "/").replace("\n", " ")[:300] for line in one.wrong[:5]) or "nothing"
            rows.append(
                f"| {name} ({self.seconds[name]:.1f} s) | {kind} | {one.trials} | {one.ended} | {slowest} | {faults} |"
            )
        return "\n".join(rows)


@contextlib.contextmanager
def _new_folder():
    """A folder for the block; a TemporaryDirectory would go with the first process that was forked and ends."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50, help="trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    parser.add_argument("--jobs", nargs="*", help="all by default")
    parser.add_argument(
        "--kinds", nargs="*", help="SIGKILL (half of the trials), SIGINT, SIGTERM, 'disk full', read-only"
    )
    parser.add_argument("--work", type=Path, help="folder for the runs; a temporary one by default")
    given = parser.parse_args()
    kinds = given.kinds or [
        "SIGKILL",
        "SIGINT",
        "SIGKILL",
        "SIGTERM",
        "SIGKILL",
        *([FULL, "SIGKILL", READ_ONLY] if may_mount() else []),
    ]
    with _new_folder() if given.work is None else contextlib.nullcontext(given.work) as folder:
        campaign = Campaign(folder, given.seed, given.jobs)
        started = time.monotonic()
        for number in range(given.count):
            name = list(campaign.jobs)[number % len(campaign.jobs)]
            kind = kinds[number // len(campaign.jobs) % len(kinds)]
            wrong = campaign.trial(name, kind)
            if given.output:  # so that a campaign that is itself ended reports what it did
                given.output.write_text(f"{number + 1} trials, seed {given.seed}\n\n{campaign.table()}\n")
            print(
                f"{time.monotonic() - started:.0f} s, {number + 1}/{given.count} {name}, {kind}: {'; '.join(wrong)[:1500] or 'good'}",
                flush=True,
            )
        counts = Counter(bool(one.wrong) for one in campaign.outcomes.values())
        text = f"{given.count} trials, seed {given.seed}\n\n{campaign.table()}\n"
        print(text)
        if given.output:
            given.output.write_text(text)
        sys.exit(1 if counts[True] else 0)


if __name__ == "__main__":
    main()
