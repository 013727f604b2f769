"""python -m lemur_mini.simulate.learnable: compute the learner's ceiling and keep it.

It takes a minute or two, and follows from the data alone: reports read it from
data/results/learnable.json by the checksum of their data set and the period's start."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from lemur_mini import files
from lemur_mini.data.loading import Dataset, checksum, load
from lemur_mini.data.schema import DataError
from lemur_mini.evaluation import auc, qauc
from lemur_mini.files import DATA, RESULTS
from lemur_mini.world.config import WorldConfig
from lemur_mini.world.export import TEST_DAY
from lemur_mini.world.oracle import learnable, learnable_as_feed
from lemur_mini.world.platform import DAY, Platform

RESULT = RESULTS / "learnable.json"
TEST_START = WorldConfig.start + TEST_DAY * DAY  # of every platform that is exported


def stored(
    data: str, start: int, path: Path = RESULT, feed: bool = False
) -> dict | None:
    """AUC and QAUC of the best learner on the period that begins at `start`, for the
    data set with this checksum, without its queries in a feed; None where they were
    not computed."""
    rows = json.loads(path.read_text("utf-8")) if path.is_file() else []
    wanted = data, start, feed
    found = [r for r in rows if (r["data"], r["start"], r.get("feed", False)) == wanted]
    return {name: found[0][name] for name in ("auc", "qauc")} if found else None


def world_of(dataset: Dataset) -> WorldConfig:
    """The platform of so many documents: the shipped one, or a grown one. Raises
    DataError where none of ours has that many."""
    times, rest = divmod(len(dataset.items), WorldConfig.documents)
    if rest or not times or dataset.truth is None:
        raise DataError(
            f"{dataset.folder}: no platform of ours, which have a multiple of "
            f"{WorldConfig.documents} documents; only of these can be said what can "
            "be learnt"
        )
    return WorldConfig().grown(times)


def compute(
    dataset: Dataset,
    config: WorldConfig,
    seed: int,
    start: int,
    end: int | None,
    feed: bool = False,
) -> dict:
    """The same, computed from a log of the platform of this configuration and seed:
    learnt from what is before `start`, measured on [start, end). Raises DataError where
    it is another platform's."""
    platform = Platform(config, seed)
    if len(dataset.items) != config.documents or dataset.truth is None:
        raise DataError(
            f"{dataset.folder}: not the platform with {config.documents} documents; "
            "only of a platform of ours is it known what can be learnt"
        )
    log, documents = dataset.log, platform.documents
    learn = learnable_as_feed if feed else learnable
    chance = learn(log, dataset.queries, documents, config, start)
    rows = log.timestamp >= start
    rows &= log.timestamp < (end or log.timestamp.max() + 1)
    label, chance = log.label[rows], chance[rows]
    return {"auc": auc(label, chance), "qauc": qauc(label, chance, log.qid[rows])}


def main(arguments: list[str] | None = None) -> None:
    """Compute both periods, validation and test, of the shipped or a grown platform."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=str(DATA))
    parser.add_argument("--seed", type=int, default=0, help="of the platform")
    parser.add_argument("--feed", action="store_true", help="without the queries")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # sums in one order: the same numbers everywhere
    dataset, rows = load(options.data), []
    world = world_of(dataset)
    about = {"data": checksum(dataset)}
    about |= files.provenance(
        "python -m lemur_mini.simulate.learnable", torch.device("cpu")
    )
    for start, end in (
        (dataset.valid_start, dataset.test_start),
        (dataset.test_start, None),
    ):
        about["feed"] = options.feed
        found = compute(dataset, world, options.seed, start, end, options.feed)
        rows.append(found | {"start": start, "end": end} | about)
        print(f"from {start}: AUC {found['auc']:.4f}, QAUC {found['qauc']:.4f}")
    old = json.loads(options.out.read_text("utf-8")) if options.out.is_file() else []
    mine = about["data"], options.feed
    rows = [r for r in old if (r["data"], r.get("feed", False)) != mine] + rows
    files.write_json(options.out, rows)


if __name__ == "__main__":
    main()
