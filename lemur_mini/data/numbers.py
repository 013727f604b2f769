"""Statistics and match of a stream's pages, by the rules of a table's.

Statistics go on with every event. What match is weighed by (how rare a word is, how
long a text, along what texts and pictures are compressed) is learnt once and then
stays, as the tokenizer does, since what reads it has learnt it so: of the documents
that a table knew before its validation period, or of those that the first impressions
of a stream show. A document that comes later is weighed by the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemur_mini.data.catalogue import Catalogue
from lemur_mini.data.features import decode_images
from lemur_mini.data.likeness import LENGTH, Likeness, of_pages
from lemur_mini.data.match import Match
from lemur_mini.data.pages import Pages
from lemur_mini.data.past import Past
from lemur_mini.data.rates import NEVER
from lemur_mini.data.statistics import CATEGORY, Statistics, numbered, starts

BLOCK = 8192  # documents that are read at once
NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Numbers:
    """Makes them of the documents of a catalogue and of what a past has counted."""

    catalogue: Catalogue
    image_size: int

    def begin(self, past: Past, groups: tuple[str, ...], shown: np.ndarray, feed: bool):
        """Give a past, before its log begins, what these groups need; shown: rows of
        the documents that match is learnt of. Raises DataError."""
        if "statistics" in groups:
            has_categories = CATEGORY in self.catalogue.fields
            past.statistics = Statistics(NONE, NONE if has_categories else None)
            self.grow(past)
        if "match" in groups:
            texts, everyone = self.texts(shown), np.ones(len(shown), bool)
            nobody = {name: [] for name in texts}
            if feed:
                images = self.images(shown)
                past.matcher = Likeness.fit(texts, images, everyone)
                past.matcher = past.matcher.over(nobody, images[:0])
            else:
                past.matcher = Match(texts, everyone).over(nobody)

    def grow(self, past: Past) -> None:
        """Go on with the documents that are new in the catalogue."""
        if past.statistics is None:
            return
        low, known, number = len(past.statistics.born), self.catalogue, None
        born = [NEVER if t is None else t for t in known.column("created_at", low)]
        if past.statistics.category is not None:
            names = known.column(CATEGORY, low)
            number, past.categories = numbered(names, past.categories)
        past.statistics.grow(np.array(born, np.int64), number)

    def __call__(
        self, pages: Pages, past: Past, queries: list[str]
    ) -> dict[str, np.ndarray]:
        """Of all impressions on these pages, (I, F) by group, 0 for rows of an earlier
        part of the log in `match`. queries: texts by row. Raises DataError."""
        log, out = pages.log, {}
        if past.statistics is not None:
            out["statistics"] = past.statistics.read(log.user, log.item, starts(log))
        if isinstance(past.matcher, Likeness):
            past.matcher = self.met(past.matcher, pages)
            out["match"] = of_pages(past.matcher, pages)
        elif past.matcher is not None:
            out["match"] = self.matched(past.matcher, pages, queries)
        return out

    def met(self, scorer: Likeness, pages: Pages) -> Likeness:
        """With the documents of these pages and of what their users watched."""
        new = pages.log.item[pages.log.period > 0]
        rows = np.unique(np.append(new, pages.history(np.arange(len(pages)), LENGTH)))
        lacking = scorer.lacking(rows[rows >= 0])
        for low in range(0, len(lacking), BLOCK):
            some = lacking[low : low + BLOCK]
            scorer = scorer.put(some, self.texts(some), self.images(some))
        return scorer

    def matched(self, scorer: Match, pages: Pages, queries: list[str]) -> np.ndarray:
        """The numbers of `match`, where there are queries."""
        log, new = pages.log, np.flatnonzero(pages.log.period > 0)
        items, place = np.unique(log.item[new], return_inverse=True)
        rows, query = np.unique(log.query[new], return_inverse=True)
        asked = [queries[row] for row in rows]
        out = np.zeros((len(log.item), len(scorer.names)), np.float32)
        for low in range(0, len(items), BLOCK):
            some = scorer.over(self.texts(items[low : low + BLOCK]))
            mine = (low <= place) & (place < low + BLOCK)
            out[new[mine]] = some(asked, query[mine], place[mine] - low)
        return out

    def texts(self, rows: np.ndarray) -> dict[str, list[str | None]]:
        """Of these documents: field -> M texts. Raises DataError."""
        out = {name: [None] * len(rows) for name in self.catalogue.fields}
        for mine, dataset in self.catalogue.documents(rows):
            for name, values in dataset.texts.items():
                for place, text in zip(mine.tolist(), values, strict=True):
                    out[name][place] = text
        return out

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Their pictures, (M, 3, H, W) uint8, 0 where there is none."""
        size = self.image_size
        out = np.zeros((len(rows), 3, size, size), np.uint8)
        for mine, dataset in self.catalogue.documents(rows):
            out[mine] = decode_images(dataset, size)[0].numpy()
        return out
