"""From counts to numbers: what had happened by a moment, and what a model reads of it.

Times count in whole seconds, however fine the log's are. Sums are of integers, and all
that counts turns them into numbers by the one function of here: whoever counts, and in
whatever pieces, the numbers are equal to the last bit."""

from __future__ import annotations

import numpy as np

PRIOR = 10  # impressions at the average that every rate starts from
NEVER = np.iinfo(np.int64).min  # time of what never happened
FAR = 10 * 365 * 24  # hours: what never happened is as long ago
UNIT = 2**20  # of fixed-point residuals: sums of integers know no order
EMPTY = (0, 0, NEVER, NEVER, NEVER, 0)  # counts of what was never seen
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


class Documents:
    """What whoever counts knows of the documents of a catalogue."""

    def __init__(self, born: np.ndarray, category: np.ndarray | None = None):
        """born: (N,) unix seconds, NEVER where unknown; category: (N,) numbers, -1
        where empty, None where nothing has one."""
        self.born, self.category = born, category

    def grow(self, born: np.ndarray, category: np.ndarray | None = None) -> None:
        """More documents at the end of the catalogue."""
        self.born = np.concatenate([self.born, born])
        if self.category is not None:
            self.category = np.concatenate([self.category, category])

    def arrays(self) -> dict[str, np.ndarray]:
        """For a file."""
        more = {} if self.category is None else {"category": self.category}
        return {"born": self.born} | more


class Table:
    """Counts of the events of keys, readable at any place of their order."""

    def __init__(self, key: np.ndarray, order: np.ndarray, *events: np.ndarray):
        """key, order, times, labels and residuals (E,) of events in time order; keys
        below 0 are nobody's. order: what a key's events are read by, never falling."""
        mine = key >= 0
        by_key = np.argsort(key[mine], kind="stable")
        key, order, time, label, residual = (
            x[mine][by_key] for x in (key, order, *events)
        )
        new = np.diff(key, prepend=-1) != 0  # keys are numbered from 0
        self.key = key[new].astype(np.int64)
        row = np.where(label, np.arange(len(time)), -1)
        self.low, self.high = order.min(initial=0), order.max(initial=0) + 1
        self.place = self._place(np.cumsum(new) - 1, order)
        self.time = np.r_[time, NEVER]
        self.latest = np.r_[-1, np.maximum.accumulate(row)]  # watch up to an event
        self.watched, self.lift = (np.r_[0, np.cumsum(x)] for x in (label, residual))

    def _place(self, number: np.ndarray, order: np.ndarray) -> np.ndarray:
        order = np.clip(order, self.low, self.high)
        return number * (self.high - self.low + 1) + (order - self.low)

    def between(self, key: np.ndarray, since, until) -> np.ndarray:
        """Counts (R, 6) of the events of keys (R,) from `since` to before `until`:
        shown, watched, times of the first and the last event and of the last watch
        (NEVER if none), sum of residuals."""
        by_key = np.argsort(key)  # a search is fast beside the one before it
        key, since, until = (
            np.broadcast_to(x, key.shape)[by_key] for x in (key, since, until)
        )
        number = np.searchsorted(self.key, key).clip(max=max(len(self.key) - 1, 0))
        there = self.key[number] == key if len(self.key) else np.zeros(len(key), bool)
        begin = np.searchsorted(self.place, self._place(number, since))
        end = np.searchsorted(self.place, self._place(number, until))
        end = np.where(there, end, begin)

        def at_event(row: np.ndarray) -> np.ndarray:
            return np.where((begin <= row) & (row < end), self.time[row], NEVER)

        columns = end - begin, self.watched[end] - self.watched[begin]
        columns += at_event(begin), at_event(end - 1), at_event(self.latest[end])
        out = np.empty((len(key), len(EMPTY)), np.int64)
        out[by_key] = np.stack([*columns, self.lift[end] - self.lift[begin]], axis=1)
        return out


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
