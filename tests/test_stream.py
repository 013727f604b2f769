"""A log larger than memory: the same batches as of the log in memory."""

import dataclasses
import itertools
import json
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lemur_mini.data.catalogue import Catalogue, source_of
from lemur_mini.data.loading import load
from lemur_mini.data.pages import Pages
from lemur_mini.data.past import Past
from lemur_mini.data.schema import DataError
from lemur_mini.data.store import Store
from lemur_mini.data.streams import PageStream, Recent
from lemur_mini.training import Run, make_model, train

LOG = "impressions.parquet"


def same(first, second) -> bool:
    names = [f.name for f in dataclasses.fields(first)]
    pairs = [(getattr(first, n), getattr(second, n)) for n in names]
    return all(a is b if a is None else torch.equal(a, b) for a, b in pairs)


def agree(folder: Path, size: int, length: int, pages: int, **settings) -> int:
    """Compare batch for batch; the number of batches. source: where the stream reads
    it from, if elsewhere."""
    log = dataclasses.replace(load(folder).log, period=None)  # a stream knows no end
    whole = Pages(log, size, seen=settings.get("seen", 0))
    wanted = list(whole.stream(np.arange(len(whole)), pages, length))
    source = settings.pop("source", folder)
    found = list(PageStream(source, size, length, **settings).stream(pages))
    assert len(found) == len(wanted)
    assert all(map(same, found, wanted))
    assert all(a.item.dtype == b.item.dtype for a, b in zip(found, wanted, strict=True))
    return len(found)


@pytest.mark.parametrize(
    ("chunk", "longest"), [(13, 0), (100, 3600), (100, 10**9), (10**6, 0)]
)
def test_stream_equals_pages_on_the_platform(folder, chunk, longest):
    assert agree(folder, 8, 5, 4, chunk=chunk, longest=longest) > 50


def crossing(folder: Path, seed: int, feed: bool) -> Path:
    """Sessions that overlap, equal times everywhere, string ids, long sessions."""
    rng = np.random.default_rng(seed)
    owner, begin = rng.integers(5, size=60), rng.integers(80, size=60)
    qid = rng.integers(60, size=500)
    time = begin[qid] + rng.integers(15, size=500)
    order = np.argsort(time, kind="stable")
    qid, time = qid[order], time[order]
    log = {
        "user_id": [f"user {k}" for k in owner[qid]],
        "session_id" if feed else "query_id": [f"page {k}" for k in qid],
        "item_id": rng.integers(30, size=500),
        "timestamp": time,
        "label": rng.integers(2, size=500),
    }
    if not feed:
        log["query"] = [f"text {k % 7}" for k in qid]
    pq.write_table(pa.table(log), folder / LOG)
    pq.write_table(pa.table({"item_id": rng.permutation(30)}), folder / "items.parquet")
    return folder


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chunk", [7, 50])
def test_sessions_that_overlap(tmp_path, seed, chunk):
    crossing(tmp_path, seed, feed=seed % 2 == 0)
    agree(tmp_path, 3, 4, 5, chunk=chunk, longest=15)


@pytest.mark.parametrize("seed", range(3))
def test_what_was_shown_before_is_that_of_the_table(tmp_path, seed):
    crossing(tmp_path, seed, feed=seed % 2 == 0)
    agree(tmp_path, 3, 4, 5, chunk=40, longest=15, seen=6)


def partitions(folder: Path, kind: str) -> None:
    """The same log in parts that cut sessions."""
    table = pq.read_table(folder / LOG)
    (folder / LOG).unlink()
    for number, low in enumerate(range(0, len(table), 170)):
        name = {
            "shards": f"impressions-{number:05}.parquet",
            "folder": f"impressions/part-{number}.parquet",
            "days": f"date=2026-11-{number + 1:02}/impressions.parquet",
            "any": f"date=2026-11-{number + 1:02}/part-0.parquet",
        }[kind]
        (folder / name).parent.mkdir(exist_ok=True)
        pq.write_table(table.slice(low, 170), folder / name)


