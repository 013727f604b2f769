"""Who asks: the hidden factors of users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemur_mini.world.config import WorldConfig
from lemur_mini.world.vocabulary import themes


@dataclass(frozen=True)
class Users:
    """Hidden factors of U users."""

    interest: np.ndarray  # (U, categories), rows sum to one
    affinity: np.ndarray  # (U, topics), standard normal
    palette: np.ndarray  # (U,) the favourite
    tone: np.ndarray  # (U,) the favourite
    activity: np.ndarray  # (U,) weight of opening a session
    arrival: np.ndarray  # (U,) days since the start


def draw_users(config: WorldConfig, rng: np.random.Generator) -> Users:
    """Draw the hidden factors of every user."""
    n, (categories, topics) = config.users, themes()
    skew = config.favourite_skew
    late = rng.random(n) < config.late_users
    concentration = np.full(len(categories), config.interest_concentration)
    return Users(
        interest=rng.dirichlet(concentration, n),
        affinity=rng.standard_normal((n, len(topics))),
        palette=rng.choice(len(skew), n, p=skew),
        tone=rng.choice(len(skew), n, p=skew),
        activity=rng.gamma(1.0, 1.0, n),
        arrival=rng.uniform(0, config.days, n) * late,
    )
