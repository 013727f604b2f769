"""python -m lemur_mini.drift: a platform that changes, and who keeps up with it.

run    train on days < d, serve day d, for the second half; one JSON a run, resumable
table  means over seeds, from stored results alone
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lemur_mini import checkpoints, pipeline, training
from lemur_mini.checkpoints import write_text_atomically
from lemur_mini.config import BASELINE_CHANGES, CLASSROOM, WorldConfig
from lemur_mini.data.pages import Batch
from lemur_mini.evaluation import qauc, query_auc
from lemur_mini.memory_bank import NEVER
from lemur_mini.readme import ROOT
from lemur_mini.training import Run
from lemur_mini.world import Platform
from lemur_mini.world.export import export
from lemur_mini.world.platform import DAY

RESULTS = ROOT / "data" / "results" / "drift"
START = 15  # the first day that is served and scored
FLOOR = 0.3  # of the learning rate, which a system that learns on keeps
EXTRA = 32  # documents that a refresh policy encodes again after every step
CHANCE = 0.1  # ... of the popular ones: so many documents are popular that it is EXTRA
PROBE = 3  # days between two looks at what stale vectors cost
SMALL = WorldConfig(users=1500, documents=3000, sessions=24000)
WORLDS = {
    "still": SMALL,
    "drift": dataclasses.replace(
        SMALL, taste_change=0.6, affinity_walk=0.2, late_topics=0.25
    ),
}


@dataclass(frozen=True)
class Variant:
    """How a system begins, and how it goes on from day START."""

    base: str = "lemur"  # or two_stage, ids, final: LEMUR whose rate decays to zero
    updates: bool = True
    share: float = 1.0  # p and q, from START on
    policy: str = "none"


VARIANTS = {
    "daily": Variant(),
    "two_stage": Variant("two_stage"),
    "never": Variant("final", updates=False),
    "ids": Variant("ids"),
    "sampled": Variant(share=0.2),
    "oldest": Variant(share=0.2, policy="oldest"),
    "popular": Variant(share=0.2, policy="popular"),
    "random": Variant(share=0.2, policy="random"),
}
BASES = {
    "lemur": {},
    "final": {},
    "two_stage": {"two_stage": 1},
    "ids": BASELINE_CHANGES,
}


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


# --- one run --------------------------------------------------------------------------


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


def open_world(name: str, seed: int, folder: Path, world: WorldConfig | None = None):
    """Generate a platform and prepare it. Tokenizer and texts know nothing of the days
    from START on. Returns Prepared and Platform (its hidden state on the first day)."""
    world, where = world or WORLDS[name], folder / f"{name}-{seed}"
    if not (where / "SHA256SUMS").is_file():
        export(where, world, seed, periods=(START, START))
    prepared = pipeline.prepare(where, CLASSROOM, torch.device("cpu"))
    return prepared, Platform(world, seed)


def until(prepared: pipeline.Prepared, day: int) -> np.ndarray:
    """Pages whose session begins before this day, in time order."""
    return prepared.pages.between(None, WorldConfig.start + day * DAY)


def first_half(
    prepared: pipeline.Prepared, base: str, seed: int, config, kept: Path
) -> Run:
    """A system trained on the days before START. LEMUR's, from which most variants go
    on, is kept as a checkpoint."""
    config, index = config.but(**BASES[base]), until(prepared, START)
    model = training.make_model(config, prepared.sizes, seed, torch.device("cpu"))
    steps = len(index) // config.pages
    run = Run(model, prepared.features, seed, steps)
    if config.two_stage:
        pipeline.pretrain(prepared, run, index)
    run.floor = 0.0 if base == "final" else FLOOR
    if base == "lemur" and kept.is_file():
        return checkpoints.resume(kept, run, prepared.checksum)
    training.train(run, prepared.pages, index[: steps * config.pages])
    if base == "lemur":
        checkpoints.save(run, kept, prepared.checksum)
    return run


def serve(
    prepared: pipeline.Prepared, run: Run, variant: Variant, days: range
) -> Served:
    """Score every day before learning from it: a stream, each sample once."""
    out, pages, size = Served(), prepared.pages, run.config.pages
    log, bank = prepared.dataset.log, getattr(run.model, "bank", None)
    past = pages.rows[until(prepared, days[0])]
    items = torch.from_numpy(log.item[past[past >= 0]])
    shown = torch.bincount(items, minlength=prepared.sizes.documents)
    for day in days:
        index = until(prepared, day + 1)
        today = index[len(until(prepared, day)) :]
        if bank is not None:  # uploads get their vectors at once
            new = np.unique(log.item[pages.rows[today][pages.rows[today] >= 0]])
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


def learn(prepared, run: Run, variant: Variant, index, shown: Tensor, out: Served):
    """One pass over a day's pages, with the policy's encodes after every step."""
    run.model.train()
    config, content = run.config, run.config.has_content and not run.model.frozen
    for batch in prepared.pages.stream(index, config.pages, config.history_long):
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
def probe(prepared, run: Run, index: np.ndarray, rows, score) -> dict:
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


# --- results --------------------------------------------------------------------------


def slices(prepared, hidden: Platform, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Masks over rows of the log: all; users whose tastes have changed since START;
    queries that show mostly topics which appeared since the platform began."""
    log = prepared.dataset.log
    day = (log.timestamp[rows] - WorldConfig.start) / DAY
    change = hidden.drift.change[prepared.dataset.users[log.user[rows]]]
    late = hidden.drift.since[hidden.documents.topic[log.item[rows]]] > 0
    group = np.unique(log.qid[rows], return_inverse=True)[1]
    share = np.bincount(group, late) / np.bincount(group)
    return {
        "all": np.ones(len(rows), bool),
        "moved": (change > START) & (change < day),
        "new_topic": share[group] > 0.5,
    }


