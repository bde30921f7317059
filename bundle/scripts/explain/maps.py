"""What a classifier's answer for a series rests on: Grad-CAM maps, occlusion by region and by slice, and a check of the maps.

MONAI's own classes (``monai.visualize``) explain a network of one input. Here one logit belongs to a sequence of slices and
one slice to several sequences, so that gradients go from all sequences' logits to the slices' pooled features first, and
from there to the feature maps of each slice; for a series of a single sequence the maps are those of MONAI's ``GradCAM``.
Everything is computed in float32 by plain torch networks, for compiled ones have no gradients.

Maps tell where a network looked, not why methylation would be there; see :func:`randomisation_check`.
"""

from __future__ import annotations

import copy
import json
import logging
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.utils import eval_mode
from torch import nn

from custom_transforms import ChunkSlices
from custom_transforms.filtering import BRAIN_THRESHOLD

from .. import weights
from ..datalists import MRI_TYPES
from ..files import RESEARCH_ONLY, remove_leftovers, write_json, written_whole
from ..inferers import SequenceClassifier, normalise
from ..loading import LoadSeries
from ..networks import BiLSTMNFNet, build_classifier
from ..outputs import inside
from ..preparation import fingerprint, read_index
from ..prepared import PreparedError, PreparedSeries
from ..run_folder import (
    PATIENTS_FILE,
    chance_of,
    classifier_of,
    is_crossvalidation,
    prepared_dir,
    prepared_places,
    read_patients,
    zoom_of,
)

logger = logging.getLogger(__name__)

FORMAT = "brats-mri-radiogenomics/explanation/1"
BLANKED = ("ET", "WT without ET", "brain without WT", "masks")
"""What :func:`occlusion_by_region` blanks, one at a time."""
RANDOMISATION_THRESHOLD = 0.5
"""Absolute rank correlation from which on maps before and after a randomisation count as alike: 0.5 is what is called a
strong correlation; maps of unrelated networks share little but the place of the head in the image."""
PREDICTION_TOLERANCE = 0.05
"""Difference of probabilities, between a prediction and its explanation, that the arithmetic of a runtime may make."""


# ---------------------------------------------------------------------------------------------------------------------
# a series as its classifier sees it


@dataclass(frozen=True)
class _Encoded:
    """A series after the backbone.

    Attributes:
        maps: last feature maps of the K slices, ``(K, C, h, w)``.
        features: pooled features ``(K + 1, F)``, those of a black slice first.
        steps: rows of ``features`` in each sequence, ``(M, length)``.
    """

    maps: torch.Tensor
    features: torch.Tensor
    steps: torch.Tensor


def _encode(classifier: BiLSTMNFNet, slices: torch.Tensor, view: SequenceClassifier) -> _Encoded:
    """Each slice once through the backbone; the feature maps that are kept take 0.5 MB a slice (ECA-NFNet-L0, 224²)."""
    black = slices.new_zeros((1, 3, view.image_size, view.image_size))
    features = [_pooled(classifier, _feature_maps(classifier, normalise(black)))]
    maps = []
    for batch in slices.split(view.batch_size):
        maps.append(_feature_maps(classifier, normalise(view.resize(batch))))
        features.append(_pooled(classifier, maps[-1]))
    # sequences are filled up with 0, which is where the black slice stands
    steps = view.chunks(torch.arange(1, len(slices) + 1, device=slices.device))
    assert isinstance(steps, torch.Tensor)
    return _Encoded(torch.cat(maps), torch.cat(features), steps)


def _feature_maps(classifier: BiLSTMNFNet, images: torch.Tensor) -> torch.Tensor:
    maps = classifier.backbone.forward_features(images)  # type: ignore[operator]
    if maps.ndim != 4:
        raise ValueError(f"the backbone's last features are {tuple(maps.shape)}, expected feature maps (B, C, h, w)")
    return maps


