"""The notebooks as files. `pytest notebooks` executes them; notebooks/check.py says
what must hold then, and is tested here."""

import ast
import copy
import json
import re
import subprocess
import symtable
import sys

import check
import make
import nbformat
import pytest
from check import CHECKED, head, said, verdicts
from nbclient.exceptions import CellExecutionError
from nbformat import v4

NOTEBOOKS = make.HERE
SECTIONS = ("**Goals**", "**Prerequisites**", "**Minutes**")
RAW_FLOAT = re.compile(r"\d\.\d{2,}")

NAMES = make.names()
every = pytest.mark.parametrize("name", NAMES)


def student(name):
    return make.read(NOTEBOOKS / f"{name}.ipynb")


def solution(name):
    return make.read(NOTEBOOKS / "solutions" / f"{name}.ipynb")


def code(notebook):
    """The code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    """All the text, cell after cell."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


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
    if len([line for line in cells[0].source.split("\n") if line]) > 3:
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
    """What is wrong with a code cell as it is stored."""
    if cell.execution_count is None:
        yield f"never executed: {head(cell)}"
    if cell.source.count("\n") > 27:
        yield f"more than 25 lines: {head(cell)}"
    for line in cell.source.splitlines():
        if line.startswith(("%", "!")) or line.rstrip().endswith(";"):
            yield f"a magic, a shell command or a semicolon: {line}"
    if any(o.output_type == "error" or o.get("name") == "stderr" for o in cell.outputs):
        yield f"an error or a warning is stored: {head(cell)}"
    if CHECKED in cell.metadata.get("tags", []):
        yield from checked_problems(cell)


def checked_problems(cell):
    """What is wrong with a cell whose output every execution must repeat."""
    if not said(cell).strip():
        yield f"checked, but nothing is stored: {head(cell)}"
    if RAW_FLOAT.search(said(cell)):
        yield f"checked, but prints raw floats: {head(cell)}"
    if any(o.output_type != "stream" for o in cell.outputs):
        yield f"checked, but shows what is not compared: {head(cell)}"


@every
def test_notebook_keeps_the_rules(name):
    assert list(problems(student(name))) == []


@every
def test_student_notebook_is_made_from_its_solution(name):
    made, stored = make.student(solution(name)), student(name)
    assert len(made.cells) == len(stored.cells)
    for new, old in zip(made.cells, stored.cells, strict=True):
        assert new.source == old.source, "run: python notebooks/make.py build " + name
        assert new.metadata.get("tags") == old.metadata.get("tags")


@every
def test_minutes_are_those_that_are_counted(name):
    head = student(name).cells[0].source
    if "exercises about" in head:  # others were not built since they are counted
        seconds = json.loads(make.COSTS.read_text("utf-8"))[name]["seconds"]
        told = f"run: python notebooks/make.py minutes {name}"
        assert make.minutes(solution(name), seconds) in head, told


@every
def test_source_on_view_is_the_modules(name):
    """A module that changed makes what a notebook shows of it a thing of the past."""
    package = (NOTEBOOKS.parent / "lemur_mini").rglob("*.py")
    lines = {x.strip() for path in package for x in path.read_text("utf-8").split("\n")}
    for cell in code(student(name)):
        for output in cell.outputs:
            text = output.get("data", {}).get("text/markdown", "")
            if text.startswith("```python"):
                old = [x for x in text.split("\n")[1:-1] if x.strip() not in lines]
                assert not old, f"run: python notebooks/make.py build {name}"


@every
def test_every_exercise_is_unsolved_as_shipped(name):
    found = verdicts(student(name))
    assert 3 <= len(found) <= 5
    assert all(verdict == "not solved yet" for verdict in found), found


@every
def test_solution_was_executed_and_is_right(name):
    wrong = [p for cell in code(solution(name)) for p in cell_problems(cell)]
    # a cell with solution, mistake and what is to do may be longer than students' are
    assert [p for p in wrong if "more than 25 lines" not in p] == [], "make.py build"
    found = verdicts(solution(name))
    assert 3 <= len(found) <= 5
    assert all(verdict.startswith("right") for verdict in found), found


