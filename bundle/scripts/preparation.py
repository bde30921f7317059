"""Preparation: from series to prepared series, once, resumable, with the reason for everything left out.

The rest of stage 1 is in :mod:`scripts.slice_preparation`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Transform
from torch.utils.data import DataLoader
from tqdm import tqdm

from . import distributed, memory
from .datalists import MRI_TYPES
from .errors import reason
from .evaluation import fingerprints, leakage
from .files import FileError, WriteError, read_json, write_json
from .inferers import NonFiniteError
from .outputs import SERIES_SUFFIX, inside
from .prepared import PreparedError, PreparedSeries, write_series
from .studies import pseudonyms

logger = logging.getLogger(__name__)


def fingerprint(configuration: Mapping[str, Any], *sources: str | Path | Sequence[str]) -> str:
    """A checksum of a configuration and of names, sizes and times of the files it is applied to.

    Args:
        configuration: of the job.
        sources: of each series the file, the folder, or the files.
    """
    files = []
    for source in sources:
        paths = [Path(source)] if isinstance(source, (str, Path)) else [Path(file) for file in source]
        listed = sorted(paths[0].iterdir()) if len(paths) == 1 and paths[0].is_dir() else paths
        files += [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in listed if path.is_file()]
    return hashlib.sha256(json.dumps([configuration, files], sort_keys=True, default=str).encode()).hexdigest()


def series_items(
    entries: Iterable[Mapping[str, Any]],
    prepared_dir: str | Path,
    configuration: Mapping[str, Any],
    mri_types: Sequence[str] = MRI_TYPES,
) -> list[dict[str, Any]]:
    """One item per series of the patients: those of :func:`series_of` with ``output`` and ``fingerprint``."""
    return [
        {
            **item,
            "output": str(inside(prepared_dir, item["patient"], f"{item['mri_type']}{SERIES_SUFFIX}")),
            "fingerprint": fingerprint(configuration, item["image"]),
        }
        for entry in entries
        for item in series_of(entry, mri_types)
    ]


def series_of(entry: Mapping[str, Any], mri_types: Sequence[str] = MRI_TYPES) -> list[dict[str, Any]]:
    """One item per series of a patient: ``patient``, ``mri_type``, ``image``, its files, and ``study``, the files of all by modality."""
    study = {name: entry[name] for name in mri_types if name in entry}
    known = {"patient": entry["patient"], "study": study, **pseudonyms.name_of(entry)}
    return [{**known, "mri_type": name, "image": files} for name, files in study.items()]


def pending(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The items without a prepared series of the same fingerprint."""
    todo = [dict(item) for item in items if not _is_prepared(item)]
    logger.info("%d series: %d prepared before, %d to prepare", len(items), len(items) - len(todo), len(todo))
    return todo


def _is_prepared(item: Mapping[str, Any]) -> bool:
    if not Path(item["output"]).is_file():
        return False
    try:
        return PreparedSeries(item["output"]).info.get("fingerprint") == item["fingerprint"]
    except PreparedError:
        return False


class SeriesDataset(Dataset):
    """A dataset in which an item that can't be read is an empty stack ``image`` ``(0, 1, 1)`` with the reason in ``error``."""

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        """The transformed item, with ``read_seconds`` and ``ready``, the time at which it was read."""
        started = time.time()
        item = {**self.data[index], "error": ""}
        try:
            with pseudonyms.quiet(pseudonyms.CALLED in item):
                item = _unnamed(self.transform(item))
            return {**item, "ready": time.time(), "read_seconds": time.time() - started}
        except Exception as error:
            cause: BaseException = error
            while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
                cause = cause.__cause__  # below MONAI's «applying transform …» wrappers
            if isinstance(cause, WriteError):
                raise cause from None  # the output's disk, which no other series would find better
            return _failed(item, cause)
        finally:
            memory.release()


def _failed(item: Mapping[str, Any], error: BaseException) -> dict[str, Any]:
    text = reason(error)
    if "patient" in item:  # the row names them
        text = text.removeprefix(f"patient {item['patient']}: ").removeprefix(f"{item.get('mri_type')}: ")
    return {
        **item,
        "image": torch.zeros((0, 1, 1), dtype=torch.uint8),
        "slices": torch.zeros(0, dtype=torch.int64),
        "classified": torch.zeros(0, dtype=torch.int64),
        "geometry": None,
        "n_slices": 0,
        "warnings": [pseudonyms.hide(text, item) for text in item.get("warnings", [])],
        "error": pseudonyms.hide(text, item),
    }


def _unnamed(item: dict[str, Any]) -> dict[str, Any]:
    """An item of a deidentified run without what leads back to the patient; another as it is."""
    if pseudonyms.CALLED not in item:
        return item
    known = {key: value for key, value in item.get("identity", {}).items() if key != "person"}
    return {**item, "warnings": [pseudonyms.hide(text, item) for text in item.get("warnings", [])], "identity": known}


