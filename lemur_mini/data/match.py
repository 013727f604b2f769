"""Match: how far a query's own words stand in a document, by BM25 and TF-IDF.

What search engines rank by before anything is learnt. Words are exact and lowercase,
and names such as ActionMailer or read_table count whole and by their parts. How rare a
word is, and how long a text usually is, is counted in the documents that were known
before the validation period, so that nothing of later ones is used. One function serves
the log and what comes after it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from scipy import sparse

from lemur_mini.data.loading import Dataset

K1, B = 1.2, 0.75  # BM25's usual constants
WORD = re.compile(r"\w+")
LOWER = r"[^\W\d_A-Z]"  # every letter but A to Z
PART = re.compile(rf"[A-Z]+(?!{LOWER})|[A-Z]?{LOWER}+|\d+")
ALL = "all fields"
CHUNK = 50_000  # pairs at a time, to bound memory
WIDE = 2**62  # columns


def split(text: str) -> list[str]:
    """Words, lowercase, and the parts of words that are made of several."""
    out = []
    for word in WORD.findall(text):
        out.append(word.lower())
        if word.isalpha() and (word.islower() or word.isupper()):
            continue
        parts = PART.findall(word)
        out += [part.lower() for part in parts] if len(parts) > 1 else []
    return out


def joined(texts: dict[str, list[str | None]], documents: int = 0) -> list[str]:
    """All fields of every document as one text, field -> N texts to N; so many empty
    ones where there are no fields."""
    if not texts:
        return [""] * documents
    rows = zip(*texts.values(), strict=True)
    return [" ".join(text or "" for text in row) for row in rows]


@lru_cache(2**16)
def column(word: str) -> int:
    """The column of a word, by a hash: it is the same in every text and in every run,
    nothing is kept, and no vocabulary drops what is new."""
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest()) >> 2


def counted(texts: Iterable[str | None]) -> sparse.csr_array:
    """(N, WIDE) counts of words, float64."""
    columns, ends = [], [0]
    for text in texts:
        columns += map(column, split(text or ""))
        ends.append(len(columns))
    parts = np.ones(len(columns)), np.array(columns, np.int64), np.array(ends)
    rows = sparse.csr_array(parts, shape=(len(ends) - 1, WIDE))
    rows.sum_duplicates()
    return rows


class Field:
    """One field: what its words weigh, and the documents, weighed for BM25 and for the
    TF-IDF cosine, in blocks of rows that are never changed."""

    def __init__(self, seen: sparse.csr_array):
        """seen: counts of the documents that weights come from."""
        self.documents = seen.shape[0]
        self.words, self.having = np.unique(seen.indices, return_counts=True)  # (V,)
        self.length = max(seen.sum() / max(self.documents, 1), 1e-9)
        self.blocks: tuple[tuple[sparse.csr_array, ...], ...] = ()

    def rare(self, columns: np.ndarray, extra: float) -> np.ndarray:
        """Documents per document that has the word, of words by column; `extra` joins
        both counts. Words of no known document are the rarest."""
        place = np.searchsorted(self.words, columns)
        words, having = np.r_[self.words, -1], np.r_[self.having, 0]
        having = np.where(words[place] == columns, having[place], 0)
        if extra == 1:
            return (1 + self.documents) / (1 + having)
        return 1 + (self.documents - having + 0.5) / (having + 0.5)

    def weigh(self, counts: sparse.csr_array) -> tuple[sparse.csr_array, ...]:
        """BM25's weights, and TF-IDF rows of length one. (N, WIDE) each."""
        tf, length = counts.data, counts.sum(axis=1)
        norm = K1 * (1 - B + B * length / self.length)
        each = np.repeat(norm, np.diff(counts.indptr))
        bm25, tfidf = counts.copy(), counts.copy()
        bm25.data = np.log(self.rare(counts.indices, 0.5)) * tf * (K1 + 1) / (tf + each)
        tfidf.data = self.cosine_weights(counts)
        return bm25, tfidf

    def cosine_weights(self, counts: sparse.csr_array) -> np.ndarray:
        """TF-IDF, as scikit-learn weighs it, scaled to rows of length one."""
        weight = counts.data * (np.log(self.rare(counts.indices, 1)) + 1)
        row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        size = np.sqrt(np.bincount(row, weight**2, minlength=counts.shape[0]))
        return weight / size[row]

    def weights(self) -> dict[str, np.ndarray]:
        """What it was learnt of."""
        known = np.array([self.documents, self.length])
        return {"known": known, "words": self.words, "having": self.having}

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, for a file."""
        bm25, tfidf = stacked(self.blocks) if self.blocks else self.weigh(counted([]))
        return self.weights() | {
            "places": bm25.indices,
            "ends": bm25.indptr,
            "bm25": bm25.data,
            "tfidf": tfidf.data,
        }

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> Field:
        """What `arrays` gave."""
        field, ends = cls.__new__(cls), arrays["ends"]
        field.documents, field.length = int(arrays["known"][0]), arrays["known"][1]
        field.words, field.having = arrays["words"], arrays["having"]
        parts = (arrays["places"], ends)
        rows = (
            sparse.csr_array((arrays[name], *parts), shape=(len(ends) - 1, WIDE))
            for name in ("bm25", "tfidf")
        )
        field.blocks = (tuple(rows),)
        return field

    def over(self, counts: sparse.csr_array, *before) -> Field:
        """The same weights over these documents, after those of the blocks `before`.
        A block joins the one before it once it is as large: what is added costs in
        proportion to itself, and there are few blocks."""
        more, blocks = copy.copy(self), [*before, self.weigh(counts)]
        while len(blocks) > 1 and blocks[-2][0].shape[0] <= blocks[-1][0].shape[0]:
            blocks[-2:] = [stacked(blocks[-2:])]
        more.blocks = tuple(blocks)
        return more

    def extended(self, counts: sparse.csr_array) -> Field:
        """A copy with more documents, weighed as those that are there."""
        return self.over(counts, *self.blocks)

    def scores(
        self, counts: sparse.csr_array, query: np.ndarray, item: np.ndarray
    ) -> np.ndarray:
        """BM25 and cosine, (R, 2), of pairs of a row of `counts` (Q, WIDE), the
        queries, and a document."""
        asked, low = counts.copy(), 0
        asked.data = self.cosine_weights(counts)
        out = np.empty((len(query), 2))
        for block in self.blocks:
            high = low + block[0].shape[0]
            mine = np.flatnonzero((low <= item) & (item < high))
            for begin in range(0, len(mine), CHUNK):
                pair = mine[begin : begin + CHUNK]
                pairs = zip((counts, asked), block, strict=True)
                for place, (left, right) in enumerate(pairs):
                    product = left[query[pair]].multiply(right[item[pair] - low])
                    out[pair, place] = product.sum(axis=1)
            low = high
        return out


def stacked(blocks) -> tuple[sparse.csr_array, ...]:
    """Blocks as one."""
    pairs = zip(*blocks, strict=True)
    return tuple(sparse.vstack(rows, format="csr") for rows in pairs)


class Match:
    """The group `match` of a catalogue: for a pair of query and document, BM25 and
    TF-IDF cosine with each text field, then with all fields as one text."""

    def __init__(self, texts: dict[str, list[str | None]], known: np.ndarray):
        """texts: field -> N texts; known: (N,) bool, which weights are of."""
        counts = _count(texts)
        self.fields = {n: Field(rows[known]).over(rows) for n, rows in counts.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(f"{kind} {n}" for n in self.fields for kind in ("bm25", "cosine"))

    def extended(
        self, texts: dict[str, list[str | None]], images: np.ndarray | None = None
    ) -> Match:
        """A copy with more documents at the end of the catalogue; their pictures say
        nothing of a query."""
        counts = _count(texts)
        return self._with({n: f.extended(counts[n]) for n, f in self.fields.items()})

    def over(self, texts: dict[str, list[str | None]]) -> Match:
        """The same weights over these documents alone."""
        counts = _count(texts)
        return self._with({n: f.over(counts[n]) for n, f in self.fields.items()})

    def _with(self, fields: dict[str, Field]) -> Match:
        more = copy.copy(self)
        more.fields = fields
        return more

    def weights(self) -> dict[str, np.ndarray]:
        """What was learnt, without the documents: field and part -> array."""
        return _flat({name: field.weights() for name, field in self.fields.items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, for a file: field and part -> array."""
        return _flat({name: field.arrays() for name, field in self.fields.items()})

    @classmethod
    def of_arrays(cls, names: list[str], arrays: dict[str, np.ndarray]) -> Match:
        """What `arrays` gave, and names of the fields in order."""
        scorer, fields = cls.__new__(cls), {name: {} for name in (*names, ALL) if names}
        for key, values in arrays.items():
            name, _, part = key.rpartition("/")
            fields[name][part] = values
        scorer.fields = {n: Field.of_arrays(some) for n, some in fields.items()}
        return scorer

    def __call__(
        self, queries: list[str], query: np.ndarray, item: np.ndarray
    ) -> np.ndarray:
        """(R, F) float32 of pairs: rows (R,) of these query texts, and of documents."""
        counts = counted(queries)
        pair, place = np.unique(np.stack([query, item]), axis=1, return_inverse=True)
        scores = [field.scores(counts, *pair) for field in self.fields.values()]
        scores.append(np.empty((pair.shape[1], 0)))  # where there are no fields
        return np.concatenate(scores, axis=1).astype(np.float32)[place]


