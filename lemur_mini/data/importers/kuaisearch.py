"""KuaiSearch (Kuaishou's shop search), as published, in the public schema.

Queries, sessions and items of a shop, in JSON lines, without pictures. Its owner gives
it out with its paper (arXiv 2602.11518); layout: the sample beside it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from lemur_mini.data.health import Health
from lemur_mini.data.importers.huggingface import write_log
from lemur_mini.data.importers.published import (
    catalogue,
    change_rate,
    chosen,
    left_out,
    opened,
    timed,
)
from lemur_mini.data.joins import codes

OWNER = "github.com/benchen4395/KuaiSearch"
LOG = {"user_id": "user_id", "session_id": "session_id", "query": "query"}
LOG |= {"item_id": "target_item_id", "timestamp": "time_index"}
SEEN = {"context_entrance": "search_entrance", "user_fans": "user_fan_number"}
SEEN |= {"user_follows": "user_follow_number"}  # of the impression, where they are
COUNTED = "the owner's counts of 30 days; those of `statistics` are made from the log"
COUNTERS = dict.fromkeys(
    ("user_statistical_features", "target_item_statistical_features"), COUNTED
)
ITEMS = {"item_id": "item_id", "title": "item_title", "brand": "brand_name"}
ITEMS |= {"seller": "seller_name", "category": "category_level3_name"}
ITEMS |= {f"category_level{k}": f"category_level{k}_name" for k in (1, 2)}


def from_kuaisearch(
    folder: str | Path, out: str | Path, *, label: str = "is_clicked"
) -> Health:
    """KuaiSearch of a folder: rank.jsonl and items.jsonl, each a file or a folder of
    parts.

    label: is_clicked or is_purchased. time_index is an order and no clock: statistics
    take its steps for seconds. A page is one query of a session of a user; query change
    rate goes into dataset.json. The column split is not read: periods go by time.
    Raises DataError."""
    folder = Path(folder)
    rank = opened(folder, "rank", owner=OWNER)
    seen = {k: v for k, v in SEEN.items() if v in rank.table.column_names}
    log, origin = chosen(rank, LOG | {"label": label} | seen)
    items, known = chosen(opened(folder, "items", owner=OWNER), ITEMS)
    items, log, facts = catalogue(items, known, log, origin)
    user, session = codes(log["user_id"]), codes(log["session_id"])
    own = codes(pa.chunked_array([user * (session.max() + 1) + session]))
    page = codes(pa.chunked_array([own * log.num_rows + codes(log["query"])]))
    log = log.set_column(log.column_names.index("session_id"), "session_id", [own])
    log = timed(log.append_column("query_id", [page]), origin)
    facts |= {"label": label, "time": "time_index, an order"}
    facts["refused"] = left_out(rank, COUNTERS)
    facts["query_change_rate"] = change_rate(log)
    name = folder.resolve().name
    return write_log(Path(out), name, (items, known), (log, origin), 0, facts)
