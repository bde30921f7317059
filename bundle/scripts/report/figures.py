"""Figures of a report: style and saving, learning curves, patients by label, Dice, sequences.

Their functions draw what was computed elsewhere; :mod:`scripts.report.curves` has ROC, calibration and decision curve.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import written_whole
from .groups import Group
from .tables import as_number, head

if TYPE_CHECKING:
    from matplotlib.figure import Figure


INK = "#1b2733"
COLOURS = {"FLAIR": "#0072b2", "T1w": "#cc79a7", "T1wCE": "#d55e00", "T2w": "#009e73", "all": INK}
OTHER_COLOURS = ("#56b4e9", "#e69f00", "#7f6fb5", "#8c564b", "#999999")
SCORE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LABEL_COLOURS = ("#4c78a8", "#e4572e")
REGION_COLOURS = {"WT": "#0090c0", "ET": "#d08a00"}
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


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
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
    """A figure of this size in inches with its axes, an array ``(rows, columns)``, empty for no columns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False) if columns else None


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
    """An SVG document without its prologue and metadata, as wide as its place in the page but no wider than drawn."""
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


@styled
def draw_history(history: Mapping[str, np.ndarray], epoch: int) -> Figure:
    """Loss, scores and learning rate by epoch, from the columns of ``history.csv``; a line marks the ``epoch`` that was kept."""
    losses = [key for key in history if key.endswith("loss")]
    scores = [key for key in history if key not in (*losses, "epoch", "lr")]
    rates = ["lr"] if "lr" in history else []
    panels = {"Loss": losses, "Score of held-out patients": scores, "Learning rate": rates}
    panels = {title: keys for title, keys in panels.items() if keys}
    figure, axes = new_figure(3.5 * len(panels), 2.9, len(panels))
    epochs = history["epoch"]
    style: dict[str, Any] = {"marker": "o" if len(epochs) < 40 else None, "ms": 3}
    for ax, (title, keys) in zip(axes[0], panels.items(), strict=True):
        for place, key in enumerate(keys):
            if key == "train_loss":
                ax.plot(epochs, history[key], color=GREY, ls="--", label="training", **style)
            else:
                label = f"held out: {head(key)}" if title == "Loss" else head(key)
                colour = SCORE_COLOURS[place % len(SCORE_COLOURS)]
                ax.plot(epochs, history[key], color=colour, label=label, **style)
        ax.axvline(epoch, color=INK, lw=1, ls=":", label=f"best epoch: {epoch}")
        ax.set(title=title, xlabel="epoch")
        ax.locator_params(axis="x", integer=True)
        if title == "Learning rate":
            ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        else:
            ax.legend(loc="best")
    return figure


@styled
def draw_strips(groups: Sequence[Group]) -> Figure:
    """Every patient's probability by label, a pair of strips for each model; bars are medians."""
    strips = {
        group.name: [
            (f"label {label}", LABEL_COLOURS[label], group.probabilities[group.labels == label]) for label in (0, 1)
        ]
        for group in groups
    }
    return _pairs_of_strips(strips, "Probability by label", "probability of label 1", 4.6)


@styled
def draw_overlap(rows: Sequence[Mapping[str, str]]) -> Figure:
    """Dice of every patient by modality, whole and enhancing tumour; bars are medians."""

    def dice(mri_type: str, region: str) -> np.ndarray:
        found = [as_number(row["dice"]) for row in rows if row["mri_type"] == mri_type and row["region"] == region]
        return np.array([value for value in found if np.isfinite(value)])

    names = dict.fromkeys(row["mri_type"] for row in rows)
    strips = {name: [(region, REGION_COLOURS[region], dice(name, region)) for region in ("WT", "ET")] for name in names}
    return _pairs_of_strips(strips, "Dice of patients", "Dice", 4.2)


def _pairs_of_strips(
    strips: Mapping[str, Sequence[tuple[str, str, np.ndarray]]], title: str, quantity: str, height: float
) -> Figure:
    """Values of patients, 0 to 1, as points, with bars at their medians: two strips each of a label, a colour and values."""
    figure, axes = new_figure(max(5.0, 0.95 * len(strips) + 0.8), height)
    ax, rng = axes[0, 0], np.random.default_rng(67)
    for place, pair in enumerate(strips.values()):
        for side, (label, colour, values) in enumerate(pair):
            if not len(values):
                continue
            x = place + (side - 0.5) * 0.44
            spread = x + rng.uniform(-0.15, 0.15, len(values))
            ax.scatter(spread, values, s=15, color=colour, alpha=0.65, lw=0, label=label if not place else None)
            ax.plot([x - 0.18, x + 0.18], [np.median(values)] * 2, color=INK, lw=2)
    ax.set(title=title, ylabel=quantity, xlim=(-0.6, len(strips) - 0.4), ylim=(-0.02, 1.02))
    ax.set_xticks(range(len(strips)), list(strips))
    ax.grid(visible=False, axis="x")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)
    return figure


@styled
def draw_probabilities(probabilities: Sequence[float], prior: Sequence[bool]) -> Figure:
    """Number of patients by probability; those with the cohort prior separately."""
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


@styled
def draw_sequences(
    sequences: Mapping[tuple[str, str], Sequence[float]], probability: float, interval: Sequence[float] | None = None
) -> Figure:
    """Probability of every sequence of a patient, a row for each modality (and seed, "" for a single one); diamonds are means."""
    names = [name for name, values in sequences.items() if len(values)]
    figure, axes = new_figure(7.0, 1.25 + 0.42 * max(len(names), 1))
    ax = axes[0, 0]
    if interval is not None:
        ax.axvspan(interval[0], interval[1], color=INK, alpha=0.08, lw=0, label="interval of the patient")
    ax.axvline(probability, color=INK, lw=1.6, label="patient")
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
