"""The memory bank: the last known representation of every document."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEVER = -1


class MemoryBank(nn.Module):
    """A dense table of representations by catalogue row (paper, section 4).

    Nothing in here carries a gradient. `vectors`: (N, D); `written`: (N,), the step
    of the last write, NEVER before the first. Rows below 0 mean padding."""

    vectors: Tensor
    written: Tensor

    def __init__(self, documents: int, width: int):
        super().__init__()
        self.register_buffer("vectors", torch.zeros(documents, width))
        self.register_buffer("written", torch.full((documents,), NEVER))

    def fetch(self, rows: Tensor, *tables: Tensor) -> list[Tensor]:
        """What `vectors` or `written` hold at these rows, none below 0."""
        return [table[rows] for table in tables]

    @torch.no_grad()
    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows: any shape. Returns vectors (..., D), 0 on a miss, and found (...)."""
        index = rows.clamp(min=0).flatten()
        found = (rows.flatten() >= 0) & (self.written[index] > NEVER)
        weight = found.to(self.vectors.dtype)
        # bags of one row, times 1 or, on a miss, 0: no second pass over what is read
        vectors = F.embedding_bag(
            index[:, None], self.vectors, mode="sum", per_sample_weights=weight[:, None]
        )
        return vectors.view(*rows.shape, vectors.shape[1]), found.view(rows.shape)

    @torch.no_grad()
    def write(self, rows: Tensor, vectors: Tensor, step: int) -> None:
        """Replace the vectors of distinct rows (M,) by (M, D) at a training step."""
        self.vectors.index_copy_(0, rows, vectors.detach().to(self.vectors.dtype))
        self.written.index_fill_(0, rows, step)

    def forget(self, rows: Tensor | None = None) -> None:
        """Lack these rows (M,); without, all of them."""
        rows = torch.arange(len(self.written)) if rows is None else rows
        rows = rows.to(self.written.device)
        self.vectors.index_fill_(0, rows, 0.0)
        self.written.index_fill_(0, rows, NEVER)

    def age(self, rows: Tensor, step: int) -> Tensor:
        """Steps since the last write, for rows that were written."""
        (written,) = self.fetch(rows[rows >= 0], self.written)
        return (step - written)[written > NEVER]

    def coverage(self, rows: Tensor) -> float | None:
        """Share of the rows that the bank holds, without padding; None of none."""
        rows = rows[rows >= 0]
        if not len(rows):
            return None
        (written,) = self.fetch(rows, self.written)
        return (written > NEVER).float().mean().item()

    def grow(self, documents: int) -> None:
        """Make room for a catalogue of this many documents; what is known stays."""
        more = documents - len(self.vectors)
        if more > 0:
            zeros = self.vectors.new_zeros(more, self.vectors.shape[1])
            self.vectors = torch.cat([self.vectors, zeros])
            self.written = torch.cat([self.written, self.written.new_full((more,), -1)])