@pytest.mark.parametrize("kind", ["shards", "folder", "days", "any"])
def test_parts_are_one_log(tmp_path, kind):
    """Read whole, and as a stream; sessions go on from part to part."""
    one, many = tmp_path / "one", tmp_path / "many"
    for path in (one, many):
        path.mkdir()
        crossing(path, 1, feed=False)
    partitions(many, kind)
    agree(one, 3, 4, 5, source=many, chunk=100, longest=15)
    assert np.array_equal(load(many).log.item, load(one).log.item)
    assert np.array_equal(load(many).log.user, load(one).log.user)


def test_a_library_streams_it(tmp_path):
    crossing(tmp_path, 1, feed=False)
    items, log = (pq.read_table(tmp_path / n) for n in ("items.parquet", LOG))
    rows = datasets.Dataset(log).to_iterable_dataset(num_shards=3)
    for source in ((items, rows), (items, log)):
        agree(tmp_path, 3, 4, 5, source=source, chunk=64, longest=15)
    with pytest.raises(DataError, match="a dict is no stream of rows"):
        next(PageStream((items, {}), 3, 4).stream(5))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("seen", [0, 5])
def test_a_log_in_two_parts_is_cut_where_the_second_begins(tmp_path, seed, seen):
    """Sessions that last over the cut: as in a table whose periods begin there, and
    counted."""
    crossing(tmp_path, seed, feed=seed % 2 == 0)
    log = pq.read_table(tmp_path / LOG)
    time = log["timestamp"].to_numpy()
    cut = int(time[250])
    items = pq.read_table(tmp_path / "items.parquet")
    first = PageStream((items, log.filter(time < cut)), 3, 4, 15, 40, seen=seen)
    one = list(first.stream(5))
    facts, arrays = first.after.state()
    past = Past.of(json.loads(json.dumps(facts)), arrays)
    known = {"users": first.users.names, "queries": first.queries.names}
    settings = {"seen": seen, "past": past, "known": known}
    second = PageStream((items, log), 3, 4, 15, 40, **settings)  # old rows, too
    two = list(second.stream(5))
    whole = dataclasses.replace(load(tmp_path).log, period=None)
    pages = Pages(whole, 3, seen=seen).cut_at(cut)
    for found, index in (
        (one, pages.between(None, cut)),
        (two, pages.between(cut, None)),
    ):
        wanted = list(pages.stream(index, 5, 4))
        assert len(found) == len(wanted) and all(map(same, found, wanted))
    assert second.skipped == (time < cut).sum() > 0
    old, new = (set(whole.qid[mask]) for mask in (time < cut, time >= cut))
    assert second.straddling == len(old & new) > 0


def test_training_takes_a_table_and_a_stream_alike(prepared, config):
    log = dataclasses.replace(prepared.dataset.log, period=None)
    pages, runs = Pages(log, config.page_size), []
    stream = PageStream(prepared.dataset.folder, config.page_size, config.history_long)
    for source, index in ((pages, np.arange(24)), (First(stream, 6), None)):
        model = make_model(config, prepared.sizes, 0, torch.device("cpu"))
        run = Run(model, prepared.features, 0, 6)
        runs.append(train(run, source, index, title=None))
    states = [run.model.state_dict() for run in runs]
    assert [run.step for run in runs] == [6, 6]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class First:
    """The first batches of a stream."""

    def __init__(self, stream, count: int):
        self.source, self.count = stream, count

    def stream(self, pages: int):
        return itertools.islice(self.source.stream(pages), self.count)


def test_features_are_made_when_first_met_and_the_newest_are_kept(prepared, config):
    dataset = prepared.dataset
    catalogue = Catalogue()
    catalogue.add(*source_of(dataset.folder))
    assert catalogue.ids == dataset.items.tolist()
    cpu, texts = torch.device("cpu"), dataset.queries
    store = Store(catalogue, texts, config, prepared.tokenizer, cpu, 30)
    rng, cache = np.random.default_rng(0), store.tokens.cache
    for _ in range(20):
        rows = torch.from_numpy(rng.integers(len(catalogue), size=20))
        length = int(prepared.features.length[rows].max())
        for name in ("tokens", "types", "positions"):
            found = getattr(store, name)[rows, :length]
            assert torch.equal(found, getattr(prepared.features, name)[rows, :length])
        for name in ("length", "images", "has_image"):
            found = getattr(store, name)[rows]
            assert torch.equal(found, getattr(prepared.features, name)[rows])
        query = torch.from_numpy(rng.integers(len(texts), size=9))
        wide = prepared.features.query_tokens.shape[1]
        found = store.query_tokens[query, :wide]
        assert torch.equal(found, prepared.features.query_tokens[query])
    assert len(cache.table) == 30 and (cache.slot >= 0).sum() == 30
    made = cache.made
    _ = store.images[rows]
    assert cache.made == made > 30  # still there; others were made twice
    met = store.content.any(axis=1)
    assert np.array_equal(store.content[met], prepared.fingerprint.content[met])
    with pytest.raises(ValueError, match="31 rows at once, 30 are kept"):
        _ = store.length[torch.arange(31)]


