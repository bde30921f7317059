"""Measure segmentation weights: on unseen synthetic slices and brains, and on real studies.

python tools/measure_segmenter.py --weights runs/synthetic/segmentation.pt --studies STUDIES --output FIGURES [--draws 1000]

STUDIES: folder of BraTS studies (<name>/<name>_flair.nii.gz, …) with labels (<name>_seg.nii.gz); without labels nothing is compared.
FIGURES: folder for figures.json and the masks. No measurement here is used for any choice.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fire
import nibabel as nib
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT)]
from monai.bundle import ConfigParser  # noqa: E402

from custom_transforms import BratsLabelsToWTET  # noqa: E402
from scripts import cli, datalists, weights  # noqa: E402
from scripts.inferers import SliceSegmenter, normalise  # noqa: E402
from scripts.networks import build_segmenter  # noqa: E402
from scripts.runtimes import Runtime  # noqa: E402
from scripts.synthetic.acquisition import draw_look, paint  # noqa: E402
from scripts.synthetic.brains import load_atlas  # noqa: E402
from scripts.synthetic.drawing import DrawSlice  # noqa: E402
from scripts.synthetic.randomisation import Randomisation  # noqa: E402
from scripts.synthetic.tissues import Cut, cut_tissues  # noqa: E402

REGIONS = ("WT", "ET")
MARKED = 0.005  # share of pixels from which a slice without tumour counts as marked
SEED = 4067  # of brains that neither trained nor validated


def dice(found: np.ndarray, true: np.ndarray) -> float | None:
    """Dice of two masks, None where both are empty."""
    total = np.count_nonzero(found) + np.count_nonzero(true)
    return 2 * np.count_nonzero(found & true) / total if total else None


class Measure:
    """The network of a weights file, and its measurements."""

    def __init__(self, file: str) -> None:
        self.settings = weights.segmenter_settings(file)
        network = build_segmenter(self.settings)
        self.compute = Runtime("cpu")
        trained = weights.load_weights(network, file).eval()
        self.network = self.compute.accelerate(trained, self.settings["image_size"])
        config = ConfigParser.load_config_file(ROOT / "bundle" / "configs" / "pretrain_segmentation.yaml")["ranges"]
        self.ranges = {name: value for name, value in config.items() if name != "_target_"}

    def drawer(self, slices_per_brain: int, **ranges: Any) -> DrawSlice:
        """Seeds of unseen brains."""
        drawn = Randomisation(**{**self.ranges, **ranges})
        return DrawSlice(drawn, self.settings["image_size"], SEED, slices_per_brain)

    def masks(self, items: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """Each drawn slice with its masks (2, H, W)."""
        for start in range(0, len(items), 16):
            batch = items[start : start + 16]
            images = torch.cat([item["image"] for item in batch])
            with torch.no_grad():
                found = self.network(normalise(images[:, None].expand(-1, 3, -1, -1))) > 0
            yield from zip(batch, found.numpy(), strict=True)

    def synthetic(self, count: int) -> dict[str, Any]:
        """Dice over all pixels of unseen slices, by modality and by plane."""
        draw = self.drawer(1)
        sums: dict[str, np.ndarray] = {}
        for start in range(0, count, 64):
            for item, found in self.masks([draw(number) for number in range(start, min(start + 64, count))]):
                true = item["label"].numpy() > 0
                counts = np.array([[(a & b).sum(), a.sum() + b.sum()] for a, b in zip(found, true, strict=True)])
                for key in ("all", item["mri_type"], item["plane"]):
                    sums[key] = sums.get(key, 0) + counts
        return {
            key: {region: float(2 * both / total) for region, (both, total) in zip(REGIONS, value, strict=True)}
            for key, value in sorted(sums.items())
        }

    def without_tumour(self, brains: int, slices: int) -> dict[str, float]:
        """Share of slices of tumour-free synthetic brains that are marked, and share of all pixels."""
        draw = self.drawer(slices, tumour_free_brains=1.0)
        shares: list[float] = []
        for brain in range(brains):
            items = [draw(brain * slices + index) for index in range(slices)]
            shares += [found[0].mean() for _, found in self.masks(items)]
        return self._shares(shares)

    def volumes_without_tumour(self, brains: int) -> dict[str, float]:
        """The same of whole series of such brains, axial slices 2 mm apart, segmented as series are; one contrast and one set of artefacts each."""
        draw = self.drawer(1, tumour_free_brains=1.0)
        line = 119.5 - np.arange(240.0)
        shares: list[float] = []
        for number in range(brains):
            brain, mri_type = draw.brain(number), datalists.MRI_TYPES[number % len(datalists.MRI_TYPES)]
            noise = np.random.default_rng([SEED, number])
            slices = []
            for position in np.arange(-0.82, 0.95, 2.0 / brain.extent[2]) * brain.extent[2]:
                rng = np.random.default_rng([SEED, number, 2])  # the same for all slices of the series
                tissues = cut_tissues(brain, Cut("axial", np.array([position]), line, line), [SEED, number])
                kept = tissues["depth"] > rng.uniform(*draw.ranges.stripping)
                image = paint(tissues, draw_look(mri_type, rng), rng) * kept
                x, y, z = rng.normal(0, rng.uniform(*draw.ranges.bias) / 180, 3)
                image *= np.exp(x * line + y * line[:, None] + z * position)
                level = np.exp(rng.uniform(*np.log(np.maximum(draw.ranges.noise, 1e-4))))
                real, imaginary = level * noise.standard_normal((2, *image.shape))
                slices.append(np.hypot(image + real, imaginary) * kept)
            volume = np.stack(slices).T
            volume = np.clip(volume / np.percentile(volume[volume > 0], 99.7) * 255, 0, 255).astype(np.uint8)
            shares += self._axial_shares(torch.from_numpy(volume.copy()), np.diag([-1.0, -1.0, 2.0, 1.0]))
        return self._shares(shares)

    def template(self) -> dict[str, float]:
        """The same on the bare MNI152 template: all axial slices with brain in them."""
        from nilearn import datasets

        load_atlas()  # an error that says what to install
        template = datasets.load_mni152_template(resolution=1)
        image = template.get_fdata(dtype=np.float32) * (datasets.load_mni152_brain_mask(resolution=1).get_fdata() > 0)
        volume = torch.from_numpy((image / image.max() * 255).astype(np.uint8))
        return self._shares(self._axial_shares(volume, template.affine))

    def _axial_shares(self, volume: torch.Tensor, affine: np.ndarray) -> list[float]:
        """Share of WT in the axial slices with brain of a volume ``(X, Y, Z)`` that is segmented along three planes."""
        known = {name: self.settings[name] for name in ("image_size", "scaling", "field_of_view")}
        others = dict.fromkeys(("coronal", "sagittal"), 1.0)
        with torch.no_grad():
            found = SliceSegmenter(**known, amp=False).of_volume(volume, affine, self.network, zooms=others)
        slices = (volume > 0).float().mean((0, 1)) > 0.02
        return [float(share) for share in (found[0] >= 0.5)[..., slices].float().mean((0, 1))]

    @staticmethod
    def _shares(shares: Sequence[float]) -> dict[str, float]:
        values = np.array(shares)
        return {
            "slices": len(values),
            "share of slices marked": float((values > MARKED).mean()),
            "share of pixels marked": float(values.mean()),
        }


def real(file: str, studies: str, output: Path) -> dict[str, Any]:
    """Dice over volumes of each series by itself, and of all series and planes together, as `radiogenomics segment` gives them."""
    figures: dict[str, Any] = {}
    for name, fuse in (("series", False), ("fused", True)):
        cli.segment(studies, output / name, segmenter=file, fuse=fuse, overwrite=True)
    for study in datalists.find_studies(studies):
        if "seg" not in study:
            continue
        labels = np.asarray(nib.load(study["seg"]).dataobj)
        true = np.asarray(BratsLabelsToWTET()(torch.from_numpy(labels.astype(np.float32))[None])) > 0
        scores: dict[str, Any] = {}
        masks = {mri_type: f"series/masks/{study['patient']}_{mri_type}.nii.gz" for mri_type in datalists.MRI_TYPES}
        for which, mask in {**masks, "fused": f"fused/masks/{study['patient']}.nii.gz"}.items():
            if (output / mask).is_file():
                found = np.asarray(nib.load(output / mask).dataobj)
                pairs = zip(REGIONS, (found > 0, found == 2), true, strict=True)
                scores[which] = {region: dice(mine, label) for region, mine, label in pairs}
        means = [scores[mri_type]["WT"] for mri_type in datalists.MRI_TYPES if mri_type in scores]
        figures[study["patient"]] = {**scores, "mean WT of the modalities": float(np.mean(means))}
    return figures


def main(
    weights: str,
    output: str,
    studies: str | None = None,
    draws: int = 1000,
    brains: int = 40,
    slices: int = 24,
) -> None:
    """Write figures.json.

    Args:
        weights: file of the network.
        output: folder for the figures and masks.
        studies: folder of real studies; none by default.
        draws: synthetic slices with and without tumour.
        brains: synthetic brains without tumour.
        slices: of each of these.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    measure = Measure(weights)
    figures: dict[str, Any] = {
        "weights": str(weights),
        "settings": measure.settings,
        "computed in": str(measure.compute),
        "synthetic": measure.synthetic(draws),
        "synthetic without tumour": measure.without_tumour(brains, slices),
        "whole synthetic brains without tumour": measure.volumes_without_tumour(brains),
        "MNI152 template": measure.template(),
    }
    if studies:
        figures["real"] = real(weights, studies, folder)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
