"""Measures that a log of any length streams in the same memory.

python -m tests.benchmarks.stream_memory --rows 100000000 --out data/results/stream.json

writes logs of a twentieth, a fifth and all of the rows into a temporary folder, one
after the other (100 M rows take half a gigabyte there), and passes each through schema,
pages, histories and batches."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lemur_mini.config import CLASSROOM
from lemur_mini.data.schema import IMPRESSIONS, ITEMS
from lemur_mini.data.streams import PageStream

USERS, DOCUMENTS, QUERIES = 200_000, 20_000, 2_000
PAGES_A_SECOND, LONGEST = 5, 3600  # seconds that a session may last
GROUP = 2**18  # rows of a row group


def write(folder: Path, rows: int, seed: int = 0) -> None:
    """A made log of so many rows: more rows are more days, at the same pace."""
    rng, size = np.random.default_rng(seed), CLASSROOM.page_size
    pq.write_table(pa.table({"item_id": np.arange(DOCUMENTS)}), folder / ITEMS)
    texts, writer = pa.array([f"query {k}" for k in range(QUERIES)]), None
    for first in range(0, rows, GROUP):
        page = np.arange(first, min(first + GROUP, rows)) // size
        head = np.unique(page)  # GROUP is a multiple of the page
        user = (USERS * rng.random(len(head)) ** 2).astype(np.int64)
        query = texts.take(rng.integers(QUERIES, size=len(head)))
        table = pa.table(
            {
                "user_id": user[page - head[0]],
                "query_id": page,
                "query": query.take(page - head[0]),
                "item_id": (DOCUMENTS * rng.random(len(page)) ** 2).astype(np.int64),
                "timestamp": 1_700_000_000 + page // PAGES_A_SECOND,
                "label": (rng.random(len(page)) < 0.4).astype(np.int8),
            }
        )
        writer = writer or pq.ParquetWriter(folder / IMPRESSIONS, table.schema)
        writer.write_table(table)
    writer.close()


def read(folder: Path) -> dict:
    """Stream all batches once; counts, seconds, and memory of this process."""
    before, began = _peak(), time.perf_counter()
    stream = PageStream(folder, CLASSROOM.page_size, CLASSROOM.history_long, LONGEST)
    rows = watched = batches = 0
    for batch in stream.stream(CLASSROOM.batch_pages):
        rows += int(batch.mask.sum())
        watched += int((batch.history >= 0).sum())
        batches += 1
    return {
        "rows": rows,
        "batches": batches,
        "mean_history": round(watched / (batches * CLASSROOM.batch_pages), 1),
        "seconds": round(time.perf_counter() - began, 1),
        "megabytes_before": before,
        "megabytes_peak": _peak(),
        "megabytes_file": round((folder / IMPRESSIONS).stat().st_size / 2**20),
    }


def _peak() -> int:
    import resource  # not on Windows

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # Linux


def measure(rows: int, out: Path) -> None:
    """Each length in a process of its own, so that none sees another's memory."""
    results = []
    for part in (rows // 20, rows // 5, rows):
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), part)
            command = [sys.executable, "-m", __spec__.name, "--read", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        results.append(json.loads(done.stdout))
        print(results[-1], flush=True)
    import torch

    from lemur_mini.files import provenance

    command = f"python -m {__spec__.name} --rows {rows}"
    facts = provenance(command, torch.device("cpu")) | {
        "cores": os.cpu_count(),
        "settings": {"users": USERS, "documents": DOCUMENTS, "longest": LONGEST},
        "runs": results,
    }
    out.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--out", type=Path, default=Path("data/results/stream.json"))
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(options.read)))
    else:
        measure(options.rows, options.out)


if __name__ == "__main__":
    main()
