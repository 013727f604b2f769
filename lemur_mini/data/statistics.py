"""Statistics: what had been counted of a document, its user and both before a page.

What every ranker in production has beside a network. All of it is causal: a page reads
events strictly before the first impression of its QID, as histories do, so that events
of its own session, of the same second and of the future never count.

Times count in whole seconds, however fine the log's are. Sums are of integers, and
both forms, all pages of a log at once and one event after the other, turn them into
numbers by one function: they are equal to the last bit."""

from __future__ import annotations

import numpy as np

from lemur_mini.data.loading import Dataset, Log

PRIOR = 10  # impressions at the average that every rate starts from
CATEGORY = "category"  # the column that says so, where there is one
NEVER = np.iinfo(np.int64).min  # time of what never happened
FAR = 10 * 365 * 24  # hours: what never happened is as long ago
UNIT = 2**20  # of fixed-point residuals: sums of integers know no order
SHOWN, WATCHED, FIRST, LAST, LAST_WATCH, RESIDUAL = range(6)  # columns of counts

NAMES = (
    *("document_shown", "document_watched", "document_rate", "document_age"),
    *("document_since", "user_shown", "user_watched", "user_rate", "user_lift"),
    *("user_since", "both_met", "both_watched", "both_since"),
)
CATEGORY_NAMES = (
    *("category_shown", "category_watched", "category_rate"),
    *("user_category_shown", "user_category_watched", "user_category_rate"),
)


def whole(time: np.ndarray | float) -> np.ndarray:
    """Unix seconds, int64, of times that may be finer. # our choice: what came before
    in the same second is not counted, so that floats are never compared."""
    return np.floor(time).astype(np.int64)


def starts(log: Log) -> np.ndarray:
    """(I,) second of the first impression of every impression's QID."""
    _, first, session = np.unique(log.qid, return_index=True, return_inverse=True)
    return whole(log.timestamp)[first][session]


class Table:
    """Counts of the events of keys, readable at any time."""

    def __init__(self, events: np.ndarray):
        """events: (4, E) key, time, label, residual; keys below 0 are nobody's."""
        events = events[:, events[0] >= 0]
        self.key, time, label, residual = events[:, np.lexsort(events[1::-1])]
        row = np.where(label, np.arange(len(time)), -1)
        self.low, self.high = time.min(initial=0), time.max(initial=0) + 1
        self.place = self._place(self.key, time)
        self.time = np.r_[time, NEVER]
        self.latest = np.r_[-1, np.maximum.accumulate(row)]  # watch up to an event
        self.watched, self.lift = (np.r_[0, np.cumsum(x)] for x in (label, residual))

    def _place(self, key: np.ndarray, time: np.ndarray) -> np.ndarray:
        time = np.clip(time, self.low, self.high)
        return key * (self.high - self.low + 1) + (time - self.low)

    def before(self, key: np.ndarray, when: np.ndarray) -> np.ndarray:
        """Counts (R, 6) of keys (R,) strictly before times (R,): shown, watched, times
        of the first and the last event and of the last watch (NEVER if none), sum of
        residuals."""
        begin = np.searchsorted(self.place, self._place(key, np.full(1, self.low)))
        end = np.searchsorted(self.place, self._place(key, when))
        end = np.where(key < 0, begin, end)

        def at_event(row: np.ndarray) -> np.ndarray:
            return np.where((begin <= row) & (row < end), self.time[row], NEVER)

        columns = end - begin, self.watched[end] - self.watched[begin]
        columns += at_event(begin), at_event(end - 1), at_event(self.latest[end])
        return np.stack([*columns, self.lift[end] - self.lift[begin]], axis=1)


def rate(counts: np.ndarray, everything: np.ndarray) -> np.ndarray:
    """Share of watches, pulled by PRIOR impressions to that of all events so far."""
    base = (everything[:, WATCHED] + 1) / (everything[:, SHOWN] + 2)
    return (counts[:, WATCHED] + PRIOR * base) / (counts[:, SHOWN] + PRIOR)


