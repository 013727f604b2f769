"""Statistics: what had been counted of a document, its user and both before a page.

What every ranker in production has beside a network. All of it is causal: a page reads
events strictly before the first impression of its QID, as histories do, so that events
of its own session, of the same second and of the future never count.

One rule for a table, for a stream that reads it in parts, and for serving (`Counts`):
everything that ever happened counts, of a document, a category and a user. What is
counted of a user with a document or a category (both_*, user_category_*) is counted
among the user's newest KEPT impressions, for there are as many such pairs as
impressions. What has to be kept so grows with documents and users alone."""

from __future__ import annotations

import copy

import numpy as np

from lemur_mini.data.errors import DataError
from lemur_mini.data.loading import Dataset, Log
from lemur_mini.data.rates import (
    CATEGORY_NAMES,
    EMPTY,
    FIRST,
    LAST,
    LAST_WATCH,
    NAMES,
    NEVER,
    RESIDUAL,
    SHOWN,
    WATCHED,
    Table,
    rate,
    residuals,
    values,
    whole,
)

# Impressions of a user among which pairs are counted. # our choice: more than the
# busiest of our real logs has; one that is kept takes 25 bytes.
KEPT = 65_536
CATEGORY = "category"  # the column that says so, where there is one
EVENTS = {"user": "i4", "item": "i4", "time": "i8", "label": "i1"}
EVENTS |= {"residual": "i4", "place": "i4"}  # place: among the user's impressions


