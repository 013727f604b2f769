"""Real logs: what a practitioner could pick, beside LEMUR, on one log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemur_mini.evaluation import gap_closed, mean_and_interval
from lemur_mini.reproduce.stored import spread, spread_of_shares, stored_runs
from lemur_mini.simulate import learnable

Runs = dict[tuple[str, int], dict]
MEASURES = {"auc": "AUC", "qauc": "QAUC", "cold_auc": "AUC, cold"}
ROWS = {  # what is compared, in the order of the table
    "means": "smoothed means",
    "trees": "boosted trees on all features",
    "rankmixer_longer": "ids",
    "ids_numbers": "ids, statistics, match",
    "lemur": "LEMUR",
    "lemur_numbers": "LEMUR, statistics, match",
}
LADDER = {  # variant: what stands in for it, on words that people wrote
    "content": "without histories of representations",
    "no_sqdc": "without SQDC",
    "two_stage": "two-stage",
    "stop_gradient": "stop-gradient",
    "no_similarity": "without the cosine module",
    "two_stage_numbers": "two-stage, statistics, match",
    "stop_gradient_numbers": "stop-gradient, statistics, match",
}
BEST, RIVALS = "lemur_numbers", ("trees", "ids_numbers", "lemur")


@dataclass(frozen=True)
class Log:
    """A log of which results are stored, and what a reader has to know of it."""

    name: str
    title: str
    what: str


LOGS = (
    Log("rails_log", "Rails", "search: commits of a web framework ask, the files that "
        "they changed answer; people, words and time are real, negatives are drawn"),
    Log("crawl_log", "Crawl", "search: commits of an open-source game, some files are "
        "pictures; people, words and time are real, negatives are drawn"),
    Log("ml1m_posters", "Films", "feed: MovieLens-1M ratings, posters and plots; four "
        "stars or more is a positive; nothing is drawn, but films were chosen to rate"),
    Log("platform-feed", "Platform as a feed", "the shipped log, its queries dropped; "
        "nothing is drawn, and the truth is known"),
)  # fmt: skip


def of(runs: Runs, variant: str) -> dict[int, dict]:
    """The test measures of a variant by seed."""
    return {seed: run["test"] for (name, seed), run in runs.items() if name == variant}


def rows(runs: Runs, names: dict[str, str]) -> list[list[str]]:
    """Title, measures and seconds of every variant that was run."""
    out = []
    for variant, title in names.items():
        if tests := of(runs, variant):
            cells = [spread([t[m] for t in tests.values()], 3) for m in MEASURES]
            out.append([title, *cells, str(len(tests))])
    return out


def differences(runs: Runs, against: str, best: str = BEST) -> dict[str, tuple]:
    """Mean difference, and the half width of its interval, of the best and a rival by
    measure: of the same seed, or of the rival's only one where nothing is drawn."""
    mine, theirs = of(runs, best), of(runs, against)
    if not mine or not theirs:
        return {}
    (first, *more) = theirs.values()
    pairs = [
        (test, theirs[seed] if more else first)
        for seed, test in mine.items()
        if seed in theirs or not more
    ]
    return {m: mean_and_interval([a[m] - b[m] for a, b in pairs]) for m in MEASURES}


def text_table(runs: Runs) -> str:
    """All rows as text."""
    head = f"{'':32}" + "".join(f"{name:>16}" for name in MEASURES.values())
    lines = [head + f"{'seeds':>7}"]
    for title, *cells, seeds in rows(runs, ROWS | LADDER):
        lines.append(f"{title:32}" + "".join(f"{c:>16}" for c in cells) + f"{seeds:>7}")
    return "\n".join(lines)


def tables() -> str:
    """Every stored log: what it is, the table, and by how much the best leads."""
    parts = []
    for log in LOGS:
        if not (runs := stored_runs(log.name)):
            continue
        lines = [f"**{log.title}** ({log.what}).", ""]
        lines.append("| | " + " | ".join([*MEASURES.values(), "seeds"]) + " |")
        lines.append("|---" * (len(MEASURES) + 2) + "|")
        found = rows(runs, ROWS | LADDER)
        lines += ["| " + " | ".join(cells) + " |" for cells in found]
        lines += learnt(runs)
        parts.append("\n".join([*lines, "", leads(runs)]))
    return "\n\n".join(parts)


def learnt(runs: Runs) -> list[str]:
    """A last row where it is known what can be learnt without queries: that, and which
    share of it LEMUR with all groups goes, from the ids on."""
    data = next(run.get("data", "") for run in runs.values())
    best = learnable.stored(data, learnable.TEST_START, feed=True)
    ids, mine = of(runs, "rankmixer_longer"), of(runs, BEST)
    if not (best and ids and mine):
        return []
    base = np.mean([test["qauc"] for test in ids.values()])
    shares = [gap_closed(base, test["qauc"], best["qauc"]) for test in mine.values()]
    title = f"what can be learnt; of it, in QAUC, LEMUR: {spread_of_shares(shares)}"
    return [f"| {title} | {best['auc']:.3f} | {best['qauc']:.3f} | | |"]


def short() -> str:
    """Every stored log on one line: AUC / QAUC of what could be picked."""
    logs = {log: runs for log in LOGS if (runs := stored_runs(log.name))}
    lines = ["| AUC / QAUC | " + " | ".join(ROWS.values()) + " |"]
    lines.append("|---" * (len(ROWS) + 1) + "|")
    for log, runs in logs.items():
        lines.append(f"| {log.title} | " + " | ".join(_cells(runs)) + " |")
    return "\n".join(lines)


def _cells(runs: Runs) -> list[str]:
    """AUC / QAUC of every row, mean over seeds; the highest in bold."""
    found = {name: list(of(runs, name).values()) for name in ROWS}
    means = {
        name: [np.mean([t[m] for t in tests]) for m in ("auc", "qauc")]
        for name, tests in found.items()
        if tests
    }
    best = max(means, key=lambda name: means[name][0])
    cells = [
        " / ".join(f"{v:.3f}" for v in means[n]) if n in means else "" for n in ROWS
    ]
    pairs = zip(ROWS, cells, strict=True)
    return [f"**{cell}**" if name == best else cell for name, cell in pairs]


def leads(runs: Runs) -> str:
    """By how much LEMUR with all groups leads its rivals, with intervals."""
    said = []
    for rival in RIVALS:
        found = differences(runs, rival)
        cells = [
            f"{MEASURES[m]} {mean:+.3f}" + ("" if half is None else f" ± {half:.3f}")
            for m, (mean, half) in found.items()
        ]
        said += [f"{ROWS[rival]}: {', '.join(cells)}"] if cells else []
    return f"{ROWS[BEST]} against " + "; ".join(said) + "." if said else ""
