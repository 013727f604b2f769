"""Command lines made from dataclasses, whose complaints fit on one line."""

from __future__ import annotations

import io
from contextlib import redirect_stderr

import tyro


class OptionError(ValueError):
    """A command line that cannot be used; the message says which option."""


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
