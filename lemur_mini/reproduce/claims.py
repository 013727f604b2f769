"""The paper's claims beside our measurements: intervals, verdicts, table and figure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from lemur_mini import plots
from lemur_mini.data.schema import DataError
from lemur_mini.evaluation import mean_and_interval

REPRODUCES, NO_DIFFERENCE = "reproduces", "no difference at this scale"
CONTRADICTS = "contradicts"
SEEDS = 3  # fewer support no verdict
COSINE, CHANGE = "cosine, last quarter less second", "query change rate"  # measures
CONTROL = "16 A/A"  # the online test of a ranker against itself; not a claim
COLOURS = {REPRODUCES: "ceiling", NO_DIFFERENCE: "baseline", CONTRADICTS: "accent"}


@dataclass(frozen=True)
class Claim:
    """`variant` minus `against` in `measure` should have a sign among `expected`;
    0: an interval that holds zero."""

    number: str
    text: str
    mechanism: str
    paper: str  # the paper's own figure, QAUC, relative
    variant: str
    against: str
    expected: tuple[int, ...]
    measure: str = "qauc"
    others: tuple[str, ...] = ()  # further variants that its curve shows


CLAIMS = (
    Claim("0", "LEMUR beats RankMixer + LONGER", "all of the below",
          "+0.81 %", "lemur", "rankmixer_longer", (1,)),
    Claim("1", "RankMixer beats DLRM-MLP", "tokens cross features without parameters",
          "+0.59 %", "rankmixer", "dlrm", (1,)),
    Claim("1b", "... with LEMUR's eight groups", "more groups, more to cross",
          "-", "lemur", "lemur_dlrm", (1,)),
    Claim("2", "LONGER beats RankMixer alone", "what was watched is watched again",
          "+0.45 %", "rankmixer_longer", "rankmixer", (1,)),
    Claim("3", "content and SQDC beat ids", "new documents show what they are",
          "+0.47 %", "content", "rankmixer_longer", (1,)),
    Claim("4", "the bank's sequences beat no bank", "tastes show in what was watched",
          "+0.34 %", "lemur", "content", (1,)),
    Claim("5", "end-to-end beats two-stage", "only clicks teach palette and tone",
          "+0.69 %", "lemur", "two_stage", (1,)),
    Claim("6", "stop-gradient hurts", "only clicks teach palette and tone",
          "-0.31 %", "stop_gradient", "lemur", (-1,)),
    Claim("7", "no long sequence hurts", "tastes show in what was watched",
          "-0.25 %", "no_long", "lemur", (-1,)),
    Claim("8", "no short sequence hurts", "the ten nearest to the query speak louder",
          "-0.09 %", "no_short", "lemur", (-1,)),
    Claim("9", "no cosine module hurts", "likeness need not be learnt",
          "-0.12 %", "no_similarity", "lemur", (-1,)),
    Claim("10", "no SQDC hurts", "48 topics are slow to learn from clicks",
          "-0.17 %", "no_sqdc", "lemur", (-1,)),
    Claim("11", "no session mask hurts", "documents of a page share a topic",
          "-0.10 %", "no_session_mask", "lemur", (-1,)),
    Claim("11b", "... at the paper's T of 50", "a sharp contrast sees the page's seven",
          "-0.10 %", "no_session_mask_50", "temperature_50", (-1,)),
    Claim("12", "CIC does not help", "ids and content meet in the ranker already",
          "-0.02 %", "cic", "lemur", (0, -1)),
    Claim("13a", "a lower T loses", "the contrast is too soft",
          "curve", "temperature_2", "lemur", (-1,), others=("temperature_5",)),
    Claim("13b", "a higher T loses", "the contrast is too hard",
          "curve", "temperature_50", "lemur", (-1,), others=("temperature_20",)),
    Claim("13c", "negatives: positives only are as good as all", "there are enough",
          "-0.01 %", "positives", "lemur", (0,)),
    Claim("14a", "p=100 q=20 costs little", "most documents are known by then",
          "-0.03 %", "p100_q20", "lemur", (0,)),
    Claim("14b", "p=20 q=20 costs little", "most documents are known by then",
          "-0.05 %", "p20_q20", "lemur", (0,)),
    Claim("14c", "p=10 q=10 costs little", "most documents are known by then",
          "-0.06 %", "p10_q10", "lemur", (0,)),
    Claim("15", "cached vectors come to agree with current ones",
          "the learning rate falls, the encoders settle",
          "cosine 0.92 to 0.945, coverage > 0.98", "lemur", "lemur", (1,), COSINE),
    Claim("16", "people ask again less often", "what fits stands on top",
          "-0.843 % (relative)", "lemur", "rankmixer_longer", (-1,), CHANGE),
    Claim(CONTROL, "the same ranker twice", "what fits stands on top",
          "-", "lemur", "lemur", (0,), CHANGE),
    Claim("17", "cold documents gain", "content needs no past",
          "-", "lemur", "rankmixer_longer", (1,), "cold_auc"),
    Claim("18", "cold users gain", "the query and the document remain",
          "-", "lemur", "rankmixer_longer", (1,), "cold_user_auc"),
    Claim("19", "the long tail gains", "content needs no past",
          "-", "lemur", "rankmixer_longer", (1,), "tail_auc"),
    Claim("20a", "text carries part of the gain", "topic and tone are words",
          "-", "text_only", "rankmixer_longer", (1,)),
    Claim("20b", "images carry part of the gain", "the palette is on the cover",
          "-", "image_only", "rankmixer_longer", (1,)),
    Claim("21", "a bank written ten times less often loses", "vectors age",
          "-", "write_every_10", "lemur", (-1,),
          others=("write_every_2", "write_every_5")),
    Claim("22", "gradient through histories helps", "more documents hear of a click",
          "-", "history_gradient", "lemur", (1,)),
    Claim("23a", "LONGER beats DIN", "attention over all of the history",
          "-", "rankmixer_longer", "din", (1,)),
    Claim("23b", "LEMUR beats DIN", "ids cannot say what is on the cover",
          "-", "lemur", "din", (1,)),
    Claim("24a", "with what we add, end-to-end beats two-stage",
          "only clicks teach palette and tone", "-", "ours", "ours_two_stage", (1,)),
    Claim("24b", "with what we add, stop-gradient hurts",
          "only clicks teach palette and tone", "-", "ours_stop_gradient", "ours",
          (-1,)),
)  # fmt: skip


def apart(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """The paper's claims, and the questions that we add."""
    papers = [row for row in rows if row["paper"] != "-"]
    return papers, [row for row in rows if row["paper"] == "-"]


