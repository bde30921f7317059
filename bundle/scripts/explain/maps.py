"""Grad-CAM maps of a series, and a check whether they depend on what its classifier learned.

MONAI's own classes (``monai.visualize``) explain a network of one input. Here one logit belongs to a sequence of slices and
one slice to several sequences, so that gradients go from all sequences' logits to the slices' pooled features first, and
from there to the feature maps of each slice; for a series of a single sequence the maps are those of MONAI's ``GradCAM``.

Maps show where a network looked, not why methylation would be there; see :func:`randomisation_check`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.utils import eval_mode
from scipy.stats import spearmanr

from .series import EncodedSeries, encode, pooled

RANDOMISATION_THRESHOLD = 0.5
"""Absolute rank correlation from which on maps before and after a randomisation count as alike: 0.5 is usually called a
strong correlation; maps of unrelated networks share little but the place of the head in the image."""
DRAWS = 3
"""Randomisations; the correlations of a single one scatter."""


def grad_cam(series: EncodedSeries, label: int = 1) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) of each slice: evidence for methylation (1) or against it (0).

    The gradient is that of a sequence's logit with respect to the backbone's last feature map, through the LSTM and the head,
    averaged over the sequences that the slice is in, so that the ends of a series, which are in fewer of them, are not
    darker.

    Returns:
        ``(K, H, W)`` float32 in 0…1 on the slices' own pixels; 1 is the strongest evidence, for or against, in the whole
        series, so that slices, and the maps of both labels, compare. What lies outside the network's view is 0.
    """
    signed = signed_maps(series) if label else -signed_maps(series)
    greatest = signed.abs().max()
    scaled = signed.relu() / greatest if greatest > 0 else torch.zeros_like(signed)
    return to_slices(scaled, series.slices.shape[-2:], series.inferer.zoom).clamp(0, 1).cpu().numpy()


def signed_maps(series: EncodedSeries) -> torch.Tensor:
    """Grad-CAM before its ReLU, ``(K, h, w)``: above 0 for methylation, below 0 against; its negative explains label 0."""
    found = []
    with eval_mode(series.classifier):
        batches = (tensor.split(series.inferer.batch_size) for tensor in (series.maps, _feature_gradients(series)))
        for maps, slope in zip(*batches, strict=True):
            with torch.enable_grad():
                leaf = maps.detach().requires_grad_()
                (gradient,) = torch.autograd.grad((pooled(series.classifier, leaf) * slope).sum(), leaf)
            found.append((gradient.mean((2, 3), keepdim=True) * maps).sum(1))
        return torch.cat(found)


def _feature_gradients(series: EncodedSeries) -> torch.Tensor:
    """Gradients ``(K, F)`` of the logit with respect to the slices' features, mean over the sequences of each slice."""
    total = torch.zeros_like(series.features)
    for steps in series.steps.split(series.inferer.batch_size):
        # cuDNN's LSTM has no gradients in evaluation mode
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            leaf = series.features.detach().requires_grad_()
            total += torch.autograd.grad(series.classifier.classify(leaf[steps]).sum(), leaf)[0]
    counts = torch.bincount(series.steps.flatten(), minlength=len(total))
    return total[1:] / counts[1:, None]


def to_slices(maps: torch.Tensor, size: Sequence[int], zoom: float) -> torch.Tensor:
    """Maps ``(K, h, w)`` of the network's view to the slices' own pixels ``(K, H, W)``, 0 outside the view.

    It undoes ``SequenceClassifier.resize`` of slices of a ``size`` (H, W), magnified by ``zoom`` about their centre.
    """
    scale = torch.tensor([[zoom, 0.0, 0.0], [0.0, zoom, 0.0]], device=maps.device)
    grid = F.affine_grid(scale[None], [1, 1, *size], align_corners=False)
    shown = (grid.abs() <= 1).all(-1)
    # beyond the centres of the outermost cells their own value goes on, up to the border of the view
    grids = grid.expand(len(maps), -1, -1, -1)
    found = F.grid_sample(maps[:, None], grids, mode="bilinear", padding_mode="border", align_corners=False)
    return found[:, 0] * shown


def randomisation_check(series: EncodedSeries) -> dict[str, Any]:
    """Whether the Grad-CAM maps of a series change when the network's weights are randomised.

    The sanity check of Adebayo et al. 2018 (arXiv:1810.03292), cascading from the head down: maps that stay alike show the
    image, not what the weights found in it. A parameter is randomised by shuffling its own values, so that their distribution
    stays; statistics of batch normalisation stay too. Maps are compared before their ReLU, at the feature maps' resolution,
    over all slices together. The network of the series stays as it is.

    Returns:
        ``correlation``: absolute Spearman correlation of the maps with those after ``"head"``, ``"head and LSTM"`` and
        ``"everything"`` were randomised, mean of :data:`DRAWS`, None where either is constant every time; ``threshold``
        (:data:`RANDOMISATION_THRESHOLD`); ``maps_change``, whether all correlations are below it, None where the classifier's
        own maps are constant; ``statement``, a sentence that says so.
    """
    learned = signed_maps(series).cpu().numpy()
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[float]] = {"head": [], "head and LSTM": [], "everything": []}
    for _ in range(DRAWS):
        shuffled = replace(series, classifier=copy.deepcopy(series.classifier))
        for stage, part in zip(found, ("clf_head", "lstm", "backbone"), strict=True):
            _shuffle(getattr(shuffled.classifier, part), generator)
            if part == "backbone":
                shuffled = encode(shuffled.classifier, series.slices, series.inferer)
            found[stage].append(rank_correlation(learned, signed_maps(shuffled).cpu().numpy()))
    defined = {stage: [abs(rho) for rho in values if np.isfinite(rho)] for stage, values in found.items()}
    correlation = {stage: float(np.mean(values)) if values else None for stage, values in defined.items()}
    alike = [stage for stage, rho in correlation.items() if rho is not None and rho >= RANDOMISATION_THRESHOLD]
    maps_change: bool | None = not alike
    if np.ptp(learned) == 0:
        maps_change, statement = None, "The maps are constant: they show nothing."
    elif alike:
        statement = f"The maps stay alike when the weights of {alike[-1]} are random: they do not show what it learned."
    else:
        statement = "The maps change when weights are random: they depend on what was learned."
    return {
        "correlation": correlation,
        "threshold": RANDOMISATION_THRESHOLD,
        "maps_change": maps_change,
        "statement": statement,
    }


@torch.no_grad()
def _shuffle(part: torch.nn.Module, generator: torch.Generator) -> None:
    """Shuffle the values of each parameter, in place."""
    for parameter in part.parameters():
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation of all values; NaN where an array is constant or not finite."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(spearmanr(one, other, axis=None).statistic)
