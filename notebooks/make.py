"""The course's notebooks, made from their solutions.

python notebooks/make.py build [NAME ...]  execute, write solutions and student copies
python notebooks/make.py edit [NAME ...]   solutions as text, notebooks/NAME.py
python notebooks/make.py save [NAME ...]   that text back into solutions/NAME.ipynb
python notebooks/make.py minutes [NAME ...]  the line of minutes anew, without executing

NAME is 03_sqdc and the like; without one, all of them. In a solution, an exercise is

    # BEGIN SOLUTION
    answer = 42
    # A COMMON MISTAKE
    # answer = 24
    # TO DO
    # answer = ...  # your turn
    # END SOLUTION

and the next cell checks it. Students find the lines under TO DO there. One execution
serves all: every exercise is checked as students find it, then with the mistake, then
solved; student notebook and solution are cut out of that. Solutions keep what they
print; their pictures are those of the student notebooks, and not stored twice.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import os
import re
import sys
from pathlib import Path

import jupytext
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
CHECK = "course.exercise("
PARTS = "LEMUR_MINI_PARTS"  # as in lemur_mini.exercises.mine, which is slow to import
FORMAT = "py:percent"
MINUTES = re.compile(r"^\*\*Minutes\*\* .*$", re.MULTILINE)
# Read in a minute; and minutes to understand an exercise, and for a line of its code:
# our choice, near the 14 hours that walking through the whole course took.
WORDS, LINES, TASK, LINE = 120, 20, 3, 2
COSTS = HERE.parent / "data" / "results" / "notebooks.json"
# Prints seconds of a processor and kilobytes (Linux), which are kept in COSTS.
USED = """from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
used = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)
print(sum(x.ru_utime + x.ru_stime for x in used), used[0].ru_maxrss)"""
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
    """A cell's source with every exercise filled with its "wrong" or "todo" lines; the
    solution as it is for "right"."""

    def swap(match: re.Match) -> str:
        return re.sub(r"^([ ]*)# ?", r"\1", match[part].rstrip("\n"), flags=re.M)

    return source if part == "right" else EXERCISE.sub(swap, source)


def notebook_of(cells: list[NotebookNode]) -> NotebookNode:
    """A notebook of copies of these cells, numbered anew."""
    made, count = [], 0
    for number, cell in enumerate(cells):
        cell = NotebookNode(copy.deepcopy(cell) | {"id": f"cell-{number}"})
        if cell.cell_type == "code" and cell.execution_count is not None:
            cell.execution_count = count = count + 1
        made.append(cell)
    return v4.new_notebook(cells=made, metadata=METADATA)


def variant(cell: NotebookNode, part: str) -> NotebookNode:
    """A cell filled with a part of its exercise, not yet executed."""
    new = cell.copy() | {"source": filled(cell.source, part)}
    if cell.cell_type == "code":
        new |= {"outputs": [], "execution_count": None}
    return NotebookNode(new)


def student(solution: NotebookNode) -> NotebookNode:
    """The notebook as students get it, not yet executed."""
    return notebook_of([variant(cell, "todo") for cell in solution.cells])


def parts(solution: NotebookNode) -> list[tuple[int, str]]:
    """What is executed, in order: the number of a cell, and the part that fills it. An
    exercise and its check come three times. Raises ValueError where one has none."""
    order, cells = [], solution.cells
    for number, cell in enumerate(cells):
        order.append((number, "todo"))
        if EXERCISE.search(cell.source):
            if CHECK not in "".join(c.source for c in cells[number + 1 : number + 2]):
                raise ValueError(f"cell {number}: its next cell does not check it")
        elif number and EXERCISE.search(cells[number - 1].source):
            both = (number - 1, number)
            order += [(n, part) for part in ("wrong", "right") for n in both]
    return order


def merged(solution: NotebookNode) -> NotebookNode:
    """The notebook that is executed, one cell for each of `parts`."""
    cells = solution.cells
    return notebook_of([variant(cells[n], part) for n, part in parts(solution)])


def execute(notebook: NotebookNode, folder: Path = HERE) -> NotebookNode:
    """Run all cells top to bottom with `folder` as the working directory; parts that
    students wrote are neither kept nor used. Raises CellExecutionError at the first
    that fails."""
    context = {"metadata": {"path": str(folder)}}
    settings = {"timeout": 600, "resources": context, "coalesce_streams": True}
    surroundings = os.environ | {PARTS: ""}
    return NotebookClient(notebook, **settings).execute(env=surroundings)


def cut(solution: NotebookNode, ran: NotebookNode) -> dict[str, NotebookNode]:
    """The student notebook ("todo") and the solution ("right") out of an executed
    `merged` one, and the common mistakes with their checks ("wrong")."""
    found: dict[str, list] = {"todo": [], "wrong": [], "right": []}
    for (number, part), cell in zip(parts(solution), ran.cells, strict=True):
        if part == "todo":
            found["right"].append(cell)  # until the solved one comes
        if part == "right":
            found["right"][number] = cell
        else:
            found[part].append(cell)
    return {part: notebook_of(cells) for part, cells in found.items()}


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
    """Execute a solution once; write it and the student notebook."""
    path = HERE / "solutions" / f"{name}.ipynb"
    solution = read(path)
    notebook = merged(solution)
    notebook.cells.append(v4.new_code_cell(USED))
    execute(notebook)
    seconds, kilobytes = map(float, notebook.cells.pop().outputs[0].text.split())
    found = cut(solution, tidy(notebook))
    nbformat.write(found["todo"], HERE / f"{name}.ipynb")
    nbformat.write(without_pictures(found["right"]), path)
    keep_cost(name, seconds, kilobytes / 2**20)
    tell_minutes(name)


def keep_cost(name: str, seconds: float, gigabytes: float) -> None:
    """What executing a notebook took, beside the other results: seconds of a processor,
    which are those of the clock where the machine has nothing else to do."""
    costs = json.loads(COSTS.read_text("utf-8")) if COSTS.is_file() else {}
    costs[name] = {
        "seconds": round(seconds),
        "gigabytes": round(gigabytes, 2),
        "date": datetime.date.today().isoformat(),
    }
    text = json.dumps(dict(sorted(costs.items())), indent=1) + "\n"
    COSTS.write_text(text, "utf-8")
    print(f"{name}: {costs[name]}", flush=True)


def reading(text: str = "", code: str = "") -> float:
    """Minutes that a text and some code take to read."""
    return len(text.split()) / WORDS + len(code.splitlines()) / LINES


def solving(code: str) -> float:
    """Minutes that the exercises in a solution's code take."""
    solved = [len(m["right"].splitlines()) for m in EXERCISE.finditer(code)]
    return sum(TASK + LINE * lines for lines in solved)