def _pooled(classifier: BiLSTMNFNet, maps: torch.Tensor) -> torch.Tensor:
    return classifier.backbone.forward_head(maps)  # type: ignore[operator]


def _logits(
    classifier: BiLSTMNFNet, features: torch.Tensor, steps: torch.Tensor, view: SequenceClassifier
) -> torch.Tensor:
    """Logits ``(M,)`` of sequences."""
    return torch.cat([classifier.classify(features[part])[:, 0] for part in steps.split(view.batch_size)])


def _require(classifier: nn.Module, slices: torch.Tensor) -> None:
    if not hasattr(getattr(classifier, "backbone", None), "forward_features"):
        raise TypeError(
            f"{type(classifier).__name__} has no timm backbone in plain torch, which gradients need; load the classifier "
            "with weights.load_classifiers, and not through runtimes.Runtime"
        )
    if slices.ndim != 4 or slices.shape[1] != 3 or not len(slices):
        raise ValueError(f"slices {tuple(slices.shape)}: expected (K, 3, H, W) of one slice or more")


# ---------------------------------------------------------------------------------------------------------------------
# Grad-CAM


def grad_cam(
    classifier: BiLSTMNFNet,
    slices: torch.Tensor,
    chunks: ChunkSlices,
    image_size: int = 224,
    zoom: float = 1.2,
    batch_size: int = 35,
    label: int = 1,
) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) of each slice: where it speaks for a label.

    The gradient is that of a sequence's logit with respect to the backbone's last feature map, through the LSTM and the head,
    averaged over the sequences that the slice is in, so that the ends of a series, which are in fewer of them, are not darker
    for that.

    Args:
        classifier: plain torch network.
        slices: the series' kept slices ``(K, 3, H, W)`` in 0…255.
        chunks: the cut into sequences.
        image_size: side of the network's square input.
        zoom: magnification of a slice about its centre.
        batch_size: slices, or sequences, in one pass.
        label: 1, where it speaks for methylation, or 0, where against.

    Returns:
        ``(K, H, W)`` float32 in 0…1 on the slices' own pixels; 1 is the strongest evidence, for or against, in the whole
        series, so that slices, and the maps of both labels, compare. What lies outside of the network's view is 0.

    Raises:
        TypeError: for a compiled network, which has no gradients.
        ValueError: for slices of another shape, none at all, or another label.
    """
    if label not in (0, 1):
        raise ValueError(f"label is {label!r}, expected 1 (methylated) or 0 (not)")
    _require(classifier, slices)
    view = SequenceClassifier(chunks, image_size, zoom, batch_size, amp=False)
    with eval_mode(classifier):
        signed = _signed_maps(classifier, _encode(classifier, slices, view), view)
    return _evidence(signed if label else -signed, slices.shape[-2:], zoom)


def _signed_maps(classifier: BiLSTMNFNet, encoded: _Encoded, view: SequenceClassifier) -> torch.Tensor:
    """Grad-CAM before its ReLU, ``(K, h, w)``: above 0 for methylation, below 0 against; its negative explains label 0."""
    slopes = _feature_gradients(classifier, encoded, view)
    found = []
    for maps, slope in zip(encoded.maps.split(view.batch_size), slopes.split(view.batch_size), strict=True):
        with torch.enable_grad():
            leaf = maps.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((_pooled(classifier, leaf) * slope).sum(), leaf)
        found.append((gradient.mean((2, 3), keepdim=True) * maps).sum(1))
    return torch.cat(found)


def _feature_gradients(classifier: BiLSTMNFNet, encoded: _Encoded, view: SequenceClassifier) -> torch.Tensor:
    """Gradients ``(K, F)`` of the logit with respect to the slices' features, mean over the sequences of each slice."""
    total = torch.zeros_like(encoded.features)
    for steps in encoded.steps.split(view.batch_size):
        # cuDNN's LSTM has no gradients in evaluation mode
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            leaf = encoded.features.detach().requires_grad_()
            total += torch.autograd.grad(classifier.classify(leaf[steps]).sum(), leaf)[0]
    counts = torch.bincount(encoded.steps.flatten(), minlength=len(total))
    return total[1:] / counts[1:, None]


