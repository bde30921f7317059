"""Figures of a report: what is drawn is computed first, the functions that draw follow. NumPy and matplotlib only."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.resampling import bootstrap_interval, roc_curve_band
from ..evaluation.scores import roc_auc, roc_curve, wilson_interval
from ..evaluation.thresholds import decision_curve
from ..files import written_whole
from .tables import head

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"FLAIR": "#0072b2", "T1w": "#cc79a7", "T1wCE": "#d55e00", "T2w": "#009e73", "all": "#1b2733"}
OTHER_COLOURS = ("#56b4e9", "#e69f00", "#7f6fb5", "#8c564b", "#999999")
LABEL_COLOURS = {0: "#4c78a8", 1: "#e4572e"}
LABEL_NAMES = {0: "label 0", 1: "label 1"}
GREY = "#7d8a97"
_STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": "#3a4754",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e7ebef",
    "grid.linewidth": 0.8,
    "xtick.color": "#3a4754",
    "ytick.color": "#3a4754",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a patient may be called $x$
    "figure.facecolor": "white",
}


# ---------------------------------------------------------------------------------------------------------------------
# what is drawn


@dataclass(frozen=True)
class Group:
    """Probabilities of patients by one model, a modality's or the mean of all.

    Attributes:
        name: modality, ensemble, or "all".
        patients: identifiers.
        labels: ``(P,)`` 0 or 1.
        probabilities: ``(P,)`` of label 1, the mean over seeds.
        folds: ``(P,)`` in which a patient was held out, "" where that is not known.
    """

    name: str
    patients: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    folds: list[str]


def groups_of(rows: Sequence[Mapping[str, str]]) -> list[Group]:
    """The models' probabilities in the rows of a ``predictions.csv``, the mean of all modalities last.

    Both forms are known: a row per patient with a column per modality, and a row per patient, modality, fold and seed with
    the columns ``probability`` and ``mri_type``.
    """
    if not rows:
        return []
    values: dict[str, dict[str, list[float]]] = {}
    labels: dict[str, int] = {}
    folds: dict[str, str] = {}
    names = [key for key in ("mri_type", "ensemble", "model", "name") if key in rows[0]]
    reserved = {"patient", "label", "fold", "seed", "probability", *names}
    for row in rows:
        patient = row["patient"]
        if row.get("label") in (None, ""):
            continue
        labels[patient] = int(float(row["label"]))
        folds[patient] = row.get("fold") or ""
        found = (
            {(row[names[0]] if names else "all") or "all": row["probability"]}
            if "probability" in row
            else {key: value for key, value in row.items() if key not in reserved}
        )
        for name, text in found.items():
            value = _float(text)
            if np.isfinite(value):
                values.setdefault(name, {}).setdefault(patient, []).append(value)
    if values and "all" not in values:
        means = {name: {patient: float(np.mean(found)) for patient, found in of.items()} for name, of in values.items()}
        values["all"] = {
            patient: [float(np.mean([of[patient] for of in means.values() if patient in of]))]
            for patient in labels
            if any(patient in of for of in means.values())
        }
    order = [name for name in values if name != "all"] + (["all"] if "all" in values else [])
    groups = []
    for name in order:
        patients = [patient for patient in labels if patient in values[name]]
        truth = np.array([labels[patient] for patient in patients], dtype=int)
        chance = np.array([np.mean(values[name][patient]) for patient in patients], dtype=float)
        groups.append(Group(name, patients, truth, chance, [folds[patient] for patient in patients]))
    return groups


def _float(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return float("nan")


def calibration_bins(labels: np.ndarray, probabilities: np.ndarray, most: int = 8) -> list[dict[str, float]]:
    """Patients in bins of equal size by probability: mean ``predicted``, ``observed`` frequency with Wilson's 95 % interval."""
    count = int(np.clip(len(labels) // 10, 2, most))
    bins = []
    for part in np.array_split(np.argsort(probabilities, kind="stable"), count):
        if len(part):
            observed, low, high = wilson_interval(int(labels[part].sum()), len(part))
            predicted = float(probabilities[part].mean())
            bins.append({"predicted": predicted, "observed": observed, "low": low, "high": high, "count": len(part)})
    return bins


def best_epoch(history: Mapping[str, np.ndarray], score: str | None) -> tuple[int, str]:
    """The epoch whose weights a run keeps, the first with the best score, and what was compared.

    Args:
        history: columns of ``history.csv``.
        score: the run's setting, with a leading "-" where less is better; None looks for a usual one.
    """
    name, sign = (score or "").lstrip("-"), -1 if (score or "").startswith("-") else 1
    if name not in history:
        usual = [key for key in ("dice", "auc", "WT_dice") if key in history]
        least = [key for key in ("log_loss", "loss", "train_loss") if key in history]
        name, sign = (usual[0], 1) if usual else (least[0], -1) if least else ("", 1)
    if not name:
        return int(history["epoch"][-1]), ""
    values = sign * history[name]
    return int(history["epoch"][int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))]), name


