"""python -m tests.benchmarks.latency: what a page waits for its ranking, by batch."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch

from lemur_mini import files, pipeline
from lemur_mini.config import CLASSROOM
from lemur_mini.devices import choose_device
from lemur_mini.files import ROOT, write_json
from lemur_mini.serving.ranker import Ranker, Request

PATH = ROOT / "data" / "results" / "latency.json"
BATCHES = (1, 2, 4, 8, 16, 32, 64)  # pages


def requests(ranker: Ranker, count: int, shown: int, seed: int) -> list[Request]:
    """Random users, queries of the log and candidates, `shown` of them each."""
    rng, dataset = np.random.default_rng(seed), ranker.prepared.dataset
    users = rng.choice(dataset.users, count).tolist()
    texts = [
        dataset.queries[row] for row in rng.integers(len(dataset.queries), size=count)
    ]
    items = rng.integers(ranker.prepared.sizes.documents, size=(count, shown))
    return list(zip(users, texts, items, strict=True))


def latency(
    ranker: Ranker, batch: int, shown: int = 24, repeats: int = 200, seed: int = 0
) -> dict:
    """Milliseconds from a batch of requests to their rankings, tokenizer and histories
    included: median and 99th percentile. On a GPU, until the answer is on the CPU."""
    taken = []
    for k in range(repeats + 3):
        asked = requests(ranker, batch, shown, (seed, k))
        began = time.perf_counter()
        ranker.rank_many(asked)
        taken.append(1000 * (time.perf_counter() - began))
    p50, p99 = np.percentile(taken[3:], [50, 99])  # the first ones warm up
    return {"batch": batch, "p50": round(float(p50), 2), "p99": round(float(p99), 2)}


def main(arguments: list[str] | None = None) -> None:
    """Measure and write data/results/latency.json."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.latency", description=__doc__
    )
    add = parser.add_argument
    add("--data", default=str(ROOT / "data"))
    add("--checkpoint", type=Path, default=ROOT / "data/models/lemur.safetensors")
    add("--threads", type=int, default=2)
    add("--repeats", type=int, default=200)
    add("--device", default="cpu")
    add("--out", type=Path, default=PATH)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    config = CLASSROOM
    ranker = Ranker.load(
        options.checkpoint, pipeline.prepare(options.data, config, device)
    )
    rows = [latency(ranker, batch, repeats=options.repeats) for batch in BATCHES]
    facts = {
        "rows": rows,  # milliseconds a batch
        "candidates": 24,
        "repeats": options.repeats,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "cores": os.cpu_count(),
    } | files.provenance(
        f"python -m tests.benchmarks.latency --threads {options.threads}", device
    )
    write_json(options.out, facts)


if __name__ == "__main__":
    main()
