"""The command ``radiogenomics``: its entry point, and what all commands share on a terminal.

The commands are the functions in ``commands/``, thin layers over the bundle's configurations for people who do not know about
bundles; the same functions are the Python API (``from radiogenomics import predict``). Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .commands.evaluate import card, compare, crossvalidate, evaluate, explain
from .commands.look import headers, show, volumes
from .commands.running import mistake, run_config
from .commands.tools import demo, doctor, download, export, phantom
from .commands.train import datalist, prepare, pretrain, train
from .commands.use import explore, predict, report, segment, studies
from .files import one_line
from .interruption import awaited, line_break

GROUPS: dict[str, tuple[Callable[..., Any], ...]] = {
    "Use it on your own studies": (predict, segment, studies, report),
    "Look at the data": (explore, show, headers, volumes),
    "Train": (datalist, prepare, train, pretrain),
    "Evaluate": (evaluate, crossvalidate, compare, explain, card),
    "Tools": (doctor, download, export, phantom, demo),
}
"""The commands as the help shows them, the main one first."""

COMMANDS: dict[str, Callable[..., Any]] = {command.__name__: command for group in GROUPS.values() for command in group}

READER_GONE = 141
"""Exit status when the output is no longer read: that of a program ended by SIGPIPE, as a shell sees it."""

__all__ = [*COMMANDS, "COMMANDS", "GROUPS", "main", "run_config"]


def overview() -> str:
    """The text of ``radiogenomics --help``: all commands in groups, a line each."""
    lines = [
        "radiogenomics: segments gliomas on MRI and predicts MGMT promoter methylation. Research use only, not for diagnosis.",
        "",
        "  radiogenomics predict --input STUDIES --output OUT",
    ]
    for title, group in GROUPS.items():
        lines += ["", title]
        for command in group:
            purpose = str(inspect.getdoc(command)).splitlines()[0]
            lines.append(f"  {command.__name__:<15}{purpose.removesuffix(' Research use only, not for diagnosis.')}")
    return "\n".join([*lines, "", "radiogenomics COMMAND --help shows the options of a command."])


def main() -> None:
    """Entry point of the command ``radiogenomics``; user errors end in one line, not in a traceback.

    It ends quietly when its output is no longer read (``radiogenomics --help | head -2``), as other programs do.
    """
    try:
        try:
            with awaited("".join(sys.argv[1:2])):
                _main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        with open(os.devnull, "w") as nowhere:  # for the interpreter's own flush at exit
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        sys.exit(READER_GONE)


def _main() -> None:
    import fire

    debug = bool(os.environ.get("RADIOGENOMICS_DEBUG"))
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in (__name__, "radiogenomics", "scripts", "custom_transforms"):
        logging.getLogger(name).setLevel(logging.INFO)
    if not debug:
        _quieten()
    words = sys.argv[1:]
    asks = bool({"--help", "-h"} & set(words))
    if not words or (asks and words[0] not in COMMANDS):
        print(overview())
        return
    if words[0] not in COMMANDS:
        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        sys.exit(
            f"error: {words[0]}: no such command{f'; did you mean {close[0]}?' if close else ''} (radiogenomics --help lists all)"
        )
    if asks:
        words = [words[0], "--", "--help"]  # so that Fire does not print how it reads --help
    try:
        commands = {name: _reads_paths_as_typed(command) for name, command in COMMANDS.items()}
        result = fire.Fire(commands, command=words, name="radiogenomics", serialize=_shown)
        if isinstance(result, Mapping) and result.get("problems"):
            first, *more = result["problems"]
            sys.exit(f"error: {one_line(first, None)}" + (f" (and {len(more)} more)" if more else ""))
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            raise
        known = mistake(error)
        if known is None or debug:
            raise
        hint = ""
        if isinstance(known, ImportError) and "pip install" not in str(known):
            hint = ". Optional packages: pip install 'brats-mri-radiogenomics[demo]'"
        # on one line, without control characters, whatever the data's names
        message = one_line(known, None)
        sys.exit(f"{line_break()}error: {message}{hint}\n(RADIOGENOMICS_DEBUG=1 shows where)")


def _reader_is_gone() -> bool:
    """Whether standard output is closed, not another process' pipe."""
    try:
        print(flush=True)
    except BrokenPipeError:
        return True
    return False


def _reads_paths_as_typed(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose paths Fire does not read as numbers (``1e3``), lists (``a,b``) or with a comment (``a#b``)."""
    from fire import decorators, parser

    decorators.FIRE_METADATA = "_fire_metadata"  # under its own name the help lists it as a group of commands

    def value(text: str) -> Any:
        return text if "#" in text and text[0] not in "[{(\"'" else parser.DefaultParseValue(text)

    paths = [name for name, kind in command.__annotations__.items() if "Path" in str(kind) and name != "return"]
    parameters = inspect.signature(command).parameters.values()
    if any(one.kind is one.VAR_POSITIONAL and one.name in paths for one in parameters):
        # Fire reads those by the function for all that have none of their own
        others = [one.name for one in parameters if one.name not in paths]
        return decorators.SetParseFn(str)(decorators.SetParseFn(value, *others)(command))
    command = decorators.SetParseFn(value)(command)
    return decorators.SetParseFn(str, *paths)(command) if paths else command


def _quieten() -> None:
    """Silence logs and warnings of other packages, which help no user."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # for loader processes
    for name in ("monai", "ignite", "torch", "nncf", "timm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ignite.engine").setLevel(logging.CRITICAL)  # logs each error, which is raised and reported later
    chatty = (
        "monai.bundle.scripts",
        "monai.bundle.workflows",
        "monai.data.nvimgcodec_pydicom_plugin",
        "monai.handlers.StatsHandler",
        "nncf",
        "torch.utils.cpp_extension",
    )
    for name in chatty:
        logging.getLogger(name).addFilter(_is_error)  # they set their level themselves
    # as it does with its traceback
    logging.getLogger("monai.handlers.StatsHandler").addFilter(lambda record: not record.exc_info)
    threading.excepthook = functools.partial(_thread_error, threading.__excepthook__)


def _thread_error(then: Callable[[Any], Any], error: Any) -> None:
    """Pass over the traceback of TensorBoard's writing thread: the training ends with the same error."""
    if not type(error.thread).__module__.startswith("tensorboard"):
        then(error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _shown(result: Any) -> Any:
    """The form in which Fire prints a command's result."""
    if int(os.environ.get("RANK") or 0) > 0:
        return None  # only the first of several processes prints
    if isinstance(result, Mapping):
        import yaml

        return yaml.safe_dump(dict(result), sort_keys=False, allow_unicode=True).rstrip()
    return str(result) if isinstance(result, Path) else result


if __name__ == "__main__":
    main()
