"""The learner's ceiling against brute force on worlds small enough for it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from lemur_mini.data.loading import Log
from lemur_mini.world import oracle
from lemur_mini.world.config import WorldConfig
from lemur_mini.world.platform import DAY, Platform

TINY = WorldConfig(users=4, documents=60, sessions=60)
PAIRS = list(itertools.product(range(5), range(5)))  # favourite palette and tone


def world(config: WorldConfig) -> tuple[Log, list[str], Platform, np.ndarray]:
    """A simulated log, its distinct query texts, the platform, the true chances."""
    platform = Platform(config, 0)
    records = platform.simulate()
    size = [len(record["item"]) for record in records]
    texts, query = np.unique([r["text"] for r in records], return_inverse=True)
    day = np.array([record["day"] for record in records])
    log = Log(
        user=np.repeat([record["user"] for record in records], size),
        qid=np.repeat(np.arange(len(records)), size),
        query=np.repeat(query, size),
        item=np.concatenate([record["item"] for record in records]),
        timestamp=np.repeat((day * DAY).astype(np.int64), size),
        label=np.concatenate([record["label"] for record in records]),
    )
    return log, texts.tolist(), platform, np.concatenate([r["p"] for r in records])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def match(value: int, favourite: int) -> float:
    """Mean 0, variance 1 over documents with one of five values each."""
    return ((value == favourite) - 0.2) / 0.4


def likelihood(seen, label, user, config, affinity, pair) -> float:
    """Log probability of a user's labels, one impression after the other."""
    total = 0.0
    for i in np.flatnonzero(seen.user.numpy() == user):
        logit = float(seen.known[i] + seen.inside[i] * affinity[seen.topic[i]])
        logit += config.taste * match(int(seen.palette[i]), pair[0])
        logit += config.taste * match(int(seen.tone[i]), pair[1])
        total += np.log(sigmoid(logit if label[i] else -logit))
    return total


def test_what_a_learner_sees_and_the_hidden_factors_give_the_true_chances():
    log, queries, platform, truth = world(TINY)
    seen = oracle.see(log, queries, platform.documents, TINY)
    hidden = oracle.Hidden(TINY.users, TINY.documents, TINY)
    users = platform.users
    with torch.no_grad():
        hidden.affinity.copy_(torch.from_numpy(users.affinity))
        hidden.quality.copy_(torch.from_numpy(platform.documents.quality))
        odds = torch.zeros(TINY.users, 5, 5, dtype=torch.float64)
        odds[torch.arange(TINY.users), users.palette, users.tone] = 1.0
        assert np.allclose(hidden.predict(seen, odds), truth)


def test_evidence_is_the_sum_over_impressions_for_all_25_pairs():
    log, queries, platform, _ = world(TINY)
    seen = oracle.see(log, queries, platform.documents, TINY)
    hidden = oracle.Hidden(TINY.users, TINY.documents, TINY)
    with torch.no_grad():
        hidden.affinity.normal_(generator=torch.Generator().manual_seed(0))
        found = hidden.evidence(seen, torch.from_numpy(log.label).double())
    skew = np.log(TINY.favourite_skew)
    for user, pair in itertools.product(range(TINY.users), PAIRS):
        affinity = hidden.affinity[user].tolist()
        expected = likelihood(seen, log.label, user, TINY, affinity, pair)
        expected += skew[pair[0]] + skew[pair[1]]
        assert found[(user, *pair)].item() == pytest.approx(expected)


