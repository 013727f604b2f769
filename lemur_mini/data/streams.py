"""Pages of a log that is larger than memory, in time order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa

from lemur_mini.data.columns import is_text
from lemur_mini.data.errors import DataError, Origin, fail
from lemur_mini.data.folders import read_about
from lemur_mini.data.joins import encode, group_of, item_rows
from lemur_mini.data.loading import Log
from lemur_mini.data.numbers import Numbers
from lemur_mini.data.pages import Batch, Pages, make_batch
from lemur_mini.data.past import LONGEST, Past, Recent, events
from lemur_mini.data.schema import IMPRESSIONS, ITEMS, LOGGED, read_items, read_log
from lemur_mini.data.sources import rows_of, tables_of
from lemur_mini.data.times import seconds, ticks

__all__ = ["PageStream", "Recent"]  # others look for it here


# Pages as arrays: when each begins and its QID, what `make_batch` takes, and by name
_Made = tuple[tuple, tuple, dict]


@dataclass(frozen=True)
class Deal:
    """How several readers of one log share its pages out, by user: all read all rows,
    and each makes the pages of its own users.

    exchange: gives every reader what each of them has, in order; all call it alike."""

    reader: int
    readers: int
    exchange: Callable[[object], list]

    def own(self, log: Log) -> Log:
        """The rows of this reader's users."""
        return _take(log, log.user % self.readers == self.reader)

    def together(self, own: _Made | None) -> _Made:
        """The pages that all have made, in the order in which one reader makes them."""
        parts = [part for part in self.exchange(own) if part is not None]
        keys, arrays, more = zip(*parts, strict=True)
        start, qid = map(np.concatenate, zip(*keys, strict=True))
        order = np.lexsort((qid, start))  # stable: a session is one reader's
        arrays = (np.concatenate(part)[order] for part in zip(*arrays, strict=True))
        named = {k: np.concatenate([m[k] for m in more])[order] for k in more[0]}
        return (start[order], qid[order]), tuple(arrays), named


