"""Segmentation with the shipped weights, from the call of the command to its end: each run in a fresh process."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import statistics
from pathlib import Path

from . import process, report, study

logger = logging.getLogger(__name__)

VARIANTS: dict[str, str] = {
    "openvino": "--runtime openvino",
    "torch": "--runtime torch",
    "openvino, fused": "--runtime openvino --fuse True",
    "torch, acquired planes": "--runtime torch --planes acquired",
}
"""Options of ``radiogenomics segment`` that are measured, by name."""


def main(repeats: int = 3, cache: str | Path = study.CACHE) -> str:
    """Measure all variants on the phantom study, and on the real one where there is one.

    Args:
        repeats: rounds; in every round each variant runs once.
        cache: folder for studies and outputs.

    Returns:
        The section of the report.
    """
    folder = Path(cache)
    openvino = importlib.util.find_spec("openvino") is not None
    variants = {name: options for name, options in VARIANTS.items() if openvino or "openvino" not in options}
    studies = {"Phantom study, four series of 155 slices of 240 x 240 (NIfTI)": study.studies(1, folder)}
    if (real := study.real()) is not None:
        studies["Real study (DICOM)"] = real
    paragraphs = [
        f"Shipped weights, no other option than those named. Medians of {repeats} (smallest to largest); networks were converted for "
        "OpenVINO by a run before. *Start-up* is the time until the first network is built: mostly imports."
    ]
    for title, input_folder in studies.items():
        runs: dict[str, list[process.Run]] = {name: [] for name in variants}
        first: dict[str, float] = {}
        for number in range(repeats + 1):
            for name, options in variants.items():
                output = folder / "segment" / name.replace(", ", "-").replace(" ", "_")
                shutil.rmtree(output, ignore_errors=True)
                run = process.run("segment", ["--input", str(input_folder), f"--output={output}", *options.split()])
                logger.info("round %d of %d: %s: %.1f s", number, repeats, name, run.seconds)
                if number:
                    runs[name].append(run)
                else:
                    first[name] = run.seconds
        rows = []
        for name, measured in runs.items():
            parts = {part: statistics.median(run.parts[part] for run in measured) for part in measured[0].parts}
            rows.append(
                {
                    "": name,
                    "wall time": report.spread([run.seconds for run in measured]),
                    "the first time": f"{first[name]:.1f} s",
                    "peak memory": report.megabytes(statistics.median(run.peak for run in measured)),
                    **{f"{part}, busy s": f"{seconds:.1f}" for part, seconds in parts.items() if seconds >= 0.05},
                }
            )
        paragraphs += [f"### {title}", report.table(rows)]
    return report.section("Segmentation", *paragraphs)
