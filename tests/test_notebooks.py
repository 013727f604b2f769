"""The notebooks as files, and their solutions as programs.

That every cell of a student notebook runs and checked cells print what is stored is
nbval's work: pytest collects the notebooks themselves. Here is what it lets pass."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode, v4

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
CHECKED = "nbval-check-output"
SECTIONS = ("**Goals**", "**Prerequisites**", "**Minutes**")
RAW_FLOAT = re.compile(r"\d\.\d{2,}")

spec = importlib.util.spec_from_file_location("make", NOTEBOOKS / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

NAMES = make.names()
every = pytest.mark.parametrize("name", NAMES)


def code(notebook):
    """The code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    """All the text, cell after cell."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def text_of(cell):
    """What a cell printed."""
    return "".join(o.get("text", "") for o in cell.outputs)


def problems(notebook, folder=NOTEBOOKS):
    """All that is wrong with a notebook as a file; nothing in a good one."""
    cells, words = code(notebook), prose(notebook)
    yield from (
        f"no {part} in the first cell" for part in SECTIONS if part not in words[0]
    )
    if "**Recap**" not in words[-1] and "## Recap" not in words[-1]:
        yield "the last text is no recap"
    if (count := len(" ".join(words).split())) > 2500:
        yield f"{count} words, more than 2,500"
    if len(cells) > 30:
        yield f"{len(cells)} code cells, more than 30"
    if cells[0].source.count("\n") > 2:
        yield "the set-up cell has more than 3 lines"
    for link in re.findall(r"\]\(([\w./-]+\.(?:ipynb|md|py|png))\)", " ".join(words)):
        if not (folder / link).exists():
            yield f"dead link {link}"
    for cell in cells:
        yield from cell_problems(cell)
    pictures = sum("image/png" in o.get("data", {}) for c in cells for o in c.outputs)
    described = " ".join(words).count("*Figure:")
    if described < pictures:
        yield f"{pictures} pictures, but {described} descriptions (*Figure: ...*)"
    if pictures < 2:
        yield "fewer than two figures"


def cell_problems(cell):
    """What nbval would let pass in a code cell."""
    head = cell.source.strip().splitlines()[0] if cell.source.strip() else "empty cell"
    if cell.execution_count is None:
        yield f"never executed: {head}"
    if cell.source.count("\n") > 27:
        yield f"more than 25 lines: {head}"
    for line in cell.source.splitlines():
        if line.startswith(("%", "!")) or line.rstrip().endswith(";"):
            yield f"a magic, a shell command or a semicolon: {line}"
    if any(o.output_type == "error" or o.get("name") == "stderr" for o in cell.outputs):
        yield f"an error or a warning is stored: {head}"
    if CHECKED in cell.metadata.get("tags", []):
        if not text_of(cell).strip():
            yield f"checked, but nothing is stored: {head}"
        if RAW_FLOAT.search(text_of(cell)):
            yield f"checked, but prints raw floats: {head}"


@every
def test_notebook_keeps_the_rules(name):
    assert list(problems(make.read(NOTEBOOKS / f"{name}.ipynb"))) == []


@every
def test_student_notebook_is_made_from_its_solution(name):
    made = make.student(make.read(NOTEBOOKS / "solutions" / f"{name}.ipynb"))
    stored = make.read(NOTEBOOKS / f"{name}.ipynb")
    assert len(made.cells) == len(stored.cells)
    for new, old in zip(made.cells, stored.cells, strict=True):
        assert new.source == old.source, "run: python notebooks/make.py build " + name
        assert new.metadata.get("tags") == old.metadata.get("tags")


@every
def test_source_on_view_is_the_modules(name):
    """A module that changed makes what a notebook shows of it a thing of the past."""
    package = (NOTEBOOKS.parent / "lemur_mini").rglob("*.py")
    lines = {x.strip() for path in package for x in path.read_text("utf-8").split("\n")}
    for cell in code(make.read(NOTEBOOKS / f"{name}.ipynb")):
        for output in cell.outputs:
            text = output.get("data", {}).get("text/markdown", "")
            if text.startswith("```python"):
                old = [x for x in text.split("\n")[1:-1] if x.strip() not in lines]
                assert not old, f"run: python notebooks/make.py build {name}"


def verdicts(notebook):
    """What its check cells say, one for each exercise."""
    printed = "".join(map(text_of, code(notebook)))
    return re.findall(r"^Exercise \S+: (.*)$", printed, flags=re.MULTILINE)


@every
def test_every_exercise_is_unsolved_as_shipped(name):
    found = verdicts(make.read(NOTEBOOKS / f"{name}.ipynb"))
    assert 3 <= len(found) <= 5
    assert all(verdict == "not solved yet" for verdict in found), found


@every
def test_solution_was_executed_and_is_right(name):
    solution = make.read(NOTEBOOKS / "solutions" / f"{name}.ipynb")
    wrong = [p for cell in code(solution) for p in cell_problems(cell)]
    # a cell with solution, mistake and what is to do may be longer than students' are
    assert [p for p in wrong if "more than 25 lines" not in p] == [], "make.py build"
    found = verdicts(solution)
    assert 3 <= len(found) <= 5
    assert all(verdict.startswith("right") for verdict in found), found


def both_ways(solution):
    """The notebook with every exercise solved twice: first by its common mistake,
    then right, each followed by the check."""
    cells, waiting = [], None
    for cell in solution.cells:
        if make.EXERCISE.search(cell.source):
            waiting = cell
            cells.append(v4.new_code_cell(make.filled(cell.source, "wrong")))
        elif waiting is not None and "course.exercise(" in cell.source:
            cells += [cell.copy(), waiting, cell]
            waiting = None
        else:
            cells.append(cell)
    assert waiting is None, "an exercise has no check cell"
    cells = [NotebookNode(c.copy() | {"id": f"c{k}"}) for k, c in enumerate(cells)]
    return v4.new_notebook(cells=cells, metadata=make.METADATA)


@pytest.mark.slow
@every
def test_checks_tell_solutions_from_common_mistakes(name):
    notebook = both_ways(make.read(NOTEBOOKS / "solutions" / f"{name}.ipynb"))
    found = [verdict.split()[0] for verdict in verdicts(make.execute(notebook))]
    wrong, right = found[::2], found[1::2]
    assert right == ["right"] * len(right)
    assert all(verdict.startswith("not") for verdict in wrong), wrong


GOOD = """
# %% [markdown]
# **Goals** **Prerequisites** **Minutes** *Figure: one* *Figure: two*

