"""A catalogue that is larger than memory: documents as they came, by row, on disk."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from lemur_mini.data.errors import DataError, Origin, fail
from lemur_mini.data.folders import read_about
from lemur_mini.data.loading import Dataset, catalogue_alone, images_of
from lemur_mini.data.rates import NEVER
from lemur_mini.data.schema import ITEMS, item_columns, read_items, text_fields
from lemur_mini.data.sources import places, rows_of
from lemur_mini.data.statistics import births
from lemur_mini.data.times import seconds

BLOCK = 1024  # documents that are read at once
NOWHERE = -1


@dataclass
class Shelf:
    """The documents of one source, in an Arrow file that is mapped, not read."""

    ids: np.ndarray
    table: pa.Table
    folder: Path | None  # that paths of pictures count from
    fields: list[str]


@dataclass
class Catalogue:
    """Documents of several sources; each has one row for good, in order of arrival.

    ids: (N,), by row; shelf, place: (N,) where the content of a row lies, NOWHERE where
    no source that is at hand holds it."""

    ids: list = field(default_factory=list)
    shelves: list[Shelf] = field(default_factory=list)
    shelf: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    place: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def fields(self) -> list[str]:
        """Names of the text fields."""
        return self.shelves[0].fields if self.shelves else []

    def add(self, source, folder: Path | None = None) -> None:
        """Documents of a source (see `rows_of`): new ones get rows behind all others,
        known ones keep theirs. Raises DataError, with nothing added."""
        shelf = _shelve(source, folder)
        if self.shelves and sorted(shelf.fields) != sorted(self.fields):
            now, before = (" ".join(sorted(f)) for f in (shelf.fields, self.fields))
            problem = f"text fields are {now or 'none'}, before {before or 'none'}"
            raise DataError(f"{ITEMS}: {problem}; give every document the same columns")
        row = {name: number for number, name in enumerate(self.ids)}
        if self.ids and isinstance(self.ids[0], str) != isinstance(shelf.ids[0], str):
            problem = "texts and numbers are ids of one catalogue"
            fail(ITEMS, "item_id", None, problem, "write all parts in one type")
        new = [name for name in shelf.ids if name not in row]
        row |= {name: number for number, name in enumerate(new, start=len(self.ids))}
        self.know(new)
        rows = np.array([row[name] for name in shelf.ids], np.int64)
        self.shelf[rows], self.place[rows] = len(self.shelves), np.arange(len(rows))
        self.shelves.append(shelf)

    def know(self, ids: list) -> None:
        """Rows for ids whose content may come later."""
        self.ids = [*self.ids, *ids]
        more = (0, len(self.ids) - len(self.shelf))
        self.shelf, self.place = (
            np.pad(part, more, constant_values=NOWHERE)
            for part in (self.shelf, self.place)
        )

    def column(self, name: str, low: int) -> list:
        """Values of a column, of rows from `low` on; None where no source has one."""
        out = [None] * (len(self) - low)
        for number, shelf in enumerate(self.shelves):
            mine = np.flatnonzero(self.shelf[low:] == number)
            place = pa.array(self.place[low + mine])
            found = shelf.table[name].take(place).to_pylist()
            for row, value in zip(mine.tolist(), found, strict=True):
                out[row] = value
        return out

    def documents(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Dataset]]:
        """The content of rows (B,), a data set without a log for each source that holds
        some: which of `rows`, and their documents. Raises DataError."""
        lost = rows[self.shelf[rows] == NOWHERE]
        if len(lost):
            problem = f"item {self.ids[lost[0]]} is needed, and no {ITEMS} holds it"
            remedy = "put it into that of --data (the run's own data is not there)"
            raise DataError(f"{problem}; {remedy}")
        for number in np.unique(self.shelf[rows]):
            mine = np.flatnonzero(self.shelf[rows] == number)
            shelf, place = self.shelves[number], self.place[rows[mine]]
            yield mine, _dataset(shelf, place, self.fields)


def _shelve(source, folder: Path | None) -> Shelf:
    ids, fields, writer = [], None, None
    unit = read_about(folder).get("time_unit") if folder else None
    with tempfile.NamedTemporaryFile(suffix=".arrow", delete=False) as file:
        path = Path(file.name)
    try:
        for block in rows_of(source, BLOCK):
            table, names = _plain(block, unit)
            if fields is None:
                fields, writer = names, pa.ipc.new_file(str(path), table.schema)
            elif fields != names:
                other = ", ".join(sorted(set(fields) ^ set(names))) or "their order"
                fail(ITEMS, other, None, "is not in all parts", "write them alike")
            ids.append(table["item_id"])
            writer.write_table(table)
        if writer is None:
            fail(ITEMS, "item_id", None, "there are no rows", "write at least one")
        writer.close()
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    finally:
        path.unlink(missing_ok=True)  # its pages live as long as the map
    found = read_items(pa.table({"item_id": pa.chunked_array(ids)}))["item_id"]
    return Shelf(found.to_pylist(), table, folder, fields or [])


def _plain(block: pa.Table, unit: str | None) -> tuple[pa.Table, list[str]]:
    """Ids, texts, whole seconds of birth, and pictures as bytes or paths, in types that
    all blocks share. unit: of times that are bare numbers."""
    table = item_columns(block, Origin(ITEMS), unit)
    names, images = text_fields(table), images_of(table, Counter())
    columns = {name: table[name].cast(pa.large_string()) for name in names}
    paths = [image if isinstance(image, str) else None for image in images]
    raw = [image if isinstance(image, bytes) else None for image in images]
    born = np.full(len(table), NEVER)
    if "created_at" in table.column_names:
        born = births(seconds(table["created_at"]))
    columns["created_at"] = pa.array(born, mask=born == NEVER)
    columns |= {"image.path": pa.array(paths, pa.large_string())}
    columns |= {"image.raw": pa.array(raw, pa.large_binary())}
    return pa.table({"item_id": table["item_id"]} | columns), names


def _dataset(shelf: Shelf, place: np.ndarray, fields: list[str]) -> Dataset:
    table = shelf.table.take(pa.array(place))
    pairs = zip(
        *(table[f"image.{k}"].to_pylist() for k in ("raw", "path")), strict=True
    )
    return catalogue_alone(
        np.array(table["item_id"].to_pylist()),
        {name: table[name].to_pylist() for name in fields},
        [raw or path for raw, path in pairs],
        folder=shelf.folder,
    )


def source_of(path: str | Path):
    """Items of a folder or a file, as `rows_of` takes them, and the folder that paths
    of pictures count from; None where there are none."""
    path = Path(path)
    if path.is_dir():
        return places(path, ITEMS) or None, path
    return ([path] if path.is_file() else None), path.parent
