"""Evaluation of a cross-validation: out-of-fold predictions of all modalities and seeds to figures, controls and curves.

Computes, and neither reads nor writes files. Needs NumPy alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import ensembles, scores
from .scores import NAN

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

COLUMNS = ("patient", "fold", "seed", "mri_type", "probability", "label")
"""What every row of out-of-fold predictions has."""

DECISION_THRESHOLDS = np.arange(1, 100) / 100


@dataclass(frozen=True)
class Cohort:
    """Out-of-fold predictions as arrays over patients ``P``, members ``M`` (modality and seed) and modalities.

    Attributes:
        patients: in order ``(P,)``.
        labels: 0 or 1 ``(P,)``.
        folds: ``(P,)``.
        members: modality and seed of each ``(M,)``.
        probabilities: ``(P, M)``, NaN where there is none.
        kept: slices that were used, by modality, mean over seeds ``(P,)``, 0 where none is named; empty when no row names any.
        volume: of the tumour in ml ``(P,)``, NaN where it is not known.
    """

    patients: list[str]
    labels: np.ndarray
    folds: np.ndarray
    members: list[tuple[str, str]]
    probabilities: np.ndarray
    kept: dict[str, np.ndarray]
    volume: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Cohort:
        """Arrange rows, see :func:`summarise`.

        Raises:
            ValueError: for no rows, a row twice, a patient with several labels or folds, a value that is no label or
                probability, or a negative volume.
        """
        if not rows:
            raise ValueError("no out-of-fold predictions: expected a row per patient, modality and seed")
        for row in rows:
            if missing := [name for name in COLUMNS if name not in row]:
                raise ValueError(f"row {dict(row)}: lacks {missing}, expected {COLUMNS}")
        patients = sorted({str(row["patient"]) for row in rows})
        members = sorted({(str(row["mri_type"]), str(row["seed"])) for row in rows})
        place = {patient: i for i, patient in enumerate(patients)}
        column = {member: j for j, member in enumerate(members)}
        labels = _one_each(rows, "label", place)
        folds = _one_each(rows, "fold", place)
        if strange := [(patient, labels[i]) for patient, i in place.items() if labels[i] not in (0, 1)]:
            raise ValueError(f"patient {strange[0][0]}: label {strange[0][1]}, expected 0 or 1")
        probabilities, kept, volume = (np.full((len(patients), len(members)), NAN) for _ in range(3))
        seen = set()
        for row in rows:
            where = place[str(row["patient"])], column[str(row["mri_type"]), str(row["seed"])]
            who = f"patient {row['patient']}, {row['mri_type']}, seed {row['seed']}"
            if where in seen:
                raise ValueError(f"{who}: two rows; expected one, of the fold that the patient is held out in")
            seen.add(where)
            for name, table, top in (
                ("probability", probabilities, 1),
                ("kept", kept, np.inf),
                ("tumour_volume", volume, np.inf),
            ):
                value = _number(row.get(name))
                if not np.isnan(value) and not 0 <= value <= top:
                    raise ValueError(f"{who}: {name} {value}, expected 0 to {top}, or None where there is none")
                table[where] = value
        by_modality: dict[str, np.ndarray] = {}
        if not np.isnan(kept).all():
            for mri_type in sorted({name for name, _ in members}):
                chosen = [name == mri_type for name, _ in members]
                by_modality[mri_type] = np.nan_to_num(_mean_there(kept[:, chosen]))
        return cls(
            patients, np.array(labels, dtype=np.int64), np.array(folds), members, probabilities, by_modality,
            _mean_there(volume),
        )  # fmt: skip

    @property
    def mri_types(self) -> list[str]:
        """Modalities, sorted."""
        return sorted({mri_type for mri_type, _ in self.members})

    @property
    def seeds(self) -> list[str]:
        """Seeds, sorted."""
        return sorted({seed for _, seed in self.members})

    def mean_of(self, mri_type: str | None = None, seed: str | None = None) -> np.ndarray:
        """Mean probability of the members of a modality, a seed, or both ``(P,)``; NaN of patients who have none."""
        chosen = [mri_type in (None, one) and seed in (None, other) for one, other in self.members]
        return _mean_there(self.probabilities[:, chosen])


def _number(value: Any) -> float:
    return NAN if value is None or value == "" else float(value)


def _mean_there(table: np.ndarray) -> np.ndarray:
    there = ~np.isnan(table)
    counts = there.sum(axis=1)
    return np.where(counts > 0, np.where(there, table, 0.0).sum(axis=1) / np.maximum(counts, 1), NAN)


def _one_each(rows: Sequence[Row], name: str, place: Mapping[str, int]) -> list[int]:
    """What every row of a patient says of it, a whole number, in the patients' order."""
    found: list[int | None] = [None] * len(place)
    for row in rows:
        i, number = place[str(row["patient"])], _number(row[name])
        if number != np.rint(number):
            raise ValueError(f"patient {row['patient']}: {name} {row[name]!r}, expected a whole number")
        value = int(number)
        if found[i] not in (None, value):
            raise ValueError(
                f"patient {row['patient']}: {name} {found[i]} and {value}; expected the same in all rows, with the same folds for "
                "all modalities and seeds"
            )
        found[i] = value
    return [value for value in found if value is not None]


