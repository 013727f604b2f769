"""Drawn tables and damaged files: each is read rightly, or refused in one line.

    python -m tests.fuzz --tables 2000 --files 500 --out data/results/fuzz.json

A small data set of plain Python values is dressed in Arrow types, put out of order and
spoiled, then read through one of the entries. What comes out is held against a naive
reading, value by value. A refusal is one line of DataError; a column that nobody reads
is counted. Anything else is a traceback or a silent difference, and is reported."""

from __future__ import annotations

import argparse
import bz2
import contextlib
import csv
import datetime
import gzip
import io
import json
import math
import re
import shutil
import tempfile
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from lemur_mini.data.health import health
from lemur_mini.data.importers.huggingface import from_huggingface
from lemur_mini.data.loading import load
from lemur_mini.data.pages import Pages
from lemur_mini.data.schema import DataError
from lemur_mini.data.streams import PageStream
from lemur_mini.files import write_text_atomically

ITEMS, LOG = "items.parquet", "impressions.parquet"
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
ROUTES = ("load", "parts", "hive", "table", "frame", "rows", "csv", "json")
NAMES = {n: n for n in ("user_id", "item_id", "timestamp", "label", "title")}


class Difference(Exception):
    """What was read is not what was there."""


# --- what is drawn -------------------------------------------------------------------


