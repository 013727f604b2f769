"""Pages and batches: who saw what, when, and what that user had watched before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from lemur_mini.data.loading import Log

PAD = -1  # row of no document


@dataclass(frozen=True)
class Batch:
    """P pages of up to S impressions each; rows of documents are PAD where empty."""

    user: Tensor  # (P,)
    query: Tensor  # (P,) row of the query's text
    qid: Tensor  # (P,)
    item: Tensor  # (P, S)
    label: Tensor  # (P, S) float
    history: Tensor  # (P, L) watched documents before the session, newest first
    unique_items: Tensor  # (U,) distinct documents of the batch
    item_index: Tensor  # (P, S) place of items in `unique_items`, 0 where padded
    queries: Tensor  # (Q,) distinct query texts of the batch
    query_index: Tensor  # (P,) place of every page's query in `queries`
    seen: Tensor | None = None  # (P, K) what the user was shown before, newest first
    taken: Tensor | None = None  # (P, K) whether it was watched
    # dense features of impressions (P, S, F), 0 where empty; None: no group uses them
    statistics: Tensor | None = None
    match: Tensor | None = None
    context: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """(P, S), True where there is an impression."""
        return self.item >= 0

    def _parts(self) -> dict[str, Tensor]:
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: part for name, part in parts.items() if part is not None}

    def pages(self, index: slice) -> Batch:
        """Some of its pages; what is distinct stays that of all, where places point."""
        parts = self._parts()
        for name in parts.keys() - {"unique_items", "queries"}:
            parts[name] = parts[name][index].contiguous()
        return Batch(**parts)

    def cropped(self, multiple: int = 1) -> Batch:
        """Without columns that are padding on every page; a multiple of columns stays
        of the history."""
        parts = {"history": self.history[:, : _longest(self.history, multiple)]}
        if self.seen is not None:
            most = _longest(self.seen, 1)
            parts |= {"seen": self.seen[:, :most], "taken": self.taken[:, :most]}
        return replace(self, **parts)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(**{k: moved(v, device) for k, v in self._parts().items()})


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device. To a GPU it goes through pinned memory: else the host
    would wait until the copy is done."""
    if torch.device(device).type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _longest(rows: Tensor, multiple: int) -> int:
    """Columns (P, L) that hold something, at least one multiple."""
    most = int((rows >= 0).sum(dim=1).max()) if len(rows) else 0
    return min(max(1, -(-most // multiple)) * multiple, rows.shape[1])


def make_batch(user, query, qid, item, label, history, **more) -> Batch:
    """A batch of these arrays, shaped as in `Batch`, with its distinct documents and
    queries: found here, as on a GPU the host would have to wait for them."""
    unique, inverse = np.unique(item[item >= 0], return_inverse=True)
    place = np.zeros_like(item)
    place[item >= 0] = inverse
    distinct = unique, place, *np.unique(query, return_inverse=True)
    arrays = user, query, qid, item, label, history, *distinct
    more = {k: torch.from_numpy(np.ascontiguousarray(a)) for k, a in more.items()}
    return Batch(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays), **more)


class Pages:
    """The log cut into pages, in time order of their sessions.

    A page holds up to `size` impressions of one QID and one period (`Log.period`): a
    session that lasts from one period into the next is cut there, so that every row is
    trained on or tested by its own time. Histories hold what the user watched (label 1)
    strictly before the first impression of that QID: never the session's own
    impressions, never later ones. # our choice: also after a cut, so that where a
    period begins changes what a row is used for and nothing that a model sees of it."""

    def __init__(
        self,
        log: Log,
        size: int,
        watches: tuple | None = None,
        *,
        seen: int = 0,
        dense: dict[str, np.ndarray] | None = None,
        shown: tuple | None = None,
    ):
        """watches: user, item and time (W,) in time order, where histories hold more
        than this log shows (see `PageStream`). seen: how many documents that the user
        was shown before batches name; shown: as `watches`, of these, ~item where it was
        not watched. dense: groups of numbers of impressions, (I, F) each, such as
        `statistics`, where batches are to hold them."""
        self.log, self.size, self._watches = log, size, watches
        self.seen, self.dense, self._shown = seen, dense or {}, shown
        order = np.lexsort((np.arange(len(log.qid)), log.qid))  # by QID, then time
        qid = log.qid[order]
        first = np.r_[True, qid[1:] != qid[:-1]]  # of a session, below: of its part
        new = np.flatnonzero(first | (np.diff(log.period[order], prepend=-1) != 0))
        start = log.timestamp[order[new]]
        since = log.timestamp[order[np.flatnonzero(first)[np.cumsum(first)[new] - 1]]]
        lengths = np.diff(np.r_[new, len(qid)])
        chunks = -(-lengths // size)  # pages of every part
        session = np.repeat(np.arange(len(new)), chunks)
        part = np.arange(len(session)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
        place = (new[session] + part * size)[:, None] + np.arange(size)
        inside = place < (new + lengths)[session][:, None]
        rows = np.where(inside, order[np.minimum(place, len(order) - 1)], PAD)
        by_time = np.lexsort((part, session, start[session]))
        self.rows = rows[by_time]  # (pages, S) rows of the log, PAD where empty
        self.start = start[session][by_time]  # (pages,) unix seconds, of the part
        self.since = since[session][by_time]  # ... of the session
        head = self.rows[:, 0]
        self.user, self.qid, self.query = log.user[head], log.qid[head], log.query[head]
        if watches is None:
            mine = log.label == 1
            watches = log.user[mine], log.item[mine], log.timestamp[mine]
        self.watched = self._by_user(*watches)
        if seen:
            signed = np.where(log.label == 1, log.item, ~log.item)  # below 0: skipped
            shown = shown or (log.user, signed, log.timestamp)
            self.shown_before = self._by_user(*shown)

    def _by_user(self, user, item, time) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Events (W,) in order of user, then time: their items, and from where to where
        (pages,) those lie that came before the session of a page."""
        order = np.argsort(user, kind="stable")
        # moments by number: sums of floats are not exact
        moments = np.unique(np.concatenate([time, self.since]))
        key = user[order] * len(moments) + np.searchsorted(moments, time[order])
        mine = self.user * len(moments)
        begin = np.searchsorted(key, mine)
        end = np.searchsorted(key, mine + np.searchsorted(moments, self.since))
        return item[order], begin, end

    def __len__(self) -> int:
        return len(self.rows)

    def between(self, start: int | None, end: int | None) -> np.ndarray:
        """Indices of the pages that begin in [start, end). No row of theirs is later
        where both are starts of periods, or the pages are `cut_at` them."""
        low = 0 if start is None else np.searchsorted(self.start, start)
        high = len(self) if end is None else np.searchsorted(self.start, end)
        return np.arange(low, high)

    def cut_at(self, *times: int | None) -> Pages:
        """These pages, or, where one lasts from before one of these times (unix
        seconds) until after it, the pages of the same log with periods begun there."""
        last = self.log.timestamp[self.rows.max(axis=1)]
        known = [time for time in times if time is not None]
        cuts = [t for t in known if ((self.start < t) & (last >= t)).any()]
        if not cuts:
            return self
        period = self.log.period + sum((self.log.timestamp >= t) * 1 for t in cuts)
        return Pages(
            replace(self.log, period=period),
            self.size,
            self._watches,
            seen=self.seen,
            dense=self.dense,
            shown=self._shown,
        )

    def shown(self, index: np.ndarray) -> np.ndarray:
        """Rows (B,) of the log on the pages at these indices, in their order."""
        rows = self.rows[index]
        return rows[rows >= 0]

    def history(self, index: np.ndarray, length: int) -> np.ndarray:
        """(len(index), length) rows of watched documents, newest first, then PAD."""
        return _latest(self.watched, index, length)[0]

    def arrays(self, index: np.ndarray, length: int) -> tuple[np.ndarray, ...]:
        """What `make_batch` takes of the pages at these indices."""
        rows = self.rows[index]
        item = np.where(rows >= 0, self.log.item[rows], PAD)
        label = np.where(rows >= 0, self.log.label[rows], 0).astype(np.float32)
        head = self.user[index], self.query[index], self.qid[index]
        return *head, item, label, self.history(index, length)

    def more(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """... and what it takes by name, where it was asked for."""
        rows = self.rows[index]
        inside = (rows >= 0)[..., None]
        out = {k: np.where(inside, v[rows], 0) for k, v in self.dense.items()}
        if self.seen:
            row, known = _latest(self.shown_before, index, self.seen)
            out["taken"] = taken = known & (row >= 0)
            out["seen"] = np.where(known & ~taken, ~row, row)
        return out

    def batch(self, index: np.ndarray, length: int) -> Batch:
        """The pages at these indices, with histories of this length."""
        return make_batch(*self.arrays(index, length), **self.more(index))

    def stream(self, index: np.ndarray, pages: int, length: int) -> Iterator[Batch]:
        """The pages in the order given, `pages` at a time."""
        for low in range(0, len(index), pages):
            yield self.batch(index[low : low + pages], length)


def _latest(events: tuple, index: np.ndarray, length: int) -> tuple:
    """The last events before these pages, newest first, then PAD; and which there are.
    Both (len(index), length)."""
    items, begin, end = events
    place = end[index][:, None] - 1 - np.arange(length)
    inside = place >= begin[index][:, None]
    if not len(items):
        return np.full(place.shape, PAD), inside
    return np.where(inside, items[np.maximum(place, 0)], PAD), inside
