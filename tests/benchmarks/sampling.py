"""p = q = 20 % against no sampling at the gpu scale's proportions: FLOPs and time."""

from __future__ import annotations

from lemur_mini.config import GPU
from lemur_mini.cost.accounting import flops
from lemur_mini.training import step_options
from tests.benchmarks.common import (
    begin,
    last_batch,
    medians,
    prepare,
    row,
    step,
    store,
)
from tests.benchmarks.history import full

PAGES = 32  # of the scale's 256: rows of a batch that a CPU can bear
SHARES = {"none": (1.0, 1.0), "p100_q20": (1.0, 0.2), "p20_q20": (0.2, 0.2)}


def main() -> None:
    """Steps in turn, with histories of 1000 without padding."""
    config = GPU.replace(batch_pages=PAGES, precision="fp32")
    prepared = prepare(config)
    batch = last_batch(prepared, config)
    batch = full(batch, config.history_long, prepared.sizes.documents)
    calls, counted = {}, {}
    for name, (p, q) in SHARES.items():
        run = begin(prepared, config.replace(forward_share=p, backward_share=q))
        run.step = 5_001
        calls[name] = step(run, batch)
        planned = step_options(run, batch)
        counted[name] = flops(
            lambda run=run, planned=planned: (
                run.model.losses(batch, run.features, planned).total
            )
        )
    taken = medians(calls)
    where = f"(gpu proportions, {PAGES} pages)"
    work = counted["p20_q20"] / counted["none"]
    time = taken["p20_q20"] / taken["none"]
    store(
        "sampling",
        [
            row(f"p = q = 20 %, FLOPs, of no sampling {where}", work, "<= 0.6"),
            row(f"p = q = 20 %, time, of no sampling {where}", time, "<= 0.65"),
        ],
        {"seconds": taken, "gflops": {k: v / 1e9 for k, v in counted.items()}},
    )


if __name__ == "__main__":
    main()
