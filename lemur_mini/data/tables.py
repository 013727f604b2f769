"""One entry for every table: a path, a table in memory, an id of the hub."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from lemur_mini.data.errors import DataError
from lemur_mini.data.parts import in_pieces, kind_of, read_path
from lemur_mini.data.texts import table_of_rows
from lemur_mini.files import one_line

HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")
GIVE = "give a table, a parquet, CSV or JSON file, a folder of them, or a hub id"


@dataclass(frozen=True)
class Source:
    """A table, what messages call it, and the folder that its paths count from."""

    table: pa.Table
    name: str = "the table"
    folder: Path | None = None
    untyped: bool = False  # texts alone: nobody says what is a number


def read(source, split: str = "train") -> Source:
    """Read a path, a hub id, or anything that holds a table: pandas, Arrow, `datasets`
    (a DatasetDict has splits), polars, a list of dicts, a dict of lists.

    Raises DataError."""
    try:
        if isinstance(source, str | Path):
            return _by_name(source, split)
        return Source(_in_memory(source, split))
    except DataError:
        raise
    except Exception as error:  # every library wraps its causes in types of its own
        kind = type(source).__name__
        problem = f"the {kind} cannot be read ({one_line(error)})"
        raise DataError(f"{problem}; {GIVE}") from error


def _by_name(source: str | Path, split: str) -> Source:
    path = Path(source)
    try:
        there = path.exists()
    except (OSError, ValueError):  # a name that no file can have
        there = False
    if there and path.is_dir() and (path / "state.json").is_file():
        return Source(_of_disk(path, split), path.name, path)
    if there:
        table, untyped = read_path(path)
        return Source(table, path.name, path if path.is_dir() else path.parent, untyped)
    if not isinstance(source, str) or not HUB.fullmatch(source) or kind_of(path):
        problem = "cannot be read (no such file or folder"
        if re.search(r"[*?\[]", str(source)):
            problem += "; patterns are not expanded, a folder is read whole"
        raise DataError(f"{one_line(Exception(source))}: {problem}); {GIVE}")
    return Source(of_hub(source, split=split), source)


def _of_disk(path: Path, split: str) -> pa.Table:
    import datasets

    return _in_memory(datasets.load_from_disk(str(path)), split)


def of_hub(source: str, file: str | None = None, split: str = "train") -> pa.Table:
    """A table of the hub, or one file of it. Raises DataError."""
    import datasets

    try:
        with _quiet("datasets", "huggingface_hub"):  # the error below says it all
            found = datasets.load_dataset(source, data_files=file, split=split)
            return _of_datasets(found)
    except Exception as error:  # the hub's client has many
        cause = one_line(error.__cause__ or error)
        name = f"{source}/{file}" if file else source
        remedy = "give a folder or a file, or a hub id when online"
        raise DataError(f"{name}: cannot be read ({cause}); {remedy}") from error


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _in_memory(source, split: str) -> pa.Table:
    datasets, pandas = (sys.modules.get(name) for name in ("datasets", "pandas"))
    if datasets and isinstance(source, dict):
        kinds = datasets.Dataset | datasets.IterableDataset
        if any(isinstance(part, kinds) for part in source.values()):
            source = _one_split(source, split)
    if datasets and isinstance(source, datasets.Dataset | datasets.IterableDataset):
        return _of_datasets(source)
    if pandas and isinstance(source, pandas.DataFrame):
        named = [name for name in source.index.names if name is not None]
        source = source.reset_index() if named else source
        return pa.Table.from_pandas(source, preserve_index=False)
    if isinstance(source, pa.Table):
        return source
    if isinstance(source, list | tuple | dict):
        return table_of_rows(source, "the table")
    if hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__"):
        return pa.table(source)
    raise DataError(f"a {type(source).__name__} is no table; {GIVE}")


def _one_split(splits, split: str):
    if split in splits:
        return splits[split]
    there = ", ".join(map(str, splits))
    raise DataError(f"split {split}: is not there; use split= with one of {there}")


def _of_datasets(found) -> pa.Table:
    """In pieces: columns of more than 2 GB cannot be taken in one."""
    table = in_pieces(lambda rows: _pieces(found, rows))
    if table.num_columns:
        return table
    if found.features is None:
        return pa.table({})
    return found.features.arrow_schema.empty_table()


def _pieces(found, rows: int) -> pa.Table:
    pieces = list(found.with_format("arrow").iter(rows))
    return (
        pa.concat_tables(pieces, promote_options="default") if pieces else pa.table({})
    )
