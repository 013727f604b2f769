"""A log larger than memory: the same batches as of the log in memory."""

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lemur_mini.data.loading import load
from lemur_mini.data.pages import Pages
from lemur_mini.data.schema import DataError
from lemur_mini.data.streams import PageStream, Recent

LOG = "impressions.parquet"


def same(first, second) -> bool:
    names = [f.name for f in dataclasses.fields(first)]
    pairs = [(getattr(first, n), getattr(second, n)) for n in names]
    return all(a is b if a is None else torch.equal(a, b) for a, b in pairs)


def agree(folder: Path, size: int, length: int, pages: int, **settings) -> int:
    """Compare batch for batch; the number of batches."""
    log = dataclasses.replace(load(folder).log, period=None)  # a stream knows no end
    whole = Pages(log, size)
    wanted = list(whole.stream(np.arange(len(whole)), pages, length))
    found = list(PageStream(folder, size, length, **settings).stream(pages))
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