def load(folder: Path) -> dict[tuple[str, int], dict]:
    """The results of a folder by variant and seed."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            run = json.loads(path.read_text("utf-8"))
            found[run["variant"], run["seed"]] = run
        except (ValueError, KeyError, TypeError) as error:
            problem = f"{path}: not a whole result ({type(error).__name__}: {error})"
            raise DataError(f"{problem}; delete it, and it is run again") from error
    return found


def seeds_of(runs: dict, *variants: str) -> list[int]:
    """The seeds that all these variants have."""
    each = [{seed for name, seed in runs if name == variant} for variant in variants]
    return sorted(set.intersection(*each))


def bootstrap(differences: np.ndarray, draws: int = 1000, seed: int = 0) -> list[float]:
    """95 % interval of the mean of (seeds, queries) when queries are drawn anew; a
    query counts in the seeds where it has both classes (nan elsewhere)."""
    known = np.isfinite(differences).any(axis=0)
    each = np.nanmean(differences[:, known], axis=0)
    picks = np.random.default_rng(seed).integers(len(each), size=(draws, len(each)))
    return np.percentile(each[picks].mean(axis=1), [2.5, 97.5]).tolist()


def queries(run: dict) -> np.ndarray:
    """AUC of every test query, nan where it has one class."""
    values = np.array(run["query_auc"], dtype=float)
    return np.where(values < 0, np.nan, values / 1000)


Pairs = dict[int, tuple[dict, dict]]  # seed: the runs of variant and against


@dataclass(frozen=True)
class Gaps:
    """One measured difference a seed, intervals of their mean beside that over seeds,
    and what else is worth keeping."""

    each: list[float]
    intervals: dict[str, list[float]]
    facts: dict


def measure_gaps(claim: Claim, pairs: Pairs, runs: dict) -> Gaps:
    """Difference of a measure of the test days; for QAUC also paired over queries."""
    measure, intervals = claim.measure, {}
    each = [a["test"][measure] - b["test"][measure] for a, b in pairs.values()]
    if measure == "qauc":
        by_query = np.stack([queries(a) - queries(b) for a, b in pairs.values()])
        intervals["queries"] = bootstrap(by_query)
    facts = {"each_seed": dict(zip(map(str, pairs), each, strict=True)), "flops": None}
    seed = min(pairs)
    if ("lemur", seed) in runs:
        facts["flops"] = [runs[v, seed]["flops"] for v in (claim.variant, "lemur")]
    return Gaps(each, intervals, facts)


def change_rates(arm: dict, draws: np.ndarray | None = None) -> np.ndarray:
    """Query change rate of one arm; or that of every draw (draws, users) of users."""
    asked, changed = (np.array(arm[k], float) for k in ("asked", "changed"))
    if draws is None:
        return changed.sum() / asked.sum()
    return changed[draws].sum(axis=1) / asked[draws].sum(axis=1)


def online_gaps(claim: Claim, pairs: Pairs, runs: dict) -> Gaps:
    """Difference of the query change rate, bootstrapped over users. A ranker that is
    compared with itself served twice (A/A)."""
    other = int(claim.variant == claim.against)
    arms = [(a["online"][0], b["online"][other]) for a, b in pairs.values()]
    rng, boot = np.random.default_rng(0), []
    for a, b in arms:  # users of both arms are the same people
        draws = rng.integers(len(a["users"]), size=(1000, len(a["users"])))
        boot.append(change_rates(a, draws) - change_rates(b, draws))
    users = np.percentile(np.mean(boot, axis=0), [2.5, 97.5]).tolist()
    rates = [float(np.mean([change_rates(pair[k]) for pair in arms])) for k in (0, 1)]
    each = [change_rates(a) - change_rates(b) for a, b in arms]
    return Gaps(each, {"users": users}, {"rates": rates})


def cosine_gaps(claim: Claim, pairs: Pairs, runs: dict) -> Gaps:
    """Mean cosine of cached and current vectors, last quarter of the training less its
    second quarter: do the bank's vectors age less as training goes on?"""
    each, late, coverage = [], [], []
    for run, _ in pairs.values():
        log = [r for r in run["log"] if r.get("cached_cosine") is not None]
        quarter = len(log) // 4
        cosine = [r["cached_cosine"] for r in log]
        late.append(np.mean(cosine[-quarter:]))
        each.append(late[-1] - np.mean(cosine[quarter : 2 * quarter]))
        coverage.append(np.mean([r["coverage_target"] for r in log[-quarter:]]))
    facts = {"cosine": float(np.mean(late)), "coverage": float(np.mean(coverage))}
    return Gaps(each, {}, facts)


