"""Checks of a command's options, so that typing errors are refused at once. Standard library and PyYAML only."""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import math
import os
import re
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from .baselines import models
from .environment import BUNDLE_ROOT, config_files
from .files import parse_yaml
from .modalities import MRI_TYPES

CONFIGS = BUNDLE_ROOT / "configs"
STAGES = ("segmentation", "classification")
SELECTIONS = ("inner", "outer")
PLANES = ("auto", "acquired", "three")
RUNTIMES = ("auto", "eager", "torch", "inductor", "openvino")
TRAINING_RUNTIMES = ("eager", "torch", "inductor")
PRECISIONS = ("auto", "fp32", "bf16", "int8")
NETWORKS = ("segmenter", "classifier")
SUFFIXES = {"torchscript": ".ts", "onnx": ".onnx", "openvino": ".xml"}
BRAIN_METHODS = ("auto", "deepbet", "hd-bet", "synthstrip", "never")
"""Methods of brain extraction, besides a folder of masks."""
GET_WEIGHTS = (
    "train your own with `radiogenomics train`, or fetch the ones that the method's authors released with "
    "`radiogenomics download` (the same as `python -m monai.bundle download_large_files --bundle_path BUNDLE`)"
)
SETTINGS_OF_OPTIONS = {"input": "dataset_dir", "output": "output_dir", "prepared": "prepared_dir"}
"""The configurations' names of options with another name in the commands."""
_OPTIONS = {setting: option for option, setting in SETTINGS_OF_OPTIONS.items()}

Check = Callable[[str, Any], None]
"""Raises a ValueError for an option's value."""


# ---------------------------------------------------------------------------------------------------------------------
# values


def as_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose texts reach a configuration as they are, though MONAI gives ``#``, ``@``, ``$`` and ``%`` a meaning.

    Such a text becomes an expression that gives it; :func:`as_typed` is the way back.

    Raises:
        ValueError: for a mapping from which MONAI would build an object; the settings that a cross-validation passes to its jobs
            (``train_segmentation``, …) may have such.
    """

    def escaped(value: Any, components: bool) -> Any:
        if isinstance(value, Mapping):
            if "_target_" in value and not components:
                raise ValueError(
                    f"{dict(value)}: found _target_, which would build an object, expected a value; replace components "
                    "in a configuration (`python -m monai.bundle run`)"
                )
            return {key: escaped(one, components) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [escaped(one, components) for one in value]
        if isinstance(value, str) and any(sign in value for sign in "#@$%"):
            return "$" + "".join(f"\\x{ord(sign):02x}" if sign in "#@$%" else sign for sign in repr(value))
        return value

    return {key: escaped(value, (CONFIGS / f"{key}.yaml").is_file()) for key, value in settings.items()}


def as_typed(value: Any) -> Any:
    """The original of a value from :func:`as_values`; other values stay as they are."""
    if isinstance(value, dict):
        return {key: as_typed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_typed(one) for one in value]
    if isinstance(value, str) and value[:2] in ("$'", '$"'):
        with contextlib.suppress(SyntaxError, ValueError):
            text = ast.literal_eval(value[1:])
            return text if isinstance(text, str) else value
    return value


def is_plain(value: Any) -> bool:
    """Whether a setting is a value, or a list of values, not an expression."""
    if isinstance(value, list):
        return all(map(is_plain, value))
    return isinstance(value, (str, int, float, type(None))) and not str(value).startswith(("$", "@"))


def number(least: float = -math.inf, most: float = math.inf, whole: bool = False) -> Check:
    """A check that a value is a finite number from ``least`` to ``most``."""

    kind: Any = Integral if whole else Real
    ends = (f" {word} {end:g}" for word, end in (("from", least), ("to", most)) if math.isfinite(end))
    expected = f"a {'whole ' if whole else ''}number{''.join(ends)}"

    def check(option: str, value: Any) -> None:
        good = isinstance(value, kind) and not isinstance(value, bool) and least <= value <= most
        if not good or abs(value) == math.inf:
            raise ValueError(f"--{option} {value}: expected {expected}")

    return check


def one_of(known: Sequence[Any]) -> Check:
    """A check that a value is one of those known."""

    def check(option: str, value: Any) -> None:
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in known):
            raise ValueError(f"--{option} {value}: expected one of {', '.join(map(str, known))}")

    return check


def some_of(known: Sequence[str]) -> Check:
    """A check that a value is a list of those known."""

    def check(option: str, value: Any) -> None:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, Sequence) or not names or not set(names) <= set(known):
            given = ",".join(map(str, names)) if isinstance(names, Sequence) else names
            raise ValueError(f"--{option} {given}: expected some of {','.join(known)}")

    return check


def flag(option: str, value: Any) -> None:
    """Check that a value is True or False, because any text would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"--{option} {value}: expected True or False")


