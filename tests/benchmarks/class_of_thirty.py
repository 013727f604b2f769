"""A class of thirty that handed in notebook 03, graded by one command: what it takes.

Every student solves each exercise, makes the common mistake or leaves it open, by lot;
the last file is broken, and the one before never ends."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import nbformat

from lemur_mini import files
from tests.benchmarks.common import CPU, ROOT

NAME, STUDENTS = "03_sqdc", 30
sys.path.insert(0, str(ROOT / "notebooks"))
import make  # noqa: E402


def hand_in(folder: Path) -> Counter:
    """Write thirty files; how many answers are of which kind."""
    draw, kinds = random.Random(0), Counter()
    solution = make.read(make.HERE / "solutions" / f"{NAME}.ipynb")
    for number in range(STUDENTS - 1):
        cells = []
        for cell in solution.cells:
            exercise = make.EXERCISE.search(cell.source)
            part = draw.choices(("right", "wrong", "todo"), (6, 3, 1))[0]
            kinds[part] += bool(exercise)
            cells.append(make.variant(cell, part if exercise else "todo"))
        if number == STUDENTS - 2:
            first = next(c for c in solution.cells if make.EXERCISE.search(c.source))
            cells[solution.cells.index(first)].source = "while True:\n    pass"
        notebook = make.notebook_of(cells)
        nbformat.write(notebook, folder / f"student-{number:02}.ipynb")
    (folder / f"student-{STUDENTS - 1}.ipynb").write_text("{", "utf-8")
    return kinds


def main() -> None:
    """Grade them, and keep how long it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "class"
        folder.mkdir()
        kinds, began = hand_in(folder), time.perf_counter()
        script = ROOT / "notebooks" / "teaching" / "grade.py"
        command = [sys.executable, str(script), str(folder)]
        said = subprocess.run(
            [*command, "--out", str(Path(name) / "grades.csv")],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        seconds = time.perf_counter() - began
        grades = (Path(name) / "grades.csv").read_text("utf-8").splitlines()[1:]
    found = Counter(line.split(",")[3] for line in grades)
    print(said.rsplit("written", 1)[0])
    result = {"notebook": NAME, "students": STUDENTS, "seconds": round(seconds)}
    result |= {"handed_in": dict(kinds), "grades": dict(found)}
    command = "python -m tests.benchmarks.class_of_thirty"
    files.write_json(
        files.RESULTS / "class.json", result | files.provenance(command, CPU)
    )


if __name__ == "__main__":
    main()
