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
    SHOWN,
    Documents,
    Table,
    rate,
    residuals,
    values,
    whole,
)
from lemur_mini.data.runs import EVENTS, Run, appended

# Impressions of a user among which pairs are counted. # our choice: more than the
# busiest of our real logs has; one that is kept takes 25 bytes in a file, and with its
# tables at most 121 in memory.
KEPT = 65_536
CATEGORY = "category"  # the column that says so, where there is one
PAIRS = ("both", "user_category")  # a user with something
ALWAYS = np.iinfo(np.int64).max  # later than every time


class Statistics(Documents):
    """A log's statistics, readable for any user, document and time since the last
    `settle`: what was counted before that, and the events since."""

    def __init__(self, born: np.ndarray, category: np.ndarray | None = None):
        """born: (N,) as of `created`; category: (N,) as of `categories`."""
        super().__init__(born, category)
        self.since = NEVER  # events before this second are counted
        self.counted = {name: _empty(0) for name in self._keys(*_nothing(2))}
        self.runs: tuple[Run, ...] = ()  # of events: all since, and what pairs need

    @classmethod
    def of(cls, dataset: Dataset, until: float = np.inf) -> Statistics:
        """Of a log, or of what is before `until`."""
        new, log = cls(created(dataset), categories(dataset)), dataset.log
        old = log.timestamp < until
        new.add(*(x[old] for x in (log.user, log.item, log.timestamp, log.label)))
        return new

    def add(self, user, item, time, label) -> None:
        """Events (E,) in time order, none earlier than before."""
        if not len(item):
            return
        new = {"user": user, "item": item, "time": whole(time), "label": label}
        new |= {"residual": np.zeros_like(item), "place": self._places(user)}
        new = {name: new[name].astype(kind) for name, kind in EVENTS.items()}
        before, self.runs = self.runs, (*self.runs, Run(new))
        parts = (("document", item), ("all", np.zeros_like(item)))
        chance = rate(*(self._before(name, key, new["time"]) for name, key in parts))
        new["residual"] = residuals(label, chance).astype(EVENTS["residual"])
        self.runs = self._merged([*before, Run(new)])

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
            counts[name] = _empty(len(key))
            for run in self.runs:
                met = self._table(run, name).between(key, shown - KEPT, shown)
                counts[name] = _joined(counts[name], met)
        return values(counts, when, self.born[item])

    def settle(self, cut: float) -> None:
        """Nobody asks any more what was known before `cut`."""
        if not np.isfinite(cut) or whole(cut) <= self.since:
            return
        old, self.since = self.since, int(whole(cut))
        new = appended([run.between(old, self.since) for run in self.runs])
        for name, key in self._keys(new["user"], new["item"]).items():
            self.counted[name] = _counted(self.counted[name], key, new)

    def copy(self) -> Statistics:
        """Another that goes on by itself; arrays are never written into."""
        new = copy.copy(self)
        new.counted = dict(self.counted)
        return new

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return NAMES + (CATEGORY_NAMES if self.category is not None else ())

    # --- for a file -------------------------------------------------------------------

    @property
    def events(self) -> dict[str, np.ndarray]:
        """Those that are kept, in order."""
        return self._kept(appended([run.events for run in self.runs]))

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it."""
        events = self.events
        done = np.searchsorted(events["time"], self.since)
        out = super().arrays() | {"since": np.array([self.since, done])}
        out |= {f"counted.{name}": rows for name, rows in self.counted.items()}
        return out | {f"events.{name}": rows for name, rows in events.items()}

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> Statistics:
        """What `arrays` gave. Raises KeyError where it did not."""
        new = cls(arrays["born"], arrays.get("category"))
        new.since, done = arrays["since"].tolist()
        new.counted = {name: arrays[f"counted.{name}"] for name in new.counted}
        run = Run({name: arrays[f"events.{name}"] for name in EVENTS}, done)
        new.runs = (run,) if len(run) else ()
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

    def _before(self, name: str, key: np.ndarray, when) -> np.ndarray:
        """Counts (R, 6) of keys strictly before times."""
        counts = _rows(self.counted[name], key)
        for run in self.runs:
            if run.events["time"][-1] >= self.since:
                late = self._table(run, name).between(key, self.since, when)
                counts = _joined(counts, late)
        return counts

    def _table(self, run: Run, name: str) -> Table:
        """Of pairs, by their place among the user's impressions; of everything else,
        by time, what was not counted yet when the run began."""
        if name not in run.tables:
            low = 0 if name in PAIRS else run.done
            some = {name: x[low:] for name, x in run.events.items()}
            user, item = some["user"], some["item"]
            keys = self._pairs if name in PAIRS else self._keys
            order = some["place" if name in PAIRS else "time"]
            more = (some["time"], some["label"], some["residual"])
            run.tables[name] = Table(keys(user, item)[name], order, *more)
        return run.tables[name]

    def _places(self, user: np.ndarray) -> np.ndarray:
        """The how manieth impressions of their users these, the next, are."""
        order = np.argsort(user, kind="stable")
        mine, rank = user[order], np.empty(len(user), np.int64)
        rank[order] = np.arange(len(user)) - np.searchsorted(mine, mine)
        return self._before("user", user, ALWAYS)[:, SHOWN] + rank

    def _merged(self, runs: list[Run]) -> tuple[Run, ...]:
        """Few: the last joins the one before it until that is twice as large. So an
        event is sorted again only as often as the sizes of its runs double."""
        while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
            events = self._kept(appended([run.events for run in runs[-2:]]))
            done = np.searchsorted(events["time"], self.since)
            runs[-2:] = [Run(events, int(done))]
        return tuple(runs)

    def _kept(self, events: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Those that are not counted yet, and of the others their users' newest."""
        total, user = self.counted["user"][:, SHOWN], events["user"]
        kept = events["time"] >= self.since
        kept[~kept] = events["place"][~kept] >= total[user[~kept]] - KEPT
        return events if kept.all() else {n: x[kept] for n, x in events.items()}


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
    keys = np.unique(key[mine])
    events = (new[name][mine] for name in ("time", "label", "residual"))
    late = Table(key[mine], new["time"][mine], *events)
    lacking = int(keys.max(initial=-1)) + 1 - len(counted)
    out = np.concatenate([counted, _empty(max(lacking, 0))])
    out[keys] = _joined(out[keys], late.between(keys, NEVER, ALWAYS))
    return out


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