def summarise(
    rows: Sequence[Row],
    subgroups: Sequence[str] = (),
    prior: float = 0.5,
    level: float = 0.95,
    resamples: int = 2000,
    permutations: int = 10000,
    seed: int = 67,
) -> dict[str, Any]:
    """Figures of a cross-validation, as JSON knows them: None where one is not defined.

    - ``ensembles``: all patients by the mean over modalities and seeds (``mean``), over ranks (``rank_mean``) or logits
      (``logit_mean``), by logistic regression on the modalities' logits (``stacked``), and by the mean at a temperature
      (``mean_temperature``); the last two cross-fitted.
    - ``mri_types`` (mean over seeds) and ``seeds`` (mean over modalities): patients who have a prediction.

      Of each: ``auc`` with DeLong's interval, that of a bootstrap, and the AUC within each fold; ``pr_auc``, ``brier`` and
      ``log_loss`` with an interval by bootstrap; ``ece`` with 10 bins of equal width and of equal mass, without one, for
      resampling adds to it; ``sensitivity`` and ``specificity`` with Wilson's intervals, each patient called at the best threshold
      (Youden) of the other folds. Ranks are no probabilities and have no ``brier``, ``log_loss`` and ``ece``.
    - ``controls``: ``permutation`` of labels against the mean (the networks are not trained again), and the spread of the AUC over
      ``seeds``.
    - ``baselines``: ``tumour_volume`` alone and ``slices`` per modality alone, by cross-fitted logistic regression; the mean is
      compared with each on the same patients after DeLong, both by their ranks within folds: over all folds as they are, a
      baseline that means nothing comes out below 0.5 and the mean would seem better than it. The same lowers the AUC of
      ``stacked`` somewhat where folds differ in their share of labels; that within folds is free of it.
    - ``subgroups``: AUC of the mean by value of each column.
    - ``models``: what was fitted on all patients, for new ones.
    - ``curves``: for plots.
    - ``left_out``: what could not be fitted, and why.

    Args:
        rows: one per patient, modality and seed, of the fold that the patient was held out in: ``patient``, ``fold``, ``seed``,
            ``mri_type``, ``probability`` (None without a usable slice), ``label``; optionally ``kept`` (slices used),
            ``tumour_volume`` (ml) and columns of subgroups.
        subgroups: columns to divide the patients by, as ``scanner`` or ``site``.
        prior: probability, and score, of patients without any prediction.
        level: of confidence.
        resamples: of each bootstrap.
        permutations: of labels.
        seed: of resampling and permutations.

    Raises:
        ValueError: for rows that do not fit together, fewer than two folds, or a prior or level that is none.
    """
    if not 0 <= prior <= 1:
        raise ValueError(f"prior is {prior}, expected a probability from 0 to 1")
    cohort = Cohort.of(rows)
    scores.checked_folds(cohort.folds, len(cohort.patients))
    groups = {name: _groups(rows, name, cohort.patients) for name in subgroups}
    sampling: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
    combined, models, left_out = _combine(cohort, prior)
    # each of some patients: labels, folds, predicted
    sets = {("ensembles", name): (cohort.labels, cohort.folds, predicted) for name, predicted in combined.items()}
    for kind, names, key in (("mri_types", cohort.mri_types, "mri_type"), ("seeds", cohort.seeds, "seed")):
        for name in names:
            predicted = cohort.mean_of(**{key: name})
            there = ~np.isnan(predicted)
            if there.any():
                sets[kind, name] = (cohort.labels[there], cohort.folds[there], predicted[there])
    summary: dict[str, Any] = {
        "patients": len(cohort.patients),
        "positive": int(cohort.labels.sum()),
        "without_prediction": int(np.isnan(cohort.mean_of()).sum()),
        "folds": len(np.unique(cohort.folds)),
        "level": level,
        "ensembles": {},
        "mri_types": {},
        "seeds": {},
    }
    for (kind, name), (labels, folds, predicted) in sets.items():
        summary[kind][name] = _figures(labels, folds, predicted, name != "rank_mean", sampling)
        auc = summary[kind][name]["auc"]
        logger.info(
            "%s %s: AUC %.3f (DeLong %.3f to %.3f) on %d patients",
            kind,
            name,
            auc["value"],
            *auc["delong"],
            len(labels),
        )
    mean = combined["mean"]
    summary["controls"] = {
        "permutation": {
            "permutations": permutations,
            "p": scores.permutation_p_value(cohort.labels, mean, permutations, seed),
        },
        "seeds": {name or "all": _spread(cohort, name) for name in (None, *cohort.mri_types)},
    }
    summary["baselines"] = _baselines(cohort, mean, sampling, left_out)
    summary["subgroups"] = {
        name: {value: _subgroup(cohort.labels[there], mean[there], sampling) for value, there in values.items()}
        for name, values in groups.items()
    }
    summary["models"] = models
    summary["curves"] = {
        name: _curves(labels, predicted, name != "rank_mean", sampling)
        for (kind, name), (labels, _, predicted) in sets.items()
        if kind != "seeds"
    }
    summary["left_out"] = left_out
    plain: dict[str, Any] = _plain(summary)
    return plain


