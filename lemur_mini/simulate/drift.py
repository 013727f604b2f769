"""python -m lemur_mini.simulate: a platform that changes, and who keeps up with it.

run    train on days < d, serve day d, for the second half; one JSON a run, resumable
table  means over seeds, from stored results alone
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from lemur_mini import checkpoints, files, pipeline, training
from lemur_mini.config import BASELINE_CHANGES, CLASSROOM
from lemur_mini.evaluation import qauc
from lemur_mini.files import ROOT, write_json
from lemur_mini.simulate.daily_stream import (
    CHANCE,
    EXTRA,
    START,
    Served,
    Variant,
    by_age,
    serve,
    until,
)
from lemur_mini.training import Run
from lemur_mini.world import Platform
from lemur_mini.world.config import WorldConfig
from lemur_mini.world.export import export
from lemur_mini.world.platform import DAY

RESULTS = ROOT / "data" / "results" / "drift"
FLOOR = 0.3  # of the learning rate, which a system that learns on keeps
SMALL = WorldConfig(users=1500, documents=3000, sessions=24000)
WORLDS = {
    "still": SMALL,
    "drift": dataclasses.replace(
        SMALL, taste_change=0.6, affinity_walk=0.2, late_topics=0.25
    ),
}
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


def open_world(name: str, seed: int, folder: Path, world: WorldConfig | None = None):
    """Generate a platform and prepare it. Tokenizer and texts know nothing of the days
    from START on. Returns Prepared and Platform (its hidden state on the first day)."""
    world, where = world or WORLDS[name], folder / f"{name}-{seed}"
    if not (where / "SHA256SUMS").is_file():
        export(where, world, seed, periods=(START, START))
    prepared = pipeline.prepare(where, CLASSROOM, torch.device("cpu"))
    return prepared, Platform(world, seed)


def first_half(
    prepared: pipeline.Prepared, base: str, seed: int, config, kept: Path
) -> Run:
    """A system trained on the days before START. LEMUR's, from which most variants go
    on, is kept as a checkpoint."""
    config, index = config.replace(**BASES[base]), until(prepared, START)
    model = training.make_model(config, prepared.sizes, seed, torch.device("cpu"))
    steps = len(index) // config.batch_pages
    run = Run(model, prepared.features, seed, steps)
    if config.two_stage:
        pipeline.pretrain(prepared, run, index)
    run.floor = 0.0 if base == "final" else FLOOR
    if base == "lemur" and kept.is_file():
        return checkpoints.resume(kept, run, prepared.fingerprint)
    training.train(run, prepared.pages, index[: steps * config.batch_pages])
    if base == "lemur":
        checkpoints.save(run, kept, prepared.fingerprint)
    return run


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
    """One run as plain numbers."""
    return {
        "variant": name,
        "seed": seed,
        "data": prepared.checksum,
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
        system.model.config = system.config.replace(
            forward_share=variant.share, backward_share=variant.share, sampling_from=1.0
        )
        facts = result(
            prepared, hidden, name, seed, serve(prepared, system, variant, days)
        )
        command = (
            f"python -m lemur_mini.simulate run --worlds {world} --variants {name} "
            f"--seeds {seed}"
        )
        facts |= files.provenance(command, torch.device("cpu"))
        write_json(path, facts, indent=None)
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


def summarise(options: argparse.Namespace) -> None:
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
        prog="python -m lemur_mini.simulate",
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
    {"run": run, "table": summarise}[options.action](options)
