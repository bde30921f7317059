"""Weights of the field's other models: which files to use, their settings, and their networks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import Transform
from torch import nn

from .. import weights
from ..loading import LoadSeries
from ..model_files import WeightsError, describe
from ..preparation import read_index
from ..prepared import PreparedError
from .features import LoadFeatures
from .models import METHOD, mri_types_of, numbers, takes
from .networks import SMALLEST, build_baseline

Members = Sequence[Mapping[str, str | None]]

PUBLISHED = {"resnet10": "released/3d-resnet10_T1wCE_fold?_*.pth"}
"""Published weights in the bundle's folder of models, by model, a file for each fold."""
_OWN = ("mri_type", "trained", "patients", "trees", "nodes", "features", "min_leaf")
"""Settings that may differ between the members of one model."""


def find_members(
    model: str | None,
    classifier: str | Path | None,
    models_dir: str | Path,
    mri_types: Sequence[str] | None = None,
) -> list[dict[str, str | None]]:
    """Weights by modality of each member, see :func:`scripts.weights.find_members`; only modalities that have any.

    Args:
        model: its name; None takes the weights' own, which must then be given.
        classifier: a file, the folder of a training or that of a cross-validation; None takes the published weights.
        models_dir: the bundle's folder of weights.
        mri_types: modalities; None takes those with weights, for one file those of the model.

    Raises:
        WeightsError: when there are none.
    """
    if classifier is None:
        files = sorted(Path(models_dir).glob(PUBLISHED[str(model)])) if model in PUBLISHED else []
        if not files:
            hint = "fetch the published ones with `radiogenomics download`, or " if model in PUBLISHED else ""
            raise WeightsError(
                f"no weights of {model or 'a model'} found; {hint}train it (`radiogenomics train baseline --model {model or 'NAME'}`) "
                "and name the folder: --classifier RUN"
            )
        return [{name: str(file) for name in mri_types_of(str(model), mri_types)} for file in files]
    if Path(classifier).is_file() and mri_types is None:
        known = describe(classifier).settings
        mri_types = [known["mri_type"]] if "mri_type" in known else mri_types_of(model or METHOD)
    found = weights.find_members(classifier, models_dir, list(mri_types or weights.MRI_TYPES))
    return [{name: file for name, file in member.items() if file} for member in found]


def settings(members: Members, model: str | None = None) -> dict[str, Any]:
    """Settings that all members share: ``model``, and how their stacks are cut.

    Raises:
        WeightsError: when they belong to a model other than the requested one, or to several.
    """
    found: dict[str, dict[str, Any]] = {}
    for member in members:
        for file in member.values():
            if file:
                found[file] = {key: value for key, value in of_file(file, model).items() if key not in _OWN}
    first = next(iter(found))
    for file, one in found.items():
        if one != found[first]:
            raise WeightsError(
                f"{file} was made with {one}, but {first} with {found[first]}; give weights of one kind for all modalities"
            )
    return found[first]


def of_file(file: str | Path, model: str | None = None) -> dict[str, Any]:
    """The settings of a weights file; of a flat one, as others publish them, the published numbers of the ``model``.

    Raises:
        WeightsError: when the file belongs to another model, or names none and none is given.
    """
    known = describe(file).settings
    if not known and model is not None:
        return stack_settings(model)
    named = known.get("model", METHOD)
    if named == METHOD or (model is not None and named != model):
        raise WeightsError(
            f"{file}: holds weights of {named}, expected those of {model or 'another model'}; select that model "
            f"(--model {named}), or give other weights (--classifier)"
        )
    return known


def stack_settings(model: str, order: str = "position", **sizes: int | None) -> dict[str, Any]:
    """The settings of a model of stacks, for its weights file: how its stacks are cut.

    Args:
        model: its name.
        order: ``position`` or ``files``, see :class:`custom_transforms.CentralSlicesd`.
        sizes: ``image_size``, ``slices`` and ``step``; the published ones where None.
    """
    published = numbers(model)
    given = {name: value for name, value in sizes.items() if value is not None}
    cut: dict[str, Any] = {name: published[name] for name in ("image_size", "slices", "step") if name in published}
    if takes(model) != "stack":
        return {"model": model}
    cut |= given
    for name, least in zip(("image_size", "slices"), SMALLEST.get(model, (8, 1)), strict=True):
        if cut[name] < least:
            raise ValueError(f"--{name} {cut[name]}: {model} needs at least {least}")
    return {"model": model, **cut, "order": order}


def prepared_settings(prepared_dir: str | Path, model: str) -> dict[str, Any]:
    """The settings with which the stacks in a folder were cut for a model.

    Raises:
        PreparedError: when they were prepared for another model, or for none of these.
    """
    file = Path(prepared_dir) / "index.json"
    read_index(prepared_dir)
    known = json.loads(file.read_text(encoding="utf-8"))["configuration"]
    found: dict[str, Any] = known.get("settings", {}) if known.get("stage") == "baseline" else {}
    if found.get("model") != model:
        raise PreparedError(
            f"{file}: its series were prepared for {found.get('model', 'the two-stage method')}, expected {model}; prepare them into a "
            f"folder of their own (`radiogenomics prepare baseline --model {model}`)"
        )
    return found


def load(members: Members, model: str | None = None) -> nn.ModuleDict:
    """The networks of the members by modality, with their weights; of several members a ``ModuleList``."""
    loaded = {
        file: weights.load_weights(build_baseline(of_file(file, model)), file).eval()
        for member in members
        for file in member.values()
        if file
    }
    if len(members) == 1:
        return nn.ModuleDict({name: loaded[str(file)] for name, file in members[0].items()})
    return nn.ModuleDict({name: nn.ModuleList(loaded[str(member[name])] for member in members) for name in members[0]})


def loader(known: Mapping[str, Any]) -> Transform:
    """The transform that reads a prepared series for a model with these settings."""
    return LoadSeries(masks=False) if takes(known["model"]) == "stack" else LoadFeatures(known["model"])
