"""The public schema of a data set: what each column becomes, and what is refused.

items.parquet        item_id; any text columns are text fields; `image` (encoded JPEG,
                     PNG, WebP, GIF or BMP as bytes, {bytes, path}, or a path);
                     created_at (a time) optional
impressions.parquet  user_id, item_id, timestamp (a time, see `lemur_mini.data.times`),
                     label (0 or 1), and either query_id with query (text), or
                     session_id for a feed; probability (the truth, where it is known)
                     optional; user_* and context_* (numbers, truths or texts) are
                     features of the user and of the moment, user_* one a user

A file may be a folder of parts (see `lemur_mini.data.tables`). Ids are names: whole
numbers, negative ones too, or texts; the items and the log write them in one type. A
log with session_id and query but no query_id gets one query_id a pair of both, which
is counted. One row an item: a second one is an error even where it says the same, for
then a join went wrong somewhere. Any other column is not used; `unused` says why, and
`Dataset.counts` names it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lemur_mini.data.columns import (
    ids,
    is_text,
    name_of,
    number,
    pictures,
    plain,
    text,
    valid_utf8,
)
from lemur_mini.data.errors import DataError, Origin, cell, fail, first, refusal
from lemur_mini.data.joins import (
    check_owner,
    encode,
    group_of,
    is_made,
    item_rows,
    paired,
)
from lemur_mini.data.times import times

__all__ = ["DataError", "Origin", "fail"]  # others look for them here

ITEMS, IMPRESSIONS = "items.parquet", "impressions.parquet"
NOT_TEXT = ("item_id", "image", "created_at")
LOGGED = ("user_id", "query_id", "session_id", "query", "item_id", "timestamp")
LOGGED += ("label", "probability")
IDS = ("user_id", "item_id", "query_id", "session_id")
FEATURES = ("user_", "context_")  # how columns begin that are features
MOST_FIELDS = 250  # types of tokens are kept in a byte


@dataclass(frozen=True)
class Rule:
    """What must hold of each value of a column, and what is said where it does not."""

    column: str
    broken: Callable[[pa.ChunkedArray], pa.ChunkedArray]  # values to a mask
    problem: str
    remedy: str


RULES = (
    Rule(
        "label",
        lambda v: pc.invert(pc.or_(pc.equal(v, 0), pc.equal(v, 1))),
        "is not a label",
        "use 0 or 1",
    ),
    Rule(
        "probability",
        lambda v: pc.invert(pc.and_(pc.greater_equal(v, 0), pc.less_equal(v, 1))),
        "is not a probability",
        "drop the column if unknown",
    ),
)


def read_items(
    table: pa.Table, origin: Origin | None = None, unit: str | None = None
) -> pa.Table:
    """The items with every column of the schema in its type; others as they are.

    unit: of times that are bare numbers. Raises DataError unless they follow the
    schema."""
    origin = origin or Origin(ITEMS)
    table = item_columns(table, origin, unit)
    codes, names = encode(table["item_id"])
    if len(names) < len(codes):
        _fail_twice(table, codes, origin)
    return table


def item_columns(table: pa.Table, origin: Origin, unit: str | None = None) -> pa.Table:
    """As `read_items`, for a table in which an item may have many rows."""
    table = require(_named_once(table, origin), origin, ["item_id"])
    for name in table.column_names:
        table = _put(table, name, _item_column(table[name], name, origin, unit))
    text_fields(table)
    return table


def _item_column(values, name: str, origin: Origin, unit: str | None):
    refuse = refusal(origin, name)
    if name == "item_id":
        return ids(values, refuse, origin.untyped)
    if name == "image":
        return pictures(values, refuse)
    if name == "created_at":
        return times(values, refuse, unit)
    words, _ = text(values)
    return values if words is None else valid_utf8(words, refuse)


def read_log(
    table: pa.Table,
    items: pa.Table,
    origin: Origin | None = None,
    unit: str | None = None,
    known: Origin | None = None,
) -> pa.Table:
    """The impressions with every column of the schema in its type; others as they are.

    items: from `read_items`; known: where they come from. unit: of times that are bare
    numbers. Raises DataError unless the log follows the schema and knows every item."""
    origin = origin or Origin(IMPRESSIONS)
    table = _named_once(table, origin)
    group = group_of(table)
    needed = ["user_id", *group, "item_id", "timestamp", "label"]
    table = require(table, origin, needed)
    for name in (*needed, "probability"):
        if name in table.column_names:
            role = _log_column(table[name], name, origin, unit)
            table = _put(table, name, role)
    for rule in RULES:
        _check(table, rule, origin)
    for name in feature_columns(table):
        table = _put(table, name, _feature(table[name], name, origin))
        if name.startswith("user_"):
            check_owner(table, "user_id", name, origin)
    item_rows(table, items, origin, known or Origin(ITEMS))
    if group[0] == "session_id" and "query" in group:
        group, table = ["query_id", "query"], paired(table)
    for column in ("user_id", *group[1:]):
        check_owner(table, group[0], column, origin)
    return table


def feature_columns(log: pa.Table) -> list[str]:
    """The columns user_* and context_* that hold numbers, truths or texts."""
    return [
        name
        for name in log.column_names
        if name.startswith(FEATURES) and name not in LOGGED
        if _is_feature(plain(log[name]).type)
    ]


def _is_feature(kind: pa.DataType) -> bool:
    is_ = pa.types
    number_ = is_.is_integer(kind) or is_.is_floating(kind) or is_.is_decimal(kind)
    return number_ or is_.is_boolean(kind) or is_text(kind)


def _feature(values, name: str, origin: Origin):
    """Numbers as float64, truths and texts as texts; in a file without types what is
    written as numbers is numbers."""
    values, refuse = plain(values), refusal(origin, name)
    if pa.types.is_boolean(values.type):
        return values.cast(pa.large_string())
    if not is_text(values.type):
        return number(values, refuse).cast(pa.float64())
    if origin.untyped:
        with suppress(DataError):
            return number(values, refuse, True)
    return valid_utf8(values, refuse)


def _log_column(values, name: str, origin: Origin, unit: str | None):
    refuse = refusal(origin, name)
    if name in IDS:
        return ids(values, refuse, origin.untyped)
    if name == "timestamp":
        return times(values, refuse, unit)
    if name != "query":
        return number(values, refuse, origin.untyped)
    words, _ = text(values)
    if words is None:
        refuse(None, f"has type {name_of(values.type)}", "store strings")
    return valid_utf8(words, refuse)


def require(table: pa.Table, origin: Origin, columns: list[str]) -> pa.Table:
    """All columns are there, none of them holds a null, and there are rows."""
    for column in columns:
        if column not in table.column_names:
            there = ", ".join(table.column_names) or "none"
            remedy = f"see lemur_mini.data.schema; columns found: {there}"
            origin.fail(column, None, "is missing", remedy)
    if not table.num_rows:
        problem, remedy = "the file has no rows", "write at least one"
        origin.fail(columns[0], None, problem, remedy)
    for column in columns:
        table = _put(table, column, plain(table[column]))
        if (row := first(pc.is_null(table[column], nan_is_null=True))) >= 0:
            origin.fail(column, row, "is empty or NaN", "fill it or drop the row")
    return table


def _named_once(table: pa.Table, origin: Origin) -> pa.Table:
    names = table.column_names
    for name in names:
        if names.count(name) > 1:
            origin.fail(name, None, "stands twice", "give each column its own name")
    return table


def _put(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def _check(table: pa.Table, rule: Rule, origin: Origin) -> None:
    if rule.column not in table.column_names:
        return
    values = table[rule.column]
    if (row := first(rule.broken(values))) >= 0:
        shown = f"{values[row].as_py():g}" if values[row].is_valid else "nothing"
        origin.fail(rule.column, row, f"{shown} {rule.problem}", rule.remedy)


def text_fields(items: pa.Table) -> list[str]:
    """The columns that documents are made of, in the order of the file."""
    found = [f.name for f in items.schema if is_text(f.type) and f.name not in NOT_TEXT]
    if len(found) > MOST_FIELDS:
        problem = f"is text field number {MOST_FIELDS + 1}"
        fail(ITEMS, found[MOST_FIELDS], None, problem, "join some fields into one")
    return found


def unused(items: pa.Table, log: pa.Table) -> dict[str, str]:
    """Every column that no model reads, and why: from `read_items` and `read_log`."""
    used = (*NOT_TEXT, *text_fields(items))
    found = {n: text(items[n])[1] for n in items.column_names if n not in used}
    group = [*group_of(log), *(["session_id"] if is_made(log) else [])]
    features = feature_columns(log)
    other = {"sampled": "marks sampled negatives", "session_id": "query_id is used"}
    other |= {"query": "no column of the schema beside session_id"}
    for name in log.column_names:
        if name not in (*LOGGED[4:], "user_id", *group, *features):
            found[name] = other.get(name, "no column of the schema")
    return found


def _fail_twice(table: pa.Table, codes: np.ndarray, origin: Origin) -> None:
    """Name the first item that stands twice, both its rows, and what differs."""
    earlier = np.unique(codes, return_index=True)[1]  # codes are dense: 0, 1, ...
    row = int(np.flatnonzero(earlier[codes] != np.arange(len(codes)))[0])
    before, now = (
        {name: str(table[name][int(k)]) for name in table.column_names}
        for k in (earlier[codes[row]], row)
    )
    other = [name for name in now if now[name] != before[name]]
    what = f"another {', '.join(other)}" if other else "the same content"
    where = f"stands also in row {earlier[codes[row]]}, with {what}"
    problem = f"{cell(table['item_id'], row)} {where}"
    origin.fail("item_id", row, problem, "keep one row of it")


def ungrouped(table: pa.Table) -> pa.Table:
    """Used by importers: a log that has no session yet, each row for itself."""
    return table.append_column("session_id", pa.array(np.arange(table.num_rows)))