class SeriesEvaluator(SupervisedEvaluator):
    """MONAI's evaluator of series one by one; one with an answer that is not finite comes out as :class:`SeriesDataset`'s failures do."""

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> dict:
        try:
            return super()._iteration(engine, batchdata)
        except NonFiniteError as error:
            engine.state.batch = _failed(batchdata, error)
            return super()._iteration(engine, engine.state.batch)


class SliceIndices(Transform):
    """Count and number the slices of ``image`` ``(N, H, W)``, so that it is known which ones filters kept."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``n_slices`` and ``slices`` ``(N,)``."""
        count = len(data["image"])
        return {**data, "n_slices": count, "slices": torch.arange(count)}


class KeepListed(Transform):
    """Keep the slices of stacks ``(N, …)`` whose number in ``slices`` is among those of the key ``listed``."""

    def __init__(self, keys: Sequence[str], listed: str) -> None:
        self.keys, self.listed = keys, listed

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with shorter stacks."""
        kept = torch.isin(torch.as_tensor(data["slices"]), torch.as_tensor(data[self.listed]))
        return {**data, **{key: data[key][kept.to(data[key].device)] for key in self.keys}}


class KeepFacts(Transform):
    """Copy what is known of ``image`` out of its metadata, before they go: the reader's warnings, the name of what it read, the
    scanner; and, for the guard against leaks, checksums of its pixels and of the PatientID, and the fingerprint of what it looks like.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``warnings``, a list of sentences, ``source``, a path, and ``identity``."""
        meta, image = data["image"].meta, data["image"].numpy()
        identity = {
            "pixels": leakage.pixel_fingerprint(image),
            "looks": fingerprints.fingerprint(image[0], np.asarray(meta["affine"])),
            "person": leakage.anonymous(meta.get("patient_id", "")),
            "scanner": meta.get("scanner", ""),
        }
        known = {"warnings": list(meta.get("warnings", [])), "source": str(meta["filename_or_obj"])}
        return {**data, **known, "identity": {key: value for key, value in identity.items() if value}}


class SaveSeries(Transform):
    """Write the prepared series of an item: kept slices, masks of all slices, geometry and facts.

    Expects ``image`` ``(K, H, W)`` and ``slices`` ``(K,)`` after the filters, ``masks`` ``(n, 2, H, W)`` and ``foreground``
    ``(n,)``, the slices that were segmented. Adds ``summary`` for the index; an item with an ``error`` is only summarised.
    """

    def __init__(self) -> None:
        self._free = 0.0

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``summary``."""
        summary = {"patient": data["patient"], "mri_type": data["mri_type"], "warnings": list(data["warnings"])}
        if data["error"]:
            return {**data, "summary": {**summary, "error": data["error"]}}
        image, foreground = as_array(data["image"]), as_array(data["foreground"])
        found = as_array(data["masks"]).astype(bool)
        masks = np.zeros((data["n_slices"], *found.shape[1:]), dtype=bool)
        masks[foreground] = found
        summary |= {"slices": data["n_slices"], "foreground": len(foreground), "kept": len(image)}
        # items are read ahead: the work on this one began when it was ready and the one before it was done
        summary["seconds"] = round(data["read_seconds"] + time.time() - max(data["ready"], self._free), 3)
        info = {**summary, **data.get("identity", {}), "fingerprint": data["fingerprint"]}
        write_series(data["output"], image, as_array(data["slices"]), masks, info, data["geometry"])
        memory.release()
        self._free = time.time()
        return {**data, "summary": summary}


def as_array(tensor: torch.Tensor | np.ndarray) -> np.ndarray:
    """A tensor of any device as an array."""
    return tensor.cpu().numpy() if isinstance(tensor, torch.Tensor) else np.asarray(tensor)


class PreparationIndex:
    """Ignite handler that writes ``index.json`` beside the prepared series: their configuration, and one row per requested item."""

    def __init__(
        self, prepared_dir: str | Path, configuration: Mapping[str, Any], items: Sequence[Mapping[str, Any]]
    ) -> None:
        self.prepared_dir, self.configuration, self.items = Path(prepared_dir), dict(configuration), items
        self.errors: dict[str, dict[str, Any]] = {}

    def attach(self, engine: Engine) -> None:
        """Collect after every series."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Keep the reason of a series that failed, and log it."""
        output: Any = engine.state.output
        summary = output["summary"]
        if "error" in summary:
            name = name_of(summary)
            logger.warning("%s: %s", name, summary["error"])
            self.errors[name] = dict(summary)

    def write(self) -> dict[str, dict[str, Any]]:
        """Write the index and return its rows, ``"<patient>/<mri_type>" -> {"file", "slices", "kept", … | "error"}``.

        Several processes must call this together, when each is done with its share.
        """
        self.errors = gather_errors(self.errors)
        rows = write_index(self.prepared_dir, self.configuration, self.items, self.errors)
        kept = sum(1 for row in rows.values() if row.get("kept"))
        logger.info(
            "%s: %d series, %d with usable slices, %d failed", self.prepared_dir, len(rows), kept, len(self.errors)
        )
        return rows


