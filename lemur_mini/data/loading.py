"""Reads a data set through `datasets` and turns ids into dense rows."""

from __future__ import annotations

import json
import logging
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lemur_mini.data.schema import (
    IMPRESSIONS,
    ITEMS,
    LOGGED,
    NOT_TEXT,
    DataError,
    check_impressions,
    check_items,
    fail,
    is_text,
    seconds,
    text_fields,
)

TEST_SHARE = 1 / 15  # of the impressions, where the data set names no test period
ABOUT = "dataset.json"  # optional: name, valid_start, test_start (unix seconds)


@dataclass(frozen=True)
class Log:
    """Impressions in time order; arrays of length I with dense ids.

    There is no true probability in here: what a model gets is made from this."""

    user: np.ndarray
    qid: np.ndarray  # query_id, or session_id in a feed
    query: np.ndarray  # row of the query's text, 0 throughout in a feed
    item: np.ndarray  # row of the catalogue
    timestamp: np.ndarray  # unix seconds
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

    @property
    def is_feed(self) -> bool:
        """Whether there are sessions without queries."""
        return self.queries == [""]


def load(source: str | Path) -> Dataset:
    """Load a folder, or a data set of the hub, that follows the public schema.

    Raises DataError, naming file, row, column and remedy."""
    folder = Path(source) if Path(source).is_dir() else None
    items, impressions = (
        read_table(source, folder, file) for file in (ITEMS, IMPRESSIONS)
    )
    check_items(items)
    check_impressions(impressions, items)
    counts: Counter = Counter()
    impressions = _sort(impressions, counts)
    log, users, queries = _make_log(impressions, items)
    texts = {name: items[name].to_pylist() for name in text_fields(items)}
    for table, used in ((items, (*NOT_TEXT, *texts)), (impressions, LOGGED)):
        for name in set(table.column_names).difference(used):
            counts[f"ignored column {name}"] += 1
    for name, values in texts.items():
        counts[f"missing {name}"] += sum(not (v and v.strip()) for v in values)
    known = "probability" in impressions.column_names
    truth = impressions["probability"].to_numpy() if known else None
    name, valid_start, test_start = _periods(source, folder, log)
    log = in_periods(log, valid_start, test_start, counts)
    return Dataset(
        name=name,
        folder=folder,
        items=items["item_id"].to_numpy(),
        texts=texts,
        images=_images(items, counts),
        users=users,
        queries=queries,
        log=log,
        valid_start=valid_start,
        test_start=test_start,
        truth=truth,
        counts=counts,
    )


def only(dataset: Dataset, documents: list[dict]) -> Dataset:
    """A data set whose catalogue is these new documents and whose log is the old one.
    Raises DataError where they do not fit the catalogue: type, field, item_id."""
    where, known = "new documents", ["item_id", *dataset.texts, "image"]
    for column in dict.fromkeys(key for document in documents for key in document):
        if column not in known:
            fail(where, column, None, "is no field", f"use {', '.join(known)}")
    table = _columns({k: [d.get(k) for d in documents] for k in known}, where)
    check_items(table)
    for column in dataset.texts:
        kind = table[column].type
        if not (is_text(kind) or pa.types.is_null(kind)):
            fail(where, column, None, f"has type {kind}", "give strings")
    ids = table["item_id"].to_numpy()
    twice = np.flatnonzero(np.isin(ids.astype(str), dataset.items.astype(str)))
    if twice.size:
        problem = f"{ids[twice[0]]} is in the catalogue already"
        fail(where, "item_id", int(twice[0]), problem, "give it another")
    texts = {name: table[name].to_pylist() for name in dataset.texts}
    images = _images(table, Counter())
    return replace(dataset, items=ids, texts=texts, images=images, counts=Counter())


