"""From a log of any kind to the public schema: labels, sessions, files, a report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lemur_mini.data.columns import is_text, number
from lemur_mini.data.errors import DataError, Origin, first, refusal
from lemur_mini.data.folders import ABOUT
from lemur_mini.data.health import Health, health
from lemur_mini.data.importers.negatives import add_negatives
from lemur_mini.data.joins import codes
from lemur_mini.data.loading import LINKS, default_periods
from lemur_mini.data.schema import (
    IMPRESSIONS,
    ITEMS,
    LOGGED,
    item_columns,
    read_items,
    read_log,
    require,
    ungrouped,
)
from lemur_mini.data.tables import Source, read
from lemur_mini.data.times import seconds, ticks
from lemur_mini.files import FileError, write_atomically, write_text_atomically

HOUR = 3600  # seconds without an impression end a session, unless told otherwise


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
    time_unit: str | None = None,
) -> Health:
    """Any table: a Dataset or a DatasetDict of `datasets`, a hub id, a DataFrame, an
    Arrow table, a list of dicts, a parquet, CSV or JSON file, a folder of them.

    columns: names of the schema -> names of the table, such as {"user_id": "uid"}.
    user_id, item_id and timestamp are needed. Without label every row is a positive,
    and `negatives` for each are needed; `threshold` makes labels of ratings. Without
    session_id (or query_id, where there is a query) impressions of a user at most
    `gap` seconds apart make one. time_unit: of times that are bare numbers, "s", "ms",
    "us" or "ns". All other names describe items: they are taken from `items` (a table
    like `source`, in which item_id is found by the same mapping), or from the first row
    of each item. Paths of pictures count from the table's folder. Raises DataError."""
    for name in ("user_id", "item_id", "timestamp"):
        if name not in columns:
            raise DataError(f"columns: {name} is missing; say which column holds it")
    found = read(source, split)
    origin = Origin(found.name, dict(columns), found.untyped)
    log = renamed(found, {n: columns[n] for n in LOGGED if n in columns})
    log = require(log, origin, log.column_names)
    if "label" not in columns:
        ones = pa.array(np.ones(log.num_rows, np.int8))
        log = log.append_column("label", ones)
    elif threshold is not None:
        label = label_of(log["label"], threshold, origin)
        log = log.set_column(log.column_names.index("label"), "label", label)
    about = found if items is None else read(items, split)
    known = Origin(about.name, dict(columns), about.untyped)
    catalogue = _catalogue(about, known, columns, items is None, time_unit)
    rule = "as given" if threshold is None else f">= {threshold:g}"
    facts = {"label": rule if "label" in columns else "every row"}
    return write_log(
        Path(out),
        Path(out).resolve().name,
        (catalogue, known),
        (log, origin),
        gap,
        facts,
        negatives=negatives,
        seed=seed,
        unit=time_unit,
    )


def _catalogue(
    source: Source, origin: Origin, columns: Mapping, first_rows: bool, unit
) -> pa.Table:
    """The items: a table of their own, or the first row of each in the log."""
    fields = {k: v for k, v in columns.items() if k not in LOGGED or k == "item_id"}
    found = item_columns(renamed(source, fields), origin, unit)
    if "image" in found.column_names:
        found = _placed(found, (source.folder or Path()).resolve())
    if not first_rows:
        return found
    return found.take(np.unique(codes(found["item_id"]), return_index=True)[1])


def renamed(source: Source, names: Mapping[str, str]) -> pa.Table:
    """These columns of the table, under the names of the schema."""
    table = source.table
    for column in names.values():
        if column not in table.column_names:
            there = ", ".join(table.column_names) or "none"
            problem = f"{source.name}: the table has no column {column}; it has {there}"
            raise DataError(" ".join(problem.split()))
        if table.column_names.count(column) > 1:
            problem = f"{source.name}, column {column}: stands twice"
            raise DataError(f"{problem}; give each column its own name")
    return pa.table({name: table[column] for name, column in names.items()})


