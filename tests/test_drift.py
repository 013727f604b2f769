"""Drift: what changes on the platform, and the stream that is served and learnt."""

import dataclasses

import numpy as np
import pytest
import torch

from lemur_mini import training
from lemur_mini.memory_bank import NEVER
from lemur_mini.simulate import daily_stream, drift
from lemur_mini.world import BROAD, Platform
from lemur_mini.world.config import WorldConfig
from lemur_mini.world.vocabulary import themes

SMALL = WorldConfig(users=300, documents=900, sessions=600)
MOVING = dataclasses.replace(
    SMALL, taste_change=0.6, affinity_walk=0.2, late_topics=0.4
)


# --- the platform --------------------------------------------------------------------


def test_without_drift_nobody_changes():
    platform = Platform(SMALL, seed=0)
    first = platform.users
    platform.simulate()
    assert platform.users is first
    assert (platform.drift.since == 0).all()


def test_the_first_day_is_the_same_with_and_without_drift():
    still, moving = Platform(SMALL, seed=0), Platform(MOVING, seed=0)
    for name in ("affinity", "palette", "tone", "arrival", "interest"):
        assert np.array_equal(getattr(still.users, name), getattr(moving.users, name))
    assert np.array_equal(still.documents.born, moving.documents.born)


def test_tastes_change_once_and_only_for_some():
    platform = Platform(MOVING, seed=0)
    first, day = platform.users, platform.drift.change
    platform.simulate()
    moved = first.palette != platform.users.palette
    assert 0.5 < np.isfinite(day).mean() < 0.7
    assert moved.any() and not moved[~np.isfinite(day)].any()
    halfway = Platform(MOVING, seed=0)
    at_15 = halfway.drift.users(halfway.users, 15.0)
    early = first.palette != at_15.palette
    assert early.any() and (day[early] <= 15).all()


def test_affinities_walk_slowly_and_keep_their_spread():
    platform = Platform(MOVING, seed=0)
    walk, first = platform.drift, platform.users.affinity.copy()
    tomorrow = walk.users(platform.users, 1.0)
    near = np.corrcoef(first.ravel(), tomorrow.affinity.ravel())[0, 1]
    far = walk.users(tomorrow, 29.0).affinity
    assert near == pytest.approx((1 - 0.2**2) ** 0.5, abs=0.01)
    assert np.corrcoef(first.ravel(), far.ravel())[0, 1] < 0.7 < near
    assert far.std() == pytest.approx(1, abs=0.02)


def test_late_topics_are_neither_shown_nor_asked_before_their_day():
    platform = Platform(MOVING, seed=0)
    since, topics = platform.drift.since, themes()[1]
    late = set(np.flatnonzero(since > 0))
    assert 0 < len(late) < len(topics) and since[list(late)].min() >= 10
    assert (platform.documents.born >= since[platform.documents.topic]).all()
    word = {w: t for t, theme in enumerate(topics) for w in theme.query}
    asked = set()
    for record in platform.simulate():
        for topic in {word[w] for w in record["text"].split() if w in word} & late:
            assert record["day"] >= since[topic]
            asked.add(topic)
    assert asked
    assert BROAD == -1  # broad queries name no topic, and go on as before


# --- refresh policies ----------------------------------------------------------------


def test_policies_choose_what_they_say():
    written, shown = torch.arange(1000), torch.arange(1000).flip(0)
    order = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert daily_stream.oldest(written, shown, order).tolist() == list(
        range(daily_stream.EXTRA)
    )
    head = daily_stream.popular(written, shown, order)
    assert len(head) == daily_stream.EXTRA == len(set(head.tolist()))
    assert shown[head].min() >= 1000 - daily_stream.EXTRA / daily_stream.CHANCE
    assert set(head.tolist()) != set(
        range(daily_stream.EXTRA)
    )  # a chance, not the very top
    assert (
        len(set(daily_stream.at_random(written, shown, order).tolist()))
        == daily_stream.EXTRA
    )


def test_refresh_writes_as_many_for_every_policy(prepared, config):
    for policy in daily_stream.POLICIES:
        model = training.make_model(config, prepared.sizes, 0, torch.device("cpu"))
        run = training.Run(model, prepared.features, 0, 1)
        model.bank.write(torch.arange(90), torch.zeros(90, config.width), 3)
        model.bank.write(torch.arange(80, 90), torch.zeros(10, config.width), 7)
        shown = torch.arange(len(model.bank.vectors))
        count = daily_stream.refresh(run, policy, shown, 7)
        assert count == (
            8 if policy == "popular" else daily_stream.EXTRA
        )  # a tenth of 80
        assert int((model.bank.written == 7).sum()) == 10 + count
        assert (model.bank.written[90:] == NEVER).all()


# --- the stream ----------------------------------------------------------------------


@pytest.fixture
def system(prepared, config):
    """A model trained on the days before 28, and where it stands in the stream."""
    index = daily_stream.until(prepared, 28)
    steps = len(index) // config.batch_pages
    model = training.make_model(config, prepared.sizes, 0, torch.device("cpu"))
    run = training.Run(model, prepared.features, 0, steps, floor=0.3)
    return training.train(run, prepared.pages, index[: steps * config.batch_pages])


def test_a_day_is_served_before_it_is_learnt(prepared, system):
    today = daily_stream.until(prepared, 29)[len(daily_stream.until(prepared, 28)) :]
    new = torch.from_numpy(
        np.unique(prepared.dataset.log.item[prepared.pages.rows[today].clip(0)])
    )
    system.model.eval().publish(prepared.features, new, system.step)
    _, expected = training.predict(
        system.model, prepared.features, prepared.pages, today
    )
    begun = system.step
    served = daily_stream.serve(prepared, system, daily_stream.Variant(), range(28, 30))
    np.testing.assert_allclose(served.score[0], expected, rtol=1e-5)
    assert len(served.rows) == 2 and system.step == begun + served.steps
    assert (
        system.step
        == len(daily_stream.until(prepared, 30)) // system.config.batch_pages
    )
    assert served.encoded > 0 == served.extra


def test_what_is_not_updated_stays(prepared, system):
    before = {k: v.clone() for k, v in system.model.named_parameters()}
    served = daily_stream.serve(
        prepared, system, daily_stream.Variant(updates=False), range(28, 30)
    )
    assert served.steps == served.encoded == 0
    for name, value in system.model.named_parameters():
        assert torch.equal(value, before[name])


def test_the_rate_keeps_its_floor(config):
    rates = [training.learning_rate_at(config, step, 100, 0.3) for step in range(300)]
    assert min(rates[10:]) == rates[-1] == pytest.approx(0.3 * config.learning_rate)
    assert training.learning_rate_at(config, 99, 100) < rates[99]


def test_age_is_grouped_and_weighted():
    probe = {
        "age": np.array([1.0, 2, 3, 4, 9]),
        "stale": np.array([0.5, 0.5, 0.5, 0.7, np.nan]),
        "fresh": np.array([0.5, 0.5, 0.7, 0.9, np.nan]),
    }
    young, old = daily_stream.by_age([probe], groups=2)
    assert (young["age"], old["age"]) == (1.5, 3.5)
    assert old["fresh"] - old["stale"] == pytest.approx(0.2)
    facts = {"qauc": {"all": [[0.5, 10], [0.8, 20], [None, 0]]}}
    assert drift.mean_qauc(facts) == pytest.approx(0.7)
    assert np.isnan(drift.mean_qauc({"qauc": {"all": [[None, 0]]}}))
