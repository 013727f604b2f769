"""From files to batches: ids, histories, pages, tokens, pixels. Truth stays outside."""

import dataclasses
import datetime
import io
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lemur_mini import pipeline
from lemur_mini.data.features import Features, make_features, make_tokenizer
from lemur_mini.data.loading import Log, checksum, load
from lemur_mini.data.pages import PAD, Batch, Pages

FILES = ("items.parquet", "impressions.parquet")


def write(folder: Path, items: dict | pa.Table, impressions: dict | pa.Table) -> Path:
    """A data set of two tables."""
    folder.mkdir(exist_ok=True)
    for name, table in zip(FILES, (items, impressions), strict=True):
        table = table if isinstance(table, pa.Table) else pa.table(table)
        pq.write_table(table, folder / name)
    return folder


def one_per_item(items: int) -> dict:
    """Impressions: item k alone on the page of query k, at second k, all watched."""
    return {
        "user_id": [0] * items,
        "query_id": list(range(items)),
        "query": [f"query {k}" for k in range(items)],
        "item_id": list(range(items)),
        "timestamp": list(range(items)),
        "label": [1] * items,
    }


def picture(colour: str, size: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def same(first: object, second: object) -> bool:
    """All tensors of two dataclasses are equal, bit by bit."""
    names = [f.name for f in dataclasses.fields(first)]
    pairs = [(getattr(first, name), getattr(second, name)) for name in names]
    return all(
        a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs
    )


# --- loading -------------------------------------------------------------------------


def test_everything_in_the_files_is_loaded(folder, dataset):
    items, log = (pq.read_table(folder / name).to_pydict() for name in FILES)
    facts = json.loads((folder / "dataset.json").read_text("utf-8"))
    assert dataset.items.tolist() == items["item_id"]
    assert list(dataset.texts) == ["title", "ocr", "asr", "cover_ocr"]
    assert all(dataset.texts[name] == items[name] for name in dataset.texts)
    assert dataset.images == items["image"]
    assert dataset.users[dataset.log.user].tolist() == log["user_id"]
    assert [dataset.queries[row] for row in dataset.log.query] == log["query"]
    assert dataset.items[dataset.log.item].tolist() == log["item_id"]
    assert dataset.log.timestamp.tolist() == log["timestamp"]
    assert dataset.log.label.tolist() == log["label"]
    assert len(np.unique(dataset.log.qid)) == len(set(log["query_id"]))
    assert (dataset.name, dataset.is_feed) == (facts["name"], False)
    periods = (dataset.valid_start, dataset.test_start)
    assert periods == (facts["valid_start"], facts["test_start"])


def test_a_folder_is_read_without_the_network(folder, monkeypatch):
    asked = []  # datasets.load_dataset counts its calls at the hub, folders too
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: asked.append(where))
    load(folder)
    assert not asked


def test_ids_may_be_strings(folder, dataset, tmp_path):
    def named(table: pa.Table) -> pa.Table:
        for name in {"user_id", "query_id", "item_id"} & set(table.column_names):
            values = pa.array([f"{name} {value}" for value in table[name].to_pylist()])
            table = table.set_column(table.column_names.index(name), name, values)
        return table

    write(tmp_path, *(named(pq.read_table(folder / name)) for name in FILES))
    loaded = load(tmp_path)
    assert loaded.items[7] == f"item_id {dataset.items[7]}"
    assert loaded.users[7] == f"user_id {dataset.users[7]}"
    assert checksum(loaded) == checksum(dataset)


def test_times_may_be_dates(folder, dataset, tmp_path):
    items, log = (pq.read_table(folder / name) for name in FILES)
    utc = datetime.UTC
    dates = [
        datetime.datetime.fromtimestamp(t, utc) for t in log["timestamp"].to_pylist()
    ]
    place = log.column_names.index("timestamp")
    write(tmp_path, items, log.set_column(place, "timestamp", pa.array(dates)))
    assert pq.read_schema(tmp_path / FILES[1]).field("timestamp").type.tz == "UTC"
    assert checksum(load(tmp_path)) == checksum(dataset)


