"""What a ranker knows beside its model: ids, tokenizer, histories, counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from transformers import PreTrainedTokenizerFast

from lemur_mini.data.errors import DataError
from lemur_mini.data.features import Features, make_features, order_fields
from lemur_mini.data.fingerprint import fingerprint
from lemur_mini.data.loading import catalogue_alone, only
from lemur_mini.preparation import Prepared
from lemur_mini.serving.events import UserEvents
from lemur_mini.serving.numbers import LiveNumbers

NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Encodable:
    """New documents, read and checked, before any vector is made of them."""

    ids: list
    texts: dict[str, list[str | None]]
    features: Features
    content: np.ndarray  # (M, 2), as in the fingerprint


@dataclass
class Known:
    """All that serving needs of a data set. Grows at the end: what a reader has found
    in it stays where it is.

    names: ids of users and items and texts of queries, by row; parts and content: of
    the fingerprint; fields: the text fields, in the data set's order."""

    names: dict[str, list]
    parts: dict[str, str]
    content: list[np.ndarray]
    fields: list[str]
    tokenizer: PreTrainedTokenizerFast
    past: UserEvents
    numbers: LiveNumbers
    feed: bool
    guests: dict = field(default_factory=dict)  # users that training never saw
    _naming: Lock = field(default_factory=Lock)

    def __post_init__(self):
        self.rows = {
            kind: {name: row for row, name in enumerate(names)}
            for kind, names in self.names.items()
        }
        self._taken = set(map(str, self.names["items"]))

    @classmethod
    def of(cls, prepared: Prepared, groups: tuple[str, ...]) -> Known:
        """... of a prepared data set, for a model with these dense groups."""
        dataset, marks = prepared.dataset, prepared.fingerprint
        return cls(
            names={
                "users": dataset.users.tolist(),
                "items": dataset.items.tolist(),
                "queries": list(dataset.queries),
            },
            parts=marks.parts,
            content=[marks.content],
            fields=list(dataset.texts),
            tokenizer=prepared.tokenizer,
            past=(past := UserEvents.of(dataset.log, len(dataset.users))),
            numbers=LiveNumbers(groups, past.end, dataset, None, prepared.matcher),
            feed=prepared.sizes.feed,
        )

    def place(self, user, new: bool = False) -> int:
        """Where events of a user are counted: the user's row, for one whom training
        never saw a number after all rows; -1 where there is none, unless `new`."""
        row = self.rows["users"].get(user, self.guests.get(user, -1))
        if row < 0 and new:
            with self._naming:
                count = len(self.names["users"]) + len(self.guests)
                row = self.guests.setdefault(user, count)
        return row

    def read(self, documents: list[dict], config) -> Encodable:
        """Check and tensorise new documents, in time proportional to them. Raises
        DataError where they do not fit the catalogue: type, field, item_id."""
        texts = {name: [] for name in self.fields}
        hollow = catalogue_alone(NOTHING, texts, [], name="new documents")
        new = only(hollow, documents)
        self._check_ids(new.items.tolist())
        features = make_features(new, config, self.tokenizer)
        names = order_fields(new, config)
        content = fingerprint(new, features, self.tokenizer, names).content
        return Encodable(new.items.tolist(), new.texts, features, content)

    def _check_ids(self, ids: list) -> None:
        for place, name in enumerate(ids):
            where = f"new documents, column item_id, row {place}"
            if str(name) in self._taken:
                problem = f"{name} is in the catalogue already"
                raise DataError(f"{where}: {problem}; give it another")
            kinds = [type(one).__name__ for one in (*self.names["items"][:1], name)]
            if len(set(kinds)) > 1:
                raise DataError(
                    f"{where}: has type {kinds[1]}; give {kinds[0]}, as the catalogue"
                )

    def add(self, new: Encodable) -> None:
        """Name what the model's tables hold already."""
        begin = len(self.names["items"])
        self.content.append(new.content)
        self.names["items"] += new.ids
        self._taken.update(map(str, new.ids))
        self.rows["items"] |= {name: begin + k for k, name in enumerate(new.ids)}
