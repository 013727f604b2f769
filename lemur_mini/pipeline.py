"""From a data set to trained and evaluated models: what every command shares."""

from __future__ import annotations

import datetime
import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from lemur_mini import checkpoints
from lemur_mini.config import FEED_CHANGES, Config
from lemur_mini.data import (
    Dataset,
    Features,
    Pages,
    load,
    make_features,
    make_tokenizer,
)
from lemur_mini.data.loading import checksum, only
from lemur_mini.distributed import ALONE, Ranks
from lemur_mini.evaluation import auc, evaluate, qauc, slices, smoothed_means
from lemur_mini.model import Sizes
from lemur_mini.training import Run, make_model, predict, train

PACKAGES = ("lemur-mini", "torch", "torchvision", "transformers", "datasets", "numpy")


@dataclass(frozen=True)
class Prepared:
    """A data set with all that models need of it, made once."""

    dataset: Dataset
    tokenizer: PreTrainedTokenizerFast
    features: Features
    pages: Pages
    sizes: Sizes
    checksum: str


def prepare(source: str | Path, config: Config, device: torch.device) -> Prepared:
    """Load, validate and tensorise a data set."""
    dataset = load(source)
    tokenizer = make_tokenizer(dataset, config)
    sizes = Sizes(
        users=len(dataset.users),
        documents=len(dataset.items),
        queries=len(dataset.queries),
        vocabulary=len(tokenizer),
        fields=len(dataset.texts),
        feed=dataset.is_feed,
    )
    return Prepared(
        dataset=dataset,
        tokenizer=tokenizer,
        features=make_features(dataset, config, tokenizer).to(device),
        pages=Pages(dataset.log, config.page),
        sizes=sizes,
        checksum=checksum(dataset),
    )


def with_documents(
    prepared: Prepared, documents: list[dict], config: Config
) -> Prepared:
    """The same with more documents at the end of the catalogue, in a copy; pages and
    checksum stay those of the log. Raises DataError."""
    old = prepared.dataset
    new = only(old, documents)
    features = make_features(new, config, prepared.tokenizer)
    dataset = replace(
        old,
        items=np.concatenate([old.items, new.items]),
        texts={name: [*old.texts[name], *new.texts[name]] for name in old.texts},
        images=[*old.images, *new.images],
    )
    return replace(
        prepared,
        dataset=dataset,
        features=prepared.features.extended(features),
        sizes=replace(prepared.sizes, documents=len(dataset.items)),
    )


def config_for(config: Config, dataset: Dataset) -> Config:
    """The configuration for this kind of data: a feed has settings of its own."""
    return config.but(**FEED_CHANGES) if dataset.is_feed else config


def device_name(device: torch.device) -> str:
    """The device with what it is, and the threads on a CPU."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    return {"python": platform.python_version()} | {p: version(p) for p in PACKAGES}


def provenance(command: str, device: torch.device) -> dict:
    """Where a result comes from: what was run, when, on what, with which versions."""
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "device": device_name(device),
        "versions": versions(),
    }


def fit(
    prepared: Prepared,
    config: Config,
    seed: int,
    until: int,
    checkpoint: Path | None = None,
    resume: bool = False,
    title: str = "training",
    ranks: Ranks = ALONE,
) -> Run:
    """Train one model, one pass over all sessions before `until` (unix seconds), then
    give every document that the bank still lacks its vector, as at upload time."""
    pages, features = prepared.pages, prepared.features
    index = pages.between(None, until)
    model = make_model(config, prepared.sizes, seed, features.tokens.device, ranks)
    run = Run(model, features, seed, total=-(-len(index) // config.pages))
    if resume and checkpoint.is_file():
        run = checkpoints.resume(checkpoint, run, prepared.checksum)
    if config.two_stage or config.warm_start:
        run.seconds = max(run.seconds, pretrain(prepared, run, index))
    save = None
    if checkpoint is not None:

        def save(run: Run) -> None:
            checkpoints.save(run, checkpoint, prepared.checksum)

    train(run, pages, index, save, title)
    if config.has_content:
        model.eval().publish(features)
    if save:
        save(run)
    return run


def pretrain(prepared: Prepared, run: Run, index: np.ndarray) -> float:
    """The first of two stages, unless `run` goes on from its checkpoint: some passes of
    the contrastive loss alone. Then encoders are frozen (two-stage) or learn on with an
    empty bank (warm start). Returns its seconds."""
    config, model, features = run.config, run.model, prepared.features
    passes = config.two_stage or config.warm_start
    first = Run(model, features, run.seed, run.total * passes, True)
    if not run.step:
        train(first, prepared.pages, np.tile(index, passes), None, "stage 1")
        model.bank.forget()
    if config.two_stage:
        model.eval().freeze(features)
    return first.seconds


def score(
    prepared: Prepared, run: Run, start: int, end: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the log and watch probabilities of all sessions in [start, end)."""
    index = prepared.pages.between(start, end)
    return predict(run.model, prepared.features, prepared.pages, index)


def measures(
    prepared: Prepared, rows: np.ndarray, chance: np.ndarray, start: int
) -> dict:
    """Every measure of these scored rows; cold and tail by what came before `start`."""
    log, pages = prepared.dataset.log, prepared.pages
    seen = pages.shown(pages.between(None, start))
    parts = slices(
        log.item[seen],
        log.user[seen],
        log.item[rows],
        log.user[rows],
        prepared.sizes.documents,
        prepared.sizes.users,
    )
    return evaluate(log.label[rows], chance, log.qid[rows], parts)


def test(prepared: Prepared, run: Run, start: int, end: int | None) -> dict:
    """Evaluate a trained model on all sessions that begin in [start, end)."""
    return measures(prepared, *score(prepared, run, start, end), start)


def ceiling(prepared: Prepared, start: int, end: int | None) -> dict | None:
    """AUC and QAUC of the true probabilities, the best that any model could reach;
    None where the truth is not known."""
    if prepared.dataset.truth is None:
        return None
    rows = prepared.pages.shown(prepared.pages.between(start, end))
    label, truth = prepared.dataset.log.label[rows], prepared.dataset.truth[rows]
    return {
        "auc": auc(label, truth),
        "qauc": qauc(label, truth, prepared.dataset.log.qid[rows]),
    }


def means(prepared: Prepared, start: int, end: int | None) -> dict:
    """The measures of smoothed means of documents and users, without any network."""
    log, pages = prepared.dataset.log, prepared.pages
    seen = pages.shown(pages.between(None, start))
    rows = pages.shown(pages.between(start, end))
    known = log.item[seen], log.user[seen], log.label[seen]
    chance = smoothed_means(*known, log.item[rows], log.user[rows])
    return measures(prepared, rows, chance, start)


def gap_closed(baseline: float, lemur: float, best: float) -> float:
    """Share of the way from the baseline to the ceiling that LEMUR goes."""
    return (lemur - baseline) / (best - baseline)


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % t interval over seeds."""
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}.get(len(values), 1.96)
    return float(np.mean(values)), float(
        t * np.std(values, ddof=1) / len(values) ** 0.5
    )
