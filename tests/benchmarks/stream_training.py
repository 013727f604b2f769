"""Measures that training on a log of any length takes the same memory.

python -m tests.benchmarks.stream_training --rows 10000000

writes a log as daily partitions into a temporary folder, trains a very small model of
ids (BASELINE) through the first of them (`continuing.begin`) and through the others by
going on, as on the next days (`continuing.go_on`), and adds memory over time to
data/results/stream.json under `training`; with --numbers the model reads statistics
and match as well, and the key is `training_numbers`."""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lemur_mini import continuing, training
from lemur_mini.config import BASELINE, Config
from lemur_mini.data.schema import IMPRESSIONS, ITEMS
from lemur_mini.files import RESULTS, provenance, write_json

USERS, DOCUMENTS, QUERIES = 50_000, 20_000, 2_000
DAYS, PART = 20, 4  # days of the log, days that are learnt at once
PAGES_A_SECOND, LONGEST, SLOTS = 5, 600, 4096
TINY = Config(
    scale="tiny",
    groups=BASELINE,
    width=8,
    hidden=8,
    heads=1,
    query_layers=1,
    document_layers=1,
    field_tokens=(("query", 4), ("title", 6)),
    vocabulary=500,
    image_size=16,
    patch=16,
    history_long=16,
    history_short=4,
    id_width=8,
    token_width=8,
    ranker_layers=1,
    longer_recent=2,
    mlp=(8,),
    page_size=16,
    batch_pages=512,
    checkpoint_every=100,
)


def write(folder: Path, rows: int, seed: int = 0) -> list[Path]:
    """Days of a made log, each a folder `date=.../`, and one catalogue."""
    rng = np.random.default_rng(seed)
    day = rows // DAYS // TINY.page_size * TINY.page_size
    titles = [f"title {k % 97} {k % 89}" for k in range(DOCUMENTS)]
    items = {"item_id": np.arange(DOCUMENTS), "title": titles}
    pq.write_table(pa.table(items), folder / ITEMS)
    words = pa.array([f"query {k}" for k in range(QUERIES)])
    taste, worth = rng.normal(size=USERS), rng.normal(size=DOCUMENTS)
    folders = []
    for number in range(DAYS):
        page = np.arange(number * day, (number + 1) * day) // TINY.page_size
        owner = (USERS * rng.random(int(page[-1] - page[0]) + 1) ** 2).astype(np.int64)
        user = owner[page - page[0]]
        item = (DOCUMENTS * rng.random(day) ** 2).astype(np.int64)
        chance = 1 / (1 + np.exp(1 - taste[user] - worth[item]))
        log = {
            "user_id": user,
            "query_id": page,
            "query": words.take(pa.array(page % QUERIES)),
            "item_id": item,
            "timestamp": 1_700_000_000 + page // PAGES_A_SECOND,
            "label": (rng.random(day) < chance).astype(np.int8),
        }
        folders.append(folder / f"date=2026-11-{number + 1:02}")
        folders[-1].mkdir()
        pq.write_table(pa.table(log), folders[-1] / IMPRESSIONS)
    return folders


class Watch:
    """Memory of this process, again and again: own pages, and those of mapped files."""

    def __init__(self, every: float):
        self.every, self.samples, self.rows = every, [], 0
        self.began, self.over = time.perf_counter(), threading.Event()
        self.thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        self.thread.join()

    def _look(self) -> None:
        while not self.over.wait(self.every):
            said = Path("/proc/self/status").read_text().splitlines()
            size = dict(line.split(":", 1) for line in said)
            sample = {"seconds": round(time.perf_counter() - self.began)}
            sample["impressions"] = self.rows
            for name, kind in (("own", "RssAnon"), ("mapped", "RssFile")):
                sample[f"{name}_megabytes"] = round(int(size[kind].split()[0]) / 1024)
            self.samples.append(sample)


def measure(rows: int, every: float, keep, config: Config = TINY) -> None:
    """Train through it; `keep` what was seen, in what time, with what memory, after
    every part."""
    step, cpu = training.train_step, torch.device("cpu")
    with tempfile.TemporaryDirectory() as name, Watch(every) as watch:
        folder, out = Path(name) / "days", Path(name) / "run"
        folder.mkdir()
        days = write(folder, rows)

        def counting(run, batch):
            watch.rows += int(batch.mask.sum())
            return step(run, batch)

        training.train_step = counting
        settings = {"slots": SLOTS, "longest": LONGEST}
        for low in range(0, DAYS, PART):
            part = tables(folder, days[low : low + PART])
            if low:
                run = continuing.go_on(out, part, cpu, **settings)
            else:
                run = continuing.begin(part, config, 0, cpu, out, **settings)
            keep(result(run, watch, low // PART + 1))


def result(run, watch: Watch, parts: int) -> dict:
    """What is known after so many parts."""
    losses = [record["ctr"] for record in run.log]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tenth = max(len(losses) // 10, 1)
    return {
        "impressions": watch.rows,
        "steps": run.step,
        "parts": parts,
        "processor_seconds": round(time.process_time()),
        "loss_first_tenth": round(float(np.mean(losses[:tenth])), 4),
        "loss_last_tenth": round(float(np.mean(losses[-tenth:])), 4),
        "peak_megabytes": round(peak / 1024),
        "samples": list(watch.samples),
    }


def tables(folder: Path, days: list[Path]) -> tuple:
    """Items and impressions as a stream takes them."""
    return [folder / ITEMS], [day / IMPRESSIONS for day in days]


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--every", type=float, default=10.0, help="seconds")
    parser.add_argument("--numbers", action="store_true", help="statistics and match")
    parser.add_argument("--out", type=Path, default=RESULTS / "stream.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    command = f"python -m {__spec__.name} --rows {options.rows}"
    name, config = "training", TINY
    if options.numbers:
        command, name = f"{command} --numbers", "training_numbers"
        config = TINY.replace(groups=(*TINY.groups, "statistics", "match"))
    sizes = {"users": USERS, "documents": DOCUMENTS, "days": DAYS}
    facts = provenance(command, torch.device("cpu")) | {
        "cores": os.cpu_count(),
        "settings": sizes | {"width": TINY.id_width, "history": TINY.history_long},
    }

    def keep(found: dict) -> None:
        stored = json.loads(options.out.read_text("utf-8"))
        write_json(options.out, stored | {name: facts | found})
        print({k: v for k, v in found.items() if k != "samples"}, flush=True)

    measure(options.rows, options.every, keep, config)


if __name__ == "__main__":
    main()
