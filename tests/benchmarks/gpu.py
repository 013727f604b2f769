"""On one GPU: the gpu scale's step at its full size, bf16. Impressions per second, the
share of the device's peak that the encoders reach (MFU), memory; torch.compile if it
wins.

Without cuda: a message. --tiny runs the same code on the CPU at a small size, to see
that it works; it stores nothing."""

from __future__ import annotations

import argparse

import torch

from lemur_mini.config import GPU, Config
from lemur_mini.cost import roofline
from lemur_mini.data.pages import Batch
from lemur_mini.devices import autocast
from lemur_mini.pipeline import Prepared
from lemur_mini.training import Run
from tests.benchmarks.common import CPU, begin, last_batch, prepare, row, step, store
from tests.benchmarks.history import full

TINY = {"pages": 2, "history_long": 16, "history_short": 4, "document_layers": 1}


def encoders(run: Run, batch: Batch) -> None:
    """Encode the batch's documents and queries, forward and backward."""
    with autocast(run.config, run.device):
        roofline.encode(run.model, batch, run.features).float().sum().backward()
    run.model.zero_grad(set_to_none=True)


def measure(prepared: Prepared, config: Config, compiled: bool) -> dict:
    """Seconds of a step and of its encoders, GFLOPs of the encoders, peak memory."""
    device = prepared.features.tokens.device
    run = begin(prepared, config)
    batch = full(
        last_batch(prepared, config), config.history_long, prepared.sizes.documents
    )
    batch = batch.to(device)
    work, _ = roofline.counted(lambda: encoders(run, batch))
    if compiled:  # chunks differ in length and in number: shapes must stay open
        run.model.document_encoder.compile(dynamic=True)
        run.model.ranker.compile()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    calls = {"step": step(run, batch), "encoders": lambda: encoders(run, batch)}
    found = roofline.medians(calls, device) | {"encoder_gflops": work["gflops"]}
    if device.type == "cuda":
        found["gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
    return found | {
        "impressions": int(batch.mask.sum()),
        "unique": len(batch.unique_items),
    }


def main() -> None:
    """Eager and compiled; the better one counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small, on the CPU")
    tiny = parser.parse_args().tiny
    if not (tiny or torch.cuda.is_available()):
        print(
            "no cuda device here; python -m tests.benchmarks.gpu --tiny tries the code"
        )
        return
    device = CPU if tiny else torch.device("cuda")
    config = GPU.replace(**TINY) if tiny else GPU
    prepared = prepare(config, device)
    found = {"eager": measure(prepared, config, compiled=False)}
    roof = roofline.machine(device, torch.bfloat16)
    if not tiny:
        found["compiled"] = measure(prepared, config, compiled=True)
    name = min(found, key=lambda name: found[name]["step"])
    best = found[name]
    reached = best["encoder_gflops"] / best["encoders"] / roof["gflops_per_second"]
    rows = [
        row(f"impressions per second ({name})", best["impressions"] / best["step"]),
        row(f"encoders, of the device's bf16 matrix peak ({name})", reached, ">= 0.4"),
        row("memory of a step, GB", best.get("gigabytes"), "<= 20"),
    ]
    if tiny:
        print(*(f"{line['what']}: {line['measured']}" for line in rows), sep="\n")
        return
    store("gpu", rows, found | {"roof": roof, "chosen": name}, device)


if __name__ == "__main__":
    main()
