"""Dense features at serving: statistics that go on with every event, and match."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from lemur_mini.data.counts import Counts
from lemur_mini.data.likeness import LENGTH, Likeness
from lemur_mini.data.pages import PAD
from lemur_mini.data.statistics import NEVER, Past, whole
from lemur_mini.preparation import Prepared


class LiveNumbers:
    """Makes `statistics` and `match` of requests as they are made of the log."""

    def __init__(self, prepared: Prepared, groups: tuple[str, ...]):
        """groups: those of the model's configuration."""
        self.prepared = prepared
        self.groups = tuple(name for name in ("statistics", "match") if name in groups)

    @cached_property
    def counts(self) -> Counts:
        """What the log has counted and every event since."""
        return Counts.of(self.prepared.dataset)

    @cached_property
    def past(self) -> Past:
        """What the log had counted at any earlier time."""
        return Past(self.prepared.dataset)

    def update(self, user: int, item: int, time: int, label: int) -> None:
        """Count one impression (rows; a user below 0 is unknown), in time order."""
        if "statistics" in self.groups:
            self.counts.update(user, item, time, label)

    def of(
        self,
        users: np.ndarray,
        texts: list[str],
        item: np.ndarray,
        before: int | None,
        history: Callable[[int], np.ndarray],
    ) -> dict[str, np.ndarray]:
        """Of pages (P, S) of these users (P,) and query texts, (P, S, F) each, 0 where
        no document stands; before a time (unix seconds), or now if None. history(L):
        (P, L) of what the users watched, newest first."""
        there, out = item >= 0, {}
        page = np.broadcast_to(np.arange(len(item))[:, None], item.shape)[there]
        if "statistics" in self.groups:
            found = self._statistics(users[page], item[there], before)
            out["statistics"] = _placed(found, there)
        matcher = self.prepared.matcher if "match" in self.groups else None
        if isinstance(matcher, Likeness):
            found = matcher(history(LENGTH), np.where(there, item, PAD))
            out["match"] = _placed(found[there], there)
        elif matcher:
            out["match"] = _placed(matcher(texts, page, item[there]), there)
        return out

    def _statistics(
        self, user: np.ndarray, item: np.ndarray, before: int | None
    ) -> np.ndarray:
        end = int(whole(self.prepared.dataset.log.timestamp[-1]))
        if before is not None and whole(before) <= end:
            return self.past.read(user, item, np.full(len(item), before))
        when = self.counts.latest + 1 if before is None else before
        parts = [
            self.counts.read(int(one), item[user == one], when)
            for one in np.unique(user)
        ]
        order = np.concatenate([np.flatnonzero(user == one) for one in np.unique(user)])
        return np.concatenate(parts)[order.argsort()]

    def grow(self, prepared: Prepared) -> None:
        """Go on with a larger catalogue, which `prepared` holds."""
        new = len(prepared.dataset.items) - len(self.prepared.dataset.items)
        if "statistics" in self.groups:
            none = None if self.counts.category is None else np.full(new, -1)
            self.counts.grow(np.full(new, NEVER), none)
        self.prepared = prepared
        self.__dict__.pop("past", None)  # made anew, of the larger catalogue


def _placed(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    out = np.zeros((*there.shape, values.shape[1]), np.float32)
    out[there] = values
    return out
