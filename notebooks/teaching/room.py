"""The teacher's room, made from the notebooks.

python notebooks/teaching/room.py pages|slides|recall

pages   plan.md, answers.md, quiz.md and quiz-key.md beside this file, and the numbers
        of README.md; a test holds them to their sources
slides  one deck a notebook, slides/NAME.html: arrow keys turn pages, printing makes
        a PDF (--pdf prints all with Chromium, where there is one)
recall  the notebooks without their prose, recall/NAME.ipynb, to fill from memory"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import make  # noqa: E402  (the course's notebooks, beside this folder)
import nbformat  # noqa: E402

SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
TASK = re.compile(r"^### (Exercise (\d+\.\d+))\n(.+?)(?=\n##|\Z)", re.MULTILINE | re.S)
LETTERS = "abcd"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


# --- pages ----------------------------------------------------------------------------


def sections(name: str) -> Iterator[tuple[str, float, float]]:
    """Title, minutes to read and minutes for exercises of a notebook's sections, by the
    rule of its first cell (`make.minutes`)."""
    title, read, solve = "Beginning", 0.0, 0.0
    for cell in make.read(HERE.parent / "solutions" / f"{name}.ipynb").cells:
        if cell.cell_type == "code":
            read += make.reading(code=make.filled(cell.source, "todo"))
            solve += make.solving(cell.source)
            continue
        before, *rest = SECTION.split(cell.source)
        read += make.reading(before)
        for head, text in zip(rest[::2], rest[1::2], strict=True):
            yield title, read, solve
            title, read, solve = head, make.reading(text), 0.0
    yield title, read, solve


def plan() -> str:
    """Minutes of every section, and of the course."""
    costs = json.loads(make.COSTS.read_text("utf-8"))
    lines = ["# Minutes, section by section", ""]
    lines += ["Counted from words, lines of code and lines of solutions, as the first"]
    lines += ["cell of each notebook says; running is measured. Made by `room.py`.", ""]
    whole = [0.0, 0.0, 0.0]
    for name in make.names():
        seconds = costs[name]["seconds"] / 60
        lines += [f"## {title_of(name)}", "", "| section | reading | exercises |"]
        lines += ["|---|---|---|"]
        for title, read, solve in sections(name):
            lines.append(
                f"| {title} | {read:.0f} | {f'{solve:.0f}' if solve else ''} |"
            )
            whole[0], whole[1] = whole[0] + read, whole[1] + solve
        whole[2] += seconds
        lines += ["", f"Running: {seconds:.1f} minutes on two cores.", ""]
    read, solve, ran = (part / 60 for part in whole)
    lines += [
        f"All: {read:.0f} h reading, {solve:.0f} h exercises, {ran:.1f} h running."
    ]
    return "\n".join(lines) + "\n"


def title_of(name: str) -> str:
    """A notebook's own title."""
    first = make.read(HERE.parent / f"{name}.ipynb").cells[0].source
    return first.splitlines()[0].removeprefix("# ")


def answers() -> str:
    """Every exercise with its solution and the mistake that is made most."""
    lines = ["# Exercises: answers and the common mistake", ""]
    lines += ["Made by `room.py` from the solutions. Not for students.", ""]
    for name in make.names():
        lines += [f"## {title_of(name)}", ""]
        asked = {}
        for cell in make.read(HERE.parent / "solutions" / f"{name}.ipynb").cells:
            asked |= {m[1]: m[3].strip() for m in TASK.finditer(cell.source)}
            if match := make.EXERCISE.search(cell.source):
                title = list(asked)[-1]
                wrong = make.filled(match[0], "wrong")
                lines += [f"### {title}", "", asked[title], "", "```python"]
                lines += [match["right"].rstrip(), "```", "", "The common mistake:", ""]
                lines += ["```python", wrong.rstrip(), "```", ""]
    return "\n".join(lines)


def quiz(key: bool) -> str:
    """The questions of quiz.json, for students, or with what is right and why."""
    asked = json.loads((HERE / "quiz.json").read_text("utf-8"))
    lines = ["# Quiz" + (": the key" if key else ""), ""]
    lines += ["One choice of each is right. Made by `room.py` from `quiz.json`.", ""]
    for name, questions in asked.items():
        lines += [f"## {title_of(name)}", ""]
        for number, question in enumerate(questions, 1):
            lines += [f"**{number}.** {question['ask']}", ""]
            right = question["choices"][question["right"]]
            for letter, choice in zip(LETTERS, mixed(question), strict=False):
                shown = f"**{choice}**" if key and choice == right else choice
                lines.append(f"- {letter}) {shown}")
            lines += ["", *([f"*{question['why']}*", ""] if key else [])]
    return "\n".join(lines)


def mixed(question: dict) -> list[str]:
    """The choices in an order that says nothing, the same on every page."""
    return sorted(question["choices"], key=lambda x: zlib.crc32(x.encode()))


def numbers() -> str:
    """What students should see, with its spread over seeds: of the platform."""
    from lemur_mini.reproduce import tables

    return tables.short_results()


def pages() -> dict[Path, str]:
    """Every generated file of this folder and what it has to hold."""
    readme = (HERE / "README.md").read_text("utf-8")
    part = f"<!-- numbers -->\n{numbers()}\n<!-- /numbers -->"
    pattern = re.compile(r"<!-- numbers -->.*<!-- /numbers -->", re.DOTALL)
    return {
        HERE / "plan.md": plan(),
        HERE / "answers.md": answers(),
        HERE / "quiz.md": quiz(key=False),
        HERE / "quiz-key.md": quiz(key=True),
        HERE / "README.md": pattern.sub(lambda _: part, readme),
    }


