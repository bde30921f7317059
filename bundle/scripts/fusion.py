"""One tumour mask of a patient: every series is segmented along three planes, and the results are averaged where they overlap.

Only for segmentation: the classification uses the method's masks of each series by itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import SpatialResample

from custom_transforms.planes import DISPLAY_AXCODES

from .brain import registration
from .checks import one_of, some_of
from .datalists import MRI_TYPES
from .files import write_json
from .inferers import SliceSegmenter
from .masks import REGIONS, label_map, region_volumes, save_label_map
from .outputs import inside
from .preparation import fingerprint, series_of
from .volumes import in_millilitres, write_volumes

logger = logging.getLogger(__name__)

REFERENCES = ("FLAIR", "T2w", "T1wCE", "T1w")
"""Modalities whose geometry a patient's mask gets, the first available; they show the whole tumour best."""


def series_items(
    entries: Sequence[Mapping[str, Any]], mri_types: Sequence[str] = MRI_TYPES, reference: str | None = None
) -> list[dict[str, Any]]:
    """One item for each series of the patients, ``{"patient", "mri_type", "image", "study"}``, the reference of each patient first.

    Args:
        entries: of the data list.
        mri_types: modalities that are used.
        reference: the modality whose geometry the mask gets where a patient has it; by default the first of ``REFERENCES``.
    """
    some_of(MRI_TYPES)("mri_types", list(mri_types))
    one_of((None, *MRI_TYPES))("reference", reference)
    order = [name for name in dict.fromkeys([reference or REFERENCES[0], *REFERENCES]) if name in mri_types]
    of_each = [series_of(entry, mri_types) for entry in entries]
    items = [item for series in of_each for item in sorted(series, key=lambda one: order.index(one["mri_type"]))]
    if not items:
        raise ValueError(f"none of {len(entries)} patients has a series of {', '.join(mri_types)}")
    return items


