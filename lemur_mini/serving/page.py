"""A served page to look at in a notebook: query box, user picker, ranked covers."""

from __future__ import annotations

import base64
import html
from importlib.resources import files

import numpy as np

from lemur_mini.data.pages import PAD
from lemur_mini.files import as_json
from lemur_mini.serving.ranker import Ranker

SHOWN, REASONS = 6, 2  # covers of a page, watched documents named under each
# Every string of the data enters by textContent: nothing in it is ever markup.
TEMPLATE = files("lemur_mini.serving") / "page.html"


def hits(ranker: Ranker, user, query: str, candidates: np.ndarray) -> list[dict]:
    """The best candidates: catalogue row, chance, and the watched documents whose
    vectors are nearest to it, with the cosine."""
    ranked = ranker.rank(user, query, candidates)
    items, history = ranked.items[:SHOWN], ranker.history(user)
    out = []
    cosines = ranker.reasons(user, items)  # (SHOWN, L)
    for item, chance, cosine in zip(items, ranked.chance, cosines, strict=False):
        near = {int(row): float(c) for row, c in zip(history, cosine, strict=True)}
        near = sorted(near.items(), key=lambda pair: -pair[1])
        because = [(row, c) for row, c in near if row not in (PAD, item) and c > 0]
        out.append(
            {"item": int(item), "chance": float(chance), "because": because[:REASONS]}
        )
    return out


def served_page(
    ranker: Ranker, users: list, queries: list[str], candidates: list[np.ndarray]
) -> str:
    """A whole HTML document: ranked covers for all these users and queries, each with
    its candidates (catalogue rows), computed now; a little script shows those that are
    chosen. It needs no server and no package, and reads nothing from anywhere."""
    asked = list(zip(queries, candidates, strict=True))
    pages = [[hits(ranker, user, *pair) for pair in asked] for user in users]
    flat = [hit for user in pages for page in user for hit in page]
    covers = {hit["item"] for hit in flat}
    rows = covers | {row for hit in flat for row, _ in hit["because"]}
    dataset = ranker.prepared.dataset
    titles = next(iter(dataset.texts.values()), [""] * len(dataset.items))
    documents = {
        row: {
            "title": titles[row] or "(no title)",
            "cover": _cover(dataset.images[row]) if row in covers else "",
        }
        for row in sorted(rows)
    }
    users = [str(user) for user in users]
    data = dict(users=users, queries=queries, pages=pages, documents=documents)
    # no end tag can stand inside the data
    text = as_json(data).replace("<", "\\u003c")
    return TEMPLATE.read_text("utf-8").replace("DATA", text, 1)


def _cover(image) -> str:
    return base64.b64encode(image).decode() if isinstance(image, bytes) else ""


def frame(page: str, height: int = 620) -> str:
    """The page in a frame that keeps it from the notebook around it: its script can
    touch nothing outside. For IPython.display.HTML."""
    return (
        f'<div><iframe sandbox="allow-scripts" srcdoc="{html.escape(page)}" '
        f'style="width:100%;height:{height}px;border:0"></iframe></div>'
    )
