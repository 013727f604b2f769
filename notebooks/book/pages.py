"""What the book adds to its sources: pages of the core, the table of claims, words for
figures, an index of terms, formulas without a script."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from docutils import nodes

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCES = [
    "README.md",
    "CONTRIBUTING.md",
    "data/README.md",
    "figures/README.md",
    "notebooks/**.md",
    "notebooks/**.ipynb",
]
# Solutions are read in the repository, after one's own.
NO_PAGES = ["notebooks/solutions/**", "**.ipynb_checkpoints/**"]
CLAIMS = {"platform": "claims.json", "films": "claims-films.json"}
HEADS = ["", "claim", "kind", "data", "paper", "ours, points", "95 % interval"]
HEADS += ["seeds", "verdict"]
API = HERE / "api"  # written by every build, not kept


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


# --- while Sphinx builds --------------------------------------------------------------


def write_core(app, config) -> None:
    """A page for every module of the core."""
    API.mkdir(exist_ok=True)
    for place, module in enumerate(core()):
        name = module.removeprefix("lemur_mini.")
        text = f"# {name}\n\n```{{automodule}} {module}\n```\n"
        (API / f"{place:02}_{name}.md").write_text(text, "utf-8")


PDF_LINK = 'The whole book as <a href="../../lemur_mini.pdf">one PDF</a>.'


def fill(app, name: str, source: list[str]) -> None:
    """The table of claims, and the link to the PDF where there is one."""
    source[0] = source[0].replace("<!-- every claim -->", claims())
    if app.tags.has("pdf"):
        source[0] = source[0].replace("<!-- pdf -->", PDF_LINK)


def describe(app, tree: nodes.document) -> None:
    """A figure's alternative text is the line *Figure: ...* that follows it."""
    said = [
        node.astext().removeprefix("Figure: ")
        for node in tree.findall(nodes.emphasis)
        if node.astext().startswith("Figure: ")
    ]
    shown = [image for image in tree.findall(nodes.image) if not image.get("alt")]
    for image, text in zip(shown, said, strict=False):
        image["alt"] = text


def index_terms(app, tree: nodes.document) -> None:
    """An entry of the index where a page first speaks of a term of the glossary."""
    from sphinx.addnodes import index

    if app.env.docname.startswith(("notebooks/book/glossary", "notebooks/book/api")):
        return
    title = next(iter(tree.findall(nodes.title)), nodes.title()).astext()
    passages = list(tree.findall(nodes.paragraph))
    for term in terms():
        pattern = term_pattern(term)
        for passage in passages:
            if pattern.search(passage.astext()):
                target = f"term-{nodes.make_id(term)}"
                passage["ids"].append(target)
                entry = ("single", f"{term}; {title}", target, "", None)
                place = passage.parent.index(passage)
                passage.parent.insert(place, index(entries=[entry]))
                break


def inline_formula(self, node: nodes.math) -> None:
    """MathML, which browsers draw by themselves."""
    from latex2mathml.converter import convert

    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def display_formula(self, node: nodes.math_block) -> None:
    """The same on a line of its own."""
    from latex2mathml.converter import convert

    formula = convert(node.astext(), display="block")
    self.body.append(f'<div class="math">{formula}</div>')
    raise nodes.SkipNode


def setup(app) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer(
        "mathml", (inline_formula, None), (display_formula, None)
    )
    app.connect("config-inited", write_core)
    app.connect("source-read", fill)
    app.connect("doctree-read", describe)
    app.connect("doctree-read", index_terms)
    app.add_js_file("claims.js", loading_method="defer")