def test_feed_has_sessions_and_no_queries(tmp_path, config):
    log = one_per_item(6)
    del log["query"], log["query_id"]
    log["session_id"] = ["a", "a", "b", "b", "b", "c"]
    write(tmp_path, {"item_id": range(6), "title": ["film"] * 6}, log)
    prepared = pipeline.prepare(tmp_path, config, torch.device("cpu"))
    assert prepared.dataset.is_feed and prepared.sizes.feed
    batch = prepared.pages.batch(np.arange(3), 4)
    assert batch.mask.sum(1).tolist() == [2, 3, 1]
    assert batch.history[:, 0].tolist() == [PAD, 1, 4]  # the anchor: last watched
    assert batch.query.tolist() == [0, 0, 0]


def test_periods_without_dataset_json(folder, dataset, tmp_path):
    write(tmp_path / "mine", *(pq.read_table(folder / name) for name in FILES))
    loaded, time = load(tmp_path / "mine"), dataset.log.timestamp
    assert loaded.name == "mine"
    assert abs((time >= loaded.test_start).mean() - 1 / 15) < 0.005
    assert abs((time >= loaded.valid_start).mean() - 2 / 15) < 0.005


# --- pages and histories -------------------------------------------------------------

SIZE = 3  # of a page, in the tests of this section


@pytest.fixture(params=range(3))
def log(request) -> Log:
    """Few users, sessions that overlap, many equal timestamps, long sessions."""
    rng = np.random.default_rng(request.param)
    owner = rng.integers(4, size=30)
    qid = rng.integers(30, size=300)
    return Log(
        user=owner[qid],
        qid=qid,
        query=qid % 7,
        item=rng.integers(50, size=300),
        timestamp=np.sort(rng.integers(60, size=300)),
        label=rng.integers(2, size=300),
    )


def naive_history(log: Log, qid: int, length: int) -> list[int]:
    own = [row for row in range(len(log.qid)) if log.qid[row] == qid]
    start, user = min(log.timestamp[own]), log.user[own[0]]
    watched = []
    for row in range(len(log.qid)):
        mine = log.user[row] == user and log.label[row] == 1
        if mine and log.timestamp[row] < start:
            watched.append(int(log.item[row]))
    newest = watched[::-1][:length]
    return newest + [PAD] * (length - len(newest))


def test_histories_are_the_naive_ones(log):
    pages = Pages(log, SIZE)
    histories = pages.history(np.arange(len(pages)), 8)
    expected = [naive_history(log, qid, 8) for qid in pages.qid]
    assert histories.tolist() == expected
    lengths = (histories != PAD).sum(1)
    assert {0, 8} < set(lengths.tolist())  # empty, cut and in between


def test_histories_of_the_platform_are_the_naive_ones(prepared):
    log, pages = prepared.dataset.log, prepared.pages
    index = np.arange(0, len(pages), 5)
    expected = [naive_history(log, qid, 8) for qid in pages.qid[index]]
    assert pages.history(index, 8).tolist() == expected


def test_own_and_later_watches_change_no_history(log):
    pages = Pages(log, SIZE)
    for page in range(0, len(pages), 4):
        ahead = log.timestamp >= pages.start[page]
        assert ahead[pages.rows[page, 0]]
        label = np.where(ahead, 1 - log.label, log.label)
        item = np.where(ahead, 49 - log.item, log.item)
        other = Pages(dataclasses.replace(log, label=label, item=item), SIZE)
        before, after = (p.history(np.array([page]), 20) for p in (pages, other))
        assert before.tolist() == after.tolist()


def test_no_watch_at_all_gives_empty_histories(log):
    silent = dataclasses.replace(log, label=np.zeros_like(log.label))
    assert (Pages(silent, SIZE).history(np.arange(5), 4) == PAD).all()


