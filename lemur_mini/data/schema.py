"""The public schema of a data set, and the checks that name row, column and file.

items.parquet        item_id; any string columns are text fields; `image` (encoded
                     JPEG, PNG, WebP, GIF or BMP as bytes, {bytes, path}, or a
                     path); created_at (seconds) optional
impressions.parquet  user_id, item_id, timestamp (unix seconds), label (0 or 1), and
                     either query_id with query (text), or session_id for a feed;
                     probability (the truth, where it is known) optional

Ids are names: any integers, negative ones too, or strings. One row an item: a second
one is an error even where it says the same, for then a join went wrong somewhere. Any
other column is ignored, and counted in `Dataset.counts`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lemur_mini.errors import Mendable

ITEMS, IMPRESSIONS = "items.parquet", "impressions.parquet"
NOT_TEXT = ("item_id", "image", "created_at")
LOGGED = ("user_id", "query_id", "session_id", "query", "item_id", "timestamp")
LOGGED += ("label", "probability")
LATEST = 10**11  # unix seconds, in the year 5138
FINER = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # a second, in arrow's units
MOST_FIELDS = 250  # types of tokens are kept in a byte


class DataError(Mendable, ValueError):
    """Data that cannot be used; the message names file, row, column and remedy."""


def fail(file: str, column: str, row: int | None, problem: str, remedy: str) -> None:
    """Raise the one-line error of this package. Rows count from 0."""
    where = f"{file}, column {column}" + ("" if row is None else f", row {row}")
    raise DataError(f"{where}: {problem}; {remedy}")


def first(mask: pa.ChunkedArray) -> int:
    """Row of the first true value, -1 where there is none."""
    return pc.index(pc.fill_null(mask, True), True).as_py()


def require(table: pa.Table, file: str, columns: list[str]) -> None:
    """All columns are there, none of them holds a null, and there are rows."""
    for column in columns:
        if column not in table.column_names:
            there = ", ".join(table.column_names) or "none"
            remedy = f"see lemur_mini.data.schema; columns found: {there}"
            fail(file, column, None, "is missing", remedy)
    if not table.num_rows:
        fail(file, columns[0], None, "the file has no rows", "write at least one")
    for column in columns:
        values = table[column]
        bad = pc.is_null(values, nan_is_null=True)
        if (row := first(bad)) >= 0:
            fail(file, column, row, "is empty or NaN", "fill it or drop the row")


def check_items(table: pa.Table) -> None:
    """Raise DataError unless the items follow the schema."""
    require(table, ITEMS, ["item_id"])
    _check_utf8(table, ITEMS)
    _check_type(table, ITEMS, "item_id", _is_id, "numbers or strings")
    if "image" in table.column_names:
        wanted = "encoded bytes, {bytes, path} or paths"
        _check_type(table, ITEMS, "image", _is_image, wanted)
    ids = table["item_id"].combine_chunks().dictionary_encode()
    if len(ids.dictionary) < len(ids):
        _fail_twice(table, ids.indices.to_numpy())


def text_fields(items: pa.Table) -> list[str]:
    """The columns that documents are made of, in the order of the file."""
    found = [f.name for f in items.schema if is_text(f.type) and f.name not in NOT_TEXT]
    if len(found) > MOST_FIELDS:
        problem = f"is text field number {MOST_FIELDS + 1}"
        fail(ITEMS, found[MOST_FIELDS], None, problem, "join some fields into one")
    return found


def _fail_twice(table: pa.Table, ids: np.ndarray) -> None:
    """Name the first item that stands twice, both its rows, and what differs."""
    earlier = np.unique(ids, return_index=True)[1]  # ids are dense: 0, 1, ...
    row = int(np.flatnonzero(earlier[ids] != np.arange(len(ids)))[0])
    before, now = (table.slice(k, 1).to_pylist()[0] for k in (earlier[ids[row]], row))
    other = [name for name in now if str(now[name]) != str(before[name])]
    what = f"another {', '.join(other)}" if other else "the same content"
    problem = f"{now['item_id']} stands also in row {earlier[ids[row]]}, with {what}"
    fail(ITEMS, "item_id", row, problem, "keep one row of it")


def _check_utf8(table: pa.Table, file: str) -> None:
    for name in table.column_names:
        if not is_text(table[name].type):
            continue
        try:
            table[name].validate(full=True)
        except pa.ArrowInvalid:
            raw = pc.cast(table[name], pa.large_binary()).to_pylist()
            bad = (r for r, v in enumerate(raw) if v and v != _repaired(v))
            remedy = "read the source in its own encoding, such as latin-1"
            fail(file, name, next(bad, None), "is not UTF-8", remedy)


def _repaired(raw: bytes) -> bytes:
    return raw.decode("utf-8", "replace").encode()


def check_impressions(table: pa.Table, items: pa.Table) -> None:
    """Raise DataError unless the impressions follow the schema and know every item."""
    feed = "session_id" in table.column_names and "query_id" not in table.column_names
    group, text = ("session_id", []) if feed else ("query_id", ["query"])
    ids = ["user_id", group, "item_id"]
    require(table, IMPRESSIONS, [*ids, *text, "timestamp", "label"])
    _check_utf8(table, IMPRESSIONS)
    for column in ids:
        _check_type(table, IMPRESSIONS, column, _is_id, "numbers or strings")
    for column in text:
        _check_type(table, IMPRESSIONS, column, is_text, "strings")
    _check_numbers(table)
    ids = _cast(items["item_id"], table["item_id"].type)
    known = pc.is_in(table["item_id"], ids.combine_chunks())
    if (row := first(pc.invert(known))) >= 0:
        problem = f"{table['item_id'][row].as_py()} is not in {ITEMS}"
        fail(IMPRESSIONS, "item_id", row, problem, "add the item or drop the row")
    for column in ("user_id", *text):
        _check_owner(table, group, column)


def _check_numbers(table: pa.Table) -> None:
    _check_times(table)

    def binary(values: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.is_in(pc.cast(values, pa.float64()), pa.array([0.0, 1.0]))

    _check_type(table, IMPRESSIONS, "label", _is_number, "0 or 1")
    _check_each(table, "label", binary, "not a label", "use 0 or 1")
    if "probability" not in table.column_names:
        return

    def chance(values: pa.ChunkedArray) -> pa.ChunkedArray:
        values = pc.cast(values, pa.float64(), safe=False)
        return pc.and_(pc.greater_equal(values, 0.0), pc.less_equal(values, 1.0))

    remedy = "drop the column if unknown"
    _check_type(table, IMPRESSIONS, "probability", _is_number, "numbers")
    _check_each(table, "probability", chance, "not a probability", remedy)


def _check_times(table: pa.Table) -> None:
    wanted, remedy = "unix seconds", "use unix seconds"
    _check_type(table, IMPRESSIONS, "timestamp", _is_time, wanted)
    times = table["timestamp"]
    if pa.types.is_floating(times.type):
        _check_each(table, "timestamp", pc.is_finite, "not a time", remedy)
    if pa.types.is_timestamp(times.type):
        times = seconds(times)
    size = pc.abs(pc.cast(times, pa.float64(), safe=False))
    if (row := first(pc.greater(size, LATEST))) < 0:
        return
    problem, far = f"{times[row].as_py()} is not a time", size[row].as_py()
    for unit, ticks in FINER.items():
        if far < LATEST * ticks:
            problem = f"{times[row].as_py()} looks like {unit}"
            remedy = f"divide by {ticks}: timestamps are {wanted}"
            break
    fail(IMPRESSIONS, "timestamp", row, problem, remedy)


def seconds(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of numbers or dates as whole unix seconds, int64."""
    if pa.types.is_timestamp(times.type):
        times = pc.divide(pc.cast(times, pa.int64()), TICKS[times.type.unit])
    return pc.cast(times, pa.int64(), safe=False)


