"""The three losses, as pure functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ctr(logit: Tensor, label: Tensor) -> Tensor:
    """Mean binary cross-entropy (paper, section 1). logit, label: (B,). A scalar."""
    return F.binary_cross_entropy_with_logits(logit, label)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """cos of every row of a (A, D) with every row of b (B, D), in fp32 or better also
    under autocast: a large T makes bf16's rounding visible. Returns (A, B)."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (a, b))
        return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def sqdc(
    q: Tensor,
    d: Tensor,
    label: Tensor,
    qid: Tensor,
    temperature: float,
    session_mask: bool = True,
    negatives: str = "all",
    own: Tensor | None = None,
) -> Tensor:
    """Session-masked query-to-document contrastive loss (paper, section on SQDC), a sum
    over the positives. q, d: (B, D); label: (B,); qid: (B,). Returns a scalar.

    `negatives="positives"` takes only samples with label 1 as negatives. Without
    `session_mask` other samples of the same query are negatives too. `own` (B,) sums
    over some of the positives alone: one rank's part of the whole sum."""
    positive = label > 0.5
    place = (positive if own is None else positive & own).nonzero()  # (B+, 1)
    anchor = place.squeeze(1)
    cosine = cosines(q[anchor], d)  # (B+, B)
    pair = torch.eye(len(d), dtype=torch.bool, device=d.device)[anchor]  # (B+, B)
    keep = torch.ones_like(pair)
    if session_mask:
        keep = qid[anchor, None] != qid[None, :]
    if negatives == "positives":
        keep = keep & positive[None, :]
    score = (temperature * cosine).masked_fill(~(keep | pair), -torch.inf)
    return (score.logsumexp(dim=1) - score.gather(1, place).squeeze(1)).sum()


def cic(content: Tensor, identity: Tensor, temperature: float) -> Tensor:
    """EM3's content-id contrast: document i's content finds its own id embedding among
    those of the other documents, and back. Both (N, D), one row a distinct document.
    Returns the mean over documents and both directions."""
    score = cosines(content, identity)
    target = torch.arange(len(score), device=score.device)
    there = F.cross_entropy(temperature * score, target)
    return (there + F.cross_entropy(temperature * score.T, target)) / 2
