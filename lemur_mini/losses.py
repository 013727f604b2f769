"""The losses, as pure functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ctr(
    logit: Tensor,
    label: Tensor,
    valid: Tensor | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """Mean binary cross-entropy (paper, section 1). logit, label: (B,). A scalar.

    `valid`, of the same shape, leaves padding out: by weight, as to pick what is valid
    the host would wait for the device. `count`: what to divide the sum by, where these
    samples are a part of more."""
    if valid is None:
        return F.binary_cross_entropy_with_logits(logit, label)
    weight = valid.to(logit.dtype)
    total = F.binary_cross_entropy_with_logits(logit, label, weight, reduction="sum")
    return total / (weight.sum() if count is None else count)


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
    valid: Tensor | None = None,
    own: Tensor | None = None,
) -> Tensor:
    """Session-masked query-to-document contrastive loss (paper, section on SQDC), a sum
    over the positives. q, d: (B, D); label: (B,); qid: (B,). Returns a scalar.

    `negatives="positives"` takes only samples with label 1 as negatives. Without
    `session_mask` other samples of the same query are negatives too. `valid` (B,) says
    which samples are no padding; `own` (A,) are the places of those to sum over, where
    others sum over the rest. Of these, all that are not positive weigh 0: to pick the
    positives, the host would have to wait for their number."""
    every = torch.arange(len(d), device=d.device)
    own = every if own is None else own
    valid = torch.ones_like(every, dtype=torch.bool) if valid is None else valid
    positive = (label > 0.5) & valid
    keep = (positive if negatives == "positives" else valid)[None, :]  # (1, B)
    if session_mask:
        keep = keep & (qid[own, None] != qid[None, :])  # (A, B)
    keep = keep | (own[:, None] == every)  # the pair itself
    score = (temperature * cosines(q[own], d)).masked_fill(~keep, -torch.inf)
    each = score.logsumexp(dim=1) - score.gather(1, own[:, None]).squeeze(1)  # (A,)
    return (each * positive[own]).sum()


def others(d: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Each positive of a page by the page's other positives: their sum, what a feed's
    contrast has in a query's place; and whether there are any.
    # our choice: the paper has queries. d: (P, S, D); positive: (P, S)."""
    taken = d * positive[..., None]
    rest = taken.sum(dim=1, keepdim=True) - taken  # (P, S, D)
    several = positive.sum(dim=1, keepdim=True) > 1
    return rest, positive & several


def cic(content: Tensor, identity: Tensor, temperature: float) -> Tensor:
    """EM3's content-id contrast: document i's content finds its own id embedding among
    those of the other documents, and back. Both (N, D), one row a distinct document.
    Returns the mean over documents and both directions."""
    score = cosines(content, identity)
    target = torch.arange(len(score), device=score.device)
    forth = F.cross_entropy(temperature * score, target)
    return (forth + F.cross_entropy(temperature * score.T, target)) / 2
