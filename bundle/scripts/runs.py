"""A run's folder: nothing in it is overwritten unless asked, and the resolved configuration is kept with the outputs.

A run that replaces another is written into a hidden folder beside it, and takes its place when complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from . import distributed, locks
from .checks import BRAIN_METHODS, as_typed, flag
from .environment import versions
from .errors import UserError
from .files import parse_yaml, remove_leftovers, write_json, written_whole
from .outputs import keep_apart, remove_own_files
from .run_folder import CONFIG_FILE, read_config

logger = logging.getLogger(__name__)

_SUFFIX = ".replacement"
COMPLETE = ".complete"
"""File in the folder of a replacement that only needs to be moved into place."""


_IDENTIFYING = ("dataset_dir", "datalist", "named", "patient", "sample_submission", "key_file")
"""Settings that may name patients or their location, which a deidentified run does not keep."""


class RunExistsError(UserError):
    """A folder that holds the outputs of an earlier run."""


def replacement(output_dir: str | Path) -> Path:
    """The hidden folder for a run that will replace the one in ``output_dir``."""
    folder = Path(os.path.abspath(output_dir))
    return folder.with_name(f".{folder.name}{_SUFFIX}")


def is_replacement(folder: str | Path) -> bool:
    """Whether a folder is one of :func:`replacement`."""
    name = Path(folder).name
    return name.startswith(".") and name.endswith(_SUFFIX)


@distributed.by_first
def place(output_dir: str | Path, resume: bool = False, overwrite: bool = False) -> str:
    """The folder that a run writes into: its own, or a replacement's where it overwrites another run or resumes such."""
    folder, new = Path(output_dir), replacement(output_dir)
    if folder.is_dir() and running_config() is not None:
        locks.acquire(folder)
    if (new / COMPLETE).is_file():  # the process died while it was moved into place
        _move_into_place(new, folder)
    there = read_config(folder)
    if overwrite is True and there and not _is_own(there):
        return str(new)
    return str(new if resume is True and (new / CONFIG_FILE).is_file() else folder)


def _is_own(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of an earlier attempt of this launch."""
    launch = distributed.launch()
    return distributed.restarted() and launch is not None and config.get("launch") == launch


@distributed.by_first
def start(
    output_dir: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    last_output: str | None = None,
    run_dir: str | Path | None = None,
) -> Path:
    """Create and return the folder that a run is written into, and save the running bundle configuration in it.

    A process restarted by ``torchrun --max-restarts`` always continues its earlier attempt.

    Args:
        output_dir: folder of the run.
        resume: continue an existing run, if any.
        overwrite: replace what an earlier run left there.
        last_output: name of the file that a run writes last; without it the run was interrupted and is continued.
        run_dir: where the run is written, from :func:`place`, until :func:`finish` moves it to ``output_dir``; by default
            ``output_dir`` itself, from which an earlier run is removed now.

    Raises:
        RunExistsError: when a run exists and neither was requested, or the outputs are another job's.
        FolderInUseError: when another process is writing into it.
        OutputError: when the folder overlaps the job's inputs.
    """
    for name, value in (("resume", resume), ("overwrite", overwrite)):
        flag(name, value)
    folder = Path(output_dir)
    if resume and overwrite:
        raise ValueError(f"{folder}: --resume and --overwrite exclude each other; choose one")
    config = running_config()
    if config is not None:
        keep_apart(folder, config)
        locks.acquire(folder)
    _check(folder, resume, overwrite, last_output, config)
    written = Path(run_dir or folder)
    there = read_config(written)
    if written != folder:
        # an interrupted replacement continues like a run in its own place
        goes_on = resume or last_output is not None or _is_own(there)
        if there and not (goes_on and (config is None or there.get("job") == config.get("job"))):
            shutil.rmtree(written)  # only replacements are written there
    elif there and overwrite and not _is_own(there):
        remove_own_files(written, there)
    if written.is_dir():
        remove_leftovers(written)
        locks.remove_leftovers(written)
    written.mkdir(parents=True, exist_ok=True)
    if config is not None:
        _write_config(_with_origin(config), written / CONFIG_FILE)
    if written == folder:
        logger.info("outputs go to %s", folder)
    else:
        logger.info("outputs go to %s, and replace %s when they are complete", written, folder)
    return written


def _with_origin(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with what whoever reads it later wants to know, and without what a deidentified run does not tell."""
    lists = [value for key, value in config.items() if key.endswith("datalist") and isinstance(value, str)]
    sums = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in lists if Path(name).is_file()}
    found = {**config, "versions": versions(), "datalists_sha256": sums}
    if config.get("deidentify") is True:
        found |= {**{key: None for key in _IDENTIFYING if key in config}, "datalists_sha256": {}}
        if config.get("brain") not in BRAIN_METHODS:
            found["brain"] = "a folder"
    if (launch := distributed.launch()) is not None:
        found["launch"] = launch  # marks this folder for later attempts
    return found


