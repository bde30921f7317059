"""Weights of both networks at full size, quickly trained on phantom patients that are not in the benchmark's study.

Random weights would make noise of the masks, and a measured agreement of two ways meaningless. These weights segment the
phantom and answer to what a sequence shows; for anything else they are useless.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.losses import DiceFocalLoss
from monai.transforms import LoadImage
from torch import nn
from tqdm import tqdm

from custom_transforms import AcquisitionSlices, ChunkSlices, ConcatMaskChannels, ScaleToUint8, SeriesReader
from scripts import weights
from scripts.datalists import MRI_TYPES, find_studies
from scripts.inferers import SequenceClassifier, normalise
from scripts.networks import BiLSTMNFNet, build_classifier
from scripts.runtimes import for_training

from .study import CACHE, cohort, training_cohort

logger = logging.getLogger(__name__)

SEGMENTER_STEPS = 700
WHOLE_STEPS = 100  # the last ones, on slices as in inference: crops alone would make tumours of everything
CLASSIFIER_STEPS = 80
CHECKPOINT_STEPS = 20
CROP = 64  # pixels, of slices at the size that they have in inference
NOISE = 4.0  # grey values: phantoms of 2 mm, enlarged, lack the noise of those of 1 mm
SMALL = 96  # pixels, side of the slices that the classifier is trained on
LARGEST_LOGIT = 1.5  # of training sequences, so that no probability is near 0 or 1


def _stack(path: str) -> torch.Tensor:
    """Slices ``(N, H, W)`` of a series or of its labels."""
    return AcquisitionSlices()(LoadImage(reader=SeriesReader(), image_only=True, ensure_channel_first=True)(path))[0]


@dataclass
class TrainingSeries:
    """A phantom series: ``image`` ``(N, H, W)`` uint8, ``masks`` ``(N, 2, H, W)`` uint8, and its patient's label."""

    image: torch.Tensor
    masks: torch.Tensor
    label: int


def training_series(cache: Path = CACHE) -> list[TrainingSeries]:
    """All series of the phantom patients that the classifier is trained on."""
    folder = cohort(cache)
    with open(folder / "task2" / "train_labels.csv", newline="", encoding="utf-8") as stream:
        labels = {row["BraTS21ID"]: int(row["MGMT_value"]) for row in csv.DictReader(stream)}
    read = LoadImage(reader=SeriesReader(), image_only=True, ensure_channel_first=True)
    found = []
    for file in sorted((folder / "task2_masks").glob("*.nii.gz")):
        patient, mri_type = file.name.removesuffix(".nii.gz").split("_")
        volume = read(folder / "task2" / "train" / patient / mri_type)
        image, geometry = AcquisitionSlices()(volume)
        truth: Any = nib.load(file)
        mask, same = AcquisitionSlices()(
            MetaTensor(torch.from_numpy(np.asarray(truth.dataobj))[None], affine=torch.from_numpy(truth.affine))
        )
        assert geometry.stack_shape == same.stack_shape, f"{file}: not on the grid of its series"
        masks = torch.stack([mask > 0, mask == 2], dim=1).to(torch.uint8)
        found.append(TrainingSeries(torch.as_tensor(ScaleToUint8()(image)), masks, labels[patient]))
    return found


