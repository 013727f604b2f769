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

import numpy as np
from scipy import sparse

from lemur_mini.data.loading import Dataset

K1, B = 1.2, 0.75  # BM25's usual constants
WORD = re.compile(r"\w+")
LOWER = r"[^\W\d_A-Z]"  # every letter but A to Z
PART = re.compile(rf"[A-Z]+(?!{LOWER})|[A-Z]?{LOWER}+|\d+")
ALL = "all fields"
CHUNK = 50_000  # pairs at a time, to bound memory


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


class Words:
    """Texts to rows of word counts. A word that is new gets a column of its own, so
    that it matches in documents that come later (a fixed vocabulary would drop it)."""

    def __init__(self):
        self.columns: dict[str, int] = {}

    def __call__(
        self, texts: Iterable[str | None], width: int | None = None
    ) -> sparse.csr_array:
        """(N, words so far) counts, float64. With the width of a catalogue: words that
        it does not hold get columns behind it, for this call alone, so that queries
        leave nothing behind."""
        columns, ends, passing = [], [0], dict[str, int]()
        for text in texts:
            for word in split(text or ""):
                columns.append(self._column(word, width, passing))
            ends.append(len(columns))
        most = len(self.columns) if width is None else width + len(passing)
        shape = len(ends) - 1, most
        rows = sparse.csr_array((np.ones(len(columns)), columns, ends), shape=shape)
        rows.sum_duplicates()
        return rows

    def _column(self, word: str, width: int | None, passing: dict[str, int]) -> int:
        if width is None:
            return self.columns.setdefault(word, len(self.columns))
        known = self.columns.get(word, width)  # beyond: of a catalogue that grew since
        known = width + len(passing) if known >= width else known
        return known if known < width else passing.setdefault(word, known)


