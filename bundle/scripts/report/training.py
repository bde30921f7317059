"""Training runs: their learning curves, and a table of their best epochs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_csv
from .figures import draw_history
from .run import Training
from .tables import Table, head, table_of_records
from .writer import Writer


def best_epoch(history: Mapping[str, np.ndarray], score: str) -> tuple[int, str]:
    """The epoch whose weights a run keeps, the first with the best score, and the name of the score.

    Args:
        history: columns of ``history.csv``.
        score: the run's setting, with a leading "-" where less is better; without one, a usual score is used.
    """
    usual = ("dice", "auc", "WT_dice", "-log_loss", "-loss", "-train_loss")
    best = next((name for name in (score, *usual) if name.lstrip("-") in history), None)
    if best is None:
        return int(history["epoch"][-1]), ""
    values = (-1 if best.startswith("-") else 1) * history[best.lstrip("-")]
    row = int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))
    return int(history["epoch"][row]), best.lstrip("-")


def show_training(run: Training, writer: Writer) -> dict[str, Any]:
    """A training run's learning curves."""
    epoch, by = best_epoch(run.history, run.score)
    caption = f"The weights of epoch {epoch} were kept, the best by {head(by)} of held-out patients." if by else ""
    rows = zip(*(values.tolist() for values in run.history.values()), strict=True)
    records = [dict(zip(run.history, row, strict=True)) for row in rows]
    records = [{**record, "epoch": int(record["epoch"])} for record in records]
    writer.table(table_of_records("History", records), f"history_{run.name}")
    figure = draw_history(run.history, epoch)
    return {"title": run.name, "figure": writer.figure(figure, f"learning_curves_{run.name}", caption)}


def training_table(runs: Sequence[Training]) -> Table:
    """One row per training run: its best epoch and the figures in it."""
    records = []
    for run in runs:
        epoch, by = best_epoch(run.history, run.score)
        row = int(np.flatnonzero(run.history["epoch"] == epoch)[0])
        scores = {key: float(values[row]) for key, values in run.history.items() if key not in ("epoch", "lr")}
        count = len(run.history["epoch"])
        records.append({"run": run.name, "epochs": count, "best_epoch": epoch, "chosen_by": head(by), **scores})
    return table_of_records("Training runs", records, "Scores in the epoch whose weights were kept.")


def importance_table(folder: Path) -> Table | None:
    """The importance of features in all random forests of a run, the most important first; None without a forest."""
    values: dict[str, list[float]] = defaultdict(list)
    files = sorted(folder.rglob("importances.csv"))
    for file in files:
        for row in read_csv(file):
            values[row["feature"]].append(float(row["importance"]))
    if not values:
        return None
    ranked = sorted(values, key=lambda name: -np.mean(values[name]))
    records = [{"feature": name, "importance": np.mean(values[name]), "sd": np.std(values[name])} for name in ranked]
    note = (
        f"Mean decrease in impurity, which sums to 1, and its spread over {len(files)} "
        f"{'forest' if len(files) == 1 else 'forests'}. Correlated features share it."
    )
    return table_of_records("Importance of features", records, note)
