"""Likeness: how like what a user watched a document is, before anything is learnt.

In a feed, which has no queries, this is the group `match`: the history stands in a
query's place. Words are compressed by TF-IDF and SVD, pictures by their mean colour and
by PCA, all learnt of the documents that were known before the validation period."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from lemur_mini.data.loading import Dataset
from lemur_mini.data.match import joined, known, split
from lemur_mini.data.pages import PAD, Pages
from lemur_mini.files import under

TEXT_WIDTH, IMAGE_WIDTH = 64, 16  # of compressed texts and pictures
PIXELS = 8  # pictures are compressed from so many, squared
LEAST = 2  # documents that a word of the compressed texts stands in
LENGTH = 64  # of the history that is compared, newest first
UNIT = 2**16  # of fixed-point vectors: sums of integers know no order
CHUNK = 256  # pages at a time, to bound memory
THERE = "there"


class Texts:
    """TF-IDF of whole documents through one SVD: words, their weights (V,), and the
    directions (D, V) that they are seen along; no word where nothing was learnt."""

    def __init__(self, words: list[str], weight: np.ndarray, along: np.ndarray):
        self.columns = {word: place for place, word in enumerate(words)}
        self.weight, self.along = weight, along

    @classmethod
    def fit(cls, texts: dict[str, list[str | None]], known: np.ndarray) -> Texts:
        """texts: field -> N texts; known: (N,) bool, which it is learnt of. It is
        scikit-learn that learns, loaded when it is needed."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        every, nothing = (
            joined(texts, len(known)),
            cls([], np.zeros(0), np.zeros((1, 0))),
        )
        seen = [text for text, there in zip(every, known, strict=True) if there]
        count = TfidfVectorizer(analyzer=split, min_df=LEAST, sublinear_tf=True)
        try:
            rows = count.fit_transform(seen)
        except ValueError:  # no words at all
            return nothing
        width = min(TEXT_WIDTH, min(rows.shape) - 1)
        if width < 1:
            return nothing
        with np.errstate(invalid="ignore"):  # shares of no variance at all
            svd = TruncatedSVD(width, random_state=0).fit(rows)
        words = count.get_feature_names_out().tolist()
        return cls(words, count.idf_, svd.components_.astype(np.float32))

    def __call__(self, texts: list[str]) -> np.ndarray:
        """(N, D) of these texts, as scikit-learn transforms them; 0 without words."""
        places, ends = [], [0]
        for text in texts:
            found = (self.columns.get(word) for word in split(text))
            places += [place for place in found if place is not None]
            ends.append(len(places))
        shape = len(texts), len(self.columns)
        rows = sparse.csr_array((np.ones(len(places)), places, ends), shape=shape)
        rows.sum_duplicates()
        rows.data = (1 + np.log(rows.data)) * self.weight[rows.indices]
        size = np.sqrt((rows * rows).sum(axis=1))
        return rows @ self.along.T / np.where(size > 0, size, 1)[:, None]


class Pictures:
    """Mean colours and principal components of small pictures, which are seen along
    directions (D, pixels) from a middle; no direction where there are too few."""

    def __init__(self, colour: np.ndarray, middle: np.ndarray, along: np.ndarray):
        self.colour, self.middle, self.along = colour, middle, along

    @classmethod
    def fit(cls, images: np.ndarray, known: np.ndarray) -> Pictures:
        """images: (N, 3, H, W) uint8, 0 where there is none; known: (N,) bool, which
        it is learnt of."""
        from sklearn.decomposition import PCA

        seen = images[known & images.any(axis=(1, 2, 3))]
        small = shrunk(images[:1])
        if len(seen) <= IMAGE_WIDTH:
            return cls(np.zeros(3), np.zeros(small.shape[1]), small[:0])
        colour, small = seen.mean(axis=(2, 3)).mean(axis=0) / 255, shrunk(seen)
        with np.errstate(invalid="ignore"):
            pca = PCA(min(IMAGE_WIDTH, small.shape[1]), random_state=0).fit(small)
        return cls(colour, pca.mean_, pca.components_)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """(N, D) each, by name, 0 where there is no picture; none of too few."""
        if not len(self.along):
            return {}
        colour = images.mean(axis=(2, 3)) / 255 - self.colour
        picture = (shrunk(images) - self.middle) @ self.along.T
        shown = images.any(axis=(1, 2, 3))[:, None]
        return {"colour": colour * shown, "picture": picture * shown}


