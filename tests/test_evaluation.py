"""Measures against naive loops and scikit-learn; slices, intervals, the ceiling."""

import dataclasses
import itertools
import json
import math
from statistics import NormalDist

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn import metrics

from lemur_mini import pipeline
from lemur_mini.baselines import smoothed_means
from lemur_mini.data.pages import Pages
from lemur_mini.evaluation import (
    COLD,
    auc,
    calibration_error,
    evaluate,
    intervals,
    log_loss,
    qauc,
    query_auc,
    slices,
)


def sample(seed: int, queries: int = 20, size: int = 8, steps: int = 6) -> tuple:
    """label, score with many ties, qid in no order; some queries of one class."""
    rng = np.random.default_rng(seed)
    qid = rng.permutation(np.repeat(rng.permutation(1000)[:queries], size))
    label = (rng.random(len(qid)) < 0.2).astype(np.int8)
    score = rng.integers(steps, size=len(qid)) / steps
    return label, score, qid


def naive_auc(label, score, weight=None) -> float:
    weight = [1.0] * len(label) if weight is None else weight
    won = total = 0.0
    for i, j in itertools.product(range(len(label)), repeat=2):
        if label[i] == 1 and label[j] == 0:
            pair = weight[i] * weight[j]
            total += pair
            won += pair * (1.0 if score[i] > score[j] else score[i] == score[j] and 0.5)
    return won / total if total else math.nan


def naive_query_auc(label, score, qid) -> list[float]:
    each = [qid == q for q in sorted(set(qid.tolist()))]
    return [naive_auc(label[part], score[part]) for part in each]


@pytest.mark.parametrize("seed", range(3))
def test_auc(seed):
    label, score, _ = sample(seed)
    assert auc(label, score) == pytest.approx(naive_auc(label, score))
    assert auc(label, score) == pytest.approx(metrics.roc_auc_score(label, score))


@pytest.mark.parametrize("seed", range(3))
def test_auc_with_weights(seed):
    label, score, _ = sample(seed)
    weight = np.random.default_rng(seed + 9).integers(4, size=len(label))
    expected = metrics.roc_auc_score(label, score, sample_weight=weight)
    assert auc(label, score, weight) == pytest.approx(expected)
    assert auc(label, score, weight) == pytest.approx(naive_auc(label, score, weight))
    repeated = auc(np.repeat(label, weight), np.repeat(score, weight))
    assert auc(label, score, weight) == pytest.approx(repeated)


def test_auc_of_one_class_or_nothing_is_nan():
    score = np.array([0.1, 0.2])
    assert math.isnan(auc(np.array([1, 1]), score))
    assert math.isnan(auc(np.array([0, 0]), score))
    assert math.isnan(auc(np.array([]), np.array([])))


@pytest.mark.parametrize("seed", range(5))
def test_qauc_is_the_unweighted_mean_over_queries(seed):
    label, score, qid = sample(seed, size=3 + seed)
    expected = naive_query_auc(label, score, qid)
    np.testing.assert_allclose(query_auc(label, score, qid), expected)
    assert np.isnan(expected).any() and np.isfinite(expected).sum() > 3
    assert qauc(label, score, qid) == pytest.approx(np.nanmean(expected))


def test_queries_of_different_size_count_the_same():
    label = np.array([1, 0, 1, *[0] * 20])
    score = np.array([1.0, 0.0, 0.0, *[1.0] * 20])  # all right, then all wrong
    qid = np.array([0, 0, *[1] * 21])
    assert qauc(label, score, qid) == 0.5


def test_qauc_of_no_usable_query_is_nan():
    ones = np.ones(4)
    assert math.isnan(qauc(ones, ones, np.array([0, 0, 1, 1])))
    assert math.isnan(qauc(ones[:0], ones[:0], ones[:0]))


def test_log_loss_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    label, score = rng.integers(2, size=200), rng.random(200)
    assert log_loss(label, score) == pytest.approx(metrics.log_loss(label, score))
    sure = log_loss(np.array([1, 0]), np.array([0.0, 1.0]))
    assert sure == pytest.approx(-math.log(1e-7))  # wrong and certain, yet finite


def test_calibration_error():
    rng = np.random.default_rng(0)
    score = rng.random(40_000)
    label = rng.random(40_000) < score
    assert calibration_error(label, score) < 0.01
    low = score < 0.9
    shifted = calibration_error(label[low], score[low] + 0.1)
    assert shifted == pytest.approx(0.1, abs=0.01)
    # high here, low there: the mean is right, the bins are not
    halves = np.repeat([0.0, 1.0], 500)
    assert calibration_error(halves, np.full(1000, 0.5), bins=2) == 0.5
    # bins hold equal numbers: of 1, 2 and 3 impressions here, in order of the score
    order = np.array([2, 0, 1])
    label, score = np.array([0, 1, 1])[order], np.array([0.2, 0.4, 0.9])[order]
    expected = (abs(0 - 0.2) + abs(1 - 0.4) + abs(1 - 0.9)) / 3
    assert calibration_error(label, score, bins=3) == pytest.approx(expected)


# --- intervals -----------------------------------------------------------------------


def noisy(seed: int, queries: int) -> tuple:
    """Labels by the toss of a coin, scores N(label, 1): AUC and QAUC are known."""
    rng = np.random.default_rng(seed)
    label = rng.integers(2, size=8 * queries)
    return label, rng.normal(label), np.repeat(np.arange(queries), 8)