# --- slides ---------------------------------------------------------------------------

LOOK = """
@page { size: 254mm 143mm; margin: 0 }
body { margin: 0; font: 22px/1.4 sans-serif; color: #222; background: #fff }
section { box-sizing: border-box; width: 100vw; height: 100vh; padding: 4vh 6vw;
  display: flex; flex-direction: column; break-after: page; overflow: hidden }
@media print { section { width: 254mm; height: 143mm } }
h1, h2 { margin: 0 0 2vh; color: #0072B2 } img { max-width: 100%; min-height: 0;
  object-fit: contain; flex: 1 } p { margin: 0 0 1vh } pre { font-size: 14px }
"""
KEYS = """
addEventListener("keydown", e => {
  const step = {ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1}[e.key];
  if (!step) return;
  e.preventDefault();
  scrollTo(0, (Math.round(scrollY / innerHeight) + step) * innerHeight);
});
"""


def slides(name: str) -> str:
    """A deck: title and goals, every section's first sentences, every figure with what
    is to be seen in it, and the recap."""
    made, title = [], title_of(name)
    for cell in make.read(HERE.parent / f"{name}.ipynb").cells:
        for output in cell.get("outputs", []):
            if picture := output.get("data", {}).get("image/png"):
                made.append(["picture", picture, ""])
        if cell.cell_type != "markdown":
            continue
        if figure := re.search(r"\*Figure: (.+?)\*(?:\n|$)", cell.source):
            waiting = [s for s in made if s[0] == "picture" and not s[2]]
            for slide in waiting:
                slide[2] = figure[1]
        for head, text in zip(
            *[iter(SECTION.split(cell.source)[1:])] * 2, strict=False
        ):
            if not head.startswith("Exercises"):
                made.append(["text", head, text if head == "Recap" else opening(text)])
    goals = re.search(r"\*\*Goals\*\*.+?(?=\n\n\*\*)", first_text(name), re.S)
    deck = [["text", title, goals[0] if goals else ""], *made]
    body = "\n".join(_slide(*slide) for slide in deck)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title>'
    return (
        f'<!doctype html><html lang="en"><head>{head}<style>{LOOK}</style></head>'
        f"<body>{body}<script>{KEYS}</script></body></html>\n"
    )


def first_text(name: str) -> str:
    """The first cell of a notebook."""
    return make.read(HERE.parent / f"{name}.ipynb").cells[0].source


def opening(text: str) -> str:
    """The first two sentences of a section."""
    plain = next((p for p in text.strip().split("\n\n") if p), "")
    return " ".join(re.split(r"(?<=[.?!]) ", plain)[:2])


def _slide(kind: str, head: str, text: str) -> str:
    if kind == "picture":
        source = "data:image/png;base64," + "".join(head.split())
        alt = html.escape(text, quote=True)
        picture = f'<img alt="{alt}" src="{source}">'
        return f"<section>{picture}<p>{_inline(text)}</p></section>"
    blocks = []
    for line in text.strip().splitlines():
        blocks.append(f"<p>{_inline(line.lstrip('- '))}</p>" if line.strip() else "")
    return f"<section><h2>{_inline(head)}</h2>{''.join(blocks)}</section>"


def _inline(text: str) -> str:
    text = html.escape(text, quote=False)
    text = re.sub(r"\[(.+?)\]\(.+?\)", r"\1", text)
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
    text = re.sub(r"(?<!\w)\*(.+?)\*(?!\w)", r"<i>\1</i>", text)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)


def print_pdf(path: Path) -> Path:
    """A deck as PDF, by Chromium. Raises FileNotFoundError where there is none."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        wanted = ", ".join(BROWSERS)
        raise FileNotFoundError(f"no {wanted}; open {path} and print it to a file")
    out = path.with_suffix(".pdf")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    command = [browser, *flags, f"--print-to-pdf={out}", path.as_uri()]
    subprocess.run(command, check=True, capture_output=True)
    return out


# --- recall ---------------------------------------------------------------------------


def recall(name: str) -> nbformat.NotebookNode:
    """A notebook's headings and code, its exercises open, its prose gone."""
    cells = []
    for cell in make.read(HERE.parent / f"{name}.ipynb").cells:
        if cell.cell_type == "code":
            cell |= {"outputs": [], "execution_count": None}
            cells.append(cell)
        elif heads := re.findall(r"^#+ .+$", cell.source, re.MULTILINE):
            asked = [f"### {m[1]}\n{m[3].strip()}" for m in TASK.finditer(cell.source)]
            plain = [h for h in heads if not h.startswith("### Exercise")]
            cells.append(cell | {"source": "\n\n".join([*plain, *asked])})
    return make.notebook_of(cells)


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["pages", "slides", "recall"])
    parser.add_argument("names", nargs="*", help="notebooks; all by default")
    parser.add_argument("--out", type=Path, help="default: a folder beside this file")
    parser.add_argument("--pdf", action="store_true", help="print slides, too")
    options = parser.parse_args(arguments)
    if options.action == "pages":
        for path, text in pages().items():
            path.write_text(text, "utf-8")
        return 0
    out = options.out or HERE / options.action
    out.mkdir(parents=True, exist_ok=True)
    for name in options.names or make.names():
        if options.action == "recall":
            nbformat.write(recall(name), out / f"{name}.ipynb")
            continue
        path = out.resolve() / f"{name}.html"
        path.write_text(slides(name), "utf-8")
        if options.pdf:
            try:
                print_pdf(path)
            except FileNotFoundError as error:
                print(error, file=sys.stderr)
                return 2
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
