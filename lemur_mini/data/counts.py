"""Statistics at serving: counted event by event, read page by page."""

from __future__ import annotations

from array import array
from itertools import islice

import numpy as np

from lemur_mini.data.errors import DataError
from lemur_mini.data.loading import Dataset
from lemur_mini.data.rates import (
    EMPTY,
    FIRST,
    LAST,
    LAST_WATCH,
    NEVER,
    RESIDUAL,
    SHOWN,
    WATCHED,
    Documents,
    rate,
    residuals,
    values,
    whole,
)
from lemur_mini.data.statistics import KEPT, PAIRS, Statistics


class Counts(Documents):
    """What `Statistics` reads, event by event. Equal to it bit for bit where a page is
    read at its start.

    Users and documents are rows; a user below 0 is unknown and is not counted."""

    def __init__(self, born: np.ndarray, category: np.ndarray | None = None):
        """born: (N,) as of `created`; category: (N,) as of `categories`."""
        super().__init__(born, category)
        self.table: dict[tuple, list[int]] = {}
        self.recent: dict[int, array] = {}  # user: the newest KEPT, 2 x item + label
        self.waiting: list[tuple[int, int, int, int]] = []  # of the last second
        self.now = NEVER  # every event before it is counted

    @classmethod
    def of(cls, dataset: Dataset) -> Counts:
        """What a whole log has counted."""
        past = Statistics.of(dataset)
        past.settle(dataset.log.timestamp[-1] + 1)
        counts = cls(past.born, past.category)
        counts.now = past.since
        for name, rows in past.counted.items():
            for key in np.flatnonzero(rows[:, SHOWN]).tolist():
                counts.table[name, key] = rows[key].tolist()
        events = past.events
        columns = (events[n].tolist() for n in ("user", "item", "time", "label"))
        for event in zip(*columns, strict=True):
            counts._meet(*event)
        return counts

    def update(self, user: int, item: int, time: float, label: int) -> None:
        """Count one impression. It is read of from the next second on. Raises DataError
        for one that is earlier than one before."""
        time = int(whole(time))
        self._until(time)
        self.waiting.append((user, item, time, label))

    def read(self, user: int, item: np.ndarray, time: float) -> np.ndarray:
        """The numbers (S, F) of documents (S,) on a page that begins at `time`. Raises
        DataError where later events were counted already."""
        time = int(whole(time))
        self._until(time)
        keys = [self._keys(user, int(row)) for row in item]
        counts = {
            name: np.array([self._of(key[name]) for key in keys])
            for name in self._keys(user, 0)
        }
        when = np.full(len(keys), time)
        return values(counts, when, self.born[np.asarray(item)])

    def _keys(self, user: int, item: int) -> dict[str, tuple]:
        keys = {"all": (0,), "document": (item,), "user": (user,), "both": (user, item)}
        if self.category is not None:
            own = int(self.category[item])
            keys |= {"category": (own,), "user_category": (user, own)}
        return {name: (name, *key) for name, key in keys.items()}

    @property
    def latest(self) -> int:
        """Time of the last event that was counted or waits."""
        return self.waiting[-1][2] if self.waiting else self.now - 1

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is counted, as arrays for a file: keys (M, K) and counts (M, 6) of
        each kind. What waits is counted first: the last second is over."""
        self._until(self.latest + 1)
        out = super().arrays() | {"now": np.array([self.now])}
        for kind in sorted({key[0] for key in self.table}):
            rows = [(key[1:], row) for key, row in self.table.items() if key[0] == kind]
            out[f"{kind} keys"] = np.array([key for key, _ in rows])
            out[f"{kind} counts"] = np.array([row for _, row in rows])
        out["recent users"] = np.array(list(self.recent), np.int64)
        out["recent counts"] = np.array(list(map(len, self.recent.values())), np.int64)
        out["recent events"] = np.array(
            [event for some in self.recent.values() for event in some], np.int64
        )
        return out

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> Counts:
        """What `arrays` gave."""
        counts = cls(arrays["born"], arrays.get("category"))
        counts.now = int(arrays["now"][0])
        for name in arrays:
            kind, _, part = name.rpartition(" ")
            if part == "keys":
                rows = zip(arrays[name], arrays[f"{kind} counts"], strict=True)
                counts.table |= {(kind, *k.tolist()): row.tolist() for k, row in rows}
        users, many, events = (
            arrays[f"recent {part}"].tolist() for part in ("users", "counts", "events")
        )
        rest = iter(events)
        counts.recent = {
            u: array("q", islice(rest, n)) for u, n in zip(users, many, strict=True)
        }
        return counts

    def _of(self, key: tuple) -> list[int] | tuple[int, ...]:
        return self.table.get(key, EMPTY)

    def _until(self, time: int) -> None:
        """Count what waits and is earlier than `time`."""
        low = self.waiting[0][2] if self.waiting else self.now
        if time < low:
            raise DataError(
                f"time {time} is before {low}, which was counted already; "
                "statistics go forward in time"
            )
        if self.waiting and low < time:
            seen, self.waiting, self.now = self.waiting, [], low + 1
            every = np.array([self._of(("all", 0))])
            chance = [
                rate(np.array([self._of(("document", e[1]))]), every)[0] for e in seen
            ]
            extra = residuals(np.array([e[3] for e in seen]), np.array(chance))
            for event, more in zip(seen, extra.tolist(), strict=True):
                self._count(*event, more)

    def _count(self, user: int, item: int, time: int, label: int, more: int) -> None:
        for name, key in self._keys(user, item).items():
            if name not in PAIRS:
                self._add(key, time, label, more)
        if user >= 0:
            self._meet(user, item, time, label)

    def _meet(self, user: int, item: int, time: int, label: int) -> None:
        """Count a user with a document; what is older than the newest KEPT is not."""
        recent = self.recent.setdefault(user, array("q"))
        recent.append(2 * item + label)
        old = recent.pop(0) if len(recent) > KEPT else None
        for name in PAIRS:
            if (key := self._keys(user, item).get(name)) is not None:
                self._add(key, time, label, 0)
            if old is not None and (key := self._keys(user, old // 2).get(name)):
                self._take(key, old % 2)

    def _add(self, key: tuple, time: int, label: int, more: int) -> None:
        if min(key[1:], default=0) < 0:
            return
        row = self.table.setdefault(key, list(EMPTY))
        row[SHOWN] += 1
        row[WATCHED] += label
        row[FIRST] = time if row[FIRST] == NEVER else row[FIRST]
        row[LAST] = time
        row[LAST_WATCH] = time if label else row[LAST_WATCH]
        row[RESIDUAL] += more

    def _take(self, key: tuple, label: int) -> None:
        if key in self.table:
            row = self.table[key]
            row[SHOWN] -= 1
            row[WATCHED] -= label
            if not row[SHOWN]:
                del self.table[key]
