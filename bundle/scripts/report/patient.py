"""A patient's page: probability, series, sequences, pictures, and explanations of the classifiers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from custom_transforms import ChunkSlices

from ..checks import as_typed
from ..datalists import select
from ..modalities import MRI_TYPES
from ..outputs import BRAIN_SUFFIX
from ..prepared import PreparedError, PreparedSeries
from ..run_folder import failures_of, plain_settings, prepared_dir, prepared_places, read_config, read_object
from ..studies.table import read_studies_file
from .brain import draw_brain
from .figures import draw_sequences
from .tables import Table, selection_table, table_of_records, with_interval
from .viewer import SheetError, read_heat, read_source, series_sheets
from .writer import Writer

logger = logging.getLogger(__name__)

PATIENT_BYTES = 2_600_000  # for all pictures on a patient's page
SEQUENCES = (35, 5)  # length and stride of a classifier whose own are unknown
_SEEDS_SHOWN = 5  # with a column each in the table of a patient's series


@dataclass(frozen=True)
class Sources:
    """Sources of the pictures of a run's patients."""

    prepared: dict[str, Path]  # ``file`` of every prepared series by ``"<patient>/<mri_type>"``
    studies: dict[str, dict[str, str]]  # paths of the series by modality, by patient
    explanations: Path  # folder of heat maps
    masks: Path  # folder of masks
    found: dict[str, dict[str, Any]]  # entries of ``studies.json``, by patient
    missing: str = ""  # why prepared series or studies are missing, "" where they exist


def find_sources(folder: Path) -> Sources:
    """The prepared series, studies and heat maps of a run's patients, as far as they still exist."""
    config = read_config(folder)
    settings = plain_settings(config)
    prepared, place = {}, prepared_dir(folder)
    missing = ""
    if place is None:
        missing = f"No pictures: no prepared series at {' or '.join(map(str, prepared_places(folder)))}."
    else:
        rows = read_object(place / "index.json").get("series", {})
        prepared = {name: place / row["file"] for name, row in rows.items() if "file" in row}
    studies: dict[str, dict[str, str]] = {}
    try:
        given = {key: settings.get(key) for key in ("dataset_dir", "datalist", "section", "rules", "patient")}
        entries = select(**given, named=as_typed(config.get("named")), deidentify=bool(config.get("deidentify")))
        studies = {entry["patient"]: {key: entry[key] for key in MRI_TYPES if key in entry} for entry in entries}
    except (ValueError, OSError) as error:
        logger.info("the studies are no longer there, only the slices that were used are shown: %s", error)
    found = read_studies_file(folder)
    return Sources(prepared, studies, folder / "explanations", folder / "masks", found, missing)


def failure_lines(row: Mapping[str, Any]) -> list[str]:
    """Failures and warnings of a patient, each with the name of its series."""
    return [f"{item['series']}: {item['text']}" if item["series"] else item["text"] for item in failures_of(row)]


def series_table(row: Mapping[str, Any]) -> Table:
    """The series of a patient."""
    records = []
    seeds = row.get("seeds") or []
    for mri_type, facts in (row.get("series") or {}).items():
        of_seeds = facts.get("by_seed") or {}
        by_seed = {f"seed {seed}": of_seeds.get(str(seed), {}).get("probability") for seed in seeds[:_SEEDS_SHOWN]}
        records.append(
            {
                "modality": mri_type,
                "probability": facts.get("probability"),
                **(by_seed if len(seeds) > 1 else {}),
                "slices": facts.get("slices"),
                "used": facts.get("kept"),
                "sequences": len(facts.get("sequences") or []),
                "seconds": facts.get("seconds"),
                "remark": facts.get("reason"),
            }
        )
    empty = {key for key in ("seconds", "remark") if not any(record[key] for record in records)}
    records = [{key: value for key, value in record.items() if key not in empty} for record in records]
    return table_of_records("Series", records)