def array(values: list, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(values, kind)


def coded(values: list, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(values, kind).dictionary_encode()


ID_DRESSES = {
    "int64": array,
    "int8": lambda v: array(v, pa.int8()),
    "uint64": lambda v: array([2**63 + k for k in v], pa.uint64()),
    "negative": lambda v: array([-(3**k) for k in v]),
    "large": lambda v: array([2**53 + k for k in v]),
    "string": lambda v: array([f"id {k}" for k in v]),
    "large_string": lambda v: array([f"id {k}" for k in v], pa.large_string()),
    "view": lambda v: array([f"id {k}" for k in v], pa.string_view()),
    "zeros": lambda v: array([f"{'0' * (k % 3)}{k // 3}" for k in v]),
    "digits": lambda v: array([str(k) for k in v]),
    "dictionary": lambda v: coded([f"id {k}" for k in v]),
    "numbers in a dictionary": coded,
    "bytes": lambda v: array([f"id {k}".encode() for k in v]),
    "float64": lambda v: array([float(k) for k in v]),
    "large float64": lambda v: array([float(2**53 + 2 * k) for k in v]),
    "float32": lambda v: array(v, pa.float32()),
    "decimal": lambda v: array([Decimal(k) for k in v], pa.decimal128(20, 0)),
    "none as text": lambda v: array(["None" if k == 1 else str(k) for k in v]),
    "bool": lambda v: array([bool(k) for k in v]),
    "list": lambda v: array([[k] for k in v]),
    "time": lambda v: array(v, pa.timestamp("s")),
    "half": lambda v: array(np.array(v, np.float16)),
}


def iso(ns: int, zone: str = "", digits: int = 6) -> str:
    whole = EPOCH + datetime.timedelta(seconds=ns // 10**9)
    said = whole.strftime("%Y-%m-%d %H:%M:%S")
    return f"{said}.{ns % 10**9:09d}"[: 20 + digits].rstrip(".") + zone


TIME_DRESSES = {
    "int64": lambda v: array([t // 10**9 for t in v]),
    "int32": lambda v: array([t // 10**9 for t in v], pa.int32()),
    "float64": lambda v: array([t / 1e9 for t in v]),
    "float32": lambda v: array([t / 1e9 for t in v], pa.float32()),
    "decimal": lambda v: array(
        [Decimal(t // 1000) / 10**6 for t in v], pa.decimal128(20, 6)
    ),
    **{
        unit: lambda v, unit=unit, ticks=ticks: array(
            [t // ticks for t in v], pa.timestamp(unit)
        )
        for unit, ticks in (("s", 10**9), ("ms", 10**6), ("us", 10**3), ("ns", 1))
    },
    "zone": lambda v: array([t // 10**6 for t in v], pa.timestamp("ms", "Asia/Tokyo")),
    "date32": lambda v: array([t // (86_400 * 10**9) for t in v], pa.date32()),
    "date64": lambda v: array(
        [t // (86_400 * 10**9) * 86_400_000 for t in v], pa.date64()
    ),
    "iso": lambda v: array([iso(t) for t in v]),
    "iso nanoseconds": lambda v: array([iso(t, digits=9) for t in v]),
    "iso in utc": lambda v: array([iso(t, "Z", 3) for t in v]),
    "iso elsewhere": lambda v: array([iso(t, "+05:30") for t in v]),
    "iso in two ways": lambda v: array([iso(t, "Z" * (t % 2)) for t in v]),
    "digits": lambda v: array([str(t // 10**9) for t in v]),
    "milliseconds": lambda v: array([t // 10**6 for t in v]),
    "unit ms": lambda v: array([t // 10**6 for t in v]),
    "unit us": lambda v: array([t // 10**3 for t in v]),
    "unit ns": lambda v: array(v),
    "unit ms, floats": lambda v: array([t / 10**6 for t in v]),
    "unit ms, texts": lambda v: array([str(t // 10**6) for t in v]),
    "calendar": lambda v: array([int(iso(t)[:10].replace("-", "")) for t in v]),
    "dictionary": lambda v: coded([iso(t) for t in v]),
    "american": lambda v: array([f"{iso(t)[5:7]}/{iso(t)[8:10]}/2024" for t in v]),
    "duration": lambda v: array(v, pa.duration("ns")),
}
TIMES = TIME_DRESSES
FINE = {"ns": TIME_DRESSES["ns"]} | TIME_DRESSES  # most are fine where times are
LABEL_DRESSES = {
    **{str(k): lambda v, k=k: array(v, k) for k in (pa.int8(), pa.uint64())},
    "float64": lambda v: array(v, pa.float64()),
    "half": lambda v: array(np.array(v, np.float16)),
    "bool": lambda v: array([bool(k) for k in v]),
    "decimal": lambda v: array([Decimal(k) for k in v], pa.decimal128(3, 1)),
    "dictionary": coded,
    "texts": lambda v: array([str(k) for k in v]),
    "two": lambda v: array([2 * k for k in v]),
}
TEXT_DRESSES = {
    "string": array,
    "large_string": lambda v: array(v, pa.large_string()),
    "view": lambda v: array(v, pa.string_view()),
    "dictionary": lambda v: coded(v, pa.string()),
    "bytes": lambda v: array([t and t.encode() for t in v], pa.binary()),
    "byte view": lambda v: array([t and t.encode() for t in v], pa.binary_view()),
    "list": lambda v: array([t and t.split() for t in v], pa.list_(pa.string())),
    "no text": lambda v: array([b"\xff\xfe"] * len(v)),
    "broken": lambda v: pa.Array.from_buffers(
        pa.string(), len(v), array([b"p\xe2t"] * len(v), pa.binary()).buffers()
    ),
    "null": lambda v: pa.nulls(len(v)),
    "numbers": lambda v: array([len(t or "") for t in v]),
}
OTHER = [
    pa.date32(), pa.date64(), pa.time32("s"), pa.time64("ns"), pa.duration("ms"),
    pa.timestamp("ns"), pa.float16(), pa.decimal128(9, 2), pa.list_(pa.float32()),
    pa.struct([("a", pa.int8())]), pa.map_(pa.string(), pa.int8()), pa.null(),
    pa.bool_(), pa.binary(4), pa.month_day_nano_interval(),
    pa.dictionary(pa.int8(), pa.string()), pa.list_(pa.string()), pa.uint64(),
    pa.decimal256(40, 2), pa.large_list(pa.int8()), pa.uuid(),
]  # fmt: skip
SPOILT = [None, None, math.nan, math.inf, "", "x", -1, 0.5, 2**64, b"\xff", 10**17]


@dataclass
class Drawn:
    """Two tables, the way they take, and what was done to them."""

    items: pa.Table
    log: pa.Table
    route: str
    note: dict = field(default_factory=dict)

    @property
    def unit(self) -> str | None:
        """The unit that whoever brings the table says its bare numbers have."""
        named = re.match("unit (..)", self.note["time"])
        return named[1] if named else None


def dressed(rng: Random, dresses: dict, values: list, note: dict, name: str):
    """The column in a drawn type, the first of them for most; one in thirty spoilt."""
    kind = rng.choice([*dresses] if rng.random() < 0.25 else [*dresses][:1])
    note[name] = kind
    column = dresses[kind](values)
    if rng.random() > 1 / 30:
        return column
    row, bad = rng.randrange(len(values)), rng.choice(SPOILT)
    note[name] = f"{kind}, row {row} is {bad!r}"
    try:
        spoilt = column.to_pylist()
        spoilt[row] = bad
        return pa.array(spoilt, column.type if bad is None else None)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return column


def drawn_ids(rng: Random, size: int, count: int, note: dict) -> tuple:
    """Of the items and of the log: mostly in one type, and of known items."""
    item = [rng.randrange(count) for _ in range(size)]
    if rng.random() < 0.03:
        item[0] = count  # nobody knows it
    ids = rng.choice([*ID_DRESSES]) if rng.random() < 0.7 else "int64"
    other = rng.choice([*ID_DRESSES]) if rng.random() < 0.1 else ids
    note |= {"items": ids, "item_id": other}
    return ID_DRESSES[ids](list(range(count))), ID_DRESSES[other](item)


@st.composite
def tables(draw) -> Drawn:
    """A small log in odd types and any order, with columns that nobody asked for."""
    rng = draw(st.randoms(use_true_random=True))  # evenly, from a drawn seed
    count, rows, note = rng.randint(1, 5), rng.randint(6, 20), {}
    known, item = drawn_ids(rng, rows, count, note)
    session = [rng.randrange(6) for _ in range(rows)]
    fine = rng.choice([10**9, 10**6, 10**3, 1, 86_400 * 10**9, 3600 * 10**9])
    time = [1_700_006_400 * 10**9 + rng.randrange(40) * fine for _ in range(rows)]
    spread = [t + rng.randrange(4) * 1000 * 10**9 for t in time]
    time = spread if rng.random() < 0.8 else time
    time = sorted(time) if rng.random() < 0.4 else time
    words = [None, "a b", "", "ü 🦊", "0012", "2020-01-01", "None"]
    title = [rng.choice(words) for _ in range(count)]
    label = [rng.randrange(2) for _ in range(rows)]
    user = [s % 3 for s in session]
    items = {"item_id": known}
    items["title"] = dressed(rng, TEXT_DRESSES, title, note, "title")
    log = {
        "user_id": dressed(rng, ID_DRESSES, user, note, "user_id"),
        "session_id": dressed(rng, ID_DRESSES, session, note, "session_id"),
        "item_id": item,
        "timestamp": dressed(rng, FINE if fine < 10**9 else TIMES, time, note, "time"),
        "label": dressed(rng, LABEL_DRESSES, label, note, "label"),
    }
    if rng.random() < 0.5:
        query = [f"words {s % 2}" for s in session]
        log["query"] = dressed(rng, TEXT_DRESSES, query, note, "query")
        if rng.random() < 0.5:
            log["query_id"] = log.pop("session_id")
    for table, size in ((items, count), (log, rows)):
        for kind in rng.sample(OTHER, rng.randrange(3)):
            table[f"more {kind}"] = pa.nulls(size, kind)
    return Drawn(pa.table(items), pa.table(log), rng.choice(ROUTES), note)


# --- the naive reading ---------------------------------------------------------------


class Refused(Exception):
    """The naive reading finds no right answer: it must be refused."""


def plain_id(value):
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise Refused from None
    if isinstance(value, bool) or value is None or value == "":
        raise Refused
    if isinstance(value, float | Decimal):
        if not math.isfinite(value) or value != int(value) or abs(value) > 2**63:
            raise Refused
        return int(value)
    if not isinstance(value, int | str):
        raise Refused
    return value


def plain_time(value) -> Fraction:
    """Exact seconds."""
    if hasattr(value, "as_unit"):  # of pandas
        return Fraction(value.as_unit("ns").value, 10**9)
    if isinstance(value, datetime.datetime):
        zone = value.tzinfo or datetime.UTC
        gap = value.replace(tzinfo=zone) - EPOCH
        return Fraction(gap // datetime.timedelta(microseconds=1), 10**6)
    if isinstance(value, datetime.date):
        return Fraction((value - EPOCH.date()).days * 86_400)
    if isinstance(value, str):
        return time_of_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise Refused
    if not math.isfinite(value) or abs(value) > 10**11:
        raise Refused
    return Fraction(value)


def time_of_text(value: str) -> Fraction:
    with contextlib.suppress(ValueError, InvalidOperation):
        return plain_time(int(value) if value.isdigit() else Decimal(value))
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)( \d\d:\d\d:\d\d)?(\.\d+)?(.*)", value)
    if not found:
        raise Refused
    day, clock, part, zone = (piece or "" for piece in found.groups())
    zone = zone.replace("Z", "+00:00") or "+00:00"
    try:
        whole = datetime.datetime.fromisoformat(day + (clock or " 00:00:00") + zone)
    except ValueError:
        raise Refused from None
    return plain_time(whole) + (Fraction(f"0{part}") if part else 0)


def plain_label(value) -> int:
    if isinstance(value, str | bytes) or value is None or value not in (0, 1):
        raise Refused
    return int(value)


def plain_text(value) -> str | None:
    if isinstance(value, list):
        return " ".join(word for word in value if word is not None)
    return value.decode() if isinstance(value, bytes) else value


def is_texts(values: list) -> bool:
    """Whether a column holds texts at all."""
    try:
        return any(v is not None for v in values) and all(
            v is None or isinstance(plain_text(v), str) for v in values
        )
    except (UnicodeDecodeError, TypeError, AttributeError):
        return False


def columns_of(table: pa.Table | dict) -> dict[str, list]:
    """Python values of every column."""
    if isinstance(table, dict):
        return dict(table)
    try:
        return {n: table[n].to_pylist() for n in table.column_names if "more" not in n}
    except UnicodeDecodeError:
        raise Refused from None


def turned(rows: list[dict]) -> dict[str, list]:
    return {name: [row.get(name) for row in rows] for row in rows for name in row}


def untyped_ids(values: list[str | None]) -> list:
    """Of a CSV: numbers only where all are written as Python writes them."""
    if all(v is not None and re.fullmatch(r"0|-?[1-9]\d{0,17}", v) for v in values):
        return [int(v) for v in values]
    return values


def in_unit(value, unit: str) -> Fraction:
    """A bare number in this unit as exact seconds; what is none as ever."""
    with contextlib.suppress(ValueError, InvalidOperation):
        value = Decimal(value) if isinstance(value, str) else value
    if isinstance(value, int | float | Decimal) and math.isfinite(value):
        value = Fraction(value) / {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
        if abs(value) > 10**11:
            raise Refused
        return value
    return plain_time(value)


def naive(items, log, untyped: bool = False, unit: str | None = None) -> dict:
    """Rows in time order, and the items: from Python values alone."""
    columns, about = columns_of(log), columns_of(items)
    if unit:
        when = [in_unit(v, unit) for v in columns["timestamp"]]
    else:
        when = [plain_time(v) for v in columns["timestamp"]]
    if untyped:
        for name in ("user_id", "item_id", "session_id", "query_id"):
            if name in columns:
                columns[name] = untyped_ids(columns[name])
        if isinstance(items, dict):
            about["item_id"] = untyped_ids(about["item_id"])
        columns["label"] = [v and _number(v) for v in columns["label"]]
    known = [plain_id(v) for v in about["item_id"]]
    if untyped and len({type(k) for k in (known[0], columns["item_id"][0])}) > 1:
        known, columns["item_id"] = (
            map(str, known),
            [str(v) for v in columns["item_id"]],
        )
        known = list(known)
    if len(set(known)) < len(known):
        raise Refused
    group = "query_id" if "query_id" in columns else "session_id"
    rows = []
    for k in range(len(columns["label"])):
        qid = plain_id(columns[group][k])
        query = ""
        if "query" in columns:
            if not is_texts(columns["query"]) or columns["query"][k] is None:
                raise Refused
            query = plain_text(columns["query"][k])
            qid = qid if group == "query_id" else (qid, query)
        item = plain_id(columns["item_id"][k])
        if item not in known or type(item) is not type(known[0]):
            raise Refused
        time = when[k]
        user, label = plain_id(columns["user_id"][k]), plain_label(columns["label"][k])
        rows.append((time, user, qid, query, item, label))
    for part in (1, 3):
        if len({(row[2], row[part]) for row in rows}) > len({row[2] for row in rows}):
            raise Refused
    if len({type(row[1]) for row in rows}) > 1:
        raise Refused
    titles = about.get("title", [])
    titles = [plain_text(v) for v in titles] if is_texts(titles) else None
    rows.sort(key=lambda row: row[0])
    return {"rows": rows, "items": known, "titles": titles}


def _number(value: str):
    try:
        return float({"True": "1", "False": "0"}.get(value, value))
    except ValueError:
        raise Refused from None


def compare(found, wanted: dict, tables: tuple[pa.Table, ...]) -> None:
    """Value by value; raises Difference."""
    log, rows = found.log, wanted["rows"]

    def same(what: str, mine, theirs) -> None:
        if mine != theirs:
            raise Difference(f"{what}: {mine!r} instead of {theirs!r}"[:500])

    same("items", found.items.tolist(), wanted["items"])
    same("users", found.users[log.user].tolist(), [row[1] for row in rows])
    same("query", [found.queries[k] for k in log.query], [row[3] for row in rows])
    same("item", found.items[log.item].tolist(), [row[4] for row in rows])
    same("label", log.label.tolist(), [row[5] for row in rows])
    first: dict = {}
    dense = [first.setdefault(row[2], len(first)) for row in rows]
    same("qid", log.qid.tolist(), dense)
    off = [
        abs(Fraction(t) - row[0])
        for t, row in zip(log.timestamp.tolist(), rows, strict=True)
    ]
    same("times apart", max(off) < Fraction(1, 10**6), True)
    if wanted["titles"] is not None:
        same("titles", found.texts["title"], wanted["titles"])
    counted = " ".join(found.counts)
    used = {*found.texts, "item_id", "user_id", "timestamp", "label", "query"}
    used |= {"session_id", "query_id"}
    for table in tables:
        for name in set(getattr(table, "column_names", table)) - used:
            same(f"column {name} is counted", f"ignored column {name}" in counted, True)


# --- the ways in ---------------------------------------------------------------------


def put(folder: Path, items: pa.Table, log: pa.Table) -> None:
    pq.write_table(items, folder / ITEMS)
    pq.write_table(log, folder / LOG)


def as_parts(path: Path, table: pa.Table, keyed: bool) -> pa.Table:
    """Two parts in a folder; the table in the order of the folder."""
    half = table.num_rows // 2
    for k, part in enumerate((table.slice(0, half), table.slice(half))):
        folder = path / f"day=2024-01-0{k + 1}" if keyed else path
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(part, folder / f"part-{2 + 8 * k}.parquet")
    (path / "_SUCCESS").touch()
    return table


def as_csv(path: Path, table: pa.Table) -> dict[str, list]:
    """A CSV file, and the texts that it is."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, table.column_names)
        writer.writeheader()
        for row in table.to_pylist():
            writer.writerow({k: "" if v is None else str(v) for k, v in row.items()})
    with path.open(newline="", encoding="utf-8") as file:
        return turned(
            [{k: v or None for k, v in row.items()} for row in csv.DictReader(file)]
        )


def as_json(path: Path, table: pa.Table) -> dict[str, list]:
    """A file of JSON lines, and the values that it is."""
    text = [json.dumps(row, default=str) for row in table.to_pylist()]
    path.write_text("\n".join(text), "utf-8")
    return turned([json.loads(line) for line in text])


def through(drawn: Drawn, folder: Path):
    """Read the drawn tables; the Dataset, the tables as they were, whether untyped."""
    items, log, route = drawn.items, drawn.log, drawn.route
    untyped = False
    if route in ("load", "parts", "hive"):
        put(folder, items, log)
        if drawn.unit:
            about = json.dumps({"time_unit": drawn.unit})
            (folder / "dataset.json").write_text(about)
        items, log = pq.read_table(folder / ITEMS), pq.read_table(folder / LOG)
        if route != "load":
            (folder / LOG).unlink()
            log = as_parts(folder / LOG, log, route == "hive")
        return load(folder), items, log, untyped
    names = NAMES | {n: n for n in log.column_names if n in ("query", "query_id")}
    names |= {n: n for n in log.column_names if n == "session_id"}
    items, log = (
        items.select(["item_id", "title"]),
        log.select([n for n in log.column_names if n in names]),
    )
    sources = items, log
    if route == "frame":
        sources = items.to_pandas(), log.to_pandas()
        items, log = (pa.Table.from_pandas(f, preserve_index=False) for f in sources)
    elif route == "rows":
        sources = items.to_pylist(), log.to_pylist()
    elif route in ("csv", "json"):
        write = as_csv if route == "csv" else as_json
        sources = folder / f"items.{route}", folder / f"log.{route}"
        items, log = write(sources[0], items), write(sources[1], log)
        untyped = route == "csv"
    more = {"items": sources[0], "time_unit": drawn.unit}
    from_huggingface(sources[1], folder / "out", names, **more)
    return load(folder / "out"), items, log, untyped


def try_table(drawn: Drawn, folder: Path) -> str:
    """'right' or 'refused'. Raises what should not be."""
    try:
        try:
            found, items, log, untyped = through(drawn, folder)
        except DataError as error:
            one_line(error)
            return "refused"
        try:
            wanted = naive(items, log, untyped, drawn.unit)
        except Refused:
            raise Difference("read, where there is no right reading") from None
        compare(found, wanted, (items, log))
        if drawn.route == "load":
            try_others(folder, found)
        return "right"
    except Exception as error:
        last = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, Difference) or any("/lemur_mini/" in f for f in last):
            raise
        return "not drawn"  # nobody can write this table in that way


def try_others(folder: Path, found) -> None:
    """The report and the stream of a folder that `load` took."""
    health(folder)
    whole = Pages(replace(found.log, period=None), 4)  # a stream knows no periods
    wanted = list(whole.stream(np.arange(len(whole)), 2, 3))
    try:
        stream = list(PageStream(folder, 4, 3, 10**9, chunk=5).stream(2))
    except DataError as error:
        return one_line(error)
    if [b.item.tolist() for b in stream] != [b.item.tolist() for b in wanted]:
        raise Difference("the stream has other pages")
    if [b.history.tolist() for b in stream] != [b.history.tolist() for b in wanted]:
        raise Difference("the stream has other histories")


def one_line(error: DataError) -> None:
    if "\n" in str(error) or len(str(error)) > 2000:
        raise Difference(f"not one line: {error}")


# --- damaged files -------------------------------------------------------------------


def whole_files(folder: Path) -> None:
    """A small data set in every kind of file."""
    rows = 40
    log = {
        "user_id": [f"user {k % 5}" for k in range(rows)],
        "session_id": [k // 4 for k in range(rows)],
        "item_id": [k % 7 for k in range(rows)],
        "timestamp": [1_700_000_000 + 100 * k for k in range(rows)],
        "label": [k % 2 for k in range(rows)],
    }
    log["user_id"] = [f"user {k // 4}" for k in range(rows)]
    items = {"item_id": list(range(7)), "title": [f"film {k} ü" for k in range(7)]}
    table = pa.table(log)
    for name, made in ((ITEMS, pa.table(items)), (LOG, table)):
        pq.write_table(made, folder / name, write_page_checksum=True)
    (folder / "dataset.json").write_text(
        json.dumps(
            {"name": "n", "valid_start": 1_700_002_000, "test_start": 1_700_003_000}
        )
    )
    as_csv(folder / "log.csv", table)
    as_json(folder / "log.jsonl", table)
    for name in ("log.csv", "log.jsonl"):
        raw = (folder / name).read_bytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
        (folder / f"{name}.bz2").write_bytes(bz2.compress(raw))


FILES = [ITEMS, LOG, LOG, "dataset.json", "log.csv", "log.csv.gz", "log.csv.bz2"]
FILES += ["log.jsonl", "log.jsonl.gz"]


@st.composite
def damages(draw) -> tuple[str, str, float, int]:
    """A file, what happens to it, where (a share of its length), and a byte."""
    rng = draw(st.randoms(use_true_random=True))
    kinds = ["cut", "cut", "flip", "flip", "flip", "magic", "empty", "zeros", "twice"]
    return rng.choice(FILES), rng.choice(kinds), rng.random(), rng.randint(1, 255)


def damaged(raw: bytes, kind: str, place: float, byte: int) -> bytes:
    at = int(len(raw) * place)
    if kind == "cut":
        return raw[:at]
    if kind == "flip":
        return raw[:at] + bytes([raw[at] ^ byte]) + raw[at + 1 :]
    if kind == "magic":
        return bytes([byte] * 4) + raw[4:]
    if kind == "zeros":
        return raw[:at] + bytes(min(64, len(raw) - at)) + raw[at + 64 :]
    return b"" if kind == "empty" else raw + raw[at:]


def naive_file(path: Path):
    """What another reader finds in it; raises whatever it likes."""
    if path.suffix == ".parquet":
        return pq.ParquetFile(path).read_row_group(0)
    unpack = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix, open)
    with unpack(path, "rt", encoding="utf-8-sig", newline="") as file:
        if ".csv" not in path.name:
            return turned([json.loads(x) for x in file if x.strip()])
        return turned(
            [{k: v or None for k, v in r.items()} for r in csv.DictReader(file)]
        )


def try_file(drawn: tuple, folder: Path, whole: Path) -> str:
    """'right' or 'refused'. Raises what should not be."""
    name, *how = drawn
    for path in whole.iterdir():
        shutil.copy(path, folder)
    path = folder / name
    path.write_bytes(damaged(path.read_bytes(), *how))
    untyped = ".csv" in name
    try:
        if name.startswith("log."):
            columns = {n: n for n in (*NAMES, "session_id") if n != "title"}
            columns["title"] = "title"
            from_huggingface(path, folder / "out", columns, items=folder / ITEMS)
            found = load(folder / "out")
        else:
            found = load(folder)
            try_others(folder, found)
    except DataError as error:
        one_line(error)
        return "refused"
    try:
        items = naive_file(folder / ITEMS)
        log = naive_file(path if name.startswith("log.") else folder / LOG)
        wanted = naive(items, log, untyped)
    except Exception as error:
        raise Difference(f"read, where another reader says {error!r}") from error
    compare(found, wanted, (items,))
    return "right"


# --- the long form -------------------------------------------------------------------


def run(strategy, attempt, examples: int, number: int) -> tuple[Counter, list[str]]:
    """Try `examples` drawn inputs: how they ended, and what should not have been."""
    ends, problems = Counter(), []

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(drawn) -> None:
        if sum(ends.values()) >= examples:
            return
        with tempfile.TemporaryDirectory() as name, quiet():
            try:
                ends[attempt(drawn, Path(name))] += 1
            except Difference as error:
                ends["silent difference"] += 1
                problems.append(f"difference: {error}: {described(drawn)}")
            except Exception as error:
                ends["traceback"] += 1
                where = traceback.extract_tb(error.__traceback__)
                mine = [f for f in where if "/lemur_mini/" in f.filename][-1:]
                at = f"{Path(mine[0].filename).name}:{mine[0].lineno}" if mine else "?"
                said = " ".join(str(error).split())[:200]
                problems.append(
                    f"{type(error).__name__} at {at}: {said}: {described(drawn)}"
                )

    each()
    return ends, problems


def described(drawn) -> str:
    return f"{drawn.route} {drawn.note}" if isinstance(drawn, Drawn) else str(drawn)


@contextlib.contextmanager
def quiet():
    """What importers print, and what libraries warn of, is not looked at here."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def files_attempt(whole: Path):
    return lambda drawn, folder: try_file(drawn, folder, whole)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--tables", type=int, default=2000)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = {"date": datetime.date.today().isoformat(), "seed": options.seed}
    with tempfile.TemporaryDirectory() as name:
        whole_files(Path(name))
        for what, strategy, attempt, count in (
            ("tables", tables(), try_table, options.tables),
            ("files", damages(), files_attempt(Path(name)), options.files),
        ):
            ends, problems = run(strategy, attempt, count, options.seed)
            tried = sum(ends.values()) - ends["not drawn"]
            report[what] = {
                "tried": tried,
                "read rightly": ends["right"],
                "refused in one line": ends["refused"],
                "tracebacks": ends["traceback"],
                "silent differences": ends["silent difference"],
            }
            print(what, dict(ends))
            for line, times in Counter(problems).most_common(40):
                print(f"  {times} x {line}")
    if options.out:
        write_text_atomically(options.out, json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
