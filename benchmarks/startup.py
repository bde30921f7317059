"""Seconds until the command answers, whether it imports PyTorch for that, and what the imports of a prediction cost."""

from __future__ import annotations

import subprocess
import sys

from . import process, report

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "radiogenomics --help": ["-c", "import sys; sys.argv = ['radiogenomics', '--help']; {main}"],
    "import torch": ["-c", "import torch"],
    "import monai.bundle": ["-c", "import monai.bundle"],
    "all imports of a prediction": [
        "-c",
        "import monai.bundle, scripts.cli, scripts.patients, scripts.runtimes, scripts.weights",
    ],
}
MAIN = "from radiogenomics.scripts.cli import main; main()"


def main(repeats: int = 5) -> str:
    """Measure the start of the command.

    Args:
        repeats: runs of every command.

    Returns:
        The section of the report.
    """
    rows = []
    for name, options in COMMANDS.items():
        command = [sys.executable, *(option.replace("{main}", MAIN) for option in options)]
        seconds = [process.watch(command)[0] for _ in range(repeats)]
        rows.append({"": name, "wall time": report.spread(seconds), "imports torch": imports_torch(options[1])})
    return report.section("Start-up", f"Medians of {repeats} (smallest to largest).", report.table(rows))


def imports_torch(code: str) -> str:
    """Whether a piece of Python imports torch: ``yes`` or ``no``."""
    code = code.replace("{main}", MAIN)
    report = "import atexit, sys; atexit.register(lambda: print('torch:', 'torch' in sys.modules, file=sys.stderr)); "
    done = subprocess.run([sys.executable, "-c", report + code], capture_output=True, text=True, check=False)
    return "yes" if "torch: True" in done.stderr else "no"
