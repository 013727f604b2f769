"""Parts that others would put in LEMUR's place. Each variant changes one part and is
trained as LEMUR is; the model itself knows nothing of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemur_mini.config import Config
from lemur_mini.data.features import Features
from lemur_mini.data.pages import Batch
from lemur_mini.id_tables import Table
from lemur_mini.model import Lemur, Sizes, StepOptions
from lemur_mini.pipeline import OneProcess
from lemur_mini.ranker import PerTokenFeedForward, RankMixer, mix
from lemur_mini.sequence import (
    CrossAttention,
    SimilarityModule,
    feed_forward,
    masked_softmax,
)

# --- which documents are encoded -----------------------------------------------------


class Choosing(Lemur):
    """LEMUR that encodes chosen documents of a batch, not a random share.

    rule: "popular" or "rare" first, by impressions so far; "oldest" vectors first;
    "sparing": the less popular half first, as where popular documents are refreshed
    now and then. Documents that the bank lacks come before all, equals at random."""

    shown: Tensor

    def __init__(self, config: Config, sizes: Sizes, rule: str):
        super().__init__(config, sizes)
        self.rule = rule
        self.register_buffer("shown", torch.zeros(sizes.documents))

    def encode_and_write(
        self, batch: Batch, features: Features, options: StepOptions
    ) -> Tensor:
        rows = batch.unique_items
        here = torch.bincount(batch.item_index[batch.mask], minlength=len(rows))
        self.shown.index_add_(0, rows, here.to(self.shown.dtype))
        order = self.places(rows, options.order) / len(rows)  # in [0, 1), as drawn
        chosen = replace(options, order=order)
        return super().encode_and_write(batch, features, chosen)

    def places(self, rows: Tensor, chance: Tensor) -> Tensor:
        """Where rows (U,) stand among each other: (U,), the first is encoded first."""
        (written,) = self.bank.fetch(rows, self.bank.written)
        keys = {
            "popular": -self.shown[rows],
            "rare": self.shown[rows],
            "oldest": written.to(self.shown.dtype),
            "sparing": self.shown[rows],
        }
        _, rank = torch.unique(keys[self.rule], return_inverse=True)
        order = torch.argsort(rank + chance).argsort()  # ties at random
        if self.rule != "sparing":
            return order
        popular = order >= (len(rows) + 1) // 2
        return torch.argsort(popular + chance).argsort()


# --- what a page takes from the history ----------------------------------------------


class TargetAndToken(nn.Module):
    """LEMUR's decoder query and, behind it, the target it was made for: (P, S, 2 D)."""

    def __init__(self, width: int, token: nn.Linear):
        super().__init__()
        self.width, self.token = width, token

    def forward(self, x: Tensor) -> Tensor:
        target = x[..., self.width : 2 * self.width]  # of query, target, product, ids
        return torch.cat([self.token(x), target], dim=-1)


