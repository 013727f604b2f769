"""Exercises of notebooks 00, 09 and 13: gaps, measures, and what would refute them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lemur_mini import evaluation
from lemur_mini.exercises.kinds import Case, Mistake, Part, Value, plainly

LABEL, SCORE = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.4, 0.4, 0.6, 0.1])
FIRST, SECOND = 0.8, 0.3  # true chances of the page of exercise 9.2


def shared(ranked: list) -> int:
    """Documents among the first eight of both orders."""
    return len({*list(ranked[0])[:8]} & {*list(ranked[1])[:8]})


def gaps() -> list[Case]:
    """Baseline, model and ceiling."""
    return [
        Case(f"{a}, {b} and {c}", {"baseline": a, "model": b, "ceiling": c})
        for a, b, c in ((0.6, 0.7, 0.9), (0.5, 0.5, 0.8), (0.6, 0.9, 0.9))
    ]


def centred(logit: np.ndarray, qid: np.ndarray) -> np.ndarray:
    """Every logit less the mean of its query."""
    group = np.unique(qid, return_inverse=True)[1]
    return logit - (np.bincount(group, logit) / np.bincount(group))[group]


def queries() -> list[Case]:
    """Scores of two queries."""
    logit = np.array([1.0, 3.0, 10.0, 14.0, 12.0])
    qid = np.array([4, 4, 9, 9, 9])
    return [Case("Two queries, of two and of three", {"logit": logit, "qid": qid})]


def rates(arms: dict, one: Callable) -> float:
    """Of LEMUR less that of the ids."""
    return one(arms["LEMUR"]) - one(arms["ids"])


def change_rate(arm: dict) -> float:
    """All changed queries by all that were asked."""
    return np.sum(arm["changed"]) / np.sum(arm["asked"])


def flips() -> list[Case]:
    """A count that looks ahead by one row, and one that does not."""
    label, began = np.array([0, 1, 0, 1, 0, 1]), np.arange(6.0)
    honest = {"count": lambda y: np.cumsum(y) - y}
    leaky = {"count": lambda y: np.append(y[1:], 0)}
    rest = {"began": began, "label": label, "moment": 4.0}
    return [
        Case("A count of the next row's label", leaky | rest),
        Case("A count of the rows before", honest | rest),
    ]


def changing(count: Callable, began, label, moment) -> float:
    """Of rows that began before a moment: the share that flipped labels move."""
    flipped = np.where(began >= moment, 1 - label, label)
    return (count(label) != count(flipped))[began < moment].mean()


def pages() -> list[Case]:
    """Queries with different shares of watches, mixed in the log."""
    draw = np.random.default_rng(0)
    qid = draw.permutation(np.repeat(np.arange(40), 8))
    label = (draw.random(320) < np.linspace(0.05, 0.95, 40)[qid]).astype(int)
    return [Case("Forty queries", {"label": label, "qid": qid})]


def mixed(code: object, inputs: dict) -> dict[str, object]:
    """What a shuffle keeps: the watches of every query, and what it moves."""
    label, qid = inputs["label"], inputs["qid"]
    found = code(label, qid, np.random.default_rng(1))  # type: ignore[operator]
    if found is ...:
        return {"the watches of every query": ..., "whether labels move": ...}
    return {
        "the watches of every query": np.bincount(qid, np.asarray(found)),
        "whether labels move": bool((np.asarray(found) != label).any()),
    }


def within(label: np.ndarray, qid: np.ndarray, draw) -> np.ndarray:
    """Labels in another order inside each query."""
    out = np.empty_like(label)
    out[np.argsort(qid, kind="stable")] = label[
        np.lexsort((draw.random(len(qid)), qid))
    ]
    return out


def coins(label: np.ndarray, qid: np.ndarray) -> float:
    """Standard deviation of a coin's QAUC."""
    draws = map(np.random.default_rng, range(30))
    return float(
        np.std([evaluation.qauc(label, d.random(len(qid)), qid) for d in draws])
    )


