"""python -m lemur_mini.reproduce readme: fill the generated parts of README.md and
data/README.md from what is stored in data/. No number in them is typed by hand."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from lemur_mini import plots
from lemur_mini.evaluation import gap_closed
from lemur_mini.files import DATA, RESULTS, ROOT
from lemur_mini.reproduce import claims, growth, logs, questions, reasons
from lemur_mini.reproduce.stored import (
    alone,
    claim_rows,
    reports,
    spread,
    spread_of_shares,
    stored_runs,
)
from lemur_mini.simulate import learnable

SILENT = "silent differences"
MEASURES = {"auc": "AUC", "qauc": "QAUC", "cold_auc": "AUC, cold documents"}


PAGES = {  # page: {marker: text}
    "README.md": {
        "results": lambda: short_results(),
        "glance": lambda: glance(),
        "logs": lambda: logs.short(),
        "robust": lambda: robust(),
        "course": lambda: course(),
        "modules": lambda: modules(),
    },
    "figures/README.md": {
        "results": lambda: results(),
        "logs": lambda: logs.tables(),
        "claims": lambda: claim_table(),
        "claims-films": lambda: claim_table("films"),
        "reasons": lambda: reasons.table(),
        "growth": lambda: growth.table(),
        "questions": lambda: questions.tables(),
        "cost": lambda: cost_table(),
    },
    "notebooks/README.md": {"notebooks": lambda: notebooks()},
    "data/README.md": {"counts": lambda: counts()},
}


def main() -> None:
    """Write the pages and the figures of the front page anew."""
    for page, parts in PAGES.items():
        for name, text in parts.items():
            fill(ROOT / page, name, text())
    growth.main()
    plots.save_figure(plots.system_figure(), ROOT / "figures" / "system.png")
    report = alone("platform")
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


def results() -> str:
    """The result tables, every seed counted."""
    titles = {
        "platform": "**The embedded platform**, days 29-30",
        "films": "**Real films** (MovieLens-1M ratings, posters, plots; local data)",
    }
    return "\n\n".join(result_table(t, reports(k), alone(k)) for k, t in titles.items())


NO_CONTENT = ("rankmixer_longer",)
HEADLINE = {
    "rankmixer_longer": "RankMixer + LONGER (ids)",
    "lemur": "LEMUR, as the paper prints it",
    "ours": "LEMUR, with what we add",
}


def short_results() -> str:
    """The first thing that a reader wants to know: models by measures, means over
    seeds, and how much they learnt of what can be learnt."""
    runs, single = stored_runs("platform"), alone("platform")
    means, best = single["means"], runs["lemur", 0]["ceiling"]
    test_start = json.loads((DATA / "dataset.json").read_text("utf-8"))["test_start"]
    learnt = learnable.stored(single["data"]["checksum"], test_start)
    heads = [*MEASURES.values(), "of what can be learnt", "seeds"]
    lines = ["| test days, platform | " + " | ".join(heads) + " |"]
    lines.append("|---" * (len(heads) + 1) + "|")
    cells = " | ".join(f"{means[m]:.3f}" for m in MEASURES)
    lines.append(f"| smoothed means of document and user | {cells} | | |")
    ids = np.mean([r["test"]["qauc"] for (v, _), r in runs.items() if v in NO_CONTENT])
    for variant, name in HEADLINE.items():
        tests = [r["test"] for (v, _), r in runs.items() if v == variant]
        cells = " | ".join(spread([t[m] for t in tests], 3) for m in MEASURES)
        found = [gap_closed(ids, t["qauc"], learnt["qauc"]) for t in tests]
        share = "" if variant in NO_CONTENT else spread_of_shares(found)
        lines.append(f"| {name} | {cells} | {share} | {len(tests)} |")
    for name, row in (("what can be learnt", learnt), ("ceiling: true chances", best)):
        lines.append(f"| {name} | {row['auc']:.3f} | {row['qauc']:.3f} | | | |")
    seconds = single["models"]["lemur"]["train_seconds"]
    note = f"One pass over the log; with what we add it trains in {seconds:.0f} s "
    return "\n".join([*lines, "", note + f"({single['device']})."])


def glance() -> str:
    """The claims in three sentences: the paper's own rows alone are counted."""
    rows, _ = claims.apart(claim_rows())
    by = {v: [r for r in rows if r["verdict"] == v] for v in claims.COLOURS}
    good, equal, bad = by.values()
    names = ["; ".join(row["text"] for row in part) for part in (equal, bad)]
    found = [f.verdict for r in reasons.REASONS if (f := r.measure()) is not None]
    true = found.count(reasons.YES)
    return (
        f"Of the paper's {len(rows)} rows, {len(good)} reproduce. "
        f"{len(equal)} show no difference ({names[0]}). "
        f"{len(bad)} contradict ({names[1]}). "
        f"[Each reason is an experiment](figures/README.md): {true} of {len(found)} "
        "are borne out."
    )


