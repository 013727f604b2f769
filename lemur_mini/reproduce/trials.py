"""One trial of LEMUR on the platform's validation days, kept as a row of a file.

python -m lemur_mini.reproduce trial '{"renew": 0}' --why "is renewing worth it?"

changes our form of LEMUR (`config.OURS`), trains before the validation days and
scores them, as `search` does; it is anything that one wants to try, with its reason."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from lemur_mini import files, pipeline
from lemur_mini.config import CLASSROOM, OURS
from lemur_mini.devices import choose_device
from lemur_mini.reproduce.search import finished

RESULT = files.RESULTS / "trials-platform.json"


def main(arguments: list[str] | None = None) -> None:
    """Run one trial and add its row to the file, in place of an older one like it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("changes", type=json.loads, help="of Config, as JSON")
    parser.add_argument("--why", default="", help="what the trial asks")
    parser.add_argument("--data", default=str(files.DATA))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    row = trial(options)
    key = ("model", "seed", "changes", "data")
    rows = finished(options.out) if options.out.is_file() else []
    rows = [r for r in rows if any(r[k] != row[k] for k in key)]
    files.write_json(options.out, [*rows, row])
    print(f"QAUC {row['qauc']:.4f}, AUC {row['auc']:.4f}, cold {row['cold_auc']:.4f}")


def trial(options: argparse.Namespace) -> dict:
    """Train and score; what was asked, what came out, and what it took."""
    device, config = choose_device("auto"), CLASSROOM
    config = config.replace(**OURS | options.changes)
    prepared = pipeline.prepare(options.data, config, device)
    dataset, began = prepared.dataset, time.process_time()
    run = pipeline.fit(prepared, config, options.seed, dataset.valid_start)
    used = round(time.process_time() - began)
    period = dataset.valid_start, dataset.test_start
    result = pipeline.evaluate_period(prepared, run, *period)
    command = " ".join(
        ["python -m lemur_mini.reproduce trial", *map(repr, sys.argv[1:])]
    )
    return {
        "model": "lemur",
        "seed": options.seed,
        "changes": options.changes,
        "config": {k: getattr(config, k) for k in ("batch_pages", "renew")},
        **{k: result[k] for k in ("auc", "qauc", "log_loss", "cold_auc")},
        "data": prepared.checksum,
        "train_seconds": round(run.seconds),
        "cpu_seconds": used,
        "why": options.why,
    } | files.provenance(command, device)
