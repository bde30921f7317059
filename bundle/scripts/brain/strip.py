"""Skull stripping of series before they are segmented."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from custom_transforms.series import SKULL

from ..errors import UserError
from ..masks import save_label_map
from ..outputs import BRAIN_SUFFIX, inside
from ..reading import PatientReader
from ..studies.pseudonyms import CALLED
from .extraction import BrainMask, check_method, extract_brain, method_for
from .registration import write_transform

logger = logging.getLogger(__name__)


def settings(method: str) -> dict[str, Any]:
    """What the brain masks depend on, for the fingerprint of prepared series: the method, and the masks in a folder.

    Raises:
        UserError: for an unknown method.
    """
    check_method(method)
    folder = Path(method)
    files = sorted(folder.rglob("*.nii*")) if folder.is_dir() else []
    return {"method": method if not files else [(str(file), file.stat().st_mtime_ns) for file in files]}


class StripSkull(Transform):
    """Set what is not brain to 0 where a series shows the skull.

    The reader has looked for it (:class:`custom_transforms.SeriesReader`, ``meta["skull"]``). Stripped series stay as they are; so do
    unclear ones, with a warning. The brain is looked for in all series of the patient that show the skull at once, because
    the mask of one serves the others.

    Expects ``image`` ``(1, X, Y, Z)`` as it was read; ``patient``, ``mri_type`` and ``study``, the paths of the patient's series by modality,
    where they are known.

    Args:
        method: auto, deepbet, hd-bet, synthstrip, never (such series are used as they are, with a warning), or a folder of masks.
        masks_dir: folder for ``<patient>_<mri_type>_brain.nii.gz``, and the transforms by which masks were transferred.
    """

    def __init__(self, method: str = "auto", masks_dir: str | Path | None = None) -> None:
        self.method, self.masks_dir = method, masks_dir
        self._threads = torch.get_num_threads()  # a process that reads ahead has one for PyTorch
        self._patient: str | None = None
        self._masks: dict[str, BrainMask | UserError] = {}

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item, its ``warnings`` included, with only the brain.

        Raises:
            UserError: when the brain is not found.
        """
        image: MetaTensor = data["image"]
        warnings = list(data.get("warnings", []))
        verdict = image.meta.get("skull", "stripped")
        if verdict == "stripped":
            return dict(data)
        if verdict != "skull" or self.method == "never":
            if verdict == "skull":
                warnings.append(
                    "it shows the skull and is used as it is (--brain never): masks and probability mean little"
                )
            return {**data, "warnings": warnings}
        mask = self._mask(data)
        brain = torch.from_numpy(mask.mask)[None]
        values = image.as_tensor()
        lowest = min(float(values[brain].min()), 0.0)
        stripped = torch.where(brain, values - lowest, torch.zeros((), dtype=values.dtype))
        warnings = [text for text in warnings if not text.startswith(SKULL)]
        warnings += [f"its skull was removed: brain of {mask.volume:.0f} ml {mask.source}", *mask.warnings]
        return {**data, "image": MetaTensor(stripped, meta=image.meta), "warnings": warnings}

    def _mask(self, data: Mapping[str, Any]) -> BrainMask:
        """The brain in a series, found once per patient."""
        patient = data.get("patient", str(data["image"].meta["filename_or_obj"]))
        mri_type = data.get("mri_type", "series")
        if self._patient != patient:
            method = method_for(self.method, f"patient {patient}: {mri_type}")
            series = {mri_type: (np.asarray(data["image"][0]), np.asarray(data["image"].affine, dtype=float))}
            series |= _read_others(data.get("study", {}), mri_type)
            reader = torch.utils.data.get_worker_info()
            threads = max(self._threads // (reader.num_workers if reader else 1), 1)
            self._masks, self._patient = extract_brain(series, method, data.get(CALLED, patient), threads), patient
            if self.masks_dir is not None:
                for name, (_, affine) in series.items():
                    self._write(patient, name, self._masks[name], affine)
        found = self._masks[mri_type]
        if isinstance(found, UserError):
            raise found
        return found

    def _write(self, patient: str, mri_type: str, found: BrainMask | UserError, affine: np.ndarray) -> None:
        if isinstance(found, UserError):
            return
        file = inside(self.masks_dir or "", f"{patient}_{mri_type}{BRAIN_SUFFIX}")
        save_label_map(found.mask.astype(np.uint8), affine, file)
        if found.transform is not None:
            write_transform(found.transform, self.masks_dir or "", patient, mri_type, mri_type, "the reference")


def _read_others(study: Mapping[str, str | Sequence[str]], mri_type: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The patient's other series that show the skull; those that can't be read are reported when it is their turn."""
    found = {}
    for name, files in study.items():
        if name == mri_type:
            continue
        try:
            array, meta = PatientReader().get_data(files)
        except Exception as error:
            logger.info("%s is left out of the search for the brain: %s", name, error)
            continue
        if meta["skull"] == "skull":
            found[name] = (array, np.asarray(meta["affine"], dtype=float))
    return found
