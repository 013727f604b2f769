"""Where the tables of a data set lie, and their rows, some at a time: files, shards,
daily partitions, tables in memory, and what `datasets` streams."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from lemur_mini.data.errors import DataError
from lemur_mini.data.parts import blocks
from lemur_mini.data.schema import IMPRESSIONS, ITEMS


def places(folder: Path, name: str) -> list[Path]:
    """The files or folders of parts that make a table, in order; none where there is
    nothing. In a folder, the first of: `name` itself (a file, or a folder of parts); a
    folder of that name without its ending; shards, `impressions-00000.parquet`; daily
    partitions, `date=2026-11-01/`, that hold one of these each, or, of impressions,
    parts of any name."""
    whole = [folder / name, folder / Path(name).stem]
    for path in whole:
        if path.exists():
            return [path]
    shards = sorted(folder.glob(f"{Path(name).stem}[-_]*{Path(name).suffix}"))
    if shards:
        return shards
    days = sorted(p for p in folder.glob("*=*") if p.is_dir())
    found = [part for day in days for part in places(day, name)]
    if found or name == ITEMS:
        return found
    return [day for day in days if not places(day, ITEMS)]


def rows_of(source, size: int, columns=None) -> Iterator[pa.Table]:
    """The rows of a table, `size` at a time or fewer: of a list of `places`, of an
    Arrow table, or of a `datasets.IterableDataset` (or `Dataset`). Only these columns,
    where they are there. Raises DataError. Read again, it gives the same rows."""
    if isinstance(source, pa.Table):
        source = [source]
    for part in source if isinstance(source, list) else _of_library(source, size):
        if isinstance(part, Path):
            yield from (table for table, _ in blocks(part, size, columns))
            continue
        there = [n for n in part.column_names if columns is None or n in columns]
        part = part.select(there)
        for low in range(0, max(len(part), 1), size):
            yield part.slice(low, size)


def _of_library(source, size: int) -> Iterable[pa.Table]:
    datasets = sys.modules.get("datasets")
    kinds = datasets and datasets.Dataset | datasets.IterableDataset
    if not datasets or not isinstance(source, kinds):
        remedy = "give a folder, an Arrow table or a datasets.IterableDataset"
        raise DataError(f"a {type(source).__name__} is no stream of rows; {remedy}")
    return source.with_format("arrow").iter(size)


def tables_of(source) -> tuple:
    """Items and impressions of a folder or of a pair, as `rows_of` takes them; None
    for what is not there. Raises DataError for what is no folder."""
    if isinstance(source, tuple):
        return source
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(f"{source}: no such folder; give one that holds {IMPRESSIONS}")
    return tuple(places(folder, name) or None for name in (ITEMS, IMPRESSIONS))
