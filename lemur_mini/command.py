"""Command lines made from dataclasses, whose complaints fit on one line."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import wraps

import tyro

from lemur_mini.errors import Mendable


class OptionError(Mendable, ValueError):
    """A command line that cannot be used; the message says which option."""


# libraries raise the other two: a hub that is not there, numbers that are none
ONE_LINE = (Mendable, ConnectionError, FloatingPointError)


def in_one_line(main: Callable) -> Callable[..., int]:
    """A command that says what the reader can mend in one line and exits with 2, or,
    at Ctrl-C, with 130; what it returns else is its exit code, None is 0."""

    @wraps(main)
    def command(*arguments, **options) -> int:
        try:
            return main(*arguments, **options) or 0
        except ONE_LINE as error:
            print(f"lemur_mini: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("\nstopped; results that are written are kept", file=sys.stderr)
            return 130

    return command


def parse(kind: type, arguments: list[str] | None, *, prog: str, default=None):
    """A dataclass from the command line, every field an option, nested ones too.

    Prints help and exits where it is asked for. Raises OptionError."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(kind, args=arguments, prog=prog, default=default)
    except SystemExit as stopped:
        if not stopped.code:
            raise
    raise OptionError(f"{_first_words(said.getvalue())}; {prog} --help lists all")


def _first_words(box: str) -> str:
    """What tyro says inside its frame, up to the first rule."""
    words: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip("│╭╮╰╯ ")
        if text and not text.strip("─"):
            break
        words.append(text)
    return " ".join(" ".join(words).split())