class PageStream:
    """The batches of `Pages.stream`, read `chunk` impressions at a time.

    source: a folder (see `sources.places`), or a pair of items and impressions: lists
    of paths, Arrow tables, or what `datasets` streams. Memory holds item ids, distinct
    users and query texts, `length` watched rows a user (and `seen` shown ones), and the
    impressions of the last `longest` seconds: no session may last longer (an id that
    comes back later begins a new one). It knows no periods: a session that lasts from
    one into the next, or from one file into the next, stays whole.

    past: of the parts of the log before this one. Rows that it has seen are skipped,
    users and queries keep their rows (`known` lists their names, `items` all ids of the
    catalogue in theirs), histories go on, and a session that began in it is cut where
    this part begins, as `Pages.cut_at` would. `after`, at the end: that of the next.
    numbers: what makes the dense features of a past that has begun to count. deal:
    where several processes read the log together; they get the same batches as one.

    The log must be in time order; raises DataError, naming the first row that is not,
    and whatever else `load` refuses."""

    def __init__(
        self,
        source: str | Path | tuple,
        size: int,
        length: int,
        longest: int = LONGEST,
        chunk: int = 2**18,
        *,
        seen: int = 0,
        past: Past | None = None,
        known: dict[str, list] | None = None,
        items: np.ndarray | None = None,
        numbers: Numbers | None = None,
        deal: Deal | None = None,
    ):
        self.numbers, self.deal = numbers, deal
        self.size, self.length, self.seen = size, length, seen
        self.longest, self.chunk = longest, chunk
        folder = None if isinstance(source, tuple) else Path(source)
        self.unit = read_about(folder).get("time_unit") if folder else None
        found, self.log = tables_of(source)
        self.items = ids_of(found, folder) if items is None else _table(items)
        if self.log is None:
            problem = f"{(folder or Path()) / IMPRESSIONS}: not found, nor shards of it"
            raise DataError(f"{problem}, nor date= folders; write it, or parts of it")
        self.past, self.after = past, None
        self.users, self.queries = _Names(), _Names()
        for name in ("users", "queries") if known else ():
            getattr(self, name).take(known[name])
        self.skipped = self.straddling = 0  # rows; sessions cut where this part begins

    def stream(self, pages: int) -> Iterator[Batch]:
        """All pages in time order of their sessions, `pages` at a time."""
        held: list[tuple] = []
        for count, take in map(self._made, self._blocks()):
            low = 0
            while low < count:
                missing = pages - sum(len(part[0]) for part, _ in held)
                held.append(take(slice(low, low + missing)))
                low += len(held[-1][0][0])
                if len(held[-1][0][0]) == missing:
                    yield _joined(held)
                    held = []
        if held:
            yield _joined(held)

    def _made(self, block: Pages | None) -> tuple[int, Callable[[slice], tuple]]:
        """How many pages of a block are new, and what gives some of them."""
        if self.deal:
            own = None
            if block is not None:
                mine = _new(block)
                keys = block.start[mine], block.qid[mine]
                own = keys, block.arrays(mine, self.length), block.more(mine)
            (start, _), arrays, more = self.deal.together(own)
            return len(start), lambda some: (
                tuple(part[some] for part in arrays),
                {name: part[some] for name, part in more.items()},
            )
        assert block is not None  # one reader has all users
        mine = _new(block)
        return len(mine), lambda some: (
            block.arrays(mine[some], self.length),
            block.more(mine[some]),
        )

    def _blocks(self) -> Iterator[Pages | None]:
        """Pages of all sessions that have ended, whenever some have; of this reader's
        users, None where there are none of them."""
        past = self.past.copy() if self.past else Past.empty(self.length, self.seen)
        trails, settled, groups = past.trails(), past.cut, _Names()
        groups.rows, groups.next = dict(past.groups), past.sessions
        rows = past.tail  # not yet on a page, or of the past
        for log in self._logs(groups, past):
            for name, trail in trails.items():
                trail.add(*events(log)[name])
            if past.statistics is not None:
                past.statistics.add(log.user, log.item, log.timestamp, log.label)
            rows = log if rows is None else _join(rows, log)
            since, start = _beginnings(rows)
            cut = rows.timestamp[-1] - self.longest
            ended = start < cut
            if ended.any():
                block, rows = _take(rows, ended), _take(rows, ~ended)
                groups.keep(rows.qid)
                yield self._pages(block, past, settled)
            settled = max(settled, min([cut, *since[~ended][:1]]))
            for trail in trails.values():  # before every session still to come
                trail.settle(settled)
            if past.statistics is not None:
                past.statistics.settle(settled)
        yield self._pages(rows, past, settled)
        past.until = _following(rows.timestamp[-1])
        past.cut, past.tail = np.asarray(settled).item(), _done(rows)
        past.groups, past.sessions = list(groups.rows.items()), groups.next
        past.known = {"users": self.users.next, "queries": self.queries.next}
        self.after = past

    def _pages(self, block: Log, past: Past, before) -> Pages | None:
        """Of sessions that began at `before` or later."""
        old, new = (block.qid[block.period == k] for k in (0, 1))
        self.straddling += len(np.intersect1d(old, new))
        block = self.deal.own(block) if self.deal else block
        if not len(block.user):
            return None
        users, time = np.unique(block.user), np.nextafter(before, -np.inf)
        known = {name: t.before(users, time) for name, t in past.trails().items()}
        pages = Pages(
            block, self.size, known["watched"], seen=self.seen, shown=known.get("shown")
        )
        if self.numbers is not None:
            pages.dense = self.numbers(pages, past, self.queries.names)
        return pages

    def _logs(self, groups: _Names, past: Past) -> Iterator[Log]:
        """The log in pieces, with dense ids and without what the past has seen."""
        offset, before, last = 0, None, None
        for table in rows_of(self.log, self.chunk, LOGGED):
            try:
                table = read_log(table, self.items, unit=self.unit)
            except DataError as error:
                raise DataError(f"{error} (rows count from row {offset})") from None
            _check_texts(table, past.texts, offset)
            time, tick = seconds(table["timestamp"]), ticks(table["timestamp"])
            _check_order(tick, time, before, offset)
            offset, before = offset + len(time), time[-1]
            new = time >= past.until
            self.skipped += int((~new).sum())
            if new.any():
                last = self._dense(table.filter(pa.array(new)), groups)
                yield last
        if last is None:
            problem = f"ends at {before}, and all before {past.until} has been seen"
            fail(IMPRESSIONS, "timestamp", None, problem, "give the days after it")

    def _dense(self, table: pa.Table, groups: _Names) -> Log:
        group, time = group_of(table), seconds(table["timestamp"])
        where = Origin(IMPRESSIONS), Origin(ITEMS)
        item = item_rows(table, self.items, *where)
        user, qid = self.users(table["user_id"]), groups(table[group[0]])
        query = self.queries(table["query"]) if group[1:] else np.zeros_like(user)
        label = table["label"].to_numpy().astype(np.int8)
        return Log(user, qid, query, item, time, label, np.ones_like(user))