class VolumeSegmenter(Inferer):
    """Probabilities of a volume's voxels by :meth:`SliceSegmenter.of_volume`.

    Args:
        segmenter: of slices; its zoom is for axial slices.
        planes: that are cut.
        zoom: of the slices along the other planes, which a brain fills from top to bottom.
        min_foreground: share of pixels brighter than the background that a slice must exceed to count.
    """

    def __init__(
        self,
        segmenter: SliceSegmenter,
        planes: Sequence[str] = tuple(DISPLAY_AXCODES),
        zoom: float = 1.0,
        min_foreground: float = 0.02,
    ) -> None:
        super().__init__()
        self.segmenter, self.planes, self.min_foreground = segmenter, planes, min_foreground
        self.zooms = {plane: zoom for plane in planes if plane != "axial"}

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Probabilities ``(2, X, Y, Z)`` float32 of WT and ET in a volume ``(1, X, Y, Z)`` in 0…255; 0 where no slice counts.

        A tensor without an affine is taken as RAS with voxels of 1 mm.
        """
        if inputs.ndim != 4:  # a series that could not be read
            return torch.zeros((2, 0, 0, 0))
        affine = inputs.affine.cpu().numpy() if isinstance(inputs, MetaTensor) else np.eye(4)
        volume = inputs.as_tensor()[0] if isinstance(inputs, MetaTensor) else inputs[0]
        return self.segmenter.of_volume(volume, affine, network, self.planes, self.zooms, self.min_foreground)


class FuseSeries:
    """Ignite handler that averages the series of each patient in the geometry of the first and writes its mask.

    Writes ``masks/<patient>.nii.gz`` (1 tumour not enhancing, 2 enhancing) when the patient's last series is done, and then
    ``done/<patient>.json``, which lets an interrupted run continue.

    Args:
        output_dir: folder for the masks and ``volumes.csv``.
        weights: how much each modality's probability of ``WT`` and of ``ET`` counts, ``{"WT": {"FLAIR": 1, …}, "ET": …}``.
        threshold: probability from which a voxel is tumour.
        configuration: everything else that changes the result.
        register: align the other series of a patient with the first, because the patient may have moved. The transforms are written
            beside the mask, ``masks/<patient>_<mri_type>_transform.txt``.
    """

    def __init__(
        self,
        output_dir: str | Path,
        weights: Mapping[str, Mapping[str, float]],
        threshold: float = 0.5,
        configuration: Mapping[str, Any] | None = None,
        register: bool = False,
    ) -> None:
        if set(weights) != set(REGIONS) or any(value < 0 for those in weights.values() for value in those.values()):
            raise ValueError(
                f"weights are {dict(weights)}, expected numbers of at least 0 by modality, for WT and for ET"
            )
        if not 0 < threshold < 1:
            raise ValueError(f"threshold is {threshold}, expected a probability between 0 and 1")
        self.output_dir, self.weights, self.threshold = Path(output_dir), weights, threshold
        self.register = register
        self.configuration = {**(configuration or {}), "weights": weights, "threshold": threshold, "register": register}
        self.rows: list[dict[str, Any]] = []
        self._left: dict[str, list[str]] = {}  # modalities by patient
        self._fingerprints: dict[str, str] = {}
        self._sums: torch.Tensor | None = None
        self._used: list[str] = []
        self._reasons: list[str] = []  # of the series that are not used

    def pending(self, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The items of this process, from :func:`series_items`, whose patient has no mask of the same configuration and files."""
        patients = dict.fromkeys(item["patient"] for item in items)
        for patient in patients:
            series = [item for item in items if item["patient"] == patient]
            known = {**self.configuration, "series": [item["mri_type"] for item in series]}
            self._fingerprints[patient] = fingerprint(known, *(item["image"] for item in series))
            row = self._done(patient)
            if row is None:
                self._left[patient] = [item["mri_type"] for item in series]
            else:
                self.rows.append(row)
        logger.info("%d patients: %d segmented before, %d to segment", len(patients), len(self.rows), len(self._left))
        return [dict(item) for item in items if item["patient"] in self._left]

    def _note(self, patient: str) -> Path:
        return inside(self.output_dir, "done", f"{patient}.json")

    def _done(self, patient: str) -> dict[str, Any] | None:
        """The row of a patient's mask, None where there is no valid one."""
        try:
            stored = json.loads(self._note(patient).read_text(encoding="utf-8"))
            row: dict[str, Any] = stored["row"]
            there = "file" not in row or (self.output_dir / row["file"]).is_file()
            return row if there and stored["fingerprint"] == self._fingerprints[patient] else None
        except (OSError, ValueError, TypeError, KeyError):  # none, or not one of ours
            return None

    def attach(self, engine: Engine) -> None:
        """Add each series; a patient's series come one after the other."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Add a series, and write the mask with a patient's last one."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        self.add(batch, torch.as_tensor(output["pred"]).cpu())

    def add(self, item: Mapping[str, Any], probabilities: torch.Tensor) -> None:
        """Add a series.

        Args:
            item: with ``patient``, ``mri_type``, the volume ``image`` (MetaTensor) and, where it failed, ``error``.
            probabilities: ``(2, X, Y, Z)`` on the grid of ``image``.
        """
        name = f"{item['patient']}/{item['mri_type']}"
        if item["error"]:
            logger.warning("%s: %s", name, item["error"])
            self._reasons.append(f"{item['mri_type']}: {item['error']}")
        else:
            self._sum(item, probabilities)
        self._left[item["patient"]].remove(item["mri_type"])
        if not self._left[item["patient"]]:
            row = self._finish(item["patient"])
            self.rows.append(row)
            write_json({"fingerprint": self._fingerprints[item["patient"]], "row": row}, self._note(item["patient"]))

    def _sum(self, item: Mapping[str, Any], probabilities: torch.Tensor) -> None:
        factors = torch.tensor([float(self.weights[region].get(item["mri_type"], 0)) for region in REGIONS])
        there = torch.ones_like(probabilities)
        weighted = torch.cat([probabilities, there]) * factors.repeat(2)[:, None, None, None]
        series = MetaTensor(weighted, affine=self._aligned(item))
        if self._sums is None:  # the reference, whose original grid the mask gets
            self._affine = torch.as_tensor(np.asarray(item["image"].meta["original_affine"], dtype=float))
            self._shape = tuple(int(side) for side in item["image"].meta["spatial_shape"])
        resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=np.float32)
        on_grid = cast(MetaTensor, resample(series, dst_affine=self._affine, spatial_size=self._shape)).as_tensor()
        self._sums = on_grid if self._sums is None else self._sums + on_grid
        self._used.append(item["mri_type"])

    def _aligned(self, item: Mapping[str, Any]) -> torch.Tensor:
        """The affine of a series in the scanner's coordinates of the patient's first one."""
        affine: torch.Tensor = item["image"].affine
        if not self.register:
            return affine
        moving = item["image"].as_tensor()[0].cpu().numpy(), affine.cpu().numpy()
        if self._sums is None:
            self._first, self._name = moving, item["mri_type"]
            return affine
        transform = registration.register(moving, self._first)
        names = item["patient"], item["mri_type"], self._name, item["mri_type"]
        registration.write_transform(transform, self.output_dir / "masks", *names)
        logger.info(
            "patient %s: %s: the head moved %.1f mm and %.1f°",
            item["patient"],
            item["mri_type"],
            transform.shift,
            transform.angle,
        )
        return torch.from_numpy(np.linalg.inv(transform.matrix)).to(affine) @ affine

    def _finish(self, patient: str) -> dict[str, Any]:
        """Write the mask of a patient; its row."""
        sums, used, reasons = self._sums, self._used, self._reasons
        self._sums, self._used, self._reasons = None, [], []
        if sums is None:
            return {"patient": patient, "mri_type": "", "reason": "; ".join(reasons)}
        enhancing = any(self.weights["ET"].get(name, 0) > 0 for name in used)  # whether any series may show ET
        found = (sums[:2] / sums[2:].clamp(min=1e-6) >= self.threshold).numpy()
        masks = np.moveaxis(found[: 2 if enhancing else 1], 0, 1)  # the planes across the first axis as slices
        affine = self._affine.numpy()
        file = inside(self.output_dir, "masks", f"{patient}.nii.gz")
        save_label_map(label_map(masks), affine, file)
        volumes = in_millilitres(region_volumes(masks, abs(float(np.linalg.det(affine[:3, :3])))))
        return {"patient": patient, "mri_type": "+".join(used), **volumes, "file": f"masks/{file.name}"}

    def write(self, entries: Sequence[Mapping[str, Any]] = ()) -> Path:
        """Write ``volumes.csv``, one row a patient, those of ``entries`` without a series included; all processes must call this."""
        return write_volumes(self.rows, self.output_dir, entries, self.output_dir / "done")