def test_pages_hold_every_impression_once(log):
    rows = Pages(log, SIZE).rows
    assert sorted(rows[rows != PAD].tolist()) == list(range(len(log.qid)))


def test_long_sessions_become_several_pages(log):
    pages = Pages(log, SIZE)
    assert np.bincount(log.qid).max() > 2 * SIZE  # there are long ones
    for qid in np.unique(log.qid):
        index = np.flatnonzero(pages.qid == qid)
        rows = pages.rows[index].ravel()
        own = np.flatnonzero(log.qid == qid)
        assert rows[: len(own)].tolist() == own.tolist()  # in time order, gaps last
        assert len(index) == -(-len(own) // SIZE)
        assert len(np.unique(pages.history(index, 8), axis=0)) == 1


def test_pages_are_in_time_order(log):
    pages = Pages(log, SIZE)
    starts = [log.timestamp[log.qid == qid].min() for qid in pages.qid]
    assert pages.start.tolist() == starts == sorted(starts)


def test_between_takes_the_start_and_leaves_the_end(log):
    pages = Pages(log, SIZE)
    low, high = pages.start[10], pages.start[30]
    expected = [k for k in range(len(pages)) if low <= pages.start[k] < high]
    assert 0 < len(expected) < len(pages)
    assert pages.between(low, high).tolist() == expected
    assert pages.between(None, None).tolist() == list(range(len(pages)))


def test_batch_repeats_the_log(log):
    pages = Pages(log, SIZE)
    index = np.arange(5, 25)
    batch, rows = pages.batch(index, 4), torch.from_numpy(pages.rows[index])
    inside = rows != PAD
    assert not inside.all()
    assert batch.mask.equal(inside)
    for name in ("user", "query", "qid"):  # one for the page, as in each of its rows
        column = torch.from_numpy(getattr(log, name))
        assert (
            getattr(batch, name)[:, None]
            .expand_as(rows)[inside]
            .equal(column[rows[inside]])
        )
    assert batch.item[inside].equal(torch.from_numpy(log.item)[rows[inside]])
    assert batch.label[inside].equal(torch.from_numpy(log.label)[rows[inside]].float())
    assert not batch.label[~inside].any()
    assert batch.unique_items.equal(batch.item[inside].unique())
    assert batch.unique_items[batch.item_index[inside]].equal(batch.item[inside])


def test_stream_gives_every_page_once_in_order(log):
    pages = Pages(log, SIZE)
    index = pages.between(pages.start[7], None)
    batches = list(pages.stream(index, 4, 8))
    assert {len(batch.qid) for batch in batches[:-1]} == {4}
    assert torch.cat([b.qid for b in batches]).tolist() == pages.qid[index].tolist()
    whole = pages.batch(index, 8)
    for name in ("item", "label", "history"):
        parts = torch.cat([getattr(batch, name) for batch in batches])
        assert parts.equal(getattr(whole, name))


# --- the truth -----------------------------------------------------------------------


def test_what_models_get_has_no_field_for_the_truth():
    names = {
        f.name for kind in (Log, Batch, Features) for f in dataclasses.fields(kind)
    }
    known = {"user", "qid", "query", "item", "timestamp", "label", "period"}
    known |= {"history", "unique_items", "item_index", "queries", "query_index"}
    known |= {"seen", "taken", "statistics", "match"}  # made of the log's own columns
    known |= {"context"}  # columns of users and of the moment, as they are given
    known |= {"tokens", "types", "positions", "length", "images", "has_image"}
    assert names == known | {"query_tokens", "query_length"}


@pytest.mark.parametrize("change", ["other", "absent"])
def test_the_truth_reaches_no_batch(folder, prepared, config, tmp_path, change):
    items, log = (pq.read_table(folder / name) for name in FILES)
    place = log.column_names.index("probability")
    changed = log.remove_column(place)
    if change == "other":
        values = 1 - log["probability"].to_numpy()
        changed = log.set_column(place, "probability", pa.array(values))
    write(tmp_path, items, changed)
    shutil.copy(folder / "dataset.json", tmp_path)
    other = pipeline.prepare(tmp_path, config, torch.device("cpu"))
    assert (other.dataset.truth is None) == (change == "absent")
    assert not np.array_equal(other.dataset.truth, prepared.dataset.truth)
    index = np.arange(len(prepared.pages))
    batches = [p.pages.batch(index, config.history_long) for p in (prepared, other)]
    assert same(*batches)
    assert same(prepared.features, other.features)


# --- tokens --------------------------------------------------------------------------


def naive_document(prepared, fields: list[str], limits: dict, row: int) -> list[tuple]:
    """(token, type, position) of a document, field by field."""
    tokenizer, out, between = prepared.tokenizer, [], False
    out.append((tokenizer.cls_token_id, 0, 0))
    for kind, name in enumerate(fields, start=1):
        text = prepared.dataset.texts[name][row]
        ids = tokenizer(text or "", add_special_tokens=False)["input_ids"]
        if not ids:
            continue
        if between:  # it ends the field before
            _, last_kind, last_place = out[-1]
            out.append((tokenizer.sep_token_id, last_kind, last_place + 1))
        between = True
        cut = ids[: limits[name]]
        out += [(token, kind, place) for place, token in enumerate(cut)]
    return out


def test_documents_are_fields_with_sep_between(prepared, config):
    features, limits = prepared.features, dict(config.field_tokens)
    fields = ["title", "ocr", "asr", "cover_ocr"]
    missing = 0
    for row in range(len(prepared.dataset.items)):
        length = int(features.length[row])
        expected = naive_document(prepared, fields, limits, row)
        parts = (features.tokens, features.types, features.positions)
        assert list(zip(*(p[row, :length].tolist() for p in parts), strict=True)) == (
            expected
        )
        assert (features.tokens[row, length:] == prepared.tokenizer.pad_token_id).all()
        missing += prepared.dataset.texts["asr"][row] is None
    assert 0 < missing < len(prepared.dataset.items)


def test_queries_are_cls_and_words(prepared):
    features, tokenizer = prepared.features, prepared.tokenizer
    for row, text in enumerate(prepared.dataset.queries):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:10]
        length = int(features.query_length[row])
        expected = [tokenizer.cls_token_id, *ids]
        assert features.query_tokens[row, :length].tolist() == expected
        assert (features.query_tokens[row, length:] == tokenizer.pad_token_id).all()


