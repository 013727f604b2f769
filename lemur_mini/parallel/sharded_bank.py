"""The memory bank cut by rows over ranks, and its checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from lemur_mini.checkpoints import read_bank
from lemur_mini.memory_bank import NEVER, MemoryBank
from lemur_mini.parallel.ranks import Ranks


class ShardedBank(MemoryBank):
    """The bank cut into one block of rows for each rank.

    Reads are all-to-all: all ranks call them in step, each for rows of its own. A write
    costs nothing, as every rank gathers the fresh vectors anyway and keeps its rows.
    # our choice: blocks, as in `torch.distributed.checkpoint`; a catalogue in order of
    upload wants its rows shuffled, else the last rank is asked for what is new."""

    def __init__(self, documents: int, width: int, ranks: Ranks):
        self.documents, self.ranks = documents, ranks
        self.block = -(-documents // ranks.size)
        self.first = min(ranks.rank * self.block, documents)
        super().__init__(min(self.block, documents - self.first), width)

    @torch.no_grad()
    def fetch(self, rows: Tensor, *tables: Tensor) -> list[Tensor]:
        distinct, inverse = torch.unique(rows, return_inverse=True)  # by owner
        sent = torch.bincount(distinct // self.block, minlength=self.ranks.size)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        sent, received = sent.tolist(), received.tolist()
        asked = _to_all(distinct, sent, received) - self.first
        return [_to_all(table[asked], received, sent)[inverse] for table in tables]

    @torch.no_grad()
    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        vectors, written = self.fetch(rows.clamp(min=0), self.vectors, self.written)
        found = (rows >= 0) & (written > NEVER)
        return vectors * found[..., None], found

    @torch.no_grad()
    def write(self, rows: Tensor, vectors: Tensor, step: int) -> None:
        place = rows - self.first
        here = (place >= 0) & (place < len(self.vectors))
        super().write(place[here], vectors[here], step)

    def grow(self, documents: int) -> None:
        if documents <= self.documents:
            return
        device = self.vectors.device
        whole = MemoryBank(0, self.vectors.shape[1])
        rows = torch.arange(self.documents, device=device)
        whole.vectors, whole.written = self.fetch(rows, self.vectors, self.written)
        whole.grow(documents)
        self.__init__(documents, self.vectors.shape[1], self.ranks)
        self.to(device).load_state_dict(whole.state_dict())

    def _save_to_state_dict(self, *_) -> None:
        """`save_bank` writes it, every rank its rows."""

    def _load_from_state_dict(self, state: dict, prefix: str, *_) -> None:
        """Keep this rank's rows of a whole bank."""
        for name, mine in self.named_buffers():
            if (whole := state.get(prefix + name)) is not None:
                mine.copy_(whole[self.first : self.first + len(mine)])


def _to_all(x: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """Give every rank its consecutive rows of x; returns what they gave."""
    out = x.new_empty(sum(received), *x.shape[1:])
    dist.all_to_all_single(out, x.contiguous(), received, sent)
    return out


def save_bank(bank: ShardedBank, folder: Path) -> None:
    """Write a folder of safetensors, one file a rank: no pickle, readable by any number
    of ranks."""
    from torch.distributed import checkpoint

    if not bank.ranks.rank:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that stopped in between
    bank.ranks.wait()
    writer = checkpoint.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    checkpoint.save(_as_parts(bank), storage_writer=writer)


def load_bank(bank: ShardedBank, folder: Path) -> None:
    """Fill this rank's rows from what `save_bank` wrote, on any number of ranks. Raises
    ValueError where something is missing."""
    read_bank(bank, folder, _as_parts, alone=False)


def _as_parts(bank: ShardedBank) -> dict[str, Tensor]:
    """The bank's tensors on the CPU, as parts of the whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = init_device_mesh("cpu", (bank.ranks.size,))
    parts = {}
    for name, mine in bank.named_buffers():
        whole = torch.empty(bank.documents, *mine.shape[1:], device="meta")
        form = {"shape": whole.shape, "stride": whole.stride()}
        parts[name] = DTensor.from_local(mine.cpu(), mesh, [Shard(0)], **form)
    return parts
