"""Cross-validation: both stages over folds, seeds and modalities, guarded against leaks, and every patient predicted out of fold.

It runs the configurations that a person would run, one after the other, each in a folder of its own, and can be interrupted
anywhere.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from .. import checks, distributed, runs, weights
from ..checks import SELECTIONS, STAGES
from ..commands.running import run_config
from ..datalists import EXCLUDED_PATIENTS, MRI_TYPES, classification_split, load_datalist, segmentation_split
from ..environment import BUNDLE_ROOT, config_files
from ..files import read_csv, write_csv, write_json
from ..masks import region_volumes
from ..preparation import read_index
from ..prepared import PreparedSeries
from ..results import write_crossvalidation
from ..run_folder import CONFIG_FILE, PREDICTIONS_FILE
from . import leakage

logger = logging.getLogger(__name__)

STATE_FILE = "state.json"
COLUMNS = ("patient", "fold", "seed", "mri_type", "probability", "label", "kept", "tumour_volume", "scanner", "site")
"""Of the out-of-fold predictions. ``kept``: slices that were classified; ``tumour_volume``: ml, as stage 1 segments it."""
JOBS = tuple(f"{job}_{stage}" for stage in STAGES for job in ("prepare", "train", "evaluate"))
"""Configurations that a cross-validation runs."""
REMEDY = "Remove one of the two from the data list, or give both the same 'group', and build the folds again."


class CrossValidation:
    """A cross-validation in a folder.

    Args:
        output_dir: folder of the run.
        datalist: data list of Task 2; needed for stage 2, and to keep its patients out of stage 1.
        dataset_dir: folder that its paths are relative to; None: the one it names.
        segmentation_datalist: data list of Task 1; needed for stage 1.
        segmentation_dataset_dir: folder that its paths are relative to.
        segmenter: weights for the masks of stage 2; None: those of stage 1's first fold.
        stages: which are cross-validated.
        folds: of the data lists that are held out, one after the other; None: all.
        selection: where the epoch whose weights are kept is chosen: ``inner``, on the next fold, which does not train; ``outer``, on
            the held-out fold itself, as the method does, which flatters the figures.
        seeds: of the trainings of stage 2; stage 1 uses the first.
        mri_types: modalities to train classifiers for.
        settings: values that differ from the configurations' own, by configuration.
        common: values for all configurations that know them: ``device``, ``num_workers``, …
        prepared_dir: folder for prepared series; None: one in ``output_dir``.

    Raises:
        ValueError: when something that a stage needs is not given, or is not known.
    """

    def __init__(
        self,
        output_dir: str | Path,
        datalist: str | Path | None,
        dataset_dir: str | Path | None = None,
        segmentation_datalist: str | Path | None = None,
        segmentation_dataset_dir: str | Path | None = None,
        segmenter: str | Path | None = None,
        stages: Sequence[str] = ("classification",),
        folds: Sequence[int] | None = None,
        selection: str = "inner",
        seeds: Sequence[int] = (67,),
        mri_types: Sequence[str] = MRI_TYPES,
        settings: Mapping[str, Mapping[str, Any] | None] | None = None,
        common: Mapping[str, Any] | None = None,
        prepared_dir: str | Path | None = None,
    ) -> None:
        self.folder = Path(output_dir)
        self.stages = _known("stages", stages, STAGES)
        self.mri_types = _known("mri_types", mri_types, MRI_TYPES)
        self.seeds = list(dict.fromkeys(int(seed) for seed in seeds))
        if not self.seeds:
            raise ValueError("seeds is empty; give at least one (--seeds 67)")
        unknown = set(settings or {}) - set(JOBS)
        if unknown:
            raise ValueError(f"settings of {', '.join(sorted(unknown))}: expected some of {', '.join(JOBS)}")
        self.settings = {job: dict((settings or {}).get(job) or {}) for job in JOBS}
        self.common = {key: value for key, value in (common or {}).items() if value is not None}
        self.prepared = Path(prepared_dir) if prepared_dir else self.folder / "prepared"
        self.datalist, self.dataset_dir = datalist, dataset_dir
        self.segmentation_datalist, self.segmentation_dataset_dir = segmentation_datalist, segmentation_dataset_dir
        if "classification" in self.stages and datalist is None:
            raise ValueError("no data list of Task 2 is named, which stage 2 needs (--datalist FILE)")
        if "segmentation" in self.stages and segmentation_datalist is None:
            raise ValueError("no data list of Task 1 is named, which stage 1 needs (--segmentation_datalist FILE)")
        if segmenter is None and "segmentation" in self.stages:
            segmenter = self._segmentation_run(_folds(segmentation_datalist, folds)[0]) / "segmentation.pt"
        elif segmenter is None and "classification" in self.stages:
            raise ValueError(
                "no segmentation weights are named, which stage 2 needs (--segmenter FILE); or cross-validate stage 1 as well "
                "(--stages segmentation,classification)"
            )
        self.segmenter = segmenter
        if selection not in SELECTIONS:
            raise ValueError(f"selection {selection!r}: expected one of {', '.join(SELECTIONS)}")
        self.selection = selection
        self.folds = {
            "classification": _folds(datalist, folds) if "classification" in self.stages else [],
            "segmentation": _folds(segmentation_datalist, folds) if "segmentation" in self.stages else [],
        }
        for stage in self.stages:
            if selection == "inner" and len(self._all_folds(stage)) < 3:
                raise ValueError(
                    f"{self._datalist(stage)}: {len(self._all_folds(stage))} folds leave nothing to train on beside the held-out fold and "
                    "the one that the epoch is chosen on; build it with `radiogenomics datalist --folds 5`, or choose the epoch on "
                    "the held-out fold, which flatters the figures (--selection outer)"
                )

    def run(self) -> dict[str, Any]:
        """Do what is not done yet, and evaluate everything.

        Several processes that ``torchrun`` started must call this together.

        Returns:
            The metrics, which are in ``metrics.json`` as well.

        Raises:
            LeakError: when a person is on both sides of any split.
        """
        state = self._state()
        steps = self._steps()
        for number, (title, step) in enumerate(steps.items(), 1):
            if title in state["seconds"]:
                continue
            logger.info("\n%d/%d %s", number, len(steps), title)
            started = time.monotonic()
            step()
            state["seconds"][title] = round(time.monotonic() - started, 1)
            _write_json(state, self.folder / STATE_FILE)
        return self._finish(state)

    def check(self, overwrite: bool = False) -> None:
        """Refuse to go on with a run that began with other settings, before anything is written.

        Args:
            overwrite: the run that is there will be replaced.

        Raises:
            ValueError: naming what differs.
        """
        try:
            self._state()
        except ValueError:
            if not overwrite:
                raise
            if runs.is_replacement(self.folder):  # one that began with other settings is of no use to this run
                shutil.rmtree(self.folder)

    def _state(self) -> dict[str, Any]:
        """What is done of a run with the same settings; folds, seeds and modalities may be more than before."""
        lists = [self._datalist(stage) for stage in self.stages]
        given = {
            "selection": self.selection,
            "settings": self.settings,
            "segmenter": self._segmenter_name(),
            "datalists": {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in lists},
        }
        file = self.folder / STATE_FILE
        if not file.is_file():
            return {"given": given, "seconds": {}}
        state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        changed = [name for name, value in given.items() if state["given"].get(name) != value]
        if changed:
            raise ValueError(
                f"{self.folder} holds a cross-validation that began with other {', '.join(changed)}; go on with those, replace it "
                "(--overwrite), or name another folder (--output)"
            )
        return state

    def _segmenter_name(self) -> str:
        """The segmenter's file; relative where it is the run's own, whose folder may move."""
        file = Path(str(self.segmenter))
        return file.relative_to(self.folder).as_posix() if self.folder in file.parents else str(file)

    def _datalist(self, stage: str) -> str:
        return str(self.segmentation_datalist if stage == "segmentation" else self.datalist)

    def _all_folds(self, stage: str) -> list[int]:
        return _folds(self._datalist(stage), None)

    def _validation(self, stage: str, fold: int) -> tuple[int, list[str]]:
        """The fold that the epoch is chosen on, and the patients who are on neither side of that training."""
        if self.selection == "outer":
            return fold, []
        folds = self._all_folds(stage)
        held_out = [
            one["patient"] for one in load_datalist(self._datalist(stage))["training"] if one.get("fold") == fold
        ]
        return folds[(folds.index(fold) + 1) % len(folds)], held_out

    # -----------------------------------------------------------------------------------------------------------------
    # steps

    def _steps(self) -> dict[str, Callable[[], Any]]:
        """What is done, by title, in order; each may be started again after an interruption."""
        steps: dict[str, Callable[[], Any]] = {}
        both = len(self.stages) > 1
        if "segmentation" in self.stages:
            steps["prepare segmentation"] = partial(self._job, "prepare_segmentation")
            steps["guard segmentation against leaks"] = partial(self.guard, ["segmentation"])
            for fold in self.folds["segmentation"]:
                steps[f"train segmentation, fold {fold}"] = partial(self._train_segmentation, fold)
                steps[f"evaluate segmentation, fold {fold}"] = partial(self._evaluate_segmentation, fold)
        if "classification" in self.stages:
            steps["prepare classification"] = partial(
                self._job, "prepare_classification", segmenter=str(self.segmenter), mri_types=self.mri_types
            )
            # Task 2 has pixels to compare only now
            steps["guard both stages against leaks" if both else "guard against leaks"] = self.guard
            for seed in self.seeds:
                for fold in self.folds["classification"]:
                    for mri_type in self.mri_types:
                        title = f"train {mri_type}, seed {seed}, fold {fold}"
                        steps[title] = partial(self._train_classification, seed, fold, mri_type)
                    steps[f"evaluate seed {seed}, fold {fold}"] = partial(self._evaluate_classification, seed, fold)
        return steps

    def _job(self, config: str, **values: Any) -> None:
        stage = config.split("_")[1]
        first = stage == "segmentation"
        datalist = self.segmentation_datalist if first else self.datalist
        root = self.segmentation_dataset_dir if first else self.dataset_dir
        run_config(
            config,
            **{
                **self._known_to(config),
                **checks.as_values(
                    {
                        "datalist": str(datalist),
                        "dataset_dir": None if root is None else str(root),
                        "prepared_dir": str(self.prepared / stage),
                    }
                ),
                **self.settings[config],
                **checks.as_values(values),
            },
        )

    def _known_to(self, config: str) -> dict[str, Any]:
        ids = {key for file in config_files(config) for key in yaml.safe_load(file.read_text(encoding="utf-8"))}
        return {key: value for key, value in self.common.items() if key in ids}

    def _segmentation_run(self, fold: int) -> Path:
        return self.folder / "segmentation" / f"fold{fold}"

    def _classification_run(self, seed: int, fold: int) -> Path:
        return self.folder / "classification" / f"seed{seed}" / f"fold{fold}"

    def _without_task2(self) -> dict[str, Any]:
        return {} if self.datalist is None else {"classification_datalist": str(self.datalist)}

    def _train_segmentation(self, fold: int) -> None:
        validation, held_out = self._validation("segmentation", fold)
        self._job(
            "train_segmentation",
            output_dir=str(self._segmentation_run(fold)),
            fold=validation,
            excluded_patients=held_out,
            seed=self.seeds[0],
            resume=True,
            **self._without_task2(),
        )

    def _evaluate_segmentation(self, fold: int) -> None:
        run = self._segmentation_run(fold)
        self._job(
            "evaluate_segmentation",
            segmenter=str(run / "segmentation.pt"),
            output_dir=str(run / "evaluation"),
            fold=fold,
            overwrite=True,
            **self._without_task2(),
        )

    def _train_classification(self, seed: int, fold: int, mri_type: str) -> None:
        validation, held_out = self._validation("classification", fold)
        self._job(
            "train_classification",
            output_dir=str(self._classification_run(seed, fold) / mri_type),
            fold=validation,
            seed=seed,
            mri_type=mri_type,
            excluded_patients=[*self._excluded(), *held_out],
            resume=True,
        )

    def _evaluate_classification(self, seed: int, fold: int) -> None:
        run = self._classification_run(seed, fold)
        self._job(
            "evaluate_classification",
            classifier=str(run),
            output_dir=str(run / "evaluation"),
            fold=fold,
            excluded_patients=self._excluded(),
            mri_types=self.mri_types,
            overwrite=True,
        )

    # -----------------------------------------------------------------------------------------------------------------
    # leaks

    def guard(self, stages: Sequence[str] | None = None) -> dict[str, int]:
        """Refuse to train where a person is on both sides of a split of either stage, or trains stage 1 and is in Task 2.

        Args:
            stages: whose splits are looked at; all by default.

        Returns:
            Patients compared, by split.

        Raises:
            LeakError: naming the pairs.
        """
        compared = {}
        everyone = self._task2() if self.datalist is not None else {}
        start = self._start_settings() if "segmentation" in (stages or self.stages) else {}
        for stage in stages or self.stages:
            for fold in self.folds[stage]:
                training, held_out = self._split(stage, fold)
                if stage == "segmentation":
                    leakage.refuse_trained(held_out, start, self._init(), self._namesakes("evaluate_segmentation"))
                name = f"{stage}, fold {fold}"
                sides = (f"training of {name}", "the patients it holds out")
                compared[name] = leakage.refuse_leaks(training, held_out, sides, REMEDY)
                if stage == "segmentation" and everyone:
                    sides = (f"training of {name}", "the patients of Task 2")
                    compared[f"{name}, and Task 2"] = leakage.refuse_leaks(training, everyone, sides, REMEDY)
        if "classification" in self.stages and "segmentation" not in self.stages:
            trained = self._trained_segmenter()
            if trained is not None:
                sides = (f"training of {self.segmenter}", "the patients of Task 2")
                compared["segmenter, and Task 2"] = leakage.refuse_leaks(trained, everyone, sides, REMEDY)
        for name, count in compared.items():
            logger.info("no leak in %s: %d patients compared", name, count)
        return compared

    def _init(self) -> str:
        """What the trainings of stage 1 begin with."""
        return str(self.settings["train_segmentation"].get("init", "imagenet"))

    def _start_settings(self) -> dict[str, Any]:
        return weights.start_settings(self._init(), BUNDLE_ROOT / "models")

    def _namesakes(self, job: str) -> bool:
        return bool(self.settings[job].get("namesakes", False))

    def _seen_by_segmenter(self) -> list[str]:
        """The patients of Task 2 whom the segmenter's file lists as those that it was trained on."""
        if self.datalist is None or self.segmenter is None or not Path(self.segmenter).is_file():
            return []
        namesakes = self._namesakes("prepare_classification")
        return leakage.name_trained(
            self._task2(), weights.segmenter_settings(self.segmenter), self.segmenter, namesakes
        )

    def _split(self, stage: str, fold: int) -> tuple[dict[str, leakage.Identity], dict[str, leakage.Identity]]:
        if stage == "segmentation":
            assert self.segmentation_datalist is not None
            sides = segmentation_split(self.segmentation_datalist, self.segmentation_dataset_dir, fold, self.datalist)
        else:
            sides = classification_split(self.datalist, self.dataset_dir, fold, self._excluded())  # type: ignore[arg-type]
        rows = list(self._rows(stage))
        training, held_out = (leakage.identities(side, rows) for side in sides)
        return training, held_out

    def _excluded(self) -> list[str]:
        """Patients who never train stage 2 and are never evaluated."""
        return [
            str(patient)
            for patient in self.settings["train_classification"].get("excluded_patients", EXCLUDED_PATIENTS)
        ]

    def _rows(self, stage: str) -> Iterable[Mapping[str, Any]]:
        file = self.prepared / stage / "index.json"
        return read_index(file.parent).values() if file.is_file() else []

    def _task2(self) -> dict[str, leakage.Identity]:
        lists = load_datalist(self.datalist, self.dataset_dir)  # type: ignore[arg-type]
        return leakage.identities([one for part in lists.values() for one in part], self._rows("classification"))

    def _trained_segmenter(self) -> dict[str, leakage.Identity] | None:
        """Who trained the segmenter that was given, where its run lies beside it."""
        file = Path(str(self.segmenter)).parent / CONFIG_FILE
        config = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if config.get("job") != "train_segmentation" or not Path(str(config.get("datalist"))).is_file():
            if "trained_on" in weights.segmenter_settings(self.segmenter):
                self._seen_by_segmenter()
            else:
                logger.warning(
                    "%s does not lie in the folder of its training: whether patients of Task 2 trained it can't be checked",
                    self.segmenter,
                )
            return None
        options = [config.get(key) for key in ("datalist", "dataset_dir", "fold", "classification_datalist")]
        index = Path(str(config.get("prepared_dir"))) / "index.json"
        rows = read_index(index.parent).values() if index.is_file() else []
        return leakage.identities(segmentation_split(*options)[0], rows)  # type: ignore[arg-type]

    def verify(self) -> dict[str, int]:
        """Look for leaks in the finished run: whom each model was trained on, as its own run tells, and whom it predicted.

        Returns:
            Patients compared, by model.

        Raises:
            LeakError: naming the pairs.
        """
        compared = {}
        rows = {stage: list(self._rows(stage)) for stage in STAGES}
        for seed in self.seeds if "classification" in self.stages else ():
            for fold in self.folds["classification"]:
                run = self._classification_run(seed, fold)
                predicted = [{"patient": row["patient"]} for row in read_csv(run / "evaluation" / PREDICTIONS_FILE)]
                for mri_type in self.mri_types:
                    config = yaml.safe_load((run / mri_type / CONFIG_FILE).read_text(encoding="utf-8"))
                    split = classification_split(
                        config["datalist"], config["dataset_dir"], config["fold"], config["excluded_patients"]
                    )
                    sides = (f"training of {run / mri_type}", "the patients that it predicted")
                    compared[f"{mri_type}, seed {seed}, fold {fold}"] = leakage.refuse_leaks(
                        leakage.identities(self._seen(split), rows["classification"]),
                        leakage.identities(predicted, rows["classification"]),
                        sides,
                        REMEDY,
                    )
        for fold in self.folds["segmentation"]:
            run = self._segmentation_run(fold)
            predicted = [{"patient": row["patient"]} for row in read_csv(run / "evaluation" / "overlap.csv")]
            config = yaml.safe_load((run / CONFIG_FILE).read_text(encoding="utf-8"))
            keys = ("datalist", "dataset_dir", "fold", "classification_datalist", "excluded_patients")
            trained = leakage.identities(
                self._seen(segmentation_split(*(config[key] for key in keys))), rows["segmentation"]
            )
            held_out = leakage.identities(predicted, rows["segmentation"])
            sides = (f"training of {run}", "the patients that it segmented")
            compared[f"segmentation, fold {fold}"] = leakage.refuse_leaks(trained, held_out, sides, REMEDY)
        return compared

    def _seen(self, split: Sequence[Sequence[Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
        """The patients of a split who decided on a model: those who trained it, and those whose score chose its epoch."""
        return [*split[0], *(split[1] if self.selection == "inner" else ())]

    # -----------------------------------------------------------------------------------------------------------------
    # results

    def predictions(self) -> list[dict[str, Any]]:
        """One row per held-out patient, fold, seed and modality, with the columns ``COLUMNS``."""
        facts = {(row["patient"], row["mri_type"]): row for row in self._rows("classification")}
        lists = load_datalist(self.datalist, self.dataset_dir)  # type: ignore[arg-type]
        sites = {entry["patient"]: entry.get("site", "") for part in lists.values() for entry in part}
        volumes = {who: _tumour_volume(row) for who, row in facts.items()}
        scanners: dict[str, set[str]] = defaultdict(set)
        for (patient, _), row in facts.items():
            scanners[patient].add(row.get("scanner", ""))
        rows = []
        for seed in self.seeds:
            for fold in self.folds["classification"]:
                file = self._classification_run(seed, fold) / "evaluation" / PREDICTIONS_FILE
                for row in read_csv(file):
                    for mri_type in self.mri_types:
                        series = facts.get((row["patient"], mri_type), {})
                        rows.append(
                            {
                                "patient": row["patient"],
                                "fold": fold,
                                "seed": seed,
                                "mri_type": mri_type,
                                "probability": _number(row.get(mri_type)),
                                "label": int(row["label"]),
                                "kept": series.get("kept", 0),
                                "tumour_volume": volumes.get((row["patient"], mri_type)),
                                "scanner": " and ".join(sorted(scanners[row["patient"]])),
                                "site": sites.get(row["patient"], ""),
                            }
                        )
        return rows

    def overlap(self) -> list[dict[str, Any]]:
        """The rows of every fold's ``overlap.csv``, with their fold."""
        names = ("patient", "mri_type", "plane", "region")
        return [
            {"fold": fold, **{key: value if key in names else _number(value) for key, value in row.items()}}
            for fold in self.folds["segmentation"]
            for row in read_csv(self._segmentation_run(fold) / "evaluation" / "overlap.csv")
        ]

    @distributed.by_first
    def _finish(self, state: Mapping[str, Any]) -> dict[str, Any]:
        facts = {
            "selection": self.selection,
            "leakage": {"leaks": 0, "compared": self.verify(), "segmenter_trained_on": self._seen_by_segmenter()},
            "seconds": dict(state["seconds"]),
        }
        rows = self.predictions() if "classification" in self.stages else []
        if rows:
            write_csv(rows, self.folder / PREDICTIONS_FILE, COLUMNS)
        return write_crossvalidation(rows, self.overlap(), self.folder, facts)


def settings_of(config: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """What a configuration says of others, unresolved: components and references in it are theirs."""
    return {job: dict((config or {}).get(job) or {}) for job in JOBS}


@distributed.by_first
def _write_json(content: Any, file: Path) -> None:
    write_json(content, file)


def _known(name: str, values: Sequence[str], known: Sequence[str]) -> list[str]:
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        raise ValueError(f"{name} {list(values)}: expected some of {', '.join(known)}")
    return [value for value in known if value in values]


def _folds(datalist: str | Path | None, folds: Sequence[int] | None) -> list[int]:
    """The folds of a data list, or those asked for, all of which it must have."""
    lists = load_datalist(datalist)  # type: ignore[arg-type]
    there = sorted({entry["fold"] for entry in lists["training"] if "fold" in entry})
    wanted = there if folds is None else list(dict.fromkeys(folds))
    missing = [fold for fold in wanted if fold not in there]
    if len(wanted) == 1 and not missing:
        raise ValueError(
            f"{datalist}: fold {wanted[0]} alone is no cross-validation; give at least two, or use `radiogenomics train` and "
            "`radiogenomics evaluate`"
        )
    if missing or not wanted or lists["validation"]:
        reason = "it has a validation section instead" if lists["validation"] else f"it has {there}"
        raise ValueError(
            f"{datalist}: folds {wanted} are asked for, {reason}; build it with `radiogenomics datalist --folds K`"
        )
    return wanted


def _tumour_volume(row: Mapping[str, Any]) -> float | None:
    """Whole-tumour volume of a prepared series in ml, None without one."""
    if "file" not in row:
        return None
    series = PreparedSeries(row["file"])
    if series.geometry is None:
        return None
    return region_volumes(series.masks(), series.geometry.voxel_volume)["WT"] / 1000


def _number(text: str | None) -> float | None:
    return float(text) if text else None
