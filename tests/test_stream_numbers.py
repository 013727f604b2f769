"""Statistics and match in a stream: as of the table, in any parts, after any stop."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from lemur_mini import checkpoints, continuing, pipeline, training
from lemur_mini.config import Config
from lemur_mini.continuing import begin, go_on
from lemur_mini.data import statistics as module
from lemur_mini.data.catalogue import Catalogue
from lemur_mini.data.features import decode_images
from lemur_mini.data.likeness import LENGTH, Likeness
from lemur_mini.data.loading import Dataset, load
from lemur_mini.data.match import Field, Match
from lemur_mini.data.numbers import Numbers
from lemur_mini.data.pages import Pages
from lemur_mini.data.past import Past
from lemur_mini.data.statistics import statistics
from lemur_mini.data.streams import PageStream
from lemur_mini.preparation import with_dense
from lemur_mini.serving import __main__ as serving
from lemur_mini.serving.ranker import Ranker
from tests.test_stream import crossing

CPU = torch.device("cpu")
LOG, ITEMS = "impressions.parquet", "items.parquet"
HOUR, ROWS, FIRST = 3600, 700, 150


@pytest.fixture(scope="module", params=[False, True], ids=["search", "feed"])
def feed(request) -> bool:
    return request.param


@pytest.fixture(scope="module")
def data(folder, feed, tmp_path_factory) -> Path:
    """The beginning of the tiny platform, with categories and births that lack."""
    items, log = pq.read_table(folder / ITEMS), pq.read_table(folder / LOG)
    rows = np.arange(len(items))
    kinds = [("", "bread", None, "cake", "soup")[row % 5] for row in rows]
    items = items.append_column("category", pa.array(kinds))
    place = items.column_names.index("created_at")
    born = pa.array(items["created_at"].to_numpy(), mask=rows % 3 == 0)
    items = items.set_column(place, "created_at", born)
    if feed:
        names = ["session_id" if n == "query_id" else n for n in log.column_names]
        log = log.rename_columns(names).drop_columns(["query"])
    else:  # on the platform, queries and documents share no words
        titles = items["title"].to_pylist()
        asked = [f"{q} {titles[len(q)]}" for q in log["query"].to_pylist()]
        place = log.column_names.index("query")
        log = log.set_column(place, "query", pa.array(asked))
    path = tmp_path_factory.mktemp("numbers")
    pq.write_table(items, path / ITEMS)
    pq.write_table(log.slice(0, ROWS), path / LOG)
    return path


@pytest.fixture(scope="module")
def table(data) -> Dataset:
    found = load(data)  # a stream knows no periods
    return dataclasses.replace(found, log=dataclasses.replace(found.log, period=None))


@pytest.fixture(scope="module", autouse=True)
def _first():
    """Match is learnt of what a few impressions show."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuing, "FIRST", FIRST)
        yield


@pytest.fixture(scope="module")
def small(config) -> Config:
    return with_dense(config).replace(
        checkpoint_every=4, dense_knots=3, history_products=True, history_seen=6
    )


@pytest.fixture(scope="module")
def wanted(table, small) -> tuple[Pages, Match | Likeness]:
    """The table's pages with its numbers; match of the documents shown first."""
    seen = np.isin(np.arange(len(table.items)), table.log.item[:FIRST])
    pages = Pages(table.log, small.page_size, seen=small.history_seen)
    if not table.is_feed:
        scorer = Match(table.texts, seen)
        found = scorer(table.queries, table.log.query, table.log.item)
    else:
        images = decode_images(table, small.image_size)[0].numpy()
        scorer = Likeness.fit(table.texts, images, seen)
        found = likeness_of(scorer, pages)
    pages.dense = {"statistics": statistics(table), "match": found}
    return pages, scorer


def likeness_of(scorer: Likeness, pages: Pages) -> np.ndarray:
    out = np.zeros((len(pages.log.item), len(scorer.names)), np.float32)
    for page in range(len(pages)):
        rows = pages.rows[page][pages.rows[page] >= 0]
        history = pages.history(np.array([page]), LENGTH)
        out[rows] = scorer(history, pages.log.item[rows][None])[0]
    return out