def per_day(prepared, hidden: Platform, served: Served, score: list | None) -> dict:
    """QAUC of every served day, by slice; of the truth where `score` is None."""
    log, out = prepared.dataset.log, {}
    for k, rows in enumerate(served.rows):
        value = prepared.dataset.truth[rows] if score is None else score[k]
        for name, mask in slices(prepared, hidden, rows).items():
            part = rows[mask]
            each = qauc(log.label[part], value[mask], log.qid[part])
            each = None if np.isnan(each) else round(each, 5)
            out.setdefault(name, []).append([each, len(np.unique(log.qid[part]))])
    return out


def result(prepared, hidden: Platform, name: str, seed: int, served: Served) -> dict:
    """One run as plain numbers, with where they came from."""
    return {
        "variant": name,
        "seed": seed,
        "data": prepared.checksum,
        "date": datetime.date.today().isoformat(),
        "device": pipeline.device_name(torch.device("cpu")),
        "versions": pipeline.versions(),
        "world": dataclasses.asdict(hidden.config),
        "settings": {"start": START, "floor": FLOOR, "extra": EXTRA, "chance": CHANCE}
        | dataclasses.asdict(VARIANTS[name]),
        "days": [START + k for k in range(len(served.rows))],
        "qauc": per_day(prepared, hidden, served, served.score),  # [QAUC, queries]
        "ceiling": per_day(prepared, hidden, served, None),
        "documents_known": served.known,
        "steps": served.steps,
        "encoded": served.encoded,
        "extra": served.extra,
        "ages": served.ages,
        "by_age": by_age(served.probes),
    }


def run(options: argparse.Namespace) -> None:
    """Do all runs of these worlds, seeds and variants that have no result yet."""
    torch.set_num_threads(1)
    for world in options.worlds:
        for seed in options.seeds:
            paths = {
                name: options.results / f"{world}-{name}-seed{seed}.json"
                for name in options.variants
            }
            todo = {name: path for name, path in paths.items() if not path.is_file()}
            if todo:
                _one_world(options, world, seed, todo)


def _one_world(options, world: str, seed: int, todo: dict[str, Path]) -> None:
    prepared, hidden = open_world(world, seed, options.folder)
    days = range(START, hidden.config.days)
    for name, path in todo.items():
        variant = VARIANTS[name]
        kept = prepared.dataset.folder / "first_half.safetensors"
        system = first_half(prepared, variant.base, seed, CLASSROOM, kept)
        system.model.config = system.config.but(
            forward_share=variant.share, backward_share=variant.share, sampling_from=1.0
        )
        facts = result(
            prepared, hidden, name, seed, serve(prepared, system, variant, days)
        )
        facts["command"] = (
            f"python -m lemur_mini.drift run --worlds {world} --variants {name} "
            f"--seeds {seed}"
        )
        write_text_atomically(path, json.dumps(facts, separators=(",", ":")) + "\n")
        print(f"{mean_qauc(facts):.4f} {path.stem}", flush=True)


def mean_qauc(facts: dict, part: str = "all", curve: str = "qauc") -> float:
    """Mean QAUC over the served days, every query counted once."""
    pairs = [pair for pair in facts[curve][part] if pair[0] is not None]
    value, weight = np.array(pairs, dtype=float).T if pairs else (np.array([]),) * 2
    return float(np.average(value, weights=weight)) if len(pairs) else float("nan")


def stored(folder: Path = RESULTS) -> dict[tuple[str, str], list[dict]]:
    """Results by world and variant, a list over seeds."""
    out: dict[tuple[str, str], list[dict]] = {}
    for path in sorted(folder.glob("*-seed*.json")):
        world, name = path.stem.rsplit("-seed", 1)[0].split("-")
        out.setdefault((world, name), []).append(json.loads(path.read_text("utf-8")))
    return out


def table(options: argparse.Namespace) -> None:
    """Print means over seeds for every world and variant."""
    print("world variant   all    moved  new topics  encodes/step  seeds")
    for (world, name), runs in stored(options.results).items():
        means = [
            float(np.mean([mean_qauc(facts, part) for facts in runs]))
            for part in ("all", "moved", "new_topic")
        ]
        each = np.mean([facts["encoded"] / max(1, facts["steps"]) for facts in runs])
        values = "  ".join(f"{value:.4f}" for value in means)
        print(f"{world} {name:10s} {values}  {each:10.1f}  {len(runs)}")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m lemur_mini.drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("action", choices=["run", "table"])
    add("--worlds", nargs="+", choices=WORLDS, default=["drift"])
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--results", type=Path, default=RESULTS)
    add("--folder", type=Path, default=Path(tempfile.gettempdir()) / "lemur_mini_drift")
    options = parser.parse_args(arguments)
    {"run": run, "table": table}[options.action](options)


if __name__ == "__main__":
    main()