# ---------------------------------------------------------------------------------------------------------------------
# drawing


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """A function that draws in the style of the report.

    Raises:
        ImportError: matplotlib is not installed.
    """

    @functools.wraps(draw)
    def drawn(*arguments: Any, **named_arguments: Any) -> Figure:
        try:
            import matplotlib as mpl
        except ImportError as error:
            raise ImportError(
                "Figures are drawn with matplotlib: pip install 'brats-mri-radiogenomics[report]'"
            ) from error
        with mpl.rc_context(_STYLE):
            return draw(*arguments, **named_arguments)

    return drawn


def new_figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, Any]:
    """A figure of so many inches with its axes, an array ``(rows, columns)``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Figure, folder: str | Path, name: str) -> str:
    """Write a figure as ``<name>.png`` and ``<name>.svg``, each whole or not at all, and return the SVG to put into a page."""
    import matplotlib as mpl

    folder = Path(folder)
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        with written_whole(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    with written_whole(folder / f"{name}.svg") as temporary:
        temporary.write_text(svg, encoding="utf-8")
    return for_page(svg)


def for_page(svg: str) -> str:
    """An SVG document without its prologue and metadata, as wide as its place in the page but no wider than it was drawn."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    opening, rest = svg.split(">", 1)
    width = re.search(r'width="([0-9.]+)pt"', opening)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    most = f"{float(width[1]) * 4 / 3:.0f}px" if width else "100%"
    return f'{opening} role="img" style="width:100%;max-width:{most};height:auto">{rest}'


def colour_of(name: str, place: int = 0) -> str:
    """The colour of a modality; others get one by their place."""
    return COLOURS.get(name, OTHER_COLOURS[place % len(OTHER_COLOURS)])


def named(name: str) -> str:
    """A model's name in a legend."""
    return "all modalities" if name == "all" else name


@_styled
def draw_history(history: Mapping[str, np.ndarray], score: str | None) -> Figure:
    """Loss, scores and learning rate by epoch; a line marks the epoch whose weights were kept."""
    losses = [key for key in history if key.endswith("loss")]
    scores = [key for key in history if key not in (*losses, "epoch", "lr")]
    panels = [
        ("Loss", losses),
        ("Score of held-out patients", scores),
        ("Learning rate", ["lr"] if "lr" in history else []),
    ]
    panels = [(title, keys) for title, keys in panels if keys]
    epoch, _ = best_epoch(history, score)
    figure, axes = new_figure(3.5 * len(panels), 2.9, len(panels))
    palette = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
    for ax, (title, keys) in zip(axes[0], panels, strict=True):
        for place, key in enumerate(keys):
            training = key == "train_loss"
            label = "training" if training else head(key) if title != "Loss" else f"held out: {head(key)}"
            colour = GREY if training else palette[place % len(palette)]
            few = len(history["epoch"]) < 40
            ax.plot(
                history["epoch"],
                history[key],
                color=colour,
                ls="--" if training else "-",
                marker="o" if few else None,
                ms=3,
                label=label,
            )
        ax.axvline(
            epoch, color="#1b2733", lw=1, ls=":", label=f"best epoch: {epoch}" if title != "Learning rate" else None
        )
        ax.set(title=title, xlabel="epoch")
        ax.locator_params(axis="x", integer=True)
        if title == "Learning rate":
            ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        else:
            ax.legend(loc="best")
    return figure