def device(option: str, value: Any) -> None:
    """Check that a device exists; imports torch for devices other than the CPU."""
    match = re.fullmatch(r"(cpu|cuda|mps|xpu)(?::(\d+))?", str(value))
    if not match:
        raise ValueError(f"--{option} {value}: expected cpu, cuda, cuda:1, …")
    kind, index = match[1], int(match[2] or 0)
    if kind == "cpu":
        return
    import torch

    there = getattr(torch, kind).device_count()
    if index >= there:
        possible = ", ".join(["cpu", *(f"{kind}:{i}" for i in range(there))])
        raise ValueError(f"--{option} {value}: no such device on this machine; available: {possible}")


# ---------------------------------------------------------------------------------------------------------------------
# paths


def exists(what: str, remedy: str = "", names: Sequence[str] = (), kind: Callable[[Path], bool] = Path.exists) -> Check:
    """A check that there is a file or folder, unless the value is one of the names; ``{file}`` in the remedy is the value."""

    def check(option: str, value: Any) -> None:
        path = Path(value)
        if value not in names and not kind(path):
            found = f"is a {'folder' if path.is_dir() else 'file'}, expected a" if path.exists() else "no such"
            raise ValueError(f"--{option} {value}: {found} {what}" + (remedy and f"; {remedy.format(file=value)}"))

    return check


folder = functools.partial(exists, kind=Path.is_dir)
file = functools.partial(exists, kind=Path.is_file)


def output(option: str, value: Any) -> None:
    """Check that a folder can be made or written to."""
    path = Path(value).absolute()
    place = next(one for one in (path, *path.parents) if one.exists())
    if not place.is_dir():
        raise ValueError(f"--{option} {value}: {place} is a file, expected a folder; name another")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(
            f"--{option} {value}: no permission to write to {place}; name another folder, or ask for permission"
        )


def output_file(option: str, value: Any) -> None:
    """Check that a file can be written."""
    if Path(value).is_dir():
        raise ValueError(f"--{option} {value}: is a folder, expected a file to write")
    output(option, Path(value).absolute().parent)


def prepared(option: str, value: Any) -> None:
    """Check that a folder holds prepared series."""
    remedy = f"prepare into {value} first (`radiogenomics prepare`)"
    file("index of prepared series", remedy)(option, Path(value) / "index.json")


# ---------------------------------------------------------------------------------------------------------------------
# settings of the configurations

_WEIGHTS = file("weights file", GET_WEIGHTS, ("synthetic", "released"))
_DATALIST = file("data list", "make one with `radiogenomics datalist --input DIR --output {file}`")


def studies(option: str, value: Any) -> None:
    """Check that there is a folder or a zip file of studies."""
    if Path(value).is_file() and not zipfile.is_zipfile(value):
        raise ValueError(
            f"--{option} {value}: is a file, expected a folder of studies or a zip file of them; name one series by --FLAIR FILE"
        )
    if not Path(value).exists():
        raise ValueError(f"--{option} {value}: no such folder or zip file of studies")


def brain(option: str, value: Any) -> None:
    """Check that a value is a method of brain extraction, or a folder of masks."""
    if value not in BRAIN_METHODS and not Path(str(value)).is_dir():
        raise ValueError(f"--{option} {value}: expected one of {', '.join(BRAIN_METHODS)}, or a folder of masks")


_COUNT, _FROM_0 = number(1, whole=True), number(0, whole=True)
_SETTINGS: dict[str, Check] = {
    **dict.fromkeys(("dataset_dir", "segmentation_dataset_dir"), studies),
    "rules": file("file of rules"),
    "brain": brain,
    **dict.fromkeys(("datalist", "segmentation_datalist", "classification_datalist"), _DATALIST),
    **dict.fromkeys(("sample_submission", "labels"), file("file")),
    "image": exists("file or folder of a series"),
    "segmenter": _WEIGHTS,
    "init": file("weights file", "or give imagenet, none (random) or synthetic", ("imagenet", "none", "synthetic")),
    "classifier": exists("file or folder of classifier weights", GET_WEIGHTS),
    "models_dir": folder("folder of weights"),
    "label_maps": folder("folder of brain segmentations"),
    **dict.fromkeys(("output_dir", "prepared_dir"), output),
    "preview": output_file,
    "mri_types": some_of(MRI_TYPES),
    "stages": some_of(STAGES),
    **dict.fromkeys(("mri_type", "reference"), one_of(MRI_TYPES)),
    "selection": one_of(SELECTIONS),
    "model": lambda option, value: one_of(models.names())(option, value),
    "order": one_of(("position", "files")),
    "runtime": one_of(RUNTIMES),
    "precision": one_of(PRECISIONS),
    "amp": one_of(("auto", True, False)),
    "device": device,
    **dict.fromkeys(
        (
            "batch_size",
            "image_size",
            "sequence_length",
            "stride",
            "hidden_size",
            "val_interval",
            "steps",
            "slices",
            "step",
            "trees",
            "min_leaf",
        ),
        _COUNT,
    ),
    **dict.fromkeys(("num_workers", "fold", "seed", "max_contours", "warmup_epochs", "max_epochs"), _FROM_0),
    **dict.fromkeys(("zoom", "other_zoom"), number(1)),
    **dict.fromkeys(("prior", "threshold", "keep_rate", "signal"), number(0, 1)),
    **dict.fromkeys(("coarse_step", "learning_rate", "read_timeout"), number(0)),
}
"""Checks by the name of a setting; others must have their default's type: True or False, a number, or anything."""
_NO_SETTINGS = ("imports", "bundle_root")
"""Ids that every configuration needs in order to run."""
_TRAINING = {"runtime": one_of(TRAINING_RUNTIMES), "prepared_dir": prepared}


