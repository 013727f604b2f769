"""From a data set to trained and evaluated models: what every command shares."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lemur_mini import checkpoints, evaluation, training
from lemur_mini.baselines import smoothed_means
from lemur_mini.config import CLASSROOM, DENSE, Config
from lemur_mini.data.fingerprint import Fingerprint
from lemur_mini.data.loading import Dataset
from lemur_mini.data.match import Match
from lemur_mini.data.past import LONGEST, Past, after, kept
from lemur_mini.data.statistics import CATEGORY, Statistics, numbered
from lemur_mini.devices import choose_device
from lemur_mini.evaluation import auc, qauc, slices
from lemur_mini.files import require_folder
from lemur_mini.interrupts import Ears, Stopped, keeping
from lemur_mini.model import Lemur, Sizes
from lemur_mini.preparation import (
    Prepared,
    config_for,
    dense_features,
    prepare,
    require_period,
)
from lemur_mini.tracking import Tracker
from lemur_mini.training import Run, make_model, predict


class OneProcess:
    """How a training is built, watched, kept and resumed. Several ranks do each of
    these in their own way (`parallel.RankProcess`)."""

    build: Callable[[Config, Sizes], Lemur] = Lemur
    leads = True  # among several: it alone shows progress and writes what all know
    stops_at_a_step = True  # when told to; several ranks do not agree on one

    def wrap(self, run: Run) -> Run:
        """The run as `train` takes it."""
        return run

    def require_growth(self, config: Config) -> None:
        """Raise where tables cannot grow while a stream is read."""

    def save(self, run: Run, path: Path, data: Fingerprint) -> None:
        """Write a checkpoint."""
        checkpoints.save(run, path, data)

    def resume(self, path: Path, fresh: Run, data: Fingerprint) -> Run:
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
    *,
    track: Tracker | None = None,
) -> Run:
    """Train one model, one pass over all impressions before `until` (unix seconds),
    then give every document that the bank still lacks its vector, as at upload time.

    With a checkpoint, Ctrl-C and SIGTERM write it after the step they come in, and
    raise Stopped. Raises DataError, FileError or FloatingPointError before a step that
    would be lost."""
    require_period(prepared, None, until, "train on")
    pages = prepared.pages.cut_at(until)
    index = pages.between(None, until)
    run = _begin(prepared, config, seed, len(index), process)
    file = KeptRun(checkpoint, prepared.fingerprint, process)
    if resume:
        run = file.resume(run)
    title = title if process.leads else None
    with file.listening() as ears:
        if config.two_stage:
            cut = replace(prepared, pages=pages)
            pretrain(cut, run, index, process, lambda: ears.told)
        training.train(
            run, pages, index, file.save, title, lambda: ears.told, track=track
        )
        if config.has_content and not ears.told:
            run.model.eval().publish(prepared.features)
        if checkpoint and not ears.told:
            run.part = training.Part(past_of(prepared, config, until), run.step)
        file.save(run)
        if ears.told:
            raise Stopped(ears.told, file.path)
    return run


def past_of(prepared: Prepared, config: Config, until: int) -> Past:
    """What a stream that goes on from here needs of the log before `until`."""
    dataset = prepared.dataset
    past = after(dataset.log, until, LONGEST, *kept(config))
    past.known = {"users": len(dataset.users), "queries": len(dataset.queries)}
    past.texts = {"user_id": isinstance(dataset.users.tolist()[0], str)}
    past.sources = [str(dataset.folder.resolve())] if dataset.folder else []
    if "statistics" in config.groups:
        past.statistics = Statistics.of(dataset, until)
        past.statistics.settle(past.cut)
        past.categories = numbered(dataset.texts.get(CATEGORY, []), [])[1]
    if "match" in config.groups:
        past.matcher = prepared.matcher
        if isinstance(past.matcher, Match):  # a stream reads texts when it needs them
            past.matcher = past.matcher.over({name: [] for name in dataset.texts})
    return past


class KeptRun:
    """Where a training is kept, if it is: found to be writable before it begins."""

    def __init__(
        self, path: Path | None, data: Fingerprint | None, process: OneProcess
    ):
        self.path = None if path is None else Path(path)
        self.data, self.process = data, process
        self.known: list[Path] = []  # the path, once it holds this very training
        if self.path is not None:
            require_folder(self.path.parent)

    def save(self, run: Run) -> None:
        """Write a checkpoint."""
        if self.path is not None:
            self.process.save(run, self.path, self.data)
            self.known.append(self.path)

    def resume(self, fresh: Run) -> Run:
        """The run of the checkpoint, or the fresh one where there is none."""
        if self.path is None or not self.path.is_file():
            return fresh
        run = self.process.resume(self.path, fresh, self.data)
        self.known.append(self.path)
        return run

    @contextmanager
    def listening(self) -> Iterator[Ears]:
        """Signals are heard where what they stop can be kept."""
        hears = self.path is not None and self.process.stops_at_a_step
        with keeping(self.known), Ears() if hears else nullcontext(Ears()) as ears:
            yield ears


def _begin(
    prepared: Prepared, config: Config, seed: int, pages: int, process: OneProcess
) -> Run:
    """A run over so many pages, as the process takes it."""
    features, total = prepared.features, -(-pages // config.batch_pages)
    device = features.tokens.device
    model = make_model(config, prepared.sizes, seed, device, process.build)
    return process.wrap(Run(model, features, seed, total))


def pretrain(
    prepared: Prepared,
    run: Run,
    index: np.ndarray,
    process: OneProcess = ALONE,
    told: Callable[[], int | None] = lambda: None,
) -> None:
    """The first of two stages, unless `run` goes on from its checkpoint: some passes of
    the contrastive loss alone. Then the encoders are frozen. Raises Stopped, with
    nothing saved, after the step in which `told()` names a signal."""
    model, features, passes = run.model, prepared.features, run.config.two_stage
    if not run.step:
        first = Run(model, features, run.seed, run.total * passes, pretraining=True)
        title = "stage 1" if process.leads else None
        every = np.tile(index, passes)
        first = process.wrap(first)
        training.train(first, prepared.pages, every, None, title, told)
        if told():
            raise Stopped(told(), None)
        run.seconds = first.seconds
    model.eval().freeze(features)


def predict_period(
    prepared: Prepared, run: Run, start: int, end: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the log in [start, end) and their watch probabilities."""
    pages = prepared.pages.cut_at(start, end)
    return predict(run.model, prepared.features, pages, pages.between(start, end))