def segmenter(cache: Path = CACHE, steps: int = SEGMENTER_STEPS) -> Path:
    """File with trained U-Net++ weights; trained when it is not there, an interrupted training goes on."""
    file = cache / f"segmentation-{steps}-steps.pt"
    if file.is_file():
        return file
    settings = weights.SEGMENTER_SETTINGS
    whole = int(settings["image_size"] * 1.2)
    slices = []
    for entry in find_studies(training_cohort(cache) / "task1"):
        seg = _stack(entry["seg"])[::3]
        for mri_type in MRI_TYPES:
            image = torch.as_tensor(ScaleToUint8()(_stack(entry[mri_type])))[::3]
            shown = torch.stack([image, (seg > 0) * 255, (seg == 4) * 255], dim=1).float()
            slices.append(F.interpolate(shown, size=(whole, whole), mode="bilinear").to(torch.uint8))
    stack = torch.cat(slices)
    stack = stack[(stack[:, 0] > 0).flatten(1).any(1)]
    with_tumour = torch.nonzero((stack[:, 1] > 127).flatten(1).any(1))[:, 0]
    logger.info("U-Net++: %d steps on crops of %d slices, %d with tumour", steps, len(stack), len(with_tumour))

    def draw(random: np.random.Generator, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        crops = []
        late = step >= steps - WHOLE_STEPS
        size = settings["image_size"] if late else CROP
        for about_tumour in (True, False) if late else (True, True, False, False):
            pool = with_tumour if about_tumour else torch.arange(len(stack))
            image = stack[pool[random.integers(len(pool))]]
            inside = torch.nonzero(image[1] > 127 if about_tumour else image[0] > 0)
            middle = [whole // 2] * 2 if late else inside[random.integers(len(inside))].tolist()
            top, left = (int(np.clip(place - size // 2, 0, whole - size)) for place in middle)
            crop = image[:, top : top + size, left : left + size]
            crops.append(crop.flip(-1) if random.random() < 0.5 else crop)
        batch = torch.stack(crops)
        images = batch[:, :1].float()
        noise = torch.from_numpy(random.normal(0, NOISE, images.shape).astype(np.float32))
        images = (images + noise * (images > 0)).clip(0, 255)
        return normalise(images.expand(-1, 3, -1, -1)), (batch[:, 1:] > 127).float()

    torch.manual_seed(67)
    network = smp.UnetPlusPlus("densenet121", encoder_weights=None, classes=2)
    loss = DiceFocalLoss(sigmoid=True, batch=True, gamma=0.0)
    _train(network, draw, loss, steps, 1e-3, file.with_suffix(".unfinished"))
    weights.save_weights(network, {**settings, "trained": f"{steps} steps on phantoms"}, file)
    return file


def classifier(cache: Path = CACHE, steps: int = CLASSIFIER_STEPS) -> Path:
    """File with trained BiLSTMNFNet weights; trained when it is not there, an interrupted training goes on."""
    file = cache / f"classification-{steps}-steps.pt"
    if file.is_file():
        return file
    settings = weights.CLASSIFIER_SETTINGS
    chunks = ChunkSlices(settings["sequence_length"], settings["stride"])
    series = training_series(cache)
    shown = []
    for one in series:
        kept = (one.masks[:, 0] > 0).flatten(1).any(1)
        shown.append(torch.as_tensor(ConcatMaskChannels()(one.image[kept], one.masks[kept, 0], one.masks[kept, 1])))
    small = SequenceClassifier(chunks, image_size=SMALL)
    stacks = [chunks(small.resize(slices).to(torch.uint8)) for slices in shown]
    logger.info("classifier: %d steps on %d sequences", steps, sum(map(len, stacks)))

    def draw(random: np.random.Generator, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = random.integers(len(stacks), size=2).tolist()
        images = torch.stack([stacks[index][random.integers(len(stacks[index]))] for index in chosen])
        images = normalise(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return images, torch.tensor([[float(series[index].label)] for index in chosen])

    torch.manual_seed(67)
    network = build_classifier(settings)
    _train(network, draw, nn.BCEWithLogitsLoss(), steps, 3e-4, file.with_suffix(".unfinished"))
    _calm(network, SequenceClassifier(chunks, settings["image_size"], amp=False), shown)
    weights.save_weights(network, {**settings, "trained": f"{steps} steps on phantoms"}, file)
    return file


def _train(
    network: nn.Module,
    draw: Callable[[np.random.Generator, int], tuple[torch.Tensor, torch.Tensor]],
    loss: nn.Module,
    steps: int,
    learning_rate: float,
    checkpoint: Path,
) -> None:
    """Train for so many steps, going on from a checkpoint if there is one."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    done = 0
    if checkpoint.is_file():
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
    for_training(network, "cpu").train()
    progress = tqdm(range(done, steps), desc=checkpoint.stem, initial=done, total=steps)
    for step in progress:
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps) ** 0.5
        images, target = draw(np.random.default_rng([67, step]), step)
        value = loss(network(images), target)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        progress.set_postfix(loss=f"{value.item():.3f}")
        if (step + 1) % CHECKPOINT_STEPS == 0:
            torch.save(
                {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1},
                checkpoint.with_suffix(".tmp"),
            )
            checkpoint.with_suffix(".tmp").replace(checkpoint)
    checkpoint.unlink(missing_ok=True)
    network.eval()


@torch.no_grad()
def _calm(network: BiLSTMNFNet, inferer: SequenceClassifier, shown: list[torch.Tensor]) -> None:
    """Centre the logits of a few whole-size sequences about 0 and shrink them until none is large."""
    logits = torch.cat([inferer(slices[:35], network) for slices in shown[::2]])
    middle = (logits.max() + logits.min()) / 2
    scale = min(1.0, LARGEST_LOGIT / float((logits - middle).abs().max()))
    network.clf_head.weight.mul_(scale)
    network.clf_head.bias.sub_(middle).mul_(scale)
    logger.info("logits from %.3f to %.3f, multiplied by %.3g", logits.min(), logits.max(), scale)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    CACHE.mkdir(exist_ok=True)
    print(segmenter())
    print(classifier())
