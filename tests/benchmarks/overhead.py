"""The share of a classroom step that is neither matrix product nor attention."""

from __future__ import annotations

import statistics
from collections import Counter

from torch.profiler import ProfilerActivity, profile

from lemur_mini.config import CLASSROOM
from lemur_mini.roofline import REPEATS
from lemur_mini.training import train_step
from tests.benchmarks.common import begin, prepare, row, store

MATRIX = ("mm", "addmm", "bmm", "baddbmm", "convolution", "matmul")
ATTENTION = "scaled_dot_product"


def kind(name: str) -> str:
    """Of an operation of the profile, by its name."""
    name = name.removeprefix("aten::")
    if ATTENTION in name:
        return "attention"
    if any(name == m or (m == "convolution" and m in name) for m in MATRIX):
        return "matrix products"
    if "gelu" in name or "layer_norm" in name:
        return "GELU and LayerNorm"
    if name in ("copy_", "cat", "fill_", "zero_", "index", "index_select", "clone"):
        return "moving"
    return "rest" if "::" not in name and "#" not in name else "autograd and optimiser"


def main() -> None:
    """Real steps with their batches, in the middle of a training; the profiler's own
    work counts as overhead."""
    prepared = prepare(CLASSROOM)
    run, pages = begin(prepared, CLASSROOM), prepared.pages
    index = pages.between(None, prepared.dataset.test_start)[-20 * CLASSROOM.pages :]
    stream = pages.stream(index, CLASSROOM.pages, CLASSROOM.history_long)
    shares, kinds, tops = [], [], []
    for turn in range(REPEATS + 1):
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for _ in range(3):
                run.step = 5_001
                train_step(run, next(stream))
        events = found.key_averages()
        total = sum(e.self_cpu_time_total for e in events)
        parts: Counter = Counter()
        for event in events:
            parts[kind(event.key)] += event.self_cpu_time_total / total
        if turn:
            shares.append(1 - parts["matrix products"] - parts["attention"])
            kinds.append(parts)
            events = sorted(events, key=lambda e: -e.self_cpu_time_total)[:15]
            tops.append({e.key: e.self_cpu_time_total / total for e in events})
    middle = sorted(range(REPEATS), key=shares.__getitem__)[REPEATS // 2]
    store(
        "overhead",
        [row("share of a classroom step outside matrix products and attention",
             statistics.median(shares), "<= 0.25")],
        {"kinds": kinds[middle], "largest": tops[middle]},
        clock="wall, of the profiler",
    )  # fmt: skip


if __name__ == "__main__":
    main()
