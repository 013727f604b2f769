"""What importers of published logs share: files, catalogues, covers, times, negatives.

None of these logs may be shipped: each importer says where its owner gives it out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lemur_mini.data.columns import ids, is_text, number
from lemur_mini.data.errors import DataError, Origin, refusal
from lemur_mini.data.importers.huggingface import renamed
from lemur_mini.data.importers.images import PICTURES
from lemur_mini.data.joins import codes
from lemur_mini.data.tables import Source, read
from lemur_mini.data.texts import READERS
from lemur_mini.data.times import ticks, times

TOO_LATE = 10**11  # as seconds, the year 5138: such numbers count milliseconds
COVERS = ("cover", "covers", "images", "image")  # how owners call the folder


def opened(folder: str | Path, *patterns: str, owner: str) -> Source:
    """The only table of a folder that fits one of the patterns (`notes` is a folder of
    parts or notes.parquet, notes.csv, ...). Raises DataError, which names the owner."""
    folder = Path(folder)
    for pattern in patterns:
        ends = ["", *READERS]
        paths = sorted({p for end in ends for p in folder.glob(f"{pattern}{end}")})
        if len(paths) > 1:
            said = ", ".join(path.name for path in paths)
            raise DataError(f"{folder}: {said}: more than one; keep the one to read")
        if paths:
            return read(paths[0])
    wanted = " or ".join(patterns)
    raise DataError(f"{folder}: no {wanted} in it; it is to be had at {owner}")


def chosen(source: Source, names: Mapping[str, str]) -> tuple[pa.Table, Origin]:
    """These columns (name of the schema -> the owner's) and where they come from."""
    return renamed(source, names), Origin(source.name, dict(names), source.untyped)


def left_out(source: Source, counters: Mapping[str, str]) -> dict[str, str]:
    """The columns of a table that would leak, and why: for dataset.json."""
    there = source.table.column_names
    return {name: why for name, why in counters.items() if name in there}


def catalogue(
    items: pa.Table, known: Origin, log: pa.Table, origin: Origin
) -> tuple[pa.Table, pa.Table, dict[str, int]]:
    """One row for each item that the log shows, the first that describes it; log; and
    how many have none, or several. Items and log name items in one type."""
    mine = ids(items["item_id"], refusal(known, "item_id"), known.untyped)
    theirs = ids(log["item_id"], refusal(origin, "item_id"), origin.untyped)
    if is_text(mine.type) != is_text(theirs.type):
        mine, theirs = (v.cast(pa.large_string()) for v in (mine, theirs))
    theirs = theirs.combine_chunks()
    wanted = theirs.unique().drop_null()
    place = pc.index_in(wanted, mine.combine_chunks())
    facts = {
        "items_without_metadata": place.null_count,
        "metadata_rows_repeated": len(mine) - len(mine.unique()),
    }
    index = items.column_names.index("item_id")
    found = items.take(place).set_column(index, "item_id", wanted)
    index = log.column_names.index("item_id")
    return found, log.set_column(index, "item_id", theirs), facts


def with_covers(items: pa.Table, folder: Path) -> tuple[pa.Table, dict[str, int]]:
    """The items with the path of the picture {item_id}.jpg (or .png, ...) of each, None
    where there is none, and how many lack. The folder's name is, or ends in, one of
    COVERS."""
    found: dict[str, str] = {}
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        if place.name.lower().split("_")[-1] in COVERS:
            for path in sorted(place.rglob("*")):
                if path.suffix.lower() in PICTURES:
                    found.setdefault(path.stem, str(path.resolve()))
    return with_images(items, [found.get(str(x)) for x in items["item_id"].to_pylist()])


def with_images(
    items: pa.Table, paths: list[str | None]
) -> tuple[pa.Table, dict[str, int]]:
    """The items with paths of their pictures, and how many lack."""
    missing = {"missing_covers": sum(path is None for path in paths)}
    return items.append_column("image", pa.array(paths, pa.large_string())), missing


def timed(log: pa.Table, origin: Origin) -> pa.Table:
    """The log with its timestamp in the type of the schema. Bare numbers count
    milliseconds where all of them are too large for seconds; what mixes both is
    refused."""
    values, refuse = log["timestamp"], refusal(origin, "timestamp")
    unit = None
    with suppress(DataError):  # dates
        found = np.asarray(number(values, refuse, origin.untyped), np.float64)
        large = np.abs(found[np.isfinite(found)]) >= TOO_LATE
        unit = "ms" if large.size and large.all() else None
    if origin.untyped and unit is None:
        with suppress(DataError):
            values = pa.chunked_array([number(values, refuse, True).combine_chunks()])
    index = log.column_names.index("timestamp")
    return log.set_column(index, "timestamp", times(values, refuse, unit))


def change_rate(log: pa.Table) -> float:
    """Query change rate: distinct (user, query) pairs that were reformulated at least
    once, of all. A query is reformulated where its session goes on with another text.

    log: user_id, session_id, query, query_id and, from `timed`, timestamp; a page
    begins with its first row."""
    page = codes(log["query_id"])
    order = np.argsort(ticks(log["timestamp"]), kind="stable")
    rows = order[np.sort(np.unique(page[order], return_index=True)[1])]  # page begins
    session, user, query = (
        codes(log[name])[rows] for name in ("session_id", "user_id", "query")
    )
    pair = user * (query.max() + 1) + query
    by_session = np.argsort(session, kind="stable")
    s, q, p = session[by_session], query[by_session], pair[by_session]
    changed = (s[1:] == s[:-1]) & (q[1:] != q[:-1])
    return len(np.unique(p[:-1][changed])) / len(np.unique(p))


def require_negatives(negatives: int, name: str) -> None:
    """Raise DataError where a log of positives alone would stay one."""
    if negatives < 1:
        problem = f"{name}: a log of positives alone"
        raise DataError(f"{problem}; give negatives, at least 1 for each")
