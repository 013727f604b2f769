"""What the benchmarks share: a platform, steps to time, the stored result."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lemur_mini import files, pipeline
from lemur_mini.config import Config
from lemur_mini.cost import roofline
from lemur_mini.data.pages import Batch, make_batch
from lemur_mini.training import Run, make_model, train_step

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "data" / "results" / "cost"
CPU = torch.device("cpu")


def medians(calls: dict[str, Callable], device: torch.device = CPU) -> dict[str, float]:
    """Median seconds of every call, turn and turn about; see `roofline.medians`."""
    return roofline.medians(calls, device)


def prepare(config: Config, device: torch.device = CPU) -> pipeline.Prepared:
    """The shipped platform; one thread on the CPU."""
    torch.set_num_threads(1)
    return pipeline.prepare(ROOT / "data", config, device)


def begin(prepared: pipeline.Prepared, config: Config, seed: int = 0) -> Run:
    """A training in its middle: sampling is on, and the bank holds every document."""
    device = prepared.features.tokens.device
    model = make_model(config, prepared.sizes, seed, device).train()
    if config.has_content:
        model.bank.written.zero_()
    return Run(model, prepared.features, seed, total=10_001)


def step(run: Run, batch: Batch) -> Callable[[], None]:
    """One step of the optimiser on this batch, as often as it is called."""

    def call() -> None:
        run.step = 5_001  # never one that is logged
        train_step(run, batch)

    return call


def last_batch(prepared: pipeline.Prepared, config: Config) -> Batch:
    """The last training batch: the longest histories that the platform has."""
    index = prepared.pages.between(None, prepared.dataset.test_start)
    return prepared.pages.batch(index[-config.batch_pages :], config.history_long)


def with_items(batch: Batch, item: np.ndarray) -> Batch:
    """The batch with other documents (P, S) on its pages."""
    return make_batch(
        batch.user.numpy(),
        batch.query.numpy(),
        batch.qid.numpy(),
        item,
        batch.label.numpy(),
        batch.history.numpy(),
    )


def row(what: str, measured: float | None, goal: str = "", **more) -> dict:
    """A line of the README's table; a goal is "<= 1.3", ">= 100" or nothing."""
    return {"what": what, "goal": goal, "measured": measured} | more


def store(
    name: str, rows: list[dict], facts: dict, device: torch.device = CPU, **more
) -> dict:
    """Write data/results/cost/NAME.json and print its rows."""
    command = " ".join(["python -m", f"tests.benchmarks.{name}", *sys.argv[1:]])
    result = {
        "rows": rows,
        "facts": facts,
        "clock": "CPU seconds of the process" if device.type == "cpu" else "wall",
        "repeats": roofline.REPEATS,
    }
    result |= files.provenance(command, device) | more
    files.write_json(RESULTS / f"{name}.json", result)
    for line in rows:
        value = line["measured"]
        shown = "not measured" if value is None else f"{value:.3g}"
        print(
            f"{line['what']}: {shown} {line['goal'] and '(goal ' + line['goal'] + ')'}"
        )
    return result
