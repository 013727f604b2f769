"""Exercises of notebook 06: the decoder's layer, similarities, LONGER's merge."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lemur_mini.exercises.encoders import drawn
from lemur_mini.exercises.kinds import Case, Mistake, Part, Value
from lemur_mini.sequence import DecoderLayer, SimilarityModule


def cases_of(*first: object) -> list[Case]:
    """Full histories, then a short one, then an empty one; `first` come in front."""

    def case(about: str, lengths: list[int]) -> Case:
        p, places = len(lengths), torch.arange(5)
        query, memory = drawn(p, 3, 8), drawn(p, 5, 8)
        mask = places < torch.tensor(lengths)[:, None]
        given = {"layer": first[0]} if first else {}
        rest = {"query": query, "history": memory, "mask": mask}
        return Case(about, given | rest)

    return [
        case("Two full histories", [5, 5]),
        case("Row 1 has two documents and three places of padding", [5, 2]),
        case("Row 1 has an empty history", [5, 0]),
    ]


def layer_cases() -> list[Case]:
    """A layer with random weights, of width 8 and two heads."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = DecoderLayer(8, 2, literal=False)
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return cases_of(layer)


def spelt(
    layer: DecoderLayer,
    query: Tensor,
    history: Tensor,
    mask: Tensor,
    *,
    heads: int = 2,
    power: float = 0.5,
    leave: str = "",
) -> Tensor:
    """The layer in few lines, with doors for mistakes: `leave`, what is left out."""
    part = layer.attention
    key, value = part.key_value(history).chunk(2, dim=-1)
    if leave == "order":
        key, value = value, key
    asks = query if leave == "norm" else layer.norms[0](query)
    q, k, v = (
        x.unflatten(-1, (heads, -1)).transpose(1, 2)
        for x in (part.query(asks), key, value)
    )  # (P, heads, S or L, D / heads)
    score = q @ k.mT / q.shape[-1] ** power
    known = torch.ones_like(mask) if leave == "mask" else mask
    score = score.masked_fill(~known[:, None, None], -torch.inf).softmax(dim=-1)
    score = score if leave == "nan" else score.nan_to_num(0.0)
    mixed = part.out((score @ v).transpose(1, 2).flatten(2))
    if leave not in ("nan", "empty", "mask"):
        mixed = mixed * mask.any(dim=1)[:, None, None]
    query = mixed if leave == "first residual" else query + mixed
    made = layer.feed_forward(layer.norms[1](query))
    return made if leave == "second residual" else query + made


def left_out(what: str, hint: str) -> Mistake:
    """A layer without one thing."""
    return Mistake(partial(spelt, leave=what), hint)


DECODER_LAYER = Part(
    right=lambda layer, query, history, mask: layer(query, history, mask),
    hint="Norm, attention by heads, residual; norm, feed-forward, residual.",
    cases=layer_cases,
    keeps=("decoder_layer",),
    mistakes=(
        left_out("first residual", "The residual around the attention is missing."),
        left_out("second residual", "The residual around the feed-forward is missing."),
        left_out("norm", "The query is not normalised before it asks (`norms[0]`)."),
        left_out("order", "Keys and values are swapped: `key_value` gives keys first."),
        Mistake(
            partial(spelt, heads=1),
            "That is one head of the whole width; there are `layer.attention.heads`.",
        ),
        Mistake(partial(spelt, power=0), "Scores are not divided by sqrt(D / heads)."),
        Mistake(
            partial(spelt, power=0.75),  # 4 ** 0.75 = 8 ** 0.5
            "Scores are divided by sqrt(D); a head is only D / heads wide.",
        ),
        left_out("mask", "Padding is not masked."),
        left_out("nan", "A softmax over nothing is no number; an empty history is 0."),
        left_out(
            "empty",
            "An empty history still gets the bias of `out`: make that zero, too.",
        ),
    ),
)


def similarities(target: Tensor, history: Tensor, mask: Tensor, leave: str = ""):
    """The module's numbers in few lines, with doors for mistakes."""
    unit = (lambda x: x) if leave == "cosine" else partial(F.normalize, dim=-1)
    cosine = unit(target) @ unit(history).mT  # (P, S, L)
    known = mask[:, None].expand_as(cosine)
    plain = cosine if leave == "mask" else cosine.masked_fill(~known, 0.0)
    if leave in ("mask", "last"):  # padding sorted in as if it were an item
        return torch.cat([plain, plain.sort(descending=True).values], dim=-1)
    order = cosine.masked_fill(~known, -2.0).sort(descending=leave != "order").values
    order = order.masked_fill(order == -2.0, 0.0)
    halves = [order, plain] if leave == "halves" else [plain, order]
    return plain if leave == "twice" else torch.cat(halves, dim=-1)


def without(what: str, hint: str) -> Mistake:
    """The similarities without one thing."""
    return Mistake(partial(similarities, leave=what), hint)


SIMILARITIES = Part(
    right=lambda target, history, mask: SimilarityModule()(target, history, mask),
    hint="Cosines by place, 0 for padding; then sorted, largest first, padding last.",
    cases=cases_of,
    keeps=("similarities",),
    mistakes=(
        without("cosine", "Those are dot products; a cosine is that of unit vectors."),
        without("order", "Sorted upwards; the largest comes first."),
        without("halves", "The halves are swapped: by time first, then sorted."),
        without("twice", "The sorted half is missing."),
        without("mask", "Padding is not masked: its places are worth 0."),
        without(
            "last",
            "Padding is worth 0, but it is no item: sorted, it comes behind negative "
            "cosines, too.",
        ),
    ),
)


def cheapest(d: int, length: int) -> int:
    """Of 2, 4 and 8: the merge that makes LONGER's layer cheapest."""
    return min((2, 4, 8), key=lambda k: 6 * d * k + length / k)


def single(printed: DecoderLayer, ask: Tensor, only: Tensor) -> Tensor:
    """The literal layer over a history of one item."""
    return printed(ask[None], only[None], torch.tensor([[True]]))[0]


EXERCISES = {
    "6.1": Value(
        right=single,
        hint="Weights of a softmax sum to one. How many items share them?",
        tolerance=1e-4,
        mistakes=(
            Mistake(
                lambda printed, ask, only: printed.feed_forward(
                    (ask * only).sum() * only
                ),
                "The score is no weight yet: a softmax over one number is 1.",
            ),
            Mistake(
                lambda printed, ask, only: only,
                "That is the average; the feed-forward layer comes after it.",
            ),
            Mistake(
                lambda printed, ask, only: printed.feed_forward(ask),
                "What is averaged is the history, not the query token.",
            ),
        ),
    ),
    "6.2": DECODER_LAYER,
    "6.3": SIMILARITIES,
    "6.4": Value(
        right=lambda: cheapest(16, 1024),
        hint="Put 2, 4 and 8 into the numerator of the formula: 6 d K + L / K.",
        mistakes=(
            Mistake(
                lambda: 8,
                "The first term has grown past the second: 6 d K = L / K at the "
                "minimum.",
            ),
            Mistake(lambda: 2, "The second term, L / K, still falls fast there."),
        ),
    ),
}
