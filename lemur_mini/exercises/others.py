"""Exercises of notebooks 08 and 11: costs, and many GPUs."""

from __future__ import annotations

from lemur_mini.exercises.kinds import Mistake, Value

TABLES, NUMBER = (10**9 + 10**8) * 128, 80 * 10**9 // 4  # fp32 numbers on a GPU


def cost(p: float, q: float) -> float:
    """The paper's table as a formula, in GFLOPs."""
    return 1673 + 300 + 991 * p + 1339 * q


EXERCISES = {
    "8.1": Value(
        right=lambda: max(80, 90),
        hint="p is a share of the batch, but what the bank lacks has no choice.",
        mistakes=(
            Mistake(lambda: 80, "That is p. But what the bank lacks has no choice."),
            Mistake(
                lambda: 170,
                "What is missing comes first and counts towards the share p.",
            ),
            Mistake(
                lambda: 90 + 0.2 * (400 - 90),
                "p is a share of the whole batch, not of what is left.",
            ),
        ),
    ),
    "8.2": Value(
        right=lambda: cost(0.5, 0.1),
        hint="The formula has p for forward and q for backward.",
        tolerance=2e-4,
        mistakes=(
            Mistake(lambda: cost(50, 10), "Shares lie between 0 and 1."),
            Mistake(lambda: cost(0.1, 0.5), "p and q are swapped: p is forward."),
            Mistake(lambda: cost(0.5, 0.5), "q is 10 %: only those learn."),
        ),
    ),
    "8.3": Value(
        right=lambda: (1000.0 + 3 * 2.0 * 200) / 1000.0,
        hint="The ranker once; every distinct document forward and backward.",
        mistakes=(
            Mistake(
                lambda: (1000.0 + 2 * 2.0 * 200) / 1000.0,
                "Forward is one, backward is two: three together.",
            ),
            Mistake(
                lambda: (1000.0 + 2.0 * 200) / 1000.0,
                "That is the forward pass alone; backward is two more.",
            ),
            Mistake(
                lambda: 3 * 2.0 * 200 / 1000.0,
                "That is what is added; the ranker itself counts, too.",
            ),
        ),
    ),
    "11.1": Value(
        right=lambda: 3 * 112 * 64 * 4,
        hint="A rank has its own 112. How many does it lack, of how many bytes?",
        mistakes=(
            Mistake(
                lambda: 448 * 64 * 4,
                "That is all of them; its own 112 a rank has already.",
            ),
            Mistake(
                lambda: 4 * 448 * 64 * 4,
                "That is what all ranks hold in the end; this asks for one.",
            ),
            Mistake(lambda: 3 * 112 * 64, "Those are numbers, of 4 bytes each."),
        ),
    ),
    "11.2": Value(
        right=lambda: 4.0,
        hint="The mean over two ranks divides by 2. Does 3 x 1 + 1 x 5 come out?",
        mistakes=(
            Mistake(
                lambda: 2.0,
                "DDP divides by the number of ranks once more; give that back.",
            ),
            Mistake(
                lambda: 6.0,
                "Every rank's mean weighs the same there, whatever its impressions.",
            ),
        ),
    ),
    "11.3": Value(
        right=lambda: -(-3 * TABLES // NUMBER),
        hint="Weights, and what Adam keeps of each. Round up.",
        mistakes=(
            Mistake(
                lambda: -(-TABLES // NUMBER),
                "Adam keeps two numbers beside every weight.",
            ),
            Mistake(lambda: 3 * TABLES // NUMBER, "Round up: a part needs a GPU, too."),
            Mistake(lambda: -(-2 * TABLES // NUMBER), "Adam keeps two, m *and* v."),
        ),
    ),
}
