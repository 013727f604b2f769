"""From a log of any kind to the public schema: labels, sessions, files, a report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lemur_mini.data.health import Health, health
from lemur_mini.data.importers.negatives import add_negatives
from lemur_mini.data.loading import ABOUT, default_periods
from lemur_mini.data.schema import (
    IMPRESSIONS,
    ITEMS,
    LOGGED,
    DataError,
    codes,
    require,
    seconds,
)

HOUR = 3600  # seconds without an impression end a session, unless told otherwise
READERS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}


def from_huggingface(
    source,
    out: str | Path,
    columns: Mapping[str, str],
    *,
    items=None,
    split: str = "train",
    threshold: float | None = None,
    negatives: int = 0,
    seed: int = 0,
    gap: int = HOUR,
) -> Health:
    """Any table of `datasets`: a Dataset, a hub id, or a parquet, CSV or JSON file.

    columns: names of the schema -> names of the table, such as {"user_id": "uid"}.
    user_id, item_id and timestamp are needed. Without label every row is a positive,
    and `negatives` for each are needed; `threshold` makes labels of ratings. Without
    session_id (or query_id, where there is a query) impressions of a user at most
    `gap` seconds apart make one. All other names describe items: they are taken from
    `items` (a table like `source`, in which item_id is found by the same mapping), or
    from the first row of each item. Raises DataError."""
    table = _open(source, split, [columns[n] for n in LOGGED if n in columns])
    for name in ("user_id", "item_id", "timestamp"):
        if name not in columns:
            raise DataError(f"columns: {name} is missing; say which column holds it")
    log = {name: table[columns[name]] for name in LOGGED if name in columns}
    if "label" not in columns:
        log["label"] = label_of(log["user_id"], None)
    elif threshold is not None:
        log["label"] = label_of(log["label"], threshold)
    catalogue = _catalogue(table, items, split, columns)
    rule = "as given" if threshold is None else f">= {threshold:g}"
    facts = {"label": rule if "label" in columns else "every row"}
    facts |= {"session_gap": gap}
    name, log = Path(out).resolve().name, pa.table(log)
    return write_log(Path(out), name, catalogue, log, gap, facts, negatives, seed)


def _catalogue(table: pa.Table, items, split: str, columns: Mapping) -> pa.Table:
    """The items: a table of their own, or the first row of each in the log."""
    fields = {k: v for k, v in columns.items() if k not in LOGGED or k == "item_id"}
    about = _open(table if items is None else items, split, list(fields.values()))
    found = pa.table({name: about[column] for name, column in fields.items()})
    if items is not None:
        return found
    return found.take(np.unique(codes(found["item_id"]), return_index=True)[1])


def _open(source, split: str, columns: list[str]) -> pa.Table:
    """The table, which must have these columns."""
    import datasets

    try:
        if isinstance(source, str | Path) and Path(source).is_file():
            kind = READERS[Path(source).suffix.lower()]
            source = getattr(datasets.Dataset, f"from_{kind}")(str(source))
        elif not isinstance(source, datasets.Dataset | pa.Table):
            source = datasets.load_dataset(str(source), split=split)
    except Exception as error:  # the reader wraps its causes in types of its own
        cause = " ".join(str(error.__cause__ or error).split())
        remedy = "give a Dataset, a parquet, CSV or JSON file, or a hub id when online"
        raise DataError(f"{source}: cannot be read ({cause}); {remedy}") from error
    names = source.column_names
    for column in columns:
        if column not in names:
            there = ", ".join(names)
            raise DataError(f"the table has no column {column}; it has {there}")
    return source if isinstance(source, pa.Table) else source.with_format("arrow")[:]


def label_of(rating, threshold: float | None) -> pa.Array:
    """1 for a rating of `threshold` or more, else 0; all 1 without a threshold."""
    if threshold is None:
        return pa.array(np.ones(len(rating), np.int8))
    return pc.cast(pc.greater_equal(rating, threshold), pa.int8())


def _with_sessions(log: pa.Table, gap: int) -> pa.Table:
    name = "query_id" if "query" in log.column_names else "session_id"
    if {name, "query_id"} & set(log.column_names):
        return log
    key = codes(log["user_id"])
    if "query" in log.column_names:
        key = key * log.num_rows + codes(log["query"])
    number = sessions(key, seconds(log["timestamp"]).to_numpy(), gap)
    return log.append_column(name, pa.array(number))


def sessions(key: np.ndarray, time: np.ndarray, gap: int) -> np.ndarray:
    """(I,) numbers of sessions: rows of one key, each at most `gap` seconds after the
    one before. time: (I,) unix seconds in order."""
    order = np.argsort(key, kind="stable")
    new = np.diff(key[order], prepend=-1) != 0
    new |= np.diff(time[order], prepend=time[:1]) > gap
    number = np.empty(len(key), np.int64)
    number[order] = np.cumsum(new) - 1
    return number


def write_log(
    out: Path,
    name: str,
    items: pa.Table,
    log: pa.Table,
    gap: int,
    facts: dict,
    negatives: int = 0,
    seed: int = 0,
) -> Health:
    """Sort by time (stably), add sessions and negatives where they lack, check, write
    the data set, print its health and return it. `facts` go into dataset.json."""
    require(log, IMPRESSIONS, ["user_id", "item_id", "timestamp", "label"])
    order = pc.sort_indices(log, [("timestamp", "ascending")])  # a stable sort
    log = _with_sessions(log.take(order), gap)
    if negatives:
        log = add_negatives(log, items, negatives, seed=seed)
        facts = facts | {"negatives": {"per_positive": negatives, "seed": seed}}
    report = health((items, log), name)  # raises before anything is written
    valid, test = default_periods(seconds(log["timestamp"]).to_numpy())
    facts = {"name": name, "valid_start": valid, "test_start": test} | facts
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(items, out / ITEMS)
    pq.write_table(log, out / IMPRESSIONS, row_group_size=2**18)
    (out / ABOUT).write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    print(report)
    return report
