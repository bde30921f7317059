"""Prediction: the released way beside ours, one study after the other, each run in a fresh process."""

from __future__ import annotations

import json
import logging
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from scripts.weights import classifier_settings, segmenter_settings

from . import floor, process, report, study, weights

logger = logging.getLogger(__name__)

REFERENCE = "published"
SHIPPED = process.ROOT / "bundle" / "models" / "segmentation.pt"
"""The weights that prediction uses by itself; the other variants use the reference's, so that their masks can be compared."""
VARIANTS: dict[str, str] = {
    "default": "",
    "fast": "--fast True",
    "exact": "--exact True",
    "shipped segmenter": f"--segmenter {SHIPPED}",
}
"""Options of ``radiogenomics predict`` that are measured, by name."""
PRECISIONS = {"default": "auto", "fast": "int8", "exact": "fp32", "shipped segmenter": "auto"}
"""What they compute in."""
REGIONS = {"WT": 1, "ET": 2}
"""Smallest value of each region in a label map."""


@dataclass
class Measured:
    """What the repeats of one variant took and gave.

    Attributes:
        runs: one entry a repeat.
        counts: slices that were segmented and kept.
        prepared: bytes of the prepared slices.
        agreement: the largest difference and the smallest overlaps with the reference over all repeats.
        error: why it could not be run.
    """

    runs: list[process.Run] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    prepared: int = 0
    agreement: dict[str, float] = field(default_factory=dict)
    error: str = ""


def main(
    repeats: int = 3,
    cache: str | Path = study.CACHE,
    segmenter: str | Path | None = None,
    classifier: str | Path | None = None,
    variants: str | Sequence[str] = tuple(VARIANTS),
) -> str:
    """Measure all variants on the phantom study, and on the real one where there is one.

    Args:
        repeats: rounds; in every round each way runs once.
        cache: folder for studies, weights and outputs.
        segmenter: segmentation weights; quickly trained ones by default.
        classifier: classifier weights, one file for all modalities; quickly trained ones by default.
        variants: names in ``VARIANTS``.

    Returns:
        The section of the report.
    """
    folder = Path(cache)
    files = {
        "segmenter": Path(segmenter) if segmenter else weights.segmenter(folder),
        "classifier": Path(classifier) if classifier else weights.classifier(folder),
    }
    names = variants.split(",") if isinstance(variants, str) else list(variants)
    studies = {"Phantom study, four series of 155 slices of 240 x 240 (NIfTI)": study.studies(1, folder)}
    if (real := study.real()) is not None:
        studies["Real study (DICOM)"] = real
    converted = []
    for name in names:  # once per weights file, before anything is measured
        used = {**files, **({"segmenter": SHIPPED} if str(SHIPPED) in VARIANTS[name] else {})}
        command = [sys.executable, "-m", "benchmarks.convert", *map(str, used.values()), PRECISIONS[name]]
        converted.append(f"{process.watch(command)[0]:.0f} s for {name}")
    paragraphs = [
        "Start of a process that finds or converts both networks, before anything else was measured: "
        + ", ".join(converted)
        + ".",
        f"Weights: `{files['segmenter'].name}` and `{files['classifier'].name}`, the shipped segmenter where that is said; its masks are others, "
        f"and so is what is classified. Medians of {repeats} (smallest to largest).",
    ]
    for title, input_folder in studies.items():
        measured = measure(input_folder, folder / "predict", files, {name: VARIANTS[name] for name in names}, repeats)
        limit = floor.measure(segmenter_settings(files["segmenter"]), classifier_settings({"all": files["classifier"]}))
        paragraphs += [f"### {title}", _facts(measured, limit), _table(measured, limit), _parts(measured)]
        if input_folder != real:
            seg = next((study.cohort(folder) / "task1" / "BraTS2021_00000").glob("*_seg.nii.gz"))
            others = [name for name in names if "--segmenter" in VARIANTS[name]]
            paragraphs += [truth(name, folder / "predict" / name, seg) for name in (REFERENCE, *others)]
        paragraphs += [f"{name} failed: `{one.error}`" for name, one in measured.items() if one.error]
    return report.section("Prediction", *paragraphs)


def measure(
    studies: Path,
    folder: Path,
    files: Mapping[str, Path],
    variants: Mapping[str, str],
    repeats: int,
    settings: Sequence[str] = ("--min_tumor_ratio", "-1"),
) -> dict[str, Measured]:
    """Run the reference and the variants in turn.

    Args:
        studies: folder of studies.
        folder: for the outputs, which are removed before and kept after the last round.
        files: weights by option.
        variants: options of ``radiogenomics predict`` by name.
        repeats: rounds.
        settings: options of both ways.
    """
    common = ["--input", str(studies), *settings]
    measured = {name: Measured() for name in (REFERENCE, *variants)}
    for number in range(repeats):
        for name, one in measured.items():
            if one.error:
                continue
            output = folder / name
            shutil.rmtree(output, ignore_errors=True)
            logger.info("round %d of %d: %s", number + 1, repeats, name)
            more = variants.get(name, "").split()
            named = [f"--{option}={file}" for option, file in files.items() if f"--{option}" not in more]
            options = [*common, *named, f"--output={output}", *more]
            try:
                if name == REFERENCE:
                    run = process.run("published", [*options, f"--masks={output / 'masks'}"])
                else:
                    run = process.run("ours", options)
            except process.ProcessError as error:
                if name == REFERENCE:
                    raise
                lines = str(error).splitlines()
                one.error = next((line for line in lines if line.startswith("error: ")), lines[-1])
                logger.warning("%s failed: %s", name, one.error)
                continue
            logger.info("%s: %.1f s", name, run.seconds)
            one.runs.append(run)
            one.counts = counts(output)
            one.prepared = process.size_on_disk(output / ("slices" if name == REFERENCE else "prepared"))
            if name != REFERENCE:
                found = agreement(folder / REFERENCE, output)
                one.agreement = {
                    key: (max if "probability" in key else min)(value, one.agreement.get(key, value))
                    for key, value in found.items()
                }
    return measured


