"""The guard of a cross-validation against leaks: before any training, and again on the finished run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from .. import weights
from ..datalists import classification_split, load_datalist, segmentation_split
from ..environment import BUNDLE_ROOT
from ..files import parse_yaml, read_csv
from ..run_folder import CONFIG_FILE, PREDICTIONS_FILE
from . import leakage
from .plan import Plan, rows_of

logger = logging.getLogger(__name__)

REMEDY = "Remove one of the two from the data list, or give both the same 'group', and build the folds again."


def check(plan: Plan, stages: Sequence[str] | None = None) -> dict[str, int]:
    """Refuse to train where a person is on both sides of a split of the ``stages`` (all), or trains stage 1 and is in Task 2.

    Returns:
        Number of patients compared, by split.

    Raises:
        LeakError: naming the pairs.
    """
    compared = {}
    everyone = _task2(plan) if plan.datalist is not None else {}
    init = str(plan.settings["train_segmentation"].get("init", "imagenet"))  # start weights of stage 1
    start = weights.start_settings(init, BUNDLE_ROOT / "models") if "segmentation" in (stages or plan.stages) else {}
    for stage in stages or plan.stages:
        for fold in plan.folds[stage]:
            training, held_out = _split(plan, stage, fold)
            if stage == "segmentation":
                leakage.refuse_trained(held_out, start, init, _namesakes(plan, "evaluate_segmentation"))
            name = f"{stage}, fold {fold}"
            sides = (f"training of {name}", "the patients it holds out")
            compared[name] = leakage.refuse_leaks(training, held_out, sides, REMEDY)
            if stage == "segmentation" and everyone:
                sides = (f"training of {name}", "the patients of Task 2")
                compared[f"{name}, and Task 2"] = leakage.refuse_leaks(training, everyone, sides, REMEDY)
    if "classification" in plan.stages and "segmentation" not in plan.stages and plan.segmenter is not None:
        trained = _trained_segmenter(plan)
        if trained is not None:
            sides = (f"training of {plan.segmenter}", "the patients of Task 2")
            compared["segmenter, and Task 2"] = leakage.refuse_leaks(trained, everyone, sides, REMEDY)
    for name, count in compared.items():
        logger.info("no leak in %s: %d patients compared", name, count)
    return compared


def _namesakes(plan: Plan, job: str) -> bool:
    return bool(plan.settings[job].get("namesakes", False))


def seen_by_segmenter(plan: Plan) -> list[str]:
    """The patients of Task 2 whom the segmenter's file lists as its training patients."""
    if plan.datalist is None or plan.segmenter is None or not Path(plan.segmenter).is_file():
        return []
    namesakes = _namesakes(plan, "prepare_classification")
    return leakage.name_trained(_task2(plan), weights.segmenter_settings(plan.segmenter), plan.segmenter, namesakes)


def _split(plan: Plan, stage: str, fold: int) -> tuple[leakage.Identities, leakage.Identities]:
    if stage == "segmentation":
        sides = segmentation_split(plan.datalist_of(stage), plan.dataset_dir_of(stage), fold, plan.datalist)
    else:
        sides = classification_split(plan.datalist_of(stage), plan.dataset_dir_of(stage), fold, plan.excluded())
    rows = plan.prepared_rows(stage)
    training, held_out = (leakage.identities(side, rows) for side in sides)
    return training, held_out


def _task2(plan: Plan) -> leakage.Identities:
    lists = load_datalist(plan.datalist, plan.dataset_dir)  # type: ignore[arg-type]
    return leakage.identities([one for part in lists.values() for one in part], plan.prepared_rows("classification"))


def _trained_segmenter(plan: Plan) -> leakage.Identities | None:
    """The training patients of the given segmenter, if its run lies beside it."""
    file = Path(str(plan.segmenter)).parent / CONFIG_FILE
    config = parse_yaml(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if config.get("job") != "train_segmentation" or not Path(str(config.get("datalist"))).is_file():
        if "trained_on" in weights.segmenter_settings(plan.segmenter):
            seen_by_segmenter(plan)
        else:
            logger.warning(
                "%s is not in the folder of its training: patients of Task 2 may have trained it, which can't be checked",
                plan.segmenter,
            )
        return None
    options = [config.get(key) for key in ("datalist", "dataset_dir", "fold", "classification_datalist")]
    rows = rows_of(str(config.get("prepared_dir")))
    return leakage.identities(segmentation_split(*options)[0], rows)  # type: ignore[arg-type]


def verify(plan: Plan) -> dict[str, int]:
    """Look for leaks in the finished run: whom each model was trained on, as its own configuration says, and whom it predicted.

    Returns:
        Number of patients compared, by model.

    Raises:
        LeakError: naming the pairs.
    """
    compared = {}
    for seed in plan.seeds if "classification" in plan.stages else ():
        for fold in plan.folds["classification"]:
            run = plan.classification_run(seed, fold)
            for mri_type in plan.mri_types:
                table = run / "evaluation" / PREDICTIONS_FILE
                name = f"{mri_type}, seed {seed}, fold {fold}"
                compared[name] = _compare(plan, "classification", run / mri_type, table)
    for fold in plan.folds["segmentation"]:
        run = plan.segmentation_run(fold)
        table = run / "evaluation" / "overlap.csv"
        compared[f"segmentation, fold {fold}"] = _compare(plan, "segmentation", run, table)
    return compared


def _compare(plan: Plan, stage: str, run: Path, table: Path) -> int:
    """Compare the patients who decided on a model, by training it or choosing its epoch, with those in its table of results."""
    config = parse_yaml((run / CONFIG_FILE).read_text(encoding="utf-8"))
    data = (config["datalist"], config["dataset_dir"], config["fold"])
    if stage == "segmentation":
        split = segmentation_split(*data, config["classification_datalist"], config["excluded_patients"])
    else:
        split = classification_split(*data, config["excluded_patients"])
    seen = [*split[0], *(split[1] if plan.selection == "inner" else ())]
    evaluated = [{"patient": row["patient"]} for row in read_csv(table)]
    rows = plan.prepared_rows(stage)
    sides = (f"training of {run}", f"the patients that it {'segmented' if stage == 'segmentation' else 'predicted'}")
    return leakage.refuse_leaks(leakage.identities(seen, rows), leakage.identities(evaluated, rows), sides, REMEDY)
