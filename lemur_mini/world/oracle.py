"""The learner's ceiling: what could be learnt from the log before a day, at best.

The true ceiling knows every user's hidden tastes; no finite log tells them. This one
is given what content shows (topic, palette and tone of every document, topic or
category of every query), the form of the click model with its weights, and the log
before `until`. It infers the rest: 25 combinations of favourite palette and tone a user
may have are weighed by their marginal likelihood; a user's affinities to topics and a
document's quality are the most probable ones. It never sees a hidden factor of a user,
the quality of a document, or a label from `until` on. Outside the click model it uses
nothing: not that users ask more often for topics they like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import trange

from lemur_mini.world.config import WorldConfig
from lemur_mini.world.documents import Documents
from lemur_mini.world.platform import BROAD, standard
from lemur_mini.world.vocabulary import PALETTES, TONES, themes

ROUNDS, EVALUATIONS = 20, 6  # of L-BFGS; it has converged well before
VALUES = len(PALETTES), len(TONES)
CASES = 4  # of a document for a query: outside its category, near, broad, on topic
PRIOR = 10  # impressions of everybody's that a user's own are added to


class Log(Protocol):
    """Impressions in time order, as `lemur_mini.data` loads them: arrays (I,)."""

    user: np.ndarray
    qid: np.ndarray
    query: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class Seen:
    """What a learner sees of I impressions, beside their labels."""

    user: Tensor  # (I,)
    item: Tensor  # (I,)
    topic: Tensor  # (I,) of the document
    palette: Tensor  # (I,)
    tone: Tensor  # (I,)
    known: Tensor  # (I,) the logit's part that no hidden factor enters
    inside: Tensor  # (I,) weight of the affinity, 0 outside the query's category

    def __getitem__(self, rows: Tensor) -> Seen:
        return Seen(*(part[rows] for part in vars(self).values()))


def learnable(
    log: Log,
    queries: list[str],
    documents: Documents,
    config: WorldConfig,
    until: int,
    progress=trange,
) -> np.ndarray:
    """Watch probabilities (I,) of all impressions, learnt from those before `until`
    (unix seconds). log: of the platform without drift, items by row of `documents`."""
    seen = see(log, queries, documents, config)
    hidden, odds = infer(log, seen, config, len(documents.topic), until, progress)
    with torch.no_grad():
        return hidden.predict(seen, odds).numpy()


def learnable_as_feed(
    log: Log,
    queries: list[str],
    documents: Documents,
    config: WorldConfig,
    until: int,
    progress=trange,
) -> np.ndarray:
    """The same for a feed, (I,): the query of a page is not known when it is ranked. A
    document may be on its topic, near it, in its broad category or none of these; each
    case weighs as often as it was seen with this user and category before `until`. A
    bound: the queries of the days before are told, which no feed does."""
    seen = see(log, queries, documents, config)
    hidden, odds = infer(log, seen, config, len(documents.topic), until, progress)
    again = torch.tensor(config.refinding * watched_before(log))
    share = shares(log, queries, documents, until)  # (I, CASES)
    total = torch.zeros(len(log.label), dtype=torch.float64)
    strength = (0.0, config.near, config.broad, 1.0)
    with torch.no_grad():
        for case, relevance in enumerate(strength):
            known = config.bias + config.relevance * relevance + again
            inside = torch.full_like(known, config.affinity * (case > 0))
            there = replace(seen, known=known, inside=inside)
            total += torch.tensor(share[:, case]) * hidden.predict(there, odds)
    return total.numpy()


def shares(
    log: Log, queries: list[str], documents: Documents, until: int
) -> np.ndarray:
    """(I, CASES) how often each case was seen before `until` with the impression's user
    and its document's category, beside PRIOR impressions of everybody's."""
    category, topic = (part[log.query] for part in read(queries))
    mine = documents.category[log.item]
    case = np.where(documents.topic[log.item] == topic, 3, 1)
    case = np.where(topic == BROAD, 2, case) * (mine == category)
    key = log.user * (documents.category.max() + 1) + mine
    before = log.timestamp < until
    counts = np.zeros((key.max() + 1, CASES))
    np.add.at(counts, (key[before], case[before]), 1)
    counts += PRIOR * counts.sum(axis=0) / counts.sum()
    return (counts / counts.sum(axis=1, keepdims=True))[key]


def infer(
    log: Log,
    seen: Seen,
    config: WorldConfig,
    documents: int,
    until: int,
    progress=trange,
) -> tuple[Hidden, Tensor]:
    """What is most probable of all that is hidden, and the odds of favourites, by the
    log before `until`."""
    before = torch.from_numpy(log.timestamp < until)
    label = torch.tensor(log.label, dtype=torch.float64)
    known, taken = seen[before], label[before]
    hidden = Hidden(int(log.user.max()) + 1, documents, config)
    hidden.fit(known, taken, progress)
    with torch.no_grad():
        return hidden, hidden.posterior(known, taken)


def see(
    log: Log, queries: list[str], documents: Documents, config: WorldConfig
) -> Seen:
    """The part of the click model that is in plain view, of every impression."""
    category, topic = (part[log.query] for part in read(queries))
    of = {name: getattr(documents, name)[log.item] for name in FACTORS}
    inside = of["category"] == category
    relevance = np.where(of["topic"] == topic, 1.0, config.near * inside)
    relevance = np.where(topic == BROAD, config.broad * inside, relevance)
    known = config.bias + config.relevance * relevance
    known = known + config.refinding * watched_before(log)
    parts = log.user, log.item, of["topic"], of["palette"], of["tone"]
    return Seen(*map(torch.tensor, (*parts, known, config.affinity * inside)))


FACTORS = ("topic", "category", "palette", "tone")


def read(queries: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Category and topic, or BROAD, of query texts (Q,), by their words."""
    categories, topics = themes()
    means = {w: (c, BROAD) for c, theme in enumerate(categories) for w in theme.query}
    means |= {w: (t.category, i) for i, t in enumerate(topics) for w in t.query}
    found = [next(means[w] for w in q.split() if w in means) for q in queries]
    category, topic = np.array(found).T
    return category, topic


