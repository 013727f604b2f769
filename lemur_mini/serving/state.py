"""What a ranker knows of whom: its catalogue, its users and what they saw."""

from __future__ import annotations

import math
from threading import RLock

import numpy as np
import torch

from lemur_mini.data.errors import DataError
from lemur_mini.data.likeness import LENGTH
from lemur_mini.data.pages import PAD, Batch, make_batch
from lemur_mini.data.past import kept
from lemur_mini.model import Lemur
from lemur_mini.preparation import Prepared, with_documents
from lemur_mini.serving.events import Event, Histories, InMemory
from lemur_mini.serving.known import Known
from lemur_mini.serving.numbers import LiveNumbers
from lemur_mini.serving.tables import Shelf

Request = tuple[object, str, np.ndarray]  # user_id, query text, candidates (S,)


class State:
    """A model with the names of its rows and the histories of its users: turns requests
    into pages."""

    def __init__(
        self,
        model: Lemur,
        prepared: Prepared | Known,
        histories: Histories | None = None,
    ):
        """histories: where events are kept that come after the log, in memory if None.
        Raises DataError where model and data are of different sizes."""
        if isinstance(prepared, Prepared):
            _check_sizes(model, prepared)
            self._prepared, known = prepared, Known.of(prepared, model.config.dense)
        else:
            self._prepared, known = None, prepared
        self.known, self._shelf = known, Shelf(model.eval())
        self.histories = histories or InMemory(*kept(model.config))
        self.figures: dict = {}  # measures, for the card of an artefact
        self._added: list[dict] = []  # documents that `prepared` lacks
        self._writing = RLock()

    @property
    def model(self) -> Lemur:
        """The model over the catalogue as it is now."""
        return self._shelf.model

    @property
    def numbers(self) -> LiveNumbers:
        """Statistics and match of requests."""
        return self.known.numbers

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.ids["item"].weight.device

    @property
    def prepared(self) -> Prepared:
        """The data set that it was made with, and what was added since. Raises
        DataError for a ranker of an artefact, which has no log and no pictures."""
        if self._prepared is None:
            raise DataError("an artefact has no log, texts or pictures; load the data")
        if self._added:
            config = self.model.config
            self._prepared = with_documents(self._prepared, self._added, config)
            self._added = []
        return self._prepared

    # --- names ------------------------------------------------------------------------

    @property
    def users(self) -> dict:
        """Row of every user_id."""
        return self.known.rows["users"]

    @property
    def queries(self) -> dict[str, int]:
        """Row of every query text."""
        return self.known.rows["queries"]

    def rows_of(self, items: list) -> np.ndarray:
        """Catalogue rows (S,) of documents by their item_id. Raises DataError."""
        rows = self.known.rows["items"]
        for item in items:
            if item not in rows:
                raise DataError(f"item {item!r} is not in the catalogue; add it first")
        return np.array([rows[item] for item in items], np.int64)

    def ids_of(self, rows: np.ndarray) -> list:
        """The item_id of catalogue rows (S,)."""
        return [self.known.names["items"][row] for row in rows]

    # --- histories --------------------------------------------------------------------

    def watched(self, user, item, time: float) -> None:
        """A user watched a document (item_id) at a time (unix seconds), after the log's
        last: the next page knows of it. Raises DataError."""
        self.take(user, self.event(item, time, True))

    def skipped(self, user, item, time: float) -> None:
        """A user was shown a document and did not watch it. Raises DataError."""
        self.take(user, self.event(item, time, False))

    def event(self, item, time: float, watched: bool) -> Event:
        """An event that can be taken. Raises DataError for a document that nobody
        knows, and for a time that is none or lies in the log."""
        self.rows_of([item])
        if not math.isfinite(time) or time <= self.known.past.end:
            raise DataError(
                f"time {time} is not after the log's last, {self.known.past.end}; the "
                "log's own events are known already"
            )
        return Event(item, float(time), bool(watched))

    def take(self, user, event: Event, keep: bool = True) -> None:
        """Keep an event that was checked, unless another store has, and count it."""
        if keep:
            self.histories.add(user, event)
        if self.numbers.counts is not None:
            place, row = self.known.place(user, new=True), self.rows_of([event.item])[0]
            self.numbers.update(place, int(row), event.time, int(event.watched))

    def history(
        self, user, before: int | None = None, length: int | None = None
    ) -> np.ndarray:
        """Rows (L,) of what the user watched before a time (unix seconds; now if None),
        newest first, PAD where there is no more; as many as the model's sequences read
        if no length is given."""
        item, label = self._past(user, before)
        since, _ = self._since(self.histories.watched(user), before)
        length = length or self.model.config.history_long
        return _newest(np.append(item[label == 1], since), length, PAD)

    def _past(self, user, before: int | None) -> tuple[np.ndarray, np.ndarray]:
        past = self.known.past
        if before is not None and before <= past.end and not past.whole:
            raise DataError(
                f"an artefact holds only the newest events of every user; ask for a "
                f"time after {past.end}, or load the data"
            )
        return past.before(self.known.place(user), before)

    def _since(self, events: list[Event], before: int | None) -> tuple:
        """Rows and labels of live events before a time, oldest first; without those
        that the log has taken in since they were kept."""
        rows, end = self.known.rows["items"], self.known.past.end
        limit = math.inf if before is None else before
        mine = [e for e in events if end < e.time < limit and e.item in rows]
        mine.sort(key=lambda event: event.time)
        items = np.array([rows[event.item] for event in mine], np.int64)
        return items, np.array([event.watched for event in mine], np.int64)

    def _seen(self, users: list, before: int | None) -> dict[str, np.ndarray]:
        """What users were shown, (P, K), and what of it they watched, where the model
        asks for it."""
        length = self.model.config.history_seen
        if not length:
            return {}
        seen, taken = [], []
        for user in users:
            item, label = self._past(user, before)
            more, watched = self._since(self.histories.shown(user), before)
            seen.append(_newest(np.append(item, more), length, PAD))
            taken.append(_newest(np.append(label, watched) == 1, length, False))
        return {"seen": np.stack(seen), "taken": np.stack(taken)}

    # --- pages ------------------------------------------------------------------------

    def batch(
        self,
        requests: list[Request],
        before: int | None = None,
        documents: int | None = None,
    ) -> Batch:
        """Pages of these requests, as the model takes them; PAD where a request has
        fewer candidates. Raises DataError for candidates outside the catalogue, of so
        many documents, and for the text of a query where there are none."""
        documents = self.model.sizes.documents if documents is None else documents
        for _, text, _ in requests:
            self._check_query(text)
        width = max((len(shown) for _, _, shown in requests), default=0)
        item = np.full((len(requests), width), PAD)
        for row, (_, _, shown) in enumerate(requests):
            check_rows(np.asarray(shown), documents)
            item[row, : len(shown)] = shown
        users, texts = ([request[k] for request in requests] for k in (0, 1))
        user = np.array([self.users.get(name, PAD) for name in users])
        query = np.array([self.queries.get(text, PAD) for text in texts])
        more = self._seen(users, before)
        long, _ = kept(self.model.config)
        history = np.stack([self.history(name, before, long) for name in users])
        for rows in (history, *(more[k] for k in more if k == "seen")):
            rows[rows >= documents] = PAD  # added since this answer began
        places = np.array([self.known.place(name) for name in users])
        past = _as_long(history, LENGTH)
        more |= self.numbers.of_pages(places, texts, item, before, past)
        history = history[:, : self.model.config.history_long]
        label = np.zeros(item.shape, np.float32)
        return make_batch(user, query, query, item, label, history, **more)

    def _check_query(self, text: str) -> None:
        if not isinstance(text, str):
            raise DataError(f"a query is a text, not {type(text).__name__}")
        if self.known.feed and text:
            raise DataError(
                f"query {text[:40]!r} asked of a feed, which has none; ask with ''"
            )

    def _check_vectors(self) -> None:
        if not self.model.config.has_content:
            raise DataError("this model is of ids alone: it has no vectors to compare")


