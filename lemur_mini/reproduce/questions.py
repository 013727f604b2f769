"""What critics of LEMUR ask, each question a few variants beside LEMUR."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemur_mini.reproduce import claims
from lemur_mini.reproduce.reasons import difference, points
from lemur_mini.reproduce.stored import stored_runs


@dataclass(frozen=True)
class Question:
    """Variants (and what each is called) against one, on one data set."""

    text: str
    against: str
    variants: dict[str, str]
    name: str = "platform"
    stale: bool = False  # whether the age of the bank's vectors matters


QUESTIONS = (
    Question("Which 20 % runs the encoder? (p = q = 20 %, half of the steps; against "
             "a random share)", "p20_random", {
        "p20_popular": "the most shown first",
        "p20_rare": "the least shown first",
        "p20_oldest": "the oldest vectors first",
    }, stale=True),
    Question("Refreshing popular documents one time in ten, as the deployed system "
             "does (p = q = 55 %; against all)", "lemur", {
        "p55_q55": "a random share of that size",
        "sparing": "of the popular half one in ten",
    }, stale=True),
    Question("Another way to read the history (against LEMUR's decoder)", "lemur", {
        "literal": "the paper's printed formula, without keys, values, residuals",
        "simtier": "SimTier's histogram of similarities",
        "sa_ta": "SA-TA: scores mixed with similarities",
        "stca": "STCA: stacked target attention",
    }),
    Question("Is x + Mix(x) a residual at all? (against RankMixer)", "lemur", {
        "mix_and_revert": "TokenMixer-Large: mixed, fed forward, mixed back",
    }),
    Question("RankMixer with small embeddings (against DIN of that width)", "din_small",
             {"longer_small": "LONGER and RankMixer, width 16"}),
    Question("Two stages at full strength (against end to end)", "lemur", {
        "two_stage": "frozen vectors",
        "adapter": "... with a trained adapter",
        "semantic_ids": "... as semantic ids, three words of 64",
        "stop_gradient": "vectors that the contrast alone goes on teaching",
    }),
    Question("A contrast on a feed (the platform's, with statistics; against positives "
             "of a session finding each other)", "lemur_numbers", {
        "feed_no_contrast": "none",
        "feed_query": "the pooled history in a query's place",
        "feed_masked": "what was shown and not watched is no negative",
    }, name="platform-feed"),
)  # fmt: skip
MEASURES = {"qauc": "QAUC", "cold_auc": "AUC, cold", "tail_auc": "AUC, long tail"}


def age(runs: dict, variant: str) -> str:
    """Steps since the vectors of a batch's documents were written, in the last quarter
    of the training; and at its end, of all documents, those of the tenth that is shown
    least and of the tenth that is shown most."""
    mine = [run for (name, _), run in runs.items() if name == variant]
    logs = [[r["age"] for r in run["log"] if r.get("age") is not None] for run in mine]
    met = [np.mean(log[-len(log) // 4 :]) for log in logs if log]
    tenths = [part for run in mine if (part := run.get("age_by_popularity"))]
    if not met:
        return ""
    text = f"{np.mean(met):.0f}"
    if tenths:
        means = np.mean(tenths, axis=0)
        text += f" ({means[0]:.0f} least shown, {means[-1]:.0f} most)"
    return text


def tables() -> str:
    """All questions that have results, differences in points with their intervals."""
    return "\n\n".join(text for q in QUESTIONS if (text := table(q)))


def table(question: Question) -> str:
    """One question; empty where nothing was measured."""
    runs = stored_runs(question.name)
    heads = ["", *MEASURES.values(), "FLOPs of a step", "seeds"]
    heads += ["age, steps"] if question.stale else []
    lines = []
    base = [run for (v, _), run in runs.items() if v == question.against]
    for variant, text in question.variants.items():
        mine = [run for (v, _), run in runs.items() if v == variant]
        if not mine or not base:
            continue
        spreads = [
            difference(variant, question.against, question.name, m) for m in MEASURES
        ]
        cells = [text, *(points(s) if s else "" for s in spreads)]
        cost = mine[0]["flops"]["total"] / base[0]["flops"]["total"]
        seeds = len(claims.seeds_of(runs, variant, question.against))
        cells += [f"{cost:.0%}", str(seeds)]
        cells += [age(runs, variant)] if question.stale else []
        lines.append("| " + " | ".join(cells) + " |")
    if not lines:
        return ""
    head = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    title = f"**{question.text}**"
    if question.stale:
        title += f" The other's vectors are {age(runs, question.against)} steps old."
    return "\n".join([title, "", *head, *lines])