class Field:
    """The documents of one field, weighed for BM25 and for the TF-IDF cosine."""

    def __init__(self, counts: sparse.csr_array, known: np.ndarray):
        """counts: (N, V); known: (N,) bool, the documents that weights come from."""
        seen = counts[known]
        self.documents = seen.shape[0]
        self.having = np.bincount(seen.indices, minlength=counts.shape[1])  # (V,)
        self.length = max(seen.sum() / max(self.documents, 1), 1e-9)
        self.bm25, self.tfidf = self.weigh(counts)

    def rare(self, columns: np.ndarray, extra: float) -> np.ndarray:
        """Documents per document that has the word, of words by column; `extra` joins
        both counts. Words of no known document are the rarest."""
        having = np.r_[self.having, 0][np.minimum(columns, len(self.having))]
        if extra == 1:
            return (1 + self.documents) / (1 + having)
        return 1 + (self.documents - having + 0.5) / (having + 0.5)

    def weigh(self, counts: sparse.csr_array) -> tuple[sparse.csr_array, ...]:
        """BM25's weights, and TF-IDF rows of length one. (N, V) each."""
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

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, for a file."""
        rows = self.bm25
        return {
            "known": np.array([self.documents, self.length]),
            "having": self.having,
            "places": rows.indices,
            "ends": rows.indptr,
            "width": np.array(rows.shape),
            "bm25": rows.data,
            "tfidf": self.tfidf.data,
        }

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> Field:
        """What `arrays` gave."""
        field = cls.__new__(cls)
        field.documents, field.length = int(arrays["known"][0]), arrays["known"][1]
        field.having = arrays["having"]
        shape = tuple(arrays["width"].tolist())
        for name in ("bm25", "tfidf"):
            parts = (arrays[name], arrays["places"], arrays["ends"])
            setattr(field, name, sparse.csr_array(parts, shape=shape))
        return field

    def extended(self, counts: sparse.csr_array) -> Field:
        """A copy with more documents, weighed as those that are there."""
        more = copy.copy(self)
        for name, rows in zip(("bm25", "tfidf"), self.weigh(counts), strict=True):
            old = _widen(getattr(self, name), rows)
            setattr(more, name, sparse.vstack([old, rows], format="csr"))
        return more

    def scores(
        self, counts: sparse.csr_array, query: np.ndarray, item: np.ndarray
    ) -> np.ndarray:
        """BM25 and cosine, (R, 2), of pairs of a row of `counts` (Q, V), the queries,
        and a document."""
        asked = counts.copy()
        asked.data = self.cosine_weights(counts)
        out = np.empty((len(query), 2))
        pairs = ((counts, self.bm25), (asked, self.tfidf))
        for column, (left, right) in enumerate(pairs):
            for low in range(0, len(query), CHUNK):
                part = slice(low, low + CHUNK)
                rows = _widen(right[item[part]], counts)
                product = left[query[part]].multiply(rows)
                out[part, column] = product.sum(axis=1)
        return out


def _widen(rows: sparse.csr_array, like: sparse.csr_array) -> sparse.csr_array:
    wide = rows.copy()
    wide.resize(rows.shape[0], like.shape[1])
    return wide


class Match:
    """The group `match` of a catalogue: for a pair of query and document, BM25 and
    TF-IDF cosine with each text field, then with all fields as one text."""

    def __init__(self, texts: dict[str, list[str | None]], known: np.ndarray):
        """texts: field -> N texts; known: (N,) bool, which weights are of."""
        self.words = Words()
        counts = self._count(texts)
        width = len(self.words.columns)
        for rows in counts.values():
            rows.resize(rows.shape[0], width)
        self.fields = {name: Field(rows, known) for name, rows in counts.items()}
        self.width = width  # words of the catalogue

    def _count(self, texts: dict[str, list[str | None]]) -> dict:
        counts = {name: self.words(values) for name, values in texts.items()}
        return counts | ({ALL: self.words(joined(texts))} if texts else {})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(f"{kind} {n}" for n in self.fields for kind in ("bm25", "cosine"))

    @property
    def vocabulary(self) -> list[str]:
        """Words, in the order that `arrays` has."""
        return list(self.words.columns)[: self.width]

    def extended(
        self, texts: dict[str, list[str | None]], images: np.ndarray | None = None
    ) -> Match:
        """A copy with more documents at the end of the catalogue; their pictures say
        nothing of a query."""
        more, counts = copy.copy(self), self._count(texts)
        more.width = len(self.words.columns)
        for rows in counts.values():
            rows.resize(rows.shape[0], more.width)
        more.fields = {n: self.fields[n].extended(rows) for n, rows in counts.items()}
        return more

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it but the words, for a file: field and part -> array."""
        parts = {name: field.arrays() for name, field in self.fields.items()}
        return {f"{n}/{k}": a for n, some in parts.items() for k, a in some.items()}

    @classmethod
    def of_arrays(
        cls, words: list[str], names: list[str], arrays: dict[str, np.ndarray]
    ) -> Match:
        """What `arrays` gave, and words and names of fields in order."""
        scorer, fields = cls.__new__(cls), {name: {} for name in (*names, ALL) if names}
        scorer.words, scorer.width = Words(), len(words)
        scorer.words.columns = {word: place for place, word in enumerate(words)}
        for key, values in arrays.items():
            name, _, part = key.rpartition("/")
            fields[name][part] = values
        scorer.fields = {n: Field.of_arrays(some) for n, some in fields.items()}
        return scorer

    def __call__(
        self, queries: list[str], query: np.ndarray, item: np.ndarray
    ) -> np.ndarray:
        """(R, F) float32 of pairs: rows (R,) of these query texts, and of documents."""
        counts = self.words(queries, self.width)
        pair, place = np.unique(np.stack([query, item]), axis=1, return_inverse=True)
        scores = [field.scores(counts, *pair) for field in self.fields.values()]
        scores.append(np.empty((pair.shape[1], 0)))  # where there are no fields
        return np.concatenate(scores, axis=1).astype(np.float32)[place]


def known(dataset: Dataset) -> np.ndarray:
    """(N,) whether a document was there before the validation period: shown in the log
    by then, or created by then."""
    log, start = dataset.log, dataset.valid_start
    there = np.zeros(len(dataset.items), bool)
    there[log.item[log.timestamp < start]] = True
    return there if dataset.created is None else there | (dataset.created < start)


def match(dataset: Dataset) -> tuple[Match, np.ndarray]:
    """The scorer of a catalogue, and its numbers (I, F) for all impressions."""
    scorer, log = Match(dataset.texts, known(dataset)), dataset.log
    return scorer, scorer(dataset.queries, log.query, log.item)