def _columns(columns: dict[str, list], where: str) -> pa.Table:
    out = {}
    for name, values in columns.items():
        try:
            out[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            fail(where, name, None, f"mixes types ({error})", "give one type")
    return pa.table(out)


def checksum(dataset: Dataset) -> str:
    """A short checksum of log, texts and images, for the provenance of results."""
    log, value = dataset.log, 0
    for array in (log.user, log.qid, log.item, log.timestamp, log.label):
        value = zlib.crc32(np.ascontiguousarray(array, dtype=np.int64), value)
    for column in (*dataset.texts.values(), dataset.images):
        for entry in column:
            raw = entry if isinstance(entry, bytes) else (entry or "").encode()
            value = zlib.crc32(raw, value)
    return f"{value:08x}"


def read_table(source: str | Path, folder: Path | None, file: str) -> pa.Table:
    import datasets

    path = folder / file if folder else None
    if path and not path.is_file():
        raise DataError(f"{path}: not found; a data set is {ITEMS} and {IMPRESSIONS}")
    datasets.disable_progress_bars()
    for library in ("datasets", "huggingface_hub"):  # the error below says it all
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        if path and not pq.read_metadata(path).num_rows:
            return pq.read_table(path)  # `datasets` refuses what has no rows
        if path:  # unlike load_dataset, this asks nothing of the network
            return datasets.Dataset.from_parquet(str(path)).data.table
        found = datasets.load_dataset(str(source), data_files=file, split="train")
        return found.data.table
    except Exception as error:  # the reader wraps its causes in types of its own
        cause = " ".join(str(error.__cause__ or error).split())
        hint = "write it again" if path else "give a folder, or a hub id when online"
        raise DataError(f"{source}/{file}: cannot be read ({cause}); {hint}") from error


def _sort(impressions: pa.Table, counts: Counter) -> pa.Table:
    time = seconds(impressions["timestamp"])
    counts["impressions out of time order"] = int((np.diff(time.to_numpy()) < 0).sum())
    index = impressions.column_names.index("timestamp")
    order = np.argsort(time.to_numpy(), kind="stable")
    return impressions.set_column(index, "timestamp", time).take(order)


def _dense(values: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    encoded = values.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(
        np.int64
    ), encoded.dictionary


def _make_log(impressions: pa.Table, items: pa.Table) -> tuple[Log, np.ndarray, list]:
    feed = "query_id" not in impressions.column_names
    user, users = _dense(impressions["user_id"])
    qid, _ = _dense(impressions["session_id" if feed else "query_id"])
    query, queries = (np.zeros_like(user), pa.array([""]))
    if not feed:
        query, queries = _dense(impressions["query"])
    ids = pc.cast(items["item_id"], impressions["item_id"].type)
    item = pc.index_in(impressions["item_id"], ids.combine_chunks()).to_numpy()
    label = pc.cast(impressions["label"], pa.int8(), safe=False).to_numpy()
    log = Log(
        user,
        qid,
        query,
        item.astype(np.int64),
        impressions["timestamp"].to_numpy(),
        label,
    )
    return log, np.asarray(users), queries.to_pylist()


def _images(items: pa.Table, counts: Counter) -> list:
    if "image" not in items.column_names:
        images = [None] * items.num_rows
    else:
        images = items["image"].to_pylist()
    if images and any(isinstance(image, dict) for image in images):
        images = [image and (image["bytes"] or image["path"]) for image in images]
    counts["missing image"] += sum(image is None for image in images)
    return images


def _periods(source: str | Path, folder: Path | None, log: Log) -> tuple[str, int, int]:
    """Name, start of the validation days, start of the test days."""
    where = folder / ABOUT if folder else None
    if where and where.is_file():
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
    try:
        facts = json.loads(path.read_text("utf-8"))
        return facts["name"], int(facts["valid_start"]), int(facts["test_start"])
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
        remedy = "give name, valid_start and test_start (unix seconds), or remove it"
        raise DataError(f"{path}: cannot be used ({problem}); {remedy}") from error
