"""What LEMUR has to beat: DIN, DLRM-MLP, smoothed means."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRIOR = 10  # impressions at the average that every mean starts from


class Din(nn.Module):
    """DIN's target attention over ids (arXiv 1706.06978): a small network weighs every
    history item by the target, and weights are not normalised, so that strength counts.

    target: (P, S, E); history: (P, L, E); mask: (P, L). Returns (P, S, 2 E): the
    weighted sum of the history, and its product with the target."""

    def __init__(self, width: int, hidden: int = 32):
        super().__init__()
        self.target, self.item = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.product = nn.Linear(width, hidden, bias=False)
        self.weight = nn.Linear(hidden, 1)

    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        product = target[:, :, None] * history[:, None]  # (P, S, L, E)
        hidden = self.target(target)[:, :, None] + self.item(history)[:, None]
        weight = self.weight(F.gelu(hidden + self.product(product))).squeeze(-1)
        total = (weight * mask[:, None]) @ history  # (P, S, E)
        return torch.cat([total, total * target], dim=-1)


class DlrmMlp(nn.Module):
    """DLRM-MLP: all features concatenated, a multilayer perceptron, logit."""

    def __init__(self, groups: dict[str, int], config):
        super().__init__()
        self.groups = list(groups)
        sizes = [sum(groups.values()), *config.mlp]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        joined = torch.cat([features[g] for g in self.groups], dim=-1)
        return self.layers(joined).squeeze(-1)

    def penalty(self) -> Tensor:
        """Nothing to penalise."""
        return torch.zeros(())


def smoothed_means(train_item, train_user, train_label, item, user) -> np.ndarray:
    """Chances of a watch without a network: a document's share of watches in training,
    and how much more its user watched than the documents shown would say, both pulled
    to the average by PRIOR impressions. What any network over ids should beat. Rows of
    documents and users, labels: (B,) of training; item, user: (M,). Returns (M,)."""

    def mean(key, value, at, start):
        size = 1 + max(key.max(initial=0), at.max(initial=0))
        total = np.bincount(key, value, minlength=size) + PRIOR * start
        return total / (np.bincount(key, minlength=size) + PRIOR)

    quality = mean(train_item, train_label, item, train_label.mean())
    lift = mean(train_user, train_label - quality[train_item], user, 0.0)
    return np.clip(quality[item] + lift[user], 0.0, 1.0)