def bound(source):
    """Names that top-level statements bind, with the statements that bind them."""
    out = {}
    for statement in ast.parse(source).body:
        names = symtable.symtable(ast.unparse(statement), "cell", "exec").get_symbols()
        for name in (s.get_name() for s in names if s.is_assigned()):
            out.setdefault(name, []).append(ast.unparse(statement))
    return out


def read_by(source):
    """Global names that a cell may read, its functions included."""
    tables, out = [symtable.symtable(source, "cell", "exec")], set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        top = table.get_type() == "module"
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (top or symbol.is_global()):
                out.add(symbol.get_name())
    return out


@every
def test_nothing_depends_on_whether_an_exercise_is_solved(name):
    """One execution can then stand for both notebooks: what the variants of an exercise
    bind differently, no cell reads but its check."""
    cells = solution(name).cells
    for number, cell in enumerate(cells):
        if make.EXERCISE.search(cell.source):
            ways = [bound(make.filled(cell.source, part)) for part in check.STARTS]
            own = {
                x for way in ways for x in way if len({str(w.get(x)) for w in ways}) > 1
            }
            for later in cells[number + 2 :]:
                if later.cell_type == "code":
                    assert not own & read_by(later.source), head(later)


# --- the tests' own tools -------------------------------------------------------------

GOOD = """\
# %% [markdown]
# **Goals** **Prerequisites** **Minutes** *Figure: one* *Figure: two*

# %%
class course:
    @staticmethod
    def exercise(name, verdict):
        print(f"Exercise {name}: {verdict}")

# %%
import matplotlib.pyplot as plt

_ = plt.subplots(), plt.subplots()

# %% tags=["nbval-check-output"]
print(2 + 2)

# %%
# BEGIN SOLUTION
answer = "right"
# A COMMON MISTAKE
# answer = "not yet. Think."
# TO DO
# answer = "not solved yet"  # your turn
# END SOLUTION

# %% tags=["nbval-check-output"]
course.exercise("1", answer)

# %% [markdown]
# **Recap**
"""


@pytest.fixture(scope="module")
def executed():
    """The good notebook's text as a solution, and what its one execution gave."""
    made = make.from_text(GOOD)
    return made, make.execute(make.merged(made))


@pytest.fixture
def good(executed):
    """The same, cut and stored, for a test to spoil."""
    made, ran = copy.deepcopy(executed)
    return made, ran, make.cut(made, make.tidy(copy.deepcopy(ran)))


def complaints(made, ran, found):
    stored = {part: found[part] for part in ("todo", "right")}
    return [*check.noise(ran), *check.differences(made, stored, ran)]


def cell_of(notebook, text):
    return next(cell for cell in code(notebook) if text in cell.source)


def test_a_good_notebook_passes(good):
    made, ran, found = good
    assert complaints(made, ran, found) == []
    assert list(problems(found["todo"])) == ["the set-up cell has more than 3 lines"]
    assert [c.source for c in found["right"].cells] == [c.source for c in made.cells]
    assert [c.source for c in found["todo"].cells] == [
        c.source for c in make.student(made).cells
    ]
    counts = [cell.execution_count for cell in code(found["todo"])]
    assert counts == list(range(1, len(counts) + 1))


def test_a_wrong_number_in_a_checked_cell_is_told(good):
    made, ran, found = good
    cell_of(found["todo"], "2 + 2").outputs[0].text = "5\n"
    (told,) = complaints(made, ran, found)
    assert "todo, print(2 + 2): stored '5\\n', now '4\\n'" in told


@pytest.mark.parametrize(
    ("part", "verdict"),
    [("todo", "right"), ("wrong", "right"), ("right", "not yet. Think.")],
)
def test_a_check_that_says_the_wrong_thing_is_told(good, part, verdict):
    made, ran, _ = good
    for (_, filling), cell in zip(make.parts(made), ran.cells, strict=True):
        if filling == part and make.CHECK in cell.source:
            cell.outputs[0].text = f"Exercise 1: {verdict}\n"
    told = complaints(made, ran, make.cut(made, ran))
    assert told == [f"an exercise filled with its {part!r} part is: {verdict}"]


