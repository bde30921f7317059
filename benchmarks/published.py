"""The method as it was released in 2021: the reference of the benchmarks, not a way for users.

Our own plain code after the facts of the T4E solution (gallegi/T4E_MICCAI_BrainTumor), none of it taken from there:

- float32, eager PyTorch, NCHW, no autocast.
- Patient by patient, a pool of processes reads the series. The slices of all series of a patient go through the
  segmentation network 64 at a time, resized and normalised one by one in loader processes. A pool of processes resizes
  the masks to the slices, filters, and writes each slice that is kept as one ``.npy`` file, ``(H, W, 3)`` uint8.
- Modality by modality, sequences of 35 slices are read from these files, four sequences a batch, and go whole through the
  classifier: a slice passes the backbone once for every sequence that it is in, up to 7 times.
- Stage 1 stores slices as float32 ``(H, W)`` and masks as float32 ``(2, H, W)``, shared by the modalities of a patient.

Where this project departs from the release on purpose, the reference follows the project, so that masks and probabilities
can be compared: slices come from the project's reader, in the order of their geometry; the segmentation network sees the
8-bit slices; masks are padded with background, not by reflection; the magnification before classification is one
interpolation, not two; patients without a usable slice stay, with the prior; all modalities asked for are classified, not
FLAIR alone. Kinder than the release: no gradients are recorded while segmenting.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import fire
import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import LoadImage
from torch import nn
from torch.utils.data import DataLoader, Dataset

from custom_transforms import AcquisitionSlices, SeriesReader, SliceGeometry
from scripts import weights
from scripts.datalists import MRI_TYPES, find_studies, write_json
from scripts.files import write_csv
from scripts.masks import claimed, label_map, save_label_map
from scripts.networks import build_classifier, build_segmenter

MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)

SEGMENTATION_BATCH = 64  # slices
CLASSIFICATION_BATCH = 4  # sequences
WORKERS = 4  # processes of every pool and every loader


@dataclass
class Series:
    """The usable slices of one series: images ``(n, H, W)`` uint8 and their indices among all ``n_slices``."""

    mri_type: str
    images: np.ndarray
    foreground: np.ndarray
    n_slices: int
    geometry: SliceGeometry


@dataclass
class Numbers:
    """The numbers of the method."""

    zoom: float = 1.2
    min_foreground: float = 0.1
    min_tumor_ratio: float = 0.025
    max_contours: int = 5


def predict(
    input: str | Path,
    output: str | Path,
    segmenter: str | Path,
    classifier: str | Path,
    mri_types: Sequence[str] | str = MRI_TYPES,
    min_tumor_ratio: float = 0.025,
    max_contours: int = 5,
    zoom: float = 1.2,
    prior: float = 0.5,
    workers: int = WORKERS,
    masks: str | Path | None = None,
) -> None:
    """Write ``slices/<patient>/<mri_type>/NNN.npy``, ``submission.csv`` and ``patients.json``.

    Args:
        input: folder of studies.
        output: folder for the results.
        segmenter: segmentation weights.
        classifier: classifier weights for all modalities, or a folder of ``model_<mri_type>.pt``.
        mri_types: modalities whose probabilities are averaged.
        min_tumor_ratio: tumour over brain area that a slice must exceed; negative keeps all slices with 1 to
            ``max_contours`` tumour contours.
        max_contours: tumour contours in a slice at most.
        zoom: magnification about the centre of a slice.
        prior: probability of patients without a usable slice.
        workers: processes of every pool and every loader.
        masks: folder for label maps, which the release did not write; only for comparison.
    """
    names = mri_types.split(",") if isinstance(mri_types, str) else list(mri_types)
    numbers = Numbers(zoom=zoom, min_tumor_ratio=min_tumor_ratio, max_contours=max_contours)
    entries = find_studies(input)
    settings = weights.segmenter_settings(segmenter)
    network = weights.load_weights(build_segmenter(settings), segmenter).eval()
    rows = {}
    for entry in entries:
        asked = [name for name in names if name in entry]
        with _pool(workers) as pool:
            arguments = [(name, entry[name], numbers.min_foreground) for name in asked]
            study = pool.starmap(read_series, arguments, chunksize=1)
        small = segment(study, network, settings["image_size"], zoom, workers)
        folder = Path(output) / "slices" / entry["patient"]
        files = write_slices(study, small, folder, numbers, workers)
        if masks is not None:
            write_label_maps(entry["patient"], study, small, zoom, masks)
        rows[entry["patient"]] = {
            series.mri_type: {"slices": series.n_slices, "foreground": len(series.images), "files": files[index]}
            for index, series in enumerate(study)
        }
    del network
    found = weights.find_classifiers(classifier, "", names)
    settings = weights.classifier_settings(found)
    for name, file in found.items():
        if file is None:
            continue
        model = build_classifier(settings)
        classify(rows, name, weights.load_weights(model, file).eval(), settings, zoom, workers)
    write_results(rows, output, prior)


def _pool(workers: int) -> Any:
    # one thread each: the parent's threads do not survive the fork
    return multiprocessing.get_context("fork").Pool(max(workers, 1), torch.set_num_threads, (1,))


# ---------------------------------------------------------------------------------------------------------------------
# series to slices with masks


def read_series(mri_type: str, path: str, min_foreground: float) -> Series:
    """Read a series, leave out slices with few pixels above 0, and scale the rest together to 0…255."""
    volume = LoadImage(reader=SeriesReader(), image_only=True, ensure_channel_first=True)(path)
    stack, geometry = AcquisitionSlices()(volume)
    slices = stack.numpy()
    foreground = np.flatnonzero([np.mean(image > 0) > min_foreground for image in slices])
    images = slices[foreground].astype(np.float64)
    if len(images):
        low, high = images.min(), images.max()
        images = (images - low) / max(high - low, np.finfo(float).tiny) * 255
    return Series(mri_type, images.astype(np.uint8), foreground, len(slices), geometry)


class SegmentationSlices(Dataset):
    """Slices as the segmentation network wants them: the normalised centre ``(3, S, S)`` of the resized slice."""

    def __init__(self, images: Sequence[np.ndarray], image_size: int, zoom: float) -> None:
        self.images, self.image_size, self.zoom = images, image_size, zoom

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        """One slice."""
        whole = int(self.image_size * self.zoom)
        before = (whole - self.image_size) // 2
        image = torch.from_numpy(self.images[index])[None, None].float()
        image = F.interpolate(image, size=(whole, whole), mode="bilinear", align_corners=False)[0]
        centre = image[:, before : before + self.image_size, before : before + self.image_size]
        return (centre.repeat(3, 1, 1) - MEAN) / STD


@torch.no_grad()
def segment(study: Sequence[Series], network: nn.Module, image_size: int, zoom: float, workers: int) -> np.ndarray:
    """Masks ``(n, 2, S, S)`` uint8 of the centres of all slices of a patient."""
    images = [image for series in study for image in series.images]
    loader = DataLoader(SegmentationSlices(images, image_size, zoom), SEGMENTATION_BATCH, num_workers=workers)
    found = [(network(batch).sigmoid() > 0.5).to(torch.uint8).numpy() for batch in loader]
    return np.concatenate([np.zeros((0, 2, image_size, image_size), np.uint8), *found])


def restore(small: np.ndarray, shape: Sequence[int], zoom: float) -> np.ndarray:
    """Masks ``(2, H, W)`` uint8 of a whole slice from those of its centre, ``(2, S, S)``."""
    size = small.shape[-1]
    whole = int(size * zoom)
    before = (whole - size) // 2
    after = whole - size - before
    padded = F.pad(torch.from_numpy(small)[None].float(), (before, after, before, after))
    resized = F.interpolate(padded, size=tuple(shape), mode="bilinear", align_corners=False)[0]
    return (resized >= 0.5).to(torch.uint8).numpy()


def write_slices(
    study: Sequence[Series], small: np.ndarray, folder: Path, numbers: Numbers, workers: int
) -> list[list[str]]:
    """Filter and write the slices of a patient; the files of each series."""
    jobs = []
    starts = np.cumsum([0, *(len(series.images) for series in study)])
    for series, start in zip(study, starts, strict=False):
        (folder / series.mri_type).mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(series.images):
            path = folder / series.mri_type / f"{series.foreground[index]:03d}.npy"
            jobs.append((image, small[start + index], str(path), numbers))
    with _pool(workers) as pool:
        written = [handle.get() for handle in [pool.apply_async(write_slice, job) for job in jobs]]
    return [
        [path for path in written[start : start + len(series.images)] if path is not None]
        for series, start in zip(study, starts, strict=False)
    ]


def write_slice(image: np.ndarray, small: np.ndarray, path: str, numbers: Numbers) -> str | None:
    """Write one slice with its masks if it is kept; its file, or None."""
    wt, et = restore(small, image.shape, numbers.zoom)
    if not is_kept(image, wt, numbers):
        return None
    np.save(path, np.stack([image, wt * 255, et * 255], axis=-1))
    return path


def is_kept(image: np.ndarray, wt: np.ndarray, numbers: Numbers) -> bool:
    """Whether a slice shows enough tumour, in not too many pieces."""
    tumours, _ = cv2.findContours(wt, cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    if not 1 <= len(tumours) <= numbers.max_contours:
        return False
    if numbers.min_tumor_ratio < 0:
        return True
    brains, _ = cv2.findContours((image > 1).astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    brain = max((cv2.contourArea(contour) for contour in brains), default=0)
    return brain > 0 and max(map(cv2.contourArea, tumours)) / brain > numbers.min_tumor_ratio


def write_label_maps(patient: str, study: Sequence[Series], small: np.ndarray, zoom: float, folder: str | Path) -> None:
    """Write the label map of every series of a patient, for the comparison with the project's."""
    start = 0
    for series in study:
        height, width = series.geometry.stack_shape[1:]
        masks = np.zeros((series.n_slices, 2, height, width), np.uint8)
        for index, slice_index in enumerate(series.foreground):
            masks[slice_index] = restore(small[start + index], (height, width), zoom)
        start += len(series.images)
        volume = np.asarray(series.geometry.to_volume(label_map(claimed(masks, series.mri_type))))
        save_label_map(volume, series.geometry.affine, Path(folder) / f"{patient}_{series.mri_type}.nii.gz")


