"""The checked settings of a cross-validation, and the places in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..baselines import models
from ..checks import SELECTIONS, STAGES
from ..datalists import EXCLUDED_PATIENTS, MRI_TYPES, load_datalist
from ..preparation import read_index

JOBS = tuple(f"{job}_{stage}" for stage in (*STAGES, "baseline") for job in ("prepare", "train", "evaluate"))
"""Configurations that a cross-validation runs."""


class Plan:
    """Stages, folds, seeds and modalities of a cross-validation, its data lists and settings, and the folders of its runs.

    Args:
        output_dir: folder of the run.
        datalist: data list of Task 2; needed for stage 2, and to keep its patients out of stage 1.
        model: of stage 2: the bundle's own method, or one of :mod:`scripts.baselines.models`.
        segmentation_datalist: data list of Task 1; needed for stage 1.
        settings: values that differ from the configurations' own, by configuration.
        common: values for all configurations that have them: ``device``, ``num_workers``, …

    ``configs/crossvalidate.yaml`` explains the others.

    Raises:
        ValueError: for a missing or unknown setting.
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
        model: str = models.METHOD,
    ) -> None:
        self.folder = Path(output_dir)
        self.model, self.takes = model, models.takes(model)
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
            raise ValueError("stage 2 needs the data list of Task 2, and none is given; add --datalist FILE")
        if "segmentation" in self.stages and segmentation_datalist is None:
            raise ValueError(
                "stage 1 needs the data list of Task 1, and none is given; add --segmentation_datalist FILE"
            )
        if selection not in SELECTIONS:
            raise ValueError(f"selection {selection!r}: expected one of {', '.join(SELECTIONS)}")
        self.selection = selection
        self.folds = {stage: _folds(self.datalist_of(stage), folds) if stage in self.stages else [] for stage in STAGES}
        self.masks = "segmentation" in self.stages or self.takes != "stack"
        """Whether tumours are segmented."""
        if segmenter is None and self.masks and "segmentation" not in self.stages:
            raise ValueError(
                "stage 2 needs segmentation weights, and none are given; add --segmenter FILE, or cross-validate stage 1 as well "
                "(--stages segmentation,classification)"
            )
        self.segmenter = segmenter
        if segmenter is None and self.masks:
            self.segmenter = self.segmentation_run(self.folds["segmentation"][0]) / "segmentation.pt"
        for stage in self.stages:
            if selection == "inner" and (count := len(self.all_folds(stage))) < 3:
                raise ValueError(
                    f"{self.datalist_of(stage)}: {count} folds leave nothing to train on besides the held-out fold and "
                    "the one on which the epoch is chosen; build it with `radiogenomics datalist --folds 5`, or choose the epoch on "
                    "the held-out fold, which flatters the figures (--selection outer)"
                )

    def datalist_of(self, stage: str) -> str:
        """The data list of a stage."""
        return str(self.segmentation_datalist if stage == "segmentation" else self.datalist)

    def dataset_dir_of(self, stage: str) -> str | None:
        """The folder that its paths are relative to; None: the one it names."""
        folder = self.segmentation_dataset_dir if stage == "segmentation" else self.dataset_dir
        return None if folder is None else str(folder)

    def all_folds(self, stage: str) -> list[int]:
        """All folds of the stage's data list, held out or not."""
        return _folds(self.datalist_of(stage), None)

    def validation(self, stage: str, fold: int) -> tuple[int, list[str]]:
        """The fold that the epoch is chosen on, and the patients who are on neither side of that training."""
        if self.selection == "outer":
            return fold, []
        folds = self.all_folds(stage)
        training = load_datalist(self.datalist_of(stage))["training"]
        held_out = [one["patient"] for one in training if one.get("fold") == fold]
        return folds[(folds.index(fold) + 1) % len(folds)], held_out

    def excluded(self) -> list[str]:
        """Patients who never train stage 2 and are never evaluated."""
        settings = self.settings[models.training_of(self.model)[0]]
        return [str(one) for one in settings.get("excluded_patients", EXCLUDED_PATIENTS)]

    def segmenter_name(self) -> str | None:
        """The segmenter's file; relative where it is the run's own, whose folder may move; None where nothing is segmented."""
        if self.segmenter is None:
            return None
        file = Path(str(self.segmenter))
        return file.relative_to(self.folder).as_posix() if self.folder in file.parents else str(file)

    def segmentation_run(self, fold: int) -> Path:
        """Folder of a training of stage 1; its evaluation lies in it."""
        return self.folder / "segmentation" / f"fold{fold}"

    def classification_run(self, seed: int, fold: int) -> Path:
        """Folder of the trainings of stage 2 by modality; their evaluation lies in it."""
        return self.folder / "classification" / f"seed{seed}" / f"fold{fold}"

    def prepared_rows(self, stage: str) -> list[Mapping[str, Any]]:
        """The index rows of the series prepared for a stage; none where nothing is prepared yet."""
        return rows_of(self.prepared / stage)


def rows_of(prepared_dir: str | Path) -> list[Mapping[str, Any]]:
    """The rows of the index of a folder of prepared series; none without it."""
    return list(read_index(prepared_dir).values()) if (Path(prepared_dir) / "index.json").is_file() else []


def _known(name: str, values: Sequence[str], known: Sequence[str]) -> list[str]:
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        raise ValueError(f"{name} {list(values)}: expected some of {', '.join(known)}")
    return [value for value in known if value in values]


def _folds(datalist: str, folds: Sequence[int] | None) -> list[int]:
    """The folds of a data list, or the requested ones, which it must all have."""
    lists = load_datalist(datalist)
    there = sorted({entry["fold"] for entry in lists["training"] if "fold" in entry})
    wanted = there if folds is None else list(dict.fromkeys(folds))
    missing = [fold for fold in wanted if fold not in there]
    if len(wanted) == 1 and not missing:
        raise ValueError(
            f"{datalist}: fold {wanted[0]} alone is not a cross-validation; give at least two, or use `radiogenomics train` and "
            "`radiogenomics evaluate`"
        )
    if missing or not wanted or lists["validation"]:
        reason = "it has a validation section instead" if lists["validation"] else f"it has {there}"
        raise ValueError(
            f"{datalist}: folds {wanted} are requested, but {reason}; build it with `radiogenomics datalist --folds K`"
        )
    return wanted
