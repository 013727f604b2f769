"""Columns as they lie about, brought to one type a role: id, text, number, picture.

A role takes a column of any Arrow type and gives it back as one type, or refuses it
through `Origin.fail` with the first row that will not do. Nothing is rounded, guessed
or dropped on the way. Times have a module of their own.
"""

from __future__ import annotations

import uuid

import pyarrow as pa
import pyarrow.compute as pc

from lemur_mini.data.errors import Refuse, cell, first, first_bad

INTEGER = r"^(0|-?[1-9][0-9]{0,18})$"  # as Python would write it: no leading zeros
NUMBER = r"^\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*$"
NOTHING = ["NULL", "NaN", "Null", "None", "NA", "N/A", "<NA>", "NaT", r"\N"]
NOTHING += ["nan", "null", "none"]  # how files without types write what is missing
EXACT = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}
TRUTH = {"true": "1", "True": "1", "TRUE": "1"}
TRUTH |= {"false": "0", "False": "0", "FALSE": "0"}


def plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same values without dictionaries, runs, views and extensions; texts and bytes
    with 64-bit offsets, so that no column is too long for what follows."""
    while (simpler := _simpler(values)) is not None:
        values = simpler
    return values


def _simpler(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    kind, is_ = values.type, pa.types
    if is_.is_dictionary(kind):
        return _each(values, lambda chunk: chunk.dictionary_decode(), kind.value_type)
    if is_.is_run_end_encoded(kind):
        return _each(values, pc.run_end_decode, kind.value_type)
    if isinstance(kind, pa.UuidType):
        names = [None if v is None else _uuid(v) for v in values.to_pylist()]
        return pa.chunked_array([names], pa.large_string())
    if isinstance(kind, pa.BaseExtensionType):
        return _each(values, lambda chunk: chunk.storage, kind.storage_type)
    if is_.is_string(kind) or is_.is_string_view(kind):
        return values.cast(pa.large_string())
    if is_.is_binary(kind) or is_.is_binary_view(kind):
        return values.cast(pa.large_binary())
    if is_.is_fixed_size_binary(kind):
        return values.cast(pa.binary()).cast(pa.large_binary())
    return None


def _uuid(value) -> str:
    return str(value if isinstance(value, uuid.UUID) else uuid.UUID(bytes=value))


def _each(values: pa.ChunkedArray, change, kind: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array([change(chunk) for chunk in values.chunks], kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists, of any kind."""
    return any(
        test(kind)
        for test in (
            pa.types.is_list,
            pa.types.is_large_list,
            pa.types.is_fixed_size_list,
            pa.types.is_list_view,
            pa.types.is_large_list_view,
        )
    )


def name_of(kind: pa.DataType) -> str:
    """A type as a message says it: text is text, whatever its offsets are."""
    return str(kind).replace("large_", "").replace("_view", "")


def valid_utf8(values: pa.ChunkedArray, refuse: Refuse) -> pa.ChunkedArray:
    """Texts, refused where they say they are UTF-8 and are not."""
    row = first_bad(values, lambda part: part.validate(full=True))
    if row >= 0:
        remedy = "read the source in its own encoding, such as latin-1"
        refuse(row, "is not UTF-8", remedy)
    return values


def text(values: pa.ChunkedArray) -> tuple[pa.ChunkedArray | None, str]:
    """Texts, or None and why these are none. Lists of texts are joined by spaces;
    bytes are texts where all are UTF-8 without zeros. Not yet checked for UTF-8."""
    values = plain(values)
    kind = values.type
    if is_text(kind):
        return values, ""
    if pa.types.is_null(kind):
        return None, "holds nothing"
    if pa.types.is_large_binary(kind):
        if first_bad(values, lambda part: part.cast(pa.large_string())) < 0:
            words = values.cast(pa.large_string())
            if not pc.any(pc.match_substring(words, "\0")).as_py():
                return words, ""
        return None, "bytes that are not UTF-8"
    if is_list(kind) and _of_texts(kind.value_type):
        return _joined(values)
    return None, f"type {name_of(kind)}: only texts are read"


def _of_texts(kind: pa.DataType) -> bool:
    empty = plain(pa.chunked_array([], kind))
    return is_text(empty.type)


def _joined(values: pa.ChunkedArray) -> tuple[pa.ChunkedArray | None, str]:
    def one(words: list | None) -> str | None:
        return None if words is None else " ".join(w for w in words if w is not None)

    try:
        joined = [one(words) for words in values.to_pylist()]
    except UnicodeDecodeError:
        return None, "lists of texts that are not UTF-8"
    return pa.chunked_array([pa.array(joined, pa.large_string())]), ""


