"""The book as files, without building it: every page is listed, every link leads
somewhere, figures have words, and words and letters are those of notebooks and code."""

import ast
import fnmatch
import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from book import links, pages

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "notebooks" / "book"
INDEX = "notebooks/book/index.md"
# What is no page; the last is written by a build.
LEFT_OUT = ("CHANGELOG.md", "*.ipynb_checkpoints/*", "notebooks/solutions/*")
LEFT_OUT += ("*/teaching/answers.md", "*/teaching/quiz-key.md")
LEFT_OUT += ("*/teaching/slides/*", "*/teaching/recall/*")
LEFT_OUT += ("notebooks/book/api/*",)
LINK = re.compile(r"(?<!!)\[[^\]\[]*\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def sources():
    """Every file that is to be a page, by its path in the repository."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("[df]*/README.md")]
    for kind in ("md", "ipynb"):
        found += (ROOT / "notebooks").rglob(f"*.{kind}")
    names = {path.relative_to(ROOT).as_posix() for path in found}
    return sorted(n for n in names if not any(fnmatch.fnmatch(n, x) for x in LEFT_OUT))


def path_of(place):
    """A file's path in the repository."""
    return place.relative_to(ROOT.resolve()).as_posix()


def cells(name):
    return nbformat.read(ROOT / name, as_version=4).cells


def prose(name):
    """The text of a page, without code."""
    if name.endswith(".ipynb"):
        parts = [c.source for c in cells(name) if c.cell_type == "markdown"]
        text = "\n\n".join(parts)
    else:
        text = (ROOT / name).read_text("utf-8")
    return FENCE.sub("", text)


def listed(names, index):
    """Which of these paths the toctrees of the index list."""
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL)
    lines = [x for block in blocks for x in block.split("\n") if x and x[0] != ":"]
    entries = [re.sub(r".*<(.*)>", r"\1", line) for line in lines]
    wanted = [(BOOK / entry).resolve() for entry in entries if entry[0] != "/"]
    patterns = [path_of(path) for path in wanted]
    bare = {name: name.rsplit(".", 1)[0] for name in names}
    return {n for n, b in bare.items() if any(fnmatch.fnmatch(b, p) for p in patterns)}


def anchors(name):
    """What one can link to on a page: its headings, as GitHub and MyST spell them."""
    heads = re.findall(r"^#+ (.+)$", prose(name), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", x.lower()).strip().replace(" ", "-") for x in heads}


def dead(name, text):
    """Links and images of a page that lead nowhere, and images without words."""
    for target in LINK.findall(text) + [path for _, path in IMAGE.findall(text)]:
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            path = (ROOT / name).parent / file if file else ROOT / name
            place = path.resolve()
            if not place.exists():
                yield f"{name}: {target} is not there"
            elif anchor and anchor not in anchors(path_of(place)):
                yield f"{name}: no heading of {file or name} is #{anchor}"
    for words, path in IMAGE.findall(text):
        if len(words.split()) < 3:
            yield f"{name}: say in words what {path} shows"
    for tag in re.findall(r"<img[^>]*>", text):
        if 'alt="' not in tag:
            yield f"{name}: {tag} has no alt text"


def undescribed(name, cells):
    """Figures that are not followed, before the next code, by a line *Figure: ...*:
    the book takes these as alternative texts, one after the other."""
    waiting, head = 0, ""
    for cell in [*cells, None]:
        if cell is not None and cell.cell_type == "markdown":
            waiting -= cell.source.count("*Figure: ")
            continue
        if waiting:
            yield f"{name}: {waiting} more figures than descriptions after {head!r}"
        if cell is not None:
            outputs = cell.get("outputs", [])
            waiting = sum("image/png" in output.get("data", {}) for output in outputs)
            head = cell.source.split("\n")[0]


@pytest.fixture(scope="module")
def spoken():
    """What the course, its questions and the README say."""
    names = [n for n in sources() if "notebooks/book" not in n]
    return "\n".join(prose(name) for name in names)


def test_every_page_is_listed():
    names = [name for name in sources() if name != INDEX]
    missing = set(names) - listed(names, (ROOT / INDEX).read_text("utf-8"))
    told = f"add to a toctree of {INDEX}, without the ending: {sorted(missing)}"
    assert not missing, told
    kinds = [pattern.replace("**", "*") for pattern in pages.SOURCES]
    unread = [n for n in names if not any(fnmatch.fnmatch(n, k) for k in kinds)]
    assert not unread, f"add to SOURCES of notebooks/book/pages.py: {unread}"


@pytest.mark.parametrize("name", sources())
def test_links_lead_somewhere_and_pictures_have_words(name):
    assert list(dead(name, prose(name))) == []


@pytest.mark.parametrize("name", [n for n in sources() if n.endswith(".ipynb")])
def test_every_figure_is_described_where_it_stands(name):
    assert list(undescribed(name, cells(name))) == []


def test_glossary_is_sorted_and_of_single_lines():
    text = (BOOK / "glossary.md").read_text("utf-8")
    entries = text.split("```{glossary}\n")[1].split("\n```")[0].split("\n\n")
    assert [e.count("\n") for e in entries] == [1] * len(entries)
    terms = pages.terms()
    assert len(terms) == len(entries) > 40
    assert terms == sorted(terms, key=str.lower)


@pytest.mark.parametrize("term", pages.terms())
def test_a_word_of_the_glossary_is_used(term, spoken):
    assert pages.term_pattern(term).search(spoken), "nobody needs it: cut it"


def names_of_the_code():
    """Functions, classes and Class.attribute of the core and of its batches."""
    found = set()
    for module in [*pages.core(), "lemur_mini.data.pages"]:
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{name}" for name in attributes(node)}
    return found


def attributes(node):
    """Fields, methods and what is set on self."""
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef):
            yield part.name
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            yield part.target.id
        elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            yield part.attr


