import csv
import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from monai.transforms import Compose, RandGaussianNoised, RandScaleIntensityd, ToTensord
from monai.utils import set_determinism
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from scripts.handlers import (
    BestWeights,
    EarlyStop,
    EpochSeed,
    FrozenWarmup,
    History,
    LastCheckpoint,
    Schedule,
    ValidationScore,
    cosine,
    ordered,
)
from scripts.weights import read_weights


class Net(nn.Module):
    """An encoder and a head, with dropout that draws from torch."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.2))
        self.head = nn.Linear(5, 1)

    def forward(self, x):
        return self.head(self.encoder(x))


class Killed(Exception):
    """What ends a run in the middle."""


def items(n, seed):
    rng = np.random.default_rng(seed)
    return [
        {"image": (x := rng.normal(size=4).astype(np.float32)), "label": np.float32([x[0] - x[1] > 0])}
        for _ in range(n)
    ]


class Run:
    """One training as the configurations put it together, tiny. ``scores`` replaces what the evaluator finds."""

    def __init__(
        self,
        folder,
        max_epochs=6,
        warmup=2,
        workers=0,
        resume=False,
        kill_in=None,
        scores=None,
        patience=10,
        score="-loss",
        interval=1,
    ):
        set_determinism(67)
        self.folder, self.network = folder, Net()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.05)
        self.scheduler = ReduceLROnPlateau(self.optimizer, mode="max", patience=0, factor=0.5)
        transform = Compose(
            [
                RandGaussianNoised("image", prob=0.8, std=0.3),
                RandScaleIntensityd("image", 0.2, prob=0.5),
                ToTensord(["image", "label"], track_meta=False),
            ]
        )
        data = Dataset(items(10, 1), transform)
        loss = nn.BCEWithLogitsLoss()
        held_out = DataLoader(Dataset(items(8, 2), ToTensord(["image", "label"], track_meta=False)), batch_size=8)

        def loss_of(output):
            return loss(output["pred"], output["label"])

        self.evaluator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=held_out,
            network=self.network,
            key_val_metric={"loss": Average(output_transform=loss_of)},
            decollate=False,
        )
        if scores is not None:
            self.evaluator.add_event_handler(
                Events.COMPLETED,
                lambda engine: engine.state.metrics.__setitem__("loss", scores[self.trainer.state.epoch - 1]),
            )
        score = ValidationScore(self.evaluator, score, interval)
        early_stop = EarlyStop(score, patience)
        objects = {"model": self.network, "optimizer": self.optimizer, "lr_scheduler": self.scheduler}
        self.trained = []
        self.trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=max_epochs,
            train_data_loader=DataLoader(data, batch_size=4, shuffle=True, num_workers=workers),
            network=self.network,
            optimizer=self.optimizer,
            loss_function=loss,
            key_train_metric={"train_loss": Average(output_transform=lambda output: output["loss"])},
            train_handlers=[
                EpochSeed(67, data),
                FrozenWarmup(self.network.encoder, self.optimizer, self.scheduler, warmup),
                ValidationHandler(interval=interval, validator=self.evaluator, epoch_level=True),
                score,
                Schedule(self.scheduler, score),
                early_stop,
                History(folder / "history.csv", self.optimizer, score),
                BestWeights(folder / "best.pt", self.network, {"size": 4}, score),
                LastCheckpoint(folder, {**objects, "early_stop": early_stop, "averaged": None}, score, resume),
            ],
            decollate=False,
        )
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: self.trained.append(engine.state.epoch))
        if kill_in is not None:

            def kill(engine):
                if engine.state.epoch == kill_in:
                    raise Killed

            self.trainer.add_event_handler(Events.ITERATION_COMPLETED, kill)

    def go(self):
        with suppress(Killed):
            self.trainer.run()
        return self

    def state(self):
        return {key: value.clone() for key, value in self.network.state_dict().items()}

    def history(self):
        return read_history(self.folder)


def read_history(folder):
    with open(folder / "history.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(autouse=True)
def _forget_determinism():
    yield
    set_determinism(None)


# Seeds


def draws(seed, epoch):
    dataset = Dataset([{"image": np.zeros(3, np.float32)}], RandGaussianNoised("image", prob=1.0))
    engine = Engine(lambda engine, batch: None)
    found = []
    EpochSeed(seed, dataset).attach(engine)

    @engine.on(Events.EPOCH_STARTED)
    def draw(engine):
        if engine.state.epoch == epoch:
            found.extend(
                [random.random(), float(np.random.rand()), float(torch.rand(1)), float(dataset[0]["image"][0])]
            )

    random.random(), np.random.rand(), torch.rand(1)
    engine.run([0], max_epochs=epoch)
    return found


def test_an_epoch_draws_the_same_whatever_came_before():
    first, second = draws(67, 2), draws(67, 2)
    assert first == second
    assert len(set(first)) == 4


def test_epochs_and_seeds_draw_differently():
    assert all(a != b for a, b in zip(draws(67, 1), draws(67, 2), strict=True))
    assert all(a != b for a, b in zip(draws(67, 1), draws(68, 1), strict=True))


# Warm-up


def test_encoder_stays_as_it_is_during_the_warm_up(tmp_path):
    run = Run(tmp_path, max_epochs=3, warmup=2)
    seen = {}

    @run.trainer.on(Events.EPOCH_COMPLETED)
    def look(engine):
        seen[engine.state.epoch] = run.state()

    start = run.state()
    run.go()
    for epoch in (1, 2):
        for key in start:
            assert torch.equal(seen[epoch][key], start[key]) == key.startswith("encoder"), (epoch, key)
    assert not any(torch.equal(seen[3][key], seen[2][key]) for key in start)


def test_optimizer_and_rate_are_fresh_after_the_warm_up(tmp_path):
    # each validation is worse than the one before, so the rate is halved from the second epoch on
    run = Run(tmp_path, max_epochs=4, warmup=3, scores=[1, 2, 3, 4])
    rates, states = {}, {}

    @run.trainer.on(Events.ITERATION_STARTED)
    def look(engine):
        rates[engine.state.epoch] = run.optimizer.param_groups[0]["lr"]
        states.setdefault(engine.state.epoch, len(run.optimizer.state))

    run.go()
    assert rates == {1: 0.05, 2: 0.05, 3: 0.025, 4: 0.05}
    assert states == {1: 0, 2: 2, 3: 2, 4: 0}
    assert len(run.optimizer.state) == 4


def test_schedule_begins_anew_after_the_warm_up(tmp_path):
    """The best score of the warm-up does not count against what comes after it."""
    run = Run(tmp_path, max_epochs=5, warmup=2, scores=[1, 2, 5, 4, 3]).go()
    assert [float(row["lr"]) for row in run.history()] == [0.05, 0.025, 0.05, 0.05, 0.05]


def test_without_warm_up_everything_trains_at_once(tmp_path):
    run = Run(tmp_path, max_epochs=1, warmup=0)
    start = run.state()
    run.go()
    assert not any(torch.equal(value, start[key]) for key, value in run.state().items())


# Progress


def test_best_weights_are_those_of_the_best_epoch(tmp_path):
    run = Run(tmp_path, max_epochs=4, scores=[3, 1, 2, 4])
    states = {}
    run.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: states.update({engine.state.epoch: run.state()})
    )
    run.go()
    found, settings = read_weights(tmp_path / "best.pt")
    assert equal(found, states[2])
    assert not equal(found, states[4])
    assert settings == {"size": 4, "trained": {"epoch": 2, "loss": 1.0}}


def test_higher_is_better_without_a_minus(tmp_path):
    Run(tmp_path, max_epochs=4, scores=[3, 1, 4, 2], score="loss").go()
    assert read_weights(tmp_path / "best.pt")[1]["trained"] == {"epoch": 3, "loss": 4.0}


def test_of_equal_epochs_the_first_is_kept(tmp_path):
    Run(tmp_path, max_epochs=3, scores=[2, 1, 1]).go()
    assert read_weights(tmp_path / "best.pt")[1]["trained"]["epoch"] == 2


def test_score_that_is_not_a_number(tmp_path):
    nan = float("nan")
    Run(tmp_path, max_epochs=3, scores=[nan, 2, nan], score="loss").go()
    assert read_weights(tmp_path / "best.pt")[1]["trained"] == {"epoch": 2, "loss": 2.0}


def test_history_has_a_row_an_epoch(tmp_path):
    rows = Run(tmp_path, max_epochs=3, scores=[3, 2, 1]).go().history()
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["loss"]) for row in rows] == [3, 2, 1]
    assert all(0 < float(row["train_loss"]) < 5 for row in rows)


def test_early_stop(tmp_path):
    run = Run(tmp_path, max_epochs=20, patience=3, scores=[2, 1, *range(3, 21)]).go()
    assert run.trained == [1, 2, 3, 4, 5]
    again = Run(tmp_path, max_epochs=20, patience=3, scores=[2, 1, *range(3, 21)], resume=True)
    again.go()
    assert again.trained == []


def test_early_stop_counts_on_after_a_resume(tmp_path):
    scores = [2, 1, *range(3, 21)]
    Run(tmp_path, max_epochs=20, patience=3, scores=scores, kill_in=4).go()
    resumed = Run(tmp_path, max_epochs=20, patience=3, scores=scores, resume=True).go()
    assert resumed.trained == [4, 5]


def test_validation_every_other_epoch(tmp_path):
    run = Run(tmp_path, max_epochs=5, interval=2, scores=[9, 3, 9, 2, 9]).go()
    assert [row["epoch"] for row in run.history()] == ["2", "4"]
    resumed = Run(tmp_path, max_epochs=6, interval=2, scores=[9, 3, 9, 2, 9, 1], resume=True).go()
    assert resumed.trained == [5, 6]
    assert [row["epoch"] for row in resumed.history()] == ["2", "4", "6"]


# Resume


@pytest.mark.slow
@pytest.mark.parametrize(("kill_in", "workers"), [(2, 0), (3, 0), (5, 0), (3, 1)])
def test_a_killed_and_resumed_run_ends_where_the_unbroken_one_ends(tmp_path, workers, kill_in):
    """The warm-up ends with epoch 2: killed within it, at its end and after it."""
    whole = Run(tmp_path / "whole", workers=workers).go()
    Run(tmp_path / "broken", workers=workers, kill_in=kill_in).go()
    assert len(read_history(tmp_path / "broken")) == kill_in - 1
    resumed = Run(tmp_path / "broken", workers=workers, resume=True).go()
    assert resumed.trained == list(range(kill_in, 7))
    assert equal(whole.state(), resumed.state())
    assert whole.history() == resumed.history()
    assert equal(*(read_weights(tmp_path / name / "best.pt")[0] for name in ("whole", "broken")))
    optimizers = [run.optimizer.state_dict() for run in (whole, resumed)]
    for first, second in zip(*(one["state"].values() for one in optimizers), strict=True):
        assert equal(first, second)
    assert optimizers[0]["param_groups"] == optimizers[1]["param_groups"]
    assert whole.scheduler.state_dict() == resumed.scheduler.state_dict()


def test_runs_of_one_seed_are_equal_and_the_noise_matters(tmp_path):
    first, second = (Run(tmp_path / name, max_epochs=2).go() for name in ("a", "b"))
    assert equal(first.state(), second.state())
    third = Run(tmp_path / "c", max_epochs=2)
    third.trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: torch.manual_seed(1))
    assert not equal(first.state(), third.go().state())


def test_a_worse_epoch_after_the_resume_does_not_replace_the_best(tmp_path):
    scores = [3, 1, 2, 2]
    Run(tmp_path, max_epochs=4, scores=scores, kill_in=3).go()
    before = (tmp_path / "best.pt").read_bytes()
    Run(tmp_path, max_epochs=4, scores=scores, resume=True).go()
    assert (tmp_path / "best.pt").read_bytes() == before
    assert read_weights(tmp_path / "best.pt")[1]["trained"]["epoch"] == 2


def test_a_finished_run_has_nothing_left_to_train(tmp_path, caplog):
    done = Run(tmp_path, max_epochs=3).go()
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    caplog.set_level("INFO")
    again = Run(tmp_path, max_epochs=3, resume=True).go()
    assert again.trained == []
    assert equal(again.state(), done.state())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert "nothing is left to train" in caplog.text


def test_a_finished_run_goes_on_when_more_epochs_are_asked_for(tmp_path):
    Run(tmp_path / "short", max_epochs=3).go()
    longer = Run(tmp_path / "short", max_epochs=5, resume=True).go()
    whole = Run(tmp_path / "whole", max_epochs=5).go()
    assert longer.trained == [4, 5]
    assert equal(longer.state(), whole.state())


def test_a_later_round_keeps_the_weights_that_a_server_gave(tmp_path):
    """In a federation a trainer runs again and again, each time from weights that are newer than its checkpoint."""
    run = Run(tmp_path, max_epochs=2, resume=True).go()
    given = {key: torch.zeros_like(value) for key, value in run.state().items()}
    run.network.load_state_dict(given)
    began = []
    run.trainer.add_event_handler(Events.EPOCH_STARTED, lambda _: began.append(run.state()))
    run.trainer.state.max_epochs = 3
    run.go()
    assert run.trained == [1, 2, 3]
    assert equal(began[0], given)


def test_without_resume_a_checkpoint_is_not_looked_at(tmp_path):
    Run(tmp_path, max_epochs=2).go()
    assert Run(tmp_path, max_epochs=2).go().trained == [1, 2]


def test_a_run_that_torchrun_starts_again_goes_on_unasked(tmp_path, monkeypatch):
    whole = Run(tmp_path / "whole").go()
    Run(tmp_path / "broken", kill_in=4).go()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    again = Run(tmp_path / "broken").go()
    assert again.trained == [4, 5, 6]
    assert equal(whole.state(), again.state())


def test_resume_without_a_checkpoint_begins(tmp_path):
    assert Run(tmp_path, max_epochs=2, resume=True).go().trained == [1, 2]


def test_only_whole_files_are_left(tmp_path):
    Run(tmp_path, max_epochs=2).go()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "history.csv", "last.pt"]


def test_a_score_that_nobody_measures(tmp_path):
    with pytest.raises(ValueError, match="score is 'dice', expected one of epoch, loss"):
        Run(tmp_path, score="dice").trainer.run()


def test_an_unfinished_epoch_in_the_history_is_replaced(tmp_path):
    """It is written before the checkpoint, so a run may die between the two."""
    whole = Run(tmp_path / "whole", max_epochs=3).go()
    Run(tmp_path / "broken", max_epochs=3, kill_in=3).go()
    with open(tmp_path / "broken" / "history.csv", "a") as file:
        file.write("3,0,0,0\n")
    assert Run(tmp_path / "broken", max_epochs=3, resume=True).go().history() == whole.history()


def test_a_checkpoint_holds_what_it_always_held(tmp_path):
    """Runs of earlier versions are resumed, and theirs resume these."""
    Run(tmp_path, max_epochs=1, scores=[3]).go()
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert set(state) == {"model", "optimizer", "lr_scheduler", "trainer", "early_stop", "best"}
    assert state["best"] == {"score": -3, "current": -3, "epoch": 1, "stopped": False}


def test_rate_falls_to_a_hundredth():
    assert [cosine(4, 2)(step) for step in range(4)] == pytest.approx([1, 0.505, 0.01, 0.01])


def test_disabled_handlers_are_left_out():
    assert ordered(["a", None], ["b"]) == ["a", "b"]
