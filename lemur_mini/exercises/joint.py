"""Exercises of notebook 07: one step of training."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor

from lemur_mini import training
from lemur_mini.data.pages import Batch
from lemur_mini.exercises.kinds import Case, Mistake, Part, Value
from lemur_mini.training import Run


def step_cases(run: Run, batches: list[Batch]) -> list[Case]:
    """One step, then two: what is not put back to zero shows in the second."""
    one = {"run": run, "batches": batches[:1]}
    return [
        Case("After one step", one),
        Case("After two steps", one | {"batches": batches}),
    ]


def use(step, inputs: dict) -> dict[str, object]:
    """Take the steps on a copy of the run: all that it holds then."""
    run, found = copied(inputs["run"]), {}
    for batch in inputs["batches"]:
        if step(run, batch) is ...:
            return {"": ...}
    found["run.step"] = run.step
    for name, value in run.model.named_buffers():
        found[name] = value
    for name, value in run.model.named_parameters():
        found[name] = value
    return found


def copied(run: Run) -> Run:
    """A run of the same model and settings, from its beginning."""
    model = copy.deepcopy(run.model).train()
    return Run(model, run.features, run.seed, run.total, step=run.step)


def spelt(run: Run, batch: Batch, leave: str = "") -> None:
    """The step in few lines, with doors for mistakes: `leave` says what is left out."""
    rate = training.learning_rate_at(run.config, run.step, run.total)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * (1.0 if leave == "times" else group["times"])
    options = training.step_options(run, batch)
    losses = run.model.losses(batch, run.features, options)
    if leave != "zero":
        run.optimizer.zero_grad()
    (-losses.total if leave == "sign" else losses.total).backward()
    if leave != "clip":
        weights = run.model.parameters()
        torch.nn.utils.clip_grad_norm_(weights, run.config.clip)
    if leave != "move":
        run.optimizer.step()
    for norm in [] if leave == "norms" else run.model.running_norms.values():
        norm.update()
    run.step += leave != "count"


def left_out(what: str, hint: str) -> Mistake:
    """A step without one thing."""
    return Mistake(partial(spelt, leave=what), hint)


TRAIN_STEP = Part(
    right=training.train_step,
    hint="Rate, losses, gradients from zero, clip, step, running norms, count.",
    cases=step_cases,
    run=use,
    keeps=("train_step",),
    tolerance=2e-5,
    mistakes=(
        left_out("count", "run.step does not move: the rate would never warm up."),
        left_out(
            "norms",
            "The running norms are never updated: norm.update() after the step.",
        ),
        left_out(
            "move",
            "Nothing has moved: is the rate set for every group, and step() called?",
        ),
        left_out("sign", "Everything moved the wrong way: a loss is minimised."),
        left_out(
            "times",
            'Ids and encoders have rates of their own: times group["times"].',
        ),
        left_out(
            "zero",
            "Gradients add up from step to step: zero_grad() before backward().",
        ),
        left_out(
            "clip",
            "The gradient is not clipped to run.config.clip, or only after the step.",
        ),
    ),
)


def stale(full: Batch) -> int:
    """Places of histories whose document is a target of the same batch."""
    return int(torch.isin(full.history, full.unique_items).sum())


def distinct(full: Batch) -> int:
    """Targets that stand in some history."""
    return int(torch.isin(full.unique_items, full.history).sum())


def untaught(norms: dict[str, float]) -> set[str]:
    """Whole parts without a gradient; names of their own parts begin with a space."""
    return {name for name, norm in norms.items() if not norm and name[0] != " "}


def known(full: Batch) -> Tensor:
    """Places of histories that are no padding."""
    return (full.history >= 0).sum()


EXERCISES = {
    "7.1": Value(
        right=stale,
        hint="Count places of `full.history` whose document is in `full.unique_items`.",
        mistakes=(
            Mistake(
                distinct,
                "Those are documents; one can stand in many histories, and each place "
                "counts.",
            ),
            Mistake(known, "Those are all entries, encoded in this step or not."),
        ),
    ),
    "7.2": TRAIN_STEP,
    "7.3": Value(
        right=untaught,
        hint="λ = 0 leaves the clicks alone, and stop-gradient keeps them from what "
        "stands before the ranker's door.",
        order=False,
        mistakes=(
            Mistake(
                lambda norms: {*untaught(norms), "decoders"},
                "The decoders read vectors without gradient, but have weights of "
                "their own.",
            ),
            Mistake(
                lambda norms: {"document encoder"},
                "The query's vector is detached, too.",
            ),
            Mistake(
                lambda norms: set(norms) - untaught(norms),
                "Those are the parts that *do* get one.",
            ),
            Mistake(
                lambda norms: {name for name in norms if not norms[name]},
                "Right; but leave the image stem out, it is a part of its encoder.",
            ),
        ),
    ),
    "7.4": Value(
        right=lambda: (0.001, 0.001),
        hint="In the first step m = g and v = g * g. What is m / sqrt(v)?",
        tolerance=0.01,
        mistakes=(
            Mistake(
                lambda: (0.001 * 0.2, 0.001 * 0.002),
                "That is plain gradient descent. In Adam's first step m = g and v = "
                "g * g. What is m / sqrt(v)?",
            ),
            Mistake(
                lambda: (0.001, 0.00001),
                "The first is right. What does the factor do to m and to sqrt(v)?",
            ),
            Mistake(lambda: (-0.001, -0.001), "Give distances, positive."),
        ),
    ),
}
