"""One picture of what a run of both stages did: masks on test patients, learning curves, ROC of the patients.

Functions that compute come first, functions that draw on given axes after them, :func:`draw_overview` last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from monai.transforms import LoadImage

from custom_transforms import AcquisitionSlices, SeriesReader, SliceGeometry

from ..datalists import find_studies
from ..evaluation.resampling import bootstrap_interval
from ..evaluation.scores import roc_auc, roc_curve
from ..files import read_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Phantom data: synthetic, no biological meaning. Research use only."
WT_COLOUR = "#35d0ff"
ET_COLOUR = "#ffb000"
COLOURS = {"FLAIR": "#0072b2", "T1w": "#cc79a7", "T1wCE": "#d55e00", "T2w": "#009e73", "all": "#222222"}
TRAIN_COLOUR = "#9a9a9a"
WIDTH = 10.0  # inches; 1500 pixels at DPI
DPI = 150
MARGIN = 5  # voxels around the brain that a panel shows


@dataclass(frozen=True)
class MaskPanel:
    """The slice of a series that shows most of the tumour.

    Attributes:
        mri_type: modality.
        image: ``(H, W)``, 0 to 1, as radiologists see it.
        truth: true label map ``(H, W)``: 1 tumour that does not enhance, 2 enhancing tumour.
        prediction: predicted label map, likewise.
        aspect: height of a pixel over its width.
        slice_dice: Dice of the whole tumour in this slice; NaN where neither map has a tumour.
        series_dice: the same in all slices of the series.
    """

    mri_type: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    aspect: float
    slice_dice: float
    series_dice: float


@dataclass(frozen=True)
class Predictions:
    """Patients' probabilities.

    Attributes:
        patients: identifiers.
        labels: 0 or 1 of each, ``(P,)``.
        columns: by modality, and ``"all"`` for their mean: probabilities ``(P,)``, NaN where a patient has none.
    """

    patients: list[str]
    labels: np.ndarray
    columns: dict[str, np.ndarray]


def read_history(file: str | Path) -> dict[str, np.ndarray]:
    """Columns of a run's ``history.csv``, a value an epoch.

    Raises:
        FileNotFoundError: when there is none.
    """
    rows = _read_rows(file, "the history of a training run")
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def read_predictions(file: str | Path) -> Predictions:
    """Labels and probabilities of an evaluation's ``predictions.csv``.

    Raises:
        FileNotFoundError: when there is none.
    """
    rows = _read_rows(file, "the predictions of an evaluation of stage 2")
    names = [name for name in rows[0] if name not in ("patient", "label")]
    columns = {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
    return Predictions([row["patient"] for row in rows], np.array([int(row["label"]) for row in rows]), columns)


def _read_rows(file: str | Path, what: str) -> list[dict[str, str]]:
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such file; it should hold {what}, which has to be run first")
    return read_csv(file)


def read_label_map(file: str | Path) -> np.ndarray:
    """A label map as slices ``(N, H, W)``, turned as radiologists see them.

    Raises:
        FileNotFoundError: when there is none.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such label map; predict the patient first")
    image = nib.load(file)
    volume = np.asarray(image.dataobj)  # type: ignore[attr-defined]
    return np.asarray(SliceGeometry.from_affine(image.affine, volume.shape).to_stack(volume))  # type: ignore[attr-defined]


def read_series(series: str | Path) -> tuple[np.ndarray, float]:
    """Slices ``(N, H, W)`` of a DICOM folder or NIfTI file, turned as radiologists see them, and their pixels' aspect."""
    stack, geometry = AcquisitionSlices()(LoadImage(reader=SeriesReader(), ensure_channel_first=True)(str(series)))
    height, width = geometry.pixel_spacing
    return stack.numpy().astype(np.float32), height / width


def choose_panel(
    mri_type: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, aspect: float = 1.0
) -> MaskPanel:
    """The slice with the largest true tumour of a series, cut to the brain and scaled for display.

    Args:
        mri_type: modality.
        image: slices ``(N, H, W)``, 0 outside the brain.
        truth: true label maps ``(N, H, W)``.
        prediction: predicted label maps ``(N, H, W)``.
        aspect: height of a pixel over its width.

    Raises:
        ValueError: when the shapes differ.
    """
    if not image.shape == truth.shape == prediction.shape:
        raise ValueError(
            f"{mri_type}: slices {image.shape}, true masks {truth.shape} and predicted masks {prediction.shape} differ "
            "in shape; all three must belong to the same series"
        )
    index = int((truth > 0).sum((1, 2)).argmax())
    rows, columns = np.nonzero(image[index] > 0)
    box = tuple(
        slice(max(int(found.min()) - MARGIN, 0), int(found.max()) + MARGIN + 1) if len(found) else slice(None)
        for found in (rows, columns)
    )
    white = float(np.percentile(image[image > 0], 99.7)) if (image > 0).any() else 1.0
    return MaskPanel(
        mri_type,
        np.clip(image[index][box] / white, 0, 1),
        truth[index][box],
        prediction[index][box],
        aspect,
        whole_tumour_dice(truth[index], prediction[index]),
        whole_tumour_dice(truth, prediction),
    )


