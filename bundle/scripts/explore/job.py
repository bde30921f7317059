"""The job `explore`: the facts of all series, once, resumable; then the page."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import distributed
from ..datalists import MRI_TYPES, DataListError, select
from ..files import read_note, write_json
from ..preparation import fingerprint, one_by_one
from .facts import ReadFacts
from .page import PAGE, write_page_of

logger = logging.getLogger(__name__)

VERSION = 1
"""Version of the facts; others are read again."""


def entries_of(
    dataset_dir: str | Path | None = None,
    datalist: str | Path | None = None,
    section: str | None = None,
    labels: str | Path | None = None,
    rules: str | Path | None = None,
) -> list[dict[str, Any]]:
    """The patients to look at: those of a data list, of a folder or zip file, or of ``train`` and ``test`` in a folder.

    Labels are those of ``labels``, else of ``train_labels.csv`` in the folder, where there is one.

    Raises:
        DataListError: when no patient is found, or train and test share a patient.
    """
    root = None if dataset_dir is None or datalist is not None else Path(dataset_dir)
    if labels is None and root is not None and (root / "train_labels.csv").is_file():
        labels = root / "train_labels.csv"
    if root is None or not (root / "train").is_dir():
        return select(dataset_dir, datalist, section, labels, rules)
    parts = [root / name for name in ("train", "test") if (root / name).is_dir()]
    entries = [entry for part in parts for entry in select(part, None, None, labels, rules)]
    names = [entry["patient"] for entry in entries]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise DataListError(f"{root}: {', '.join(sorted(doubled))} are in train and in test; rename one of each")
    return entries


def items_of(entries: Iterable[Mapping[str, Any]], facts_dir: str | Path) -> list[dict[str, Any]]:
    """One item per series: ``patient``, ``mri_type``, ``files``, ``fingerprint`` and the file that keeps its ``facts``."""
    items = []
    for entry in entries:
        for mri_type in MRI_TYPES:
            if mri_type in entry:
                try:
                    mark = fingerprint({"facts": VERSION}, entry[mri_type])
                except OSError:  # its reader gives the reason
                    mark = ""
                name = hashlib.sha256(f"{entry['patient']}/{mri_type}".encode()).hexdigest()[:24]
                items.append(
                    {
                        "patient": entry["patient"],
                        "mri_type": mri_type,
                        "files": entry[mri_type],
                        "fingerprint": mark,
                        "kept": str(Path(facts_dir) / name[:2] / f"{name}.json"),
                    }
                )
    return items


def _kept(item: Mapping[str, Any], pixels: bool) -> dict[str, Any] | None:
    """The facts that an earlier run found of the same files."""
    found = read_note(item["kept"])
    same = item["fingerprint"] and found.get("fingerprint") == item["fingerprint"]
    return found if same and (found.get("pixels") or not pixels) else None


def read_facts(items: Sequence[Mapping[str, Any]], pixels: bool = True, num_workers: int = 2) -> None:
    """Read and keep the facts of series without kept ones, each process its share."""
    mine = distributed.share(items)
    todo = [item for item in mine if _kept(item, pixels) is None]
    logger.info("%d series: %d looked at before, %d to look at", len(mine), len(mine) - len(todo), len(todo))
    for done in one_by_one(ReadFacts(todo, pixels), "explore", min(num_workers, len(todo))):
        found = {key: done[key] for key in ("patient", "mri_type", "fingerprint", "facts", "error") if key in done}
        if "error" in found:
            logger.warning("%s/%s: %s", done["patient"], done["mri_type"], done["error"])
        write_json({**found, "pixels": pixels}, done["kept"])


def explore(
    entries: Sequence[Mapping[str, Any]],
    facts_dir: str | Path,
    run_dir: str | Path,
    pixels: bool = True,
    num_workers: int = 2,
    title: str = "",
    phantom: bool = False,
) -> None:
    """Read the facts of all series of the patients and write the page, its figures and tables.

    Args:
        entries: from :func:`entries_of`.
        facts_dir: keeps the facts of each series, also for the next run.
        run_dir: for the page.
        pixels: read the pixels; otherwise only headers, without anything that needs pixels.
        num_workers: processes that read.
        title: name of the data.
        phantom: whether they are synthetic.
    """
    items = items_of(entries, facts_dir)
    read_facts(items, pixels, num_workers)
    distributed.gather({})  # until all are done
    _write(entries, items, run_dir, pixels, title, phantom)


@distributed.by_first
def _write(
    entries: Sequence[Mapping[str, Any]],
    items: Sequence[Mapping[str, Any]],
    run_dir: str | Path,
    pixels: bool,
    title: str,
    phantom: bool,
) -> None:
    rows = []
    for item in items:
        kept = _kept({**item, "fingerprint": item["fingerprint"] or " "}, pixels) or _unread(item)
        row = {"patient": item["patient"], "mri_type": item["mri_type"], **kept.get("facts", {})}
        rows.append(row | ({"error": kept["error"]} if "error" in kept else {}))
    write_page_of(entries, rows, Path(run_dir), pixels, title, phantom)
    logger.info("%s: open it in a browser", Path(run_dir) / PAGE)


def _unread(item: Mapping[str, Any]) -> dict[str, Any]:
    """The reason for a series without facts whose files are gone."""
    return read_note(item["kept"]) or {"error": "not read"}
