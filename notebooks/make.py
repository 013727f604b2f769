"""The course's notebooks, made from their solutions.

python notebooks/make.py build [NAME ...]  execute solutions/ and student notebooks
python notebooks/make.py edit [NAME ...]   solutions as text, notebooks/NAME.py
python notebooks/make.py save [NAME ...]   that text back into solutions/NAME.ipynb

NAME is 03_sqdc and the like; without one, all of them. In a solution, an exercise is

    # BEGIN SOLUTION
    answer = 42
    # A COMMON MISTAKE
    # answer = 24
    # TO DO
    # answer = ...  # your turn
    # END SOLUTION

Students find the lines under TO DO there. The mistake is for a test: the check cell
that follows must tell it from the solution. Solutions keep what they print; their
pictures are those of the student notebooks, and not stored twice.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode, v4

HERE = Path(__file__).resolve().parent
EXERCISE = re.compile(
    r"^[ ]*# BEGIN SOLUTION\n(?P<right>.*?)"
    r"^[ ]*# A COMMON MISTAKE\n(?P<wrong>.*?)"
    r"^[ ]*# TO DO\n(?P<todo>.*?)^[ ]*# END SOLUTION$",
    re.DOTALL | re.MULTILINE,
)
MARK = re.compile(r"^# %%(?P<markdown> \[markdown\])?(?: tags: (?P<tags>.*))?$")
COSTS = HERE.parent / "data" / "results" / "notebooks.json"
# Its output is kept beside the notebooks, not in them (Linux: kilobytes).
PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
METADATA = {
    "kernelspec": {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}


def names() -> list[str]:
    """Every notebook of the course, in order."""
    return sorted(path.stem for path in (HERE / "solutions").glob("[0-9]*.ipynb"))


def read(path: Path) -> NotebookNode:
    """A notebook in the current format."""
    return nbformat.read(path, as_version=4)


def filled(source: str, part: str) -> str:
    """A cell's source with every exercise filled with its "wrong" or "todo" lines."""

    def swap(match: re.Match) -> str:
        return re.sub(r"^([ ]*)# ?", r"\1", match[part].rstrip("\n"), flags=re.M)

    return EXERCISE.sub(swap, source)


def student(solution: NotebookNode) -> NotebookNode:
    """The notebook as students get it, not yet executed."""
    cells = []
    for number, cell in enumerate(solution.cells):
        new = cell.copy() | {"id": f"cell-{number}"}
        new["source"] = filled(cell.source, "todo")
        if cell.cell_type == "code":
            new |= {"outputs": [], "execution_count": None}
        cells.append(NotebookNode(new))
    return v4.new_notebook(cells=cells, metadata=METADATA)


def execute(notebook: NotebookNode, folder: Path = HERE) -> NotebookNode:
    """Run all cells top to bottom with `folder` as the working directory. Raises
    CellExecutionError at the first that fails."""
    context = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=600, resources=context)
    return client.execute()


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Drop what differs from run to run without meaning: timings and progress bars."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


def without_pictures(notebook: NotebookNode) -> NotebookNode:
    """Keep only what cells print."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.output_type == "stream"]
    return notebook


def build(name: str) -> None:
    """Make, execute and write one student notebook and its solution."""
    path = HERE / "solutions" / f"{name}.ipynb"
    solution = read(path)
    notebook, began = student(solution), time.time()
    notebook.cells.append(v4.new_code_cell(PEAK))
    execute(notebook)
    seconds, last = time.time() - began, notebook.cells.pop()
    nbformat.write(tidy(notebook), HERE / f"{name}.ipynb")
    nbformat.write(without_pictures(tidy(execute(solution))), path)
    keep_cost(name, seconds, int(last.outputs[-1].text) / 2**20)


def keep_cost(name: str, seconds: float, gigabytes: float) -> None:
    """What executing a student notebook took, beside the other results."""
    costs = json.loads(COSTS.read_text("utf-8")) if COSTS.is_file() else {}
    costs[name] = {
        "seconds": round(seconds),
        "gigabytes": round(gigabytes, 2),
        "date": datetime.date.today().isoformat(),
    }
    text = json.dumps(dict(sorted(costs.items())), indent=1) + "\n"
    COSTS.write_text(text, "utf-8")
    print(f"{name}: {costs[name]}", flush=True)


def to_text(notebook: NotebookNode) -> str:
    """Cells as text, each after a line that starts with `# %%`."""
    parts = []
    for cell in notebook.cells:
        kind = " [markdown]" if cell.cell_type == "markdown" else ""
        tags = ",".join(cell.metadata.get("tags", []))
        head = f"# %%{kind}" + (f" tags: {tags}" if tags else "")
        source = cell.source
        if kind:
            source = "\n".join(f"# {line}".rstrip() for line in source.splitlines())
        parts.append(f"{head}\n{source}\n")
    return "\n".join(parts)


def from_text(text: str) -> NotebookNode:
    """The notebook of such a text, without outputs."""
    cells, lines = [], []
    for line in text.splitlines():
        if found := MARK.match(line):
            cells.append((found, lines := []))
        else:
            lines.append(line)
    made = []
    for number, (mark, lines) in enumerate(cells):
        source = "\n".join(lines).strip("\n")
        kind = v4.new_code_cell
        if mark["markdown"]:
            source = re.sub(r"^# ?", "", source, flags=re.MULTILINE)
            kind = v4.new_markdown_cell
        tags = {"tags": mark["tags"].split(",")} if mark["tags"] else {}
        made.append(kind(source, id=f"cell-{number}", metadata=tags))
    return v4.new_notebook(cells=made, metadata=METADATA)


def edit(name: str) -> None:
    """Write a solution as text beside the notebooks."""
    text = to_text(read(HERE / "solutions" / f"{name}.ipynb"))
    (HERE / f"{name}.py").write_text(text, "utf-8")


def save(name: str) -> None:
    """Write an edited text back as the solution, and remove the text."""
    text = HERE / f"{name}.py"
    notebook = from_text(text.read_text("utf-8"))
    nbformat.write(notebook, HERE / "solutions" / f"{name}.ipynb")
    text.unlink()


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["build", "edit", "save"])
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    action = {"build": build, "edit": edit, "save": save}[options.action]
    for name in options.names or names():
        action(name)


if __name__ == "__main__":
    sys.exit(main())