def _evidence(signed: torch.Tensor, size: Sequence[int], zoom: float) -> np.ndarray:
    """Signed maps ``(K, h, w)`` to what is above 0, over the greatest of either sign, on slices ``(K, H, W)``."""
    greatest = signed.abs().max()
    scaled = signed.relu() / greatest if greatest > 0 else torch.zeros_like(signed)
    return to_slices(scaled, size, zoom).clamp(0, 1).cpu().numpy()


def to_slices(maps: torch.Tensor, size: Sequence[int], zoom: float) -> torch.Tensor:
    """Maps of the network's view to the slices' own pixels; it undoes ``SequenceClassifier.resize``.

    Args:
        maps: ``(K, h, w)`` of any resolution.
        size: height and width of the slices.
        zoom: magnification of a slice about its centre.

    Returns:
        ``(K, H, W)``; 0 outside of what the network was shown.
    """
    scale = torch.tensor([[zoom, 0.0, 0.0], [0.0, zoom, 0.0]], device=maps.device)
    grid = F.affine_grid(scale[None], [1, 1, *size], align_corners=False)
    shown = (grid.abs() <= 1).all(-1)
    # beyond the centres of the outermost cells goes their own value on, up to the border of the view
    grids = grid.expand(len(maps), -1, -1, -1)
    found = F.grid_sample(maps[:, None], grids, mode="bilinear", padding_mode="border", align_corners=False)
    return found[:, 0] * shown


# ---------------------------------------------------------------------------------------------------------------------
# occlusion


def occlusion_by_region(
    classifier: BiLSTMNFNet,
    slices: torch.Tensor,
    chunks: ChunkSlices,
    image_size: int = 224,
    zoom: float = 1.2,
    batch_size: int = 35,
) -> dict[str, float]:
    """Change of the series' probability when a region is blanked in all slices.

    The idea is that of MONAI's ``OcclusionSensitivity`` (Zeiler and Fergus 2014, arXiv:1311.2901), with anatomical regions for
    its sliding window. Blanked means that the image, channel 0, has the mean grey value of the slice's brain (pixels above 1,
    tumour included) in all of the region, while the masks stay; of ``"masks"``, that both mask channels are black, while the
    image stays. Regions differ in size, and so do their changes for this alone.

    Args:
        classifier: plain torch network.
        slices: the series' kept slices ``(K, 3, H, W)`` [image, WT, ET] uint8, 0…255.
        chunks: the cut into sequences.
        image_size: side of the network's square input.
        zoom: magnification of a slice about its centre.
        batch_size: slices, or sequences, in one pass.

    Returns:
        For each of :data:`BLANKED` the probability without the region less that of the whole series, -1…1: below 0 where the
        region spoke for methylation, and 0 where no slice has it.

    Raises:
        TypeError: for a compiled network.
        ValueError: for slices of another shape, or none at all.
    """
    _require(classifier, slices)
    view = SequenceClassifier(chunks, image_size, zoom, batch_size, amp=False)
    with eval_mode(classifier):
        return _by_region(classifier, slices, _encode(classifier, slices, view), view)


def _by_region(
    classifier: BiLSTMNFNet, slices: torch.Tensor, encoded: _Encoded, view: SequenceClassifier
) -> dict[str, float]:
    intact = _logits(classifier, encoded.features, encoded.steps, view).sigmoid().mean()
    changes = {}
    for region, blanked in _blanked(slices):
        changed = (blanked != slices).flatten(1).any(1).nonzero()[:, 0]
        if not len(changed):
            changes[region] = 0.0
            continue
        features = encoded.features.clone()
        for batch in changed.split(view.batch_size):  # what is as it was keeps its features
            maps = _feature_maps(classifier, normalise(view.resize(blanked[batch])))
            features[batch + 1] = _pooled(classifier, maps)
        probability = _logits(classifier, features, encoded.steps, view).sigmoid().mean()
        changes[region] = float(probability - intact)
    return changes


