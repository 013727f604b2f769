"""Tables of ids and the bank cut over ranks: memory and speed of each, by catalogue.

    python -m tests.benchmarks.ranks

Gloo ranks on this one machine train some steps of LEMUR at classroom proportions, 64
pages each, on drawn batches over a catalogue of 10^6 or 10^7 documents and as many
users a tenth; texts and pictures are those of the shipped 6,000 documents, again and
again. Ranks share one processor: pages a second say what that costs, and no more."""

from __future__ import annotations

import os
import resource
import socket
import time

import numpy as np
import torch.multiprocessing as processes
from torch import Tensor

from lemur_mini.config import CLASSROOM, Config
from lemur_mini.cost import links
from lemur_mini.data.pages import Batch, make_batch
from lemur_mini.model import Lemur, Sizes
from lemur_mini.parallel import ranks as joined
from lemur_mini.parallel.model import DistributedLemur
from lemur_mini.parallel.process import process_of, scaled
from lemur_mini.training import Run, make_model, train_step
from tests.benchmarks.common import CPU, prepare, row, store

RANKS, DOCUMENTS, USERS = (1, 2, 4), (10**6, 10**7), 0.1  # of the documents
WARM, STEPS = 2, 6
CONFIG = CLASSROOM.replace(id_optimizer="adagrad")


class Repeating(Lemur):
    """A catalogue whose texts and pictures come again and again."""

    def encode(self, features, rows: Tensor) -> Tensor:
        return super().encode(features, rows % len(features.tokens))


class Among(Repeating, DistributedLemur):
    """The same among ranks."""


def drawn(config: Config, sizes: Sizes, rng: np.random.Generator) -> Batch:
    """A batch of full pages and histories; few documents are shown often."""
    pages = config.batch_pages

    def documents(*shape: int) -> np.ndarray:
        return (sizes.documents ** rng.random(shape)).astype(np.int64) - 1

    return make_batch(
        rng.integers(sizes.users, size=pages),
        rng.integers(sizes.queries, size=pages),
        np.arange(pages),
        documents(pages, config.page_size),
        (rng.random((pages, config.page_size)) < 0.4).astype(np.float32),
        documents(pages, config.history_long),
    )


def one(rank: int, size: int, port: int, documents: int, found) -> None:
    """What one rank does; puts what it measured into `found`."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(place, RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK="0")
    prepared = prepare(CONFIG)
    ranks, _ = joined.join(CPU, sharded=True)
    config, sizes = scaled(CONFIG, size), prepared.sizes
    sizes = sizes.__class__(
        **vars(sizes) | {"documents": documents, "users": int(USERS * documents)}
    )
    process = process_of(ranks)

    def build(config: Config, sizes: Sizes) -> Lemur:
        several = size > 1
        return Among(config, sizes, ranks) if several else Repeating(config, sizes)

    with ranks.together():
        model = make_model(config, sizes, 0, CPU, build).train()
        run = process.wrap(Run(model, prepared.features, 0, total=10_001))
        rng, seconds = np.random.default_rng(0), []
        for _ in range(WARM + STEPS):
            batch = drawn(config, sizes, rng)
            began = time.perf_counter()
            train_step(run, batch)
            seconds.append(time.perf_counter() - began)
    parts = (*model.ids.values(), model.bank)
    kept = sum(
        x.nbytes for part in parts for x in (*part.parameters(), *part.buffers())
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found[rank] = {
        "seconds": float(np.median(seconds[WARM:])),
        "kept": kept / 1e9,
        "peak": peak / 1e9,
    }


def measure(size: int, documents: int) -> dict:
    """Of so many ranks: the slowest's step, and the most that one holds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with processes.Manager() as manager:
        found = manager.dict()
        processes.spawn(one, (size, port, documents, found), nprocs=size)
        parts = list(found.values())
    most = {name: max(part[name] for part in parts) for name in parts[0]}
    pages = CONFIG.batch_pages * size
    counted = links.kept(CONFIG, size, int(USERS * documents), documents)
    return most | {
        "ranks": size,
        "documents": documents,
        "pages_per_second": pages / most["seconds"],
        "modelled": sum(counted.values()) / 1e9,
    }


def main() -> None:
    """Every number of ranks on every catalogue."""
    found = [measure(size, count) for count in DOCUMENTS for size in RANKS]
    rows = [
        row(
            f"10^{len(str(each['documents'])) - 1} documents, ranks: {each['ranks']}; "
            "GB of tables and bank a rank",
            each["kept"],
        )
        for each in found
    ]
    store("ranks", rows, {"runs": found, "steps": STEPS})


if __name__ == "__main__":
    main()
