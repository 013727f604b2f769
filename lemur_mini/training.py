"""The one-pass stream: schedule, sampling, logs, checkpoints, prediction."""

from __future__ import annotations

import dataclasses
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from lemur_mini import finite
from lemur_mini.config import Config
from lemur_mini.data.features import Features
from lemur_mini.data.pages import Batch, Pages, moved
from lemur_mini.data.past import Past
from lemur_mini.devices import autocast
from lemur_mini.errors import Mendable
from lemur_mini.id_tables import Table, clip
from lemur_mini.model import Lemur, Sizes, StepOptions
from lemur_mini.tracking import Tracker

LOG_EVERY = 20  # steps
# Times the rate of id embeddings, where Adagrad learns them. # our choice: its sums
# never shrink, so that its steps do; with this, one `id_lr_multiplier` suits both
# optimisers (data/results/trials-platform.json, whose multipliers hold it).
ADAGRAD = 16.0


class Stream(Protocol):
    """A log that is read as it goes (`data.PageStream`): its pages, `pages` at a time,
    each time anew from the beginning of this part."""

    def stream(self, pages: int) -> Iterator[Batch]: ...


class LogError(Mendable, ValueError):
    """A log that is read again and is not the same."""


class SeedError(Mendable, ValueError):
    """A seed that no generator takes."""


def make_model(
    config: Config,
    sizes: Sizes,
    seed: int,
    device: torch.device,
    build: Callable[[Config, Sizes], Lemur] = Lemur,
) -> Lemur:
    """A model whose first weights follow from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config, sizes).to(device)


@dataclass
class Part:
    """One part of a stream: what came before it, and how far training is in it."""

    past: Past | None = None  # at its beginning; once it is done, at its end
    began: int = 0  # step of the run
    sum: int = 0  # of the last batch, by which a log that is read again is known
    done: bool = True


@dataclass
class Run:
    """A training in progress: all that a checkpoint has to hold."""

    model: Lemur
    features: Features
    seed: int
    total: int  # steps
    pretraining: bool = False  # the contrast alone, the first of two stages
    floor: float = 0.0  # share of the rate that stays after `total`: a daily stream
    part: Part | None = None  # of a stream that is read now, or was read last
    step: int = 0
    seconds: float = 0.0  # of training
    log: list[dict] = field(default_factory=list)

    def __post_init__(self):
        if self.seed < 0:
            raise SeedError(f"seed {self.seed} is negative; use 0 or more")
        groups: dict[tuple, dict] = {}
        for parameter in self.dense:
            kind = self._kind(parameter)
            group = groups.setdefault(tuple(kind.values()), kind | {"params": []})
            group["params"].append(parameter)
        self.optimizer = torch.optim.AdamW(
            list(groups.values()), lr=0.0, betas=self.config.betas, fused=True
        )

    def _kind(self, parameter: nn.Parameter) -> dict:
        """How a parameter learns: its decay, and its multiple of the learning rate."""
        config, is_id = self.config, id(parameter) in self._ids
        times = config.id_lr_multiplier if is_id else 1.0
        if id(parameter) in self._encoders and not self.pretraining:
            times = config.encoder_lr_multiplier
        decay = config.weight_decay * (is_id or parameter.dim() > 1)
        return {"weight_decay": decay, "times": times}

    @property
    def tables(self) -> list[Table]:
        """Of ids, those that learn by themselves, sparsely."""
        return [table for table in self.model.ids.values() if table.sparse]

    @property
    def dense(self) -> list[nn.Parameter]:
        """What the optimiser learns: all other weights."""
        own = {id(table.weight) for table in self.tables}
        return [p for p in self.model.parameters() if id(p) not in own]

    @cached_property
    def _ids(self) -> set[int]:
        return {id(p) for p in self.model.ids.parameters()}

    @cached_property
    def _encoders(self) -> set[int]:
        return {id(p) for part in self.model.encoders for p in part.parameters()}

    @property
    def config(self) -> Config:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.features.tokens.device

    def grow(self, **counts: int) -> None:
        """Rows for at least so many users, documents and queries: the model's as
        `Lemur.grow` says, and the optimiser's moments of what is new are 0."""
        before = {name: table.weight for name, table in self.model.ids.items()}
        self.model.grow(**counts)
        for name, old in before.items():
            new = self.model.ids[name].weight
            if new is old or self.model.ids[name].sparse:
                continue
            for group in self.optimizer.param_groups:
                group["params"] = [new if p is old else p for p in group["params"]]
            moments = self.optimizer.state.pop(old, {})
            more = (0, 0, 0, len(new) - len(old))
            self.optimizer.state[new] = {
                k: F.pad(v, more) if v.dim() else v for k, v in moments.items()
            }

    def make_room(self, batch: Batch) -> None:
        """Rows for the users and queries of a stream's batch. Tables double, so that
        where they grow follows from the batches alone."""
        highest = {"users": int(batch.user.max()), "queries": int(batch.query.max())}
        sizes = dataclasses.asdict(self.model.sizes)
        lacking = {k: n + 1 for k, n in highest.items() if n >= sizes[k]}
        if lacking:
            self.grow(**{k: max(1024, 1 << n.bit_length()) for k, n in lacking.items()})

    @cached_property
    def watch(self) -> finite.Watch:
        """Of what must stay a number."""
        return finite.Watch()

    @cached_property
    def losses(self) -> Callable:
        """What a step calls: `model.losses`, whatever wraps it."""
        return self.model.losses

    def average(self, values: Tensor) -> Tensor:
        """Of losses, for the log."""
        return values

    def over_ranks(self, values: Tensor) -> Tensor:
        """The sum of what every rank has of its own."""
        return values


