"""Curves behind the claims: one setting varied, everything else as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from lemur_mini import plots
from lemur_mini.reproduce import claims


@dataclass(frozen=True)
class Curve:
    """Variants along an axis; `place` finds a variant's x in one of its results."""

    title: str
    axis: str
    variants: tuple[str, ...]
    place: Callable[[dict], float]
    log: bool = True


def setting(name: str) -> Callable[[dict], float]:
    """The place of a result is the value of a setting."""
    return lambda run: run["config"][name]


CURVES = (
    Curve(
        "Temperature (lambda * T is held)",
        "T",
        tuple(f"temperature_{t}" for t in (2, 5, 20, 50)),
        setting("temperature"),
    ),
    Curve(
        "Staleness on purpose",
        "steps between writes of the bank",
        tuple(f"write_every_{k}" for k in (2, 5, 10)),
        setting("write_every"),
    ),
    Curve(
        "Sampling p and q from half-way on",
        "FLOPs of a sampled step, share of all",
        ("p100_q20", "p20_q20", "p10_q10"),
        lambda run: run["flops"]["total"],
        log=False,
    ),
)


def points(curve: Curve, runs: dict) -> list[tuple[float, list[float]]]:
    """(x, QAUC of every seed) of LEMUR and the curve's variants that have results, over
    the seeds that all of these have: a mean of other seeds would bend the curve."""
    wanted = ("lemur", *curve.variants)
    there = list(dict.fromkeys(variant for variant, _ in runs if variant in wanted))
    found: dict[float, list[float]] = {}
    for seed in claims.seeds_of(runs, *there) if there else ():
        for run in (runs[variant, seed] for variant in there):
            found.setdefault(curve.place(run), []).append(run["test"]["qauc"])
    return sorted(found.items())


def figure(runs: dict) -> Figure | None:
    """One panel a curve that has results: every seed a dot, means joined, LEMUR as it
    is in its own colour. None where there are no results."""
    known = [(c, points(c, runs)) for c in CURVES]
    known = [(curve, found) for curve, found in known if len(found) > 1]
    if not known:
        return None
    with plt.rc_context(plots.STYLE):
        made, grid = plt.subplots(
            1, len(known), figsize=(3.6 * len(known), 3.2), sharey=True, squeeze=False
        )
        for axes, (curve, found) in zip(grid[0], known, strict=True):
            _draw(axes, curve, found, runs)
        grid[0][0].set_ylabel("QAUC, test days")
    return made


def _draw(axes, curve: Curve, found: list, runs: dict) -> None:
    usual = next(curve.place(run) for (v, _), run in runs.items() if v == "lemur")
    unit = 1 if curve.log else usual
    for x, values in found:
        colour = plots.COLOURS["lemur" if x == usual else "baseline"]
        axes.plot([x / unit] * len(values), values, "o", color=colour, alpha=0.6)
    means = [(x / unit, np.mean(values)) for x, values in found]
    axes.plot(*zip(*means, strict=True), color=plots.COLOURS["accent"], lw=1)
    if curve.log:
        axes.set_xscale("log")
        axes.set_xticks([x for x, _ in found], [f"{x:g}" for x, _ in found])
        axes.minorticks_off()
    axes.set_title(curve.title)
    axes.set_xlabel(curve.axis)
