"""What users saw and what of it they watched: up to the log's end, and since."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np

from lemur_mini.config import Config
from lemur_mini.data.loading import Log
from lemur_mini.data.past import kept

TIME = 2  # its column: whole seconds stay whole, others come as floats


class Event(NamedTuple):
    """A document (item_id) that was shown at a time (unix seconds), watched or not."""

    item: int | str
    time: float
    watched: bool


class Histories(Protocol):
    """Keeps what users see while a ranker serves. Several threads may call it."""

    def add(self, user, event: Event) -> None:
        """Keep one more event of a user (user_id)."""

    def watched(self, user) -> list[Event]:
        """What is kept of what the user watched, in any order."""

    def shown(self, user) -> list[Event]:
        """... and of what the user was shown, watched or skipped."""


class InMemory:
    """Histories in this process, the newest of every user."""

    def __init__(self, watched: int, shown: int):
        """Events kept of each user: as many as the model's histories hold."""
        self._kinds = defaultdict(lambda: (deque(maxlen=watched), deque(maxlen=shown)))
        self._lock = Lock()

    def add(self, user, event: Event) -> None:
        """Keep one more event."""
        with self._lock:
            watched, shown = self._kinds[user]
            shown.append(event)
            if event.watched:
                watched.append(event)

    def watched(self, user) -> list[Event]:
        """What was watched, as it came in."""
        return self._read(user, 0)

    def shown(self, user) -> list[Event]:
        """What was shown, as it came in."""
        return self._read(user, 1)

    def _read(self, user, kind: int) -> list[Event]:
        with self._lock:  # a deque that changes cannot be read
            return list(self._kinds[user][kind]) if user in self._kinds else []

    def users(self) -> list:
        """Everybody of whom there is something."""
        with self._lock:
            return list(self._kinds)


@dataclass(frozen=True)
class UserEvents:
    """Events (E,) by user, then time: catalogue rows, unix seconds, labels; those of
    user u lie from begin[u] to begin[u + 1]. `end`: time of the log's last event;
    `whole`: whether all that came before it is there."""

    item: np.ndarray
    time: np.ndarray
    label: np.ndarray
    begin: np.ndarray
    end: float
    whole: bool = True

    @classmethod
    def of(cls, log: Log, users: int) -> UserEvents:
        """All that a log shows."""
        rows = np.argsort(log.user, kind="stable")
        begin = np.searchsorted(log.user[rows], np.arange(users + 1))
        columns = (log.item[rows], log.timestamp[rows], log.label[rows])
        return cls(*columns, begin, log.timestamp[-1].item())

    def before(self, user: int, time: float | None) -> tuple[np.ndarray, np.ndarray]:
        """Documents (rows) that a user (a row; below 0: nobody) was shown before a
        time, oldest first, and labels; all there are if None."""
        known = 0 <= user < len(self.begin) - 1
        low, high = self.begin[user : user + 2] if known else (0, 0)
        if time is not None:
            high = low + np.searchsorted(self.time[low:high], time)
        return self.item[low:high], self.label[low:high]

    def newest(self, watched: int, shown: int) -> UserEvents:
        """Of each user the last so many watched and the last so many shown."""
        users = np.repeat(np.arange(len(self.begin) - 1), np.diff(self.begin))
        after = self.begin[users + 1] - 1 - np.arange(len(users))  # events after it
        total = np.r_[0, np.cumsum(self.label == 1)]
        later = total[self.begin[users + 1]] - total[1 : len(users) + 1]
        keep = (after < shown) | ((self.label == 1) & (later < watched))
        begin = np.r_[0, np.cumsum(keep)][self.begin]
        columns = (self.item[keep], self.time[keep], self.label[keep])
        return UserEvents(*columns, begin, self.end, whole=False)


def merged(known, histories: Histories, config: Config) -> UserEvents:
    """Histories as they are now, as far as the model reads them: the log's, and those
    that are kept in memory. Everybody gets a place in `known`."""
    past = known.past
    users = np.repeat(np.arange(len(past.begin) - 1), np.diff(past.begin))
    rows, more = known.rows["items"], []
    for user in histories.users() if isinstance(histories, InMemory) else []:
        shown = histories.shown(user)
        there = set(map(id, shown))  # the same objects, where both keep one
        shown += [e for e in histories.watched(user) if id(e) not in there]
        place = known.place(user, new=True)
        more += [(place, rows[e.item], e.time, e.watched) for e in shown]
    live = [np.array(column) for column in zip(*more, strict=True)] or [[]] * 4
    old = (users, past.item, past.time, past.label)
    user, item, time, label = (
        np.append(a, b).astype(a.dtype) if k != TIME else np.append(a, b)
        for k, (a, b) in enumerate(zip(old, live, strict=True))
    )
    order = np.lexsort((time, user))
    count = len(known.names["users"]) + len(known.guests)
    begin = np.searchsorted(user[order], np.arange(count + 1))
    end = max([past.end, *time[len(users) :].tolist()])
    whole = UserEvents(item[order], time[order], label[order], begin, end)
    return whole.newest(*kept(config))
