"""The explanation of a classifier's answer for a prepared series, and its files."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from custom_transforms import ChunkSlices

from .. import weights
from ..files import RESEARCH_ONLY, write_json, written_whole
from ..inferers import SequenceClassifier
from ..loading import LoadSeries
from ..networks import BiLSTMNFNet, build_classifier
from ..outputs import inside
from ..preparation import fingerprint
from ..prepared import PreparedError, PreparedSeries
from .maps import grad_cam, randomisation_check
from .occlusion import occlusion_by_region, occlusion_by_slice
from .series import encode

FORMAT = "brats-mri-radiogenomics/explanation/1"


@dataclass
class Explanation:
    """All explanations of one series."""

    patient: str  # identifier
    mri_type: str  # modality
    slices: np.ndarray  # ``(K,)`` int32, indices of the explained slices in the series
    maps: np.ndarray  # :func:`~scripts.explain.maps.grad_cam` for methylation, ``(K, H, W)`` uint8, 255 for 1
    maps_against: np.ndarray  # the same against methylation, on the same scale
    by_slice: np.ndarray  # :func:`~scripts.explain.occlusion.occlusion_by_slice`, ``(K,)`` float32
    by_region: dict[str, float]  # :func:`~scripts.explain.occlusion.occlusion_by_region`
    logits: np.ndarray  # of the series' sequences, ``(M,)`` float32
    probability: float  # of the series, mean over its sequences
    randomisation: dict[str, Any]  # :func:`~scripts.explain.maps.randomisation_check`
    # ``weights`` (their checksum), their ``settings``, ``zoom``, ``series`` (the fingerprint of the prepared series) and the
    # ``fingerprint`` of all these
    made_with: dict[str, Any]

    ARRAYS = ("slices", "maps", "maps_against", "by_slice", "logits")

    def save(self, folder: str | Path) -> Path:
        """Write ``<patient>_<mri_type>.npz`` (the arrays) and then ``.json`` (everything else), each whole or not at all; returns the JSON file.

        Both hold the fingerprint, so that mismatched files are noticed.
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
        """Read what :meth:`save` wrote, from the JSON file and the arrays beside it.

        Raises:
            ValueError: when one of the two is missing or broken, or they do not belong together.
        """
        path = Path(file)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            with np.load(path.with_name(path.stem + ".npz")) as stored:
                if content["format"] != FORMAT or content["made_with"]["fingerprint"] != str(stored["fingerprint"]):
                    raise ValueError(f"its format is not {FORMAT}, or the .npz belongs to another explanation")
                arrays = {name: stored[name] for name in cls.ARRAYS}
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: the explanation can't be read ({error}); remove it and explain again") from error
        return cls(**{name: value for name, value in content.items() if name not in ("note", "format")}, **arrays)


class Classifier:
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

    def inferer(self, zoom: float, batch_size: int) -> SequenceClassifier:
        """How it reads a series, in float32."""
        chunks = ChunkSlices(self.settings["sequence_length"], self.settings["stride"])
        return SequenceClassifier(chunks, self.settings["image_size"], zoom, batch_size, amp=False)

    def made_with(self, series: PreparedSeries, zoom: float) -> dict[str, Any]:
        """Everything that an explanation depends on."""
        depends = {
            "weights": self.checksum,
            "settings": self.settings,
            "zoom": zoom,
            "series": series.info["fingerprint"],
        }
        return {**depends, "fingerprint": fingerprint({"format": FORMAT, **depends})}


def explain(file: str | Path, classifier: Classifier, zoom: float, batch_size: int) -> Explanation:
    """Explain a classifier's answer for one prepared series.

    It takes about eight times as long as to classify the series: the backbone sees all slices as they are, in each of four
    occlusions, and with random weights three times.

    Args:
        file: of the prepared series.
        classifier: that answered.
        zoom: magnification of a slice about its centre, as in the prediction that is explained.
        batch_size: slices, or sequences, in one pass.

    Raises:
        PreparedError: when the series can't be read or has no usable slice.
        WeightsError: when the weights can't be read.
    """
    series = PreparedSeries(file)
    if not len(series):
        raise PreparedError(f"{file}: no slice shows enough tumour, there is nothing to explain")
    slices = LoadSeries()({"series": file})["image"].to(classifier.device)
    encoded = encode(classifier.network, slices, classifier.inferer(zoom, batch_size))

    maps, against = (np.round(grad_cam(encoded, label) * 255).astype(np.uint8) for label in (1, 0))
    return Explanation(
        patient=series.info["patient"],
        mri_type=series.info["mri_type"],
        slices=np.asarray(series.slices, dtype=np.int32),
        maps=maps,
        maps_against=against,
        by_slice=occlusion_by_slice(encoded),
        by_region=occlusion_by_region(encoded),
        logits=encoded.logits.cpu().numpy(),
        probability=float(encoded.logits.sigmoid().mean()),
        randomisation=randomisation_check(encoded),
        made_with=classifier.made_with(series, zoom),
    )