def _blanked(slices: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The slices without each of :data:`BLANKED`, one after another, for they are large."""
    image, whole, enhancing = slices[:, 0], slices[:, 1] > 0, slices[:, 2] > 0
    brain = image > BRAIN_THRESHOLD
    grey = (image.float() * brain).sum((1, 2)) / brain.sum((1, 2)).clamp(min=1)
    filling = grey.round().to(slices.dtype)[:, None, None].expand_as(image)
    regions = (enhancing, whole & ~enhancing, brain & ~whole & ~enhancing)
    for region, area in zip(BLANKED[:3], regions, strict=True):
        without = slices.clone()
        without[:, 0] = torch.where(area, filling, image)
        yield region, without
    without = slices.clone()
    without[:, 1:] = 0
    yield BLANKED[3], without


def occlusion_by_slice(
    classifier: BiLSTMNFNet,
    slices: torch.Tensor,
    chunks: ChunkSlices,
    image_size: int = 224,
    zoom: float = 1.2,
    batch_size: int = 35,
) -> np.ndarray:
    """Change of the series' probability when one slice is black in all the sequences that it is in.

    Args:
        classifier: plain torch network.
        slices: the series' kept slices ``(K, 3, H, W)`` in 0…255.
        chunks: the cut into sequences.
        image_size: side of the network's square input.
        zoom: magnification of a slice about its centre.
        batch_size: slices, or sequences, in one pass.

    Returns:
        ``(K,)`` float32, the probability without the slice less that of the whole series: below 0 where the slice spoke for
        methylation.

    Raises:
        TypeError: for a compiled network.
        ValueError: for slices of another shape, or none at all.
    """
    _require(classifier, slices)
    view = SequenceClassifier(chunks, image_size, zoom, batch_size, amp=False)
    with eval_mode(classifier):
        return _by_slice(classifier, _encode(classifier, slices, view), view)


def _by_slice(classifier: BiLSTMNFNet, encoded: _Encoded, view: SequenceClassifier) -> np.ndarray:
    intact = _logits(classifier, encoded.features, encoded.steps, view).sigmoid()
    changes = []
    for index in range(1, len(encoded.features)):
        inside = (encoded.steps == index).any(1)
        steps = encoded.steps[inside]
        without = _logits(classifier, encoded.features, steps.masked_fill(steps == index, 0), view).sigmoid()
        changes.append((without - intact[inside]).sum() / len(intact))
    return torch.stack(changes).float().cpu().numpy()


# ---------------------------------------------------------------------------------------------------------------------
# do the maps depend on what was learned?


def randomisation_check(
    classifier: BiLSTMNFNet,
    slices: torch.Tensor,
    chunks: ChunkSlices,
    image_size: int = 224,
    zoom: float = 1.2,
    batch_size: int = 35,
    seed: int = 0,
    draws: int = 3,
) -> dict[str, Any]:
    """Whether Grad-CAM's maps of a series change when what the network learned is destroyed.

    The sanity check of Adebayo et al. 2018 (arXiv:1810.03292), cascading from the head down: maps that stay alike show the
    image, not what the weights found in it. A parameter is randomised by shuffling its own values, so that their distribution
    stays; statistics of batch normalisation stay too. Maps are compared before their ReLU, at the feature maps' resolution,
    over all slices together.

    Args:
        classifier: plain torch network; it stays as it is.
        slices: the series' kept slices ``(K, 3, H, W)`` in 0…255.
        chunks: the cut into sequences.
        image_size: side of the network's square input.
        zoom: magnification of a slice about its centre.
        batch_size: slices, or sequences, in one pass.
        seed: of the shuffling.
        draws: the correlations are means over so many randomisations, for those of a single one scatter.

    Returns:
        ``correlation``: absolute Spearman correlation of the maps with those after ``"head"``, ``"head and LSTM"`` and
        ``"everything"`` were randomised, None where either is constant every time; ``threshold``
        (:data:`RANDOMISATION_THRESHOLD`); ``maps_change``, whether all correlations are below it, None where the classifier's
        own maps are constant; ``statement``, a sentence that says so.

    Raises:
        TypeError: for a compiled network.
        ValueError: for slices of another shape, or none at all.
    """
    _require(classifier, slices)
    view = SequenceClassifier(chunks, image_size, zoom, batch_size, amp=False)
    with eval_mode(classifier):
        return _randomisation(classifier, slices, _encode(classifier, slices, view), view, seed, draws)


def _randomisation(
    classifier: BiLSTMNFNet,
    slices: torch.Tensor,
    encoded: _Encoded,
    view: SequenceClassifier,
    seed: int = 0,
    draws: int = 3,
) -> dict[str, Any]:
    learned = _signed_maps(classifier, encoded, view).cpu().numpy()
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {"head": [], "head and LSTM": [], "everything": []}
    for _ in range(draws):
        shuffled = copy.deepcopy(classifier)
        for stage, part in zip(found, ("clf_head", "lstm", "backbone"), strict=True):
            for parameter in getattr(shuffled, part).parameters():
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
            after = _encode(shuffled, slices, view) if part == "backbone" else encoded
            rho = _spearman(learned, _signed_maps(shuffled, after, view).cpu().numpy())
            found[stage] += [] if rho is None else [abs(rho)]
    correlation = {stage: float(np.mean(values)) if values else None for stage, values in found.items()}
    alike = [stage for stage, rho in correlation.items() if rho is not None and rho >= RANDOMISATION_THRESHOLD]
    maps_change: bool | None = not alike
    if np.ptp(learned) == 0:
        maps_change, statement = None, "The maps are constant: nothing can be told of them."
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


def _spearman(one: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman's rank correlation, ties sharing their mean rank; None where an array is constant or not finite."""
    if any(np.ptp(values) == 0 or not np.isfinite(values).all() for values in (one, other)):
        return None
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, group, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group.ravel()]