def watched_before(log: Log) -> np.ndarray:
    """(I,) whether the user watched the document on an earlier page."""
    pair = log.user * (log.item.max() + 1) + log.item
    _, first, page = np.unique(log.qid, return_index=True, return_inverse=True)
    page = first[page]  # pages by their first row, in time order
    _, pair = np.unique(pair, return_inverse=True)
    watch = np.full(pair.max() + 1, len(pair))
    np.minimum.at(watch, pair[log.label == 1], page[log.label == 1])
    return watch[pair] < page


class Hidden:
    """Users' affinities and documents' qualities, at their most probable values, and
    the odds of users' favourites given them."""

    def __init__(self, users: int, documents: int, config: WorldConfig):
        self.config = config
        self.affinity = torch.zeros(users, len(themes()[1]), dtype=torch.float64)
        self.quality = torch.zeros(documents, dtype=torch.float64)
        skew = torch.tensor(config.favourite_skew, dtype=torch.float64).log()
        self.prior = skew[:, None] + skew  # (palettes, tones)
        self.parameters = [self.affinity, self.quality]
        for parameter in self.parameters:
            parameter.requires_grad_()

    def logits(self, seen: Seen) -> Tensor:
        """(4, I): neither favourite, palette alone, tone alone, both."""
        affinity = self.affinity[seen.user, seen.topic]
        logit = seen.known + seen.inside * affinity
        logit = logit + self.config.quality * self.quality[seen.item]
        match, miss = (self.config.taste * standard(x, 1) for x in (1, 0))
        extra = torch.tensor([2 * miss, match + miss, match + miss, 2 * match])
        return logit + extra[:, None].double()

    def evidence(self, seen: Seen, label: Tensor) -> Tensor:
        """(U, palettes, tones): log probability of each user's labels and favourites.

        A row's likelihood has four values only, so that the 25 sums are those of three
        tables: by palette, by tone, by both."""
        neither, palette, tone, both = F.logsigmoid(self.logits(seen) * (2 * label - 1))
        users = len(self.affinity)

        def total(value: Tensor, *keys: tuple[Tensor, int]) -> Tensor:
            place, shape = seen.user, [users]
            for key, size in keys:
                place, shape = place * size + key, [*shape, size]
            out = value.new_zeros(int(np.prod(shape)))
            return out.index_add(0, place, value).view(shape)

        by_palette, by_tone = (seen.palette, VALUES[0]), (seen.tone, VALUES[1])
        return (
            self.prior
            + total(neither)[:, None, None]
            + total(palette - neither, by_palette)[:, :, None]
            + total(tone - neither, by_tone)[:, None]
            + total(both - palette - tone + neither, by_palette, by_tone)
        )

    def loss(self, seen: Seen, label: Tensor) -> Tensor:
        """Minus the log posterior of affinities and qualities, summed over tastes."""
        likelihood = self.evidence(seen, label).flatten(1).logsumexp(dim=1).sum()
        return sum((p**2).sum() for p in self.parameters) / 2 - likelihood

    def fit(self, seen: Seen, label: Tensor, progress=trange) -> None:
        """Find the most probable values. Without any chance in it."""
        search = torch.optim.LBFGS(
            self.parameters, max_iter=EVALUATIONS, line_search_fn="strong_wolfe"
        )

        def evaluate() -> Tensor:
            search.zero_grad()
            loss = self.loss(seen, label)
            loss.backward()
            return loss

        for _ in progress(ROUNDS):
            search.step(evaluate)

    def posterior(self, seen: Seen, label: Tensor) -> Tensor:
        """(U, palettes, tones): odds of every pair of favourites, rows sum to one."""
        evidence = self.evidence(seen, label)
        return evidence.flatten(1).softmax(dim=1).view_as(evidence)

    def predict(self, seen: Seen, odds: Tensor) -> Tensor:
        """Watch probabilities (I,), the mean over what a user may like."""
        both = odds[seen.user, seen.palette, seen.tone]
        palette = odds.sum(2)[seen.user, seen.palette] - both
        tone = odds.sum(1)[seen.user, seen.tone] - both
        cases = torch.stack([1 - palette - tone - both, palette, tone, both])
        return (cases * self.logits(seen).sigmoid()).sum(dim=0)
