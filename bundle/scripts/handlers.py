"""Ignite handlers of training: seeds by epoch, frozen warm-up, averaging, and the steps after a validation, in the configuration's order."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, EarlyStopping
from monai.engines import Evaluator
from monai.transforms import Randomizable
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from . import distributed
from .files import read_csv, write_csv, written_whole
from .weights import save_weights

try:  # for the configurations, which name it here
    from ignite.handlers import ProgressBar
except ImportError:  # before 0.4.13; MONAI Label has 0.4.11
    from ignite.contrib.handlers import ProgressBar  # noqa: F401

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last.pt"


def starting_weights(init: str, resume: bool, output_dir: str | Path) -> str:
    """The initialisation of a network: ``init``, or ``none`` where a checkpoint follows."""
    return "none" if resume and (Path(output_dir) / LAST_CHECKPOINT).is_file() else init


def cosine(max_epochs: int, interval: int = 1) -> Callable[[int], float]:
    """Factor of the learning rate by number of validations, for ``LambdaLR``: from 1 to 0.01 at the last epoch.

    It does not store ``max_epochs`` in a checkpoint: a resumed run may have more.
    """
    return lambda step: 0.01 + 0.495 * (1 + math.cos(math.pi * min(step * interval / max_epochs, 1)))


def ordered(*lists: Iterable[Any]) -> list[Any]:
    """Handlers of several lists, without those that are disabled: MONAI makes None of a reference to a ``_disabled_`` component."""
    return [handler for handlers in lists for handler in handlers if handler is not None]


class _EachEpoch:
    def attach(self: Any, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)


class _AfterValidation:
    def attach(self: Any, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.score.interval), self)


class EpochSeed(_EachEpoch):
    """Reseed everything random at the start of each epoch, from the run's seed and the epoch's number.

    An epoch then depends only on the checkpoint before it, so a resumed run equals an uninterrupted one.

    Args:
        seed: of the run.
        dataset: training dataset, whose random transforms are seeded where they run in this process.
    """

    def __init__(self, seed: int, dataset: Any = None) -> None:
        self.seed, self.dataset = seed, dataset

    def __call__(self, engine: Engine) -> None:
        """Seed Python, NumPy, torch (which seeds the loader's order and workers) and the transforms."""
        # several processes augment their slices differently
        others = [] if distributed.is_first() else [idist.get_rank()]
        seed = int(np.random.SeedSequence([self.seed, engine.state.epoch, *others]).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)  # transforms of other libraries draw from it
        torch.manual_seed(seed)
        transform = getattr(self.dataset, "transform", None)
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed=seed)


class FrozenWarmup(_EachEpoch):
    """Keep a part of the network frozen for the first epochs; then train everything with a fresh optimizer and scheduler."""

    def __init__(self, module: nn.Module, optimizer: Optimizer, lr_scheduler: ReduceLROnPlateau, epochs: int) -> None:
        self.module, self.optimizer, self.lr_scheduler, self.epochs = module, optimizer, lr_scheduler, epochs
        self.initial_rates = [group["lr"] for group in optimizer.param_groups]
        self.initial_schedule = lr_scheduler.state_dict()

    def __call__(self, engine: Engine) -> None:
        """Freeze, or unfreeze and start afresh."""
        frozen = engine.state.epoch <= self.epochs
        self.module.requires_grad_(not frozen)
        if engine.state.epoch == self.epochs + 1 and self.epochs > 0:
            logger.info("warm-up is over: the whole network trains, with a fresh optimizer")
            self.optimizer.state.clear()
            for group, rate in zip(self.optimizer.param_groups, self.initial_rates, strict=True):
                group["lr"] = rate
            self.lr_scheduler.load_state_dict(self.initial_schedule)


