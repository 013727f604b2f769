"""What many GPUs would cost: a model of bytes against links, not a measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lemur_mini.config import PAPER, Config
from lemur_mini.cost.accounting import SHARES

LINKS = {"NVLink": 450e9, "400 Gb/s": 50e9, "100 Gb/s": 12.5e9}  # bytes/s, one way
# our choice: a GPU by its data sheet (H100, dense bf16), how much of it the step
# reaches, and what a collective waits for one hop
PEAK, REACHED, HOP = 989e12, 0.4, 10e-6  # FLOPs/s, share, seconds
COLLECTIVES = 12  # in a step: 2 gathers there and back, 3 reads, 1 reduction, 2 of ids
HALF, FULL, STEP = 2, 4, 8  # bytes of bf16, of fp32, and of a step's number


def traffic(
    config: Config, ranks: int, pages: int, sampling: str = "p20_q20", dense: float = 0
) -> dict[str, float]:
    """Bytes that one GPU receives in a step of `pages` in all, by kind of exchange.

    `gather`: fresh vectors there, their gradients back. `bank`: rows of a sharded bank,
    for own histories and all targets. `reduce`: gradients of `dense` parameters, as a
    ring does it. `ids`: rows of sharded id tables and their gradients, as TorchRec
    exchanges them. No document and no id comes twice: the dearest case."""
    forward, backward = SHARES.get(sampling, (1, 1))
    documents, own = pages * config.page_size, pages / ranks
    vector = config.width * HALF
    gathered = (forward + backward) * documents + 2 * pages  # and the queries
    rows = own * config.history_long + documents
    ids = own * (2 + config.page_size + config.history_long)
    away = (ranks - 1) / ranks  # the share that lies on other ranks
    return {
        "gather": away * gathered * vector,
        "bank": away * rows * config.width * FULL,
        "reduce": away * 2 * dense * FULL,
        "ids": away * 2 * ids * config.id_width * FULL,
    }


def kept(
    config: Config, ranks: int, users: int, documents: int, dense: bool = False
) -> dict[str, float]:
    """Bytes that one GPU keeps of what is cut by rows: `tables` of ids with what their
    optimiser keeps, one number a row or, where they learn as `dense` weights do, two
    moments and a gradient; and the `bank`, with the step of every write."""
    weight = config.id_width * FULL
    row = 4 * weight if dense else weight + FULL
    return {
        "tables": (users + documents) * row / ranks,
        "bank": documents * (config.width * FULL + STEP) / ranks,
    }


def contrast_flops(config: Config, ranks: int, pages: int) -> float:
    """SQDC on one GPU: own impressions against those of all, forward and backward."""
    impressions = pages * config.page_size
    return 6 * impressions / ranks * impressions * config.width


@dataclass(frozen=True)
class Cost:
    """A modelled step: `seconds` by part and `bytes` that one GPU receives by kind."""

    seconds: dict[str, float]
    bytes: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds, where nothing overlaps."""
        return sum(self.seconds.values())


def step(
    counted: dict,
    ranks: int,
    link: float,
    own: float = PAPER.batch_pages,
    config: Config = PAPER,
    sampling: str = "p20_q20",
) -> Cost:
    """One step of several GPUs with `own` pages each. `counted`: what
    `accounting.count(config)` gives; `link`: bytes a second between any two GPUs."""
    work = counted["gflops"][sampling] * 1e9 * own / config.batch_pages
    dense, pages = counted["params"]["lemur"] * 1e6, own * ranks
    sent = traffic(config, ranks, pages, sampling, dense)
    seconds = {
        "compute": work / (PEAK * REACHED),
        "SQDC": contrast_flops(config, ranks, pages) / (PEAK * REACHED),
    }
    seconds |= {kind: size / link for kind, size in sent.items()}
    seconds["latency"] = COLLECTIVES * HOP * math.log2(ranks)
    return Cost(seconds, sent)


def efficiency(counted: dict, ranks: int, link: float, *settings) -> float:
    """Impressions a second and GPU, against those of one GPU alone with as many pages
    of its own. Settings as in `step`."""
    alone = step(counted, 1, link, *settings)
    return alone.total / step(counted, ranks, link, *settings).total
