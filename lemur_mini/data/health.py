"""The health of a log before anyone trains on it: what it holds, and what leaks."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lemur_mini.data.columns import is_text, plain
from lemur_mini.data.errors import Origin
from lemur_mini.data.folders import read_tables
from lemur_mini.data.joins import codes, group_of, item_rows, repeated
from lemur_mini.data.loading import Dataset
from lemur_mini.data.schema import IMPRESSIONS, ITEMS, unused
from lemur_mini.data.times import seconds
from lemur_mini.evaluation import auc

TELLS = 0.95  # our choice: a column whose AUC reaches this gives the label away
GIVEN = ("label", "probability", "sampled")  # not asked whether they tell the label
MOST_ROWS = 10**6  # that columns are judged by
BINS = 30  # of the time line


@dataclass(frozen=True)
class Health:
    """What a data set holds and which leaks were found. Prints as a table;
    `plots.health_figure` draws it."""

    name: str
    rows: int
    users: int
    items: int
    shown: int  # items with an impression
    sessions: int
    label_rate: float
    sampled: int  # rows that are sampled negatives
    start: int  # unix seconds, of the first impression
    end: int  # ... of the last
    coverage: dict[str, float]  # share of the items that have this field
    aucs: dict[str, float]  # how well each column alone tells the label
    timeline: np.ndarray  # (2, BINS) impressions and positives over equal times
    checked: dict[str, str] = field(default_factory=dict)  # leak: what was found
    leaks: tuple[str, ...] = ()  # one line each: file, column, row, problem, remedy
    unused: dict[str, str] = field(default_factory=dict)  # column: why it is not read

    def __str__(self) -> str:
        days = (self.end - self.start) / 86_400
        dates = (str(_date(t)) for t in (self.start, self.end))
        lines = {
            "impressions": f"{self.rows:,} in {self.sessions:,} sessions",
            "users": f"{self.users:,}",
            "items": f"{self.items:,}, of which {self.shown:,} shown",
            "label rate": f"{self.label_rate:.1%}",
            "sampled negatives": f"{self.sampled:,}",
            "time span": f"{' to '.join(dates)} ({days:.1f} days)",
        }
        lines |= {f"items with {k}": f"{v:.1%}" for k, v in self.coverage.items()}
        lines |= self.checked
        table = "\n".join(f"  {key:24}{value}" for key, value in lines.items())
        return "\n".join([f"health of {self.name}", table, *self.warnings()])

    def warnings(self) -> list[str]:
        """The short form: a line for every column that is not used, and every leak."""
        unused = [
            f"not used: column {name}, {why}" for name, why in self.unused.items()
        ]
        return [*unused, *(f"LEAK {line}" for line in self.leaks)]


def _date(time: int) -> datetime.date:
    epoch = datetime.datetime(1970, 1, 1)  # Windows has no times before it
    return (epoch + datetime.timedelta(seconds=time)).date()


def health(
    source: Dataset | str | Path | tuple[pa.Table, pa.Table], name: str = ""
) -> Health:
    """Look at a data set, its folder, or its two tables (items, impressions).

    Leaks looked for: a column that tells the label, items shown before their birth,
    impressions that stand twice, labels of one class. Raises DataError where the data
    does not follow the schema."""
    if isinstance(source, Dataset):
        source = source.folder or source.name  # the texts and ids as they were
    items, log = read_tables(source)
    item = item_rows(log, items, Origin(IMPRESSIONS), Origin(ITEMS))
    group, time = codes(log[group_of(log)[0]]), seconds(log["timestamp"])
    label = log["label"].to_numpy().astype(np.int8)
    moments, span = (time, time[label == 1]), (time.min(), time.max() + 1)
    return Health(
        **_leaks(items, log, item, group, time, label),
        name=name or _name(source),
        rows=len(label),
        users=int(codes(log["user_id"]).max()) + 1,
        items=items.num_rows,
        shown=len(np.unique(item)),
        sessions=int(group.max()) + 1,
        label_rate=float(label.mean()),
        sampled=_sampled(log),
        start=int(time.min()),
        end=int(time.max()),
        coverage=_coverage(items),
        timeline=np.stack([np.histogram(t, BINS, span)[0] for t in moments]),
        unused=unused(items, log),
    )


def _leaks(items, log, item, group, time, label) -> dict:
    """What every detector says."""
    aucs = _aucs(items, log, item, label)
    found = {
        "label from a column": _tellers(aucs),
        "items before birth": _before_birth(items, item, time),
        "duplicate impressions": _duplicates(group * items.num_rows + item, time),
        "labels of one class": _one_class(label),
    }
    return {
        "aucs": {name: value for (_, name), value in aucs.items()},
        "checked": {leak: said for leak, (said, _) in found.items()},
        "leaks": tuple(line for _, lines in found.values() for line in lines),
    }


def _name(source) -> str:
    return "two tables" if isinstance(source, tuple) else Path(source).resolve().name


def _sampled(log: pa.Table) -> int:
    """Rows that a column of truth values marks as sampled negatives."""
    marks = plain(log["sampled"]) if "sampled" in log.column_names else None
    truths = marks is not None and pa.types.is_boolean(marks.type)
    return (pc.sum(marks).as_py() or 0) if truths else 0


def _coverage(items: pa.Table) -> dict[str, float]:
    """Share of the items that have a text, or an image, in each such column."""
    shares = {}
    for field_ in items.schema:
        values = items[field_.name]
        if is_text(field_.type) and field_.name not in ("item_id", "image"):
            there = pc.fill_null(
                pc.not_equal(pc.utf8_trim_whitespace(values), ""), False
            )
        elif field_.name == "image":
            there = values.is_valid()
        else:
            continue
        shares[field_.name] = float(np.asarray(there).mean())
    return shares


def _aucs(items: pa.Table, log: pa.Table, item: np.ndarray, label: np.ndarray) -> dict:
    """(file, column): AUC of that column alone, at least 0.5."""
    rows = slice(None, None, -(-len(label) // MOST_ROWS))
    item, label = item[rows], label[rows]
    half = np.random.default_rng(0).random(len(label)) < 0.5
    found = {}
    for file, table, place in ((IMPRESSIONS, log, None), (ITEMS, items, item)):
        for name in table.column_names:
            values = plain(table[name])
            code = None if name in (*GIVEN, "image") else _codes(values)
            if code is None:
                continue
            raw = _numbers(values)
            code, raw = (
                None if v is None else v[rows] if place is None else v[place]
                for v in (code, raw)
            )
            scores = [rate_elsewhere(code, label, half)]
            scores += [] if raw is None else [raw, -raw]
            values = [auc(label, score) for score in scores]
            found[file, name] = float(np.nanmax([0.5, *values]))
    return found


def _codes(values: pa.ChunkedArray) -> np.ndarray | None:
    """Values as numbers of their first appearance; None for lists and their like."""
    try:
        return None if pa.types.is_nested(values.type) else codes(values)
    except pa.ArrowNotImplementedError:
        return None


def _numbers(values: pa.ChunkedArray) -> np.ndarray | None:
    """Numbers or times as they are, what is missing below all; None for the rest."""
    if not pa.types.is_primitive(kind := values.type):
        return None
    try:
        if pa.types.is_temporal(kind):
            values = values.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
        out = pc.cast(values, pa.float64(), safe=False).to_numpy()
    except pa.ArrowNotImplementedError:
        return None
    out = np.asarray(out, np.float64)
    finite = out[np.isfinite(out)]
    low, high = finite.min(initial=0) - 1, finite.max(initial=0) + 1
    return np.nan_to_num(out, nan=low, neginf=low, posinf=high)


def rate_elsewhere(code, label, half) -> np.ndarray:
    """Label rate of the same value in the other half of the rows: a rate that counts
    its own row would tell the label of every value that stands once."""
    score = np.empty(len(code))
    for mine in (half, ~half):
        shown = np.bincount(code[~mine], minlength=code.max() + 1)
        taken = np.bincount(code[~mine], label[~mine], minlength=code.max() + 1)
        score[mine] = ((taken + label.mean()) / (shown + 1))[code[mine]]
    return score


def _tellers(aucs: dict) -> tuple[str, list[str]]:
    (_, name), best = max(aucs.items(), key=lambda pair: pair[1])
    remedy = "drop it, unless it is known before the impression"
    return f"best alone: {name}, AUC {best:.3f}", [
        f"{file}, column {name}: tells the label (AUC {value:.3f}); {remedy}"
        for (file, name), value in aucs.items()
        if value >= TELLS
    ]


def _before_birth(items: pa.Table, item: np.ndarray, time: np.ndarray):
    if "created_at" not in items.column_names:
        return "not looked for: no created_at", []
    born = seconds(items["created_at"])  # NaN, which is never early, where unknown
    early = np.flatnonzero(born[item] > time)
    remedy = "correct created_at, or drop these rows"
    return _count(early, "created_at", "shown before its item's birth", remedy)


def _duplicates(key: np.ndarray, time: np.ndarray) -> tuple[str, list[str]]:
    again = np.flatnonzero(repeated(key, time))
    same = "same session, item and time as an earlier row"
    return _count(again, "item_id", same, "keep one of them")


def _one_class(label: np.ndarray) -> tuple[str, list[str]]:
    wrong = np.arange(len(label) * (label.min() == label.max()))
    said = f"all labels are {label[0]}"
    return _count(wrong, "label", said, "see lemur_mini.data.importers.negatives")


def _count(rows: np.ndarray, column: str, problem: str, remedy: str):
    if not rows.size:
        return "none", []
    where = f"{IMPRESSIONS}, column {column}, row {rows[0]}"
    return f"{rows.size:,}", [f"{where}: {problem} ({rows.size:,} rows); {remedy}"]
