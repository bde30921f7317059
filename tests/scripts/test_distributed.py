"""What the configurations call, with one process and with several that are only said to be there."""

import copy
import logging
import threading
from itertools import chain

import pytest
import torch
import yaml
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.data import Dataset
from torch import nn

from scripts import cli, distributed, runs
from scripts.handlers import EpochSeed
from scripts.runs import RunExistsError


@pytest.fixture
def as_process(monkeypatch):
    """Pretend to be one of several processes."""

    def pretend(rank, count):
        monkeypatch.setattr(distributed.idist, "get_rank", lambda: rank)
        monkeypatch.setattr(distributed.idist, "get_world_size", lambda: count)

    return pretend


@pytest.fixture
def launched(monkeypatch):
    """Pretend to be started by torchrun."""

    def pretend(name, attempt):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", f"/tmp/torchelastic_1/{name}/attempt_{attempt}/0/error.json")
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))

    return pretend


# One process


def test_one_process_is_left_as_it_is():
    network, loss, items = nn.Linear(2, 1), nn.MSELoss(), [1, 2, 3]
    assert distributed.alone() == 1
    assert distributed.is_first()
    assert distributed.parallel(network) is network
    assert distributed.whole_batch(loss) is loss
    assert distributed.share(items) == items
    assert distributed.share([{"patient": "b"}, {"patient": "a"}], by="patient") == [{"patient": "b"}, {"patient": "a"}]
    assert distributed.sampler(Dataset(items), True, 67) is None
    assert distributed.gather("x") == ["x"]
    assert distributed.by_first(lambda: 5)() == 5
    assert distributed.epoch_length([]) == 0
    assert distributed.launch() is None
    assert not distributed.restarted()


def test_several_processes_without_the_other_configuration_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"4 processes were started.*distributed\.yaml is not laid over this job"):
        distributed.alone()
    with pytest.raises(ValueError, match=r"4 processes were started.*this job runs in one process"):
        distributed.alone(shared=False)


def test_the_phantom_is_made_by_one_process(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were started.*start it without torchrun"):
        cli.phantom(tmp_path / "phantom")
    assert not (tmp_path / "phantom").exists()


# Data


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_every_item_is_in_one_share(as_process, count):
    items = list(range(11))
    shares = []
    for rank in range(count):
        as_process(rank, count)
        shares.append(distributed.share(items))
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_patient_is_in_one_share_whole_and_in_order(as_process, count):
    items = [{"patient": f"p{(7 * index) % 5}", "index": index} for index in range(23)]
    shares = []
    for rank in range(count):
        as_process(rank, count)
        shares.append(distributed.share(items, by="patient"))
    patients = [{item["patient"] for item in share} for share in shares]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 5
    for share in shares:
        assert [item["index"] for item in share] == sorted(item["index"] for item in share)
    assert sorted(item["index"] for share in shares for item in share) == list(range(23))


def batches(dataset, rank, count, size, epoch):
    """Batches of a process in an epoch, as the configurations' sampler gives them."""
    sampler = distributed.DistributedSampler(dataset, num_replicas=count, rank=rank, shuffle=True, seed=67)
    sampler.set_epoch(epoch)
    order = list(sampler)
    return [order[start : start + size] for start in range(0, len(order), size)]


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_step_has_the_items_of_the_larger_batch_of_one_process(count, epoch):
    dataset = Dataset(list(range(24)))
    whole = batches(dataset, 0, 1, 3 * count, epoch)
    parts = zip(*(batches(dataset, rank, count, 3, epoch) for rank in range(count)), strict=True)
    assert [sorted(batch) for batch in whole] == [sorted(chain(*part)) for part in parts]
    assert batches(dataset, 0, 1, 24, 1) != batches(dataset, 0, 1, 24, 2)


def test_a_process_without_patients_takes_part_in_the_metrics(as_process):
    as_process(1, 2)
    length = distributed.epoch_length([])
    assert length == 1
    assert distributed.epoch_length([1, 2]) == 2
    seen = []
    engine = Engine(lambda engine, batch: seen.append(batch))
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: seen.append("epoch"))
    engine.run([], max_epochs=1, epoch_length=length)
    assert seen == ["epoch"]


def test_processes_draw_differently_and_the_first_as_if_alone(as_process):
    def draw(rank, count):
        as_process(rank, count)
        engine = Engine(lambda engine, batch: None)
        engine.state.epoch = 1
        EpochSeed(67)(engine)
        return float(torch.rand(1))

    assert draw(0, 1) == draw(0, 2)
    assert len({draw(0, 3), draw(1, 3), draw(2, 3)}) == 3


# Training


