"""Patients' probabilities: collected while series are classified, then written and printed."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from . import distributed
from .errors import grouped, some
from .files import RESEARCH_ONLY, is_formula, write_csv, write_json
from .identifiers import lookup
from .inferers import is_finite, not_finite
from .listing import show_patients
from .metrics import PatientProbabilities
from .modalities import MRI_TYPES
from .preparation import fingerprint, read_index
from .prepared import PreparedSeries
from .run_folder import NOT_ASKED, PATIENTS_FILE
from .volumes import remarks_on

logger = logging.getLogger(__name__)


class PatientResults:
    """Ignite handler that collects the logits of all series and computes every patient's probability.

    Args:
        prior: probability of a patient without a usable slice.
        store: everything that logits depend on besides the prepared series, including the checksums of the weights by
            modality (``weights``); the logits are then kept beside the prepared series, and an interrupted run
            continues from them. None keeps nothing.
    """

    def __init__(self, prior: float = 0.5, store: Mapping[str, Any] | None = None) -> None:
        if not 0 <= prior <= 1:
            raise ValueError(f"prior is {prior}, expected a probability from 0 to 1")
        self.store = store
        self.probabilities = PatientProbabilities(prior)
        self.seconds: dict[tuple[str, str], float] = {}
        self.failed: dict[tuple[str, str], str] = {}  # reasons of series whose logits are not finite

    def pending(self, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The series still to be classified; kept logits of the others are collected at once.

        Args:
            items: from :func:`~scripts.loading.series_items`.

        Returns:
            Those without valid logits, each with ``logits``, the file to keep them in, and their ``fingerprint``.
        """
        if self.store is None:
            return [dict(item) for item in items]
        todo = []
        for item in items:
            depends = {**self.store, "weights": self.store["weights"][item["mri_type"]]}
            depends["series"] = PreparedSeries(item["series"]).info["fingerprint"]
            file = Path(item["series"]).with_suffix(".logits.json")
            kept = {**item, "logits": str(file), "fingerprint": fingerprint(depends)}
            stored = _read_logits(file, kept["fingerprint"])
            if stored is None:
                todo.append(kept)
            else:
                self._add(item, *stored)
        logger.info("%d series: %d classified before, %d to classify", len(items), len(items) - len(todo), len(todo))
        return todo

    def attach(self, engine: Engine) -> None:
        """Gather after every series."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        self._started = time.time()

    def __call__(self, engine: Engine) -> None:
        """Add a series' logits, and store them if requested; NaN or infinity makes the series fail."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        logits, seconds = output["pred"].detach().cpu().float(), time.time() - self._started
        if not is_finite(logits):
            name = batch["patient"], batch["mri_type"]
            self.failed[name] = not_finite("classifier")
            logger.warning("%s/%s: %s", *name, self.failed[name])
            return
        if "logits" in batch:
            content = {"fingerprint": batch["fingerprint"], "seconds": seconds, "logits": logits.tolist()}
            write_json(content, batch["logits"])
        self._add(batch, logits, seconds)

    def _add(self, item: Mapping[str, Any], logits: torch.Tensor, seconds: float) -> None:
        self.probabilities.add(item["patient"], item["mri_type"], logits, item.get("label"))
        self.seconds[item["patient"], item["mri_type"]] = seconds

    def patient_rows(
        self, entries: Sequence[Mapping[str, Any]], prepared_dir: str | Path, classifiers: Mapping[str, str | None]
    ) -> list[dict[str, Any]]:
        """One row per requested patient, in order, with a row for each modality; nobody is left out.

        Several processes must call this together; each then has the patients of all.

        Args:
            entries: of the data list.
            prepared_dir: folder of prepared series with its index.
            classifiers: weights by modality.
        """
        self.probabilities = self.probabilities.gathered()
        self.seconds = {who: value for part in distributed.gather(self.seconds) for who, value in part.items()}
        self.failed = {who: reason for part in distributed.gather(self.failed) for who, reason in part.items()}
        index = read_index(prepared_dir)
        return [self._patient_row(entry, index, classifiers) for entry in entries]

    def _patient_row(
        self, entry: Mapping[str, Any], index: Mapping[str, Mapping[str, Any]], classifiers: Mapping[str, str | None]
    ) -> dict[str, Any]:
        patient = entry["patient"]
        series = {}
        for mri_type in MRI_TYPES:
            if mri_type not in classifiers and mri_type not in entry:
                continue
            row = index.get(f"{patient}/{mri_type}")
            facts: dict[str, Any] = {"warnings": list(row.get("warnings", [])) if row else []}
            if row is None:
                facts["reason"] = "no such series" if mri_type not in entry else NOT_ASKED
            elif "error" in row:
                facts["reason"] = row["error"]
            else:
                facts |= {key: row[key] for key in ("slices", "foreground", "kept")}
                values = self.probabilities.sequences[patient].get(mri_type, [])
                facts |= {"sequences": values, "probability": self.probabilities.of_series(patient, mri_type)}
                facts["seconds"] = round(row["seconds"] + self.seconds.get((patient, mri_type), 0.0), 3)
                if not row["kept"] and not values:
                    facts["reason"] = "no slice shows enough tumour"
                elif not values:
                    facts["reason"] = self.failed.get((patient, mri_type)) or (
                        NOT_ASKED if mri_type not in classifiers else "no classifier weights"
                    )
            series[mri_type] = facts
        used = [mri_type for mri_type, facts in series.items() if facts.get("probability") is not None]
        result: dict[str, Any] = {
            "patient": patient,
            "probability": self.probabilities.of_patient(patient),
            "agreement_interval": self.probabilities.agreement_interval(
                patient
            ),  # 95 %, of modalities, sequences, members and views
            "used": used,
        }
        if not used:
            asked = {mri_type: series[mri_type].get("reason", "") for mri_type in classifiers}
            reasons = entry.get("reason") or "; ".join(grouped(asked))
            result["reason"] = f"cohort prior {self.probabilities.prior}: {reasons}"
            logger.warning("patient %s gets the %s", patient, result["reason"])
        result |= {key: entry[key] for key in ("label", "warnings") if key in entry}
        return {**result, "series": series}


