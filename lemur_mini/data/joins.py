"""How rows belong together: of a session or query, and with the items."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lemur_mini.data.columns import is_text, name_of, plain
from lemur_mini.data.errors import Origin, cell, first

MADE = {b"made_of": b"session_id, query"}  # marks a query_id that no file holds


def group_of(table: pa.Table) -> list[str]:
    """The columns that group a log's rows: of sessions, of queries, or of both."""
    there = table.column_names
    if "session_id" in there and "query_id" not in there:
        return ["session_id", *(["query"] if "query" in there else [])]
    return ["query_id", "query"]


def item_rows(log: pa.Table, items: pa.Table, origin: Origin, known: Origin):
    """(I,) the catalogue's row of every impression. Numbers and texts are not joined,
    unless one of them comes from a file without types, as 12 and "12"."""
    mine, theirs = log["item_id"], items["item_id"]
    typed = not (origin.untyped or known.untyped)
    if typed and is_text(mine.type) != is_text(theirs.type):
        problem, other = f"has type {name_of(theirs.type)}", name_of(mine.type)
        remedy = f"{origin.file} has {other}: use one type"
        known.fail("item_id", None, problem, remedy)
    if mine.type != theirs.type:  # whole numbers are written in one way alone
        mine, theirs = (v.cast(pa.large_string()) for v in (mine, theirs))
    found = pc.index_in(mine, theirs.combine_chunks())
    if found.null_count:
        row = first(pc.is_null(found))
        problem = f"{cell(mine, row)} is not in {known.file}"
        origin.fail("item_id", row, problem, "add the item or drop the row")
    return found.to_numpy().astype(np.int64)


def paired(table: pa.Table) -> pa.Table:
    """With a query_id for every pair of session_id and query: its length goes before
    the session's name, so that no two pairs are written alike."""
    session = table["session_id"].cast(pa.large_string())
    length = pc.utf8_length(session).cast(pa.large_string())
    between = pa.scalar(":", pa.large_string())
    parts = pc.binary_join_element_wise(length, session, table["query"], between)
    field = pa.field("query_id", parts.type, metadata=MADE)
    return table.append_column(field, parts)


def is_made(log: pa.Table) -> bool:
    """Whether the query_id of a log was made of its session_id and query."""
    there = "query_id" in log.column_names
    return there and log.schema.field("query_id").metadata == MADE


def check_owner(table: pa.Table, group: str, column: str, origin: Origin) -> None:
    """All impressions of one query_id (or session_id) share a user and a query."""
    (qid, _), (value, _) = encode(table[group]), encode(table[column])
    begin = np.unique(qid, return_index=True)[1]
    wrong = np.flatnonzero(value != value[begin][qid])
    if wrong.size:
        name = cell(table[group], int(wrong[0]))
        problem = f"{group} {name} has another {column} in an earlier row"
        origin.fail(column, int(wrong[0]), problem, f"use one {group} for each")


def encode(values: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Every value as the number (int64) of its first appearance, and the values; what
    is missing is a value too."""
    values = plain(values)
    encoded = values.combine_chunks().dictionary_encode("encode")
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary


def codes(values: pa.ChunkedArray) -> np.ndarray:
    """Every value as the number of its first appearance; what is missing is one too."""
    return encode(values)[0]


def repeated(key: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Whether an earlier entry has the same key and time."""
    order = np.lexsort((time, key))  # stable
    again = (np.diff(key[order]) == 0) & (np.diff(time[order]) == 0)
    out = np.zeros(len(key), bool)
    out[order[1:][again]] = True
    return out
