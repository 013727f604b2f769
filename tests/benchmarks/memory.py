"""Peak memory: of a classroom training, measured; of the gpu scale, estimated."""

from __future__ import annotations

import platform
import subprocess
import sys

import torch

from lemur_mini import pipeline
from lemur_mini.config import CLASSROOM, GPU, OURS
from lemur_mini.devices import autocast
from lemur_mini.training import step_options, train
from tests.benchmarks.common import CPU, begin, last_batch, prepare, row, store
from tests.benchmarks.history import full

STEPS = 40  # the peak of a step comes early; the rest of the pass adds nothing
CHILD = "from tests.benchmarks import memory; memory.classroom()"


def classroom() -> None:
    """In a process of its own: train, publish, score; print the peak in gigabytes."""
    import resource

    config = CLASSROOM.replace(**OURS)  # as the main command trains
    prepared = prepare(config)
    run = begin(prepared, config)
    run.model.bank.forget()
    index = prepared.pages.between(None, prepared.dataset.test_start)
    train(run, prepared.pages, index[-STEPS * config.batch_pages :])
    run.model.eval().publish(prepared.features)
    pipeline.evaluate_period(prepared, run, prepared.dataset.test_start, None)
    unit = 1 if platform.system() == "Darwin" else 1024  # bytes there, else kilobytes
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9)


def kept_bytes(prepared: pipeline.Prepared, pages: int) -> tuple[int, int]:
    """What one step of the gpu scale keeps for its backward pass, and what is there at
    any batch: weights, gradients, Adam's two moments, the bank. Bytes."""
    config, kept = GPU.replace(batch_pages=pages), {}
    run, batch = begin(prepared, config), last_batch(prepared, config)
    batch = full(batch, config.history_long, prepared.sizes.documents)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes(), tensor  # alive: no address twice
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, autocast(config, CPU):
        run.model.losses(batch, run.features, step_options(run, batch))
    own = {p.untyped_storage().data_ptr() for p in run.model.parameters()}
    saved = sum(size for key, (size, _) in kept.items() if key not in own)
    weights = sum(p.nbytes for p in run.model.parameters())
    return saved, 4 * weights + run.model.bank.vectors.nbytes


def main() -> None:
    """Two small batches give the line on which the scale's 256 pages lie."""
    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = float(done.stdout.split()[-1])
    prepared = prepare(GPU)
    (small, _), (large, fixed) = (kept_bytes(prepared, pages) for pages in (8, 16))
    slope = (large - small) / 8
    fixed += sum(x.nbytes for x in vars(prepared.features).values())
    estimate = small + slope * (GPU.batch_pages - 8) + fixed
    store(
        "memory",
        [
            row("peak of a classroom training, GB", peak, "<= 3"),
            row("gpu scale, GB (estimate)", estimate / 1e9, "<= 20"),
        ],
        {
            "steps": STEPS,
            "gpu": "weights, gradients, Adam, bank, catalogue, what backward keeps",
            "gpu_fixed_gigabytes": fixed / 1e9,
            "gpu_gigabytes_per_page": slope / 1e9,
        },
    )


if __name__ == "__main__":
    main()
