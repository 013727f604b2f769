"""Serving: a trained model ranks documents for a user and a query, from the bank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lemur_mini import finite
from lemur_mini.checkpoints import load_model
from lemur_mini.data.features import encode_queries, query_limit
from lemur_mini.data.pages import PAD, Batch, make_batch
from lemur_mini.data.schema import DataError
from lemur_mini.memory_bank import NEVER
from lemur_mini.model import Lemur
from lemur_mini.preparation import Prepared, with_documents
from lemur_mini.serving.numbers import LiveNumbers

Request = tuple[object, str, np.ndarray]  # user_id, query text, candidates (S,)


@dataclass(frozen=True)
class Ranked:
    """Candidates, best first: catalogue rows (S,) and chances of a watch (S,)."""

    items: np.ndarray
    chance: np.ndarray


class Ranker:
    """Ranks by name what the model knows by row. No document Transformer runs: vectors
    come from the bank (paper, section 4). A user or a query that training never saw
    gets the row of the unknown; the text of a query is read all the same. Everything
    that cannot be answered is a DataError: a query asked of a feed, vectors asked of a
    model without any, candidates that are no rows of the catalogue."""

    def __init__(self, model: Lemur, prepared: Prepared):
        sizes = prepared.sizes.read_by(model.config)
        if model.sizes.read_by(model.config) != sizes:
            raise DataError(
                f"a model of {model.sizes} and data of {sizes}; "
                "Ranker.load finds the rows of a checkpoint in other data, which is "
                "prepared with the model's configuration"
            )
        self.model, self.prepared = model.eval(), prepared
        self.numbers = LiveNumbers(prepared, model.config.dense)

    @classmethod
    def load(cls, checkpoint: Path, prepared: Prepared) -> Ranker:
        """The model of a checkpoint, its rows found in this data by their ids; what
        training never saw gets the unknown's row and a vector of its content. Raises
        CheckpointError where there is none, or the two do not belong together."""
        device = prepared.features.tokens.device
        model = load_model(checkpoint, device, prepared.fingerprint).eval()
        if model.config.has_content:
            step = int(model.bank.written.max()) + 1
            model.publish(prepared.features, step=max(step, 0))
        return cls(model, prepared)

    @cached_property
    def users(self) -> dict:
        """Row of every user_id."""
        return {user: row for row, user in enumerate(self.prepared.dataset.users)}

    @cached_property
    def queries(self) -> dict[str, int]:
        """Row of every query text."""
        return {text: row for row, text in enumerate(self.prepared.dataset.queries)}

    @cached_property
    def _shown(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of the log by user and time, and their times; where users begin."""
        log = self.prepared.dataset.log
        rows = np.argsort(log.user, kind="stable")
        begin = np.searchsorted(log.user[rows], np.arange(len(self.users) + 1))
        return rows, log.timestamp[rows], begin

    def _before(self, user, before: int | None) -> np.ndarray:
        """Rows of the log that the user was shown before a time, oldest first."""
        row, (rows, time, begin) = self.users.get(user, PAD), self._shown
        low, high = (0, 0) if row == PAD else begin[row : row + 2]
        if before is not None:
            high = low + np.searchsorted(time[low:high], before)
        return rows[low:high]

    def history(
        self, user, before: int | None = None, length: int | None = None
    ) -> np.ndarray:
        """Rows (L,) of what the user watched before a time (unix seconds; the end of
        the log if None), newest first, PAD where there is no more; as many as the
        model reads if no length is given."""
        log, rows = self.prepared.dataset.log, self._before(user, before)
        length = length or self.model.config.history_long
        return _newest(log.item[rows[log.label[rows] == 1]], length, PAD)

    def _seen(self, users: list, before: int | None) -> dict[str, np.ndarray]:
        """What users were shown, (P, K), and what of it they watched, where the model
        asks for it."""
        log, length = self.prepared.dataset.log, self.model.config.history_seen
        if not length:
            return {}
        rows = [self._before(user, before) for user in users]
        return {
            "seen": np.stack([_newest(log.item[r], length, PAD) for r in rows]),
            "taken": np.stack(
                [_newest(log.label[r] == 1, length, False) for r in rows]
            ),
        }

    def batch(self, requests: list[Request], before: int | None = None) -> Batch:
        """Pages of these requests, as the model takes them; PAD where a request has
        fewer candidates. Raises DataError for candidates outside the catalogue, and
        for the text of a query where there are none."""
        for _, text, _ in requests:
            self._check_query(text)
        width = max((len(shown) for _, _, shown in requests), default=0)
        item = np.full((len(requests), width), PAD)
        for row, (_, _, shown) in enumerate(requests):
            self._check(np.asarray(shown))
            item[row, : len(shown)] = shown
        user = np.array([self.users.get(user, PAD) for user, _, _ in requests])
        query = np.array([self.queries.get(text, PAD) for _, text, _ in requests])

        def histories(length: int | None = None) -> np.ndarray:
            users = [user for user, _, _ in requests]
            return np.stack([self.history(user, before, length) for user in users])

        label = np.zeros(item.shape, np.float32)
        more = self._seen([user for user, _, _ in requests], before)
        texts = [text for _, text, _ in requests]
        more |= self.numbers.of(user, texts, item, before, histories)
        return make_batch(user, query, query, item, label, histories(), **more)

    def _check_query(self, text: str) -> None:
        if not isinstance(text, str):
            raise DataError(f"a query is a text, not {type(text).__name__}")
        if self.prepared.sizes.feed and text:
            raise DataError(
                f"query {text[:40]!r} asked of a feed, which has none; ask with ''"
            )

    def _check_vectors(self) -> None:
        if not self.model.config.has_content:
            raise DataError("this model is of ids alone: it has no vectors to compare")

    def _check(self, candidates: np.ndarray) -> None:
        if candidates.ndim != 1 or not candidates.size:
            raise DataError("no candidates to rank; give a list of catalogue rows")
        if not np.issubdtype(candidates.dtype, np.integer):
            raise DataError(
                f"candidates must be catalogue rows (integers), not {candidates.dtype}"
            )
        if candidates.min() < 0 or candidates.max() >= self.prepared.sizes.documents:
            raise DataError(
                f"candidates must be catalogue rows from 0 to "
                f"{self.prepared.sizes.documents - 1}; "
                f"got {candidates.min()} to {candidates.max()}"
            )

    @torch.no_grad()
    def scores(self, requests: list[Request], before: int | None = None) -> np.ndarray:
        """Chances of a watch (P, S), in the order of the requests' candidates; what
        stands beyond a shorter request's candidates means nothing."""
        model, device = self.model, self.prepared.features.tokens.device
        batch, query, target = self.batch(requests, before).to(device), None, None
        if model.config.has_content:
            query = self._query_vectors([text for _, text, _ in requests], batch)
            target = model.bank.read(batch.item)[0]
        chance = model.rank(batch, query, target).sigmoid().cpu()
        finite.require(chance[batch.mask.cpu()].numpy(), "chances")
        return chance.numpy()

    def rank_many(
        self, requests: list[Request], before: int | None = None
    ) -> list[Ranked]:
        """Rank many requests (user_id, query text, candidates) in one batch."""
        out = []
        chances = self.scores(requests, before) if requests else []
        for (_, _, shown), chance in zip(requests, chances, strict=True):
            chance = chance[: len(shown)]
            order = np.argsort(-chance, kind="stable")
            out.append(Ranked(np.asarray(shown)[order], chance[order]))
        return out

    def rank(
        self, user, query: str, candidates: np.ndarray, before: int | None = None
    ) -> Ranked:
        """Order candidates (S,) for a user (user_id) who asks a query (text)."""
        return self.rank_many([(user, query, candidates)], before)[0]

    @torch.no_grad()
    def retrieve(self, query: str, count: int) -> np.ndarray:
        """Catalogue rows of the documents whose vectors are nearest to the query's:
        `count` of them, or all that the bank holds where those are fewer."""
        if count < 1:
            raise DataError(f"count {count}: ask for one document or more")
        vector, bank = self.query_vector(query), self.model.bank
        cosine = F.normalize(bank.vectors, dim=-1) @ vector
        cosine = cosine.masked_fill(bank.written == NEVER, -torch.inf)
        count = min(count, int((bank.written > NEVER).sum()))
        return cosine.topk(count).indices.cpu().numpy()

    @torch.no_grad()
    def query_vector(self, query: str) -> Tensor:
        """The query's representation, scaled to length one: (D,)."""
        self._check_vectors()
        self._check_query(query)
        if self.prepared.sizes.feed:
            raise DataError("a feed has no queries, so there is no vector of one")
        return F.normalize(self._query_vectors([query])[0], dim=-1)

    def _query_vectors(self, texts: list[str], batch: Batch | None = None) -> Tensor:
        """Representations (P, D) of query texts, known or not. In a feed: those of the
        batch's last watched documents."""
        model, features = self.model, self.prepared.features
        if self.prepared.sizes.feed:
            return model.encode_queries(batch, features)[0]
        limit, device = query_limit(model.config), features.tokens.device
        distinct = list(dict.fromkeys(texts))
        tokens, length = encode_queries(self.prepared.tokenizer, distinct, limit)
        vectors = model.query_encoder(tokens.to(device), length.to(device))
        place = [distinct.index(text) for text in texts]
        return model.running_norms["query"](vectors)[place]

    @torch.no_grad()
    def reasons(self, user, candidates: np.ndarray) -> np.ndarray:
        """Cosines of candidates with `history(user)`, from the bank: (S, L), 0 where
        there is no history. What the similarity module sees (paper, section 5); the
        decoder's attention is spread too evenly to name a reason."""
        self._check_vectors()
        self._check(np.asarray(candidates))
        bank, rows = self.model.bank, torch.from_numpy(self.history(user).copy())
        history, found = bank.read(rows[None].to(bank.written.device))
        target = bank.vectors[torch.as_tensor(np.asarray(candidates))][None]
        return self.model.similarity.cosines(target, history, found)[0].cpu().numpy()

    def add_documents(self, documents: list[dict]) -> np.ndarray:
        """Make new documents rankable at once: each is encoded once and written to the
        bank. Returns their catalogue rows.

        A document is a dictionary with item_id, any of the data set's text fields, and
        an image (encoded bytes, or a path), if there is one. Their id embedding is the
        unknown's: no click has said anything of them. Raises DataError."""
        old = self.prepared.sizes.documents
        self.prepared = with_documents(self.prepared, documents, self.model.config)
        new = torch.arange(old, self.prepared.sizes.documents)
        self.model.grow(self.prepared.sizes.documents)
        self.numbers.grow(self.prepared)
        if self.model.config.has_content:
            step = int(self.model.bank.written.max()) + 1
            features = self.prepared.features
            self.model.publish(features, new.to(features.tokens.device), step)
        return new.numpy()


def _newest(values: np.ndarray, length: int, fill) -> np.ndarray:
    """The last `length` of these, newest first, filled up."""
    recent = values[max(0, len(values) - length) :][::-1]
    return np.pad(recent, (0, length - len(recent)), constant_values=fill)
