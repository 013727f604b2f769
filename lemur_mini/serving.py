"""Serving: a trained model ranks documents for a user and a query, from the bank."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lemur_mini.checkpoints import load_model
from lemur_mini.data.features import encode_queries
from lemur_mini.data.pages import PAD, Batch, make_batch
from lemur_mini.model import Lemur
from lemur_mini.pipeline import Prepared


@dataclass(frozen=True)
class Ranked:
    """Candidates, best first: catalogue rows (S,) and chances of a watch (S,)."""

    items: np.ndarray
    chance: np.ndarray


class Ranker:
    """Ranks by name what the model knows by row. No document Transformer runs: vectors
    come from the bank (paper, section 4). A user or a query that training never saw
    gets the row of the unknown; the text of a query is read all the same."""

    def __init__(self, model: Lemur, prepared: Prepared):
        self.model, self.prepared = model.eval(), prepared

    @classmethod
    def load(cls, checkpoint: Path, prepared: Prepared) -> Ranker:
        """The model of a checkpoint. Raises CheckpointError where there is none."""
        device = prepared.features.tokens.device
        return cls(load_model(checkpoint, device), prepared)

    @cached_property
    def users(self) -> dict:
        """Row of every user_id."""
        return {user: row for row, user in enumerate(self.prepared.dataset.users)}

    @cached_property
    def queries(self) -> dict[str, int]:
        """Row of every query text."""
        return {text: row for row, text in enumerate(self.prepared.dataset.queries)}

    def history(self, user, before: int | None = None) -> np.ndarray:
        """Rows (L,) of what the user watched before a time (unix seconds; the end of
        the log if None), newest first, PAD where there is no more."""
        log = self.prepared.dataset.log
        mine = (log.user == self.users.get(user, PAD)) & (log.label == 1)
        if before is not None:
            mine &= log.timestamp < before
        recent = log.item[mine][::-1][: self.model.config.history_long]
        return np.pad(
            recent,
            (0, self.model.config.history_long - len(recent)),
            constant_values=PAD,
        )

    def batch(
        self, user, query: str, candidates: np.ndarray, before: int | None = None
    ) -> Batch:
        """One page of these candidates (catalogue rows), as the model takes it."""
        item = np.asarray(candidates, dtype=np.int64)[None]
        if not item.size:
            raise ValueError("no candidates to rank; give at least one catalogue row")
        if item.min() < 0 or item.max() >= self.prepared.sizes.documents:
            raise ValueError(
                f"candidates must be catalogue rows from 0 to "
                f"{self.prepared.sizes.documents - 1}; got {item.min()} to {item.max()}"
            )
        row = np.array([self.queries.get(query, PAD)])
        return make_batch(
            np.array([self.users.get(user, PAD)]),
            row,
            row,
            item,
            np.zeros(item.shape, np.float32),
            self.history(user, before)[None],
        )

    @torch.no_grad()
    def rank(
        self, user, query: str, candidates: np.ndarray, before: int | None = None
    ) -> Ranked:
        """Order candidates (S,) for a user (user_id) who asks a query (text)."""
        features = self._features(query)
        batch = self.batch(user, query, candidates, before).to(features.tokens.device)
        chance = self.model(batch, features)[0].sigmoid().cpu().numpy()
        order = np.argsort(-chance, kind="stable")
        return Ranked(np.asarray(candidates)[order], chance[order])

    @torch.no_grad()
    def retrieve(self, query: str, count: int) -> np.ndarray:
        """Catalogue rows of the documents whose vectors are nearest to the query's."""
        vector = self.query_vector(query)
        cosine = F.normalize(self.model.bank.vectors, dim=-1) @ vector
        return cosine.topk(count).indices.cpu().numpy()

    @torch.no_grad()
    def query_vector(self, query: str) -> Tensor:
        """The query's representation, scaled to length one: (D,)."""
        features = self._features(query)
        row = self.queries.get(query, PAD)
        tokens = features.query_tokens[row][None], features.query_length[row][None]
        vector = self.model.norms["query"](self.model.query_encoder(*tokens))
        return F.normalize(vector[0], dim=-1)

    def _features(self, query: str):
        """The features, where row -1 of the queries is a text that the log lacks."""
        features = self.prepared.features
        if query in self.queries or self.prepared.sizes.feed:
            return features
        tokens, length = encode_queries(
            self.prepared.tokenizer, [query], features.query_tokens.shape[1] - 1
        )
        device = features.tokens.device
        tokens = F.pad(tokens, (0, features.query_tokens.shape[1] - tokens.shape[1]))
        return dataclasses.replace(
            features,
            query_tokens=torch.cat([features.query_tokens, tokens.to(device)]),
            query_length=torch.cat([features.query_length, length.to(device)]),
        )
