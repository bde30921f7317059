"""Figures of several models on the same patients: ROC curves, AUCs and their differences, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import GREY, INK, SCORE_COLOURS, new_figure, styled
from .tables import NOTHING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (*SCORE_COLOURS, INK)  # Okabe and Ito's without yellow, distinguishable by colour-blind people
_DASHES = ("-", "--", ":", "-.")
_PANELS = 4  # beside each other
_UNIT = (-0.02, 1.02)
_LONGEST = 31  # letters of a name in a figure


def style_of(place: int) -> dict[str, Any]:
    """Colour and dashes of the run in this place, no two alike among the first 28."""
    return {"color": COLOURS[place % len(COLOURS)], "ls": _DASHES[place // len(COLOURS) % len(_DASHES)]}


def short(name: str, longest: int = _LONGEST) -> str:
    """A name shortened to fit a figure: its beginning and its end."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def signed(value: float | None) -> str:
    """A difference with its sign; -0.00 has none."""
    if value is None:
        return NOTHING
    return plain_minus(f"{value:+.2f}").replace("+0.00", "0.00")


def plain_minus(text: str) -> str:
    """Numbers with two decimals and a typographic minus sign; -0.00 has none."""
    return text.replace("-0.00", "0.00").replace("-", "\N{MINUS SIGN}")


def p_text(p: float | None) -> str:
    """A p value: ``0.031``, ``<0.001``, ``>0.999``."""
    if p is None:
        return NOTHING
    return "<0.001" if p < 0.001 else ">0.999" if p > 0.999 else f"{p:.3f}"


def p_equals(p: float | None) -> str:
    """The same as an equation: ``p = 0.031``, ``p < 0.001``."""
    text = p_text(p)
    return f"p {text[0]} {text[1:]}" if text[0] in "<>" else f"p = {text}"


def area_text(run: Mapping[str, Any]) -> str:
    """The AUC of a run with its interval."""
    low, high = run["auc"]["delong"]
    return f"{run['auc']['value']:.2f}" + ("" if low is None else f" ({low:.2f} to {high:.2f})")


@styled
def draw_rocs(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """ROC curves over each other, the best one thick; the legend has AUCs with DeLong's interval."""
    figure, axes = new_figure(
        6.7 + 0.06 * max(len(short(run["name"])) for run in runs), max(4.7, 1.0 + 0.19 * len(runs))
    )
    ax = axes[0, 0]
    ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
    for place, run in enumerate(runs):
        curve = run["curves"]["roc"]
        label = f"{short(run['name'])}: {area_text(run)}"
        ax.plot(
            curve["fpr"], curve["tpr"], lw=1.5 if place else 2.6, label=label, zorder=3 - place / 100, **style_of(place)
        )
    ax.set(xlabel="false positive rate", ylabel="true positive rate", xlim=_UNIT, ylim=_UNIT, title="ROC")
    ax.set_aspect("equal")
    title = "AUC (95 %, DeLong)"
    figure.legend(loc="outside right center", title=title, title_fontsize=9, alignment="left", handlelength=2.6)
    return figure


@styled
def draw_areas(found: Mapping[str, Any]) -> Figure:
    """AUCs with intervals and those of single seeds, and differences from the best model and from the tumour's volume alone."""
    runs = found["runs"]
    panels: dict[str, str] = {"best": f"Difference from the best, {short(found['best'])}"}
    if found["size"] not in (None, found["best"]):
        panels["size"] = f"Difference from {short(found['size'])}"
    figure, axes = new_figure(4.3 + 3.6 * len(panels), 1.7 + 0.42 * len(runs), 1 + len(panels))
    _panel(axes[0, 0], [area_text(run) for run in runs], "AUC (95 %, DeLong)", "AUC", 0.5)
    for place, run in enumerate(runs):
        areas = [value for value in run["seeds"]["auc"].values() if value is not None]
        if len(areas) > 1:
            marks: dict[str, Any] = {"s": 26, "facecolor": "none", "edgecolor": GREY, "lw": 0.9, "zorder": 2}
            axes[0, 0].scatter(areas, [place + 0.27] * len(areas), **marks)
        _bar(axes[0, 0], place, run["auc"]["value"], run["auc"]["delong"])
    axes[0, 0].set_yticks(range(len(runs)), [short(run["name"]) for run in runs])
    for ax, (kind, title) in zip(axes[0, 1:], panels.items(), strict=True):
        tests = [run["against"][kind] for run in runs]
        _panel(ax, ["" if one is None else p_equals(one["p_holm"]) for one in tests], title, "difference of AUCs", 0.0)
        for place, test in enumerate(tests):
            if test is not None:
                _bar(ax, place, test["difference"], (test["low"], test["high"]))
            else:
                ax.text(0, place, "reference", ha="center", va="center", color=GREY, size=8, backgroundcolor="white")
        ax.set_yticks(range(len(runs)), [""] * len(runs))
    for ax in axes[0]:
        ax.set_ylim(len(runs) - 0.4, -0.6)
    return figure


def _panel(ax: Axes, texts: Sequence[str], title: str, quantity: str, nothing: float) -> None:
    """Texts to the right of the rows, and a line at the value of no effect."""
    ax.axvline(nothing, color=INK, lw=1, ls=":", zorder=1)
    ax.set(title=title, xlabel=quantity)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    for place, text in enumerate(texts):
        ax.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center", size=8.5, color=INK)


def _bar(ax: Axes, place: int, value: float | None, interval: Sequence[Any]) -> None:
    if value is None:
        return
    colour = style_of(place)["color"]
    if interval[0] is not None:
        ax.plot(interval, [place, place], color=colour, lw=2.2, solid_capstyle="butt", zorder=3)
    ax.scatter([value], [place], s=46, marker="D", color=colour, edgecolor="white", lw=0.8, zorder=4)


@styled
def draw_calibrations(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """Observed frequency over predicted probability, a panel for each run."""
    columns = min(_PANELS, len(runs))
    rows = -(-len(runs) // columns)
    figure, axes = new_figure(2.75 * columns + 0.3, 2.85 * rows + 0.25, columns, rows)
    for place, ax in enumerate(axes.ravel()):
        if place >= len(runs):
            ax.set_axis_off()
            continue
        run = runs[place]
        ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
        bins = run["curves"]["calibration"]
        x, y, low, high = (np.array([one[key] for one in bins]) for key in ("probability", "observed", "low", "high"))
        bars: dict[str, Any] = {"fmt": "o-", "ms": 4.5, "lw": 1.4, "capsize": 2, "elinewidth": 1}
        ax.errorbar(x, y, yerr=np.abs([y - low, high - y]), color=style_of(place)["color"], **bars)
        slope = run["calibration_slope"]["value"]
        text = NOTHING if slope is None else plain_minus(f"{slope:.2f}")
        ax.text(0.02, 0.97, f"slope {text}", va="top", size=8.5, color=INK)
        ax.set(title=short(run["name"], 23), xlim=_UNIT, ylim=_UNIT, xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        ax.set_aspect("equal")
    figure.supxlabel("predicted probability of label 1", size=9.5, color="#3a4754")
    figure.supylabel("observed frequency of label 1", size=9.5, color="#3a4754")
    return figure
