"""Exercises of notebooks 10 and 12: serving, drift, and logs of one's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lemur_mini.data.importers.huggingface import sessions
from lemur_mini.exercises.kinds import Case, Mistake, Part, Value, plainly
from lemur_mini.memory_bank import NEVER

MOMENTS, GAP = np.array([0, 3000, 6500, 9000, 13000]), 3600


def banks() -> list[Case]:
    """Steps of the last write."""
    written = torch.tensor([5, NEVER, 90, 40, 39])
    return [
        Case("Written at 5, never, 90, 40, 39", {"w": written, "now": 100, "limit": 60})
    ]


def rows(where: Tensor) -> Tensor:
    """Where a mask is True."""
    return torch.nonzero(where).squeeze(1)


def leads(both: list, one: Callable) -> float:
    """A mean over seeds, of pairs (daily, two-stage)."""
    return float(np.mean([one(a, b) for a, b in both]))


def days() -> list[Case]:
    """Two days."""
    return [Case("Days 15 and 16", {"days": [15, 16]})]


def taken() -> list[Case]:
    """What was taken when, and what is asked."""
    takes = [(1, "a"), (2, "b"), (2, "a"), (5, "a")]
    return [
        Case(f"{item!r} at {time}", {"takes": takes, "item": item, "time": time})
        for item, time in (("a", 2), ("a", 9), ("c", 3))
    ]


EXERCISES = {
    "10.1": Value(
        right=lambda: 1000 * (24 + 64),
        hint="Candidates need vectors. What else does the decoder read?",
        mistakes=(
            Mistake(
                lambda: 1000 * 24,
                "Those are the candidates. What else does the decoder read?",
            ),
            Mistake(
                lambda: 1000 * 64, "That is the history; candidates need vectors, too."
            ),
            Mistake(lambda: 24 + 64, "That is one page; how many are there a second?"),
        ),
    ),
    "10.2": Part(
        right=lambda w, now, limit: rows((w > NEVER) & (now - w > limit)),
        hint="A document that was never written is not old. It is missing.",
        cases=banks,
        run=plainly,
        mistakes=(
            Mistake(
                lambda w, now, limit: rows(now - w > limit),
                "A document that was never written is not old. It is missing: NEVER "
                "is -1.",
            ),
            Mistake(
                lambda w, now, limit: rows((w > NEVER) & (now - w >= limit)),
                "Exactly `limit` steps are not more than `limit`.",
            ),
            Mistake(
                lambda w, now, limit: (w > NEVER) & (now - w > limit),
                "That is a mask; rows are asked: torch.nonzero finds them.",
            ),
        ),
    ),
    "10.3": Value(
        right=lambda both: leads(
            both, lambda a, b: (a - b)[-5:].mean() - (a - b)[:5].mean()
        ),
        hint="The daily system's own rise is not its lead: subtract two-stage, day by "
        "day.",
        mistakes=(
            Mistake(
                lambda both: leads(both, lambda a, b: a[-5:].mean() - a[:5].mean()),
                "That is the daily system's own rise; subtract two-stage, day by day.",
            ),
            Mistake(
                lambda both: leads(
                    both, lambda a, b: (a - b)[:5].mean() - (a - b)[-5:].mean()
                ),
                "That is the first days less the last.",
            ),
            Mistake(
                lambda both: leads(both, lambda a, b: (a - b)[-5:].mean()),
                "That is the lead at the end; how much has it grown?",
            ),
        ),
    ),
    "10.4": Part(
        right=lambda days: [(what, day) for day in days for what in ("serve", "train")],
        hint="What a day's clicks taught must not help to predict those same clicks.",
        cases=days,
        run=plainly,
        mistakes=(
            Mistake(
                lambda days: [
                    (what, day) for day in days for what in ("train", "serve")
                ],
                "What a day's clicks taught would help to predict those same clicks.",
            ),
            Mistake(
                lambda days: [
                    (what, day) for what in ("serve", "train") for day in days
                ],
                "All days are served before anything is learnt: learn every night.",
            ),
        ),
    ),
    "12.1": Value(
        right=lambda: sessions(np.zeros(len(MOMENTS)), MOMENTS, GAP).max() + 1,
        hint="The gap is measured to the impression before.",
        mistakes=(
            Mistake(
                lambda: 3,
                "Measure the gap to the impression before, not to the session's first.",
            ),
            Mistake(lambda: 1, "One gap is too long; how many sessions are around it?"),
        ),
    ),
    "12.2": Value(
        right=lambda: 1.0,
        hint="Which rows' own rating, and which later ratings, went into the mean?",
        mistakes=(
            Mistake(
                lambda: 0.0,
                "What a row tells alone is not the question: its own rating is in the "
                "mean.",
            ),
            Mistake(
                lambda: 0.5,
                "Later ratings stand in half of the means; and a row's own rating?",
            ),
        ),
    ),
    "12.3": Part(
        right=lambda takes, item, time: (
            1 + sum(i == item and t < time for t, i in takes)
        ),
        hint="What is taken later, or at the same second, is not known yet.",
        cases=taken,
        run=plainly,
        mistakes=(
            Mistake(
                lambda takes, item, time: 1 + sum(i == item for _, i in takes),
                "That counts the whole log: what is taken later is not known yet.",
            ),
            Mistake(
                lambda takes, item, time: (
                    1 + sum(i == item and t <= time for t, i in takes)
                ),
                "The same second is not *before*.",
            ),
            Mistake(
                lambda takes, item, time: sum(i == item and t < time for t, i in takes),
                "Add one, or what nobody took is never drawn.",
            ),
        ),
    ),
}