def shrunk(images: np.ndarray) -> np.ndarray:
    """(N, 3 * PIXELS**2) in [0, 1]; mean colours where H or W is no multiple."""
    n, channels, height, width = images.shape
    size = PIXELS if height % PIXELS == 0 and width % PIXELS == 0 else 1
    cells = (n, channels, size, height // size, size, width // size)
    return images.reshape(cells).mean(axis=(3, 5)).reshape(n, channels * size**2) / 255


def fixed(vectors: np.ndarray) -> np.ndarray:
    """Rows of length one in whole 1 / UNIT, int32, whose sums are then exact."""
    size = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.rint(vectors / np.where(size > 0, size, 1) * UNIT).astype(np.int32)


class Likeness:
    """Cosines of documents with a history: with its mean, and with what is nearest."""

    def __init__(self, texts: Texts, pictures: Pictures, *blocks: dict):
        """blocks: of documents, in order: name -> (N, D), `fixed`, and `there`, (N,)
        whether it was made. They are never changed."""
        self.texts, self.pictures, self.blocks = texts, pictures, blocks

    @classmethod
    def fit(
        cls,
        texts: dict[str, list[str | None]],
        images: np.ndarray,
        known: np.ndarray,
    ) -> Likeness:
        """Of a catalogue: field -> N texts, (N, 3, H, W) uint8; known: (N,) bool, the
        documents that it is learnt of."""
        parts = Texts.fit(texts, known), Pictures.fit(images, known)
        return cls(*parts).over(texts, images)

    def _of(self, texts: dict, images: np.ndarray) -> dict[str, np.ndarray]:
        words = self.texts(joined(texts, len(images)))
        parts = {"text": words} | self.pictures(images)
        vectors = {name: fixed(vectors) for name, vectors in parts.items()}
        return vectors | {THERE: np.ones(len(images), bool)}

    @property
    def vectors(self) -> dict[str, np.ndarray]:
        """All documents': name -> (N, D), float64, in which sums stay exact."""
        return {name: self._all(name).astype(np.float64) for name in self.kinds}

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the vectors."""
        return ("text", *(("colour", "picture") if len(self.pictures.along) else ()))

    def _all(self, name: str) -> np.ndarray:
        return np.concatenate([block[name] for block in self.blocks])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(f"{n} {how}" for n in self.kinds for how in ("mean", "nearest"))

    def over(self, texts: dict, images: np.ndarray) -> Likeness:
        """What was learnt, over these documents alone."""
        return Likeness(self.texts, self.pictures, self._of(texts, images))

    def extended(self, texts: dict, images: np.ndarray) -> Likeness:
        """A copy with more documents at the end of the catalogue. A block joins the one
        before it once it is as large: adding costs in proportion to what is new."""
        blocks = [*self.blocks, self._of(texts, images)]
        while len(blocks) > 1 and len(blocks[-2][THERE]) <= len(blocks[-1][THERE]):
            one, two = blocks[-2:]
            blocks[-2:] = [{n: np.concatenate([one[n], two[n]]) for n in one}]
        return Likeness(self.texts, self.pictures, *blocks)

    def lacking(self, rows: np.ndarray) -> np.ndarray:
        """Those of the rows that nothing was made of yet."""
        there = self._all(THERE)
        known = rows < len(there)
        known[known] = there[rows[known]]
        return rows[~known]

    def put(self, rows: np.ndarray, texts: dict, images: np.ndarray) -> Likeness:
        """A copy that has these documents in these rows (M,), of a stream, which makes
        them as it meets them."""
        new, block = self._of(texts, images), {}
        for name, values in new.items():
            old = self._all(name)
            count = max(int(rows.max(initial=-1)) + 1, len(old))
            block[name] = np.zeros((count, *old.shape[1:]), old.dtype)
            block[name][: len(old)], block[name][rows] = old, values
        return Likeness(self.texts, self.pictures, block)

    def weights(self) -> dict[str, np.ndarray]:
        """What was learnt, without the documents."""
        texts, pictures = self.texts, self.pictures
        words = np.array(list("\n".join(texts.columns).encode()), np.uint8)
        out = {"words": words, "weight": texts.weight, "along": texts.along}
        return out | {f"picture/{name}": part for name, part in vars(pictures).items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, for a file."""
        return self.weights() | {
            f"vectors/{n}": self._all(n) for n in (*self.kinds, THERE)
        }

    @classmethod
    def of_arrays(cls, names: list[str], arrays: dict[str, np.ndarray]) -> Likeness:
        """What `arrays` gave. names: of the catalogue's fields, as `Match` needs."""
        words = arrays["words"].tobytes().decode().split()
        texts = Texts(words, arrays["weight"], arrays["along"])
        pictures = Pictures(**under("picture/", arrays))
        return cls(texts, pictures, under("vectors/", arrays))

    def _rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """(P, S, D) float64 of rows (P, S), 0 of PAD."""
        low, (first, *_) = 0, self.blocks
        found = np.zeros((*rows.shape, first[name].shape[1]))
        for block in self.blocks:
            high = low + len(block[name])
            mine = (low <= rows) & (rows < high)
            found[mine] = block[name][rows[mine] - low]
            low = high
        return found

    def __call__(self, history: np.ndarray, item: np.ndarray) -> np.ndarray:
        """(P, S, F) float32 of histories (P, L) and documents (P, S), rows of the
        catalogue or PAD."""
        columns = []
        for name in self.kinds:
            past, target = (self._rows(name, x) for x in (history, item))  # (P, L|S, D)
            mean = past.sum(axis=1, keepdims=True)
            columns.append(_cosines(target, mean)[..., 0])
            near = _cosines(target, past)
            columns.append(np.where(past.any(axis=2)[:, None], near, -1).max(axis=2))
            columns[-1] = np.where(past.any(axis=(1, 2))[:, None], columns[-1], 0)
        return np.stack(columns, axis=-1).astype(np.float32)


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P, S, L) of whole numbers a (P, S, D), b (P, L, D); 0 where one is zero."""
    size = (
        np.sqrt((a * a).sum(axis=2))[:, :, None] * np.sqrt((b * b).sum(axis=2))[:, None]
    )
    return (a @ b.transpose(0, 2, 1)) / np.where(size > 0, size, 1)


def of_pages(scorer: Likeness, pages: Pages) -> np.ndarray:
    """The numbers (I, F) of all impressions on these pages."""
    item = pages.log.item
    out = np.zeros((len(item), len(scorer.names)), np.float32)
    for low in range(0, len(pages), CHUNK):
        index = np.arange(low, min(low + CHUNK, len(pages)))
        rows = pages.rows[index]
        shown = np.where(rows >= 0, item[rows], PAD)
        found = scorer(pages.history(index, LENGTH), shown)
        out[rows[rows >= 0]] = found[rows >= 0]
    return out


def likeness(
    dataset: Dataset, pages: Pages, images: np.ndarray, learnt: object = None
) -> tuple[Likeness, np.ndarray]:
    """The scorer of a catalogue, and its numbers (I, F) for all impressions. learnt:
    another, by whose weights, if it is one."""
    if isinstance(learnt, Likeness):
        scorer = learnt.over(dataset.texts, images)
    else:
        scorer = Likeness.fit(dataset.texts, images, known(dataset))
    return scorer, of_pages(scorer, pages)