EXERCISES = {
    "0.1": Value(
        right=shared,
        hint="Cut both orders to eight first.",
        mistakes=(
            Mistake(
                lambda ranked: len({*list(ranked[0])} & {*list(ranked[1])}),
                "Those are all candidates: cut both orders to eight first.",
            ),
            Mistake(
                lambda ranked: len({*list(ranked[0])[:8]} | {*list(ranked[1])[:8]}),
                "That is how many stand on one page or the other; take those on both.",
            ),
        ),
    ),
    "0.2": Value(
        right=lambda: False,
        hint="Both must be unknown: all unknown users share one row of the table.",
        mistakes=(
            Mistake(
                lambda: True,
                "Was one of the two known? All unknown users share one row of the "
                "table.",
            ),
        ),
    ),
    "0.3": Part(
        right=lambda base, model, best: (model - base) / (best - base),
        hint="The way that was made, of the way that there is.",
        cases=gaps,
        run=plainly,
        mistakes=(
            Mistake(
                lambda base, model, best: (model - base) / best,
                "Divide by the way that there is to go, not by the ceiling itself.",
            ),
            Mistake(
                lambda base, model, best: (best - model) / (best - base),
                "That is what is still open.",
            ),
            Mistake(
                lambda base, model, best: model - base,
                "That is the gain; a share of the gap is asked.",
            ),
        ),
    ),
    "9.1": Value(
        right=lambda: evaluation.auc(LABEL, SCORE),
        hint="Two watched times three others make six pairs. What is a tie worth?",
        tolerance=1e-3,
        mistakes=(
            Mistake(lambda: 4 / 6, "One pair is a tie: it counts half."),
            Mistake(lambda: 5 / 6, "A tie counts half, not whole."),
            Mistake(lambda: 4.5, "Divide by the number of pairs."),
        ),
    ),
    "9.2": Value(
        right=lambda: (
            FIRST * (1 - SECOND) / (FIRST * (1 - SECOND) + (1 - FIRST) * SECOND)
        ),
        hint="Only the first: 0.8 times the chance that the second is not watched.",
        tolerance=0.01,
        mistakes=(
            Mistake(
                lambda: FIRST / (FIRST + SECOND),
                "Exactly one is watched: multiply by the chance that the other is not.",
            ),
            Mistake(
                lambda: FIRST * (1 - SECOND),
                "That is the chance of *only the first*; divide by that of *only one*.",
            ),
        ),
    ),
    "9.3": Part(
        right=centred,
        hint="One mean per query: what is compared inside a query keeps its distance.",
        cases=queries,
        run=plainly,
        mistakes=(
            Mistake(
                lambda logit, qid: logit - logit.mean(),
                "That is one mean for all; every query has its own.",
            ),
            Mistake(
                lambda logit, qid: logit - centred(logit, qid),
                "Those are the means; subtract them.",
            ),
            Mistake(
                lambda logit, qid: logit + (logit - centred(logit, qid)),
                "The means are added; subtract them.",
            ),
        ),
    ),
    "9.4": Value(
        right=lambda arms: rates(arms, change_rate),
        hint="Add up first, divide once: users who ask more weigh more.",
        mistakes=(
            Mistake(
                lambda arms: rates(
                    arms, lambda arm: np.mean(np.divide(arm["changed"], arm["asked"]))
                ),
                "That is a mean of users' rates: add up first, divide once.",
            ),
            Mistake(
                lambda arms: -rates(arms, change_rate),
                "That is the ids' rate less LEMUR's; the other way round.",
            ),
        ),
    ),
    "13.1": Part(
        right=changing,
        hint="Flip the labels from the moment on, and look at the rows before it.",
        cases=flips,
        run=plainly,
        mistakes=(
            Mistake(
                lambda count, began, label, moment: (
                    count(label) != count(np.where(began >= moment, 1 - label, label))
                ).mean(),
                "Rows from the moment on may change, and do. Leave them out.",
            ),
            Mistake(
                lambda count, began, label, moment: changing(
                    count, -began, label, -moment
                ),
                "Those are the labels *before* the moment; flip the later ones.",
            ),
        ),
    ),
    "13.2": Part(
        right=within,
        hint="Every query keeps its own number of watches: shuffle inside queries.",
        cases=pages,
        run=mixed,
        mistakes=(
            Mistake(
                lambda label, qid, draw: draw.permutation(label),
                "That shuffles the whole log; queries lose their number of watches.",
            ),
            Mistake(
                lambda label, qid, draw: label,
                "Nothing has moved.",
            ),
        ),
    ),
    "13.3": Value(
        right=coins,
        hint="Rows of a query share its fate. Draw a score for every row, many times.",
        tolerance=0.33,  # thirty coins, as a reader throws them, say it roughly
        mistakes=(
            Mistake(
                lambda label, qid: 0.5 / np.sqrt(len(qid)),
                "Rows of a query share its fate: they are not so many tries.",
            ),
            Mistake(
                lambda label, qid: coins(label, qid) ** 2,
                "That is the variance; take the root.",
            ),
        ),
    ),
}
