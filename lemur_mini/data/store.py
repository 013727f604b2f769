"""Features that are made when a document is first met, and kept off the device."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lemur_mini.config import Config
from lemur_mini.data.catalogue import Catalogue
from lemur_mini.data.errors import DataError
from lemur_mini.data.features import (
    encode_queries,
    field_limit,
    in_order,
    make_features,
    query_limit,
)
from lemur_mini.data.fingerprint import content_of
from lemur_mini.data.pages import moved

DOCUMENTS = ("tokens", "types", "positions", "length", "images", "has_image")
NOWHERE = -1


class Cache:
    """The newest rows that were asked for: `slots` records in a file that is mapped.

    make(rows): what a record holds of each, arrays (B, ...) by name. The file has no
    name and goes with the process; what is not kept is made again."""

    def __init__(self, record: np.dtype, slots: int, make: Callable):
        self.slots, self.make, self.next, self.made = slots, make, 0, 0
        with tempfile.TemporaryFile() as file:
            self.table = np.memmap(file, record, "w+", shape=(slots,))
        self.row = np.full(slots, NOWHERE)  # that a slot holds
        self.slot = np.zeros(0, np.int64)  # that a row is in

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Slots of rows (B,), which are filled where they are not there yet."""
        distinct = np.unique(rows)
        if len(distinct) > self.slots:
            raise ValueError(f"{len(distinct)} rows at once, {self.slots} are kept")
        if len(distinct) and distinct[-1] >= len(self.slot):
            more = max(1024, 2 * int(distinct[-1])) - len(self.slot)
            self.slot = np.pad(self.slot, (0, more), constant_values=NOWHERE)
        new = distinct[self.slot[distinct] == NOWHERE]
        if len(new):
            made, free = self.make(new), self._free(distinct, len(new))
            for name, values in made.items():
                self.table[name][free] = values
            gone = self.row[free]
            self.slot[gone[gone >= 0]] = NOWHERE
            self.row[free], self.slot[new] = new, free
            self.made += len(new)
        return self.slot[rows]

    def _free(self, asked: np.ndarray, count: int) -> np.ndarray:
        """The slots that were filled longest ago and are not asked for now."""
        busy = np.zeros(self.slots, bool)
        held = self.slot[asked]
        busy[held[held >= 0]] = True
        order = (self.next + np.arange(self.slots)) % self.slots
        free = order[~busy[order]][:count]
        self.next = (int(free[-1]) + 1) % self.slots
        return free


class Column:
    """One feature of all rows: takes an index as a tensor (N, ...) does, with rows of
    documents (or queries) first, and gives a tensor on the device."""

    def __init__(self, cache: Cache, name: str, device: torch.device):
        self.cache, self.name, self.device = cache, name, device

    def __getitem__(self, index) -> Tensor:
        rows, *rest = index if isinstance(index, tuple) else (index,)
        places = self.cache.places(rows.cpu().numpy())
        values = torch.from_numpy(self.cache.table[self.name][places])
        return moved(values[(slice(None), *rest)], self.device)


class Store:
    """The `Features` of a catalogue and of the queries that a stream has named so far,
    of which `slots` documents and queries are kept. `content` (N, 2): sums as in a
    Fingerprint, 0 of what was never made. Raises DataError where a document is not what
    it was when its sum was taken."""

    def __init__(
        self,
        catalogue: Catalogue,
        queries: list[str],
        config: Config,
        tokenizer,
        device: torch.device,
        slots: int,
    ):
        self.catalogue, self.queries = catalogue, queries
        self.config, self.tokenizer = config, tokenizer
        self.content = np.zeros((len(catalogue), 2), np.uint32)
        documents = Cache(self._record(), slots, self._documents)
        width = 1 + query_limit(config)
        kind = np.dtype([("query_tokens", "i4", (width,)), ("query_length", "i8")])
        words = Cache(kind, slots, self._queries)
        for cache in (documents, words):
            for name in cache.table.dtype.names:
                setattr(self, name, Column(cache, name, device))

    def _record(self) -> np.dtype:
        """Of one document; a text is as long as its fields may be."""
        fields = self.catalogue.fields
        width = 1 + sum(field_limit(self.config, name) + 1 for name in fields)
        pixels, size = self.config.image_size, (max(width, 2),)
        kinds = ("i4", size), ("u1", size), ("i2", size)
        kinds += ("i8", ()), ("u1", (3, pixels, pixels)), ("?", ())
        named = zip(DOCUMENTS, kinds, strict=True)
        return np.dtype([(name, *kind) for name, kind in named])

    def _documents(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        out = {n: np.zeros((len(rows), *s), k) for n, k, s in _parts(self._record())}
        for mine, dataset in self.catalogue.documents(rows):
            made = make_features(dataset, self.config, self.tokenizer)
            self._check(rows[mine], content_of(dataset, made))
            for name in DOCUMENTS:
                values = getattr(made, name).numpy()
                if values.ndim == 2:
                    out[name][mine, : values.shape[1]] = values
                else:
                    out[name][mine] = values
        return out

    def _check(self, rows: np.ndarray, content: np.ndarray) -> None:
        known = self.content[rows].any(axis=1)
        other = known & (self.content[rows] != content).any(axis=1)
        if other.any():
            item = self.catalogue.ids[rows[np.flatnonzero(other)[0]]]
            problem = f"item {item} has another text or picture than before"
            raise DataError(f"{problem}; give what is new an item_id of its own")
        self.content[rows] = content

    def _queries(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        texts = [self.queries[row] for row in rows]
        limit = query_limit(self.config)
        tokens, length = encode_queries(self.tokenizer, texts, limit)
        out = np.full((len(rows), 1 + limit), self.tokenizer.pad_token_id, np.int32)
        out[:, : tokens.shape[1]] = tokens.numpy()
        return {"query_tokens": out, "query_length": length.numpy()}

    @property
    def names(self) -> list[str]:
        """Of the text fields, in the order in which a document is made of them."""
        return in_order(self.catalogue.fields, self.config)


def _parts(record: np.dtype) -> list[tuple]:
    """Name, type and shape of every field."""
    kinds = [(name, record[name]) for name in record.names]
    return [(name, kind.base, kind.shape) for name, kind in kinds]