def _combine(cohort: Cohort, prior: float) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, str]]:
    """Scores of all patients by ensemble, what was fitted on all, and what could not be fitted."""
    there = ~np.isnan(cohort.mean_of())
    if not there.any():
        raise ValueError(f"none of {len(there)} patients has a probability; nothing can be evaluated")
    labels, folds, members = cohort.labels[there], cohort.folds[there], cohort.probabilities[there]
    by_modality = np.stack([cohort.mean_of(mri_type)[there] for mri_type in cohort.mri_types], axis=1)
    mean = ensembles.mean(members)
    found = {
        "mean": mean,
        "rank_mean": ensembles.rank_mean(members),
        "logit_mean": ensembles.logit_mean(members),
    }
    models: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    try:
        stacked = ensembles.stacked(labels, by_modality, folds)
        found["stacked"] = stacked.probabilities
        weights = dict(zip(cohort.mri_types, stacked.model.weights, strict=True))
        models["stacked"] = {"intercept": stacked.model.intercept, "weights": weights}
    except ValueError as error:
        left_out["stacked"] = str(error)
    try:
        calibrated = ensembles.calibrated(labels, mean, folds)
        found["mean_temperature"] = calibrated.probabilities
        models["mean_temperature"] = {"temperature": calibrated.model.value}
    except ValueError as error:
        left_out["mean_temperature"] = str(error)
    filled = {}
    for name, predicted in found.items():
        filled[name] = np.full(len(there), prior)
        filled[name][there] = predicted
    return filled, models, left_out


