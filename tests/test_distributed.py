"""Several ranks do what one does: real processes, joined by gloo."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lemur_mini import checkpoints, distributed, pipeline, training
from lemur_mini.config import BASELINE, Config
from lemur_mini.distributed import ALONE, Ranks
from lemur_mini.pipeline import Prepared
from lemur_mini.training import Run, make_model, train_step

CPU = torch.device("cpu")
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


# --- helpers -------------------------------------------------------------------------


def free_port() -> str:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return str(place.getsockname()[1])


def rank_of(path, rank: int, size: int, port: str, sharded: bool, job, arguments):
    """What one process does: join the others, do the job, keep what it gives."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": str(rank)}
    os.environ.update(place, RANK=str(rank), WORLD_SIZE=str(size))
    torch.set_num_threads(1)
    ranks, _ = distributed.join(CPU, sharded)
    with ranks.together():
        torch.save(job(ranks, *arguments), path / f"{rank}.pt")


def together(path, size: int, job, *arguments, sharded: bool = False) -> list:
    """What `job(ranks, *arguments)` gives on each of `size` ranks."""
    path = path / f"{job.__name__}-{size}-{sharded}"
    path.mkdir(exist_ok=True)
    linux = sys.platform == "linux"  # forking imports nothing again
    context = multiprocessing.get_context("fork" if linux else "spawn")
    port, started = free_port(), []
    for rank in range(size):
        parts = (path, rank, size, port, sharded, job, arguments)
        started.append(context.Process(target=rank_of, args=parts))
        started[-1].start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0] * size
    return [torch.load(path / f"{rank}.pt") for rank in range(size)]


def whole_bank(model) -> dict[str, Tensor]:
    rows = torch.arange(model.sizes.documents)
    pair = model.bank.fetch(rows, model.bank.vectors, model.bank.written)
    return dict(zip(("vectors", "written"), pair, strict=True))


def state(run: Run) -> dict:
    """All that must be the same on one rank and on many."""
    named = run.model.named_parameters()
    out = {
        "weights": {k: v.detach().clone() for k, v in run.model.state_dict().items()},
        "gradients": {k: v.grad.clone() for k, v in named if v.grad is not None},
    }
    if run.config.has_content:
        out["bank"] = whole_bank(run.model)
        out["weights"] = {
            k: v for k, v in out["weights"].items() if not k.startswith("bank.")
        }
    return out


def steps(ranks: Ranks, prepared: Prepared, variants: dict, index) -> dict:
    """Losses, gradients, weights and bank after each of some steps, by variant."""
    out = {}
    for name, (config, feed) in variants.items():
        sizes = replace(prepared.sizes, feed=feed)
        model = make_model(config, sizes, 0, CPU, ranks).train()
        run = Run(model, prepared.features, 0, total=9)
        out[name] = []
        for pages in index:
            run.losses, losses = caught(run.losses)
            batch = prepared.pages.batch(np.asarray(pages), config.history_long)
            train_step(run, batch)
            shown = [ranks.mean(getattr(losses[0], k)) for k in ("total", "ctr", "sqdc")]
            out[name].append(state(run) | {"losses": torch.stack(shown).detach()})
    return out


def caught(call):
    """The same function, and the list of what it returns."""
    kept = []
    call = getattr(call, "plain", call)

    def catching(*arguments):
        kept.append(call(*arguments))
        return kept[-1]

    catching.plain = call
    return catching, kept


def variants_of(config: Config) -> dict:
    every = {
        "full": {},
        "half": dict(forward_share=0.5, backward_share=0.5),
        "p over q": dict(forward_share=0.8, backward_share=0.3),
        "baseline": dict(groups=BASELINE),
        "history gradient": dict(history_gradient=True),
        "cic, experts": dict(cic_weight=0.1, experts=2, expert_l1=0.1),
        "positives": dict(sqdc_negatives="positives", stop_gradient=True),
    }
    variants = {name: (config.but(**change), False) for name, change in every.items()}
    return variants | {"feed": (config, True)}


INDEX = [range(7), range(7, 14), range(14, 16)]  # the last has fewer pages than ranks
