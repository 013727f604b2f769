"""What a page's targets take from the user's history of representations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Multi-head attention of queries (P, S, D) over a memory (P, L, D).

    mask: (P, L) or (P, S, L), True where a query may look. A query that may look
    nowhere gets zeros."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        mask = per_query(mask)
        anywhere = mask.any(dim=-1, keepdim=True)  # (P, S or 1, 1)
        key, value = self.key_value(memory).chunk(2, dim=-1)
        q, k, v = (self._split(x) for x in (self.query(query), key, value))
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=(mask | ~anywhere)[:, None]
        )  # (P, heads, S, D / heads)
        return self.out(mixed.transpose(1, 2).flatten(2)) * anywhere

    def weights(self, query: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Attention weights, mean over heads: (P, S, L), for pictures and tests."""
        key, _ = self.key_value(memory).chunk(2, dim=-1)
        q, k = self._split(self.query(query)), self._split(key)
        score = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return masked_softmax(score, per_query(mask)[:, None]).mean(dim=1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (P, heads, L, D / h)


def per_query(mask: Tensor) -> Tensor:
    """A mask (P, L), the same for all queries, or (P, S, L), as (P, S or 1, L)."""
    return mask if mask.dim() == 3 else mask[:, None]


def masked_softmax(score: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis where mask is True; all zeros where it never is."""
    score = score.masked_fill(~mask, -torch.inf)
    weights = score.softmax(dim=-1)
    return weights.masked_fill(~mask.any(dim=-1, keepdim=True), 0.0)


def feed_forward(width: int, expansion: int = 2) -> nn.Sequential:
    """Two linear layers with a GELU between."""
    inner = expansion * width
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))


class DecoderLayer(nn.Module):
    """One round of the decoder; `literal` is the paper's printed formula
    Q' = FFN(sum_j softmax_j(Q . d_j) d_j), else attention and FFN with residuals."""

    def __init__(self, width: int, heads: int, literal: bool):
        super().__init__()
        self.literal = literal
        self.feed_forward = feed_forward(width)
        if not literal:
            self.attention = CrossAttention(width, heads)
            self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, query: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        if self.literal:
            score = query @ history.transpose(1, 2)  # (P, S, L)
            return self.feed_forward(masked_softmax(score, mask[:, None]) @ history)
        query = query + self.attention(self.norms[0](query), history, mask)
        return query + self.feed_forward(self.norms[1](query))


class Decoder(nn.Module):
    """Reads a history for every target (paper, section 5); no attention among history
    items. query: (P, S, D); history: (P, L, D); mask: (P, L). Returns (P, S, D)."""

    def __init__(self, width: int, heads: int, layers: int, literal: bool = False):
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(width, heads, literal) for _ in range(layers)
        )

    def forward(self, query: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            query = layer(query, history, mask)
        return query


class SimilarityModule(nn.Module):
    """cos(target, history_j) for every j, and the same values sorted, largest first
    (paper, section 5). target: (P, S, D); history: (P, L, D); mask: (P, L).
    Returns (P, S, 2 L); padding gives 0 and sorts last."""

    @staticmethod
    def cosines(target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """The cosines alone, (P, S, L)."""
        cosine = F.normalize(target, dim=-1) @ F.normalize(history, dim=-1).mT
        return cosine.masked_fill(~mask[:, None], 0.0)

    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        cosine, padding = self.cosines(target, history, mask), ~mask[:, None]
        order = cosine.masked_fill(padding, -2.0).sort(dim=-1, descending=True).values
        return torch.cat([cosine, order.masked_fill(order == -2.0, 0.0)], dim=-1)


def most_similar(
    query: Tensor, history: Tensor, mask: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The short sequence: the k history items nearest to the query (section 5).

    query: (P, D); history: (P, L, D); mask: (P, L). Returns (P, k, D) and (P, k)."""
    cosine = SimilarityModule.cosines(query[:, None], history, mask)[:, 0]  # (P, L)
    best = cosine.masked_fill(~mask, -2.0).topk(min(k, history.shape[1]), dim=1).indices
    chosen = history.gather(1, best[..., None].expand(-1, -1, history.shape[2]))
    return chosen, mask.gather(1, best)