class Statistics:
    """A log's statistics, readable for any user, document and time since the last
    `settle`: what was counted before that, and the events since."""

    def __init__(self, born: np.ndarray, category: np.ndarray | None = None):
        """born: (N,) as of `created`; category: (N,) as of `categories`."""
        self.born, self.category = born, category
        self.since = NEVER  # events before this second are counted
        self.counted = {name: _empty(0) for name in self._keys(*_nothing(2))}
        self.events = {n: np.zeros(0, kind) for n, kind in EVENTS.items()}  # in order
        self.done = 0  # of these, counted: pairs need them
        self._tables: dict[str, Table] = {}  # of these events

    @classmethod
    def of(cls, dataset: Dataset, until: float = np.inf) -> Statistics:
        """Of a log, or of what is before `until`."""
        new, log = cls(created(dataset), categories(dataset)), dataset.log
        old = log.timestamp < until
        new.add(*(x[old] for x in (log.user, log.item, log.timestamp, log.label)))
        return new

    def add(self, user, item, time, label) -> None:
        """Events (E,) in time order, none earlier than before."""
        new = {"user": user, "item": item, "time": whole(time), "label": label}
        new |= {"residual": np.zeros_like(item), "place": self._places(user)}
        old, self._tables = self.events, {}
        self.events = {n: np.r_[old[n], new[n]].astype(EVENTS[n]) for n in EVENTS}
        parts = (("document", item), ("all", np.zeros_like(item)))
        chance = rate(*(self._before(name, key, new["time"]) for name, key in parts))
        self.events["residual"][len(old["item"]) :] = residuals(label, chance)
        self._tables = {}

    def read(self, user: np.ndarray, item: np.ndarray, when: np.ndarray) -> np.ndarray:
        """(R, F) of documents and users (rows, (R,)) on pages that begin at a time.
        Raises DataError for a time of which only sums are left."""
        when = whole(when)
        if len(when) and when.min() < self.since:
            problem = f"time {when.min()} is before {self.since}, up to which all is"
            raise DataError(f"{problem} summed; statistics go forward in time")
        keys = self._keys(user, item)
        counts = {name: self._before(name, key, when) for name, key in keys.items()}
        shown = counts["user"][:, SHOWN]  # place of the user's next impression
        for name, key in self._pairs(user, item).items():
            counts[name] = self._met(name, key).between(key, shown - KEPT, shown)
        return values(counts, when, self.born[item])

    def settle(self, cut: float) -> None:
        """Nobody asks any more what was known before `cut`."""
        if not np.isfinite(cut) or whole(cut) <= self.since:
            return
        self.since, low = int(whole(cut)), self.done
        self.done = int(np.searchsorted(self.events["time"], self.since))
        new = {name: x[low : self.done] for name, x in self.events.items()}
        for name, key in self._keys(new["user"], new["item"]).items():
            self.counted[name] = _counted(self.counted[name], key, new)
        total = self.counted["user"][:, SHOWN]
        user, place = self.events["user"], self.events["place"]
        kept = np.arange(len(user)) >= self.done  # what is not counted yet stays
        kept[: self.done] = place[: self.done] >= total[user[: self.done]] - KEPT
        self.done = int(kept[: self.done].sum())
        self.events = {name: x[kept] for name, x in self.events.items()}
        self._tables = {}

    def grow(self, born: np.ndarray, category: np.ndarray | None = None) -> None:
        """More documents at the end of the catalogue."""
        self.born = np.concatenate([self.born, born])
        if self.category is not None:
            self.category = np.concatenate([self.category, category])

    def copy(self) -> Statistics:
        """Another that goes on by itself; arrays are never written into."""
        new = copy.copy(self)
        new.counted, new._tables = dict(self.counted), {}
        return new

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return NAMES + (CATEGORY_NAMES if self.category is not None else ())

    # --- for a file -------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it."""
        out = {"born": self.born, "since": np.array([self.since, self.done])}
        out |= {} if self.category is None else {"category": self.category}
        out |= {f"counted.{name}": rows for name, rows in self.counted.items()}
        return out | {f"events.{name}": rows for name, rows in self.events.items()}

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> Statistics:
        """What `arrays` gave. Raises KeyError where it did not."""
        new = cls(arrays["born"], arrays.get("category"))
        new.since, new.done = arrays["since"].tolist()
        new.counted = {name: arrays[f"counted.{name}"] for name in new.counted}
        new.events = {name: arrays[f"events.{name}"] for name in EVENTS}
        return new

    # --- how it is counted ------------------------------------------------------------

    def _keys(self, user: np.ndarray, item: np.ndarray) -> dict[str, np.ndarray]:
        """What is counted for good of each event (E,); below 0 is nobody's."""
        keys = {"all": np.zeros_like(item), "document": item, "user": user}
        if self.category is not None:
            keys["category"] = self.category[item]
        return keys

    def _pairs(self, user: np.ndarray, item: np.ndarray) -> dict[str, np.ndarray]:
        """A user with a document or a category, as one number."""
        pairs = {"both": item}
        if self.category is not None:
            pairs["user_category"] = self.category[item]
        high = user.astype(np.int64) << 32
        return {
            name: np.where((user >= 0) & (one >= 0), high | one, -1)
            for name, one in pairs.items()
        }

    def _before(self, name: str, key: np.ndarray, when: np.ndarray) -> np.ndarray:
        """Counts (R, 6) of keys strictly before times."""
        late = self._table(name).between(key, self.since, when)
        return _joined(_rows(self.counted[name], key), late)

    def _table(self, name: str) -> Table:
        """Of the events since, by time."""
        if name not in self._tables:
            late = {n: x[self.done :] for n, x in self.events.items()}
            key = self._keys(late["user"], late["item"])[name]
            more = (late["time"], late["label"], late["residual"])
            self._tables[name] = Table(key, late["time"], *more)
        return self._tables[name]

    def _met(self, name: str, asked: np.ndarray) -> Table:
        """Of these pairs, by their place among the user's impressions."""
        key = self._pairs(self.events["user"], self.events["item"])[name]
        mine = np.flatnonzero(np.isin(key, asked))
        some = {n: x[mine] for n, x in self.events.items()}
        more = (some["time"], some["label"], np.zeros_like(some["time"]))
        return Table(key[mine], some["place"], *more)

    def _places(self, user: np.ndarray) -> np.ndarray:
        """The how manieth impressions of their users these, the next, are."""
        order = np.argsort(user, kind="stable")
        mine, late = user[order], self.events["user"][self.done :]
        rank = np.empty(len(user), np.int64)
        rank[order] = np.arange(len(user)) - np.searchsorted(mine, mine)
        count = np.bincount(late, minlength=user.max(initial=-1) + 1)
        return _rows(self.counted["user"], user)[:, SHOWN] + count[user] + rank