# ---------------------------------------------------------------------------------------------------------------------
# a series from files, and its explanation in files


@dataclass
class Explanation:
    """All of the above of one series.

    Attributes:
        patient: identifier.
        mri_type: modality.
        slices: ``(K,)`` int32, indices of the explained slices in the series.
        maps: Grad-CAM for methylation, ``(K, H, W)`` uint8, 255 for the 1 of :func:`grad_cam`.
        maps_against: Grad-CAM against methylation, likewise, on the same scale.
        by_slice: :func:`occlusion_by_slice`, ``(K,)`` float32.
        by_region: :func:`occlusion_by_region`.
        logits: of the series' sequences, ``(M,)`` float32.
        probability: of the series, mean over its sequences.
        randomisation: :func:`randomisation_check`.
        made_with: ``weights`` (their checksum), their ``settings``, ``zoom``, ``series`` (the fingerprint of the prepared
            series) and the ``fingerprint`` of all these.
    """

    patient: str
    mri_type: str
    slices: np.ndarray
    maps: np.ndarray
    maps_against: np.ndarray
    by_slice: np.ndarray
    by_region: dict[str, float]
    logits: np.ndarray
    probability: float
    randomisation: dict[str, Any]
    made_with: dict[str, Any]

    ARRAYS = ("slices", "maps", "maps_against", "by_slice", "logits")

    def save(self, folder: str | Path) -> Path:
        """Write ``<patient>_<mri_type>.npz`` (the arrays) and then ``.json`` (all else), each whole or not at all.

        Returns:
            The JSON file. Both files hold the fingerprint, so that two that do not belong together are found out.
        """
        file = inside(folder, f"{self.patient}_{self.mri_type}.json")
        arrays = {name: getattr(self, name) for name in self.ARRAYS}
        with written_whole(file.with_name(file.stem + ".npz")) as temporary:
            np.savez_compressed(temporary, fingerprint=np.array(self.made_with["fingerprint"]), **arrays)
        rest = {name: value for name, value in vars(self).items() if name not in self.ARRAYS}
        write_json({"note": RESEARCH_ONLY, "format": FORMAT, **rest}, file)
        return file

    @classmethod
    def load(cls, file: str | Path) -> Explanation:
        """Read what :meth:`save` wrote.

        Args:
            file: the JSON file; the arrays are beside it.

        Raises:
            ValueError: when one of the two is missing or broken, or they do not belong together.
        """
        path = Path(file)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            with np.load(path.with_name(path.stem + ".npz")) as stored:
                if content["format"] != FORMAT or content["made_with"]["fingerprint"] != str(stored["fingerprint"]):
                    raise ValueError(f"its format is not {FORMAT}, or the .npz is of another explanation")
                arrays = {name: stored[name] for name in cls.ARRAYS}
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path}: no explanation that can be read ({error}); remove it and explain again"
            ) from error
        return cls(**{name: value for name, value in content.items() if name not in ("note", "format")}, **arrays)