GAPS = {CHANGE: online_gaps, COSINE: cosine_gaps}  # others are measures of the test


def compare(claim: Claim, runs: dict) -> dict | None:
    """The measurement of a claim: paired over seeds. None with fewer than SEEDS seeds.
    The interval: the wider of t over seeds and bootstrap over queries or users."""
    both = (claim.variant, claim.against)
    pairs = {s: tuple(runs[v, s] for v in both) for s in seeds_of(runs, *both)}
    if claim.measure == CHANGE:  # only on the platform is anybody served
        pairs = {s: pair for s, pair in pairs.items() if pair[0].get("online")}
    if len(pairs) < SEEDS:
        return None
    gaps = GAPS.get(claim.measure, measure_gaps)(claim, pairs, runs)
    mean, half = mean_and_interval(gaps.each)
    intervals = {"seeds": [mean - half, mean + half]} | gaps.intervals
    interval = max(intervals.values(), key=lambda i: i[1] - i[0])
    return {
        "claim": claim.number,
        "text": claim.text,
        "mechanism": claim.mechanism,
        "paper": claim.paper,
        "measure": claim.measure,
        "variant": claim.variant,
        "against": claim.against,
        "ours": mean,
        "interval": interval,
        "intervals": intervals,
        "seeds": len(pairs),
        "verdict": verdict(claim.expected, interval),
    } | gaps.facts


def measure_all(runs: dict) -> list[dict]:
    """Every claim that the results can speak to, in order."""
    return [row for claim in CLAIMS if (row := compare(claim, runs))]


def verdict(expected: tuple[int, ...], interval: list[float]) -> str:
    """What an interval of a difference says about its expected signs."""
    low, high = interval
    sign = int(low > 0) - int(high < 0)
    if sign in expected:
        return REPRODUCES
    return NO_DIFFERENCE if sign == 0 else CONTRADICTS


def table(rows: list[dict]) -> str:
    """The claims as a table: differences in points (hundredths) of the measure."""
    lines = [
        "| | claim | paper | ours, points | 95 % interval | seeds | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = (f"{100 * value:+.2f}" for value in row["interval"])
        text = f"{row['text']} ({row['measure']}"
        if row["claim"].startswith("14"):
            ours, all_of_it = (flops["total"] for flops in row["flops"])
            text += f", {ours / all_of_it:.0%} of the FLOPs"
        lines.append(
            f"| {row['claim']} | {text}) | {row['paper']} | "
            f"{100 * row['ours']:+.2f} | {low} to {high} | {row['seeds']} | "
            f"{row['verdict']} |"
        )
    return "\n".join(lines)


def figure(rows: list[dict], name: str = "platform") -> Figure:
    """Every claim's difference with its interval, coloured by verdict."""
    with plt.rc_context(plots.STYLE):
        made, axes = plt.subplots(figsize=(8, 0.3 * len(rows) + 1.2))
        for place, row in enumerate(reversed(rows)):
            colour = plots.COLOURS[COLOURS[row["verdict"]]]
            low, high = (100 * value for value in row["interval"])
            axes.plot([low, high], [place, place], color=colour, lw=2)
            axes.plot(100 * row["ours"], place, "o", color=colour)
        for sort, colour in COLOURS.items():
            axes.plot([], [], "o-", color=plots.COLOURS[colour], label=sort)
        labels = [f"{row['claim']}  {row['text']}" for row in reversed(rows)]
        axes.set_yticks(range(len(rows)), labels, fontsize=8)
        axes.axvline(0, color="0.6", lw=1, zorder=0)
        axes.set_xlabel("difference in points of the measure, 95 % interval")
        claims = [row for row in rows if row["claim"] != CONTROL]
        count = sum(row["verdict"] == REPRODUCES for row in claims)
        axes.set_title(f"{count} of {len(claims)} claims reproduce on the {name}")
        made.legend(fontsize=8, loc="outside lower center", ncols=3)
    return made
