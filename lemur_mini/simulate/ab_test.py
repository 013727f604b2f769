"""The simulated online test: a trained ranker serves the platform's users.

Every ranker meets the same visits with the same candidates; the platform answers by
its true probabilities, with position bias. Histories and clicks are a ranker's own."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from lemur_mini.data.pages import PAD, make_batch
from lemur_mini.model import Lemur
from lemur_mini.pipeline import Prepared
from lemur_mini.world import BROAD, Platform, Query
from lemur_mini.world.config import WorldConfig

CANDIDATES = 24  # of which the platform's page shows the best
ROUND = 250  # visits scored at once; histories stand still inside a round


@dataclass(frozen=True)
class Visit:
    """A user opens the platform and asks."""

    user: int
    day: float
    query: Query
    shown: np.ndarray  # (CANDIDATES,)


def candidates(platform: Platform, query: Query, day: float) -> np.ndarray:
    """Half on topic (broad: in the category), a quarter near, the rest from anywhere.
    A page of the log is mostly relevant already; a ranker's input is not."""
    category = exact = platform.by_category[query.category]
    if query.topic != BROAD:
        exact = platform.by_topic[query.topic]
    exact = platform.draw(exact, CANDIDATES // 2, day)
    near = platform.draw(np.setdiff1d(category, exact), CANDIDATES // 4, day)
    taken = np.concatenate([exact, near])
    rest = np.setdiff1d(np.arange(platform.config.documents), taken)
    return platform.rng.permutation(
        np.concatenate([taken, platform.draw(rest, CANDIDATES - len(taken), day)])
    )


def visits(platform: Platform, known: set[str], count: int, seed: int) -> list[Visit]:
    """The visits of the days after the log, the same for every ranker. Queries are
    such as were asked before (`known`): ids of queries exist for no others."""
    platform = copy.copy(platform)
    platform.rng = np.random.default_rng((seed, 1))
    weight = platform.users.activity / platform.users.activity.sum()
    day = float(platform.config.days)
    out = []
    for user in platform.rng.choice(len(weight), count, p=weight):
        query = platform.ask(user)
        while query.text not in known:
            query = platform.ask(user)
        out.append(Visit(user, day, query, candidates(platform, query, day)))
    return out


class Arm:
    """One ranker and the users it serves: their histories and their watches."""

    def __init__(self, platform: Platform, prepared: Prepared, model: Lemur, seed: int):
        self.platform, self.prepared, self.model = copy.copy(platform), prepared, model
        self.platform.watched = platform.watched.copy()
        self.clicks = np.random.default_rng((seed, 2))
        dataset, log = prepared.dataset, prepared.dataset.log
        self.rows = {int(user): row for row, user in enumerate(dataset.users)}
        self.texts = {text: row for row, text in enumerate(dataset.queries)}
        # by user row, in time: what was shown, and whether it was watched
        self.shown: dict[int, list[tuple[int, bool]]] = defaultdict(list)
        for user, item, label in zip(log.user, log.item, log.label, strict=True):
            self.shown[int(user)].append((int(item), bool(label)))

    def serve(self, visits: list[Visit]) -> Iterator[tuple[Visit, bool, int]]:
        """Every issued query, whether it was reformulated, and how much was watched."""
        while visits:
            now, later = visits[:ROUND], visits[ROUND:]
            again = []
            for visit, order in zip(now, self.ranked(now), strict=True):
                watches = self.look(visit, visit.shown[order])
                config = self.platform.config
                change = not watches and self.clicks.random() < config.reformulate
                if change and (new := self.refined(visit)):
                    again.append(new)
                yield visit, change, watches
            visits = again + later

    def look(self, visit: Visit, page: np.ndarray) -> int:
        """The user looks at place k with chance 1 / k, and watches by the truth."""
        page = page[: self.platform.config.page_size]
        p = self.platform.probability(visit.user, visit.query, page)
        seen = 1 / np.arange(1, len(page) + 1)
        watched = self.clicks.random(len(page)) < p * seen
        self.platform.watched[visit.user, page[watched]] = True
        shown = zip(page.tolist(), watched.tolist(), strict=True)
        self.shown[self.rows.get(visit.user, PAD)] += shown
        return int(watched.sum())

    def refined(self, visit: Visit) -> Visit | None:
        """The visit with a more specific query, if that was ever asked before."""
        self.platform.rng = np.random.default_rng((visit.user, len(visit.query.text)))
        for _ in range(20):
            query = self.platform.refine(visit.user, visit.query)
            if query.text in self.texts:
                shown = candidates(self.platform, query, visit.day)
                return Visit(visit.user, visit.day, query, shown)
        return None

    @torch.no_grad()
    def ranked(self, visits: list[Visit]) -> np.ndarray:
        """Places of the candidates of each visit, best first: (visits, CANDIDATES)."""
        users = np.array([self.rows.get(visit.user, PAD) for visit in visits])
        past = [self.shown[int(user)] if user >= 0 else [] for user in users]
        watched = [[item for item, taken in one if taken] for one in past]
        history = newest(watched, self.model.config.history_long, PAD)
        more = {}
        if length := self.model.config.history_seen:
            more["seen"] = newest([[i for i, _ in one] for one in past], length, PAD)
            more["taken"] = newest([[t for _, t in one] for one in past], length, False)
        item = np.stack([visit.shown for visit in visits])
        query = np.array([self.texts[visit.query.text] for visit in visits])
        label = np.zeros(item.shape, np.float32)
        batch = make_batch(users, query, query, item, label, history, **more)
        features = self.prepared.features
        score = self.model.eval()(batch.to(features.tokens.device), features)
        return score.argsort(dim=1, descending=True).cpu().numpy()


def newest(past: list[list], length: int, fill) -> np.ndarray:
    """The last `length` of each, newest first, filled up: (visits, length)."""
    out = np.full((len(past), length), fill)
    for row, values in enumerate(past):
        recent = values[-length:][::-1]
        out[row, : len(recent)] = recent
    return out


def query_change(served: list[tuple[Visit, bool, int]]) -> dict[str, list]:
    """Per user: distinct (user, query) pairs, and how many of them were reformulated.
    Query change rate (paper, section 7): the sum of the second by that of the first."""
    pairs: dict[tuple[int, str], bool] = {}
    for visit, change, _ in served:
        key = (visit.user, visit.query.text)
        pairs[key] = pairs.get(key, False) or change
    users = sorted({user for user, _ in pairs})
    place = {user: k for k, user in enumerate(users)}
    asked, changed = np.zeros(len(users), int), np.zeros(len(users), int)
    for (user, _), change in pairs.items():
        asked[place[user]] += 1
        changed[place[user]] += change
    return {
        "users": [int(u) for u in users],
        "asked": asked.tolist(),
        "changed": changed.tolist(),
    }


@cache
def _platform(seed: int) -> Platform:
    platform = Platform(WorldConfig(), seed)
    platform.simulate()  # up to the end of the log
    return platform


def online(
    prepared: Prepared, model: Lemur, seed: int, count: int = 6000
) -> list[dict]:
    """Serve the same visits twice, with clicks of their own: the first for comparing
    rankers, the second for the control (A/A). Raises ValueError away from the shipped
    platform: only there are the true probabilities known."""
    dataset = prepared.dataset
    if dataset.truth is None:
        raise ValueError("an online test needs the platform's true probabilities")
    platform = _platform(0)
    shared = visits(platform, set(dataset.queries), count, seed)
    arms = [Arm(platform, prepared, model, 2 * seed + k) for k in range(2)]
    return [query_change(list(arm.serve(shared))) for arm in arms]
