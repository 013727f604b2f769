"""Dense features: numbers of an impression, such as statistics, as the ranker reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lemur_mini.config import FARTHEST

EDGE = 2.5  # standard deviations from the mean, of the first and the last knot
WORD_WIDTH = 8  # our choice: numbers that stand for one word of the context


class Context(nn.Module):
    """Features of user and moment (P, S, F): numbers that are standardised already,
    then rows of words, each a small vector. Row 0 is for words that training never
    showed."""

    def __init__(self, count: int, kinds: tuple[int, ...]):
        """count: F; kinds: rows of the table of each of the last columns."""
        super().__init__()
        self.numbers = count - len(kinds)
        self.tables = nn.ModuleList(nn.Embedding(n, WORD_WIDTH) for n in kinds)
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.05)
        self.width = self.numbers + WORD_WIDTH * len(kinds)

    def see(self, values: Tensor, mask: Tensor) -> None:
        """Nothing: the training period's figures are known before it begins."""

    def forward(self, values: Tensor) -> Tensor:
        """What the group's token is made of, (P, S, width)."""
        rows = values[..., self.numbers :].long().unbind(dim=-1)
        parts = [table(row) for table, row in zip(self.tables, rows, strict=True)]
        return torch.cat([values[..., : self.numbers], *parts], dim=-1)


class Dense(nn.Module):
    """One group of numbers (P, S, F), standardised by what training has shown so far.

    `see` takes in a batch's impressions; counts grow as a log grows, so the running
    statistics follow slowly. The group's token is a linear map of the numbers and of
    `knots` hat functions of each, and so any curve that bends at the knots: how long
    ago a document was shown is good or bad news in the middle, not at an end."""

    mean: Tensor
    square: Tensor
    batches: Tensor

    def __init__(self, count: int, knots: int = 0):
        super().__init__()
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("square", torch.ones(count))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))
        self.knots = knots
        self.width = count * (1 + knots)

    @torch.no_grad()
    def see(self, values: Tensor, mask: Tensor, slowest: float = 0.01) -> None:
        """Move mean and mean square towards those of this batch, quickly at first.
        values: (P, S, F); mask: (P, S), False where it is padding."""
        self.batches += 1
        weight = torch.clamp(1 / self.batches, min=slowest)
        share = mask[..., None] / mask.sum()
        self.mean.lerp_((values * share).sum((0, 1)), weight)
        self.square.lerp_((values.square() * share).sum((0, 1)), weight)

    def standard(self, values: Tensor) -> Tensor:
        """(P, S, F) with mean 0 and deviation 1; what hardly varies stays near 0."""
        variance = (self.square - self.mean.square()).clamp(min=0)
        scaled = (values - self.mean) * torch.rsqrt(variance + 1e-4)
        return scaled.clamp(-FARTHEST, FARTHEST)

    def hats(self, x: Tensor) -> Tensor:
        """Where numbers (P, S, F) lie between the knots, (P, S, F * knots): 1 at a
        knot, falling to 0 at the next, so that those of a number add up to 1."""
        at = torch.linspace(-EDGE, EDGE, self.knots, device=x.device, dtype=x.dtype)
        distance = (x.clamp(-EDGE, EDGE)[..., None] - at).abs()
        return (1 - distance * (self.knots - 1) / (2 * EDGE)).clamp(min=0).flatten(-2)

    def forward(self, values: Tensor) -> Tensor:
        """What the group's token is made of, (P, S, width)."""
        x = self.standard(values)
        return torch.cat([x, self.hats(x)], dim=-1) if self.knots else x
