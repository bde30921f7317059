"""A catch for attempts to reach a network or to listen to one, in a process and those that it starts: ``run`` copies this file to be their ``sitecustomize``."""

from __future__ import annotations

import functools
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LOCAL = {None, "", "127.0.0.1", "::1", "localhost", b"127.0.0.1", b"localhost", socket.gethostname()}
LOOPBACK = ("127.0.0.1", "::1")
LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
MESSAGES = ("socket.connect", "socket.sendto", "socket.sendmsg")


def note(file: str | Path, everything: bool = False) -> None:
    """From now on add a line to a file for every other machine that this process, or a fork of it, looks up or connects to.

    With ``everything`` for this machine too, and for every place where it listens but the loopback, which urllib3 tries for IPv6.
    """

    def hook(event: str, values: tuple) -> None:
        if event in LOOKUPS:
            address, host = values[:2], values[0]
        elif event in MESSAGES and isinstance(values[1], tuple):  # others are between processes of this machine
            address, host = values[1], values[1][0]
        elif everything and event in ("socket.getnameinfo", "urllib.Request"):
            address = host = values[:2]
        elif everything and event == "socket.bind" and isinstance(values[1], tuple) and values[1][0] not in LOOPBACK:
            address = host = values[1]
        else:
            return
        if everything or host not in LOCAL:
            with open(file, "a") as stream:
                stream.write(f"{event} {address} by {' '.join(sys.argv)[:200]}\n")

    sys.addaudithook(hook)


if __name__ == "sitecustomize":  # the copy that `run` makes, which Python imports first
    note(os.environ["ATTEMPTS"], everything=True)


@functools.cache
def alone() -> list[str]:
    """Words before a command that give it no network but its own loopback; empty where the system does not let us."""
    words = ["unshare", "-rn"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        return []
    return words


@functools.cache
def traced() -> list[str]:
    """Words that note connections of compiled code too; empty where strace is not there or not let."""
    words = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto"]
    if shutil.which("strace") is None or subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        return []
    return words


def run(words: Sequence[str | Path], folder: Path, **more: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run Python with these words where there is no network; what it said, and every attempt to reach one."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(__file__, folder / "sitecustomize.py")
    notes, calls = folder / "attempts.txt", folder / "calls.txt"
    notes.touch()
    tracing = [*traced(), "-o", str(calls)] if traced() else []
    path = os.pathsep.join([str(folder), *sys.path, os.environ.get("PYTHONPATH", "")])
    environment = {key: value for key, value in os.environ.items() if not key.endswith(("_OFFLINE", "TELEMETRY"))}
    done = subprocess.run(
        [*alone(), *tracing, sys.executable, *map(str, words)],
        capture_output=True, text=True, check=False, cwd=folder, timeout=900,
        env={**environment, "ATTEMPTS": str(notes), "PYTHONPATH": path, "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), **more},
    )  # fmt: skip
    found = notes.read_text().splitlines()
    if calls.is_file():
        found += [line for line in calls.read_text().splitlines() if re.search(r"AF_INET6?\b", line)]
    return done, found
