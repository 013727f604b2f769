"""Pages of a log that is larger than memory, from parquet in time order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa

from lemur_mini.data.columns import is_text
from lemur_mini.data.errors import DataError, Origin, fail
from lemur_mini.data.folders import read_about
from lemur_mini.data.joins import encode, group_of, item_rows
from lemur_mini.data.loading import Log
from lemur_mini.data.pages import PAD, Batch, Pages, make_batch
from lemur_mini.data.parts import blocks
from lemur_mini.data.schema import IMPRESSIONS, ITEMS, LOGGED, read_items, read_log
from lemur_mini.data.times import seconds, ticks


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
    that comes back later begins a new one). It knows no periods: a session that lasts
    from one into the next stays whole. The file, or folder of parts, must be in time
    order; raises DataError, naming the first row that is not, and whatever else `load`
    refuses."""

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
        self.unit = read_about(self.folder).get("time_unit")
        found = [t for t, _ in blocks(self.folder / ITEMS, 2**16, ("item_id",))]
        self.items = read_items(pa.concat_tables(found).select(range(1)))

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
            mine = log.label == 1
            new = log.user[mine], log.item[mine], log.timestamp[mine]
            watches = new if watches is None else _append(watches, new)
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
                old = *old, np.full(len(old[0]), before - 1)
                yield Pages(block, self.size, _append(old, watches))
            past = watches[2] < cut  # before every session that is still to come
            recent.push(*(part[past] for part in watches[:2]))
            watches = tuple(part[~past] for part in watches)

    def _logs(self, groups: _Names) -> Iterator[tuple[Log, bool]]:
        """The file in pieces with dense ids, and whether it is the last piece."""
        names, offset, before = {"user_id": _Names(), "query": _Names()}, 0, None
        names["group"], kinds = groups, None
        for table, last in blocks(self.folder / IMPRESSIONS, self.chunk, LOGGED):
            try:
                table = read_log(table, self.items, unit=self.unit)
            except DataError as error:
                raise DataError(f"{error} (rows count from row {offset})") from None
            kinds = _check_kinds(table, kinds, offset)
            log = self._dense(table, names)
            _check_order(ticks(table["timestamp"]), log.timestamp, before, offset)
            offset, before = offset + len(log.label), log.timestamp[-1]
            yield log, last

    def _dense(self, table: pa.Table, names: dict) -> Log:
        group, time = group_of(table), seconds(table["timestamp"])
        where = Origin(IMPRESSIONS), Origin(ITEMS)
        item = item_rows(table, self.items, *where)
        user, qid = names["user_id"](table["user_id"]), names["group"](table[group[0]])
        query = names["query"](table["query"]) if group[1:] else np.zeros_like(user)
        label = table["label"].to_numpy().astype(np.int8)
        return Log(user, qid, query, item, time, label)


class _Names:
    """Dense rows of names in order of first appearance, as `load` gives them."""

    def __init__(self):
        self.rows: dict = {}
        self.next = 0

    def __call__(self, values: pa.ChunkedArray) -> np.ndarray:
        codes, names = encode(values)
        names = names.to_pylist()
        for name in names:
            if name not in self.rows:
                self.rows[name], self.next = self.next, self.next + 1
        return np.array([self.rows[name] for name in names], np.int64)[codes]

    def keep(self, rows: np.ndarray) -> None:
        """Forget all names but those of these rows."""
        wanted = set(np.unique(rows).tolist())
        self.rows = {name: row for name, row in self.rows.items() if row in wanted}


def _check_kinds(table: pa.Table, before: dict | None, offset: int) -> dict:
    """Ids are texts throughout, or numbers throughout."""
    columns = ("user_id", group_of(table)[0])
    kinds = {name: is_text(table[name].type) for name in columns}
    for name in kinds if before else ():
        if kinds[name] != before.get(name):
            problem = "texts and numbers stand in one column of ids"
            fail(IMPRESSIONS, name, offset, problem, "write all parts in one type")
    return kinds


def _check_order(ticks: np.ndarray, time: np.ndarray, before, offset: int) -> None:
    early = np.flatnonzero(np.diff(ticks, prepend=ticks[0]) < 0)
    if before is not None and time[0] < before:
        early = [0]
    if len(early):
        problem = f"{time[early[0]]} is earlier than the row before it"
        remedy = "sort the file by timestamp, or load it whole"
        fail(IMPRESSIONS, "timestamp", offset + int(early[0]), problem, remedy)


def _append(first: tuple, second: tuple) -> tuple[np.ndarray, ...]:
    return tuple(map(np.concatenate, zip(first, second, strict=True)))


def _join(first: Log, second: Log) -> Log:
    pairs = ((getattr(first, f.name), getattr(second, f.name)) for f in fields(Log))
    return Log(*map(np.concatenate, pairs))


def _take(log: Log, mask: np.ndarray) -> Log:
    return Log(*(getattr(log, f.name)[mask] for f in fields(Log)))
