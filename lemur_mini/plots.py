"""The house style of figures, and the figure of the main command."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from lemur_mini.data.features import UNREADABLE
from lemur_mini.data.health import BINS, TELLS, Health
from lemur_mini.evaluation import gap_closed

# Okabe and Ito's palette, safe for colour-blind readers
COLOURS = {
    "baseline": "#999999",
    "lemur": "#0072B2",
    "ceiling": "#009E73",
    "accent": "#D55E00",
    "second": "#E69F00",
    "third": "#CC79A7",
}
STYLE = {
    "figure.figsize": (8, 3.6),
    "figure.dpi": 110,
    "figure.facecolor": "white",  # legible on dark pages too
    "savefig.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
NAMES = {"rankmixer_longer": "RankMixer + LONGER (ids)", "lemur": "LEMUR"}


def house_style() -> None:
    """Use the course's look for all figures of this process."""
    # Chooses the backend now. Inside an rc_context, a notebook's backend would switch
    # to interactive, leave it again with the context, and show no figure any more.
    plt.switch_backend(matplotlib.get_backend())
    matplotlib.rcParams.update(STYLE)


def report_figure(report: dict, bank_log: list[dict]) -> Figure:
    """Both models beside the ceiling, and the health of the bank through training."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
        _bars(left, report)
        _health(right, bank_log)
    return figure


def _bars(axes, report: dict) -> None:
    models = report["models"]
    for place, (name, colour) in enumerate(
        (("rankmixer_longer", "baseline"), ("lemur", "lemur"))
    ):
        values = [models[name]["auc"], models[name]["qauc"], models[name]["cold_auc"]]
        spans = [models[name]["intervals"].get(m) for m in ("auc", "qauc")]
        at = [x + 0.38 * (place - 0.5) for x in range(3)]
        axes.bar(at, values, 0.36, color=COLOURS[colour], label=NAMES[name])
        for x, value, span in zip(at, values, [*spans, None], strict=True):
            if span:
                error = [[value - span[0]], [span[1] - value]]
                axes.errorbar(x, value, error, color="black", capsize=3, lw=1)
            axes.text(x, value + 0.012, f"{value:.3f}", ha="center", fontsize=8)
    for key, name, style in (
        ("learnable", "what can be learnt", "dotted"),
        ("ceiling", "ceiling", "dashed"),
    ):
        best = report.get(key) or {}
        for x, value in enumerate(best.get(m) for m in ("auc", "qauc")):
            if value is not None:
                label = name if x == 0 else None
                at = value, x - 0.4, x + 0.4
                axes.hlines(*at, COLOURS["ceiling"], style, label=label)
    axes.set_xticks(range(3), ["AUC", "QAUC", "AUC, cold\ndocuments"])
    axes.set_ylim(0.45, 1.08)
    axes.set_ylabel("test days")
    axes.set_title(_finding(report))
    axes.legend(fontsize=8, loc="upper center", ncol=2)


def _finding(report: dict) -> str:
    lemur, ids = (report["models"][n]["qauc"] for n in ("lemur", "rankmixer_longer"))
    if learnt := report.get("learnable"):
        share = gap_closed(ids, lemur, learnt["qauc"])
        return f"LEMUR reaches {share:.0%} of what can be learnt beyond ids"
    gain = lemur - ids
    verb = "adds" if gain > 0 else "loses"
    return f"LEMUR {verb} {abs(gain):.3f} QAUC to the id baseline"


def _health(axes, log: list[dict]) -> None:
    series = {
        "cached_cosine": ("cos(cached, current)", "lemur"),
        "coverage_target": ("coverage of targets", "accent"),
        "coverage_history": ("coverage of histories", "second"),
    }
    for key, (label, colour) in series.items():
        points = [(r["step"], r[key]) for r in log if r.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=COLOURS[colour])
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("step")
    axes.set_title("The bank fills, and its vectors settle")
    axes.legend(fontsize=8, loc="lower right")


def health_figure(health: Health) -> Figure:
    """A `data.Health` in three panels: the log over time, what items have, and how well
    each column alone tells the label, beside the line from which it is a leak."""
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.8))
        days = np.linspace(0, (health.end - health.start) / 86_400, BINS + 1)
        for counts, name, colour in zip(
            health.timeline, ("all", "label 1"), ("baseline", "lemur"), strict=True
        ):
            left.stairs(counts, days, fill=True, color=COLOURS[colour], label=name)
        left.set_xlabel("days since the first impression")
        left.set_ylabel("impressions")
        left.set_title(
            f"{health.rows:,} impressions, {health.label_rate:.0%} of label 1"
        )
        left.legend(fontsize=8)
        _bars_of(middle, health.coverage, lambda value: "lemur")
        middle.set_xlabel("share of the items")
        middle.set_title("What items have")
        _bars_of(right, health.aucs, lambda v: "accent" if v >= TELLS else "baseline")
        right.axvline(TELLS, color=COLOURS["accent"], ls="dashed", lw=1)
        right.set_xlim(0.5, 1.02)
        right.set_xlabel("AUC of this column alone")
        right.set_title(f"Leaks found: {len(health.leaks)}")
    return figure


def _bars_of(axes, values: dict[str, float], colour) -> None:
    shades = [COLOURS[colour(value)] for value in values.values()]
    # a name is data: a dollar sign in it must not begin a formula
    names = [name.replace("$", r"\$") for name in values]
    axes.barh(names, values.values(), color=shades)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.tick_params(axis="y", labelsize=8)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure and close it."""
    figure.savefig(path, format=path.suffix[1:] if path.suffix != ".part" else "png")
    plt.close(figure)


