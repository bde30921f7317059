"""Loading of training data: slices per second of a shuffled loader with one worker, and bytes on disk."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import Dataset as ItemDataset
from torch.utils.data import DataLoader, Dataset

import radiogenomics
from custom_transforms import ChunkSlices
from scripts import datalists, loading
from scripts.prepared import write_series

from . import process, published, report, study, weights

LENGTH, STRIDE = 35, 5
PLANES = ("coronal", "sagittal")
"""Planes of stage 1 whose slices have one size before they are resized for the network."""


class Keys(Dataset):
    """A dataset of dictionaries, reduced to what both ways deliver."""

    def __init__(self, dataset: Dataset, keys: Sequence[str]) -> None:
        self.dataset, self.keys = dataset, keys

    def __len__(self) -> int:
        """Number of items."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The arrays of one item."""
        item = self.dataset[index]
        return {key: item[key] for key in self.keys}


def main(repeats: int = 3, cache: str | Path = study.CACHE, seconds: float = 10.0) -> str:
    """Measure the loaders of both stages.

    Args:
        repeats: rounds; in every round each loader runs once.
        cache: folder for the prepared data.
        seconds: of one measurement; whole epochs are run until they have passed.

    Returns:
        The section of the report.
    """
    folder = Path(cache) / "loader"
    shutil.rmtree(folder, ignore_errors=True)
    rows = []
    for stage, (theirs, ours, batch, slices) in {
        "stage 1, slices with masks": (*segmentation(folder, Path(cache)), 16, 1),
        f"stage 2, sequences of {LENGTH} slices": (*classification(folder, Path(cache)), 4, LENGTH),
    }.items():
        found: dict[str, list[float]] = {"published": [], "ours": []}
        for _ in range(repeats):
            for name, dataset in (("published", theirs), ("ours", ours)):
                found[name].append(slices * items_per_second(dataset, batch, seconds))
        home = folder / stage.split(",")[0].replace(" ", "")
        base = statistics.median(found["published"])
        for name, rates in found.items():
            row = {"": f"{stage}: {name}", "slices / s": report.spread(rates, ""), "items": len(theirs)}  # type: ignore[arg-type]
            row["times as fast"] = f"{statistics.median(rates) / base:.2f}"
            rows.append({**row, "on disk": report.megabytes(process.size_on_disk(home / name))})
    return report.section(
        "Loading",
        "Shuffled loaders with one worker process; the files are in the system's cache. Both deliver the same values, as released in "
        "float32, ours in uint8. "
        f"Medians of {repeats} (smallest to largest).",
        report.table(rows),
    )


def segmentation(folder: Path, cache: Path) -> tuple[Dataset, Dataset]:
    """Datasets of stage 1 as released and ours, of the cohort's labelled volumes: the slices of one size, for batches."""
    source, home = study.cohort(cache) / "task1", folder / "stage1"
    theirs = published.prepare_segmentation(datalists.find_studies(source), home / "published")
    ours = radiogenomics.prepare("segmentation", home / "ours", input=source, num_workers=0)
    items = loading.slice_items(datalists.find_studies(source), ours)
    items = [item for item in items if item["plane"] in PLANES]
    theirs = [item for item in theirs if Path(item["image"]).name.startswith(PLANES)]
    assert len(items) == len(theirs), f"{len(items)} slices are ours, {len(theirs)} as released"
    dataset = Keys(ItemDataset(items, loading.LoadSlice()), ("image", "label"))
    return published.SegmentationFiles(theirs), dataset


def classification(folder: Path, cache: Path) -> tuple[Dataset, Dataset]:
    """Datasets of stage 2 as released and ours: slices with tumour of the cohort's series, with their true masks."""
    sequences: list[list[str]] = []
    items: list[dict[str, Any]] = []
    chunks = ChunkSlices(LENGTH, STRIDE)
    for number, series in enumerate(weights.training_series(cache)):
        image, masks = series.image.numpy(), series.masks.numpy()
        kept = np.flatnonzero(masks[:, 0].any((1, 2)))
        home = folder / "stage2" / "published" / f"{number:02d}"
        home.mkdir(parents=True)
        for index in kept:
            np.save(home / f"{index:03d}.npy", np.stack([image[index], *(masks[index] * 255)], axis=-1))
        files = sorted(map(str, home.iterdir()))
        sequences += published.chunks(files, LENGTH, STRIDE)
        file = folder / "stage2" / "ours" / f"{number:02d}.h5"
        write_series(file, image[kept], kept, masks > 0, {})
        bounds = chunks.bounds(len(kept))
        items += [{"series": str(file), "start": start, "stop": stop, "label": series.label} for start, stop in bounds]
    dataset = Keys(ItemDataset(items, loading.LoadSequence(LENGTH)), ("image", "label"))
    labels = [item["label"] for item in items]
    return _Labelled(published.SliceSequences(sequences, LENGTH), labels), dataset


class _Labelled(Dataset):
    """Sequences with their labels."""

    def __init__(self, sequences: Dataset, labels: Sequence[int]) -> None:
        self.sequences, self.labels = sequences, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.sequences[index], "label": np.array([self.labels[index]], dtype=np.float32)}


def items_per_second(dataset: Dataset, batch_size: int | None, seconds: float) -> float:
    """Items per second of whole shuffled epochs, the worker's start left out."""
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=1, persistent_workers=True)
    for _ in loader:  # starts the worker, and brings the files into the system's cache
        pass
    began, epochs = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in loader:
            pass
        epochs += 1
    return epochs * len(dataset) / (time.perf_counter() - began)  # type: ignore[arg-type]
