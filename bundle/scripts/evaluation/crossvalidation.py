"""Cross-validation: both stages over folds, seeds and modalities, guarded against leaks, and every patient predicted out of fold.

It runs the configurations that a user would run, one after the other, each in its own folder, and can be interrupted
anywhere.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .. import checks, distributed, runs
from ..baselines import models
from ..commands.running import run_config
from ..files import write_csv, write_json
from ..results import write_crossvalidation
from ..run_folder import PREDICTIONS_FILE
from . import costs, guard, out_of_fold
from .plan import JOBS, Plan

logger = logging.getLogger(__name__)

STATE_FILE = "state.json"


class CrossValidation:
    """A cross-validation in a folder.

    Args:
        output_dir: folder of the run.
        datalist: data list of Task 2; needed for stage 2, and to keep its patients out of stage 1.
        options: see :class:`~scripts.evaluation.plan.Plan`.

    Raises:
        ValueError: for a missing or unknown setting.
    """

    def __init__(self, output_dir: str | Path, datalist: str | Path | None, **options: Any) -> None:
        self.plan = Plan(output_dir, datalist, **options)
        self.folder = self.plan.folder

    def run(self) -> dict[str, Any]:
        """Do the remaining steps, and evaluate everything; processes started by ``torchrun`` must call this together.

        Returns:
            The metrics, also written to ``metrics.json``.

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
            state["peak_memory_mb"] = max(costs.peak_memory() or 0, state.get("peak_memory_mb") or 0) or None
            distributed.by_first(write_json)(state, self.folder / STATE_FILE)
        return self._finish(state)

    def check(self, overwrite: bool = False) -> None:
        """Refuse to continue a run that began with other settings, before anything is written; with ``overwrite`` remove it.

        Raises:
            ValueError: naming what differs.
        """
        try:
            self._state()
        except ValueError:
            if not overwrite:
                raise
            if runs.is_replacement(self.folder):
                shutil.rmtree(self.folder)

    def _state(self) -> dict[str, Any]:
        """The finished steps of a run with the same settings; folds, seeds and modalities may have been added."""
        lists = [self.plan.datalist_of(stage) for stage in self.plan.stages]
        given = {
            "selection": self.plan.selection,
            "model": self.plan.model,
            "settings": self.plan.settings,
            "segmenter": self.plan.segmenter_name(),
            "datalists": {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in lists},
        }
        file = self.folder / STATE_FILE
        if not file.is_file():
            return {"given": given, "seconds": {}}
        state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        before = {"model": models.METHOD, **state["given"]}  # runs of earlier versions
        changed = [name for name, value in given.items() if not _same(before.get(name), value)]
        if changed:
            raise ValueError(
                f"{self.folder} holds a cross-validation that began with other {', '.join(changed)}; continue with those, replace it "
                "(--overwrite), or name another folder (--output)"
            )
        return state

    def _steps(self) -> dict[str, Callable[[], Any]]:
        """The steps by title, in order; each may be started again after an interruption."""
        steps: dict[str, Callable[[], Any]] = {}
        both = len(self.plan.stages) > 1
        if "segmentation" in self.plan.stages:
            steps["prepare segmentation"] = partial(self._job, "prepare_segmentation")
            steps["guard segmentation against leaks"] = partial(guard.check, self.plan, ["segmentation"])
            for fold in self.plan.folds["segmentation"]:
                steps[f"train segmentation, fold {fold}"] = partial(self._train_segmentation, fold)
                steps[f"evaluate segmentation, fold {fold}"] = partial(self._evaluate_segmentation, fold)
        if "classification" in self.plan.stages:
            steps["prepare classification"] = self._prepare_classification
            # Task 2 has pixels to compare only now
            steps["guard both stages against leaks" if both else "guard against leaks"] = partial(
                guard.check, self.plan
            )
            for seed in self.plan.seeds:
                for fold in self.plan.folds["classification"]:
                    for mri_type in self.plan.mri_types:
                        title = f"train {mri_type}, seed {seed}, fold {fold}"
                        steps[title] = partial(self._train_classification, seed, fold, mri_type)
                    steps[f"evaluate seed {seed}, fold {fold}"] = partial(self._evaluate_classification, seed, fold)
        return steps

    def _job(self, config: str, run: list[str] | None = None, **values: Any) -> None:
        plan, stage = self.plan, config.split("_")[1].replace("baseline", "classification")
        known = checks.used(config, run)
        data = {
            "datalist": plan.datalist_of(stage),
            "dataset_dir": plan.dataset_dir_of(stage),
            "prepared_dir": str(plan.prepared / stage),
        }
        settings = {key: value for key, value in plan.common.items() if key in known}
        settings |= {**checks.as_values(data), **plan.settings[config], **checks.as_values(values)}
        run_config(config, **settings, run=run)

    def _without_task2(self) -> dict[str, Any]:
        return {} if self.plan.datalist is None else {"classification_datalist": str(self.plan.datalist)}

    def _train_segmentation(self, fold: int) -> None:
        validation, held_out = self.plan.validation("segmentation", fold)
        self._job(
            "train_segmentation",
            output_dir=str(self.plan.segmentation_run(fold)),
            fold=validation,
            excluded_patients=held_out,
            seed=self.plan.seeds[0],
            resume=True,
            **self._without_task2(),
        )

    def _evaluate_segmentation(self, fold: int) -> None:
        run = self.plan.segmentation_run(fold)
        self._job(
            "evaluate_segmentation",
            segmenter=str(run / "segmentation.pt"),
            output_dir=str(run / "evaluation"),
            fold=fold,
            overwrite=True,
            **self._without_task2(),
        )

    def _model(self, config: str) -> dict[str, Any]:
        """The setting that selects the model in a configuration of the field's other models."""
        return {"model": self.plan.model} if config.endswith("_baseline") else {}

    def _prepare_classification(self) -> None:
        config = models.preparation_of(self.plan.model)
        segmenter = {} if self.plan.segmenter is None else {"segmenter": str(self.plan.segmenter)}
        self._job(config, mri_types=self.plan.mri_types, **(self._model(config) or segmenter))

    def _train_classification(self, seed: int, fold: int, mri_type: str) -> None:
        validation, held_out = self.plan.validation("classification", fold)
        config, run = models.training_of(self.plan.model)
        self._job(
            config,
            run,
            output_dir=str(self.plan.classification_run(seed, fold) / mri_type),
            fold=validation,
            seed=seed,
            mri_type=mri_type,
            excluded_patients=[*self.plan.excluded(), *held_out],
            resume=True,
            **self._model(config),
        )

    def _evaluate_classification(self, seed: int, fold: int) -> None:
        run = self.plan.classification_run(seed, fold)
        config = models.evaluation_of(self.plan.model)
        self._job(
            config,
            classifier=str(run),
            output_dir=str(run / "evaluation"),
            fold=fold,
            excluded_patients=self.plan.excluded(),
            mri_types=self.plan.mri_types,
            overwrite=True,
            **self._model(config),
        )

    @distributed.by_first
    def _finish(self, state: Mapping[str, Any]) -> dict[str, Any]:
        facts = {
            "selection": self.plan.selection,
            "leakage": {
                "leaks": 0,
                "compared": guard.verify(self.plan),
                "segmenter_trained_on": guard.seen_by_segmenter(self.plan),
            },
            "seconds": dict(state["seconds"]),
        }
        if "classification" in self.plan.stages:
            facts["costs"] = costs.costs(self.plan, state["seconds"], state.get("peak_memory_mb"))
        rows = out_of_fold.predictions(self.plan) if "classification" in self.plan.stages else []
        if rows:
            write_csv(rows, self.folder / PREDICTIONS_FILE, out_of_fold.COLUMNS)
        return write_crossvalidation(rows, out_of_fold.overlap(self.plan), self.folder, facts)


def _same(before: Any, now: Any) -> bool:
    """Whether two settings are equal; jobs unknown to an earlier version count as empty."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return all((before.get(key) or None) == (now.get(key) or None) for key in before.keys() | now.keys())
    return bool(before == now)


def settings_of(config: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """A configuration's settings for others, unresolved: components and references in them belong there."""
    return {job: dict((config or {}).get(job) or {}) for job in JOBS}