def _flat(parts: dict[str, dict]) -> dict[str, np.ndarray]:
    return {f"{n}/{k}": a for n, some in parts.items() for k, a in some.items()}


def _count(texts: dict[str, list[str | None]]) -> dict[str, sparse.csr_array]:
    counts = {name: counted(values) for name, values in texts.items()}
    return counts | ({ALL: counted(joined(texts))} if texts else {})


def known(dataset: Dataset) -> np.ndarray:
    """(N,) whether a document was there before the validation period: shown in the log
    by then, or created by then."""
    log, start = dataset.log, dataset.valid_start
    there = np.zeros(len(dataset.items), bool)
    there[log.item[log.timestamp < start]] = True
    return there if dataset.created is None else there | (dataset.created < start)


def match(dataset: Dataset, learnt: object = None) -> tuple[Match, np.ndarray]:
    """The scorer of a catalogue, and its numbers (I, F) for all impressions. learnt:
    another, by whose weights, if it is one of these fields."""
    names, log = [*dataset.texts, *([ALL] if dataset.texts else [])], dataset.log
    if isinstance(learnt, Match) and list(learnt.fields) == names:
        scorer = learnt.over(dataset.texts)
    else:
        scorer = Match(dataset.texts, known(dataset))
    return scorer, scorer(dataset.queries, log.query, log.item)
