"""From a data set to trained and evaluated models: what every command shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from lemur_mini import checkpoints, evaluation, training
from lemur_mini.baselines import smoothed_means
from lemur_mini.config import CLASSROOM, FEED_CHANGES, SCALES, Config
from lemur_mini.data.features import Features, make_features, make_tokenizer
from lemur_mini.data.loading import Dataset, checksum, load, only
from lemur_mini.data.pages import Pages
from lemur_mini.evaluation import auc, qauc, slices
from lemur_mini.model import Lemur, Sizes
from lemur_mini.training import Run, choose_device, make_model, predict


@dataclass(frozen=True)
class Prepared:
    """A data set with all that models need of it, made once."""

    dataset: Dataset
    tokenizer: PreTrainedTokenizerFast
    features: Features
    pages: Pages
    sizes: Sizes
    checksum: str


def prepare(
    source: Dataset | str | Path, config: Config, device: torch.device
) -> Prepared:
    """Load, validate and tensorise a data set, or the one that is loaded."""
    dataset = source if isinstance(source, Dataset) else load(source)
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
        pages=Pages(dataset.log, config.page_size),
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
    """The configuration for this kind of data: a feed has settings of its own, where
    the reader has left the scale's."""
    if not dataset.is_feed:
        return config
    usual = SCALES.get(config.scale, config)
    changes = {k: v for k, v in FEED_CHANGES.items() if at_usual(config, usual, k)}
    return config.replace(**changes)


def at_usual(config: Config, usual: Config, name: str) -> bool:
    """Whether a field has its usual value."""
    return getattr(config, name) == getattr(usual, name)


class OneProcess:
    """How a training is built, watched, kept and resumed. Several ranks do each of
    these in their own way (`parallel.RankProcess`)."""

    build: Callable[[Config, Sizes], Lemur] = Lemur
    shows_progress = True

    def wrap(self, run: Run) -> Run:
        """The run as `train` takes it."""
        return run

    def save(self, run: Run, path: Path, data: str) -> None:
        """Write a checkpoint."""
        checkpoints.save(run, path, data)

    def resume(self, path: Path, fresh: Run, data: str) -> Run:
        """Bring a fresh run to where the checkpoint was."""
        return checkpoints.resume(path, fresh, data)


ALONE = OneProcess()


def fit(
    prepared: Prepared,
    config: Config,
    seed: int,
    until: int,
    checkpoint: Path | None = None,
    resume: bool = False,
    title: str = "training",
    process: OneProcess = ALONE,
) -> Run:
    """Train one model, one pass over all sessions before `until` (unix seconds), then
    give every document that the bank still lacks its vector, as at upload time."""
    pages, features = prepared.pages, prepared.features
    index, device = pages.between(None, until), features.tokens.device
    model = make_model(config, prepared.sizes, seed, device, process.build)
    total = -(-len(index) // config.batch_pages)
    run = process.wrap(Run(model, features, seed, total))
    title = title if process.shows_progress else None
    if resume and checkpoint.is_file():
        run = process.resume(checkpoint, run, prepared.checksum)
    if config.two_stage:
        pretrain(prepared, run, index, process)

    def save(run: Run) -> None:
        if checkpoint is not None:
            process.save(run, checkpoint, prepared.checksum)

    training.train(run, pages, index, save, title)
    if config.has_content:
        model.eval().publish(features)
    save(run)
    return run


def pretrain(
    prepared: Prepared, run: Run, index: np.ndarray, process: OneProcess = ALONE
) -> None:
    """The first of two stages, unless `run` goes on from its checkpoint: some passes of
    the contrastive loss alone. Then the encoders are frozen."""
    model, features, passes = run.model, prepared.features, run.config.two_stage
    if not run.step:
        first = Run(model, features, run.seed, run.total * passes, pretraining=True)
        title = "stage 1" if process.shows_progress else None
        every = np.tile(index, passes)
        training.train(process.wrap(first), prepared.pages, every, None, title)
        run.seconds = first.seconds
    model.eval().freeze(features)


def predict_period(
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
    return evaluation.evaluate(log.label[rows], chance, log.qid[rows], parts)


def evaluate_period(prepared: Prepared, run: Run, start: int, end: int | None) -> dict:
    """Evaluate a trained model on all sessions that begin in [start, end)."""
    return measures(prepared, *predict_period(prepared, run, start, end), start)


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


def smoothed_baseline(prepared: Prepared, start: int, end: int | None) -> dict:
    """The measures of smoothed means of documents and users, without any network."""
    log, pages = prepared.dataset.log, prepared.pages
    seen = pages.shown(pages.between(None, start))
    rows = pages.shown(pages.between(start, end))
    known = log.item[seen], log.user[seen], log.label[seen]
    chance = smoothed_means(*known, log.item[rows], log.user[rows])
    return measures(prepared, rows, chance, start)


@dataclass(frozen=True)
class Trained:
    """A model, what it was trained on, and how."""

    prepared: Prepared
    run: Run

    @property
    def model(self) -> Lemur:
        """The model, its bank filled."""
        return self.run.model


def train(
    source: Dataset | str | Path,
    config: Config = CLASSROOM,
    seed: int = 0,
    device: str = "auto",
    checkpoint: Path | None = None,
) -> Trained:
    """Train LEMUR on everything before the test period of a data set. `config` is
    adapted to the kind of data (see `config_for`)."""
    prepared = prepare(source, config, choose_device(device))
    config, until = config_for(config, prepared.dataset), prepared.dataset.test_start
    return Trained(prepared, fit(prepared, config, seed, until, checkpoint))


def evaluate(trained: Trained) -> dict:
    """Every measure on the test period."""
    start = trained.prepared.dataset.test_start
    return evaluate_period(trained.prepared, trained.run, start, None)