def learning_rate_at(
    config: Config, step: int, total: int, floor: float = 0.0
) -> float:
    """Learning rate at a step: linear warm-up, then linear decay, to zero or to a
    share of it that stays."""
    warm = max(1, round(config.warm_up * total))
    fall = max((total - step) / max(1, total - warm), floor)
    return config.learning_rate * min((step + 1) / warm, fall)


def step_options(run: Run, batch: Batch) -> StepOptions:
    """What this step samples and how much the contrast weighs. Follows from seed and
    step alone, so that a resumed run does what the uninterrupted one would."""
    config, done = run.config, run.step / run.total
    sampling = done >= config.sampling_from
    chance = np.random.default_rng((run.seed, run.step)).random(len(batch.unique_items))
    return StepOptions(
        step=run.step,
        order=moved(torch.from_numpy(chance).float(), run.device),
        forward_share=config.forward_share if sampling else 1.0,
        backward_share=config.backward_share if sampling else 1.0,
        sqdc_weight=1.0 if run.pretraining else config.sqdc_weight,
        rank=not run.pretraining,
    )


def train_step(run: Run, batch: Batch) -> dict | None:
    """One step of the optimiser. Returns what is worth logging, every LOG_EVERY. Raises
    FloatingPointError where loss, gradient or a weight is no number any more."""
    config, step = run.config, run.step
    batch = batch.to(run.device)
    watch = config.has_content and step % LOG_EVERY == 0
    before = state_of_bank(run.model, batch, step) if watch else None
    rate = learning_rate_at(config, step, run.total, run.floor)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["times"]
    with autocast(config, run.device):
        losses = run.losses(batch, run.features, step_options(run, batch))
    run.watch.check()  # the step before: a GPU was waited for in this one's losses
    run.model.zero_grad(set_to_none=True)
    losses.total.backward()
    weights, tables = run.dense, run.tables
    gradient, scale = clip(weights, tables, config.clip, run.over_ranks)
    run.optimizer.step()
    for table in tables:
        table.learn(rate * config.id_lr_multiplier * ADAGRAD, scale)
    weight = torch.nn.utils.get_total_norm(weights)
    run.watch.note(step + 1, loss=losses.total, gradient=gradient, weight=weight)
    if config.has_content:
        for norm in run.model.running_norms.values():
            norm.update()
    run.step += 1
    if step % LOG_EVERY:
        return None
    ctr, sqdc = run.average(torch.stack([losses.ctr, losses.sqdc])).tolist()
    record = {"step": step, "ctr": ctr, "sqdc": sqdc}
    return record | (health(run.model, batch, before, step) if before else {})


def state_of_bank(model: Lemur, batch: Batch, step: int) -> tuple:
    """What the bank says of a batch's documents before the step: vectors (U, D), found
    (U,), and the ages of those found."""
    rows = batch.unique_items
    return *model.bank.read(rows), model.bank.age(rows, step)


def health(model: Lemur, batch: Batch, before: tuple, step: int) -> dict:
    """How well the bank does: cached against current vectors, coverage, age."""
    old, found, age = before
    new, _ = model.bank.read(batch.unique_items)
    (written,) = model.bank.fetch(batch.unique_items, model.bank.written)
    both = found & (written == step)  # encoded again now
    cosine = F.cosine_similarity(old[both], new[both], dim=-1)
    return {
        "cached_cosine": cosine.mean().item() if len(cosine) else None,
        "coverage_target": found.float().mean().item(),
        "coverage_history": model.bank.coverage(batch.history),
        "age": age.float().mean().item() if len(age) else None,
    }