def _figures(
    labels: np.ndarray, folds: np.ndarray, predicted: np.ndarray, probability: bool, sampling: Mapping[str, Any]
) -> dict[str, Any]:
    level = sampling["level"]
    area = _area_by_fold(labels, folds, predicted, sampling)
    found: dict[str, Any] = {"patients": len(labels), "positive": int(labels.sum()), "auc": area}
    measures: dict[str, scores.Statistic] = {"pr_auc": scores.average_precision}
    if probability:
        measures |= {"brier": scores.brier_score, "log_loss": scores.log_loss}
    for name, measure in measures.items():
        interval = scores.bootstrap_interval(labels, predicted, measure, **sampling)
        found[name] = {"value": measure(labels, predicted), "bootstrap": interval}
    if probability:
        found["ece"] = {
            equal: scores.expected_calibration_error(labels, predicted, equal=equal) for equal in ("width", "mass")
        }
    # patients of one fold alone have no others to choose a threshold on
    thresholds = np.full(len(labels), NAN)
    if len(np.unique(folds)) > 1:
        thresholds = scores.thresholds_of_other_folds(labels, predicted, folds)
    rates = scores.sensitivity_specificity(labels, predicted, thresholds, level)
    for name, rate in zip(("sensitivity", "specificity"), rates, strict=True):
        found[name] = {"value": rate.value, "wilson": [rate.low, rate.high]}
    return found


def _area(labels: np.ndarray, predicted: np.ndarray, sampling: Mapping[str, Any]) -> dict[str, Any]:
    area, *delong = scores.delong_interval(labels, predicted, sampling["level"])
    bootstrap = scores.bootstrap_interval(labels, predicted, **sampling)
    return {"value": area, "delong": delong, "bootstrap": bootstrap}


def _area_by_fold(
    labels: np.ndarray, folds: np.ndarray, predicted: np.ndarray, sampling: Mapping[str, Any]
) -> dict[str, Any]:
    within = {str(fold): scores.roc_auc(labels[folds == fold], predicted[folds == fold]) for fold in np.unique(folds)}
    return {**_area(labels, predicted, sampling), "folds": within}


def _spread(cohort: Cohort, mri_type: str | None) -> dict[str, Any]:
    """AUC by seed, of all modalities or one, and how far it spreads."""
    values = {}
    for seed in cohort.seeds:
        predicted = cohort.mean_of(mri_type, seed)
        there = ~np.isnan(predicted)
        values[seed] = scores.roc_auc(cohort.labels[there], predicted[there])
    areas = np.array([value for value in values.values() if not np.isnan(value)])
    return {
        "auc": values,
        "mean": areas.mean() if len(areas) else NAN,
        "min": areas.min() if len(areas) else NAN,
        "max": areas.max() if len(areas) else NAN,
        "sd": areas.std(ddof=1) if len(areas) > 1 else NAN,
    }


def _baselines(
    cohort: Cohort, model: np.ndarray, sampling: Mapping[str, Any], left_out: dict[str, str]
) -> dict[str, Any]:
    features: dict[str, np.ndarray] = {}
    if not np.isnan(cohort.volume).all():
        features["tumour_volume"] = np.log1p(cohort.volume)[:, None]  # patients without tumour have 0 ml
    if cohort.kept:
        features["slices"] = np.stack(list(cohort.kept.values()), axis=1)
    found = {}
    for name, values in features.items():
        there = ~np.isnan(values).any(axis=1)
        labels, folds = cohort.labels[there], cohort.folds[there]
        try:
            fitted = ensembles.cross_fitted(ensembles.Logistic.fit, labels, values[there], folds)
        except ValueError as error:
            left_out[name] = str(error)
            continue
        predicted, other = (ensembles.ranks_within_folds(part, folds) for part in (fitted.probabilities, model[there]))
        test = scores.delong_test(labels, other, predicted, sampling["level"])
        found[name] = {
            "patients": len(labels),
            "positive": int(labels.sum()),
            "auc": _area_by_fold(labels, folds, predicted, sampling),
            "model_auc": scores.roc_auc(labels, other),
            "model_against_it": test._asdict(),
        }
    return found


def _groups(rows: Sequence[Row], name: str, patients: Sequence[str]) -> dict[str, np.ndarray]:
    """Which patients have each value of a column, bool ``(P,)``; ``unknown`` are those without one."""
    values: dict[str, str] = {}
    if not any(name in row for row in rows):
        raise ValueError(f"subgroup {name!r}: no row has such a column, only {sorted(rows[0])}")
    for row in rows:
        if (value := row.get(name)) in (None, ""):
            continue
        if values.setdefault(str(row["patient"]), str(value)) != str(value):
            raise ValueError(
                f"patient {row['patient']}: {name} {values[str(row['patient'])]!r} and {str(value)!r}; expected one per patient"
            )
    column = np.array([values.get(patient, "unknown") for patient in patients])
    return {str(value): column == value for value in np.unique(column)}


