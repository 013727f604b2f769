"""Exercises of notebook 03: the contrast between query and document."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from lemur_mini import losses
from lemur_mini.exercises.encoders import drawn
from lemur_mini.exercises.kinds import Case, Mistake, Part, Value, plainly


def sqdc_cases() -> list[Case]:
    """Pages of one, then of three, then with labels."""

    def case(about: str, qid: list[int], label: list[int]) -> Case:
        q, d = drawn(len(qid), 4), drawn(len(qid), 4).flip(0)
        labels = torch.tensor(label, dtype=torch.float32)
        inputs = {"q": q, "d": d, "label": labels, "qid": torch.tensor(qid)}
        return Case(about, inputs | {"temperature": 3.0})

    two = [7, 7, 7, 9, 9, 9]
    return [
        case("Five pages of one document, all watched", [1, 2, 3, 4, 5], [1] * 5),
        case("Two pages of three, all watched", two, [1] * 6),
        case("Two pages of three, three watched", two, [1, 0, 0, 1, 1, 0]),
    ]


def spelt(
    q: Tensor,
    d: Tensor,
    label: Tensor,
    qid: Tensor,
    temperature: float,
    *,
    keep: str = "page",
    unit: bool = True,
    dim: int = 1,
    rows: str = "watched",
) -> Tensor:
    """The loss in few lines, with doors for mistakes."""
    own = torch.eye(len(q), dtype=torch.bool)
    other = qid[:, None] != qid
    kept = {"page": other | own, "no pair": other, "upside down": ~other}[keep]
    score = losses.cosines(q, d) if unit else q @ d.T
    each = (temperature * score).masked_fill(~kept, -torch.inf).logsumexp(dim=dim)
    each = each - temperature * score.diag()
    return each.sum() if rows == "all" else each[label > 0.5].sum()


def in_each(q, d, label, qid, temperature) -> Tensor:
    """The mean over watched impressions, where the paper has a sum."""
    return losses.sqdc(q, d, label, qid, temperature) / (label > 0.5).sum()


SQDC = Part(
    right=losses.sqdc,
    hint="Cosines, times T; the mask to minus infinity; minus the log of the pair's "
    "share, summed over what was watched.",
    cases=sqdc_cases,
    keeps=("sqdc",),
    mistakes=(
        Mistake(
            lambda *given: -losses.sqdc(*given),
            "The sign is turned: the loss is *minus* the logarithm of a probability.",
        ),
        Mistake(
            in_each,
            "That is the mean over the watched impressions; the formula is a sum.",
        ),
        Mistake(
            partial(spelt, unit=False),
            "Those are dot products. A cosine is that of vectors of length one.",
        ),
        Mistake(
            lambda q, d, label, qid, T: losses.sqdc(q, d, label, qid, 1.0),
            "The temperature is missing.",
        ),
        Mistake(
            lambda q, d, label, qid, T: losses.sqdc(q, d, label, qid, 1 / T),
            "T multiplies the cosines here; it does not divide them.",
        ),
        Mistake(
            partial(spelt, dim=0),
            "The axes are swapped: each *query* runs over all documents, not each "
            "document over all queries.",
        ),
        Mistake(
            lambda *given: losses.sqdc(*given, session_mask=False),
            "Documents of the same page are not masked.",
        ),
        Mistake(
            partial(spelt, keep="no pair"),
            "The mask takes out the pair itself, too: A is 1 where i = j.",
        ),
        Mistake(
            partial(spelt, keep="upside down"),
            "The mask is upside down: it keeps the own page and drops all others.",
        ),
        Mistake(
            partial(spelt, rows="all"),
            "Impressions that nobody watched give no term of the loss.",
        ),
        Mistake(
            lambda *given: losses.sqdc(*given, negatives="positives"),
            "All documents are negatives, also those that nobody watched.",
        ),
    ),
)


def kept(qid: Tensor, item: Tensor) -> Tensor:
    """The paper's mask, and no document as its own negative. (B, B) bool."""
    same = (qid[:, None] == qid[None]) | (item[:, None] == item[None])
    return torch.eye(len(qid), dtype=torch.bool) | ~same


def pair_cases() -> list[Case]:
    """Four impressions; the third shows the first one's document on another page."""
    qid, item = torch.tensor([1, 1, 2, 3]), torch.tensor([7, 8, 7, 9])
    return [Case("Impression 2 shows document 7 again", {"qid": qid, "item": item})]


EXERCISES = {
    "3.1": Value(
        right=lambda: np.log(1 + 63 * 8),
        hint="Equal cosines: the probability is one over the number of terms in the "
        "denominator. Which documents does the mask leave in it?",
        tolerance=1e-5,
        mistakes=(
            Mistake(
                lambda: np.log(64 * 8),
                "The mask takes the seven others of the own page out.",
            ),
            Mistake(lambda: np.log(63 * 8), "The positive is in the denominator, too."),
            Mistake(
                lambda: -np.log(1 + 63 * 8),
                "The sign: the loss is minus the logarithm of a probability.",
            ),
            Mistake(
                lambda: 1 + 63 * 8,
                "That many terms; the loss is a logarithm of it.",
            ),
        ),
    ),
    "3.2": SQDC,
    "3.3": Part(
        right=kept,
        hint="Two reasons to remove a pair, either is enough; the diagonal stays.",
        cases=pair_cases,
        run=plainly,
        mistakes=(
            Mistake(
                lambda qid, item: (
                    torch.eye(len(qid), dtype=torch.bool)
                    | ~((qid[:, None] == qid) & (item[:, None] == item))
                ),
                "A pair goes only where *both* reasons hold; either is enough.",
            ),
            Mistake(
                lambda qid, item: (qid[:, None] != qid) & (item[:, None] != item),
                "The diagonal is gone: a document is always in its own denominator.",
            ),
            Mistake(
                lambda qid, item: ~kept(qid, item),
                "Upside down: True is where A is 1, where a pair is *kept*.",
            ),
            Mistake(
                lambda qid, item: (
                    torch.eye(len(qid), dtype=torch.bool) | (qid[:, None] != qid)
                ),
                "That is the paper's mask: the same document still meets itself.",
            ),
        ),
    ),
    "3.4": Value(
        right=lambda: 10 * (0.25 - 1),
        hint="Use the formula above with i = j.",
        mistakes=(
            Mistake(
                lambda: 10 * 0.25,
                "That is another document's derivative: here i = j, and 1 goes off.",
            ),
            Mistake(
                lambda: 10 * (1 - 0.25),
                "The sign: should the loss fall or rise with this cosine?",
            ),
            Mistake(lambda: 0.25 - 1, "T is missing: the cosine was multiplied by it."),
        ),
    ),
}