def _placed(items: pa.Table, folder: Path) -> pa.Table:
    """Paths of pictures that count from the folder of the file that names them."""

    def place(path: str | None) -> str | None:
        return path and (path if path.startswith(LINKS) else str(folder / path))

    values, index = items["image"], items.column_names.index("image")
    if is_text(values.type):
        paths = [place(path) for path in values.to_pylist()]
        return items.set_column(index, "image", pa.array(paths, pa.large_string()))
    if not pa.types.is_struct(values.type):
        return items
    raw, path = (pc.struct_field(values, name) for name in ("bytes", "path"))
    paths = pa.array([place(p) for p in path.to_pylist()], pa.large_string())
    both = pa.StructArray.from_arrays([raw.combine_chunks(), paths], ["bytes", "path"])
    return items.set_column(index, "image", both)


def label_of(ratings, threshold: float | None, origin: Origin) -> pa.Array:
    """1 for a rating of `threshold` or more, else 0; all 1 without a threshold. Raises
    DataError for a rating that is missing or NaN."""
    if threshold is None:
        return pa.array(np.ones(len(ratings), np.int8))
    if threshold != threshold:
        raise DataError("threshold: NaN is no number; give one, or None")
    if isinstance(ratings, pa.Array):
        ratings = pa.chunked_array([ratings])
    values = number(ratings, refusal(origin, "label"), origin.untyped)
    if (row := first(pc.is_null(values, nan_is_null=True))) >= 0:
        origin.fail("label", row, "is empty or NaN", "fill it or drop the row")
    return pc.cast(pc.greater_equal(values, threshold), pa.int8())


def _with_sessions(log: pa.Table, gap: int) -> pa.Table:
    name = "query_id" if "query" in log.column_names else "session_id"
    if {name, "query_id"} & set(log.column_names):
        return log
    key = codes(log["user_id"])
    if "query" in log.column_names:
        key = key * log.num_rows + codes(log["query"])
    number = sessions(key, seconds(log["timestamp"]), gap)
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
    items: tuple[pa.Table, Origin],
    log: tuple[pa.Table, Origin],
    gap: int,
    facts: dict,
    *,
    negatives: int = 0,
    seed: int = 0,
    unit: str | None = None,
) -> Health:
    """Check, sort by time (stably), add sessions and negatives where they lack, write
    the data set, print its health and return it. `facts` go into dataset.json.

    items, log: tables and where they come from, for messages."""
    items, log = _checked(*items, *log, unit)
    order = np.argsort(ticks(log["timestamp"]), kind="stable")
    log = _with_sessions(log.take(order), gap)
    facts = facts | {"session_gap": gap}
    if negatives:
        log = add_negatives(log, items, negatives, seed=seed)
        facts = facts | {"negatives": {"per_positive": negatives, "seed": seed}}
    report = health((items, log), name)  # raises before anything is written
    valid, test = default_periods(seconds(log["timestamp"]))
    facts = {"name": name, "valid_start": valid, "test_start": test} | facts
    _write(out, items, log, facts)
    print(report)
    return report


def _checked(items: pa.Table, known: Origin, log: pa.Table, origin: Origin, unit):
    """Both in the types of the schema, while rows are still those of the source."""
    columns = ["user_id", "item_id", "timestamp", "label"]
    log = require(log, origin, columns)
    items = read_items(items, known, unit)
    grouped = {"session_id", "query_id"} & set(log.column_names)
    read = read_log(log if grouped else ungrouped(log), items, origin, unit, known)
    if not grouped:
        read = read.select(log.column_names)
    label = read["label"].cast(pa.int8())
    read = read.set_column(read.column_names.index("label"), "label", label)
    if is_text(read["item_id"].type) != is_text(items["item_id"].type):
        items, read = (_with_text_ids(table) for table in (items, read))
    return items, read


def _with_text_ids(table: pa.Table) -> pa.Table:
    """One side came from a file without types: 12 is "12" on both."""
    index = table.column_names.index("item_id")
    return table.set_column(index, "item_id", table["item_id"].cast(pa.large_string()))


def _write(out: Path, items: pa.Table, log: pa.Table, facts: dict) -> None:
    """All files, each whole or not at all, with checksums of their pages."""
    more = {"write_page_checksum": True}

    def put(path: Path, table: pa.Table, **rest) -> None:
        write_atomically(path, lambda part: pq.write_table(table, part, **rest, **more))

    try:
        put(out / ITEMS, items)
        put(out / IMPRESSIONS, log, row_group_size=2**18)
        write_text_atomically(out / ABOUT, json.dumps(facts, indent=1) + "\n")
    except FileError as error:
        raise DataError(str(error)) from error
