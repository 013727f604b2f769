"""Why a claim did not come out: every reason that we give is an experiment, and this
says what it said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lemur_mini.evaluation import mean_and_interval
from lemur_mini.reproduce import claims, growth
from lemur_mini.reproduce.growth import Spread
from lemur_mini.reproduce.stored import claim_rows, stored_runs

YES, NO, OPEN = "borne out", "not borne out", "open"
# Half a point of QAUC: what a difference must exceed to matter, as in the search. An
# interval that reaches past it on the reason's side excludes nothing.
MATTERS = 0.005


@dataclass(frozen=True)
class Found:
    """What an experiment measured, in words and figures, and its verdict."""

    said: str
    verdict: str


@dataclass(frozen=True)
class Reason:
    """Why rows of the table of claims might not come out, and how that was tried."""

    claims: tuple[str, ...]
    reason: str
    experiment: str
    measure: Callable[[], Found | None]  # None: no results yet


def difference(
    variant: str, against: str, name: str = "platform", measure: str = "qauc"
) -> Spread | None:
    """Mean of variant minus against over their common seeds."""
    runs = stored_runs(name)
    each = [
        runs[variant, seed]["test"][measure] - runs[against, seed]["test"][measure]
        for seed in claims.seeds_of(runs, variant, against)
    ]
    return mean_and_interval(each) if each else None


def points(spread: Spread) -> str:
    """A difference in hundredths."""
    mean, half = spread
    more = ", one seed" if half is None else f" ± {100 * half:.1f}"
    return f"{100 * mean:+.1f}{more}"


def sign(spread: Spread) -> int:
    """Of a difference whose interval holds no zero; else 0."""
    mean, half = spread
    clear = half is not None and abs(mean) > half
    return int(np.sign(mean)) if clear else 0


def judged(spread: Spread, expected: int) -> str:
    """What an interval says of an expected sign; 0: that it holds zero."""
    mean, half = spread
    if half is None:
        return OPEN
    if sign(spread) == expected:
        return YES
    reaches = expected and mean * expected + half > MATTERS
    return OPEN if reaches and not sign(spread) else NO


def fades(variant: str, against: str) -> Found | None:
    """The reason is one short pass: with four times the log the difference should be
    less than half of what it is. Open where its interval there is wider than it is."""
    found = at_both_sizes(variant, against)
    if found is None:
        return None
    small, (mean, half) = found
    good = YES if abs(mean) < abs(small[0]) / 2 else NO
    known = half is not None and half <= abs(small[0])
    return Found(growing(found), good if known else OPEN)


def appears(variant: str, against: str, expected: int) -> Found | None:
    """The reason is one short pass: with four times the log the difference should have
    the paper's sign."""
    found = at_both_sizes(variant, against)
    return found and Found(growing(found), judged(found[1], expected))


def at_both_sizes(variant: str, against: str) -> tuple[Spread, Spread] | None:
    """A difference at the shipped size and at four times."""
    small = difference(variant, against)
    large = difference(variant, against, growth.name_of(4))
    return None if small is None or large is None else (small, large)


def growing(found: tuple[Spread, Spread]) -> str:
    """Both in words."""
    return f"{points(found[0])} at the shipped size, {points(found[1])} at four times"


def shows(variant: str, against: str, expected: int, *names: str) -> Found | None:
    """A difference elsewhere should have this sign: 0, an interval that holds zero."""
    found = {name: difference(variant, against, name) for name in names or ["platform"]}
    known = {name: spread for name, spread in found.items() if spread is not None}
    if not known:
        return None
    said = "; ".join(
        points(spread) + (f" ({NAMES[name]})" if names else "")
        for name, spread in known.items()
    )
    verdicts = {judged(spread, expected) for spread in known.values()}
    worst = next(verdict for verdict in (NO, OPEN, YES) if verdict in verdicts)
    return Found(said, worst)


NAMES = {
    "rails_log": "Rails",
    "crawl_log": "Crawl",
    "films": "films",
    "platform-feed": "the platform as a feed",
}


