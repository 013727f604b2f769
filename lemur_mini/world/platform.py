"""The platform at work: users, queries, pages, true click probabilities, the log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemur_mini.world.config import WorldConfig
from lemur_mini.world.documents import Documents, draw_documents
from lemur_mini.world.drift import Drift
from lemur_mini.world.users import Users, draw_users
from lemur_mini.world.vocabulary import FILLERS, themes

DAY = 86_400  # seconds
BROAD = -1  # topic of a broad query


@dataclass(frozen=True)
class Query:
    """What a user asks for; topic is BROAD for a query on a whole category."""

    category: int
    topic: int
    text: str


class Platform:
    """Users and documents of one seed, and everything that happens between them.

    It knows the truth: `probability` is the chance of a watch that labels are drawn
    from. Nothing in here can see a model."""

    def __init__(self, config: WorldConfig, seed: int = 0):
        self.config = config
        self.seed, self.rng = seed, np.random.default_rng(seed)
        self.users: Users = draw_users(config, self.rng)
        self.documents: Documents = draw_documents(config, self.rng)
        # who has watched what so far; `simulate` fills it
        self.watched = np.zeros((config.users, config.documents), dtype=bool)
        self.drift = Drift(config, seed)  # a generator of its own: without drift, none
        self.documents = self.drift.documents(self.documents)
        documents, (categories, topics) = self.documents, themes()
        self.by_topic = [
            np.flatnonzero(documents.topic == t) for t in range(len(topics))
        ]
        self.by_category = [
            np.flatnonzero(documents.category == c) for c in range(len(categories))
        ]

    def ask(self, user: int, category: int | None = None) -> Query:
        """A new query of a user: half broad, half on a topic the user leans to.
        With a category given: a more specific one there (a reformulation)."""
        rng, (categories, topics) = self.rng, themes()
        broad = category is None and rng.random() < 0.5
        if category is None:
            category = rng.choice(len(categories), p=self.users.interest[user])
        if broad:
            words = rng.choice(categories[category].query, 2, replace=False)
            return Query(category, BROAD, self._phrase(words))
        there = self.drift.there  # topics that exist by now
        inside = [t for t in there if topics[t].category == category]
        weight = np.exp(self.users.affinity[user, inside])
        topic = int(rng.choice(inside, p=weight / weight.sum()))
        words = rng.choice(topics[topic].query, 2, replace=False)
        return Query(category, topic, self._phrase(words))

    def _phrase(self, words: np.ndarray) -> str:
        filler = [self.rng.choice(FILLERS)] if self.rng.random() < 0.4 else []
        return " ".join([*filler, *words])

    def refine(self, user: int, query: Query) -> Query:
        """The query again, more specific: a topic, or all words of the topic's name."""
        if query.topic == BROAD:
            return self.ask(user, query.category)
        words = self.rng.choice(themes()[1][query.topic].query, 3, replace=False)
        return Query(query.category, query.topic, " ".join(words))

    def page(self, query: Query, day: float) -> np.ndarray:
        """The documents shown for a query at a time, in random order. Specific: all
        but two on topic, one near, one unrelated. Broad: all but one in category."""
        size, rng = self.config.page_size, self.rng
        category = self.by_category[query.category]
        other = (query.category + rng.integers(1, len(self.by_category))) % len(
            self.by_category
        )
        shown = [self.draw(self.by_category[other], 1, day)]
        if query.topic == BROAD:
            shown.append(self.draw(category, size - 1, day))
        else:
            near = category[self.documents.topic[category] != query.topic]
            shown.append(self.draw(self.by_topic[query.topic], size - 2, day))
            shown.append(self.draw(near, 1, day))
        return rng.permutation(np.concatenate(shown))

    def draw(self, pool: np.ndarray, k: int, day: float) -> np.ndarray:
        """k documents of the pool that exist by then, popular ones first (Gumbel)."""
        pool = pool[: np.searchsorted(self.documents.born[pool], day, side="right")]
        key = np.log(self.documents.popularity[pool]) + self.rng.gumbel(size=len(pool))
        return pool[np.argsort(-key)[:k]]

    def probability(self, user: int, query: Query, shown: np.ndarray) -> np.ndarray:
        """True chance of a watch for every document shown, given what the user has
        watched so far: much of searching is finding again."""
        config, users, documents = self.config, self.users, self.documents
        topic = documents.topic[shown]
        inside = documents.category[shown] == query.category
        if query.topic == BROAD:
            relevance = config.broad * inside
        else:
            relevance = np.where(topic == query.topic, 1.0, config.near * inside)
        logit = (
            config.bias
            + config.relevance * relevance
            + config.affinity * inside * users.affinity[user, topic]
            + config.taste * standard(documents.palette[shown], users.palette[user])
            + config.taste * standard(documents.tone[shown], users.tone[user])
            + config.quality * documents.quality[shown]
            + config.refinding * self.watched[user, shown]
        )
        return 1 / (1 + np.exp(-logit))

    def visits(self) -> tuple[np.ndarray, np.ndarray]:
        """User and day of every first query of a session, in time order."""
        users, days, rng = self.users, self.config.days, self.rng
        weight = users.activity * (1 - users.arrival / days)
        user = rng.choice(len(weight), self.config.sessions, p=weight / weight.sum())
        day = rng.uniform(users.arrival[user], days)
        order = np.argsort(day)
        return user[order], day[order]

    def simulate(self, progress=iter) -> list[dict]:
        """The whole log, one dictionary an issued query (QID), in time order."""
        log, user_day = [], zip(*self.visits(), strict=True)
        for user, day in progress(list(user_day)):
            self.users = self.drift.users(self.users, day)
            query = self.ask(user)
            while query is not None:
                shown = self.page(query, day)
                p = self.probability(user, query, shown)
                label = (self.rng.random(len(p)) < p).astype(np.int8)
                self.watched[user, shown[label == 1]] = True
                log.append(_record(user, query, day, shown, p, label))
                again = not label.any() and self.rng.random() < self.config.reformulate
                query = self.refine(user, query) if again else None
                day = min(day + self.rng.uniform(20, 90) / DAY, self.config.days)
        return sorted(log, key=lambda record: record["day"])


def standard(value: np.ndarray, favourite: int, values: int = 5) -> np.ndarray:
    """Match with the favourite, scaled to mean 0 and variance 1 over documents."""
    chance = 1 / values
    return ((value == favourite) - chance) / (chance * (1 - chance)) ** 0.5


def _record(user, query, day, shown, probability, label) -> dict:
    return dict(
        user=user, text=query.text, day=day, item=shown, p=probability, label=label
    )
