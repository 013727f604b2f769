"""Negatives for a log of positives: in time, by popularity, from a seed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lemur_mini.data.columns import ids
from lemur_mini.data.errors import Origin, refusal
from lemur_mini.data.joins import codes, item_rows, repeated
from lemur_mini.data.schema import IMPRESSIONS, ITEMS, item_columns
from lemur_mini.data.times import seconds, times

ROUNDS = 30  # of drawing anew what may not be used


def add_negatives(
    log: pa.Table,
    items: pa.Table,
    count: int,
    popularity: float = 1.0,
    seed: int = 0,
) -> pa.Table:
    """Beside every positive, `count` rows of label 0 that nobody saw, marked in the new
    column `sampled`. log: impressions of the schema, in time order.

    An item is drawn with weight popularity * (times taken before) + 1, if it exists by
    then (created_at, else its first row in the log) and its user has not taken it by
    then. A positive that repeats an earlier one of its user is dropped, because no
    negative ever repeats one. Rows of one positive are shuffled. There are fewer
    negatives where the catalogue is too small for `count`.

    What leaks all the same: (1) drawn evenly (popularity 0), negatives are rare items,
    and popularity alone tells the labels apart; (2) drawn by popularity, it tells the
    reverse wherever taste is personal or new: known items stand mostly at label 0, and
    a score is no longer the chance of a click; (3) some negatives would have been
    liked. So compare models on the same negatives, beside popularity alone, and never
    put such an AUC beside one of real impressions."""
    items, log = item_columns(items, Origin(ITEMS)), _with_times(log)
    log, user, item, time, taken = _arrays(log, items)
    rng, slot = np.random.default_rng(seed), np.repeat(taken, count)
    draw = _Draw(items, item, time, taken, popularity)
    pair = user * items.num_rows  # + item: a user with an item
    chosen = np.full(len(slot), -1)  # beside row slot[k]
    for _ in range(ROUNDS):
        empty = np.flatnonzero(chosen < 0)
        chosen[empty] = draw(time[slot[empty]], rng)
        key = np.where(chosen < 0, -1, pair[slot] + chosen)
        bad = _taken_before(key, time[slot], (pair + item)[taken], time[taken])
        bad |= repeated(np.r_[pair + item, key], np.r_[time, time[slot]])[len(time) :]
        chosen[bad] = -1
    slot, chosen = slot[chosen >= 0], chosen[chosen >= 0]
    source = np.r_[np.arange(len(time)), slot]
    new = np.arange(len(source)) >= len(time)
    out, label = log.take(source), np.isin(source, taken) & ~new
    names = items["item_id"].take(np.r_[item, chosen])
    out = out.set_column(out.column_names.index("item_id"), "item_id", names)
    label = pa.array(label.astype(np.int8))
    out = out.set_column(out.column_names.index("label"), "label", label)
    out = out.append_column("sampled", pa.array(new))
    return out.take(np.lexsort((rng.random(len(source)), source)))


def _with_times(log: pa.Table) -> pa.Table:
    where = Origin(IMPRESSIONS)
    when = times(log["timestamp"], refusal(where, "timestamp"))
    log = log.set_column(log.column_names.index("timestamp"), "timestamp", when)
    names = ids(log["item_id"], refusal(where, "item_id"))
    return log.set_column(log.column_names.index("item_id"), "item_id", names)


def _arrays(log: pa.Table, items: pa.Table) -> tuple:
    """The log without repeated takes; its users, items, times; the rows of takes."""
    item = item_rows(log, items, Origin(IMPRESSIONS), Origin(ITEMS))
    user, time = codes(log["user_id"]), seconds(log["timestamp"])
    take = np.flatnonzero(pc.equal(log["label"], 1).to_numpy())
    first = np.unique(user[take] * items.num_rows + item[take], return_index=True)[1]
    keep = np.delete(np.arange(len(user)), np.delete(take, first))
    rows = np.flatnonzero(np.isin(keep, take))
    return log.take(keep), user[keep], item[keep], time[keep], rows


class _Draw:
    """Draws items at given times, from what exists and what was taken before."""

    def __init__(self, items, item, time, taken, popularity: float):
        born = np.full(items.num_rows, np.inf)
        np.minimum.at(born, item, time)
        if "created_at" in items.column_names:
            given = seconds(items["created_at"]).astype(np.float64)
            born = np.where(np.isnan(given), born, given)
        self.by_birth = np.argsort(born, kind="stable")
        self.born, self.popularity = born[self.by_birth], popularity
        self.taken, self.when = item[taken], time[taken]

    def __call__(self, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A catalogue row for every time, -1 where nothing exists."""
        exist = np.searchsorted(self.born, time, "right")
        weight = self.popularity * np.searchsorted(self.when, time)  # strictly before
        point = rng.random(len(time)) * (weight + exist)
        event = (point / (self.popularity or 1)).astype(int)
        event = self.taken[np.minimum(event, len(self.taken) - 1)]
        other = np.clip(point - weight, 0, np.maximum(exist - 1, 0)).astype(int)
        drawn = np.where(point < weight, event, self.by_birth[other])
        return np.where(weight + exist > 0, drawn, -1)


def _taken_before(key, time, taken, when) -> np.ndarray:
    """Whether `key` stands in `taken` (distinct) at its time or before."""
    order = np.argsort(taken)
    place = order[np.minimum(np.searchsorted(taken[order], key), len(taken) - 1)]
    return (taken[place] == key) & (when[place] <= time)
