"""Every distinct document of a batch is encoded once: what that saves, for three
popularities of documents. Without it, every impression would be encoded."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from lemur_mini.config import CLASSROOM
from lemur_mini.data.pages import Batch
from tests.benchmarks.common import (
    begin,
    last_batch,
    medians,
    prepare,
    row,
    step,
    store,
    with_items,
)

EXPONENTS = {"uniform": 0.0, "Zipf 0.8": 0.8, "Zipf 1.2": 1.2}


def draw(shape: tuple[int, int], documents: int, exponent: float) -> np.ndarray:
    """Pages of documents whose popularity falls with rank to this power."""
    weight = np.arange(1, documents + 1) ** -exponent
    rng = np.random.default_rng(0)
    rank = rng.choice(documents, size=shape, p=weight / weight.sum())
    return rng.permutation(documents)[rank]  # long and short documents at any rank


def without_dedup(batch: Batch) -> Batch:
    """The same batch as if no document came twice."""
    item = batch.item.flatten()
    place = torch.arange(len(item)).view_as(batch.item)
    return dataclasses.replace(batch, unique_items=item, item_index=place)


def main() -> None:
    """Steps with and without, in turn."""
    prepared = prepare(CLASSROOM)
    seen, run = last_batch(prepared, CLASSROOM), begin(prepared, CLASSROOM)
    batches = {
        name: with_items(seen, draw(seen.item.shape, prepared.sizes.documents, power))
        for name, power in EXPONENTS.items()
    }
    calls = {}
    for name, batch in batches.items():
        calls[name] = step(run, batch)
        calls[name, "each"] = step(run, without_dedup(batch))
    taken, rows = medians(calls), []
    for name, batch in batches.items():
        share, ratio = len(batch.unique_items) / batch.item.numel(), taken[name]
        ratio /= taken[name, "each"]
        rows.append(row(f"{name}: documents encoded, of impressions", share))
        rows.append(row(f"{name}: time of a step, of one without dedup", ratio))
    platform = len(seen.unique_items) / int(seen.mask.sum())
    rows.append(row("the platform itself: encoded, of impressions", platform))
    seconds = {name: [taken[name], taken[name, "each"]] for name in batches}
    store("dedup", rows, {"impressions": seen.item.numel(), "seconds": seconds})


if __name__ == "__main__":
    main()