def whole_tumour_dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Dice of the whole tumour in two label maps of one shape; NaN where neither has a tumour."""
    both, each = ((truth > 0) & (prediction > 0)).sum(), (truth > 0).sum() + (prediction > 0).sum()
    return float(2 * both / each) if each else float("nan")


def same_size(panels: Sequence[MaskPanel]) -> list[MaskPanel]:
    """The panels with black around them, so that all are as high and as wide as the highest and the widest."""
    height, width = (max(panel.image.shape[axis] for panel in panels) for axis in (0, 1))

    def padded(image: np.ndarray) -> np.ndarray:
        missing = [height - image.shape[0], width - image.shape[1]]
        return np.pad(image, [(n // 2, n - n // 2) for n in missing])

    return [
        replace(panel, image=padded(panel.image), truth=padded(panel.truth), prediction=padded(panel.prediction))
        for panel in panels
    ]


def choose_patients(predictions: Predictions, count: int = 3) -> list[int]:
    """Indices of the first patients of either label in turn, label 1 first: nobody is picked for a good look."""
    of_label = [np.flatnonzero(predictions.labels == label).tolist() for label in (1, 0)]
    turns = max(map(len, of_label))
    return [group[turn] for turn in range(turns) for group in of_label if turn < len(group)][:count]


def draw_masks(captions: Sequence[str], rows: Sequence[Sequence[MaskPanel]], axes: np.ndarray) -> None:
    """Image, true and predicted masks of each modality in a row of panels per patient.

    Args:
        captions: what is said of each patient.
        rows: panels of each patient, one a modality.
        axes: ``(patients, 3 * modalities)``.
    """
    for i, (caption, panels) in enumerate(zip(captions, rows, strict=True)):
        for j, panel in enumerate(panels):
            trio: list[Axes] = list(axes[i, 3 * j : 3 * j + 3])
            maps = (None, panel.truth, panel.prediction)
            for ax, labels, name in zip(trio, maps, (panel.mri_type, "true", "predicted"), strict=True):
                _draw_slice(ax, panel, labels)
                if i == 0:
                    ax.set_title(name, fontsize=9, pad=4, fontweight="bold" if labels is None else "normal")
            trio[2].text(
                0.5, 0.02, f"Dice {panel.slice_dice:.2f}, series {panel.series_dice:.2f}", color="white", fontsize=7,
                ha="center", va="bottom", transform=trio[2].transAxes,
            )  # fmt: skip
        axes[i, 0].set_ylabel(caption, fontsize=8, labelpad=5)


def _draw_slice(ax: Axes, panel: MaskPanel, labels: np.ndarray | None) -> None:
    ax.imshow(panel.image, cmap="gray", vmin=0, vmax=1, aspect=panel.aspect, interpolation="bicubic")
    if labels is not None:
        for least, colour in ((1, WT_COLOUR), (2, ET_COLOUR)):
            region = (labels >= least).astype(float)
            if region.any():
                ax.contourf(region, levels=[0.5, 1.5], colors=[colour], alpha=0.22)
                ax.contour(region, levels=[0.5], colors=[colour], linewidths=1.3)
    ax.set(xticks=[], yticks=[], facecolor="black")
    for spine in ax.spines.values():
        spine.set_visible(False)


def draw_segmentation_curve(ax: Axes, history: Mapping[str, np.ndarray]) -> None:
    """Loss of stage 1 in training and Dice of held-out patients, by epoch."""
    ax.plot(history["epoch"], history["train_loss"], color=TRAIN_COLOUR, ls="--", label="training loss")
    for name, colour in (("WT", "#0090c0"), ("ET", "#d08a00")):
        ax.plot(history["epoch"], history[f"{name}_dice"], color=colour, label=f"{name} Dice, held out")
    _finish(ax, "Stage 1: segmentation", "epoch", "")
    ax.locator_params(axis="x", integer=True)
    ax.set_ylim(0, 1.35 * max(1.0, float(history["train_loss"].max())))  # room for the legend
    ax.legend(loc="upper right", **_LEGEND)


def draw_classification_curves(ax: Axes, histories: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Loss of stage 2 in training (dashed) and log loss of held-out patients, by epoch, for each modality."""
    for mri_type, history in histories.items():
        colour = COLOURS[mri_type]
        ax.plot(history["epoch"], history["train_loss"], color=colour, ls="--", lw=1, label=f"{mri_type} training")
        ax.plot(history["epoch"], history["log_loss"], color=colour, label=f"{mri_type} held out")
    ax.axhline(np.log(2), color=TRAIN_COLOUR, lw=1, ls=":", label="coin toss")
    _finish(ax, "Stage 2: classification", "epoch", "log loss")
    ax.locator_params(axis="x", integer=True)
    ax.set_ylim(0, 1.35 * ax.get_ylim()[1])  # room for the legend
    ax.legend(loc="upper right", ncols=2, columnspacing=1.2, **_LEGEND)


