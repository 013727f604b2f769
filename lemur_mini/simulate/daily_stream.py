"""A daily stream: serve a day, learn from it, refresh the bank, look at its age."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lemur_mini import training
from lemur_mini.data.pages import Batch
from lemur_mini.evaluation import query_auc
from lemur_mini.memory_bank import NEVER
from lemur_mini.pipeline import Prepared
from lemur_mini.training import Run
from lemur_mini.world.config import WorldConfig
from lemur_mini.world.platform import DAY

START = 15  # the first day that is served and scored
EXTRA = 32  # documents that a refresh policy encodes again after every step
CHANCE = 0.1  # ... of the popular ones: so many documents are popular that it is EXTRA
PROBE = 3  # days between two looks at what stale vectors cost


@dataclass(frozen=True)
class Variant:
    """How a system begins, and how it goes on from day START."""

    base: str = "lemur"  # or two_stage, ids, final: LEMUR whose rate decays to zero
    updates: bool = True
    share: float = 1.0  # p and q, from START on
    policy: str = "none"


# --- refresh policies: catalogue rows to encode again, among those the bank holds -----


def oldest(written: Tensor, shown: Tensor, order: Tensor) -> Tensor:
    """Age-based: the vectors that were written longest ago."""
    return torch.argsort(written + order)[:EXTRA]


def popular(written: Tensor, shown: Tensor, order: Tensor) -> Tensor:
    """Each of the most popular documents with a chance of CHANCE (exactly so many)."""
    head = torch.argsort(shown + order, descending=True)[: round(EXTRA / CHANCE)]
    return head[torch.argsort(order[head])][: round(CHANCE * len(head))]


def at_random(written: Tensor, shown: Tensor, order: Tensor) -> Tensor:
    """Any document: the control."""
    return torch.argsort(order)[:EXTRA]


POLICIES = {"oldest": oldest, "popular": popular, "random": at_random}


@torch.no_grad()
def refresh(run: Run, policy: str, shown: Tensor, step: int) -> int:
    """Encode EXTRA documents again after a step, as the policy says, none of which the
    step has just encoded. shown: (N,) impressions so far. Returns how many."""
    bank = run.model.bank
    stale = torch.nonzero((bank.written > NEVER) & (bank.written < step)).squeeze(1)
    rng = np.random.default_rng((run.seed, step, 1))
    order = torch.from_numpy(rng.random(len(stale)))  # breaks ties
    chosen = stale[POLICIES[policy](bank.written[stale], shown[stale], order)]
    bank.write(chosen, run.model.encode(run.features, chosen), step)
    return len(chosen)


# --- the stream ----------------------------------------------------------------------


@dataclass
class Served:
    """What one system did from START on."""

    rows: list[np.ndarray] = field(default_factory=list)  # of the log, a day each
    score: list[np.ndarray] = field(default_factory=list)
    known: list[int] = field(default_factory=list)  # documents in the bank, every day
    steps: int = 0
    encoded: int = 0  # documents, by training and by the policy
    extra: int = 0  # ... by the policy
    probes: list[dict] = field(default_factory=list)
    ages: list[dict] | None = None  # at the end


def until(prepared: Prepared, day: int) -> np.ndarray:
    """Pages whose session begins before this day, in time order."""
    return prepared.pages.between(None, WorldConfig.start + day * DAY)


def serve(prepared: Prepared, run: Run, variant: Variant, days: range) -> Served:
    """Score every day before learning from it: a stream, each sample once."""
    out, pages, size = Served(), prepared.pages, run.config.batch_pages
    log, bank = prepared.dataset.log, getattr(run.model, "bank", None)
    items = torch.from_numpy(log.item[pages.shown(until(prepared, days[0]))])
    shown = torch.bincount(items, minlength=prepared.sizes.documents)
    for day in days:
        index = until(prepared, day + 1)
        today = index[len(until(prepared, day)) :]
        if bank is not None:  # uploads get their vectors at once
            new = np.unique(log.item[pages.shown(today)])
            run.model.eval().publish(run.features, torch.from_numpy(new), run.step)
            out.known.append(int((bank.written > NEVER).sum()))
        rows, score = training.predict(run.model, run.features, pages, today)
        out.rows.append(rows)
        out.score.append(score)
        moves = bank is not None and variant.updates and not run.model.frozen
        if moves and (day - START) % PROBE == PROBE - 1:
            out.probes.append(probe(prepared, run, today, rows, score))
        if variant.updates:
            ready = index[: len(index) // size * size]  # the rest waits for tomorrow
            learn(prepared, run, variant, ready[run.step * size :], shown, out)
    out.ages = ages(bank, shown, run.step) if bank is not None else None
    return out


def learn(
    prepared: Prepared, run: Run, variant: Variant, index, shown: Tensor, out: Served
):
    """One pass over a day's pages, with the policy's encodes after every step."""
    run.model.train()
    config, content = run.config, run.config.has_content and not run.model.frozen
    for batch in prepared.pages.stream(index, config.batch_pages, config.history_long):
        step = run.step
        training.train_step(run, batch)
        shown += count(batch, len(shown))
        if variant.policy != "none":
            out.extra += refresh(run, variant.policy, shown, step)
        out.steps += 1
        if content:
            out.encoded += int((run.model.bank.written == step).sum())


def count(batch: Batch, documents: int) -> Tensor:
    """(N,) impressions of every document in a batch."""
    return torch.bincount(batch.item[batch.mask], minlength=documents)


@torch.no_grad()
def probe(prepared: Prepared, run: Run, index: np.ndarray, rows, score) -> dict:
    """The day's queries once more, from a bank that is encoded anew just for that:
    lists over queries of AUC both ways, and the mean age of the candidates' vectors."""
    bank, log = run.model.bank, prepared.dataset.log
    kept, known = bank.vectors.clone(), torch.nonzero(bank.written > NEVER).squeeze(1)
    for part in known.split(512):
        bank.vectors[part] = run.model.encode(run.features, part)
    _, fresh = training.predict(run.model, run.features, prepared.pages, index)
    bank.vectors.copy_(kept)
    age = (run.step - bank.written[torch.from_numpy(log.item[rows])]).numpy()
    label, qid = log.label[rows], log.qid[rows]
    group = np.unique(qid, return_inverse=True)[1]
    return {
        "age": np.bincount(group, age) / np.bincount(group),
        "stale": query_auc(label, score, qid),
        "fresh": query_auc(label, fresh, qid),
    }


def ages(bank, shown: Tensor, step: int, groups: int = 10) -> list[dict]:
    """Age of vectors (steps, mean) by popularity: tenths of the known documents, the
    least shown first."""
    known = torch.nonzero(bank.written > NEVER).squeeze(1)
    parts = known[torch.argsort(shown[known], stable=True)].tensor_split(groups)
    return [
        {
            "shown": shown[part].float().mean().item(),
            "age": (step - bank.written[part]).float().mean().item(),
        }
        for part in parts
    ]


def by_age(probes: list[dict], groups: int = 4) -> list[dict]:
    """QAUC from the bank as it was and from a fresh one, on the same queries, grouped
    by the mean age of their candidates' vectors."""
    if not probes:
        return []
    age, stale, fresh = (
        np.concatenate([p[key] for p in probes]) for key in ("age", "stale", "fresh")
    )
    usable = np.flatnonzero(np.isfinite(stale))
    parts = np.array_split(usable[np.argsort(age[usable], kind="stable")], groups)
    return [
        {
            "age": float(age[part].mean()),
            "stale": float(stale[part].mean()),
            "fresh": float(fresh[part].mean()),
            "queries": len(part),
        }
        for part in parts
    ]
