"""python -m lemur_mini.reproduce: the paper's claims, named changes of one config.

run    train and test what has no result yet; a killed run is started again
table  figures/claims.json, figures/claims.png and the README's table, from results
log    all that a reader of a log asks for (`logs.ROWS`), then its table, printed
grown  what changes with scale (`growth`): a larger platform's runs, then the figure
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lemur_mini import files, pipeline, plots
from lemur_mini.config import DENSE, SCALES, Config
from lemur_mini.cost.accounting import step_flops
from lemur_mini.data.loading import load, without_queries
from lemur_mini.devices import choose_device
from lemur_mini.errors import Mendable
from lemur_mini.evaluation import query_auc
from lemur_mini.files import RESULTS, ROOT, require_folder, write_json
from lemur_mini.preparation import with_dense, with_ours
from lemur_mini.reproduce import claims, curves, growth, logs, stored, tables
from lemur_mini.reproduce.alternatives import Built
from lemur_mini.reproduce.claims import CLAIMS
from lemur_mini.reproduce.variants import ONLINE, VARIANTS, config_of, groups_of
from lemur_mini.simulate.ab_test import online
from lemur_mini.training import Run
from lemur_mini.world.config import WorldConfig

OPPONENTS = {"trees": pipeline.trees, "means": pipeline.smoothed_baseline}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m lemur_mini.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("action", choices=["run", "table", "log", "grown"])
    add("--data", default=str(ROOT / "data"))
    add("--name", default="platform", help="folder of results for this data set")
    numbers = [claim.number for claim in CLAIMS]
    add("--claims", nargs="+", choices=numbers, help="by number; all by default")
    every = [*VARIANTS, *OPPONENTS]
    add("--variants", nargs="+", choices=every, help="instead of claims")
    add("--feed", action="store_true", help="drop the queries of the log")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--scale", default="classroom", choices=["classroom", "gpu"])
    add("--device", default="auto")
    add("--results", type=Path, default=RESULTS, help="where results are kept")
    add("--jobs", type=int, default=1, help="runs at a time, one thread each")
    options = parser.parse_args(arguments)
    if options.action == "table":
        return write_claims(options)
    usual = {"log": list(logs.ROWS), "grown": growth.VARIANTS}
    options.variants = options.variants or usual.get(options.action)
    run(options)
    if options.action == "log":
        folder = result_folder(options)
        print(logs.text_table(claims.load(folder)))
    if options.action == "grown":
        growth.main()


def wanted(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Variants and seeds that the options ask for, claim after claim."""
    if options.variants:
        names = options.variants
    else:
        chosen = [c for c in CLAIMS if not options.claims or c.number in options.claims]
        names = [name for c in chosen for name in (c.against, c.variant, *c.others)]
    seeds = {name: options.seeds[:1] for name in OPPONENTS}  # nothing is drawn there
    names = dict.fromkeys(names)
    return [(name, seed) for name in names for seed in seeds.get(name, options.seeds)]


def write_claims(options: argparse.Namespace) -> None:
    """Claims as JSON and figure, and in the README; from stored results alone."""
    rows = stored.claim_rows(options.name, options.scale)
    stem = "claims" if options.name == "platform" else f"claims-{options.name}"
    path = ROOT / "figures" / f"{stem}.json"
    write_json(path, rows)
    plots.save_figure(claims.figure(rows, options.name), path.with_suffix(".png"))
    runs = stored.stored_runs(options.name, options.scale)
    if (made := curves.figure(runs)) is not None:
        plots.save_figure(
            made, path.with_name(stem.replace("claims", "curves") + ".png")
        )
    tables.main()


def result_folder(options: argparse.Namespace) -> Path:
    """Where the results of a data set at a scale lie."""
    return options.results / f"{options.name}-{options.scale}"


def result_path(folder: Path, variant: str, seed: int) -> Path:
    """Where the result of one run lies in the folder of its data set and scale."""
    return folder / f"{variant}-seed{seed}.json"


def is_done(path: Path, config: Config | None, checksum: str) -> bool:
    """Whether there is a result of just this configuration on just this data."""
    if not path.is_file():
        return False
    try:
        facts = json.loads(path.read_text("utf-8"))
        config_then, data = facts["config"], facts["data"]
    except (ValueError, KeyError, TypeError):
        return False  # half written, by other means than ours
    if config is None:
        return config_then is None and data == checksum
    now, usual = (json.loads(json.dumps(asdict(c))) for c in (config, Config()))
    then = usual | Config.known(config_then)  # what came later had its usual value
    return now == then and data == checksum


def run(options: argparse.Namespace) -> None:
    """Do all runs that have no result yet, `jobs` at a time."""
    spawn = multiprocessing.get_context("spawn")
    folder, tasks = result_folder(options), wanted(options)
    numbers = any(set(DENSE) & set(groups_of(name)) for name, _ in tasks)
    require_folder(folder)
    choose_device(options.device)
    config = with_ours(SCALES[options.scale])
    config = with_dense(config) if numbers else config
    about = options.data, options.feed, config, options.device
    more = "" if options.data == str(ROOT / "data") else " --data FOLDER"
    more += " --feed" if options.feed else ""
    more += "" if options.name == "platform" else f" --name {options.name}"
    with ProcessPoolExecutor(options.jobs, spawn, _open, about) as pool:
        tasks = {
            pool.submit(_one, folder, options.scale, *task, more): task
            for task in tasks
        }
        try:
            for task in tqdm(as_completed(tasks), "runs", len(tasks), unit="run"):
                if line := task.result():
                    tqdm.write(line)
        except BrokenProcessPool as error:
            raise _died(folder, tasks.values()) from error
        except BaseException:  # the others need not be done first
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class WorkerError(Mendable, RuntimeError):
    """A process that trains is gone; the message says what is left to do."""


