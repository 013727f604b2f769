"""Pages of a log that is larger than memory, from parquet in time order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lemur_mini.data.loading import Log
from lemur_mini.data.pages import PAD, Batch, Pages, make_batch
from lemur_mini.data.schema import (
    IMPRESSIONS,
    ITEMS,
    LOGGED,
    DataError,
    check_impressions,
    check_items,
    fail,
    seconds,
)


class Recent:
    """The last `length` watched rows of every user: a ring buffer (users, length)."""

    def __init__(self, length: int):
        self.ring = np.full((1024, length), PAD, np.int32)
        self.count = np.zeros(1024, np.int64)  # ever watched, of every user

    def push(self, user: np.ndarray, item: np.ndarray) -> None:
        """Append watches (W,), in time order."""
        length = self.ring.shape[1]
        while len(user) and user.max() >= len(self.count):
            self.ring = np.concatenate([self.ring, np.full_like(self.ring, PAD)])
            self.count = np.concatenate([self.count, np.zeros_like(self.count)])
        order = np.argsort(user, kind="stable")
        user, item = user[order], item[order]
        begin = np.searchsorted(user, user)
        rank = np.arange(len(user)) - begin  # among the user's new ones
        last = rank >= np.searchsorted(user, user, "right") - begin - length
        place = (self.count[user] + rank) % length
        self.ring[user[last], place[last]] = item[last]
        self.count += np.bincount(user, minlength=len(self.count))

    def read(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Users and rows (W,) of what these users watched, oldest first."""
        users = users[users < len(self.count)]
        length = self.ring.shape[1]
        number = self.count[users][:, None] - length + np.arange(length)  # (users, L)
        owner = np.broadcast_to(users[:, None], number.shape)
        there = number >= 0
        return owner[there], self.ring[owner[there], number[there] % length]


class PageStream:
    """The batches of `Pages.stream`, read `chunk` impressions at a time.

    Memory holds item ids, distinct users and query texts, `length` watched rows a user,
    and the impressions of the last `longest` seconds: no session may last longer (an id
    that comes back later begins a new one). The file must be in time order; raises
    DataError, naming the first row that is not, and whatever else `load` refuses."""

    def __init__(
        self,
        folder: str | Path,
        size: int,
        length: int,
        longest: int = 86_400,
        chunk: int = 2**18,
    ):
        self.folder, self.size, self.length = Path(folder), size, length
        self.longest, self.chunk = longest, chunk
        with _open(self.folder / ITEMS) as file:
            self.items = file.read(columns=["item_id"])
        check_items(self.items)

    def stream(self, pages: int) -> Iterator[Batch]:
        """All pages in time order of their sessions, `pages` at a time."""
        held: list[tuple] = []
        for block in self._blocks():
            low = 0
            while low < len(block):
                missing = pages - sum(len(part[0]) for part in held)
                index = np.arange(low, min(low + missing, len(block)))
                held.append(block.arrays(index, self.length))
                low += len(index)
                if len(index) == missing:
                    yield make_batch(*map(np.concatenate, zip(*held, strict=True)))
                    held = []
        if held:
            yield make_batch(*map(np.concatenate, zip(*held, strict=True)))

    def _blocks(self) -> Iterator[Pages]:
        """Pages of all sessions that have ended, whenever some have."""
        recent, cut = Recent(self.length), 0
        rows = watches = None  # not yet on a page; not yet in `recent`
        groups = _Names()
        for log, last in self._logs(groups):
            new = np.stack([log.user, log.item, log.timestamp])[:, log.label == 1]
            watches = new if watches is None else np.concatenate([watches, new], axis=1)
            rows = log if rows is None else _join(rows, log)
            before, cut = cut, rows.timestamp[-1] + (1 if last else -self.longest)
            _, first, session = np.unique(
                rows.qid, return_index=True, return_inverse=True
            )
            ended = rows.timestamp[first][session] < cut
            if ended.any():
                block, rows = _take(rows, ended), _take(rows, ~ended)
                groups.keep(rows.qid)
                old = recent.read(np.unique(block.user))  # all before any session here
                old = np.stack([*old, np.full(len(old[0]), before - 1)])
                yield Pages(block, self.size, (*np.concatenate([old, watches], 1),))
            past = watches[2] < cut  # before every session that is still to come
            recent.push(*watches[:2, past])
            watches = watches[:, ~past]

    def _logs(self, groups: _Names) -> Iterator[tuple[Log, bool]]:
        """The file in pieces with dense ids, and whether it is the last piece."""
        names, offset, before = {"user_id": _Names(), "query": _Names()}, 0, None
        path = self.folder / IMPRESSIONS
        with _open(path) as file:
            columns = [name for name in file.schema_arrow.names if name in LOGGED]
            total = file.metadata.num_rows
            if not total:
                check_impressions(file.read(), self.items)  # says so
            for batch in file.iter_batches(self.chunk, columns=columns):
                table = pa.Table.from_batches([batch])
                try:
                    check_impressions(table, self.items)
                except DataError as error:
                    raise DataError(f"{error} (rows count from row {offset})") from None
                time = seconds(table["timestamp"]).to_numpy()
                _check_order(time, before, offset)
                offset, before = offset + len(time), time[-1]
                yield (
                    self._dense(table, time, names | {"group": groups}),
                    (offset == total),
                )

    def _dense(self, table: pa.Table, time: np.ndarray, names: dict) -> Log:
        feed = "query_id" not in table.column_names
        group = table["session_id" if feed else "query_id"]
        ids = pc.cast(self.items["item_id"], table["item_id"].type)
        item = pc.index_in(table["item_id"], ids.combine_chunks()).to_numpy()
        user, qid = names["user_id"](table["user_id"]), names["group"](group)
        query = np.zeros_like(user) if feed else names["query"](table["query"])
        label = pc.cast(table["label"], pa.int8(), safe=False).to_numpy()
        return Log(user, qid, query, item.astype(np.int64), time, label)


class _Names:
    """Dense rows of names in order of first appearance, as `load` gives them."""

    def __init__(self):
        self.rows: dict = {}
        self.next = 0

    def __call__(self, values: pa.ChunkedArray) -> np.ndarray:
        encoded = values.combine_chunks().dictionary_encode()
        names = encoded.dictionary.to_pylist()
        for name in names:
            if name not in self.rows:
                self.rows[name], self.next = self.next, self.next + 1
        mine = np.array([self.rows[name] for name in names], np.int64)
        return mine[encoded.indices.to_numpy()]

    def keep(self, rows: np.ndarray) -> None:
        """Forget all names but those of these rows."""
        wanted = set(np.unique(rows).tolist())
        self.rows = {name: row for name, row in self.rows.items() if row in wanted}


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False)  # else it keeps what it has read
    except (OSError, pa.ArrowInvalid) as error:
        cause = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read ({cause}); write it again") from error


def _check_order(time: np.ndarray, before: int | None, offset: int) -> None:
    steps = np.diff(time, prepend=time[0] if before is None else before)
    early = np.flatnonzero(steps < 0)
    if early.size:
        problem = f"{time[early[0]]} is earlier than the row before it"
        remedy = "sort the file by timestamp, or load it whole"
        fail(IMPRESSIONS, "timestamp", offset + int(early[0]), problem, remedy)


def _join(first: Log, second: Log) -> Log:
    pairs = ((getattr(first, f.name), getattr(second, f.name)) for f in fields(Log))
    return Log(*map(np.concatenate, pairs))


def _take(log: Log, mask: np.ndarray) -> Log:
    return Log(*(getattr(log, f.name)[mask] for f in fields(Log)))
