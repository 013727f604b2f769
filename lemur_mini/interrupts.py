"""Ctrl-C and SIGTERM, heard at the end of a step: what was trained is not lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HEARD = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Training was told to stop, and did. `saved`: the checkpoint of that step, or
    None; `code`: what a command exits with, 130 for Ctrl-C and 143 for SIGTERM."""

    def __init__(self, number: int, saved: Path | None):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number, self.saved, self.code = number, saved, 128 + number


@contextmanager
def keeping(known: list[Path]) -> Iterator[None]:
    """A stop in here says which checkpoint it goes on from: that of its own step, else
    the last of those that are `known` by then, else none."""
    try:
        yield
    except KeyboardInterrupt as stop:
        saved = getattr(stop, "saved", None) or (known[-1] if known else None)
        raise Stopped(getattr(stop, "number", signal.SIGINT), saved) from stop


class Ears:
    """While entered, a first Ctrl-C or SIGTERM is only noted in `told`; a second one
    acts as it did before. Deaf outside the main thread: signals reach no other."""

    def __init__(self):
        self.told, self._before = None, {}

    def __enter__(self) -> Ears:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._hear) for s in HEARD}
        return self

    def __exit__(self, *_) -> None:
        self._give_back()

    def _hear(self, number: int, _) -> None:
        self.told = number
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
