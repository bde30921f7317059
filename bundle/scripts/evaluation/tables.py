"""The summary of a cross-validation as flat tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def tables(summary: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The parts of a summary (:func:`scripts.evaluation.summary.summarise`) as flat tables, those without rows left out.

    Returns:
        Rows with the same columns by table: ``scores``, ``seeds``, ``baselines``, ``subgroups``, ``controls``, ``roc``,
        ``calibration`` and ``decision``.
    """
    found: dict[str, list[dict[str, Any]]] = {
        "scores": [
            {"kind": kind.removesuffix("s"), "name": name, **_score_columns(figures)}
            for kind in ("ensembles", "mri_types", "seeds")
            for name, figures in summary[kind].items()
        ],
        "seeds": [
            {
                "mri_type": name,
                "seeds": len(spread["auc"]),
                **{key: spread[key] for key in ("mean", "min", "max", "sd")},
            }
            for name, spread in summary["controls"]["seeds"].items()
        ],
        "controls": [{"control": "permutation", **summary["controls"]["permutation"]}],
        "baselines": [],
        "subgroups": [],
        "roc": [],
        "calibration": [],
        "decision": [],
    }
    for name, baseline in summary["baselines"].items():
        columns = {"baseline": name, "patients": baseline["patients"], "positive": baseline["positive"]}
        columns |= _area_columns(baseline["auc"]) | {"model_auc": baseline["model_auc"]}
        found["baselines"].append({**columns, **baseline["model_against_it"]})
    for name, values in summary["subgroups"].items():
        for value, group in values.items():
            columns = {"column": name, "value": value, "patients": group["patients"], "positive": group["positive"]}
            found["subgroups"].append({**columns, **_area_columns(group["auc"])})
    for name, curves in summary["curves"].items():
        for kind in ("roc", "decision"):
            columns = curves.get(kind, {})
            points = zip(*columns.values(), strict=True)
            found[kind] += [{"name": name, **dict(zip(columns, point, strict=True))} for point in points]
        found["calibration"] += [{"name": name, **part} for part in curves.get("calibration", ())]
    return {name: rows for name, rows in found.items() if rows}


def _area_columns(area: Mapping[str, Any] | None) -> dict[str, Any]:
    if area is None:
        area = {"value": None, "delong": (None, None), "bootstrap": (None, None)}
    return {
        "auc": area["value"],
        **_bounds("auc_delong", area["delong"]),
        **_bounds("auc_bootstrap", area["bootstrap"]),
    }


def _bounds(name: str, bounds: Sequence[float | None]) -> dict[str, float | None]:
    return {f"{name}_low": bounds[0], f"{name}_high": bounds[1]}


def _score_columns(figures: Mapping[str, Any]) -> dict[str, Any]:
    columns = {"patients": figures["patients"], "positive": figures["positive"], **_area_columns(figures["auc"])}
    ways = {
        "pr_auc": "bootstrap",
        "brier": "bootstrap",
        "log_loss": "bootstrap",
        "sensitivity": "wilson",
        "specificity": "wilson",
    }
    for name, way in ways.items():
        figure = figures.get(name, {"value": None, way: (None, None)})
        columns |= {name: figure["value"], **_bounds(name, figure[way])}
    for equal in ("width", "mass"):
        columns[f"ece_{equal}"] = figures.get("ece", {}).get(equal)
    return columns
