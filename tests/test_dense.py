"""Statistics and match on their way into the model, and from there to serving."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from lemur_mini import pipeline
from lemur_mini.config import (
    BASELINE_CHANGES,
    CLASSROOM,
    FARTHEST,
    LEMUR,
    SEARCH_CHANGES,
    Config,
)
from lemur_mini.data.counts import Counts
from lemur_mini.data.likeness import Likeness
from lemur_mini.data.loading import without_queries
from lemur_mini.data.pages import PAD
from lemur_mini.data.schema import DataError
from lemur_mini.dense import EDGE, Dense
from lemur_mini.preparation import config_for, dense_features, variant, with_dense
from lemur_mini.reproduce.variants import config_of
from lemur_mini.serving.export import COUNTED, COUNTS, export_engine
from lemur_mini.serving.ranker import Ranker
from lemur_mini.training import make_model


@pytest.fixture(scope="module")
def config(config: Config) -> Config:
    """The tiny model with both groups."""
    return with_dense(config).replace(dense_knots=4, token_width=32)


@pytest.fixture(scope="module")
def whole(folder: Path, config: Config) -> pipeline.Prepared:
    """The tiny platform with the numbers of both groups."""
    return pipeline.prepare(folder, config, torch.device("cpu"))


@pytest.fixture(scope="module")
def run(whole: pipeline.Prepared, config: Config):
    """A LEMUR trained on the first sessions, and scores of those of the test days."""
    start = int(np.quantile(whole.dataset.log.timestamp, 0.3))
    return pipeline.fit(whole, config, 0, start)


def test_batches_hold_the_rows_of_their_impressions(whole: pipeline.Prepared):
    pages, index = whole.pages, np.arange(0, len(whole.pages), 9)
    batch = pages.batch(index, 4)
    for name, values in pages.dense.items():
        found = getattr(batch, name)
        assert found.shape[:2] == batch.item.shape and found.dtype == torch.float32
        for p, rows in enumerate(pages.rows[index]):
            for s, row in enumerate(rows):
                wanted = values[row] if row != PAD else 0 * values[0]
                np.testing.assert_array_equal(found[p, s], wanted)
    part = batch.pages(slice(2, 5))
    torch.testing.assert_close(part.match, batch.match[2:5])


def test_standardised_by_what_was_seen():
    torch.manual_seed(0)
    dense, mask = Dense(3), torch.ones(8, 4, dtype=torch.bool)
    mask[:, 3] = False
    values = 5 + 3 * torch.randn(8, 4, 3)
    values[:, 3] = 1e6  # padding counts for nothing
    dense.see(values, mask)
    seen = dense.standard(values)[mask]
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        seen.std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0
    )
    assert dense.standard(values).abs().max() == FARTHEST
    for _ in range(9):
        dense.see(values + 1, mask)
    mean = values[mask].mean(0)  # a running mean over ten batches
    torch.testing.assert_close(dense.mean, mean + 0.9, atol=1e-4, rtol=0)


def test_hat_functions_spread_a_number_over_the_knots_beside_it():
    dense, x = Dense(2, knots=6), torch.tensor([[[-9.0, 0.2], [1.5, 9.0]]])
    at = np.linspace(-EDGE, EDGE, 6)
    wanted = np.zeros((1, 2, 2, 6))
    for s in range(2):
        for f in range(2):
            value = min(max(float(x[0, s, f]), -EDGE), EDGE)
            for k in range(6):
                wanted[0, s, f, k] = max(0.0, 1 - abs(value - at[k]))  # 1 apart
    hats = dense.hats(x)
    np.testing.assert_allclose(hats.numpy(), wanted.reshape(1, 2, 12), atol=1e-6)
    torch.testing.assert_close(hats.view(1, 2, 2, 6).sum(-1), torch.ones(1, 2, 2))
    assert dense(x).shape == (1, 2, dense.width)
    assert Dense(2)(x).shape == x.shape  # without knots, the numbers alone


def test_the_id_baseline_sees_the_same_numbers(config: Config):
    ids = variant(config, BASELINE_CHANGES)
    assert ids.dense == config.dense == ("statistics", "match")
    assert set(ids.groups) == {*BASELINE_CHANGES["groups"], "statistics", "match"}
    assert with_dense(ids) == ids
    paper = Config()
    assert variant(paper, BASELINE_CHANGES) == paper.replace(**BASELINE_CHANGES)


def test_groups_that_the_data_lacks_are_named(whole, config: Config):
    sizes = dataclasses.replace(whole.sizes, match=0)
    with pytest.raises(ValueError, match="no match"):
        make_model(config, sizes, 0, torch.device("cpu"))


def test_a_batch_without_numbers_is_refused(whole, run):
    batch = dataclasses.replace(whole.pages.batch(np.arange(2), 8), statistics=None)
    with pytest.raises(ValueError, match="holds no statistics"):
        run.model(batch, whole.features)


def test_padding_changes_no_logit(whole, run):
    index = np.arange(5)
    batch = whole.pages.batch(index, run.config.history_long)
    with torch.no_grad():
        wanted = run.model.eval()(batch, whole.features)
    wide = {
        name: torch.nn.functional.pad(getattr(batch, name), (0, 0, 0, 2))
        for name in ("statistics", "match")
    }
    wide["item"] = torch.nn.functional.pad(batch.item, (0, 2), value=PAD)
    wide["label"] = torch.nn.functional.pad(batch.label, (0, 2))
    wide["item_index"] = torch.nn.functional.pad(batch.item_index, (0, 2))
    padded = dataclasses.replace(batch, **wide)
    with torch.no_grad():
        found = run.model(padded, whole.features)[:, : batch.item.shape[1]]
    torch.testing.assert_close(found, wanted)


def test_serving_scores_what_evaluation_scores(whole, run):
    """The same chance for a page of the log, asked for by name at its time."""
    data, pages, ranker = whole.dataset, whole.pages, Ranker(run.model, whole)
    index = np.arange(len(pages) - 6, len(pages))
    with torch.no_grad():
        batch = pages.batch(index, run.config.history_long)
        wanted = run.model.eval()(batch, whole.features).sigmoid().numpy()
    for p, page in enumerate(index):
        rows = pages.rows[page][pages.rows[page] >= 0]
        asked = data.users[pages.user[page]], data.queries[pages.query[page]]
        found = ranker.scores([(*asked, data.log.item[rows])], int(pages.since[page]))
        np.testing.assert_allclose(found[0], wanted[p, : len(rows)], atol=1e-5)


def test_events_and_new_documents_reach_the_numbers(whole, run):
    data = whole.dataset
    ranker = Ranker(copy.deepcopy(run.model), whole)
    user, query = data.users[0], data.queries[0]
    (row,) = ranker.add_documents([{"item_id": 10**6, "title": query}])
    shown = np.array([0, row])
    one = ranker.batch([(user, query, shown)])
    assert one.match[0, 1].max() > one.match[0, 0].max()  # it says the query's words
    end = int(data.log.timestamp[-1])
    ranker.numbers.update(0, int(row), end + 5, 1)
    two = ranker.batch([(user, query, shown)])
    column = 0  # impressions of the document
    assert two.statistics[0, 1, column] > one.statistics[0, 1, column]
    assert two.statistics[0, 0, column] == one.statistics[0, 0, column]
    assert sum(  # a copy
        len(bm25.indptr) - 1 for bm25, _ in whole.matcher.fields["title"].blocks
    ) == len(data.items)


def test_counts_are_exported_and_go_on(whole, run, tmp_path: Path):
    ranker = Ranker(run.model, whole)
    export_engine(ranker, tmp_path)
    found, end = load_file(tmp_path / COUNTS), int(whole.dataset.log.timestamp[-1])
    counts, rows = Counts.of_arrays(found), np.arange(len(whole.dataset.items))
    for each in (counts, ranker.numbers.counts):
        each.update(3, 7, end + 9, 1)
    wanted = ranker.numbers.counts.read(3, rows, end + 10)
    np.testing.assert_array_equal(counts.read(3, rows, end + 10), wanted)


def test_what_is_counted_names_its_rows(whole, run, tmp_path: Path):
    ranker = Ranker(run.model, whole)
    export_engine(ranker, tmp_path)
    ids = json.loads((tmp_path / COUNTED).read_text("utf-8"))
    assert ids["users"] == whole.dataset.users.tolist()
    assert ids["items"] == whole.dataset.items.tolist()


def test_numbers_of_another_data_set_are_not_gone_on_with(whole, folder, config):
    """The fingerprint names them; without the groups it is as it was."""
    paper = pipeline.prepare(folder, config.replace(groups=LEMUR), torch.device("cpu"))
    here, there = paper.fingerprint.parts, whole.fingerprint.parts
    assert there.keys() - here.keys() == {"statistics", "match"}
    assert here.items() <= there.items()
    assert paper.matcher is None and paper.pages.dense == {}


def test_a_model_without_the_groups_serves_data_with_them(whole, folder, config):
    plain = config.replace(groups=LEMUR)
    model = make_model(plain, whole.sizes, 0, torch.device("cpu"))
    paper = pipeline.prepare(folder, plain, torch.device("cpu"))
    for data in (whole, paper):
        assert Ranker(model, data).numbers.groups == ()
    with_them = make_model(config, whole.sizes, 0, torch.device("cpu"))
    with pytest.raises(DataError, match="the model's configuration"):
        Ranker(with_them, paper)


def test_in_a_feed_the_history_stands_in_the_querys_place(whole, config):
    feed = without_queries(whole.dataset)
    assert config_for(config, feed).dense == ("statistics", "match")
    images = whole.features.images.numpy()
    dense, matcher = dense_features(feed, config.groups, whole.pages, images)
    assert isinstance(matcher, Likeness)
    assert dense["match"].shape == (len(feed.log.item), len(matcher.names))


def test_a_search_log_with_numbers_has_a_stronger_contrast(whole):
    """Only there, and only where the reader has left the usual weight."""
    both = with_dense(CLASSROOM)
    assert config_for(both, whole.dataset) == both.replace(**SEARCH_CHANGES)
    own = both.replace(sqdc_weight=0.3)
    assert config_for(own, whole.dataset) == own
    for plain in (CLASSROOM, variant(both, BASELINE_CHANGES)):
        assert config_for(plain, whole.dataset) == plain
    assert config_of("lemur_numbers", "classroom", whole.dataset).sqdc_weight == 0.1
    assert config_of("lemur", "classroom", whole.dataset) == CLASSROOM
    assert config_of("no_sqdc", "classroom", whole.dataset).sqdc_weight == 0