def explanation_table(patient: str, mri_types: Iterable[str], folder: Path, of: str) -> Table | None:
    """How a patient's probabilities (``of`` these models) change without a part of the input, where explained."""
    records, statements = [], []
    for mri_type in mri_types:
        file = folder / f"{patient}_{mri_type}.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            with np.load(file.with_suffix(".npz")) as arrays:
                by_slice, slices = arrays["by_slice"], arrays["slices"]
        except (OSError, ValueError, KeyError):  # not explained, or partly deleted
            continue
        changes = {
            f"without {region.replace(' without ', ' outside ')}": one for region, one in found["by_region"].items()
        }
        most = int(np.abs(by_slice).argmax())
        changes |= {"slice that matters most": int(slices[most]), "without that slice": float(by_slice[most])}
        records.append({"modality": mri_type, **changes})
        statements.append(f"{mri_type}: {found['randomisation']['statement']}")
    note = (
        f"Change of the series' probability{of} when a part is blanked: below 0, the part favoured methylation. "
        f"Shuffled weights: {' '.join(statements)}"
    )
    return table_of_records("What the classifiers looked at", records, note) if records else None


def show_patient(
    row: Mapping[str, Any], name: str, sources: Sources | None, weights: Mapping[str, Any], writer: Writer
) -> dict[str, Any]:
    """The content of a patient's page.

    Args:
        row: of the patient in ``patients.json``.
        name: of the patient's files.
        sources: of pictures; None for none.
        weights: files of the classifiers by modality, unless the row has its own.
        writer: of figures and tables.
    """
    interval, probability, seeds = row.get("agreement_interval"), float(row["probability"]), row.get("seeds") or []
    several = len(seeds) > 1
    sequences = {
        mri_type: [float(value) for value in facts.get("sequences") or []]
        for mri_type, facts in (row.get("series") or {}).items()
    }
    figure = explanation = None
    if any(sequences.values()):
        drawn = draw_sequences(_drawn_sequences(row, sequences), probability, interval)
        mean = "a modality by the models of a seed" if several else "a modality"
        caption = f"A point is a sequence of slices, a diamond the mean of {mean}, the line the patient."
        figure = writer.figure(drawn, f"sequences_{name}", caption)
    views: list[dict[str, Any]] = []
    notes: list[str] = []
    selection = brain = None
    if sources:
        if study := sources.found.get(row["patient"]):
            selection = writer.table(selection_table(study["series"]), f"studies_{name}")
        masks = {mri_type: sources.masks / f"{row['patient']}_{mri_type}{BRAIN_SUFFIX}" for mri_type in MRI_TYPES}
        masks = {mri_type: file for mri_type, file in masks.items() if file.is_file()}
        if masks and (outlined := draw_brain(sources.studies.get(row["patient"], {}), masks)):
            caption = "Series that showed the skull: the brain as it was found and segmented. Check that it includes all of the tumour."
            brain = writer.figure(outlined, f"brain_{name}", caption)
        views, notes = patient_views(row, sources, row.get("weights") or weights, sequences)
        of = f" by the models of seed {seeds[0]}" if several else ""
        if changes := explanation_table(row["patient"], sequences, sources.explanations, of):
            explanation = writer.table(changes, f"explanation_{name}")
    if views and several:
        notes.append(f"Sequences under the pictures: means over the seeds {', '.join(map(str, seeds))}.")
    return {
        "name": row["patient"],
        "probability": probability,
        "interval": interval,
        "shown": with_interval(probability, interval),
        "explained": _explained(row),
        "failures": failure_lines(row),
        **writer.table(series_table(row), f"series_{name}"),
        "figure": figure,
        "explanation": explanation,
        "selection": selection,
        "brain": brain,
        "views": views,
        "has_heat": any(view["heat_sheet"] for view in views),
        "notes": notes,
    }


def _explained(row: Mapping[str, Any]) -> str:
    """The components of a patient's mean probability, and further facts."""
    used, seeds = [str(mri_type) for mri_type in row.get("used") or []], row.get("seeds") or []
    over = f" over seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""
    said = [f"Mean of {', '.join(used)}{over}." if used else "No usable series: the cohort prior."]
    if row.get("fold") is not None:
        said.append(f"Held out in fold {row['fold']}: the models did not see this patient.")
    if row.get("label") is not None:
        said.append(f"Known label: {row['label']}.")
    return " ".join(said)


