"""Statistics against naive loops; nothing of a page's own second or later counts."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lemur_mini.data import counts as counting
from lemur_mini.data import statistics as module
from lemur_mini.data.counts import Counts
from lemur_mini.data.errors import DataError
from lemur_mini.data.loading import Dataset, load
from lemur_mini.data.rates import FAR, NAMES, NEVER, PRIOR, Table
from lemur_mini.data.statistics import (
    Statistics,
    categories,
    created,
    names,
    starts,
    statistics,
)


def make(folder: Path, seed: int = 0, rows: int = 300, category: bool = True):
    """A small log: sessions of up to four rows that overlap and share seconds."""
    rng = np.random.default_rng(seed)
    qid = np.sort(rng.integers(0, rows // 3, rows))
    time = 1000 + 5 * qid + rng.integers(0, 30, rows)
    log = {
        "user_id": (qid * 7919) % 11,
        "query_id": qid,
        "query": [f"query {q % 5}" for q in qid],
        "item_id": rng.integers(0, 12, rows),
        "timestamp": time,
        "label": rng.integers(0, 2, rows),
    }
    items = {"item_id": np.arange(12), "title": [f"title {k}" for k in range(12)]}
    items["created_at"] = pa.array([None if k % 3 else 100 * k for k in range(12)])
    if category:
        items["category"] = [("", "a", "b")[k % 3] for k in range(12)]
    pq.write_table(pa.table(items), folder / "items.parquet")
    pq.write_table(pa.table(log), folder / "impressions.parquet")
    return load(folder)


@pytest.fixture
def small(tmp_path: Path) -> Dataset:
    """A small log with categories, times of birth that lack, and ties."""
    return make(tmp_path)


def naive(dataset: Dataset, row: int) -> dict[str, float]:
    """What a page of this impression reads, counted event by event."""
    log, label = dataset.log, dataset.log.label.tolist()
    when = min(log.timestamp[log.qid == log.qid[row]])
    past = [k for k in range(len(log.item)) if log.timestamp[k] < when]
    kinds, item, user = dataset.texts["category"], log.item[row], log.user[row]
    mine = {
        "document": [k for k in past if log.item[k] == item],
        "user": [k for k in past if log.user[k] == user],
    }
    mine["both"] = [k for k in mine["document"] if log.user[k] == user]
    kind = kinds[item]
    mine["category"] = [k for k in past if kind and kinds[log.item[k]] == kind]
    mine["user_category"] = [k for k in mine["category"] if log.user[k] == user]

    def share(some: list[int], all_of: list[int]) -> float:
        base = (sum(label[k] for k in all_of) + 1) / (len(all_of) + 2)
        return (sum(label[k] for k in some) + PRIOR * base) / (len(some) + PRIOR)

    def logit(chance: float) -> float:
        return math.log(chance / (1 - chance))

    def since(then: list[int]) -> float:
        return math.log1p((when - max(then)) / 3600 if then else FAR)

    out = {}
    for name, some in mine.items():
        words = ("met", "watched") if name == "both" else ("shown", "watched")
        out[f"{name}_{words[0]}"] = math.log1p(len(some))
        out[f"{name}_{words[1]}"] = math.log1p(sum(label[k] for k in some))
        if name != "both":
            out[f"{name}_rate"] = logit(share(some, past))
    born = created(dataset)[item]
    first = min(log.timestamp[mine["document"]], default=when)
    out["document_age"] = math.log1p((when - (first if born == NEVER else born)) / 3600)
    watched = [k for k in mine["document"] if label[k]]
    out["document_since"] = since([log.timestamp[k] for k in watched])
    out["user_since"] = since([log.timestamp[k] for k in mine["user"]])
    out["both_since"] = since([log.timestamp[k] for k in mine["both"]])
    lift = 0.0
    for k in mine["user"]:
        then = [j for j in past if log.timestamp[j] < log.timestamp[k]]
        lift += label[k] - share([j for j in then if log.item[j] == log.item[k]], then)
    out["user_lift"] = lift / (len(mine["user"]) + PRIOR)
    return out


def test_equals_a_naive_count(small: Dataset):
    found, columns = statistics(small), names(small)
    assert found.dtype == np.float32 and found.shape == (300, len(columns))
    for row in range(0, 300, 7):
        wanted = naive(small, row)
        assert set(wanted) == set(columns)
        np.testing.assert_allclose(
            found[row], [wanted[name] for name in columns], rtol=1e-4, atol=1e-5
        )


def replay(dataset: Dataset, counts: Counts) -> np.ndarray:
    """Every page read at its start, every event counted at its time, in turn."""
    log, when = dataset.log, starts(dataset.log)
    out = np.empty((len(log.item), len(names(dataset))), np.float32)
    reads = [(when[r], 0, q, r) for q, r in zip(*np.unique(log.qid, True), strict=True)]
    events = [(log.timestamp[r], 1, r, r) for r in range(len(log.item))]
    for time, kind, key, row in sorted(reads + events):
        if kind:
            event = log.user[row], log.item[row], time, log.label[row]
            counts.update(*map(int, event))
        else:
            rows = np.flatnonzero(log.qid == key)
            out[rows] = counts.read(int(log.user[row]), log.item[rows], int(time))
    return out


@pytest.mark.parametrize("category", [True, False])
def test_serving_equals_the_log_bit_for_bit(tmp_path: Path, category: bool):
    dataset = make(tmp_path, seed=1, category=category)
    counts = Counts(created(dataset), categories(dataset))
    assert (replay(dataset, counts) == statistics(dataset)).all()


def test_the_future_changes_nothing(small: Dataset):
    """Whatever stands in the log from a page's first second on may be anything."""
    log, rng, found = small.log, np.random.default_rng(3), statistics(small)
    cut = int(np.median(starts(log)))
    past, later = starts(log) <= cut, log.timestamp >= cut
    shuffled = {"label": log.label.copy(), "item": log.item.copy()}
    shuffled["user"] = log.user.copy()
    free = np.flatnonzero(later & ~past)  # rows of pages that begin after the cut
    for values in shuffled.values():
        values[free] = rng.permutation(values[free])
    shuffled["label"][later] = 1 - shuffled["label"][later]  # own labels as well
    other = dataclasses.replace(small, log=dataclasses.replace(log, **shuffled))
    assert (statistics(other)[past] == found[past]).all()
    assert (statistics(other)[~past] != found[~past]).any()  # the test can fail