def _check_sizes(model: Lemur, prepared: Prepared) -> None:
    sizes = prepared.sizes.read_by(model.config)
    if model.sizes.read_by(model.config) != sizes:
        raise DataError(
            f"a model of {model.sizes} and data of {sizes}; "
            "Ranker.load finds the rows of a checkpoint in other data, which is "
            "prepared with the model's configuration"
        )


def check_rows(candidates: np.ndarray, documents: int) -> None:
    """Raise DataError unless these are rows of a catalogue of so many documents."""
    if candidates.ndim != 1 or not candidates.size:
        raise DataError("no candidates to rank; give a list of catalogue rows")
    if not np.issubdtype(candidates.dtype, np.integer):
        raise DataError(
            f"candidates must be catalogue rows (integers), not {candidates.dtype}"
        )
    if candidates.min() < 0 or candidates.max() >= documents:
        raise DataError(
            f"candidates must be catalogue rows from 0 to {documents - 1}; "
            f"got {candidates.min()} to {candidates.max()}"
        )


def _as_long(history: np.ndarray, length: int) -> np.ndarray:
    """(P, length) of histories (P, L), cut or filled up."""
    more = max(0, length - history.shape[1])
    return np.pad(history, ((0, 0), (0, more)), constant_values=PAD)[:, :length]


def _newest(values: np.ndarray, length: int, fill) -> np.ndarray:
    """The last `length` of these, newest first, filled up."""
    recent = values[max(0, len(values) - length) :][::-1]
    return np.pad(recent, (0, length - len(recent)), constant_values=fill)
