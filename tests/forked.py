"""Python programs in processes of their own that need not import PyTorch and MONAI, which takes seconds of every one of them.

One process for each worker of the tests has imported the large packages, and none of the project's modules. ``python_words`` are
the words that start a program in a fork of it, as ``[sys.executable]`` are those that start it anew: with its own arguments,
variables, working directory, streams, and imports of the project's code. ``-m``, ``-c`` and scripts are forked, other options get
a new process. What depends on the start of Python itself (how long the imports take, what they show, signals) needs
``sys.executable``.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import threading
import types

LARGE = (
    "monai.bundle", "monai.apps", "monai.engines", "segmentation_models_pytorch", "torchvision", "ignite.engine", "h5py",
    "hdf5plugin", "nibabel", "pydicom", "cv2", "jinja2", "matplotlib.pyplot", "nilearn.datasets", "scipy.stats", "scipy.ndimage",
    "sklearn.ensemble", "sklearn.linear_model", "skimage.measure", "torch.utils.tensorboard", "torch.distributed.run", "highdicom",
    "fire",
)  # fmt: skip
PROJECT = ("scripts", "radiogenomics", "custom_transforms", "benchmarks", "tools")


@functools.cache
def python_words() -> list[str]:
    """The words that start a Python program; the first call starts the process from which programs are forked."""
    import shutil
    import subprocess
    import tempfile

    if not hasattr(os, "pidfd_open"):  # Linux alone has it
        return [sys.executable]
    folder, mine = tempfile.mkdtemp(prefix="forked"), os.getpid()
    place = os.path.join(folder, "socket")
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    server = subprocess.Popen(
        [sys.executable, __file__, "serve", place],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**variables, "OMP_NUM_THREADS": "1"}, cwd="/",
    )  # fmt: skip
    assert server.stdin
    assert server.stdout

    def end() -> None:
        if os.getpid() != mine:  # a process that a test has forked, and that ends
            return
        server.stdin.close()
        server.wait()
        shutil.rmtree(folder)

    atexit.register(end)
    assert server.stdout.readline() == b"ready\n", "the process from which others are forked did not start"
    return [sys.executable, "-IS", __file__, "ask", place]


# What asks: run with `python -IS`, which starts in some milliseconds


def ask(place: str, words: list[str]) -> int:
    """Start a program, and return or die as it does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(place)
        asked = json.dumps({"words": words, "folder": os.getcwd(), "variables": dict(os.environ)}).encode()
        socket.send_fds(connection, [struct.pack("!Q", len(asked))], [0, 1, 2])
        connection.sendall(asked)
        answer = connection.recv(4)
    if len(answer) < 4:
        print("the process from which others are forked is gone", file=sys.stderr)
        return 1
    (code,) = struct.unpack("!i", answer)
    if code < 0:
        os.kill(os.getpid(), -code)
    return code


# What is asked


def serve(place: str) -> dict:
    """Wait for programs to start until the tests end; returns in the process of a program, with what was asked."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen(64)
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            while _reaped():
                pass
            if sys.stdin in ready:  # closed
                os._exit(0)
            connection, _ = listener.accept()
            if os.fork():
                connection.close()
                continue
            listener.close()
            header, streams, _, _ = socket.recv_fds(connection, 8, 3)
            (length,) = struct.unpack("!Q", header)
            with connection.makefile("rb") as stream:
                asked = json.loads(stream.read(length))
            program = os.fork()
            if program:
                _watch(program, connection)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            connection.close()
            return asked


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _watch(program: int, connection: socket.socket) -> None:
    """Tell how a program ended; who asked for it and was killed takes it along."""
    ended = os.pidfd_open(program)
    ready, _, _ = select.select([ended, connection], [], [])
    if ended not in ready:
        os.kill(program, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    if ended in ready:
        connection.sendall(struct.pack("!i", code))
    os._exit(0)


def start(asked: dict) -> None:
    """Be the program."""
    import random

    import numpy as np

    random.seed()
    np.random.seed()
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["variables"])
    words = asked["words"]
    if not words or (words[0].startswith("-") and words[0] not in ("-m", "-c")):
        os.execv(sys.executable, [sys.executable, *words])
    named = [os.path.abspath(place) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    first = {"-m": os.getcwd(), "-c": ""}.get(words[0], os.path.dirname(os.path.realpath(words[0])))
    sys.path[:0] = [first, *named]
    importlib.invalidate_caches()
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
        return
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def _exit(code: object) -> None:
    """As an interpreter does, but for the memory, which is left to the system: to free it would copy it first."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        sys.exit(ask(sys.argv[2], sys.argv[3:]))
    sys.path.pop(0)  # the folder of the tests
    for name in LARGE:
        try:
            importlib.import_module(name)
        except ImportError:  # an extra that is not installed
            continue
    known = {name.partition(".")[0] for name in sys.modules} & set(PROJECT)
    assert not known, f"the project's modules are to be imported by each program: {known}"
    gc.collect()
    gc.freeze()
    request = serve(sys.argv[2])
    try:
        start(request)
    except SystemExit as error:
        _exit(error.code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        _exit(1)
    _exit(0)
