"""How like the history a document is, against a loop; causal, and equal at serving."""

import dataclasses

import numpy as np
import pytest
import torch

from lemur_mini import pipeline
from lemur_mini.data.likeness import LENGTH, UNIT, Likeness, Texts, likeness
from lemur_mini.data.loading import without_queries
from lemur_mini.data.match import joined, known, split
from lemur_mini.data.pages import PAD
from lemur_mini.preparation import config_for, with_dense, with_documents
from lemur_mini.serving.program import Program
from lemur_mini.serving.ranker import Ranker
from lemur_mini.training import make_model


@pytest.fixture(scope="module")
def feed(prepared: pipeline.Prepared, config) -> pipeline.Prepared:
    """The tiny platform as a feed, with the groups of numbers."""
    dataset = without_queries(prepared.dataset)
    return pipeline.prepare(dataset, with_dense(config), torch.device("cpu"))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / size if size else 0.0


def test_equals_a_loop(feed: pipeline.Prepared):
    scorer, numbers = likeness(feed.dataset, feed.pages, feed.features.images.numpy())
    assert scorer.names == (
        *("text mean", "text nearest", "colour mean", "colour nearest"),
        *("picture mean", "picture nearest"),
    )
    log, pages = feed.dataset.log, feed.pages
    for page in range(2, len(pages), 53):
        watched = pages.history(np.array([page]), LENGTH)[0]
        watched = watched[watched >= 0]
        for row in pages.rows[page][pages.rows[page] >= 0]:
            wanted = []
            for vectors in scorer.vectors.values():
                past, one = vectors[watched], vectors[log.item[row]]
                wanted.append(cosine(past.sum(axis=0), one))
                near = [cosine(v, one) for v in past if v.any()]
                wanted.append(max(near, default=0.0))
            np.testing.assert_allclose(numbers[row], wanted, atol=1e-6)


def test_vectors_are_whole_numbers_of_length_one(feed: pipeline.Prepared):
    for vectors in feed.matcher.vectors.values():
        np.testing.assert_array_equal(vectors, np.rint(vectors))
        size = np.linalg.norm(vectors, axis=1) / UNIT
        assert np.allclose(size[size > 0], 1, atol=1e-3)


def test_what_came_later_changes_nothing(feed: pipeline.Prepared):
    """Other texts of documents that were not known before validation, and other labels
    of the last page: what is earlier stays, to the last bit."""
    dataset, pages = feed.dataset, feed.pages
    images = feed.features.images.numpy()
    before = likeness(dataset, pages, images)[1]
    new = ~known(dataset)
    assert new.any()
    texts = {
        name: ["zebra" if late else text for text, late in zip(t, new, strict=True)]
        for name, t in dataset.texts.items()
    }
    changed = likeness(dataclasses.replace(dataset, texts=texts), pages, images)[1]
    early = dataset.log.timestamp < dataset.valid_start
    early &= ~new[dataset.log.item]
    np.testing.assert_array_equal(before[early], changed[early])


def test_serving_makes_the_same_numbers(feed: pipeline.Prepared, config):
    config = config_for(with_dense(config), feed.dataset)
    model = make_model(config, feed.sizes, 0, torch.device("cpu"))
    ranker, log, pages = Ranker(model, feed), feed.dataset.log, feed.pages
    for page in range(5, len(pages), 67):
        rows = pages.rows[page][pages.rows[page] >= 0]
        user = feed.dataset.users[pages.user[page]]
        since = int(pages.since[page])
        batch = ranker.batch([(user, "", log.item[rows])], before=since)
        wanted = pages.dense["match"][rows]
        np.testing.assert_array_equal(batch.match[0].numpy(), wanted)


def test_new_documents_are_compared_by_what_they_hold(feed, config):
    more = with_documents(feed, [{"item_id": 10**9} | first(feed)], with_dense(config))
    history = np.array([[0, 3, PAD]])
    last = len(more.dataset.items) - 1
    found = more.matcher(history, np.array([[0, last]]))
    assert found[0, 1, :2] == pytest.approx(found[0, 0, :2], abs=1e-4)  # its text


def first(feed: pipeline.Prepared) -> dict:
    return {name: texts[0] for name, texts in feed.dataset.texts.items()}


