"""What is wrong with an executed notebook, beside what is stored of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import make
from nbformat import NotebookNode

VERDICT = re.compile(r"^Exercise \S+: (.*)$", re.MULTILINE)
CHECKED = "nbval-check-output"  # the tag that nbval knows, too
STARTS = {"todo": "not solved yet", "wrong": "not yet", "right": "right"}


def run(name: str) -> list[str]:
    """All that is wrong with a notebook of the course, executed once: as students find
    it, with every exercise also solved by its common mistake, and solved. Raises
    CellExecutionError where a cell fails."""
    solution = make.read(make.HERE / "solutions" / f"{name}.ipynb")
    stored = {"todo": make.read(make.HERE / f"{name}.ipynb"), "right": solution}
    ran = make.execute(make.merged(solution))
    return [*noise(ran), *differences(solution, stored, ran)]


def differences(
    solution: NotebookNode, stored: dict[str, NotebookNode], ran: NotebookNode
) -> Iterator[str]:
    """Checked cells that print something else than what is stored, and exercises whose
    checks say the wrong thing. stored, by part: as in `make.cut`."""
    found = make.cut(solution, ran)
    for part, notebook in stored.items():
        for old, new in zip(notebook.cells, found[part].cells, strict=True):
            if CHECKED in old.metadata.get("tags", []) and said(old) != said(new):
                yield f"{part}, {head(old)}: stored {said(old)!r}, now {said(new)!r}"
    for part, start in STARTS.items():
        for verdict in verdicts(found[part]):
            if not verdict.startswith(start):
                yield f"an exercise filled with its {part!r} part is: {verdict}"


def noise(ran: NotebookNode) -> Iterator[str]:
    """Warnings, and whatever the set-up cell writes to stderr."""
    setup = next(cell for cell in ran.cells if cell.cell_type == "code")
    for cell in ran.cells:
        for output in cell.get("outputs", []):
            text = output.text if output.get("name") == "stderr" else ""
            if "Warning" in text or (text and cell is setup):
                yield f"{head(cell)}: {text}"


def said(cell: NotebookNode) -> str:
    """What a cell printed."""
    streams = [o for o in cell.outputs if o.get("name") == "stdout"]
    return "".join(output.text for output in streams)


def head(cell: NotebookNode) -> str:
    """A cell's first line, to find it by."""
    lines = cell.source.strip().splitlines()
    return lines[0] if lines else "empty cell"


def verdicts(notebook: NotebookNode) -> list[str]:
    """What its check cells say, one for each exercise."""
    printed = "".join(said(c) for c in notebook.cells if c.cell_type == "code")
    return VERDICT.findall(printed)
