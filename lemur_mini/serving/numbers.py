"""Dense features at serving: statistics that go on with every event, and match."""

from __future__ import annotations

from functools import cached_property
from threading import Lock

import numpy as np

from lemur_mini.data.counts import Counts
from lemur_mini.data.errors import DataError
from lemur_mini.data.likeness import Likeness
from lemur_mini.data.loading import Dataset
from lemur_mini.data.match import Match
from lemur_mini.data.pages import PAD
from lemur_mini.data.rates import NEVER, whole
from lemur_mini.data.statistics import Statistics


class LiveNumbers:
    """Makes `statistics` and `match` of requests as they are made of the log."""

    def __init__(
        self,
        groups: tuple[str, ...],
        end: float,
        dataset: Dataset | None = None,
        counts: Counts | None = None,
        matcher: Match | Likeness | None = None,
    ):
        """groups: those of the model's configuration; end: the time up to which a log
        was counted; dataset: with that log, or counts: what it counted."""
        if "context" in groups:
            problem = "serving has no user_* and context_* yet, which this model reads"
            raise DataError(f"{problem}; train it on a log without these columns")
        self.groups = tuple(name for name in ("statistics", "match") if name in groups)
        self.end, self.matcher = end, matcher
        self._dataset, self._counts = dataset, counts
        self._lock = Lock()  # counts change as they are read

    @cached_property
    def counts(self) -> Counts | None:
        """What the log has counted and every event since."""
        if "statistics" not in self.groups:
            return None
        return self._counts or Counts.of(self._dataset)

    @cached_property
    def past(self) -> Statistics | None:
        """What the log had counted at any earlier time; None without the log."""
        return self._dataset and Statistics.of(self._dataset)

    def update(self, user: int, item: int, time: float, label: int) -> None:
        """Count one impression (rows; a user below 0 is unknown). One that comes late
        is counted at the time of the last: statistics go forward."""
        if self.counts is not None:
            with self._lock:
                self.counts.update(user, item, max(time, self.counts.latest), label)

    def of_pages(
        self,
        users: np.ndarray,
        texts: list[str],
        item: np.ndarray,
        before: int | None,
        history: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Of pages (P, S) of these users (P,) and query texts, (P, S, F) each, 0 where
        no document stands; before a time (unix seconds), or now if None. history:
        (P, LENGTH) of what the users watched, newest first."""
        there, out = item >= 0, {}
        page = np.broadcast_to(np.arange(len(item))[:, None], item.shape)[there]
        if "statistics" in self.groups:
            found = self._statistics(users[page], item[there], before)
            out["statistics"] = _placed(found, there)
        if "match" in self.groups:
            if isinstance(self.matcher, Likeness):
                found = self.matcher(history, np.where(there, item, PAD))[there]
            else:
                found = self.matcher(texts, page, item[there])
            out["match"] = _placed(found, there)
        return out

    def _statistics(
        self, user: np.ndarray, item: np.ndarray, before: int | None
    ) -> np.ndarray:
        if before is not None and whole(before) <= whole(self.end):
            if self.past is None:
                raise DataError(f"statistics before {self.end} need the log")
            return self.past.read(user, item, np.full(len(item), before))
        with self._lock:
            when = self.counts.latest + 1 if before is None else before
            parts = [
                self.counts.read(int(one), item[user == one], when)
                for one in np.unique(user)
            ]
        order = np.concatenate([np.flatnonzero(user == one) for one in np.unique(user)])
        return np.concatenate(parts)[order.argsort()]

    def grow(self, texts: dict, images: np.ndarray, new: int) -> None:
        """Go on with a catalogue that has so many more documents, with these texts and
        pictures."""
        if self.counts is not None:
            none = None if self.counts.category is None else np.full(new, -1)
            with self._lock:
                self.counts.grow(np.full(new, NEVER), none)
            if self.past is not None:
                self.past.grow(np.full(new, NEVER), none)
        if "match" in self.groups:
            self.matcher = self.matcher.extended(texts, images)


def _placed(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    out = np.zeros((*there.shape, values.shape[1]), np.float32)
    out[there] = values
    return out
