"""Grade a class: python notebooks/teaching/grade.py FOLDER --out grades.csv

FOLDER holds one notebook a student, of any notebook of the course, under any name. Only
what stands in exercises' cells is taken from it; all else is the course's own, so that
nobody's check says what its author wants. The course's cells run once; at each exercise
every student's answer runs in a process of its own, with a limit of time and memory.
Whatever a student's code does, the others are graded.

The file has a line for every student and exercise: `right`, `not yet` with the hint for
this mistake, `not solved yet`, or `broken` with the reason. Needs Linux or macOS."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
import re
import resource
import selectors
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import make  # noqa: E402  (the course's notebooks, beside this folder)
from check import VERDICT  # noqa: E402
from nbformat import NotebookNode  # noqa: E402

CHECK = re.compile(r"course\.exercise\(\s*[\"'](\d+\.\d+)[\"']")
GRADES = ("right", "not yet", "not solved yet", "broken")
FIELDS = ("student", "notebook", "exercise", "grade", "said")
BROKEN = "broken: "
MEMORY = 2**32  # bytes, of one answer


class Unreadable(Exception):
    """A file that cannot be graded; the message says why."""


def checks(notebook: NotebookNode) -> dict[str, int]:
    """Exercise -> place of its check among the code cells."""
    found = {}
    for place, cell in enumerate(code(notebook)):
        if match := CHECK.search(cell.source):
            found.setdefault(match[1], place)
    return found


def code(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def answers(path: Path) -> dict[str, str]:
    """Exercise -> what the student wrote: the code cell before its check. Raises
    Unreadable."""
    try:
        notebook = make.read(path)
    except Exception as error:
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise Unreadable(f"no notebook ({reason})") from error
    cells = code(notebook)
    found = {n: cells[at - 1].source for n, at in checks(notebook).items() if at}
    if not found:
        raise Unreadable("holds no exercise of the course")
    return found


def notebook_for(exercises: set[str]) -> str:
    """The name of the notebook that most of these exercises belong to."""
    number, _ = Counter(name.split(".")[0] for name in exercises).most_common(1)[0]
    names = [name for name in make.names() if int(name[:2]) == int(number)]
    if not names:
        raise Unreadable(f"exercises {number}.x belong to no notebook of the course")
    return names[0]


def grade(
    notebook: NotebookNode, class_: dict[str, dict[str, str]], seconds: float = 30
) -> Iterator[tuple[str, str, str]]:
    """Student, exercise and what is said, in the notebook's order. class_: student ->
    `answers`. seconds: that one answer and its check may take."""
    cells, space = code(notebook), {"__name__": "__main__"}
    places = {at: name for name, at in checks(notebook).items()}
    for at, cell in enumerate(cells):
        if at in places:
            name = places[at]
            for student, given in class_.items():
                if name in given:
                    said = attempt(given[name], cell.source, space, seconds)
                else:
                    said = BROKEN + "the exercise, or its check, is not in the file"
                yield student, name, said
        run(cell.source, space, f"cell {at}")


def run(source: str, space: dict, name: str) -> None:
    """Execute a cell's source in a name space."""
    exec(compile(source, name, "exec"), space)  # noqa: S102  (that is what is asked)


def attempt(answer: str, check: str, space: dict, seconds: float) -> str:
    """What the check says of an answer, in a copy of this process."""
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.close(read)
        _in_child(answer, check, space, write)
    os.close(write)
    said = _listen(read, seconds)
    if said is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # and whatever it started
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(read)
    if said is None:
        return f"{BROKEN}not done after {seconds:g} seconds"
    return said or f"{BROKEN}its process ended ({os.waitstatus_to_exitcode(status)})"


def _in_child(answer: str, check: str, space: dict, write: int) -> None:
    """Never returns; writes what is to be said."""
    said, heard = "", io.StringIO()
    try:
        os.setsid()
        _bound_memory()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with contextlib.redirect_stdout(io.StringIO()):
            run(answer, space, "the answer")
        with contextlib.redirect_stdout(heard):
            run(check, space, "the check")
        found = VERDICT.findall(heard.getvalue())
        said = found[-1] if found else f"{BROKEN}the check says nothing"
    except BaseException as error:  # whatever a student's code may raise
        said = f"{BROKEN}{type(error).__name__}: {error}"
    finally:
        os.write(write, said.encode()[:4000])
        os._exit(0)


def _bound_memory() -> None:
    """MEMORY more than the course's own cells took, where the system says how much."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _listen(read: int, seconds: float) -> str | None:
    """What comes through a pipe until it is closed; None where that takes too long."""
    said, until = b"", time.monotonic() + seconds
    with selectors.DefaultSelector() as waiting:
        waiting.register(read, selectors.EVENT_READ)
        while waiting.select(max(0.0, until - time.monotonic())):
            part = os.read(read, 4096)
            if not part:
                return said.decode(errors="replace")
            said += part
    return None


def grade_of(said: str) -> str:
    """One of GRADES."""
    return next(name for name in (*GRADES[2:], *GRADES) if said.startswith(name))


def grade_folder(folder: Path, seconds: float = 30) -> Iterator[dict]:
    """Lines for the file. Raises FileNotFoundError for a folder without notebooks."""
    paths = sorted(folder.glob("*.ipynb"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no *.ipynb in it; put one a student there")
    classes: dict[str, dict] = {}
    for path in paths:
        line = {"student": path.stem, "notebook": "", "exercise": ""}
        try:
            found = answers(path)
            classes.setdefault(notebook_for(set(found)), {})[path.stem] = found
        except Unreadable as error:
            yield line | {"grade": "broken", "said": str(error)}
    os.environ |= {make.PARTS: "", "MPLBACKEND": "agg"}
    os.chdir(make.HERE)
    for name, class_ in sorted(classes.items()):
        shown = make.read(make.HERE / f"{name}.ipynb")
        with contextlib.redirect_stdout(io.StringIO()):
            _alone()
            lines = list(grade(shown, class_, seconds))
        for student, exercise, said in lines:
            line = {"student": student, "notebook": name, "exercise": exercise}
            yield line | {"grade": grade_of(said), "said": said.removeprefix(BROKEN)}


def _alone() -> None:
    """One thread: a process that has several cannot be copied safely."""
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)


def summary(lines: list[dict]) -> str:
    """By exercise: how many are right, and the hints that were given most."""
    out = []
    for exercise in dict.fromkeys(line["exercise"] for line in lines):
        mine = [line for line in lines if line["exercise"] == exercise]
        count = Counter(line["grade"] for line in mine)
        shares = ", ".join(f"{count[g]} {g}" for g in GRADES if count[g])
        out.append(f"{exercise or 'unreadable':10} {shares}")
        hints = Counter(x["said"] for x in mine if x["grade"] in ("not yet", "broken"))
        out += [f"{'':10} {n} x {said[:110]}" for said, n in hints.most_common(2)]
    return "\n".join(out)


def main(arguments: list[str] | None = None) -> int:
    """Grade a folder, write the file, print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("grades.csv"))
    parser.add_argument("--seconds", type=float, default=30, help="for one answer")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    try:
        lines = list(grade_folder(options.folder.resolve(), options.seconds))
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(sorted(lines, key=lambda line: line["student"]))
    print(summary(lines))
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
