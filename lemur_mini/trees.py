"""An opponent without a network: gradient-boosted trees over all that can be counted,
matched or compressed beforehand. It says whether LEMUR is worth its training."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier

from lemur_mini.data.likeness import Pictures, Texts
from lemur_mini.data.loading import Dataset
from lemur_mini.data.match import joined, known
from lemur_mini.data.pages import Pages


def boosted_trees(
    dataset: Dataset,
    pages: Pages,
    images: np.ndarray,
    dense: dict[str, np.ndarray],
    *,
    start: int,
    end: int | None = None,
    seed: int = 0,
    content: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit on all rows of pages before `start`, score those of [start, end): rows of the
    log (B,) and chances (B,). The pages are cut at both times.

    images: (N, 3, H, W) uint8, 0 where there is none; dense: `statistics` and `match`,
    (I, F) each; content: with compressed content beside them. One pass over the data:
    nothing is chosen on the test rows."""
    seen = content_features(dataset, pages, images) if content else {}
    x = np.column_stack([*seen.values(), *dense.values()]).astype(np.float32)
    train = pages.shown(pages.between(None, start))
    test = pages.shown(pages.between(start, end))
    trees = HistGradientBoostingClassifier(
        max_iter=300, learning_rate=0.06, early_stopping=False, random_state=seed
    )
    trees.fit(x[train], dataset.log.label[train])
    return test, trees.predict_proba(x[test])[:, 1]


def content_features(
    dataset: Dataset, pages: Pages, images: np.ndarray
) -> dict[str, np.ndarray]:
    """Cosines (I,) of compressed texts (query and document, history and document) and
    of compressed pictures (history and document), by name. 0 where one is missing."""
    log, there = dataset.log, known(dataset)
    texts = Texts.fit(dataset.texts, there)
    documents = texts(joined(dataset.texts, len(dataset.items)))
    past, owner = history(pages, len(dataset.items))  # (pages, N), (I,)
    out = {}
    if not dataset.is_feed:
        queries = texts(dataset.queries)
        out["query text"] = cosine(queries[log.query], documents[log.item])
    out["history text"] = cosine((past @ documents)[owner], documents[log.item])
    for name, vectors in Pictures.fit(images, there)(images).items():
        out[f"history {name}"] = cosine((past @ vectors)[owner], vectors[log.item])
    return out


def history(
    pages: Pages, documents: int, length: int = 64
) -> tuple[sparse.csr_array, np.ndarray]:
    """(pages, N): how often the user watched a document among the last `length` before
    the page; and the page of every impression (I,)."""
    index = np.arange(len(pages))
    past = pages.history(index, length)
    page = np.repeat(index, (past >= 0).sum(axis=1))
    shape = len(pages), documents
    each = sparse.csr_array((np.ones(len(page)), (page, past[past >= 0])), shape=shape)
    owner = np.empty(len(pages.log.item), np.int64)
    there = pages.rows >= 0
    owner[pages.rows[there]] = np.broadcast_to(index[:, None], there.shape)[there]
    return each, owner


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of rows (I, D) with rows (I, D): (I,), 0 where one is zero."""
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.where(size > 0, size, 1)
