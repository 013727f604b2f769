"""The course's exercises: what is right, and what to say of typical mistakes.

Answers are kept here, away from the notebooks; they are computed where they can be.
Students' code is run beside the module's, with gradients (`kinds.Part`)."""

from __future__ import annotations

from collections.abc import Callable

from lemur_mini.exercises import (
    bank,
    basics,
    contrast,
    encoders,
    joint,
    measures,
    mine,
    others,
    practice,
    ranker,
    search_log,
    sequences,
)
from lemur_mini.exercises.kinds import Part, Value

ROOMS = (search_log, encoders, contrast, ranker, bank, sequences, joint, others)
ROOMS += (measures, practice, basics)
ALL: dict[str, Value | Part] = {
    name: exercise for room in ROOMS for name, exercise in room.EXERCISES.items()
}
NOT_SOLVED = "not solved yet"


def judge(name: str, answer: Callable[[], object], given: dict) -> str:
    """What is to be said of an answer to an exercise: "right", "not solved yet", or
    "not yet" with the hint for this mistake. Right parts are kept for notebook 07."""
    exercise = ALL[name]
    try:
        value = answer()
        if exercise.unsolved(value, given):
            return NOT_SOLVED
        if told := exercise.verdict(value, given):
            return f"not yet. {told}"
    except Exception as error:  # whatever the reader's code may do
        return f"not yet: {type(error).__name__}: {error}. {exercise.hint}"
    return f"right{kept(exercise, value, given)}"


def kept(exercise: Value | Part, value: object, given: dict) -> str:
    """Keep a part that is right, where it works from a file of its own, too."""
    if not isinstance(exercise, Part) or not exercise.keeps or not mine.wanted():
        return ""
    functions = value if isinstance(value, tuple) else (value,)
    try:
        alone = mine.keep(dict(zip(exercise.keeps, functions, strict=True)))
        again = tuple(alone) if isinstance(value, tuple) else alone[0]
        told = exercise.verdict(again, given)
    except Exception as error:  # a name of the notebook, a folder that is read-only
        told = f"{type(error).__name__}: {error}"
    if not told:
        return "; kept for notebook 07"
    mine.forget(exercise.keeps)
    return f"; not kept for notebook 07, as it does not stand alone ({told})"