def test_fields_follow_the_configuration_then_the_file(tmp_path, config):
    names = ("mood", "cover_ocr", "title", "author")  # as they stand in the file
    items = {"item_id": [0, 1], **{name: [f"{name} word", None] for name in names}}
    dataset = load(write(tmp_path, items, one_per_item(2)))
    tokenizer = make_tokenizer(dataset, config)
    features = make_features(dataset, config, tokenizer)
    text = tokenizer.decode(features.tokens[0][: features.length[0]])
    order = ["title", "cover_ocr", "mood", "author"]
    found = [text.replace(" ", "").index(name.replace(" ", "")) for name in order]
    assert found == sorted(found)
    assert features.types.max() == 4
    # no field at all leaves cls alone
    assert features.length[1] == 1


def test_limits_hold_and_long_titles_cost_nothing(tmp_path, config):
    limits = dict(config.field_tokens)
    texts = {"title": ["word " * 20_000, "word " * 31], "blurb": ["deed " * 99, "x"]}
    log = one_per_item(2) | {"query": ["word " * 20_000, "word"]}
    dataset = load(write(tmp_path, {"item_id": [0, 1], **texts}, log))
    assert len(dataset.texts["title"][0]) == 100_000
    features = make_features(dataset, config, make_tokenizer(dataset, config))
    fields = np.bincount(features.types[0])
    assert fields[1] == limits["title"] + 1  # and its sep
    assert fields[2] == config.other_field_tokens
    assert features.query_length[0] == 1 + limits["query"]
    title = slice(0, 1 + limits["title"])
    assert features.tokens[0, title].equal(features.tokens[1, title])


