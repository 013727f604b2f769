"""The simulated online test: shared visits, honest answers, rates by hand."""

import numpy as np
import pytest

from lemur_mini.config import LEMUR
from lemur_mini.reproduce.claims import CLAIMS, CONTROL, change_rates, compare
from lemur_mini.simulate.ab_test import (
    CANDIDATES,
    Arm,
    candidates,
    query_change,
    visits,
)
from lemur_mini.training import make_model
from lemur_mini.world import BROAD, Platform, Query
from lemur_mini.world.config import WorldConfig


@pytest.fixture(scope="module")
def platform(world) -> Platform:
    made = Platform(world, 0)
    made.simulate()
    return made


@pytest.fixture(scope="module")
def shared(platform, dataset):
    return visits(platform, set(dataset.queries), 60, seed=3)


@pytest.fixture
def arm(platform, prepared, config) -> Arm:
    model = make_model(config.replace(groups=LEMUR), prepared.sizes, 0, "cpu")
    return Arm(platform, prepared, model, seed=0)


def test_visits_follow_from_the_seed_and_leave_the_platform_alone(
    platform, dataset, shared
):
    before = platform.rng.bit_generator.state
    again = visits(platform, set(dataset.queries), 60, seed=3)
    assert platform.rng.bit_generator.state == before
    for a, b in zip(shared, again, strict=True):
        assert (a.user, a.query) == (b.user, b.query)
        assert np.array_equal(a.shown, b.shown)
    assert {visit.query.text for visit in shared} <= set(dataset.queries)


def test_candidates_are_distinct_and_half_on_topic():
    big = Platform(WorldConfig(users=10, documents=4000, sessions=10), 1)
    for topic in (BROAD, 3):
        query = Query(0, topic, "")
        shown = candidates(big, query, 30.0)
        assert len(set(shown.tolist())) == CANDIDATES
        inside = big.documents.category[shown] == 0
        exact = inside if topic == BROAD else big.documents.topic[shown] == topic
        assert exact.sum() >= CANDIDATES // 2
        assert inside.sum() >= 3 * CANDIDATES // 4


def test_the_arm_ranks_all_candidates_by_the_models_score(arm, shared):
    order = arm.ranked(shared[:5])
    assert [sorted(row) for row in order.tolist()] == [list(range(CANDIDATES))] * 5


def test_histories_begin_with_the_log_and_grow_with_watches(arm, shared, dataset):
    log = dataset.log
    for user in range(len(dataset.users)):
        mine = log.user == user
        assert [item for item, _ in arm.shown[user]] == log.item[mine].tolist()
        assert [taken for _, taken in arm.shown[user]] == (
            log.label[mine] == 1
        ).tolist()

    def watched():
        return sum(taken for past in arm.shown.values() for _, taken in past)

    before = watched()
    served = list(arm.serve(shared))
    assert watched() - before == sum(watches for *_, watches in served) > 0


def test_arms_do_not_touch_one_another(platform, arm, shared):
    watched = platform.watched.copy()
    list(arm.serve(shared))
    assert np.array_equal(platform.watched, watched)
    assert (arm.platform.watched != watched).any()


def test_only_pages_without_a_watch_are_reformulated(arm, shared):
    served = list(arm.serve(shared))
    assert len(served) >= len(shared)
    assert all(not watches for _, change, watches in served if change)
    assert any(change for _, change, _ in served)


def test_the_same_seed_serves_the_same(platform, prepared, config, shared):
    model = make_model(config.replace(groups=("user",)), prepared.sizes, 0, "cpu")
    first, again, other = (
        query_change(list(Arm(platform, prepared, model, s).serve(shared)))
        for s in (0, 0, 1)
    )
    assert first == again != other


def test_query_change_counts_distinct_pairs(shared):
    a = shared[0]
    served = [(a, False, 1), (a, True, 0), (shared[1], False, 2)]
    counts = query_change(served)
    wanted = 1 / (2 if (a.user, a.query.text) != _key(shared[1]) else 1)
    assert change_rates(counts) == pytest.approx(wanted)
    assert sum(counts["changed"]) == 1


def _key(visit):
    return visit.user, visit.query.text


def made_up(rate: float, users: int, rng) -> dict:
    asked = rng.integers(1, 6, users)
    return {
        "users": list(range(users)),
        "asked": asked.tolist(),
        "changed": rng.binomial(asked, rate).tolist(),
    }


def test_the_test_finds_a_difference_and_none_where_there_is_none():
    rng = np.random.default_rng(0)
    runs = {}
    for seed in range(4):
        arms = [made_up(0.10, 800, rng), made_up(0.10, 800, rng)]
        runs["lemur", seed] = {"online": arms}
        runs["rankmixer_longer", seed] = {"online": [made_up(0.15, 800, rng), None]}
    by_number = {claim.number: claim for claim in CLAIMS}
    found = compare(by_number["16"], runs)
    assert found["interval"][1] < 0 and found["verdict"] == "reproduces"
    assert found["ours"] == pytest.approx(-0.05, abs=0.01)
    control = compare(by_number[CONTROL], runs)
    assert control["interval"][0] < 0 < control["interval"][1]