class _Classifier:
    """A classifier in a weights file; its network is built when it is needed."""

    def __init__(self, file: str | Path, device: torch.device | str) -> None:
        self.file, self.device = file, device
        self.settings = weights.classifier_settings({"": file})
        self.checksum = weights.sha256(file)

    @cached_property
    def network(self) -> BiLSTMNFNet:
        """With its weights, on the device."""
        loaded: Any = weights.load_classifiers(build_classifier(self.settings), {"only": self.file})["only"]
        return loaded.to(self.device).eval()

    def view(self, zoom: float, batch_size: int) -> SequenceClassifier:
        """How it is shown a series."""
        chunks = ChunkSlices(self.settings["sequence_length"], self.settings["stride"])
        return SequenceClassifier(chunks, self.settings["image_size"], zoom, batch_size, amp=False)

    def made_with(self, series: PreparedSeries, zoom: float) -> dict[str, Any]:
        """All that an explanation depends on."""
        depends = {
            "weights": self.checksum,
            "settings": self.settings,
            "zoom": zoom,
            "series": series.info["fingerprint"],
        }
        return {**depends, "fingerprint": fingerprint({"format": FORMAT, **depends})}


def explain_series(
    series: str | Path,
    classifier: str | Path,
    zoom: float = 1.2,
    batch_size: int = 35,
    device: torch.device | str = "cpu",
) -> Explanation:
    """Explain a classifier's answer for one prepared series.

    It takes about eight times as long as to classify the series: the backbone sees all slices as they are, in each of four
    occlusions, and with random weights three times.

    Args:
        series: file of the prepared series.
        classifier: weights file.
        zoom: magnification of a slice about its centre, as in the prediction that is explained.
        batch_size: slices, or sequences, in one pass.
        device: where the network runs.

    Raises:
        PreparedError: when the series can't be read or has no usable slice.
        WeightsError: when the weights can't be read.
        ValueError: when the classifier's logits are not finite.
    """
    return _explain(series, _Classifier(classifier, device), zoom, batch_size)