def stream(data: Path, small: Config, feed: bool, **more) -> PageStream:
    """As `begin` makes it."""
    catalogue = Catalogue()
    catalogue.add([data / ITEMS], data)
    numbers, past = Numbers(catalogue, small.image_size), Past.empty(LENGTH, 6)
    shown = continuing.documents_of(continuing.first_rows([data / LOG]), catalogue)
    numbers.begin(past, small.groups, shown, feed)
    return continuing.make_stream(data, small, numbers, past, longest=HOUR, **more)


def same(found, wanted) -> None:
    for name, value in vars(wanted).items():
        if value is not None:
            torch.testing.assert_close(getattr(found, name), value, rtol=0, atol=0)


@pytest.mark.parametrize("chunk", [31, 10**6])
def test_a_stream_reads_the_numbers_of_the_table(data, feed, small, wanted, chunk):
    """Bit for bit, whatever is read at once."""
    pages, _ = wanted
    index = np.arange(len(pages))
    found = list(stream(data, small, feed, chunk=chunk).stream(5))
    table = list(pages.stream(index, 5, small.history_long))
    assert len(found) == len(table) > 15
    for one, other in zip(found, table, strict=True):
        same(one, other)
    for values in pages.dense.values():
        assert (values != 0).any(axis=1).mean() > 0.5


def halves(data: Path, border: int, path: Path) -> tuple[Path, Path]:
    """The log before a time with all items, and that after it without any."""
    log, out = pq.read_table(data / LOG), []
    old = pc.less(log["timestamp"], border)
    for name, mask in (("first", old), ("second", pc.invert(old))):
        (path / name).mkdir()
        pq.write_table(log.filter(mask), path / name / LOG)
        out.append(path / name)
    shutil.copy(data / ITEMS, path / "first")
    return tuple(out)


