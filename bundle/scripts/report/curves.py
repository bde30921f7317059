"""Curves of probabilities against labels: ROC, calibration, decision curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.resampling import bootstrap_interval, roc_curve_band
from ..evaluation.scores import roc_auc, roc_curve, wilson_interval
from ..evaluation.thresholds import decision_curve
from .figures import GREY, LABEL_COLOURS, colour_of, named, new_figure, styled
from .groups import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ENSEMBLE_COLOUR = "#7f3fbf"
_UNIT = (-0.02, 1.02)  # limits of an axis from 0 to 1


def calibration_bins(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """Patients in up to 8 bins of equal size by probability: mean ``probability``, ``observed`` frequency with Wilson's interval."""
    count = int(np.clip(len(labels) // 10, 2, 8))
    bins = []
    for part in np.array_split(np.argsort(probabilities, kind="stable"), count):
        share = wilson_interval(int(labels[part].sum()), len(part))
        bins.append(
            {
                "probability": float(probabilities[part].mean()),
                "observed": share.value,
                "low": share.low,
                "high": share.high,
            }
        )
    return bins


@styled
def draw_roc(groups: Sequence[Group], curve: Mapping[str, Any] | None = None) -> Figure:
    """ROC of every model, with a band around that of the last one.

    ``curve`` is the one from the evaluation (``fpr``, ``tpr``, ``low``, ``high``), which then has the band instead.
    """
    figure, axes = new_figure(5.0, 4.6)
    ax = axes[0, 0]
    plot_roc(ax, groups, emphasised=curve is None)
    if curve is not None:
        band, colour = curve, _ENSEMBLE_COLOUR
        ax.plot(band["fpr"], band["tpr"], color=colour, lw=2.4, label="ensemble, as evaluated", zorder=3)
    else:
        band = roc_curve_band(groups[-1].labels, groups[-1].probabilities)
        colour = colour_of(groups[-1].name, len(groups) - 1)
    ax.fill_between(band["fpr"], band["low"], band["high"], color=colour, alpha=0.12, lw=0)
    ax.set_aspect("equal")
    ax.legend(loc="lower right", title="AUC (95 %, bootstrap)", title_fontsize=8.5, alignment="left")
    return figure


def plot_roc(ax: Axes, groups: Sequence[Group], emphasised: bool = True) -> None:
    """ROC of every model, that of the last one thick if ``emphasised``; labels have the AUC with its interval."""
    ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
    for place, group in enumerate(groups):
        last = emphasised and place == len(groups) - 1
        of = (group.labels, group.probabilities)
        low, high = bootstrap_interval(*of)
        text = f"{named(group.name)}: {roc_auc(*of):.2f} ({low:.2f} to {high:.2f})"
        colour, width = colour_of(group.name, place), 2.4 if last else 1.3
        ax.plot(*roc_curve(*of), color=colour, lw=width, label=text, zorder=3 if last else 2)
    ax.set(title="ROC", xlabel="false positive rate", ylabel="true positive rate", xlim=_UNIT, ylim=_UNIT)


@styled
def draw_calibration(group: Group, bins: Sequence[Mapping[str, float]] | None = None) -> Figure:
    """Observed frequency over predicted probability, and the number of patients by probability.

    ``bins`` are those from the evaluation: ``probability``, ``observed``, ``low``, ``high`` each.
    """
    of = "as evaluated" if bins else named(group.name)
    bins = bins or calibration_bins(group.labels, group.probabilities)
    figure, axes = new_figure(5.0, 4.6, 1, 2)
    axes[0, 0].get_gridspec().set_height_ratios([4, 1])
    ax, below = axes[0, 0], axes[1, 0]
    ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":", label="perfect")
    x, y, low, high = (np.array([row[key] for row in bins]) for key in ("probability", "observed", "low", "high"))
    style: dict[str, Any] = {"fmt": "o-", "ms": 5, "capsize": 2.5, "elinewidth": 1, "color": colour_of(group.name)}
    ax.errorbar(x, y, yerr=np.abs([y - low, high - y]), label="patients in bins, 95 % interval", **style)
    ax.set(title=f"Calibration, {of}", ylabel="observed frequency of label 1", xlim=_UNIT, ylim=_UNIT)
    ax.legend(loc="upper left")
    below.hist(
        [group.probabilities[group.labels == label] for label in (0, 1)],
        bins=np.linspace(0, 1, 21),
        stacked=True,
        color=list(LABEL_COLOURS),  # Matplotlib 3.8 takes a pair for a colour and its opacity
    )
    below.set(xlabel="predicted probability", ylabel="patients", xlim=_UNIT)
    below.grid(visible=False)
    return figure


@styled
def draw_decision(group: Group, curve: Mapping[str, Any] | None = None) -> Figure:
    """Net benefit by threshold, beside acting on everybody and on nobody.

    ``curve`` is the one from the evaluation: ``threshold``, ``model``, ``all``, ``none``.
    """
    of = named(group.name) if curve is None else "as evaluated"
    if curve is None:
        curve = decision_curve(group.labels, group.probabilities, np.linspace(0.01, 0.95, 95))
    figure, axes = new_figure(5.0, 4.6)
    ax = axes[0, 0]
    ax.plot(curve["threshold"], curve["all"], color=GREY, lw=1.4, ls="--", label="all patients")
    ax.plot(curve["threshold"], curve["none"], color=GREY, lw=1.4, ls=":", label="no patient")
    ax.plot(curve["threshold"], curve["model"], color=colour_of(group.name), label=f"model, {of}")
    top = max(float(np.max(curve["model"])), float(np.max(curve["all"])), 0.05)
    ax.set(title="Decision curve", xlabel="threshold probability", ylabel="net benefit")
    ax.set(xlim=(0, 1), ylim=(-0.35 * top, 1.12 * top))
    ax.legend(loc="best")
    return figure
