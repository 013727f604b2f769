"""A history from its first commit to its last: what exists, who asks, what is shown."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from random import Random
from time import time as clock

from lemur_mini.data.importers.git_commits import Change, Commit, in_order
from lemur_mini.data.importers.git_words import (
    People,
    is_picture,
    kind,
    pseudonym,
    subject,
)

YEAR = 365 * 86_400  # seconds in which a file counts as recently modified
EARLIEST = 631_152_000  # 1990-01-01; an earlier date is a clock that was not set
SHORTEST = 8  # characters of a query
PER_POSITIVE, AT_LEAST = 4, 7  # negatives of a page
POOLS = ("recent", "own", "recent", "any")  # where negatives come from, in turn
THEN = {"own": ("own", "recent", "any"), "recent": ("recent", "any"), "any": ("any",)}
TRIES = 20  # draws from a pool before the next one is asked
SPECIAL = {"160000": "submodules", "120000": "symlinks"}  # modes of no documents
GONE = "000000"


@dataclass(eq=False)
class Document:
    """A file as it first was."""

    path: bytes
    blob: str
    born: int  # unix seconds
    kind: bool  # whether it is a picture
    place: int = -1  # among those of its kind that exist; -1 where it does not


@dataclass(frozen=True)
class Page:
    """What a commit asks, and the documents beside it in the order of the page."""

    number: int  # of the commit in the history
    user: int
    query: str
    time: int
    shown: list[Document]
    labels: list[int]


class Walk:
    """Takes commits in order; keeps the state of all files, pages, and what was left
    out. People: whom the texts must not name."""

    def __init__(
        self,
        commits: list[Commit],
        people: People,
        *,
        last: int,
        most_files: int,
        seed: int,
    ):
        dated = [EARLIEST <= c.time <= clock() for c in commits]
        self.times, corrected = in_order([c.time for c in commits], dated)
        self.commits, self.dated, self.people = commits, dated, people
        self.last, self.most_files, self.kept = last, most_files, 0
        self.random, self.salt = Random(seed), commits[0].hash
        self.number = {c.hash: n for n, c in enumerate(commits) if c.parents < 2}
        self.path: dict[bytes, Document] = {}
        self.all: tuple[list[Document], ...] = ([], [])  # that exist; pictures apart
        self.modified: tuple[list[Document], list[int]] = ([], [])  # of pages, and when
        self.own: defaultdict[int, list[Document]] = defaultdict(list)
        self.pages: deque[Page] = deque()  # the last ones, with `kept` positives
        self.left = Counter({"merge": len(commits) - len(self.number)})
        self.noted = Counter({"dates out of order, corrected": corrected})
        self.special: defaultdict[str, set[bytes]] = defaultdict(set)

    def run(self, repository) -> None:
        """Take all commits; one that changes nothing modifies nothing."""
        seen = 0
        for name, changes in repository.changes(self.number):
            self.step(name, changes)
            seen += 1
        self.left["modifies no existing file"] += len(self.number) - seen
        self.noted |= {
            f"{name}, no documents": len(p) for name, p in self.special.items()
        }

    def step(self, name: str, changes: list[Change]) -> None:
        """One commit: the page that it asks, then what it does to the files."""
        changes = [c for c in changes if self._is_document(c)]
        number = self.number[name]
        page = self._page(number, changes)
        if isinstance(page, str):
            self.left[page] += 1
        else:
            self._keep(page)
        created, deleted = set(), set()
        for change in changes:
            self._apply(change, self.times[number])
            created |= {change.blobs[1]} if what(change) == "A" else set()
            deleted |= {change.blobs[0]} if what(change) == "D" else set()
        self.noted["files moved unchanged, new documents"] += len(created & deleted)

    def _keep(self, page: Page) -> None:
        """A page, without the first ones that are not needed any more."""
        taken = [d for d, y in zip(page.shown, page.labels, strict=True) if y]
        self.own[page.user] += taken
        self.modified[0].extend(taken)
        self.modified[1].extend([page.time] * len(taken))
        self.pages.append(page)
        self.kept += len(taken)
        while self.kept - sum(self.pages[0].labels) >= self.last:
            self.kept -= sum(self.pages.popleft().labels)
            self.left["earlier than the last positives"] += 1

    def _is_document(self, change: Change) -> bool:
        """Whether it is a file before or after."""
        for mode in change.modes:
            if mode in SPECIAL:
                self.special[SPECIAL[mode]].add(change.path)
        return any(mode not in SPECIAL and mode != GONE for mode in change.modes)

    def _page(self, number: int, changes: list[Change]) -> Page | str:
        """The page of a commit, or why it has none."""
        commit, time = self.commits[number], self.times[number]
        if reason := kind(commit):
            return reason
        if not self.dated[number]:
            return "date in the future or before 1990"
        query = self.people.without(subject(commit.message))
        if len(query) < SHORTEST:
            return f"subject below {SHORTEST} characters"
        touched = {c.path: self.path[c.path] for c in changes if c.path in self.path}
        existing = [c for c in changes if what(c) != "A" and c.path in touched]
        if len(existing) > self.most_files:
            return f"touches more than {self.most_files} existing files"
        positives = [touched[c.path] for c in existing if what(c) == "M"]
        if not positives:
            return "modifies no existing file"
        user = pseudonym(commit.author, self.salt)
        drawn = self._draw(positives, user, time, set(touched.values()))
        if not drawn:
            return "no other file exists"
        shown = [(d, 1) for d in positives] + [(d, 0) for d in drawn]
        self.random.shuffle(shown)
        return Page(number, user, query, time, *map(list, zip(*shown, strict=True)))

    def _draw(self, positives: list, user: int, time: int, avoid: set) -> list:
        """Distinct documents that exist; each pool hands on to the next when empty."""
        recent, times = self.modified
        start = bisect_left(times, time - YEAR)
        pools = {"recent": (recent, start), "own": (self.own[user], 0)}
        drawn: list[Document] = []
        for k in range(max(AT_LEAST, PER_POSITIVE * len(positives))):
            pools["any"] = (self.all[positives[k % len(positives)].kind], 0)
            asked = (self._one(*pools[n], avoid) for n in THEN[POOLS[k % len(POOLS)]])
            found = next((d for d in asked if d), None) or self._rest(avoid)
            if found is None:
                break
            drawn.append(found)
            avoid.add(found)
        return drawn

    def _one(self, pool: list, start: int, avoid: set) -> Document | None:
        """How often a document stands in a pool is how often it is drawn."""
        for _ in range(TRIES if len(pool) > start else 0):
            found = pool[start + int(self.random.random() * (len(pool) - start))]
            if found.place >= 0 and found not in avoid:
                return found
        return None

    def _rest(self, avoid: set) -> Document | None:
        left = [d for kind in self.all for d in kind if d not in avoid]
        return left[int(self.random.random() * len(left))] if left else None

    def _apply(self, change: Change, time: int) -> None:
        """Created, modified or deleted. Branches run side by side in one walk: whoever
        modifies a file shows that it exists."""
        did, known = what(change), self.path.get(change.path)
        if did == "D":
            if known:
                self._drop(known)
            return
        if known is None:
            self.noted["files first seen when modified"] += did == "M"
            of = is_picture(change.path)
            known = Document(change.path, change.blobs[1], time, of)
            self.path[change.path] = known
        if known.place < 0:
            known.place = len(self.all[known.kind])
            self.all[known.kind].append(known)

    def _drop(self, document: Document) -> None:
        """The last of its kind takes the place of a document that goes."""
        if document.place >= 0:
            moved = self.all[document.kind].pop()
            if moved is not document:
                self.all[document.kind][document.place] = moved
                moved.place = document.place
            document.place = -1


def what(change: Change) -> str:
    """A created, M modified, D deleted; links and submodules are no documents."""
    before, after = (mode not in SPECIAL and mode != GONE for mode in change.modes)
    return ("M" if after else "D") if before else "A"