def draw_roc(ax: Axes, predictions: Predictions) -> None:
    """ROC of the patients for each modality and their mean, with AUC and 95 % interval."""
    ax.plot([0, 1], [0, 1], color=TRAIN_COLOUR, lw=0.8, ls=":")
    names = [name for name in predictions.columns if name != "all"] + ["all"]
    for name in names:
        there = ~np.isnan(predictions.columns[name])
        labels, chance = predictions.labels[there], predictions.columns[name][there]
        if not len(labels):
            continue
        low, high = bootstrap_interval(labels, chance)
        label = f"{'mean' if name == 'all' else name} {roc_auc(labels, chance):.2f} ({low:.2f}\N{EN DASH}{high:.2f})"
        ax.plot(*roc_curve(labels, chance), color=COLOURS[name], lw=2.2 if name == "all" else 1.4, label=label)
    _finish(ax, f"ROC of {len(predictions.labels)} test patients", "false positive rate", "true positive rate")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.legend(loc="lower right", title="AUC (95 % interval)", title_fontsize=7.5, **_LEGEND)


_LEGEND: dict[str, Any] = {"fontsize": 7.5, "frameon": True, "framealpha": 0.9, "edgecolor": "none"}


def _finish(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set_title(title, fontsize=9.5, fontweight="bold", loc="left")
    ax.set_xlabel(x, fontsize=8)
    ax.set_ylabel(y, fontsize=8)
    ax.tick_params(labelsize=7.5)
    ax.grid(color="#e6e6e6", lw=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def draw_overview(
    output: str | Path,
    studies: str | Path,
    true_masks: str | Path,
    predicted_masks: str | Path,
    segmentation_run: str | Path,
    classification_runs: Mapping[str, str | Path],
    predictions: str | Path,
    patients: int = 3,
) -> None:
    """Draw the overview and write it as PNG, and nothing else.

    Args:
        output: PNG file.
        studies: folder of the test patients' studies.
        true_masks: folder of true label maps ``<patient>_<mri_type>.nii.gz``: 1 tumour not enhancing, 2 enhancing.
        predicted_masks: folder of predicted ones.
        segmentation_run: folder of the training run of stage 1, with its ``history.csv``.
        classification_runs: folders of those of stage 2, by modality.
        predictions: ``predictions.csv`` of the evaluation of stage 2 on the test patients.
        patients: number of patients whose masks are shown.

    Raises:
        ImportError: matplotlib is not installed.
        FileNotFoundError: a table or a label map is missing.
        DataListError: there is no study.
        ValueError: a patient's study or a series of it is missing, or its masks belong to another series.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
        from matplotlib.lines import Line2D
    except ImportError as error:
        raise ImportError(
            "The overview is drawn with matplotlib: pip install 'brats-mri-radiogenomics[demo]'"
        ) from error
    found = read_predictions(predictions)
    segmentation = read_history(Path(segmentation_run) / "history.csv")
    classification = {name: read_history(Path(run) / "history.csv") for name, run in classification_runs.items()}
    series = {study["patient"]: study for study in find_studies(studies)}
    chosen = choose_patients(found, patients)
    panels = []
    for patient in (found.patients[index] for index in chosen):
        for mri_type in classification:
            if mri_type not in series.get(patient, {}):
                raise ValueError(f"{studies}: has no {mri_type} series of patient {patient}, who is in {predictions}")
            image, aspect = read_series(series[patient][mri_type])
            masks = [read_label_map(Path(at) / f"{patient}_{mri_type}.nii.gz") for at in (true_masks, predicted_masks)]
            panels.append(choose_panel(mri_type, image, masks[0], masks[1], aspect))
    captions = [
        f"patient {found.patients[index]}\nlabel {found.labels[index]}, p = {found.columns['all'][index]:.2f}"
        for index in chosen
    ]
    panels = same_size(panels)

    rows, columns = len(captions), len(classification)
    height = (
        0.93 * rows * WIDTH / (3 * columns) * panels[0].aspect * panels[0].image.shape[0] / panels[0].image.shape[1]
    )
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03)
    figure = Figure(figsize=(WIDTH, height + 4.1), dpi=DPI, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    figure.suptitle(TITLE, fontsize=12, fontweight="bold")
    top, bottom = list(figure.subfigures(2, 1, squeeze=False, height_ratios=[height + 0.55, 2.95])[:, 0])
    axes = top.subplots(rows, 3 * columns, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    draw_masks(captions, [panels[row * columns : (row + 1) * columns] for row in range(rows)], axes)
    handles = [
        Line2D([], [], color=WT_COLOUR, lw=2.5, label="WT, whole tumour"),
        Line2D([], [], color=ET_COLOUR, lw=2.5, label="ET, enhancing tumour"),
        Line2D([], [], ls="none", label="p: predicted probability of the made-up label 1"),
    ]
    top.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    left, middle, right = bottom.subplots(1, 3)
    draw_segmentation_curve(left, segmentation)
    draw_classification_curves(middle, classification)
    draw_roc(right, found)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)