def _nothing(count: int) -> list[np.ndarray]:
    return [np.zeros(0, np.int64) for _ in range(count)]


def _empty(count: int) -> np.ndarray:
    return np.tile(np.array(EMPTY), (count, 1))


def _rows(counted: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Counts (R, 6) of keys (R,), EMPTY for those that have none."""
    there = (key >= 0) & (key < len(counted))
    found = _empty(len(key))
    found[there] = counted[key[there]]
    return found


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Counts of what came first and then of what came second."""
    out = first + second
    for column in (LAST, LAST_WATCH):
        out[:, column] = np.maximum(first[:, column], second[:, column])
    never = first[:, FIRST] == NEVER
    out[:, FIRST] = np.where(never, second[:, FIRST], first[:, FIRST])
    return out


def _counted(counted: np.ndarray, key: np.ndarray, new: dict) -> np.ndarray:
    """Counts (K, 6) with these events, which are later, in more rows if need be."""
    mine = key >= 0
    key, time, label = key[mine], new["time"][mine], new["label"][mine]
    more = _empty(max(int(key.max(initial=-1)) + 1, len(counted)))
    np.add.at(more[:, SHOWN], key, 1)
    np.add.at(more[:, WATCHED], key, label)
    np.add.at(more[:, RESIDUAL], key, new["residual"][mine])
    np.maximum.at(more[:, LAST], key, time)
    np.maximum.at(more[:, LAST_WATCH], key, np.where(label, time, NEVER))
    more[key[::-1], FIRST] = time[::-1]  # the first is written last
    more[: len(counted)] = _joined(counted, more[: len(counted)])
    return more


def starts(log: Log) -> np.ndarray:
    """(I,) second of the first impression of every impression's QID."""
    _, first, session = np.unique(log.qid, return_index=True, return_inverse=True)
    return whole(log.timestamp)[first][session]


def numbered(names: list[str | None], known: list[str]) -> tuple[np.ndarray, list[str]]:
    """Names (N,) as numbers, -1 where empty, and all names by number: the known ones,
    then new ones as they come."""
    number = {name: place for place, name in enumerate(known)}
    found = [number.setdefault(n, len(number)) if n else -1 for n in names]
    return np.array(found, np.int64), list(number)


def categories(dataset: Dataset) -> np.ndarray | None:
    """(N,) numbers of the documents' categories, -1 where empty; None without."""
    if CATEGORY not in dataset.texts:
        return None
    return numbered(dataset.texts[CATEGORY], [])[0]


def names(dataset: Dataset) -> tuple[str, ...]:
    """Names of the columns for this data set."""
    return NAMES + (CATEGORY_NAMES if CATEGORY in dataset.texts else ())


def created(dataset: Dataset) -> np.ndarray:
    """(N,) unix seconds at which documents appeared, NEVER where nobody says."""
    if dataset.created is None:
        return np.full(len(dataset.items), NEVER)
    return births(dataset.created)


def births(time: np.ndarray) -> np.ndarray:
    """The same of times (N,), NaN where nobody says."""
    known = np.isfinite(time)
    return np.where(known, whole(np.where(known, time, 0)), NEVER)


def statistics(dataset: Dataset) -> np.ndarray:
    """Of every impression of the log, as its page reads them: (I, F) float32."""
    log = dataset.log
    return Statistics.of(dataset).read(log.user, log.item, starts(log))
