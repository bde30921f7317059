"""Ignite handlers of training: seeds by epoch, frozen warm-up, checkpoints with resume, early stop, history."""

from __future__ import annotations

import csv
import logging
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver, EarlyStopping
from monai.engines import Evaluator, Trainer
from monai.transforms import Randomizable
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from . import distributed
from .files import write_csv
from .weights import save_weights

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last.pt"


def has_checkpoint(output_dir: str | Path) -> bool:
    """Whether a run has a checkpoint that it can go on from."""
    return (Path(output_dir) / LAST_CHECKPOINT).is_file()


class EpochSeed:
    """Seed everything random anew at the start of each epoch, from the run's seed and the epoch's number.

    An epoch then depends on nothing that came before it but the checkpoint, so a resumed run equals an unbroken one.

    Args:
        seed: of the run.
        dataset: training dataset, whose random transforms are seeded where they run in this process.
    """

    def __init__(self, seed: int, dataset: Any = None) -> None:
        self.seed, self.dataset = seed, dataset

    def attach(self, engine: Engine) -> None:
        """Seed at the start of every epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed Python, NumPy, torch (which seeds the loader's order and workers) and the transforms."""
        # several processes turn and flip their slices each in its own way
        others = [] if distributed.is_first() else [idist.get_rank()]
        seed = int(np.random.SeedSequence([self.seed, engine.state.epoch, *others]).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)  # transforms of other libraries draw from it
        torch.manual_seed(seed)
        transform = getattr(self.dataset, "transform", None)
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed=seed)


class FrozenWarmup:
    """Keep a part of the network frozen for the first epochs; then train everything with optimizer and scheduler made anew.

    Args:
        module: what is frozen: an encoder or a backbone.
        optimizer: of the whole network; parameters without a gradient are left as they are.
        lr_scheduler: its scheduler.
        epochs: number of warm-up epochs; 0 for none.
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer, lr_scheduler: ReduceLROnPlateau, epochs: int) -> None:
        self.module, self.optimizer, self.lr_scheduler, self.epochs = module, optimizer, lr_scheduler, epochs
        self.initial_rates = [group["lr"] for group in optimizer.param_groups]
        self.initial_schedule = lr_scheduler.state_dict()

    def attach(self, engine: Engine) -> None:
        """Act at the start of every epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Freeze, or thaw and start afresh."""
        frozen = engine.state.epoch <= self.epochs
        self.module.requires_grad_(not frozen)
        if engine.state.epoch == self.epochs + 1 and self.epochs > 0:
            logger.info("warm-up is over: all of the network trains, with a fresh optimizer")
            self.optimizer.state.clear()
            for group, rate in zip(self.optimizer.param_groups, self.initial_rates, strict=True):
                group["lr"] = rate
            self.lr_scheduler.load_state_dict(self.initial_schedule)


class Averaging:
    """Keep the average of a network over its steps, which finds more on unseen patients than any single step's.

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


