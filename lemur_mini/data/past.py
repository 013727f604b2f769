"""What a stream remembers of what is over, and what its next part needs of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields, replace

import numpy as np

from lemur_mini.config import Config
from lemur_mini.data.likeness import LENGTH, Likeness
from lemur_mini.data.loading import Log
from lemur_mini.data.match import ALL, Match
from lemur_mini.data.pages import PAD
from lemur_mini.data.statistics import Statistics
from lemur_mini.files import under

EVENTS = ("user", "item", "time")
LONGEST = 86_400  # seconds that a session may last


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


class Trail:
    """What every user did: the newest `length` things before a moment in a ring, and
    all since then with their times, for sessions that began before they ended."""

    def __init__(self, length: int):
        self.old = Recent(length)
        self.late = tuple(np.zeros(0, np.int64) for _ in EVENTS)  # user, item, time

    def add(self, *events: np.ndarray) -> None:
        """Users, items and times (W,), in time order, none earlier than before."""
        self.late = append(self.late, events)

    def before(self, users: np.ndarray, time) -> tuple[np.ndarray, ...]:
        """Events (W,) as `Pages` takes them; those of the ring all at `time`."""
        old = self.old.read(users)
        return append((*old, np.full(len(old[0]), time)), self.late)

    def settle(self, cut) -> None:
        """Nobody asks any more what was known before `cut`."""
        past = self.late[2] < cut
        self.old.push(*(part[past] for part in self.late[:2]))
        self.late = tuple(part[~past] for part in self.late)


@dataclass
class Past:
    """All that the next part of a log needs of those before it, users x `length` rows
    and the impressions of one session's longest time: it does not grow with the log.

    until: all rows before it (unix seconds) are done; cut: sessions that began since
    then may go on, `tail` are their rows and `groups` their names; known: how many
    users and queries have been named; texts: of the columns of ids, whether they are
    texts; sources: folders or files that documents were read from; published: rows of
    documents that nobody was shown, whose vectors training is not to know; statistics,
    matcher: of a model that reads numbers (see `data.numbers`); categories: names of
    those that are counted, by number."""

    until: float
    cut: float
    watched: Trail
    shown: Trail | None = None  # signed: below 0, ~row of what was not watched
    tail: Log | None = None
    groups: list = field(default_factory=list)  # (name, row)
    sessions: int = 0  # named so far
    known: dict[str, int] = field(default_factory=dict)
    texts: dict[str, bool] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    published: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    statistics: Statistics | None = None
    matcher: Match | Likeness | None = None
    categories: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, watched: int, shown: int = 0) -> Past:
        """Before a log begins; lengths of histories."""
        trail = Trail(shown) if shown else None
        return cls(-np.inf, -np.inf, Trail(watched), trail)

    def copy(self) -> Past:
        """Another that goes on by itself."""
        plain = copy.deepcopy(replace(self, statistics=None, matcher=None))
        counted = self.statistics and self.statistics.copy()
        return replace(plain, statistics=counted, matcher=self.matcher)

    def trails(self) -> dict[str, Trail]:
        """Those that are kept, by name."""
        both = {"watched": self.watched, "shown": self.shown}
        return {name: trail for name, trail in both.items() if trail is not None}

    def state(self) -> tuple[dict, dict[str, np.ndarray]]:
        """As facts for JSON, and arrays by name."""
        plain = ("until", "cut", "groups", "sessions", "known", "texts", "sources")
        facts = {name: getattr(self, name) for name in (*plain, "categories")}
        arrays = {"published": self.published}
        for name, trail in self.trails().items():
            arrays |= {f"{name}.ring": trail.old.ring, f"{name}.count": trail.old.count}
            late = zip(EVENTS, trail.late, strict=True)
            arrays |= {f"{name}.{event}": values for event, values in late}
        if self.tail is not None:
            arrays |= {f"tail.{f.name}": getattr(self.tail, f.name) for f in _LOG}
        if self.statistics is not None:
            numbers = self.statistics.arrays()
            arrays |= {f"statistics.{name}": values for name, values in numbers.items()}
        if self.matcher is not None:
            arrays |= {f"match.{k}": v for k, v in self.matcher.arrays().items()}
            facts["matched"] = list(getattr(self.matcher, "fields", []))
        return facts, arrays

    @classmethod
    def of(cls, facts: dict, arrays: dict[str, np.ndarray]) -> Past:
        """From its `state`. Raises KeyError or TypeError where that is not one."""
        trails: dict = {"published": arrays["published"]}
        for name in ("watched", "shown"):
            if f"{name}.ring" not in arrays:
                continue
            trail = trails[name] = Trail(arrays[f"{name}.ring"].shape[1])
            trail.old.ring = arrays[f"{name}.ring"]
            trail.old.count = arrays[f"{name}.count"]
            trail.late = tuple(arrays[f"{name}.{event}"] for event in EVENTS)
        if "tail.user" in arrays:
            trails["tail"] = Log(*(arrays[f"tail.{f.name}"] for f in _LOG))
        if some := under("statistics.", arrays):
            trails["statistics"] = Statistics.of_arrays(some)
        facts, trails["matcher"] = dict(facts), matcher_of(facts, arrays)
        facts.pop("matched", None)
        began = {k: -np.inf for k in ("until", "cut") if facts[k] is None}  # in JSON
        return cls(**facts | began, **trails)


def matcher_of(facts: dict, arrays: dict[str, np.ndarray]) -> Match | Likeness | None:
    """That of the `state` of a past, if it has one."""
    some, names = under("match.", arrays), facts.get("matched", [])
    kind = Match if names else Likeness
    return kind.of_arrays([n for n in names if n != ALL], some) if some else None


_LOG = fields(Log)


def kept(config: Config) -> tuple[int, int]:
    """Events of a user that a model reads: watched, by its sequences or by `match`, and
    shown."""
    compared = LENGTH if "match" in config.groups else 0
    return max(config.history_long, compared), config.history_seen


def append(first: tuple, second: tuple) -> tuple[np.ndarray, ...]:
    """Arrays behind arrays."""
    return tuple(map(np.concatenate, zip(first, second, strict=True)))


def events(log: Log) -> dict[str, tuple[np.ndarray, ...]]:
    """What a log adds to each trail: user, item and time (W,)."""
    mine = log.label == 1
    signed = np.where(mine, log.item, ~log.item)
    return {
        "watched": (log.user[mine], log.item[mine], log.timestamp[mine]),
        "shown": (log.user, signed, log.timestamp),
    }


def after(log: Log, until: float, longest: float, watched: int, shown: int) -> Past:
    """The past of a log that was in memory, trained on up to `until`. Its sessions are
    over: one that goes on later begins anew."""
    done = log.timestamp < until
    cut = until - longest
    past = Past.empty(watched, shown)
    past.until, past.cut = until, cut
    old = Log(*(getattr(log, f.name)[done] for f in _LOG))
    for name, trail in past.trails().items():
        trail.add(*events(old)[name])
        trail.settle(cut)
    past.sessions = int(log.qid.max()) + 1
    return past
