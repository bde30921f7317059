"""A series as its classifier sees it, the input of explanations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from monai.networks.utils import eval_mode

from ..inferers import SequenceClassifier, normalise
from ..networks import BiLSTMNFNet


@dataclass(frozen=True)
class EncodedSeries:
    """A series after the backbone; from :func:`encode`."""

    classifier: BiLSTMNFNet  # plain torch network
    slices: torch.Tensor  # the K kept slices ``(K, 3, H, W)`` [image, WT, ET], 0…255
    inferer: SequenceClassifier  # how they are scaled and cut into sequences
    maps: (
        torch.Tensor
    )  # last feature maps of the slices, ``(K, C, h, w)``; they take 0.5 MB a slice (ECA-NFNet-L0, 224²)
    features: torch.Tensor  # pooled features ``(K + 1, F)``, those of a black slice first
    steps: torch.Tensor  # rows of ``features`` in each sequence, ``(M, length)``

    @cached_property
    def logits(self) -> torch.Tensor:
        """Of the sequences, ``(M,)``."""
        return self.logits_of(self.features, self.steps)

    def logits_of(self, features: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Logits ``(M,)`` of other features or sequences."""
        with eval_mode(self.classifier):
            batches = steps.split(self.inferer.batch_size)
            return torch.cat([self.classifier.classify(features[part])[:, 0] for part in batches])

    def features_of(self, slices: torch.Tensor) -> torch.Tensor:
        """Pooled features ``(B, F)`` of other slices ``(B, 3, H, W)``."""
        with eval_mode(self.classifier):
            return pooled(self.classifier, feature_maps(self.classifier, normalise(self.inferer.resize(slices))))


def encode(classifier: BiLSTMNFNet, slices: torch.Tensor, inferer: SequenceClassifier) -> EncodedSeries:
    """Each slice of a series once through the backbone, in float32.

    Args:
        classifier: plain torch network; a compiled one has no gradients.
        slices: the series' kept slices ``(K, 3, H, W)`` [image, WT, ET] in 0…255, one at least.
        inferer: that of the prediction; its ``amp`` and ``flips`` are ignored.
    """

    with eval_mode(classifier):
        black = slices.new_zeros((1, 3, inferer.image_size, inferer.image_size))
        features = [pooled(classifier, feature_maps(classifier, normalise(black)))]
        maps = []
        for batch in slices.split(inferer.batch_size):
            maps.append(feature_maps(classifier, normalise(inferer.resize(batch))))
            features.append(pooled(classifier, maps[-1]))
    # sequences are filled up with 0, which is where the black slice stands
    steps = torch.as_tensor(inferer.chunks(torch.arange(1, len(slices) + 1, device=slices.device)))
    return EncodedSeries(classifier, slices, inferer, torch.cat(maps), torch.cat(features), steps)


def feature_maps(classifier: BiLSTMNFNet, images: torch.Tensor) -> torch.Tensor:
    """The backbone's last feature maps ``(B, C, h, w)`` of normalised images."""
    maps = classifier.backbone.forward_features(images)  # type: ignore[operator]
    if maps.ndim != 4:
        raise ValueError(f"the backbone's last features are {tuple(maps.shape)}, expected feature maps (B, C, h, w)")
    return maps


def pooled(classifier: BiLSTMNFNet, maps: torch.Tensor) -> torch.Tensor:
    """Features ``(B, F)`` of feature maps."""
    return classifier.backbone.forward_head(maps)  # type: ignore[operator]