def ids(values: pa.ChunkedArray, refuse: Refuse, untyped=False) -> pa.ChunkedArray:
    """Names as int64, uint64 or texts: what the file says, or refused.

    In an untyped file an id is a number only where all are written as Python would
    write them: 0012 and 12 stay two texts."""
    values = plain(values)
    kind, is_ = values.type, pa.types
    if is_text(kind) or is_.is_large_binary(kind):
        return _text_ids(values, refuse, untyped)
    if is_.is_integer(kind):
        return _integers(values)
    wanted = "store numbers or strings"
    if is_.is_floating(kind) and kind in EXACT and not is_.is_float16(kind):
        return _whole(values, refuse)
    if is_.is_decimal(kind):
        if (row := first_bad(values, _integers)) >= 0:
            refuse(row, f"{cell(values, row)} is no whole 64-bit number", wanted)
        return _integers(values)
    refuse(None, f"has type {name_of(kind)}", wanted)


def _text_ids(values: pa.ChunkedArray, refuse: Refuse, untyped) -> pa.ChunkedArray:
    if pa.types.is_large_binary(values.type):
        row = first_bad(values, lambda part: part.cast(pa.large_string()))
        if row >= 0:
            refuse(row, "is not UTF-8", "store ids as numbers or strings")
        values = values.cast(pa.large_string())
    values = valid_utf8(values, refuse)
    if (row := first(pc.equal(values, ""))) >= 0:
        refuse(row, "is empty", "fill it or drop the row")
    if not untyped:
        return values
    missing = pc.is_in(values, pa.array(NOTHING, values.type))
    if (row := first(missing)) >= 0:
        problem = f"{cell(values, row)} may be an id, or say that there is none"
        refuse(row, problem, "fill it, drop the row, or write the table as parquet")
    if pc.all(pc.match_substring_regex(values, INTEGER)).as_py():
        try:
            return values.cast(pa.int64())
        except pa.ArrowInvalid:  # beyond 64 bits: such names stay texts
            pass
    return values


def _integers(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """int64 where that holds them, else uint64."""
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid:
        return values.cast(pa.uint64())


def _whole(values: pa.ChunkedArray, refuse: Refuse) -> pa.ChunkedArray:
    """Floats that are whole numbers and small enough to be exact, as int64."""
    wide = values.cast(pa.float64())
    small = pc.less(pc.abs(wide), EXACT[values.type])
    good = pc.and_(small, pc.equal(wide, pc.floor(wide)))
    if (row := first(pc.invert(good))) >= 0:
        problem = (
            f"{cell(values, row)} ({values.type}) is no whole number, or too large"
        )
        refuse(row, f"{problem} to be exact", "store integers or strings")
    return wide.cast(pa.int64())


def number(values: pa.ChunkedArray, refuse: Refuse, untyped=False) -> pa.ChunkedArray:
    """Numbers as floats; texts only where the file has no types."""
    values = plain(values)
    kind, is_ = values.type, pa.types
    if is_text(kind) and untyped:
        return _from_texts(values, refuse)
    if is_.is_decimal(kind) or is_.is_float16(kind):
        return values.cast(pa.float64())
    if is_.is_integer(kind):  # a label is small; what is not exact is none
        return values.cast(pa.float64(), safe=False)
    if is_.is_floating(kind):
        return values
    if is_.is_boolean(kind):
        return values.cast(pa.float64())
    refuse(None, f"has type {name_of(kind)}", "store numbers")


def _from_texts(values: pa.ChunkedArray, refuse: Refuse) -> pa.ChunkedArray:
    words = pc.utf8_trim_whitespace(values)
    for word, digit in TRUTH.items():
        words = pc.if_else(pc.equal(words, word), digit, words)
    good = pc.fill_null(pc.match_substring_regex(words, NUMBER), True)
    if (row := first(pc.invert(good))) >= 0:
        refuse(row, f"{cell(values, row)} is no number", "correct it or drop the row")
    return words.cast(pa.float64())


def pictures(values: pa.ChunkedArray, refuse: Refuse) -> pa.ChunkedArray:
    """Encoded bytes, paths, or structs {bytes, path} with 64-bit offsets."""
    values = plain(values)
    kind = values.type
    if is_text(kind):
        return valid_utf8(values, refuse)
    if pa.types.is_large_binary(kind) or pa.types.is_null(kind):
        return values
    wanted = "store encoded bytes, {bytes, path} or paths"
    if not pa.types.is_struct(kind) or {"bytes", "path"} - {f.name for f in kind}:
        refuse(None, f"has type {kind}", wanted)
    raw, path = (plain(pc.struct_field(values, name)) for name in ("bytes", "path"))
    for part, test in ((raw, pa.types.is_large_binary), (path, is_text)):
        if not (test(part.type) or pa.types.is_null(part.type)):
            refuse(None, f"has type {kind}", wanted)
    if pa.types.is_null(raw.type) or raw.null_count == len(raw):
        return path
    if pa.types.is_null(path.type) or first(_lone(raw, path)) < 0:
        return raw
    arrays = [raw.combine_chunks(), path.combine_chunks()]
    both = pa.StructArray.from_arrays(arrays, ["bytes", "path"])
    return pa.chunked_array([both])


def _lone(raw: pa.ChunkedArray, path: pa.ChunkedArray) -> pa.ChunkedArray:
    """Where there is a path and no bytes."""
    return pc.and_(pc.is_null(raw), pc.is_valid(path))
