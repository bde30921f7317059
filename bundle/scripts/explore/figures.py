"""Figures of the page: how often values occur, by modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..modalities import MRI_TYPES
from ..report.figures import LABEL_COLOURS, colour_of, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 30


@styled
def draw_values(rows: Sequence[Mapping[str, Any]], key: str, title: str, label: str) -> Figure:
    """Number of series by value of ``key``, one panel per modality."""
    values = {name: _numbers(rows, key, name) for name in MRI_TYPES}
    values = {name: found for name, found in values.items() if len(found)}
    everything = np.concatenate(list(values.values()))
    low, high = float(everything.min()), float(everything.max())
    whole = bool((everything == np.round(everything)).all()) and high - low < _BINS
    if whole:
        edges = np.arange(low - 0.5, high + 1)
    else:
        edges = np.linspace(low, high, _BINS + 1) if high > low else np.array([low - 0.5, low + 0.5])
    figure, axes = new_figure(6.2, 0.9 + 0.85 * len(values), 1, len(values))
    for ax, (name, found) in zip(axes[:, 0], values.items(), strict=True):
        ax.hist(found, bins=edges, color=colour_of(name))
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
        ax.locator_params(axis="y", integer=True, nbins=3)
        ax.set_xlim(edges[0], edges[-1])
        if ax is not axes[-1, 0]:
            ax.tick_params(labelbottom=False)
    axes[0, 0].set_title(title)
    axes[-1, 0].set_xlabel(f"{label}; bars: number of series")
    return figure


def _numbers(rows: Sequence[Mapping[str, Any]], key: str, mri_type: str) -> np.ndarray:
    found = [row[key] for row in rows if row["mri_type"] == mri_type and isinstance(row.get(key), (int, float))]
    return np.array(found, dtype=float)


@styled
def draw_counts(counts: Mapping[str, Mapping[str, int]], title: str, label: str) -> Figure:
    """Stacked bars: for each value the number of series of each modality."""
    shown = dict(list(counts.items())[:12])
    figure, axes = new_figure(6.2, 1.4 + 0.34 * max(len(shown), 2))
    ax = axes[0, 0]
    left = np.zeros(len(shown))
    for name in MRI_TYPES:
        widths = np.array([row.get(name, 0) for row in shown.values()])
        ax.barh(range(len(shown)), widths, left=left, color=colour_of(name), label=name)
        left += widths
    ax.set_yticks(range(len(shown)), [value if len(value) < 40 else f"{value[:38]}…" for value in shown])
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.locator_params(axis="x", integer=True)
    ax.set(title=title, xlabel=label)
    figure.legend(loc="outside lower right", ncols=4)
    return figure


@styled
def draw_images_per_patient(numbers: Mapping[int, int]) -> Figure:
    """Number of patients by number of modalities."""
    figure, axes = new_figure(6.2, 2.2)
    ax = axes[0, 0]
    ax.bar(list(numbers), list(numbers.values()), color="#0072b2", width=0.6)
    ax.set_xticks(range(len(MRI_TYPES) + 1))
    ax.locator_params(axis="y", integer=True)
    ax.set(title="Modalities of a patient", xlabel="modalities", ylabel="patients")
    return figure


@styled
def draw_balance(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Patients of either label in each group."""
    shown = [row for row in rows if row["patients"] > 1][:20] or list(rows[:1])
    figure, axes = new_figure(6.2, 1.4 + 0.3 * max(len(shown), 2))
    ax = axes[0, 0]
    places = range(len(shown))
    zeros, ones = ([row[key] for row in shown] for key in ("label_0", "label_1"))
    ax.barh(places, zeros, color=LABEL_COLOURS[0], label="MGMT 0")
    ax.barh(places, ones, left=zeros, color=LABEL_COLOURS[1], label="MGMT 1")
    ax.set_yticks(places, [f"{row['by']} {row['value']}".strip()[:44] for row in shown])
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.locator_params(axis="x", integer=True)
    ax.set(title="Patients by label", xlabel="patients")
    figure.legend(loc="outside lower right", ncols=2)
    return figure