def _explain(file: str | Path, classifier: _Classifier, zoom: float, batch_size: int) -> Explanation:
    series = PreparedSeries(file)
    if not len(series):
        raise PreparedError(f"{file}: no slice shows enough tumour, there is nothing to explain")
    slices = LoadSeries()({"series": file})["image"].to(classifier.device)
    network, view = classifier.network, classifier.view(zoom, batch_size)
    _require(network, slices)
    with eval_mode(network):
        encoded = _encode(network, slices, view)
        logits = _logits(network, encoded.features, encoded.steps, view)
        if not logits.isfinite().all():
            raise ValueError(f"{file}: logits {logits.tolist()} of {classifier.file}, expected finite ones")
        signed = _signed_maps(network, encoded, view)
        return Explanation(
            patient=series.info["patient"],
            mri_type=series.info["mri_type"],
            slices=np.asarray(series.slices, dtype=np.int32),
            maps=_as_uint8(_evidence(signed, series.size, zoom)),
            maps_against=_as_uint8(_evidence(-signed, series.size, zoom)),
            by_slice=_by_slice(network, encoded, view),
            by_region=_by_region(network, slices, encoded, view),
            logits=logits.cpu().numpy(),
            probability=float(logits.sigmoid().mean()),
            randomisation=_randomisation(network, slices, encoded, view),
            made_with=classifier.made_with(series, zoom),
        )


def _as_uint8(maps: np.ndarray) -> np.ndarray:
    return np.round(maps * 255).astype(np.uint8)


def explain_run(
    run_dir: str | Path,
    classifiers: Mapping[str, str | Path | None] | None = None,
    patients: Sequence[str] | None = None,
    mri_types: Sequence[str] | None = None,
    limit: int | None = None,
    batch_size: int = 35,
    device: torch.device | str = "cpu",
) -> dict[str, dict[str, Any]]:
    """Explain the series of a finished prediction, evaluation or cross-validation, into its folder ``explanations``.

    A patient of a cross-validation is explained with the models of the fold that held the patient out, those of the first seed.
    A series that was explained with the same weights is passed over; one that can't be explained is reported, and the others
    go on.

    Args:
        run_dir: folder of the run, with ``patients.json`` in it or in the evaluations of its folds.
        classifiers: weights files by modality (``weights.find_classifiers``); None: those that the run used, of several the first.
        patients: those to explain; None: all.
        mri_types: modalities to explain; None: all that have weights.
        limit: so many series at most, the first in the order of the patients, done before or not; None: all.
        batch_size: slices, or sequences, in one pass.
        device: where the networks run.

    Returns:
        Rows by ``"<patient>/<mri_type>"``, in this order, also in ``explanations/index.json``: ``{"file", "probability",
        "predicted", "maps_change"}``, where ``predicted`` is the probability in ``patients.json``, or ``{"reason"}`` of a series
        without a prediction, or ``{"error"}``.

    Raises:
        FileNotFoundError: when the run is not finished.
        PreparedError: when its prepared series are gone.
        ValueError: for a patient that is not in it, or a modality without weights.
        WeightsError: when weights can't be read.
    """
    folder, output = Path(run_dir), Path(run_dir) / "explanations"
    content = _patients(folder)
    rows = _asked_rows(folder, content, patients)

    def file_of(row: Mapping[str, Any], mri_type: str) -> str | None:
        """In a cross-validation it goes by the fold."""
        file = classifier_of(content, row, mri_type) if classifiers is None else classifiers.get(mri_type)
        return None if file is None else str(file)

    there = [name for name in MRI_TYPES if any(file_of(row, name) for row in content["patients"])]
    wanted = list(mri_types or there)
    without = [mri_type for mri_type in wanted if mri_type not in there]
    if without or not wanted:
        raise ValueError(f"mri_types {wanted}: no classifier weights for {', '.join(without) or 'any modality'}")
    prepared = prepared_dir(folder) or prepared_places(folder)[-1]
    index, zoom = read_index(prepared), zoom_of(folder) or _zoom(prepared)
    asked = [(row, mri_type) for row in rows for mri_type in wanted if mri_type in row["series"]][:limit]
    results: dict[str, dict[str, Any]] = {}
    by_weights: dict[str, list[tuple[str, float]]] = {}
    for row, mri_type in asked:
        name, facts, weights_file = f"{row['patient']}/{mri_type}", row["series"][mri_type], file_of(row, mri_type)
        results[name] = {"reason": facts.get("reason", "it was not classified")}
        predicted = chance_of(facts)
        if weights_file is not None and predicted is not None:
            by_weights.setdefault(weights_file, []).append((name, predicted))
    # each file is read before anything is computed, and again in its turn: one network is in memory at a time
    for weights_file in by_weights:
        _Classifier(weights_file, "cpu")
    remove_leftovers(output)
    for weights_file, series in by_weights.items():
        classifier = _Classifier(weights_file, device)
        for name, predicted in series:
            try:
                file = index.get(name, {}).get("file")
                if file is None:
                    raise PreparedError(f"{prepared}: no {name}; prepare it again")
                results[name] = _explained(file, classifier, zoom, batch_size, output)
            except Exception as error:
                logger.warning("%s: %s", name, error)
                results[name] = {"error": f"{type(error).__name__}: {error}"}
                continue
            results[name]["predicted"] = predicted
            if abs(predicted - results[name]["probability"]) > PREDICTION_TOLERANCE:
                logger.warning(
                    "%s: probability %.3f here, but %.3f in the prediction; was it made with %s?",
                    name, results[name]["probability"], predicted, classifier.file,
                )  # fmt: skip
    write_json({"note": RESEARCH_ONLY, "series": results}, output / "index.json")
    failed = sum("error" in row for row in results.values())
    logger.info("%s: %d series, %d failed. %s", output, len(results), failed, RESEARCH_ONLY)
    return results


