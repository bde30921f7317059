"""Several finished cross-validations on one page: it reads their folders, and writes the page, its figures and tables."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..baselines.models import METHOD
from ..evaluation.comparison import COSTS, ComparisonError, Finished, compare, records
from ..evaluation.scores import LEVEL
from ..files import RESEARCH_ONLY, folder_written_whole, read_csv
from ..run_folder import PREDICTIONS_FILE, is_crossvalidation, plain_settings, read_config, read_object
from .compare_figures import area_text, draw_areas, draw_calibrations, draw_rocs, p_equals, signed
from .compare_tables import auc_table, calibration_table, cost_table, difference_table
from .pages import PHANTOM, jinja_environment, write_page
from .run import made_of_phantoms
from .tables import Cell, Table, shown, table_of_records
from .writer import Writer

logger = logging.getLogger(__name__)

PAGE = "compare.html"
GENERATOR = "radiogenomics compare"
_OURS = (PAGE, "figures/*.png", "figures/*.svg", "tables/*.csv", "tables/*.json")
_JOBS = ("prepare_", "train_", "evaluate_")
_NO_SETTINGS = {"job", "model", "output_dir", "run_dir", "overwrite", "bundle_root"}


@dataclass(frozen=True)
class Folder:
    """The content of a finished cross-validation's folder."""

    path: Path
    model: str
    config: dict[str, Any]
    metrics: dict[str, Any]
    rows: list[dict[str, str]]


def write_comparison(
    runs: Sequence[str | Path],
    output: str | Path,
    overwrite: bool = False,
    resamples: int = 2000,
    permutations: int = 10000,
) -> Path:
    """Compare finished cross-validations of the same patients and folds; page, figures and tables are written completely or not at all.

    Args:
        runs: their folders, two or more.
        output: folder for ``compare.html``, ``figures/`` and ``tables/``.
        overwrite: replace an earlier comparison; anything else is never replaced.
        resamples: of each bootstrap.
        permutations: of labels.

    Returns:
        The page.

    Raises:
        ComparisonError: for a folder that holds no finished cross-validation of stage 2, and for patients or folds that differ.
        FileExistsError: when the place holds a comparison not to be replaced, or other files.
        ImportError: when Jinja2 or matplotlib is not installed.
    """  # fmt: skip
    target = Path(output).expanduser().resolve()
    _may_be_written(target, overwrite)
    folders = named([read_finished(run) for run in runs])
    finished = [Finished(name, one.model, one.rows, costs_of(one.metrics)) for name, one in folders.items()]
    found = compare(finished, resamples, permutations)
    template = jinja_environment().get_template("compare.html")
    with folder_written_whole(target) as staging:
        write_page(staging / PAGE, template.render(**_content(found, folders, Writer(staging))))
    logger.info("%s: open it in a browser. %s", target / PAGE, RESEARCH_ONLY)
    return target / PAGE


def _may_be_written(folder: Path, overwrite: bool) -> None:
    if not isinstance(overwrite, bool):
        raise ValueError(f"overwrite is {overwrite!r}, expected True or False")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file, expected a folder; name another place (--output)")
    there = {path for path in folder.rglob("*") if not path.is_dir()} if folder.is_dir() else set()
    if not there:
        return
    page = folder / PAGE
    others = sorted(there - {path for pattern in _OURS for path in folder.glob(pattern)})
    begins = page.read_text(encoding="utf-8", errors="replace")[:2000] if page.is_file() else ""
    if others or f'content="{GENERATOR}"' not in begins:
        what = (
            f"holds {others[0].relative_to(folder)}, which is not a comparison's file" if others else "is no comparison"
        )
        raise FileExistsError(f"{folder} exists and {what}; name another place (--output)")
    if not overwrite:
        raise FileExistsError(f"{folder} holds a comparison; replace it (--overwrite) or name another place (--output)")


# ---------------------------------------------------------------------------------------------------------------------
# what is read


