"""One picture of a run of both stages: masks of a few patients beside the true ones, learning curves, ROC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from custom_transforms import SliceGeometry

from ..files import written_whole
from .curves import plot_roc
from .figures import GREY, REGION_COLOURS, colour_of, new_figure, styled
from .groups import Group, groups_of
from .patient import find_sources
from .run import Run, read_run
from .viewer import ET_COLOUR, WT_COLOUR, read_source

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Phantom data: synthetic, no biological meaning. Research use only."
SEGMENTATION = "segmentation"
"""Folder of the training run of stage 1; the others are named by modality."""
WT, ET = ("#{:02x}{:02x}{:02x}".format(*colour) for colour in (WT_COLOUR, ET_COLOUR))
FIELD = 190.0  # mm that a panel shows
_LEGEND: dict[str, Any] = {"fontsize": 7.5, "frameon": True, "framealpha": 0.9, "edgecolor": "none"}


def write_picture(run: str | Path, true_masks: str | Path, output: str | Path, patients: int = 3) -> None:
    """Draw the picture and write it as PNG.

    Args:
        run: folder of training runs of both stages, an evaluation of stage 2 and a prediction.
        true_masks: folder of true label maps ``<patient>_<mri_type>.nii.gz``: 1 tumour that does not enhance, 2 enhancing.
        output: PNG file.
        patients: number of patients whose masks are shown.

    Raises:
        FileNotFoundError: when a label map is missing.
        RunError: when the folder holds no run.
        SheetError: when masks belong to another series.
    """
    figure = draw_picture(read_run(run), Path(true_masks), patients)
    with written_whole(output) as temporary:
        figure.savefig(temporary, format="png")


@styled
def draw_picture(run: Run, true_masks: Path, patients: int) -> Figure:
    """Masks above, curves below."""
    from matplotlib.lines import Line2D

    group = groups_of(next(part.predictions for part in run.evaluations if part.predictions))
    histories = {Path(training.name).name: training.history for training in run.trainings}
    of_segmentation = histories.pop(SEGMENTATION)
    chosen = _first_of_each_label(group[-1], patients)
    figure = new_figure(10, 1.65 * len(chosen) + 3.6, 0)[0]
    figure.suptitle(TITLE, fontsize=12, fontweight="bold")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.65 * len(chosen) + 0.4, 2.9])[:, 0]
    axes = top.subplots(len(chosen), 3 * len(histories), squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    studies = find_sources(run.predicted).studies
    for row, index in zip(axes, chosen, strict=True):
        patient = group[-1].patients[index]
        for place, mri_type in enumerate(histories):
            masks = [folder / f"{patient}_{mri_type}.nii.gz" for folder in (true_masks, run.predicted / "masks")]
            _draw_masks(row[3 * place : 3 * place + 3], studies[patient][mri_type], *masks)
            if index == chosen[0]:
                for ax, name in zip(row[3 * place :], (mri_type, "true", "predicted"), strict=False):
                    ax.set_title(name, fontsize=9, loc="center")
        label, chance = group[-1].labels[index], group[-1].probabilities[index]
        row[0].set_ylabel(f"patient {patient}\nlabel {label}, p = {chance:.2f}", fontsize=8)
    keys = {"WT, whole tumour": WT, "ET, enhancing tumour": ET}
    handles = [Line2D([], [], color=colour, lw=2.5, label=name) for name, colour in keys.items()]
    handles.append(Line2D([], [], ls="none", label="p: predicted probability of the made-up label 1"))
    top.legend(handles=handles, loc="outside lower center", ncols=3)
    left, middle, right = bottom.subplots(1, 3)
    _draw_segmentation(left, of_segmentation)
    _draw_classification(middle, histories)
    plot_roc(right, group)
    right.set_title(f"ROC of {len(group[-1].patients)} test patients")
    right.legend(loc="lower right", title="AUC (95 %, bootstrap)", title_fontsize=7.5, **_LEGEND)
    return figure


def _first_of_each_label(group: Group, count: int) -> list[int]:
    """Places of the first patients of either label in turn, label 1 first: nobody is hand-picked."""
    turns = [(turn, place) for label in (1, 0) for turn, place in enumerate(np.flatnonzero(group.labels == label))]
    return [int(place) for _, place in sorted(turns, key=lambda one: one[0])][:count]


def _draw_masks(trio: Sequence[Axes], source: str, true: Path, predicted: Path) -> None:
    """The slice with the largest true tumour: by itself, with the true mask, and with the predicted one and its Dice."""
    image = nib.load(predicted)
    geometry = SliceGeometry.from_affine(image.affine, image.shape)  # type: ignore[attr-defined]
    slices = read_source(source, geometry)
    truth, found = (np.asarray(geometry.to_stack(np.asarray(nib.load(file).dataobj))) for file in (true, predicted))  # type: ignore[attr-defined]
    index = int((truth > 0).sum((1, 2)).argmax())
    height, width = geometry.pixel_spacing * np.array(truth.shape[1:])
    for ax, labels in zip(trio, (None, truth[index], found[index]), strict=True):
        ax.imshow(slices[index], cmap="gray", extent=(0, width, 0, height), interpolation="bicubic")
        for least, colour in ((1, WT), (2, ET)) if labels is not None else ():
            if (region := labels >= least).any():
                where: dict[str, Any] = {"extent": (0, width, 0, height), "origin": "upper"}
                ax.contourf(region, levels=[0.5, 1.5], colors=[colour], alpha=0.22, **where)
                ax.contour(region, levels=[0.5], colors=[colour], linewidths=1.3, **where)
        ax.set(xticks=[], yticks=[], facecolor="black")
        ax.set(xlim=np.add(width, (-FIELD, FIELD)) / 2, ylim=np.add(height, (-FIELD, FIELD)) / 2)
        ax.spines[:].set_visible(False)
    both, each = ((truth > 0) & (found > 0)).sum(), (truth > 0).sum() + (found > 0).sum()
    dice = f"Dice of the series {2 * both / each:.2f}"
    ax.text(0.5, 0.02, dice, color="w", fontsize=7, ha="center", transform=ax.transAxes)


def _draw_segmentation(ax: Axes, history: Mapping[str, np.ndarray]) -> None:
    """Loss of stage 1 in training and Dice of held-out patients, by epoch."""
    ax.plot(history["epoch"], history["train_loss"], color=GREY, ls="--", label="training loss")
    for name, colour in REGION_COLOURS.items():
        ax.plot(history["epoch"], history[f"{name}_dice"], color=colour, label=f"{name} Dice, held out")
    ax.set(title="Stage 1: segmentation", xlabel="epoch", ylim=(0, 1.35 * max(1.0, history["train_loss"].max())))
    ax.locator_params(axis="x", integer=True)
    ax.legend(loc="upper right", **_LEGEND)


def _draw_classification(ax: Axes, histories: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Loss of stage 2 in training (dashed) and log loss of held-out patients, by epoch, for each modality."""
    for mri_type, history in histories.items():
        colour = colour_of(mri_type)
        ax.plot(history["epoch"], history["train_loss"], color=colour, ls="--", lw=1, label=f"{mri_type} training")
        ax.plot(history["epoch"], history["log_loss"], color=colour, label=f"{mri_type} held out")
    ax.axhline(np.log(2), color=GREY, lw=1, ls=":", label="coin toss")
    ax.set(title="Stage 2: classification", xlabel="epoch", ylabel="log loss", ylim=(0, 1.35 * ax.get_ylim()[1]))
    ax.locator_params(axis="x", integer=True)
    ax.legend(loc="upper right", ncols=2, columnspacing=1.2, **_LEGEND)