def test_loss_of_the_whole_batch(monkeypatch):
    """Two threads stand in for two processes; gradients come back from both, as the collective gives them."""
    torch.manual_seed(0)
    pred, label = torch.randn(2, 3, 4), torch.randn(2, 3, 4)

    def ratio(pred, label):  # no mean over items
        return (pred * label).sum() / (pred.square().sum() + label.square().sum())

    alone = pred.clone().requires_grad_()
    expected = ratio(alone.flatten(0, 1), label.flatten(0, 1))
    expected.backward()
    barrier, shared, losses = threading.Barrier(2), {}, {}
    mine = threading.local()
    leaves = [part.clone().requires_grad_() for part in pred]

    def all_gather(tensor):
        shared[mine.rank, mine.calls] = tensor
        barrier.wait()
        mine.calls += 1
        return tuple(shared[rank, mine.calls - 1] for rank in range(2))

    monkeypatch.setattr(distributed, "all_gather", all_gather)
    monkeypatch.setattr(distributed.idist, "get_world_size", lambda: 2)

    def process(rank):
        mine.rank, mine.calls = rank, 0
        losses[rank] = distributed.whole_batch(ratio)(leaves[rank], label[rank])

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert losses[0] == losses[1]
    torch.testing.assert_close(losses[0], expected)
    ((losses[0] + losses[1]) / 2).backward()  # processes average their gradients
    torch.testing.assert_close(torch.stack([leaf.grad for leaf in leaves]), alone.grad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: nccl is nowhere else")
def test_a_process_has_its_gpu(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert distributed.device() == torch.device("cuda:0")


def test_a_process_without_gpu_has_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.device() == torch.device("cpu")


def test_gpus_go_by_their_number_on_the_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert distributed.device() == torch.device("cuda:3")


# A failure of the first process


def test_what_the_first_process_raises_all_raise(as_process, monkeypatch):
    as_process(0, 2)
    sent = []
    monkeypatch.setattr(distributed.dist, "broadcast_object_list", lambda outcome: sent.extend(copy.copy(outcome)))

    @distributed.by_first
    def fail():
        raise RunExistsError("there is one")

    with pytest.raises(RunExistsError, match="there is one"):
        fail()
    as_process(1, 2)
    monkeypatch.setattr(
        distributed.dist, "broadcast_object_list", lambda outcome: outcome.__setitem__(slice(None), sent)
    )
    with pytest.raises(RunExistsError, match="there is one"):
        distributed.by_first(lambda: pytest.fail("the second process ran it"))()


# Started again by torchrun


CONFIG = """
imports:
- $import scripts.runs as runs
job: train_segmentation
output_dir: null
overwrite: false
run:
- "$runs.start(@output_dir, overwrite=@overwrite)"
"""


def begin(tmp_path, **overrides):
    (tmp_path / "job.yaml").write_text(CONFIG)
    workflow = ConfigWorkflow(
        str(tmp_path / "job.yaml"), logging_file=False, meta_file=None, output_dir=str(tmp_path / "run"), **overrides
    )
    workflow.initialize()
    workflow.run()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_later_attempt_goes_on_with_what_an_earlier_one_began(tmp_path, launched, overwrite):
    launched("none_abc", 0)
    begin(tmp_path, overwrite=overwrite)
    (tmp_path / "run" / "last.pt").touch()
    launched("none_abc", 1)
    begin(tmp_path, overwrite=overwrite)
    assert (tmp_path / "run" / "last.pt").exists()
    assert yaml.safe_load((tmp_path / "run" / runs.CONFIG_FILE).read_text())["launch"]


def test_a_later_attempt_does_not_go_on_with_another_launch(tmp_path, launched):
    """The first attempt was refused because of an earlier run; being started again does not change that."""
    launched("none_abc", 0)
    begin(tmp_path)
    (tmp_path / "run" / "last.pt").touch()
    for attempt in (0, 1):
        launched("none_xyz", attempt)
        with pytest.raises(RuntimeError) as info:
            begin(tmp_path)
        assert isinstance(info.value.__cause__, RunExistsError)
    begin(tmp_path, overwrite=True)
    assert not (tmp_path / "run" / "last.pt").exists()


def test_joining_leaves_the_log_of_the_first_process_alone(as_process, monkeypatch):
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.idist, "sync", lambda: None)
    try:
        as_process(0, 2)
        assert distributed.join("cpu") == 2
        assert logging.getLogger("scripts").isEnabledFor(logging.WARNING)
        as_process(1, 2)
        distributed.join("cpu")
        assert not logging.getLogger("scripts").isEnabledFor(logging.WARNING)
        assert logging.getLogger("scripts").isEnabledFor(logging.ERROR)
    finally:
        logging.disable(logging.NOTSET)