def minutes(solution: NotebookNode, seconds: float) -> str:
    """The line of the first cell that says how long a notebook takes: by its words, its
    lines of code, the lines of its exercises' solutions, and what was measured."""
    cells = student(solution).cells
    text = [c.source for c in cells if c.cell_type == "markdown"]
    code = [c.source for c in cells if c.cell_type == "code"]
    whole = "\n".join(c.source for c in solution.cells if c.cell_type == "code")
    both = reading(" ".join(text), "\n".join(code)), solving(whole)
    rounded = (5 * max(1, round(part / 5)) for part in both)
    return (
        "**Minutes** reading about {}, exercises about {}, running about {} on two "
        "CPU cores."
    ).format(*rounded, max(1, round(seconds / 60)))


def tell_minutes(name: str) -> None:
    """Write that line anew into a solution and its student notebook."""
    solution = read(HERE / "solutions" / f"{name}.ipynb")
    told = minutes(solution, json.loads(COSTS.read_text("utf-8"))[name]["seconds"])
    for path in (HERE / f"{name}.ipynb", HERE / "solutions" / f"{name}.ipynb"):
        notebook = read(path)
        notebook.cells[0].source = MINUTES.sub(told, notebook.cells[0].source)
        nbformat.write(notebook, path)


def to_text(notebook: NotebookNode) -> str:
    """Cells as text, in jupytext's percent format."""
    plain = v4.new_notebook(cells=notebook.cells)  # no header
    return jupytext.writes(plain, fmt=FORMAT)


def from_text(text: str) -> NotebookNode:
    """The notebook of such a text, without outputs."""
    return notebook_of(jupytext.reads(text, fmt=FORMAT).cells)


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
    parser.add_argument("action", choices=["build", "edit", "save", "minutes"])
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    actions = {"build": build, "edit": edit, "save": save, "minutes": tell_minutes}
    action = actions[options.action]
    for name in options.names or names():
        action(name)


if __name__ == "__main__":
    sys.exit(main())
