"""What changes with scale: the same variants on logs of 1, 2, 4 and 8 times the users,
documents and sessions.

    python -m lemur_mini.world --times 4 --out platform-x4
    python -m lemur_mini.simulate.learnable --data platform-x4
    python -m lemur_mini.reproduce grown --data platform-x4 --name platform-x4

trains what has no result yet and draws figures/growth.png from all that is stored."""

from __future__ import annotations

from itertools import chain

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from lemur_mini import plots
from lemur_mini.evaluation import gap_closed, mean_and_interval
from lemur_mini.files import ROOT, write_json
from lemur_mini.reproduce import claims
from lemur_mini.reproduce.stored import stored_runs
from lemur_mini.simulate import learnable

TIMES = (1, 2, 4, 8)
IDS = "rankmixer_longer"
# Share of what can be learnt, by log size ...
LEARNT = {
    "ours": "LEMUR, with what we add",
    "lemur": "LEMUR",
    "p20_q20": "sampled, p = q = 20 %",
    "two_stage": "two-stage",
    "stop_gradient": "stop-gradient",
}
# ... and what a change brings: variant and what it is compared with, same seeds.
CHANGES = {
    "sampling, p = q = 20 %": ("p20_q20", "lemur"),
    "CIC": ("cic", "lemur"),
    "no session mask": ("no_session_mask", "lemur"),
    "RankMixer for DLRM": ("rankmixer", "dlrm"),
}
VARIANTS = list(dict.fromkeys([IDS, *LEARNT, *chain(*CHANGES.values())]))
Spread = tuple[float, float | None]  # mean, half width of its interval


def main() -> None:
    """Write figures/growth.json and figures/growth.png from the stored results."""
    found = rows()
    path = ROOT / "figures" / "growth.json"
    write_json(path, found)
    plots.save_figure(figure(found), path.with_suffix(".png"))


def name_of(times: int) -> str:
    """Of the results of a platform that is so many times as large."""
    return "platform" if times == 1 else f"platform-x{times}"


def rows() -> list[dict]:
    """By log size that has results: what can be learnt (QAUC), the ids, and for every
    variant its mean share of the way, for every change its mean difference in QAUC,
    each with the half width of its 95 % interval over seeds."""
    out = []
    for times in TIMES:
        runs = stored_runs(name_of(times))
        qauc = {key: run["test"]["qauc"] for key, run in runs.items()}
        ids = [value for (variant, _), value in qauc.items() if variant == IDS]
        data = next((run["data"] for run in runs.values()), "")
        best = learnable.stored(data, learnable.TEST_START)
        if not ids or best is None:
            continue
        base = float(np.mean(ids))
        learnt = {
            variant: [gap_closed(base, value, best["qauc"]) for value in values]
            for variant in LEARNT
            if (values := [v for (name, _), v in qauc.items() if name == variant])
        }
        changed = {
            name: [qauc[a, s] - qauc[b, s] for s in claims.seeds_of(runs, a, b)]
            for name, (a, b) in CHANGES.items()
        }
        out.append(
            {
                "times": times,
                "ids": base,
                "learnable": best["qauc"],
                "learnt": {k: mean_and_interval(v) for k, v in learnt.items()},
                "changed": {k: mean_and_interval(v) for k, v in changed.items() if v},
            }
        )
    return out


def table() -> str:
    """The same as two tables: shares of what can be learnt, and what changes bring."""
    found = rows()
    heads = ["", *(f"{row['times']} x" for row in found)]
    head = [_row(heads), "|---" * len(heads) + "|"]
    ends = {"ids": "ids, QAUC", "learnable": "what can be learnt, QAUC"}
    first = [
        _row([text, *(f"{row[key]:.3f}" for row in found)])
        for key, text in ends.items()
    ]
    for name, text in LEARNT.items():
        first.append(_row([text, *(_share(row["learnt"].get(name)) for row in found)]))
    second = [
        _row([name, *(_points(row["changed"].get(name)) for row in found)])
        for name in CHANGES
    ]
    return "\n".join([*head, *first, "", *head, *second])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _share(spread: Spread | None) -> str:
    """Of the way from the ids to what can be learnt."""
    if spread is None:
        return ""
    mean, half = spread
    return f"{mean:.0%}" + (" (one seed)" if half is None else f" ± {100 * half:.0f}")


def _points(spread: Spread | None) -> str:
    """QAUC in hundredths."""
    if spread is None:
        return ""
    mean, half = spread
    more = " (one seed)" if half is None else f" ± {100 * half:.1f}"
    return f"{100 * mean:+.1f}{more}"


def figure(found: list[dict]) -> Figure:
    """Over log size: shares of what can be learnt, and what changes bring."""
    with plt.rc_context(plots.STYLE):
        made, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
        shades = list(plots.COLOURS.values())
        for panel, key, names in (
            (left, "learnt", LEARNT),
            (right, "changed", {name: name for name in CHANGES}),
        ):
            for place, (shade, name) in enumerate(zip(shades, names, strict=False)):
                aside = 2 ** (0.06 * (place - len(names) / 2))  # bars beside each other
                points = [
                    (r["times"] * aside, r[key][name]) for r in found if name in r[key]
                ]
                if points:
                    _line(panel, points, shade, names[name])
            panel.set_xscale("log", base=2)
            panel.set_xticks(TIMES, [f"{t} x" for t in TIMES])
            panel.minorticks_off()
            panel.set_xlabel("log, times the shipped one")
            panel.legend(
                fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2
            )
        left.set_ylabel("share of what can be learnt")
        left.set_title("How much is learnt")
        right.axhline(0, color=plots.COLOURS["baseline"], lw=0.8)
        right.set_ylabel("QAUC, difference")
        right.set_title("What a change brings")
    return made


def _line(axes, points: list[tuple[float, Spread]], shade: str, label: str) -> None:
    x = [times for times, _ in points]
    y = [mean for _, (mean, _) in points]
    half = [width or 0 for _, (_, width) in points]
    axes.errorbar(x, y, half, color=shade, label=label, marker="o", capsize=3, lw=1)
