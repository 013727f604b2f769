"""The same model on several ranks: one global batch, its work shared out.

Every rank builds the same batch and draws the same sample. It encodes its own part of
the distinct documents, gathers what all encoded, and ranks its own part of the pages.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lemur_mini.config import Config
from lemur_mini.data.features import Features
from lemur_mini.data.pages import Batch
from lemur_mini.id_tables import Table
from lemur_mini.memory_bank import MemoryBank
from lemur_mini.model import Lemur, Losses, Sizes, StepOptions
from lemur_mini.parallel.ranks import Ranks
from lemur_mini.parallel.sharded import ShardedBank, ShardedTable, shards_of


class DistributedLemur(Lemur):
    """Lemur among `ranks`: all call the same methods in step, with the same batch."""

    def __init__(self, config: Config, sizes: Sizes, ranks: Ranks):
        self.ranks = ranks
        super().__init__(config, sizes)

    def make_table(self, rows: int, width: int) -> Table:
        if self.config.id_optimizer == "adagrad":
            return ShardedTable(rows, width, self.ranks)
        return super().make_table(rows, width)

    def make_bank(self, documents: int, width: int) -> MemoryBank:
        if self.ranks.sharded:
            return ShardedBank(documents, width, self.ranks)
        return super().make_bank(documents, width)

    def encode_in_chunks(self, features: Features, rows: Tensor) -> Tensor:
        own = rows[self.ranks.own(len(rows))]
        return self.ranks.gather(super().encode_in_chunks(features, own), len(rows))

    def encode_texts(self, features: Features, queries: Tensor) -> Tensor:
        own = queries[self.ranks.own(len(queries))]
        return self.ranks.gather(super().encode_texts(features, own), len(queries))

    def losses(self, batch: Batch, features: Features, options: StepOptions) -> Losses:
        """This rank's part. The mean over ranks is the batch's."""
        count = len(batch.user)
        part = super().losses(batch, features, options, self.ranks.own(count))
        return part.scaled(self.ranks.weight(count))

    def forward(self, batch: Batch, features: Features) -> Tensor:
        count, query, target = len(batch.user), None, None
        own = self.ranks.own(count)
        mine = batch.pages(own)
        if self.config.has_content:
            query = self.encode_queries(batch, features)[0][own]
            target, _ = self.bank.read(mine.item)
        return self.ranks.gather(self.rank(mine, query, target), count)


def averaging(model: DistributedLemur) -> Callable:
    """`model.losses`, whose backward pass averages gradients over ranks."""
    own = [f"model.{k}.{p}" for k, part in shards_of(model).items() for p in part.own()]
    step = _Step(model)
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(step, own)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        return DistributedDataParallel(
            step,
            broadcast_buffers=False,  # every rank computes the same ones
            init_sync=False,  # same seed or checkpoint; a shard has its own rows
            find_unused_parameters=True,  # frozen encoders, the ranker in stage 1
        )


class _Step(nn.Module):
    """A model whose forward pass is that of training, as DDP wants it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.unused = nn.Parameter(torch.zeros(()))  # DDP warns where it looks for
        # parameters without gradient and finds none

    def forward(self, *arguments):
        return self.model.losses(*arguments)
