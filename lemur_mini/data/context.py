"""Users' and context columns of a log as one group of features: numbers and words.

Numbers are standardised, and words get rows, by the training period alone: what comes
later changes nothing. # our choice: a number whose largest values are far above its
middle is read as its logarithm; a word seen once is no word."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass

import numpy as np

from lemur_mini.config import FARTHEST
from lemur_mini.data.loading import Dataset

HEAVY = 20.0  # times the middle, where the largest hundredth begins: a heavy tail
LEAST = 2  # times that the training period shows a word that gets a row


@dataclass(frozen=True)
class Number:
    """How a number is read: its mean and deviation in the training period."""

    name: str
    log: bool
    mean: float
    deviation: float

    @classmethod
    def of(cls, name: str, values: np.ndarray) -> Number:
        """... from the values (T,) of the training period."""
        known = values[np.isfinite(values)]
        if not known.size:
            return cls(name, False, 0.0, 1.0)
        large, middle = np.quantile(np.abs(known), (0.99, 0.5))
        log = bool(large > HEAVY * middle and large > HEAVY)
        known = logarithm(known) if log else known
        return cls(name, log, float(known.mean()), float(known.std()) or 1.0)

    def read(self, values: np.ndarray) -> np.ndarray:
        """(I, 2): the standardised number, 0 where it is missing, and whether it is."""
        missing = ~np.isfinite(values)
        known = np.where(missing, 0.0, values)
        known = logarithm(known) if self.log else known
        scaled = (known - self.mean) / self.deviation
        scaled = np.where(missing, 0.0, scaled.clip(-FARTHEST, FARTHEST))
        return np.stack([scaled, missing], axis=1)


def logarithm(values: np.ndarray) -> np.ndarray:
    """log(1 + |x|) with the sign of x."""
    return np.sign(values) * np.log1p(np.abs(values))


@dataclass(frozen=True)
class Words:
    """How a column of words is read: rows from 1 on for those of the training period;
    row 0 is for all others, and for none."""

    name: str
    words: tuple[str, ...]

    @classmethod
    def of(cls, name: str, values: np.ndarray) -> Words:
        """... from the values (T,) of the training period."""
        found = Counter(word for word in values.tolist() if word)
        return cls(name, tuple(sorted(w for w, n in found.items() if n >= LEAST)))

    def read(self, values: np.ndarray) -> np.ndarray:
        """(I, 1) rows."""
        row = {word: k for k, word in enumerate(self.words, start=1)}
        return np.array([[row.get(word, 0)] for word in values.tolist()], np.float64)


@dataclass(frozen=True)
class Context:
    """The columns of a data set and how each is read."""

    numbers: tuple[Number, ...]
    words: tuple[Words, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> Context:
        """... by its training period: before valid_start, or before test_start where
        nothing is earlier."""
        time = dataset.log.timestamp
        early = time < dataset.valid_start
        early = early if early.any() else time < dataset.test_start
        columns = {name: values[early] for name, values in dataset.context.items()}
        return cls(
            tuple(Number.of(n, v) for n, v in columns.items() if v.dtype != object),
            tuple(Words.of(n, v) for n, v in columns.items() if v.dtype == object),
        )

    @property
    def kinds(self) -> tuple[int, ...]:
        """Rows of the table of each column of words."""
        return tuple(len(column.words) + 1 for column in self.words)

    @property
    def checksum(self) -> str:
        """Of all that a model's rows and numbers follow from."""
        return f"{zlib.crc32(repr(self).encode()):08x}"

    def read(self, dataset: Dataset) -> np.ndarray:
        """Of every impression, (I, F) float32: two of each number, then the rows of
        words."""
        parts = [
            column.read(dataset.context[column.name])
            for column in (*self.numbers, *self.words)
        ]
        return np.concatenate(parts, axis=1).astype(np.float32)
