"""Retrieval over the bank: the nearest documents of a vector, by FAISS or by numpy."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from threading import Lock, Thread

import numpy as np
import torch
import torch.nn.functional as F

from lemur_mini.memory_bank import NEVER
from lemur_mini.model import Lemur

EXACT = 100_000  # documents up to which every vector is compared
LINKS, BUILD, LOOK = 32, 100, 256  # of HNSW: M, efConstruction, efSearch
TAIL = 4096  # new documents that are compared one by one before an index takes them


@dataclass(frozen=True)
class Index:
    """Rows (M,) of a bank and their vectors of length one; `engine` has a search of
    FAISS's form. `size`: rows of the bank when it was made."""

    rows: np.ndarray
    engine: object
    size: int
    generation: int

    def search(self, vector: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest rows and their cosines, best first."""
        if not len(self.rows):
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        count = min(count, len(self.rows))
        cosine, place = self.engine.search(vector[None], count)
        found = place[0] >= 0
        return self.rows[place[0][found]], cosine[0][found]


class Brute:
    """Every vector compared, in numpy, with the interface of a FAISS index."""

    def __init__(self, vectors: np.ndarray):
        self.vectors = vectors

    def search(self, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and places (Q, count) of the nearest, best first."""
        cosine = query @ self.vectors.T
        best = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        order = np.take_along_axis(-cosine, best, 1).argsort(axis=1, kind="stable")
        best = np.take_along_axis(best, order, 1)
        return np.take_along_axis(cosine, best, 1), best


def engine_of(vectors: np.ndarray, exact: int = EXACT, faiss: bool | None = None):
    """What searches these vectors (M, D) of length one: FAISS where it is installed,
    exact up to so many, a graph (HNSW) beyond; else numpy, always exact."""
    if not (find_spec("faiss") if faiss is None else faiss):
        return Brute(vectors)
    import faiss as library

    width = vectors.shape[1]
    if len(vectors) <= exact:
        index = library.IndexFlatIP(width)
    else:
        metric = library.METRIC_INNER_PRODUCT
        index = library.IndexHNSWFlat(width, LINKS, metric)
        index.hnsw.efConstruction, index.hnsw.efSearch = BUILD, LOOK
    index.add(vectors)
    return index


class Nearest:
    """An index that follows a bank that grows and is refreshed. Documents that it lacks
    yet are compared one by one, so that none is missed; it is built anew, in the
    background where that takes long, when they are many or all vectors changed."""

    def __init__(self, exact: int = EXACT, faiss: bool | None = None):
        self.exact, self.faiss = exact, faiss
        self._index: Index | None = None
        self._building = Lock()

    def search(
        self, model: Lemur, vector: torch.Tensor, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a model's bank that are nearest to (D,), and cosines, best first:
        `count`, or fewer where it holds fewer."""
        index = self._of(model)
        query = F.normalize(vector, dim=-1).cpu().numpy()
        rows, cosine = index.search(query, count)
        size = model.sizes.documents
        if index.generation == model.generation and size > index.size:
            tail, vectors = _written(model, index.size)
            rows = np.append(rows, tail)
            cosine = np.append(cosine, vectors @ query)
        best = np.argsort(-cosine, kind="stable")
        best = best[rows[best] < size][:count]
        return rows[best], cosine[best]

    def _of(self, model: Lemur) -> Index:
        index = self._index
        if index is None:
            return self._build(model)
        fresh = index.generation == model.generation
        more = model.sizes.documents - index.size
        if fresh and more <= max(TAIL, index.size // 8):
            return index
        if model.sizes.documents <= self.exact:
            return self._build(model)
        if self._building.acquire(blocking=False):  # until then, the old one
            self._building.release()
            Thread(target=self._build, args=(model,), daemon=True).start()
        return index

    def _build(self, model: Lemur) -> Index:
        with self._building:
            index, size = self._index, model.sizes.documents
            now = (model.generation, size)
            if index is None or (index.generation, index.size) < now:
                rows, vectors = _written(model, 0)
                engine = engine_of(vectors, self.exact, self.faiss)
                index = self._index = Index(rows, engine, size, model.generation)
            return index


def _written(model: Lemur, begin: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows from `begin` on that the bank holds, and their vectors of length one."""
    bank = model.bank
    rows = torch.nonzero(bank.written[begin:] > NEVER).squeeze(1) + begin
    vectors = F.normalize(bank.vectors[rows], dim=-1).cpu().numpy()
    return rows.cpu().numpy(), np.ascontiguousarray(vectors, np.float32)
