"""The models besides the method, and their published numbers: ``configs/baseline_models.yaml``. Standard library and PyYAML only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..environment import BUNDLE_ROOT
from ..errors import UserError
from ..files import parse_yaml

MODELS_FILE = BUNDLE_ROOT / "configs" / "baseline_models.yaml"
METHOD = "t4e"
"""The name of the bundle's own method."""


@lru_cache
def _table() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = parse_yaml(MODELS_FILE.read_text(encoding="utf-8"))
    return table


def names() -> list[str]:
    """All models, the method last."""
    return list(_table())


def numbers(model: str | None) -> dict[str, Any]:
    """The published numbers of a model.

    Raises:
        UserError: when there is no such model.
    """
    if model not in _table():
        raise UserError(f"--model {model}: expected one of {', '.join(_table())}")
    return dict(_table()[str(model)])


def takes(model: str) -> str:
    """The input of a model: ``stack``, ``features`` or ``method``."""
    return str(numbers(model)["input"])


def training_of(model: str) -> tuple[str, list[str] | None]:
    """The configuration that trains a model, and its run list if it is not the default."""
    kind = takes(model)
    if kind == "method":
        return "train_classification", None
    return "train_baseline", ["$@fitting"] if kind == "features" else None


def preparation_of(model: str) -> str:
    """The configuration that prepares the series for a model."""
    return "prepare_baseline" if takes(model) == "stack" else "prepare_classification"


def evaluation_of(model: str) -> str:
    """The configuration that evaluates a model."""
    return "evaluate_classification" if takes(model) == "method" else "evaluate_baseline"


def mri_types_of(model: str, asked: Sequence[str] | None = None) -> list[str]:
    """The requested modalities, else the model's published ones."""
    return list(asked or numbers(model)["mri_types"])
