"""How all commands run the bundle's configurations: settings are checked first, modules are loaded once."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import checks
from ..baselines import models
from ..datalists import MRI_TYPES
from ..environment import BUNDLE_ROOT, config_files
from ..outputs import keep_apart

logger = logging.getLogger(__name__)

BASELINE = "baseline"
"""What commands call the field's other models where they otherwise name a stage."""
_PATHS = {
    *("dataset_dir", "output_dir", "prepared_dir", "datalist", "segmentation_datalist"),
    *("classifier", "label_maps", "sample_submission", "rules", "key_file"),
}


def bundle_module(module: str) -> ModuleType:
    """A module of the bundle under the name that its configurations use, so that it is loaded once."""
    if str(BUNDLE_ROOT) not in sys.path:
        sys.path.insert(0, str(BUNDLE_ROOT))
    package = importlib.import_module("scripts")
    if not package.__file__ or Path(package.__file__).resolve().parent != BUNDLE_ROOT / "scripts":
        raise ImportError(
            f"another package called 'scripts' is in the way: {package.__file__}; start from another folder, or in a process "
            "that has not imported it"
        )
    with _quick_imports():
        return importlib.import_module(f"scripts.{module}")


@contextlib.contextmanager
def _quick_imports() -> Iterator[None]:
    """Imports that no garbage collection interrupts, which take a third less time, as does the interpreter's end."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.freeze()
            gc.enable()


def run_config(config: str, **overrides: Any) -> None:
    """Run one of the bundle's configurations, as ``python -m monai.bundle run --config_file …`` does.

    Args:
        config: its name, ``train_segmentation`` for example.
        overrides: values for ids of the configuration, in which ``$``, ``@``, ``%`` and ``#`` mean what they do there; None leaves
            the configuration's own.

    Raises:
        ValueError: when the configuration has no such id, or a value can't be meant.
    """
    values = {key: value for key, value in overrides.items() if value is not None}
    typed = checks.as_typed(values)
    checks.settings(
        config, typed, {key for key, value in values.items() if isinstance(typed[key], str) and typed[key] != value}
    )
    if "output_dir" in typed:
        keep_apart(typed["output_dir"], typed)
    bundle_module("runs")
    files, locks = bundle_module("files"), bundle_module("locks")
    from monai.bundle import ConfigWorkflow

    workflow = ConfigWorkflow(
        config_file=[str(file) for file in config_files(config)],
        meta_file=str(BUNDLE_ROOT / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=None,
        **values,
    )
    try:
        with locks.released_after():
            workflow.initialize()
            workflow.run()
            workflow.finalize()
    except (RuntimeError, OSError) as error:
        known = files.write_error(error, _written_to(typed, workflow)) or mistake(error)
        if known is None:
            raise
        raise known from None


def _written_to(given: Mapping[str, Any], workflow: Any) -> str:
    """The folder that a job writes into, as far as it is known when it failed."""
    name = "output_dir" if "output_dir" in workflow.parser.get() else "prepared_dir"
    value = given.get(name) or workflow.parser.get(name)
    return str(value) if checks.is_plain(value) and value is not None else "output folder"


def run_job(config: str, run: Sequence[str] | None = None, **values: Any) -> None:
    """:func:`run_config` with values as typed, in which text is never evaluated; ``run`` replaces its own ``run``.

    Only the options that ``expression`` among the values names are expressions: Python code behind ``$``, another setting behind ``@``.

    Raises:
        ValueError: when it names an option that was not given, or is not an expression.
    """
    names = _names(values.pop("expression", None))
    for name in names:
        found = values.get(name)
        if not isinstance(found, str) or found[:1] not in ("$", "@"):
            what = "no such setting was given" if found is None else f"found {found!r}"
            raise ValueError(
                f"--expression {name}: {what}, expected one that begins with $ or @, --batch_size '$2 * 8' for example"
            )
    code = {name: values.pop(name) for name in names}
    if code:
        logger.info(
            "run as code, because --expression says so: %s", ", ".join(f"{name}={text}" for name, text in code.items())
        )
    run_config(config, run=run, **checks.as_values(values), **code)


def _names(given: Any) -> list[str]:
    if given is None:
        return []
    listed = given.split(",") if isinstance(given, str) else given
    if not isinstance(listed, Sequence) or not all(isinstance(name, str) and name for name in listed):
        raise ValueError(f"--expression {given}: expected names of settings, batch_size,device for example")
    return list(listed)


def run_command(config: str, options: Mapping[str, Any], run: Sequence[str] | None = None, **settings: Any) -> None:
    """:func:`run_job` with a command's options under the names of the configuration's settings.

    Args:
        config: name of the configuration.
        options: the ``locals()`` of the command, ``overrides`` among them.
        run: see :func:`run_job`.
        settings: further ones, over which ``overrides`` take precedence.
    """
    given = {
        checks.SETTINGS_OF_OPTIONS.get(name, name): value for name, value in options.items() if name != "overrides"
    }
    if "output_dir" in given and given["output_dir"] is None:
        raise ValueError("no output folder; say where the results go: --output FOLDER")
    if set(MRI_TYPES) <= given.keys():
        given["named"] = named_series(**{name: given.pop(name) for name in MRI_TYPES})
        given["patient"] = None if given["patient"] is None else str(given["patient"])
    if given.get("brain") is not None and str(given["brain"]) not in checks.BRAIN_METHODS:
        given["brain"] = full_path(given["brain"])
    for name in _PATHS & given.keys():
        given[name] = full_path(given[name])
    if "segmenter" in given:
        given["segmenter"] = segmenter_path(given["segmenter"])
    if "mri_types" in given:
        given["mri_types"] = modalities(given["mri_types"])
    run_job(config, run, **given, **{**settings, **options["overrides"]})


def modalities(mri_types: str | Sequence[str] | None) -> list[str] | None:
    """The names of modalities, also from text with commas; None stays None. Others are a ValueError."""
    if mri_types is None:
        return None
    names = mri_types.split(",") if isinstance(mri_types, str) else mri_types
    checks.some_of(MRI_TYPES)("mri_types", names)
    return list(names)


def full_path(path: str | Path | None) -> str | None:
    """An absolute path, so that the working directory no longer matters."""
    return None if path is None else str(Path(str(path)).expanduser().resolve())


def named_series(**series: str | Path | None) -> dict[str, str] | None:
    """The named series, by modality; existing paths are made absolute."""
    given = {name: str(value) for name, value in series.items() if value is not None}
    there = {name: str(full_path(value)) for name, value in given.items() if Path(value).expanduser().exists()}
    return {**given, **there} or None


def segmenter_path(segmenter: str | Path | None) -> str | None:
    """A file's path, or the name of the bundle's own weights."""
    return str(segmenter) if segmenter in ("synthetic", "released") else full_path(segmenter)


def known_stage(stage: str, model: str | None = None) -> str:
    """One of the two stages, or ``baseline`` with the name of a ``model``; another word is a ValueError."""
    checks.one_of((*checks.STAGES, BASELINE))("stage", stage)
    if stage == BASELINE and model is None:
        raise ValueError(f"{BASELINE} needs the name of a model; add --model, one of {', '.join(models.names())}")
    if model is not None:
        models.numbers(model)
        if stage != BASELINE:
            raise ValueError(f"--model {model}: {stage} is a stage of the bundle's own method; say {BASELINE} instead")
    return stage


def mistake(error: BaseException | None) -> BaseException | None:
    """The user's error beneath MONAI's wrappers; None for an error of the program."""
    while error is not None and not isinstance(
        error, (ValueError, OSError, ImportError)
    ):  # a UserError is a ValueError
        error = error.__cause__
    return error


def require_run(run: str | Path, output: str | Path | None = None) -> None:
    """Check that there is a run's folder, and that output can be written."""
    checks.folder("folder of a run")("run", run)
    checks.output("output", run if output is None else Path(output).parent)
