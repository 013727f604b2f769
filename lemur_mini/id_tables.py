"""Embeddings of ids; large tables learn sparsely."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-8
NORM = 1e-6  # as in torch.nn.utils.clip_grad_norm_


class Table(nn.Embedding):
    """Embeddings (N, E) by row; row 0 is for the unknown.

    sparse: AdamW moves all rows in every step and keeps 2 E numbers for each, beside a
    gradient of E. Then Adagrad moves those of the batch alone, and keeps one number a
    row in `squares` (N,): the sum of its gradients' mean squares, as FBGEMM's row-wise
    Adagrad does, which TorchRec trains tables with. # our choice: they do not decay."""

    squares: Tensor

    def __init__(self, rows: int, width: int, sparse: bool = False):
        super().__init__(rows, width, sparse=sparse)
        if sparse:
            self.register_buffer("squares", torch.zeros(len(self.weight)))

    def draw(self, std: float) -> None:
        """Start anew: a small start keeps the unseen near zero."""
        nn.init.normal_(self.weight, std=std)

    def gradient(self) -> Tensor:
        """That of the rows (M, E) of the batch; they are added up here."""
        if self.weight.grad is None:
            return self.weight.new_zeros(0, self.embedding_dim)
        self.weight.grad = self.weight.grad.coalesce()
        return self.weight.grad.values()

    @torch.no_grad()
    def learn(self, rate: float, scale: Tensor | float = 1.0) -> None:
        """One step of row-wise Adagrad, with the gradient times `scale`."""
        gradient = self.gradient() * scale
        if not len(gradient):
            return
        rows = self.weight.grad.indices()[0]
        self.squares.index_add_(0, rows, gradient.square().mean(dim=1))
        size = self.squares[rows].sqrt() + EPSILON
        self.weight.index_add_(0, rows, gradient / size[:, None], alpha=-rate)

    @torch.no_grad()
    def grow(self, rows: int) -> None:
        """Have at least so many rows; those that are new are the unknown's."""
        more = rows - len(self.weight)
        if more <= 0:
            return
        new = self.weight[:1].expand(more, -1)
        self.weight, self.num_embeddings = (
            nn.Parameter(torch.cat([self.weight, new])),
            rows,
        )
        if self.sparse:
            self.squares = F.pad(self.squares, (0, more))


def clip(
    dense: list[nn.Parameter],
    tables: list[Table],
    most: float,
    over_ranks: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor | float]:
    """Scale the gradients of `dense` parameters so that the norm over these and all of
    `tables` is at most `most`. Returns the norm, and the scale left for the tables.
    over_ranks: adds up what every rank knows of its own rows."""
    if not tables:
        return nn.utils.clip_grad_norm_(dense, most), 1.0
    squares = torch.stack([table.gradient().square().sum() for table in tables]).sum()
    others = nn.utils.get_total_norm([p.grad for p in dense if p.grad is not None])
    norm = (over_ranks(squares) + others.square()).sqrt()
    nn.utils.clip_grads_with_norm_(dense, most, norm)
    return norm, (most / (norm + NORM)).clamp(max=1.0)
