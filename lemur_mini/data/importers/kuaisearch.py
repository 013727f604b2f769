"""KuaiSearch (Kuaishou's shop search), as published, in the public schema.

Queries, sessions and items of a shop, in JSON lines, without pictures. Its owner gives
it out with its paper; layout: the page that it names."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from lemur_mini.data.health import Health
from lemur_mini.data.importers.huggingface import write_log
from lemur_mini.data.importers.published import (
    catalogue,
    change_rate,
    chosen,
    opened,
    timed,
)
from lemur_mini.data.joins import codes

OWNER = "the page that the KuaiSearch paper names"
LOG = {"user_id": "user_id", "session_id": "session_id", "query": "query"}
LOG |= {"item_id": "target_item_id", "timestamp": "time_index"}
ITEMS = {"item_id": "item_id", "title": "item_title", "brand": "brand_name"}
ITEMS |= {"seller": "seller_name", "category": "category_level3_name"}
ITEMS |= {f"category_level{k}": f"category_level{k}_name" for k in (1, 2)}


def from_kuaisearch(
    folder: str | Path, out: str | Path, *, label: str = "is_clicked"
) -> Health:
    """KuaiSearch of a folder: rank*.jsonl (one file, or a folder of them) and
    items*.jsonl.

    label: is_clicked or is_purchased. time_index is an order and no clock: statistics
    take its steps for seconds. A page is one query of a session of a user; query change
    rate goes into dataset.json. The column split is not read: periods go by time.
    Raises DataError."""
    folder = Path(folder)
    log, origin = chosen(opened(folder, "rank", owner=OWNER), LOG | {"label": label})
    items, known = chosen(opened(folder, "items", owner=OWNER), ITEMS)
    items, log, facts = catalogue(items, known, log, origin)
    user, session = codes(log["user_id"]), codes(log["session_id"])
    own = codes(pa.chunked_array([user * (session.max() + 1) + session]))
    page = codes(pa.chunked_array([own * log.num_rows + codes(log["query"])]))
    log = log.set_column(log.column_names.index("session_id"), "session_id", [own])
    log = timed(log.append_column("query_id", [page]), origin)
    facts |= {"label": label, "time": "time_index, an order"}
    facts["query_change_rate"] = change_rate(log)
    name = folder.resolve().name
    return write_log(Path(out), name, (items, known), (log, origin), 0, facts)