def test_the_same_second_and_the_own_session_do_not_count(small: Dataset):
    log = dataclasses.replace(
        small.log,
        user=np.zeros(4, int),
        qid=np.array([0, 0, 1, 2]),
        query=np.zeros(4, int),
        item=np.array([5, 5, 5, 5]),
        timestamp=np.array([1000, 1100, 1000, 1101]),
        label=np.ones(4, int),
    )
    met = statistics(dataclasses.replace(small, log=log))[:, NAMES.index("both_met")]
    np.testing.assert_allclose(np.expm1(met), [0, 0, 0, 3], atol=1e-6)


def test_time_goes_forward(small: Dataset):
    counts = Counts.of(small)
    last = int(small.log.timestamp[-1])
    with pytest.raises(ValueError, match="forward in time"):
        counts.read(0, np.array([0]), last - 1)
    before = counts.read(0, np.array([3]), last + 1)
    counts.update(-1, 3, last + 1, 1)  # somebody unknown
    after = counts.read(0, np.array([3]), last + 2)
    changed = {
        n
        for n, a, b in zip(names(small), before[0], after[0], strict=True)
        if abs(a - b) > 0.01
    }
    assert {"document_shown", "document_watched"} <= changed
    assert not {n for n in changed if n.startswith(("user_s", "user_w", "both_m"))}


def test_new_documents_can_be_counted(small: Dataset):
    counts = Counts.of(small)
    counts.grow(np.array([NEVER]), np.array([-1]))
    last = int(small.log.timestamp[-1])
    new = counts.read(0, np.array([12]), last + 1)[0]
    assert new[NAMES.index("document_shown")] == 0
    assert new[NAMES.index("document_age")] == 0


def test_a_whole_log_counted_at_once_equals_event_by_event(small: Dataset):
    one, each, log = (
        Counts.of(small),
        Counts(created(small), categories(small)),
        small.log,
    )
    for event in zip(log.user, log.item, log.timestamp, log.label, strict=True):
        each.update(*map(int, event))
    last = int(log.timestamp[-1]) + 1
    found = Counts.of_arrays({k: v.copy() for k, v in each.arrays().items()})
    for user in range(-1, 12):
        wanted = each.read(user, np.arange(12), last)
        np.testing.assert_array_equal(one.read(user, np.arange(12), last), wanted)
        np.testing.assert_array_equal(found.read(user, np.arange(12), last), wanted)
    assert one.table == each.table == found.table


def test_any_time_of_a_log_can_be_read(small: Dataset):
    """Also of users and pairs that it lacks, before it begins and after it ends."""
    past, log = Statistics.of(small), small.log
    for when in (0, int(np.median(log.timestamp)), 10**6):
        counts, seen = Counts(created(small), categories(small)), log.timestamp < when
        for event in zip(log.user, log.item, log.timestamp, log.label, strict=True):
            if event[2] < when:
                counts.update(*map(int, event))
        for user in (-1, 0, 3, 99):
            rows = np.arange(12)
            found = past.read(np.full(12, user), rows, np.full(12, when))
            np.testing.assert_array_equal(counts.read(user, rows, when), found)
        assert seen.any() or (found[:, 0] == 0).all()


def test_parts_of_seconds_count_by_the_second(small: Dataset):
    """Times that are finer than seconds change nothing, in the log and at serving."""
    log, rng = small.log, np.random.default_rng(5)
    parts = np.sort(rng.random(len(log.item)) * 0.999)
    finer = dataclasses.replace(log, timestamp=log.timestamp + parts)
    other = dataclasses.replace(small, log=finer)
    assert (statistics(other) == statistics(small)).all()
    counts, last = Counts.of(other), int(log.timestamp[-1])
    wanted = Counts.of(small).read(3, np.arange(12), last + 1)
    assert (counts.read(3, np.arange(12), last + 1.5) == wanted).all()


