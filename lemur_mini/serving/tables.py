"""A catalogue that grows while others read: tables with room, and models over them."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor, nn

from lemur_mini.model import Lemur


class Table:
    """Rows (N, ...) with room for more, in amortised time. What `rows` gave never
    changes: new rows lie behind it, and a full table moves to a larger room."""

    def __init__(self, rows: Tensor):
        self._room, self.count = rows, len(rows)

    @property
    def rows(self) -> Tensor:
        """All rows that there are now."""
        return self._room[: self.count]

    def add(self, new: Tensor) -> None:
        """Put these rows (M, ...) behind the others."""
        end = self.count + len(new)
        if end > len(self._room):
            room = new.new_empty((max(end, 2 * self.count), *new.shape[1:]))
            room[: self.count] = self.rows
            self._room = room
        self._room[self.count : end] = new
        self.count = end


class Shelf:
    """A model and the tables of its catalogue. Who has read `model` has a whole one,
    old or new, whatever is added or refreshed meanwhile: nothing that it reads is
    written again, and the attribute is set in one step. One thread writes."""

    def __init__(self, model: Lemur):
        self.model = model
        self.model.generation = 0  # of vectors: the same one, the same rows so far
        self._tables: dict[str, Table] = {}

    @torch.no_grad()
    def add(self, count: int, vectors: Tensor | None, step: int) -> None:
        """So many more documents. vectors: (count, D), None for a model of ids alone.
        Their id embedding is that of the unknown, row 0."""
        tables = self._tables or self._open()
        item = tables["item"].rows
        tables["item"].add(item[:1].expand(count, -1))
        if vectors is not None:
            tables["vectors"].add(vectors.to(tables["vectors"].rows.dtype))
            written = tables["written"].rows
            tables["written"].add(written.new_full((count,), step))
        self._tables = tables
        self._show()

    @torch.no_grad()
    def refresh(self, rows: Tensor, vectors: Tensor, step: int) -> None:
        """Other vectors (M, D) for these rows (M,), all at once: in a copy."""
        tables = dict(self._tables or self._open())
        for name, value in (("vectors", vectors), ("written", step)):
            copied = tables[name].rows.clone()
            copied[rows] = value
            tables[name] = Table(copied)
        self._tables = tables
        self._show(self.model.generation + 1)

    def _open(self) -> dict[str, Table]:
        tables = {"item": Table(self.model.ids["item"].weight.detach())}
        if self.model.config.has_content:
            bank = self.model.bank
            tables |= {"vectors": Table(bank.vectors), "written": Table(bank.written)}
        return tables

    def _show(self, generation: int | None = None) -> None:
        rows = {name: table.rows for name, table in self._tables.items()}
        model = over(self.model, **rows)
        model.generation = self.model.generation if generation is None else generation
        self.model = model


def over(
    model: Lemur,
    item: Tensor,
    vectors: Tensor | None = None,
    written: Tensor | None = None,
) -> Lemur:
    """The same model over another catalogue; it shares all that is not given here.
    item: (N + 1, E) id embeddings; vectors: (N, D) and written: (N,) of the bank."""
    new, ids = copy.copy(model), nn.ModuleDict(dict(model.ids.items()))
    ids["item"] = nn.Embedding.from_pretrained(item)
    parts = {"ids": ids}
    if vectors is not None:
        parts["bank"] = bank = copy.copy(model.bank)
        bank.__dict__["_buffers"] = {"vectors": vectors, "written": written}
    new.__dict__["_modules"] = dict(model._modules) | parts
    new.sizes = dataclasses.replace(model.sizes, documents=len(item) - 1)
    return new.eval()