@_styled
def draw_roc(groups: Sequence[Group], curve: Mapping[str, Any] | None = None) -> Figure:
    """ROC of every model, with a band around that of the last one, or around the curve that was computed elsewhere.

    Args:
        groups: the models.
        curve: ``fpr``, ``tpr``, ``low``, ``high`` of the model that an evaluation is about.
    """
    figure, axes = new_figure(5.0, 4.6)
    ax = axes[0, 0]
    ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
    given = curve if curve is not None and {"fpr", "tpr"} <= set(curve) else None
    for place, group in enumerate(groups):
        last = place == len(groups) - 1 and given is None
        of = (group.labels, group.probabilities)
        low, high = bootstrap_interval(*of)
        colour = colour_of(group.name, place)
        text = f"{named(group.name)}: {roc_auc(*of):.2f} ({low:.2f} to {high:.2f})"
        ax.plot(*roc_curve(*of), color=colour, lw=2.4 if last else 1.3, label=text, zorder=3 if last else 2)
        if last:
            band = roc_curve_band(*of)
            ax.fill_between(band["fpr"], band["low"], band["high"], color=colour, alpha=0.12, lw=0)
    if given is not None:
        ax.plot(given["fpr"], given["tpr"], color="#7f3fbf", lw=2.4, label="ensemble, as evaluated", zorder=3)
        if {"low", "high"} <= set(given):
            ax.fill_between(given["fpr"], given["low"], given["high"], color="#7f3fbf", alpha=0.12, lw=0)
    ax.set(
        title="ROC",
        xlabel="false positive rate",
        ylabel="true positive rate",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    ax.set_aspect("equal")
    ax.legend(loc="lower right", title="AUC (95 %, bootstrap)", title_fontsize=8.5, alignment="left")
    return figure


@_styled
def draw_calibration(group: Group, bins: Sequence[Mapping[str, float]] | None = None) -> Figure:
    """Observed frequency over predicted probability, and how many patients have which probability."""
    of = "as evaluated" if bins else named(group.name)
    bins = bins or calibration_bins(group.labels, group.probabilities)
    figure, axes = new_figure(5.0, 4.6, 1, 2)
    grid = axes[0, 0].get_gridspec()
    grid.set_height_ratios([4, 1])
    ax, below = axes[0, 0], axes[1, 0]
    ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":", label="perfect")
    x, y = (np.array([row[key] for row in bins], dtype=float) for key in ("predicted", "observed"))
    colour = colour_of(group.name)
    if all(row.get("low") is not None and row.get("high") is not None for row in bins):
        ends = [np.abs(y - [row["low"] for row in bins]), np.abs([row["high"] for row in bins] - y)]
        ax.errorbar(
            x,
            y,
            yerr=ends,
            color=colour,
            fmt="o-",
            ms=5,
            capsize=2.5,
            elinewidth=1,
            label="patients in bins, 95 % interval",
        )
    else:
        ax.plot(x, y, "o-", color=colour, ms=5, label="patients in bins")
    ax.set(title=f"Calibration, {of}", ylabel="observed frequency of label 1", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.legend(loc="upper left")
    below.hist(
        [group.probabilities[group.labels == label] for label in (0, 1)],
        bins=np.linspace(0, 1, 21),
        stacked=True,
        color=[LABEL_COLOURS[0], LABEL_COLOURS[1]],
    )
    below.set(xlabel="predicted probability", ylabel="patients", xlim=(-0.02, 1.02))
    below.grid(visible=False)
    return figure


@_styled
def draw_decision(group: Group, curve: Mapping[str, Any] | None = None) -> Figure:
    """Net benefit by threshold, beside acting on everybody and on nobody."""
    of = named(group.name)
    if curve is not None and {"threshold", "model", "all", "none"} <= set(curve):
        of, benefit = "as evaluated", {key: np.asarray(values, dtype=float) for key, values in curve.items()}
    else:
        benefit = decision_curve(group.labels, group.probabilities, np.linspace(0.01, 0.95, 95))
    thresholds = benefit["threshold"]
    figure, axes = new_figure(5.0, 4.6)
    ax = axes[0, 0]
    ax.plot(thresholds, benefit["all"], color=GREY, lw=1.4, ls="--", label="all patients")
    ax.plot(thresholds, benefit["none"], color=GREY, lw=1.4, ls=":", label="no patient")
    ax.plot(thresholds, benefit["model"], color=colour_of(group.name), label=f"model, {of}")
    top = max(float(np.nanmax(benefit["model"])), float(np.nanmax(benefit["all"])), 0.05)
    ax.set(
        title="Decision curve",
        xlabel="threshold probability",
        ylabel="net benefit",
        xlim=(0, 1),
        ylim=(-0.35 * top, 1.12 * top),
    )
    ax.legend(loc="best")
    return figure


@_styled
def draw_strips(groups: Sequence[Group], seed: int = 67) -> Figure:
    """Every patient's probability by label, a pair of strips for each model; bars are medians."""
    rng = np.random.default_rng(seed)
    figure, axes = new_figure(max(5.0, 0.95 * len(groups) + 0.8), 4.6)
    ax = axes[0, 0]
    for place, group in enumerate(groups):
        for label in (0, 1):
            values = group.probabilities[group.labels == label]
            if not len(values):
                continue
            x = place + (label - 0.5) * 0.44
            spread = rng.uniform(-0.15, 0.15, len(values))
            ax.scatter(
                x + spread,
                values,
                s=15,
                color=LABEL_COLOURS[label],
                alpha=0.65,
                lw=0,
                label=LABEL_NAMES[label] if not place else None,
            )
            ax.plot([x - 0.18, x + 0.18], [np.median(values)] * 2, color="#1b2733", lw=2)
    ax.set(
        title="Probability by label",
        ylabel="probability of label 1",
        xlim=(-0.6, len(groups) - 0.4),
        ylim=(-0.02, 1.02),
    )
    ax.set_xticks(range(len(groups)), [group.name for group in groups])
    ax.grid(visible=False, axis="x")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)
    return figure