def counts(output: Path) -> dict[str, int]:
    """Slices that a prediction read, segmented and kept."""
    rows = [series for patient in _patients(output).values() for series in patient["series"].values()]
    return {key: sum(row.get(key, 0) for row in rows) for key in ("slices", "foreground", "kept")}


def agreement(first: Path, second: Path) -> dict[str, float]:
    """Largest difference in probability (of patients and of series) and smallest Dice of a series' masks, two predictions."""
    differences = [0.0]
    dice: dict[str, list[float]] = {"WT": [], "ET": []}
    patients, others = _patients(first), _patients(second)
    for patient, row in patients.items():
        other = others[patient]
        differences.append(abs(row["probability"] - other["probability"]))
        for mri_type, series in row["series"].items():
            if "slices" not in series:  # it could not be read
                continue
            pair = series["probability"], other["series"][mri_type]["probability"]
            if None not in pair:
                differences.append(abs(pair[0] - pair[1]))
            name = f"{patient}_{mri_type}.nii.gz"
            maps = [_labels(folder / "masks" / name) for folder in (first, second)]
            for region, least in REGIONS.items():
                dice[region].append(_dice(maps[0] >= least, maps[1] >= least))
    return {"probability": max(differences), **{region: min(values) for region, values in dice.items()}}


def truth(name: str, output: Path, seg: Path) -> str:
    """How the masks of a variant on the phantom study agree with its true labels: whether they are masks at all."""
    labels = _labels(seg)
    true = {"WT": labels > 0, "ET": labels == 4}
    found = [_labels(file) for file in sorted((output / "masks").iterdir())]
    means = {region: np.mean([_dice(one >= least, true[region]) for one in found]) for region, least in REGIONS.items()}
    return f"Mean Dice of the masks of {name} with the phantom's true tumour: " + ", ".join(
        f"{region} {mean:.3f}" for region, mean in means.items()
    )


def _labels(file: Path) -> np.ndarray:
    image: Any = nib.load(file)
    return np.asarray(image.dataobj)


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def _patients(output: Path) -> dict[str, Any]:
    rows = json.loads((output / "patients.json").read_text(encoding="utf-8"))["patients"]
    return {row["patient"]: row for row in rows}


def _facts(measured: Mapping[str, Measured], limit: floor.Floor) -> str:
    found = measured[REFERENCE].counts
    rates = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in limit.rates.items())
    return (
        f"{found['slices']} slices, {found['foreground']} segmented, {found['kept']} kept and encoded. "
        f"Compute floor: {limit.seconds(found['foreground'], found['kept']):.1f} s ({limit.segmented / 1e9:.1f} GFLOP a "
        f"segmented and {limit.encoded / 1e9:.1f} GFLOP an encoded slice; {floor.SIDE}³ matrix product: {rates}; the "
        f"fastest, {limit.fastest}, counts)."
    )


def _table(measured: Mapping[str, Measured], limit: floor.Floor) -> str:
    reference = measured[REFERENCE]
    least = limit.seconds(reference.counts["foreground"], reference.counts["kept"])
    base = statistics.median(run.seconds for run in reference.runs)
    rows = []
    for name, one in measured.items():
        if not one.runs:
            continue
        seconds = [run.seconds for run in one.runs]
        middle = statistics.median(seconds)
        row = {
            "": name,
            "wall time": report.spread(seconds),
            "times as fast": f"{base / middle:.2f}",
            "slices / s": f"{one.counts['foreground'] / middle:.1f}",
            "times the floor": f"{middle / least:.1f}",
            "peak memory": report.megabytes(statistics.median(run.peak for run in one.runs)),
            "prepared": report.megabytes(one.prepared),
        }
        if one.agreement:
            row["largest difference in probability"] = f"{one.agreement['probability']:.2g}"
            row |= {f"smallest {region} Dice": f"{one.agreement[region]:.5f}" for region in ("WT", "ET")}
        rows.append(row)
    return report.table(rows)


def _parts(measured: Mapping[str, Measured]) -> str:
    rows = []
    for name, one in measured.items():
        if one.runs:
            parts = {
                part: statistics.median(run.parts.get(part, 0.0) for run in one.runs) for part in one.runs[0].parts
            }
            rows.append({"busy seconds": name, **{part: f"{seconds:.1f}" for part, seconds in parts.items()}})
    return report.table(rows)
