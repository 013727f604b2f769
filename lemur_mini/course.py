"""What the notebooks share: the platform, shipped models, source on view, exercises.

`python -m lemur_mini.course check` says whether this machine is ready for them."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from functools import cache

from lemur_mini import environment

try:
    import torch
    from IPython.display import Markdown, display
    from matplotlib.figure import Figure

    from lemur_mini import exercises, pipeline, plots
    from lemur_mini.config import CLASSROOM
    from lemur_mini.files import DATA
    from lemur_mini.serving.ranker import Ranker
    from lemur_mini.world import Platform
    from lemur_mini.world.config import WorldConfig
except ModuleNotFoundError as missing:
    raise environment.MissingPackage(missing.name) from missing

SHIPPED = DATA / "models"  # of the main command, seed 0, without optimisers


@cache
def open_platform() -> pipeline.Prepared:
    """The shipped data set on the CPU, and the house style for all figures."""
    plots.house_style()
    return pipeline.prepare(DATA, CLASSROOM, torch.device("cpu"))


@cache
def truth() -> Platform:
    """The platform before its first day: hidden factors of users and documents, which
    no model sees. Row i of `truth().documents` is row i of the catalogue."""
    return Platform(WorldConfig(), seed=0)


def shipped(name: str) -> Ranker:
    """A trained ranker that lies beside the data: "lemur" or "rankmixer_longer"."""
    return Ranker.load(SHIPPED / f"{name}.safetensors", open_platform())


def show(*things: type | Callable) -> None:
    """The module's own source of classes, functions or methods, never a copy."""
    for thing in things:
        source = textwrap.dedent(inspect.getsource(thing)).rstrip()
        display(Markdown(f"```python\n{source}\n```"))


def page(rows, captions: list[str] | None = None, title: str = "") -> Figure:
    """The covers of documents (catalogue rows) with their captions, or their rows."""
    images = [open_platform().dataset.images[int(row)] for row in rows]
    captions = [f"document {row}" for row in rows] if captions is None else captions
    return plots.covers(images, captions, title)


def exercise(
    name: str,
    answer: Callable[[], object],
    right: Callable[[object], bool] | None = None,
    hint: str = "",
    **given: object,
) -> None:
    """Look at an answer and say what is to be said; never stop the notebook.

    `answer()` gives what the reader wrote, `...` while it is unwritten. What is right
    and which mistakes are typical is known of most exercises by name; `given` is what
    they need of the notebook. Else `right(value)` says whether the answer is right, and
    `hint` helps where it is not."""
    if right is None:
        print(f"Exercise {name}: {exercises.judge(name, answer, given)}")
        return
    try:
        value = answer()
        verdict = "not solved yet" if value is ... else ""
        verdict = verdict or ("right" if bool(right(value)) else f"not yet. {hint}")
    except Exception as error:  # whatever the reader's code may do
        verdict = f"not yet: {type(error).__name__}: {error}. {hint}"
    print(f"Exercise {name}: {verdict}")


def main(arguments: list[str] | None = None) -> int:
    """Say whether all is here that the course needs. Returns the exit code: 0 if so, 1
    if not, 2 for a command that there is not."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments != ["check"]:
        print("usage: python -m lemur_mini.course check", file=sys.stderr)
        return 2
    text, enough = environment.report()
    print(text)
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