def read_finished(folder: str | Path) -> Folder:
    """The finished cross-validation of stage 2 in a folder.

    Raises:
        ComparisonError: when there is none.
        RunError: when a file can't be read.
    """
    root = Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise ComparisonError(f"{folder}: no such folder; name that of a finished cross-validation")
    config = read_config(root)
    settings = plain_settings(config)
    go_on = "finish it with the `radiogenomics crossvalidate` command that began it"
    if settings.get("job", "crossvalidate") != "crossvalidate":
        raise ComparisonError(
            f"{folder}: holds a run of {settings['job']}, expected a finished cross-validation (`radiogenomics crossvalidate`)"
        )
    if not (root / "metrics.json").is_file():
        if settings.get("job") == "crossvalidate" or is_crossvalidation(root):
            raise ComparisonError(f"{folder}: this cross-validation is not finished, it has no metrics.json; {go_on}")
        raise ComparisonError(
            f"{folder}: holds no cross-validation, expected a finished one (`radiogenomics crossvalidate`)"
        )
    metrics = read_object(root / "metrics.json")
    if "classification" not in metrics or not (root / PREDICTIONS_FILE).is_file():
        raise ComparisonError(
            f"{folder}: holds no out-of-fold predictions of MGMT, expected {PREDICTIONS_FILE} and figures of stage 2 in "
            "metrics.json; name a cross-validation with the stage classification"
        )
    rows = read_csv(root / PREDICTIONS_FILE)
    for key, column in (("seeds", "seed"), ("folds", "fold"), ("mri_types", "mri_type")):
        asked = settings.get(key)
        there = {str(row.get(column)) for row in rows}
        if isinstance(asked, list) and (missing := [str(one) for one in asked if str(one) not in there]):
            raise ComparisonError(
                f"{folder}: this cross-validation is not finished, it has no predictions of {column} {', '.join(missing)}; {go_on}"
            )
    return Folder(root, str(settings.get("model") or METHOD), config, metrics, rows)


def named(folders: Sequence[Folder]) -> dict[str, Folder]:
    """Folders by the name of their model; those of the same model by its name and the differing parts of their paths.

    Raises:
        ComparisonError: for the same folder twice.
    """
    paths = [one.path for one in folders]
    if twice := [path for path in dict.fromkeys(paths) if paths.count(path) > 1]:
        raise ComparisonError(f"{twice[0]}: is named twice; name each run once")
    found = {}
    for one in folders:
        alike = [other.path for other in folders if other.model == one.model]
        name = one.path.name
        if [path.name for path in alike].count(name) > 1:
            name = one.path.relative_to(os.path.commonpath([path.parent for path in alike])).as_posix()
        found[one.model if len(alike) == 1 else f"{one.model} ({name})"] = one
    return found


