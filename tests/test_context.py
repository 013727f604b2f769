"""Columns of users and of the moment: read by the training period, and refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lemur_mini import pipeline
from lemur_mini.config import BASELINE_CHANGES
from lemur_mini.data.context import Context, Number, Words
from lemur_mini.data.health import health
from lemur_mini.data.leaks import counted_later
from lemur_mini.data.loading import load
from lemur_mini.data.schema import DataError
from lemur_mini.data.statistics import statistics
from lemur_mini.dense import Context as Part
from lemur_mini.preparation import config_for, variant, with_dense
from lemur_mini.serving.ranker import Ranker

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def told(folder, tmp_path_factory):
    """The tiny platform with columns of users and of the moment."""
    out = tmp_path_factory.mktemp("told")
    for path in folder.iterdir():
        if path.is_file():
            (out / path.name).write_bytes(path.read_bytes())
    log, rng = pq.read_table(folder / "impressions.parquet"), np.random.default_rng(0)
    user = np.unique(log["user_id"].to_numpy(), return_inverse=True)[1]
    rows, users = log.num_rows, user.max() + 1
    price = np.exp(rng.normal(0, 4, rows))
    price[rng.random(rows) < 0.1] = np.nan
    device = rng.choice(["phone", "tablet", ""], rows).astype(object)
    device[-20:] = "watch"  # in the test period alone
    columns = {
        "context_price": price,
        "context_device": device,
        "user_age": rng.integers(18, 80, users)[user],
        "user_pro": (rng.random(users) < 0.5)[user],
        "user_shown_total": np.bincount(user)[user],
        "context_when": pa.array([0] * rows, pa.timestamp("s")),
    }
    for name, values in columns.items():
        log = log.append_column(name, pa.array(values))
    pq.write_table(log, out / "impressions.parquet")
    return out


@pytest.fixture(scope="module")
def prepared(told, config):
    return pipeline.prepare(told, with_dense(config), CPU)


def test_figures_are_those_of_a_loop_over_the_training_period(told):
    dataset = load(told)
    assert "user_shown_total" not in dataset.context  # it is refused
    context = Context.of(dataset)
    found = context.read(dataset)
    price, time = dataset.context["context_price"], dataset.log.timestamp
    assert [n.name for n in context.numbers] == ["context_price", "user_age"]
    early = []
    for value, when in zip(price, time, strict=True):
        if when < dataset.valid_start and value == value:
            early.append(np.log1p(value))
    mean = sum(early) / len(early)
    deviation = (sum((x - mean) ** 2 for x in early) / len(early)) ** 0.5
    for row, value in enumerate(price):
        wanted = (0.0, 1.0)
        if value == value:
            scaled = (np.log1p(value) - mean) / deviation
            wanted = (min(max(scaled, -5), 5), 0.0)
        np.testing.assert_allclose(found[row, :2], wanted, atol=1e-5)
    late = time >= dataset.valid_start  # what comes later changes no figure
    dataset.context["context_price"] = np.where(late, 1e9, price)
    assert Context.of(dataset) == context


def test_words_that_training_never_showed_have_row_0(told):
    dataset = load(told)
    context = Context.of(dataset)
    device, pro = context.words
    assert device.words == ("phone", "tablet") and pro.words == ("false", "true")
    assert context.kinds == (3, 3)
    rows = context.read(dataset)[:, -2]
    words = dataset.context["context_device"]
    assert {(w, r) for w, r in zip(words, rows, strict=True)} == {
        ("phone", 1),
        ("tablet", 2),
        ("", 0),
        ("watch", 0),
    }
    once = Words.of("x", np.array(["a", "a", "b", None], object))
    assert once.words == ("a",)  # once is no word


def test_what_is_empty_is_counted_and_what_is_no_feature_is_said(told):
    dataset = load(told)
    price, device = (dataset.context[f"context_{n}"] for n in ("price", "device"))
    assert dataset.counts["empty context_price"] == np.isnan(price).sum() > 0
    assert dataset.counts["empty context_device"] == (device == "").sum() > 0
    assert "context_when" not in dataset.context
    unused = health(told).unused
    assert "context_when" in unused and "user_age" not in unused
    assert not np.isnan(Number.of("x", np.full(3, np.nan)).read(np.ones(3))).any()


def test_columns_that_count_the_future_are_refused(told, prepared):
    log = prepared.dataset.log
    said = [k for k in prepared.dataset.counts if k.startswith("refused column")]
    assert len(said) == 1 and "user_shown_total: it counts impressions" in said[0]
    assert "user_shown_total" not in prepared.dataset.context
    likes = np.bincount(log.item, log.label)[log.item]
    who = log.user, log.item, log.label
    assert "positives of each item" in counted_later(likes, *who)
    before = np.expm1(statistics(prepared.dataset)[:, 0])  # causal: it grows
    assert counted_later(before, *who) is None


def test_a_user_column_says_one_thing_of_a_user(told, tmp_path):
    log = pq.read_table(told / "impressions.parquet")
    ages = log["user_age"].to_numpy().copy()
    ages[-1] += 1
    index = log.column_names.index("user_age")
    pq.write_table(
        log.set_column(index, "user_age", pa.array(ages)),
        tmp_path / "impressions.parquet",
    )
    (tmp_path / "items.parquet").write_bytes((told / "items.parquet").read_bytes())
    with pytest.raises(DataError, match="user_age.*has another user_age"):
        load(tmp_path)


def test_gradients_flow_to_words_that_are_there():
    part = Part(4, (3, 5))
    values = torch.tensor([[[0.5, 0.0, 1.0, 0.0], [1.0, 0.0, 2.0, 4.0]]])
    out = part(values)
    assert out.shape == (1, 2, part.width)
    torch.testing.assert_close(out[..., :2], values[..., :2])
    out.sum().backward()
    moved = [t.weight.grad.abs().sum(1) > 0 for t in part.tables]
    assert moved[0].tolist() == [False, True, True]
    assert moved[1].tolist() == [True, False, False, False, True]


def test_both_models_read_them_by_default_and_serving_says_it_cannot(
    prepared, config, folder
):
    dataset = prepared.dataset
    own = config_for(with_dense(config), dataset)
    assert own.dense == ("statistics", "match", "context")
    assert variant(own, BASELINE_CHANGES).dense == own.dense
    assert "context" not in config_for(config, dataset).groups  # numbers off
    assert "context" not in config_for(with_dense(config), load(folder)).groups
    start = int(np.quantile(dataset.log.timestamp, 0.2))
    run = pipeline.fit(prepared, own, 0, start)
    tables = run.model.dense["context"].tables
    assert len(tables) == 2
    batch = prepared.pages.batch(np.arange(3), 8)
    with torch.no_grad():
        first = run.model(batch, prepared.features)
        batch.context[..., 0] += 3
        assert (run.model(batch, prepared.features) != first).any()
    with pytest.raises(DataError, match="serving has no user_"):
        Ranker(run.model, prepared)
    plain = pipeline.prepare(folder, with_dense(config), CPU)
    with pytest.raises(ValueError, match="holds no context"):
        run.model(plain.pages.batch(np.arange(3), 8), plain.features)
