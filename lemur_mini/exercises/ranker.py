"""Exercises of notebook 04: mixing, the per-token feed-forward layer, QAUC."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lemur_mini import evaluation
from lemur_mini.exercises.encoders import drawn
from lemur_mini.exercises.kinds import Case, Mistake, Part, Value
from lemur_mini.ranker import FeatureTokens, mix


def mix_cases() -> list[Case]:
    """Numbers in order, so that one sees what moved."""

    def case(about: str, b: int, t: int, d: int) -> Case:
        x = torch.arange(b * t * d, dtype=torch.float32).view(b, t, d)
        return Case(about, {"x": x})

    return [
        case("Two tokens of four numbers", 1, 2, 4),
        case("Three impressions, four tokens of sixteen", 3, 4, 16),
    ]


def cut(x: Tensor) -> Tensor:
    """Tokens in heads: (B, T, T, D / T)."""
    return x.unflatten(-1, (x.shape[1], -1))


MIX = Part(
    right=mix,
    hint="Cut every token into T heads; new token h is head h of token 0, then of "
    "token 1, and so on.",
    cases=mix_cases,
    keeps=("mix",),
    mistakes=(
        Mistake(
            lambda x: cut(x).flatten(2),
            "Nothing moved: heads were cut and put back where they came from.",
        ),
        Mistake(
            lambda x: cut(x).transpose(1, 2),
            "The heads moved; they still have to be joined to tokens of width D.",
        ),
        Mistake(
            lambda x: x.mT.reshape(x.shape),
            "Single numbers moved. Heads move as a whole, with their D / T numbers.",
        ),
        Mistake(
            lambda x: x.unflatten(-1, (-1, x.shape[1])).permute(0, 3, 1, 2).flatten(2),
            "A head is a block of neighbours, not every T-th number.",
        ),
        Mistake(lambda x: x.flip(1), "Tokens changed places; their heads should."),
    ),
)


def pffn(x, up, up_bias, down, down_bias, inner=F.gelu) -> Tensor:
    """One network a token. x: (B, T, D); up: (T, D, k D); up_bias: (T, 1, k D); down:
    (T, k D, D); down_bias: (T, 1, D). Returns (B, T, D)."""
    hidden = inner(torch.baddbmm(up_bias, x.transpose(0, 1), up))
    return torch.baddbmm(down_bias, hidden, down).transpose(0, 1)


def pffn_cases() -> list[Case]:
    """One token, then three."""

    def case(about: str, b: int, t: int, d: int, inner: int) -> Case:
        x, up, down = drawn(b, t, d), drawn(t, d, inner), drawn(t, inner, d)
        biases = {"up_bias": drawn(t, 1, inner), "down_bias": drawn(t, 1, d)}
        inputs = {"x": x, "up": up, "up_bias": biases["up_bias"], "down": down}
        return Case(about, inputs | {"down_bias": biases["down_bias"]})

    return [
        case("One token", 5, 1, 4, 8),
        case("Three tokens", 5, 3, 4, 8),
    ]


def shared(x, up, up_bias, down, down_bias) -> Tensor:
    """Every token through the first network."""
    return F.gelu(x @ up[0] + up_bias[0]) @ down[0] + down_bias[0]


PFFN = Part(
    right=pffn,
    hint="Token t alone: x[:, t] @ up[t], plus its bias, GELU, @ down[t], plus bias.",
    cases=pffn_cases,
    keeps=("per_token_feed_forward",),
    mistakes=(
        Mistake(
            lambda x, *w: pffn(x, *w, inner=F.relu),
            "That is a ReLU; the formula has a GELU.",
        ),
        Mistake(
            lambda x, *w: pffn(x, *w, inner=lambda h: h),
            "There is no GELU between the two layers.",
        ),
        Mistake(
            lambda x, up, ub, down, db: pffn(x, up, 0 * ub, down, 0 * db),
            "The biases are missing.",
        ),
        Mistake(
            lambda x, *w: F.gelu(pffn(x, *w)),
            "A GELU too many: none follows the second layer.",
        ),
        Mistake(
            lambda x, *w: x + pffn(x, *w),
            "The residual is the block's, not the layer's.",
        ),
        Mistake(shared, "All tokens go through the first network. Each has its own."),
    ),
)


def new_place(token: int, place: int) -> tuple[int, int]:
    """Where mixing moves a number, with four tokens of sixteen."""
    number = token * 16 + place
    moved = mix(torch.arange(64).view(1, 4, 16))[0]
    return tuple(int(i) for i in torch.nonzero(moved == number)[0])  # type: ignore


def constant(groups: int, width: int) -> int:
    """How many constant tokens fill up."""
    return len(FeatureTokens({str(g): 1 for g in range(groups)}, width).constant)


def two_pages() -> float:
    """QAUC of a page with labels 1, 0, 0, 1 and one that nobody watched."""
    label, score = [1, 0, 0, 1, 0, 0], [0.9, 0.8, 0.3, 0.2, 0.9, 0.1]
    parts = (np.array(x) for x in (label, score, [1, 1, 1, 1, 2, 2]))
    return evaluation.qauc(*parts)


EXERCISES = {
    "4.1": Value(
        right=lambda: constant(9, 64),
        hint="T goes up to the next number that divides 64. Which one is that?",
        mistakes=(
            Mistake(lambda: 64 % 9, "The rest of a division fills nothing up."),
            Mistake(lambda: 16, "That is T, groups and constant tokens together."),
            Mistake(lambda: 64 - 9, "T divides D; it need not be D."),
        ),
    ),
    "4.2": MIX,
    "4.3": Value(
        right=lambda: new_place(2, 5),
        hint="Heads have four numbers. Which head holds place 5? And which of the four "
        "blocks of the new token comes from token 2?",
        mistakes=(
            Mistake(
                lambda: (1, 5),
                "The token is right. But token 2's block is the third of the new one.",
            ),
            Mistake(lambda: new_place(2, 5)[::-1], "First the token, then the place."),
            Mistake(lambda: (2, 5), "That is where it was."),
            Mistake(lambda: (1, 8), "Place 5 is the *second* number of its head."),
        ),
    ),
    "4.4": PFFN,
    "4.5": Value(
        right=two_pages,
        hint="Count the pairs of the first page that are in the right order.",
        mistakes=(
            Mistake(
                lambda: two_pages() / 2,
                "A page where all labels agree is left out; it does not count as 0.",
            ),
            Mistake(
                lambda: 0.75,
                "Count again: 0.2 was watched, too, and stands below both others.",
            ),
        ),
    ),
}
