"""python -m lemur_mini.reproduce readme: fill the generated parts of README.md and
data/README.md from what is stored in data/. No number in them is typed by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from lemur_mini import plots
from lemur_mini.evaluation import gap_closed, mean_and_interval
from lemur_mini.files import RESULTS, ROOT
from lemur_mini.reproduce import claims

MEASURES = {"auc": "AUC", "qauc": "QAUC", "cold_auc": "AUC, cold documents"}


def main() -> None:
    """Write both files anew."""
    fill(ROOT / "README.md", "results", results())
    fill(ROOT / "README.md", "claims", claim_table())
    fill(ROOT / "README.md", "claims-films", claim_table("films"))
    fill(ROOT / "README.md", "cost", cost_table())
    fill(ROOT / "README.md", "notebooks", notebooks())
    fill(ROOT / "data" / "README.md", "counts", counts())
    plots.save_figure(plots.system_figure(), ROOT / "figures" / "system.png")
    for report in reports("platform")[:1]:
        figure = plots.report_figure(report, report["training_log"]["lemur"])
        plots.save_figure(figure, ROOT / "figures" / "main.png")


def fill(path: Path, name: str, text: str) -> None:
    """Replace what stands between the two markers of this name."""
    old = path.read_text("utf-8")
    path.write_text(replaced(old, name, text), "utf-8")


def replaced(old: str, name: str, text: str) -> str:
    """The page with new text between its markers."""
    marked = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(marked, lambda m: m[1] + text + "\n" + m[2], old, flags=re.S)


def reports(name: str) -> list[dict]:
    """What the main command would report, by seed, from the stored runs."""
    runs = stored_runs(name)
    found = []
    for seed in claims.seeds_of(runs, *plots.NAMES):
        pair = {model: runs[model, seed] for model in plots.NAMES}
        facts = {k: pair["lemur"][k] for k in ("seed", "device", "date", "ceiling")}
        models = {
            model: run["test"] | {"train_seconds": run["seconds"]}
            for model, run in pair.items()
        }
        logs = {model: run["log"] for model, run in pair.items()}
        found.append(facts | {"models": models, "training_log": logs})
    return found


def results() -> str:
    """The result tables of the README."""
    parts = []
    for kind, title in (
        ("platform", "**The embedded platform**, days 29-30"),
        (
            "films",
            "**Real films** (MovieLens-1M ratings, posters and plots; local data)",
        ),
    ):
        if found := reports(kind):
            alone = json.loads((RESULTS / f"main-{kind}.json").read_text("utf-8"))
            parts.append(table(title, found, alone))
    return "\n\n".join(parts)


def table(title: str, found: list[dict], alone: dict) -> str:
    """One table: models by measures, mean over seeds with its 95 % t interval; means
    without a network, and the seconds of a machine with nothing else to do, from
    `alone`, a report of the main command."""
    lines = ["| | " + " | ".join([*MEASURES.values(), "training s"]) + " |"]
    lines.append("|---" * (len(MEASURES) + 2) + "|")
    for model, name in plots.NAMES.items():
        cells = [spread([r["models"][model][m] for r in found]) for m in MEASURES]
        seconds = np.mean([r["models"][model]["train_seconds"] for r in found])
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    cells = " | ".join(f"{alone['means'][m]:.4f}" for m in MEASURES)
    lines.append(f"| smoothed means of document and user, no network | {cells} | |")
    if best := found[0]["ceiling"]:
        lines.append(f"| ceiling | {best['auc']:.4f} | {best['qauc']:.4f} | | |")
    seeds = ", ".join(str(r["seed"]) for r in found)
    note = (
        f"Seeds {seeds}; {found[0]['device']}; {found[0]['date']}; one pass, one test."
    )
    if best:
        shares = [
            gap_closed(*(r["models"][m]["qauc"] for m in plots.NAMES), best["qauc"])
            for r in found
        ]
        note += f" LEMUR closes {np.mean(shares):.0%} of the gap in QAUC"
        note += f" ({', '.join(f'{share:.0%}' for share in shares)})."
    seconds = [alone["models"][model]["train_seconds"] for model in plots.NAMES]
    note += (
        " These runs shared two cores. The command alone "
        f"({alone['device']}, {alone['date']}): ids {seconds[0]:.0f} s, "
        f"LEMUR {seconds[1]:.0f} s."
    )
    return "\n".join([title, "", *lines, "", note])


def spread(values: list[float]) -> str:
    """Mean, and the half width of its interval where there are several seeds."""
    if len(values) < 2:
        return f"{values[0]:.4f}"
    mean, half = mean_and_interval(values)
    return f"{mean:.4f} ± {half:.4f}"


def stored_runs(name: str, scale: str = "classroom") -> dict[tuple[str, int], dict]:
    """The stored runs of a data set at a scale, by variant and seed."""
    return claims.load(RESULTS / f"{name}-{scale}")


def claim_rows(name: str = "platform", scale: str = "classroom") -> list[dict]:
    """What the stored runs say of every claim."""
    return claims.measure_all(stored_runs(name, scale))


def claim_table(name: str = "platform") -> str:
    """The table of claims of one data set at classroom scale."""
    return claims.table(claim_rows(name))


def cost_table() -> str:
    """What the benchmarks measured, beside its goals, and on what machine."""
    lines = ["| | goal | measured | verdict |", "|---|---|---|---|"]
    where = set()
    for path in sorted((RESULTS / "cost").glob("*.json")):
        found = json.loads(path.read_text("utf-8"))
        where.add(f"{path.stem}: {found['device']}, {found['date']}")
        for row in found["rows"]:
            value, goal = row["measured"], row["goal"]
            shown = "-" if value is None else readable(value)
            lines.append(f"| {row['what']} | {goal} | {shown} | {met(value, goal)} |")
    return "\n".join([*lines, "", "; ".join(sorted(where)) + "."])


def readable(value: float) -> str:
    """A number with as many digits as one wants to read."""
    digits = 0 if value >= 100 else 2 if value >= 0.1 else 4
    return f"{value:,.{digits}f}"


def met(value: float | None, goal: str) -> str:
    """Whether a number keeps to its goal, "<= 1.3" or ">= 100"; "" without one."""
    if value is None or not goal:
        return ""
    sign, limit = goal.split()
    kept = value <= float(limit) if sign == "<=" else value >= float(limit)
    return "met" if kept else "missed"


def notebooks() -> str:
    """The course: titles, links, and what each notebook took when it was last built."""
    costs = json.loads((RESULTS / "notebooks.json").read_text("utf-8"))
    lines = ["| notebook | why | seconds | GB |", "|---|---|---|---|"]
    for name, cost in costs.items():
        path = ROOT / "notebooks" / f"{name}.ipynb"
        first = "".join(json.loads(path.read_text("utf-8"))["cells"][0]["source"])
        title, why = [line for line in first.splitlines() if line.strip()][:2]
        link = f"[{title.lstrip('# ')}](notebooks/{path.name})"
        lines.append(
            f"| {link} | {why} | {cost['seconds']} | {cost['gigabytes']:.1f} |"
        )
    return "\n".join(lines)


def counts() -> str:
    """What the data card counts."""
    items = pq.read_table(ROOT / "data" / "items.parquet")
    log = pq.read_table(ROOT / "data" / "impressions.parquet")
    facts = {
        "documents": items.num_rows,
        "impressions": log.num_rows,
        "issued queries": len(log["query_id"].unique()),
        "distinct query texts": len(log["query"].unique()),
        "users": len(log["user_id"].unique()),
    }
    lines = [f"| {name} | {value:,} |" for name, value in facts.items()]
    lines += [
        f"| positive labels | {np.mean(log['label'].to_numpy()):.1%} |",
        f"| documents without ASR | {items['asr'].null_count / len(items):.0%} |",
    ]
    return "\n".join(["| | |", "|---|---|", *lines])
