"""Boosted trees, and the compressed content that they see, against naive loops."""

import dataclasses

import numpy as np
import pytest

from lemur_mini import pipeline
from lemur_mini.data.likeness import Pictures, Texts
from lemur_mini.data.match import joined, known
from lemur_mini.evaluation import auc
from lemur_mini.preparation import dense_features
from lemur_mini.trees import (
    boosted_trees,
    content_features,
    cosine,
    history,
)


@pytest.fixture(scope="module")
def images(prepared: pipeline.Prepared) -> np.ndarray:
    """(N, 3, H, W) pictures of the tiny platform."""
    return prepared.features.images.numpy()


def test_histories_are_those_of_the_pages(prepared: pipeline.Prepared):
    pages, documents = prepared.pages, len(prepared.dataset.items)
    past, owner = history(pages, documents)
    dense = past.toarray()
    for page in range(0, len(pages), 37):
        watched = pages.history(np.array([page]), 64)[0]
        wanted = np.bincount(watched[watched >= 0], minlength=documents)
        np.testing.assert_array_equal(dense[page], wanted)
        rows = pages.rows[page]
        assert (owner[rows[rows >= 0]] == page).all()


def test_cosine():
    a, b = np.array([[1.0, 2], [0, 0], [3, 0]]), np.array([[2.0, 4], [1, 1], [0, 5]])
    np.testing.assert_allclose(cosine(a, b), [1, 0, 0], atol=1e-12)


def test_content_features_equal_a_loop(prepared: pipeline.Prepared, images):
    dataset, pages = prepared.dataset, prepared.pages
    found = content_features(dataset, pages, images)
    assert list(found) == [
        *("query text", "history text", "history colour", "history picture"),
    ]
    there, log = known(dataset), dataset.log
    texts = Texts.fit(dataset.texts, there)
    documents, queries = (
        texts(joined(dataset.texts, len(dataset.items))),
        texts(dataset.queries),
    )
    colour = Pictures.fit(images, there)(images)["colour"]
    for page in range(3, len(pages), 41):
        watched = pages.history(np.array([page]), 64)[0]
        watched = watched[watched >= 0]
        for row in pages.rows[page][pages.rows[page] >= 0]:
            item, query = log.item[row], log.query[row]
            for name, one, other in (
                ("query text", queries[query], documents[item]),
                ("history text", documents[watched].sum(axis=0), documents[item]),
                ("history colour", colour[watched].sum(axis=0), colour[item]),
            ):
                size = np.linalg.norm(one) * np.linalg.norm(other)
                wanted = one @ other / size if size else 0.0
                np.testing.assert_allclose(found[name][row], wanted, atol=1e-8)


def test_mean_colours_equal_a_loop(images):
    images = images.copy()
    images[3] = 0  # none
    shown = np.arange(len(images)) != 3
    found = Pictures.fit(images, np.ones(len(images), bool))(images)["colour"]
    wanted = np.array([image.mean(axis=(1, 2)) / 255 for image in images])
    wanted -= wanted[shown].mean(axis=0)
    wanted[3] = 0
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def fit(prepared: pipeline.Prepared, images: np.ndarray):
    dense = dense_features(
        prepared.dataset, ("statistics", "match"), prepared.pages, images
    )[0]
    start = prepared.dataset.test_start
    pages = prepared.pages.cut_at(start)
    return boosted_trees(prepared.dataset, pages, images, dense, start=start)


def test_trees_score_the_test_rows(prepared: pipeline.Prepared, images):
    rows, chance = fit(prepared, images)
    wanted = pipeline.shown_between(prepared, prepared.dataset.test_start, None)
    np.testing.assert_array_equal(rows, wanted)
    assert ((chance > 0) & (chance < 1)).all()
    np.testing.assert_array_equal(fit(prepared, images)[1], chance)


def test_trees_learn_nothing_from_test_labels(prepared: pipeline.Prepared, images):
    """Labels of the last page are read by nothing; those of training are."""
    log, pages = prepared.dataset.log, prepared.pages
    last = pages.rows[-1][pages.rows[-1] >= 0]
    label = log.label.copy()
    label[last] = 1 - label[last]

    def changed(label: np.ndarray) -> pipeline.Prepared:
        other = dataclasses.replace(log, label=label)
        dataset = dataclasses.replace(prepared.dataset, log=other)
        return dataclasses.replace(
            prepared, dataset=dataset, pages=type(pages)(other, pages.size)
        )

    found = fit(prepared, images)[1]
    np.testing.assert_array_equal(fit(changed(label), images)[1], found)
    assert (fit(changed(1 - log.label), images)[1] != found).any()


def test_trees_find_what_the_words_say(prepared: pipeline.Prepared, images):
    """A label that is in a number is found."""
    log, start = prepared.dataset.log, prepared.dataset.test_start
    rng = np.random.default_rng(0)
    dense = {"statistics": (log.label + rng.normal(0, 0.5, len(log.label)))[:, None]}
    pages = prepared.pages.cut_at(start)
    rows, chance = boosted_trees(prepared.dataset, pages, images, dense, start=start)
    assert auc(log.label[rows], chance) > 0.85