def test_where_only_tastes_are_hidden_it_is_bayes_rule():
    config = WorldConfig(users=4, documents=60, sessions=60, affinity=0.0, quality=0.0)
    log, queries, platform, _ = world(config)
    until = int(np.quantile(log.timestamp, 0.7))
    found = oracle.learnable(log, queries, platform.documents, config, until, range)
    seen = oracle.see(log, queries, platform.documents, config)
    before, zero = torch.from_numpy(log.timestamp < until), [0.0] * 48
    past, skew = seen[before], config.favourite_skew
    label = log.label[before.numpy()]
    for user in range(config.users):
        weight = {
            pair: skew[pair[0]]
            * skew[pair[1]]
            * np.exp(likelihood(past, label, user, config, zero, pair))
            for pair in PAIRS
        }
        for i in np.flatnonzero(log.user == user)[-5:]:
            chance = sum(
                w * np.exp(likelihood(seen[[i]], [1], user, config, zero, pair))
                for pair, w in weight.items()
            )
            assert found[i] == pytest.approx(chance / sum(weight.values()))


def test_the_affinity_is_the_best_of_a_fine_grid():
    config = WorldConfig(users=2, documents=60, sessions=40, quality=0.0)
    log, queries, platform, _ = world(config)
    seen = oracle.see(log, queries, platform.documents, config)
    hidden = oracle.Hidden(config.users, config.documents, config)
    hidden.fit(seen, torch.from_numpy(log.label).double(), range)
    skew, grid = np.log(config.favourite_skew), np.linspace(-3, 3, 61)
    mine = (seen.user == 0) & (seen.inside > 0)
    topic = int(seen.topic[mine].mode().values)
    values = []
    for value in grid:  # one coordinate of the posterior's peak, the others held
        affinity = hidden.affinity[0].tolist()
        affinity[topic] = value
        each = [
            likelihood(seen, log.label, 0, config, affinity, pair)
            + skew[pair[0]]
            + skew[pair[1]]
            for pair in PAIRS
        ]
        values.append(np.logaddexp.reduce(each) - value**2 / 2)
    best = grid[np.argmax(values)]
    assert abs(hidden.affinity[0, topic].item() - best) <= grid[1] - grid[0]


def test_it_does_not_look_ahead():
    log, queries, platform, _ = world(TINY)
    until = int(np.quantile(log.timestamp, 0.6))
    last = log.timestamp == log.timestamp.max()  # one page; nothing follows it
    label = np.where(last, 1 - log.label, log.label)
    other = Log(log.user, log.qid, log.query, log.item, log.timestamp, label)
    both = [
        oracle.learnable(x, queries, platform.documents, TINY, until, range)
        for x in (log, other)
    ]
    assert np.array_equal(*both)


def test_shares_of_the_cases_equal_a_loop():
    log, queries, platform, _ = world(TINY)
    documents, until = platform.documents, int(np.quantile(log.timestamp, 0.6))
    category, topic = oracle.read(queries)

    def case(i: int) -> int:
        query, item = log.query[i], log.item[i]
        if documents.category[item] != category[query]:
            return 0
        if topic[query] == oracle.BROAD:
            return 2
        return 3 if documents.topic[item] == topic[query] else 1

    before = np.flatnonzero(log.timestamp < until)
    everybody = np.bincount([case(i) for i in before], minlength=4) / len(before)
    found = oracle.shares(log, queries, documents, until)
    for i in range(0, len(log.label), 17):
        mine = [
            case(j)
            for j in before
            if log.user[j] == log.user[i]
            and documents.category[log.item[j]] == documents.category[log.item[i]]
        ]
        wanted = np.bincount(mine, minlength=4) + oracle.PRIOR * everybody
        np.testing.assert_allclose(found[i], wanted / wanted.sum())


def test_as_a_feed_the_pages_own_query_is_not_read():
    log, queries, platform, _ = world(TINY)
    until = int(np.quantile(log.timestamp, 0.6))
    other = np.where(log.timestamp < until, log.query, 0)
    changed = Log(log.user, log.qid, other, log.item, log.timestamp, log.label)
    both = [
        oracle.learnable_as_feed(x, queries, platform.documents, TINY, until, range)
        for x in (log, changed)
    ]
    assert np.array_equal(*both)
    told = oracle.learnable(log, queries, platform.documents, TINY, until, range)
    assert not np.allclose(both[0], told)
