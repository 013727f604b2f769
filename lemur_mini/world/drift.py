"""How the platform changes while it runs: tastes, affinities, new topics.

These are mechanisms, switched on by `WorldConfig`; by default nothing drifts, and the
platform's own random numbers are the same either way."""

from __future__ import annotations

import dataclasses

import numpy as np

from lemur_mini.world.config import WorldConfig
from lemur_mini.world.documents import Documents
from lemur_mini.world.users import Users
from lemur_mini.world.vocabulary import themes


class Drift:
    """What changes, and on which day.

    `since`: (topics,), the day a topic appears, 0 for those of the start; at least one
    topic of every category is. `change`: (users,), the day a user's favourite palette
    and tone are drawn anew, infinite for never. The fashion turns, too: new favourites
    come from the skew in reverse, what was rare is drawn most."""

    def __init__(self, config: WorldConfig, seed: int):
        self.config, self.day = config, 0
        self.rng = rng = np.random.default_rng((seed, 3))
        topics = themes()[1]
        late = rng.random(len(topics)) < config.late_topics
        first = np.unique([t.category for t in topics], return_index=True)[1]
        late[first] = False
        # our choice: not in the first third, so that every ranker learns a world first
        since = rng.uniform(config.days / 3, config.days, len(topics))
        self.since = np.where(late, since, 0.0)
        turns = rng.random(config.users) < config.taste_change
        day = rng.uniform(0, config.days, config.users)
        self.change = np.where(turns, day, np.inf)
        self.there = np.flatnonzero(self.since <= 0)

    def documents(self, documents: Documents) -> Documents:
        """No document has a topic before the topic is there: such documents are about
        a topic of the start, in the same category."""
        topics = themes()[1]
        category = np.array([t.category for t in topics])
        topic = documents.topic.copy()
        for i in np.flatnonzero(documents.born < self.since[topic]):
            inside = (category == documents.category[i]) & (self.since <= 0)
            topic[i] = self.rng.choice(np.flatnonzero(inside))
        return dataclasses.replace(documents, topic=topic)

    def users(self, users: Users, day: float) -> Users:
        """The users on a day, given those of the visit before: what happened since, one
        step every midnight. Call in time order."""
        while self.day < int(day):
            self.day += 1
            self.there = np.flatnonzero(self.since <= self.day)
            users = self._midnight(users)
        return users

    def _midnight(self, users: Users) -> Users:
        step, skew = self.config.affinity_walk, self.config.favourite_skew[::-1]
        if step:  # variance stays one
            noise = self.rng.standard_normal(users.affinity.shape)
            affinity = (1 - step**2) ** 0.5 * users.affinity + step * noise
            users = dataclasses.replace(users, affinity=affinity)
        now = np.flatnonzero((self.change > self.day - 1) & (self.change <= self.day))
        if not len(now):
            return users
        palette, tone = users.palette.copy(), users.tone.copy()
        palette[now] = self.rng.choice(len(skew), len(now), p=skew)
        tone[now] = self.rng.choice(len(skew), len(now), p=skew)
        return dataclasses.replace(users, palette=palette, tone=tone)