def test_too_small_a_longest_splits_sessions(tmp_path):
    """So the comparison above can fail."""
    crossing(tmp_path, 0, feed=False)
    with pytest.raises(AssertionError):
        agree(tmp_path, 3, 4, 5, chunk=3, longest=2)


def test_ring_keeps_the_last_watches_of_every_user():
    rng, recent, naive = np.random.default_rng(0), Recent(3), {}
    for _ in range(20):
        user, item = rng.integers(2000, size=50) % 1500, rng.integers(99, size=50)
        recent.push(user, item)
        for u, i in zip(user.tolist(), item.tolist(), strict=True):
            naive[u] = [*naive.get(u, []), i][-3:]
    users, items = recent.read(np.arange(5000))
    assert {u: items[users == u].tolist() for u in np.unique(users)} == naive
    recent.push(np.array([], int), np.array([], int))


def spoil(folder: Path, target: Path, column: str, row: int, value) -> Path:
    for name in ("items.parquet", LOG):
        (target / name).write_bytes((folder / name).read_bytes())
    table = pq.read_table(target / LOG)
    values = table[column].to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values)), target / LOG)
    return target


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("timestamp", 700, 5, f"{LOG}, column timestamp, row 700: 5 is earlier than"),
        ("timestamp", 0, 2**33, f"{LOG}, column timestamp, row 1: .* earlier than"),
        ("label", 205, 3, f"{LOG}, column label, row 5: .*rows count from row 200"),
        ("item_id", 3, 10**6, f"{LOG}, column item_id, row 3: 1000000 is not in"),
    ],
)
def test_bad_rows_are_named(folder, tmp_path, column, row, value, message):
    spoil(folder, tmp_path, column, row, value)
    with pytest.raises(DataError, match=message):
        list(PageStream(tmp_path, 8, 4, chunk=100).stream(4))


def test_files_that_cannot_be_read(folder, tmp_path):
    with pytest.raises(DataError, match="items.parquet: not found"):
        PageStream(tmp_path, 8, 4)
    (tmp_path / "items.parquet").write_bytes((folder / "items.parquet").read_bytes())
    (tmp_path / LOG).write_bytes(b"")
    with pytest.raises(DataError, match=f"{LOG}: cannot be read"):
        next(PageStream(tmp_path, 8, 4).stream(4))
    pq.write_table(pq.read_table(folder / LOG).slice(0, 0), tmp_path / LOG)
    with pytest.raises(DataError, match="has no rows"):
        next(PageStream(tmp_path, 8, 4).stream(4))


def test_memory_does_not_grow_with_the_log(tmp_path):
    """Python's own allocations (NumPy's too) at a log four times as long."""
    peaks = []
    pq.write_table(pa.table({"item_id": range(50)}), tmp_path / "items.parquet")
    for rows in (20_000, 80_000):
        rng = np.random.default_rng(0)
        log = {
            "user_id": np.repeat(rng.integers(200, size=rows // 4), 4),
            "session_id": np.repeat(np.arange(rows // 4), 4),
            "item_id": rng.integers(50, size=rows),
            "timestamp": np.repeat(np.arange(rows // 4), 4),
            "label": rng.integers(2, size=rows),
        }
        pq.write_table(pa.table(log), tmp_path / LOG, row_group_size=2000)
        stream = PageStream(tmp_path, 4, 8, longest=100, chunk=2000)
        tracemalloc.start()
        assert sum(len(batch.user) for batch in stream.stream(64)) == rows // 4
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
