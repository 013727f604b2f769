"""One entry for every table: the right value, or one line, or a count."""

import bz2
import datetime
import gzip
import io
import json
import os
import socket
import tempfile
import uuid
from decimal import Decimal
from pathlib import Path
from urllib.error import URLError

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lemur_mini.data.features import decode
from lemur_mini.data.health import health
from lemur_mini.data.importers.amazon import from_amazon_reviews
from lemur_mini.data.importers.huggingface import from_huggingface
from lemur_mini.data.importers.images import fetch_images
from lemur_mini.data.importers.movielens import from_movielens
from lemur_mini.data.loading import checksum, load
from lemur_mini.data.pages import Pages
from lemur_mini.data.schema import DataError
from lemur_mini.data.streams import PageStream
from tests import fuzz

ITEMS, LOG = "items.parquet", "impressions.parquet"
NOON = 1_700_000_000  # 2023-11-14 22:13:20 in Greenwich
COLUMNS = {"user_id": "u", "item_id": "i", "timestamp": "t", "label": "r", "title": "n"}


def log(rows: int = 8, **other) -> dict:
    """Users, sessions of two, three items, labels in turn."""
    columns = {
        "user_id": [k // 2 % 2 for k in range(rows)],
        "session_id": [k // 2 for k in range(rows)],
        "item_id": [k % 3 for k in range(rows)],
        "timestamp": [NOON + 100 * k for k in range(rows)],
        "label": [k % 2 for k in range(rows)],
    }
    return columns | other


def items(**other) -> dict:
    return {"item_id": [0, 1, 2], "title": ["a", "b", "c"]} | other


def put(folder: Path, about=None, rows=None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in ((ITEMS, about or items()), (LOG, rows or log())):
        pq.write_table(pa.table(columns), folder / name)
    return folder


def foreign(rows: int = 40, **other) -> dict:
    """A log in other people's column names."""
    columns = {
        "u": [f"u{k % 4}" for k in range(rows)],
        "i": [f"i{k % 6}" for k in range(rows)],
        "t": [NOON + 1000 * k for k in range(rows)],
        "r": [float(1 + k % 5) for k in range(rows)],
        "n": [f"film {k % 6}" for k in range(rows)],
    }
    return columns | other


def refused(call, *words: str) -> str:
    """What is said, on one line with all of these words."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    return message


# --- kind 1: the data that was asked for ---------------------------------------------


def test_names_with_brackets_and_stars_are_names(tmp_path):
    put(tmp_path / "run1", rows=log(4))
    for name in ("run[12]", "run*", "run [x] (2)"):
        found = load(put(tmp_path / name))
        assert len(found.log.label) == 8 and found.name == name
        stream = PageStream(tmp_path / name, 4, 2).stream(9)
        assert sum(len(batch.user) for batch in stream) == 4


def test_a_file_that_is_written_again_is_read_again(tmp_path):
    put(tmp_path)
    before = os.stat(tmp_path / LOG)
    assert load(tmp_path).log.label.tolist() == [0, 1] * 4
    put(tmp_path, rows=log(label=[1, 0] * 4))
    os.utime(tmp_path / LOG, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load(tmp_path).log.label.tolist() == [1, 0] * 4


def parts(path: Path, table: dict, names: list[str]) -> None:
    """The table in as many parts as there are names."""
    whole, size = pa.table(table), -(-len(table["item_id"]) // len(names))
    for k, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(whole.slice(k * size, size), path / name)


def test_a_folder_of_parts_is_read_whole_in_natural_order(tmp_path):
    whole = load(put(tmp_path / "whole", rows=log(timestamp=[NOON] * 7 + [NOON + 9])))
    folder = put(tmp_path / "parts")
    for name in (ITEMS, LOG):
        (folder / name).unlink()
    parts(folder / ITEMS, items(), ["part-0.parquet"])
    names = ["part-1.parquet", "part-2.parquet", "more/part-9.parquet", "part-10.pq"]
    names = ["a/x.parquet", "part-2.parquet", "part-10.parquet", "z.parquet"]
    parts(folder / LOG, log(timestamp=[NOON] * 7 + [NOON + 9]), names)
    (folder / LOG / "_SUCCESS").touch()
    (folder / LOG / ".part-2.parquet.crc").write_bytes(b"crc")
    found = load(folder)
    assert (
        found.log.item.tolist() == whole.log.item.tolist() == [k % 3 for k in range(8)]
    )
    assert found.log.label.tolist() == whole.log.label.tolist()
    pages = [b.item.tolist() for b in PageStream(folder, 4, 2, chunk=3).stream(9)]
    assert pages == [
        b.item.tolist() for b in PageStream(tmp_path / "whole", 4, 2).stream(9)
    ]


def test_keys_of_folders_are_columns(tmp_path):
    folder = put(tmp_path)
    (folder / LOG).unlink()
    bare = {name: values for name, values in log().items() if name != "user_id"}
    bare |= {"session_id": [k // 4 for k in range(8)]}
    names = [
        "user_id=7/date=2024-01-01/a.parquet",
        "user_id=12/date=2024-01-02/a.parquet",
    ]
    parts(folder / LOG, bare, names)
    found = load(folder)
    assert found.users.tolist() == [7, 12]
    assert found.log.user.tolist() == [0] * 4 + [1] * 4
    assert found.counts["ignored column date: no column of the schema"] == 1
    (folder / LOG / "user_id=07").mkdir()
    (folder / LOG / names[0]).rename(folder / LOG / "user_id=07/a.parquet")
    refused(lambda: load(folder), "a.parquet: lies in no user_id=", "move it")


SPOILT = {
    "a Delta table": lambda f: (f / "_delta_log").mkdir(),
    "a job that did not end": lambda f: (f / "_temporary").mkdir(),
    "is no part like": lambda f: (f / "c.parquet.crdownload").touch(),
    "holds no parts": lambda f: [p.unlink() for p in f.iterdir()],
    "has other columns than a.parquet (label, tag)": lambda f: pq.write_table(
        pq.read_table(f / "b.parquet").rename_columns(
            ["user_id", "session_id", "item_id", "timestamp", "tag"]
        ),
        f / "b.parquet",
    ),
    "column user_id: has type string, elsewhere int64": lambda f: pq.write_table(
        pa.table(log(user_id=["x"] * 8)), f / "b.parquet"
    ),
}


@pytest.mark.parametrize("said", SPOILT)
def test_folders_that_are_no_table_are_refused(tmp_path, said):
    folder = put(tmp_path)
    (folder / LOG).unlink()
    parts(folder / LOG, log(), ["a.parquet", "b.parquet"])
    SPOILT[said](folder / LOG)
    refused(lambda: load(folder), str(folder / LOG), said)


def test_patterns_files_and_folders_that_are_not_there(tmp_path):
    out, folder = tmp_path / "out", put(tmp_path / "in")
    pattern = f"{folder}/*.parquet"
    said = "patterns are not expanded, a folder is read whole"
    refused(lambda: from_huggingface(pattern, out, COLUMNS), pattern, said)
    refused(lambda: load(pattern), pattern, "no such folder")
    refused(lambda: load(folder / LOG), "is no folder; give the folder that holds")
    refused(
        lambda: from_huggingface(tmp_path / "log.xlsx", out, COLUMNS), "no such file"
    )
    refused(lambda: load("a\0b"), "no such folder")
    said = "items.parquet: has other columns than impressions.parquet"
    refused(lambda: from_huggingface(folder, out, COLUMNS), said)
    (folder / "dataset.json").mkdir()
    refused(lambda: load(folder), "dataset.json: cannot be used (IsADirectoryError")


# --- kind 5: ids ---------------------------------------------------------------------

IDS = {
    "uint64": (pa.array([2**63, 2**64 - 1, 0], pa.uint64()), [2**63, 2**64 - 1, 0]),
    "small": (pa.array([1, -2, 3], pa.int8()), [1, -2, 3]),
    "leading zeros": (["007", "7", "0007"], ["007", "7", "0007"]),
    "bytes": ([b"a", "\u00fc".encode(), b"c"], ["a", "ü", "c"]),
    "view": (pa.array(["a", "b", "c"], pa.string_view()), ["a", "b", "c"]),
    "category": (pa.array(["a", "b", "c"]).dictionary_encode(), ["a", "b", "c"]),
    "whole floats": ([1.0, 2.0, 2.0**53 - 1], [1, 2, 2**53 - 1]),
    "decimals": ([Decimal(10**18), Decimal(2), Decimal(3)], [10**18, 2, 3]),
    "uuid": (
        pa.array([uuid.UUID(int=k).bytes for k in range(3)], pa.uuid()),
        [str(uuid.UUID(int=k)) for k in range(3)],
    ),
}


@pytest.mark.parametrize("kind", IDS)
def test_an_id_is_what_the_file_says(tmp_path, kind):
    values, wanted = IDS[kind]
    values = values if isinstance(values, pa.Array) else pa.array(values)
    place = pa.array([0, 1, 2, 0, 1, 2, 0, 1])
    plain = values.storage if isinstance(values, pa.ExtensionArray) else values
    taken = plain.dictionary_decode() if kind == "category" else plain
    taken = pa.array([taken[k.as_py()].as_py() for k in place], taken.type)
    if isinstance(values, pa.ExtensionArray):
        taken = values.type.wrap_array(taken)
    folder = put(tmp_path, items(item_id=values), log(item_id=taken))
    found = load(folder)
    assert found.items.tolist() == wanted
    assert found.items[found.log.item].tolist() == [wanted[k % 3] for k in range(8)]
    stream = np.concatenate(
        [b.item.numpy().ravel() for b in PageStream(folder, 2, 2).stream(1)]
    )
    assert stream.tolist() == [k % 3 for k in range(8)]


NO_IDS = {
    "null": ([None] + [1] * 7, "row 0: is empty or NaN"),
    "NaN": ([1.0, float("nan")] + [1.0] * 6, "row 1: is empty or NaN"),
    "half": ([1.0, 1.5] * 4, "row 1: 1.5 (double) is no whole number"),
    "too large": ([1.0, 2.0**53] * 4, "row 1: 9007199254740992.0 (double) is no whole"),
    "empty": (["a", ""] * 4, "row 1: is empty"),
    "truths": ([True, False] * 4, "has type bool; store numbers or strings"),
    "no text": ([b"a", b"\xff"] * 4, "row 1: is not UTF-8"),
    "parts": ([Decimal("1.5"), Decimal(2)] * 4, "row 0: 1.5 is no whole 64-bit number"),
    "times": ([datetime.datetime(2024, 1, 1)] * 8, "has type timestamp[us]"),
}


@pytest.mark.parametrize("kind", NO_IDS)
def test_what_is_no_id_is_refused(tmp_path, kind):
    values, said = NO_IDS[kind]
    folder = put(tmp_path, rows=log(user_id=values))
    where = f"{LOG}, column user_id"
    assert refused(lambda: load(folder), said).startswith(where)


def test_texts_and_numbers_are_not_joined(tmp_path):
    for mine, theirs in (("string", "int64"), ("int64", "string")):
        kinds = {"string": ["0", "1", "2"], "int64": [0, 1, 2]}
        rows = log(item_id=[kinds[theirs][k % 3] for k in range(8)])
        folder = put(tmp_path / mine, items(item_id=kinds[mine]), rows)
        said = f"{ITEMS}, column item_id: has type {mine}; {LOG} has {theirs}: use one"
        refused(lambda folder=folder: load(folder), said)
        refused(lambda folder=folder: list(PageStream(folder, 2, 2).stream(1)), said)


def test_ids_of_a_csv_keep_their_zeros_and_join_by_what_is_written(tmp_path):
    ids = ["0012", "12", "0034", "34", "0056", "56"]
    rows = foreign(i=[ids[k % 6] for k in range(40)])
    pd.DataFrame(rows).to_csv(tmp_path / "log.csv", index=False)
    out = tmp_path / "out"
    from_huggingface(tmp_path / "log.csv", out, COLUMNS, threshold=4)
    assert load(out).items.tolist() == ids
    about = pa.table({"i": [12, 34], "n": ["twelve", "thirty-four"]})  # numbers, typed
    rows = pd.DataFrame(foreign(i=[("12", "34")[k % 2] for k in range(40)]))
    rows.to_csv(tmp_path / "log.csv", index=False)
    from_huggingface(tmp_path / "log.csv", out, COLUMNS, items=about, threshold=4)
    assert load(out).items.tolist() == [12, 34]
    rows.loc[3, "i"] = "0012"
    rows.to_csv(tmp_path / "log.csv", index=False)
    arguments = tmp_path / "log.csv", out, COLUMNS
    said = "log.csv, column i, row 3: 0012 is not in the table; add the item"
    refused(lambda: from_huggingface(*arguments, items=about, threshold=4), said)
    rows.loc[3, "u"] = "None"
    rows.to_csv(tmp_path / "log.csv", index=False)
    said = "log.csv, column u, row 3: None may be an id, or say that there is none"
    refused(lambda: from_huggingface(*arguments, threshold=4), said)


def test_unsigned_numbers_of_json_keep_every_digit(tmp_path):
    rows = foreign(i=[2**64 - 1 - k % 6 for k in range(40)])
    (tmp_path / "log.jsonl").write_text(
        "\n".join(json.dumps({n: v[k] for n, v in rows.items()}) for k in range(40))
    )
    from_huggingface(tmp_path / "log.jsonl", tmp_path / "out", COLUMNS, threshold=4)
    assert load(tmp_path / "out").items.tolist() == [2**64 - 1 - k for k in range(6)]


# --- kind 6: labels and columns ------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), None])
def test_a_rating_that_is_missing_is_no_negative(tmp_path, bad):
    rows = foreign()
    rows["r"][3] = bad
    said = "the table, column r, row 3: is empty or NaN; fill it or drop the row"
    out = tmp_path / "out"
    refused(lambda: from_huggingface(pa.table(rows), out, COLUMNS, threshold=4), said)
    assert not out.exists()


def test_rows_are_named_as_they_stand_in_the_source(tmp_path):
    """Not as they stand after they were sorted by time."""
    rows = foreign(t=[NOON + 1000 * (40 - k) for k in range(40)], r=[1] * 40)
    rows["r"][3] = 7
    arguments = pa.table(rows), tmp_path / "out", COLUMNS
    said = "the table, column r, row 3: 7 is not a label; use 0 or 1"
    refused(lambda: from_huggingface(*arguments), said)


def test_sessions_with_queries_make_query_ids(tmp_path):
    query = ["x", "y", "x", "x", "y", "y", "x", "x"]
    folder = put(tmp_path / "in", rows=log(query=query))
    found = load(folder)
    assert found.queries == ["x", "y"] and not found.is_feed
    assert found.log.query.tolist() == [0, 1, 0, 0, 1, 1, 0, 0]
    assert found.log.qid.tolist() == [0, 1, 2, 2, 3, 3, 4, 4]  # session 0 asked twice
    assert found.counts["query_id made of session_id and query"] == 5
    assert not [name for name in found.counts if name.startswith("ignored")]
    batches = list(PageStream(folder, 4, 2).stream(9))
    assert [b.query.tolist() for b in batches] == [[0, 1, 0, 1, 0]]
    columns = {name: name for name in (*log(), "query")}
    about = pa.table(items())
    from_huggingface(pa.table(log(query=query)), tmp_path / "out", columns, items=about)
    assert load(tmp_path / "out").log.qid.tolist() == [0, 1, 2, 2, 3, 3, 4, 4]


def test_pairs_that_could_be_written_alike_stay_apart(tmp_path):
    rows = log(4, session_id=["1:a", "1", "1:a", "1"], query=["b", "a:b", "b", "a:b"])
    rows |= {"user_id": [0] * 4}
    assert load(put(tmp_path, rows=rows)).log.qid.tolist() == [0, 1, 0, 1]


TEXTS = {
    "category": pa.array(["a", None, "a"]).dictionary_encode(),
    "large": pa.array(["a", None, "a"], pa.large_string()),
    "view": pa.array(["a", None, "a"], pa.string_view()),
    "bytes": pa.array([b"a", None, b"a"]),
    "list": pa.array([["a"], None, ["a", None]]),
    "runs": pa.RunEndEncodedArray.from_arrays([1, 2, 3], pa.array(["a", None, "a"])),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_of_every_type_are_read(tmp_path, kind):
    (tmp_path / "in").mkdir()
    about = pa.table(items(words=TEXTS[kind]))
    assert health((about, pa.table(log()))).coverage["words"] == 2 / 3
    if kind != "runs":  # parquet cannot hold them
        found = load(put(tmp_path / "in", items(words=TEXTS[kind])))
        assert found.texts["words"] == ["a", None, "a"]
        assert found.counts["missing words"] == 1


def test_lists_of_texts_are_joined(tmp_path):
    about = items(tags=[["soft", "red"], [], None])
    found = load(put(tmp_path, about))
    assert found.texts["tags"] == ["soft red", "", None]


def test_every_unused_column_is_said_with_its_reason(tmp_path):
    about = items(price=[1.5, 2, 3], raw=[b"\xff", b"", b""], none=pa.nulls(3))
    about |= {"seen": pa.array([{"a": 1}] * 3)}
    rows = log(query_id=[k // 2 for k in range(8)], query=["q"] * 8, rank=[1] * 8)
    rows |= {"sampled": [False] * 7 + [True]}
    folder = put(tmp_path, about, rows)
    wanted = {
        "price": "type double: only texts are read",
        "raw": "bytes that are not UTF-8",
        "none": "holds nothing",
        "seen": "type struct<a: int64>: only texts are read",
        "session_id": "query_id is used",
        "rank": "no column of the schema",
        "sampled": "marks sampled negatives",
    }
    counts = load(folder).counts
    found = {name for name in counts if name.startswith("ignored")}
    assert found == {f"ignored column {name}: {why}" for name, why in wanted.items()}
    report = health(folder)
    assert report.unused == wanted and report.sampled == 1
    assert "not used: column rank, no column of the schema" in report.warnings()
    assert "not used: column price" in str(report)


UNASKED = [
    pa.array([datetime.date(2024, 1, 1)] * 8),
    pa.array([datetime.date(2024, 1, 1)] * 8, pa.date64()),
    pa.array([datetime.time(1)] * 8),
    pa.array([1] * 8, pa.duration("ns")),
    pa.array([Decimal("1.5")] * 8),
    pa.array(np.ones(8, np.float16)),
    pa.array([{"a": 1}] * 8),
    pa.array([[1.0]] * 8),
    pa.nulls(8),
    pa.array([(1, 2, 3)] * 8, pa.month_day_nano_interval()),
    pa.array(["a"] * 8).dictionary_encode(),
    pa.array([b"abcd"] * 8, pa.binary(4)),
]


def test_columns_that_nobody_asked_for_stop_nothing():
    """The report looks at each of them, whatever its type is."""
    rows = pa.table(log() | {f"more {k}": column for k, column in enumerate(UNASKED)})
    report = health((pa.table(items()), rows))
    assert set(report.unused) == {f"more {k}" for k in range(len(UNASKED))}


def test_a_name_that_stands_twice_is_refused(tmp_path):
    twice = pa.table(log()).append_column("label", pa.array([1] * 8))
    pq.write_table(twice, put(tmp_path) / LOG)
    refused(lambda: load(tmp_path), f"{LOG}, column label: stands twice")


# --- kind 7: time --------------------------------------------------------------------


def stamps(values, unit: str, zone: str | None = None) -> pa.Array:
    return pa.array(values, pa.timestamp(unit, zone))


HALF = [NOON, NOON + 1.5]  # what most of these say
TIMES = {
    "seconds": ([NOON, NOON + 1], [NOON, NOON + 1]),
    "floats": (HALF, HALF),
    "whole floats": ([float(NOON), NOON + 2.0], [NOON, NOON + 2]),
    "decimals": ([Decimal(NOON), Decimal(NOON) + Decimal("1.5")], HALF),
    "milliseconds": (stamps([NOON * 1000, NOON * 1000 + 1500], "ms"), HALF),
    "nanoseconds": (
        stamps([NOON * 10**9, NOON * 10**9 + 1_500_000_000], "ns"),
        HALF,
    ),
    "a zone": (stamps([NOON, NOON + 2], "s", "Asia/Tokyo"), [NOON, NOON + 2]),
    "days": (pa.array([19_000, 19_001], pa.date32()), [1_641_600_000, 1_641_686_400]),
    "date64": (
        pa.array([datetime.date(1970, 1, 1), datetime.date(1970, 1, 2)], pa.date64()),
        [0, 86_400],
    ),
    "texts": (["2023-11-14 22:13:20", "2023-11-14T22:13:21.500"], HALF),
    "texts with a zone": (
        ["2023-11-14T22:13:20Z", "2023-11-15 03:43:21.5+05:30"],
        HALF,
    ),
    "dates": (["1970-01-02", "1970-01-03"], [86_400, 172_800]),
    "digits": ([str(NOON), str(NOON + 1)], [NOON, NOON + 1]),
    "category": (pa.array(["1970-01-02", "1970-01-03"]).dictionary_encode(), None),
    "before 1970": (["1969-12-31 23:59:59", "1970-01-01 00:00"], [-1, 0]),
    "small float32": (pa.array([1.0, 2.0], pa.float32()), [1, 2]),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_of_every_kind(tmp_path, kind):
    values, wanted = TIMES[kind]
    values = values if isinstance(values, pa.Array) else pa.array(values)
    rows = log(2, timestamp=values, session_id=[0, 1], user_id=[0, 0])
    about = {"name": "n", "valid_start": -(10**9), "test_start": NOON + 1}
    wanted = wanted or [86_400, 172_800]
    about["test_start"] = int(np.ceil(wanted[0] + 0.1))
    folder = put(tmp_path / "in", rows=rows)
    (folder / "dataset.json").write_text(json.dumps(about))
    found = load(folder).log.timestamp
    assert found.tolist() == wanted
    assert found.dtype == (np.float64 if wanted == HALF else np.int64)
    columns = {name: name for name in rows} | {"created_at": "timestamp"}
    from_huggingface(pa.table(rows), tmp_path / "out", columns, time_unit="s")
    again = pq.read_table(tmp_path / "out" / LOG)["timestamp"]
    if wanted == HALF:
        assert again.type == pa.timestamp("ms", "UTC")
    else:
        assert again.to_pylist() == wanted


NO_TIMES = {
    "float32": (
        pa.array(np.array([NOON, NOON + 9], np.float32)),
        "has type float, too coarse for seconds; store int64, float64 or timestamps",
    ),
    "milliseconds": (
        [NOON * 1000, NOON * 1000 + 1],
        f"row 0: {NOON}000 looks like milliseconds; divide by 1000, or say time_unit",
    ),
    "a date as a number": ([20240131, 20240201], "may be a date written as a number"),
    "a moment as a number": ([20240131235959] * 2, "20240131235959 looks like a date"),
    "american": (
        ["01/31/2024", "02/01/2024"],
        "row 0: 01/31/2024 is not a time; write",
    ),
    "no day": (["2024-01-31", "2024-02-30"], "row 1: 2024-02-30 is not a time"),
    "two ways": (["2024-01-31", "2024-01-31 00:00Z"], "row 1: 2024-01-31 00:00Z: some"),
    "a strange zone": (["2024-01-31 00:00+99:00"] * 2, "has no zone that there is"),
    "infinite": ([1.0, float("inf")], "row 1: inf is not a time"),
    "duration": (pa.array([1, 2], pa.duration("s")), "has type duration[s]"),
    "null": (["2024-01-31", None], "row 1: is empty or NaN"),
    "mixed": (["1700000000", "2024-01-31"], "row 0: 1700000000 is not a time"),
}


@pytest.mark.parametrize("kind", NO_TIMES)
def test_what_is_no_time_is_refused(tmp_path, kind):
    values, said = NO_TIMES[kind]
    folder = put(tmp_path, rows=log(2, timestamp=values))
    assert refused(lambda: load(folder), said).startswith(f"{LOG}, column timestamp")


@pytest.mark.parametrize(
    ("unit", "ticks"), [("ms", 10**3), ("us", 10**6), ("ns", 10**9)]
)
def test_numbers_with_a_unit(tmp_path, unit, ticks):
    times = [NOON * ticks + k * ticks // 4 for k in range(8)]
    folder = put(tmp_path / "in", rows=log(timestamp=times))
    (folder / "dataset.json").write_text(json.dumps({"time_unit": unit}))
    wanted = [NOON + k / 4 for k in range(8)]
    assert load(folder).log.timestamp.tolist() == wanted
    assert load(folder).test_start == NOON + 1  # nobody names one
    columns = {name: name for name in log()}
    from_huggingface(
        pa.table(log(timestamp=times)), tmp_path / "out", columns, time_unit=unit
    )
    assert load(tmp_path / "out").log.timestamp.tolist() == wanted
    (folder / "dataset.json").write_text('{"time_unit": "weeks"}')
    refused(lambda: load(folder), "time_unit 'weeks' is none; use one of s, ms, us, ns")


@pytest.mark.parametrize(("unit", "step"), [("ms", 1), ("us", 1), ("ns", 300)])
def test_order_inside_a_second(tmp_path, unit, step):
    """Watched in the order 1, 2, 3, 0; histories are newest first."""
    ticks = {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    times = [NOON * ticks + step * t for t in (9, 1, 5, 7)] + [(NOON + 99) * ticks]
    rows = {
        "user_id": [0] * 5,
        "session_id": list(range(5)),
        "item_id": [0, 1, 2, 0, 1],
        "timestamp": stamps(times, unit),
        "label": [1] * 5,
    }
    found = load(put(tmp_path, rows=rows))
    assert found.counts["impressions out of time order"] == 1
    pages = Pages(found.log, 4)
    assert pages.history(pages.between(NOON + 50, None), 5).tolist() == [
        [0, 0, 2, 1, -1]
    ]
    middle = pages.history(np.arange(3), 2).tolist()
    assert middle == [[-1, -1], [1, -1], [2, 1]]


def test_closer_than_a_microsecond_is_sorted_and_counted(tmp_path):
    times = [NOON * 10**9 + t for t in (3, 1, 2, 0)]
    rows = log(4, timestamp=stamps(times, "ns"), item_id=[0, 1, 2, 1])
    rows |= {"session_id": [0, 1, 2, 3], "user_id": [0] * 4}
    folder = put(tmp_path, rows=rows)
    about = {"name": "n", "valid_start": 0, "test_start": 1}
    (folder / "dataset.json").write_text(json.dumps(about))
    refused(lambda: load(folder), "leaves nothing to train on")  # one moment
    rows["timestamp"] = stamps([*times[:3], (NOON + 1) * 10**9], "ns")
    about["test_start"] = NOON + 1
    (put(tmp_path, rows=rows) / "dataset.json").write_text(json.dumps(about))
    found = load(folder)
    assert found.log.item.tolist() == [1, 2, 0, 1]
    assert found.counts["impressions closer than a microsecond"] == 2


def test_the_stream_sees_order_inside_a_second(tmp_path):
    times = [NOON * 1000 + t for t in (0, 2, 1, 3)]
    folder = put(tmp_path, rows=log(4, timestamp=stamps(times, "ms")))
    said = f"{LOG}, column timestamp, row 2"
    refused(lambda: list(PageStream(folder, 2, 2).stream(1)), said, "is earlier than")


# --- kind 10: whatever holds a table -------------------------------------------------


def holders(folder: Path) -> dict:
    rows = foreign()
    frame, whole = pd.DataFrame(rows), datasets.Dataset.from_dict(rows)
    text = frame.to_csv(index=False)
    lines = frame.to_json(orient="records", lines=True)
    for name, raw in {
        "log.csv": text.encode(),
        "log.tsv": frame.to_csv(index=False, sep="\t").encode(),
        "marked.csv": text.encode("utf-16"),
        "log.csv.gz": gzip.compress(text.encode()),
        "log.jsonl.bz2": bz2.compress(lines.encode()),
        "list.json": frame.to_json(orient="records").encode(),
        "columns.json": frame.to_json(orient="columns").encode(),
    }.items():
        (folder / name).write_bytes(raw)
    spark = folder / "log.csv.parts"
    spark.mkdir()
    for k in range(2):
        part = frame[20 * k : 20 * k + 20]
        part.to_csv(spark / f"part-{k}.csv", index=False)
    whole.save_to_disk(str(folder / "saved"))
    files = ("log.csv", "log.tsv", "marked.csv", "log.csv.gz", "log.jsonl.bz2")
    files += ("list.json", "columns.json", "log.csv.parts", "saved")
    return {name: folder / name for name in files} | {
        "frame": frame,
        "frame with an index": frame.set_index("u"),
        "list": frame.to_dict("records"),
        "dict": rows,
        "splits": datasets.DatasetDict(train=whole, test=whole.select([0])),
        "stream": whole.to_iterable_dataset(),
        "streams": datasets.IterableDatasetDict(train=whole.to_iterable_dataset()),
        "reader": pa.table(rows).to_reader(),
    }


def test_whatever_holds_a_table_is_read(tmp_path, capsys):
    for name, source in holders(tmp_path).items():
        out = tmp_path / "out" / name
        from_huggingface(source, out, COLUMNS, threshold=4)
        found, rows = load(out), foreign()
        assert found.users[found.log.user].tolist() == rows["u"], name
        assert found.items[found.log.item].tolist() == rows["i"], name
        assert found.log.label.tolist() == [int(r >= 4) for r in rows["r"]], name
        assert found.log.timestamp.tolist() == rows["t"], name
        assert found.texts["title"] == [f"film {k}" for k in range(6)], name


NO_TABLES = {
    "a generator": (lambda f: iter([1]), "a list_iterator is no table"),
    "numbers": (lambda f: [1, 2], "the table, row 0: is a int; give a dict"),
    "other splits": (
        lambda f: datasets.DatasetDict(a=datasets.Dataset.from_dict(foreign())),
        "split train: is not there; use split= with one of a",
    ),
    "two types": (
        lambda f: [{"u": 1}, {"u": "x"}],
        "the table, column u: mixes types",
    ),
    "other lengths": (lambda f: {"u": [1], "i": [1, 2]}, "u 1, i 2); make them one"),
    "a frame of both": (lambda f: pd.DataFrame({"u": [1, "x"]}), "DataFrame cannot be"),
}


@pytest.mark.parametrize("kind", NO_TABLES)
def test_what_holds_no_table_is_refused(tmp_path, kind):
    make, said = NO_TABLES[kind]
    source = make(tmp_path)
    refused(lambda: from_huggingface(source, tmp_path / "out", COLUMNS), said)


FILES = {
    "log.csv.gz": (lambda raw: gzip.compress(raw)[:200], "it may be cut short"),
    "log.csv": (lambda raw: raw + b'1,"', "log.csv: cannot be read (CSV parse error"),
    "wrong.csv": (
        lambda raw: raw.replace(b"film", b"f\xff", 1),
        "line 2: is not UTF-8",
    ),
    "twice.csv": (lambda raw: raw.replace(b"r,n", b"n,n", 1), "column n: stands twice"),
    "log.jsonl": (lambda raw: b'{"u": 1}\n{"u": ', "log.jsonl, line 2: no JSON"),
    "deep.jsonl": (lambda raw: b"[" * 10**5, "deep.jsonl: no JSON"),
    "list.jsonl": (lambda raw: b"3\n", "list.jsonl, line 1: is no JSON object"),
    "log.parquet": (lambda raw: b"PAR1", "log.parquet: cannot be read"),
    "empty.csv": (lambda raw: b"", "empty.csv: cannot be read (Empty CSV file)"),
    "log.xlsx": (lambda raw: raw, "log.xlsx: is of no known kind; use one of"),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_refused_in_one_line(tmp_path, name):
    spoil, said = FILES[name]
    raw = pd.DataFrame(foreign()).to_csv(index=False).encode()
    (tmp_path / name).write_bytes(spoil(raw))
    call = lambda: from_huggingface(tmp_path / name, tmp_path / "out", COLUMNS)  # noqa: E731
    assert str(tmp_path / name) in refused(call, said)


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path):
    columns = {name: name for name in log()}
    from_huggingface(pa.table(log()), tmp_path / "out", columns)
    file = tmp_path / "out" / LOG
    raw, whole, refusals = file.read_bytes(), load(tmp_path / "out"), 0
    for place in range(0, len(raw), 7):
        spoilt = bytearray(raw)
        spoilt[place] ^= 1
        file.write_bytes(spoilt)
        try:
            found = load(tmp_path / "out")
            assert checksum(found) == checksum(whole), place
        except DataError as error:
            refusals += 1
            assert "\n" not in str(error)
    assert refusals > len(raw) // 7 // 2


def test_a_page_whose_checksum_is_wrong_is_refused(tmp_path):
    columns = {name: name for name in log()}
    from_huggingface(pa.table(log()), tmp_path / "out", columns)
    file = tmp_path / "out" / LOG
    raw = bytearray(file.read_bytes())
    pages = pq.ParquetFile(file).metadata.row_group(0).column(3)
    raw[pages.data_page_offset + pages.total_compressed_size // 2] ^= 1
    file.write_bytes(raw)
    refused(lambda: load(tmp_path / "out"), f"{file}: cannot be read", "write it again")
    stream = lambda: list(PageStream(tmp_path / "out", 2, 2).stream(1))  # noqa: E731
    refused(stream, f"{file}: cannot be read", "write it again")


def test_an_out_that_cannot_be_written(tmp_path):
    (tmp_path / "out").write_text("a file")
    call = lambda: from_huggingface(foreign(), tmp_path / "out", COLUMNS, threshold=4)  # noqa: E731
    refused(call, "out", "cannot be written")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"user_id": None}, "line 1, user_id: None is no str"),
        ({"user_id": ""}, "line 1, user_id: '' is no str"),
        ({"parent_asin": 7}, "line 1, parent_asin: '7' is no str"),
        ({"rating": float("nan")}, "line 1, rating: 'nan' is no float"),
        ({"timestamp": 1.5e12 + 0.5}, "line 1, timestamp: '1500000000000.5' is no int"),
        ({"timestamp": NOON}, "are no milliseconds; multiply seconds by 1000"),
        ({"rating": True}, "line 1, rating: 'True' is no float"),
    ],
)
def test_reviews_with_odd_values_are_refused(tmp_path, line, said):
    row = {"user_id": "a", "parent_asin": "b", "rating": 4.0, "timestamp": NOON * 1000}
    (tmp_path / "X.jsonl").write_text(json.dumps(row | line) + "\n")
    (tmp_path / "meta_X.jsonl").write_text('{"parent_asin": "b"}\n')
    refused(
        lambda: from_amazon_reviews(tmp_path, tmp_path / "out", "X"), "X.jsonl", said
    )


def test_odd_metadata_stops_nothing_and_is_counted(tmp_path):
    rows = [
        {"user_id": "a", "parent_asin": k, "rating": 4, "timestamp": NOON * 1000 + n}
        for n, k in enumerate("bcdb")
    ]
    (tmp_path / "X.jsonl").write_text("\n".join(map(json.dumps, rows)))
    metas = [
        {"parent_asin": "b", "title": 7, "features": [1, None], "images": "none"},
        {"parent_asin": "b", "title": "another"},
        {"parent_asin": "c", "images": [None, {"large": 5}]},
        {"parent_asin": None},
    ]
    (tmp_path / "meta_X.jsonl").write_text("\n".join(map(json.dumps, metas)))
    from_amazon_reviews(tmp_path, tmp_path / "out", "X")
    facts = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (
        facts["items_without_metadata"] == 1 and facts["metadata_lines_repeated"] == 1
    )
    table = pq.read_table(tmp_path / "out" / ITEMS).to_pylist()
    assert table[0]["title"] == "7" and table[0]["features"] == "1"


def test_movielens_without_a_rating_is_refused(tmp_path):
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,A (1999),x\n")
    text = "userId,movieId,rating,timestamp\n1,1,4,5\n2,1,nan,6\n"
    (tmp_path / "ratings.csv").write_text(text)
    said = "ratings.csv, column rating, row 1: is empty or NaN"
    refused(lambda: from_movielens(tmp_path, tmp_path / "out"), said)


# --- kind 12: pictures ---------------------------------------------------------------


def test_paths_in_a_csv_count_from_its_folder(tmp_path, monkeypatch):
    folder = tmp_path / "shop"
    (folder / "img").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(folder / "img" / "0.png")
    rows = foreign(p=["img/0.png"] * 40)
    pd.DataFrame(rows).to_csv(folder / "log.csv", index=False)
    columns = COLUMNS | {"image": "p"}
    for source, place in ((folder / "log.csv", tmp_path), (rows, folder)):
        monkeypatch.chdir(place)  # where a table in memory counts from
        from_huggingface(source, tmp_path / "out", columns, threshold=4)
        found = load(tmp_path / "out")
        pixels = decode(found.images[0], 8, found.folder)
        assert pixels[:, 0, 0].tolist() == [255, 0, 0]
    rows["p"][0] = "http://h/0.png"
    from_huggingface(rows, tmp_path / "out", columns, threshold=4)
    assert load(tmp_path / "out").counts["image is a web address, not fetched"] == 1


def test_pictures_in_structs_of_both_kinds(tmp_path):
    raw = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(raw, "PNG")
    both = [{"bytes": raw.getvalue(), "path": None}, {"bytes": None, "path": "x"}, None]
    found = load(put(tmp_path, items(image=both)))
    assert found.images == [raw.getvalue(), "x", None]
    assert found.counts["missing image"] == 1


def test_an_unreachable_host_is_found_once_and_said(tmp_path, capsys):
    asked = []

    def opener(url, timeout):
        asked.append(url)
        if "//gone/" in url:
            raise URLError(socket.gaierror(-2, "Name or service not known"))
        return io.BytesIO(b"picture")

    urls = [f"http://gone/{k}" for k in range(390)] + ["http://here/1", None]
    found = fetch_images(urls, tmp_path, pause=0, opener=opener)
    assert found == [None] * 390 + [b"picture", None]
    assert sorted(asked) == ["http://gone/0"] * 3 + ["http://here/1"]
    said = capsys.readouterr().out
    assert "gone cannot be reached (<urlopen error [Errno -2]" in said
    assert "390 of 392 images could not be fetched, such as http://gone/0" in said


# --- the fuzz, in short --------------------------------------------------------------


def test_drawn_tables_are_right_or_refused():
    ends, problems = fuzz.run(fuzz.tables(), fuzz.try_table, 80, 0)
    assert problems == [] and ends["right"] > 20 and ends["refused"] > 20


def test_damaged_files_are_right_or_refused():
    with tempfile.TemporaryDirectory() as name:
        fuzz.whole_files(Path(name))
        attempt = fuzz.files_attempt(Path(name))
        ends, problems = fuzz.run(fuzz.damages(), attempt, 60, 0)
    assert problems == [] and ends["right"] > 2 and ends["refused"] > 20


def test_the_fuzz_can_find(monkeypatch):
    """A reader that drops the last label, and one that breaks, are found."""
    import dataclasses

    def wrong(folder):
        found = load(folder)
        label = found.log.label.copy()
        label[-1] = 1 - label[-1]
        return dataclasses.replace(
            found, log=dataclasses.replace(found.log, label=label)
        )

    monkeypatch.setattr(fuzz, "load", wrong)
    ends, problems = fuzz.run(fuzz.tables(), fuzz.try_table, 20, 0)
    assert ends["silent difference"] > 5 and ends["right"] == 0
    assert "difference: label" in problems[0]
