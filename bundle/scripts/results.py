"""What prediction and evaluation leave behind: masks, submission, patients' details, metrics."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import Transform

from . import distributed
from .datalists import ENHANCING_ON, MRI_TYPES, lookup, some
from .evaluation.resampling import bootstrap_interval
from .files import RESEARCH_ONLY, is_formula, write_csv, write_json, written_whole
from .inferers import is_finite, not_finite
from .metrics import PATIENT_SCORES, PatientProbabilities, RegionOverlap
from .outputs import inside, remove_unfinished
from .preparation import fingerprint, read_index
from .prepared import PreparedSeries
from .run_folder import NOT_ASKED, PATIENTS_FILE, PREDICTIONS_FILE, failures_of

if TYPE_CHECKING:
    from .evaluation.volumes import VolumeOverlap

logger = logging.getLogger(__name__)


def nested(masks: np.ndarray) -> np.ndarray:
    """Masks ``(N, 2, H, W)``, or of WT alone ``(N, 1, H, W)``, with ET inside WT, bool; a network may mark ET outside."""
    return np.concatenate([masks.any(axis=1, keepdims=True), masks[:, 1:] > 0], axis=1)


def claimed(masks: np.ndarray, mri_type: str, enhancing_on: Sequence[str] = ENHANCING_ON) -> np.ndarray:
    """What people are told of a series' masks; the classification has the masks as they are.

    Without contrast agent nobody can tell enhancing tumour from the rest, so what is marked as such is tumour and no more.

    Args:
        masks: ``(N, 2, H, W)``, WT and ET.
        mri_type: modality of the series.
        enhancing_on: modalities in which enhancing tumour is told.

    Returns:
        :func:`nested` masks ``(N, 2, H, W)`` bool, or ``(N, 1, H, W)``, WT alone.
    """
    return nested(masks)[:, : 2 if mri_type in enhancing_on else 1]


def label_map(masks: np.ndarray) -> np.ndarray:
    """WT and ET masks ``(N, 2, H, W)`` to labels ``(N, H, W)`` uint8: 1 tumour that does not enhance, 2 enhancing tumour.

    Of WT alone, ``(N, 1, H, W)``, 1 is all of the tumour.
    """
    whole, enhancing = masks[:, 0] > 0, masks[:, 1:].any(axis=1)
    labels = whole.astype(np.uint8)
    labels[enhancing] = 2
    return labels


class RestoreLabelMap(Transform):
    """Masks of a series' slices to its label map, in the axes and the geometry of the series as it was read.

    Expects ``pred`` ``(n, 2, H, W)`` of the segmented slices ``slices`` ``(n,)``, ``n_slices``, ``geometry`` and ``source``;
    makes ``pred`` a MetaTensor ``(1, X, Y, Z)`` float32 of :func:`label_map`'s values.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with the label map as ``pred``."""
        found = torch.as_tensor(data["pred"]).cpu().numpy()
        labels = np.zeros((data["n_slices"], *found.shape[2:]), dtype=np.uint8)
        labels[torch.as_tensor(data["slices"]).cpu().numpy()] = label_map(found)
        volume = torch.from_numpy(data["geometry"].to_volume(labels).astype(np.float32))
        affine = torch.tensor(data["geometry"].affine, dtype=torch.float64)
        meta = {"filename_or_obj": data["source"], "original_affine": affine}
        return {**data, "pred": MetaTensor(volume[None], affine=affine, meta=meta)}


