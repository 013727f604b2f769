"""From features to a logit: feature tokens and RankMixer (arXiv 2507.15551)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeatureTokens(nn.Module):
    """One token per semantic feature group: a linear layer of its own.

    Takes {group: (B, F_group)}, returns (B, T, D). T must divide D for the mixing, so
    learned constant tokens fill up to the next divisor from `least` on."""

    def __init__(self, groups: dict[str, int], width: int, least: int = 0):
        super().__init__()
        self.project = nn.ModuleDict(
            {g: nn.Linear(n, width) for g, n in groups.items()}
        )
        least = max(least, len(groups))
        count = next(t for t in range(least, width + 1) if width % t == 0)
        self.constant = nn.Parameter(torch.zeros(count - len(groups), width))
        self.count = count

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        tokens = torch.stack([p(features[g]) for g, p in self.project.items()], dim=1)
        constant = self.constant.expand(tokens.shape[0], -1, -1)
        return torch.cat([tokens, constant], dim=1)


def mix(x: Tensor) -> Tensor:
    """RankMixer's token mixing, without parameters: every token is cut into H = T
    heads; new token h is head h of all tokens. x: (B, T, D) -> (B, T, D)."""
    b, t, d = x.shape
    return x.view(b, t, t, d // t).transpose(1, 2).reshape(b, t, d)


class PerTokenLinear(nn.Module):
    """A linear layer of its own for every token: (B, T, in) -> (B, T, out)."""

    def __init__(self, tokens: int, inputs: int, outputs: int):
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(tokens, inputs, outputs))
        nn.init.uniform_(self.weight, -bound, bound)
        self.bias = nn.Parameter(torch.zeros(tokens, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight).transpose(0, 1)


class PerTokenFeedForward(nn.Module):
    """PFFN: feed-forward layer of its own per token, GELU, inner width k * D."""

    def __init__(self, tokens: int, width: int, expansion: int):
        super().__init__()
        self.up = PerTokenLinear(tokens, width, expansion * width)
        self.down = PerTokenLinear(tokens, expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class SparseExperts(nn.Module):
    """PFFN as a sparse mixture: G = ReLU(h(s)), out = sum_j G_j e_j(s).

    "Dense training, sparse inference": two routers, both trained by the task; the L1
    penalty (`penalty`, set in training) falls on the inference router alone, and only
    that one is used in eval mode.
    # our choice: in training the output is the mean of what both routers give."""

    def __init__(self, tokens: int, width: int, expansion: int, experts: int):
        super().__init__()
        self.experts = nn.ModuleList(
            PerTokenFeedForward(tokens, width, expansion) for _ in range(experts)
        )
        self.train_router = PerTokenLinear(tokens, width, experts)
        self.inference_router = PerTokenLinear(tokens, width, experts)
        self.penalty = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(self.inference_router(x))  # (B, T, experts)
        if self.training:
            self.penalty = F.relu(self.inference_router(x.detach())).mean()
            gate = (gate + F.relu(self.train_router(x))) / 2
        out = torch.stack([expert(x) for expert in self.experts], dim=-1)
        return (out * gate[:, :, None]).sum(dim=-1)


class RankMixerBlock(nn.Module):
    """S = LN(Mix(X) + X), X' = LN(PFFN(S) + S). (B, T, D) -> (B, T, D)."""

    def __init__(self, tokens: int, width: int, expansion: int, experts: int):
        super().__init__()
        sizes = (tokens, width, expansion)
        self.feed_forward = (
            SparseExperts(*sizes, experts) if experts else PerTokenFeedForward(*sizes)
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x: Tensor) -> Tensor:
        s = self.norms[0](mix(x) + x)
        return self.norms[1](self.feed_forward(s) + s)


class RankMixer(nn.Module):
    """RankMixer (arXiv 2507.15551): blocks over feature tokens, mean pool, logit.

    Takes {group: (B, F_group)}, returns logits (B,)."""

    def __init__(self, groups: dict[str, int], config):
        super().__init__()
        self.tokens = FeatureTokens(groups, config.token_width, config.least_tokens)
        sizes = self.tokens.count, config.token_width, config.ranker_expansion
        self.blocks = nn.Sequential(
            *(
                RankMixerBlock(*sizes, config.experts)
                for _ in range(config.ranker_layers)
            )
        )
        self.logit = nn.Linear(config.token_width, 1)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return self.logit(self.blocks(self.tokens(features)).mean(dim=1)).squeeze(-1)

    def penalty(self) -> Tensor:
        """Mean gate of the inference routers, for the L1 term (0 without experts)."""
        gates = [m.penalty for m in self.modules() if isinstance(m, SparseExperts)]
        return torch.stack(gates).mean() if gates else torch.zeros(())
