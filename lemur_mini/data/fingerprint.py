"""What a data set is, in ids and a few sums: a checkpoint names what it is of."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field, replace

import numpy as np

from lemur_mini.data.features import Features
from lemur_mini.data.loading import Dataset, checksum
from lemur_mini.data.pictures import read_picture

NAMES = ("users", "items", "queries")
READ = (
    "tokenizer",
    "fields",
    "image_size",
    "kind",
    "context_scales",
)  # what every vector follows from
TEXT, PICTURE = 0, 1


class Mismatch(ValueError):
    """Two data sets that do not belong together; the message says in what."""


@dataclass(frozen=True)
class Fingerprint:
    """One data set as models read it.

    parts: sums (or plain words) of its log, texts, pictures, ids, tokenizer and so on;
    two data sets with the same parts train the same model. `names`: the ids of all rows
    of users and items, and the texts of queries. `content`: (N, 2) uint32, sums of the
    tokens and of the picture of every item, so that an item is known by id and content
    wherever it stands."""

    parts: dict[str, str]
    names: dict[str, list] = field(default_factory=lambda: {n: [] for n in NAMES})
    content: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.uint32))

    def reading(self, dense: dict[str, np.ndarray]) -> Fingerprint:
        """The same data with dense features (I, F) of its impressions, by name: a sum
        of them joins the parts, for a training that reads others does not go on."""
        more = {name: _sum(values.tobytes()) for name, values in dense.items()}
        return replace(self, parts=self.parts | more)

    def rows_of(self, other: Fingerprint) -> dict[str, np.ndarray]:
        """Where the users, items and queries of `other` stand in this one: rows, -1 for
        what this one does not know. Raises Mismatch where the two are read differently,
        share no user or no item, or an item of both is not the same thing."""
        for part in READ:
            here, there = self.parts.get(part), other.parts.get(part)
            if here != there:
                remedy = "use the data and settings it was trained on, or train again"
                if part == "tokenizer":
                    remedy = "put the tokenizer.json of its run beside the data"
                raise Mismatch(f"trained with {part} {here} (now {there}); {remedy}")
        rows = {n: _places(self.names[n], other.names[n], n) for n in NAMES}
        self._check_content(other, rows["items"])
        return rows

    def _check_content(self, other: Fingerprint, rows: np.ndarray) -> None:
        known = np.flatnonzero(rows >= 0)
        mine, theirs = self.content[rows[known]], other.content[known]  # (known, 2)
        taken = mine.any(axis=1) & theirs.any(axis=1)  # 0: a stream has not met it
        changed = (mine != theirs) & taken[:, None]
        if not changed.any():
            return
        first = int(np.flatnonzero(changed.any(axis=1))[0])
        item = other.names["items"][known[first]]
        what = "text" if changed[first, TEXT] else "picture"
        raise Mismatch(
            f"trained with another {what} of item {item} ({changed.any(axis=1).sum()} "
            "such items); use the data it was trained on, give what is new an item_id "
            "of its own, or train again"
        )


def _places(known: list, asked: list, what: str) -> np.ndarray:
    row = {name: place for place, name in enumerate(known)}
    found = np.array([row.get(name, -1) for name in asked], np.int64)
    if what != "queries" and not (found >= 0).any():
        kinds = {type(name).__name__ for name in (*known[:1], *asked[:1])}
        types = f" (ids of types {', '.join(sorted(kinds))})" if len(kinds) > 1 else ""
        raise Mismatch(
            f"trained on none of these {len(asked)} {what}{types}; use the data it was "
            "trained on, or train again"
        )
    return found


def fingerprint(dataset: Dataset, features: Features, tokenizer, names) -> Fingerprint:
    """Of a data set and the features that were made of it, on the CPU. names: of its
    text fields, in order (see `order_fields`)."""
    log, content = dataset.log, content_of(dataset, features)
    arrays = (log.user, log.qid, log.query, log.item, log.timestamp, log.label)
    exact = (np.asarray(a, None if a.dtype == np.float64 else np.int64) for a in arrays)
    ids = {"users": dataset.users.tolist(), "items": dataset.items.tolist()}
    ids["queries"] = dataset.queries
    parts = {
        "data": checksum(dataset),
        "log": _sum(*(values.tobytes() for values in exact)),
        "texts": _sum(content[:, TEXT].tobytes()),
        "pictures": _sum(content[:, PICTURE].tobytes()),
        **{name: _sum(json.dumps(values).encode()) for name, values in ids.items()},
    }
    size = features.images.shape[-1]
    parts |= read_as(tokenizer, names, size, dataset.is_feed)
    return Fingerprint(parts, ids, content)


def read_as(tokenizer, names, image_size: int, feed: bool) -> dict[str, str]:
    """The parts of a fingerprint that say how data is read, whatever it holds."""
    words = sorted(tokenizer.get_vocab().items())
    return {
        "tokenizer": _sum(json.dumps(words).encode()),
        "fields": " ".join(names) or "none",
        "image_size": str(image_size),
        "kind": "feed" if feed else "search",
    }


def _sum(*pieces: bytes) -> str:
    value = 0
    for piece in pieces:
        value = zlib.crc32(piece, value)
    return f"{value:08x}"


def content_of(dataset: Dataset, features: Features) -> np.ndarray:
    """(N, 2): sums of tokens and types, and of the picture's file, 0 for none."""
    out = np.zeros((len(dataset.items), 2), np.uint32)
    tokens, types = features.tokens.numpy(), features.types.numpy()
    lengths, shown = features.length.tolist(), features.has_image.tolist()
    for row, (length, image) in enumerate(zip(lengths, dataset.images, strict=True)):
        value = zlib.crc32(types[row, :length].tobytes())
        out[row, TEXT] = zlib.crc32(tokens[row, :length].tobytes(), value)
        if shown[row]:
            out[row, PICTURE] = zlib.crc32(read_picture(image, dataset.folder))
    return out