def save_label_map(labels: np.ndarray, affine: np.ndarray, path: str | Path) -> None:
    """Write a label map ``(X, Y, Z)`` uint8 as NIfTI, whole or not at all.

    Args:
        labels: in the axes of the image it belongs to.
        affine: that image's 4×4 affine (RAS, mm).
        path: ``.nii.gz`` file to write; folders are made.
    """
    image = nib.Nifti1Image(labels.astype(np.uint8), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header["descrip"] = RESEARCH_ONLY.encode()
    with written_whole(path) as temporary:
        nib.save(image, temporary)


def write_masks(
    prepared_dir: str | Path, output_dir: str | Path, enhancing_on: Sequence[str] = ENHANCING_ON
) -> dict[str, str]:
    """Write the label map of every prepared series, as it is :func:`claimed`, in the geometry of the series as it was read.

    Each of several processes writes those of its share.

    Args:
        prepared_dir: folder of prepared series with its index.
        output_dir: folder for ``<patient>_<mri_type>.nii.gz``.
        enhancing_on: modalities in which enhancing tumour is told.

    Returns:
        File names by ``"<patient>/<mri_type>"``.
    """
    written = {}
    for name, row in distributed.share(list(read_index(prepared_dir).items())):
        if "file" not in row:
            continue
        target = inside(output_dir, f"{row['patient']}_{row['mri_type']}.nii.gz")
        # a resumed prediction has written the masks of the series that it does not prepare again
        if not target.is_file() or target.stat().st_mtime < Path(row["file"]).stat().st_mtime:
            series = PreparedSeries(row["file"])
            assert series.geometry is not None, f"{row['file']}: prepared for training, without geometry"
            labels = label_map(claimed(series.masks(), row["mri_type"], enhancing_on))
            volume = np.asarray(series.geometry.to_volume(labels))
            save_label_map(volume, series.geometry.affine, target)
        written[name] = target.name
    return written


VOLUME_COLUMNS = (
    "patient", "mri_type", "whole_tumour_ml", "not_enhancing_ml", "enhancing_ml", "file", "reason", "remark",
)  # fmt: skip
DISAGREEMENT = (2.0, 5.0)
"""Factor, and ml, by which a patient's largest and smallest volume must differ to be remarked upon."""


def label_volumes(labels: np.ndarray, voxel_volume: float, enhancing: bool = True) -> dict[str, str]:
    """Volumes in ml of a label map's parts, as text.

    Args:
        labels: values of :func:`label_map`.
        voxel_volume: in mm³.
        enhancing: whether enhancing tumour is told from the rest; otherwise neither of the two has a volume.
    """
    rest, bright = (np.count_nonzero(labels == value) * voxel_volume / 1000 for value in (1, 2))
    parts = {"not_enhancing_ml": rest, "enhancing_ml": bright} if enhancing else {}
    return {name: f"{value:.3f}" for name, value in {"whole_tumour_ml": rest + bright, **parts}.items()}


def series_volumes(prepared_dir: str | Path, enhancing_on: Sequence[str] = ENHANCING_ON) -> list[dict[str, Any]]:
    """Rows for :func:`write_volumes`: the volumes in the label maps of all prepared series, and why the others have none.

    Several processes must call this together; each reads its share, and all know the rows.

    Args:
        prepared_dir: folder of prepared series with its index.
        enhancing_on: modalities in which enhancing tumour is told.
    """
    rows = []
    for row in distributed.share(list(read_index(prepared_dir).values())):
        facts = {"patient": row["patient"], "mri_type": row["mri_type"]}
        if "file" not in row:
            rows.append({**facts, "reason": row["error"]})
            continue
        series = PreparedSeries(row["file"])
        assert series.geometry is not None, f"{row['file']}: prepared for training, without geometry"
        masks = claimed(series.masks(), row["mri_type"], enhancing_on)
        volumes = label_volumes(label_map(masks), series.geometry.voxel_volume, masks.shape[1] == 2)
        rows.append({**facts, **volumes, "file": f"masks/{row['patient']}_{row['mri_type']}.nii.gz"})
    return [row for part in distributed.gather(rows) for row in part]


def _by_patient(volumes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Volumes of the whole tumour in ml by patient and modality."""
    found: dict[str, dict[str, float]] = {}
    for row in volumes:
        if "whole_tumour_ml" in row:
            found.setdefault(row["patient"], {})[row["mri_type"]] = float(row["whole_tumour_ml"])
    return found


def _remarks(volumes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What there is to say, and is said in the log, of patients whose series disagree on the tumour."""
    remarks = {}
    factor, difference = DISAGREEMENT
    for patient, found in _by_patient(volumes).items():
        low, high = min(found.values()), max(found.values())
        if high > factor * low and high - low > difference:
            told = ", ".join(f"{mri_type} {value:.1f} ml" for mri_type, value in sorted(found.items()))
            remarks[patient] = f"the series disagree on the volume of the tumour: {told}; look at the masks"
            logger.warning("patient %s: %s", patient, remarks[patient])
    return remarks


def write_volumes(
    rows: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    entries: Sequence[Mapping[str, Any]] = (),
    finished: str | Path | None = None,
) -> Path:
    """Write ``volumes.csv``, what is marked in the masks of a folder, and show it; nobody asked for is left out.

    Several processes must call this together; the first writes what all of them know.

    Args:
        rows: with ``patient``, ``mri_type``, ``file`` and :func:`label_volumes`, or with a ``reason`` for having none.
        output_dir: folder of the results.
        entries: patients asked for.
        finished: folder that an interrupted run would have needed to go on; what of it lies in ``output_dir`` is removed.
    """
    known = {(row["patient"], row["mri_type"]): row for part in distributed.gather(list(rows)) for row in part}
    there = {patient for patient, _ in known}
    for entry in entries:
        if entry["patient"] not in there:
            reason = entry.get("reason", "no series")
            known[entry["patient"], ""] = {"patient": entry["patient"], "mri_type": "", "reason": reason}
            logger.warning("patient %s: %s", entry["patient"], reason)
    file = Path(output_dir) / "volumes.csv"
    if distributed.is_first():
        volumes = [known[key] for key in sorted(known)]
        remarks = _remarks(volumes)
        told = [{**row, "remark": remarks.get(row["patient"])} if "file" in row else row for row in volumes]
        write_csv(told, file, VOLUME_COLUMNS)
        found = sum("file" in row for row in known.values())
        logger.info("%d masks, %d series without one. %s", found, len(known) - found, RESEARCH_ONLY)
        people: dict[str, dict[str, Any]] = {}
        for row in volumes:
            person = people.setdefault(row["patient"], {"patient": row["patient"], "used": [], "series": {}})
            person["series"][row["mri_type"]] = {"reason": row.get("reason")}
            person["used"] += [row["mri_type"]] if "file" in row else []
            person["warnings"] = [remarks[row["patient"]]] if row["patient"] in remarks else []
        show_patients(list(people.values()), volumes, file.name)
        if finished is not None:
            remove_unfinished(finished, output_dir)
    return file


SHOWN_PATIENTS = 20


def show_patients(rows: Sequence[Mapping[str, Any]], volumes: Sequence[Mapping[str, Any]], file: str) -> None:
    """Print the first patients of a result as a table.

    Args:
        rows: as :meth:`PatientResults.patient_rows` gives them; without ``probability`` where none was predicted.
        volumes: from :func:`series_volumes`; that of FLAIR is shown, or else of the first series.
        file: name of the one that has all of them.
    """
    predicted = any("probability" in row for row in rows)
    lines = [["patient", *(["probability"] if predicted else []), "modalities", "tumour, ml", "remarks"]]
    of_patient = _by_patient(volumes)
    for row in rows[:SHOWN_PATIENTS]:
        found = of_patient.get(row["patient"], {})
        volume = found.get("FLAIR", next(iter(found.values()), None))
        told = failures_of(row)
        if row.get("reason"):  # which names those of the series
            told = [one for one in told if one["kind"] == "warning" or not one["series"]]
        remarks = [one["text"] for one in told]
        more = f" and {len(remarks) - 1} more" if len(remarks) > 1 else ""
        lines.append(
            [
                _shortened(row["patient"], 24, end=10),
                *([f"{row['probability']:11.3f}"] if predicted else []),
                "+".join(row["used"]) or "none",
                "" if volume is None else f"{volume:10.1f}",
                _shortened(remarks[0], 80) + more if remarks else "",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    if len(rows) > SHOWN_PATIENTS:
        text += f"\nand {len(rows) - SHOWN_PATIENTS} more patients: {file}"
    encoding = sys.stdout.encoding or "utf-8"  # a terminal may lack the letters of a name
    print(text.encode(encoding, "replace").decode(encoding))


def _shortened(text: str, width: int, end: int = 0) -> str:
    """A text on one line; where it is wider, its beginning and as many letters of its end as asked for."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1 - end]}…{line[len(line) - end :]}"


class PatientResults:
    """Ignite handler that gathers the logits of all series and knows every patient's probability.

    Args:
        prior: probability of a patient without a usable slice.
        store: all that logits depend on beside the prepared series, the checksums of the weights by modality (``weights``)
            among it; the logits are then kept beside the prepared series, and a run that was interrupted goes on from them.
            None keeps nothing.
    """

    def __init__(self, prior: float = 0.5, store: Mapping[str, Any] | None = None) -> None:
        if not 0 <= prior <= 1:
            raise ValueError(f"prior is {prior}, expected a probability from 0 to 1")
        self.store = store
        self.probabilities = PatientProbabilities(prior)
        self.seconds: dict[tuple[str, str], float] = {}
        self.failed: dict[tuple[str, str], str] = {}  # reasons of series whose logits are not finite

    def pending(self, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The series that are to be classified; the kept logits of the others are gathered here and now.

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
        """Add a series' logits, and keep them if they are to be kept; NaN or infinity is a failure of the series."""
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
        """One row per patient asked for, in order, with a row for each of the modalities; nobody is left out.

        Several processes must call this together; each of them then knows the patients of all.

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
                if not row["kept"]:
                    facts["reason"] = "no slice shows enough tumour"
                elif not values:
                    facts["reason"] = self.failed.get((patient, mri_type)) or (
                        NOT_ASKED if mri_type not in classifiers else f"no classifier weights for {mri_type}"
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
            reasons = entry.get("reason") or "; ".join(f"{mri_type}: {reason}" for mri_type, reason in asked.items())
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
        # float32 numbers come through JSON as they are, for they are written as the float64 that they equal
        logits = torch.tensor(stored["logits"], dtype=torch.float32)
        if not is_finite(logits):
            return None
        return logits.reshape(len(logits), -1) if len(logits) else logits.reshape(0, 1), float(stored["seconds"])
    except (OSError, ValueError, TypeError, KeyError):  # none, half of one, or somebody else's
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
        weights: which weights were used.
        asked: patients of a sample submission, in its order and style; those of ``rows`` by default. Who is asked for, but
            has no study, gets the prior.
        prior: probability of the latter.
        runtime: what the networks computed in.
        volumes: from :func:`series_volumes`.
    """
    remarks = _remarks(volumes)
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
    _write_patients(patients, output_dir, weights, runtime)
    logger.info("%d patients in submission.csv. %s", len(submission), RESEARCH_ONLY)
    show_patients(patients, volumes, PATIENTS_FILE)


def _write_patients(
    rows: Sequence[Mapping[str, Any]], output_dir: str | Path, weights: Mapping[str, Any], runtime: str | None
) -> None:
    content = {"note": RESEARCH_ONLY, "weights": dict(weights), "runtime": runtime, "patients": list(rows)}
    write_json(content, Path(output_dir) / PATIENTS_FILE)


@distributed.by_first
def write_evaluation(
    rows: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    mri_types: Sequence[str],
    weights: Mapping[str, Any],
    runtime: str | None = None,
) -> dict[str, Any]:
    """Write ``predictions.csv``, ``patients.json`` and, last, ``metrics.json`` of labelled patients and return the metrics.

    Args:
        rows: from :meth:`PatientResults.patient_rows`, each with its ``label``; others are left out.
        output_dir: folder for the three.
        mri_types: modalities that were classified.
        weights: which weights were used, by modality.
        runtime: what the networks computed in.

    Raises:
        ValueError: when no patient has a label.
    """
    labelled = [row for row in rows if "label" in row]
    if not labelled:
        raise ValueError("none of the patients has a label; nothing can be evaluated")
    labels = [row["label"] for row in labelled]
    columns: dict[str, list[float | None]] = {"all": [row["probability"] for row in labelled]}
    for mri_type in mri_types:
        columns[mri_type] = [row["series"].get(mri_type, {}).get("probability") for row in labelled]
    table = [
        {"patient": row["patient"], "label": row["label"], **{name: values[i] for name, values in columns.items()}}
        for i, row in enumerate(labelled)
    ]
    write_csv(table, Path(output_dir) / PREDICTIONS_FILE)
    _write_patients(labelled, output_dir, weights, runtime)
    metrics: dict[str, Any] = {"note": RESEARCH_ONLY, "patients": len(labelled), "positive": sum(labels)}
    metrics["without_usable_slice"] = sum(not row["used"] for row in labelled)
    for name, values in columns.items():
        there = [(label, value) for label, value in zip(labels, values, strict=True) if value is not None]
        if not there:
            continue
        truth, chance = zip(*there, strict=True)
        scores: dict[str, Any] = {key: score(truth, chance) for key, score in PATIENT_SCORES.items()}
        scores["auc_95"] = list(bootstrap_interval(truth, chance))
        logger.info(
            "%s: AUC %.3f (95 %% interval %.3f to %.3f) on %d patients",
            name, scores["auc"], *scores["auc_95"], len(truth),
        )  # fmt: skip
        if len(set(truth)) < 2:  # JSON knows no NaN
            scores |= {"auc": None, "auc_95": None}
        metrics[name] = {"patients": len(truth), **scores}
    write_json(metrics, Path(output_dir) / "metrics.json")
    return metrics


def write_crossvalidation(
    rows: Sequence[Mapping[str, Any]],
    overlap: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``metrics.json`` of a cross-validation, and each of its tables as CSV and JSON in ``tables/``.

    Args:
        rows: out-of-fold predictions, see :func:`scripts.evaluation.summary.summarise`; none where stage 2 was left out.
        overlap: rows of :meth:`RegionOverlap.table` with their ``fold``; none where stage 1 was left out.
        output_dir: folder of the run.
        facts: of the run, put into the metrics as they are.

    Returns:
        The metrics: ``segmentation`` and ``classification``, where there are any, and the facts.
    """
    from .evaluation import summary  # here, for a prediction does without
    from .evaluation import tables as flat

    metrics: dict[str, Any] = {"note": RESEARCH_ONLY, **facts}
    tables: dict[str, list[dict[str, Any]]] = {}
    if overlap:
        tables["overlap"] = [dict(row) for row in overlap]
        metrics["segmentation"] = _overlap_metrics(overlap)
        metrics["segmentation"]["fold"] = {
            str(fold): _mean_overlap([row for row in overlap if row["fold"] == fold and row["plane"] != "3D"])
            for fold in sorted({row["fold"] for row in overlap})
        }
    if rows:
        told = [name for name in ("scanner", "site") if len({row[name] for row in rows}) > 1]
        metrics["classification"] = summary.summarise(rows, subgroups=told)
        tables |= flat.tables(metrics["classification"])
    for name, table in tables.items():
        write_csv(table, Path(output_dir) / "tables" / f"{name}.csv")
        write_json(table, Path(output_dir) / "tables" / f"{name}.json")
    write_json(metrics, Path(output_dir) / "metrics.json")
    return metrics


def write_overlap(
    metric: RegionOverlap, output_dir: str | Path, volumes: VolumeOverlap | None = None
) -> dict[str, Any]:
    """Write ``overlap.csv`` (a row per patient, modality, plane and region) and ``metrics.json`` (their means).

    Args:
        metric: after the evaluation.
        output_dir: folder for both.
        volumes: scores of whole series, where they were segmented too; their plane is ``3D``.

    Returns:
        What the metric's table holds, by region: overall, and per modality and per plane; and who failed.
    """
    rows, failures = metric.table(), metric.failures()
    if volumes is not None:
        rows += volumes.table()
        columns = dict.fromkeys(key for row in rows for key in row)
        rows = [{key: row.get(key) for key in columns} for row in rows]
        failures |= volumes.failures()
    return _write_overlap(rows, output_dir, failures)


@distributed.by_first
def _write_overlap(
    rows: Sequence[Mapping[str, Any]], output_dir: str | Path, failures: Mapping[str, str]
) -> dict[str, Any]:
    write_csv(rows, Path(output_dir) / "overlap.csv")
    metrics = {"note": RESEARCH_ONLY, **_overlap_metrics(rows)}
    told = {**metrics, "failed": dict(failures)} if failures else metrics
    write_json(told, Path(output_dir) / "metrics.json")
    for name, reason in failures.items():
        logger.warning("%s: %s", name, reason)
    for name, scores in metrics.items():
        if isinstance(scores, dict):
            logger.info(
                "%s: %s", name, ", ".join(f"{key} {value:.3f}" for key, value in scores.items() if value is not None)
            )
    return told


def _overlap_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over all rows of slices, over those of each modality and of each plane, and over those of whole volumes (``3D``)."""
    metrics: dict[str, Any] = {"patients": len({row["patient"] for row in rows})}
    slices = [row for row in rows if row["plane"] != "3D"]
    metrics["all"] = _mean_overlap(slices)
    for group, among in (("mri_type", slices), ("plane", rows)):
        for name in sorted({row[group] for row in among}):
            metrics[name] = _mean_overlap([row for row in among if row[group] == name])
    return metrics


def _mean_overlap(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    scores = [name for name in rows[0] if name not in ("fold", "patient", "mri_type", "plane", "region")]
    for region in ("WT", "ET"):
        for score in scores:
            values = [row[score] for row in rows if row["region"] == region and row[score] is not None]
            means[f"{region}_{score}"] = float(np.mean(values)) if values else None
    return means