def equal_cost() -> Found | None:
    """The same FLOPs on more log: sampled, beside what all at once reaches at that
    cost, on a line over the logarithm of the cost between two sizes of the log."""
    found = {times: share_of("lemur", times) for times in growth.TIMES}
    whole = {times: share for times, share in found.items() if share is not None}
    costs = [cost_of("lemur", times) for times in whole]
    parts, better = [], []
    for times in whole:
        sampled = share_of("p20_q20", times)
        if sampled is None or (cost := cost_of("p20_q20", times)) < costs[0]:
            continue
        beside = float(np.interp(np.log(cost), np.log(costs), list(whole.values())))
        parts.append(
            f"{sampled:.1%} of what can be learnt sampled on {times} x the log, "
            f"{beside:.1%} whole at that cost, on {cost / costs[0]:.1f} x"
        )
        better.append(sampled > beside)
    if not parts:
        return None
    return Found("; ".join(parts), YES if all(better) else NO)


def share_of(variant: str, times: int) -> float | None:
    """Mean share of what can be learnt that a variant went at a log size."""
    for row in growth.rows():
        if row["times"] == times and variant in row["learnt"]:
            return row["learnt"][variant][0]
    return None


def cost_of(variant: str, times: int) -> float:
    """FLOPs of a training, in steps of the shipped log: sampled steps cost less, and
    they begin half-way."""
    runs = stored_runs(growth.name_of(times))
    step = {
        name: next(run["flops"]["total"] for (v, _), run in runs.items() if v == name)
        for name in (variant, "lemur")
    }
    begins = next(run["config"] for (v, _), run in runs.items() if v == variant)
    early = begins["sampling_from"]
    return times * (early * step["lemur"] + (1 - early) * step[variant])


ONE_PASS = "one short pass"
REASONS = (
    Reason(("1",), ONE_PASS + ": crossing tokens is learnt late",
           "four times the log", lambda: appears("rankmixer", "dlrm", 1)),
    Reason(("8",), "what the ten nearest say, the whole history says as well",
           "the short sequence with no long one beside it, against neither",
           lambda: shows("no_long", "content", 1)),
    Reason(("11", "11b"), ONE_PASS + ": false negatives hurt good vectors alone",
           "four times the log", lambda: appears("no_session_mask", "lemur", -1)),
    Reason(("11", "11b"), "documents of a page are as much alike as others",
           "words that people wrote, where a page's documents were changed together",
           lambda: shows("no_session_mask", "lemur", -1, "rails_log", "crawl_log")),
    Reason(("11", "11b"), "the contrast weighs too little (0.015)",
           "at a weight of 0.1, with statistics and match",
           lambda: shows("no_mask_numbers", "lemur_numbers", -1, "rails_log",
                         "crawl_log")),
    Reason(("12",), ONE_PASS + ": CIC helps while content is young",
           "four times the log", lambda: fades("cic", "lemur")),
    Reason(("12",), "CIC brings what a better use of the history brings as well",
           "CIC beside what we add", lambda: shows("ours_cic", "ours", 0)),
    Reason(("14a", "14b", "14c"), ONE_PASS + ": encoders that are sampled starve",
           "p = q = 20 % on four times the log", lambda: fades("p20_q20", "lemur")),
    Reason(("14a", "14b", "14c"), "FLOPs that are saved are worth more log",
           "equal cost: more log sampled, less log whole", equal_cost),
    Reason(("23a",), "wide embeddings are too much for this log",
           "LONGER and DIN at a quarter of the width",
           lambda: shows("longer_small", "din_small", 1)),
)  # fmt: skip


def table() -> str:
    """Every row of the platform that does not reproduce, beside the reasons tried."""
    rows = {row["claim"]: row for row in claims_rows()}
    lines = [
        "| rows | verdict | the reason that was given | its experiment | what it said, "
        "points of QAUC | |",
        "|---|---|---|---|---|---|",
    ]
    for reason in REASONS:
        failed = [n for n in reason.claims if n in rows]
        found = reason.measure()
        if not failed or found is None:
            continue
        verdicts = dict.fromkeys(rows[n]["verdict"] for n in failed)
        cells = [", ".join(failed), "; ".join(verdicts), reason.reason]
        cells += [reason.experiment, found.said, f"**{found.verdict}**"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def claims_rows() -> list[dict]:
    """The platform's rows that do not reproduce."""
    return [row for row in claim_rows() if row["verdict"] != claims.REPRODUCES]


def without() -> list[str]:
    """Rows that neither reproduce nor have an experiment with results."""
    known = {n for r in REASONS if r.measure() is not None for n in r.claims}
    return [row["claim"] for row in claims_rows() if row["claim"] not in known]