# ---------------------------------------------------------------------------------------------------------------------
# slices to probabilities


def chunks(files: Sequence[str], length: int, stride: int) -> list[list[str]]:
    """Sequences of at most ``length`` files, ``stride`` apart."""
    count = max(int(np.ceil((len(files) - length) / stride)) + 1, 1) if files else 0
    return [list(files[index * stride : index * stride + length]) for index in range(count)]


class SliceSequences(Dataset):
    """Sequences of prepared slices from their files, ``(length * 3, H, W)`` float32 in 0…255, black at a short one's end."""

    def __init__(self, sequences: Sequence[Sequence[str]], length: int) -> None:
        self.sequences, self.length = sequences, length

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.sequences)

    def __getitem__(self, index: int) -> torch.Tensor:
        """One sequence."""
        slices = np.stack([np.load(file) for file in self.sequences[index]])
        padded = np.zeros((self.length, *slices.shape[1:]), np.float32)
        padded[: len(slices)] = slices
        return torch.from_numpy(padded).permute(0, 3, 1, 2).flatten(0, 1)


class ClassificationSequences(SliceSequences):
    """Sequences as the classifier wants them: magnified and normalised, ``(length, 3, S, S)``."""

    def __init__(self, sequences: Sequence[Sequence[str]], length: int, image_size: int, zoom: float) -> None:
        super().__init__(sequences, length)
        self.image_size, self.zoom = image_size, zoom

    def __getitem__(self, index: int) -> torch.Tensor:
        """One sequence."""
        slices = super().__getitem__(index).unflatten(0, (self.length, 3))
        scale = torch.tensor([[[1 / self.zoom, 0, 0], [0, 1 / self.zoom, 0]]]).expand(self.length, 2, 3)
        grid = F.affine_grid(scale, [self.length, 3, self.image_size, self.image_size], align_corners=False)
        return (F.grid_sample(slices, grid, align_corners=False) - MEAN) / STD


