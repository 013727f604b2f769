"""A journal: what was acknowledged is on the disk, and is there after a kill."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from threading import Lock

from filelock import FileLock, Timeout

from lemur_mini.data.errors import DataError
from lemur_mini.files import FileError, one_line, require_folder
from lemur_mini.serving.events import Event

EVENT, DOCUMENTS = "event", "documents"


class Journal:
    """A file of lines, each a checksum and a JSON value, that only grows. `append`
    returns when its line is on the disk. One process writes."""

    def __init__(self, path: Path):
        """Raises FileError where another process has it or nothing can be written."""
        self.path, self._lock = Path(path), Lock()
        require_folder(self.path.parent)
        self._owner = FileLock(f"{self.path}.lock")
        try:
            self._owner.acquire(timeout=0)
        except Timeout:
            problem = f"{self.path}: another server writes to it"
            raise FileError(f"{problem}; give this one its own --journal") from None
        self._file = self.path.open("ab+", buffering=0)
        with suppress(OSError):  # its name on the disk, too, where that can be asked
            os.fsync(folder := os.open(self.path.parent, os.O_RDONLY))
            os.close(folder)

    def read(self) -> list:
        """Every whole value, oldest first. A torn end, of a write that a kill cut off
        before it was acknowledged, is dropped. Raises FileError for a bad line that
        has others behind it: that is damage, no kill."""
        self._file.seek(0)
        out, good, lines = [], 0, self._file.read().split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):
            value = _value(line)
            if value is None and number < len(lines) - 1:
                raise FileError(
                    f"{self.path}, line {number}: damaged; repair or remove that line"
                )
            if value is not None:
                out.append(value)
                good += len(line) + 1
        self._cut(good)
        return out

    def append(self, value) -> None:
        """Write one value; on return it outlives a kill and a crash of the machine.
        Raises FileError where that fails: then nothing of it is kept."""
        text = json.dumps(value, separators=(",", ":")).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        with self._lock:
            end = self._file.seek(0, os.SEEK_END)
            try:
                while line:
                    line = line[self._file.write(line) :]
                os.fsync(self._file.fileno())
            except OSError as error:
                self._cut(end)
                raise FileError(
                    f"{self.path}: cannot be written ({one_line(error)}); what it "
                    "holds is kept: free some space"
                ) from error

    def _cut(self, end: int) -> None:
        self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Let another process have it."""
        self._file.close()
        self._owner.release()


def _value(line: bytes):
    mark, _, text = line.partition(b" ")
    try:
        return json.loads(text) if int(mark, 16) == zlib.crc32(text) else None
    except ValueError:
        return None


def event_line(user, event: Event) -> list:
    """An event of a user as the journal holds it."""
    return [EVENT, user, *event]


def documents_line(documents: list[dict]) -> list:
    """New documents as the journal holds them."""
    return [DOCUMENTS, [_packed(document) for document in documents]]


def _packed(document: dict) -> dict:
    image = document.get("image")
    coded = image and base64.b64encode(image).decode()
    return document | ({"image": coded} if image else {})


def replay(values: list, ranker, events: bool = True) -> Counter:
    """Take what a journal holds into a ranker; counts what was taken and what was left
    out: an artefact that was saved since knows it already. events: False where another
    store has kept them."""
    counts: Counter = Counter()
    for kind, *rest in values:
        try:
            if kind == EVENT:
                user, *event = rest
                ranker.take(user, ranker.event(*event), keep=events)
            else:
                documents = [d | _image(d) for d in rest[0]]
                ranker.publish(ranker.encode(documents))
            counts[kind] += 1
        except DataError:
            counts["left out"] += 1
    return counts


def _image(document: dict) -> dict:
    coded = document.get("image")
    return {"image": base64.b64decode(coded)} if coded else {}