def _drawn_sequences(
    row: Mapping[str, Any], sequences: Mapping[str, Sequence[float]]
) -> dict[tuple[str, str], Sequence[float]]:
    """Sequences by modality and seed, "" where there is one seed."""
    if len(row.get("seeds") or []) < 2:
        return {(mri_type, ""): values for mri_type, values in sequences.items()}
    return {
        (mri_type, f"seed {seed}"): [float(value) for value in of_seed["sequences"]]
        for mri_type, facts in row["series"].items()
        for seed, of_seed in facts["by_seed"].items()
    }


def patient_views(
    row: Mapping[str, Any], sources: Sources, weights: Mapping[str, Any], sequences: Mapping[str, Sequence[float]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The viewer's content for a patient's series, and notes on missing parts."""
    patient = row["patient"]
    names = [name for name in row.get("series") or {} if f"{patient}/{name}" in sources.prepared]
    views: list[dict[str, Any]] = []
    notes = [sources.missing] if sources.missing else []
    for mri_type in names:
        try:
            series = PreparedSeries(sources.prepared[f"{patient}/{mri_type}"])
        except PreparedError as error:
            notes.append(f"{mri_type}: {error}")
            continue
        full, heat, without = _pictures(series, patient, mri_type, sources)
        notes += without
        values = list(sequences.get(mri_type, []))
        spans = sequence_spans(series.slices.tolist(), len(values), chunk_settings(weights.get(mri_type)))
        marked = [{"slices": span, "probability": value} for span, value in zip(spans, values, strict=False)]
        view = series_sheets(series, full, heat, marked, PATIENT_BYTES // len(names))
        if view is None:
            notes.append(f"{mri_type}: no slice to show.")
            continue
        chance = f"p {np.mean(values):.3f}" if values else "not used"
        caption = f"{mri_type}, {view['plane'] or 'slices'}, {chance}"
        views.append({**view, "mri_type": mri_type, "classified": bool(values), "caption": caption})
    return views, notes


def _pictures(
    series: PreparedSeries, patient: str, mri_type: str, sources: Sources
) -> tuple[np.ndarray | None, dict[int, np.ndarray] | None, list[str]]:
    """All slices of a series and its heat maps, None for what is missing, and notes on that."""
    full, heat, notes = None, None, []
    source = sources.studies.get(patient, {}).get(mri_type)
    try:
        if source is None or series.geometry is None:
            raise SheetError("the study is no longer there")
        full = read_source(source, series.geometry)
    except SheetError as error:
        notes.append(f"{mri_type}: only the slices that were used are shown ({error}).")
    explanation = sources.explanations / f"{patient}_{mri_type}.npz"
    if explanation.is_file():
        try:
            heat = read_heat(explanation, series)
        except SheetError as error:
            notes.append(f"{mri_type}: no heat map ({error}).")
    return full, heat, notes


def chunk_settings(weights: Any) -> list[tuple[int, int]]:
    """Length and stride of a classifier's sequences: from the run folder of its weights, then the usual ones."""
    weights = weights[0] if isinstance(weights, list) and weights else weights
    config = read_config(Path(weights).parent) if isinstance(weights, str) else {}
    numbers = config.get("sequence_length"), config.get("stride")
    return [*([numbers] if all(isinstance(value, int) for value in numbers) else []), SEQUENCES]  # type: ignore[list-item]


def sequence_spans(kept: Sequence[int], count: int, settings: Sequence[tuple[int, int]]) -> list[list[int]]:
    """First and last slice of each of ``count`` sequences of the kept slices; empty where no setting gives that many."""
    for length, stride in settings:
        bounds = ChunkSlices(length, stride).bounds(len(kept)) if stride <= length else []
        if len(bounds) == count:
            return [[int(kept[start]), int(kept[stop - 1])] for start, stop in bounds]
    return []
