"""Columns of a log that count what was not known yet."""

from __future__ import annotations

import numpy as np

SAME = 0.98  # correlation with a count of the whole log that makes a column that count
FEWEST = 10  # users or items by which a correlation is judged


def counted_later(
    values: np.ndarray, user: np.ndarray, item: np.ndarray, label: np.ndarray
) -> str | None:
    """Why a column of numbers may not be a feature: it counts, for each user or item,
    what the whole log holds, the future with it. None where it does not. All (I,)."""
    if values.dtype == object:
        return None
    for who, key in (("user", user), ("item", item)):
        first, place = np.unique(key, return_index=True, return_inverse=True)[1:]
        own = values[first]
        if len(own) < FEWEST or not np.isfinite(own).all() or own.min() < 0:
            continue
        if (values != own[place]).any():
            continue  # it changes with the impression
        for what, weight in (("impressions", None), ("positives", label)):
            if _alike(own, np.bincount(place, weight)):
                return f"it counts {what} of each {who} in the whole log"
    return None


def _alike(values: np.ndarray, total: np.ndarray) -> bool:
    x, y = np.log1p(values), np.log1p(total)
    if x.std() == 0 or y.std() == 0:
        return False
    return bool(np.corrcoef(x, y)[0, 1] > SAME)
