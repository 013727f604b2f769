"""Amazon Reviews 2023, as published, in the public schema."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pyarrow as pa

from lemur_mini.data.errors import DataError, Origin
from lemur_mini.data.health import Health
from lemur_mini.data.importers.huggingface import HOUR, label_of, write_log
from lemur_mini.data.importers.images import fetch_images
from lemur_mini.data.texts import UNPACK, objects

REVIEW = {"user_id": str, "parent_asin": str, "timestamp": int, "rating": float}
EARLIEST = 10**11  # milliseconds, in the year 1973: what is less counts in seconds
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
    metas = _file(source, "meta", category)
    items, facts = _items(metas, set(reviews["parent_asin"]))
    urls = items["image"].to_pylist()
    pictures = [None] * len(urls)
    if images:
        folder = Path(cache or Path(out) / "images")
        pictures = fetch_images(urls, folder, opener=opener)
    place = items.column_names.index("image")
    items = items.set_column(place, "image", pa.array(pictures, pa.large_binary()))
    origin = Origin(f"{category}.jsonl", {"item_id": "parent_asin", "label": "rating"})
    log = pa.table(
        {
            "user_id": reviews["user_id"],
            "item_id": reviews["parent_asin"],
            "timestamp": pa.array(reviews["timestamp"], pa.timestamp("ms", "UTC")),
            "label": label_of(pa.array(reviews["rating"]), threshold, origin),
        }
    )
    rule = "every review" if threshold is None else f"rating >= {threshold:g}"
    return write_log(
        Path(out),
        category,
        (items, Origin(f"meta_{category}.jsonl", {"item_id": "parent_asin"})),
        (log, origin),
        gap,
        {"label": rule} | facts,
        negatives=negatives,
        seed=seed,
    )


def _items(path: Path, wanted: set[str]) -> tuple[pa.Table, dict[str, int]]:
    """What the metadata says of the items wanted, and what it lacks or repeats; `image`
    is an address here. The first line of an item counts."""
    found: dict[str, dict] = {}
    again = 0
    for _, row in _jsonl(path):
        name = row.get("parent_asin")
        if isinstance(name, str) and name in wanted:
            again += name in found
            found.setdefault(name, row)
    names = sorted(wanted)
    rows = [found.get(name, {}) for name in names]  # some have no metadata
    items = {"item_id": pa.array(names, pa.large_string())}
    for name in ("title", "features", "description", "categories", "store"):
        words = [_words(row.get(name)) for row in rows]
        items[name] = pa.array(words, pa.large_string())
    items["image"] = pa.array([_main_image(row) for row in rows], pa.string())
    facts = {"items_without_metadata": len(names) - len(found)}
    return pa.table(items), facts | {"metadata_lines_repeated": again}


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
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        raw = (UNPACK[".gz"] if packed else open)(path, "rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    with raw, io.TextIOWrapper(raw, "utf-8-sig") as lines:
        yield from objects(lines, str(path))


def _reviews(path: Path) -> dict[str, list]:
    """The columns of all reviews."""
    columns: dict[str, list] = {name: [] for name in REVIEW}
    for where, row in _jsonl(path):
        for name, kind in REVIEW.items():
            if (value := _value(row.get(name), kind)) is None:
                problem = f"{str(row.get(name))[:60]!r} is no {kind.__name__}"
                if row.get(name) is None:
                    problem = f"None is no {kind.__name__}"
                remedy = "correct it or drop the line"
                raise DataError(f"{where}, {name}: {problem}; {remedy}")
            columns[name].append(value)
        if abs(columns["timestamp"][-1]) < EARLIEST:
            problem = f"{row['timestamp']} are no milliseconds"
            raise DataError(f"{where}, timestamp: {problem}; multiply seconds by 1000")
    return columns


def _value(value, kind: type):
    """The value if it is of this kind and there is something in it, else None."""
    if kind is str:
        return value if isinstance(value, str) and value else None
    try:
        found = None if isinstance(value, bool) else kind(value)
    except (TypeError, ValueError, OverflowError):
        return None
    whole = kind is float or not isinstance(value, float) or found == value
    return found if whole and found is not None and abs(found) < 2**63 else None


def _words(value) -> str | None:
    """A text, or a list of texts, as one text."""
    if isinstance(value, list):
        return " ".join(str(word) for word in value if word is not None) or None
    return None if value is None else str(value) or None


def _main_image(row: dict) -> str | None:
    """The address of the cover: the image called MAIN, else the first."""
    images = row.get("images")
    images = (
        [i for i in images if isinstance(i, dict)] if isinstance(images, list) else []
    )
    images = images or [{}]
    image = next((i for i in images if i.get("variant") == "MAIN"), images[0])
    return next((str(image[size]) for size in SIZES if image.get(size)), None)
