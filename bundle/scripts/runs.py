"""A run's folder: nothing in it is overwritten unasked, and the resolved configuration lies beside the outputs."""

from __future__ import annotations

import hashlib
import inspect
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from . import distributed
from .environment import versions
from .files import remove_leftovers, written_whole
from .finished import CONFIG_FILE

logger = logging.getLogger(__name__)


class RunExistsError(FileExistsError):
    """A folder that holds the outputs of an earlier run."""


@distributed.by_first
def start(
    output_dir: str | Path, resume: bool = False, overwrite: bool = False, last_output: str | None = None
) -> Path:
    """Make the folder of a run and save the running bundle configuration in it.

    What ``torchrun --max-restarts`` starts again goes on with what its earlier attempt began, unasked.

    Args:
        output_dir: folder of the run.
        resume: go on with the run that is there, if any.
        overwrite: remove what an earlier run left there.
        last_output: name of the file that a run writes last; without it the run was interrupted and goes on unasked.

    Returns:
        The folder.

    Raises:
        RunExistsError: when a run is there and neither was asked for, or the outputs are another job's.
        ValueError: when both were asked for, or one is neither True nor False.
    """
    for name, value in (("resume", resume), ("overwrite", overwrite)):
        if not isinstance(value, bool):  # the command line makes a string of `true`, and any string would count as true
            raise ValueError(f"{name} is {value!r}, expected True or False")
    folder = Path(output_dir)
    if resume and overwrite:
        raise ValueError(f"{folder}: both resume and overwrite are asked for; choose one")
    if last_output is not None and not (folder / last_output).exists():
        resume = resume or not overwrite
    config = running_config()
    launch = distributed.launch()
    if (folder / CONFIG_FILE).is_file():
        found = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        job = found.get("job")
        if config is not None and job != config.get("job"):
            raise RunExistsError(f"{folder} holds the outputs of another job, {job}; name another folder")
        if distributed.restarted() and launch is not None and found.get("launch") == launch:
            resume, overwrite = True, False
        if not resume and not overwrite:
            go_on = "" if last_output else "go on with it (--resume), "
            raise RunExistsError(
                f"{folder} holds an earlier run; {go_on}replace it (--overwrite), or name another folder"
            )
        if overwrite:
            shutil.rmtree(folder)
        else:
            remove_leftovers(folder)
    elif folder.is_dir() and overwrite and any(folder.iterdir()):
        raise RunExistsError(f"{folder} is not empty, but holds no run of this project; it is not overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        config |= {"versions": versions(), "datalists_sha256": _checksums(config)}  # for whoever reads it later
        if launch is not None:
            config["launch"] = launch  # by which a later attempt knows that this folder is its own
        with written_whole(folder / CONFIG_FILE) as temporary:
            temporary.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    logger.info("outputs go to %s", folder)
    return folder


def _checksums(config: Mapping[str, Any]) -> dict[str, str]:
    """Checksums of the data lists that a configuration names."""
    named = [value for key, value in config.items() if key.endswith("datalist") and isinstance(value, str)]
    return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in named if Path(name).is_file()}


def running_config() -> dict[str, Any] | None:
    """The content of the bundle configuration, overrides included, that is evaluating the caller; None outside of one.

    MONAI gives expressions no handle on their own configuration, so it is looked for among the callers.
    """
    frame = inspect.currentframe()
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            return {key: value for key, value in parser.get().items() if key != parser.meta_key}
        frame = frame.f_back
    return None
