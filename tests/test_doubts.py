"""What the main command tells a reader to doubt."""

import dataclasses

import numpy as np
import pytest

from lemur_mini import doubts


@pytest.fixture
def dataset(prepared):
    return prepared.dataset


def with_log(dataset, **columns):
    return dataclasses.replace(dataset, log=dataclasses.replace(dataset.log, **columns))


def test_earlier_positives_equal_a_loop():
    rng = np.random.default_rng(0)
    key, label = rng.integers(0, 5, 60), rng.integers(0, 2, 60).astype(np.int8)
    wanted = [int(label[:i][key[:i] == key[i]].sum()) for i in range(60)]
    np.testing.assert_array_equal(doubts.earlier(key, label), wanted)


def test_the_platform_leaves_no_doubt(dataset):
    assert doubts.of_log(dataset) == []


def test_repeats_that_are_always_positive(dataset):
    log = dataset.log
    again = doubts.taken_before(log.user, log.item, log.label)
    label = np.where(again, 1, log.label)
    for _ in range(20):  # until what is taken is all that was taken before
        label = np.where(doubts.taken_before(log.user, log.item, label), 1, label)
    if doubts.taken_before(log.user, log.item, label).sum() < doubts.REPEATS:
        pytest.skip("too few repeats on the tiny platform")
    said = doubts.of_log(with_log(dataset, label=label.astype(np.int8)))
    assert any("always positive" in line for line in said)


def test_negatives_that_popularity_tells_apart():
    rng = np.random.default_rng(0)
    label = np.tile([1, 0], 500).astype(np.int8)
    item = np.where(label == 1, rng.integers(0, 5, 1000), rng.integers(5, 500, 1000))
    log = dataclasses.make_dataclass("Log", ["user", "item", "label"])
    data = dataclasses.make_dataclass("Data", ["log"])
    said = doubts.of_log(data(log(rng.integers(0, 900, 1000), item, label)))
    assert len(said) == 1 and "popularity alone" in said[0]


def report(loss: float, means: float) -> dict:
    log = [{"ctr": 0.7}, {"ctr": loss}, {"ctr": loss}, {"ctr": loss}]
    return {"training_log": {"lemur": log}, "means": {"auc": means}}


def test_a_loss_at_the_entropy_of_the_base_rate():
    label = np.array([0, 1, 1, 1])  # entropy 0.562
    (line,) = doubts.of_report(report(0.562, 0.6), label)
    assert "lemur" in line and "0.562" in line and "nothing was learnt" in line
    assert doubts.of_report(report(0.5, 0.6), label) == []


def test_means_below_chance():
    (line,) = doubts.of_report(report(0.1, 0.45), np.array([0, 1]))
    assert "0.450" in line and "worse than chance" in line