def residuals(label: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """How much more was watched than the document's rate says, in 1 / UNIT."""
    return np.rint((label - chance) * UNIT).astype(np.int64)


def logit(chance: np.ndarray) -> np.ndarray:
    """Log odds."""
    return np.log(chance) - np.log1p(-chance)


def hours(when: np.ndarray, then: np.ndarray) -> np.ndarray:
    """log(1 + hours from then to when); FAR where then is NEVER, 0 if it is later."""
    never = then == NEVER
    past = np.maximum(when - np.where(never, when, then), 0)
    return np.log1p(np.where(never, FAR, past / 3600))


def values(
    counts: dict[str, np.ndarray], when: np.ndarray, created: np.ndarray
) -> np.ndarray:
    """The numbers that a model reads, (R, F) float32, in the order of NAMES.

    counts: (R, 6) each of all, document, user, both and, where there are categories,
    category and user_category; created: (R,) times, NEVER where unknown."""
    every, document, user, both = (
        counts[name] for name in ("all", "document", "user", "both")
    )
    born = np.where(created == NEVER, document[:, FIRST], created)
    born = np.where(born == NEVER, when, born)  # appears now
    lift = user[:, RESIDUAL] / UNIT / (user[:, SHOWN] + PRIOR)
    columns = [*_seen(document), logit(rate(document, every)), hours(when, born)]
    columns += [hours(when, document[:, LAST_WATCH]), *_seen(user)]
    columns += [logit(rate(user, every)), lift, hours(when, user[:, LAST])]
    columns += [*_seen(both), hours(when, both[:, LAST])]
    for name in ("category", "user_category"):
        if name in counts:
            columns += [*_seen(counts[name]), logit(rate(counts[name], every))]
    return np.stack(columns, axis=1).astype(np.float32)


def _seen(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.log1p(counts[:, SHOWN]), np.log1p(counts[:, WATCHED])


def categories(dataset: Dataset) -> np.ndarray | None:
    """(N,) numbers of the documents' categories, -1 where empty; None without."""
    if CATEGORY not in dataset.texts:
        return None
    names = np.array([text or "" for text in dataset.texts[CATEGORY]])
    found, number = np.unique(names, return_inverse=True)
    return np.where(names == "", -1, number)


def names(dataset: Dataset) -> tuple[str, ...]:
    """Names of the columns for this data set."""
    return NAMES + (CATEGORY_NAMES if CATEGORY in dataset.texts else ())


def created(dataset: Dataset) -> np.ndarray:
    """(N,) unix seconds at which documents appeared, NEVER where nobody says."""
    if dataset.created is None:
        return np.full(len(dataset.items), NEVER)
    known = np.isfinite(dataset.created)
    return np.where(known, whole(np.where(known, dataset.created, 0)), NEVER)


class Past:
    """A log's statistics, readable for any user, document and time."""

    def __init__(self, dataset: Dataset):
        log, self.log = dataset.log, dataset.log
        self.born, self.category = created(dataset), categories(dataset)
        keys = keys_of(log.user, log.item, self.category)
        self.found = {name: np.unique(key, axis=1) for name, key in keys.items()}
        label = log.label.astype(np.int64)
        nothing = np.zeros_like(label)
        numbers = {name: self.number(name, key) for name, key in keys.items()}
        time = whole(log.timestamp)

        def table(name: str, extra: np.ndarray) -> Table:
            return Table(np.stack([numbers[name], time, label, extra]))

        chance = rate(
            *(
                table(name, nothing).before(numbers[name], time)
                for name in ("document", "all")
            )
        )
        extra = residuals(label, chance)
        self.tables = {name: table(name, extra) for name in keys}

    def number(self, name: str, key: np.ndarray) -> np.ndarray:
        """Place (R,) of keys (K, R) among those of the log, -1 where it has none."""
        found = _joined(self.found[name], self.found[name])
        mine = _joined(key, self.found[name])
        place = np.searchsorted(found, mine).clip(max=len(found) - 1)
        there = (found[place] == mine) & (key >= 0).all(axis=0)
        return np.where(there, place, -1)

    def read(self, user: np.ndarray, item: np.ndarray, when: np.ndarray) -> np.ndarray:
        """(R, F) of documents and users (rows, (R,)) on pages that begin at a time."""
        when = whole(when)
        keys = keys_of(user, item, self.category)
        counts = {
            name: self.tables[name].before(self.number(name, key), when)
            for name, key in keys.items()
        }
        return values(counts, when, self.born[item])


def keys_of(
    user: np.ndarray, item: np.ndarray, category: np.ndarray | None
) -> dict[str, np.ndarray]:
    """What is counted of each event, (K, E) rows; below 0 is nobody's."""
    keys = {"all": [np.zeros_like(item)], "document": [item], "user": [user]}
    keys["both"] = [user, item]
    if category is not None:
        own = category[item]
        keys |= {"category": [own], "user_category": [user, own]}
    return {name: np.stack(parts) for name, parts in keys.items()}


def _joined(key: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(K, R) keys as one number each, which sorts as they do; what lies beyond `known`
    equals none of it."""
    if len(key) == 1:
        return key[0]
    size = known[1].max(initial=0) + 3
    return key[0] * size + np.clip(key[1], -1, size - 2) + 1


def statistics(dataset: Dataset) -> np.ndarray:
    """Of every impression of the log, as its page reads them: (I, F) float32."""
    log = dataset.log
    return Past(dataset).read(log.user, log.item, starts(log))