class _Names:
    """Dense rows of names in order of first appearance, as `load` gives them."""

    def __init__(self):
        self.rows: dict = {}
        self.names: list = []  # by row, for those who read while others write
        self.next = 0

    def __call__(self, values: pa.ChunkedArray) -> np.ndarray:
        codes, names = encode(values)
        names = names.to_pylist()
        self.take(name for name in names if name not in self.rows)
        return np.array([self.rows[name] for name in names], np.int64)[codes]

    def take(self, names) -> None:
        """Rows for new names."""
        for name in names:
            self.rows[name], self.next = self.next, self.next + 1
            self.names.append(name)

    def keep(self, rows: np.ndarray) -> None:
        """Forget all names but those of these rows."""
        wanted = set(np.unique(rows).tolist())
        self.rows = {name: row for name, row in self.rows.items() if row in wanted}
        self.names = []


def ids_of(items, folder: Path | None) -> pa.Table:
    """The item ids of a catalogue, each once. Raises DataError."""
    if items is None:
        raise DataError(
            f"{(folder or Path()) / ITEMS}: not found; write one row an item"
        )
    found = list(rows_of(items, 2**16, ("item_id",)))
    return read_items(pa.concat_tables(found).select(range(1)))


def _table(ids: np.ndarray) -> pa.Table:
    return pa.table({"item_id": pa.array(ids.tolist())})


def _new(block: Pages) -> np.ndarray:
    """Pages that the past has not seen."""
    return np.flatnonzero(block.log.period[block.rows[:, 0]] > 0)


def _joined(held: list[tuple]) -> Batch:
    arrays, more = zip(*held, strict=True)
    named = {name: np.concatenate([part[name] for part in more]) for name in more[0]}
    return make_batch(*map(np.concatenate, zip(*arrays, strict=True)), **named)


def _check_texts(table: pa.Table, before: dict[str, bool], offset: int) -> None:
    """Ids are texts throughout, or numbers throughout: now and in the past."""
    for name in ("user_id", group_of(table)[0]):
        now = is_text(table[name].type)
        if before.setdefault(name, now) != now:
            problem = "texts and numbers stand in one column of ids"
            fail(IMPRESSIONS, name, offset, problem, "write all parts in one type")


def _check_order(ticks: np.ndarray, time: np.ndarray, before, offset: int) -> None:
    early = np.flatnonzero(np.diff(ticks, prepend=ticks[0]) < 0)
    if before is not None and time[0] < before:
        early = [0]
    if len(early):
        problem = f"{time[early[0]]} is earlier than the row before it"
        remedy = "sort the file by timestamp, or load it whole"
        fail(IMPRESSIONS, "timestamp", offset + int(early[0]), problem, remedy)


def _beginnings(rows: Log) -> tuple[np.ndarray, np.ndarray]:
    """When the session of each row (I,) began, and when its rows of this part did:
    pages come in order of the latter, histories end at the former."""
    _, first, session = np.unique(rows.qid, return_index=True, return_inverse=True)
    since = rows.timestamp[first]
    start, new = since.copy(), np.flatnonzero(rows.period > 0)
    mine, first = np.unique(session[new], return_index=True)
    start[mine] = rows.timestamp[new[first]]
    return since[session], start[session]


def _join(first: Log, second: Log) -> Log:
    pairs = ((getattr(first, f.name), getattr(second, f.name)) for f in fields(Log))
    return Log(*map(np.concatenate, pairs))


def _take(log: Log, mask: np.ndarray) -> Log:
    return Log(*(getattr(log, f.name)[mask] for f in fields(Log)))


def _following(time):
    """The first moment after this one, as log times are kept."""
    whole = isinstance(time, np.integer)
    return int(time) + 1 if whole else float(np.nextafter(time, np.inf))


def _done(log: Log) -> Log:
    """The same rows, as rows of the past."""
    parts = {f.name: getattr(log, f.name) for f in fields(Log)}
    return Log(**parts | {"period": np.zeros_like(log.period)})
