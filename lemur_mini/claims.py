"""The paper's claims beside our measurements: intervals, verdicts, table and figure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from lemur_mini import plots
from lemur_mini.pipeline import mean_and_interval

REPRODUCES, NO_DIFFERENCE = "reproduces", "no difference at this scale"
CONTRADICTS = "contradicts"
SEEDS = 3  # fewer support no verdict
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
)  # fmt: skip


def load(folder: Path) -> dict[tuple[str, int], dict]:
    """The results of a folder by variant and seed."""
    found = (json.loads(p.read_text("utf-8")) for p in sorted(folder.glob("*.json")))
    return {(run["variant"], run["seed"]): run for run in found if "variant" in run}


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


def compare(claim: Claim, runs: dict) -> dict | None:
    """The measurement of a claim: paired over seeds and queries. None with fewer than
    SEEDS seeds. The interval: the wider of t over seeds and bootstrap over queries."""
    seeds = seeds_of(runs, claim.variant, claim.against)
    if len(seeds) < SEEDS:
        return None
    pairs = [(runs[claim.variant, s], runs[claim.against, s]) for s in seeds]
    gaps = [a["test"][claim.measure] - b["test"][claim.measure] for a, b in pairs]
    mean, half = mean_and_interval(gaps)
    intervals = {"seeds": [mean - half, mean + half]}
    if claim.measure == "qauc":
        each = np.stack([queries(a) - queries(b) for a, b in pairs])
        intervals["queries"] = bootstrap(each)
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
        "each_seed": dict(zip(map(str, seeds), gaps, strict=True)),
        "seeds": len(seeds),
        "flops": [runs[name, seeds[0]]["flops"] for name in (claim.variant, "lemur")]
        if ("lemur", seeds[0]) in runs
        else None,
        "verdict": verdict(claim.expected, interval),
    }


def change_rates(arm: dict, draws: np.ndarray | None = None) -> np.ndarray:
    """Query change rate of one arm; or that of every draw (draws, users) of users."""
    asked, changed = (np.array(arm[k], float) for k in ("asked", "changed"))
    if draws is None:
        return changed.sum() / asked.sum()
    return changed[draws].sum(axis=1) / asked[draws].sum(axis=1)


def compare_online(runs: dict, control: bool) -> dict | None:
    """Query change rate of LEMUR less that of the id baseline; `control`: of LEMUR less
    that of LEMUR again. Interval as in `compare`, the bootstrap over users."""
    one, other = ("lemur", "lemur") if control else ("lemur", "rankmixer_longer")
    seeds = [
        s for s in seeds_of(runs, one, other) if runs[one, s].get("online") is not None
    ]
    if len(seeds) < SEEDS:
        return None
    pairs = [
        (runs[one, s]["online"][0], runs[other, s]["online"][int(control)])
        for s in seeds
    ]
    gaps = [change_rates(a) - change_rates(b) for a, b in pairs]
    rng, boot = np.random.default_rng(0), []
    for a, b in pairs:  # users of both arms are the same people
        draws = rng.integers(len(a["users"]), size=(1000, len(a["users"])))
        boot.append(change_rates(a, draws) - change_rates(b, draws))
    mean, half = mean_and_interval(gaps)
    users = np.percentile(np.mean(boot, axis=0), [2.5, 97.5]).tolist()
    intervals = {"seeds": [mean - half, mean + half], "users": users}
    interval = max(intervals.values(), key=lambda i: i[1] - i[0])
    return {
        "claim": CONTROL if control else "16",
        "text": "the same ranker twice" if control else "people ask again less often",
        "mechanism": "what fits stands on top",
        "paper": "-" if control else "-0.843 % (relative)",
        "measure": "query change rate",
        "variant": one,
        "against": other,
        "ours": mean,
        "rates": [float(np.mean([change_rates(p[k]) for p in pairs])) for k in (0, 1)],
        "interval": interval,
        "intervals": intervals,
        "seeds": len(seeds),
        "verdict": verdict((0,) if control else (-1,), interval),
    }


def compare_health(runs: dict) -> dict | None:
    """Claim 15: the bank's vectors age less as training goes on. The mean cosine of
    cached and current vectors, last quarter of the training less its second quarter."""
    seeds = seeds_of(runs, "lemur")
    if len(seeds) < SEEDS:
        return None
    gaps, late, coverage = [], [], []
    for s in seeds:
        log = [r for r in runs["lemur", s]["log"] if r.get("cached_cosine") is not None]
        quarter = len(log) // 4
        cosine = [r["cached_cosine"] for r in log]
        late.append(np.mean(cosine[-quarter:]))
        gaps.append(late[-1] - np.mean(cosine[quarter : 2 * quarter]))
        coverage.append(np.mean([r["coverage_target"] for r in log[-quarter:]]))
    mean, half = mean_and_interval(gaps)
    interval = [mean - half, mean + half]
    return {
        "claim": "15",
        "text": "cached vectors come to agree with current ones",
        "mechanism": "the learning rate falls, the encoders settle",
        "paper": "cosine 0.92 to 0.945, coverage > 0.98",
        "measure": "cosine, last quarter less second",
        "variant": "lemur",
        "against": "lemur",
        "ours": mean,
        "cosine": float(np.mean(late)),
        "coverage": float(np.mean(coverage)),
        "interval": interval,
        "intervals": {"seeds": interval},
        "seeds": len(seeds),
        "verdict": verdict((1,), interval),
    }


def measure_all(runs: dict) -> list[dict]:
    """Every claim that the results can speak to, in order."""
    rows = [compare(claim, runs) for claim in CLAIMS]
    rows += [compare_health(runs), *(compare_online(runs, c) for c in (False, True))]
    rows = [row for row in rows if row]
    return sorted(rows, key=lambda r: int(re.match(r"\d+", r["claim"])[0]))


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
        lines.append(
            f"| {row['claim']} | {row['text']} ({row['measure']}) | {row['paper']} | "
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
