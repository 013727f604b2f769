"""AUC, QAUC, slices, intervals, calibration."""

from __future__ import annotations

import numpy as np
from scipy import stats

from lemur_mini import finite

COLD = 20  # a document or user with fewer training impressions is cold


def checked(label: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays (B,). Every measure begins here. Raises FloatingPointError for a
    score that is not finite, ValueError for a label that is neither 0 nor 1."""
    label, score = np.asarray(label), np.asarray(score)
    if label.ndim != 1 or label.shape != score.shape:
        raise ValueError(f"labels {label.shape} and scores {score.shape} do not pair")
    bad = np.flatnonzero((label != 0) & (label != 1))
    if bad.size:
        raise ValueError(f"label {label[bad[0]]} in place {bad[0]}: use 0 or 1")
    return label, finite.require(score, "scores")


def chances(label: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`checked`, of probabilities. Raises ValueError for what is outside [0, 1]."""
    label, score = checked(label, score)
    bad = np.flatnonzero((score < 0) | (score > 1))
    if bad.size:
        raise ValueError(f"{score[bad[0]]} in place {bad[0]} is no probability")
    return label, score


def auc(
    label: np.ndarray, score: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """Area under the ROC curve, ties counted half. All (B,); nan with one class.
    Raises what `checked` raises."""
    label, score = checked(label, score)
    weight = np.ones(len(label)) if weight is None else weight
    order = np.argsort(score, kind="stable")
    label, score, weight = label[order], score[order], weight[order]
    positive, negative = weight * (label == 1), weight * (label == 0)
    group = np.cumsum(np.r_[0, np.diff(score) != 0]) if len(score) else []
    positive, negative = (np.bincount(group, w) for w in (positive, negative))
    below = np.cumsum(negative) - negative / 2
    total = positive.sum() * negative.sum()
    return float((positive * below).sum() / total) if total else float("nan")


def query_auc(label: np.ndarray, score: np.ndarray, qid: np.ndarray) -> np.ndarray:
    """AUC of every query, nan where all labels agree. All (B,); returns (queries,).
    Raises what `checked` raises."""
    label, score = checked(label, score)
    if not len(qid):
        return np.empty(0)
    _, group = np.unique(qid, return_inverse=True)
    order = np.lexsort((score, group))
    label, score, group = label[order], score[order], group[order]
    first = np.r_[True, np.diff(group) != 0]
    new = first | np.r_[True, np.diff(score) != 0]
    tie = np.cumsum(new) - 1  # block of equal scores inside a query
    negatives = np.bincount(tie, label == 0)
    owner = group[new]
    before = np.cumsum(negatives) - negatives
    before = before - before[np.searchsorted(owner, owner)]  # inside the query
    wins = np.bincount(owner, np.bincount(tie, label == 1) * (before + negatives / 2))
    positive, count = np.bincount(group, label == 1), np.bincount(group)
    total = positive * (count - positive)
    return np.divide(wins, total, out=np.full(len(total), np.nan), where=total > 0)


def qauc(label: np.ndarray, score: np.ndarray, qid: np.ndarray) -> float:
    """Unweighted mean AUC over queries; queries of one class are skipped (paper,
    section 7)."""
    values = query_auc(label, score, qid)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def log_loss(label: np.ndarray, score: np.ndarray) -> float:
    """Mean binary cross-entropy in nats. score: probabilities."""
    label, score = chances(label, score)
    score = np.clip(score, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(label == 1, np.log(score), np.log1p(-score))))


def calibration_error(label: np.ndarray, score: np.ndarray, bins: int = 10) -> float:
    """Mean gap between predicted and observed rate, over bins of equal size."""
    label, score = chances(label, score)
    order = np.argsort(score, kind="stable")
    gaps = [
        len(part) * abs(label[part].mean() - score[part].mean())
        for part in np.array_split(order, bins)
        if len(part)
    ]
    return ratio(sum(gaps), len(order))


def ratio(part: float, whole: float) -> float:
    """part / whole, nan of nothing."""
    return float(part / whole) if whole else float("nan")


def intervals(
    label: np.ndarray,
    score: np.ndarray,
    qid: np.ndarray,
    draws: int = 200,
    seed: int = 0,
) -> dict[str, list[float]]:
    """95 % bootstrap intervals of AUC and QAUC: whole queries are drawn anew."""
    rng = np.random.default_rng(seed)
    _, group = np.unique(qid, return_inverse=True)
    each = query_auc(label, score, qid)
    values: dict[str, list[float]] = {"auc": [], "qauc": []}
    for _ in range(draws):
        times = np.bincount(
            rng.integers(len(each), size=len(each)), minlength=len(each)
        )
        values["auc"].append(auc(label, score, times[group]))
        usable = np.isfinite(each) & (times > 0)
        weight = times[usable]
        values["qauc"].append(
            np.average(each[usable], weights=weight) if weight.size else np.nan
        )
    return {name: _middle(drawn) for name, drawn in values.items()}


def _middle(drawn: list[float]) -> list[float]:
    """The middle 95 % of what is a number among these; nan where nothing is."""
    known = np.array(drawn)[np.isfinite(drawn)]
    return np.percentile(known, [2.5, 97.5]).tolist() if len(known) else [np.nan] * 2


def slices(train_item, train_user, item, user, documents: int, users: int) -> dict:
    """Masks over test impressions: cold documents, cold users, tail documents (all but
    the tenth of the documents that training showed most)."""
    shown = np.bincount(train_item, minlength=documents)
    active = np.bincount(train_user, minlength=users)
    return {
        "cold": shown[item] < COLD,
        "cold_user": active[user] < COLD,
        "tail": shown[item] <= np.quantile(shown, 0.9),
    }


def evaluate(
    label: np.ndarray, score: np.ndarray, qid: np.ndarray, parts: dict[str, np.ndarray]
) -> dict:
    """Every measure of one model on one set of impressions, as plain numbers: nan where
    there is none, with the counts that say why. Raises what `checked` raises."""
    if not len(label):
        raise ValueError("no impressions to measure")
    each = query_auc(label, score, qid)
    out = {
        "auc": auc(label, score),
        "qauc": qauc(label, score, qid),
        "intervals": intervals(label, score, qid),
        "log_loss": log_loss(label, score),
        "calibration_error": calibration_error(label, score),
        "predicted_over_observed": ratio(score.mean(), label.mean()),
        "impressions": len(label),
        "positives": int(label.sum()),
        "queries": len(each),
        "queries_skipped": int(np.isnan(each).sum()),
    }
    for name, mask in parts.items():
        out[f"{name}_auc"] = auc(label[mask], score[mask])
        out[f"{name}_qauc"] = qauc(label[mask], score[mask], qid[mask])
        out[f"{name}_impressions"] = int(mask.sum())
        out[f"{name}_positives"] = int(label[mask].sum())
    return out


def gap_closed(baseline: float, lemur: float, best: float) -> float:
    """Share of the way from the baseline to the ceiling that LEMUR goes."""
    return (lemur - baseline) / (best - baseline)


def mean_and_interval(values: list[float]) -> tuple[float, float | None]:
    """Mean and half width of the 95 % t interval over seeds; None for one value."""
    if len(values) < 2:
        return float(np.mean(values)), None
    t = stats.t.ppf(0.975, len(values) - 1)
    return float(np.mean(values)), float(t * stats.sem(values))
