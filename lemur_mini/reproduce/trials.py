"""One trial on a log's validation period, kept as a row of a file.

python -m lemur_mini.reproduce trial '{"history_seen": 0}' --why "is it worth its time?"
python -m lemur_mini.reproduce trial '{}' --data FOLDER --name films --model ids

changes what the main command would train (on the platform our form of LEMUR,
`config.OURS`), trains before the validation period and scores it, as `search` does; it
is anything that one wants to try, with its reason. Model `trees` knows one change,
`{"content": false}`: statistics and match alone."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from filelock import SoftFileLock

from lemur_mini import files, pipeline
from lemur_mini.config import BASELINE_CHANGES, CLASSROOM, Config
from lemur_mini.data.loading import Dataset, load, without_queries
from lemur_mini.devices import choose_device
from lemur_mini.preparation import variant, with_dense, with_ours
from lemur_mini.reproduce.search import finished

MODELS = ("lemur", "ids", "trees", "means")


def main(arguments: list[str] | None = None) -> None:
    """Run one trial and add its row to the file, in place of an older one like it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("changes", type=json.loads, help="of Config, as JSON")
    parser.add_argument("--why", default="", help="what the trial asks")
    parser.add_argument("--data", default=str(files.DATA))
    parser.add_argument("--name", default="platform", help="of the data, in results")
    parser.add_argument("--model", choices=MODELS, default="lemur")
    parser.add_argument("--feed", action="store_true", help="drop the queries")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    path = options.out or files.RESULTS / f"trials-{options.name}.json"
    row = trial(options)
    key = ("model", "seed", "changes", "data")
    with SoftFileLock(f"{path}.lock"):  # another trial may end at the same time
        rows = finished(path) if path.is_file() else []
        rows = [r for r in rows if any(r[k] != row[k] for k in key)]
        files.write_json(path, [*rows, row])
    print(f"QAUC {row['qauc']:.4f}, AUC {row['auc']:.4f}, cold {row['cold_auc']:.4f}")


def trial(options: argparse.Namespace) -> dict:
    """Train and score; what was asked, what came out, and what it took."""
    device, dataset = choose_device("auto"), load(options.data)
    dataset = without_queries(dataset) if options.feed else dataset
    changes = {k: tuple(v) if k == "groups" else v for k, v in options.changes.items()}
    network = options.model in ("lemur", "ids")
    config = usual(options, dataset).replace(**changes if network else {})
    prepared = pipeline.prepare(dataset, config, device)
    period, began = (dataset.valid_start, dataset.test_start), time.process_time()
    if options.model == "trees":
        result = pipeline.trees(prepared, *period, **changes)
    elif options.model == "means":
        result = pipeline.smoothed_baseline(prepared, *period)
    else:
        run = pipeline.fit(prepared, config, options.seed, dataset.valid_start)
        result = pipeline.evaluate_period(prepared, run, *period)
        result["train_seconds"] = round(run.seconds)
    used = round(time.process_time() - began)
    given = ("FOLDER" if a == options.data else a for a in sys.argv[1:])
    command = " ".join(["python -m lemur_mini.reproduce trial", *map(repr, given)])
    kept = ("auc", "qauc", "log_loss", "cold_auc", "tail_auc", "train_seconds")
    return {
        "model": options.model,
        "seed": options.seed,
        "changes": options.changes,
        "config": {k: getattr(config, k) for k in ("batch_pages", "sqdc_weight")},
        **{k: result[k] for k in kept if k in result},
        "data": prepared.checksum + (", a feed" if options.feed else ""),
        "cpu_seconds": used,
        "why": options.why,
    } | files.provenance(command, device)


def usual(options: argparse.Namespace, dataset: Dataset) -> Config:
    """What the main command trains on this data."""
    shipped = options.data == str(files.DATA) and not options.feed
    config = with_ours(CLASSROOM) if shipped else with_dense(CLASSROOM)
    if options.model == "ids":
        config = variant(config, BASELINE_CHANGES)
    return pipeline.config_for(config, dataset)