class TrainingProgress:
    """After each epoch's validation: schedule, early stop, best weights, last checkpoint and history, in this order.

    The last checkpoint holds network, optimizer, scheduler, trainer, early stop and best score, whole or not at all; with
    ``resume``, or when ``torchrun`` starts it again, a run goes on from it. The best weights are a file of
    :mod:`scripts.weights`. Of several processes, which all come to the same scores, the first one writes.

    Args:
        output_dir: folder of the run.
        network: the network that trains.
        optimizer: its optimizer.
        lr_scheduler: ReduceLROnPlateau in mode ``max``, which watches the score as the early stop does, or one that goes by epochs.
        evaluator: has validated when this handler is called.
        score: name of a metric of the evaluator; higher is better, or lower with a leading ``-``; or ``epoch``: later is better, where no
            patient is held out that could choose.
        weights_file: name of the best weights.
        settings: settings to write into it.
        patience: validations without a better score before the run stops.
        interval: epochs between validations, and so between checkpoints.
        resume: go on from the last checkpoint, where there is one.
        half: write the best weights as float16, half the size; the checkpoint stays as it is.
        averaged: the network that is validated and written, where it is not the one that trains: an average of it over steps.
    """

    def __init__(
        self,
        output_dir: str | Path,
        network: nn.Module,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        evaluator: Evaluator,
        score: str,
        weights_file: str,
        settings: Mapping[str, Any],
        patience: int,
        interval: int = 1,
        resume: bool = False,
        half: bool = False,
        averaged: nn.Module | None = None,
    ) -> None:
        self.half, self.averaged = half, averaged if averaged is not None else network
        self.output_dir, self.network, self.settings = Path(output_dir), network, dict(settings)
        self.lr_scheduler, self.evaluator, self.resume = lr_scheduler, evaluator, resume
        self.metric, self.sign = score.lstrip("-"), -1 if score.startswith("-") else 1
        self.weights_file = weights_file
        self.patience, self.interval = patience, interval
        self.best = _Best()
        self.optimizer = optimizer
        self.history = History(self.output_dir / "history.csv")

    def attach(self, engine: Trainer) -> None:
        """Resume when the run starts, act after each epoch."""
        self.early_stop = EarlyStopping(self.patience, lambda _: self.best.current, engine)
        self.objects = {
            "model": self.network,
            "optimizer": self.optimizer,
            "lr_scheduler": self.lr_scheduler,
            "trainer": engine,
            "early_stop": self.early_stop,
            "best": self.best,
        }
        if self.averaged is not self.network:
            self.objects["averaged"] = self.averaged
        saver = DiskSaver(str(self.output_dir), create_dir=True, require_empty=False)
        self.checkpoint = Checkpoint(self.objects, saver, filename_pattern=LAST_CHECKPOINT, n_saved=None)
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)

    def load(self, engine: Trainer) -> None:
        """Go on from the last checkpoint; a run that had stopped stays so."""
        if engine.state.epoch > 0:
            return  # a federation's next round: what a server gave the network since is newer than the checkpoint
        path = self.output_dir / LAST_CHECKPOINT
        if not (self.resume or distributed.restarted()) or not path.is_file():
            return
        max_epochs = engine.state.max_epochs
        state = torch.load(path, map_location="cpu", weights_only=True)
        Checkpoint.load_objects(self.objects, state)
        engine.state.max_epochs = max_epochs
        self.history.keep(engine.state.epoch)
        logger.info("resumed from %s after epoch %d", path, engine.state.epoch)
        if self.best.stopped or (max_epochs is not None and engine.state.epoch >= max_epochs):
            logger.info("this run was finished; nothing is left to train")
            engine.terminate()

    def __call__(self, engine: Trainer) -> None:
        """After an epoch and its validation."""
        metrics = self.evaluator.state.metrics
        scores = {"epoch": engine.state.epoch, **metrics}
        if self.metric not in scores:
            raise ValueError(f"score {self.metric!r} is no metric of the validation; it knows {', '.join(metrics)}")
        value = scores[self.metric]
        self.best.current = self.sign * float(value) if math.isfinite(value) else -math.inf
        if isinstance(self.lr_scheduler, ReduceLROnPlateau):
            self.lr_scheduler.step(self.best.current)
        else:
            self.lr_scheduler.step()
        self.early_stop(engine)
        self.best.stopped = bool(engine.should_terminate)
        rate = self.optimizer.param_groups[0]["lr"]
        loss = engine.state.metrics.get("train_loss", float("nan"))
        if distributed.is_first():
            self.history.add({"epoch": engine.state.epoch, "lr": rate, "train_loss": loss, **metrics})
        if self.best.epoch == 0 or self.best.current > self.best.score:
            self.best.score, self.best.epoch = self.best.current, engine.state.epoch
            details = {self.metric: float(value), "epoch": engine.state.epoch}
            if distributed.is_first():
                file = self.output_dir / self.weights_file
                save_weights(self.averaged, {**self.settings, "trained": details}, file, self.half)
        self.checkpoint(engine)
        logger.info(
            "epoch %d: %s %.4f (best %.4f in epoch %d)",
            engine.state.epoch, self.metric, value, self.sign * self.best.score, self.best.epoch,
        )  # fmt: skip


class _Best:
    """The best score so far, as an object that a checkpoint can hold."""

    def __init__(self) -> None:
        self.score, self.current, self.epoch, self.stopped = -math.inf, -math.inf, 0, False

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


class History:
    """A CSV with one row an epoch, complete after each.

    Args:
        file: where it is written.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self.rows: list[dict[str, Any]] = []

    def keep(self, epochs: int) -> None:
        """Read the rows of the first ``epochs`` epochs back, to go on behind them."""
        if self.file.is_file():
            with open(self.file, newline="", encoding="utf-8") as stream:
                self.rows = [row for row in csv.DictReader(stream) if int(row["epoch"]) <= epochs]

    def add(self, row: Mapping[str, Any]) -> None:
        """Add an epoch's row and write the file with this row's columns; rows from before a resume may have others."""
        self.rows.append(dict(row))
        write_csv(self.rows, self.file, list(row))
