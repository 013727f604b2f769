"""Reads a data set and turns ids into dense rows, its log into time order."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from lemur_mini.data.columns import is_text
from lemur_mini.data.errors import DataError, Origin, fail
from lemur_mini.data.folders import ABOUT, is_folder, read_about, read_tables, useless
from lemur_mini.data.joins import encode, group_of, is_made, item_rows
from lemur_mini.data.leaks import counted_later
from lemur_mini.data.schema import (
    IMPRESSIONS,
    ITEMS,
    feature_columns,
    read_items,
    text_fields,
    unused,
)
from lemur_mini.data.texts import columns_of
from lemur_mini.data.times import seconds, ticks

TEST_SHARE = 1 / 15  # of the impressions, where the data set names no test period
LINKS = ("http://", "https://")


@dataclass(frozen=True)
class Log:
    """Impressions in time order; arrays of length I with dense ids.

    There is no true probability in here: what a model gets is made from this."""

    user: np.ndarray
    qid: np.ndarray  # query_id, or session_id in a feed
    query: np.ndarray  # row of the query's text, 0 throughout in a feed
    item: np.ndarray  # row of the catalogue
    timestamp: np.ndarray  # unix seconds: int64, or float64 where some are finer
    label: np.ndarray
    period: np.ndarray | None = None  # 0 before valid_start, 1 before test_start, 2

    def __post_init__(self):
        if self.period is None:  # of a log that is not divided
            object.__setattr__(self, "period", np.zeros(len(self.qid), np.int64))


@dataclass(frozen=True)
class Dataset:
    """A validated data set. Items and users are rows; their own ids are kept beside."""

    name: str
    folder: Path | None
    items: np.ndarray  # (N,) item_id of every catalogue row
    texts: dict[str, list[str | None]]  # field -> N texts
    images: list  # N times bytes, a path, or None
    users: np.ndarray  # (U,) user_id of every user row
    queries: list[str]  # distinct query texts
    log: Log
    valid_start: int  # choices are made by training before it
    test_start: int  # final models are trained before it
    truth: np.ndarray | None = None  # (I,) true probabilities, for the ceiling
    counts: Counter = field(default_factory=Counter)  # what was repaired or missing
    created: np.ndarray | None = None  # (N,) unix seconds by created_at, NaN if empty
    # column user_* or context_*: (I,) float64, NaN if empty, or texts, None if empty
    context: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def is_feed(self) -> bool:
        """Whether there are sessions without queries."""
        return self.queries == [""]


def load(source: str | Path) -> Dataset:
    """Load a folder, or a data set of the hub, that follows the public schema.

    Raises DataError, naming file, row, column and remedy."""
    folder = Path(source) if is_folder(source) else None
    items, table = read_tables(source)
    counts: Counter = Counter()
    for column, why in unused(items, table).items():
        counts[f"ignored column {column}: {why}"] += 1
    log, users, queries, order = _make_log(table, items, counts)
    texts = {name: items[name].to_pylist() for name in text_fields(items)}
    for name, values in texts.items():
        counts[f"missing {name}"] += sum(not (v and v.strip()) for v in values)
    known = "probability" in table.column_names
    truth = table["probability"].to_numpy()[order] if known else None
    name, valid_start, test_start = _periods(source, folder, log)
    log = in_periods(log, valid_start, test_start, counts)
    return Dataset(
        name=name,
        folder=folder,
        items=items["item_id"].to_numpy(),
        texts=texts,
        images=images_of(items, counts),
        users=users,
        queries=queries,
        log=log,
        valid_start=valid_start,
        test_start=test_start,
        truth=truth,
        counts=counts,
        created=_created(items),
        context=_context(table, order, log, counts),
    )


def without_queries(dataset: Dataset) -> Dataset:
    """The same log as a feed: sessions whose queries nobody kept."""
    log = replace(dataset.log, query=np.zeros_like(dataset.log.query))
    return replace(dataset, name=f"{dataset.name}, a feed", queries=[""], log=log)


def catalogue_alone(
    items: np.ndarray,
    texts: dict[str, list[str | None]],
    images: list,
    name: str = "",
    folder: Path | None = None,
) -> Dataset:
    """Documents without users, queries and a log."""
    nobody = np.zeros(0, np.int64)
    log, never = Log(*(nobody,) * 6), 0
    return Dataset(name, folder, items, texts, images, nobody, [""], log, never, never)


def only(dataset: Dataset, documents: list[dict]) -> Dataset:
    """A data set whose catalogue is these new documents and whose log is the old one.
    Raises DataError where they do not fit the catalogue: type, field, item_id."""
    where, known = "new documents", ["item_id", *dataset.texts, "image"]
    for column in dict.fromkeys(key for document in documents for key in document):
        if column not in known:
            fail(where, column, None, "is no field", f"use {', '.join(known)}")
    table = columns_of({k: [d.get(k) for d in documents] for k in known}, where)
    for column in dataset.texts:
        kind = table[column].type
        if not (is_text(kind) or pa.types.is_null(kind)):
            fail(where, column, None, f"has type {kind}", "give strings")
    table = read_items(table, Origin(where))
    ids = table["item_id"].to_numpy()
    twice = np.flatnonzero(np.isin(ids.astype(str), dataset.items.astype(str)))
    if twice.size:
        problem = f"{ids[twice[0]]} is in the catalogue already"
        fail(where, "item_id", int(twice[0]), problem, "give it another")
    texts = {name: table[name].to_pylist() for name in dataset.texts}
    images = images_of(table, Counter())
    unknown = None if dataset.created is None else np.full(len(ids), np.nan)
    return replace(
        dataset,
        items=ids,
        texts=texts,
        images=images,
        counts=Counter(),
        created=unknown,
    )


def checksum(dataset: Dataset) -> str:
    """A short checksum of log, texts and images, for the provenance of results."""
    log, value = dataset.log, 0
    time = log.timestamp  # as bits where there are parts of seconds
    time = time.view(np.int64) if time.dtype == np.float64 else time
    for array in (log.user, log.qid, log.item, time, log.label):
        value = zlib.crc32(np.ascontiguousarray(array, dtype=np.int64), value)
    for column in (*dataset.texts.values(), dataset.images):
        for entry in column:
            raw = entry if isinstance(entry, bytes) else (entry or "").encode()
            value = zlib.crc32(raw, value)
    return f"{value:08x}"


def _make_log(table: pa.Table, items: pa.Table, counts: Counter) -> tuple:
    """The log in time order, its users, its queries, and that order."""
    time = ticks(table["timestamp"])
    counts["impressions out of time order"] = int((np.diff(time) < 0).sum())
    order = np.argsort(time, kind="stable")
    when = seconds(table["timestamp"])[order]
    close = int((np.diff(time[order]) > 0)[np.diff(when) == 0].sum())
    if close:
        counts["impressions closer than a microsecond"] = close
    group = group_of(table)
    user, users = _dense(table["user_id"], order)
    qid, qids = _dense(table[group[0]], order)
    if is_made(table):
        counts["query_id made of session_id and query"] = int(qid.max()) + 1
    query, queries = (np.zeros_like(user), pa.array([""]))
    if group[1:]:
        query, queries = _dense(table["query"], order)
    item = item_rows(table, items, Origin(IMPRESSIONS), Origin(ITEMS))[order]
    label = table["label"].to_numpy().astype(np.int8)[order]
    log = Log(user, qid, query, item, when, label)
    return log, np.asarray(users), queries.to_pylist(), order


def _dense(values: pa.ChunkedArray, order: np.ndarray) -> tuple[np.ndarray, pa.Array]:
    """Values as numbers by first appearance in this order, and the values."""
    codes, names = encode(values)
    codes = codes[order]
    begin = np.unique(codes, return_index=True)[1]
    by_time = np.argsort(begin)
    number = np.empty_like(by_time)
    number[by_time] = np.arange(len(by_time))
    return number[codes], names.take(pa.array(by_time))


def _context(table: pa.Table, order: np.ndarray, log: Log, counts: Counter) -> dict:
    """The features of user and moment, in time order; what is empty is counted, and so
    is a column that counts the whole log, which is left out."""
    found = {}
    for name in feature_columns(table):
        text = is_text(table[name].type)
        values = np.array(table[name].to_pylist(), object if text else np.float64)[
            order
        ]
        if why := counted_later(values, log.user, log.item, log.label):
            counts[f"refused column {name}: {why}"] = 1
            continue
        found[name] = values
        missing = [not v for v in values] if text else ~np.isfinite(values)
        counts[f"empty {name}"] += int(np.sum(missing))
    return found


def _created(items: pa.Table) -> np.ndarray | None:
    given = "created_at" in items.column_names
    return seconds(items["created_at"]) if given else None


def images_of(items: pa.Table, counts: Counter) -> list:
    """Pictures as bytes, paths or None, of a table from `read_items`."""
    if "image" not in items.column_names:
        images = [None] * items.num_rows
    else:
        images = items["image"].to_pylist()
    if images and any(isinstance(image, dict) for image in images):
        images = [image and (image["bytes"] or image["path"]) for image in images]
    counts["missing image"] += sum(image is None for image in images)
    links = sum(isinstance(i, str) and i.startswith(LINKS) for i in images)
    if links:
        counts["image is a web address, not fetched"] = links
    return images


def _periods(source: str | Path, folder: Path | None, log: Log) -> tuple[str, int, int]:
    """Name, start of the validation days, start of the test days."""
    where = folder / ABOUT if folder else None
    if where and read_about(folder).keys() - {"time_unit"}:
        name, valid, test = _read_about(where)
    else:
        where = f"{source}/{IMPRESSIONS}, column timestamp"
        name = folder.resolve().name if folder else str(source)
        valid, test = default_periods(log.timestamp)
    begin, end = log.timestamp[0], log.timestamp[-1]
    if not (valid <= test and begin < test <= end):
        raise DataError(
            f"{where}: test_start {test} leaves nothing to train on or nothing to test "
            f"on, or is before valid_start {valid}; choose it in ({begin}, {end}]"
        )
    return name, valid, test


def in_periods(log: Log, valid_start: int, test_start: int, counts: Counter) -> Log:
    """The log with the period that every row's own time says. Sessions that last from
    one into the next are counted, and an empty validation period is."""
    starts = [valid_start, test_start]
    period = np.searchsorted(starts, log.timestamp, side="right")
    order = np.argsort(log.qid, kind="stable")
    qid, in_order = log.qid[order], period[order]
    crossed = (qid[1:] == qid[:-1]) & (in_order[1:] != in_order[:-1])
    split = len(np.unique(qid[1:][crossed]))
    counts["sessions split where a period begins"] = split
    counts["empty validation period"] = int(not (period == 1).any())
    return replace(log, period=period)


def default_periods(timestamp: np.ndarray) -> tuple[int, int]:
    """Starts of the validation and of the test period where nobody names them."""
    shares = (1 - 2 * TEST_SHARE, 1 - TEST_SHARE)
    starts = np.quantile(timestamp, shares, method="higher")
    return int(starts[0]), int(starts[1])


def _read_about(path: Path) -> tuple[str, int, int]:
    facts = read_about(path.parent)
    try:
        return facts["name"], int(facts["valid_start"]), int(facts["test_start"])
    except (ValueError, TypeError, KeyError, ArithmeticError) as error:
        raise useless(path, error) from error
