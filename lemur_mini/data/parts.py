"""A local file as it is, by its name, each time anew; or a folder of parts, whole.

A folder is read with all parts of one kind in it and below it, in natural order (part-2
before part-10), except names that begin with a dot or an underscore; folders named
`key=value` add a column. Folders that are more than their parts (a Delta or Hudi table,
a job that did not end) are refused. A name with `*`, `?` or `[` is a name: patterns are
never expanded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from lemur_mini.data.columns import INTEGER, is_list, name_of, plain
from lemur_mini.data.errors import DataError
from lemur_mini.data.texts import READERS, UNPACK, read_text
from lemur_mini.files import one_line

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


MORE = {"_delta_log": "a Delta table", ".hoodie": "a Hudi table"}


MORE |= {"_temporary": "a job that did not end"}


AT_ONCE = (1024, 32, 1)  # rows that are read at once where they may hold pictures


def kind_of(path: Path) -> str | None:
    """How this file is read, from the end of its name; None where nobody knows."""
    ends = [end.lower() for end in path.suffixes[-2:]]
    if ends and ends[-1] in UNPACK:
        ends = ends[:-1]
    return READERS.get(ends[-1]) if ends else None


def read_path(*paths: Path) -> tuple[pa.Table, bool]:
    """A file, or a folder of parts, or several of them behind one another, and whether
    they hold texts alone."""
    found = [pair for path in paths for pair in parts(path)]
    kinds = {kind_of(part) for part, _ in found}
    tables = [_with(_read_file(part), part, keys) for part, keys in found]
    return _joined(tables, [part for part, _ in found]), kinds == {"csv"}


def _read_file(path: Path) -> pa.Table:
    try:
        if kind_of(path) == "parquet":
            return _read_parquet(path)
        return read_text(path, kind_of(path))
    except DataError:
        raise
    except Exception as error:  # damage shows in errors of every type
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> DataError:
    """The one line for a file that its reader gave up on."""
    problem = f"{path}: cannot be read ({one_line(error)})"
    return DataError(f"{problem}; write it again")


def open_parquet(path: Path) -> pq.ParquetFile:
    """By its name alone; with the checks of its pages, where they were written."""
    return pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)


def _read_parquet(path: Path) -> pa.Table:
    with open_parquet(path) as file:
        schema = file.schema_arrow
        if not any(_holds_more(column.type) for column in schema):
            return file.read()
        return in_pieces(
            lambda rows: pa.Table.from_batches(file.iter_batches(rows), schema)
        )


def in_pieces(read: Callable[[int], pa.Table]) -> pa.Table:
    """`read` a table some rows at a time: fewer, where these pass 2 GB in a column."""
    for rows in AT_ONCE[:-1]:
        with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return read(rows)
    return read(AT_ONCE[-1])


def _holds_more(kind: pa.DataType) -> bool:
    """Columns of pictures are read in pieces: nested, one may not pass 2 GB."""
    nested = pa.types.is_nested(kind) and not is_list(kind)
    return nested or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def blocks(path: Path, size: int, columns=None) -> Iterator[tuple[pa.Table, bool]]:
    """A parquet file, or a folder of parts, `size` rows at a time, and whether they
    are the last. Only these columns, where they are there; None: all."""
    found = parts(path)
    total, before = sum(_rows(part) for part, _ in found), 0
    for part, keys in found:
        try:
            with open_parquet(part) as file:
                names = file.schema_arrow.names
                there = names if columns is None else [n for n in names if n in columns]
                if not total:
                    yield _with(file.read(), part, keys), True
                for batch in file.iter_batches(size, columns=there):
                    before += len(batch)
                    table = pa.Table.from_batches([batch])
                    yield _with(table, part, keys), before == total
        except (OSError, pa.ArrowException, MemoryError) as error:
            raise unreadable(part, error) from error


def _rows(path: Path) -> int:
    try:
        with open_parquet(path) as file:
            return file.metadata.num_rows
    except Exception as error:  # damage shows in errors of every type
        raise unreadable(path, error) from error


def parts(path: Path) -> list[tuple[Path, dict[str, str | None]]]:
    """The files that make a table, in order, each with the keys of its folders."""
    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"{path}: not found; give a file or a folder of parts")
        if kind_of(path) is None:
            known = ", ".join(READERS)
            raise DataError(f"{path}: is of no known kind; use one of {known}")
        return [(path, {})]
    try:
        found = list(_walk(path, {}))
    except (OSError, RecursionError) as error:
        raise unreadable(path, error) from error
    if not found:
        raise DataError(f"{path}: holds no parts; write it again")
    (one, keys), kind = found[0], kind_of(found[0][0])
    for part, more in found:
        if kind_of(part) != kind or kind is None:
            other = part if kind_of(part) is None or kind is not None else one
            problem = f"{other}: is no part like {one.name}"
            raise DataError(f"{problem}; move it out of the folder")
        if more.keys() != keys.keys():
            named = "/".join(f"{key}=" for key in keys) or "no folder key="
            raise DataError(f"{part}: lies in no {named} as {one.name} does; move it")
    return _numbered(found)


def _numbered(found: list[tuple[Path, dict]]) -> list[tuple[Path, dict]]:
    """Values of a key as numbers, where all are written as Python writes them."""
    for key in found[0][1]:
        values = [keys[key] for _, keys in found]
        if all(v is not None and re.match(INTEGER, v) for v in values):
            numbers = [int(v) for v in values]
            if max(map(abs, numbers)) < 2**63:
                pairs = zip(found, numbers, strict=True)
                found = [(part, keys | {key: n}) for (part, keys), n in pairs]
    return found


def _walk(folder: Path, keys: dict) -> Iterator[tuple[Path, dict]]:
    for entry in sorted(folder.iterdir(), key=_natural):
        if entry.name in MORE:
            what = MORE[entry.name]
            raise DataError(f"{folder}: is {what}; export its rows as plain parquet")
        if entry.name[0] in "._":
            continue
        if entry.is_dir():
            key, sign, value = entry.name.partition("=")
            more = {unquote(key): None if value == NO_VALUE else unquote(value)}
            yield from _walk(entry, keys | more if sign else keys)
        else:
            yield entry, keys


def _natural(path: Path) -> list:
    """Numbers in a name count as numbers: part-2 is before part-10."""
    pieces = re.split(r"([0-9]+)", path.name)
    return [(int(p), p) if k % 2 else (0, p) for k, p in enumerate(pieces)]


def _with(table: pa.Table, part: Path, keys: dict) -> pa.Table:
    """With the keys of its folders as columns."""
    for name, value in keys.items():
        if name in table.column_names:
            _check_agreement(table[name], part, name, value)
            continue
        kind = pa.int64() if isinstance(value, int) else pa.large_string()
        column = pa.repeat(pa.scalar(value, kind), table.num_rows)
        table = table.append_column(name, column)
    return table


def _check_agreement(values: pa.ChunkedArray, part: Path, name: str, value) -> None:
    """A key that is also a column of the file says the same."""
    said = {None if v is None else str(v) for v in values.unique().to_pylist()}
    if said - {None if value is None else str(value)}:
        problem = f"{part}, column {name}: differs from its folder's {name}={value}"
        raise DataError(f"{problem}; write one of them")


def _joined(tables: list[pa.Table], paths: list[Path]) -> pa.Table:
    """One table of parts that have the same columns, of the same types."""
    if len(tables) == 1:
        return tables[0]
    names = tables[0].column_names
    for path, table in zip(paths, tables, strict=True):
        if sorted(table.column_names) != sorted(names):
            other = ", ".join(sorted(set(names) ^ set(table.column_names)))
            problem = f"{path}: has other columns than {paths[0].name} ({other})"
            raise DataError(f"{problem}; write all parts alike")
    if len(set(names)) < len(names):
        return pa.concat_tables([t.select(range(len(names))) for t in tables])
    columns = {n: _same([t[n] for t in tables], n, paths) for n in names}
    return pa.table(columns)


def _same(columns: list[pa.ChunkedArray], name: str, paths) -> pa.ChunkedArray:
    """The parts of one column: whole numbers of any width; what is null is any type."""
    columns = [_wide(plain(c)) for c in columns]
    kinds = [c.type for c in columns if not pa.types.is_null(c.type)]
    kind = kinds[0] if kinds else pa.null()
    for path, column in zip(paths, columns, strict=True):
        if column.type not in (kind, pa.null()):
            problem = f"has type {name_of(column.type)}, elsewhere {name_of(kind)}"
            raise DataError(f"{path}, column {name}: {problem}; use one type")
    chunks = [chunk for c in columns for chunk in c.cast(kind).chunks]
    return pa.chunked_array(chunks, kind)


def _wide(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole numbers as int64; those that need all 64 bits stay as they are."""
    if pa.types.is_integer(values.type) and values.type != pa.uint64():
        return values.cast(pa.int64())
    return values