@pytest.fixture(scope="module")
def border(wanted, small) -> int:
    """The time of a session before which whole batches end, and which none crosses."""
    pages, _ = wanted
    ends = np.maximum.accumulate(pages.log.timestamp[pages.rows.max(axis=1)])
    whole = np.arange(small.batch_pages, len(pages), small.batch_pages)
    good = whole[ends[whole - 1] < pages.start[whole]]
    good = good[good * small.page_size > 2 * FIRST]
    return int(pages.start[good[len(good) // 3]])


@pytest.fixture(scope="module")
def days(data, border, tmp_path_factory) -> tuple[Path, Path]:
    return halves(data, border, tmp_path_factory.mktemp("days"))


@pytest.fixture(scope="module")
def whole(data, small, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    begin(data, small, 0, CPU, out, longest=HOUR)
    return out


@pytest.fixture(scope="module")
def first(days, small, whole, tmp_path_factory) -> Path:
    """A run over the first days, with the tokenizer of the whole."""
    shutil.copy(whole / continuing.TOKENIZER, days[0])
    out = tmp_path_factory.mktemp("first")
    begin(days[0], small, 0, CPU, out, longest=HOUR)
    return out


@pytest.fixture
def begun(first, tmp_path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "run"))


def tensors(out: Path) -> dict[str, Tensor]:
    return checkpoints.read(out / continuing.NAME)[1]


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def test_a_run_in_two_halves_equals_one(days, begun, whole):
    """Weights, moments, histories and all that is counted."""
    before = tensors(begun)
    go_on(begun, days[1], CPU, longest=HOUR)
    assert differing(tensors(begun), tensors(whole)) == []
    assert "past.statistics.born" in before
    assert differing(before, tensors(begun)) != []


class Killed(BaseException):
    """Nothing is written any more, as after kill -9."""


def test_killed_in_between_it_goes_on(days, begun, whole, monkeypatch):
    original, began = training.train_step, tensors(begun)

    def dying(run, batch):
        if run.step == step + 6:
            raise Killed
        return original(run, batch)

    step = checkpoints.read(begun / continuing.NAME)[0]["step"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "train_step", dying)
        go_on(begun, days[1], CPU, longest=HOUR)
    part = checkpoints.read(continuing.part_file(begun))[1]
    past = [n for n in part if n.startswith("past.")]
    assert all(torch.equal(part[n], began[n]) for n in past if n in began)
    go_on(begun, days[1], CPU, longest=HOUR)
    assert differing(tensors(begun), tensors(whole)) == []


def test_a_run_of_a_table_goes_on_with_its_numbers(data, small, tmp_path):
    """What was trained with numbers on a table reads, of later days, the numbers that
    the table of all days has."""
    checkpoint = tmp_path / continuing.NAME
    trained = pipeline.train(data, small, device="cpu", checkpoint=checkpoint)
    prepared = trained.prepared
    assert Ranker.load(checkpoint, prepared).numbers.matcher is prepared.matcher
    words = prepared.tokenizer.backend_tokenizer.to_str()
    (tmp_path / continuing.TOKENIZER).write_text(words, "utf-8")
    facts, found = checkpoints.read(checkpoint)
    catalogue = Catalogue()
    catalogue.add([data / ITEMS], data)
    past = checkpoints.part_of(facts, found).past
    settings = {"known": prepared.fingerprint.names}
    config = trained.run.config
    numbers = Numbers(catalogue, config.image_size)
    pages = continuing.make_stream(data, config, numbers, past, **settings)
    start = prepared.dataset.test_start
    rest = prepared.pages.cut_at(start)
    index = rest.between(start, None)
    for one, low in zip(pages.stream(4), range(0, len(index), 4), strict=True):
        other = rest.batch(index[low : low + 4], config.history_long)
        for name in ("item", "history", "statistics", "match"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
    run = go_on(tmp_path, data, CPU)
    assert run.step > facts["step"]


def test_documents_that_come_later_are_counted(data, days, begun, small):
    """With their own births and categories, whether these are new or not."""
    items = pq.read_table(data / ITEMS).slice(0, 3)
    text = pa.types.is_string(items.schema.field("item_id").type)
    assert not text
    new = items.set_column(0, "item_id", pa.array([10**6 + k for k in range(3)]))
    place = new.column_names.index("category")
    new = new.set_column(place, "category", pa.array(["jam", "cake", None]))
    place = new.column_names.index("created_at")
    new = new.set_column(place, "created_at", pa.array([None, 7, 8], pa.int64()))
    log = pq.read_table(days[1] / LOG)
    ids = log["item_id"].to_pylist()
    ids[-3:] = [10**6, 10**6 + 1, 10**6 + 2]
    place = log.column_names.index("item_id")
    other = begun.parent / "other"
    other.mkdir()
    pq.write_table(log.set_column(place, "item_id", pa.array(ids)), other / LOG)
    pq.write_table(new, other / ITEMS)
    before = checkpoints.part_of(*checkpoints.read(begun / continuing.NAME)).past
    go_on(begun, other, CPU, longest=HOUR)
    past = checkpoints.part_of(*checkpoints.read(begun / continuing.NAME)).past
    count = len(before.statistics.born)
    assert past.categories == [*before.categories, "jam"]
    assert past.statistics.born[count:].tolist() == [module.NEVER, 7, 8]
    wanted = [len(before.categories), before.categories.index("cake"), -1]
    assert past.statistics.category[count:].tolist() == wanted
    shown = np.bincount(past.statistics.events["item"], minlength=count + 3)
    assert shown[count:].tolist() == [1, 1, 1]


def test_what_is_kept_grows_with_users_alone(data, feed, small, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 5)
    pages = stream(data, small, feed, chunk=50)
    list(pages.stream(5))
    past = pages.after.statistics
    past.settle(1 + past.events["time"].max())
    user = past.events["user"]
    assert len(user) < ROWS / 2 and np.bincount(user).max() == 5
    assert past.counted["all"][0, 0] == ROWS


def test_a_run_that_counted_nothing_is_told(days, begun):
    """As of an older version: no silent zeros."""
    path = begun / continuing.NAME
    facts, found = checkpoints.read(path)
    kept = {k: v for k, v in found.items() if not k.startswith("past.statistics")}
    checkpoints.write(path, facts, kept)
    with pytest.raises(checkpoints.CheckpointError, match="not kept its statistics"):
        go_on(begun, days[1], CPU, longest=HOUR)


@pytest.fixture
def told(data, whole) -> Iterator[Path]:
    """The data with the tokenizer of the run."""
    shutil.copy(whole / continuing.TOKENIZER, data)
    yield data
    (data / continuing.TOKENIZER).unlink()


def test_a_served_run_weighs_every_document_once(
    told, feed, whole, table, wanted, monkeypatch
):
    """By what the run has learnt, and never by what the table would have."""
    kind, name, weighed = *((Likeness, "_of") if feed else (Field, "weigh")), []
    original = getattr(kind, name)

    def counting(self, *given):
        weighed.append(given[-1].shape[0])
        return original(self, *given)

    monkeypatch.setattr(kind, name, counting)
    options = serving.Options(whole, data=str(told), device="cpu")
    _, ranker = serving.open_ranker(options)
    fields = 1 if feed else len(table.texts) + 1
    assert weighed == [len(table.items)] * fields
    pages, _ = wanted
    found = ranker.prepared.pages.dense["match"]
    np.testing.assert_array_equal(found, pages.dense["match"])


def test_a_ranker_asks_with_what_the_run_has_learnt(data, told, whole, small):
    """Loaded with the data, it matches by the run's weights, not by the table's own."""
    prepared = pipeline.prepare(told, small, CPU)
    ranker = Ranker.load(whole / continuing.NAME, prepared)
    log, rows = prepared.dataset.log, prepared.pages.rows
    matched = prepared.pages.dense["match"].any(axis=1)
    page = int(np.flatnonzero(matched[rows[:, 0]])[-1])
    row = rows[page][rows[page] >= 0]
    user = prepared.dataset.users[log.user[row[0]]]
    request = (user, prepared.dataset.queries[log.query[row[0]]], log.item[row])
    batch = ranker.batch([request], before=int(prepared.pages.since[page]))
    last = list(stream(data, small, prepared.dataset.is_feed).stream(1))[page]
    assert last.item[0, : len(row)].tolist() == log.item[row].tolist()
    for name in ("statistics", "match"):
        found, wanted = (getattr(b, name)[0, : len(row)] for b in (batch, last))
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    other = prepared.pages.dense["match"][row]
    assert not np.array_equal(other, last.match[0, : len(row)].numpy())


@pytest.mark.parametrize("seed", range(4))
def test_sessions_that_last_over_the_cut(tmp_path, seed):
    """Their rows of the second part read what was counted before they began."""
    crossing(tmp_path, seed, feed=seed % 2 == 0)
    log, table = pq.read_table(tmp_path / LOG), load(tmp_path)
    cut = int(log["timestamp"].to_numpy()[250])
    catalogue, past = Catalogue(), Past.empty(4)
    catalogue.add([tmp_path / ITEMS], tmp_path)
    numbers = Numbers(catalogue, 8)
    numbers.begin(past, ("statistics",), np.arange(0), True)
    whole = Pages(dataclasses.replace(table.log, period=None), 3)
    whole.dense = {"statistics": statistics(table)}
    pages, known = whole.cut_at(cut), {}
    items, mask = pq.read_table(tmp_path / ITEMS), log["timestamp"].to_numpy() < cut
    for index, part in (
        (pages.between(None, cut), log.filter(mask)),
        (pages.between(cut, None), log),
    ):
        found = PageStream(
            (items, part), 3, 4, 15, 40, past=past, known=known, numbers=numbers
        )
        for one, two in zip(found.stream(5), pages.stream(index, 5, 4), strict=True):
            same(one, two)
        facts, arrays = found.after.state()
        past = Past.of(json.loads(json.dumps(facts)), arrays)
        known = {"users": found.users.names, "queries": found.queries.names}
    assert found.straddling > 0
