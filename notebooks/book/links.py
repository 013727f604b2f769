"""What is wrong with a built site: links that lead nowhere, pictures without words."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors, links and pictures of one page."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.silent: list[str] = []  # pictures without an alternative text
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list) -> None:
        found = {name: value or "" for name, value in attributes}
        self.anchors |= {found[key] for key in ("id", "name") if key in found}
        self.links += [found[key] for key in ("href", "src") if key in found]
        if tag == "img" and not found.get("alt"):
            self.silent.append(found.get("src", ""))


def problems(site: Path) -> Iterator[str]:
    """A line each; addresses elsewhere are not asked for."""
    found = (path.resolve() for path in site.rglob("*.html"))
    pages = {path: Page(path) for path in found if "_static" not in path.parts}
    for path, page in pages.items():
        name = path.relative_to(site.resolve()).as_posix()
        yield from (f"{name}: {src} has no alt text" for src in page.silent)
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            place = path.parent / unquote(parts.path) if parts.path else path
            anchor, place = unquote(parts.fragment), place.resolve()
            if not place.exists():
                yield f"{name}: {link} is not there"
            elif anchor and place in pages and anchor not in pages[place].anchors:
                yield f"{name}: {link} has no such anchor"
