"""Exercises of notebook 05: reading and writing the bank, coverage and age."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lemur_mini.exercises.encoders import drawn
from lemur_mini.exercises.kinds import Case, Mistake, Part, Value
from lemur_mini.memory_bank import NEVER, MemoryBank

Code = tuple[Callable, Callable]  # read(bank, rows), write(bank, rows, vectors, step)


def use(code: Code, inputs: dict) -> dict[str, object]:
    """Write, write again, read: what a bank holds then, and whether it learns."""
    (read, write), bank = code, MemoryBank(6, 3)
    found: dict[str, object] = {}
    for step, rows in enumerate(inputs["writes"], start=4):
        vectors = drawn(len(rows), 3) + step
        vectors = vectors * torch.tensor(inputs.get("times", 1.0))
        if write(bank, torch.tensor(rows), vectors.requires_grad_(), step) is ...:
            return {"": ...}
    result = read(bank, inputs["rows"])
    if result is ...:
        return {"": ...}
    found["the flags: which row is found"] = result[1]
    found["the vectors"] = result[0]
    found["bank.written"] = bank.written
    found["bank.vectors"] = bank.vectors
    found["does a gradient flow into the bank"] = bank.vectors.requires_grad
    return found


def bank_cases() -> list[Case]:
    """What is known; then padding, misses, zeros, many rows."""
    known, line = [[2, 0], [4, 2]], torch.tensor([0, 2, 4])
    padded = torch.tensor([2, -1, 0, -3])
    return [
        Case("Two writes, then what was written", {"writes": known, "rows": line}),
        Case(
            "Documents 1 and 5 were never written",
            {"writes": known, "rows": torch.tensor([1, 2, 5])},
        ),
        Case(
            "Rows below 0 are padding, and the last document is known",
            {"writes": [[2, 5], [0]], "rows": padded},
        ),
        Case(
            "A vector of zeros was written",
            {"writes": [[1, 3]], "times": 0.0, "rows": torch.tensor([1, 3])},
        ),
        Case(
            "Histories (2, 3) instead of a line",
            {"writes": known, "rows": torch.tensor([[0, 1, 2], [4, -1, -1]])},
        ),
    ]


def read(bank: MemoryBank, rows: Tensor, padding: bool = True, blank: bool = True):
    """As the module reads, with doors for mistakes."""
    index = rows.clamp(min=0) if padding else rows
    found = bank.written[index] > NEVER
    found = found & (rows >= 0) if padding else found
    vectors = bank.vectors[index]
    return (vectors * found[..., None] if blank else vectors), found


def always_found(bank: MemoryBank, rows: Tensor):
    vectors, _ = read(bank, rows)
    return vectors, rows >= 0


def not_zero(bank: MemoryBank, rows: Tensor):
    vectors, _ = read(bank, rows)
    return vectors, (vectors != 0).any(dim=-1)


def padded_found(bank: MemoryBank, rows: Tensor):
    index = rows.clamp(min=0)
    found = bank.written[index] > NEVER
    return bank.vectors[index] * found[..., None], found


def without_step(bank: MemoryBank, rows: Tensor, vectors: Tensor, step: int) -> None:
    bank.vectors[rows] = vectors.detach()


def with_graph(bank: MemoryBank, rows: Tensor, vectors: Tensor, step: int) -> None:
    bank.vectors = bank.vectors.index_copy(0, rows, vectors)
    bank.written[rows] = step


def adding(bank: MemoryBank, rows: Tensor, vectors: Tensor, step: int) -> None:
    bank.vectors[rows] += vectors.detach()
    bank.written[rows] = step


def counting(bank: MemoryBank, rows: Tensor, vectors: Tensor, step: int) -> None:
    bank.vectors[rows] = vectors.detach()
    bank.written[rows] += 1


READ, WRITE = MemoryBank.read, MemoryBank.write
BANK = Part(
    right=(READ, WRITE),
    hint="Look at bank.written for the flags; a miss and padding give zeros.",
    cases=bank_cases,
    run=use,
    keeps=("read", "write"),
    mistakes=(
        Mistake((READ, without_step), "`write` does not note the step."),
        Mistake((READ, counting), "`written` holds the step of the last write."),
        Mistake((READ, adding), "A write replaces the old vector; it does not add."),
        Mistake(
            (READ, with_graph),
            "The bank keeps the graph of what it stores: detach, or use no_grad.",
        ),
        Mistake(
            (always_found, WRITE),
            "A document that was never written is a miss: its flag is False.",
        ),
        Mistake(
            (not_zero, WRITE),
            "A vector of zeros may have been written: ask bank.written instead.",
        ),
        Mistake(
            (lambda bank, rows: read(bank, rows, padding=False), WRITE),
            "Row -1 is PyTorch's last row: padding gets a document's vector.",
        ),
        Mistake(
            (padded_found, WRITE),
            "Padding is not masked: clamped to row 0, it is found like document 0.",
        ),
    ),
)


def history() -> tuple[MemoryBank, Tensor]:
    """The bank of exercise 5.2, and the history that is read."""
    bank = MemoryBank(4, 1)
    for step, rows in enumerate(([0, 1], [1, 2])):
        bank.write(torch.tensor(rows), torch.ones(2, 1), step)
    return bank, torch.tensor([1, 3, 0, -1, 2])


def health(of: float = 0.0, ages: Callable = lambda ages: ages) -> tuple:
    """Coverage and ages, as they are or changed."""
    bank, rows = history()
    return of or bank.coverage(rows), ages(bank.age(rows, 2).tolist())


EXERCISES = {
    "5.1": BANK,
    "5.2": Value(
        right=health,
        hint="Padding is not a request. A miss has no age, but it lowers the coverage.",
        tolerance=1e-5,
        mistakes=(
            Mistake(
                lambda: health(of=3 / 5),
                "The ages are right. Padding is not a request: four were asked for.",
            ),
            Mistake(
                lambda: health(of=1.0),
                "The ages are right. Document 3 was never written: it is a miss.",
            ),
            Mistake(
                lambda: health(ages=lambda ages: [0, 2, 1]),
                "The coverage is right. Steps from the last write to step 2; nothing "
                "was written in step 2.",
            ),
            Mistake(
                lambda: health(ages=lambda ages: [age - 1 for age in ages]),
                "The coverage is right; the ages are off by one: from step 1 to step "
                "2 is one step.",
            ),
            Mistake(
                lambda: health(ages=sorted),
                "The coverage is right; give the ages in the order of the history.",
            ),
        ),
    ),
    "5.3": Value(
        right=lambda: 50,
        hint="How many steps lie between two showings, on average?",
        tolerance=0.021,
        mistakes=(
            Mistake(
                lambda: 25,
                "Half of it is the age at a *random* step, not when it comes back.",
            ),
            Mistake(lambda: 1 / 50, "That is the chance; how long does one wait?"),
        ),
    ),
    "5.4": Value(
        right=lambda: (2048 + 2048 * 1024) / 2048,
        hint="Every impression has its own target and its own history.",
        tolerance=2e-3,
        mistakes=(
            Mistake(
                lambda: (2048 + 1024) / 2048,
                "Every impression has a history of its own, not the batch one.",
            ),
            Mistake(
                lambda: 2048 * 1024,
                "That many encodings; by which factor is it more than the targets?",
            ),
        ),
    ),
}
