"""Times of any type, parsed once, to the finest unit that they have.

A column of times becomes int64 unix seconds where all are whole seconds, else an Arrow
timestamp in UTC of the coarsest unit that loses nothing. The log is sorted by that.
`Log.timestamp` holds seconds: int64, or float64, which tells microseconds apart until
the year 2255; what is closer than that is sorted rightly and counts as one moment.

What is read: Arrow timestamps (without a zone they are UTC) and dates (their midnight),
ISO 8601 texts, with or without a zone but not both, and bare numbers. These are unix
seconds, unless `time_unit` says "ms", "us" or "ns".
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lemur_mini.data.columns import EXACT, NUMBER, is_text, name_of, plain
from lemur_mini.data.errors import Refuse, cell, first, first_bad

TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # a second, in each unit
LATEST = 10**11  # unix seconds, in the year 5138
FINER = {"milliseconds": "ms", "microseconds": "us", "nanoseconds": "ns"}
WANTED = "unix seconds"
MOMENT = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
MOMENT += r"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.][0-9]{1,9})?)?)?"
ZONE = r"Z|z|UTC|GMT|[-+][0-9]{2}:?[0-9]{2}|[-+][0-9]{2}"
ISO = rf"^(?P<moment>{MOMENT}) ?(?P<zone>{ZONE})?$"
WRITE = "write 2024-01-31 12:00:00, or unix seconds"
DAY = 86_400


def times(values: pa.ChunkedArray, refuse: Refuse, unit: str | None = None):
    """A column of times as int64 seconds, or as timestamps in UTC where some are finer;
    what is missing stays so. unit: of bare numbers, "s", "ms", "us" or "ns"."""
    values = plain(values)
    if unit not in (None, *TICKS):
        refuse(None, f"time_unit {unit!r} is none", f"use one of {', '.join(TICKS)}")
    found, per_second = _parsed(values, refuse, unit)
    size = pc.abs(
        pc.divide(pc.cast(found, pa.float64(), safe=False), float(per_second))
    )
    if (row := first(pc.fill_null(pc.greater(size, float(LATEST)), False))) >= 0:
        refuse(row, f"{cell(values, row)} is not a time", f"use {WANTED}")
    return _coarsest(found, per_second)


def _parsed(values: pa.ChunkedArray, refuse: Refuse, unit: str | None) -> tuple:
    """Ticks (int64), and how many make a second."""
    kind, is_ = values.type, pa.types
    if is_.is_timestamp(kind):
        return values.cast(pa.int64()), TICKS[kind.unit]
    if is_.is_date32(kind):
        return pc.multiply(values.cast(pa.int32()).cast(pa.int64()), DAY), 1
    if is_.is_date64(kind):
        return values.cast(pa.int64()), TICKS["ms"]
    if is_text(kind):
        return _from_texts(values, refuse, unit)
    if is_.is_decimal(kind):
        values = values.cast(pa.float64())
    if is_.is_integer(kind) or is_.is_floating(values.type):
        return _bare(values, refuse, unit)
    if is_.is_null(kind):
        return values.cast(pa.int64()), 1
    refuse(None, f"has type {name_of(kind)}", f"store {WANTED}")


def _bare(values: pa.ChunkedArray, refuse: Refuse, unit: str | None) -> tuple:
    """Ticks of numbers that nobody gave a unit, or of those whose unit is named."""
    floating = pa.types.is_floating(values.type)
    size = pc.abs(pc.cast(values, pa.float64(), safe=False))
    if floating:
        _check_floats(values, size, refuse)
    if unit is None:
        _check_unit(values, size, refuse)
    per_second = TICKS[unit or "s"]
    if (
        row := first(pc.fill_null(pc.greater(size, float(LATEST * per_second)), False))
    ) >= 0:
        refuse(row, f"{cell(values, row)} is not a time", f"use {WANTED}")
    if not floating:
        return values.cast(pa.int64()), per_second
    return _ticks_of_floats(values.cast(pa.float64()), per_second)


def _ticks_of_floats(values: pa.ChunkedArray, per_second: int) -> tuple:
    """Rounded to microseconds, or nanoseconds where float64 still tells them apart."""
    largest = pc.max(pc.abs(values)).as_py() or 0.0
    finest = max(per_second, 10**6)
    if largest / per_second * 1e9 < 2**53:
        finest = 10**9
    ticks = pc.round(pc.multiply(values, float(finest // per_second)))
    return ticks.cast(pa.int64(), safe=False), finest


def _check_floats(values: pa.ChunkedArray, size: pa.ChunkedArray, refuse: Refuse):
    finite = pc.fill_null(pc.is_finite(size), True)
    if (row := first(pc.invert(finite))) >= 0:
        refuse(row, f"{cell(values, row)} is not a time", f"use {WANTED}")
    exact = EXACT[values.type]
    if values.type == pa.float64():
        return
    if (row := first(pc.fill_null(pc.greater(size, float(exact)), False))) >= 0:
        problem = f"{cell(values, row)} has type {values.type}, too coarse for seconds"
        refuse(row, problem, "store int64, float64 or timestamps")


def _check_unit(values: pa.ChunkedArray, size: pa.ChunkedArray, refuse: Refuse):
    """Refuse numbers that look like another unit, or like days written as numbers."""
    row = first(pc.fill_null(pc.greater(size, float(LATEST)), False))
    if row >= 0:
        far = size[row].as_py()
        if _calendar(pc.divide(size.slice(row, 1), 1e6)):
            problem = f"{cell(values, row)} looks like a date written as a number"
            refuse(row, problem, WRITE)
        for name, unit in FINER.items():
            if far < LATEST * TICKS[unit]:
                problem = f"{cell(values, row)} looks like {name}"
                remedy = f'divide by {TICKS[unit]}, or say time_unit "{unit}"'
                refuse(row, problem, f"{remedy}: timestamps are {WANTED}")
        refuse(row, f"{cell(values, row)} is not a time", f"use {WANTED}")
    if len(values) > values.null_count and _calendar(values.drop_null()):
        problem = f"{cell(values, 0)} may be a date written as a number"
        remedy = f'{WRITE} (if these are seconds, say time_unit "s")'
        refuse(0, problem, remedy)


def _calendar(values: pa.ChunkedArray) -> bool:
    """Whether all numbers are days such as 20240131."""
    days = np.asarray(pc.cast(values, pa.float64(), safe=False))
    if not ((days >= 1900_01_01) & (days < 2101_00_00)).all():
        return False
    month, day = days // 100 % 100, days // 1 % 100
    return bool(((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all())


def _from_texts(values: pa.ChunkedArray, refuse: Refuse, unit: str | None) -> tuple:
    words = pc.utf8_trim_whitespace(values)
    known = words.drop_null()
    if len(known) and pc.all(pc.match_substring_regex(known, NUMBER)).as_py():
        return _bare(_numbers(words), refuse, unit)
    parts = pc.extract_regex(words, ISO)
    good = pc.or_(pc.is_valid(parts), pc.is_null(words))
    if (row := first(pc.invert(good))) >= 0:
        refuse(row, f"{cell(values, row)} is not a time", WRITE)
    moment, zone = (pc.struct_field(parts, name) for name in ("moment", "zone"))
    without = pc.equal(zone, "")
    both = pc.any(without).as_py() and not pc.all(without).as_py()
    if both:
        other = pc.not_equal(without, without.drop_null()[0])
        row = first(pc.fill_null(other, False))
        problem = f"{cell(values, row)}: some times have a zone and some have none"
        refuse(row, problem, "write them all in one way")
    return _from_moments(values, moment, zone, refuse)


def _from_moments(values, moment, zone, refuse: Refuse) -> tuple:
    fine = pc.any(pc.match_substring_regex(moment, r"[.][0-9]{7}")).as_py()
    unit = "ns" if fine else "us"  # nanoseconds begin in 1678 and end in 2262

    def convert(part: pa.ChunkedArray) -> pa.ChunkedArray:
        return part.cast(pa.timestamp(unit))

    if (row := first_bad(moment, convert)) >= 0:
        refuse(row, f"{cell(values, row)} is not a time", WRITE)
    ticks, offset = convert(moment).cast(pa.int64()), _offsets(zone)
    if (row := first(pc.fill_null(pc.is_nan(offset), False))) >= 0:
        refuse(row, f"{cell(values, row)} has no zone that there is", WRITE)
    offset = pc.multiply(offset.cast(pa.int64()), TICKS[unit])
    return pc.subtract(ticks, offset), TICKS[unit]


def _offsets(zone: pa.ChunkedArray) -> pa.ChunkedArray:
    """Seconds east of Greenwich (float64), NaN for what is no zone."""
    encoded = zone.combine_chunks().dictionary_encode()
    found = [_offset(name) for name in encoded.dictionary.to_pylist()]
    found = pa.array(found, pa.float64())
    return pa.chunked_array([found.take(encoded.indices)])


def _offset(zone: str) -> float:
    if not (digits := re.sub("[^0-9]", "", zone)):
        return 0.0
    hours, minutes = int(digits[:2]), int(digits[2:] or 0)
    if hours > 14 or minutes > 59:
        return float("nan")
    return (-1 if zone[0] == "-" else 1) * (hours * 3600.0 + minutes * 60)


def _numbers(words: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return words.cast(pa.int64())
    except pa.ArrowInvalid:
        return words.cast(pa.float64())


def _coarsest(found: pa.ChunkedArray, per_second: int) -> pa.ChunkedArray:
    """int64 seconds, or timestamps of the coarsest unit that loses nothing."""
    while per_second > 1:
        coarse = pc.divide(found, 1000)
        if not pc.all(pc.equal(pc.multiply(coarse, 1000), found)).as_py():
            break
        found, per_second = coarse, per_second // 1000
    if per_second == 1:
        return found
    unit = next(name for name, ticks in TICKS.items() if ticks == per_second)
    return found.cast(pa.timestamp(unit, "UTC"))


def ticks(values: pa.ChunkedArray) -> np.ndarray:
    """(I,) int64 in the unit of a column that `times` made: what to sort by."""
    return values.cast(pa.int64()).to_numpy()


def seconds(values: pa.ChunkedArray) -> np.ndarray:
    """(I,) unix seconds of a column that `times` made: int64 where all are whole, else
    float64, with NaN where one is missing."""
    whole = values.cast(pa.int64())
    if whole.null_count:
        found = whole.cast(pa.float64(), safe=False).to_numpy()
    else:
        found = whole.to_numpy()
    if not pa.types.is_timestamp(values.type):
        return found
    return found / TICKS[values.type.unit]