def test_emoji_have_tokens(tmp_path, config):
    title = ["🦊🍞 fox bread 👩‍👩‍👧", "🦊 fox", "🍞 bread"]
    items = {"item_id": range(3), "title": title}
    dataset = load(write(tmp_path, items, one_per_item(3)))
    tokenizer = make_tokenizer(dataset, config)
    features = make_features(dataset, config, tokenizer)
    first, fox, bread = (set(row.tolist()) for row in features.tokens)
    assert tokenizer.unk_token_id not in first
    special = set(tokenizer.all_special_ids)
    assert fox - bread - special and bread - fox - special


def test_tokenizer_learns_from_nothing_after_the_test_begins(tmp_path, config):
    title = ["тигр"] * 14 + ["жираф"] * 2
    log = one_per_item(16)
    log["query"] = ["кошка"] * 14 + ["щегол"] * 2
    dataset = load(write(tmp_path, {"item_id": range(16), "title": title}, log))
    assert (dataset.log.timestamp < dataset.test_start).sum() == 14
    letters = set("".join(make_tokenizer(dataset, config).get_vocab()))
    assert set("тигркошка") <= letters
    assert not set("жфщл") & letters


def test_tokenizer_is_the_same_every_time(dataset, config):
    # WordPiece of `tokenizers` is not: a resumed run would read other tokens
    first, second = (make_tokenizer(dataset, config) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()


def test_saved_tokenizer_is_used(folder, dataset, config, tmp_path):
    write(tmp_path, *(pq.read_table(folder / name) for name in FILES))
    small = make_tokenizer(dataset, config.replace(vocabulary=200))
    small.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = make_tokenizer(load(tmp_path), config)
    assert found.get_vocab() == small.get_vocab()
    assert found.pad_token_id == small.pad_token_id


# --- pixels --------------------------------------------------------------------------


def test_images_are_bytes_structs_or_paths(tmp_path, config):
    pictures = [picture("red"), picture("blue")]
    forms = {
        "bytes": [*pictures, None],
        "struct": [{"bytes": raw, "path": None} for raw in pictures] + [None],
        "paths": ["covers/0.png", "covers/1.png", None],
        "struct with paths": [
            {"bytes": None, "path": "covers/0.png"},
            {"bytes": pictures[1], "path": "elsewhere.png"},
            {"bytes": None, "path": None},
        ],
    }
    for name, images in forms.items():
        folder = tmp_path / name
        (folder / "covers").mkdir(parents=True)
        for k, raw in enumerate(pictures):
            (folder / "covers" / f"{k}.png").write_bytes(raw)
        dataset = load(write(folder, {"item_id": range(3), "image": images}, LOG3))
        features = make_features(dataset, config, make_tokenizer(dataset, config))
        assert features.has_image.tolist() == [True, True, False], name
        assert features.images.shape == (3, 3, config.image_size, config.image_size)
        colours = features.images.flatten(2).float().mean(2).tolist()
        assert colours == [[255, 0, 0], [0, 0, 255], [0, 0, 0]], name
        assert "image" not in dataset.texts
        assert dataset.counts["missing image"] == 1


LOG3 = one_per_item(3)


def test_data_set_without_texts_and_images(tmp_path, config):
    write(tmp_path, {"item_id": range(3)}, LOG3)
    features = pipeline.prepare(tmp_path, config, torch.device("cpu")).features
    assert features.length.tolist() == [1, 1, 1]
    assert not features.has_image.any()


def test_what_moves_to_a_gpu_is_pinned_first(prepared, config, monkeypatch):
    """No GPU is needed to see it: what is called on the host, for every tensor."""
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: calls.append("pin") or x)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda x, _, non_blocking: calls.append(non_blocking) or x
    )
    batch = prepared.pages.batch(np.arange(4), 8)
    batch.to("cuda")
    assert calls == ["pin", True] * len(batch._parts())
    calls.clear()
    batch.to("cpu")
    assert "pin" not in calls
