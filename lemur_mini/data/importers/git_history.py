"""The history of any git repository as a search log: commits ask, files answer."""

from __future__ import annotations

import datetime
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from lemur_mini.data.errors import DataError, Origin
from lemur_mini.data.health import Health
from lemur_mini.data.importers.git_commits import LARGEST, Repository
from lemur_mini.data.importers.git_walk import (
    AT_LEAST,
    PER_POSITIVE,
    POOLS,
    Document,
    Page,
    Walk,
)
from lemur_mini.data.importers.git_words import (
    People,
    content,
    is_picture,
    path_words,
    picture,
)
from lemur_mini.data.importers.huggingface import HOUR, write_log

FEWEST = 20  # pages; our choice: less is no log


def from_git_history(
    repository: str | Path,
    out: str | Path,
    *,
    last: int = 45_000,
    most_files: int = 8,
    until: str | datetime.date | None = None,
    seed: int = 0,
) -> Health:
    """A local git repository, bare or not, as a search log. Needs `git`, no network.

    A page is a commit. Its user is a hash of the author's name (another one in every
    repository), its query the subject, its time that of the committer. Positives are
    the files that it modifies. Negatives, four for each and at least seven a page, are
    drawn from other files that exist then: half from those modified in the year before
    and a quarter from the author's own, both as often as they were modified, a quarter
    from all of a positive's kind (picture or not, lest the kind tell the label).
    Documents are files as they first were: words of the name and of the folder, the
    first 600 characters of words, or the picture. A file that a commit creates is
    published then and is no positive. A path is a document: what is moved is a new
    one, for its words are others; what is deleted and comes back is the old one.

    last: positives that are kept, to whole pages. most_files: existing files that a
    commit may touch. until: a commit, or a day or time (UTC), with which the history
    ends; it pins the log. Merges, reverts, bots, short subjects and wrong dates are
    left out. All that is left out is counted, printed, and written to dataset.json.

    Names of two words or more and addresses which the history knows are taken out of
    all texts; lone first names and people who never committed may remain. Negatives
    are drawn, for no log says what was looked at and left: `add_negatives` tells what
    that leaks. Raises DataError."""
    if last < 1 or most_files < 1:
        raise DataError("last, most_files: must be at least 1; see from_git_history")
    source = Repository(repository)
    tip = source.tip(until)
    commits = list(source.commits(tip))
    options = {"last": last, "most_files": most_files, "seed": seed}
    walk = Walk(commits, People(commits), **options)
    walk.run(source)
    pages = list(walk.pages)
    _enough(walk, source)
    items, row = _items(source, walk, pages)
    facts = {"commit": tip, "shallow": source.shallow} | options | _facts(walk)
    name = Path(out).resolve().name
    origin = Origin(str(repository))
    log = _log(pages, row), origin
    report = write_log(Path(out), name, (items, origin), log, HOUR, facts)
    print(_said(facts))
    return report


def _facts(walk: Walk) -> dict:
    """What dataset.json says beside the pinned commit and the options."""
    negatives = {"per_positive": PER_POSITIVE, "at_least": AT_LEAST}
    return {
        "label": "files that the commit modified",
        "negatives": negatives | {"pools": list(POOLS)},
        "commits": len(walk.commits),
        "pages": len(walk.pages),
        "left_out": _counts(walk.left),
        "noted": _counts(walk.noted),
    }


def _enough(walk: Walk, source: Repository) -> None:
    if (found := len(walk.pages)) >= FEWEST:
        return
    reason, count = walk.left.most_common(1)[0]
    problem = f"{source.folder}: {found} of {len(walk.commits)} commits can be queries"
    problem += f", at least {FEWEST} are needed (left out most: {reason}, {count})"
    remedy = "git fetch --unshallow" if source.shallow else "give a longer history"
    raise DataError(f"{problem}; {remedy}, or raise last or most_files")


def _items(
    source: Repository, walk: Walk, pages: list[Page]
) -> tuple[pa.Table, dict[Document, int]]:
    """The documents that are shown, in the order of their paths, and their rows."""
    shown = {document for page in pages for document in page.shown}
    shown = sorted(shown, key=lambda document: document.path)
    wanted = sorted({document.blob for document in shown})
    uses = {name: [] for name in wanted}
    for row, document in enumerate(shown):
        uses[document.blob].append(row)
    texts, pictures = [""] * len(shown), [None] * len(shown)
    for name, blob in source.blobs(wanted):
        for row in uses[name]:
            said = _read(shown[row], blob, walk.people, walk.noted)
            texts[row], pictures[row] = said
    names = [path_words(document.path, walk.people) for document in shown]
    items = {
        "item_id": pa.array(range(len(shown)), pa.int64()),
        "title": pa.array([title for title, _ in names], pa.string()),
        "folder": pa.array([folder for _, folder in names], pa.string()),
        "content": pa.array(texts, pa.string()),
        "image": pa.array(pictures, pa.binary()),
        "created_at": pa.array([document.born for document in shown], pa.int64()),
    }
    return pa.table(items), {document: row for row, document in enumerate(shown)}


def _read(
    document: Document, blob: bytes | None, people: People, noted: Counter
) -> tuple[str, bytes | None]:
    """Content and picture of a first version; what it lacks is counted."""
    if blob is None:
        noted[f"documents missing or above {LARGEST >> 20} MiB, without content"] += 1
    elif is_picture(document.path):
        image = picture(blob)
        noted["documents with a picture"] += image is not None
        noted["pictures that cannot be read"] += image is None
        return "", image
    elif (text := content(blob, people)) is not None:
        return text, None
    else:
        noted["binary documents, without content"] += 1
    return "", None


def _log(pages: list[Page], row: dict[Document, int]) -> pa.Table:
    """One row a document of a page; negatives are marked as drawn."""
    size = [len(page.shown) for page in pages]
    label = np.array([label for page in pages for label in page.labels], np.int8)
    items = [row[document] for page in pages for document in page.shown]

    def each(values: list) -> pa.Array:
        return pa.array(values).take(np.repeat(np.arange(len(pages)), size))

    return pa.table(
        {
            "user_id": each([page.user for page in pages]),
            "query_id": each([page.number for page in pages]),
            "query": each([page.query for page in pages]),
            "item_id": pa.array(items, pa.int64()),
            "timestamp": each([page.time for page in pages]),
            "label": label,
            "sampled": label == 0,
        }
    )


def _counts(counts: Counter) -> dict[str, int]:
    return {name: count for name, count in sorted(counts.items()) if count}


def _said(facts: dict) -> str:
    lines = [f"commit {facts['commit']}" + " (shallow)" * facts["shallow"]]
    lines += [f"  {'commits':48}{facts['commits']:>9,}"]
    lines += [f"  {'pages kept':48}{facts['pages']:>9,}"]
    lines += [f"  left out: {k:38}{n:>9,}" for k, n in facts["left_out"].items()]
    return "\n".join(lines + [f"  {k:48}{n:>9,}" for k, n in facts["noted"].items()])
