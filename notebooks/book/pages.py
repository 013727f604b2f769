"""What the book is made of: which files are pages, the core's modules, the table of
claims, the glossary's words. Read by Sphinx's settings and by tests."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCES = [
    "README.md",
    "CONTRIBUTING.md",
    "data/README.md",
    "figures/README.md",
    "notebooks/**.md",
    "notebooks/**.ipynb",
    "notebooks/book/api/*.rst",
]
# Solutions and keys are read in the repository, after one's own.
NO_PAGES = ["notebooks/solutions/**", "**.ipynb_checkpoints/**"]
NO_PAGES += ["notebooks/teaching/answers.md", "notebooks/teaching/quiz-key.md"]
NO_PAGES += ["notebooks/teaching/slides/**", "notebooks/teaching/recall/**"]
CLAIMS = {"platform": "claims.json", "films": "claims-films.json"}
HEADS = ["", "claim", "kind", "data", "paper", "ours, points", "95 % interval"]
HEADS += ["seeds", "verdict"]


def without_links(text: str) -> str:
    """Markdown whose links to files that are no pages are words."""
    names = "|".join(re.escape(Path(x).name) for x in NO_PAGES if x.endswith(".md"))
    pattern = rf"\[([^\]]*)\]\((?:{names})(?:#[^)]*)?\)"
    return re.sub(pattern, r"`\1` (in the repository)", text)


def row_of(cells: list[str]) -> str:
    """A row of a table."""
    return "| " + " | ".join(cells) + " |"


def claims() -> str:
    """Every row of figures/claims*.json as one table. Differences in points
    (hundredths) of the measure; kind: the paper's claim, or a question of ours."""
    lines = [row_of(HEADS), "|---" * len(HEADS) + "|"]
    for data, name in CLAIMS.items():
        for row in json.loads((ROOT / "figures" / name).read_text("utf-8")):
            low, high = (f"{100 * value:+.2f}" for value in row["interval"])
            kind = "ours" if row["paper"] == "-" else "paper"
            cells = [row["claim"], f"{row['text']} ({row['measure']})", kind, data]
            cells += [row["paper"], f"{100 * row['ours']:+.2f}", f"{low} to {high}"]
            lines.append(row_of([*cells, str(row["seeds"]), row["verdict"]]))
    return "\n".join(lines)


def core() -> list[str]:
    """The modules of the core, in the order of pyproject's contract."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = rules["tool"]["importlinter"]["contracts"]
    (found,) = [c["source_modules"] for c in contracts if c["id"] == "core"]
    return found


def terms() -> list[str]:
    """The glossary's terms, as they are written there."""
    text = (HERE / "glossary.md").read_text("utf-8")
    block = text.split("```{glossary}\n")[1].split("\n```")[0]
    return [x for x in block.split("\n") if x and not x.startswith(" ")]


def term_pattern(term: str) -> re.Pattern[str]:
    """Finds a term in prose, also in the plural; capitals count in acronyms alone."""
    acronym = sum(letter.isupper() for letter in term) > 1 or len(term) == 1
    flags = re.NOFLAG if acronym else re.IGNORECASE
    return re.compile(rf"(?<!\w){re.escape(term)}s?(?!\w)", flags)