@torch.no_grad()
def classify(
    rows: Mapping[str, Mapping[str, dict[str, Any]]],
    mri_type: str,
    network: nn.Module,
    settings: Mapping[str, Any],
    zoom: float,
    workers: int,
) -> None:
    """Add to the rows of all patients the probabilities of the sequences of one modality."""
    owners, sequences = [], []
    for row in rows.values():
        if mri_type in row:
            row[mri_type]["sequences"] = []
            cut = chunks(row[mri_type]["files"], settings["sequence_length"], settings["stride"])
            sequences += cut
            owners += [row[mri_type]] * len(cut)
    dataset = ClassificationSequences(sequences, settings["sequence_length"], settings["image_size"], zoom)
    loader = DataLoader(dataset, CLASSIFICATION_BATCH, num_workers=workers)
    found = [value for batch in loader for value in network(batch).sigmoid().flatten().tolist()] if sequences else []
    for owner, probability in zip(owners, found, strict=True):
        owner["sequences"].append(probability)


def write_results(rows: Mapping[str, Mapping[str, dict[str, Any]]], output: str | Path, prior: float) -> None:
    """Write the submission and the figures behind it."""
    patients: list[dict[str, Any]] = []
    for patient, row in rows.items():
        series = {}
        for mri_type, facts in row.items():
            values = facts.get("sequences", [])
            counts = {"slices": facts["slices"], "foreground": facts["foreground"], "kept": len(facts["files"])}
            series[mri_type] = {
                **counts,
                "sequences": values,
                "probability": float(np.mean(values)) if values else None,
            }
        known = [facts["probability"] for facts in series.values() if facts["probability"] is not None]
        probability = float(np.mean(known)) if known else prior
        patients.append({"patient": patient, "probability": probability, "series": series})
    submission = [{"BraTS21ID": row["patient"], "MGMT_value": f"{row['probability']:.6f}"} for row in patients]
    write_csv(submission, Path(output) / "submission.csv")
    write_json({"patients": patients}, Path(output) / "patients.json")


