"""What a page's targets take from the user's history of representations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Multi-head attention of queries (P, S, D) over a memory (P, L, D).

    mask: (P, L) or (P, S, L), True where a query may look. A query that may look
    nowhere gets zeros."""

    absorbs = True  # the cheaper form where there is one: the same numbers

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        mask = per_query(mask)
        anywhere = mask.any(dim=-1, keepdim=True)  # (P, S or 1, 1)
        q, looks = self._split(self.query(query)), mask | ~anywhere
        asks, (length, width) = query.shape[1], memory.shape[1:]
        # where the memory is short, its projections cost less than they would save
        few = self.absorbs  # asked first: an export knows no lengths
        few = few and self.heads * asks < width + asks and length > 2 * width
        mixed = (self.absorbed if few else self.projected)(q, memory, looks)
        return self.out(mixed.transpose(1, 2).flatten(2)) * anywhere

    def projected(self, q: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Attention as printed everywhere: every item gets a key and a value.

        q: (P, heads, S, D / heads). Returns what the heads mix, of the same shape.
        4 L D (D + S) FLOPs a page, 4 L D S heads where projections are absorbed."""
        k, v = (self._split(x) for x in self.key_value(memory).chunk(2, dim=-1))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])

    def absorbed(self, q: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """The same result, cheaper where few ask a long memory: q . (W_k m) is
        (W_k^T q) . m, and the mean of W_v m is W_v times the mean of m, so that items
        are read as they are. The key's bias falls out: it moves all scores of a query
        alike."""
        p, heads, s, narrow = q.shape
        key, value = self.key_value.weight.view(2, heads, narrow, -1)
        bias = self.key_value.bias.view(2, heads, 1, narrow)[1]
        ask = (q @ key).flatten(1, 2)  # (P, heads * S, D)
        looks = mask if mask.shape[1] == 1 else mask.repeat(1, heads, 1)
        ask, items = ask[:, None], memory[:, None]
        mixed = F.scaled_dot_product_attention(
            ask, items, items, attn_mask=looks[:, None], scale=narrow**-0.5
        )  # (P, 1, heads * S, D)
        return mixed.view(p, heads, s, -1) @ value.mT + bias

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
        """The cosines alone, (P, S, L). The history is long: it is read twice, and no
        scaled copy of it is made."""
        length = history.norm(dim=-1).clamp(min=1e-12)[:, None]  # (P, 1, L)
        cosine = (F.normalize(target, dim=-1) @ history.mT) / length
        return cosine.masked_fill(~mask[:, None], 0.0)

    @staticmethod
    def sorted_too(cosine: Tensor, mask: Tensor, length: int) -> Tensor:
        """Cosines (P, S, L) as they are, and sorted, each filled up to `length`."""
        order = cosine.masked_fill(~mask[:, None], -2.0)
        order = order.sort(dim=-1, descending=True).values
        order = order.masked_fill(order == -2.0, 0.0)
        more = length - cosine.shape[-1]
        return torch.cat([F.pad(part, (0, more)) for part in (cosine, order)], dim=-1)

    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        cosine = self.cosines(target, history, mask)
        return self.sorted_too(cosine, mask, history.shape[1])


class Products(nn.Module):
    """The target by a pooled history, as products of linear views of both: how much of
    what the target shows did the user take before?

    target: (P, S, D); history: (P, L, D); mask: (P, L). Returns (P, S, D + 1), the last
    the number of items. # our choice: a softmax gives means over what is alike and
    forgets how many there were; a taste shows in the sum over all."""

    PRIOR = 10.0  # items that a mean is pulled to zero by

    def __init__(self, width: int):
        super().__init__()
        self.target, self.history = identity(width), identity(width)

    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        count = mask.sum(dim=1)  # (P,)
        total = (mask[:, None].to(history.dtype) @ history)[:, 0]  # (P, D)
        pooled = self.history(total / (count[:, None] + self.PRIOR))
        product = self.target(target) * pooled[:, None]  # (P, S, D)
        size = (count / self.PRIOR).log1p()[:, None, None]
        return torch.cat([product, size.expand(*product.shape[:2], 1)], dim=-1)


class Wide(nn.Module):
    """A linear term of the products straight to the logit (P, S): the ranker need not
    find first that what was watched speaks for a target, and what was skipped against.

    kinds: how many pools, the first of what was watched."""

    def __init__(self, kinds: int, width: int):
        super().__init__()
        self.linear = nn.Linear(kinds * (width + 1), 1)
        nn.init.constant_(self.linear.weight, width**-0.5)
        with torch.no_grad():
            self.linear.weight[:, width + 1 :] *= -1

    def forward(self, products: Tensor) -> Tensor:
        return self.linear(products).squeeze(-1)


def identity(width: int) -> nn.Linear:
    """A linear map that begins as the identity."""
    layer = nn.Linear(width, width, bias=False)
    nn.init.eye_(layer.weight)
    return layer


def most_similar(
    query: Tensor, history: Tensor, mask: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The short sequence: the k history items nearest to the query (section 5).

    query: (P, D); history: (P, L, D); mask: (P, L). Returns (P, k, D) and (P, k)."""
    cosine = SimilarityModule.cosines(query[:, None], history, mask)[:, 0]  # (P, L)
    best = largest(cosine, mask, k)
    chosen = history.gather(1, best[..., None].expand(-1, -1, history.shape[2]))
    return chosen, mask.gather(1, best)


def largest(cosine: Tensor, mask: Tensor, k: int) -> Tensor:
    """Places (P, k) of the largest cosines (P, L), largest first; padding last."""
    return cosine.masked_fill(~mask, -2.0).topk(min(k, mask.shape[1]), dim=1).indices
