"""The networks of both stages: segmenters by their settings, and the classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn


class _Strict(nn.Module):
    """For programs that load whatever fits of a weights file, and go on with the rest at random: all by name and shape, or none.

    Others, as MONAI's exports, hand over all that a weights file holds, whose state dict is called ``model``.
    """

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, **kwargs: Any) -> Any:  # type: ignore[override]
        """Load a state dict, or that of a whole weights file, strictly, even where ``strict`` is False.

        Raises:
            RuntimeError: when keys or shapes differ, naming them.
        """
        inner = state_dict.get("model")
        return super().load_state_dict(inner if isinstance(inner, Mapping) else state_dict, strict=True, **kwargs)


class StrictUnetPlusPlus(_Strict, smp.UnetPlusPlus):
    """``UnetPlusPlus`` that takes all of its weights or none."""


class StrictUnet(_Strict, smp.Unet):
    """``Unet`` that takes all of its weights or none."""


def build_segmenter(
    encoder_name: str,
    decoder_channels: Sequence[int],
    architecture: str = "unetplusplus",
    encoder_weights: str | None = None,
    classes: int = 2,
) -> nn.Module:
    """The segmentation network of a weights file's settings; every segmenter is built here. It gives logits of WT and ET.

    Args:
        encoder_name: of segmentation-models-pytorch.
        decoder_channels: of the decoder's stages, from the deepest.
        architecture: one of ``ARCHITECTURES``: ``unetplusplus``, the method's, or ``unet``, a compact one.
        encoder_weights: None for random weights.
        classes: regions.

    Raises:
        ValueError: for another architecture.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture is {architecture!r}, expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[architecture](
        encoder_name=encoder_name,
        encoder_weights=encoder_weights,
        decoder_channels=list(decoder_channels),
        classes=classes,
    )


ARCHITECTURES = {"unetplusplus": StrictUnetPlusPlus, "unet": StrictUnet}
"""Networks by the ``architecture`` of a weights file's settings."""
SEGMENTER_PARTS = ("architecture", "encoder_name", "decoder_channels")
"""Settings that a segmenter is built from."""


class BiLSTMNFNet(nn.Module):
    """A 2D backbone shared over the slices of a sequence, a bidirectional LSTM over them, and one logit.

    The outputs of all time steps, not only the last, enter the linear head, as in the T4E solution of the RSNA-MICCAI
    2021 challenge; parameter names (``backbone.*``, ``lstm.*``, ``clf_head.*``) are those of its released checkpoints.

    Args:
        backbone: name of a timm model; it is built without weights and without its classification layer.
        sequence_length: slices in a sequence.
        hidden_size: hidden units of the LSTM in each direction (released weights: 128, the authors' README: 64).
        num_layers: LSTM layers.
        dropout: dropout before the linear head.
    """

    def __init__(
        self,
        backbone: str = "eca_nfnet_l0",
        sequence_length: int = 35,
        hidden_size: int = 128,
        num_layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.sequence_length = sequence_length
        self.backbone = timm.create_model(backbone, pretrained=False, num_classes=0)
        # some models (MobileNetV3) widen the pooled features once more before the classification layer
        self.num_features = int(getattr(self.backbone, "head_hidden_size", self.backbone.num_features))  # type: ignore[arg-type]
        self.lstm = nn.LSTM(self.num_features, hidden_size, num_layers, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.clf_head = nn.Linear(2 * hidden_size * sequence_length, 1)

    @torch.jit.export
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled backbone features of single slices: ``(B, 3, H, W)`` normalised images to ``(B, F)``."""
        return self.backbone(images)

    @torch.jit.export
    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of sequences: ``(B, sequence_length, F)`` features to ``(B, 1)``.

        Raises:
            ValueError: when a sequence has another length than the head was made for.
        """
        if features.shape[1] != self.sequence_length:
            raise ValueError(
                f"a sequence has {features.shape[1]} slices, the classifier was made for {self.sequence_length}"
            )
        outputs, _ = self.lstm(features)
        return self.clf_head(self.dropout(outputs.flatten(1)))

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, 1)`` of sequences of normalised slices ``(B, sequence_length, 3, H, W)``."""
        batch, length = sequences.shape[0], sequences.shape[1]
        features = self.encode(sequences.flatten(0, 1))
        return self.classify(features.view(batch, length, -1))