def _check(
    folder: Path, resume: bool, overwrite: bool, last_output: str | None, config: Mapping[str, Any] | None
) -> None:
    """Refuse to touch an earlier run unless asked, and anything that is not a run."""
    found = read_config(folder)
    if not found:
        if folder.is_dir() and overwrite and any(path.name not in locks.FILES for path in folder.iterdir()):
            raise RunExistsError(f"{folder} is not empty, but holds no run of this project; it is not overwritten")
        return
    if config is not None and found.get("job") != config.get("job"):
        raise RunExistsError(f"{folder} holds the outputs of another job, {found.get('job')}; name another folder")
    interrupted = last_output is not None and not (folder / last_output).exists()
    if not (resume or overwrite or interrupted or _is_own(found)):
        go_on = "" if last_output else "continue it (--resume), "
        raise RunExistsError(f"{folder} holds an earlier run; {go_on}replace it (--overwrite), or name another folder")


@distributed.by_first
def finish(output_dir: str | Path, run_dir: str | Path) -> None:
    """Move a complete run from ``run_dir``, see :func:`place`, to ``output_dir``; only files of the earlier run are removed."""
    folder, new = Path(output_dir), Path(run_dir)
    if folder != new:
        _rename_in_files(new, folder)
        (new / COMPLETE).touch()
        _move_into_place(new, folder)
        logger.info("%s: the earlier run was replaced", folder)
    locks.release(folder)


def _move_into_place(new: Path, folder: Path) -> None:
    """Replace a run file by file; restarted after a crash it continues."""
    files = [path.relative_to(new) for path in sorted(new.rglob("*")) if path.is_file() and path.name != COMPLETE]
    earlier = read_config(folder)
    if earlier:
        remove_own_files(folder, earlier, but=frozenset([CONFIG_FILE, *(path.as_posix() for path in files)]))
    for path in sorted(files, key=lambda path: path.name == CONFIG_FILE):  # its own configuration goes last
        _move(new / path, folder / path)
    shutil.rmtree(new)


def _move(file: Path, target: Path) -> None:
    """Move a file in one step, also to another disk: a container's output folder is often a separate mount."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(file, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with written_whole(target) as temporary:
            shutil.copyfile(file, temporary)
        file.unlink()


def _rename_in_files(new: Path, folder: Path) -> None:
    """Replace the path of the folder that a run was written in, in its own files and those of the runs below it."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(one) for key, one in value.items()}
        if isinstance(value, list):
            return [renamed(one) for one in value]
        return value.replace(str(new), str(folder)) if isinstance(value, str) else value

    for path in [*new.rglob(CONFIG_FILE), *new.rglob("patients.json"), *new.glob("state.json")]:
        text = path.read_text(encoding="utf-8")
        if new.name not in text:
            continue
        if path.name == CONFIG_FILE:
            _write_config(renamed(parse_yaml(text)), path)
        else:
            write_json(renamed(json.loads(text)), path)


def _write_config(config: Mapping[str, Any], file: Path) -> None:
    with written_whole(file) as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")


def running_config(as_written: bool = False) -> dict[str, Any] | None:
    """The content of the bundle configuration, overrides included, that is evaluating the caller; None outside of one.

    MONAI gives expressions no handle on their own configuration, and evaluates what they refer to, so it is looked for among the
    callers. With ``as_written``, for a configuration that hands parts on to others, values that were typed stay expressions.
    """
    for frame, _ in traceback.walk_stack(None):
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            content = {key: value for key, value in parser.get().items() if key != parser.meta_key}
            return content if as_written else as_typed(content)
    return None
