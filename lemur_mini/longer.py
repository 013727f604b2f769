"""LONGER over the ids of the history (arXiv 2505.04421)."""

from __future__ import annotations

import torch
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
    Returns (P, S, D). Targets see neither each other nor are seen by other tokens,
    # our choice: so that one page shares one pass, as their key-value cache does."""

    def __init__(self, item: int, width: int, heads: int, config):
        super().__init__()
        self.merge, self.recent = config.longer_merge, config.longer_recent
        self.position = nn.Parameter(torch.randn(config.history_long, item) * 0.02)
        self.merged = nn.Linear(self.merge * item, width)
        self.target, self.user = nn.Linear(item, width), nn.Linear(item, width)
        self.cls = nn.Parameter(torch.randn(width) * 0.02)
        self.inner = None
        if config.longer_inner:  # InnerTrans: attention inside a group of K
            self.inner = nn.TransformerEncoderLayer(
                item, 1, 2 * item, 0.0, batch_first=True, norm_first=True
            )
        self.cross, self.self_attention = Block(width, heads), Block(width, heads)

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

    def forward(
        self, target: Tensor, user: Tensor, history: Tensor, mask: Tensor
    ) -> Tensor:
        sequence, valid = self.tokens(history, mask)
        cls = self.cls.expand(len(user), 1, -1)
        shared = torch.cat([self.user(user)[:, None], cls], dim=1)  # (P, 2, D)
        seen = valid.new_ones(len(user), 2)
        memory = torch.cat([shared, sequence], dim=1)  # (P, 2 + L/K, D)
        memory_mask = torch.cat([seen, valid], dim=1)
        ask = torch.cat(
            [self.target(target), shared, sequence[:, : self.recent]], dim=1
        )
        ask = self.cross(ask, memory, memory_mask)
        s = target.shape[1]
        own = torch.eye(s, dtype=torch.bool, device=ask.device)
        looks = torch.cat([seen, valid[:, : self.recent]], dim=1)  # (P, 2 + k)
        looks = looks[:, None].expand(-1, ask.shape[1], -1)
        own = torch.cat([own, own.new_zeros(ask.shape[1] - s, s)])
        own = own.expand(len(ask), -1, -1)
        return self.self_attention(ask, ask, torch.cat([own, looks], dim=2))[:, :s]