def robust() -> str:
    """What the long fuzz of data found."""
    found = json.loads((RESULTS / "fuzz.json").read_text("utf-8"))
    kinds = [found["tables"], found["files"]]
    tried = [f"{kind['tried']:,}" for kind in kinds]
    bad = {k: sum(kind[k] for kind in kinds) for k in ("tracebacks", SILENT)}
    return (
        f"Fuzzed with {tried[0]} drawn tables and {tried[1]} damaged files: "
        f"{bad['tracebacks']} tracebacks, {bad[SILENT]} {SILENT} ({found['date']})."
    )


def course() -> str:
    """The notebooks by name."""
    links = [f"[{title}](notebooks/{name}.ipynb)" for name, title, _ in heads()]
    return " · ".join(links)


def heads() -> list[tuple[str, str, str]]:
    """Name, title and why of every notebook."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        first = "".join(json.loads(path.read_text("utf-8"))["cells"][0]["source"])
        title, why = [line for line in first.splitlines() if line.strip()][:2]
        found.append((path.stem, title.lstrip("# "), why))
    return found


def modules() -> str:
    """The package: the core in its contract's order, then rooms, each with the first
    sentence of its docstring; the rest by name."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = rules["tool"]["importlinter"]["contracts"]
    (core,) = [c["source_modules"] for c in contracts if c["id"] == "core"]
    core = [name.removeprefix("lemur_mini.") for name in core]
    package = ROOT / "lemur_mini"
    rooms = sorted(path.parent.name for path in package.glob("*/__init__.py"))
    rest = sorted({p.stem for p in package.glob("[a-z]*.py")} - set(core))
    lines = ["| | holds |", "|---|---|"]
    lines += [f"| **`{name}.py`** | {says(package / f'{name}.py')} |" for name in core]
    lines += [f"| `{n}/` | {says(package / n / '__init__.py')} |" for n in rooms]
    names = ", ".join(f"`{name}.py`" for name in rest)
    return "\n".join([*lines, "", f"What rooms and commands share: {names}."])


def says(path: Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def result_table(title: str, found: list[dict], single: dict) -> str:
    """One table: models by measures, mean over seeds with its 95 % t interval; means
    without a network, and the seconds of a machine with nothing else to do, from
    `single`, a report of the main command."""
    lines = ["| | " + " | ".join([*MEASURES.values(), "training s"]) + " |"]
    lines.append("|---" * (len(MEASURES) + 2) + "|")
    for model, name in plots.NAMES.items():
        cells = [spread([r["models"][model][m] for r in found]) for m in MEASURES]
        seconds = np.mean([r["models"][model]["train_seconds"] for r in found])
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    cells = " | ".join(f"{single['means'][m]:.4f}" for m in MEASURES)
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
    seconds = [single["models"][model]["train_seconds"] for model in plots.NAMES]
    note += (
        " These runs shared two cores. The command alone "
        f"({single['device']}, {single['date']}): ids {seconds[0]:.0f} s, "
        f"LEMUR{' with what we add' * ('form' in single)} {seconds[1]:.0f} s."
    )
    return "\n".join([title, "", *lines, "", note])


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
    for name, title, why in heads():
        cost = costs[name]
        numbers = f"{cost['seconds']} | {cost['gigabytes']:.1f}"
        lines.append(f"| [{title}]({name}.ipynb) | {why} | {numbers} |")
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