def costs_of(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The costs in a ``metrics.json``; for a run without any, the seconds of its stage-2 training steps."""
    written = metrics.get("costs") or {}
    found = {name: written.get(name) for name in COSTS}
    trained = [
        value
        for title, value in (metrics.get("seconds") or {}).items()
        if title.startswith("train ") and ", seed " in title
    ]
    if found["training_seconds"] is None and trained:
        found["training_seconds"] = sum(trained)
    return found


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Plain settings, those of the steps (``train_classification``, …) as ``step: setting``, and versions."""
    found = {key: value for key, value in plain_settings(config).items() if key not in _NO_SETTINGS}
    for key, values in config.items():
        if isinstance(values, Mapping) and key.startswith((*_JOBS, "versions")):
            found |= {f"{key}: {name}": value for name, value in plain_settings(values).items()}
    return found


# ---------------------------------------------------------------------------------------------------------------------
# what is shown


def _content(found: Mapping[str, Any], folders: Mapping[str, Folder], writer: Writer) -> dict[str, Any]:
    """The content of the page; figures and tables are written in the process."""
    runs = found["runs"]
    phantom = any(made_of_phantoms(one.config) for one in folders.values())
    whole = table_of_records("Comparison", records(found))
    rows = found["predictions"]
    predictions = [{**{key: row[key] for key in ("patient", "label", "fold")}, **row["probabilities"]} for row in rows]
    writer.table(table_of_records("Predictions", predictions))
    for kind in ("roc", "calibration"):
        writer.table(Table(f"{kind} curves", [], [], _points(runs, kind)))
    seeds = "Small circles: single seeds. " if any(len(run["seeds"]["auc"]) > 1 for run in runs) else ""
    areas = f"{seeds}Dotted: no information, no difference. Differences with DeLong's 95 % interval; p after Holm."
    above = "Dotted: chance. Patients of all folds together."
    bins = "Bins of equally many patients with Wilson's 95 % interval; dotted: perfect. Slope: 1 if calibrated, below 1 if too extreme."
    return {
        "base": "",
        "generator": GENERATOR,
        "title": f"{len(runs)} models compared",
        "subtitle": f"Cross-validations of MGMT promoter methylation from MRI on the same {found['patients']} patients and {found['folds']} folds",
        "phantom": PHANTOM if phantom else "",
        "tiles": _tiles(found),
        "result": _result(found, folders),
        "areas": writer.figure(draw_areas(found), "areas", areas),
        "roc": writer.figure(draw_rocs(runs), "roc", above),
        "calibration": writer.figure(draw_calibrations(runs), "calibration", bins),
        "tables": [
            {"table": table, "files": []}
            for table in (auc_table(found), difference_table(found), calibration_table(found))
        ],
        "costs": {"table": cost_table(runs), "files": []},
        "whole": writer.table(whole),
        "runs": writer.table(_run_table(runs, folders)),
        "settings": _differing({run["name"]: folders[run["name"]] for run in runs}, writer),
        "methods": _methods(found),
    }


def _points(runs: Sequence[Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
    points = []
    for run in runs:
        curve = run["curves"][kind]
        rows = (
            curve if isinstance(curve, list) else [{"fpr": x, "tpr": y} for x, y in zip(*curve.values(), strict=True)]
        )
        points += [{"run": run["name"], **row} for row in rows]
    return points


def _tests(found: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The comparisons by run and the one it is compared with, each pair once."""
    kinds = ["best", "size"] if found["size"] not in (None, found["best"]) else ["best"]
    tests = {(run["name"], found[kind]): run["against"][kind] for kind in kinds for run in found["runs"]}
    return {
        (name, other): test
        for (name, other), test in tests.items()
        if test is not None and (other, name) not in list(tests)[: list(tests).index((name, other))]
    }


def _different(found: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Those with a p value below 0.05 after Holm's correction."""
    return {
        pair: test for pair, test in _tests(found).items() if test["p_holm"] is not None and test["p_holm"] < 1 - LEVEL
    }


def _tiles(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    best, count = found["runs"][0], len(_different(found))
    tiles = [
        (str(found["patients"]), f"patients, {found['positive']} with label 1, in {found['folds']} folds"),
        (area_text(best), f"AUC of the best, {best['name']} (95 %, DeLong)"),
    ]
    if found["size"] not in (None, found["best"]):
        size = next(run for run in found["runs"] if run["name"] == found["size"])
        tiles.append((area_text(size), "AUC of the tumour's volume alone"))
    return [*tiles, (f"{count} of {found['comparisons']}", "differences with p < 0.05 after Holm's correction")]


def _result(found: Mapping[str, Any], folders: Mapping[str, Folder]) -> list[str]:
    runs = found["runs"]
    lines = []
    known = [run for run in runs if run["auc"]["delong"][0] is not None]
    include = [run["name"] for run in known if run["auc"]["delong"][0] <= 0.5 <= run["auc"]["delong"][1]]
    below = [run["name"] for run in known if run["auc"]["delong"][1] < 0.5]
    which = "every model" if len(include) == len(runs) else ", ".join(include) or "no model"
    lines.append(
        f"The interval of the AUC includes 0.5 for {which}. An interval that does is compatible with no information."
    )
    if below:
        lines.append(f"It lies below 0.5 for {', '.join(below)}: look for unequal folds, or swapped labels.")
    lines.append(
        f"{found['best']} has the highest AUC. It was chosen for that among {len(runs)}, so its AUC flatters it, and comparisons with "
        "the best are biased by selection: such a difference has to be found again on other patients."
    )
    if different := _different(found):
        listed = "; ".join(
            f"{name} minus {other} {signed(test['difference'])} ({p_equals(test['p_holm'])})"
            for (name, other), test in different.items()
        )
        lines.append(
            f"p is below 0.05 after Holm's correction for {len(different)} of {found['comparisons']} compared pairs of AUCs: {listed}."
        )
    else:
        lines.append(
            f"p is below 0.05 after Holm's correction for none of {found['comparisons']} compared pairs of AUCs. That does not show that the "
            "models are equal: the intervals show which differences are compatible with the data."
        )
    if outer := [name for name, one in folders.items() if one.metrics.get("selection") == "outer"]:
        lines.append(
            f"Epochs of {', '.join(outer)} were chosen on the held-out fold (selection outer), which flatters the figures."
        )
    seen = {name: (one.metrics.get("leakage") or {}).get("segmenter_trained_on") or [] for name, one in folders.items()}
    lines += [
        f"The segmenter of {name} was trained on {len(who)} of these patients." for name, who in seen.items() if who
    ]
    members = {(tuple(run["mri_types"]), len(run["seeds"]["auc"])) for run in runs}
    if len(members) > 1:
        lines.append(
            "The models differ in modalities or in the number of seeds that a patient's probability is the mean of; see the runs."
        )
    return lines


def _run_table(runs: Sequence[Mapping[str, Any]], folders: Mapping[str, Folder]) -> Table:
    rows = [
        {
            "run": run["name"],
            "model": run["model"],
            "modalities": run["mri_types"],
            "seeds": list(run["seeds"]["auc"]),
            "patients without a prediction": run["without_prediction"],
            "epoch chosen on": {"outer": "the held-out fold", "inner": "a further fold"}.get(
                folders[run["name"]].metrics.get("selection", "")
            ),
            "folder": str(folders[run["name"]].path),
        }
        for run in runs
    ]
    return table_of_records("Runs", rows)


def _differing(folders: Mapping[str, Folder], writer: Writer) -> dict[str, Any] | None:
    """The settings that are not the same in all runs; None without any."""
    settings = {name: _settings(one.config) for name, one in folders.items()}
    keys = dict.fromkeys(key for values in settings.values() for key in values)
    rows = [
        {"setting": key, **{name: values.get(key) for name, values in settings.items()}}
        for key in keys
        if len({str(values.get(key)) for values in settings.values()}) > 1
    ]
    if not rows:
        return None
    cells = [[Cell(shown(value), None if value is None else str(value)) for value in row.values()] for row in rows]
    return writer.table(Table("Settings that differ", list(rows[0]), cells, rows, "A dash: not set, or the default."))


def _methods(found: Mapping[str, Any]) -> list[str]:
    return [
        "t4e is the two-stage method of this bundle, size the tumour's volume alone.",
        "Every patient was predicted by models that were trained on other folds. The probability is the mean over modalities and seeds; "
        "patients without a usable series have 0.5 in all figures.",
        "AUC and paired differences: DeLong, 95 % intervals. PR AUC and Brier score: percentile bootstrap over patients, stratified by "
        "label. These take the predictions as given: how they would differ with other folds or after another training is not in them; "
        "the spread over seeds shows a part of it.",
        f"p, labels permuted: one-sided; networks are not trained again. Holm's correction: over all comparisons ({found['comparisons']}) of the "
        "table of differences, each once.",
        "ECE: 10 bins of equally many patients; above 0 for calibrated probabilities too. Slope and intercept: logistic recalibration, "
        "the intercept with a slope of 1; 1 and 0 if calibrated.",
    ]
