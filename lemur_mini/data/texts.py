"""Tables written as text: CSV, JSON and JSON lines, also packed."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from lemur_mini.data.errors import DataError
from lemur_mini.files import one_line

READERS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv"}
READERS |= {".json": "json", ".jsonl": "json", ".ndjson": "json"}
UNPACK = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
CUT = (OSError, EOFError, zlib.error, lzma.LZMAError)  # OSError: gzip's CRC too
LONGEST = 2**31 - 2**16  # bytes that Arrow parses at once


def read_bytes(path: Path) -> bytes:
    """What a file holds, unpacked. Raises DataError where it is cut or damaged."""
    unpack = UNPACK.get(path.suffix.lower(), open)
    try:
        with unpack(path, "rb") as file:
            return file.read()
    except CUT as error:
        problem = f"{path}: cannot be read ({one_line(error)})"
        raise DataError(f"{problem}; it may be cut short, fetch it again") from error


def decoded(raw: bytes, path: Path) -> str:
    """Text in UTF-8, or in UTF-16 where it says so. Raises DataError."""
    wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = f"{path}, line {line}: is not UTF-8"
        raise DataError(f"{problem}; save it again in UTF-8") from error


def read_text(path: Path, kind: str) -> pa.Table:
    """A CSV file (every column as texts) or a JSON file."""
    raw = decoded(read_bytes(path), path)
    return _read_csv(raw, path) if kind == "csv" else _read_json(raw, path)


def _read_csv(raw: str, path: Path) -> pa.Table:
    """Every value as it is written; nothing between two commas is null."""
    tabs = ".tsv" in path.suffixes
    coded = raw.encode()
    parse = csv.ParseOptions(delimiter="\t" if tabs else ",", newlines_in_values=True)
    size = csv.ReadOptions(
        use_threads=False, block_size=min(max(len(coded), 1), LONGEST)
    )
    head = csv.open_csv(io.BytesIO(coded), size, parse).schema.names
    for name in head:
        if head.count(name) > 1:
            problem = f"{path}, column {name}: stands twice"
            raise DataError(f"{problem}; give each column its own name")
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(head, pa.large_string()),
        null_values=[""],
        strings_can_be_null=True,
    )
    return csv.read_csv(io.BytesIO(coded), size, parse, convert)


def _read_json(raw: str, path: Path) -> pa.Table:
    """Lines of objects, a list of objects, or an object of lists."""
    if raw.lstrip()[:1] == "[":
        return table_of_rows(_loads(raw, f"{path}"), str(path))
    rows = []
    try:
        rows = list(objects(io.StringIO(raw), str(path)))
    except DataError:
        try:  # one object over many lines
            whole = json.loads(raw)
        except (ValueError, RecursionError):
            whole = None
        if not isinstance(whole, dict):
            raise
        return table_of_rows(whole, str(path))
    if len(rows) == 1 and any(isinstance(v, list | dict) for v in rows[0][1].values()):
        columns = list(rows[0][1].values())
        if all(isinstance(v, list | dict) for v in columns):
            return table_of_rows(rows[0][1], str(path))
    return table_of_rows([row for _, row in rows], str(path))


def objects(lines, where: str) -> Iterator[tuple[str, dict]]:
    """Every line that is not empty, with where it stands. Raises DataError for a line
    that is no JSON object, and where the file is cut or damaged."""
    number = 0
    try:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                at = f"{where}, line {number}"
                row = _loads(line, at)
                if not isinstance(row, dict):
                    raise DataError(f"{at}: is no JSON object; repair it")
                yield at, row
    except CUT as error:
        problem = f"{where}, after line {number}: {one_line(error)}"
        raise DataError(f"{problem}; it may be cut short, fetch it again") from error
    except UnicodeDecodeError as error:
        problem = f"{where}, line {number + 1} or later: is not UTF-8"
        raise DataError(f"{problem}; save it again in UTF-8") from error


def _loads(text: str, where: str):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = f"{where}: no JSON ({one_line(error)})"
        raise DataError(f"{problem}; repair it") from error


def table_of_rows(rows, where: str) -> pa.Table:
    """A list of dicts, or a dict of lists (or of dicts with the same keys)."""
    if isinstance(rows, dict):
        return _of_columns(rows, where)
    names: dict = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            problem = f"{where}, row {number}: is a {type(row).__name__}"
            raise DataError(f"{problem}; give a dict of column names and values")
        names |= dict.fromkeys(row)
    return columns_of({n: [row.get(n) for row in rows] for n in names}, where)


def _of_columns(columns: dict, where: str) -> pa.Table:
    keys = [list(v) for v in columns.values() if isinstance(v, dict)]
    if any(k != keys[0] for k in keys) or len(keys) not in (0, len(columns)):
        problem = f"{where}: its columns are not alike"
        raise DataError(f"{problem}; give lists, or a list of rows")
    columns = {n: list(v.values()) if keys else v for n, v in columns.items()}
    listed = {n: v for n, v in columns.items() if not isinstance(v, str | bytes)}
    sizes = {n: len(v) for n, v in listed.items() if hasattr(v, "__len__")}
    if len(sizes) < len(columns) or len(set(sizes.values())) > 1:
        said = ", ".join(f"{n} {sizes.get(n, 'no list')}" for n in columns)
        raise DataError(f"{where}: columns of other lengths ({said}); make them one")
    return columns_of(columns, where)


def columns_of(columns: dict[str, list], where: str) -> pa.Table:
    """A table of these columns; a column has one type. Raises DataError."""
    out = {}
    for name, values in columns.items():
        try:
            out[str(name)] = _array(values)
        except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:
            problem = f"{where}, column {name}: mixes types ({one_line(error)})"
            raise DataError(f"{problem}; give one type") from error
    return pa.table(out)


def _array(values) -> pa.Array | pa.ChunkedArray:
    try:
        if any(getattr(value, "nanosecond", 0) for value in values):  # of pandas
            zone = next((v.tzinfo for v in values if v is not None), None)
            return pa.array(values, pa.timestamp("ns", zone and "UTC"))
        return pa.array(values)
    except OverflowError:  # numbers of 64 bits without a sign
        return pa.array(values, pa.uint64())
