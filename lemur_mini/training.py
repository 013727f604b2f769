"""The one-pass stream: schedule, sampling, logs, checkpoints, prediction."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from lemur_mini.config import Config
from lemur_mini.data import Batch, Features, Pages
from lemur_mini.distributed import ALONE, Ranks
from lemur_mini.model import Lemur, Plan, Sizes

LOG_EVERY = 20  # steps


def choose_device(name: str = "auto") -> torch.device:
    """`auto` takes cuda, then mps, then cpu."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def make_model(
    config: Config,
    sizes: Sizes,
    seed: int,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Lemur:
    """A model whose first weights follow from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Lemur(config, sizes, ranks).to(device)


@dataclass
class Run:
    """A training in progress: all that a checkpoint has to hold."""

    model: Lemur
    features: Features
    seed: int
    total: int  # steps
    pretraining: bool = False  # the contrast alone, the first of two stages
    floor: float = 0.0  # share of the rate that stays after `total`: a daily stream
    step: int = 0
    seconds: float = 0.0  # of training
    log: list[dict] = field(default_factory=list)

    def __post_init__(self):
        rates = {"ids": self.config.id_rate, "encoder": self.config.encoder_rate}
        if self.pretraining:
            rates["encoder"] = 1.0
        groups: dict[tuple, dict] = {}
        for name, parameter in self.model.named_parameters():
            part = name.split(".")[0].split("_")[-1]  # of document_encoder: encoder
            decay = self.config.weight_decay * (part == "ids" or parameter.dim() > 1)
            kind = {"weight_decay": decay, "times": rates.get(part, 1.0)}
            group = groups.setdefault(tuple(kind.values()), kind | {"params": []})
            group["params"].append(parameter)
        self.optimizer = torch.optim.AdamW(
            list(groups.values()), lr=0.0, betas=self.config.betas, fused=True
        )

    @property
    def config(self) -> Config:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.features.tokens.device

    @cached_property
    def losses(self) -> Callable:
        """`model.losses`, on several ranks through DDP."""
        return self.model.ranks.parallel(self.model)


def rate(config: Config, step: int, total: int, floor: float = 0.0) -> float:
    """Learning rate at a step: linear warm-up, then linear decay, to zero or to a
    share of it that stays."""
    warm = max(1, round(config.warm_up * total))
    fall = max((total - step) / max(1, total - warm), floor)
    return config.learning_rate * min((step + 1) / warm, fall)


def plan(run: Run, batch: Batch) -> Plan:
    """What this step samples and how much the contrast weighs. Follows from seed and
    step alone, so that a resumed run does what the uninterrupted one would."""
    config, done = run.config, run.step / run.total
    sampling = done >= config.sampling_from
    chance = np.random.default_rng((run.seed, run.step)).random(len(batch.unique))
    return Plan(
        step=run.step,
        order=torch.from_numpy(chance).float().to(run.device),
        forward_share=config.forward_share if sampling else 1.0,
        backward_share=config.backward_share if sampling else 1.0,
        sqdc_weight=1.0 if run.pretraining else config.sqdc_weight,
        rank=not run.pretraining,
    )


def train_step(run: Run, batch: Batch) -> dict | None:
    """One step of the optimiser. Returns what is worth logging, every LOG_EVERY."""
    config, step = run.config, run.step
    batch = batch.to(run.device)
    watch = config.has_content and step % LOG_EVERY == 0
    before = run.model.bank.read(batch.unique) if watch else None
    age = run.model.bank.age(batch.unique, step) if watch else None
    for group in run.optimizer.param_groups:
        group["lr"] = rate(config, step, run.total, run.floor) * group["times"]
    with autocast(config, run.device):
        losses = run.losses(batch, run.features, plan(run, batch))
    run.optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), config.clip)
    run.optimizer.step()
    if config.has_content:
        for norm in run.model.norms.values():
            norm.update()
    run.step += 1
    if step % LOG_EVERY:
        return None
    ctr, sqdc = run.model.ranks.mean(torch.stack([losses.ctr, losses.sqdc])).tolist()
    record = {"step": step, "ctr": ctr, "sqdc": sqdc}
    return record | (health(run.model, batch, before, age, step) if watch else {})


def health(model: Lemur, batch: Batch, before: tuple, age: Tensor, step: int) -> dict:
    """How well the bank does: cached against current vectors, coverage, age."""
    old, found = before
    new, _ = model.bank.read(batch.unique)
    (written,) = model.bank.fetch(batch.unique, model.bank.written)
    both = found & (written == step)  # encoded again now
    cosine = F.cosine_similarity(old[both], new[both], dim=-1)
    return {
        "cached_cosine": cosine.mean().item() if len(cosine) else None,
        "coverage_target": found.float().mean().item(),
        "coverage_history": model.bank.coverage(batch.history),
        "age": age.float().mean().item() if len(age) else None,
    }


def autocast(config: Config, device: torch.device):
    """bf16 autocast where the configuration asks for it."""
    if config.precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches on the device, each made while the one before is in use."""
    with ThreadPoolExecutor(1) as maker:
        moved = (batch.to(device) for batch in batches)
        following = maker.submit(next, moved, None)
        while (batch := following.result()) is not None:
            following = maker.submit(next, moved, None)
            yield batch


def train(
    run: Run,
    pages: Pages,
    index: np.ndarray,
    save: Callable[[Run], None] | None = None,
    title: str = "training",
) -> Run:
    """Train on the pages at `index`, in that order, each once; go on where `run` is.

    `save(run)` is called every `checkpoint_every` steps."""
    config, began = run.config, time.perf_counter() - run.seconds
    index = index[run.step * config.pages :]
    run.model.train()
    batches = pages.stream(index, config.pages, config.history_long)
    stream = ahead(batches, run.device)
    form = {"initial": run.step, "unit": "step", "mininterval": 1}
    if run.model.ranks.rank:
        form["disable"] = True
    bar = tqdm(stream, title, run.total, **form)
    for batch in bar:
        record = train_step(run, batch)
        run.seconds = time.perf_counter() - began
        if record:
            if not math.isfinite(record["ctr"]):
                raise FloatingPointError(
                    f"the loss is not finite at step {run.step}; lower learning_rate"
                )
            run.log.append(record)
            bar.set_postfix(loss=f"{record['ctr']:.3f}", refresh=False)
        if save and run.step % config.checkpoint_every == 0:
            if not all(p.isfinite().all() for p in run.model.parameters()):
                raise FloatingPointError(
                    f"a weight is not finite at step {run.step}; the last checkpoint "
                    "is kept; lower learning_rate"
                )
            save(run)
    return run


@torch.no_grad()
def predict(
    model: Lemur, features: Features, pages: Pages, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Score the pages at `index` from the bank alone.

    Returns rows of the log (B,) and watch probabilities (B,)."""
    config, device = model.config, features.tokens.device
    model.eval()
    scores, rows = [np.empty((0, pages.size))], pages.rows[index]
    batches = pages.stream(index, 4 * config.pages, config.history_long)
    for batch in ahead(batches, device):
        with autocast(config, device):
            logit = model(batch, features)
        scores.append(torch.sigmoid(logit.float()).cpu().numpy())
    inside = rows >= 0
    return rows[inside], np.concatenate(scores)[inside]
