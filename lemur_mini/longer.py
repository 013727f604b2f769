"""LONGER over the ids of the history (arXiv 2505.04421)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemur_mini.sequence import CrossAttention, feed_forward


class Block(nn.Module):
    """Pre-norm attention and feed-forward layer with residuals."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = CrossAttention(width, heads)
        self.feed_forward = feed_forward(width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        normed = self.norms[0](query), self.norms[1](memory)
        query = query + self.attention(*normed, mask)
        return query + self.feed_forward(self.norms[2](query))


class Longer(nn.Module):
    """Targets, user and a cls token (the global tokens) and the most recent merged
    items ask the whole merged history; then the askers attend to one another.

    target: (P, S, E); user: (P, E); history: (P, L, E), newest first; mask: (P, L).
    Returns (P, S, 2 D). Targets see neither each other nor are seen by other tokens,
    # our choice: so that one page shares one pass, as their key-value cache does.

    # our choice: a target goes through the same layer as the items, keys start as
    queries, and the output comes with its product with the target. Else a softmax
    average of ids never learns, in one short pass, whether it holds the target."""

    looks_up = True  # ids are projected once where that is cheaper: the same tokens

    def __init__(self, item: int, width: int, heads: int, config):
        super().__init__()
        self.merge, self.recent = config.longer_merge, config.longer_recent
        self.position = nn.Parameter(torch.randn(config.history_long, item) * 0.02)
        self.merged = nn.Linear(self.merge * item, width)
        self.user = nn.Linear(item, width)
        self.cls = nn.Parameter(torch.randn(width) * 0.02)
        self.inner = None
        if config.longer_inner:  # InnerTrans: attention inside a group of K
            self.inner = nn.TransformerEncoderLayer(
                item, 1, 2 * item, 0.0, batch_first=True, norm_first=True
            )
        self.cross, self.self_attention = Block(width, heads), Block(width, heads)
        with torch.no_grad():
            attention = self.cross.attention
            attention.key_value.weight[:width] = attention.query.weight

    def tokens(self, history: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token merge: K adjacent items become one. Returns (P, L/K, D), (P, L/K)."""
        history = (history + self.position[: history.shape[1]]) * mask[..., None]
        group = history.unflatten(1, (-1, self.merge))  # (P, L/K, K, E)
        valid = mask.unflatten(1, (-1, self.merge))
        if self.inner is not None:
            hidden = valid.flatten(0, 1).logical_not()
            hidden[hidden.all(dim=1)] = False  # an empty group attends to itself
            group = self.inner(group.flatten(0, 1), src_key_padding_mask=hidden)
            group = group.unflatten(0, valid.shape[:2]) * valid[..., None]
        return self.merged(group.flatten(2)), valid.any(dim=-1)

    def looked_up(self, table: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
        """The same tokens without InnerTrans, of rows (P, L) of a table of ids (N, E),
        cheaper where histories are longer than the table: an id is projected once for
        every place in a group, wherever it stands."""
        k, (documents, width) = self.merge, table.shape
        weight = self.merged.weight.unflatten(1, (k, width)).transpose(0, 1)
        each = table @ weight.mT  # (K, N, D)
        position = self.position[: rows.shape[1]].unflatten(0, (-1, k))
        place = torch.einsum("lke,kde->lkd", position, weight).flatten(0, 1)  # (L, D)
        slot = torch.arange(rows.shape[1], device=rows.device) % k * documents
        found = F.embedding(rows + slot, each.flatten(0, 1))
        if k == 1:  # padding gets some token, which nobody may look at
            return found + (place + self.merged.bias)
        found = ((found + place) * mask[..., None]).unflatten(1, (-1, k)).sum(dim=2)
        return found + self.merged.bias

    def forward(
        self, target: Tensor, user: Tensor, history: Tensor, mask: Tensor
    ) -> Tensor:
        return self.read(target, user, *self.tokens(history, mask))

    def read(
        self, target: Tensor, user: Tensor, sequence: Tensor, valid: Tensor
    ) -> Tensor:
        """What targets take from the tokens (P, L/K, D) of a history."""
        p, s = target.shape[:2]
        target = self.merged(target.repeat(1, 1, self.merge))  # (P, S, D)
        cls = self.cls.expand(p, 1, -1)
        shared = torch.cat([self.user(user)[:, None], cls], dim=1)  # (P, 2, D)
        seen = valid.new_ones(p, 2)
        memory = torch.cat([shared, sequence], dim=1)  # (P, 2 + L/K, D)
        ask = torch.cat([target, shared, sequence[:, : self.recent]], dim=1)
        ask = self.cross(ask, memory, torch.cat([seen, valid], dim=1))
        # then: every target looks at itself, everybody at the shared and recent tokens
        own = torch.eye(s, dtype=torch.bool, device=ask.device).expand(p, -1, -1)
        looks = torch.cat([seen, valid[:, : self.recent]], dim=1)  # (P, 2 + k)
        looks = torch.cat([own, looks[:, None].expand(-1, s, -1)], dim=2)
        found = self.self_attention(ask[:, :s], ask, looks)  # only targets are read
        return torch.cat([found, found * target], dim=-1)
