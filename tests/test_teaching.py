"""The teacher's room: pages are made from the notebooks, and a class is graded,
whatever it hands in."""

import copy
import csv
import json
import re
import sys

import make
import nbformat
import pytest

sys.path.insert(0, str(make.HERE / "teaching"))
import room as teaching  # noqa: E402

if sys.platform != "win32":
    import grade

forks = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")

COURSE = """\
# %% [markdown]
# A notebook of three exercises

# %%
class course:
    @staticmethod
    def exercise(name, answer, wanted):
        value = answer()
        found = "right" if value == wanted else "not yet. Add them up."
        found = "not solved yet" if value is ... else found
        print(f"Exercise {name}: {found}")

# %%
total = ...

# %%
course.exercise(
    "3.1", lambda: total, 6
)

# %%
# the course's own way on
total = 6

# %%
def double(x):
    return ...

# %%
course.exercise("3.2", lambda: double(total), 12)
"""
RIGHT = {"3.1": "total = 1 + 2 + 3", "3.2": "def double(x):\n    return 2 * x"}


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A course of one notebook, and a folder for what is handed in."""
    notebook = make.from_text(COURSE)
    nbformat.write(notebook, tmp_path / "03_sums.ipynb")
    monkeypatch.setattr(make, "HERE", tmp_path)
    monkeypatch.setattr(make, "names", lambda: ["03_sums"])
    monkeypatch.setattr(grade, "_alone", lambda: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "class").mkdir()

    def hand_in(student, written, drop=()):
        new = copy.deepcopy(notebook)
        for name, at in grade.checks(new).items():
            grade.code(new)[at - 1].source = written.get(name, "total = ...")
        new.cells = [c for c in new.cells if not any(d in c.source for d in drop)]
        nbformat.write(new, tmp_path / "class" / f"{student}.ipynb")

    return tmp_path, hand_in


def graded(room, capsys, *more):
    code = grade.main([str(room / "class"), "--out", str(room / "out.csv"), *more])
    with (room / "out.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    found = {(x["student"], x["exercise"]): (x["grade"], x["said"]) for x in lines}
    return code, found, capsys.readouterr().out


@forks
def test_a_class_with_everything_that_can_go_wrong(room, capsys):
    folder, hand_in = room
    hand_in("ada", RIGHT)
    hand_in("bob", {"3.1": "total = 7", "3.2": "def double(x):\n    return x"})
    hand_in("cyd", {})
    hand_in("dan", {"3.1": "while True:\n    pass", "3.2": RIGHT["3.2"]})
    hand_in("eve", {"3.1": "import os\nos._exit(3)", "3.2": "raise KeyError(5)"})
    hand_in("fay", {"3.1": "total = (", "3.2": "x = bytearray(2 ** 36)"})
    hand_in("gus", RIGHT, drop=('"3.2"',))
    hand_in("hal", {"3.1": "print('Exercise 3.1: right')", "3.2": "course = None"})
    (folder / "class" / "ian.ipynb").write_text("not json", "utf-8")
    nbformat.write(nbformat.v4.new_notebook(), folder / "class" / "joe.ipynb")
    code, found, printed = graded(folder, capsys, "--seconds", "1")
    assert code == 0 and len(found) == 8 * 2 + 2
    assert [found["ada", n][0] for n in RIGHT] == ["right", "right"]
    assert found["bob", "3.1"] == ("not yet", "not yet. Add them up.")
    assert found["bob", "3.2"][0] == "not yet"
    assert found["cyd", "3.1"][0] == "not solved yet"
    assert found["dan", "3.1"] == ("broken", "not done after 1 seconds")
    assert found["dan", "3.2"][0] == "right"  # one exercise spoils no other
    assert found["eve", "3.1"][0] == "broken" and "(3)" in found["eve", "3.1"][1]
    assert "KeyError" in found["eve", "3.2"][1]
    assert "SyntaxError" in found["fay", "3.1"][1]
    assert found["fay", "3.2"][0] == "broken"  # 64 GB are more than it may have
    assert found["gus", "3.1"][0] == "right"
    assert "is not in the file" in found["gus", "3.2"][1]
    assert found["hal", "3.1"][0] != "right"  # only the check is heard
    assert found["hal", "3.2"][0] == "broken"
    assert found["ian", ""][0] == found["joe", ""][0] == "broken"
    assert "no notebook" in found["ian", ""][1] and "no exercise" in found["joe", ""][1]
    assert "2 right" in printed and "Add them up." in printed


@forks
def test_an_empty_folder_is_said(room, capsys):
    folder, _ = room
    assert grade.main([str(folder / "class")]) == 2
    assert "no *.ipynb" in capsys.readouterr().err


@pytest.mark.parametrize("path", teaching.pages(), ids=lambda path: path.name)
def test_pages_are_made_from_their_sources(path):
    assert path.read_text("utf-8") == teaching.pages()[path], "run: room.py pages"


def test_every_notebook_has_a_quiz_and_a_line_in_the_guide():
    asked = json.loads((teaching.HERE / "quiz.json").read_text("utf-8"))
    assert list(asked) == make.names()
    for questions in asked.values():
        assert len(questions) >= 3
        for question in questions:
            assert len(set(question["choices"])) == len(question["choices"]) == 3
            assert 0 <= question["right"] < 3 and question["why"]
    guide = (teaching.HERE / "README.md").read_text("utf-8")
    assert all(f"{name[:2]}.**" in guide or name[:2] in "101112" for name in asked)
    assert len(guide.split()) < 2500
    for link in re.findall(r"\]\(([\w./-]+)\)", guide):
        assert (teaching.HERE / link).exists(), link


def test_students_see_no_key():
    student, key = teaching.quiz(key=False), teaching.quiz(key=True)
    assert "**a)" not in student and not re.search(r"- [abc]\) \*\*", student)
    assert len(re.findall(r"- [abc]\) \*\*", key)) == student.count("\n**")
    letters = re.findall(r"- ([abc])\) \*\*", key)
    assert max(letters.count(x) for x in "abc") < 0.6 * len(letters)


def test_a_deck_has_every_section_and_picture():
    deck = teaching.slides("03_sqdc")
    shown = make.read(make.HERE / "03_sqdc.ipynb")
    pictures = [
        o
        for c in shown.cells
        for o in c.get("outputs", [])
        if "image/png" in o.get("data", {})
    ]
    assert deck.count("<img alt=") == len(pictures) >= 2
    assert 'alt=""' not in deck and "http" not in deck.split("<body>")[0]
    heads = teaching.SECTION.findall("\n".join(c.source for c in shown.cells))
    assert all(
        f"<h2>{teaching._inline(h)}</h2>" in deck for h in heads if h != "Exercises"
    )


def test_a_recall_copy_keeps_code_and_exercises_and_no_prose():
    made = teaching.recall("03_sqdc")
    text = "\n".join(c.source for c in made.cells if c.cell_type == "markdown")
    assert "### Exercise 3.1" in text and "**Goals**" not in text
    prose = sum(len(c.source) for c in make.read(make.HERE / "03_sqdc.ipynb").cells)
    assert len(text) < 0.3 * prose
    assert [c.source for c in made.cells if c.cell_type == "code"] == [
        c.source
        for c in make.read(make.HERE / "03_sqdc.ipynb").cells
        if c.cell_type == "code"
    ]