def test_warnings_are_told(good):
    made, ran, found = good
    bar = v4.new_output("stream", name="stderr", text="training: 100%")
    code(ran)[1].outputs.append(bar)
    assert complaints(made, ran, found) == []
    code(ran)[0].outputs.append(bar)
    assert any("training" in told for told in complaints(made, ran, found))
    code(ran)[0].outputs = []
    code(ran)[1].outputs[-1].text = "x.py:1: UserWarning: careful"
    assert any("careful" in told for told in complaints(made, ran, found))


def test_an_exception_in_a_cell_fails():
    with pytest.raises(CellExecutionError, match="broken"):
        make.execute(make.from_text("# %%\nraise ValueError('broken')"))


def test_an_exercise_without_a_check_is_refused():
    text = GOOD.replace('course.exercise("1", answer)', "print(answer)")
    with pytest.raises(ValueError, match="does not check"):
        make.parts(make.from_text(text))


def test_a_missing_output_is_told(good):
    notebook = good[2]["todo"]
    cell_of(notebook, "2 + 2").outputs = []
    assert any("nothing is stored" in p for p in problems(notebook))
    cell_of(notebook, "2 + 2").execution_count = None
    assert any("never executed" in p for p in problems(notebook))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("**Goals**", "goals"), "no **Goals**"),
        (("**Recap**", "the end"), "no recap"),
        (("*Figure: two*", ""), "descriptions"),
        (("*Figure: two*", "*Figure: two* [x](gone.ipynb)"), "dead link gone.ipynb"),
        (("*Figure: two*", "*Figure: two* " + "word " * 2500), "words"),
        (("print(2 + 2)", "print(2 + 2);"), "semicolon"),
    ],
)
def test_problems_of_text_are_named(good, change, message):
    notebook = good[2]["todo"]
    for cell in notebook.cells:
        cell.source = cell.source.replace(*change)
    assert any(message in problem for problem in problems(notebook))


def test_problems_of_outputs_are_named(good):
    notebook = good[2]["todo"]
    cell_of(notebook, "2 + 2").outputs[0].text = "0.2857\n"
    cell_of(notebook, "subplots").outputs = []
    told = " ".join(problems(notebook))
    assert "raw floats" in told and "fewer than two figures" in told


def test_minutes_are_counted_from_words_lines_and_seconds():
    text = GOOD.replace("**Minutes**", "word " * 1485) + "\n# " + "word " * 15
    told = make.minutes(make.from_text(text), 100.0)
    assert told.startswith("**Minutes** reading about 15, exercises about 5, running")
    assert "running about 2 on" in told


def test_text_and_notebook_are_the_same_thing():
    notebook = make.from_text(GOOD)
    again = make.from_text(make.to_text(notebook))
    assert [c.source for c in again.cells] == [c.source for c in notebook.cells]
    assert cell_of(again, "2 + 2").metadata["tags"] == [CHECKED]


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


def test_names_that_a_cell_binds_and_reads():
    bindings = bound("a = b\ndef f(c):\n    d = c\nfor e in a: pass")
    assert set(bindings) == {"a", "f", "e"}
    assert read_by("a = 1\ndef f(b):\n    return b + c") == {"c"}


def under_nbval(notebook, folder):
    """Exit code of nbval on one notebook, as anybody would call it."""
    nbformat.write(notebook, folder / "copy.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["--nbval-lax", "-c", "pyproject.toml", str(folder / "copy.ipynb")]
    return subprocess.run(command, capture_output=True, cwd=NOTEBOOKS.parent).returncode


@pytest.mark.slow
def test_nbval_reads_our_notebooks_and_their_tags(good, tmp_path):
    notebook = good[2]["todo"]
    assert under_nbval(notebook, tmp_path) == 0
    checked = [c for c in code(notebook) if CHECKED in c.metadata.get("tags", [])]
    checked[0].outputs[0]["text"] = "5\n"
    assert under_nbval(notebook, tmp_path) == 1
