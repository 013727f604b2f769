"""MovieLens, as published, in the public schema."""

from __future__ import annotations

import datetime
import io
import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from lemur_mini.data.errors import DataError, Origin
from lemur_mini.data.health import Health
from lemur_mini.data.importers.huggingface import HOUR, label_of, write_log
from lemur_mini.data.importers.images import PICTURES
from lemur_mini.files import one_line

RATINGS = {"userId": "int64", "movieId": "int64", "rating": "double"}
RATINGS |= {"timestamp": "int64"}
MOVIES = {"movieId": "int64", "title": "string", "genres": "string"}
PLOTS = {"movieId": "int64", "plot": "string"}
NAMES = {"user_id": "userId", "item_id": "movieId", "label": "rating"}
BETWEEN = "\x1f"  # stands for the `::` of .dat files, which Arrow cannot split at
YEAR = re.compile(r"\(((?:18|19|20)\d\d)(?:[-–]\d*)?\)\s*$")
ARTICLE = re.compile(r"^(.+?), (The|An?|L[aeo]s?|L'|Il|El|D[aei][rs]|Die)(?= \(|$)")


def from_movielens(
    folder: str | Path,
    out: str | Path,
    *,
    posters: Mapping[int, bytes] | str | Path | None = None,
    plots: Mapping[int, str] | str | Path | None = None,
    threshold: float = 4.0,
    gap: int = HOUR,
) -> Health:
    """MovieLens as published: ratings.dat and movies.dat (1M, 10M), or ratings.csv and
    movies.csv (latest, 20M and later). users.dat is not read: the schema has no users.

    Label 1 is a rating of `threshold` or more. Ratings of a user at most `gap`
    seconds apart share a session. posters: by movieId, or a folder of {movieId}.jpg.
    plots: by movieId, or a CSV file with movieId and plot. Raises DataError."""
    folder = Path(folder)
    end = "csv" if (folder / "ratings.csv").is_file() else "dat"
    ratings = _read_csv(folder / f"ratings.{end}", RATINGS)
    movies = _read_csv(folder / f"movies.{end}", MOVIES)
    known, origin = Origin(f"movies.{end}", NAMES), Origin(f"ratings.{end}", NAMES)
    log = pa.table(
        {
            "user_id": ratings["userId"],
            "item_id": ratings["movieId"],
            "timestamp": ratings["timestamp"],
            "label": label_of(ratings["rating"], threshold, origin),
        }
    )
    return write_log(
        Path(out),
        folder.resolve().name,
        (_items(movies, posters, plots), known),
        (log, origin),
        gap,
        {"label": f"rating >= {threshold:g}"},
    )


def _items(movies: pa.Table, posters, plots) -> pa.Table:
    ids, titles = movies["movieId"].to_pylist(), movies["title"].to_pylist()
    if isinstance(plots, str | Path):
        plots = dict(
            zip(*_read_csv(Path(plots), PLOTS).to_pydict().values(), strict=True)
        )
    items = {
        "item_id": pa.array(ids, pa.int64()),
        "title": [_in_order(title) for title in titles],
        "genres": [_genres(names) for names in movies["genres"].to_pylist()],
        "created_at": pa.array([_first_of_year(title) for title in titles], pa.int64()),
    }
    if plots is not None:
        words = [plots.get(number) for number in ids]
        items["plot"] = _typed("plots", words, pa.large_string())
    if posters is not None:
        pictures = _posters(ids, posters)
        items["image"] = _typed("posters", pictures, pa.large_binary())
    return pa.table(items)


def _typed(name: str, values: list, kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError) as error:
        problem = f"{name}: {one_line(error)}"
        raise DataError(f"{problem}; give a mapping of movieId to {kind}") from error


def _read_csv(path: Path, columns: dict[str, str]) -> pa.Table:
    """A file of `::` without a header, or of commas with one; UTF-8, else Latin-1."""
    try:
        raw, dat = path.read_bytes(), path.suffix == ".dat"
        encoding = "utf-8"
        try:
            raw.decode(encoding)
        except UnicodeDecodeError:
            encoding = "latin-1"
        if dat:
            raw = raw.removeprefix(b"\xef\xbb\xbf").replace(b"::", BETWEEN.encode())
        return csv.read_csv(
            io.BytesIO(raw),
            csv.ReadOptions(
                use_threads=False,  # errors then name the row
                encoding=encoding,
                column_names=list(columns) if dat else None,
            ),
            csv.ParseOptions(
                delimiter=BETWEEN if dat else ",", quote_char=False if dat else '"'
            ),
            csv.ConvertOptions(column_types=columns, include_columns=list(columns)),
        )
    except (OSError, pa.ArrowException) as error:
        cause = " ".join(str(error).replace(BETWEEN, "::").split())
        remedy = "give the files as published"
        raise DataError(f"{path}: cannot be read ({cause}); {remedy}") from error


def _in_order(title: str | None) -> str | None:
    """ "Matrix, The (1999)" as people say it."""
    return title and ARTICLE.sub(r"\2 \1", title).replace("L' ", "L'")


def _genres(names: str | None) -> str | None:
    none = not names or names == "(no genres listed)"
    return None if none else names.replace("|", ", ")


def _first_of_year(title: str | None) -> int | None:
    """Unix seconds; a film's day of release is not in the files."""
    if not (found := YEAR.search(title or "")):
        return None
    return int(datetime.datetime(int(found[1]), 1, 1, tzinfo=datetime.UTC).timestamp())


def _posters(ids: list[int], posters) -> list[bytes | None]:
    if not isinstance(posters, str | Path):
        return [posters.get(number) for number in ids]
    if not Path(posters).is_dir():
        raise DataError(f"{posters}: no folder; give one that holds {{movieId}}.jpg")
    files = [p for p in Path(posters).iterdir() if p.suffix.lower() in PICTURES]
    files = {p.stem: p for p in sorted(files)}
    return [files[str(n)].read_bytes() if str(n) in files else None for n in ids]
