"""The share of a classroom step that is neither matrix product nor attention."""

from __future__ import annotations

import itertools
import time
from collections import Counter

from torch.profiler import ProfilerActivity, profile

from lemur_mini.config import CLASSROOM
from lemur_mini.cost.roofline import REPEATS
from lemur_mini.training import train_step
from tests.benchmarks.common import begin, prepare, row, store

MATRIX = ("mm", "addmm", "bmm", "baddbmm", "convolution", "matmul")
ATTENTION = "scaled_dot_product"
STEPS = 3  # a turn


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
    """Real steps with their batches, in the middle of a training. The time of products
    and attention is the profiler's; that of the step is taken without it, in turn, as
    its own work would count as ours."""
    prepared = prepare(CLASSROOM)
    run, pages = begin(prepared, CLASSROOM), prepared.pages
    index = pages.between(None, prepared.dataset.test_start)[-3000:]
    stream = pages.stream(index, CLASSROOM.batch_pages, CLASSROOM.history_long)
    seen = []
    for turn in range(REPEATS + 1):
        began = time.perf_counter()
        batches = list(itertools.islice(stream, STEPS))
        making = time.perf_counter() - began
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for batch in batches:
                run.step = 5_001
                train_step(run, batch)
        began = time.perf_counter()
        for batch in batches:
            run.step = 5_001
            train_step(run, batch)
        plain = time.perf_counter() - began
        if turn:
            shares = shares_of(found.key_averages(), plain)
            seen.append(shares | {"making": making / plain})
    middle = sorted(seen, key=lambda one: one["outside"])[REPEATS // 2]
    what = "share of a classroom step outside matrix products and attention"
    rows = [
        row(what, middle["outside"], "<= 0.25"),
        row("... with the profiler's own work in it", middle["outside_profiled"]),
        row("making a batch from the log, share of its step", middle["making"]),
    ]
    store("overhead", rows, middle, clock="wall")


def shares_of(events: list, plain: float) -> dict:
    """Shares of the profiled time by kind and of the largest operations, and what lies
    outside products and attention, of the profiled and of the plain seconds."""
    total = sum(event.self_cpu_time_total for event in events)  # microseconds
    kinds: Counter = Counter()
    for event in events:
        kinds[kind(event.key)] += event.self_cpu_time_total / total
    inside = kinds["matrix products"] + kinds["attention"]
    largest = sorted(events, key=lambda e: -e.self_cpu_time_total)[:15]
    return {
        "outside": 1 - inside * total / 1e6 / plain,
        "outside_profiled": 1 - inside,
        "kinds": dict(kinds),
        "largest": {e.key: e.self_cpu_time_total / total for e in largest},
    }


if __name__ == "__main__":
    main()