def codes(values: pa.ChunkedArray) -> np.ndarray:
    """Every value as the number of its first appearance; what is missing is one too."""
    encoded = values.combine_chunks().dictionary_encode("encode")
    return encoded.indices.to_numpy().astype(np.int64)


def repeated(key: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Whether an earlier entry has the same key and time."""
    order = np.lexsort((time, key))  # stable
    again = (np.diff(key[order]) == 0) & (np.diff(time[order]) == 0)
    out = np.zeros(len(key), bool)
    out[order[1:][again]] = True
    return out


def _check_each(table: pa.Table, column: str, good, problem: str, remedy: str) -> None:
    values = table[column]
    if (row := first(pc.invert(good(values)))) >= 0:
        fail(IMPRESSIONS, column, row, f"{values[row].as_py()} is {problem}", remedy)


def _check_owner(table: pa.Table, group: str, column: str) -> None:
    """All impressions of one query_id (or session_id) share a user and a query."""
    qid, value = (
        table[name].combine_chunks().dictionary_encode().indices.to_numpy()
        for name in (group, column)
    )
    begin = np.unique(qid, return_index=True)[1]
    wrong = np.flatnonzero(value != value[begin][qid])
    if wrong.size:
        name = table[group][wrong[0]].as_py()
        problem = f"{group} {name} has another {column} in an earlier row"
        fail(IMPRESSIONS, column, int(wrong[0]), problem, f"use one {group} for each")


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return is_number or pa.types.is_boolean(kind)


def _is_time(kind: pa.DataType) -> bool:
    return _is_number(kind) or pa.types.is_timestamp(kind)


def _is_id(kind: pa.DataType) -> bool:
    return is_text(kind) or _is_number(kind) and not pa.types.is_float16(kind)


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        parts = {field.name: field.type for field in kind}
        return {"bytes", "path"} <= parts.keys() and all(
            _is_image(parts[name]) for name in ("bytes", "path")
        )
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return is_bytes or is_text(kind) or pa.types.is_null(kind)


def _check_type(table: pa.Table, file: str, column: str, accepts, wanted: str) -> None:
    kind = table[column].type
    if not accepts(kind):
        fail(file, column, None, f"has type {kind}", f"store {wanted}")


def _cast(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        return pc.cast(values, kind)
    except pa.ArrowInvalid:
        remedy = f"{IMPRESSIONS} has {kind}: use one type"
        fail(ITEMS, "item_id", None, f"has type {values.type}", remedy)
