"""What a step asks of a GPU, counted without one: operations that do work, and how
often the host waits for a result.

The layers, lengths and the batch of the gpu scale, narrow, on the CPU: operations do
not depend on widths. A view of memory is no work and is counted apart; so is what a GPU
does for all parameters at once (norms of the gradient), which a CPU does one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lemur_mini.config import GPU, Config
from lemur_mini.pipeline import Prepared
from lemur_mini.training import train_step
from tests.benchmarks.common import begin, prepare, row, store

NARROW = {"width": 8, "hidden": 8, "heads": 2, "token_width": 16, "id_width": 8}
WAITS = ("_local_scalar_dense", "nonzero", "_unique2", "masked_select", "equal")
AT_ONCE = ("linalg_vector_norm",)  # by torch._foreach_norm, on a GPU


class Operations(TorchDispatchMode):
    """Counts by name, while it is entered: `done` what does work, `views` what only
    looks at memory in another shape, `waits` what the host has to know (and `tolist`,
    which is no operation on the CPU)."""

    def __init__(self) -> None:
        super().__init__()
        self.done, self.views, self.waits = Counter(), Counter(), Counter()

    def __enter__(self):
        self.plain = torch.Tensor.tolist

        def tolist(tensor):
            self.waits["tolist"] += 1
            return self.plain(tensor)

        torch.Tensor.tolist = tolist
        return super().__enter__()

    def __exit__(self, *error):
        torch.Tensor.tolist = self.plain
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        places = args[1] if name in ("index", "index_put", "index_put_") else ()
        if any(x is not None and x.dtype == torch.bool for x in places):
            self.waits[name] += 1  # how many are True decides the shape
        elif name in WAITS:
            self.waits[name] += 1
        else:
            alias = [r.alias_info for r in func._schema.returns]
            viewed = any(a is not None and not a.is_write for a in alias)
            (self.views if viewed else self.done)[name] += 1
        return func(*args, **(kwargs or {}))


def narrow(config: Config) -> Config:
    """The same layers and lengths at a width that a CPU does not feel."""
    return config.replace(**NARROW, mlp=(8,), precision="fp32")


def measure(prepared: Prepared, config: Config, first: int) -> Operations:
    """Operations of the second step on pages from `first` on."""
    run = begin(prepared, config)
    index = np.arange(first, first + config.batch_pages)
    batch = prepared.pages.batch(index, config.history_long)
    run.step = 5_001  # never one that is logged
    train_step(run, batch)
    with Operations() as found:
        run.step = 5_001
        train_step(run, batch)
    return found


def main() -> None:
    """Chunks by a budget of tokens, as now, and of some 128 documents, as before."""
    config = narrow(GPU)
    prepared = prepare(config)
    found = {}
    for name, budget in (("now", config.encode_tokens), ("chunks of 128", 4096)):
        used = measure(prepared, config.replace(encode_tokens=budget), 3000)
        at_once = sum(used.done[name] for name in AT_ONCE)
        found[name] = {
            "done": used.done.total() - at_once,
            "norms": at_once,
            "views": used.views.total(),
            "waits": dict(used.waits),
            "most": dict(used.done.most_common(12)),
        }
    now, before = found.values()
    rows = [
        row("operations in a step of 256 pages", now["done"], "<= 1500"),
        row("... in chunks of 128 documents", before["done"]),
        row("... views of memory, no work", now["views"]),
        row("times that the host waits in a step", sum(now["waits"].values()), "<= 1"),
    ]
    store("operations", rows, found, clock="none: operations are counted")


if __name__ == "__main__":
    main()
