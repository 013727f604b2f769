"""Bad input: the fatal names file, column, row and remedy; the rest is counted."""

import io
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lemur_mini.__main__ import main
from lemur_mini.data.features import make_features, make_tokenizer
from lemur_mini.data.loading import checksum, load
from lemur_mini.data.schema import DataError

ROOT = Path(__file__).resolve().parent.parent
ITEMS, LOG = "items.parquet", "impressions.parquet"
NAN = float("nan")


@pytest.fixture
def bad(folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data set, to be spoiled."""
    return shutil.copytree(folder, tmp_path / "bad")


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def put(file: str, column: str, row: int, value) -> Callable[[Path], None]:
    """Spoils one cell."""

    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[row] = value
        place = table.column_names.index(column)
        return table.set_column(place, column, pa.array(values))

    return lambda folder: rewrite(folder / file, change)


def retype(file: str, column: str, convert: Callable) -> Callable[[Path], None]:
    """Spoils a whole column."""

    def change(table: pa.Table) -> pa.Table:
        values = pa.array([convert(value) for value in table[column].to_pylist()])
        return table.set_column(table.column_names.index(column), column, values)

    return lambda folder: rewrite(folder / file, change)


def drop(file: str, column: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder / file, lambda t: t.drop_columns([column]))


def no_rows(file: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder / file, lambda table: table.slice(0, 0))


def content(file: str, raw: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(raw)


def latin1(file: str, column: str, row: int) -> Callable[[Path], None]:
    """Declares bytes to be strings that are none."""

    def change(table: pa.Table) -> pa.Table:
        values = [value.encode() for value in table[column].to_pylist()]
        values[row] = "pâtisserie".encode("latin-1")
        raw = pa.array(values, pa.binary())
        text = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
        return table.set_column(table.column_names.index(column), column, text)

    return lambda folder: rewrite(folder / file, change)


def many_fields(table: pa.Table) -> pa.Table:
    for k in range(300):
        table = table.append_column(f"extra{k}", pa.array(["x"] * len(table)))
    return table


ENCODING = "is not UTF-8; read the source in its own encoding, such as latin-1"
COLUMNS = "user_id, query_id, query, item_id, timestamp, label, probability"
SEE = "is missing; see lemur_mini.data.schema; columns found"
EMPTY = "is empty or NaN; fill it or drop the row"
FATAL = {
    "unknown item": (
        put(LOG, "item_id", 3, 9999),
        f"{LOG}, column item_id, row 3: 9999 is not in {ITEMS}; "
        "add the item or drop the row",
    ),
    "label outside 0 and 1": (
        put(LOG, "label", 5, 2),
        f"{LOG}, column label, row 5: 2 is not a label; use 0 or 1",
    ),
    "label between 0 and 1": (
        put(LOG, "label", 5, 0.5),
        f"{LOG}, column label, row 5: 0.5 is not a label; use 0 or 1",
    ),
    "label NaN": (put(LOG, "label", 4, NAN), f"{LOG}, column label, row 4: {EMPTY}"),
    "timestamp NaN": (
        put(LOG, "timestamp", 6, NAN),
        f"{LOG}, column timestamp, row 6: {EMPTY}",
    ),
    "timestamp infinite": (
        put(LOG, "timestamp", 6, float("inf")),
        f"{LOG}, column timestamp, row 6: inf is not a time; use unix seconds",
    ),
    "timestamp of strings": (
        retype(LOG, "timestamp", "on day {}".format),
        f"{LOG}, column timestamp, row 0: on day FIRST is not a time; "
        "write 2024-01-31 12:00:00, or unix seconds",
    ),
    "user null": (
        put(LOG, "user_id", 7, None),
        f"{LOG}, column user_id, row 7: {EMPTY}",
    ),
    "user of lists": (
        retype(LOG, "user_id", lambda value: [value]),
        f"{LOG}, column user_id: has type list<element: int64>; "
        "store numbers or strings",
    ),
    "query of numbers": (
        retype(LOG, "query", len),
        f"{LOG}, column query: has type int64; store strings",
    ),
    "probability above 1": (
        put(LOG, "probability", 2, 1.5),
        f"{LOG}, column probability, row 2: 1.5 is not a probability; "
        "drop the column if unknown",
    ),
    "probability NaN": (
        put(LOG, "probability", 2, NAN),
        f"{LOG}, column probability, row 2: nan is not a probability; "
        "drop the column if unknown",
    ),
    "probability of strings": (
        retype(LOG, "probability", str),
        f"{LOG}, column probability: has type string; store numbers",
    ),
    "query with two users": (
        put(LOG, "user_id", 4, 59),
        f"{LOG}, column user_id, row 4: query_id 1 has another user_id in an earlier "
        "row; use one query_id for each",
    ),
    "query with two texts": (
        put(LOG, "query", 4, "other words"),
        f"{LOG}, column query, row 4: query_id 1 has another query in an earlier row; "
        "use one query_id for each",
    ),
    "duplicate item": (
        put(ITEMS, "item_id", 8, 3),
        f"{ITEMS}, column item_id, row 8: 3 stands also in row 3, with another "
        "title, ocr, asr, cover_ocr, image; keep one row of it",
    ),
    "duplicate item that agrees": (
        lambda folder: rewrite(
            folder / ITEMS, lambda t: pa.concat_tables([t, t.slice(2, 1)])
        ),
        f"{ITEMS}, column item_id, row 120: 2 stands also in row 2, with the same "
        "content; keep one row of it",
    ),
    **{
        f"timestamp in {unit}": (
            retype(LOG, "timestamp", lambda value, ticks=ticks: value * ticks),
            f"{LOG}, column timestamp, row 0: FIRST{zeros} looks like {unit}; "
            f'divide by {ticks}, or say time_unit "{short}": timestamps are unix '
            "seconds",
        )
        for unit, short, ticks, zeros in (
            ("milliseconds", "ms", 10**3, "000"),
            ("microseconds", "us", 10**6, "000000"),
            ("nanoseconds", "ns", 10**9, "000000000"),
        )
    },
    "timestamp in milliseconds from some row on": (
        put(LOG, "timestamp", 9, 1_735_689_600_000),
        f"{LOG}, column timestamp, row 9: 1735689600000 looks like milliseconds; "
        'divide by 1000, or say time_unit "ms": timestamps are unix seconds',
    ),
    "timestamp beyond all time": (
        put(LOG, "timestamp", 6, 1e30),
        f"{LOG}, column timestamp, row 6: 1e+30 is not a time; use unix seconds",
    ),
    "latin-1 title": (
        latin1(ITEMS, "title", 4),
        f"{ITEMS}, column title, row 4: {ENCODING}",
    ),
    "latin-1 query": (
        latin1(LOG, "query", 11),
        f"{LOG}, column query, row 11: {ENCODING}",
    ),
    "renamed columns": (
        lambda folder: rewrite(
            folder / ITEMS, lambda t: t.rename_columns(["id", *t.column_names[1:]])
        ),
        f"{ITEMS}, column item_id: {SEE}: "
        "id, title, ocr, asr, cover_ocr, image, created_at",
    ),
    "more fields than types": (
        lambda folder: rewrite(folder / ITEMS, many_fields),
        f"{ITEMS}, column extra246: is text field number 251; "
        "join some fields into one",
    ),
    "image of structs of numbers": (
        retype(ITEMS, "image", lambda raw: {"bytes": 1, "path": 2}),
        f"{ITEMS}, column image: has type struct<bytes: int64, path: int64>; "
        "store encoded bytes, {bytes, path} or paths",
    ),
    "user of half floats": (
        retype(LOG, "user_id", lambda value: np.float16(value)),
        f"{LOG}, column user_id: has type halffloat; store numbers or strings",
    ),
    "periods without end": (
        content(
            "dataset.json", b'{"name": "mine", "valid_start": 1, "test_start": 1e999}'
        ),
        "PATH/dataset.json: cannot be used (OverflowError: cannot convert float "
        "infinity to integer); give name, valid_start and test_start (unix seconds), "
        "or remove it",
    ),
    "item null": (
        put(ITEMS, "item_id", 8, None),
        f"{ITEMS}, column item_id, row 8: {EMPTY}",
    ),
    "item ids of two types": (
        retype(ITEMS, "item_id", "film {}".format),
        f"{ITEMS}, column item_id: has type string; {LOG} has int64: use one type",
    ),
    "image of numbers": (
        retype(ITEMS, "image", len),
        f"{ITEMS}, column image: has type int64; "
        "store encoded bytes, {bytes, path} or paths",
    ),
    "no label": (
        drop(LOG, "label"),
        f"{LOG}, column label: {SEE}: {COLUMNS.replace(' label,', '')}",
    ),
    "no query_id": (
        drop(LOG, "query_id"),
        f"{LOG}, column query_id: {SEE}: {COLUMNS.replace(' query_id,', '')}",
    ),
    "no item_id": (
        drop(ITEMS, "item_id"),
        f"{ITEMS}, column item_id: {SEE}: "
        "title, ocr, asr, cover_ocr, image, created_at",
    ),
    "no bytes": (
        content(LOG, b""),
        f"PATH/{LOG}: cannot be read (Parquet file size is 0 bytes); write it again",
    ),
    "no rows of impressions": (
        no_rows(LOG),
        f"{LOG}, column user_id: the file has no rows; write at least one",
    ),
    "no rows of items": (
        no_rows(ITEMS),
        f"{ITEMS}, column item_id: the file has no rows; write at least one",
    ),
    "no file": (
        lambda folder: (folder / LOG).unlink(),
        f"PATH/{LOG}: not found; a data set is {ITEMS} and {LOG}",
    ),
    "no folder": (
        shutil.rmtree,
        "PATH: no such folder; give a folder, or a hub id when online",
    ),
    "periods cut short": (
        content("dataset.json", b'{"name": "mine"}'),
        "PATH/dataset.json: cannot be used (KeyError: 'valid_start'); "
        "give name, valid_start and test_start (unix seconds), or remove it",
    ),
    "nothing to test on": (
        content(
            "dataset.json",
            b'{"name": "mine", "valid_start": 1, "test_start": 2000000000}',
        ),
        "PATH/dataset.json: test_start 2000000000 leaves nothing to train on or "
        "nothing to test on, or is before valid_start 1; choose it in (BEGIN, END]",
    ),
}


@pytest.mark.parametrize(("spoil", "expected"), FATAL.values(), ids=FATAL)
def test_message(bad, dataset, spoil, expected):
    spoil(bad)
    with pytest.raises(DataError) as caught:
        load(bad)
    begin, end = dataset.log.timestamp[[0, -1]]
    expected = expected.replace("FIRST", str(begin))  # this log is in time order
    expected = expected.replace("BEGIN", str(begin)).replace("END", str(end))
    assert str(caught.value) == expected.replace("PATH", str(bad))


@pytest.mark.parametrize("spoil", [spoil for spoil, _ in FATAL.values()], ids=FATAL)
def test_command_says_one_line_and_writes_nothing(bad, tmp_path, capfd, spoil):
    spoil(bad)
    out = tmp_path / "out"
    assert main(["--data", str(bad), "--out", str(out), "--device", "cpu"]) == 2
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 1, errors
    assert errors[0].startswith("lemur_mini: ")
    assert not out.exists()


def test_damage_in_the_middle_of_a_file(bad, tmp_path):
    # in a process of its own: loggers hold on to the stderr that capfd replaces
    raw = bytearray((bad / LOG).read_bytes())
    raw[50:4000] = bytes(3950)  # the footer is whole: only reading on finds it
    content(LOG, bytes(raw))(bad)
    with pytest.raises(DataError) as caught:
        load(bad)
    message = str(caught.value)
    assert message.startswith(f"{bad / LOG}: cannot be read (")
    assert message.endswith("); write it again") and "\n" not in message
    options = ["--data", str(bad), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "lemur_mini", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (2, f"lemur_mini: {message}\n")
    assert not (tmp_path / "out").exists()


def test_broken_tokenizer(bad, config, tmp_path, capfd):
    (bad / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError) as caught:
        make_tokenizer(load(bad), config)
    message = str(caught.value)
    assert message.startswith(f"{bad / 'tokenizer.json'}: not a tokenizer (")
    assert message.endswith("); remove it, and one is trained")
    assert main(["--data", str(bad), "--out", str(tmp_path / "out")]) == 2
    assert capfd.readouterr().err == f"lemur_mini: {message}\n"
    assert not (tmp_path / "out").exists()


# --- what is repaired or left out, and counted ---------------------------------------


@pytest.mark.parametrize("turn", ["reverse", "shuffle"])
def test_unsorted_time_is_sorted_and_counted(bad, dataset, turn):
    sizes = np.bincount(dataset.log.qid)
    blocks = np.split(np.arange(len(dataset.log.qid)), np.cumsum(sizes)[:-1])
    times = [dataset.log.timestamp[block[0]] for block in blocks if len(block)]
    assert len(set(times)) == len(times)  # no ties, so there is one right order
    order = np.arange(len(blocks))[::-1]
    if turn == "shuffle":
        np.random.default_rng(0).shuffle(order)
    rows = np.concatenate([blocks[k] for k in order])
    rewrite(bad / LOG, lambda table: table.take(rows))
    found = load(bad)
    steps = int((np.diff(dataset.log.timestamp[rows]) < 0).sum())
    assert found.counts["impressions out of time order"] == steps > 50
    assert dataset.counts["impressions out of time order"] == 0
    assert checksum(found) == checksum(dataset)
    assert found.queries == dataset.queries
    assert found.users.tolist() == dataset.users.tolist()
    assert found.truth.tolist() == dataset.truth.tolist()


def test_missing_text_is_counted(bad, dataset):
    for row, value in enumerate([None, "", "  \n"]):
        put(ITEMS, "title", row, value)(bad)
    assert dataset.counts["missing title"] == 0
    assert load(bad).counts["missing title"] == 3


def test_missing_image_is_counted(bad, config):
    for row in (3, 5):
        put(ITEMS, "image", row, None)(bad)
    found = load(bad)
    assert found.counts["missing image"] == 2
    features = make_features(found, config, make_tokenizer(found, config))
    assert np.flatnonzero(~features.has_image.numpy()).tolist() == [3, 5]
    assert not features.images[[3, 5]].any()
    assert found.counts["image cannot be decoded"] == 0


def encoded(kind: str, size: int = 40) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(
        256, size=(size, size, 3), dtype=np.uint8
    )
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def broken_png() -> bytes:
    """Pixels that stop half-way, then a chunk whose name is none."""
    raw = encoded("PNG")
    middle = raw.index(b"IDAT") + 4
    part = raw[middle : middle + 100]
    checked = b"IDAT" + part
    idat = struct.pack(">I", 100) + checked + struct.pack(">I", zlib.crc32(checked))
    return raw[: middle - 8] + idat + b"\0\0\0\4" + b"\1\2\3\4" + bytes(8)


def huge_bmp() -> bytes:
    """A header that claims ten thousand million pixels."""
    raw = encoded("BMP")
    return raw[:18] + struct.pack("<ii", 100_000, 100_000) + raw[26:]


def png_bomb(width: int, height: int) -> bytes:
    """A few hundred bytes that are whole, but for the number of their lines."""
    raw = encoded("PNG")
    head = b"IHDR" + struct.pack(">II", width, height) + raw[24:29]
    return raw[:12] + head + struct.pack(">I", zlib.crc32(head)) + raw[33:]


def jpeg_bomb(width: int, height: int) -> bytes:
    raw = encoded("JPEG")
    place = raw.index(b"\xff\xc0") + 5  # start of frame: length, precision, then size
    return raw[:place] + struct.pack(">HH", height, width) + raw[place + 4 :]


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 9 9
%%EndComments
showpage
"""
CORRUPT = {
    "png bomb": (png_bomb(50_000, 50_000), r"Image size (2500000000 pixels) exceeds"),
    "jpeg bomb": (jpeg_bomb(50_000, 50_000), r"Image size (2500000000 pixels) exceeds"),
    "small png bomb": (png_bomb(8_000, 8_000), r"8000 x 8000 pixels are too many"),
    "small jpeg bomb": (jpeg_bomb(8_000, 8_000), r"8000 x 8000 pixels are too many"),
    "a program": (EPS, r"cannot identify image file"),
    "no picture": (b"not a picture", r"cannot identify image file"),
    "empty": (b"", r"cannot identify image file"),
    "truncated": (encoded("JPEG")[:700], None),
    "broken png": (broken_png(), None),
    "huge": (huge_bmp(), None),
}


@pytest.mark.parametrize(("raw", "reason"), CORRUPT.values(), ids=CORRUPT)
def test_corrupt_image_is_counted_and_left_out(
    bad, prepared, config, capsys, raw, reason
):
    for row in (4, 9):
        put(ITEMS, "image", row, raw)(bad)
    found = load(bad)
    features = make_features(found, config, prepared.tokenizer)
    lines = capsys.readouterr().out.splitlines()
    start = f"{ITEMS}, column image, row 4: cannot be decoded ("
    end = "); such documents go on without an image"
    assert len(lines) == 1  # for two of them
    assert lines[0].startswith(start) and lines[0].endswith(end)
    if reason:
        assert lines[0].startswith(start + reason)
    assert found.counts["image cannot be decoded"] == 2
    assert np.flatnonzero(~features.has_image.numpy()).tolist() == [4, 9]
    assert not features.images[[4, 9]].any()
    rest = features.has_image
    assert features.images[rest].equal(prepared.features.images[rest])


def test_image_path_to_nowhere_is_counted(bad, config, capsys):
    retype(ITEMS, "image", lambda raw: "gone.jpg")(bad)
    found = load(bad)
    features = make_features(found, config, make_tokenizer(found, config))
    assert not features.has_image.any()
    assert found.counts["image cannot be decoded"] == len(found.items)
    line = capsys.readouterr().out
    assert line.startswith(f"{ITEMS}, column image, row 0: cannot be decoded (")
    assert "gone.jpg" in line and line.count("\n") == 1
