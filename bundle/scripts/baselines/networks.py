"""The networks of the field's other models: stacks of slices, or measured features, to one logit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from monai.networks.nets import EfficientNetBN, ResNet, ResNetBlock
from torch import nn

from ..errors import UserError
from ..inferers import normalise
from ..networks import Strict


def as_volumes(stacks: torch.Tensor) -> torch.Tensor:
    """Stacks ``(B, L, H, W)`` in 0…255 to volumes ``(B, 1, H, W, L)`` in 0…1."""
    return stacks.float().permute(0, 2, 3, 1)[:, None] / 255


class CNN3D(Strict):
    """The 3D CNN of a challenge participant's diary, 1,253,825 parameters of which 1,252,801 are trained.

    Four convolutions (3³, no padding, ReLU) of 64, 64, 128 and 256 filters, each followed by batch normalisation, the first two by
    max-pooling before it; global average pooling, a layer of 128 units, and the logit. Position and rate of the dropout were
    not published as numbers: 0.3 here. Batch normalisation uses Keras' constants.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for filters, pools in ((64, True), (64, True), (128, False), (256, False)):
            layers += [nn.Conv3d(before, filters, 3), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool3d(2)] if pools else []
            layers.append(nn.BatchNorm3d(filters, eps=1e-3, momentum=0.01))
            before = filters
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(before, 128), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(128, 1)
        )

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, 1)`` of stacks ``(B, L, H, W)`` in 0…255, each side at least 26 pixels or slices."""
        return self.head(self.features(as_volumes(stacks)).mean(dim=(2, 3, 4)))


class ResNet10(Strict, ResNet):
    """MONAI's 3D ResNet-10 as the challenge's winner used it; names and shapes of its parameters are those of the published weights."""

    def __init__(self) -> None:
        super().__init__(
            block=ResNetBlock,
            layers=[1, 1, 1, 1],
            block_inplanes=[64, 128, 256, 512],
            spatial_dims=3,
            n_input_channels=1,
            num_classes=1,
        )

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, 1)`` of stacks ``(B, L, H, W)`` in 0…255, shown as ``(columns, rows, slices)``."""
        return super().forward(as_volumes(stacks).transpose(2, 3))


class EfficientNet2D(Strict):
    """timm's EfficientNet-B0 on single slices, repeated to three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model("efficientnet_b0", pretrained=False, num_classes=0)
        self.head = nn.Linear(int(self.backbone.num_features), 1)  # type: ignore[arg-type]

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, 1)`` of slices ``(B, 1, H, W)`` in 0…255."""
        images = normalise(stacks.expand(-1, 3, -1, -1)).contiguous(memory_format=torch.channels_last)
        return self.head(self.backbone(images))


class EfficientNet3D(Strict):
    """MONAI's EfficientNet-B0 with three-dimensional convolutions."""

    def __init__(self) -> None:
        super().__init__()
        norm = (
            "batch",
            {"eps": 1e-3, "momentum": 0.1},
        )  # MONAI's momentum needs far more steps than such trainings have
        self.net = EfficientNetBN(
            "efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=1, num_classes=1, norm=norm
        )

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, 1)`` of stacks ``(B, L, H, W)`` in 0…255."""
        return self.net(as_volumes(stacks))


class Forest(Strict):
    """A random forest as tensors, so that its file holds numbers and no code; gives the logit of the mean of its trees.

    Args:
        trees: number of trees.
        nodes: most nodes of a tree.
        features: number of features.
    """

    feature: torch.Tensor
    threshold: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    chance: torch.Tensor
    fill: torch.Tensor
    importance: torch.Tensor

    def __init__(self, trees: int, nodes: int, features: int) -> None:
        super().__init__()
        self.register_buffer("feature", torch.zeros((trees, nodes), dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros((trees, nodes), dtype=torch.float64))
        self.register_buffer("left", torch.full((trees, nodes), -1))  # the node of smaller values, -1 of a leaf
        self.register_buffer("right", torch.full((trees, nodes), -1))
        self.register_buffer("chance", torch.full((trees, nodes), 0.5, dtype=torch.float64))
        self.register_buffer(
            "fill", torch.zeros(features, dtype=torch.float64)
        )  # in place of what could not be measured
        self.register_buffer("importance", torch.zeros(features, dtype=torch.float64))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, 1)`` of features ``(B, F)``; NaN is what could not be measured."""
        # scikit-learn compares values of 32 bits with thresholds of 64
        values = torch.where(features.isnan(), self.fill.float(), features.float()).double()
        place = torch.zeros((len(values), len(self.left)), dtype=torch.int64, device=values.device)
        trees = torch.arange(len(self.left), device=values.device)
        while (inner := self.left[trees, place] >= 0).any():
            smaller = values.gather(1, self.feature[trees, place]) <= self.threshold[trees, place]
            below = torch.where(smaller, self.left[trees, place], self.right[trees, place])
            place = torch.where(inner, below, place)
        chance = self.chance[trees, place].mean(dim=1, keepdim=True)
        return torch.logit(chance, eps=1e-6).float()


class LogisticRegression(Strict):
    """Logistic regression on features, with what could not be measured filled in."""

    fill: torch.Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("fill", torch.zeros(features, dtype=torch.float64))
        self.linear = nn.Linear(features, 1, dtype=torch.float64)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, 1)`` of features ``(B, F)``; NaN is what could not be measured."""
        return self.linear(torch.where(features.isnan(), self.fill, features.double())).float()


SMALLEST = {"cnn3d": (26, 26), "efficientnet3d": (32, 32)}
"""Smallest side of the slices and smallest number of slices that a network accepts, where limited."""
STACKED = {"cnn3d": CNN3D, "resnet10": ResNet10, "efficientnet2d": EfficientNet2D, "efficientnet3d": EfficientNet3D}
"""Networks of stacks by model."""


def build_baseline(settings: Mapping[str, Any]) -> nn.Module:
    """The network of a weights file's settings, with random weights.

    Args:
        settings: ``model``; of a forest ``trees``, ``nodes`` and ``features`` (names), of a regression ``features``.

    Raises:
        UserError: for an unknown model.
    """
    model = settings.get("model")
    features: Sequence[str] = settings.get("features", ())
    if model in STACKED:
        return STACKED[model]()
    if model == "forest":
        return Forest(settings["trees"], settings["nodes"], len(features))
    if model == "size":
        return LogisticRegression(len(features))
    raise UserError(f"model is {model!r}, expected one of {', '.join((*STACKED, 'forest', 'size'))}")