def _subgroup(labels: np.ndarray, predicted: np.ndarray, sampling: Mapping[str, Any]) -> dict[str, Any]:
    both = len(np.unique(labels)) > 1
    area = _area(labels, predicted, sampling) if both else None
    return {"patients": len(labels), "positive": int(labels.sum()), "auc": area}


def _curves(
    labels: np.ndarray, predicted: np.ndarray, probability: bool, sampling: Mapping[str, Any]
) -> dict[str, Any]:
    curves: dict[str, Any] = {"roc": scores.roc_curve_band(labels, predicted, **sampling)}
    if probability:
        bins = scores.calibration_curve(labels, predicted, level=sampling["level"])
        curves["calibration"] = [part._asdict() for part in bins]
        curves["decision"] = scores.decision_curve(labels, predicted, DECISION_THRESHOLDS)
    return curves


def _plain(value: Any) -> Any:
    """The value as JSON knows it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value


def tables(summary: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The parts of a summary as flat tables, those without rows left out.

    Args:
        summary: from :func:`summarise`.

    Returns:
        Rows with the same columns by table: ``scores``, ``seeds``, ``baselines``, ``subgroups``, ``controls``, ``roc``,
        ``calibration`` and ``decision``.
    """
    found: dict[str, list[dict[str, Any]]] = {
        "scores": [
            {"kind": kind.removesuffix("s"), "name": name, **_score_columns(figures)}
            for kind in ("ensembles", "mri_types", "seeds")
            for name, figures in summary[kind].items()
        ],
        "seeds": [
            {
                "mri_type": name,
                "seeds": len(spread["auc"]),
                **{key: spread[key] for key in ("mean", "min", "max", "sd")},
            }
            for name, spread in summary["controls"]["seeds"].items()
        ],
        "controls": [{"control": "permutation", **summary["controls"]["permutation"]}],
        "baselines": [],
        "subgroups": [],
        "roc": [],
        "calibration": [],
        "decision": [],
    }
    for name, baseline in summary["baselines"].items():
        columns = {"baseline": name, "patients": baseline["patients"], "positive": baseline["positive"]}
        columns |= _area_columns(baseline["auc"]) | {"model_auc": baseline["model_auc"]}
        found["baselines"].append({**columns, **baseline["model_against_it"]})
    for name, values in summary["subgroups"].items():
        for value, group in values.items():
            columns = {"column": name, "value": value, "patients": group["patients"], "positive": group["positive"]}
            found["subgroups"].append({**columns, **_area_columns(group["auc"])})
    for name, curves in summary["curves"].items():
        for kind in ("roc", "decision"):
            columns = curves.get(kind, {})
            points = zip(*columns.values(), strict=True)
            found[kind] += [{"name": name, **dict(zip(columns, point, strict=True))} for point in points]
        found["calibration"] += [{"name": name, **part} for part in curves.get("calibration", ())]
    return {name: rows for name, rows in found.items() if rows}


def _area_columns(area: Mapping[str, Any] | None) -> dict[str, Any]:
    if area is None:
        area = {"value": None, "delong": (None, None), "bootstrap": (None, None)}
    return {
        "auc": area["value"],
        **_bounds("auc_delong", area["delong"]),
        **_bounds("auc_bootstrap", area["bootstrap"]),
    }


def _bounds(name: str, bounds: Sequence[float | None]) -> dict[str, float | None]:
    return {f"{name}_low": bounds[0], f"{name}_high": bounds[1]}


def _score_columns(figures: Mapping[str, Any]) -> dict[str, Any]:
    columns = {"patients": figures["patients"], "positive": figures["positive"], **_area_columns(figures["auc"])}
    for name, way in (
        ("pr_auc", "bootstrap"),
        ("brier", "bootstrap"),
        ("log_loss", "bootstrap"),
        ("sensitivity", "wilson"),
        ("specificity", "wilson"),
    ):
        figure = figures.get(name, {"value": None, way: (None, None)})
        columns |= {name: figure["value"], **_bounds(name, figure[way])}
    for equal in ("width", "mass"):
        columns[f"ece_{equal}"] = figures.get("ece", {}).get(equal)
    return columns
