"""An opponent without a network: gradient-boosted trees over all that can be counted,
matched or compressed beforehand. It says whether LEMUR is worth its training."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer

from lemur_mini.data.loading import Dataset
from lemur_mini.data.match import known, split
from lemur_mini.data.pages import Pages

TEXT_WIDTH, IMAGE_WIDTH = 64, 16  # of compressed texts and pictures
PIXELS = 8  # pictures are compressed from so many, squared
LEAST = 2  # documents that a word of the compressed texts stands in


def boosted_trees(
    dataset: Dataset,
    pages: Pages,
    images: np.ndarray,
    dense: dict[str, np.ndarray],
    *,
    start: int,
    end: int | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit on all rows of pages before `start`, score those of [start, end): rows of the
    log (B,) and chances (B,). The pages are cut at both times.

    images: (N, 3, H, W) uint8, 0 where there is none; dense: `statistics` and `match`,
    (I, F) each. One pass over the data: nothing is chosen on the test rows."""
    content = content_features(dataset, pages, images)
    x = np.column_stack([*content.values(), *dense.values()]).astype(np.float32)
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
    documents, queries = compressed_texts(dataset, there)
    past, owner = history(pages, len(dataset.items))  # (pages, N), (I,)
    out = {}
    if not dataset.is_feed:
        out["query text"] = cosine(queries[log.query], documents[log.item])
    out["history text"] = cosine((past @ documents)[owner], documents[log.item])
    shown = images.any(axis=(1, 2, 3))
    if (shown & there).sum() > IMAGE_WIDTH:
        for name, vectors in compressed_images(images, shown, there).items():
            out[f"history {name}"] = cosine((past @ vectors)[owner], vectors[log.item])
    return out


def compressed_texts(
    dataset: Dataset, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """TF-IDF of documents and queries through one SVD, (N, D) and (Q, D); both learnt
    of the documents that are `there` (N,) before the validation period."""
    texts = [
        " ".join(t or "" for t in row)
        for row in zip(*dataset.texts.values(), strict=True)
    ]
    empty = np.zeros((len(dataset.items), 1)), np.zeros((len(dataset.queries), 1))
    vectoriser = TfidfVectorizer(analyzer=split, min_df=LEAST, sublinear_tf=True)
    seen = [text for text, here in zip(texts, there, strict=True) if here]
    try:
        weights = vectoriser.fit_transform(seen)
    except ValueError:  # no words at all
        return empty
    width = min(TEXT_WIDTH, min(weights.shape) - 1)
    if width < 1:
        return empty
    svd = TruncatedSVD(width, random_state=0).fit(weights)
    return tuple(
        svd.transform(vectoriser.transform(part)) for part in (texts, dataset.queries)
    )


def compressed_images(
    images: np.ndarray, shown: np.ndarray, there: np.ndarray
) -> dict[str, np.ndarray]:
    """Mean colours (N, 3) and principal components (N, D) of small pictures, centred by
    the documents that are `there`; 0 where no picture is `shown` (N,)."""
    n, channels, height, width = images.shape
    size = PIXELS if height % PIXELS == 0 and width % PIXELS == 0 else 1
    cells = (n, channels, size, height // size, size, width // size)
    small = images.reshape(cells).mean(axis=(3, 5)).reshape(n, -1) / 255
    colour, seen = images.mean(axis=(2, 3)) / 255, shown & there
    components = min(IMAGE_WIDTH, small.shape[1], int(seen.sum()))
    pca = PCA(components, random_state=0).fit(small[seen])
    parts = {
        "colour": colour - colour[seen].mean(axis=0),
        "picture": pca.transform(small),
    }
    return {name: vectors * shown[:, None] for name, vectors in parts.items()}


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
