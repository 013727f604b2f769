"""What is said of data that cannot be used: one line with file, column, row, remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from lemur_mini.errors import Mendable


class DataError(Mendable, ValueError):
    """Data that cannot be used; the message names file, row, column and remedy."""


def fail(file: str, column: str, row: int | None, problem: str, remedy: str) -> None:
    """Raise the one-line error of this package. Rows count from 0."""
    where = f"{file}, column {column}" + ("" if row is None else f", row {row}")
    raise DataError(" ".join(f"{where}: {problem}; {remedy}".split()))


@dataclass(frozen=True)
class Origin:
    """Where a table comes from: its name in messages, and what it calls columns.

    untyped: a file of texts alone (CSV), in which nobody says what is a number."""

    file: str
    columns: Mapping[str, str] = field(default_factory=dict)
    untyped: bool = False

    def fail(self, column: str, row: int | None, problem: str, remedy: str) -> None:
        """Raise DataError about a column of the schema, by its name in the file."""
        fail(self.file, self.columns.get(column, column), row, problem, remedy)


Refuse = Callable[[int | None, str, str], None]  # row, problem, remedy


def first(mask) -> int:
    """Row of the first true value (or null), -1 where there is none."""
    return pc.index(pc.fill_null(mask, True), True).as_py()


def first_bad(values: pa.ChunkedArray, convert: Callable) -> int:
    """The first row that `convert` refuses, found by halves; -1 where it takes all."""

    def good(low: int, high: int) -> bool:
        try:
            convert(values.slice(low, high - low))
            return True
        except (pa.ArrowException, ValueError, OverflowError):
            return False

    low, high = 0, len(values)
    if good(low, high):
        return -1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(low, middle) else (low, middle)
    return low


def cell(values: pa.ChunkedArray, row: int, limit: int = 60) -> str:
    """One value for a message: short, and on one line."""
    try:
        said = str(values[row].as_py())
    except (ValueError, OverflowError):  # bytes that are no text, times beyond dates
        said = str(values[row])
    said = " ".join(said.split())
    return said if len(said) <= limit else f"{said[:limit]}..."


def refusal(origin: Origin, column: str) -> Refuse:
    """How a role refuses a column of this table."""
    return partial(origin.fail, column)