def gather_errors(errors: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The failed series of all processes, which only the first logs."""
    gathered = dict(errors)
    for part in distributed.gather(gathered.copy()):
        for name, summary in part.items():
            if name not in gathered:
                logger.warning("%s: %s", name, summary["error"])
                gathered[name] = summary
    return gathered


def row_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """The beginning of an item's row in the index."""
    plane = {"plane": item["plane"]} if "plane" in item else {}
    return {"patient": item["patient"], "mri_type": item["mri_type"], "warnings": [], **plane}


def name_of(item: Mapping[str, Any]) -> str:
    """The name of an item's row in the index: ``"<patient>/<mri_type>"``, in stage 1 with ``"/<plane>"``."""
    return "/".join(item[key] for key in ("patient", "mri_type", "plane") if key in item)


@distributed.by_first
def write_index(
    prepared_dir: str | Path,
    configuration: Mapping[str, Any],
    items: Iterable[Mapping[str, Any]],
    errors: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Write ``index.json`` and return its rows, one per item: ``{"file", "slices", "kept", … | "error"}`` by :func:`name_of`.

    Args:
        prepared_dir: folder of the prepared series.
        configuration: what they are made with.
        items: all items asked for, each with ``patient``, ``mri_type``, ``output`` and, in stage 1, ``plane``.
        errors: rows of the items that failed, by :func:`name_of`.
    """
    rows: dict[str, dict[str, Any]] = {}
    for item in items:
        name, file = name_of(item), Path(item["output"])
        if name in errors:  # even where an earlier preparation left a file
            rows[name] = dict(errors[name])
        elif file.is_file():
            place = Path(os.path.relpath(file, prepared_dir)).as_posix()
            rows[name] = {"file": place, **PreparedSeries(file).info}
        else:
            rows[name] = {**row_of(item), "error": "not prepared"}
    write_json({"configuration": dict(configuration), "series": rows}, Path(prepared_dir) / "index.json")
    return rows


def read_index(prepared_dir: str | Path) -> dict[str, dict[str, Any]]:
    """Rows of ``index.json``, with absolute ``file`` paths.

    Raises:
        PreparedError: when there is no index.
    """
    path = Path(prepared_dir) / "index.json"
    if not path.is_file():
        raise PreparedError(f"{path}: no such index; prepare into {prepared_dir} first (`radiogenomics prepare`)")
    again = f"prepare into {prepared_dir} again"
    try:
        content = read_json(path, again)
    except FileError as error:
        raise PreparedError(str(error)) from error
    rows = content.get("series") if isinstance(content, dict) else None
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise PreparedError(f"{path}: holds no series; {again}")
    return {
        name: {**row, "file": str(Path(prepared_dir) / row["file"])} if "file" in row else row
        for name, row in rows.items()
    }


def prepare(
    items: Sequence[Mapping[str, Any]],
    transform: Callable[[Mapping[str, Any]], dict[str, Any]],
    prepared_dir: str | Path,
    configuration: Mapping[str, Any],
    num_workers: int = 0,
) -> dict[str, dict[str, Any]]:
    """Prepare the items that are not prepared yet, each process its share; write the index and return its rows.

    Args:
        items: from :func:`series_items` or :func:`scripts.slice_preparation.segmentation_items`.
        transform: reads one item, and saves what is made of it.
        prepared_dir: folder of the prepared series.
        configuration: what they are made with.
        num_workers: processes that read ahead.
    """
    mine = distributed.share(items)
    missing = {(item["patient"], item["mri_type"]) for item in pending(_by_plane(mine))}
    todo = [dict(item) for item in mine if (item["patient"], item["mri_type"]) in missing]
    errors: dict[str, dict[str, Any]] = {}
    for done in one_by_one(SeriesDataset(todo, transform), "prepare", num_workers):
        if done["error"]:
            logger.warning("%s/%s: %s", done["patient"], done["mri_type"], done["error"])
            for part in _by_plane([done]):
                errors[name_of(part)] = {**row_of(part), "error": done["error"]}
    rows = write_index(prepared_dir, configuration, _by_plane(items), gather_errors(errors))
    logger.info("%s: %d slices kept", prepared_dir, sum(row.get("kept", 0) for row in rows.values()))
    return rows


def _by_plane(items: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The items of volumes, ``outputs`` by plane, once for each plane; those of whole series as they are."""
    return [
        part
        for item in items
        for part in (
            [{**item, "output": output, "plane": plane} for plane, output in item["outputs"].items()]
            if "outputs" in item
            else [item]
        )
    ]


def one_by_one(dataset: Any, what: str, num_workers: int = 0) -> Iterable[dict[str, Any]]:
    """The items of a dataset of series, not batched, as these differ in size, with a bar that the first process shows."""
    loader: DataLoader = DataLoader(dataset, batch_size=None, num_workers=num_workers, collate_fn=as_is)
    return tqdm(loader, desc=what, unit="series", disable=not len(dataset) or not distributed.is_first())


def as_is(item: Any) -> Any:
    """Collate function of a loader whose items are not batched: whole series differ in size."""
    return item
