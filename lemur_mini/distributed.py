"""Several ranks under torchrun: one global batch, its work shared out.

Every rank builds the same batch and knows the same plan. It encodes its own part of the
distinct documents, gathers what all encoded, and ranks its own part of the pages."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lemur_mini.memory_bank import MemoryBank
from lemur_mini.sharded_bank import ShardedBank

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


class RankError(RuntimeError):
    """Ranks that cannot work together; the message names the remedy."""


@dataclass(frozen=True)
class Ranks:
    """This process among `size`; alone, every method is the identity."""

    rank: int = 0
    size: int = 1
    sharded: bool = False  # the bank: by row over the ranks, else whole on each
    store: object = None  # what outlives a rank

    def own(self, count: int) -> slice:
        """Which of `count` things are this rank's, dealt out like cards: of documents
        sorted by length, all ranks get as many, and as long ones.

        A rank that would get none takes the first, whose `weight` is 0: every rank's
        graph has then the same shape, and no rank waits for the others in vain."""
        return (
            slice(0, 1) if self.rank >= count > 0 else slice(self.rank, None, self.size)
        )

    def gather(self, own: Tensor, count: int) -> Tensor:
        """All `count` rows, in order, from every rank's own; gradients go back to the
        rank that a row came from."""
        if self.size == 1:
            return own
        own = own[: len(range(self.rank, count, self.size))]
        most = -(-count // self.size)
        filled = torch.cat([own, own.new_zeros(most - len(own), *own.shape[1:])])
        every = _Gather.apply(filled, self.size).unflatten(0, (self.size, most))
        return every.transpose(0, 1).flatten(0, 1)[:count]

    def weight(self, mask: Tensor) -> Tensor | float:
        """What this rank's mean over its own pages weighs, so that the mean over ranks,
        which is what DDP takes, is the mean over all. mask: (P, S), the samples."""
        if self.size == 1:
            return 1.0
        own = mask[self.rank :: self.size]  # none, where `own` gives one to fill in
        return self.size * own.sum() / mask.sum()

    def mean(self, x: Tensor) -> Tensor:
        """The mean over ranks, on all of them."""
        if self.size > 1:
            dist.all_reduce(x := x.clone())
        return x / self.size

    def wait(self) -> None:
        """For the slowest rank."""
        if self.size > 1:
            dist.barrier()

    def parallel(self, model: nn.Module) -> Callable:
        """`model.losses`, whose backward pass averages gradients over ranks."""
        if self.size == 1:
            return model.losses
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            return DistributedDataParallel(
                _Step(model),
                broadcast_buffers=False,  # every rank computes the same ones
                init_sync=False,  # same seed or checkpoint; a shard has its own rows
                find_unused_parameters=True,  # frozen encoders, the ranker in stage 1
            )

    def bank(self, documents: int, width: int) -> MemoryBank:
        """An empty bank in the form that was asked for."""
        if self.sharded:
            return ShardedBank(documents, width, self)
        return MemoryBank(documents, width)

    def has_the_word(self) -> bool:
        """Whether this rank is the first that has to say what stopped the run. From
        here on it ends undisturbed."""
        if self.size == 1:
            return True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return self.store.add("last word", 1) == 1

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run as one: only rank 0 prints, and a rank that is gone is a RankError."""
        quiet = open(os.devnull, "w") if self.rank else sys.stdout  # noqa: SIM115
        try:
            with redirect_stdout(quiet):
                yield
                if self.size > 1:
                    dist.barrier()
                    dist.destroy_process_group()
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            reason = str(error).splitlines()[0].split("] ")[-1]
            raise RankError(
                f"a rank is gone ({reason}); --resume goes on from the last "
                "checkpoint, on any number of ranks"
            ) from error


ALONE = Ranks()


class _Step(nn.Module):
    """A model whose forward pass is that of training, as DDP wants it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.unused = nn.Parameter(torch.zeros(()))  # DDP warns where it looks for
        # parameters without gradient and finds none

    def forward(self, *arguments):
        return self.model.losses(*arguments)


class _Gather(torch.autograd.Function):
    """all_gather; backward sums what all ranks' losses say to the rows of this one."""

    @staticmethod
    def forward(ctx, own: Tensor, size: int) -> Tensor:
        every = own.new_empty(size * len(own), *own.shape[1:])
        dist.all_gather_into_tensor(every, own.contiguous())
        return every

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        size = dist.get_world_size()
        own = gradient.new_empty(len(gradient) // size, *gradient.shape[1:])
        dist.reduce_scatter_tensor(own, gradient.contiguous())
        return own, None


def join(device: torch.device, sharded: bool = False) -> tuple[Ranks, torch.device]:
    """This process's place among those that torchrun started, and its device. Raises
    RankError where there are more ranks than GPUs."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return ALONE, device
    if device.type not in BACKENDS:
        raise RankError(f"several ranks need cuda or cpu, not {device}; --device cpu")
    if device.type == "cuda":
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= count:
            raise RankError(
                f"a GPU for every rank, and here are {count}; start fewer ranks, or "
                "use --device cpu"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    store, rank, size = next(dist.rendezvous("env://"))
    dist.init_process_group(
        BACKENDS[device.type], store=store, rank=rank, world_size=size
    )
    signal.signal(signal.SIGTERM, _told_to_stop)
    return Ranks(rank, size, sharded, store), device


def _told_to_stop(*_) -> None:
    raise dist.DistError("torchrun stops the others")