def _died(folder: Path, tasks: Iterable[tuple[str, int]]) -> WorkerError:
    left = [task for task in tasks if not result_path(folder, *task).is_file()]
    first = "{}, seed {}".format(*left[0]) if left else "none"
    return WorkerError(
        f"a worker process died (out of memory, or killed); {len(left)} runs have no "
        f"result in {folder} yet, the first {first}; the same command does what is "
        "left, with fewer --jobs in less memory"
    )


_opened: pipeline.Prepared | Exception | None = None  # of a worker process


def _open(data: str, feed: bool, config: Config, device: str) -> None:
    global _opened
    threading.Thread(target=_follow, daemon=True).start()
    torch.set_num_threads(1)
    try:  # a pool whose workers cannot begin does not say why
        dataset = load(data)
        dataset = without_queries(dataset) if feed else dataset
        _opened = pipeline.prepare(dataset, config, choose_device(device))
    except Exception as error:
        _opened = error


def _follow() -> None:
    """A worker whose command was killed stops too, and writes nothing any more."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _one(folder: Path, scale: str, variant: str, seed: int, more: str = "") -> str:
    """Do one run that has no result yet; more: of the command, on other data."""
    if isinstance(_opened, Exception):
        raise _opened
    prepared, path = _opened, result_path(folder, variant, seed)
    trained = variant not in OPPONENTS
    config = config_of(variant, scale, prepared.dataset) if trained else None
    if is_done(path, config, prepared.checksum):
        return ""
    if config is None:
        result = opponent(prepared, variant, seed)
    else:
        result = measure(prepared, config, variant, seed)
    result["command"] += more
    write_json(path, result, indent=None)
    return f"{result['test']['qauc']:.4f} {variant}, seed {seed}"


def opponent(prepared: pipeline.Prepared, name: str, seed: int) -> dict:
    """The measures of what has no network: fitted before the test days, tested once."""
    start = prepared.dataset.test_start
    result = OPPONENTS[name](prepared, start, None)
    about = {"variant": name, "seed": seed, "data": prepared.checksum, "config": None}
    seconds = result.pop("train_seconds", None)
    command = f"python -m lemur_mini.reproduce run --variants {name}"
    about |= {"test": result, "seconds": seconds}
    return about | files.provenance(command, prepared.features.tokens.device)


def measure(
    prepared: pipeline.Prepared, config: Config, variant: str, seed: int
) -> dict:
    """Train before the test days, test on them, and say where it came from."""
    dataset = prepared.dataset
    pipeline.require_period(prepared, dataset.test_start, None, "test on")
    process, title = Built(variant), f"{variant}, seed {seed}"
    trained = pipeline.fit(
        prepared, config, seed, dataset.test_start, title=title, process=process
    )
    log = dataset.log
    rows, score = pipeline.predict_period(prepared, trained, dataset.test_start, None)
    each = query_auc(log.label[rows], score, log.qid[rows])
    live = variant in ONLINE and dataset.truth is not None and not dataset.is_feed
    live = live and len(dataset.items) <= WorldConfig.documents  # not a grown platform
    return {
        "variant": variant,
        "seed": seed,
        "scale": config.scale,
        "data": prepared.checksum,
        "test": pipeline.measures(prepared, rows, score, dataset.test_start),
        "ceiling": pipeline.ceiling(prepared, dataset.test_start, None),
        "seconds": round(trained.seconds, 1),
        "flops": step_flops(prepared, config, process.build),
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "log": trained.log,
        "age_by_popularity": age_by_popularity(prepared, trained),
        "online": online(prepared, trained.model, seed) if live else None,
        # thousandths, in the order of QIDs; -1 where a query has one class
        "query_auc": np.nan_to_num(np.round(each * 1000), nan=-1).astype(int).tolist(),
        "config": asdict(config),
    } | files.provenance(
        f"python -m lemur_mini.reproduce run --variants {variant} "
        f"--seeds {seed} --scale {config.scale}",
        trained.device,
    )


def age_by_popularity(
    prepared: pipeline.Prepared, trained: Run, parts: int = 10
) -> list[float] | None:
    """How many steps old the bank's vectors are when a training ends: means over equal
    parts of the documents that were shown, the least shown first. None without a bank
    that is written while the ranker learns."""
    config, dataset = trained.config, prepared.dataset
    if not config.has_content or config.two_stage:
        return None
    log = dataset.log
    rows = log.item[log.timestamp < dataset.test_start]
    shown = np.bincount(rows, minlength=len(dataset.items))
    order = np.argsort(shown, kind="stable")[np.count_nonzero(shown == 0) :]
    age = trained.step - trained.model.bank.written.cpu().numpy()
    return [round(float(age[part].mean()), 1) for part in np.array_split(order, parts)]
