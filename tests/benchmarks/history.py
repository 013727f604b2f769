"""Step time against the length of histories: the bank against encoding them again.

Both with full histories of random documents. Without a bank, end-to-end training would
encode the history's documents forward and backward like the targets; that is timed in
portions up to `ENCODE_MOST` documents, and goes on from there by their number."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from lemur_mini.config import SCALES
from lemur_mini.cost.accounting import flops
from lemur_mini.data.pages import Batch
from lemur_mini.training import Run, step_options
from tests.benchmarks.common import (
    begin,
    last_batch,
    medians,
    prepare,
    row,
    step,
    store,
)

LENGTHS = (16, 64, 256, 1000, 2048, 4096)
MERGED = 4  # as at the gpu scale
PAGES = {"classroom": 64, "gpu": 16}  # rows of a batch on the CPU
ENCODE_MOST = {"classroom": 4096, "gpu": 1024}  # documents, timed


def full(batch: Batch, length: int, documents: int) -> Batch:
    """The batch with histories of this length, without padding."""
    draw = torch.Generator().manual_seed(length)
    shape = len(batch.user), length
    history = torch.randint(documents, shape, generator=draw)
    return dataclasses.replace(batch, history=history)


def encode(run: Run, count: int) -> None:
    """Encode so many documents forward and backward, a portion at a time."""
    rows = torch.arange(count) % run.model.sizes.documents
    for part in rows.split(512):
        run.model.encode(run.features, part).sum().backward()
    run.model.zero_grad(set_to_none=True)


def step_flops(run: Run, batch: Batch) -> int:
    """Of the losses of one step, forward and backward."""
    return flops(
        lambda: run.model.losses(batch, run.features, step_options(run, batch)).total
    )


def measure(scale: str, pages: int) -> dict:
    """Seconds and FLOPs by length, of one scale."""
    config = SCALES[scale].replace(batch_pages=pages, precision="fp32")
    prepared = prepare(config)
    batch, calls, counted = last_batch(prepared, config), {}, {}
    for length in LENGTHS:
        short = min(length, config.history_short)
        run = begin(prepared, config.replace(history_long=length, history_short=short))
        long = full(batch, length, prepared.sizes.documents)
        calls[length] = step(run, long)
        counted[length] = step_flops(run, long)
        if length == 1000:
            run = begin(prepared, run.config.replace(longer_merge=MERGED))
            calls["merged"] = step(run, long)
    most = max(n for n in LENGTHS if pages * n <= ENCODE_MOST[scale])
    calls["encode"] = partial(encode, run, pages * most)
    taken = medians(calls)
    one = flops(lambda: run.model.encode(run.features, torch.arange(512))) / 512
    return {
        "pages": pages,
        "length": list(LENGTHS),
        "bank_seconds": [taken[n] for n in LENGTHS],
        "merged_seconds": taken["merged"],  # at 1000
        "bank_gflops": [counted[n] / 1e9 for n in LENGTHS],
        "encode_measured_until": most,
        # a document costs the same wherever it stands in a history
        "encode_seconds": [taken["encode"] * n / most for n in LENGTHS],
        "encode_gflops": [one * pages * n / 1e9 for n in LENGTHS],
    }


def rows(scale: str, found: dict, page: int) -> list[dict]:
    """The ratios of one scale. Of re-encoding, the targets' own step is left out."""
    at = {length: place for place, length in enumerate(found["length"])}
    bank, again = found["bank_seconds"], found["encode_seconds"]
    where = f"{scale} proportions, {found['pages']} pages"
    ratio = again[at[1000]] / bank[at[1000]]
    until = f"timed to {found['encode_measured_until']}, then by FLOPs"
    work = found["encode_gflops"][at[1000]] / found["bank_gflops"][at[1000]]
    return [
        row(f"step at history 1000, of 64 ({where})", bank[at[1000]] / bank[at[64]],
            "<= 1.5"),
        row(f"... LONGER's items merged by {MERGED} ({where})",
            found["merged_seconds"] / bank[at[64]], "<= 1.5"),
        row(f"re-encoding histories of 1000, in steps with the bank; one history an "
            f"impression, as in the paper ({where}; {until})", ratio * page, ">= 100"),
        row(f"... one history a page, as our batches share it ({where})", ratio,
            ">= 44"),
        row(f"... in FLOPs ({where})", work, ""),
    ]  # fmt: skip


def main() -> None:
    """Both scales; their curves are drawn in notebook 08."""
    found = {scale: measure(scale, pages) for scale, pages in PAGES.items()}
    lines = [
        rows(scale, facts, SCALES[scale].page_size) for scale, facts in found.items()
    ]
    store("history", sum(lines, []), found)


if __name__ == "__main__":
    main()
