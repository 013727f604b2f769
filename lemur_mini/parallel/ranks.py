"""The ranks that torchrun started: who has what share, and how they talk."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from lemur_mini.data.streams import Deal
from lemur_mini.errors import Mendable

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


class RankError(Mendable, RuntimeError):
    """Ranks that cannot work together; the message names the remedy."""


@dataclass(frozen=True)
class Ranks:
    """This process among `size`; alone, every method is the identity."""

    rank: int = 0
    size: int = 1
    sharded: bool = False  # the bank: by row over the ranks, else whole on each
    store: object = None  # what outlives a rank
    readers: object = None  # a group beside that of training: batches are made in time

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

    def weight(self, count: int) -> float:
        """What the sum over this rank's part of `count` things weighs, so that the mean
        over ranks, which is what DDP takes, is the sum over all."""
        return 0.0 if self.rank >= count else self.size

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, on all of them."""
        if self.size > 1:
            dist.all_reduce(x := x.clone())
        return x

    def mean(self, x: Tensor) -> Tensor:
        """The mean over ranks, on all of them."""
        return self.sum(x) / self.size

    def exchange(self, own: object) -> list:
        """What every rank gives, in order; for those who make the next batch while a
        step is going on."""
        every: list = [None] * self.size
        dist.all_gather_object(every, own, self.readers)
        return every

    def deal(self) -> Deal | None:
        """How the ranks share out the pages of a log that they read together."""
        return Deal(self.rank, self.size, self.exchange) if self.size > 1 else None

    def wait(self) -> None:
        """For the slowest rank."""
        if self.size > 1:
            dist.barrier()

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
    readers = dist.new_group(backend="gloo")
    return Ranks(rank, size, sharded, store, readers), device


def _told_to_stop(*_) -> None:
    raise dist.DistError("torchrun stops the others")