def test_the_notation_names_what_the_code_has():
    text = (BOOK / "notation.md").read_text("utf-8")
    rows = [r for r in text.split("\n") if r.startswith("|") and "---" not in r]
    cells = [r.strip("|").split("|")[-1].strip() for r in rows]
    names = [cell.strip("`") for cell in cells if cell != "code"]
    assert len(names) > 25
    assert set(names) - names_of_the_code() == set()


def test_the_claims_are_those_that_were_measured():
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in pages.claims().split("\n")
    ]
    assert head == pages.HEADS
    stored = {
        data: json.loads((ROOT / "figures" / name).read_text("utf-8"))
        for data, name in pages.CLAIMS.items()
    }
    expected = [(data, row) for data, found in stored.items() for row in found]
    assert len(rows) == len(expected)
    for cells, (data, claim) in zip(rows, expected, strict=True):
        row = dict(zip(head, cells, strict=True))
        assert (row[""], row["data"]) == (claim["claim"], data)
        assert row["claim"] == f"{claim['text']} ({claim['measure']})"
        assert (row["paper"], row["verdict"]) == (claim["paper"], claim["verdict"])
        assert (row["kind"] == "ours") == (claim["paper"] == "-")
        numbers = [row["ours, points"], *row["95 % interval"].split(" to ")]
        wanted = [100 * x for x in (claim["ours"], *claim["interval"])]
        assert [float(x) for x in numbers] == pytest.approx(wanted, abs=0.0051)
        assert int(row["seeds"]) == claim["seeds"]


def test_the_filters_are_columns_of_the_table():
    script = (BOOK / "static" / "claims.js").read_text("utf-8")
    (names,) = re.findall(r"const lists = \[(.*?)\]", script)
    assert set(re.findall(r'"(\w+)"', names)) < set(pages.HEADS)
    text = (BOOK / "claims.md").read_text("utf-8")
    assert 'id="claim-filters"' in text and "<!-- every claim -->" in text


def test_the_workflow_builds_as_contributing_says():
    path = ROOT / ".github" / "workflows" / "book.yml"
    steps = yaml.safe_load(path.read_text("utf-8"))["jobs"]["build"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    told = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert len(commands) == 2
    assert all(f"\n{command} " in told.replace("\n", " \n") for command in commands)


# --- the tests' own tools -------------------------------------------------------------


def test_what_is_not_listed_is_told():
    index = "```{toctree}\n:glob:\n\nOverview <../README>\n../[0-9]*\n```\n"
    names = ["notebooks/README.md", "notebooks/03_x.ipynb", "notebooks/teaching/a.md"]
    assert listed(names, index) == set(names[:2])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[x](gone.md)", "gone.md is not there"),
        ("[x](questions.md#nothing)", "is #nothing"),
        ("![a](../figures/main.png)", "say in words"),
        ("![what it shows](../figures/gone.png)", "gone.png is not there"),
        ('<img src="x.png">', "no alt text"),
    ],
)
def test_what_leads_nowhere_is_told(text, told):
    (found,) = dead("notebooks/README.md", text)
    assert told in found
    good = "[x](questions.md#questions) ![one two three](../figures/main.png)"
    assert list(dead("notebooks/README.md", good)) == []


def test_what_is_wrong_with_a_built_site_is_told(tmp_path):
    good = (
        '<a href="b.html#x">b</a> <a href="https://a.b/c">c</a> <img alt="d" src="d">'
    )
    (tmp_path / "a.html").write_text(good)
    (tmp_path / "b.html").write_text('<p id="x"><a href="#x">here</a>')
    (tmp_path / "d").touch()
    assert list(links.problems(tmp_path)) == []
    (tmp_path / "b.html").write_text('<a href="c.html"></a><img src="d">')
    told = "\n".join(links.problems(tmp_path))
    assert told.count("\n") == 2
    for part in ("no such anchor", "c.html is not there", "d has no alt text"):
        assert part in told


def test_a_figure_without_words_is_told():
    shows = nbformat.v4.new_output("display_data", data={"image/png": ""})
    figure = nbformat.v4.new_code_cell("plot()", outputs=[shows])
    text = nbformat.v4.new_markdown_cell("*Figure: a line.*")
    assert list(undescribed("a", [figure, text, figure, text])) == []
    assert len(list(undescribed("a", [figure, figure, text]))) == 1
    assert len(list(undescribed("a", [figure, text, figure]))) == 1


@pytest.mark.parametrize(
    ("term", "text", "found"),
    [
        ("page", "Two pages.", True),
        ("page", "a webpage", False),
        ("DIN", "din", False),
        ("memory bank", "Memory bank", True),
    ],
)
def test_words_are_found_as_they_are_written(term, text, found):
    assert bool(pages.term_pattern(term).search(text)) == found


def test_what_is_no_page_is_named_and_not_linked():
    text = "Open [answers.md](answers.md), [the key](quiz-key.md#x), [quiz](quiz.md)."
    wanted = "Open `answers.md` (in the repository), `the key` (in the repository), "
    assert pages.without_links(text) == wanted + "[quiz](quiz.md)."