def _explained(file: str | Path, classifier: _Classifier, zoom: float, batch_size: int, output: Path) -> dict[str, Any]:
    """Explain a series unless that is done; the row of its explanation."""
    series = PreparedSeries(file)
    target = inside(output, f"{series.info['patient']}_{series.info['mri_type']}.json")
    explanation = _stored(target, classifier.made_with(series, zoom)["fingerprint"])
    if explanation is None:
        explanation = _explain(file, classifier, zoom, batch_size)
        explanation.save(output)
    return {
        "file": target.name,
        "probability": explanation.probability,
        "maps_change": explanation.randomisation["maps_change"],
    }


def _stored(file: Path, expected: str) -> Explanation | None:
    """The explanation in a file; None where none of this fingerprint is."""
    try:
        explanation = Explanation.load(file)
    except ValueError:  # none, half of one, or somebody else's
        return None
    return explanation if explanation.made_with["fingerprint"] == expected else None


def _patients(folder: Path) -> dict[str, Any]:
    content = read_patients(folder)
    if content is not None:
        return content
    if is_crossvalidation(folder):
        raise FileNotFoundError(
            f"{folder}: no fold has {PATIENTS_FILE} of all its seeds; let the cross-validation evaluate a fold first, or, where an "
            "earlier version did, evaluate it again (`radiogenomics evaluate classification --overwrite`)"
        )
    raise FileNotFoundError(
        f"{folder / PATIENTS_FILE}: no such file; name the folder of a finished prediction (`radiogenomics predict`), an "
        "evaluation of stage 2, or a cross-validation"
    )


def _asked_rows(folder: Path, content: Mapping[str, Any], patients: Sequence[str] | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = content["patients"]
    unknown = sorted(set(patients or ()) - {row["patient"] for row in rows})
    if unknown:
        raise ValueError(f"{folder}: no patient {', '.join(unknown)} in this run")
    return [row for row in rows if patients is None or row["patient"] in patients]


def _zoom(prepared_dir: Path) -> float:
    """The zoom of a prediction whose configuration is gone; it is the same for both stages."""
    configuration = json.loads((prepared_dir / "index.json").read_text(encoding="utf-8"))["configuration"]
    if "zoom" not in configuration:
        raise PreparedError(f"{prepared_dir / 'index.json'}: tells no zoom; predict again with this version")
    return float(configuration["zoom"])
