"""Writes the platform's log in the public schema."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lemur_mini.world.config import WorldConfig
from lemur_mini.world.documents import draw_cover, write_text
from lemur_mini.world.platform import DAY, Platform

VALID_DAY, TEST_DAY = 26, 28  # days before them: choices, final training
FILES = ("items.parquet", "impressions.parquet", "dataset.json")


def items_table(platform: Platform, progress=iter) -> pa.Table:
    """One row a document: texts, cover, time of birth. Hidden factors stay hidden."""
    config, documents = platform.config, platform.documents
    rng = np.random.default_rng(platform.seed + 1)
    rows = []
    for i in progress(range(len(documents.topic))):
        text = write_text(documents, i, rng)
        cover = draw_cover(documents, i, text["cover_ocr"], config.cover_size, rng)
        born = config.start + int(documents.born[i] * DAY)
        rows.append({"item_id": i, **text, "image": cover, "created_at": born})
    return pa.Table.from_pylist(rows)


def impressions_table(platform: Platform, progress=iter) -> pa.Table:
    """One row an impression, in time order, with its true probability."""
    log, config = platform.simulate(progress), platform.config
    size = [len(record["item"]) for record in log]  # small worlds run out of documents
    day = np.repeat([record["day"] for record in log], size)
    return pa.table(
        {
            "user_id": np.repeat([record["user"] for record in log], size),
            "query_id": np.repeat(np.arange(len(log)), size),
            "query": np.repeat([record["text"] for record in log], size),
            "item_id": np.concatenate([record["item"] for record in log]),
            "timestamp": config.start + (day * DAY).astype(np.int64),
            "label": np.concatenate([record["label"] for record in log]),
            "probability": np.concatenate([record["p"] for record in log])
            .round(4)
            .astype(np.float32),
        }
    )


def export(
    folder: Path,
    config: WorldConfig | None = None,
    seed: int = 0,
    progress=iter,
    periods: tuple[int, int] = (VALID_DAY, TEST_DAY),
) -> None:
    """Write items.parquet, impressions.parquet, dataset.json and SHA256SUMS. periods:
    the days on which validation and test begin."""
    config = config or WorldConfig()
    platform = Platform(config, seed)
    folder.mkdir(parents=True, exist_ok=True)
    tables = (
        items_table(platform, progress),
        impressions_table(platform, progress),
    )
    for name, table in zip(FILES, tables, strict=False):
        pq.write_table(table, folder / name, compression="zstd", compression_level=15)
    facts = {
        "name": "lemur_mini search platform",
        "seed": seed,
        "valid_start": config.start + periods[0] * DAY,
        "test_start": config.start + periods[1] * DAY,
    }
    (folder / FILES[2]).write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    sums = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in FILES
    ]
    (folder / "SHA256SUMS").write_text("".join(sums), "utf-8")
