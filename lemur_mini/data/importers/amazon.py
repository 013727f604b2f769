"""Amazon Reviews 2023, as published, in the public schema."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pyarrow as pa

from lemur_mini.data.health import Health
from lemur_mini.data.importers.huggingface import HOUR, label_of, write_log
from lemur_mini.data.importers.images import fetch_images
from lemur_mini.data.schema import DataError

REVIEW = {"user_id": str, "parent_asin": str, "timestamp": int, "rating": float}
SIZES = ("large", "hi_res", "thumb")  # of an image; 500 pixels are more than enough


def from_amazon_reviews(
    source: str | Path,
    out: str | Path,
    category: str,
    *,
    threshold: float | None = 4.0,
    negatives: int = 0,
    seed: int = 0,
    gap: int = HOUR,
    images: bool = False,
    cache: str | Path | None = None,
    opener: Callable = urlopen,
) -> Health:
    """Amazon Reviews 2023: `category`.jsonl and meta_`category`.jsonl (or .jsonl.gz) of
    a folder, or of the hub (McAuley-Lab/Amazon-Reviews-2023) for those online.

    Label 1 is a rating of `threshold` or more; with None every review is a purchase,
    label 1, and `negatives` (for each positive) are needed. Items are parent_asin.
    Images are fetched from the addresses in the metadata only where `images` is true,
    once: `cache` (out/images) keeps them. Raises DataError."""
    reviews = _reviews(_file(source, "review", category))
    items = _items(_file(source, "meta", category), set(reviews["parent_asin"]))
    urls = items["image"].to_pylist()
    pictures = [None] * len(urls)
    if images:
        pictures = fetch_images(
            urls, Path(cache or Path(out) / "images"), opener=opener
        )
    place = items.column_names.index("image")
    items = items.set_column(place, "image", pa.array(pictures, pa.binary()))
    log = pa.table(
        {
            "user_id": reviews["user_id"],
            "item_id": reviews["parent_asin"],
            "timestamp": np.array(reviews["timestamp"]) // 1000,  # were milliseconds
            "label": label_of(pa.array(reviews["rating"]), threshold),
        }
    )
    rule = "every review" if threshold is None else f"rating >= {threshold:g}"
    facts = {"label": rule, "session_gap": gap}
    return write_log(Path(out), category, items, log, gap, facts, negatives, seed)


def _items(path: Path, wanted: set[str]) -> pa.Table:
    """What the metadata says of the items wanted; `image` is an address here."""
    found: dict[str, dict] = {}
    for _, row in _jsonl(path):
        if (name := row.get("parent_asin")) in wanted:
            found.setdefault(name, row)
    names = sorted(wanted)
    rows = [found.get(name, {}) for name in names]  # some have no metadata
    items = {"item_id": names}
    for name in ("title", "features", "description", "categories", "store"):
        items[name] = pa.array([_words(row.get(name)) for row in rows], pa.string())
    items["image"] = pa.array([_main_image(row) for row in rows], pa.string())
    return pa.table(items)


def _file(source: str | Path, kind: str, category: str) -> Path:
    name = f"meta_{category}.jsonl" if kind == "meta" else f"{category}.jsonl"
    inside = f"raw/{kind}_categories/{name}"
    if Path(source).is_dir():
        for path in (name, f"{name}.gz", inside, f"{inside}.gz"):
            if (Path(source) / path).is_file():
                return Path(source) / path
        raise DataError(f"{Path(source) / name}: not found; nor is {name}.gz")
    import datasets

    try:  # the file alone: the repository's own script is code that must not run
        url = f"hf://datasets/{source}/{inside}"
        return Path(datasets.DownloadManager().download(url))
    except Exception as error:  # the hub's client has many
        problem = f"{source}: neither a folder nor reachable on the hub"
        raise DataError(f"{problem}; go online once, or give a folder") from error


def _jsonl(path: Path) -> Iterator[tuple[str, dict]]:
    """Every line that is not empty, with where it stands. Not `datasets`: the keys and
    types of `details` differ from line to line, and no table holds them."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with (gzip.open if packed else open)(path, "rt", encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError as error:
                raise DataError(f"{where}: no JSON ({error}); repair it") from error
            if row is not None:
                yield where, row


def _reviews(path: Path) -> dict[str, list]:
    """The columns of all reviews."""
    columns: dict[str, list] = {name: [] for name in REVIEW}
    for where, row in _jsonl(path):
        for name, kind in REVIEW.items():
            try:
                columns[name].append(kind(row[name]))
            except (KeyError, TypeError, ValueError):
                problem = f"{row.get(name)!r} is no {kind.__name__}"
                remedy = "correct it or drop the line"
                raise DataError(f"{where}, {name}: {problem}; {remedy}") from None
    return columns


def _words(value) -> str | None:
    """A text, or a list of texts, as one text."""
    return (" ".join(value) if isinstance(value, list) else value) or None


def _main_image(row: dict) -> str | None:
    """The address of the cover: the image called MAIN, else the first."""
    images = row.get("images") or [{}]
    image = next((i for i in images if i.get("variant") == "MAIN"), images[0])
    return next((image[size] for size in SIZES if image.get(size)), None)
