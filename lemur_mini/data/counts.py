"""Statistics at serving: counted event by event, read page by page."""

from __future__ import annotations

import numpy as np

from lemur_mini.data.errors import DataError
from lemur_mini.data.loading import Dataset
from lemur_mini.data.statistics import (
    FIRST,
    LAST,
    LAST_WATCH,
    NEVER,
    RESIDUAL,
    SHOWN,
    WATCHED,
    Past,
    rate,
    residuals,
    values,
    whole,
)

EMPTY = (0, 0, NEVER, NEVER, NEVER, 0)  # counts of what was never seen


class Counts:
    """What `Past` reads of a log, of a log that goes on. Equal to it bit for bit where
    a page is read at its start.

    Users and documents are rows; a user below 0 is unknown and is not counted."""

    def __init__(self, born: np.ndarray, category: np.ndarray | None = None):
        """born: (N,) as of `created`; category: (N,) as of `categories`."""
        self.born, self.category = born, category
        self.table: dict[tuple, list[int]] = {}
        self.waiting: list[tuple[int, int, int, int]] = []  # of the last second
        self.now = NEVER  # every event before it is counted

    @classmethod
    def of(cls, dataset: Dataset) -> Counts:
        """What a whole log has counted."""
        past = Past(dataset)
        counts = cls(past.born, past.category)
        counts.now = int(whole(dataset.log.timestamp[-1])) + 1
        for name, key in past.found.items():
            number = past.number(name, key)
            rows = past.tables[name].before(number, np.full(len(number), counts.now))
            for each, row, there in zip(key.T, rows, number >= 0, strict=True):
                if there:
                    counts.table[name, *each.tolist()] = row.tolist()
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

    def grow(self, born: np.ndarray, category: np.ndarray | None = None) -> None:
        """More documents at the end of the catalogue."""
        self.born = np.concatenate([self.born, born])
        if self.category is not None:
            self.category = np.concatenate([self.category, category])

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
        out = {"now": np.array([self.now]), "born": self.born}
        if self.category is not None:
            out["category"] = self.category
        for kind in sorted({key[0] for key in self.table}):
            rows = [(key[1:], row) for key, row in self.table.items() if key[0] == kind]
            out[f"{kind} keys"] = np.array([key for key, _ in rows])
            out[f"{kind} counts"] = np.array([row for _, row in rows])
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
        for key in self._keys(user, item).values():
            if min(key[1:], default=0) < 0:
                continue
            row = self.table.setdefault(key, list(EMPTY))
            row[SHOWN] += 1
            row[WATCHED] += label
            row[FIRST] = time if row[FIRST] == NEVER else row[FIRST]
            row[LAST] = time
            row[LAST_WATCH] = time if label else row[LAST_WATCH]
            row[RESIDUAL] += more
