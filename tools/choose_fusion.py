"""Choose how much each modality and plane counts in fused masks, on patients that the network was not trained on.

python tools/choose_fusion.py --weights runs/compact/segmentation.pt --datalist cohort.json --output FIGURES [--fold 0]

Weights are tested on a grid. The best for all patients of the fold go into `fusion_weights` of configs/fuse_segmentation.yaml; the
performance of such a choice is measured on each patient with the weights that are best for the others. FIGURES: folder for fusion.json.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT)]
from monai.transforms import Compose, LoadImage  # noqa: E402

from custom_transforms import BratsLabelsToWTET, ScaleToUint8, SeriesReader  # noqa: E402
from scripts import datalists, weights  # noqa: E402
from scripts.evaluation import leakage  # noqa: E402
from scripts.inferers import SliceSegmenter  # noqa: E402
from scripts.networks import build_segmenter  # noqa: E402
from scripts.runtimes import Runtime  # noqa: E402

REGIONS = ("WT", "ET")
FIRST = {"WT": "FLAIR", "ET": "T1wCE"}
"""Modality whose weight is 1."""
GRID = {"WT": (0.02, 0.25, 0.5, 1), "ET": (0, 0.1, 0.25, 0.5)}
"""Weights tested for each of the others; above 0 for WT, so that a modality decides where there is no better one."""
PLANES = {"axial": (1, 0, 0), "all alike": (1, 1, 1), "axial twice": (2, 1, 1), "axial four times": (4, 1, 1)}
"""Weights tested for axial, coronal and sagittal slices."""

Patient = dict[str, Any]


def probabilities(file: str, entries: list[dict[str, Any]]) -> list[Patient]:
    """The network's output for the voxels of each patient where any series shows something, by region, plane and modality."""
    settings = weights.segmenter_settings(file)
    network = weights.load_weights(build_segmenter(settings), file).eval()
    network = Runtime("cpu").accelerate(network, settings["image_size"])
    segmenter = SliceSegmenter(
        settings["image_size"], scaling=settings["scaling"], field_of_view=settings["field_of_view"]
    )
    read, read_labels = (
        Compose([LoadImage(reader=reader, ensure_channel_first=True)])
        for reader in (SeriesReader(), SeriesReader(labels=True))
    )
    scale, patients = ScaleToUint8(), []
    for entry in entries:
        truth = np.asarray(BratsLabelsToWTET()(read_labels(entry["seg"]))) > 0
        found: dict[str, np.ndarray] = {}
        for mri_type in datalists.MRI_TYPES:
            if mri_type not in entry:
                continue
            image = scale(read(entry[mri_type]))
            volume, affine = torch.as_tensor(image.as_tensor()[0]), np.asarray(image.affine)
            with torch.no_grad():
                planes = [
                    segmenter.of_volume(volume, affine, network, (plane,)) for plane in ("axial", "coronal", "sagittal")
                ]
            found[mri_type] = torch.stack(planes, 1).numpy().astype(np.float16)
        seen = truth.any(0) | np.any([part.max((0, 1)) > 0.1 for part in found.values()], axis=0)
        patients.append(
            {
                "patient": entry["patient"],
                "truth": truth[:, seen],
                "found": {name: part[..., seen].astype(np.float32) for name, part in found.items()},
            }
        )
        print(f"{entry['patient']}: {seen.sum()} voxels of {len(found)} series", flush=True)
    return patients


def dice(
    patient: Patient, region: str, by_modality: dict[str, float], by_plane: tuple[float, ...] = (1, 1, 1)
) -> float:
    """Dice of a fused mask."""
    place = REGIONS.index(region)
    shares = np.array(by_plane) / np.sum(by_plane)
    used = {name: weight for name, weight in by_modality.items() if weight and name in patient["found"]}
    if not used:
        return 0.0
    total = sum(weight * np.tensordot(shares, patient["found"][name][place], 1) for name, weight in used.items()) / sum(
        used.values()
    )
    mask, true = total >= 0.5, patient["truth"][place]
    counted = mask.sum() + true.sum()
    return float(2 * (mask & true).sum() / counted) if counted else 1.0


def choose(patients: list[Patient], region: str) -> dict[str, Any]:
    """The weights that are best for all patients, and the Dice of each with those that are best for the others."""
    names = [name for name in datalists.MRI_TYPES if name != FIRST[region]]
    tried = [
        {FIRST[region]: 1.0, **dict(zip(names, map(float, values), strict=True))}
        for values in itertools.product(GRID[region], repeat=len(names))
    ]
    scores = np.array([[dice(patient, region, one) for patient in patients] for one in tried])
    left_out = []
    for index in range(len(patients)):
        others = np.delete(scores, index, axis=1).mean(1)
        left_out.append(float(scores[others.argmax(), index]))
    best = tried[int(scores.mean(1).argmax())]
    alone = {name: [dice(patient, region, {name: 1.0}) for patient in patients] for name in datalists.MRI_TYPES}
    return {
        "weights": best,
        "Dice, chosen without the patient": {
            "mean": float(np.mean(left_out)),
            **dict(zip([one["patient"] for one in patients], left_out, strict=True)),
        },
        "Dice, chosen on all": float(scores.mean(1).max()),
        "Dice, one modality": {name: float(np.mean(values)) for name, values in alone.items()},
        "Dice by weights of axial, coronal, sagittal": {
            name: float(np.mean([dice(patient, region, best, planes) for patient in patients]))
            for name, planes in PLANES.items()
        },
    }


def main(weights: str, datalist: str, output: str, fold: int = 0) -> None:
    """Write fusion.json.

    Args:
        weights: file of the network.
        datalist: data list of labelled patients whose series share a grid, as in BraTS.
        output: folder for the figures.
        fold: whose patients it is chosen on.
    """
    from scripts.weights import segmenter_settings

    entries = datalists.split_fold(datalists.load_datalist(datalist), fold)[1]
    leakage.refuse_trained([entry["patient"] for entry in entries], segmenter_settings(weights), weights)
    patients = probabilities(weights, entries)
    figures = {region: choose(patients, region) for region in REGIONS}
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fusion.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
