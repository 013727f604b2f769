"""What a reader should doubt before believing a figure: said by the main command."""

from __future__ import annotations

import numpy as np

from lemur_mini.data.loading import Dataset
from lemur_mini.evaluation import auc

ALWAYS = 0.99  # label rate of repeats from which they are called always positive
REPEATS = 100  # fewer say nothing
POPULAR = 0.8  # AUC of popularity alone from which negatives are called easy
UNLEARNT = 0.995  # of the entropy of the base rate: a loss above it learnt nothing


def of_log(dataset: Dataset) -> list[str]:
    """Of labels and negatives, one line each."""
    log, said = dataset.log, []
    repeats = log.label[taken_before(log.user, log.item, log.label)]
    if len(repeats) >= REPEATS and repeats.mean() >= ALWAYS:
        said.append(
            f"repeats are always positive: of {len(repeats):,} impressions of what the "
            f"user had taken before, {repeats.mean():.1%} are; negatives that leave "
            "out a user's own documents teach that, not taste"
        )
    alone = auc(log.label, earlier(log.item, log.label))
    if max(alone, 1 - alone) >= POPULAR:
        said.append(
            f"popularity alone tells positives from negatives (AUC {alone:.2f} of "
            "earlier positives): draw negatives by popularity, or from what was shown"
        )
    return said


def earlier(key: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(I,) positives of the same key on earlier rows."""
    order = np.argsort(key, kind="stable")
    key, label = key[order], label[order].astype(np.int64)
    total = np.cumsum(label) - label
    first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    each = np.repeat(total[first], np.diff(np.r_[first, len(key)]))
    out = np.empty(len(key), np.int64)
    out[order] = total - each
    return out


def taken_before(user: np.ndarray, item: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(I,) whether this user had a positive with this document on an earlier row."""
    return earlier(user * (item.max(initial=0) + 1) + item, label) > 0


def of_report(report: dict, label: np.ndarray) -> list[str]:
    """Of means and losses. label: (I,) of the training period."""
    said, rate = [], float(label.mean())
    entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    for name, log in report["training_log"].items():
        late = [row["ctr"] for row in log[-max(1, len(log) // 4) :]]
        if late and np.mean(late) >= UNLEARNT * entropy:
            said.append(
                f"{name}: the loss ends at {np.mean(late):.3f}, and the entropy of the "
                f"base rate is {entropy:.3f}: nothing was learnt; is the log too "
                "short, or are its negatives like its positives?"
            )
    if (means := report["means"]["auc"]) < 0.5:
        said.append(
            f"smoothed means rank worse than chance (AUC {means:.3f}): negatives are "
            "drawn against popularity, or the test period differs from what was before"
        )
    return said
