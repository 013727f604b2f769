"""Qilin (Xiaohongshu, SIGIR 2025), as published, in the public schema.

Queries, sessions, notes with title, body and pictures, and how long they were read:
the public log that is nearest to LEMUR's own. Its owner gives it out on the hub
(THUIR/Qilin) with the pictures beside; layout: its card."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lemur_mini.data.columns import is_list, plain
from lemur_mini.data.errors import DataError, Origin
from lemur_mini.data.health import Health
from lemur_mini.data.importers.huggingface import write_log
from lemur_mini.data.importers.published import (
    catalogue,
    change_rate,
    chosen,
    left_out,
    opened,
    timed,
    with_images,
)
from lemur_mini.data.tables import Source

OWNER = "huggingface.co/datasets/THUIR/Qilin"
DWELL = 5.0  # seconds, LEMUR's own label: read for longer
LONG = 1000.0  # seconds; no log has so long a middle dwell, so it counts milliseconds
NOTES = {"item_id": "note_idx", "title": "note_title", "body": "note_content"}
USERS = ("gender", "platform", "age")  # others may have been counted later
AFTER = "counted after the impression"
COUNTERS = dict.fromkeys(
    ("imp_num", "click_num", "like_num", "collect_num", "comment_num", "share_num")
    + ("imp_rec_num", "imp_search_num", "click_rec_num", "click_search_num")
    + ("view_time", "rec_view_time", "search_view_time", "full_view_times"),
    AFTER,
)
PARTS = {  # part: group's column, column of results, their time
    "search": ("search_idx", "search_result_details_with_idx", "search_timestamp"),
    "recommendation": (
        "request_idx",
        "rec_result_details_with_idx",
        "request_timestamp",
    ),
}


def from_qilin(
    folder: str | Path,
    out: str | Path,
    *,
    part: str = "search",
    label: str = "dwell",
    dwell_unit: str = "s",
) -> Health:
    """Qilin of a folder: notes, search_train and search_test (or recommendation_*, a
    feed without queries), each a folder of parts or a parquet file, and user_feat where
    it is there. Both splits are read; periods go by time.

    label: "dwell" (page_time above 5 s) or "click". dwell_unit: "s" or "ms" of
    page_time. Without a dwell (-1, NaN) a row that was not clicked has label 0, and a
    clicked one is dropped and counted. Query change rate goes into dataset.json.
    Counters of notes are never read. Raises DataError."""
    if part not in PARTS or label not in ("dwell", "click"):
        raise DataError(
            f"part {part!r}, label {label!r}: part is {' or '.join(PARTS)}, "
            "label is dwell or click"
        )
    if dwell_unit not in ("s", "ms"):
        raise DataError(f"dwell_unit {dwell_unit!r}: is none; use s or ms")
    folder = Path(folder)
    logs = [
        _impressions(opened(folder, f"{part}_{split}", owner=OWNER), part)
        for split in ("train", "test")
    ]
    log = pa.concat_tables(logs, promote_options="permissive")
    origin = Origin(f"{part}_train and {part}_test", {"label": "page_time"})
    log, facts = _labelled(log, label, 1.0 if dwell_unit == "s" else 1e-3, origin)
    notes = opened(folder, "notes", owner=OWNER)
    facts["refused"] = left_out(notes, COUNTERS)
    names = NOTES | {"image": "image_path"}
    if "image_path" not in notes.table.column_names:
        del names["image"]
    items, known = chosen(notes, names)
    items, log, found = catalogue(items, known, log, origin)
    if "image" in items.column_names:
        paths = _first_pictures(items["image"].to_pylist(), folder)
        items, missing = with_images(items.drop_columns("image"), paths)
        found |= missing
    log = timed(_with_users(log, folder), origin)
    if part == "search":
        facts["query_change_rate"] = change_rate(log)
    name = folder.resolve().name
    return write_log(Path(out), name, (items, known), (log, origin), 0, facts | found)


def _impressions(source: Source, part: str) -> pa.Table:
    """A row for each result of each page; a page's columns stand beside its rows."""
    group, results, when = PARTS[part]
    names = {"group": group, "user_id": "user_idx", "results": results}
    if part == "search":
        names |= {"query": "query", "session_id": "session_idx"}
    pages, origin = chosen(source, names)
    lists = pages["results"].combine_chunks()
    if not is_list(lists.type) or not pa.types.is_struct(lists.type.value_type):
        origin.fail("results", None, f"has type {lists.type}", "give lists of structs")
    parent, rows = pc.list_parent_indices(lists), pc.list_flatten(lists)
    there = [field.name for field in rows.type]
    for name in ("note_idx", "click", "page_time"):
        if name not in there:
            problem = f"its structs have no {name}"
            origin.fail("results", None, problem, f"they have {', '.join(there)}")
    page = pages.drop_columns("results").take(parent)
    if when in there:
        moment = pc.struct_field(rows, when)
    else:  # one time for the page
        moment = chosen(source, {"timestamp": when})[0]["timestamp"].take(parent)
    renamed = ["query_id" if part == "search" else "session_id"]
    page = page.rename_columns(renamed + page.column_names[1:])
    for name, column in (("item_id", "note_idx"), ("click", "click")):
        page = page.append_column(name, pc.struct_field(rows, column))
    dwell = pc.struct_field(rows, "page_time").cast(pa.float64())
    return page.append_column("dwell", dwell).append_column("timestamp", moment)


