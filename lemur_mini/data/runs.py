"""Events in runs, as a log-structured list has them: what is added costs in proportion
to itself, however much there is already."""

from __future__ import annotations

import numpy as np

from lemur_mini.data.rates import Table

EVENTS = {"user": "i4", "item": "i4", "time": "i8", "label": "i1"}
EVENTS |= {"residual": "i4", "place": "i4"}  # place: among the user's impressions


class Run:
    """Events in time order, which never change, and their tables, each made once."""

    def __init__(self, events: dict[str, np.ndarray], done: int = 0):
        """events: columns (E,) of EVENTS; done: how many have been counted already."""
        self.events, self.done = events, done
        self.tables: dict[str, Table] = {}

    def __len__(self) -> int:
        return len(self.events["time"])

    def between(self, since: int, until: int) -> dict[str, np.ndarray]:
        """Its events of these seconds, the last one not among them."""
        low, high = np.searchsorted(self.events["time"], (since, until))
        return {name: x[low:high] for name, x in self.events.items()}


def appended(parts: list[dict]) -> dict[str, np.ndarray]:
    """Events behind events."""
    none = {name: np.zeros(0, kind) for name, kind in EVENTS.items()}
    return {n: np.concatenate([x[n] for x in (none, *parts)]) for n in EVENTS}