class Averaging:
    """Keep the average of a network over its steps, which generalises better than any single step.

    The decay begins low, so that the random start is forgotten.

    Args:
        network: that trains.
        averaged: a copy of it, which is changed in place.
        decay: share of the average that a step leaves as it is.
    """

    def __init__(self, network: nn.Module, averaged: nn.Module, decay: float = 0.998) -> None:
        self.network, self.averaged, self.decay = network, averaged.requires_grad_(False).eval(), decay

    def attach(self, engine: Engine) -> None:
        """Average after every step."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        """Average parameters, and statistics alike."""
        step = engine.state.iteration
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        mine, theirs = self.averaged.state_dict(), self.network.state_dict()
        floats = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[name] for name in floats], [theirs[name] for name in floats], share)
        for name, value in mine.items():
            if not value.is_floating_point():
                value.copy_(theirs[name])


class ValidationScore:
    """Take the score that chooses the best epoch from each validation.

    Args:
        evaluator: has validated when this handler is called.
        score: name of a metric of the evaluator; higher is better, or lower with a leading ``-``; or ``epoch``: later is better,
            for runs without held-out patients.
        interval: epochs between validations.
    """

    def __init__(self, evaluator: Evaluator, score: str, interval: int = 1) -> None:
        self.evaluator, self.interval = evaluator, interval
        self.metric, self.sign = score.lstrip("-"), -1 if score.startswith("-") else 1
        self.score, self.epoch = -math.inf, 0  # the best so far, where higher is better, and its epoch
        self.value, self.current = math.nan, -math.inf  # the last metric, and its score
        self.stopped = False  # the run has ended early, see EarlyStop

    def attach(self, engine: Engine) -> None:
        """Act after each epoch that ends with a validation."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)

    def __call__(self, engine: Engine) -> None:
        """Compare this epoch with the best one.

        Raises:
            ValueError: when the validation has no such metric.
        """
        metrics = {"epoch": engine.state.epoch, **self.evaluator.state.metrics}
        if self.metric not in metrics:
            raise ValueError(
                f"score is {self.metric!r}, expected one of {', '.join(metrics)}, which the validation measures"
            )
        self.value = float(metrics[self.metric])
        self.current = self.sign * self.value if math.isfinite(self.value) else -math.inf
        if self.epoch == 0 or self.current > self.score:
            self.score, self.epoch = self.current, engine.state.epoch
        logger.info(
            "epoch %d: %s %.4f (best %.4f in epoch %d)",
            engine.state.epoch, self.metric, self.value, self.sign * self.score, self.epoch,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {name: getattr(self, name) for name in ("score", "current", "epoch", "stopped")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        vars(self).update(state)


class Schedule(_AfterValidation):
    """Step the learning rate after each validation; MONAI's ``LrScheduleHandler`` would step between them as well."""

    def __init__(self, lr_scheduler: LRScheduler, score: ValidationScore) -> None:
        self.lr_scheduler, self.score = lr_scheduler, score

    def __call__(self, engine: Engine) -> None:
        """Step."""
        if isinstance(self.lr_scheduler, ReduceLROnPlateau):
            self.lr_scheduler.step(self.score.current)
        else:
            self.lr_scheduler.step()


class EarlyStop(_AfterValidation):
    """Ignite's early stop after ``patience`` validations without a better score; the score records that it has ended the run."""

    def __init__(self, score: ValidationScore, patience: int) -> None:
        self.score, self.patience = score, patience

    def attach(self, engine: Engine) -> None:
        """Count for this trainer."""
        self.stopping = EarlyStopping(self.patience, lambda _: self.score.current, engine)
        super().attach(engine)

    def __call__(self, engine: Engine) -> None:
        """Count, and stop the trainer when patience is at its end."""
        self.stopping(engine)
        self.score.stopped = bool(engine.should_terminate)

    def state_dict(self) -> Mapping[str, Any]:
        """What a checkpoint holds."""
        return self.stopping.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.stopping.load_state_dict(state)


class History(_AfterValidation):
    """A CSV with one row per validation: epoch, learning rate, training loss and all metrics; complete after each."""

    def __init__(self, file: str | Path, optimizer: Optimizer, score: ValidationScore) -> None:
        self.file, self.optimizer, self.score = Path(file), optimizer, score
        self.rows: list[dict[str, Any]] | None = None

    def __call__(self, engine: Engine) -> None:
        """Add a row behind those of the epochs before, which a resumed run finds in the file."""
        if not distributed.is_first():
            return
        epoch, rate = engine.state.epoch, self.optimizer.param_groups[0]["lr"]
        loss = engine.state.metrics.get("train_loss", math.nan)
        if self.rows is None:
            before = read_csv(self.file) if self.file.is_file() else []
            self.rows = [row for row in before if int(row["epoch"]) < epoch]
        self.rows.append({"epoch": epoch, "lr": rate, "train_loss": loss, **self.score.evaluator.state.metrics})
        write_csv(self.rows, self.file, list(self.rows[-1]))  # rows from before a resume may have other columns


class BestWeights(_AfterValidation):
    """Write the weights of the best epoch as a file of :mod:`scripts.weights`; only the first of several processes does."""

    def __init__(
        self,
        file: str | Path,
        network: nn.Module,
        settings: Mapping[str, Any],
        score: ValidationScore,
        half: bool = False,
    ) -> None:
        self.file, self.network, self.settings, self.score, self.half = file, network, dict(settings), score, half

    def __call__(self, engine: Engine) -> None:
        """Write them when this epoch is the best."""
        if self.score.epoch == engine.state.epoch and distributed.is_first():
            trained = {self.score.metric: self.score.value, "epoch": engine.state.epoch}
            save_weights(self.network, {**self.settings, "trained": trained}, Path(self.file), self.half)


class LastCheckpoint:
    """Write everything a run needs to continue after each validation, whole or not at all; and continue from it.

    MONAI's ``CheckpointLoader`` always loads, and can't keep a finished run finished.

    Args:
        output_dir: folder of the run.
        objects: with a state, by their keys in the file; those that are None are left out. The trainer's own is added.
        score: of the validation.
        resume: continue from the last checkpoint, if any; a run restarted by ``torchrun`` always does.
    """

    def __init__(
        self, output_dir: str | Path, objects: Mapping[str, Any], score: ValidationScore, resume: bool = False
    ) -> None:
        self.output_dir, self.score, self.resume = Path(output_dir), score, resume
        self.objects = {key: value for key, value in objects.items() if value is not None} | {"best": score}

    def attach(self, engine: Engine) -> None:
        """Resume when the run starts, write after each epoch that ends with a validation."""
        self.objects["trainer"] = engine
        # ignite's DiskSaver leaves its temporary file when it is killed
        checkpoint = Checkpoint(self.objects, self._save, filename_pattern=LAST_CHECKPOINT, n_saved=None)
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.score.interval), checkpoint)

    def _save(self, checkpoint: Mapping[str, Any], filename: str, *_: Any) -> None:
        if distributed.is_first():
            with written_whole(self.output_dir / filename) as temporary, open(temporary, "wb") as stream:
                torch.save(checkpoint, stream)

    def load(self, engine: Engine) -> None:
        """Continue from the last checkpoint; a stopped run stays stopped."""
        if engine.state.epoch > 0:
            return  # a federation's next round: what a server gave the network since is newer than the checkpoint
        path = self.output_dir / LAST_CHECKPOINT
        if not (self.resume or distributed.restarted()) or not path.is_file():
            return
        max_epochs = engine.state.max_epochs
        state = torch.load(path, map_location="cpu", weights_only=True)
        Checkpoint.load_objects(self.objects, state)
        engine.state.max_epochs = max_epochs
        logger.info("resumed from %s after epoch %d", path, engine.state.epoch)
        if self.score.stopped or (max_epochs is not None and engine.state.epoch >= max_epochs):
            logger.info("this run is finished; nothing is left to train")
            engine.terminate()
