"""Two kinds of exercise: a value, and a part that is written; what to say of either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from lemur_mini.exercises.compare import TOLERANCE, difference, gradients, leaf, same


@dataclass(frozen=True)
class Mistake:
    """A typical wrong answer, made in the same way as the right one, and its hint."""

    wrong: Callable
    hint: str


@dataclass(frozen=True)
class Value:
    """An exercise whose answer is a number, a list, a pair, a name.

    right(**given) computes the answer; given: what the notebook hands over."""

    right: Callable
    hint: str
    mistakes: tuple[Mistake, ...] = ()
    tolerance: float = 1e-6
    order: bool = True  # does it count

    def verdict(self, value: object, given: dict) -> str:
        """ "" for a right answer, else what to say."""
        if self.alike(value, self.right(**given)):
            return ""
        for mistake in self.mistakes:
            if self.alike(value, mistake.wrong(**given)):
                return mistake.hint
        return self.hint

    def alike(self, value: object, other: object) -> bool:
        """The same, in whatever types."""
        return same(value, other, self.tolerance, self.order)

    def unsolved(self, value: object, given: dict) -> bool:
        """Whether the lines under TO DO are as they were."""
        parts = value if isinstance(value, (tuple, list)) else [value]
        return any(part is ... for part in parts)


@dataclass(frozen=True)
class Case:
    """Inputs of one call, and what they show: "two pages of three"."""

    about: str
    inputs: dict[str, object]


def traced(function: Callable, inputs: dict) -> dict[str, object]:
    """What a function returns, and the gradient by each input that takes one."""
    given = {name: leaf(value) for name, value in inputs.items()}
    result = function(*given.values())
    leaves = {n: x for n, x in given.items() if getattr(x, "requires_grad", False)}
    for name, part in inputs.items():
        if isinstance(part, nn.Module):
            leaves |= {f"{name}.{n}": p for n, p in part.named_parameters()}
    return {"": result} | (gradients(result, leaves) if leaves else {})


def plainly(function: Callable, inputs: dict) -> dict[str, object]:
    """What a function returns."""
    return {"": function(*inputs.values())}


@dataclass(frozen=True)
class Part:
    """An exercise whose answer is code: it is run beside the module's, case by case,
    and the first thing that differs is named.

    run(code, inputs) gives what is compared, by name. cases(**given): the inputs."""

    right: object
    hint: str
    cases: Callable[..., list[Case]]
    mistakes: tuple[Mistake, ...] = ()
    run: Callable[[object, dict], dict[str, object]] = traced
    keeps: tuple[str, ...] = ()  # names of the parts that notebook 07 puts in place
    tolerance: float = TOLERANCE

    def verdict(self, value: object, given: dict) -> str:
        """ "" for a right answer, else what to say."""
        for case in self.cases(**given):
            wanted = self.run(self.right, case.inputs)
            found = self.run(value, case.inputs)
            if told := self.first(found, wanted):
                return f"{case.about}, {told}. {self.hint_for(found, wanted, case)}"
        return ""

    def first(self, found: dict, wanted: dict) -> str:
        """The first thing that differs."""
        for name, value in wanted.items():
            told = difference(found[name], value, self.tolerance)
            if told:
                return f"{name}, {told}" if name else told
        return ""

    def hint_for(self, found: dict, wanted: dict, case: Case) -> str:
        """The hint for the mistake that gives exactly these results, or a general one,
        about gradients where only they differ."""
        for mistake in self.mistakes:
            try:
                wrong = self.run(mistake.wrong, case.inputs)
            except Exception:  # a mistake that fails on some inputs
                continue
            if self.first(wrong, wanted) and not self.first(found, wrong):
                return mistake.hint
        values = [name for name in wanted if not name.startswith("the gradient")]
        if not self.first(found, {name: wanted[name] for name in values}):
            return (
                "All values are right; only the gradient is not. Is there a detach, "
                "an item() or a no_grad on its way, or one missing?"
            )
        return self.hint

    def unsolved(self, value: object, given: dict) -> bool:
        """Whether the lines under TO DO are as they were: code that gives `...`."""
        if value is ...:
            return True
        found = self.run(value, self.cases(**given)[0].inputs)
        return any(result is ... for result in found.values())
