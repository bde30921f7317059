"""A catch for attempts to reach a network or to listen to one, in a process and those that it starts: ``run`` writes a ``sitecustomize`` that notes them."""

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

HOOK = """
import os, sys

def _note(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo", "urllib.Request"):
        address = str(args[:2])
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"):
        if args[1] is None or isinstance(args[1], (str, bytes)):
            return  # between processes of this machine
        if event == "socket.bind" and args[1][0] in ("127.0.0.1", "::1"):
            return  # urllib3 tries whether there is IPv6
        address = str(args[1])
    else:
        return
    with open(os.environ["ATTEMPTS"], "a") as file:
        file.write(f"{event} {address} by {' '.join(sys.argv)[:200]}\\n")
        if os.environ.get("ATTEMPTS_TRACED"):
            import traceback
            traceback.print_stack(limit=12, file=file)

sys.addaudithook(_note)
"""

LOCAL = {None, "", "127.0.0.1", "::1", "localhost", b"127.0.0.1", b"localhost", socket.gethostname()}


def note(file: Path) -> None:
    """From now on add a line to a file for every other machine that this process, or a fork of it, looks up or connects to."""

    def hook(event: str, values: tuple) -> None:
        if event == "socket.getaddrinfo":
            host = values[0]
        elif event == "socket.connect" and isinstance(values[1], tuple):
            host = values[1][0]
        else:
            return
        if host not in LOCAL:
            with file.open("a") as stream:
                stream.write(f"{event} {host}\n")

    sys.addaudithook(hook)


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
    (folder / "sitecustomize.py").write_text(HOOK)
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