class SimTier(nn.Module):
    """How many history items fall into each tier of similarity to the target (arXiv
    2407.19467). A count has no slope: no click teaches the encoders through it.

    query: (P, S, 2 D); history: (P, L, D); mask: (P, L). Returns (P, S, D)."""

    TIERS = 20

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.read = nn.Linear(self.TIERS, width)

    def forward(self, query: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        _, target = query.chunk(2, dim=-1)
        return self.read(self.counts(target, history, mask).log1p())

    def counts(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Items in each tier of [-1, 1], of equal width: (P, S, TIERS)."""
        cosine = SimilarityModule.cosines(target, history, mask).detach()
        tier = ((cosine + 1) / 2 * self.TIERS).long().clamp(0, self.TIERS - 1)
        counts = cosine.new_zeros(*cosine.shape[:2], self.TIERS)
        return counts.scatter_add_(2, tier, mask[:, None].expand_as(cosine).float())


class SimilarityAwareAttention(nn.Module):
    """Target attention whose scores are mixed with the similarity of representations
    (SA-TA, arXiv 2512.07216): softmax(g1 a + g2 c + g3 a c), a the learnt score, c the
    cosine. # our choice: over representations, the history's ids are LONGER's.

    query: (P, S, 2 D); history: (P, L, D); mask: (P, L). Returns (P, S, D)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.gains = nn.Parameter(torch.ones(3))

    def forward(self, query: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        token, target = query.chunk(2, dim=-1)
        score = token @ self.key(history).mT / token.shape[-1] ** 0.5  # (P, S, L)
        cosine = SimilarityModule.cosines(target, history, mask)
        first, second, both = self.gains
        score = first * score + second * cosine + both * score * cosine
        return token + masked_softmax(score, mask[:, None]) @ self.value(history)


class StackedTargetAttention(nn.Module):
    """STCA (arXiv 2511.06077): the target asks the history layer after layer; each
    layer reads the history through a SwiGLU of its own, and the next query is made of
    all that came before.

    query: (P, S, 2 D); history: (P, L, D); mask: (P, L). Returns (P, S, D)."""

    LAYERS = 2

    def __init__(self, width: int, heads: int):
        super().__init__()
        layers = range(self.LAYERS)
        self.gates = nn.ModuleList(nn.Linear(width, 2 * width) for _ in layers)
        self.attentions = nn.ModuleList(CrossAttention(width, heads) for _ in layers)
        self.fuse = nn.ModuleList(nn.Linear((n + 2) * width, width) for n in layers)

    def forward(self, query: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        token, _ = query.chunk(2, dim=-1)
        said = [token]
        for gate, attention, fuse in zip(
            self.gates, self.attentions, self.fuse, strict=True
        ):
            opens, value = gate(history).chunk(2, dim=-1)
            said.append(attention(token, F.silu(opens) * value, mask))
            token = fuse(torch.cat(said, dim=-1))
        return token


class Reading(Lemur):
    """LEMUR whose decoders are another part, long and short."""

    def __init__(
        self, config: Config, sizes: Sizes, part: Callable[[int, int], nn.Module]
    ):
        super().__init__(config, sizes)
        self.decoder_query = TargetAndToken(config.width, self.decoder_query)
        self.decoders = nn.ModuleDict(
            {name: part(config.width, config.heads) for name in self.decoders}
        )


# --- the ranker ----------------------------------------------------------------------


class MixAndRevert(nn.Module):
    """TokenMixer-Large's block (arXiv 2602.06563): in RankMixer's `Mix(X) + X` the two
    sides are of different tokens, so it is no residual of any. Here what was mixed is
    fed forward and mixed back before it is added. (B, T, D) -> (B, T, D)."""

    def __init__(self, tokens: int, width: int, expansion: int):
        super().__init__()
        self.mixed = PerTokenFeedForward(tokens, width, expansion)
        self.own = PerTokenFeedForward(tokens, width, expansion)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        s = mix(x)
        s = self.norms[0](self.mixed(s) + s)
        s = self.norms[1](mix(s) + x)  # mixing twice is as before
        return self.norms[2](self.own(s) + s)


class Reverting(Lemur):
    """LEMUR whose ranker mixes and reverts."""

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config, sizes)
        ranker = self.ranker
        assert isinstance(ranker, RankMixer)
        sizes_ = ranker.tokens.count, config.token_width, config.ranker_expansion
        blocks = (MixAndRevert(*sizes_) for _ in range(config.ranker_layers))
        ranker.blocks = nn.Sequential(*blocks)


# --- what a two-stage team would build -----------------------------------------------


class Adapted(Lemur):
    """Frozen vectors that a network learns to adapt to clicks, for the ranker alone."""

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config, sizes)
        self.adapters = nn.ModuleDict(
            {name: feed_forward(config.width) for name in ("query", "document")}
        )
        for adapter in self.adapters.values():  # begins as the vectors are
            nn.init.zeros_(adapter[-1].weight)
            nn.init.zeros_(adapter[-1].bias)

    def adapted(self, name: str, vectors: Tensor) -> Tensor:
        return vectors + self.adapters[name](vectors)

    def history(self, batch: Batch, fresh: Tensor | None) -> tuple[Tensor, Tensor]:
        vectors, found = super().history(batch, fresh)
        return self.adapted("document", vectors), found

    def rank(self, batch: Batch, query, target, fresh=None, kept=None) -> Tensor:
        query = self.adapted("query", query)
        target = self.adapted("document", target)
        return super().rank(batch, query, target, fresh, kept)


class SemanticIds(Lemur):
    """Frozen vectors as words of a few codebooks (residual quantisation, as in TIGER,
    arXiv 2305.05065); a document is the sum of the embeddings of its words, which begin
    as the codebooks and are learnt with the ranker, at the rate of ids."""

    LEVELS, WORDS, ROUNDS = 3, 64, 20
    words: Tensor

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config, sizes)
        count = (sizes.documents, self.LEVELS)
        self.register_buffer("words", torch.zeros(count, dtype=torch.long))
        for level in range(self.LEVELS):
            self.ids[f"words_{level}"] = Table(self.WORDS, config.width)

    @torch.no_grad()
    def freeze(self, features: Features) -> None:
        super().freeze(features)
        left = self.bank.vectors.clone()
        for level in range(self.LEVELS):
            book = codebook(left, self.WORDS, self.ROUNDS)
            self.words[:, level] = nearest(left, book)
            left -= book[self.words[:, level]]
            self.ids[f"words_{level}"].weight[: len(book)] = book

    def spelt(self, rows: Tensor) -> Tensor:
        """Documents of any shape of rows, by their words: (..., D), 0 below row 0."""
        words = self.words[rows.clamp(min=0)]
        parts = [self.ids[f"words_{n}"](words[..., n]) for n in range(self.LEVELS)]
        return torch.stack(parts).sum(dim=0) * (rows >= 0)[..., None]

    def history(self, batch: Batch, fresh: Tensor | None) -> tuple[Tensor, Tensor]:
        _, found = super().history(batch, fresh)
        return self.spelt(batch.history), found

    def rank(self, batch: Batch, query, target, fresh=None, kept=None) -> Tensor:
        return super().rank(batch, query, self.spelt(batch.item), fresh, kept)


def nearest(vectors: Tensor, book: Tensor) -> Tensor:
    """The word of a codebook (K, D) that is nearest to each vector (N, D): (N,)."""
    return torch.cdist(vectors, book).argmin(dim=1)


def codebook(vectors: Tensor, words: int, rounds: int) -> Tensor:
    """Means (K, D) of k clusters of vectors (N, D), by Lloyd's rounds from rows that
    are spread over the table; a word that nobody is near stays where it was."""
    places = torch.linspace(0, len(vectors) - 1, min(words, len(vectors))).long()
    book = vectors[places].clone()
    for _ in range(rounds):
        word = nearest(vectors, book)
        total = torch.zeros_like(book).index_add_(0, word, vectors)
        count = torch.bincount(word, minlength=len(book))[:, None]
        book = torch.where(count > 0, total / count.clamp(min=1), book)
    return book


# Variants that are built of another part; all others are Lemur.
BUILDS: dict[str, Callable[[Config, Sizes], Lemur]] = {
    "p20_popular": partial(Choosing, rule="popular"),
    "p20_rare": partial(Choosing, rule="rare"),
    "p20_oldest": partial(Choosing, rule="oldest"),
    "sparing": partial(Choosing, rule="sparing"),
    "simtier": partial(Reading, part=SimTier),
    "sa_ta": partial(Reading, part=SimilarityAwareAttention),
    "stca": partial(Reading, part=StackedTargetAttention),
    "mix_and_revert": Reverting,
    "adapter": Adapted,
    "semantic_ids": SemanticIds,
}


class Built(OneProcess):
    """A training whose model is that of a variant."""

    def __init__(self, variant: str):
        self.build = BUILDS.get(variant, Lemur)