def shown_between(prepared: Prepared, start: int | None, end: int | None) -> np.ndarray:
    """Rows of the log whose own time is in [start, end), in the order of pages."""
    pages = prepared.pages.cut_at(start, end)
    return pages.shown(pages.between(start, end))


def measures(
    prepared: Prepared, rows: np.ndarray, chance: np.ndarray, start: int
) -> dict:
    """Every measure of these scored rows; cold and tail by what came before `start`."""
    log, seen = prepared.dataset.log, shown_between(prepared, None, start)
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
    """Evaluate a trained model on all impressions in [start, end)."""
    return measures(prepared, *predict_period(prepared, run, start, end), start)


def ceiling(prepared: Prepared, start: int, end: int | None) -> dict | None:
    """AUC and QAUC of the true probabilities, the best that any model could reach;
    None where the truth is not known."""
    if prepared.dataset.truth is None:
        return None
    rows = shown_between(prepared, start, end)
    label, truth = prepared.dataset.log.label[rows], prepared.dataset.truth[rows]
    return {
        "auc": auc(label, truth),
        "qauc": qauc(label, truth, prepared.dataset.log.qid[rows]),
    }


def smoothed_baseline(prepared: Prepared, start: int, end: int | None) -> dict:
    """The measures of smoothed means of documents and users, without any network."""
    log, seen = prepared.dataset.log, shown_between(prepared, None, start)
    rows = shown_between(prepared, start, end)
    known = log.item[seen], log.user[seen], log.label[seen]
    chance = smoothed_means(*known, log.item[rows], log.user[rows])
    return measures(prepared, rows, chance, start)


def trees(
    prepared: Prepared, start: int, end: int | None, content: bool = True
) -> dict:
    """The measures of gradient-boosted trees over statistics, match and compressed
    content (or without it), fitted on all before `start`; and their seconds."""
    from lemur_mini.trees import boosted_trees  # scikit-learn, where it is needed

    began, pages = time.perf_counter(), prepared.pages.cut_at(start, end)
    lacking = tuple(name for name in DENSE if name not in pages.dense)
    images = prepared.features.images.cpu().numpy()
    dense = pages.dense | dense_features(prepared.dataset, lacking, pages, images)[0]
    rows, chance = boosted_trees(
        prepared.dataset, pages, images, dense, start=start, end=end, content=content
    )
    seconds = round(time.perf_counter() - began, 1)
    return measures(prepared, rows, chance, start) | {"train_seconds": seconds}


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
    require_period(prepared, until, None, "test on")
    return Trained(prepared, fit(prepared, config, seed, until, checkpoint))


def evaluate(trained: Trained) -> dict:
    """Every measure on the test period."""
    start = trained.prepared.dataset.test_start
    return evaluate_period(trained.prepared, trained.run, start, None)