def test_a_birth_that_is_not_known_stays_unknown(small: Dataset):
    given = np.isfinite(small.created)
    assert 0 < given.sum() < len(given)
    np.testing.assert_array_equal(created(small) == NEVER, ~given)
    np.testing.assert_array_equal(created(small)[given], small.created[given])


def test_a_page_can_be_read_twice(small: Dataset):
    """Reading counts nothing: an earlier time is fine while nothing came since."""
    counts, last = Counts.of(small), int(small.log.timestamp[-1])
    wanted = counts.read(0, np.arange(12), last + 10)
    counts.read(0, np.arange(12), last + 1000)
    assert (counts.read(0, np.arange(12), last + 10) == wanted).all()


# --- in pieces, as a stream reads it --------------------------------------------------


@pytest.fixture(params=[1024, 9])
def window(request, monkeypatch) -> int:
    """Of a user's impressions among which pairs are counted: all, and few."""
    for place in (module, counting):
        monkeypatch.setattr(place, "KEPT", request.param)
    return request.param


@pytest.mark.parametrize("size", [1, 17, 100])
@pytest.mark.parametrize("category", [True, False])
def test_in_pieces_equals_at_once(tmp_path: Path, window, size: int, category: bool):
    """Whatever the pieces, and through a file between them, bit for bit."""
    dataset = make(tmp_path, seed=2, category=category)
    log, when, found = dataset.log, starts(dataset.log), statistics(dataset)
    past, again = Statistics(created(dataset), categories(dataset)), []
    for low in range(0, len(when), size):
        part = slice(low, low + size)
        past.add(*(x[part] for x in (log.user, log.item, log.timestamp, log.label)))
        # pages of which every row, and all that came before, has been read
        ready = (when >= past.since) & (when < log.timestamp[part][-1])
        ready &= ~np.isin(np.arange(len(when)), again)
        got = past.read(log.user[ready], log.item[ready], when[ready])
        np.testing.assert_array_equal(got, found[ready])
        again += np.flatnonzero(ready).tolist()
        past.settle(log.timestamp[part][-1])
        past = Statistics.of_arrays(past.arrays())
    assert len(again) > 0.9 * len(when)
    kept = np.bincount(past.events["user"][past.events["time"] < past.since])
    assert kept.max() <= window  # what is kept grows with users, not with the log
    with pytest.raises(DataError, match="statistics go forward"):
        past.read(log.user[:1], log.item[:1], when[:1])


def test_a_piece_costs_by_its_own_size(tmp_path: Path, monkeypatch):
    """However much came before: events that are sorted, in two halves of a log."""
    log, handled = make(tmp_path, rows=1024).log, []

    class Counting(Table):
        def __init__(self, key, *more):
            handled.append(len(key))
            super().__init__(key, *more)

    monkeypatch.setattr(module, "Table", Counting)
    past, ends = Statistics(np.zeros(12, int), np.zeros(12, int)), []
    for low in range(0, 1024, 4):
        user, item, time, label = (
            x[low : low + 4] for x in (log.user, log.item, log.timestamp, log.label)
        )
        past.add(user, item, time, label)
        past.read(user, item, time)
        past.settle(time[-1] - 50)
        ends.append(sum(handled))
    first, both = ends[len(ends) // 2 - 1], ends[-1]
    assert both - first < 1.5 * first  # 3 times, were all handled every time
    assert len(past.runs) <= np.log2(len(ends)) + 1


def test_a_copy_goes_on_by_itself(small: Dataset):
    log, half = small.log, 150
    columns = log.user, log.item, log.timestamp, log.label
    past, when = Statistics(created(small), categories(small)), log.timestamp[half]
    past.add(*(x[:half] for x in columns))
    wanted = {name: values.copy() for name, values in past.arrays().items()}
    asked = log.user, log.item, np.full(300, when)
    read, other = past.read(*asked), past.copy()
    other.add(*(x[half:] for x in columns))
    other.settle(log.timestamp[-1])
    np.testing.assert_equal(past.arrays(), wanted)
    np.testing.assert_array_equal(past.read(*asked), read)


def test_pairs_are_counted_among_the_newest(small: Dataset, window):
    """Against a loop; and event by event at serving."""
    log, when, found = small.log, starts(small.log), statistics(small)
    met = names(small).index("both_met")
    for row in range(0, len(when), 5):
        past = np.flatnonzero((log.timestamp < when[row]) & (log.user == log.user[row]))
        wanted = (log.item[past[-window:]] == log.item[row]).sum()
        assert found[row, met] == pytest.approx(math.log1p(wanted), abs=1e-6)
    counts = Counts(created(small), categories(small))
    assert (replay(small, counts) == found).all()
    whole, last = Counts.of(small), int(log.timestamp[-1]) + 1
    for other in (whole, Counts.of_arrays(counts.arrays())):
        for user in range(11):
            wanted = counts.read(user, np.arange(12), last)
            assert (other.read(user, np.arange(12), last) == wanted).all()
            assert other.recent[user] == counts.recent[user]
