"""The memory bank and tables of ids cut by rows over ranks, and their checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from lemur_mini.checkpoints import read_rows
from lemur_mini.id_tables import Table
from lemur_mini.memory_bank import NEVER, MemoryBank
from lemur_mini.parallel.ranks import Ranks

DRAWN = 2**16  # rows at a time


class Sharded(nn.Module):
    """Tensors with a row for each of `total` things, cut into one block for each rank.

    Reads are all-to-all: all ranks call them in step, each for rows of its own.
    # our choice: blocks, as in `torch.distributed.checkpoint`; a catalogue in order of
    upload wants its rows shuffled, else the last rank is asked for what is new."""

    def cut(self, total: int, ranks: Ranks) -> int:
        """Take this rank's block; returns how many rows that are."""
        self.total, self.ranks = total, ranks
        self.block = -(-total // ranks.size)
        self.first = min(ranks.rank * self.block, total)
        return min(self.block, total - self.first)

    def own(self) -> dict[str, Tensor]:
        """The tensors that are cut, of this rank's rows."""
        named = {**self._parameters, **self._buffers}
        return {name: tensor.data for name, tensor in named.items()}

    def ask(self, distinct: Tensor) -> tuple[Tensor, list[int], list[int]]:
        """Tell the owners which rows (M,), in order, this rank wants. Returns which of
        this rank's rows are wanted, and of how many each rank asks and is asked."""
        sent = torch.bincount(distinct // self.block, minlength=self.ranks.size)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        sent, received = sent.tolist(), received.tolist()
        return _to_all(distinct, sent, received) - self.first, sent, received

    @torch.no_grad()
    def fetch(self, rows: Tensor, *tables: Tensor) -> list[Tensor]:
        distinct, inverse = torch.unique(rows, return_inverse=True)  # by owner
        asked, sent, received = self.ask(distinct)
        return [_to_all(table[asked], received, sent)[inverse] for table in tables]

    def recut(self, total: int) -> dict[str, Tensor]:
        """Cut so many rows anew. Returns this rank's tensors, 0 where rows are new."""
        before, named = self.total, self.own()
        block = -(-total // self.ranks.size)
        first = min(self.ranks.rank * block, total)
        rows = torch.arange(first, min(first + block, total)).to(self.device)
        parts = self.fetch(rows[rows < before], *named.values())
        more = self.cut(total, self.ranks) - int((rows < before).sum())
        return {
            name: torch.cat([part, part.new_zeros(more, *part.shape[1:])])
            for name, part in zip(named, parts, strict=True)
        }

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return next(iter(self.own().values())).device

    def _save_to_state_dict(self, *_) -> None:
        """`save_rows` writes it, every rank its rows."""

    def _load_from_state_dict(self, state: dict, prefix: str, *_) -> None:
        """Keep this rank's rows of a whole."""
        for name, mine in self.own().items():
            if (whole := state.get(prefix + name)) is not None:
                mine.copy_(whole[self.first : self.first + len(mine)])


class ShardedBank(Sharded, MemoryBank):
    """A write costs nothing, as every rank gathers the fresh vectors anyway and keeps
    its rows."""

    def __init__(self, documents: int, width: int, ranks: Ranks):
        MemoryBank.__init__(self, self.cut(documents, ranks), width)

    @torch.no_grad()
    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        vectors, written = self.fetch(rows.clamp(min=0), self.vectors, self.written)
        found = (rows >= 0) & (written > NEVER)
        return vectors * found[..., None], found

    @torch.no_grad()
    def write(self, rows: Tensor, vectors: Tensor, step: int) -> None:
        place, here = self._place(rows)
        super().write(place, vectors[here], step)

    def forget(self, rows: Tensor | None = None) -> None:
        super().forget(rows if rows is None else self._place(rows)[0])

    def _place(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Where those rows stand here that are this rank's, and which they are."""
        place = rows - self.first
        here = (place >= 0) & (place < len(self.vectors))
        return place[here], here

    def grow(self, documents: int) -> None:
        if documents <= self.total:
            return
        before, parts = self.total, self.recut(documents)
        self.vectors, self.written = parts["vectors"], parts["written"]
        self.written[max(0, before - self.first) :] = NEVER


class ShardedTable(Sharded, Table):
    """Gradients go back to the rank that owns a row, and only it learns. Draws what one
    rank would draw."""

    def __init__(self, rows: int, width: int, ranks: Ranks):
        Table.__init__(self, self.cut(rows, ranks), width, sparse=True)

    def reset_parameters(self) -> None:
        self.draw(1.0)

    @torch.no_grad()
    def draw(self, std: float) -> None:
        last = self.first + len(self.weight)
        for low in range(0, self.total, DRAWN):
            size = min(DRAWN, self.total - low), self.embedding_dim
            part = torch.empty(size).normal_(std=std)
            begin, end = max(low, self.first), min(low + len(part), last)
            if begin < end:
                mine = part[begin - low : end - low]
                self.weight[begin - self.first : end - self.first] = mine

    def forward(self, rows: Tensor) -> Tensor:
        distinct, inverse = torch.unique(rows, return_inverse=True)
        asked, sent, received = self.ask(distinct)
        mine = F.embedding(asked, self.weight, sparse=True)
        return F.embedding(inverse, _Exchange.apply(mine, received, sent))

    @torch.no_grad()
    def grow(self, rows: int) -> None:
        if rows <= self.total:
            return
        (unknown,) = self.fetch(torch.zeros(1, dtype=torch.long), self.weight)
        before, parts = self.total, self.recut(rows)
        parts["weight"][max(0, before - self.first) :] = unknown
        self.weight, self.squares = nn.Parameter(parts["weight"]), parts["squares"]
        self.num_embeddings = len(self.weight)


class _Exchange(torch.autograd.Function):
    """Rows go to those who asked; their gradients come back, as a mean over ranks: of
    what DDP, which takes the mean of all others, never sees."""

    @staticmethod
    def forward(ctx, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.counts = received, sent
        return _to_all(rows, sent, received)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _to_all(gradient, *ctx.counts) / dist.get_world_size(), None, None


def _to_all(x: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """Give every rank its consecutive rows of x; returns what they gave."""
    out = x.new_empty(sum(received), *x.shape[1:])
    dist.all_to_all_single(out, x.contiguous(), received, sent)
    return out


def shards_of(model: nn.Module) -> dict[str, Sharded]:
    """The parts of a model that are cut, by name."""
    return {k: part for k, part in model.named_modules() if isinstance(part, Sharded)}


def shapes_of(shards: dict[str, Sharded]) -> dict[str, tuple[list[int], str]]:
    """Shapes and types of the whole tensors, by name."""
    return {
        f"{name}.{key}": (
            [part.total, *tensor.shape[1:]],
            str(tensor.dtype).removeprefix("torch."),
        )
        for name, part in shards.items()
        for key, tensor in part.own().items()
    }


def save_rows(shards: dict[str, Sharded], folder: Path, ranks: Ranks) -> None:
    """Write a folder of safetensors, one file a rank: no pickle, readable by any number
    of ranks."""
    from torch.distributed import checkpoint

    if not ranks.rank:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that stopped in between
    ranks.wait()
    writer = checkpoint.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    checkpoint.save(_as_parts(shards), storage_writer=writer)


def load_rows(shards: dict[str, Sharded], folder: Path) -> None:
    """Fill this rank's rows from what `save_rows` wrote, on any number of ranks. Raises
    ValueError where something is missing."""
    parts = _as_parts(shards)
    read_rows(parts, folder, alone=False)
    for name, shard in shards.items():
        for key, mine in shard.own().items():
            mine.copy_(parts[f"{name}.{key}"].to_local())


def _as_parts(shards: dict[str, Sharded]) -> dict[str, Tensor]:
    """The tensors on the CPU, as parts of the whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    parts = {}
    for name, shard in shards.items():
        mesh = init_device_mesh("cpu", (shard.ranks.size,))
        for key, mine in shard.own().items():
            whole = torch.empty(shard.total, *mine.shape[1:], device="meta")
            form = {"shape": whole.shape, "stride": whole.stride()}
            cut = DTensor.from_local(mine.cpu(), mesh, [Shard(0)], **form)
            parts[f"{name}.{key}"] = cut
    return parts
