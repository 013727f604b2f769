"""MicroLens, PixelRec and NineRec, as published, in the public schema.

Videos with covers and titles, and who took what: logs of positives alone, except
MicroLens-1M MMCTR. Owners: github.com/westlake-repl/MicroLens, .../PixelRec and
.../NineRec; MMCTR: recsys.westlake.edu.cn, MicroLens_1M_MMCTR."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa

from lemur_mini.data.errors import DataError, Origin
from lemur_mini.data.health import Health
from lemur_mini.data.importers.huggingface import HOUR, write_log
from lemur_mini.data.importers.published import (
    catalogue,
    chosen,
    left_out,
    opened,
    require_negatives,
    timed,
    with_covers,
)
from lemur_mini.data.loading import TEST_SHARE
from lemur_mini.data.texts import decoded, read_bytes

OWNER = "github.com/westlake-repl/"
MMCTR = "recsys.westlake.edu.cn (MicroLens_1M_MMCTR)"
PAIRS = {"user_id": "user", "item_id": "item", "timestamp": "timestamp"}
PIXEL = {"user_id": "user_id", "item_id": "item_id", "timestamp": "timestamp"}
AFTER = "counted over the whole log"
COUNTERS = ("view", "comment", "thumbup", "share", "coin", "favorite", "barrage")
REFUSED = {f"{name}_number": AFTER for name in COUNTERS}
LEVELS = {"likes_level": AFTER, "views_level": AFTER}
LEVELS |= {"item_seq": "a history from outside of the log"}


def from_microlens(
    folder: str | Path, out: str | Path, *, negatives: int = 0, seed: int = 0
) -> Health:
    """MicroLens-50k or -100k of a folder: *_pairs.csv, *_titles.csv (a line is split at
    its first comma; a header, or none) and, where it is there, a folder *_covers.
    `negatives` for each positive are needed.

    MicroLens-1M MMCTR: train, valid and test.parquet and item_feature.parquet. It has
    labels of its own and no times: rows are a second apart, train before valid before
    test; a test without labels is left out, and valid is tested on. Levels of likes and
    views are counted over the whole log and never read. Raises DataError."""
    folder = Path(folder)
    if any(folder.glob("item_feature*")):
        return _mmctr(folder, Path(out))
    pairs = opened(folder, "*_pairs", owner=f"{OWNER}MicroLens")
    titles = sorted(folder.glob("*_titles.csv"))
    if len(titles) != 1:
        problem = f"{folder}: {len(titles)} files *_titles.csv, not one"
        raise DataError(f"{problem}; they are to be had at {OWNER}MicroLens")
    items, known = _titles(titles[0]), Origin(titles[0].name, untyped=True)
    return _written(folder, out, (items, known), chosen(pairs, PAIRS), negatives, seed)


def from_pixelrec(
    folder: str | Path, out: str | Path, *, negatives: int = 0, seed: int = 0
) -> Health:
    """PixelRec (or Pixel200K, ...) of a folder: an interaction file with item_id,
    user_id, timestamp in this order, an item-info file (its seven counters are never
    read) and cover/{item_id}.jpg. `negatives` are needed. Raises DataError."""
    folder = Path(folder)
    owner = f"{OWNER}PixelRec"
    pairs = opened(folder, "*nteraction*", "Pixel[0-9]*", owner=owner)
    about = opened(folder, "*tem*nfo*", owner=owner)
    fields = ("title", "tag", "description")
    names = {name: name for name in ("item_id", *fields)}
    facts = {"refused": left_out(about, REFUSED)}
    items, log = chosen(about, names), chosen(pairs, PIXEL)
    return _written(folder, out, items, log, negatives, seed, facts)


def from_ninerec(
    folder: str | Path,
    out: str | Path,
    *,
    language: str = "en",
    negatives: int = 0,
    seed: int = 0,
) -> Health:
    """One data set X of NineRec in a folder: X_pair.csv (user, item, timestamp),
    X_item.csv (the item, its text in Chinese, in English) and X_cover/{item}.jpg.
    language: "en" or "zh". `negatives` are needed. Raises DataError."""
    if language not in ("en", "zh"):
        raise DataError(f"language {language!r}: is none of theirs; use en or zh")
    folder = Path(folder)
    owner = f"{OWNER}NineRec"
    pairs = opened(folder, "*_pair", owner=owner)
    about = opened(folder, "*_item", owner=owner)
    there = about.table.column_names
    if len(there) != 3:
        problem = f"{about.name}: has columns {', '.join(there)}"
        raise DataError(f"{problem}; give three: item, Chinese text, English text")
    text = there[2] if language == "en" else there[1]
    items = chosen(about, {"item_id": there[0], "title": text})
    log, facts = chosen(pairs, PAIRS), {"language": language}
    return _written(folder, out, items, log, negatives, seed, facts)


def _written(folder, out, items, log, negatives, seed, facts=None) -> Health:
    """A log of positives with its covers and negatives. items, log: tables and where
    they come from."""
    require_negatives(negatives, folder.resolve().name)
    (items, known), (log, origin) = items, log
    items, log, found = catalogue(items, known, log, origin)
    items, missing = with_covers(items, folder)
    label = pa.array(np.ones(log.num_rows, np.int8))
    log = timed(log.append_column("label", label), origin)
    return write_log(
        Path(out),
        folder.resolve().name,
        (items, known),
        (log, origin),
        HOUR,
        {"label": "every row"} | (facts or {}) | found | missing,
        negatives=negatives,
        seed=seed,
    )


def _titles(path: Path) -> pa.Table:
    """item_id and title: what stands before the first comma of a line, and after it."""
    rows = []
    text = decoded(read_bytes(path), path)
    for number, line in enumerate(text.splitlines(), start=1):
        name, comma, title = line.partition(",")
        if not line.strip() or (not rows and name == "item"):
            continue
        if not comma or not name:
            problem = f"{path.name}, line {number}: no comma after an item"
            raise DataError(f"{problem}; write item,title")
        if title.startswith('"'):  # quoted, with quotes inside doubled
            title = next(csv.reader([title]))[0]
        rows.append((name.strip(), title))
    if not rows:
        raise DataError(f"{path.name}: has no lines; write item,title")
    names, titles = (pa.array(v, pa.large_string()) for v in zip(*rows, strict=True))
    return pa.table({"item_id": names, "title": titles})


def _mmctr(folder: Path, out: Path) -> Health:
    about = opened(folder, "item_feature", owner=MMCTR)
    fields = {"item_id": "item_id", "title": "item_title", "tags": "item_tags"}
    items, known = chosen(about, fields)
    names = {"user_id": "user_id", "item_id": "item_id", "label": "label"}
    sources = [opened(folder, split, owner=MMCTR) for split in ("train", "valid")]
    facts: dict = {"time": "the row's number", "test": "valid.parquet"}
    facts["refused"] = left_out(sources[0], LEVELS)
    if any(folder.glob("test.*")):
        test = opened(folder, "test", owner=MMCTR)
        if "label" in test.table.column_names:
            sources, facts["test"] = [*sources, test], "test.parquet"
        else:
            facts["test_rows_without_label"] = test.table.num_rows
    parts = [chosen(source, names)[0] for source in sources]
    log = pa.concat_tables(parts, promote_options="permissive")
    origin = Origin("the splits, one after another")
    starts = np.cumsum([part.num_rows for part in parts])
    valid = starts[0] if len(parts) == 3 else starts[0] * (1 - TEST_SHARE)
    facts |= {"valid_start": int(valid), "test_start": int(starts[-2])}
    log = log.append_column("timestamp", pa.array(np.arange(log.num_rows)))
    items, log, found = catalogue(items, known, log, origin)
    items, missing = with_covers(items, folder)
    name = folder.resolve().name
    facts |= found | missing  # a session: rows of one user, directly one after another
    return write_log(out, name, (items, known), (log, origin), 1, facts)