# %%
import matplotlib.pyplot as plt

# %%
_ = plt.subplots(), plt.subplots()

# %% tags: nbval-check-output
print(2 + 2)

# %% [markdown]
# **Recap**
"""


def executed(text):
    return make.tidy(make.execute(make.from_text(text)))


def nbval(notebook, folder):
    """Exit code of the notebook command on one notebook."""
    nbformat.write(notebook, folder / "copy.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-c", "pyproject.toml", str(folder / "copy.ipynb")]
    return subprocess.run(command, capture_output=True, cwd=NOTEBOOKS.parent).returncode


def test_a_good_notebook_passes(tmp_path):
    good = executed(GOOD)
    assert list(problems(good)) == []
    assert nbval(good, tmp_path) == 0


def test_a_wrong_number_in_a_checked_cell_fails(tmp_path):
    broken = executed(GOOD)
    code(broken)[-1].outputs[0]["text"] = "5\n"
    assert nbval(broken, tmp_path) == 1


def test_an_exception_in_a_cell_fails(tmp_path):
    broken = executed(GOOD)
    code(broken)[0].source += "\nraise ValueError('broken')"
    assert nbval(broken, tmp_path) == 1


def test_a_missing_output_fails():
    broken = executed(GOOD)
    code(broken)[-1].outputs = []
    assert any("nothing is stored" in p for p in problems(broken))
    code(broken)[-1].execution_count = None
    assert any("never executed" in p for p in problems(broken))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("**Goals**", "goals"), "no **Goals**"),
        (("**Recap**", "the end"), "no recap"),
        (("*Figure: two*", ""), "descriptions"),
        (("*Figure: two*", "*Figure: two* [x](gone.ipynb)"), "dead link gone.ipynb"),
        (("*Figure: two*", "*Figure: two* " + "word " * 2500), "words"),
        (("_ = plt.subplots(), plt.subplots()", "pass"), "fewer than two figures"),
        (("print(2 + 2)", "print(2 / 7)"), "raw floats"),
        (("print(2 + 2)", "print(2 + 2);"), "semicolon"),
        (("print(2 + 2)", "import warnings\nwarnings.warn('x')\nprint(4)"), None),
    ],
)
def test_problems_are_named(change, message):
    found = list(problems(executed(GOOD.replace(*change))))
    assert found == [] if message is None else any(message in p for p in found)


def test_text_and_notebook_are_the_same_thing():
    notebook = make.from_text(GOOD)
    again = make.from_text(make.to_text(notebook))
    assert [c.source for c in again.cells] == [c.source for c in notebook.cells]
    assert again.cells[3].metadata["tags"] == [CHECKED]


SOLVED = """def area(x):
    # BEGIN SOLUTION
    return x * x
    # A COMMON MISTAKE
    # return 2 * x
    # TO DO
    # return ...  # your turn
    # END SOLUTION"""


def test_students_find_what_is_left_to_do():
    assert make.filled(SOLVED, "todo") == "def area(x):\n    return ...  # your turn"
    assert make.filled(SOLVED, "wrong") == "def area(x):\n    return 2 * x"
