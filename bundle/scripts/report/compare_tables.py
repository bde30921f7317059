"""Tables of several models on the same patients: scores, paired differences, costs."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from .compare_figures import p_text, plain_minus, signed
from .tables import NOTHING, Cell, Table, cell, with_interval


def auc_table(found: Mapping[str, Any]) -> Table:
    """How well each run separates the labels."""
    heads = [
        "",
        "AUC (95 %, DeLong)",
        "p, labels permuted",
        "AUC within folds",
        "AUC of seeds: SD (range)",
        "PR AUC (95 %, bootstrap)",
    ]
    rows = []
    for run in found["runs"]:
        seeds = run["seeds"]
        spread = NOTHING if seeds["sd"] is None else f"{seeds['sd']:.3f} ({seeds['min']:.2f} to {seeds['max']:.2f})"
        rows.append(
            [
                cell(run["name"]),
                _estimate(run["auc"], "delong"),
                Cell(p_text(run["permutation_p"]), run["permutation_p"]),
                _two(run["auc"]["within_folds"]),
                Cell(spread, seeds["sd"]),
                _estimate(run["pr_auc"], "bootstrap"),
            ]
        )
    note = (
        "Of the mean over modalities and seeds. By chance an AUC is 0.50 and a PR AUC the share of label 1, "
        f"{found['positive'] / found['patients']:.2f} here."
    )
    return Table("Discrimination", heads, rows, note=note)


def calibration_table(found: Mapping[str, Any]) -> Table:
    """Accuracy of each run's probabilities."""
    heads = ["", "Brier (95 %, bootstrap)", "ECE", "calibration slope (95 %)", "calibration intercept (95 %)"]
    rows = [
        [
            cell(run["name"]),
            _estimate(run["brier"], "bootstrap"),
            _two(run["ece"]),
            _estimate(run["calibration_slope"], "wald"),
            _estimate(run["calibration_intercept"], "wald"),
        ]
        for run in found["runs"]
    ]
    note = "The Brier score of 0.5 for everybody is 0.25. Slope 1 and intercept 0 if calibrated; a slope below 1: too extreme."
    return Table("Calibration", heads, rows, note=note)


def _estimate(figure: Mapping[str, Any], way: str) -> Cell:
    return Cell(plain_minus(with_interval(figure["value"], figure[way])), figure["value"])


def _two(value: float | None) -> Cell:
    return Cell(NOTHING if value is None else f"{value:.2f}", value)


def difference_table(found: Mapping[str, Any]) -> Table:
    """Paired differences of each run from the best one and from the tumour's volume alone."""
    kinds = {"best": f"the best, {found['best']}"}
    if found["size"] not in (None, found["best"]):
        kinds["size"] = found["size"]
    heads = [""]
    for name in kinds.values():
        heads += [f"difference from {name} (95 %)", "p", "p after Holm", "within folds (p after Holm)"]
    rows = []
    for run in found["runs"]:
        cells = [cell(run["name"])]
        for kind in kinds:
            test = run["against"][kind]
            if test is None:
                cells += [Cell(NOTHING)] * 4
                continue
            low, high = test["low"], test["high"]
            interval = "" if low is None else f" ({signed(low)} to {signed(high)})"
            cells.append(Cell(f"{signed(test['difference'])}{interval}", test["difference"]))
            cells += [Cell(p_text(test[key]), test[key]) for key in ("p", "p_holm")]
            within = test["within_folds"]
            text = f"{signed(within['difference'])} ({p_text(within['p_holm'])})"
            cells.append(Cell(text, within["difference"]))
        rows.append(cells)
    note = (
        f"Paired, after DeLong. Holm's correction is over all comparisons of this table ({found['comparisons']}). Within folds: the same of "
        "ranks within folds, which shifts between folds do not reach."
    )
    return Table("Differences", heads, rows, note=note)


def cost_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """The known costs of each run."""

    def duration(seconds: float) -> str:
        return f"{seconds:.0f} s" if seconds < 60 else str(datetime.timedelta(seconds=round(seconds)))

    def count(value: float) -> str:
        return f"{value / 1e6:.1f} M" if value >= 1e6 else f"{value:,.0f}"

    shows = {
        "training_seconds": ("training (h:mm:ss)", duration),
        "seconds_per_patient": ("seconds per patient", lambda value: f"{value:.2f}"),
        "gflop": ("GFLOP per patient", lambda value: f"{value:,.1f}"),
        "parameters": ("parameters", count),
        "peak_memory_mb": ("peak memory", lambda value: f"{value:,.0f} MB"),
    }
    rows = []
    for run in runs:
        costs = ((run["costs"][name], as_text) for name, (_, as_text) in shows.items())
        cells = [Cell(NOTHING if value is None else as_text(value), value) for value, as_text in costs]
        rows.append([cell(run["name"]), *cells])
    note = (
        "Training: all folds, seeds and modalities of stage 2 together. Parameters and GFLOP: of all networks that predict a patient. "
        "Seconds and memory compare only where the runs were made on the same machine."
    )
    return Table("Costs", ["", *(title for title, _ in shows.values())], rows, note=note)