@_styled
def draw_overlap(rows: Sequence[Mapping[str, str]]) -> Figure:
    """Dice of every patient by modality, whole and enhancing tumour; bars are medians."""
    names = list(dict.fromkeys(row["mri_type"] for row in rows))
    figure, axes = new_figure(max(5.0, 0.95 * len(names) + 0.8), 4.2)
    ax, rng = axes[0, 0], np.random.default_rng(67)
    for place, name in enumerate(names):
        for side, (region, colour) in enumerate((("WT", "#0090c0"), ("ET", "#d08a00"))):
            found = np.array(
                [_float(row["dice"]) for row in rows if row["mri_type"] == name and row["region"] == region]
            )
            found = found[np.isfinite(found)]
            if not len(found):
                continue
            x = place + (side - 0.5) * 0.44
            ax.scatter(
                x + rng.uniform(-0.15, 0.15, len(found)),
                found,
                s=15,
                color=colour,
                alpha=0.65,
                lw=0,
                label=region if not place else None,
            )
            ax.plot([x - 0.18, x + 0.18], [np.median(found)] * 2, color="#1b2733", lw=2)
    ax.set(title="Dice of patients", ylabel="Dice", ylim=(-0.02, 1.02), xlim=(-0.6, len(names) - 0.4))
    ax.set_xticks(range(len(names)), names)
    ax.grid(visible=False, axis="x")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)
    return figure


@_styled
def draw_probabilities(probabilities: Sequence[float], prior: Sequence[bool]) -> Figure:
    """How many patients have which probability; those that got the cohort prior apart."""
    values, without = np.asarray(probabilities, dtype=float), np.asarray(prior, dtype=bool)
    figure, axes = new_figure(7.0, 2.7)
    ax = axes[0, 0]
    ax.hist(
        [values[~without], values[without]],
        bins=np.linspace(0, 1, 41),
        stacked=True,
        color=["#0072b2", "#c3cad1"],
        label=["predicted", "cohort prior"],
    )
    ax.set(
        title="Patients by probability",
        xlabel="predicted probability of MGMT promoter methylation",
        ylabel="patients",
        xlim=(0, 1),
    )
    ax.locator_params(axis="y", integer=True)
    if without.any():
        ax.legend(loc="upper right")
    return figure


@_styled
def draw_sequences(
    sequences: Mapping[tuple[str, str], Sequence[float]], probability: float, interval: Sequence[float] | None = None
) -> Figure:
    """Probability of every sequence of a patient, a row for each modality; diamonds are the modalities' means.

    Args:
        sequences: by modality and what else tells a row from others of it, a seed, or "".
        probability: of the patient.
        interval: of the patient.
    """
    names = [name for name, values in sequences.items() if len(values)]
    figure, axes = new_figure(7.0, 1.25 + 0.42 * max(len(names), 1))
    ax = axes[0, 0]
    if interval is not None:
        ax.axvspan(interval[0], interval[1], color="#1b2733", alpha=0.08, lw=0, label="interval of the patient")
    ax.axvline(probability, color="#1b2733", lw=1.6, label="patient")
    for place, name in enumerate(names):
        values = np.asarray(sequences[name], dtype=float)
        colour = colour_of(name[0], place)
        ax.scatter(values, np.full(len(values), place), s=26, color=colour, alpha=0.55, lw=0)
        ax.scatter([values.mean()], [place], s=60, marker="D", color=colour, edgecolor="white", lw=1, zorder=3)
    ax.set_yticks(range(len(names)), [", ".join(filter(None, name)) for name in names])
    ax.set(
        title="Probability of every sequence",
        xlabel="probability of MGMT promoter methylation",
        xlim=(0, 1),
        ylim=(len(names) - 0.4, -0.6),
    )
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure
