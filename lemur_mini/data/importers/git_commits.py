"""What git says of a repository: its commits in order, their changes, its blobs.

Plumbing is asked and never the configuration of whoever runs it, four processes in
all however long the history is, and nothing reaches the network."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import subprocess
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple

from lemur_mini.data.schema import DataError

FIELDS = "%H%n%P%n%ct%n%an%n%ae%n%cn%n%ce%n%B"
DATE = re.compile(r"\d{4}-\d\d-\d\d")
LARGEST = 2**24  # bytes of a blob; no first page and no picture needs more
PASSED = ("GIT_CONFIG", "GIT_EXEC_PATH", "GIT_TRACE")  # as the caller has them
QUIET = {"GIT_NO_LAZY_FETCH": "1", "GIT_NO_REPLACE_OBJECTS": "1", "LC_ALL": "C"}
QUIET |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
SETTINGS = ["protocol.allow=never", "log.showSignature=false", "color.ui=false"]
LIST = ["log", "-z", "-s", "--date-order", "--reverse", "--encoding=UTF-8"]
DIFF = ["diff-tree", "--stdin", "-r", "-z", "--root", "--raw", "--no-abbrev"]
DIFF += ["--no-renames"]  # our choice: a path is a document, for its words are its text


class Commit(NamedTuple):
    """A commit as it was written; text that is not UTF-8 is read as Latin-1."""

    hash: str
    parents: int
    time: int  # unix seconds, of the committer; 0 where git cannot read it
    author: str
    people: tuple[tuple[str, str], ...]  # (name, mail) of author and committer
    message: str


class Change(NamedTuple):
    """What a commit did to one path: modes and blobs before and after."""

    path: bytes
    modes: tuple[str, str]
    blobs: tuple[str, str]


class Repository:
    """A local git repository. Raises DataError where it is none or git is missing."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).resolve()
        if not shutil.which("git"):
            raise DataError("git: not found on the PATH; install git")
        if not self.folder.is_dir():
            raise DataError(f"{folder}: no such folder; give a local git repository")
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("GIT_") or key.startswith(PASSED)
        }
        ceiling = {"GIT_CEILING_DIRECTORIES": str(self.folder.parent)}
        self.env = kept | QUIET | ceiling  # never a repository around this folder
        self.ask("rev-parse", "--git-dir", remedy="give the folder that holds .git")
        self.shallow = self.ask("rev-parse", "--is-shallow-repository") == "true"
        if self.ask("config", "--get-regexp", r"^remote\..*\.promisor$", may_fail=True):
            problem = f"{folder}: a partial clone, whose files are not all here"
            raise DataError(f"{problem}; clone it without --filter")

    def tip(self, until: str | datetime.date | None) -> str:
        """Hash of the last commit: HEAD, a commit, or HEAD as it was at a date."""
        none = "commit first, or check a branch out"
        if until is None:
            return self.ask("rev-parse", "--verify", "HEAD^{commit}", remedy=none)
        if isinstance(until, datetime.date) or DATE.match(str(until)):
            return self._at(str(until), none)
        name, remedy = f"{until}^{{commit}}", "give a commit, or a date (YYYY-MM-DD)"
        options = ("--verify", "--end-of-options")
        return self.ask("rev-parse", *options, name, remedy=remedy).split()[-1]

    def _at(self, date: str, none: str) -> str:
        try:
            moment = datetime.datetime.fromisoformat(date)
        except ValueError as error:
            raise DataError(f"until: {error}; write YYYY-MM-DD") from error
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        if len(date) == len("YYYY-MM-DD"):
            moment += datetime.timedelta(days=1, seconds=-1)  # the whole day
        before = f"--before=@{int(moment.timestamp())} +0000"
        which = ("rev-list", "-1", "--first-parent", before, "HEAD")
        if not (found := self.ask(*which, remedy=none)):
            raise DataError(f"until: no commit by {date}; give a later date")
        return found

    def ask(self, *args: str, remedy: str = "", may_fail: bool = False) -> str:
        """The short answer of one command."""
        try:
            with self._pipe(args, remedy=remedy) as answer:
                return _text(answer.read()).strip()
        except DataError:
            if may_fail:
                return ""
            raise

    @contextmanager
    def _pipe(
        self, args: Sequence[str], lines: Iterable[str] = (), remedy: str = ""
    ) -> Iterator[IO[bytes]]:
        """What a command prints, given these lines; DataError where it fails."""
        options = [part for setting in SETTINGS for part in ("-c", setting)]
        command = ["git", "-C", str(self.folder), *options, *args]
        with TemporaryFile() as given, TemporaryFile() as said:
            given.writelines(f"{line}\n".encode() for line in lines)
            given.seek(0)
            process = subprocess.Popen(
                command, stdin=given, stdout=subprocess.PIPE, stderr=said, env=self.env
            )
            try:
                yield process.stdout
            except BaseException:
                process.kill()
                raise
            finally:
                process.stdout.close()
                code = process.wait()
            if code:
                said.seek(0)
                raise DataError(self._problem(args[0], _text(said.read()), remedy))

    def _problem(self, command: str, said: str, remedy: str) -> str:
        what = re.sub(r"^(fatal|error): ", "", " ".join(said.split()))
        what = f"{self.folder}: git {command} failed ({what})"
        return f"{what}; {remedy or 'see git fsck, or clone the repository anew'}"

    def commits(self, tip: str) -> Iterator[Commit]:
        """All that lead to `tip`, parents first, else in the order of their dates."""
        with self._pipe([*LIST, f"--format={FIELDS}", tip, "--"]) as answer:
            for record in _split(answer):
                yield _commit(record)

    def changes(self, hashes: Iterable[str]) -> Iterator[tuple[str, list[Change]]]:
        """What each of these commits, no merges, did against its parent. A commit
        that changes nothing is passed over."""
        with self._pipe(DIFF, hashes) as answer:
            fields, name, found = _split(answer), "", []
            for field in fields:
                if field.startswith(b":"):
                    found.append(_change(field, fields))
                    continue
                if name:
                    yield name, found
                name, found = field.decode().strip(), []
            if name:
                yield name, found

    def blobs(self, hashes: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
        """The bytes of each blob that is no larger than LARGEST, else None."""
        with self._pipe(["cat-file", "--batch-check"], hashes) as answer:
            size = dict(zip(hashes, (_size(line) for line in answer), strict=True))
        yield from ((name, None) for name in size if not 0 <= size[name] <= LARGEST)
        wanted = [name for name in size if 0 <= size[name] <= LARGEST]
        with self._pipe(["cat-file", "--batch"], wanted) as answer:
            for name in wanted:
                answer.readline()
                yield name, answer.read(size[name])
                answer.read(1)


def _split(stream: IO[bytes]) -> Iterator[bytes]:
    """The fields of a stream, each of which a NUL ends."""
    rest = b""
    while chunk := stream.read(2**20):
        *fields, rest = (rest + chunk).split(b"\0")
        yield from fields
    if rest.strip():
        yield rest


def _commit(record: bytes) -> Commit:
    name, parents, time, author, mail, by, by_mail, message = _text(record).split(
        "\n", 7
    )
    people, time = ((author, mail), (by, by_mail)), time if time.isdigit() else "0"
    who = author or mail
    return Commit(name.strip(), len(parents.split()), int(time), who, people, message)


def _change(field: bytes, fields: Iterator[bytes]) -> Change:
    mode, mode_after, blob, blob_after, _ = field[1:].decode().split(" ")
    return Change(next(fields), (mode, mode_after), (blob, blob_after))


def _size(line: bytes) -> int:
    """-1 for what is missing, or no blob."""
    parts = line.split()
    return int(parts[2]) if len(parts) == 3 and parts[1] == b"blob" else -1


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def in_order(times: Sequence[int], usable: Sequence[bool]) -> tuple[list[int], int]:
    """Times that never fall, and how many usable ones had to be corrected.

    The longest series of usable times that is in order stays as it is, so that one
    wrong clock moves no other commit; the others take the time before them in it."""
    ends, tails, before = [], [], [-1] * len(times)
    for row, time in enumerate(times):
        if not usable[row]:
            continue
        place = bisect_right(ends, time)
        before[row] = tails[place - 1] if place else -1
        ends[place : place + 1], tails[place : place + 1] = [time], [row]
    stays, row = set(), tails[-1] if tails else -1
    while row >= 0:
        stays.add(row)
        row = before[row]
    now, out = times[min(stays)] if stays else 0, []
    for row, time in enumerate(times):
        now = time if row in stays else now
        out.append(now)
    return out, sum(map(bool, usable)) - len(stays)