def settings(config: str, values: Mapping[str, Any], texts: Collection[str] = ()) -> None:
    """Check the values that a configuration is given by id, ``a#b`` for ``b`` in ``a``; ``run`` among them where its own is replaced.

    Args:
        config: its name.
        values: by id.
        texts: ids whose texts are never expressions.

    Raises:
        ValueError: for an id that is unknown or that nothing in the job uses, or an invalid value.
    """
    written = _known(config)
    used = _used(written, [values.get("run", written["run"]), dict(values)])
    known = {key: value for key, value in written.items() if key in used}
    checks = {**_SETTINGS, **(_TRAINING if config.startswith("train_") else {})}
    if config.startswith("pretrain_"):
        checks["runtime"] = _TRAINING["runtime"]
    if config.startswith("evaluate_"):
        checks["prepared_dir"] = prepared
    planes = known.get("planes")
    if planes and not isinstance(planes, Mapping):
        checks["planes"] = one_of(PLANES) if isinstance(planes, str) else some_of(planes)  # by default all of them
    for key, value in values.items():
        if re.split("#|::", key)[0] in written.keys() - used:
            raise ValueError(f"{config}: nothing in this job uses {_OPTIONS.get(key, key)!r}; leave it out")
        if re.split("#|::", key)[0] in _NO_SETTINGS:
            raise ValueError(
                f"--{key} {value}: not a setting; change it in a configuration (`python -m monai.bundle run`)"
            )
        default = _default(config, known, key)
        if value is None or (key not in texts and str(value).startswith(("$", "@", "%"))):
            continue  # an expression, which is known only later
        option = _OPTIONS.get(key, key)
        if key in checks:
            checks[key](option, value)
        elif isinstance(default, bool):
            flag(option, value)
        elif isinstance(default, (int, float)):
            number()(option, value)
        elif isinstance(value, Mapping) and (CONFIGS / f"{key}.yaml").is_file():
            settings(key, value)  # a cross-validation's settings of its jobs


def used(config: str, run: Sequence[str] | None = None) -> set[str]:
    """Ids at the top of a configuration that its ``run``, or a replacement of it, uses."""
    written = _known(config)
    return _used(written, written["run"] if run is None else list(run))


def _known(config: str) -> dict[str, Any]:
    """Defaults by id, of all configurations that are laid over each other."""
    found: dict[str, Any] = {}
    for file in config_files(config):
        for key, value in parse_yaml(file.read_text(encoding="utf-8")).items():
            *above, last = key.split("#")
            place = found
            for part in above:
                place = place.setdefault(part, {})
            if not key.startswith("+"):  # adds to a list
                place[last] = value
    return found


def _used(known: Mapping[str, Any], start: Any) -> set[str]:
    """Ids at the top of a configuration to which an expression in ``start`` refers, or one in what it refers to.

    Those that modules read without a reference are among them: a cross-validation's settings of its jobs, for example.
    """
    used = {"job", "run", "imports", "bundle_root"}
    waiting = [start]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and value.startswith(("$", "@")):
            new = {name for name in re.findall(r"@(\w+)", value) if name in known and name not in used}
            used |= new
            waiting += [known[name] for name in new]
    return used | {name for name in known if (CONFIGS / f"{name}.yaml").is_file()}


def _default(config: str, known: Mapping[str, Any], key: str) -> Any:
    found: Any = known
    for part in key.replace("::", "#").split("#"):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            close = difflib.get_close_matches(key, list(known), n=1)
            hint = f"; did you mean --{close[0]}?" if close else f"; expected one of {', '.join(_offered(known))}"
            raise ValueError(f"{config} has no setting {key!r}{hint}")
    return found


def _offered(known: Mapping[str, Any]) -> list[str]:
    """The ids that a user may set: plain values, lists of them, and folders."""
    return [
        key
        for key, value in known.items()
        if (is_plain(value) and key != "job") or key == "device" or key.endswith("_dir")
    ]
