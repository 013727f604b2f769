"""A data set as it lies: two tables in a folder or on the hub, and its facts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from lemur_mini.data.errors import DataError, Origin
from lemur_mini.data.parts import read_path
from lemur_mini.data.schema import IMPRESSIONS, ITEMS, read_items, read_log
from lemur_mini.data.sources import places
from lemur_mini.data.tables import HUB, of_hub
from lemur_mini.files import one_line

ABOUT = "dataset.json"  # optional: name, valid_start, test_start (unix seconds)


def read_tables(source) -> tuple[pa.Table, pa.Table]:
    """Items and impressions of a folder, a data set of the hub, or a pair of tables,
    in the types of the schema. Raises DataError."""
    if isinstance(source, tuple):
        items, log = source
        items = read_items(items)
        return items, read_log(log, items)
    unit = None
    if is_folder(source):
        folder = Path(source)
        unit = read_about(folder).get("time_unit")
        found = [_local(folder / file) for file in (ITEMS, IMPRESSIONS)]
    else:
        found = [(of_hub(source, file), Origin(file)) for file in (ITEMS, IMPRESSIONS)]
    (items, mine), (log, other) = found
    items = read_items(items, mine, unit)
    return items, read_log(log, items, other, unit, mine)


def _local(path: Path) -> tuple[pa.Table, Origin]:
    found = places(path.parent, path.name)
    if not found:
        raise DataError(f"{path}: not found; a data set is {ITEMS} and {IMPRESSIONS}")
    table, untyped = read_path(*found)
    return table, Origin(path.name, untyped=untyped)


def is_folder(source) -> bool:
    """Whether this is a local folder. Raises DataError for a path that is none."""
    try:
        if Path(source).is_dir():
            return True
        there = Path(source).exists()
    except (OSError, ValueError):  # a name that no file can have
        there = False
    name = " ".join(str(source).split())
    if there:
        remedy = f"give the folder that holds {ITEMS} and {IMPRESSIONS}"
        raise DataError(f"{name}: is no folder; {remedy}")
    if isinstance(source, Path) or not HUB.fullmatch(source):
        remedy = "give a folder, or a hub id when online"
        raise DataError(f"{name}: no such folder; {remedy}")
    return False


def read_about(folder: Path) -> dict:
    """What dataset.json says, {} where there is none. Raises DataError."""
    path = folder / ABOUT
    if not path.exists():
        return {}
    try:
        facts = json.loads(path.read_text("utf-8"))
        if not isinstance(facts, dict):
            raise TypeError(f"it holds a {type(facts).__name__}")
        return facts
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise useless(path, error) from error


def useless(path: Path, error: Exception) -> DataError:
    problem = f"{path}: cannot be used ({type(error).__name__}: {one_line(error)})"
    remedy = "give name, valid_start and test_start (unix seconds), or remove it"
    return DataError(f"{problem}; {remedy}")