BOXES = {  # name: (x, y, text, colour)
    "page": (0.0, 1.0, "page\nquery, 8 documents\nuser, clicks", "baseline"),
    "encode": (2.1, 1.6, "encode\ntext + cover\n2 Transformers", "lemur"),
    "bank": (4.2, 1.6, "memory bank\nwrite fresh,\nthen read", "second"),
    "ids": (2.1, 0.2, "ids\nuser, item, query\n+ LONGER", "baseline"),
    "history": (6.3, 1.6, "history vectors\ndecoder +\nsimilarities", "second"),
    "ranker": (6.3, 0.2, "feature tokens\nRankMixer\nlogit", "ceiling"),
    "ctr": (8.4, 0.2, "CTR loss", "accent"),
    "sqdc": (4.2, 2.9, "SQDC loss\nquery meets\ndocument", "accent"),
}
ARROWS = (
    ("page", "encode", "once\neach"),
    ("page", "ids", ""),
    ("encode", "bank", "p, q"),
    ("encode", "sqdc", ""),
    ("bank", "history", "no\ngradient"),
    ("history", "ranker", ""),
    ("ids", "ranker", ""),
    ("encode", "ranker", "gradient"),
    ("ranker", "ctr", ""),
)


def system_figure() -> Figure:
    """The way of one batch, the picture that `Lemur.losses` follows."""
    width, height = 1.5, 0.85
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(10, 4.2))
        for x, y, text, colour in BOXES.values():
            patch = plt.Rectangle(
                (x, y), width, height, color=COLOURS[colour], alpha=0.3
            )
            axes.add_patch(patch)
            place = (x + width / 2, y + height / 2)
            axes.text(*place, text, ha="center", va="center", fontsize=9)
        for start, end, text in ARROWS:
            (a, b), (c, d) = (BOXES[name][:2] for name in (start, end))
            if a == c:
                tail, head = (
                    (a + width / 2, b + height * (d > b)),
                    (c + width / 2, d + height * (b > d)),
                )
            else:
                tail, head = (a + width, b + height / 2), (c, d + height / 2)
                if d < b and c - a > 3:  # below the boxes in between
                    tail, head = (a + width / 2, b), (c, d + 0.7 * height)
            axes.annotate(
                "", head, tail, arrowprops={"arrowstyle": "->", "color": "0.3"}
            )
            level = abs(head[1] - tail[1]) < 0.1
            above = level * (0.15 + 0.12 * text.count("\n"))
            middle = ((tail[0] + head[0]) / 2, (tail[1] + head[1]) / 2 + above)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            if text:
                form = {"ha": "center", "va": "center", "fontsize": 8, "color": "0.3"}
                axes.text(*middle, text, bbox=box, **form)
        axes.set_xlim(-0.1, 10)
        axes.set_ylim(0, 3.9)
        axes.axis("off")
        axes.set_title("One batch: encode once, write the bank, read histories, rank")
    return figure


def covers(
    images: list[bytes | None], captions: list[str], title: str = "", columns: int = 8
) -> Figure:
    """A page of covers (encoded images) with a caption each; blank where there is no
    usable image. Captions and title are data: a dollar sign is no mathematics."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            rows, columns, figsize=(1.15 * columns, 1.55 * rows + 0.4), squeeze=False
        )
        for axes in grid.flat:
            axes.axis("off")
        for axes, image, caption in zip(grid.flat, images, captions, strict=False):
            with suppress(*UNREADABLE, TypeError):  # TypeError: None, or a path
                axes.imshow(Image.open(io.BytesIO(image)).convert("RGB"))
            axes.set_title(caption, fontsize=8, parse_math=False)
        figure.suptitle(title, fontsize=11, parse_math=False)
    return figure