def _labelled(
    log: pa.Table, label: str, unit: float, origin: Origin
) -> tuple[pa.Table, dict]:
    """The log with its label, without clicks of unknown dwell; and what was counted.
    unit: seconds that a dwell of 1 means."""
    dwell = log["dwell"].to_numpy() * unit  # NaN where there is none
    clicked = log["click"].cast(pa.float64()).to_numpy() > 0
    unknown = ~(dwell >= 0)  # NaN, -1
    facts = {"label": label, "dwell_nan": int(np.isnan(dwell).sum())}
    facts["dwell_negative"] = int((dwell < 0).sum())
    middle = np.median(dwell[dwell > 0]) if (dwell > 0).any() else 0.0
    if label == "click":
        keep, mark = np.ones(len(dwell), bool), clicked
    else:
        if middle > LONG:
            problem = f"half of the dwells are above {middle:,.0f} s"
            origin.fail("label", None, problem, 'give dwell_unit="ms"')
        keep, mark = ~(unknown & clicked), ~unknown & (dwell > DWELL)
        facts["label"] = f"page_time > {DWELL:g} s"
        facts["dropped_clicks_without_dwell"] = int((~keep).sum())
    log = log.drop_columns(["click", "dwell"])
    log = log.append_column("label", pa.array(mark.astype(np.int8)))
    return log.filter(pa.array(keep)), facts


def _first_pictures(
    paths: list[Iterable[str] | str | None], folder: Path
) -> list[str | None]:
    """The cover of each note: the first of its pictures, if it lies in the folder."""
    found = []
    for path in paths:
        first = path if isinstance(path, str) else next(iter(path or ()), None)
        place = first and (folder / first).resolve()
        found.append(str(place) if place and place.is_file() else None)
    return found


def _with_users(log: pa.Table, folder: Path) -> pa.Table:
    """With the columns `user_*` of user_feat, where that is there. A user who is not in
    it has nothing in them."""
    if not any(folder.glob("user_feat*")):
        return log
    users = opened(folder, "user_feat", owner=OWNER)
    names = {n: n for n in USERS if n in users.table.column_names}
    table, _ = chosen(users, {"user_id": "user_idx"} | names)
    mine, theirs = (
        plain(t["user_id"]).cast(pa.large_string()).combine_chunks()
        for t in (log, table)
    )
    place = pc.index_in(mine, theirs)
    for name in names:
        log = log.append_column(f"user_{name}", table[name].take(place))
    return log