def prefetch(
    batches: Iterator[Batch], device: torch.device, multiple: int = 1
) -> Iterator[Batch]:
    """The same batches on the device, each made while the one before is in use, with
    no more padding than a multiple of LONGER's merge needs."""
    with ThreadPoolExecutor(1) as maker:
        moved = (batch.cropped(multiple).to(device) for batch in batches)
        following = maker.submit(next, moved, None)
        while (batch := following.result()) is not None:
            following = maker.submit(next, moved, None)
            yield batch


def train(
    run: Run,
    pages: Pages | Stream,
    index: np.ndarray | None = None,
    save: Callable[[Run], None] | None = None,
    title: str | None = "training",
    told: Callable[[], object] = lambda: None,
    *,
    track: Tracker | None = None,
) -> Run:
    """Train on the pages at `index`, in that order, or on all pages of a stream, each
    once; go on where `run` is. Tables of ids grow as a stream names new users and
    queries (`Run.make_room`).

    `save(run)` is called every `checkpoint_every` steps. title: of the progress bar;
    None for no bar. Stops after the step in which `told()` becomes true. track: is told
    what `run.log` is told. Raises FloatingPointError, naming the step, before anything
    that is no number is saved."""
    config, began = run.config, time.perf_counter() - run.seconds
    run.part = run.part or (Part(began=run.step) if index is None else None)
    run.model.train()
    stream = prefetch(to_come(run, pages, index), run.device, config.longer_merge)
    bar = tqdm(
        stream,
        title,
        None if index is None else run.total,
        initial=run.step,
        unit="step",
        mininterval=1,
        disable=title is None,
    )
    for batch in bar:
        if index is None:
            run.make_room(batch)
        record = train_step(run, batch)
        run.seconds = time.perf_counter() - began
        if record:
            run.log.append(record)
            if track:
                track(record)
            bar.set_postfix(loss=f"{record['ctr']:.3f}", refresh=False)
        stop, due = told(), run.step % config.checkpoint_every == 0
        if run.part and (stop or due):
            run.part.sum = sum_of(batch)
        if stop:
            break
        if save and due:
            run.watch.check()
            save(run)
    run.watch.check()
    return run


def to_come(
    run: Run, pages: Pages | Stream, index: np.ndarray | None
) -> Iterator[Batch]:
    """The batches that the run has not seen: of a table, by their place; of a stream,
    read again up to there."""
    size = run.config.batch_pages
    if index is not None and isinstance(pages, Pages):
        rest = index[run.step * size :]
        return pages.stream(rest, size, run.config.history_long)
    assert run.part is not None and not isinstance(pages, Pages)
    return beyond(pages.stream(size), run.step - run.part.began, run.part.sum)


def beyond(batches: Iterator[Batch], steps: int, known: int) -> Iterator[Batch]:
    """Batches after those of so many steps. Raises LogError where the last of these is
    not the batch of that sum, or not there."""
    seen, last = 0, None
    for batch in islice(batches, steps):
        seen, last = seen + 1, batch
    if seen < steps or (last and sum_of(last) != known):
        raise LogError(
            f"step {steps} of this part was trained on other rows than this log holds; "
            "give the log that the run was stopped in, as it was"
        )
    yield from batches


def sum_of(batch: Batch) -> int:
    """A checksum of who was shown what, and of what came of it."""
    value = 0
    for part in (batch.user, batch.query, batch.qid, batch.item, batch.label):
        value = zlib.crc32(part.cpu().numpy().tobytes(), value)
    return value


@torch.no_grad()
def predict(
    model: Lemur, features: Features, pages: Pages, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Score the pages at `index` from the bank alone.

    Returns rows of the log (B,) and watch probabilities (B,). Raises FloatingPointError
    where one is no number, ValueError for features of another catalogue."""
    config, device = model.config, features.tokens.device
    known, given = model.sizes.documents, len(features.tokens)
    if known != given:
        raise ValueError(f"a model of {known} documents, features of {given}")
    model.eval()
    scores, rows = [np.empty((0, pages.size))], pages.rows[index]
    batches = pages.stream(index, 4 * config.batch_pages, config.history_long)
    for batch in prefetch(batches, device, config.longer_merge):
        with autocast(config, device):
            logit = model(batch, features)
        scores.append(torch.sigmoid(logit.float()).cpu().numpy())
    inside = rows >= 0
    return rows[inside], finite.require(np.concatenate(scores)[inside], "scores")
