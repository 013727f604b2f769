"""Every number of the platform."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class WorldConfig:
    """The search platform. Weights are those of the true click logit."""

    users: int = 3000
    documents: int = 6000
    sessions: int = 60000  # before reformulations
    days: int = 30
    start: int = 1_735_689_600  # unix seconds, 2025-01-01
    page_size: int = 8
    cover_size: int = 64  # pixels, square
    bias: float = -2.5
    relevance: float = 2.2
    affinity: float = 1.2
    taste: float = 1.8 / 2**0.5  # for palette and for tone, each
    quality: float = 0.4
    refinding: float = 1.0  # of a document that the user has watched before
    near: float = 0.35  # relevance of the same category, specific query
    broad: float = 0.7  # relevance of the same category, broad query
    interest_concentration: float = 0.4
    favourite_skew: tuple[float, ...] = (0.40, 0.25, 0.15, 0.12, 0.08)
    popularity_sigma: float = 1.6
    born_at_start: float = 0.4
    late_users: float = 0.3
    reformulate: float = 0.7  # chance of a new query after a page with no watch
    # drift: none in the shipped platform (see lemur_mini.world.drift)
    taste_change: float = 0.0  # chance that a user's tastes change once, on some day
    affinity_walk: float = 0.0  # of topic affinities, standard deviation a day
    late_topics: float = 0.0  # share of topics that appear on some day after the first

    def grown(self, times: int) -> WorldConfig:
        """So many times the users, documents and sessions, at the same rates. Raises
        ValueError below 1."""
        if times < 1:
            raise ValueError(f"a platform grows by 1 or more, not by {times}")
        counts = ("users", "documents", "sessions")
        return replace(self, **{name: times * getattr(self, name) for name in counts})