# ---------------------------------------------------------------------------------------------------------------------
# stage 1: volumes with labels


def prepare_segmentation(
    entries: Iterable[Mapping[str, str]], folder: str | Path, min_tumor_ratio: float = 0.01, keep_rate: float = 0.1
) -> list[dict[str, str]]:
    """Write the training slices of stage 1, one ``.npy`` file for each image and for each pair of masks.

    Slices are turned as the project turns them. The release kept the fractions of the scaled images, and so does this.

    Returns:
        ``{"image", "label"}`` files of every slice.
    """
    read = LoadImage(reader=SeriesReader(), image_only=True, ensure_channel_first=True)
    items = []
    for entry in entries:
        seg = _to_ras(read(entry["seg"]))
        masks = np.stack([seg > 0, (seg == 4) | (seg == 3)]).astype(np.float32)
        for mri_type in (name for name in MRI_TYPES if name in entry):
            volume = _to_ras(read(entry[mri_type]))
            volume = (volume - volume.min()) / (volume.max() - volume.min()) * np.float32(255)
            for axis, plane in enumerate(("sagittal", "coronal", "axial")):
                kept = np.flatnonzero(np.moveaxis(masks[0], axis, 0).mean(axis=(1, 2)) > min_tumor_ratio)
                for number, index in enumerate(kept[:: max(round(keep_rate * len(kept)), 1)]):
                    home = Path(folder) / entry["patient"]
                    files = {
                        "image": home / mri_type / f"{plane}_{number:03d}.npy",
                        "label": home / "segmask" / f"{plane}_{number:03d}.npy",
                    }
                    for file, array in zip(files.values(), (volume[None], masks), strict=True):
                        file.parent.mkdir(parents=True, exist_ok=True)
                        shown = np.flip(array.take(index, axis + 1).swapaxes(1, 2), (1, 2))
                        np.save(file, np.ascontiguousarray(shown[0] if len(shown) == 1 else shown))
                    items.append({key: str(file) for key, file in files.items()})
    return items


def _to_ras(volume: Any) -> np.ndarray:
    """The voxels ``(X, Y, Z)`` with axes to the right, front and head."""
    orientation = nib.orientations.io_orientation(np.asarray(volume.affine))
    return nib.orientations.apply_orientation(volume[0].numpy(), orientation)


class SegmentationFiles(Dataset):
    """Training slices of stage 1 from their files: ``image`` ``(1, H, W)`` and ``label`` ``(2, H, W)`` float32."""

    def __init__(self, items: Sequence[Mapping[str, str]]) -> None:
        self.items = items

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One slice."""
        image, label = (np.load(self.items[index][key]) for key in ("image", "label"))
        return {"image": torch.from_numpy(image)[None], "label": torch.from_numpy(label)}


if __name__ == "__main__":
    fire.Fire(predict)