def _read_logits(file: Path, expected: str) -> tuple[torch.Tensor, float] | None:
    """The kept logits ``(M, C)`` of a series and the seconds they took; None where no file of this fingerprint is."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["fingerprint"] != expected:
            return None
        # float32 numbers survive JSON exactly, because they are written as equal float64
        logits = torch.tensor(stored["logits"], dtype=torch.float32)
        if not is_finite(logits):
            return None
        return logits.reshape(len(logits), -1) if len(logits) else logits.reshape(0, 1), float(stored["seconds"])
    except (OSError, ValueError, TypeError, KeyError):  # missing, partial, or foreign
        return None


@distributed.by_first
def write_predictions(
    rows: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    weights: Mapping[str, Any],
    asked: Sequence[str] | None = None,
    prior: float = 0.5,
    runtime: str | None = None,
    volumes: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write ``submission.csv`` and ``patients.json``, and show the patients.

    Args:
        rows: from :meth:`PatientResults.patient_rows`.
        output_dir: folder for both.
        weights: the weights used.
        asked: patients of a sample submission, in its order and style; those of ``rows`` by default. Requested patients
            without a study get the prior.
        prior: probability of the latter.
        runtime: of the networks.
        volumes: from :func:`series_volumes`.
    """
    remarks = remarks_on(volumes)
    rows = [
        {**row, "warnings": [*row.get("warnings", []), remarks[row["patient"]]]} if row["patient"] in remarks else row
        for row in rows
    ]
    row_of = lookup({row["patient"]: row for row in rows})
    submission, patients = [], []
    for name in asked or [row["patient"] for row in rows]:
        row = row_of(name)
        if row is None:
            row = {
                "patient": name,
                "probability": prior,
                "used": [],
                "reason": "no study of this patient",
                "series": {},
            }
            logger.warning("patient %s gets the prior %s: no study of this patient", name, prior)
        submission.append({"BraTS21ID": name, "MGMT_value": f"{row['probability']:.6f}"})
        patients.append(row)
    asked_for = {row["patient"] for row in patients}
    patients += [row for row in rows if row["patient"] not in asked_for]
    write_csv(submission, Path(output_dir) / "submission.csv", ("BraTS21ID", "MGMT_value"), verbatim=True)
    formulas = [row["BraTS21ID"] for row in submission if is_formula(row["BraTS21ID"])]
    if formulas:
        logger.warning(
            "submission.csv names patients as they were asked for, also those that a spreadsheet would run: %s; do not open it in one",
            some(formulas, 5),
        )
    write_patients(patients, output_dir, weights, runtime)
    logger.info("%d patients in submission.csv. %s", len(submission), RESEARCH_ONLY)
    show_patients(patients, volumes, PATIENTS_FILE)


def write_patients(
    rows: Sequence[Mapping[str, Any]], output_dir: str | Path, weights: Mapping[str, Any], runtime: str | None
) -> None:
    """Write ``patients.json``: the rows, and their provenance."""
    content = {"note": RESEARCH_ONLY, "weights": dict(weights), "runtime": runtime, "patients": list(rows)}
    write_json(content, Path(output_dir) / PATIENTS_FILE)
