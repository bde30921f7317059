"""Many processes, on one machine or on several, which ``torchrun`` starts and ``configs/distributed.yaml`` joins.

Data are exchanged only through the file system; besides gradients and scores the processes exchange only who is done and what
failed. With one process nothing here does anything.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Sequence, Sized
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data import DistributedSampler
from torch import nn
from torch.distributed.nn.functional import all_gather
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

T = TypeVar("T")
P = ParamSpec("P")

TIMEOUT = timedelta(days=30)
"""How long one process waits for the others: preparing a cohort may take one of them days longer."""


# ---------------------------------------------------------------------------------------------------------------------
# processes


def alone(shared: bool = True) -> int:
    """The number of processes of a job without ``configs/distributed.yaml``: 1.

    Args:
        shared: whether the job could be shared between several.

    Raises:
        ValueError: when several were started, which would all write into the same files.
    """
    count = int(os.environ.get("WORLD_SIZE") or 1)
    if count > 1:
        reason = (
            "configs/distributed.yaml is not laid over this job: --config_file \"['…/JOB.yaml','…/distributed.yaml']\""
            if shared
            else "this job runs in one process: start it without torchrun"
        )
        raise ValueError(f"{count} processes were started (WORLD_SIZE), but {reason}")
    return 1


def join(device: torch.device | str) -> int:
    """Join the processes that ``torchrun`` started, over nccl for GPUs or gloo, and count them; only the first keeps logging."""
    if not dist.is_initialized():
        gpu = torch.device(device).type == "cuda"
        if gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # the meaning of plain "cuda" from now on
        store, rank, count = next(dist.rendezvous("env://"))
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            # torchrun keeps its store when it starts processes again, and the addresses of those that died are still in it
            store = dist.PrefixStore(f"attempt_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        dist.init_process_group("nccl" if gpu else "gloo", store=store, rank=rank, world_size=count, timeout=TIMEOUT)
        atexit.register(dist.destroy_process_group)
    idist.sync()
    # of a process without patients, see epoch_length
    warnings.filterwarnings("ignore", message="Data iterator can not provide data")
    if not is_first():
        logging.disable(
            logging.WARNING
        )  # of whatever library, whenever it sets its level; no logger or handler reaches all
    return idist.get_world_size()


def device() -> torch.device:
    """One GPU per process of a machine, or the CPU."""
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")


def is_first() -> bool:
    """Whether this process writes shared files: weights, tables, indices, curves, logs."""
    return idist.get_rank() == 0


def launch() -> str | None:
    """A name for the launch by ``torchrun``, the same in all its attempts; None without torchrun."""
    # all else that torchrun gives its processes is the same in every launch
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return hashlib.sha256(str(Path(file).parents[2]).encode()).hexdigest()[:16] if file else None


def restarted() -> bool:
    """Whether ``torchrun --max-restarts`` started this process again after one of them had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0


def gather(value: T) -> list[T]:
    """The values of all processes, in the same order everywhere; all must call this."""
    values = [value] * idist.get_world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def by_first(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator of a function that only the first process runs; all must call it, and get its result or error."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        if idist.get_world_size() == 1:
            return function(*args, **kwargs)
        outcome: list[Any] = [None, None]
        if is_first():
            try:
                outcome[0] = function(*args, **kwargs)
            except Exception as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    return wrapper


# ---------------------------------------------------------------------------------------------------------------------
# data


def share(items: Sequence[T], by: str | None = None) -> list[T]:
    """This process's share of a list that all have; every item is in exactly one share, and items with the same value of key ``by`` in the same one."""
    rank, count = idist.get_rank(), idist.get_world_size()
    if by is None:
        return list(items[rank::count])
    rows: list[Any] = list(items)
    mine = set(list(dict.fromkeys(row[by] for row in rows))[rank::count])
    return [row for row in rows if row[by] in mine]


def sampler(dataset: Dataset, shuffle: bool, seed: int) -> DistributedSampler | None:
    """Sampler of a training set's share in an epoch, drawn from the seed and the epoch's number; None without others.

    Some items come twice in an epoch where their number can't be divided by that of the processes.
    """
    return DistributedSampler(dataset, shuffle=shuffle, seed=seed) if dist.is_initialized() else None


def epoch_length(loader: Sized) -> int:
    """Batches in a validation: at least one, even of nothing, so that a process without patients takes part in the metrics."""
    return max(len(loader), 1) if idist.get_world_size() > 1 else len(loader)


# ---------------------------------------------------------------------------------------------------------------------
# training


def parallel(network: nn.Module) -> nn.Module:
    """The network for the trainer, with gradients averaged over the processes; everything else keeps the network itself.

    Batch normalisation of the whole batch exists for GPUs only (``torch.nn.SyncBatchNorm``): on CPUs each process normalises by
    its own batch.
    """
    if idist.get_world_size() == 1:
        return network
    if next(network.parameters()).device.type == "cuda":
        from timm.layers import convert_sync_batchnorm  # torch's own would lose the activations in timm's layers

        convert_sync_batchnorm(network)
    # the frozen part of a warm-up has no gradients
    return DistributedDataParallel(network, find_unused_parameters=True)


def whole_batch(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A differentiable ``loss(pred, label)`` of all processes' batches, which must be of one size, as one.

    A Dice over a batch is not the mean of those over its parts.
    """
    if idist.get_world_size() == 1:
        return loss
    # every process's gradients come back to every process, and are averaged with those of the network
    return lambda pred, label: loss(torch.cat(all_gather(pred)), torch.cat(all_gather(label)))


class SameBuffers:
    """Ignite handler that gives all processes the first one's buffers after an epoch, before they validate and save.

    Running means of batch normalisation are each process's own within a step.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Act after each epoch."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Broadcast."""
        if idist.get_world_size() > 1:
            for buffer in self.network.buffers():
                dist.broadcast(buffer, src=0)