def test_intervals_cover_the_true_value():
    true = NormalDist().cdf(0.5**0.5)  # P(N(1, 1) > N(0, 1))
    inside = {"auc": 0, "qauc": 0}
    for seed in range(150):
        found = intervals(*noisy(seed, 100), draws=100, seed=seed)
        for name, (low, high) in found.items():
            inside[name] += low < true < high
    assert all(0.89 < count / 150 < 0.99 for count in inside.values()), inside


def test_intervals_follow_the_seed_and_the_number_of_queries():
    few, many = noisy(0, 50), noisy(0, 800)
    assert intervals(*few, seed=1) == intervals(*few, seed=1)
    assert intervals(*few, seed=1) != intervals(*few, seed=2)
    for name, measure in {"auc": auc(*few[:2]), "qauc": qauc(*few)}.items():
        low, high = intervals(*few)[name]
        assert low < measure < high
        narrow = np.subtract(*intervals(*many)[name])
        assert (low - high) / narrow == pytest.approx(4, rel=0.3)


def test_intervals_draw_whole_queries():
    # every query repeats one pattern, so drawing them anew changes nothing
    label, score = np.tile([1, 0, 1, 0], 30), np.tile([0.9, 0.5, 0.4, 0.1], 30)
    found = intervals(label, score, np.repeat(np.arange(30), 4), draws=20)
    assert found["auc"] == pytest.approx([0.75, 0.75])
    assert found["qauc"] == pytest.approx([0.75, 0.75])


# --- slices and reports --------------------------------------------------------------


def test_slices_are_the_naive_ones():
    rng = np.random.default_rng(0)
    documents, users = 40, 30
    train_item = (documents * rng.random(1500) ** 3).astype(int)
    train_user = (users * rng.random(1500) ** 4).astype(int)
    item, user = rng.integers(documents, size=300), rng.integers(users, size=300)
    found = slices(train_item, train_user, item, user, documents, users)
    shown = [(train_item == i).sum() for i in range(documents)]
    active = [(train_user == u).sum() for u in range(users)]
    head = np.quantile(shown, 0.9)
    assert found["cold"].tolist() == [shown[i] < COLD for i in item]
    assert found["cold_user"].tolist() == [active[u] < COLD for u in user]
    assert found["tail"].tolist() == [shown[i] <= head for i in item]
    assert all(0 < mask.sum() < 300 for mask in found.values())


def test_report_is_whole_and_counts_skipped_queries():
    label, score, qid = sample(0)
    cold = np.arange(len(label)) % 2 == 0
    empty = np.zeros(len(label), dtype=bool)
    report = evaluate(label, score, qid, {"cold": cold, "tail": empty})
    each = naive_query_auc(label, score, qid)
    assert report["queries"] == 20
    assert report["queries_skipped"] == np.isnan(each).sum() > 0
    assert report["impressions"] == 160
    assert report["auc"] == auc(label, score)
    assert report["cold_auc"] == pytest.approx(naive_auc(label[cold], score[cold]))
    expected = np.nanmean(naive_query_auc(label[cold], score[cold], qid[cold]))
    assert report["cold_qauc"] == pytest.approx(expected)
    assert report["cold_impressions"] == 80
    # nothing in a slice: no number, and no failure
    assert math.isnan(report["tail_auc"]) and math.isnan(report["tail_qauc"])
    assert report["tail_impressions"] == 0
    assert report["predicted_over_observed"] == pytest.approx(score.sum() / label.sum())
    json.dumps(report)


def test_ceiling_is_the_truth_on_the_test_days(folder, prepared):
    log = pq.read_table(folder / "impressions.parquet").to_pydict()
    log = {name: np.array(values) for name, values in log.items()}
    test = log["timestamp"] >= prepared.dataset.test_start
    label, truth, qid = (log[k][test] for k in ("label", "probability", "query_id"))
    found = pipeline.ceiling(prepared, prepared.dataset.test_start, None)
    assert found["auc"] == pytest.approx(naive_auc(label, truth))
    assert found["qauc"] == pytest.approx(
        np.nanmean(naive_query_auc(label, truth, qid))
    )


def test_smoothed_means_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    seen = rng.integers(6, size=80), rng.integers(9, size=80), rng.integers(2, size=80)
    item, user = np.array([0, 3, 7]), np.array([2, 12, 2])  # 7 and 12: never seen
    found = smoothed_means(*seen, item, user)
    rows, average, prior = list(zip(*seen, strict=True)), seen[2].mean(), 10

    def quality(item):
        labels = [y for i, _, y in rows if i == item]
        return (sum(labels) + prior * average) / (len(labels) + prior)

    for i, u, value in zip(item, user, found, strict=True):
        lifts = [y - quality(other) for other, who, y in rows if who == u]
        lift = sum(lifts) / (len(lifts) + prior)
        assert value == pytest.approx(min(max(quality(i) + lift, 0), 1))


def test_means_read_no_label_of_the_days_they_are_scored_on(prepared):
    start, log = prepared.dataset.test_start, prepared.dataset.log
    found = pipeline.smoothed_baseline(prepared, start, None)
    late = prepared.pages.shown(prepared.pages.between(start, None))
    label = log.label.copy()
    label[late] = 1 - label[late]
    other = dataclasses.replace(log, label=label)
    data = dataclasses.replace(prepared.dataset, log=other)
    pages = Pages(other, prepared.pages.size)
    turned = dataclasses.replace(prepared, dataset=data, pages=pages)
    # the same scores against turned labels
    turned = pipeline.smoothed_baseline(turned, start, None)["auc"]
    assert turned == pytest.approx(1 - found["auc"])


def test_no_truth_no_ceiling(prepared):
    blind = dataclasses.replace(prepared.dataset, truth=None)
    unknown = dataclasses.replace(prepared, dataset=blind)
    assert pipeline.ceiling(unknown, 0, None) is None
