"""Exercises of notebook 02: attention, and what surrounds it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lemur_mini.encoders import RunningNorm
from lemur_mini.exercises.kinds import Case, Mistake, Part, Value

SEED = 0


def drawn(*shape: int) -> Tensor:
    """Normal numbers that depend on the shape alone."""
    chance = torch.Generator().manual_seed(SEED + sum(shape))
    return torch.randn(*shape, generator=chance)


def attention_cases() -> list[Case]:
    """One head, then two with other lengths, then padding."""

    def case(about: str, heads: int, asks: int, length: list[int]) -> Case:
        batch, longest = len(length), max(length)
        real = torch.arange(longest) < torch.tensor(length)[:, None]  # (B, L)
        q, k = drawn(batch, heads, asks, 4), drawn(batch, heads, longest, 4)
        v = drawn(batch, heads, longest, 4).flip(0, 1, 2)
        mask = real[:, None, None]  # (B, 1, 1, L)
        return Case(about, {"q": q, "k": k, "v": v, "mask": mask})

    return [
        case("One head, no padding", 1, 5, [5]),
        case("Two heads, three tokens ask five", 2, 3, [5, 5]),
        case("Row 1 and row 2 are padded", 2, 3, [6, 2, 4]),
    ]


def weighed(score: Tensor, mask: Tensor, v: Tensor, dim: int = -1) -> Tensor:
    """What attention gives for these scores (B, heads, T, L)."""
    return score.masked_fill(~mask, -torch.inf).softmax(dim=dim) @ v


def scores(q: Tensor, k: Tensor, power: float = 0.5) -> Tensor:
    return q @ k.mT / q.shape[-1] ** power


ATTENTION = Part(
    right=lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
    hint="Scores, divided; padding to minus infinity; softmax; a mean of the values.",
    cases=attention_cases,
    keeps=("attention",),
    mistakes=(
        Mistake(
            lambda q, k, v, mask: weighed(scores(q, k, 0), mask, v),
            "The scores are not divided by the square root of d.",
        ),
        Mistake(
            lambda q, k, v, mask: weighed(scores(q, k, 1), mask, v),
            "The scores are divided by d, not by its square root.",
        ),
        Mistake(
            lambda q, k, v, mask: weighed(scores(q, k), mask, v, dim=-2),
            "The softmax runs over the asking tokens. Weights of *one* asking token "
            "sum to one, over those that answer.",
        ),
        Mistake(
            lambda q, k, v, mask: weighed(scores(q, k), mask, k),
            "Keys are averaged; the values never come in.",
        ),
        Mistake(
            lambda q, k, v, mask: scores(q, k).softmax(-1) @ v,
            "Padding is not masked.",
        ),
        Mistake(
            lambda q, k, v, mask: weighed(scores(q, k), ~mask, v),
            "The mask is upside down: it is True where a token is real.",
        ),
        Mistake(
            lambda q, k, v, mask: (scores(q, k).softmax(-1) * mask) @ v,
            "Masking after the softmax leaves weight on padding that is then thrown "
            "away: the rest does not sum to one.",
        ),
        Mistake(
            lambda q, k, v, mask: (scores(q, k) * mask).softmax(-1) @ v,
            "A score of 0 is a weight of exp(0) = 1. Which score has the weight 0?",
        ),
    ),
)


def running_mean(momentum: float) -> float:
    """Of three batches with the means 2, 4 and 9; the first updates weigh more."""
    norm = RunningNorm(1, momentum).train()
    for mean in (2.0, 4.0, 9.0):
        norm(torch.full((8, 1), mean, requires_grad=True))
        norm.update()
    return norm.mean.item()


def length_of(fields: list[int], separators: int) -> int:
    """cls, the fields, and what stands between them."""
    return 1 + sum(fields) + separators


EXERCISES = {
    "2.1": ATTENTION,
    "2.2": Value(
        right=lambda: length_of([6, 9, 2], separators=2),
        hint="[CLS], then the fields, and [SEP] between those that are not empty.",
        mistakes=(
            Mistake(
                lambda: length_of([6, 9, 2], separators=3),
                "One separator too many: an empty field leaves no trace, not even "
                "a separator, and none stands at the end.",
            ),
            Mistake(
                lambda: length_of([6, 9, 2], separators=2) - 1,
                "One too few: [CLS] is a token of its own.",
            ),
            Mistake(lambda: 6 + 9 + 2, "Those are the words alone."),
        ),
    ),
    "2.3": Value(
        right=lambda: (25 + (64 // 16) ** 2) ** 2,
        hint="How many patches has the cover, and who looks at whom?",
        mistakes=(
            Mistake(
                lambda: 25**2 + (64 // 16) ** 4,
                "Words and patches are in one row: each looks at all of both.",
            ),
            Mistake(
                lambda: (25 + 4) ** 2,
                "Four patches are those of a cover of 32 pixels.",
            ),
            Mistake(lambda: 25 + (64 // 16) ** 2, "Those are the tokens, not pairs."),
        ),
    ),
    "2.4": Value(
        right=lambda: running_mean(0.05),
        hint="Three updates: which weight does each batch have in the end?",
        tolerance=1e-4,
        mistakes=(
            Mistake(
                lambda: ((2 * 0.05) * 0.95 + 4 * 0.05) * 0.95 + 9 * 0.05,
                "The weight of an update is 1/updates, until that is smaller than "
                "the momentum.",
            ),
            Mistake(
                lambda: running_mean(1.0),
                "That is the mean of the last batch alone.",
            ),
        ),
    ),
}
