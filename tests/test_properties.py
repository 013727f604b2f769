"""Whatever a log looks like: it is refused in one line, or all of it is used rightly.

Hypothesis draws the data sets; derandomised, so that every machine sees the same."""

import dataclasses
import io
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from lemur_mini import pipeline
from lemur_mini.config import BASELINE, Config
from lemur_mini.data.features import (
    UNREADABLE,
    decode,
    encode_queries,
    make_features,
    make_tokenizer,
)
from lemur_mini.data.loading import load
from lemur_mini.data.pages import PAD, Pages, make_batch
from lemur_mini.data.schema import DataError
from lemur_mini.pipeline import Prepared
from lemur_mini.training import Run, make_model, predict, step_options, train_step

CPU = torch.device("cpu")
ITEMS, LOG = "items.parquet", "impressions.parquet"
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


def few(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=SLOW,
    )


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory):
    """A function that makes an empty folder for one example."""
    root, count = tmp_path_factory.mktemp("drawn"), itertools.count()

    def make() -> Path:
        path = root / str(next(count))
        path.mkdir()
        return path

    return make


# --- what is drawn -------------------------------------------------------------------


def encoded(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(256, size=(24, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


PICTURES = {kind: encoded(kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP")}
WORDS = st.integers(0, 40).map(lambda count: "word " * count)  # limits are 10 to 31
ODD = st.sampled_from(
    ["", " \n", "🦊🍞", "שלום עולם", "مرحبا", "a\0b", "<b>$x_", "x" * 999]
)
TEXT = st.one_of(WORDS, ODD, st.text(max_size=30))
IMAGE = st.sampled_from([None, PICTURES["PNG"], PICTURES["JPEG"], b"", b"no picture"])


@st.composite
def platforms(draw) -> tuple[pa.Table, pa.Table]:
    """Items and impressions that follow the schema, with all that may be missing."""
    count = draw(st.integers(1, 6))
    name = draw(st.sampled_from([lambda k: k, lambda k: 3 - 7 * k, "item {}".format]))
    ids = [name(k) for k in range(count)]
    items = {"item_id": pa.array(ids)}
    for field in draw(st.sets(st.sampled_from(["title", "ocr", "blurb"]))):
        values = draw(st.lists(st.none() | TEXT, min_size=count, max_size=count))
        items[field] = pa.array(values, pa.string())
    if draw(st.booleans()):
        images = draw(st.lists(IMAGE, min_size=count, max_size=count))
        items["image"] = pa.array(images, pa.binary())
    feed, rows = draw(st.booleans()), []
    for session in range(draw(st.integers(2, 7))):
        user, start = draw(st.integers(-1, 1)), draw(st.integers(-3, 9))
        query = draw(TEXT)
        for _ in range(draw(st.sampled_from([1, 1, 2, 5, 8, 9, 20]))):  # S is 8
            seen, later = draw(st.sampled_from(ids)), draw(st.integers(0, 2))
            label = draw(st.integers(0, 1))
            rows.append((user, session, query, seen, start + later, label))
    rows = draw(st.permutations(rows))
    columns = ("user_id", "session_id", "query", "item_id", "timestamp", "label")
    log = dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))
    if feed:
        del log["query"]
    else:
        log["query_id"] = log.pop("session_id")
    return pa.table(items), pa.table(log)


def write(folder: Path, items: pa.Table, log: pa.Table) -> Path:
    pq.write_table(items, folder / ITEMS)
    pq.write_table(log, folder / LOG)
    return folder


def opened(folder: Path, config: Config, tables: tuple) -> Prepared:
    """The drawn data set, made ready; one instant alone leaves no time to test on."""
    assume(len(set(tables[1]["timestamp"].to_pylist())) > 1)
    try:
        return pipeline.prepare(write(folder, *tables), config, CPU)
    except DataError as error:
        assert "leaves nothing to train on" in str(error)
        assume(False)


# --- refused in one line, or loaded --------------------------------------------------

ROWS = 6
VALUES = [
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 3),
    st.floats(),
    st.floats(width=16).map(np.float16),
    st.dates(),
    st.datetimes(),
    st.decimals(0, 1, places=2),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.integers(0, 3), max_size=2),
    st.fixed_dictionaries({"bytes": st.binary(), "path": st.none()}),
    st.fixed_dictionaries({"bytes": st.integers(0, 1), "path": st.text()}),
]
GOOD_ITEMS = {"item_id": range(ROWS), "title": "abcdef"}
GOOD_LOG = {
    "user_id": [0, 0, 0, 1, 1, 1],
    "query_id": range(ROWS),
    "query": "abcdef",
    "item_id": range(ROWS),
    "timestamp": range(ROWS),
    "label": [0, 1] * 3,
}
NAMES = [(ITEMS, name) for name in (*GOOD_ITEMS, "image", "created_at", "other")]
NAMES += [(LOG, n) for n in (*GOOD_LOG, "session_id", "probability", "other")]


@pytest.mark.parametrize(("file", "name"), NAMES)
@few(2)  # of each kind: a simple one and a wild one
@given(data=st.data())
def test_any_column_is_loaded_or_refused_in_one_line(
    new_folder, config, file, name, data
):
    for value in VALUES:
        tables = {ITEMS: dict(GOOD_ITEMS), LOG: dict(GOOD_LOG)}
        value = st.none() | value if data.draw(st.booleans()) else value
        drawn = data.draw(st.lists(value, min_size=ROWS, max_size=ROWS))
        if all(entry is None for entry in drawn):
            tables[file].pop(name, None)
        else:
            tables[file][name] = drawn
        check_refused_or_loaded(new_folder(), config, tables)


def check_refused_or_loaded(folder: Path, config: Config, tables: dict) -> None:
    try:
        items, log = (
            pa.table({name: list(values) for name, values in columns.items()})
            for columns in tables.values()
        )
        write(folder, items, log)
    except (pa.ArrowException, OverflowError):
        return  # such a table there cannot be
    try:
        dataset = load(folder)
    except DataError as error:
        assert "\n" not in str(error) and (ITEMS in str(error) or LOG in str(error))
        return
    if set(tables[ITEMS]) != set(GOOD_ITEMS) or tables[ITEMS]["title"] != "abcdef":
        make_features(dataset, config, make_tokenizer(dataset, config))
    rows = Pages(dataset.log, config.page_size).rows
    assert sorted(rows[rows != PAD]) == [*range(ROWS)]


@few(300)
@given(data=st.data(), kind=st.sampled_from(sorted(PICTURES)))
def test_a_damaged_picture_is_decoded_or_counted(data, kind):
    raw = bytearray(PICTURES[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] ^= data.draw(st.integers(1, 255))
    raw = raw[: data.draw(st.sampled_from([len(raw), len(raw), 0, 20, 200]))]
    try:
        pixels = decode(bytes(raw), 16)
    except UNREADABLE:
        return
    assert pixels.shape == (3, 16, 16) and pixels.dtype == torch.uint8


@few(100)
@given(texts=st.lists(TEXT, min_size=1, max_size=4), limit=st.integers(1, 12))
def test_any_text_has_tokens_up_to_its_limit(prepared, texts, limit):
    tokens, length = encode_queries(prepared.tokenizer, texts, limit)
    assert length.min() >= 1 and length.max() == tokens.shape[1] <= 1 + limit
    assert (tokens[:, 0] == prepared.tokenizer.cls_token_id).all()
    after = torch.arange(tokens.shape[1]) >= length[:, None]
    assert (tokens[after] == prepared.tokenizer.pad_token_id).all()


# --- all of it is used, and in time --------------------------------------------------


def naive_history(log: dict, session: object, group: str) -> list:
    """What the user of a session watched before its first impression, by time."""
    rows = range(len(log["label"]))
    own = [row for row in rows if log[group][row] == session]
    start = min(log["timestamp"][row] for row in own)
    before = [
        row
        for row in rows
        if log["user_id"][row] == log["user_id"][own[0]]
        and log["label"][row] == 1
        and log["timestamp"][row] < start
    ]
    return [
        log["item_id"][row] for row in sorted(before, key=log["timestamp"].__getitem__)
    ]


@few(60)
@given(tables=platforms())
def test_every_impression_has_a_page_and_histories_are_of_the_past(
    new_folder, config, tables
):
    prepared = opened(new_folder(), config, tables)
    dataset, pages, log = prepared.dataset, prepared.pages, prepared.dataset.log
    table = tables[1].to_pydict()
    group = "session_id" if "session_id" in table else "query_id"
    origin = np.argsort(table["timestamp"], kind="stable")  # of every row of the log
    assert sorted(pages.rows[pages.rows != PAD]) == list(range(len(origin)))
    assert dataset.users[log.user].tolist() == [table["user_id"][k] for k in origin]
    assert dataset.items[log.item].tolist() == [table["item_id"][k] for k in origin]
    assert log.label.tolist() == [table["label"][k] for k in origin]
    for page, rows in enumerate(pages.rows):
        names = {table[group][origin[row]] for row in rows[rows != PAD]}
        assert len(names) == 1
        history = pages.history(np.array([page]), 200)[0]
        found = dataset.items[history[history != PAD]].tolist()
        assert found[::-1] == naive_history(table, *names, group)


# --- the model ------------------------------------------------------------------------

CHANGES = (
    {},
    {"groups": BASELINE},
    {"forward_share": 0.3, "backward_share": 0.3},
    {"cic_weight": 0.1},
    {"sqdc_negatives": "positives", "sqdc_weight": 1.0, "temperature": 50.0},
    {"ranker": "dlrm", "stop_gradient": True},
    {"history_gradient": True, "experts": 2},
    {"decoder_literal": True},
)


@few(50)
@given(tables=platforms(), changes=st.sampled_from(CHANGES))
def test_a_training_step_is_finite_and_predictions_belong_to_their_rows(
    new_folder, config, tables, changes
):
    prepared = opened(new_folder(), config, tables)
    pages, features = prepared.pages, prepared.features
    model = make_model(config.replace(**changes), prepared.sizes, 0, CPU)
    run, index = Run(model, features, 0, 10), np.arange(len(pages))
    for _ in range(2):  # the second one reads what the first one wrote
        losses = model.losses(
            batch := pages.batch(index, config.history_long),
            features,
            step_options(run, batch),
        )
        assert losses.total.isfinite()
        train_step(run, batch)
        for parameter in model.parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all()
            assert parameter.isfinite().all()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())
    check_predictions(run, pages, index)


def check_predictions(run: Run, pages: Pages, index: np.ndarray) -> None:
    """Page by page, each alone: the same rows with the same chances, in that order."""
    if run.config.has_content:
        run.model.eval().publish(run.features)
    rows, chance = predict(run.model, run.features, pages, index[::-1])
    at = 0
    for page in index[::-1]:
        batch = pages.batch(np.array([page]), run.config.history_long)
        with torch.no_grad():
            alone = run.model(batch, run.features)[batch.mask].sigmoid().tolist()
        mine = [row for row in pages.rows[page] if row != PAD]
        assert rows[at : at + len(mine)].tolist() == mine
        assert chance[at : at + len(mine)].tolist() == pytest.approx(alone, abs=1e-5)
        at += len(mine)
    assert at == len(rows) == len(chance)


@st.composite
def batches(draw, prepared: Prepared, length: int):
    """Pages of documents drawn with repetition, whole pages empty among them."""
    pages = draw(st.integers(1, 4))
    slots = st.lists(st.integers(PAD, 9), min_size=3, max_size=3)
    watched = st.lists(st.integers(0, 9), max_size=length)
    item = np.array([draw(slots) for _ in range(pages)])
    past = [draw(watched) for _ in range(pages)]
    history = np.array([p + [PAD] * (length - len(p)) for p in past])
    user = np.array([draw(st.integers(PAD, 3)) for _ in range(pages)])
    label = np.array([[draw(st.booleans()) for _ in range(3)] for _ in range(pages)])
    query = np.arange(pages)
    return make_batch(
        user, query, query, item, (label & (item >= 0)).astype(np.float32), history
    )


@few(60)
@given(data=st.data(), more=st.integers(1, 5))
def test_more_padding_changes_no_logit_and_no_loss(prepared, config, data, more):
    batch = data.draw(batches(prepared, config.history_long))
    assume(batch.mask.any())
    model, features = make_model(config, prepared.sizes, 0, CPU), prepared.features
    model.publish(features)
    pad = lambda tensor, value: F.pad(tensor, (0, more), value=value)  # noqa: E731
    wide_batch = dataclasses.replace(
        batch,
        item=pad(batch.item, PAD),
        label=pad(batch.label, 1.0),
        item_index=pad(batch.item_index, 0),
    )
    wide_features = dataclasses.replace(
        features,
        **{name: pad(getattr(features, name), 1) for name in ("tokens", "types")},
        positions=pad(features.positions, 1),
        query_tokens=pad(features.query_tokens, 7),
    )
    model.eval()
    usual = model(batch, features)
    for logit in (model(wide_batch, features), model(wide_batch, wide_features)):
        torch.testing.assert_close(logit[wide_batch.mask], usual[batch.mask])
    order = step_options(Run(model, features, 0, 10), batch)
    a = model.losses(batch, features, order)
    b = model.losses(wide_batch, wide_features, order)
    torch.testing.assert_close(vars(a), vars(b))
    assert a.total.isfinite()
