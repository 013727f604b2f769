"""Exercises of notebook 14: shapes, padding, surprise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from lemur_mini.exercises.kinds import Case, Mistake, Part, Value


def padded() -> list[Case]:
    """Values of which the last is padding."""
    real = torch.tensor([True, True, True, False])
    values = torch.tensor([1.0, 2.0, 6.0, 100.0])
    return [Case("Three real values, one padded", {"values": values, "real": real})]


EXERCISES = {
    "14.1": Value(
        right=lambda query, document: F.cosine_similarity(
            query[:, None], document, dim=-1
        ),
        hint="A vector lies along the last axis: that is the one to scale along.",
        tolerance=1e-5,
        mistakes=(
            Mistake(
                lambda query, document: (
                    F.normalize(query, dim=0) @ F.normalize(document, dim=0).T
                ),
                "You scaled along the first axis; a vector lies along the last.",
            ),
            Mistake(
                lambda query, document: query @ document.T,
                "Those are products; a cosine needs vectors of length one.",
            ),
        ),
    ),
    "14.2": Part(
        right=lambda values, real: (values * real).sum() / real.sum(),
        hint="Divide by how many are real, not by how many there are.",
        cases=padded,
        mistakes=(
            Mistake(
                lambda values, real: (values * real).mean(),
                "Padding is left out of the sum, and still counted below.",
            ),
            Mistake(lambda values, real: values.mean(), "Padding is in the mean."),
            Mistake(
                lambda values, real: (values * real).sum(),
                "That is the sum; divide by how many are real.",
            ),
        ),
    ),
    "14.3": Value(
        right=lambda: math.log(2),
        hint="Heads or tails, the surprise is the same: -log of what was said.",
        mistakes=(
            Mistake(lambda: 0.5, "That is the chance; surprise is its -log."),
            Mistake(lambda: 1.0, "That is in bits; nats are asked."),
            Mistake(lambda: -math.log(2), "The sign: -log of a chance is above 0."),
        ),
    ),
}
