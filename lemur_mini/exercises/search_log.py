"""Exercises of notebook 01: what may be known when, rates, and ceilings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lemur_mini import evaluation
from lemur_mini.data.pages import Pages
from lemur_mini.exercises.kinds import Case, Mistake, Part, Value

LABEL, SCORE = [1, 0, 0, 1], [0.9, 0.9, 0.2, 0.4]


def page_auc() -> float:
    """Of the page of exercise 1.1."""
    return evaluation.auc(np.array(LABEL), np.array(SCORE))


class Known:
    """A mask over the log, by user and start, out of what a profile may hold."""

    def __init__(self, mask: Callable):
        self.mask = mask


def profiles(log, pages: Pages, sample: np.ndarray) -> list[Case]:
    """The sessions of some pages."""
    return [
        Case(
            f"User {pages.user[page]}, start {pages.start[page]}",
            {"log": log, "user": pages.user[page], "start": pages.start[page]},
        )
        for page in sample[:10]
    ]


def masks(code: object, inputs: dict) -> dict[str, object]:
    """What a mask selects for a session: the reader's function, or one of ours."""
    log, user, start = inputs["log"], inputs["user"], inputs["start"]
    mine = isinstance(code, Known)
    mask = code.mask(log, user, start) if mine else code(user, start)  # type: ignore
    return {"": mask if mask is ... else np.flatnonzero(np.asarray(mask))}


MAY_KNOW = Part(
    right=Known(
        lambda log, user, start: (
            (log.user == user) & (log.label == 1) & (log.timestamp < start)
        )
    ),
    hint="This user, what was watched, and strictly before the session.",
    cases=profiles,
    run=masks,
    mistakes=(
        Mistake(
            Known(
                lambda log, user, start: (
                    (log.user == user) & (log.label == 1) & (log.timestamp != start)
                )
            ),
            "Tomorrow's watches are no better than the session's own.",
        ),
        Mistake(
            Known(
                lambda log, user, start: (
                    (log.user == user) & (log.label == 1) & (log.timestamp <= start)
                )
            ),
            "The session's own watches are in it: before the start, not until it.",
        ),
        Mistake(
            Known(
                lambda log, user, start: (log.user == user) & (log.timestamp < start)
            ),
            "A profile holds what was *watched*; label 0 was only shown.",
        ),
        Mistake(
            Known(lambda log, user, start: (log.label == 1) & (log.timestamp < start)),
            "Those are the watches of all users.",
        ),
    ),
)


def asked(
    pages: Pages, test: np.ndarray, rows: np.ndarray | slice = slice(None)
) -> int:
    """Distinct pairs of user and query text on test pages, or on some of them."""
    pairs = np.stack([pages.user[test], pages.query[test]], axis=1)
    return len(np.unique(pairs[rows], axis=0))


def change_rate(pages: Pages, test: np.ndarray, reformulated: np.ndarray) -> float:
    """Pairs that were reformulated at least once, of all pairs."""
    return asked(pages, test, reformulated[test]) / asked(pages, test)


def without(parts: dict, total: np.ndarray, qauc: Callable) -> float:
    """The ceiling of a ranker that cannot know quality."""
    return qauc(sum(part for name, part in parts.items() if name != "quality"))


EXERCISES = {
    "1.1": Value(
        right=page_auc,
        hint="There are four pairs, and one of them is a tie.",
        mistakes=(
            Mistake(lambda: 3 / 4, "One pair is a tie: it counts half."),
            Mistake(lambda: 2 / 4, "Ties count half, not nothing."),
            Mistake(lambda: 2.5, "Divide by the number of pairs."),
        ),
    ),
    "1.2": MAY_KNOW,
    "1.3": Value(
        right=change_rate,
        hint="A pair that was asked three times is one pair; count it once, above and "
        "below.",
        mistakes=(
            Mistake(
                lambda pages, test, reformulated: reformulated[test].mean(),
                "That counts pages; a pair that was asked three times is one pair.",
            ),
            Mistake(
                lambda pages, test, reformulated: (
                    reformulated[test].sum() / asked(pages, test)
                ),
                "Below are pairs, above are pages: count a pair once there, too.",
            ),
            Mistake(
                lambda pages, test, reformulated: (
                    1 - change_rate(pages, test, reformulated)
                ),
                "Those are the pairs that were *not* reformulated.",
            ),
        ),
    ),
    "1.4": Value(
        right=without,
        hint="Take quality out of the sum of logits, then rank.",
        tolerance=0.002,  # rounding may break ties
        mistakes=(
            Mistake(
                lambda parts, total, qauc: qauc(total) - qauc(parts["quality"]),
                "Parts are added as logits; a QAUC is no sum of QAUCs.",
            ),
            Mistake(
                lambda parts, total, qauc: qauc(parts["quality"]),
                "That is a ranker that knows *nothing but* quality.",
            ),
            Mistake(
                lambda parts, total, qauc: qauc(total),
                "That is the ceiling with quality in it.",
            ),
        ),
    ),
}