def test_no_words_and_no_pictures():
    """Nothing to compare is 0, not an error."""
    scorer = Likeness.fit({}, np.zeros((4, 3, 8, 8), np.uint8), np.ones(4, bool))
    found = scorer(np.array([[0, PAD]]), np.array([[1, 2]]))
    assert found.shape == (1, 2, 2) and not found.any()


def test_texts_are_compressed_as_scikit_learn_does_it(feed: pipeline.Prepared):
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    there = known(feed.dataset)
    texts = joined(feed.dataset.texts, len(there))
    seen = [text for text, k in zip(texts, there, strict=True) if k]
    count = TfidfVectorizer(analyzer=split, min_df=2, sublinear_tf=True)
    svd = TruncatedSVD(64, random_state=0).fit(count.fit_transform(seen))
    wanted = svd.transform(count.transform(texts))
    found = Texts.fit(feed.dataset.texts, there)(texts)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_file_holds_all_of_it(feed: pipeline.Prepared):
    scorer = feed.matcher
    again = Likeness.of_arrays([], scorer.arrays())
    assert again.names == scorer.names
    texts = {name: ["blue cake", None] for name in feed.dataset.texts}
    images = feed.features.images[:2].numpy()
    both = [x.extended(texts, images) for x in (scorer, again)]
    last = len(feed.dataset.items)
    history, item = np.array([[0, 5, PAD]]), np.array([[1, last, last + 1]])
    one, other = (x(history, item) for x in both)
    np.testing.assert_array_equal(one, other)
    assert one[0, 1].any()


def test_a_feeds_artefact_ranks_as_the_ranker_does(feed, config, tmp_path):
    config = config_for(with_dense(config), feed.dataset)
    model = make_model(config, feed.sizes, 0, torch.device("cpu"))
    model.publish(feed.features)
    ranker = Ranker(model, feed)
    ranker.save_pretrained(tmp_path / "artefact")
    again = Ranker.from_pretrained(tmp_path / "artefact")
    for user in feed.dataset.users[:5].tolist():
        one, other = (r.rank(user, "", np.arange(9)) for r in (ranker, again))
        np.testing.assert_array_equal(one.items, other.items)
        np.testing.assert_allclose(one.chance, other.chance, atol=1e-6)


def test_serving_asks_with_what_training_asked_with(feed, config):
    """The ranker and the exported program score a feed's pages as the model does."""
    config = config_for(with_dense(config), feed.dataset)
    assert config.feed_query == "pooled"
    model = make_model(config, feed.sizes, 0, torch.device("cpu"))
    model.publish(feed.features)
    ranker, called = Ranker(model, feed), Program(model)
    for page in range(5, len(feed.pages), 67):
        rows = feed.pages.rows[page][feed.pages.rows[page] >= 0]
        user = feed.dataset.users[feed.pages.user[page]]
        request = [(user, "", feed.dataset.log.item[rows])]
        since = int(feed.pages.since[page])
        batch = ranker.batch(request, before=since)
        with torch.no_grad():
            wanted = model.eval()(batch, feed.features)
            found = called(*(getattr(batch, name) for name in called.names))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        scores = torch.from_numpy(ranker.scores(request, before=since))
        torch.testing.assert_close(scores, wanted.sigmoid(), rtol=1e-4, atol=1e-5)


def test_documents_one_by_one_are_as_at_once(feed: pipeline.Prepared):
    """Added at the end, in few blocks; or put in any order, as a stream meets them."""
    texts, images = feed.dataset.texts, feed.features.images.numpy()
    whole, none = feed.matcher, feed.matcher.over({n: [] for n in texts}, images[:0])
    one = whole.over({n: t[:40] for n, t in texts.items()}, images[:40])
    for k in range(40, 60):
        part = slice(k, k + 1)
        one = one.extended({n: t[part] for n, t in texts.items()}, images[part])
    assert len(one.blocks) <= 6
    rows = np.array([50, 7, 31])
    some = {n: [t[k] for k in rows] for n, t in texts.items()}
    two = none.put(rows, some, images[rows])
    assert two.lacking(np.array([7, 8, 31, 70])).tolist() == [8, 70]
    history, item = np.array([[50, 7, PAD]]), np.array([[31, 7, PAD]])
    for other in (one, two):
        np.testing.assert_array_equal(other(history, item), whole(history, item))
